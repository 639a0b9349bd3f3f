//! A limited number of places, of which one holder may take only a share.
//!
//! A share is fixed, or half of the places while others want some. A place cannot be revoked from a
//! call, so even a sole holder leaves a reserve for the next one. This module consists of atomic
//! counters; holders are assigned elsewhere.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use crate::base::{
    clock::{self, Instant},
    memory::Consumer,
};

/// Time for which others count as contending after they last took or wanted a place.
const CONTENDED_FOR: Duration = Duration::from_secs(10);
/// Minimum number of places for which some are reserved.
const MIN_SHARED: usize = 4;
/// One in this many places is reserved.
const RESERVE: usize = 8;
/// Others may have one in this many places before that counts as contention. Far fewer than the
/// reserved places.
const INEXACT: usize = 64;

/// Purpose of a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Waiting for the body of a request.
    Body,
    /// Being in flight.
    Flight,
}

/// Limit that a call would have exceeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exhausted {
    /// The share of the call's holder.
    Share,
    /// The places of all calls.
    Total,
}

/// Counts of the places of one caller, or of one peer address. Cheap to clone.
///
/// A holder can belong to a group. All members together have the share of one holder, and each
/// member half of it.
#[derive(Clone, Debug, Default)]
pub struct Holder(Arc<Counts>);

/// A holder that does not keep its counts alive.
#[derive(Clone, Debug)]
pub struct WeakHolder(std::sync::Weak<Counts>);

#[derive(Debug)]
struct Counts {
    /// Identifies the holder even after it was forgotten, unlike its address.
    number: u64,
    bodies: AtomicUsize,
    flights: AtomicUsize,
    group: Option<Holder>,
}

impl Default for Counts {
    fn default() -> Self {
        /// 0 means no holder.
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self {
            number: NEXT.fetch_add(1, Ordering::Relaxed),
            bodies: AtomicUsize::new(0),
            flights: AtomicUsize::new(0),
            group: None,
        }
    }
}

/// Number of places that one holder may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Share {
    /// At most this many.
    Fixed(usize),
    /// Half while others want places, otherwise all but a reserve.
    HalfIfContended,
}

/// A limited number of places for one purpose.
#[derive(Debug)]
pub(super) struct Places {
    purpose: Purpose,
    limit: usize,
    taken: AtomicUsize,
    contention: Contention,
}

/// Records when more than one holder last wanted places.
#[derive(Debug)]
struct Contention {
    started: Instant,
    /// Milliseconds from `started` to the end of the contention; 0 if there was none.
    until: AtomicU64,
}

impl Holder {
    /// Creates a member of a group.
    #[must_use]
    pub fn in_group(group: &Self) -> Self {
        Self(Arc::new(Counts { group: Some(group.clone()), ..Counts::default() }))
    }

    /// Creates a holder with a given number, optionally in a group. The number of a forgotten
    /// holder may still be in use by its responses when the holder is created again.
    #[must_use]
    pub fn with_number(number: u64, group: Option<&Self>) -> Self {
        Self(Arc::new(Counts { number, group: group.cloned(), ..Counts::default() }))
    }

    /// Returns the holder as a consumer of response memory.
    #[must_use]
    pub fn consumer(&self) -> Consumer {
        let member = self.0.number;
        Consumer { group: self.0.group.as_ref().map_or(member, |group| group.0.number), member }
    }

    /// Returns a reference that does not keep the counts alive.
    #[must_use]
    pub fn downgrade(&self) -> WeakHolder {
        WeakHolder(Arc::downgrade(&self.0))
    }

    fn take(&self, purpose: Purpose, share: usize) -> bool {
        let Some(group) = &self.0.group else { return take_one(self.taken(purpose), share) };
        if !take_one(self.taken(purpose), share.div_ceil(2)) {
            return false;
        }
        let taken = group.take(purpose, share);
        if !taken {
            self.taken(purpose).fetch_sub(1, Ordering::AcqRel);
        }
        taken
    }

    fn give_back(&self, purpose: Purpose) {
        self.taken(purpose).fetch_sub(1, Ordering::AcqRel);
        if let Some(group) = &self.0.group {
            group.give_back(purpose);
        }
    }

    fn taken(&self, purpose: Purpose) -> &AtomicUsize {
        match purpose {
            Purpose::Body => &self.0.bodies,
            Purpose::Flight => &self.0.flights,
        }
    }
}

