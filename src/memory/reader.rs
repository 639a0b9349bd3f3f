//! The connection that a caller reads its responses from.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio_util::sync::CancellationToken;

/// How much of the responses on one connection the peer has accepted, and whether the connection
/// has to end because that was too little.
#[derive(Debug, Default)]
pub struct Reader {
    accepted: AtomicU64,
    close: CancellationToken,
}

impl Reader {
    /// Cancelled when the connection has to end.
    #[must_use]
    pub const fn closing(&self) -> &CancellationToken {
        &self.close
    }

    /// Notes that the peer has accepted this many bytes.
    pub(super) fn accept(&self, bytes: usize) {
        self.accepted.fetch_add(u64::try_from(bytes).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// What the peer has accepted so far, in bytes.
    pub(super) fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }
}
