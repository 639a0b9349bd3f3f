//! The mapping of the platform's responses in `docs/errors.md`, row by row.

use std::time::Duration;

use tonic::Code;

use super::{Answer, OPERATIONS, call, call_with};
use crate::{
    base::{backoff::assert_spread, clock},
    credential::{CredentialError, CredentialErrorKind},
    domain::call::{Call, Certainty, Deadline, Method, RequestId},
    platform::error::{
        CookieProblem, ErrorBody, ErrorResponse, Malformation, PlatformError, PlatformErrorCode,
    },
    status::{Failure, Reason},
};

use Certainty::{Done, NotSent, Refused, Unknown};
use Method::{IssueOtt, LoginWithOtt};

#[expect(clippy::needless_pass_by_value, reason = "callers create a value for it")]
fn answer(method: Method, error: PlatformError, certainty: Certainty) -> Answer {
    Answer::of(Failure::from_platform(method, &error), &call_with(method, certainty))
}

/// Returns the certainty that `platform` records.
fn certainty_of(method: Method, answer: &PlatformError) -> Certainty {
    let PlatformError::Response(answer) = answer else { panic!("{answer:?}") };
    if answer.is_definite(method == LoginWithOtt) { Refused } else { Unknown }
}

fn decided(method: Method, error: PlatformError) -> Answer {
    let certainty = certainty_of(method, &error);
    answer(method, error, certainty)
}

fn http(status: u16, body: impl Into<Option<ErrorBody>>) -> PlatformError {
    PlatformError::Response(ErrorResponse { status, body: body.into(), retry_after: None })
}

fn json(code: Option<i64>) -> ErrorBody {
    ErrorBody {
        code: code.map(PlatformErrorCode::from_number),
        domain: Some("canary-domain".to_owned()),
        message: Some("canary-message".to_owned()),
    }
}

#[derive(Clone, Copy)]
struct Expected {
    code: Code,
    reason: &'static str,
    outcome: &'static str,
    pushback: bool,
}

const fn may_be_retried(code: Code, reason: &'static str, outcome: &'static str) -> Expected {
    Expected { code, reason, outcome, pushback: false }
}

const fn no_retry(code: Code, reason: &'static str, outcome: &'static str) -> Expected {
    Expected { code, reason, outcome, pushback: true }
}

#[track_caller]
fn check(case: &str, answer: &Answer, expected: Expected) {
    assert_eq!((answer.code, answer.reason.as_str()), (expected.code, expected.reason), "{case}");
    assert_eq!(answer.reported("outcome"), Some(expected.outcome), "{case}");
    assert_eq!(answer.pushback.as_deref(), expected.pushback.then_some("-1"), "{case}");
    let spent = answer.reported("operation") == Some("LoginWithOtt")
        && ["unknown", "done"].contains(&expected.outcome);
    assert_eq!(answer.rate_limited, spent, "{case}");
}

const REJECTED: Expected = no_retry(Code::Unauthenticated, "OTT_REJECTED", "refused");
const AMBIGUOUS: Expected = no_retry(Code::Aborted, "LOGIN_OUTCOME_UNKNOWN", "unknown");
const PROTOCOL: Expected = no_retry(Code::Internal, "PLATFORM_PROTOCOL_ERROR", "refused");
const PROTOCOL_UNKNOWN: Expected = no_retry(Code::Internal, "PLATFORM_PROTOCOL_ERROR", "unknown");
const DENIED: Expected = no_retry(Code::PermissionDenied, "PLATFORM_ACCESS_DENIED", "refused");
const BLOCKED: Expected = may_be_retried(Code::Unavailable, "PLATFORM_BLOCKED", "refused");
const BLOCKED_UNKNOWN: Expected = no_retry(Code::Aborted, "PLATFORM_BLOCKED", "unknown");
const CONFLICT: Expected = no_retry(Code::Aborted, "PLATFORM_CONFLICT", "refused");
const CONFLICT_UNKNOWN: Expected = no_retry(Code::Aborted, "PLATFORM_CONFLICT", "unknown");
const LIMITED: Expected = may_be_retried(Code::ResourceExhausted, "PLATFORM_RATE_LIMITED", "refused");
const FAILING: Expected = may_be_retried(Code::Unavailable, "PLATFORM_UNAVAILABLE", "unknown");
const REFUSED: Expected = no_retry(Code::InvalidArgument, "PLATFORM_REJECTED_REQUEST", "refused");
const CREDENTIAL: Expected = no_retry(Code::Internal, "PLATFORM_CREDENTIAL_REJECTED", "refused");
const NO_USER: Expected = no_retry(Code::NotFound, "USER_NOT_FOUND", "refused");

