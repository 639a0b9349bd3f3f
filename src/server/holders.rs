//! Who holds the places of a call: an identified caller, or the address of its peer.
//!
//! Callers that proved nothing form one group: a deployment may allow them something, but they
//! must not take from identified callers more than one caller could.

use std::{
    collections::HashMap,
    fmt,
    hash::{BuildHasher, Hash, RandomState},
    sync::{Arc, Mutex, PoisonError},
};

use crate::{
    call::{Holder, PeerNetwork, WeakHolder},
    caller::{Caller, Peer, Proof},
};

/// Maximum number of holders that a worker remembers, of callers and of peers each.
const REMEMBERED: usize = 1024;

/// The holders of all workers. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Holders(Arc<Shared>);

/// The holders that one worker has met, so that a call of a known caller takes no lock that
/// another worker takes.
#[derive(Debug)]
pub(super) struct WorkerHolders {
    all: Holders,
    met: Mutex<Met>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Makes the numbers of holders from what identifies them. A number is the same whenever its
    /// holder is created, because responses that are not read outlive it. Its key is random, so
    /// that nobody can choose a name with the number of another caller.
    numbers: RandomState,
    anonymous: Holder,
    callers: Mutex<InUse<Arc<str>>>,
    peers: Mutex<InUse<PeerNetwork>>,
}

#[derive(Debug, Default)]
struct Met {
    callers: HashMap<Arc<str>, Holder>,
    peers: HashMap<PeerNetwork, Holder>,
}

/// The holders that a worker remembers, or that have a place.
struct InUse<K> {
    holders: HashMap<K, WeakHolder>,
    /// Number of entries at which those no longer in use are removed.
    prune_at: usize,
}

impl Holders {
    pub(super) fn for_worker(&self) -> WorkerHolders {
        WorkerHolders { all: self.clone(), met: Mutex::default() }
    }
}

impl WorkerHolders {
    /// Returns who holds the places of a call. The address of a peer that passes on the calls
    /// of others (`is_proxy`), or that is on this machine, identifies nobody.
    pub(super) fn of(&self, caller: &Caller, peer: &Peer, is_proxy: bool) -> Holder {
        let shared = &self.all.0;
        // Only tasks of this worker's thread use it, so the lock is always free.
        let mut met = self.met.lock().unwrap_or_else(PoisonError::into_inner);
        if *caller.proof() != Proof::None {
            return remembered(&mut met.callers, caller.name(), || {
                in_use(&shared.callers, caller.name(), || {
                    Holder::with_number(shared.numbers.hash_one(caller.name()), None)
                })
            });
        }
        let address = peer.address().ip().to_canonical();
        if is_proxy || address.is_loopback() {
            return shared.anonymous.clone();
        }
        let network = PeerNetwork::of(address);
        remembered(&mut met.peers, &network, || {
            in_use(&shared.peers, &network, || {
                Holder::with_number(shared.numbers.hash_one(network), Some(&shared.anonymous))
            })
        })
    }
}

fn remembered<K>(met: &mut HashMap<K, Holder>, key: &K, look_up: impl FnOnce() -> Holder) -> Holder
where
    K: Clone + Eq + Hash,
{
    if let Some(holder) = met.get(key) {
        return holder.clone();
    }
    if met.len() >= REMEMBERED {
        met.clear();
    }
    let holder = look_up();
    met.insert(key.clone(), holder.clone());
    holder
}

fn in_use<K>(all: &Mutex<InUse<K>>, key: &K, new: impl FnOnce() -> Holder) -> Holder
where
    K: Clone + Eq + Hash,
{
    let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(holder) = all.holders.get(key).and_then(WeakHolder::upgrade) {
        return holder;
    }
    if all.holders.len() >= all.prune_at {
        all.holders.retain(|_, holder| holder.is_alive());
        all.prune_at = (2 * all.holders.len()).max(REMEMBERED);
    }
    let holder = new();
    all.holders.insert(key.clone(), holder.downgrade());
    holder
}

impl<K> Default for InUse<K> {
    fn default() -> Self {
        Self { holders: HashMap::new(), prune_at: REMEMBERED }
    }
}

