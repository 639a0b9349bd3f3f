//! The status on the wire: its parts and its size.

use std::time::Duration;

use http::HeaderMap;
use proptest::prelude::*;
use tonic::Code;
use tonic_types::StatusExt as _;

use super::{Answer, CERTAINTIES, OPERATIONS, call};
use crate::{
    base::clock,
    domain::call::{Call, Certainty, Deadline, Method},
    platform::error::{ErrorBody, ErrorResponse, PlatformError, PlatformErrorCode},
    status::{Failure, Reason},
};

#[test]
fn a_failure_of_an_unknown_method_has_details() {
    let call = Call::new(clock::now(), Deadline::after(Duration::from_secs(1)));
    let answer = Answer::of(Failure::new(Reason::MethodUnknown), &call);
    assert_eq!((answer.code, answer.metadata.len()), (Code::Unimplemented, 0));
    let request = answer.details.request_info().expect("always present");
    assert_eq!(request.request_id, call.request_id().to_string());
}

#[test]
fn metadata_contains_what_the_call_records() {
    let call = call(Method::IssueOtt);
    call.set_api_client("eu2".into());
    call.attempt_begins();
    call.attempt_ended(Certainty::Unknown);
    call.attempt_begins();
    call.set_http_status(503);
    let answer = Answer::of(Failure::new(Reason::DeadlineExceeded), &call);
    assert_eq!(answer.code, Code::DeadlineExceeded);
    let reported: Vec<(&str, &str)> =
        answer.metadata.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    assert_eq!(
        reported,
        [
            ("apiClient", "eu2"),
            ("attempts", "2"),
            ("httpStatus", "503"),
            ("operation", "IssueOtt"),
            ("outcome", "unknown"),
        ]
    );
}

#[test]
fn violations_contain_field_and_rule() {
    let failure = Failure::new(Reason::InvalidRequest)
        .violation("login", "must not be empty")
        .violation("purpose", "must be known");
    let answer = Answer::of(failure, &call(Method::IssueOtt));
    let bad = answer.details.bad_request().expect("violations");
    let fields: Vec<(&str, &str)> = bad
        .field_violations
        .iter()
        .map(|violation| (violation.field.as_str(), violation.description.as_str()))
        .collect();
    assert_eq!(fields, [("login", "must not be empty"), ("purpose", "must be known")]);
}

#[test]
fn quota_failure_has_subject_limit_and_retry_delay() {
    let call = call(Method::IssueOtt);
    call.set_caller("spiffe://mesh/portal".into(), "certificate");
    for (failure, description) in [
        (Failure::new(Reason::CallerQuotaExceeded), "The caller's quota is used up."),
        (Failure::new(Reason::CallerQuotaExceeded).quota("spiffe://mesh/portal", "50/s"), "50/s"),
    ] {
        let answer = Answer::of(failure.retry_after(Duration::from_millis(20)), &call);
        let quota = answer.details.quota_failure().expect("it is present").violations[0].clone();
        assert_eq!(
            (quota.subject.as_str(), quota.description.as_str()),
            ("spiffe://mesh/portal", description)
        );
        assert_eq!(answer.retry_delay(), Some(Duration::from_millis(20)));
    }
}

#[test]
fn busy_replica_always_sends_a_retry_delay() {
    for reason in [Reason::Overloaded, Reason::Draining, Reason::AuditUnavailable] {
        for method in OPERATIONS {
            let answer = Answer::of(Failure::new(reason), &call(method));
            assert_eq!((answer.code, answer.pushback.as_deref()), (Code::Unavailable, None));
            assert!(answer.retry_delay().is_some());
        }
    }
}

/// Returns a call whose attempt has this outcome; `Unknown`: it is in progress.
fn call_with(method: Method, outcome: Certainty) -> Call {
    let call = call(method);
    call.attempt_begins();
    if outcome == Certainty::Unknown {
        call.sending();
    } else {
        call.attempt_ended(outcome);
    }
    assert_eq!(call.certainty(), outcome);
    call
}

#[test]
fn drain_distinguishes_logins_that_may_have_been_sent() {
    for method in OPERATIONS {
        for outcome in CERTAINTIES {
            let call = call_with(method, outcome);
            let answer = Answer::of(Failure::draining(&call), &call);
            let spent =
                method == Method::LoginWithOtt && matches!(outcome, Certainty::Unknown | Certainty::Done);
            let expected = if spent {
                (Code::Aborted, "LOGIN_OUTCOME_UNKNOWN")
            } else {
                (Code::Unavailable, "DRAINING")
            };
            assert_eq!((answer.code, answer.reason.as_str()), expected, "{method:?} {outcome:?}");
            assert_eq!(answer.reported("outcome"), Some(outcome.as_str()));
            assert_eq!(answer.rate_limited, spent);
        }
    }
}