impl WeakHolder {
    /// Returns the holder if it is still in use.
    #[must_use]
    pub fn upgrade(&self) -> Option<Holder> {
        self.0.upgrade().map(Holder)
    }

    /// Returns whether the holder is still in use.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.0.strong_count() > 0
    }
}

impl Places {
    pub(super) fn new(purpose: Purpose, limit: usize) -> Self {
        Self { purpose, limit, taken: AtomicUsize::new(0), contention: Contention::new() }
    }

    /// Takes a place for a holder with this share. The caller releases it with
    /// [`give_back`](Self::give_back).
    pub(super) fn take(&self, holder: &Holder, share: Share) -> Result<(), Exhausted> {
        let max = match share {
            Share::Fixed(max) => max,
            Share::HalfIfContended => self.half(),
        };
        if self.others_have_places(holder) {
            self.contention.note();
        }
        match self.take_within(holder, max, self.limit) {
            Err(Exhausted::Share) if share == Share::HalfIfContended && !self.contention.is_recent() => {
                let reserve = if self.limit < MIN_SHARED { 0 } else { self.limit.div_ceil(RESERVE) };
                self.take_within(holder, usize::MAX, self.limit - reserve)
            }
            taken => taken,
        }
    }

    /// Returns whether other holders have more than a few places. The counts cannot be read
    /// atomically: places that this holder takes and releases concurrently must not be counted as
    /// those of others.
    fn others_have_places(&self, holder: &Holder) -> bool {
        let of_holder = || holder.taken(self.purpose).load(Ordering::SeqCst);
        let own = of_holder();
        let all = self.taken();
        all > own + self.limit / INEXACT && own == of_holder()
    }

    fn take_within(&self, holder: &Holder, share: usize, limit: usize) -> Result<(), Exhausted> {
        if !holder.take(self.purpose, share) {
            return Err(Exhausted::Share);
        }
        if !take_one(&self.taken, limit) {
            holder.give_back(self.purpose);
            return Err(if limit < self.limit { Exhausted::Share } else { Exhausted::Total });
        }
        Ok(())
    }

    /// Releases a place and returns the number of places still taken.
    pub(super) fn give_back(&self, holder: &Holder) -> usize {
        // In the reverse order of taking, so that the total never exceeds the places of the
        // holders.
        let left = self.taken.fetch_sub(1, Ordering::SeqCst) - 1;
        holder.give_back(self.purpose);
        left
    }

    /// Returns the number of places taken.
    pub(super) fn taken(&self) -> usize {
        self.taken.load(Ordering::SeqCst)
    }

    /// Returns half of the places, at least one.
    pub(super) const fn half(&self) -> usize {
        self.limit.div_ceil(2)
    }
}

impl Contention {
    fn new() -> Self {
        Self { started: clock::now(), until: AtomicU64::new(0) }
    }

    fn note(&self) {
        let until = self.elapsed() + u64::try_from(CONTENDED_FOR.as_millis()).unwrap_or(u64::MAX);
        // Written at most once per second, because all workers read it.
        if until >= self.until.load(Ordering::Relaxed).saturating_add(1000) {
            self.until.store(until, Ordering::Relaxed);
        }
    }

    fn is_recent(&self) -> bool {
        let until = self.until.load(Ordering::Relaxed);
        until != 0 && self.elapsed() < until
    }

    fn elapsed(&self) -> u64 {
        let elapsed = clock::now().saturating_duration_since(self.started);
        u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX)
    }
}

