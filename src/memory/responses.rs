//! Memory for large responses of the platform.
//!
//! A response of the usual size is part of what a call needs. A large one is read only once its
//! memory is reserved, and nothing is requested whose large response would have to wait: a
//! login that waits costs its token if it waits too long.

use std::sync::{Arc, Mutex, PoisonError};

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
pub struct ResponseMemory {
    large: Arc<Semaphore>,
    http1: Arc<Semaphore>,
}

/// Memory that is reserved until this is dropped.
#[derive(Debug)]
pub struct Reservation(Mutex<OwnedSemaphorePermit>);

/// The place of one exchange over HTTP/1.1 until this is dropped.
#[derive(Debug)]
pub struct Http1Place(#[expect(dead_code, reason = "held for its drop")] OwnedSemaphorePermit);

impl ResponseMemory {
    /// Memory of `bytes`, at least enough for one response, and for the heads of as many
    /// responses over HTTP/1.1 as `http1_exchanges`, at least one.
    #[must_use]
    pub fn new(bytes: usize, http1_exchanges: usize) -> Self {
        let semaphore = |permits: usize| Arc::new(Semaphore::new(permits.min(Semaphore::MAX_PERMITS)));
        Self { large: semaphore(bytes.max(MIN_BYTES) / UNIT), http1: semaphore(http1_exchanges.max(1)) }
    }

    /// Waits for the place of an exchange over HTTP/1.1, until its response has been processed.
    ///
    /// The HTTP library reads the head of a response as soon as it arrives, at any size below
    /// 400 KiB, so its memory has to be there before the request is sent. Over HTTP/2 the
    /// sizes of heads and of unread bodies are limited for the whole connection.
    pub async fn http1_place(&self) -> Option<Http1Place> {
        Arc::clone(&self.http1).acquire_owned().await.ok().map(Http1Place)
    }

    /// Returns such a place if one is free.
    #[must_use]
    pub fn try_http1_place(&self) -> Option<Http1Place> {
        Arc::clone(&self.http1).try_acquire_owned().ok().map(Http1Place)
    }

    /// Returns whether a response of the largest size could be read at once.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.large.available_permits() >= units(MAX_RESPONSE_BYTES) as usize
    }

    /// Waits until a response of the largest size could be read at once. Served in order,
    /// together with the waits for reservations.
    pub async fn room(&self) {
        // The semaphore is never closed.
        drop(self.large.acquire_many(units(MAX_RESPONSE_BYTES)).await);
    }

    /// Waits until a response of `bytes` may be read; `None` for one of the usual size.
    ///
    /// The holder of a reservation waits only for its own response, which has a time limit, so
    /// reservations cannot block each other.
    pub async fn reserve(&self, bytes: usize) -> Option<Reservation> {
        if bytes <= USUAL_BYTES {
            return None;
        }
        Arc::clone(&self.large)
            .acquire_many_owned(units(bytes.min(MAX_RESPONSE_BYTES)))
            .await
            .ok()
            .map(|permit| Reservation(Mutex::new(permit)))
    }

    /// What is not reserved, in bytes.
    #[must_use]
    pub fn available_bytes(&self) -> usize {
        self.large.available_permits().saturating_mul(UNIT)
    }
}

impl Default for ResponseMemory {
    /// Memory for 256 responses of the largest size, and for any number of usual ones.
    fn default() -> Self {
        Self::new(256 * MIN_BYTES, Semaphore::MAX_PERMITS)
    }
}

impl Reservation {
    /// Releases all but `bytes`: what is left of the response's copies.
    pub fn shrink(&self, bytes: usize) {
        let mut permit = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let excess = permit.num_permits().saturating_sub(bytes.div_ceil(UNIT));
        drop(permit.split(excess));
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
        let memory = ResponseMemory::new(0, 1);
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
        let memory = ResponseMemory::new(2 * MIN_BYTES, 1);
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
        let memory = ResponseMemory::new(1, 1);
        assert!(memory.reserve(usize::MAX).now_or_never().expect("free").is_some());
    }

    #[test]
    fn reservation_that_shrinks_releases_the_rest_and_never_grows() {
        let memory = ResponseMemory::new(MIN_BYTES, 1);
        let reserved = memory.reserve(MAX_RESPONSE_BYTES).now_or_never().expect("free").expect("reserved");
        reserved.shrink(2 * MIN_BYTES);
        assert_eq!(memory.available_bytes(), 0);
        reserved.shrink(3 * UNIT - 1);
        assert_eq!(memory.available_bytes(), MIN_BYTES - 3 * UNIT);
        reserved.shrink(MIN_BYTES);
        assert_eq!(memory.available_bytes(), MIN_BYTES - 3 * UNIT);
        drop(reserved);
        assert_eq!(memory.available_bytes(), MIN_BYTES);
    }

    #[test]
    fn exchanges_over_http1_wait_for_each_other() {
        let memory = ResponseMemory::new(0, 2);
        let place = || memory.http1_place().now_or_never();
        let (first, second) = (place().expect("free"), place().expect("free"));
        assert!(place().is_none(), "all are taken");
        drop(first);
        assert!(place().is_some());
        drop(second);
    }
}
