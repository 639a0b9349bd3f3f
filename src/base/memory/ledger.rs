//! Accounting of memory for responses: reservations, waiters, and unread responses.
//!
//! Does not wait or read the clock. Amounts of memory are in units.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use tokio::sync::oneshot;

use super::reader::Reader;

/// Minimum total, in responses, for which memory is kept for other callers.
const MIN_SHARED: usize = 4;
/// Fraction of the total that is kept for other callers: one part of this number.
const SPARE: usize = 8;
/// Number of checks (ten per second) within which the peer has to accept data after a response is
/// ready.
const FIRST_CHECKS: u64 = 20;
/// Number of bytes that the peer has to accept on the connection per further check: 32 KiB per
/// second.
const BYTES_PER_CHECK: u64 = 3277;
/// Number of checks within which the peer has to accept the whole response. By then, most callers
/// have cancelled the call, because its deadline has passed.
const MAX_CHECKS: u64 = 100;

/// A caller, as a consumer of memory for responses. The members of a group share the rights of one
/// caller.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Consumer {
    /// Number of the group, or of the caller itself.
    pub group: u64,
    /// Number of the caller.
    pub member: u64,
}

/// The memory for responses. A waiter receives a `G` when it gets memory.
#[derive(Debug)]
pub(super) struct Ledger<G> {
    total: usize,
    /// Units that each waiter needs: a response of the maximum size.
    largest: usize,
    free: usize,
    used: HashMap<u64, Group>,
    waiting: HashMap<Consumer, BTreeMap<u64, oneshot::Sender<G>>>,
    /// The numbers of all waiters.
    queue: BTreeSet<u64>,
    unread: BTreeMap<u64, Unread>,
    /// Number of checks so far. Used as a clock that does not advance while no call waits, or while
    /// the process gets no CPU time, which is not the peer's fault.
    checks: u64,
    next_number: u64,
}

#[derive(Debug, Default)]
struct Group {
    units: usize,
    members: HashMap<u64, usize>,
}

/// A response that its caller has not accepted yet.
#[derive(Debug)]
struct Unread {
    consumer: Consumer,
    units: usize,
    /// The number of checks when it was ready.
    since: u64,
    /// Number of bytes that the peer had accepted on the connection before.
    accepted_before: u64,
    reader: Arc<Reader>,
}

impl Unread {
    /// Returns whether the peer has accepted too little since. Counts all bytes of the connection,
    /// because responses on it can wait for each other.
    fn is_overdue(&self, checks: u64) -> bool {
        let age = checks - self.since;
        let accepted = self.reader.accepted() - self.accepted_before;
        age >= MAX_CHECKS || age >= FIRST_CHECKS + accepted / BYTES_PER_CHECK
    }

    fn is_leaving(&self) -> bool {
        self.reader.closing().is_cancelled()
    }
}

impl<G> Ledger<G> {
    pub(super) fn new(total: usize, largest: usize) -> Self {
        Self {
            total,
            largest,
            free: total,
            used: HashMap::new(),
            waiting: HashMap::new(),
            queue: BTreeSet::new(),
            unread: BTreeMap::new(),
            checks: 0,
            next_number: 0,
        }
    }

    /// Returns the number of free units.
    pub(super) const fn free(&self) -> usize {
        self.free
    }

    /// Returns a unique number for a reservation or a waiter.
    pub(super) const fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

    /// Returns the number of waiters.
    pub(super) fn waiters(&self) -> usize {
        self.queue.len()
    }

    /// Returns whether there are no reservations, waiters or unread responses.
    #[cfg(test)]
    pub(super) fn is_idle(&self) -> bool {
        let is_empty = self.used.is_empty() && self.waiting.is_empty() && self.queue.is_empty();
        is_empty && self.unread.is_empty() && self.free == self.total
    }

    /// Takes units if they are free and the part for others is kept.
    pub(super) fn take(&mut self, consumer: Consumer, units: usize) -> bool {
        let may_take = self.may_take(consumer, units);
        if may_take {
            self.free -= units;
            let group = self.used.entry(consumer.group).or_default();
            group.units += units;
            *group.members.entry(consumer.member).or_default() += units;
        }
        may_take
    }

