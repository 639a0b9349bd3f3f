//! Result of a call for its caller: one value for log, metrics, trace and audit, so that they
//! cannot disagree.

use tonic::Code;

use crate::domain::reason::{FailureCode, Reason};

/// Result of a call for its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The call succeeded.
    Succeeded,
    /// The call failed with this code, for this reason.
    Failed(FailureCode, Reason),
    /// The caller cancelled the call, or its connection was lost, before there was a response.
    Cancelled,
}

impl Ending {
    /// Returns the gRPC status code.
    #[must_use]
    pub fn code(self) -> Code {
        match self {
            Self::Succeeded => Code::Ok,
            Self::Failed(code, _) => code.into(),
            Self::Cancelled => Code::Cancelled,
        }
    }

    /// Returns the reason of a failure.
    #[must_use]
    pub const fn reason(self) -> Option<Reason> {
        match self {
            Self::Failed(_, reason) => Some(reason),
            Self::Succeeded | Self::Cancelled => None,
        }
    }
}

/// Why the body of a request is incomplete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BrokenBody {
    /// The caller reset the stream, or the connection was lost.
    #[error("the caller cancelled the call while sending the request")]
    Cancelled,
    /// The body violates HTTP/2: its length differs from `content-length`, for example.
    #[error("the request body violates HTTP/2, or does not match its content-length")]
    Malformed,
}
