//! Statuses that the gRPC library creates by itself, mapped to documented failures.
//!
//! tonic 0.14.9 answers requests that never reach a handler (undecodable or over-long
//! messages, unknown methods, compression) with a bare code. The failure is derived from
//! that code and the fixed beginning of its message.

use tonic::Code;

use super::{Case, Failure, Reason};
#[cfg(doc)]
use crate::call::Call;

/// Beginnings of tonic's messages about a request that it cannot read.
const UNREADABLE: [(&str, Case); 4] = [
    ("failed to decode Protobuf message", Case::UndecodableMessage),
    ("Missing request message", Case::NotOneMessage),
    ("Unexpected EOF decoding stream", Case::NotOneMessage),
    ("protocol error: received message with", Case::CompressedFlag),
];

impl Failure {
    /// Returns the failure behind a status that tonic created, from its code and its
    /// message as [`tonic::Status::message`] returns it (not percent-encoded). The message
    /// is not passed on, because it may echo the request.
    ///
    /// Not for health and reflection, which keep their own errors. Not for a request body
    /// that broke off either: the call itself [records that](Call::broken_body).
    #[must_use]
    pub fn from_undocumented(code: Code, message: &str) -> Self {
        let unreadable = UNREADABLE.iter().find(|(start, _)| message.starts_with(start));
        match (code, unreadable) {
            (Code::Internal, Some((_, case))) => Self::of(*case),
            // The same code with "encoded" means a response of ours that is too long.
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