/// The gateway refuses some tokens itself, and nothing is sent then.
#[tokio::test(start_paused = true)]
async fn token_that_the_gateway_refuses_gets_the_status_of_one_that_the_platform_rejects() {
    let request_id = RequestId::new();
    let call = |certainty| {
        let call = Call::with_request_id(request_id, clock::now(), Deadline::after(Duration::from_secs(10)));
        call.set_method(LoginWithOtt);
        call.set_api_client("eu2".into());
        call.attempt_ended(certainty);
        call
    };
    let rejected = Failure::from_platform(LoginWithOtt, &http(401, json(None)));
    let rejected = rejected.into_headers(&call(Refused));
    let refused = Failure::new(Reason::OttRejected).because(&"the gateway refused the token: expired");
    assert_eq!(refused.into_headers(&call(NotSent)), rejected);
}

#[test]
fn http_statuses_without_a_known_code_are_decided_by_status() {
    let redirect = (PROTOCOL_UNKNOWN, AMBIGUOUS);
    let failing = (FAILING, AMBIGUOUS);
    // At a login, a 4xx without the platform's error object may come from a proxy.
    let rows = [
        // status, (issue, login) with a JSON error, (issue, login) without one
        (301, redirect, redirect),
        (302, redirect, redirect),
        (303, redirect, redirect),
        (307, redirect, redirect),
        (308, redirect, redirect),
        (400, (REFUSED, REJECTED), (PROTOCOL, PROTOCOL_UNKNOWN)),
        (401, (CREDENTIAL, REJECTED), (CREDENTIAL, AMBIGUOUS)),
        (403, (DENIED, DENIED), (BLOCKED, BLOCKED_UNKNOWN)),
        (404, (NO_USER, REJECTED), (PROTOCOL, PROTOCOL_UNKNOWN)),
        (405, (PROTOCOL, PROTOCOL), (PROTOCOL, PROTOCOL_UNKNOWN)),
        (406, (PROTOCOL, PROTOCOL), (PROTOCOL, PROTOCOL_UNKNOWN)),
        (408, failing, failing),
        (409, (CONFLICT, CONFLICT), (CONFLICT, CONFLICT_UNKNOWN)),
        (410, (PROTOCOL, REJECTED), (PROTOCOL, AMBIGUOUS)),
        (411, (PROTOCOL, PROTOCOL), (PROTOCOL, PROTOCOL_UNKNOWN)),
        (413, (PROTOCOL, PROTOCOL), (PROTOCOL, PROTOCOL_UNKNOWN)),
        (415, (PROTOCOL, PROTOCOL), (PROTOCOL, PROTOCOL_UNKNOWN)),
        (418, (PROTOCOL, PROTOCOL), (PROTOCOL, PROTOCOL_UNKNOWN)),
        (425, failing, failing),
        (429, (LIMITED, LIMITED), (LIMITED, AMBIGUOUS)),
        (499, failing, failing),
        (500, failing, failing),
        (502, failing, failing),
        (503, failing, failing),
        (504, failing, failing),
    ];
    for (status, with_json, without) in rows {
        for (body, (issue, login)) in
            [(Some(json(None)), with_json), (Some(json(Some(4711))), with_json), (None, without)]
        {
            for (method, expected) in [(IssueOtt, issue), (LoginWithOtt, login)] {
                let answer = decided(method, http(status, body.clone()));
                let case = format!("{status} {method:?} {body:?}");
                check(&case, &answer, expected);
                if expected.reason == "OTT_REJECTED" {
                    continue;
                }
                assert_eq!(answer.reported("httpStatus"), Some(status.to_string().as_str()), "{case}");
                let code = body.as_ref().and_then(|body| body.code).map(|code| code.number().to_string());
                assert_eq!(answer.reported("apiCode"), code.as_deref(), "{case}");
                let message = body.as_ref().and_then(|body| body.message.clone());
                assert_eq!(answer.reported("apiMessage"), message.as_deref(), "{case}");
            }
        }
    }
}

