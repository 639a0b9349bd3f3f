//! What calls and the writer thread share: messages, and state beside them.

use std::sync::{Arc, atomic::AtomicBool};

use tokio::sync::oneshot;

use super::{availability::Availability, line::Lines, numbering::Numbering, places::Places};

/// State shared by calls and the writer thread.
#[derive(Debug)]
pub(super) struct WriterState {
    pub(super) availability: Arc<Availability>,
    pub(super) places: Places,
    pub(super) numbering: Numbering,
    /// The file must be opened again.
    pub(super) reopen: AtomicBool,
    /// A call waits for a write.
    pub(super) probe: AtomicBool,
    /// A [`Message::Wake`] is queued, so that no other is needed.
    pub(super) wakes: AtomicBool,
}

/// Request to the writer thread.
pub(super) enum Message {
    /// Write these lines.
    Lines(Lines),
    /// Report when all lines so far are written.
    Flush(oneshot::Sender<()>),
    /// Check whether the sink is available, open the file again, or write a probe.
    Wake,
    /// Panic.
    #[cfg(test)]
    Panic,
}

/// Why a line was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NotAccepted {
    /// No place is free.
    #[error("too many audit records are pending")]
    Full,
    /// The thread has panicked.
    #[error("the thread that writes audit records has stopped; restart the gateway")]
    Stopped,
}
