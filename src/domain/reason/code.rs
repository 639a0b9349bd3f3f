//! The gRPC codes of failures.

use tonic::Code;

/// A gRPC code of a failed call: never `OK`, and only codes that the contract documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FailureCode {
    /// `INVALID_ARGUMENT`.
    InvalidArgument,
    /// `DEADLINE_EXCEEDED`.
    DeadlineExceeded,
    /// `NOT_FOUND`.
    NotFound,
    /// `ALREADY_EXISTS`.
    AlreadyExists,
    /// `PERMISSION_DENIED`.
    PermissionDenied,
    /// `RESOURCE_EXHAUSTED`.
    ResourceExhausted,
    /// `FAILED_PRECONDITION`.
    FailedPrecondition,
    /// `ABORTED`.
    Aborted,
    /// `UNIMPLEMENTED`.
    Unimplemented,
    /// `INTERNAL`.
    Internal,
    /// `UNAVAILABLE`.
    Unavailable,
    /// `UNAUTHENTICATED`.
    Unauthenticated,
}

impl FailureCode {
    /// Returns the code's name in the gRPC documentation.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::InvalidArgument => "INVALID_ARGUMENT",
            Self::DeadlineExceeded => "DEADLINE_EXCEEDED",
            Self::NotFound => "NOT_FOUND",
            Self::AlreadyExists => "ALREADY_EXISTS",
            Self::PermissionDenied => "PERMISSION_DENIED",
            Self::ResourceExhausted => "RESOURCE_EXHAUSTED",
            Self::FailedPrecondition => "FAILED_PRECONDITION",
            Self::Aborted => "ABORTED",
            Self::Unimplemented => "UNIMPLEMENTED",
            Self::Internal => "INTERNAL",
            Self::Unavailable => "UNAVAILABLE",
            Self::Unauthenticated => "UNAUTHENTICATED",
        }
    }
}

impl From<FailureCode> for Code {
    fn from(code: FailureCode) -> Self {
        match code {
            FailureCode::InvalidArgument => Self::InvalidArgument,
            FailureCode::DeadlineExceeded => Self::DeadlineExceeded,
            FailureCode::NotFound => Self::NotFound,
            FailureCode::AlreadyExists => Self::AlreadyExists,
            FailureCode::PermissionDenied => Self::PermissionDenied,
            FailureCode::ResourceExhausted => Self::ResourceExhausted,
            FailureCode::FailedPrecondition => Self::FailedPrecondition,
            FailureCode::Aborted => Self::Aborted,
            FailureCode::Unimplemented => Self::Unimplemented,
            FailureCode::Internal => Self::Internal,
            FailureCode::Unavailable => Self::Unavailable,
            FailureCode::Unauthenticated => Self::Unauthenticated,
        }
    }
}
