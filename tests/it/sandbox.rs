//! Fault injection of `ott-gateway sandbox`: every reason of the catalogue, with the details of real
//! failures.

use ott_gateway::{
    domain::call::Method,
    proto::ott::v1::{IssueOttRequest, issue_ott_request::Subject},
    sandbox,
    status::{FailureCode, Reason, table::Answers},
};
use tonic::{Code, Request, Status};
use tonic_types::StatusExt as _;

use crate::support::{
    calling::{issue, login, reason, result_of},
    gateway::Setup,
    sandbox::Sandbox,
};

const JOHN: &str = "johncustomer@mysite.com";

/// A failure as seen by a caller.
#[derive(Debug, PartialEq, Eq)]
struct Failed {
    code: Code,
    reason: String,
    outcome: String,
    has_retry_info: bool,
    /// Whether the status stops clients with a retry policy.
    is_final: bool,
}

impl Failed {
    fn of(status: &Status) -> Self {
        let outcome = status.get_details_error_info().and_then(|info| info.metadata.get("outcome").cloned());
        Self {
            code: status.code(),
            reason: reason(status),
            outcome: outcome.unwrap_or_default(),
            has_retry_info: status.get_details_retry_info().is_some_and(|info| info.retry_delay.is_some()),
            is_final: status.metadata().get("grpc-retry-pushback-ms").is_some_and(|value| value == "-1"),
        }
    }

    /// Returns the documented failure.
    fn documented(reason: Reason, method: Method, code: FailureCode, answers: Answers) -> Self {
        let outcome = outcome(reason, method, code);
        let may_be_spent = method == Method::LoginWithOtt && matches!(outcome, "unknown" | "done");
        let is_advised = answers.retry.is_advised(code) && !may_be_spent;
        let has_wait = matches!(
            (reason, method, code),
            (
                Reason::Overloaded
                    | Reason::GatewayExhausted
                    | Reason::Draining
                    | Reason::AuditUnavailable
                    | Reason::CallerQuotaExceeded
                    | Reason::PlatformRateLimited,
                ..
            ) | (Reason::CallerUnauthenticated, _, FailureCode::Unavailable)
                | (Reason::PlatformUnavailable, Method::LoginWithOtt, FailureCode::Unavailable)
        );
        Self {
            code: code.into(),
            reason: reason.as_str().to_owned(),
            outcome: outcome.to_owned(),
            has_retry_info: is_advised && has_wait,
            is_final: !is_advised,
        }
    }
}

/// Returns the documented outcome of a failure.
fn outcome(reason: Reason, method: Method, code: FailureCode) -> &'static str {
    match (reason, method, code) {
        (Reason::AuditUnavailable, _, FailureCode::Aborted)
        | (Reason::AccountMismatch | Reason::AccountNotAllowed | Reason::PlatformProtocolError, ..) => "done",
        (Reason::LoginOutcomeUnknown, ..)
        | (Reason::PlatformUnavailable, Method::IssueOtt, _)
        | (Reason::PlatformUnavailable | Reason::PlatformBlocked, _, FailureCode::Aborted) => "unknown",
        (
            Reason::InvalidRequest
            | Reason::RequestTooLarge
            | Reason::MethodUnknown
            | Reason::ApiClientUnknown
            | Reason::CallerUnauthenticated
            | Reason::CallerNotAllowed
            | Reason::CallerQuotaExceeded
            | Reason::Overloaded
            | Reason::Draining
            | Reason::AuditUnavailable
            | Reason::DeadlineExceeded
            | Reason::PlatformUnreachable
            | Reason::GatewayExhausted
            | Reason::InternalError
            | Reason::OttInUse,
            ..,
        )
        | (Reason::PlatformUnavailable | Reason::PlatformBlocked, Method::LoginWithOtt, _) => "not_sent",
        _ => "refused",
    }
}

/// Calls the method with the fault `kind`.
async fn fail(sandbox: &Sandbox, method: Method, kind: &str) -> Status {
    let mut client = sandbox.client().await;
    let failed = match method {
        Method::IssueOtt => client.issue_ott(issue(&format!("fault+{kind}@sandbox"))).await.map(|_| ()),
        Method::LoginWithOtt => {
            let issued = client.issue_ott(issue(&format!("login-fault+{kind}@sandbox"))).await;
            let ott = issued.unwrap_or_else(|status| panic!("{kind}: {status:?}")).into_inner().ott;
            client.login_with_ott(login(&ott)).await.map(|_| ())
        }
    };
    failed.expect_err(kind)
}

