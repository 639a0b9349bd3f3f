//! Who has reserved how much memory, who waits for some, and whose responses are not read.
//!
//! Counts only; nothing here waits or reads the clock. All amounts of memory are in units.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use tokio::sync::oneshot;

use super::{reader::Reader, responses::Reservation};

/// From this number of responses on, memory for some is kept for other callers.
const MIN_SHARED: usize = 4;
/// One part of this many is kept.
const SPARE: usize = 8;
/// Number of checks, ten a second, before which the peer has to accept something after a response
/// is ready.
const FIRST_CHECKS: u64 = 20;
/// What it has to accept on the connection for each further check, in bytes: 32 KiB per second.
const BYTES_PER_CHECK: u64 = 3277;
/// Number of checks before which it has to accept the whole response. Most callers have cancelled
/// the call by then, because its deadline has passed.
const MAX_CHECKS: u64 = 100;

/// A caller, as far as the memory for responses is concerned. The members of a group have together
/// the rights of one caller.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Consumer {
    /// Number of the group, or of the caller itself.
    pub group: u64,
    /// Number of the caller.
    pub member: u64,
}

/// The memory for responses.
#[derive(Debug)]
pub(super) struct Ledger {
    total: usize,
    /// What each waiter waits for: a response of the largest size.
    largest: usize,
    free: usize,
    used: HashMap<u64, Group>,
    waiting: HashMap<Consumer, BTreeMap<u64, oneshot::Sender<Arc<Reservation>>>>,
    /// The numbers of all who wait.
    queue: BTreeSet<u64>,
    unread: BTreeMap<u64, Unread>,
    /// Number of checks so far. Used as a clock that stands still while nobody waits, and while the
    /// process gets no processor time: then it is not the peer that does not read.
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
    /// The check before which it was ready.
    since: u64,
    /// What the peer had accepted on the connection before, in bytes.
    accepted_before: u64,
    reader: Arc<Reader>,
}

impl Unread {
    /// Whether the peer has had enough time for what it has accepted since. Counted for the whole
    /// connection, because responses on it can wait for each other.
    fn is_overdue(&self, checks: u64) -> bool {
        let age = checks - self.since;
        let accepted = self.reader.accepted() - self.accepted_before;
        age >= MAX_CHECKS || age >= FIRST_CHECKS + accepted / BYTES_PER_CHECK
    }

    fn is_leaving(&self) -> bool {
        self.reader.closing().is_cancelled()
    }
}

impl Ledger {
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

    /// Units that nobody has.
    pub(super) const fn free(&self) -> usize {
        self.free
    }

    /// Returns a number that no other reservation and no other waiter has.
    pub(super) const fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

    /// Number of those who wait.
    pub(super) fn waiters(&self) -> usize {
        self.queue.len()
    }

    /// Whether nobody has, wants or delivers anything.
    #[cfg(test)]
    pub(super) fn is_idle(&self) -> bool {
        let is_empty = self.used.is_empty() && self.waiting.is_empty() && self.queue.is_empty();
        is_empty && self.unread.is_empty() && self.free == self.total
    }

    /// Takes units if they are free and the rest for others is kept.
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

    /// Units that one caller alone does not get.
    fn spare(&self) -> usize {
        if self.total < MIN_SHARED * self.largest {
            return 0;
        }
        (self.total / SPARE).next_multiple_of(self.largest)
    }

    /// Gives units of a reservation back.
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

    /// Units of the group and of the member.
    fn used_by(&self, consumer: Consumer) -> (usize, usize) {
        let group = self.used.get(&consumer.group);
        group.map_or((0, 0), |group| {
            (group.units, group.members.get(&consumer.member).copied().unwrap_or_default())
        })
    }

    /// Queues a waiter, and returns its number.
    pub(super) fn wait(&mut self, consumer: Consumer, granted: oneshot::Sender<Arc<Reservation>>) -> u64 {
        let number = self.number();
        self.waiting.entry(consumer).or_default().insert(number, granted);
        self.queue.insert(number);
        number
    }

