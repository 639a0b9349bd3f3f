//! Memory for large responses of the platform.
//!
//! Memory is reserved before the request is sent, for the largest possible response: a login that
//! has to wait keeps its token, and one that was sent never waits. Excess memory is released when
//! the response arrives, and the rest once its last byte has been written to the caller's
//! connection. A caller that does not accept its responses may lose its connection, but only while
//! others wait.

use std::{
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, oneshot},
    time::sleep,
};

use super::{
    ledger::{Consumer, Ledger},
    reader::Reader,
};

/// Maximum size of a response that needs no reservation, in bytes.
pub const USUAL_BYTES: usize = 16 * 1024;
/// Number of long-lived copies of a response in memory: received or parsed, and encoded. Further
/// copies exist only while a worker converts one into the next.
const COPIES: usize = 2;
/// Maximum size of a response with a reservation, in bytes.
pub const MAX_RESPONSE_BYTES: usize = 256 * 1024;
/// Minimum total: four responses of the maximum size.
pub(super) const MIN_BYTES: usize = 4 * COPIES * MAX_RESPONSE_BYTES;
/// Unit of accounting, in bytes.
const UNIT: usize = 1024;
/// Interval at which waiting calls check for responses that are not accepted.
const CHECK_INTERVAL: Duration = Duration::from_millis(100);

/// The memory for responses of the process. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ResponseMemory {
    shared: Arc<SharedLedger>,
    http1: Arc<Semaphore>,
}

#[derive(Debug)]
struct SharedLedger {
    ledger: Mutex<Ledger<Arc<Reservation>>>,
}

/// Reserved memory, released on drop. Used by a call and its response.
#[derive(Debug)]
pub struct Reservation {
    shared: Arc<SharedLedger>,
    consumer: Consumer,
    number: u64,
    units: Mutex<usize>,
    /// Set once the response is ready.
    reader: OnceLock<Arc<Reader>>,
}

/// The place of one exchange over HTTP/1.1, freed on drop.
#[derive(Debug)]
pub struct Http1Place(#[expect(dead_code, reason = "held for its drop")] OwnedSemaphorePermit);

impl ResponseMemory {
    /// Creates memory of `bytes`, at least enough for four responses, and `http1_exchanges` places
    /// for exchanges over HTTP/1.1, at least one.
    #[must_use]
    pub fn new(bytes: usize, http1_exchanges: usize) -> Self {
        let ledger = Ledger::new(bytes.max(MIN_BYTES) / UNIT, units(MAX_RESPONSE_BYTES));
        let http1_exchanges = http1_exchanges.clamp(1, Semaphore::MAX_PERMITS);
        Self {
            shared: Arc::new(SharedLedger { ledger: Mutex::new(ledger) }),
            http1: Arc::new(Semaphore::new(http1_exchanges)),
        }
    }

    /// Waits for the place of an exchange over HTTP/1.1, to be held until its response has been
    /// processed.
    ///
    /// The HTTP library reads the head of a response of up to 400 KiB as soon as it arrives, so its
    /// memory must be available before the request is sent. Over HTTP/2, heads and unread bodies
    /// are limited per connection.
    pub async fn http1_place(&self) -> Option<Http1Place> {
        Arc::clone(&self.http1).acquire_owned().await.ok().map(Http1Place)
    }

    /// Returns a place of an exchange over HTTP/1.1 if one is free.
    #[must_use]
    pub fn try_http1_place(&self) -> Option<Http1Place> {
        Arc::clone(&self.http1).try_acquire_owned().ok().map(Http1Place)
    }

    /// Reserves memory for a response of the maximum size, if it is available to the caller at
    /// once.
    #[must_use]
    pub fn try_reserve(&self, consumer: Consumer) -> Option<Arc<Reservation>> {
        let mut ledger = self.shared.ledger();
        // This does not bypass the queue: waiters are served whenever memory is released, so this
        // memory was not available to them.
        ledger.take(consumer, units(MAX_RESPONSE_BYTES)).then(|| {
            let number = ledger.number();
            Reservation::new(&self.shared, consumer, number)
        })
    }

    /// Waits for memory for a response of the maximum size. The caller that holds the least memory
    /// is served first.
    ///
    /// Held memory is released by steps of the platform and of this process, which have time
    /// limits, or when a caller accepts its response. While a call waits, a connection is closed if
    /// its peer accepts nothing within two seconds after a response is ready, less than 32 KiB per
    /// second from then on, or not the whole response within ten seconds.
    pub async fn reserve(&self, consumer: Consumer) -> Arc<Reservation> {
        loop {
            if let Some(reserved) = self.try_reserve(consumer) {
                return reserved;
            }
            let (granted, mut reserved) = oneshot::channel();
            let number = self.shared.ledger().wait(consumer, granted);
            let _waiter = Waiter { shared: &self.shared, consumer, number };
            loop {
                tokio::select! {
                    biased;
                    reserved = &mut reserved => match reserved {
                        Ok(reserved) => return reserved,
                        Err(_) => break,
                    },
                    () = sleep(CHECK_INTERVAL) => self.shared.ledger().check(number),
                }
            }
        }
    }

    /// Returns the unreserved memory, in bytes.
    #[must_use]
    pub fn available_bytes(&self) -> usize {
        self.shared.ledger().free().saturating_mul(UNIT)
    }
}

impl Default for ResponseMemory {
    /// Creates memory for 512 responses of the maximum size, and for any number of exchanges over
    /// HTTP/1.1.
    fn default() -> Self {
        Self::new(128 * MIN_BYTES, Semaphore::MAX_PERMITS)
    }
}

impl SharedLedger {
    fn ledger(&self) -> MutexGuard<'_, Ledger<Arc<Reservation>>> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Serves waiters, after memory was released.
    fn serve_waiters(self: &Arc<Self>, mut ledger: MutexGuard<'_, Ledger<Arc<Reservation>>>) {
        let mut served = Vec::new();
        while let Some((consumer, granted)) = ledger.grant() {
            served.push((granted, Reservation::new(self, consumer, ledger.number())));
        }
        drop(ledger);
        for (granted, reserved) in served {
            // If the receiver is gone, the reservation is dropped and released to the next waiter.
            let _ = granted.send(reserved);
        }
    }
}

/// A place in the queue, left on drop.
struct Waiter<'a> {
    shared: &'a SharedLedger,
    consumer: Consumer,
    number: u64,
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.shared.ledger().leave(self.consumer, self.number);
    }
}