#[tokio::test]
async fn every_reason_can_be_injected_with_every_code_at_every_method() {
    let sandbox = Sandbox::start(&[]);
    let mut wrong = Vec::new();
    let mut checked = 0;
    for &reason in Reason::ALL {
        let entry = reason.entry();
        for (method, answers) in [(Method::IssueOtt, entry.issue), (Method::LoginWithOtt, entry.login)] {
            let Some(answers) = answers else {
                // The error contains the list.
                let prefix = if method == Method::IssueOtt { "" } else { "login-" };
                let request = issue(&format!("{prefix}fault+{}@sandbox", reason.as_str()));
                let status = sandbox.client().await.issue_ott(request).await.expect_err("refused");
                assert_refused_with_a_list(&status, reason.as_str());
                continue;
            };
            for &code in answers.codes {
                let kind = format!("{}-{}", reason.as_str(), code.name());
                let status = fail(&sandbox, method, &kind).await;
                let documented = Failed::documented(reason, method, code, answers);
                if Failed::of(&status) != documented {
                    wrong.push(format!(
                        "{method:?} {kind}:\n  {:?}\n  {documented:?}\n  {status:?}",
                        Failed::of(&status)
                    ));
                }
                checked += 1;
            }
            // The name alone selects one of the codes; case does not matter.
            let status = fail(&sandbox, method, &reason.as_str().to_lowercase()).await;
            if crate::support::calling::reason(&status) != reason.as_str()
                || !answers.codes.iter().any(|code| Code::from(*code) == status.code())
            {
                wrong.push(format!("{method:?} {}: {status:?}", reason.as_str()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(checked > Reason::ALL.len());
    let mut client = sandbox.client().await;
    let issued = client.issue_ott(issue(JOHN)).await.expect("works after the faults").into_inner();
    client.login_with_ott(login(&issued.ott)).await.expect("works after the faults");
}

#[tokio::test]
async fn injected_faults_have_the_details_of_real_failures() {
    let sandbox = Sandbox::start(&[]);
    let attempts = async |method, kind| {
        let info = fail(&sandbox, method, kind).await.get_details_error_info().expect("an ErrorInfo");
        info.metadata.get("attempts").cloned().unwrap_or_default()
    };
    assert_eq!(attempts(Method::IssueOtt, "PLATFORM_UNREACHABLE").await, "3");
    assert_eq!(attempts(Method::LoginWithOtt, "PLATFORM_UNREACHABLE").await, "2");
    assert_eq!(attempts(Method::IssueOtt, "PLATFORM_UNAVAILABLE").await, "3");
    assert_eq!(attempts(Method::IssueOtt, "OVERLOADED").await, "0");

    let exceeded = fail(&sandbox, Method::IssueOtt, "CALLER_QUOTA_EXCEEDED").await;
    assert_eq!(exceeded.get_details_quota_failure().expect("a QuotaFailure").violations.len(), 1);
    let invalid = fail(&sandbox, Method::LoginWithOtt, "INVALID_REQUEST").await;
    let violations = invalid.get_details_bad_request().expect("a BadRequest").field_violations;
    assert_eq!(violations[0].field, "ott");
    let spent = fail(&sandbox, Method::LoginWithOtt, "AUDIT_UNAVAILABLE-ABORTED").await;
    assert_eq!(spent.metadata().get("x-envoy-ratelimited").expect("Envoy must not retry"), "true");
}

#[tokio::test]
async fn a_login_that_fails_before_sending_does_not_spend_its_token() {
    let sandbox = Sandbox::start(&[]);
    let mut client = sandbox.client().await;
    let issued = client.issue_ott(issue("login-fault+DRAINING@sandbox")).await.expect("a token").into_inner();
    for _ in 0..2 {
        assert_eq!(result_of(&client.login_with_ott(login(&issued.ott)).await), "Unavailable DRAINING");
    }
    let spent = client.issue_ott(issue("login-fault+AUDIT_UNAVAILABLE-ABORTED@sandbox")).await;
    let ott = spent.expect("a token").into_inner().ott;
    assert_eq!(result_of(&client.login_with_ott(login(&ott)).await), "Aborted AUDIT_UNAVAILABLE");
    assert_eq!(result_of(&client.login_with_ott(login(&ott)).await), "Unauthenticated OTT_REJECTED");
}

fn assert_refused_with_a_list(status: &Status, asked: &str) {
    assert_eq!(
        (status.code(), reason(status)),
        (Code::InvalidArgument, "INVALID_REQUEST".to_owned()),
        "{asked}"
    );
    let violations = status.get_details_bad_request().expect("a BadRequest").field_violations;
    assert!(violations.iter().all(|violation| violation.field == "login"), "{violations:?}");
    let rules: Vec<_> = violations.into_iter().map(|violation| violation.description).collect();
    let listed: Vec<&str> = rules.iter().flat_map(|rule| rule.split([',', ' ', '(', ')'])).collect();
    for kind in ["503", "400-1018", "redirect", "other-account", "REASON-CODE"] {
        assert!(listed.contains(&kind), "{asked}: {rules:?}");
    }
    // Nothing is cut off by the size limit of a status.
    let is_login = rules.iter().any(|rule| rule.contains("REASON of LoginWithOtt:"));
    for reason in Reason::ALL {
        let entry = reason.entry();
        let exists = if is_login { entry.login } else { entry.issue }.is_some();
        assert_eq!(listed.contains(&reason.as_str()), exists, "{asked}: {reason:?}: {rules:?}");
    }
    assert!(rules.iter().all(|rule| status.message().contains(rule)), "{asked}: {status:?}");
    assert_eq!(status.message().matches("login: ").count(), 1, "the field is named once: {status:?}");
}

#[tokio::test]
async fn unknown_faults_are_refused_with_the_list_and_a_warning() {
    let sandbox = Sandbox::start(&[]);
    let mut client = sandbox.client().await;
    for asked in [
        "fault+",
        "fault+abc@sandbox",
        "fault+99@sandbox",
        "fault+503x@sandbox",
        "fault+503@sandbx",
        "FAULT+503@example.com",
        "login-fault+",
        "login-fault+200@sandbox",
        "fautl+503@sandbox",
        "fault+400-9999@sandbox",
        "fault-503@sandbox",
        "fault+DRAINNG@sandbox",
        "login_fault+DRAINING@sandbox",
    ] {
        let status = client.issue_ott(issue(asked)).await.expect_err("refused");
        assert_refused_with_a_list(&status, asked);
    }
    sandbox.stderr.wait_for("the warning", |line| {
        (line.contains("WARN") && line.contains("login requests an unknown fault")).then_some(())
    });
    let subject = Some(Subject::ExternalId("fault+abc@sandbox".to_owned()));
    let request = Request::new(IssueOttRequest { subject, ..IssueOttRequest::default() });
    let status = client.issue_ott(request).await.expect_err("there is no such user");
    assert_eq!(reason(&status), "USER_NOT_FOUND", "only logins request faults");
}

#[tokio::test]
async fn serve_injects_no_faults() {
    let platform = sandbox::start(sandbox::Settings::new("127.0.0.1:0".parse().unwrap())).await.unwrap();
    let setup = Setup::for_platform(platform.local_addr())
        .replacing("test-client", sandbox::CLIENT_ID)
        .replacing("FOLDER/client-secret", "FOLDER/sandbox-secret");
    setup.file("sandbox-secret", sandbox::CLIENT_SECRET);
    let gateway = setup.start();
    let mut client = gateway.client().await;
    let status =
        client.issue_ott(issue("fault+DRAINING@sandbox")).await.expect_err("the platform refuses it");
    assert_eq!(
        (status.code(), reason(&status)),
        (Code::InvalidArgument, "PLATFORM_REJECTED_REQUEST".to_owned())
    );
    let issued = client.issue_ott(issue("login-fault+DRAINING@sandbox")).await.expect("a token").into_inner();
    client.login_with_ott(login(&issued.ott)).await.expect("an ordinary login");
}