    /// Removes a waiter, if it still waits.
    pub(super) fn leave(&mut self, consumer: Consumer, number: u64) {
        self.take_waiter(consumer, number);
    }

    /// Takes memory for the next waiter, if there is enough: the first one of the caller that has
    /// the least.
    pub(super) fn grant(&mut self) -> Option<(Consumer, oneshot::Sender<Arc<Reservation>>)> {
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

    fn take_waiter(&mut self, consumer: Consumer, number: u64) -> Option<oneshot::Sender<Arc<Reservation>>> {
        let waiters = self.waiting.get_mut(&consumer)?;
        let granted = waiters.remove(&number);
        self.queue.remove(&number);
        if waiters.is_empty() {
            self.waiting.remove(&consumer);
        }
        granted
    }

    /// Notes that a reservation is for a response that its caller has to accept from now on.
    pub(super) fn deliver(&mut self, number: u64, consumer: Consumer, units: usize, reader: Arc<Reader>) {
        let (since, accepted_before) = (self.checks, reader.accepted());
        self.unread.insert(number, Unread { consumer, units, since, accepted_before, reader });
    }

    /// Forgets a response: it has been delivered, or its connection has ended.
    pub(super) fn delivered(&mut self, number: u64) {
        self.unread.remove(&number);
    }

    /// Checks for responses that are not accepted, for the waiter with this number. Only the checks
    /// of the one that has waited longest count, so that their interval is that of one waiter.
    pub(super) fn check(&mut self, waiter: u64) {
        if self.queue.first() == Some(&waiter) {
            self.checks += 1;
            self.close_unread();
        }
    }

    /// Closes connections with overdue responses, as many as are needed for those who wait: first
    /// those of the callers that have the most, never those of one that has less than each caller
    /// that waits.
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
            // Others of the same connection leave together with this one.
            unread.reader.closing().cancel();
            expected += unread.units;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LARGEST: usize = 10;
    const PER_CHECK: usize = 3277;
    const ALICE: Consumer = Consumer { group: 1, member: 1 };
    const BOB: Consumer = Consumer { group: 2, member: 2 };
    /// Two members of one group.
    const EVE: Consumer = Consumer { group: 9, member: 3 };
    const EVA: Consumer = Consumer { group: 9, member: 4 };

    fn take_all(ledger: &mut Ledger, consumer: Consumer) -> usize {
        (0..100).take_while(|_| ledger.take(consumer, LARGEST)).count()
    }

    /// Lets the one that has waited longest check this often.
    fn check(ledger: &mut Ledger, times: u64) {
        for _ in 0..times {
            let first = *ledger.queue.first().expect("somebody waits");
            ledger.check(first);
        }
    }

    fn waits(ledger: &mut Ledger, consumer: Consumer) -> oneshot::Receiver<Arc<Reservation>> {
        let (granted, waiting) = oneshot::channel();
        ledger.wait(consumer, granted);
        waiting
    }

    #[test]
    fn caller_that_is_alone_leaves_an_eighth_to_the_next() {
        let mut ledger = Ledger::new(16 * LARGEST, LARGEST);
        assert_eq!(take_all(&mut ledger, EVE), 14);
        assert_eq!(take_all(&mut ledger, EVA), 0, "the group has the rights of one caller");
        assert_eq!(take_all(&mut ledger, BOB), 2);
        let mut small = Ledger::new(3 * LARGEST, LARGEST);
        assert_eq!(take_all(&mut small, EVE), 3, "too little to keep a part");
    }

    #[test]
    fn the_caller_with_the_least_is_next() {
        let mut ledger = Ledger::new(4 * LARGEST, LARGEST);
        assert!(ledger.take(ALICE, LARGEST));
        assert_eq!(take_all(&mut ledger, EVE), 3);
        let _waiting = [EVE, EVA, BOB].map(|consumer| waits(&mut ledger, consumer));
        ledger.give_back(0, EVE, LARGEST);
        assert_eq!(ledger.grant().map(|(consumer, _)| consumer), Some(BOB));
        ledger.give_back(0, EVE, LARGEST);
        assert_eq!(ledger.grant().map(|(consumer, _)| consumer), Some(EVA), "has less than the other");
    }

    #[test]
    fn of_callers_that_have_the_same_the_one_that_waits_longest_is_next() {
        let mut ledger = Ledger::new(4 * LARGEST, LARGEST);
        assert!(ledger.take(EVE, LARGEST) && ledger.take(EVA, LARGEST) && ledger.take(ALICE, LARGEST));
        assert!(ledger.take(BOB, LARGEST));
        let _waiting = [EVE, ALICE, BOB, ALICE].map(|consumer| waits(&mut ledger, consumer));
        assert!(ledger.grant().is_none(), "nothing is free");
        let mut order = Vec::new();
        for number in 0..4 {
            // What is granted is given back at once, apart from what was there before.
            ledger.give_back(0, if number == 0 { EVA } else { order[number - 1] }, LARGEST);
            order.push(ledger.grant().expect("free").0);
            assert!(ledger.grant().is_none());
        }
        assert_eq!(order, [EVE, ALICE, BOB, ALICE]);
        assert!(ledger.waiting.is_empty() && ledger.queue.is_empty());
    }

    #[test]
    fn waiter_that_leaves_is_forgotten() {
        let mut ledger = Ledger::new(LARGEST, LARGEST);
        let (granted, _waiting) = oneshot::channel();
        let number = ledger.wait(BOB, granted);
        ledger.leave(BOB, number);
        assert!(ledger.waiting.is_empty() && ledger.queue.is_empty() && ledger.grant().is_none());
        assert_eq!(ledger.free(), LARGEST);
    }

    #[test]
    fn connections_of_the_heaviest_caller_are_closed_and_no_more_than_are_needed() {
        let mut ledger = Ledger::new(8 * LARGEST, LARGEST);
        let mut connections = Vec::new();
        for (number, consumer) in [ALICE, EVE, EVA, EVE, EVE, EVE, BOB].into_iter().enumerate() {
            assert!(ledger.take(consumer, LARGEST));
            let reader = Arc::<Reader>::default();
            ledger.deliver(number as u64, consumer, LARGEST, Arc::clone(&reader));
            connections.push(reader);
        }
        // One whose peer reads.
        connections[1].accept(PER_CHECK);
        let closed = |connections: &[Arc<Reader>]| -> Vec<usize> {
            (0..7).filter(|number| connections[*number].closing().is_cancelled()).collect()
        };
        // One is free, so two of three need room.
        let _waiting = [BOB, BOB, BOB].map(|consumer| waits(&mut ledger, consumer));
        check(&mut ledger, FIRST_CHECKS - 1);
        assert_eq!(closed(&connections), [0_usize; 0], "they still have time");
        check(&mut ledger, 1);
        assert_eq!(closed(&connections), [3, 4]);
        check(&mut ledger, 9);
        assert_eq!(closed(&connections), [3, 4], "their memory will be free");
        for number in [3, 4] {
            ledger.give_back(number, EVE, LARGEST);
            ledger.delivered(number);
        }
        assert_eq!((0..3).map_while(|_| ledger.grant()).count(), 3);
    }

    #[test]
    fn peer_that_reads_fast_enough_is_not_overdue_and_one_that_reads_a_little_is() {
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
        // Others are read meanwhile, but not this one.
        check(&mut ledger, 1);
        assert!(fast.closing().is_cancelled());
    }

    #[test]
    fn only_one_waiter_checks_at_a_time_and_none_when_nobody_waits() {
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
    fn modest_slow_reader_makes_no_room_for_a_caller_that_has_more() {
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