/// The table of API codes in `docs/errors.md`.
fn by_code(number: i64) -> (Code, &'static str) {
    match number {
        1018 => (Code::FailedPrecondition, "USER_DISABLED"),
        1003 => (Code::FailedPrecondition, "TENANT_DISABLED"),
        1012 => (Code::FailedPrecondition, "TENANT_LOCKED"),
        1002 | 1020 | 1024 => (Code::PermissionDenied, "PLATFORM_ACCESS_DENIED"),
        1005 => (Code::NotFound, "TENANT_NOT_FOUND"),
        1033 => (Code::InvalidArgument, "INVALID_LOGIN"),
        1004 | 1010 | 1015 | 1028 | 1031 => (Code::AlreadyExists, "PLATFORM_CONFLICT"),
        1001 => (Code::Aborted, "PLATFORM_CONFLICT"),
        1022 | 1030 => (Code::ResourceExhausted, "PLATFORM_QUOTA_EXCEEDED"),
        1000 | 1019 => (Code::Unavailable, "PLATFORM_UNAVAILABLE"),
        _ => (Code::FailedPrecondition, "PLATFORM_PRECONDITION_FAILED"),
    }
}

#[test]
fn every_api_code_decides_at_issuing_for_any_4xx() {
    for number in 1000..=1035 {
        let (code, reason) = by_code(number);
        let expected = Expected { code, reason, outcome: "refused", pushback: code != Code::Unavailable };
        for status in [400, 401, 403, 404, 405, 409, 410, 415, 422, 429] {
            let answer = decided(IssueOtt, http(status, json(Some(number))));
            check(&format!("{status}-{number}"), &answer, expected);
            assert_eq!(answer.reported("apiCode"), Some(number.to_string().as_str()));
            let meaning = PlatformErrorCode::from_number(number).meaning().expect("it is documented");
            assert!(answer.message.ends_with(&format!("The platform's code is {number}: {meaning}.")));
        }
    }
}

#[test]
fn at_login_only_codes_about_the_account_decide_where_a_token_is_rejected() {
    for number in 1000..=1035 {
        let (code, reason) = by_code(number);
        for status in [400, 401, 404, 410] {
            let expected = if [1002, 1003, 1012, 1018].contains(&number) {
                no_retry(code, reason, "refused")
            } else {
                REJECTED
            };
            check(
                &format!("{status}-{number}"),
                &decided(LoginWithOtt, http(status, json(Some(number)))),
                expected,
            );
        }
        for status in [403, 409, 422, 429] {
            let expected = if reason == "PLATFORM_UNAVAILABLE" {
                no_retry(Code::Aborted, reason, "unknown")
            } else {
                no_retry(code, reason, "refused")
            };
            check(
                &format!("{status}-{number}"),
                &decided(LoginWithOtt, http(status, json(Some(number)))),
                expected,
            );
        }
    }
}

#[test]
fn no_api_code_makes_a_5xx_definite() {
    for number in 1000..=1035 {
        for status in [500, 503] {
            check("issue", &answer(IssueOtt, http(status, json(Some(number))), Unknown), FAILING);
            check("login", &answer(LoginWithOtt, http(status, json(Some(number))), Unknown), AMBIGUOUS);
        }
    }
}