    fn may_take(&self, consumer: Consumer, units: usize) -> bool {
        self.free >= units && self.used_by(consumer).0 + units <= self.total - self.spare()
    }

    /// Returns the number of units that a single caller does not get.
    fn spare(&self) -> usize {
        if self.total < MIN_SHARED * self.largest {
            return 0;
        }
        (self.total / SPARE).next_multiple_of(self.largest)
    }

    /// Gives back units of a reservation.
    pub(super) fn give_back(&mut self, number: u64, consumer: Consumer, units: usize) {
        self.free += units;
        if let Some(unread) = self.unread.get_mut(&number) {
            unread.units -= units;
        }
        let Some(group) = self.used.get_mut(&consumer.group) else { return };
        group.units -= units;
        if let Some(member) = group.members.get_mut(&consumer.member) {
            *member -= units;
            if *member == 0 {
                group.members.remove(&consumer.member);
            }
        }
        if group.units == 0 {
            self.used.remove(&consumer.group);
        }
    }

    /// Returns the units of the group and of the member.
    fn used_by(&self, consumer: Consumer) -> (usize, usize) {
        let group = self.used.get(&consumer.group);
        group.map_or((0, 0), |group| {
            (group.units, group.members.get(&consumer.member).copied().unwrap_or_default())
        })
    }

    /// Queues a waiter, and returns its number.
    pub(super) fn wait(&mut self, consumer: Consumer, granted: oneshot::Sender<G>) -> u64 {
        let number = self.number();
        self.waiting.entry(consumer).or_default().insert(number, granted);
        self.queue.insert(number);
        number
    }

    /// Removes a waiter, if it still waits.
    pub(super) fn leave(&mut self, consumer: Consumer, number: u64) {
        self.take_waiter(consumer, number);
    }

    /// Takes memory for the next waiter, if there is enough. This is the first waiter of the caller
    /// that holds the least.
    pub(super) fn grant(&mut self) -> Option<(Consumer, oneshot::Sender<G>)> {
        if self.free < self.largest {
            return None;
        }
        let (consumer, number) = self
            .waiting
            .iter()
            .filter(|(consumer, _)| self.may_take(**consumer, self.largest))
            .filter_map(|(consumer, waiters)| Some((*consumer, *waiters.first_key_value()?.0)))
            .min_by_key(|(consumer, number)| (self.used_by(*consumer), *number))?;
        let granted = self.take_waiter(consumer, number)?;
        self.take(consumer, self.largest);
        Some((consumer, granted))
    }

    fn take_waiter(&mut self, consumer: Consumer, number: u64) -> Option<oneshot::Sender<G>> {
        let waiters = self.waiting.get_mut(&consumer)?;
        let granted = waiters.remove(&number);
        self.queue.remove(&number);
        if waiters.is_empty() {
            self.waiting.remove(&consumer);
        }
        granted
    }

    /// Records that the response of a reservation is ready, and its caller has to accept it from
    /// now on.
    pub(super) fn deliver(&mut self, number: u64, consumer: Consumer, units: usize, reader: Arc<Reader>) {
        let (since, accepted_before) = (self.checks, reader.accepted());
        self.unread.insert(number, Unread { consumer, units, since, accepted_before, reader });
    }

    /// Forgets a response that has been delivered, or whose connection has ended.
    pub(super) fn delivered(&mut self, number: u64) {
        self.unread.remove(&number);
    }

    /// Checks for responses that are not accepted, for the waiter with this number. Only checks of
    /// the first waiter in the queue count, so that their interval does not depend on the number of
    /// waiters.
    pub(super) fn check(&mut self, waiter: u64) {
        if self.queue.first() == Some(&waiter) {
            self.checks += 1;
            self.close_unread();
        }
    }

