//! The words under which things are shown: gRPC codes, services and reasons.
//!
//! Where each word is used (metric, record, span) is decided there.

use tonic::Code;

/// The full name of the service.
pub const SERVICE: &str = "ott.v1.OttService";

/// How many gRPC codes there are.
pub const CODES: usize = 17;

/// All gRPC codes; each is as far along as its number says.
pub const ALL_CODES: [Code; CODES] = [
    Code::Ok,
    Code::Cancelled,
    Code::Unknown,
    Code::InvalidArgument,
    Code::DeadlineExceeded,
    Code::NotFound,
    Code::AlreadyExists,
    Code::PermissionDenied,
    Code::ResourceExhausted,
    Code::FailedPrecondition,
    Code::Aborted,
    Code::OutOfRange,
    Code::Unimplemented,
    Code::Internal,
    Code::Unavailable,
    Code::DataLoss,
    Code::Unauthenticated,
];

/// The reasons of the contract's `ErrorReason`, in its order.
pub const REASONS: [&str; 32] = [
    "INVALID_REQUEST",
    "REQUEST_TOO_LARGE",
    "METHOD_UNKNOWN",
    "API_CLIENT_UNKNOWN",
    "CALLER_UNAUTHENTICATED",
    "CALLER_NOT_ALLOWED",
    "CALLER_QUOTA_EXCEEDED",
    "OVERLOADED",
    "DRAINING",
    "AUDIT_UNAVAILABLE",
    "DEADLINE_EXCEEDED",
    "PLATFORM_UNREACHABLE",
    "PLATFORM_UNAVAILABLE",
    "LOGIN_OUTCOME_UNKNOWN",
    "PLATFORM_REJECTED_REQUEST",
    "PLATFORM_CREDENTIAL_REJECTED",
    "OTT_REJECTED",
    "OTT_IN_USE",
    "PLATFORM_ACCESS_DENIED",
    "PLATFORM_BLOCKED",
    "USER_NOT_FOUND",
    "PLATFORM_PROTOCOL_ERROR",
    "PLATFORM_CONFLICT",
    "PLATFORM_RATE_LIMITED",
    "USER_DISABLED",
    "TENANT_DISABLED",
    "TENANT_LOCKED",
    "TENANT_NOT_FOUND",
    "INVALID_LOGIN",
    "PLATFORM_QUOTA_EXCEEDED",
    "PLATFORM_PRECONDITION_FAILED",
    "INTERNAL_ERROR",
];

/// A code as `docs` and records spell it: `NOT_FOUND`.
#[must_use]
pub const fn status_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

/// A code as the metrics of other gRPC servers, and the dashboards made for them,
/// spell it: `NotFound`.
#[must_use]
pub const fn metric_code(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "Canceled",
        Code::Unknown => "Unknown",
        Code::InvalidArgument => "InvalidArgument",
        Code::DeadlineExceeded => "DeadlineExceeded",
        Code::NotFound => "NotFound",
        Code::AlreadyExists => "AlreadyExists",
        Code::PermissionDenied => "PermissionDenied",
        Code::ResourceExhausted => "ResourceExhausted",
        Code::FailedPrecondition => "FailedPrecondition",
        Code::Aborted => "Aborted",
        Code::OutOfRange => "OutOfRange",
        Code::Unimplemented => "Unimplemented",
        Code::Internal => "Internal",
        Code::Unavailable => "Unavailable",
        Code::DataLoss => "DataLoss",
        Code::Unauthenticated => "Unauthenticated",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_two_distinct_words() {
        for (number, code) in ALL_CODES.iter().enumerate() {
            assert_eq!(*code as usize, number);
            // The two spellings differ in case and underscores only, but for the one
            // word that Go spells with a single l.
            let plain = status_name(*code).replace('_', "").to_lowercase().replace("cancelled", "canceled");
            assert_eq!(metric_code(*code).to_lowercase(), plain);
        }
    }

    #[test]
    fn the_reasons_are_those_of_the_contract() {
        let contract =
            std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/proto/ott/v1/ott_service.proto"))
                .expect("the contract is there");
        let reasons: Vec<&str> = contract
            .split_once("enum ErrorReason {")
            .expect("the catalogue is there")
            .1
            .lines()
            .filter_map(|line| line.trim().strip_suffix(';')?.split_once(" = "))
            .map(|(reason, _)| reason)
            .filter(|reason| *reason != "ERROR_REASON_UNSPECIFIED")
            .collect();
        assert_eq!(reasons, REASONS);
    }
}