impl<K> fmt::Debug for InUse<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InUse").field("holders", &self.holders.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::InFlightLimit;

    fn peer(address: &str) -> Peer {
        Peer::plaintext(format!("{address}:40000").parse().expect("an address"))
    }

    /// Number of places of 64 that the holder of such a call gets, beside those that are taken.
    fn places(limit: &InFlightLimit, holder: &Holder) -> Vec<crate::call::InFlight> {
        (0..64).map_while(|_| limit.admit(holder, Some(8)).ok()).collect()
    }

    #[test]
    fn an_identified_caller_is_one_holder_on_all_workers_and_addresses() {
        let (limit, holders) = (InFlightLimit::new(64), Holders::default());
        let [here, there] = [holders.for_worker(), holders.for_worker()];
        let billing = Caller::for_test("token:billing", Proof::Token);
        let portal = Caller::for_test("token:portal", Proof::Token);
        let first = places(&limit, &here.of(&billing, &peer("192.0.2.1"), false));
        assert_eq!(first.len(), 8);
        assert_eq!(places(&limit, &there.of(&billing, &peer("192.0.2.2"), true)).len(), 0);
        assert_eq!(places(&limit, &there.of(&portal, &peer("192.0.2.1"), false)).len(), 8);
    }

    #[test]
    fn anonymous_callers_are_one_group_of_addresses() {
        let (limit, holders) = (InFlightLimit::new(64), Holders::default());
        let worker = holders.for_worker();
        let of = |address: &str, is_proxy| worker.of(&Caller::anonymous(), &peer(address), is_proxy);
        let first = places(&limit, &of("[2001:db8::1]", false));
        assert_eq!(first.len(), 4, "half of the group's share");
        assert_eq!(places(&limit, &of("[2001:db8::2]", false)).len(), 0, "the same network");
        let second = places(&limit, &of("192.0.2.1", false));
        assert_eq!(second.len(), 4);
        assert_eq!(places(&limit, &of("192.0.2.2", false)).len(), 0, "the group has its share");
        drop((first, second));
        assert_eq!(places(&limit, &of("192.0.2.1", true)).len(), 8, "a proxy's address identifies nobody");
        assert_eq!(places(&limit, &of("127.0.0.1", false)).len(), 8, "nor does a loopback address");
    }

    #[test]
    fn memory_is_bounded_and_counts_survive() {
        let (limit, holders) = (InFlightLimit::new(64), Holders::default());
        let worker = holders.for_worker();
        let busy = Caller::for_test("jwt:busy", Proof::Jwt { issuer: None });
        let held = places(&limit, &worker.of(&busy, &peer("192.0.2.1"), false));
        for number in 0..10 * REMEMBERED {
            worker.of(
                &Caller::for_test(&format!("jwt:{number}"), Proof::Jwt { issuer: None }),
                &peer("192.0.2.1"),
                false,
            );
        }
        assert!(worker.met.lock().unwrap().callers.len() <= REMEMBERED);
        assert!(holders.0.callers.lock().unwrap().holders.len() <= 2 * (REMEMBERED + 1));
        assert_eq!(held.len(), 8);
        assert_eq!(places(&limit, &worker.of(&busy, &peer("192.0.2.1"), false)).len(), 0);
    }
    /// Its responses may still be unread then.
    #[test]
    fn holder_that_was_forgotten_is_the_same_consumer_of_memory_when_it_is_back() {
        let holders = Holders::default();
        let [here, there] = [holders.for_worker(), holders.for_worker()];
        let named = |name: &str| Caller::for_test(name, Proof::Jwt { issuer: None });
        let consumers = |worker: &WorkerHolders| {
            let caller = |name| worker.of(&named(name), &peer("192.0.2.1"), false).consumer();
            let stranger = |address| worker.of(&Caller::anonymous(), &peer(address), false).consumer();
            [caller("jwt:one"), caller("jwt:other"), stranger("192.0.2.1"), stranger("198.51.100.1")]
        };
        let before = consumers(&here);
        for number in 0..=REMEMBERED {
            here.of(&named(&format!("jwt:{number}")), &peer("192.0.2.1"), false);
            let address = format!("10.{}.{}.1", number / 256, number % 256);
            here.of(&Caller::anonymous(), &peer(&address), false);
        }
        assert!(!here.met.lock().unwrap().callers.contains_key("jwt:one"), "it was forgotten");
        assert_eq!(consumers(&here), before);
        assert_eq!(consumers(&there), before, "on another worker");
        let [one, other, stranger, another] = before;
        assert!(one.group != other.group && one.group != stranger.group);
        assert!(stranger.group == another.group && stranger.member != another.member);
    }
}
