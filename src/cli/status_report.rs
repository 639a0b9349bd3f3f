//! Formats a gRPC status for people: what happened, the id to quote, what to do.
//!
//! Only the status itself is used, so that statuses of newer gateways work too. Retry advice is
//! included only for statuses that a gateway sent.

use std::{fmt::Write as _, time::Duration};

use tonic::{Code, Status};
use tonic_types::{ErrorInfo, StatusExt};

use super::failure;
use crate::{
    base::text::Printable,
    domain::call::{Certainty, Method},
    observe::telemetry::names::status_name,
};

/// Hint for a server without the method. The listener for probes has only the health service.
const UNIMPLEMENTED: &str = "this server does not have the method: use the address of a gateway's gRPC listener \
    (`listen` of [server]); `health_listen` is for probes only";
/// Domain of a gateway's reasons (`ErrorInfo`).
const DOMAIN: &str = "ott-gateway";

/// Returns the report: the code and reason, the message, and one line per detail.
pub(super) fn report(status: &Status) -> String {
    let details = status.get_error_details();
    let mut report = status_name(status.code()).to_owned();
    if let Some(info) = details.error_info() {
        let _ = write!(report, " ({})", Printable(&info.reason));
    }
    let message = if status.message().is_empty() { "no message" } else { status.message() };
    let _ = write!(report, "\n  {}", Printable(message));
    if let Some(cause) = std::error::Error::source(status) {
        line(&mut report, "cause", &failure::chain(cause));
    }
    for violation in details.bad_request().iter().flat_map(|request| &request.field_violations) {
        line(&mut report, &violation.field, &violation.description);
    }
    for violation in details.quota_failure().iter().flat_map(|failure| &failure.violations) {
        line(&mut report, &violation.subject, &violation.description);
    }
    if let Some(info) = details.error_info() {
        let mut metadata: Vec<_> = info.metadata.iter().collect();
        metadata.sort();
        for (key, value) in metadata {
            line(&mut report, &words(key), value);
        }
    }
    let request_id = details
        .request_info()
        .map(|info| info.request_id.clone())
        .or_else(|| status.metadata().get("x-request-id")?.to_str().ok().map(str::to_owned));
    if let Some(id) = request_id {
        line(&mut report, "request id", &format!("{id} (quote it to the gateway's operator)"));
    }
    if let Some(info) = details.error_info().filter(|info| info.domain == DOMAIN) {
        line(&mut report, "retry", &retry(status, info));
    } else if status.code() == Code::Unimplemented {
        line(&mut report, "hint", UNIMPLEMENTED);
    }
    report
}

/// Returns whether and when a retry is useful.
fn retry(status: &Status, info: &ErrorInfo) -> String {
    let value = |key| info.metadata.get(key).map(String::as_str);
    let may_be_spent = [Certainty::Unknown.as_str(), Certainty::Done.as_str()];
    if value("operation") == Some(Method::LoginWithOtt.name())
        && value("outcome").is_some_and(|outcome| may_be_spent.contains(&outcome))
    {
        return "only with a new token".to_owned();
    }
    if status.metadata().get("grpc-retry-pushback-ms").is_some_and(|pushback| pushback == "-1") {
        return "not with this request".to_owned();
    }
    let wait = status.get_details_retry_info().and_then(|info| info.retry_delay);
    if let Some(wait) = wait {
        // Rounded up, because a retry before the end of the wait is refused.
        let wait =
            Duration::from_millis(u64::try_from(wait.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX));
        return format!("after {}", humantime::format_duration(wait));
    }
    match status.code() {
        Code::Unavailable => "safe, after a moment",
        Code::DeadlineExceeded => "safe, with a longer deadline if this repeats",
        Code::InvalidArgument | Code::Unauthenticated | Code::PermissionDenied | Code::NotFound => {
            "only after fixing the cause"
        }
        Code::Unimplemented => "no: this gateway does not have the method",
        _ => "not with this request",
    }
    .to_owned()
}

