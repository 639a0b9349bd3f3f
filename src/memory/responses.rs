//! Memory for large responses of the platform.
//!
//! A response of the usual size is part of what a call needs. A large one is read only once its
//! memory is reserved, and nothing is requested whose large response would have to wait: a
//! login that waits costs its token if it waits too long.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Maximum size of a response that needs no reservation, in bytes.
pub const USUAL_BYTES: usize = 16 * 1024;
/// Number of copies of a response in memory at the same time: as received, as its
/// parsed members, as the message for the caller, and encoded.
const COPIES: usize = 4;
/// The largest response that can be reserved for, in bytes.
pub const MAX_RESPONSE_BYTES: usize = 256 * 1024;
/// The smallest useful total: one response of the largest size.
pub(super) const MIN_BYTES: usize = COPIES * MAX_RESPONSE_BYTES;
/// What is counted, in bytes.
const UNIT: usize = 1024;

/// The memory for large responses of the whole process. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ResponseMemory(Arc<Semaphore>);

/// Memory that is reserved until this is dropped.
#[derive(Debug)]
pub struct Reservation(#[expect(dead_code, reason = "held for its drop")] OwnedSemaphorePermit);

impl ResponseMemory {
    /// Memory of `bytes`, at least enough for one response.
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        let units = (bytes.max(MIN_BYTES) / UNIT).min(Semaphore::MAX_PERMITS);
        Self(Arc::new(Semaphore::new(units)))
    }

    /// Returns whether a response of the largest size could be read at once.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.0.available_permits() >= units(MAX_RESPONSE_BYTES) as usize
    }

    /// Waits until a response of the largest size could be read at once. Served in order,
    /// together with the waits for reservations.
    pub async fn room(&self) {
        // The semaphore is never closed.
        drop(self.0.acquire_many(units(MAX_RESPONSE_BYTES)).await);
    }

    /// Waits until a response of `bytes` may be read; `None` for one of the usual size.
    ///
    /// The holder of a reservation waits only for its own response, which has a time limit, so
    /// reservations cannot block each other.
    pub async fn reserve(&self, bytes: usize) -> Option<Reservation> {
        if bytes <= USUAL_BYTES {
            return None;
        }
        Arc::clone(&self.0)
            .acquire_many_owned(units(bytes.min(MAX_RESPONSE_BYTES)))
            .await
            .ok()
            .map(Reservation)
    }

    /// What is not reserved, in bytes.
    #[must_use]
    pub fn available_bytes(&self) -> usize {
        self.0.available_permits().saturating_mul(UNIT)
    }
}

impl Default for ResponseMemory {
    /// Memory for 256 responses of the largest size.
    fn default() -> Self {
        Self::new(256 * MIN_BYTES)
    }
}

const fn units(bytes: usize) -> u32 {
    // At most 1,024.
    #[expect(clippy::cast_possible_truncation, reason = "at most COPIES * MAX_RESPONSE_BYTES / UNIT")]
    let units = (bytes * COPIES).div_ceil(UNIT) as u32;
    units
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn large_responses_wait_for_each_other_and_usual_ones_do_not() {
        let memory = ResponseMemory::new(0);
        assert_eq!(memory.available_bytes(), MIN_BYTES);
        let first = memory.reserve(MAX_RESPONSE_BYTES).now_or_never().expect("free").expect("reserved");
        let mut second = Box::pin(memory.reserve(USUAL_BYTES + 1));
        assert!(second.as_mut().now_or_never().is_none(), "all is reserved");
        assert!(memory.reserve(USUAL_BYTES).now_or_never().expect("at once").is_none());
        drop(first);
        assert!(second.now_or_never().expect("free again").is_some());
        assert_eq!(memory.available_bytes(), MIN_BYTES);
    }

    #[test]
    fn nothing_is_requested_while_a_large_response_would_wait() {
        let memory = ResponseMemory::new(2 * MIN_BYTES);
        let first = memory.reserve(MAX_RESPONSE_BYTES).now_or_never().expect("free");
        assert!(
            memory.has_room() && memory.room().now_or_never().is_some(),
            "there is room for a second one"
        );
        let second = memory.reserve(USUAL_BYTES + 1).now_or_never().expect("free");
        assert!(!memory.has_room());
        let mut request = Box::pin(memory.room());
        assert!(request.as_mut().now_or_never().is_none());
        drop((first, second));
        assert!(request.now_or_never().is_some());
    }

    #[test]
    fn reservation_is_never_larger_than_the_total() {
        let memory = ResponseMemory::new(1);
        assert!(memory.reserve(usize::MAX).now_or_never().expect("free").is_some());
    }
}