/// Takes one place. Sequentially consistent, because a drain closes the gate and then reads the
/// count, while a call counts itself and then checks whether the gate is closed: one of them must
/// see the other.
fn take_one(taken: &AtomicUsize, limit: usize) -> bool {
    let one_more = |taken: usize| (taken < limit).then_some(taken + 1);
    taken.fetch_update(Ordering::SeqCst, Ordering::Relaxed, one_more).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes as many places as possible for a holder.
    fn take_all(places: &Places, holder: &Holder, share: usize) -> (usize, Exhausted) {
        take_share(places, holder, Share::Fixed(share))
    }

    fn take_share(places: &Places, holder: &Holder, share: Share) -> (usize, Exhausted) {
        let mut taken = 0;
        loop {
            match places.take(holder, share) {
                Ok(()) => taken += 1,
                Err(exhausted) => return (taken, exhausted),
            }
        }
    }

    #[test]
    fn holder_gets_its_share_and_leaves_the_rest_to_others() {
        let places = Places::new(Purpose::Flight, 10);
        let [greedy, modest, late] = [(); 3].map(|()| Holder::default());
        assert_eq!(take_all(&places, &greedy, places.half()), (5, Exhausted::Share));
        assert_eq!(take_all(&places, &modest, 3), (3, Exhausted::Share));
        assert_eq!(take_all(&places, &late, 10), (2, Exhausted::Total));
        assert_eq!(places.taken(), 10);

        assert_eq!(places.give_back(&greedy), 9);
        assert_eq!(take_all(&places, &late, 10), (1, Exhausted::Total), "a refused take keeps nothing");
    }

    #[tokio::test(start_paused = true)]
    async fn sole_holder_gets_all_but_a_reserve_and_half_once_others_want_places() {
        let places = Places::new(Purpose::Flight, 16);
        let [alone, late] = [(); 2].map(|()| Holder::default());
        let half = Share::HalfIfContended;
        assert_eq!(take_share(&places, &alone, half), (14, Exhausted::Share));
        assert_eq!(take_share(&places, &late, half), (2, Exhausted::Total), "the reserve");
        for _ in 0..8 {
            places.give_back(&alone);
        }
        assert_eq!(take_share(&places, &alone, half), (2, Exhausted::Share), "half while others want places");
        assert_eq!(take_share(&places, &late, half), (6, Exhausted::Share));
        for _ in 0..8 {
            places.give_back(&late);
        }
        tokio::time::advance(Duration::from_millis(9_999)).await;
        assert_eq!(take_share(&places, &alone, half), (0, Exhausted::Share));
        tokio::time::advance(Duration::from_millis(1001)).await;
        assert_eq!(take_share(&places, &alone, half), (6, Exhausted::Share), "alone again");
    }

    #[test]
    fn small_pools_have_no_reserve() {
        for limit in 1..MIN_SHARED {
            let places = Places::new(Purpose::Flight, limit);
            let taken = take_share(&places, &Holder::default(), Share::HalfIfContended);
            assert_eq!(taken, (limit, Exhausted::Total));
        }
    }

    #[test]
    fn purposes_are_counted_separately() {
        let (bodies, flights) = (Places::new(Purpose::Body, 2), Places::new(Purpose::Flight, 2));
        let holder = Holder::default();
        assert_eq!(take_all(&bodies, &holder, 1), (1, Exhausted::Share));
        assert_eq!(take_all(&flights, &holder, 1), (1, Exhausted::Share));
    }

    #[test]
    fn members_of_a_group_share_the_places_of_one_holder() {
        let places = Places::new(Purpose::Body, 100);
        let group = Holder::default();
        let [first, second, third] = [(); 3].map(|()| Holder::in_group(&group));
        assert_eq!(take_all(&places, &first, 10), (5, Exhausted::Share), "half of the group's");
        assert_eq!(take_all(&places, &second, 10), (5, Exhausted::Share));
        assert_eq!(take_all(&places, &third, 10), (0, Exhausted::Share), "the group has its share");
        assert_eq!(places.taken(), 10);
        places.give_back(&first);
        assert_eq!(take_all(&places, &third, 10), (1, Exhausted::Share));
        assert_eq!(take_all(&places, &group, 11), (1, Exhausted::Share), "the group can hold places itself");
    }

    #[test]
    fn half_is_at_least_one_place() {
        assert_eq!(Places::new(Purpose::Flight, 1).half(), 1);
        assert_eq!(Places::new(Purpose::Flight, 4096).half(), 2048);
    }

    #[test]
    fn calls_of_one_holder_on_several_threads_are_no_contention() {
        let places = Places::new(Purpose::Flight, 4096);
        let holder = Holder::default();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..200_000 {
                        places.take(&holder, Share::HalfIfContended).expect("a place");
                        places.give_back(&holder);
                    }
                });
            }
        });
        assert!(!places.contention.is_recent());
    }

    #[test]
    fn counts_are_exact_when_threads_compete() {
        let places = Places::new(Purpose::Flight, 64);
        let group = Holder::default();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let holder = Holder::in_group(&group);
                    for _ in 0..20_000 {
                        if places.take(&holder, Share::Fixed(32)).is_ok() {
                            assert!(places.taken() <= 32);
                            places.give_back(&holder);
                        }
                    }
                });
            }
        });
        assert_eq!((places.taken(), group.taken(Purpose::Flight).load(Ordering::SeqCst)), (0, 0));
    }
}