impl Reservation {
    /// Creates the reservation of memory that was taken for a response of the maximum size.
    fn new(shared: &Arc<SharedLedger>, consumer: Consumer, number: u64) -> Arc<Self> {
        Arc::new(Self {
            shared: Arc::clone(shared),
            consumer,
            number,
            units: Mutex::new(units(MAX_RESPONSE_BYTES)),
            reader: OnceLock::new(),
        })
    }

    /// Releases the memory that a response of `bytes` bytes does not need.
    pub fn shrink_to_response(&self, bytes: usize) {
        self.shrink(bytes.saturating_mul(COPIES));
    }

    /// Releases all but `bytes`, the size of the remaining copies of the response.
    pub fn shrink(&self, bytes: usize) {
        let mut units = self.units();
        let excess = units.saturating_sub(bytes.div_ceil(UNIT));
        if excess > 0 {
            *units -= excess;
            let mut ledger = self.shared.ledger();
            ledger.give_back(self.number, self.consumer, excess);
            self.shared.serve_waiters(ledger);
        }
    }

    /// Records that the response is ready for `reader`. If the peer does not accept it in time and
    /// others wait, its connection has to close. Only the first call takes effect.
    pub fn deliver(&self, reader: &Arc<Reader>) {
        if self.reader.set(Arc::clone(reader)).is_ok() {
            let units = self.units();
            self.shared.ledger().deliver(self.number, self.consumer, *units, Arc::clone(reader));
        }
    }

    /// Records that the caller has accepted `bytes` bytes of the response.
    pub fn accepted(&self, bytes: usize) {
        if let Some(reader) = self.reader.get() {
            reader.accept(bytes);
        }
    }

    fn units(&self) -> MutexGuard<'_, usize> {
        self.units.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let units = *self.units();
        let mut ledger = self.shared.ledger();
        ledger.give_back(self.number, self.consumer, units);
        ledger.delivered(self.number);
        self.shared.serve_waiters(ledger);
    }
}

