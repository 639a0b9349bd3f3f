//! A limited number of places, of which one holder may take only a share.
//!
//! Shares are hard limits: a place cannot be taken back from a call, so one that was lent to
//! the caller that asked first would be missing for `max_deadline` when another caller needs
//! it. Everything here is atomic counters; who the holders are is decided elsewhere.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// What a place is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Waiting for the body of a request.
    Body,
    /// Being in flight.
    Flight,
}

/// The limit that a call would have exceeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exhausted {
    /// The share of the call's holder.
    Share,
    /// The places of all calls.
    Total,
}

/// Counts the places of one caller, or of one peer address. Cheap to clone.
///
/// A holder can belong to a group, whose members may together take no more than a holder of
/// their own could, and each member half of that.
#[derive(Clone, Debug, Default)]
pub struct Holder(Arc<Counts>);

/// A holder that does not keep its counts alive.
#[derive(Clone, Debug)]
pub struct WeakHolder(std::sync::Weak<Counts>);

#[derive(Debug, Default)]
struct Counts {
    bodies: AtomicUsize,
    flights: AtomicUsize,
    group: Option<Holder>,
}

/// A limited number of places for one purpose.
#[derive(Debug)]
pub(super) struct Places {
    purpose: Purpose,
    limit: usize,
    taken: AtomicUsize,
}

impl Holder {
    /// Creates a member of a group.
    #[must_use]
    pub fn in_group(group: &Self) -> Self {
        Self(Arc::new(Counts { group: Some(group.clone()), ..Counts::default() }))
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

    /// Whether the holder is still in use.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.0.strong_count() > 0
    }
}

impl Places {
    pub(super) const fn new(purpose: Purpose, limit: usize) -> Self {
        Self { purpose, limit, taken: AtomicUsize::new(0) }
    }

    /// Takes a place for a holder that may have at most `share` of them. The caller gives it
    /// back with [`give_back`](Self::give_back).
    pub(super) fn take(&self, holder: &Holder, share: usize) -> Result<(), Exhausted> {
        if !holder.take(self.purpose, share) {
            return Err(Exhausted::Share);
        }
        if !take_one(&self.taken, self.limit) {
            holder.give_back(self.purpose);
            return Err(Exhausted::Total);
        }
        Ok(())
    }

    /// Gives a place back and returns how many are still taken.
    pub(super) fn give_back(&self, holder: &Holder) -> usize {
        holder.give_back(self.purpose);
        self.taken.fetch_sub(1, Ordering::SeqCst) - 1
    }

    /// Number of places that are taken.
    pub(super) fn taken(&self) -> usize {
        self.taken.load(Ordering::SeqCst)
    }

    /// Whether all places are taken.
    pub(super) fn is_full(&self) -> bool {
        self.taken() >= self.limit
    }

    /// Half of the places, at least one: the default share of a holder.
    pub(super) const fn half(&self) -> usize {
        self.limit.div_ceil(2)
    }
}

/// Sequentially consistent, because a drain closes the gate and then reads the count, while a
/// call counts itself and then reads whether the gate is closed: one of them must see the other.
fn take_one(taken: &AtomicUsize, limit: usize) -> bool {
    let one_more = |taken: usize| (taken < limit).then_some(taken + 1);
    taken.fetch_update(Ordering::SeqCst, Ordering::Relaxed, one_more).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes as many places as there are for a holder.
    fn take_all(places: &Places, holder: &Holder, share: usize) -> (usize, Exhausted) {
        let mut taken = 0;
        loop {
            match places.take(holder, share) {
                Ok(()) => taken += 1,
                Err(exhausted) => return (taken, exhausted),
            }
        }
    }

    #[test]
    fn a_holder_gets_its_share_and_leaves_the_rest_to_others() {
        let places = Places::new(Purpose::Flight, 10);
        let [greedy, modest, late] = [(); 3].map(|()| Holder::default());
        assert_eq!(take_all(&places, &greedy, places.half()), (5, Exhausted::Share));
        assert_eq!(take_all(&places, &modest, 3), (3, Exhausted::Share));
        assert_eq!(take_all(&places, &late, 10), (2, Exhausted::Total));
        assert_eq!(places.taken(), 10);

        assert_eq!(places.give_back(&greedy), 9);
        assert_eq!(take_all(&places, &late, 10), (1, Exhausted::Total), "a refused take keeps nothing");
    }

    #[test]
    fn purposes_are_counted_separately() {
        let (bodies, flights) = (Places::new(Purpose::Body, 2), Places::new(Purpose::Flight, 2));
        let holder = Holder::default();
        assert_eq!(take_all(&bodies, &holder, 1), (1, Exhausted::Share));
        assert_eq!(take_all(&flights, &holder, 1), (1, Exhausted::Share));
    }

    #[test]
    fn members_of_a_group_share_what_one_holder_could_take() {
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
    fn one_place_is_enough_for_a_half() {
        assert_eq!(Places::new(Purpose::Flight, 1).half(), 1);
        assert_eq!(Places::new(Purpose::Flight, 4096).half(), 2048);
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
                        if places.take(&holder, 32).is_ok() {
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
