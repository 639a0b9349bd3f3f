//! Reason that a read, or other work on a file, has no result.

use std::io;

/// Reason that work on a file has no result.
#[derive(Debug, thiserror::Error)]
pub enum NoResult {
    /// The work did not finish in time, which is [`READ_TIMEOUT`](super::READ_TIMEOUT) for a read.
    #[error("it could not be read in time (5 seconds); check the file system that it is on")]
    TimedOut,
    /// The maximum number of earlier reads have not returned.
    #[error("too many earlier reads have not returned; check the file system that it is on")]
    TooManyPending,
    /// The operating system could not start a thread.
    #[error("cannot start a thread to read it: {0}")]
    NoThread(#[source] io::Error),
    /// The thread panicked.
    #[error("reading it failed unexpectedly; see the panic in the log")]
    Panicked,
}