const fn units(bytes: usize) -> usize {
    (bytes * COPIES).div_ceil(UNIT)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    const ONE: usize = COPIES * MAX_RESPONSE_BYTES;
    const ALICE: Consumer = Consumer { group: 1, member: 1 };
    const BOB: Consumer = Consumer { group: 2, member: 2 };

    /// Reserves all memory that is available to the caller at once.
    fn reserve_all(memory: &ResponseMemory, consumer: Consumer) -> Vec<Arc<Reservation>> {
        std::iter::from_fn(|| memory.try_reserve(consumer)).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn requests_wait_for_memory_and_are_served_in_order() {
        let memory = ResponseMemory::new(0, 1);
        assert_eq!(memory.available_bytes(), 4 * ONE);
        let mut all = reserve_all(&memory, ALICE);
        all.extend(reserve_all(&memory, BOB));
        assert_eq!((all.len(), memory.available_bytes()), (4, 0));
        let mut first = Box::pin(memory.reserve(ALICE));
        let mut second = Box::pin(memory.reserve(ALICE));
        assert!(first.as_mut().now_or_never().is_none() && second.as_mut().now_or_never().is_none());
        drop(all.remove(0));
        let first = first.now_or_never().expect("released");
        assert!(second.as_mut().now_or_never().is_none(), "the memory was granted to the first");
        drop(first);
        drop(second.now_or_never().expect("released again"));
        drop(all);
        assert_eq!(memory.available_bytes(), 4 * ONE);
    }

    #[tokio::test(start_paused = true)]
    async fn dropped_waiter_keeps_no_memory() {
        let memory = ResponseMemory::new(0, 1);
        let all = (reserve_all(&memory, ALICE), reserve_all(&memory, BOB));
        let mut granted = Box::pin(memory.reserve(BOB));
        assert!(granted.as_mut().now_or_never().is_none());
        assert!(memory.reserve(BOB).now_or_never().is_none(), "dropped while it waits");
        assert_eq!(memory.shared.ledger().waiters(), 1);
        drop(all);
        // Dropped before it is polled.
        drop(granted);
        assert!(memory.shared.ledger().is_idle());
    }

    #[tokio::test(start_paused = true)]
    async fn shrinking_a_reservation_releases_the_rest_and_never_grows_it() {
        let memory = ResponseMemory::new(0, 1);
        let reserved = memory.try_reserve(ALICE).expect("free");
        let taken = |memory: &ResponseMemory| 4 * ONE - memory.available_bytes();
        reserved.shrink(2 * ONE);
        assert_eq!(taken(&memory), ONE);
        reserved.shrink_to_response(100 * UNIT);
        assert_eq!(taken(&memory), 200 * UNIT);
        reserved.shrink(3 * UNIT - 1);
        assert_eq!(taken(&memory), 3 * UNIT);
        reserved.shrink(ONE);
        assert_eq!(taken(&memory), 3 * UNIT);
        drop(reserved);
        assert_eq!(taken(&memory), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn connection_of_a_caller_that_does_not_read_is_closed_while_others_wait() {
        let memory = ResponseMemory::new(0, 1);
        let reader = Arc::<Reader>::default();
        let mut unread = reserve_all(&memory, ALICE);
        unread[0].deliver(&reader);
        let bob = reserve_all(&memory, BOB);
        let waiting = tokio::spawn({
            let memory = memory.clone();
            async move { memory.reserve(BOB).await }
        });
        sleep(Duration::from_millis(1950)).await;
        assert!(!reader.closing().is_cancelled(), "the time limit has not passed");
        sleep(Duration::from_millis(100)).await;
        assert!(reader.closing().is_cancelled() && !waiting.is_finished());
        // The connection ends.
        drop(unread.remove(0));
        drop(waiting.await.expect("no panic"));
        // Another response is delivered to the same reader.
        unread[0].deliver(&reader);
        drop((unread, bob));
        assert!(memory.shared.ledger().is_idle());
    }

    #[tokio::test(start_paused = true)]
    async fn slow_reader_keeps_its_connection_while_no_call_waits() {
        let memory = ResponseMemory::new(0, 1);
        let reader = Arc::<Reader>::default();
        let unread = memory.try_reserve(ALICE).expect("free");
        unread.deliver(&reader);
        sleep(Duration::from_mins(1)).await;
        drop(memory.reserve(BOB).await);
        assert!(!reader.closing().is_cancelled());
    }

    #[test]
    fn exchanges_over_http1_wait_for_places() {
        let memory = ResponseMemory::new(0, 2);
        let place = || memory.http1_place().now_or_never();
        let (first, second) = (place().expect("free"), place().expect("free"));
        assert!(place().is_none() && memory.try_http1_place().is_none());
        drop(first);
        assert!(place().expect("free again").is_some());
        drop(second);
        assert!(memory.try_http1_place().is_some());
    }
}