#[test]
fn a_lost_audit_record_allows_a_retry_of_issue_but_not_of_login() {
    let issue = call_with(Method::IssueOtt, Certainty::Done);
    let answer = Answer::of(Failure::new(Reason::AuditUnavailable), &issue);
    assert_eq!((answer.code, answer.reason.as_str()), (Code::Unavailable, "AUDIT_UNAVAILABLE"));
    assert_eq!((answer.reported("outcome"), answer.pushback.as_deref()), (Some("done"), None));

    let login = call_with(Method::LoginWithOtt, Certainty::Done);
    let failure = Failure::new(Reason::AuditUnavailable);
    assert_eq!(Code::from(failure.code(&login)), Code::Aborted);
    let answer = Answer::of(failure, &login);
    assert_eq!((answer.code, answer.reason.as_str()), (Code::Aborted, "AUDIT_UNAVAILABLE"));
    assert_eq!((answer.reported("outcome"), answer.pushback.as_deref()), (Some("done"), Some("-1")));
    assert_eq!(answer.retry_delay(), None);
}

#[test]
fn a_login_is_retried_after_a_deadline_only_while_its_token_is_unspent() {
    for outcome in CERTAINTIES {
        let call = call_with(Method::LoginWithOtt, outcome);
        let answer = Answer::of(Failure::new(Reason::DeadlineExceeded), &call);
        let spent = matches!(outcome, Certainty::Unknown | Certainty::Done);
        assert_eq!(answer.code, Code::DeadlineExceeded);
        assert_eq!(answer.pushback.is_some(), spent);
        assert_eq!(answer.rate_limited, spent);
    }
}

fn wire_size(status: &tonic::Status) -> usize {
    let mut headers = HeaderMap::new();
    status.add_header(&mut headers).expect("it can be sent");
    headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum()
}

/// Checks that a response built without the gRPC library carries the same status.
fn check_headers(failure: impl Fn() -> Failure, call: &Call) -> Result<(), TestCaseError> {
    let (headers, status) = (failure().into_headers(call), failure().into_status(call));
    let read = tonic::Status::from_header_map(&headers).expect("a status");
    prop_assert_eq!((read.code(), read.message()), (status.code(), status.message()));
    prop_assert_eq!(read.details(), status.details());
    let mut expected = status.metadata().clone().into_headers();
    expected.insert("content-type", http::HeaderValue::from_static("application/grpc"));
    prop_assert_eq!(read.metadata().clone().into_headers(), expected);
    let size: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum();
    prop_assert!(size <= 4096 + "content-type".len() + "application/grpc".len() + 32);
    // Otherwise each response would evict shared headers from the HPACK table.
    prop_assert!(headers["grpc-status-details-bin"].is_sensitive());
    Ok(())
}

proptest! {
    #[test]
    fn headers_carry_the_same_status(
        reason in proptest::sample::select(Reason::ALL),
        method in proptest::sample::select(OPERATIONS.as_slice()),
        certainty in proptest::sample::select(CERTAINTIES.as_slice()),
        descriptions in proptest::collection::vec(".{0,300}", 0..20),
        api_client in ".{0,300}",
    ) {
        let call = call(method);
        call.set_api_client(api_client.as_str().into());
        call.attempt_ended(certainty);
        let failure = || {
            let failure = Failure::new(reason).retry_after(Duration::from_secs(1));
            descriptions.iter().fold(failure, |failure, text| failure.violation("login", text.as_str()))
        };
        check_headers(failure, &call)?;
        check_headers(Failure::unsupported_compression, &call)?;
    }

    #[test]
    fn status_stays_within_4_kib_with_any_content(
        reason in proptest::sample::select(Reason::ALL),
        method in proptest::sample::select(OPERATIONS.as_slice()),
        descriptions in proptest::collection::vec(".{0,300}", 0..40),
        caller in ".{0,700}",
        api_client in ".{0,700}",
    ) {
        let call = call(method);
        call.set_caller(caller.as_str().into(), "jwt");
        call.set_api_client(api_client.as_str().into());
        let mut failure = Failure::new(reason).quota(caller, "x".repeat(3000));
        for description in descriptions {
            failure = failure.violation("login", description);
        }
        let status = failure.into_status(&call);
        prop_assert!(wire_size(&status) <= 4096);
        let details = status.get_error_details();
        prop_assert_eq!(&details.error_info().expect("never removed").reason, reason.as_str());
        prop_assert!(details.request_info().is_some());
    }

    #[test]
    fn a_platform_error_stays_within_4_kib_and_its_message_within_256_bytes(
        status in 300_u16..600,
        code in proptest::option::of(990_i64..1050),
        domain in ".{0,700}",
        message in ".{0,700}",
        method in proptest::sample::select(OPERATIONS.as_slice()),
    ) {
        let body = ErrorBody {
            code: code.map(PlatformErrorCode::from_number),
            domain: Some(domain),
            message: Some(message),
        };
        let answer = ErrorResponse { status, body: Some(body), retry_after: Some(Duration::MAX) };
        let error = PlatformError::Response(answer);
        let call = call(method);
        let status = Failure::from_platform(method, &error).into_status(&call);
        prop_assert!(wire_size(&status) <= 4096);
        let answer = Answer::read(&status);
        if let Some(message) = answer.reported("apiMessage") {
            prop_assert!(message.len() <= 256);
            prop_assert!(!message.chars().any(crate::base::text::is_unprintable));
        }
        prop_assert!(answer.reason != "OTT_REJECTED" || answer.reported("apiMessage").is_none());
    }
}
