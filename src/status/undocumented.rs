//! Statuses that the gRPC library creates by itself, mapped to documented failures.
//!
//! tonic 0.14.9 answers requests that never reach a handler (undecodable or oversized messages,
//! unknown methods, compression) with a code and a message only. The failure is derived from the code
//! and the constant prefix of the message.

use tonic::Code;

use super::{Case, Failure, Reason};
#[cfg(doc)]
use crate::domain::call::Call;

/// Prefixes of tonic's messages about requests that it cannot read.
const UNREADABLE: [(&str, Case); 4] = [
    ("failed to decode Protobuf message", Case::UndecodableMessage),
    ("Missing request message", Case::NotOneMessage),
    ("Unexpected EOF decoding stream", Case::NotOneMessage),
    ("protocol error: received message with", Case::CompressedFlag),
];

impl Failure {
    /// Returns the failure for a status that tonic created, from its code and its message as
    /// returned by [`tonic::Status::message`] (not percent-encoded). The message is dropped, because
    /// it may echo the request.
    ///
    /// Do not use it for health and reflection, which keep their own errors, or for an interrupted
    /// request body, which the call [records](Call::broken_body).
    #[must_use]
    pub fn from_undocumented(code: Code, message: &str) -> Self {
        let unreadable = UNREADABLE.iter().find(|(start, _)| message.starts_with(start));
        match (code, unreadable) {
            (Code::Internal, Some((_, case))) => Self::of(*case),
            // The same code with "encoded" means an oversized response.
            (Code::OutOfRange, _) if message.starts_with("Error, decoded message length too large") => {
                Self::new(Reason::RequestTooLarge)
            }
            (Code::Unimplemented, _) if message.starts_with("Content is compressed with") => {
                Self::unsupported_compression()
            }
            (Code::Unimplemented, _) => Self::new(Reason::MethodUnknown),
            _ => Self::new(Reason::InternalError),
        }
    }
}
