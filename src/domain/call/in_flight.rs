//! Limits on the number of calls in flight, and of calls whose body has not arrived.
//!
//! A call is in flight until all work on it has ended, including work that continues after its
//! caller has disconnected. The response to a call without a place is decided elsewhere.

use std::sync::Arc;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::places::{Exhausted, Holder, Places, Purpose, Share};

/// Limit on calls in flight. Cheap to clone.
#[derive(Clone, Debug)]
pub struct InFlightLimit(Arc<Flights>);

/// Place of one call in flight, held until the last clone is dropped.
///
/// It is in the extensions of each request, so that a task that continues after the caller has
/// disconnected can hold it.
#[derive(Clone, Debug)]
pub struct InFlight {
    ticket: Arc<Ticket>,
}

/// Limit on calls whose body has not arrived. Cheap to clone.
#[derive(Clone, Debug)]
pub struct BodyLimit(Arc<Places>);

/// Place of one call whose body has not arrived, held until this is dropped.
#[derive(Debug)]
pub struct AwaitedBody {
    places: Arc<Places>,
    holder: Holder,
}

#[derive(Debug)]
struct Flights {
    places: Places,
    idle: Notify,
    given_up: CancellationToken,
}

#[derive(Debug)]
struct Ticket {
    flights: Arc<Flights>,
    holder: Holder,
}

impl InFlightLimit {
    /// Creates a pool of `limit` places.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self(Arc::new(Flights {
            places: Places::new(Purpose::Flight, limit),
            idle: Notify::new(),
            given_up: CancellationToken::new(),
        }))
    }

    /// Takes a place for a holder that may have `share` places. By default it may have half of all
    /// places while others want some, and all but a reserve otherwise.
    ///
    /// # Errors
    ///
    /// All places, or all of the holder's share, are taken.
    pub fn admit(&self, holder: &Holder, share: Option<usize>) -> Result<InFlight, Exhausted> {
        self.0.places.take(holder, share.map_or(Share::HalfIfContended, Share::Fixed))?;
        Ok(InFlight { ticket: Arc::new(Ticket { flights: Arc::clone(&self.0), holder: holder.clone() }) })
    }

    /// Returns the number of calls in flight.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.places.taken()
    }

    /// Ends the work of abandoned calls, because the process is shutting down: such a call only
    /// writes its record.
    pub fn abandon(&self) {
        self.0.given_up.cancel();
    }

    /// Resolves when no call is in flight.
    pub async fn idle(&self) {
        loop {
            let idle = self.0.idle.notified();
            if self.count() == 0 {
                return;
            }
            idle.await;
        }
    }
}

impl InFlight {
    /// Resolves when the process can no longer wait for this call.
    pub async fn given_up(&self) {
        self.ticket.flights.given_up.cancelled().await;
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.flights.places.give_back(&self.holder) == 0 {
            self.flights.idle.notify_waiters();
        }
    }
}

impl BodyLimit {
    /// Creates a pool of `limit` places.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self(Arc::new(Places::new(Purpose::Body, limit)))
    }

    /// Takes a place for a holder, which may have half of them.
    ///
    /// # Errors
    ///
    /// All places, or half of them by this holder, are taken.
    pub fn wait(&self, holder: &Holder) -> Result<AwaitedBody, Exhausted> {
        self.0.take(holder, Share::Fixed(self.0.half()))?;
        Ok(AwaitedBody { places: Arc::clone(&self.0), holder: holder.clone() })
    }

    /// Returns the number of calls whose body has not arrived.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.taken()
    }
}

impl Drop for AwaitedBody {
    fn drop(&mut self) {
        self.places.give_back(&self.holder);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn limit_is_exact_and_a_call_counts_until_its_last_holder_is_dropped() {
        let limit = InFlightLimit::new(2);
        let admit = || limit.admit(&Holder::default(), None);
        let first = admit().unwrap();
        let held_on = first.clone();
        let second = admit().unwrap();
        assert_eq!(admit().unwrap_err(), Exhausted::Total, "the third is one too many");
        drop(first);
        assert_eq!(admit().unwrap_err(), Exhausted::Total, "the first is still held");
        drop(held_on);
        assert_eq!(limit.count(), 1);

        let waiting = tokio::spawn({
            let limit = limit.clone();
            async move { limit.idle().await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(second);
        waiting.await.unwrap();
        drop(admit().unwrap());
    }

    #[test]
    fn holder_gets_its_share_or_all_but_the_reserve() {
        let flights = InFlightLimit::new(8);
        let holder = Holder::default();
        let held: Vec<_> = (0..8).map_while(|_| flights.admit(&holder, Some(6)).ok()).collect();
        assert_eq!((held.len(), flights.count()), (6, 6));
        let more: Vec<_> = (0..8).map_while(|_| flights.admit(&holder, None).ok()).collect();
        assert_eq!((more.len(), flights.count()), (1, 7));
        drop((held, more));
        assert_eq!(flights.count(), 0);

        let bodies = BodyLimit::new(8);
        let held: Vec<_> = (0..8).map_while(|_| bodies.wait(&holder).ok()).collect();
        assert_eq!((held.len(), bodies.count()), (4, 4));
        assert!(bodies.wait(&Holder::default()).is_ok(), "another holder gets a place");
        drop(held);
        assert_eq!(bodies.count(), 0);
    }
}
