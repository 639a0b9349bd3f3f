//! Failures on demand of `ott-gateway sandbox`: every reason of the catalogue, with the details of the
//! real ones.

use ott_gateway::{
    call::Operation,
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

/// How one failure looks to a caller.
#[derive(Debug, PartialEq, Eq)]
struct Failed {
    code: Code,
    reason: String,
    outcome: String,
    has_retry_info: bool,
    /// Whether clients with a retry policy are kept from retrying.
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

    /// What the catalogue promises.
    fn promised(reason: Reason, operation: Operation, code: FailureCode, answers: Answers) -> Self {
        let outcome = outcome(reason, operation, code);
        let may_be_spent = operation == Operation::LoginWithOtt && matches!(outcome, "unknown" | "done");
        let is_advised = answers.retry.is_advised(code) && !may_be_spent;
        let has_wait = matches!(
            (reason, operation, code),
            (
                Reason::Overloaded
                    | Reason::GatewayExhausted
                    | Reason::Draining
                    | Reason::AuditUnavailable
                    | Reason::CallerQuotaExceeded
                    | Reason::PlatformRateLimited,
                ..
            ) | (Reason::CallerUnauthenticated, _, FailureCode::Unavailable)
                | (Reason::PlatformUnavailable, Operation::LoginWithOtt, FailureCode::Unavailable)
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

/// What the platform has done when a call fails so.
fn outcome(reason: Reason, operation: Operation, code: FailureCode) -> &'static str {
    match (reason, operation, code) {
        (Reason::AuditUnavailable, _, FailureCode::Aborted)
        | (Reason::AccountMismatch | Reason::AccountNotAllowed | Reason::PlatformProtocolError, ..) => "done",
        (Reason::LoginOutcomeUnknown, ..)
        | (Reason::PlatformUnavailable, Operation::IssueOtt, _)
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
        | (Reason::PlatformUnavailable | Reason::PlatformBlocked, Operation::LoginWithOtt, _) => "not_sent",
        _ => "refused",
    }
}

/// Calls the method so that it fails as `kind` demands.
async fn fail(sandbox: &Sandbox, operation: Operation, kind: &str) -> Status {
    let mut client = sandbox.client().await;
    let failed = match operation {
        Operation::IssueOtt => client.issue_ott(issue(&format!("fault+{kind}@sandbox"))).await.map(|_| ()),
        Operation::LoginWithOtt => {
            let issued = client.issue_ott(issue(&format!("login-fault+{kind}@sandbox"))).await;
            let ott = issued.unwrap_or_else(|status| panic!("{kind}: {status:?}")).into_inner().ott;
            client.login_with_ott(login(&ott)).await.map(|_| ())
        }
    };
    failed.expect_err(kind)
}

#[tokio::test]
async fn every_reason_of_the_catalogue_comes_about_on_demand_at_every_method_and_with_every_code() {
    let sandbox = Sandbox::start(&[]);
    let mut wrong = Vec::new();
    let mut walked = 0;
    for &reason in Reason::ALL {
        let entry = reason.entry();
        for (operation, answers) in
            [(Operation::IssueOtt, entry.issue), (Operation::LoginWithOtt, entry.login)]
        {
            let Some(answers) = answers else {
                // The error lists what exists.
                let prefix = if operation == Operation::IssueOtt { "" } else { "login-" };
                let request = issue(&format!("{prefix}fault+{}@sandbox", reason.as_str()));
                let status = sandbox.client().await.issue_ott(request).await.expect_err("refused");
                assert_refused_with_a_list(&status, reason.as_str());
                continue;
            };
            for &code in answers.codes {
                let kind = format!("{}-{}", reason.as_str(), code.name());
                let status = fail(&sandbox, operation, &kind).await;
                let promised = Failed::promised(reason, operation, code, answers);
                if Failed::of(&status) != promised {
                    wrong.push(format!(
                        "{operation:?} {kind}:\n  {:?}\n  {promised:?}\n  {status:?}",
                        Failed::of(&status)
                    ));
                }
                walked += 1;
            }
            // The name alone means one of the codes, in any case.
            let status = fail(&sandbox, operation, &reason.as_str().to_lowercase()).await;
            if crate::support::calling::reason(&status) != reason.as_str()
                || !answers.codes.iter().any(|code| Code::from(*code) == status.code())
            {
                wrong.push(format!("{operation:?} {}: {status:?}", reason.as_str()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(walked > Reason::ALL.len());
    let mut client = sandbox.client().await;
    let issued = client.issue_ott(issue(JOHN)).await.expect("afterwards everything works").into_inner();
    client.login_with_ott(login(&issued.ott)).await.expect("afterwards everything works");
}

/// The details that only the mechanism itself can know.
#[tokio::test]
async fn failures_on_demand_have_the_details_of_the_real_ones() {
    let sandbox = Sandbox::start(&[]);
    let attempts = async |operation, kind| {
        let info = fail(&sandbox, operation, kind).await.get_details_error_info().expect("an ErrorInfo");
        info.metadata.get("attempts").cloned().unwrap_or_default()
    };
    assert_eq!(attempts(Operation::IssueOtt, "PLATFORM_UNREACHABLE").await, "3");
    assert_eq!(attempts(Operation::LoginWithOtt, "PLATFORM_UNREACHABLE").await, "2");
    assert_eq!(attempts(Operation::IssueOtt, "PLATFORM_UNAVAILABLE").await, "3");
    assert_eq!(attempts(Operation::IssueOtt, "OVERLOADED").await, "0");

    let exceeded = fail(&sandbox, Operation::IssueOtt, "CALLER_QUOTA_EXCEEDED").await;
    assert_eq!(exceeded.get_details_quota_failure().expect("a QuotaFailure").violations.len(), 1);
    let invalid = fail(&sandbox, Operation::LoginWithOtt, "INVALID_REQUEST").await;
    let violations = invalid.get_details_bad_request().expect("a BadRequest").field_violations;
    assert_eq!(violations[0].field, "ott");
    let spent = fail(&sandbox, Operation::LoginWithOtt, "AUDIT_UNAVAILABLE-ABORTED").await;
    assert_eq!(spent.metadata().get("x-envoy-ratelimited").expect("Envoy must not retry"), "true");
}

/// A token whose login failed before it was sent is still valid, as with the real gateway.
#[tokio::test]
async fn a_failure_before_anything_is_sent_leaves_the_token_alone() {
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
    assert!(!rules.is_empty(), "{status:?}");
    // The end of the list is cut off where a status is full.
    let rules = status.message();
    for kind in [
        "503",
        "400-1018",
        "`redirect`",
        "DRAINING",
        "CALLER_UNAUTHENTICATED-UNAVAILABLE",
        "PLATFORM_UNREACHABLE",
    ] {
        assert!(rules.contains(kind), "{asked}: {rules}");
    }
}

#[tokio::test]
async fn a_failure_that_does_not_exist_is_refused_with_the_list_and_a_warning() {
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
        "login_fault+DRAINING@sandbox",
    ] {
        let status = client.issue_ott(issue(asked)).await.expect_err("refused");
        assert_refused_with_a_list(&status, asked);
    }
    sandbox.stderr.wait_for("the warning", |line| {
        (line.contains("WARN") && line.contains("no such failure on demand")).then_some(())
    });
    let subject = Some(Subject::ExternalId("fault+abc@sandbox".to_owned()));
    let request = Request::new(IssueOttRequest { subject, ..IssueOttRequest::default() });
    let status = client.issue_ott(request).await.expect_err("there is no such user");
    assert_eq!(reason(&status), "USER_NOT_FOUND", "only logins ask for failures");
}

/// The gateway of `serve`, with the copy of the platform behind it.
#[tokio::test]
async fn a_gateway_that_is_served_makes_no_failure_on_demand() {
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
