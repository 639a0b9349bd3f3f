//! How a call ended for its caller: one value that log, metrics, trace and audit share, so
//! that they cannot disagree.

use tonic::Code;

use crate::reason::{FailureCode, Reason};

/// How a call ended for its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The caller got what it asked for.
    Succeeded,
    /// The call failed with this code, for this reason.
    Failed(FailureCode, Reason),
    /// The caller cancelled the call, or its connection was lost, before there was an
    /// answer.
    Cancelled,
}

impl Ending {
    /// The gRPC status code.
    #[must_use]
    pub fn code(self) -> Code {
        match self {
            Self::Succeeded => Code::Ok,
            Self::Failed(code, _) => code.into(),
            Self::Cancelled => Code::Cancelled,
        }
    }

    /// The reason of a failure.
    #[must_use]
    pub const fn reason(self) -> Option<Reason> {
        match self {
            Self::Failed(_, reason) => Some(reason),
            Self::Succeeded | Self::Cancelled => None,
        }
    }
}

/// Why the body of a request ended before the request was complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BrokenBody {
    /// The caller reset the stream, or the connection was lost.
    #[error("the caller cancelled the call while it was sending the request")]
    Cancelled,
    /// The body violates HTTP/2: its length differs from `content-length`, for example.
    #[error("the request body violates HTTP/2, or does not match its content-length")]
    Malformed,
}