    /// Closes connections with overdue responses, as many as the waiters need. Starts with the
    /// callers that hold the most, and never closes those of a caller that holds less than every
    /// waiting caller.
    fn close_unread(&self) {
        let Some(least) = self.waiting.keys().map(|waiter| self.used_by(*waiter).0).min() else { return };
        let wanted = self.waiters().saturating_mul(self.largest).min(self.total);
        let leaving = self.unread.values().filter(|unread| unread.is_leaving());
        let mut expected = self.free + leaving.map(|unread| unread.units).sum::<usize>();
        if expected >= wanted {
            return;
        }
        let mut overdue: Vec<_> = self
            .unread
            .iter()
            .filter(|(_, unread)| unread.is_overdue(self.checks) && !unread.is_leaving())
            .map(|(number, unread)| (Reverse(self.used_by(unread.consumer)), *number, unread))
            .filter(|(Reverse((group, _)), ..)| *group >= least)
            .collect();
        overdue.sort_unstable_by_key(|(used, number, _)| (*used, *number));
        for (.., unread) in overdue {
            if expected >= wanted {
                return;
            }
            // Closing the connection also releases its other responses.
            unread.reader.closing().cancel();
            expected += unread.units;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Ledger = super::Ledger<()>;

    const LARGEST: usize = 10;
    const PER_CHECK: usize = 3277;
    const ALICE: Consumer = Consumer { group: 1, member: 1 };
    const BOB: Consumer = Consumer { group: 2, member: 2 };
    /// EVE and EVA are members of one group.
    const EVE: Consumer = Consumer { group: 9, member: 3 };
    const EVA: Consumer = Consumer { group: 9, member: 4 };

    fn take_all(ledger: &mut Ledger, consumer: Consumer) -> usize {
        (0..100).take_while(|_| ledger.take(consumer, LARGEST)).count()
    }

    /// Lets the first waiter check `times` times.
    fn check(ledger: &mut Ledger, times: u64) {
        for _ in 0..times {
            let first = *ledger.queue.first().expect("a waiter");
            ledger.check(first);
        }
    }

    fn waits(ledger: &mut Ledger, consumer: Consumer) -> oneshot::Receiver<()> {
        let (granted, waiting) = oneshot::channel();
        ledger.wait(consumer, granted);
        waiting
    }

    #[test]
    fn single_caller_leaves_an_eighth_to_others() {
        let mut ledger = Ledger::new(16 * LARGEST, LARGEST);
        assert_eq!(take_all(&mut ledger, EVE), 14);
        assert_eq!(take_all(&mut ledger, EVA), 0, "the group has the rights of one caller");
        assert_eq!(take_all(&mut ledger, BOB), 2);
        let mut small = Ledger::new(3 * LARGEST, LARGEST);
        assert_eq!(take_all(&mut small, EVE), 3, "too little memory to keep a part");
    }

    #[test]
    fn caller_with_the_least_memory_is_served_next() {
        let mut ledger = Ledger::new(4 * LARGEST, LARGEST);
        assert!(ledger.take(ALICE, LARGEST));
        assert_eq!(take_all(&mut ledger, EVE), 3);
        let _waiting = [EVE, EVA, BOB].map(|consumer| waits(&mut ledger, consumer));
        ledger.give_back(0, EVE, LARGEST);
        assert_eq!(ledger.grant().map(|(consumer, _)| consumer), Some(BOB));
        ledger.give_back(0, EVE, LARGEST);
        assert_eq!(ledger.grant().map(|(consumer, _)| consumer), Some(EVA), "holds less than EVE");
    }

    #[test]
    fn among_callers_with_equal_memory_the_longest_waiter_is_served_next() {
        let mut ledger = Ledger::new(4 * LARGEST, LARGEST);
        assert!(ledger.take(EVE, LARGEST) && ledger.take(EVA, LARGEST) && ledger.take(ALICE, LARGEST));
        assert!(ledger.take(BOB, LARGEST));
        let _waiting = [EVE, ALICE, BOB, ALICE].map(|consumer| waits(&mut ledger, consumer));
        assert!(ledger.grant().is_none(), "nothing is free");
        let mut order = Vec::new();
        for number in 0..4 {
            // First EVA gives back its memory, then each grant is given back at once.
            ledger.give_back(0, if number == 0 { EVA } else { order[number - 1] }, LARGEST);
            order.push(ledger.grant().expect("free").0);
            assert!(ledger.grant().is_none());
        }
        assert_eq!(order, [EVE, ALICE, BOB, ALICE]);
        assert!(ledger.waiting.is_empty() && ledger.queue.is_empty());
    }

    #[test]
    fn waiter_that_leaves_is_removed() {
        let mut ledger = Ledger::new(LARGEST, LARGEST);
        let (granted, _waiting) = oneshot::channel();
        let number = ledger.wait(BOB, granted);
        ledger.leave(BOB, number);
        assert!(ledger.waiting.is_empty() && ledger.queue.is_empty() && ledger.grant().is_none());
        assert_eq!(ledger.free(), LARGEST);
    }

    #[test]
    fn only_as_many_connections_of_the_heaviest_caller_are_closed_as_needed() {
        let mut ledger = Ledger::new(8 * LARGEST, LARGEST);
        let mut connections = Vec::new();
        for (number, consumer) in [ALICE, EVE, EVA, EVE, EVE, EVE, BOB].into_iter().enumerate() {
            assert!(ledger.take(consumer, LARGEST));
            let reader = Arc::<Reader>::default();
            ledger.deliver(number as u64, consumer, LARGEST, Arc::clone(&reader));
            connections.push(reader);
        }
        // The peer of this connection reads.
        connections[1].accept(PER_CHECK);
        let closed = |connections: &[Arc<Reader>]| -> Vec<usize> {
            (0..7).filter(|number| connections[*number].closing().is_cancelled()).collect()
        };
        // One place is free, so two of the three waiters need memory.
        let _waiting = [BOB, BOB, BOB].map(|consumer| waits(&mut ledger, consumer));
        check(&mut ledger, FIRST_CHECKS - 1);
        assert_eq!(closed(&connections), [0_usize; 0], "the time limit has not passed");
        check(&mut ledger, 1);
        assert_eq!(closed(&connections), [3, 4]);
        check(&mut ledger, 9);
        assert_eq!(closed(&connections), [3, 4], "their memory will become free");
        for number in [3, 4] {
            ledger.give_back(number, EVE, LARGEST);
            ledger.delivered(number);
        }
        assert_eq!((0..3).map_while(|_| ledger.grant()).count(), 3);
    }

    #[test]
    fn only_a_peer_that_reads_too_slowly_is_overdue() {
        let mut ledger = Ledger::new(LARGEST, LARGEST);
        let [fast, slow] = [(); 2].map(|()| Arc::<Reader>::default());
        assert!(ledger.take(EVE, LARGEST));
        ledger.deliver(1, EVE, 1, Arc::clone(&fast));
        ledger.deliver(2, EVE, 1, Arc::clone(&slow));
        let _waiting = waits(&mut ledger, BOB);
        for _ in 0..MAX_CHECKS - 1 {
            fast.accept(PER_CHECK);
            slow.accept(1);
            check(&mut ledger, 1);
        }
        assert!(slow.closing().is_cancelled() && !fast.closing().is_cancelled());
        // Even a fast peer has to accept the whole response in time.
        check(&mut ledger, 1);
        assert!(fast.closing().is_cancelled());
    }

    #[test]
    fn only_checks_of_the_first_waiter_count() {
        let mut ledger = Ledger::new(LARGEST, LARGEST);
        let (first, second) = (oneshot::channel(), oneshot::channel());
        let (first, second) = (ledger.wait(BOB, first.0), ledger.wait(ALICE, second.0));
        ledger.check(second);
        assert_eq!(ledger.checks, 0);
        ledger.check(first);
        ledger.leave(BOB, first);
        ledger.check(first);
        assert_eq!(ledger.checks, 1);
        ledger.check(second);
        assert_eq!(ledger.checks, 2);
    }

    #[test]
    fn slow_reader_is_not_closed_for_a_caller_that_holds_more() {
        let mut ledger = Ledger::new(8 * LARGEST, LARGEST);
        let reader = Arc::<Reader>::default();
        assert!(ledger.take(BOB, LARGEST));
        ledger.deliver(1, BOB, LARGEST, Arc::clone(&reader));
        assert_eq!(take_all(&mut ledger, EVE), 7);
        let _waiting = waits(&mut ledger, EVE);
        check(&mut ledger, 2 * FIRST_CHECKS);
        assert!(!reader.closing().is_cancelled());
        let _waits_too = waits(&mut ledger, ALICE);
        check(&mut ledger, 1);
        assert!(reader.closing().is_cancelled());
    }
}