/// Adds a detail. The colon separates name and value even if the name exceeds the column.
fn line(report: &mut String, name: &str, value: &str) {
    let name = format!("{}:", Printable(name));
    let _ = write!(report, "\n  {name:<13} {}", Printable(value));
}

/// Converts a key to words: `httpStatus` to "http status".
fn words(key: &str) -> String {
    let mut words = String::new();
    for letter in key.chars() {
        if letter.is_ascii_uppercase() {
            words.push(' ');
        }
        words.push(letter.to_ascii_lowercase());
    }
    words
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use tonic_types::ErrorDetails;

    use super::*;

    #[test]
    fn report_contains_code_reason_message_details_id_and_retry() {
        let mut details = ErrorDetails::new();
        details
            .set_error_info(
                "PLATFORM_RATE_LIMITED",
                "ott-gateway",
                HashMap::from([("httpStatus".to_owned(), "429".to_owned())]),
            )
            .set_request_info("0199", "")
            .set_retry_info(Some(Duration::from_nanos(7_000_000_001)))
            .add_bad_request_violation("login", "must not\u{1b}[2J be empty")
            .add_quota_failure_violation("calls of this caller for this user", "the rate is used up");
        let status = Status::with_error_details(Code::ResourceExhausted, "The platform is busy.", details);
        assert_eq!(
            report(&status),
            "RESOURCE_EXHAUSTED (PLATFORM_RATE_LIMITED)\
             \n  The platform is busy.\
             \n  login:        must not\\u{1b}[2J be empty\
             \n  calls of this caller for this user: the rate is used up\
             \n  http status:  429\
             \n  request id:   0199 (quote it to the gateway's operator)\
             \n  retry:        after 7s 1ms"
        );
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a status of another server")]
    fn report_of_a_status_without_details_is_short() {
        let status = Status::unimplemented("");
        assert_eq!(report(&status), format!("UNIMPLEMENTED\n  no message\n  hint:         {UNIMPLEMENTED}"));
    }

    #[test]
    fn retry_advice_is_only_for_statuses_of_a_gateway() {
        let status = |domain: &str| {
            let mut details = ErrorDetails::new();
            details.set_error_info("OVERLOADED", domain, HashMap::new());
            Status::with_error_details(Code::Unavailable, "busy", details)
        };
        assert!(report(&status("ott-gateway")).ends_with("\n  retry:        safe, after a moment"));
        assert!(!report(&status("proxy.example")).contains("retry"));
    }

    #[test]
    fn retry_follows_the_trailer_and_the_outcome() {
        let status = |method: &str, outcome: &str, stops_retries: bool| {
            let mut details = ErrorDetails::new();
            let metadata = [("operation", method), ("outcome", outcome)];
            let metadata = metadata.map(|(key, value)| (key.to_owned(), value.to_owned()));
            details.set_error_info("DEADLINE_EXCEEDED", "ott-gateway", HashMap::from(metadata));
            let mut status = Status::with_error_details(Code::DeadlineExceeded, "late", details);
            if stops_retries {
                status.metadata_mut().insert("grpc-retry-pushback-ms", "-1".parse().unwrap());
            }
            status
        };
        let safe = "safe, with a longer deadline if this repeats";
        for (method, outcome, stops_retries, retry) in [
            ("LoginWithOtt", "not_sent", false, safe),
            ("LoginWithOtt", "refused", false, safe),
            ("LoginWithOtt", "unknown", true, "only with a new token"),
            ("LoginWithOtt", "done", true, "only with a new token"),
            ("LoginWithOtt", "not_sent", true, "not with this request"),
            ("IssueOtt", "unknown", false, safe),
            ("IssueOtt", "unknown", true, "not with this request"),
        ] {
            let report = report(&status(method, outcome, stops_retries));
            let expected = format!("\n  retry:        {retry}");
            assert!(report.ends_with(&expected), "{method} {outcome} {stops_retries}: {report}");
        }
    }
}
