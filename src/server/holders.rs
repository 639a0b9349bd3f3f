//! The holder of a call's places: an identified caller, or the address of a peer.
//!
//! Callers without proof of identity form one group: a deployment may allow them some calls, but
//! all of them together must not take more places than one identified caller could.

use std::{
    collections::HashMap,
    fmt,
    hash::{BuildHasher, Hash, RandomState},
    sync::{Arc, Mutex, PoisonError},
};

use crate::{
    caller::{Caller, Peer, Proof},
    domain::call::{Holder, PeerNetwork, WeakHolder},
};

/// Maximum number of callers, and of peers, that a worker remembers.
const REMEMBERED: usize = 1024;

/// The holders of all workers. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Holders(Arc<Registry>);

/// The holders that one worker remembers, so that a call of a known caller takes no lock shared
/// with other workers.
#[derive(Debug)]
pub(super) struct WorkerHolders {
    all: Holders,
    met: Mutex<Met>,
}

#[derive(Debug, Default)]
struct Registry {
    /// Hashes the identity of a holder to its number. A number is the same each time its holder is
    /// created, because unread responses outlive the holder. The key is random, so that a caller
    /// cannot choose a name that collides with another caller's number.
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

/// The holders that are remembered by a worker or have a place.
struct InUse<K> {
    holders: HashMap<K, WeakHolder>,
    /// Number of entries at which unused ones are removed.
    prune_at: usize,
}

impl Holders {
    pub(super) fn for_worker(&self) -> WorkerHolders {
        WorkerHolders { all: self.clone(), met: Mutex::default() }
    }
}

impl WorkerHolders {
    /// Returns the holder of a call's places. The address of a peer that forwards calls of others
    /// (`is_proxy`) or is on this machine identifies no caller.
    pub(super) fn of(&self, caller: &Caller, peer: &Peer, is_proxy: bool) -> Holder {
        let shared = &self.all.0;
        // Used only by tasks of this worker's thread, so the lock is never contended.
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
    use crate::domain::call::InFlightLimit;

    fn peer(address: &str) -> Peer {
        Peer::plaintext(format!("{address}:40000").parse().expect("an address"))
    }

    /// Takes as many of 64 places as the holder can get beside those already taken.
    fn places(limit: &InFlightLimit, holder: &Holder) -> Vec<crate::domain::call::InFlight> {
        (0..64).map_while(|_| limit.admit(holder, Some(8)).ok()).collect()
    }

    #[test]
    fn identified_caller_is_one_holder_on_all_workers_and_addresses() {
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
    fn anonymous_callers_form_one_group_of_addresses() {
        let (limit, holders) = (InFlightLimit::new(64), Holders::default());
        let worker = holders.for_worker();
        let of = |address: &str, is_proxy| worker.of(&Caller::anonymous(), &peer(address), is_proxy);
        let first = places(&limit, &of("[2001:db8::1]", false));
        assert_eq!(first.len(), 4, "half of the group's share");
        assert_eq!(places(&limit, &of("[2001:db8::2]", false)).len(), 0, "the same network");
        let second = places(&limit, &of("192.0.2.1", false));
        assert_eq!(second.len(), 4);
        assert_eq!(places(&limit, &of("192.0.2.2", false)).len(), 0, "the group has used up its share");
        drop((first, second));
        assert_eq!(places(&limit, &of("192.0.2.1", true)).len(), 8, "a proxy's address identifies no caller");
        assert_eq!(places(&limit, &of("127.0.0.1", false)).len(), 8, "nor does a loopback address");
    }

    #[test]
    fn memory_is_bounded_and_places_in_use_stay_counted() {
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
    /// Responses of a forgotten holder may still be unread.
    #[test]
    fn forgotten_holder_is_the_same_memory_consumer_when_it_returns() {
        let holders = Holders::default();
        let [here, there] = [holders.for_worker(), holders.for_worker()];
        let named = |name: &str| Caller::for_test(name, Proof::Jwt { issuer: None });
        let consumers = |worker: &WorkerHolders| {
            let caller = |name| worker.of(&named(name), &peer("192.0.2.1"), false).consumer();
            let anonymous = |address| worker.of(&Caller::anonymous(), &peer(address), false).consumer();
            [caller("jwt:one"), caller("jwt:other"), anonymous("192.0.2.1"), anonymous("198.51.100.1")]
        };
        let before = consumers(&here);
        for number in 0..=REMEMBERED {
            here.of(&named(&format!("jwt:{number}")), &peer("192.0.2.1"), false);
            let address = format!("10.{}.{}.1", number / 256, number % 256);
            here.of(&Caller::anonymous(), &peer(&address), false);
        }
        assert!(!here.met.lock().unwrap().callers.contains_key("jwt:one"), "the holder was forgotten");
        assert_eq!(consumers(&here), before);
        assert_eq!(consumers(&there), before, "on another worker");
        let [one, other, first_anonymous, second_anonymous] = before;
        assert!(one.group != other.group && one.group != first_anonymous.group);
        assert!(
            first_anonymous.group == second_anonymous.group
                && first_anonymous.member != second_anonymous.member
        );
    }
}
