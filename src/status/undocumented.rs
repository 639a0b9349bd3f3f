//! The statuses that the gRPC library makes by itself, put into our own words.
//!
//! tonic 0.14.9 answers what never reaches a handler (garbage, an over-long message,
//! an unknown method, compression) with a bare code. What it means is read from the
//! code and the fixed beginning of its message.

use tonic::Code;

use super::{Failure, FailureCode, Reason};

/// How tonic's messages about a request that cannot be decoded begin.
const UNDECODABLE: [&str; 4] = [
    "failed to decode Protobuf message",
    "Missing request message",
    "Unexpected EOF decoding stream",
    "protocol error: received message with",
];

impl Failure {
    /// The failure behind a status without details that none of our code made, from
    /// its message as [`tonic::Status::message`] has it (not percent-encoded). The
    /// message is looked at, and not passed on: it may echo the request.
    ///
    /// Not for health and reflection, which keep their own errors.
    #[must_use]
    pub fn from_undocumented(code: Code, message: &str) -> Self {
        match code {
            Code::Internal if UNDECODABLE.iter().any(|start| message.starts_with(start)) => {
                Self::new(Reason::InvalidRequest)
            }
            // The same code tells of an answer of ours that is too long ("encoded").
            Code::OutOfRange if message.starts_with("Error, decoded message length too large") => {
                Self::new(Reason::RequestTooLarge)
            }
            // What gRPC wants for compression that a server does not support.
            Code::Unimplemented if message.starts_with("Content is compressed with") => {
                Self::new(Reason::InvalidRequest).with_code(FailureCode::Unimplemented)
            }
            Code::Unimplemented => Self::new(Reason::MethodUnknown),
            _ => Self::new(Reason::InternalError),
        }
    }
}
