//! A connection, as a reader of responses.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio_util::sync::CancellationToken;

/// The number of response bytes that the peer of one connection has accepted, and whether the
/// connection has to close because it accepted too few.
#[derive(Debug, Default)]
pub struct Reader {
    accepted: AtomicU64,
    close: CancellationToken,
}

impl Reader {
    /// Returns the token that is cancelled when the connection has to close.
    #[must_use]
    pub const fn closing(&self) -> &CancellationToken {
        &self.close
    }

    /// Records that the peer has accepted `bytes` bytes.
    pub(super) fn accept(&self, bytes: usize) {
        self.accepted.fetch_add(u64::try_from(bytes).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Returns the number of bytes accepted so far.
    pub(super) fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }
}