#[test]
fn failures_without_a_response_are_decided_by_certainty() {
    let unreachable = may_be_retried(Code::Unavailable, "PLATFORM_UNREACHABLE", "not_sent");
    let breaker = || PlatformError::BreakerOpen { retry_after: Duration::from_millis(700) };
    let late = may_be_retried(Code::DeadlineExceeded, "DEADLINE_EXCEEDED", "not_sent");
    for method in OPERATIONS {
        check(
            "unreachable",
            &answer(method, PlatformError::Unreachable(String::new()), NotSent),
            unreachable,
        );
        check("lookup", &answer(method, PlatformError::NameLookup(String::new()), NotSent), unreachable);
        let exhausted = answer(method, PlatformError::Exhausted(String::new()), NotSent);
        check("exhausted", &exhausted, may_be_retried(Code::Unavailable, "GATEWAY_EXHAUSTED", "not_sent"));
        assert!(exhausted.retry_delay().is_some() && !exhausted.message.contains("platform"));
        check(
            "certificate",
            &answer(method, PlatformError::CertificateInvalid(String::new()), NotSent),
            unreachable,
        );
        let open = answer(method, breaker(), NotSent);
        check("breaker", &open, may_be_retried(Code::Unavailable, "PLATFORM_UNAVAILABLE", "not_sent"));
        assert_eq!(open.retry_delay(), Some(Duration::from_millis(700)));
        check("deadline", &answer(method, PlatformError::DeadlinePassed, NotSent), late);
        let queued = answer(method, PlatformError::Queued, NotSent);
        check("queued", &queued, may_be_retried(Code::Unavailable, "OVERLOADED", "not_sent"));
    }
    check("cut", &answer(IssueOtt, PlatformError::Interrupted(String::new()), Unknown), FAILING);
    check("cut", &answer(LoginWithOtt, PlatformError::Interrupted(String::new()), Unknown), AMBIGUOUS);
    check(
        "deadline",
        &answer(LoginWithOtt, PlatformError::DeadlinePassed, Unknown),
        no_retry(Code::DeadlineExceeded, "DEADLINE_EXCEEDED", "unknown"),
    );
}

#[test]
fn a_malformed_response_to_a_login_has_spent_the_token() {
    for malformation in [
        Malformation::ContentType,
        Malformation::Json,
        Malformation::TooLarge,
        Malformation::Missing,
        Malformation::Cookies(CookieProblem::TooMany),
    ] {
        let login = answer(LoginWithOtt, PlatformError::Malformed(malformation), Done);
        check("login", &login, no_retry(Code::Internal, "PLATFORM_PROTOCOL_ERROR", "done"));
        assert!(
            login.message.ends_with("The one-time token is spent; issue a new token and log in with that.")
        );
        let issue = answer(IssueOtt, PlatformError::Malformed(malformation), Done);
        check("issue", &issue, no_retry(Code::Internal, "PLATFORM_PROTOCOL_ERROR", "done"));
    }
}

#[test]
fn credential_errors_are_mapped_by_kind() {
    use CredentialErrorKind as Kind;
    let retry_after = Duration::from_secs(4);
    let rows = [
        (Kind::Rejected, Code::Internal, "PLATFORM_CREDENTIAL_REJECTED", true),
        (Kind::Unreachable, Code::Unavailable, "PLATFORM_UNREACHABLE", false),
        (Kind::Exhausted, Code::Unavailable, "GATEWAY_EXHAUSTED", false),
        (Kind::CertificateInvalid, Code::Unavailable, "PLATFORM_UNREACHABLE", false),
        (Kind::Failing, Code::Unavailable, "PLATFORM_UNAVAILABLE", false),
        (Kind::NotAcceptedYet, Code::Unavailable, "PLATFORM_UNAVAILABLE", false),
        (Kind::RefreshLimited, Code::Unavailable, "PLATFORM_UNAVAILABLE", false),
        (Kind::Blocked, Code::Unavailable, "PLATFORM_BLOCKED", false),
        (Kind::Protocol { status: 404 }, Code::Internal, "PLATFORM_PROTOCOL_ERROR", true),
        (Kind::SecretUnreadable, Code::Internal, "PLATFORM_CREDENTIAL_REJECTED", true),
        (Kind::DeadlinePassed, Code::DeadlineExceeded, "DEADLINE_EXCEEDED", false),
    ];
    for (kind, code, reason, pushback) in rows {
        let error = CredentialError::new(kind, "canary").with_retry_after(Some(retry_after));
        let answer = answer(IssueOtt, PlatformError::Credential(error), NotSent);
        check(reason, &answer, Expected { code, reason, outcome: "not_sent", pushback });
        if reason == "PLATFORM_UNAVAILABLE" {
            assert_eq!(answer.retry_delay(), Some(retry_after));
        }
        let message = match kind {
            Kind::NotAcceptedYet => "new access token yet. Retry with backoff.",
            Kind::RefreshLimited => "requested moments ago. Retry with backoff.",
            _ => "",
        };
        assert!(answer.message.contains(message), "{}", answer.message);
        let protocol = matches!(kind, Kind::Protocol { .. });
        assert_eq!(answer.reported("httpStatus"), protocol.then_some("404"));
    }
}

fn limited(method: Method, retry_after: Option<u64>) -> Answer {
    let retry_after = retry_after.map(Duration::from_secs);
    answer(
        method,
        PlatformError::Response(ErrorResponse { status: 429, body: Some(json(None)), retry_after }),
        Refused,
    )
}

#[test]
fn rate_limit_has_a_retry_delay() {
    for method in OPERATIONS {
        let limited_by_platform = limited(method, Some(7));
        assert_eq!(
            (limited_by_platform.retry_delay(), limited_by_platform.pushback),
            (Some(Duration::from_secs(7)), None)
        );
        for retry_after in [None, Some(0)] {
            let delay = |_| limited(method, retry_after).retry_delay().expect("a second, and jitter");
            let delays: Vec<Duration> = (0..100).map(delay).collect();
            assert_spread(&delays, Duration::from_secs(1), Duration::from_secs(2));
        }
    }
    assert_eq!(limited(IssueOtt, Some(86_400)).retry_delay(), Some(Duration::from_hours(1)));
}

#[test]
fn login_gets_no_retry_delay_beyond_its_tokens_lifetime() {
    assert_eq!(limited(LoginWithOtt, Some(29)).pushback, None);
    let expired = limited(LoginWithOtt, Some(30));
    assert_eq!((expired.retry_delay(), expired.pushback.as_deref()), (None, Some("-1")));
    assert_eq!((expired.code, expired.rate_limited), (Code::ResourceExhausted, false));
    assert_eq!(limited(IssueOtt, Some(30)).pushback, None);
}

#[test]
fn retry_after_of_a_failing_platform_is_passed_on_where_a_retry_is_safe() {
    let failing = |method| {
        let retry_after = Some(Duration::from_secs(3));
        answer(
            method,
            PlatformError::Response(ErrorResponse { status: 503, body: None, retry_after }),
            Unknown,
        )
    };
    assert_eq!(failing(IssueOtt).retry_delay(), Some(Duration::from_secs(3)));
    assert_eq!(failing(LoginWithOtt).retry_delay(), None);
}

#[test]
fn unknown_used_and_expired_tokens_get_the_same_bytes() {
    let call = call(LoginWithOtt);
    call.set_api_client("eu2".into());
    call.attempt_begins();
    let mut answers = Vec::new();
    for status in [400, 401, 404, 410] {
        for code in [None, Some(4711), Some(1005), Some(1033), Some(1000)] {
            call.set_http_status(status);
            call.attempt_begins();
            let error = http(status, json(code));
            call.attempt_ended(certainty_of(LoginWithOtt, &error));
            let answer = Answer::of(Failure::from_platform(LoginWithOtt, &error), &call);
            check(&format!("{status} {code:?}"), &answer, REJECTED);
            assert!(!answer.text().contains("canary"), "{status} {code:?}");
            let keys: Vec<&str> = answer.metadata.keys().map(String::as_str).collect();
            assert_eq!(keys, ["apiClient", "operation", "outcome"]);
            answers.push((answer.message, answer.bytes));
        }
    }
    answers.dedup();
    assert_eq!(answers.len(), 1);
}
