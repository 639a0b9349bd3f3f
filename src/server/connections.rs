//! The open connections of a server, over all its workers, and the choice of connections that make
//! room for new ones.
//!
//! Connections are counted in total and per peer from the moment they are accepted, TLS handshakes
//! included. When there are too many, a connection without an identified caller makes room: on the
//! main port the oldest connection that has carried no identified call, on the health port, where
//! no caller is identified, the one that has been idle longest.
//!
//! The lock is taken when a connection is accepted or ends, never by a call.

mod entry;
mod peer_key;

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering},
    time::Duration,
};

use tokio::{sync::Notify, time::timeout_at};

pub(super) use self::entry::Entry;
use self::peer_key::PeerKey;
use super::limits::Limits;
use crate::{
    base::clock,
    caller::{Identification, Peer},
    observe::telemetry::{
        logging::LogThrottle,
        metrics::{ConnectionEnd, ConnectionRefusal, Metrics},
    },
};

/// Maximum number of connections that have made room and are not closed yet; at most the maximum
/// number of connections. They are counted separately, because their place has been given away.
pub(crate) const MAX_LEAVING: usize = 64;
/// Maximum time that a new connection waits for one of them to close, which takes one turn of a
/// worker.
const LEAVING_TIMEOUT: Duration = Duration::from_millis(100);

/// The connections of one server. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Connections(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    max: usize,
    max_per_peer: usize,
    room_from: RoomFrom,
    identification: Identification,
    metrics: Metrics,
    table: Mutex<Table>,
    /// Notified when a connection has ended.
    ended: Notify,
}

/// The connections that can be closed to make room.
#[derive(Clone, Copy, Debug)]
enum RoomFrom {
    /// Those without an identified call, oldest first.
    Unidentified,
    /// All, longest idle first.
    Any,
}

#[derive(Debug, Default)]
struct Table {
    next_number: u64,
    all: Group,
    peers: HashMap<PeerKey, Group>,
    leaving: usize,
    refused: [LogThrottle; ConnectionRefusal::ALL.len()],
    ended: [LogThrottle; ConnectionEnd::ALL.len()],
}

/// Connections that share a limit.
#[derive(Debug, Default)]
struct Group {
    open: usize,
    /// Connections that may be closed to make room, in the order in which they were accepted.
    candidates: BTreeMap<u64, Arc<Entry>>,
}

/// The outcome of one attempt to admit a connection.
enum Attempt {
    Admitted(Place),
    Refused(ConnectionRefusal),
    /// Too many connections are being closed.
    Busy,
}

impl Connections {
    /// `identification` determines the trusted proxies, which are exempt from the limit per peer.
    pub(super) fn new(limits: &Limits, identification: Identification, metrics: Metrics) -> Self {
        let room_from =
            if limits.unidentified_timeout.is_some() { RoomFrom::Unidentified } else { RoomFrom::Any };
        Self(Arc::new(Inner {
            max: limits.max_connections,
            max_per_peer: limits.max_per_peer(),
            room_from,
            identification,
            metrics,
            table: Mutex::default(),
            ended: Notify::new(),
        }))
    }

    /// Returns a place for a connection from `address`. If there is none, counts and logs the
    /// refusal. Waits at most [`LEAVING_TIMEOUT`].
    pub(super) async fn admit(&self, address: SocketAddr) -> Option<Place> {
        let ip = address.ip();
        let exempt =
            ip.to_canonical().is_loopback() || self.0.identification.trusts(&Peer::plaintext(address));
        let key = (!exempt).then(|| PeerKey::from(ip));
        let until = clock::now() + LEAVING_TIMEOUT;
        loop {
            let mut ended = pin!(self.0.ended.notified());
            ended.as_mut().enable();
            let refusal = match self.attempt(address, key) {
                Attempt::Admitted(place) => return Some(place),
                Attempt::Refused(refusal) => refusal,
                Attempt::Busy if timeout_at(until, ended).await.is_ok() => continue,
                Attempt::Busy => ConnectionRefusal::TotalLimit,
            };
            self.report_refusal(address, refusal);
            return None;
        }
    }

    fn attempt(&self, address: SocketAddr, key: Option<PeerKey>) -> Attempt {
        let Inner { max, max_per_peer, room_from, .. } = *self.0;
        let mut guard = self.table();
        let table = &mut *guard;
        let peer = key.and_then(|key| table.peers.get_mut(&key)).filter(|peer| peer.open >= max_per_peer);
        // A peer at its own limit makes room itself, so that it does not take a place from others.
        let (full, refusal) = match peer {
            Some(peer) => (Some(peer), ConnectionRefusal::PeerLimit),
            None if table.all.open >= max => (Some(&mut table.all), ConnectionRefusal::TotalLimit),
            None => (None, ConnectionRefusal::TotalLimit),
        };
        if let Some(group) = full {
            let Some(leaves) = group.next_to_leave(room_from) else { return Attempt::Refused(refusal) };
            if table.leaving >= MAX_LEAVING.min(max) {
                return Attempt::Busy;
            }
            table.remove(&leaves);
            table.leaving += 1;
            leaves.evict(refusal);
        }
        let entry = Arc::new(Entry::new(table.next_number, address, key));
        table.next_number += 1;
        table.insert(&entry);
        Attempt::Admitted(Place { connections: self.clone(), entry, end: ConnectionEnd::Broken })
    }

    /// Returns the number of connections, including those that are being closed.
    pub(super) fn open(&self) -> usize {
        let table = self.table();
        table.all.open + table.leaving
    }

    /// Resolves when no connection is left.
    pub(super) async fn all_ended(&self) {
        loop {
            let mut ended = pin!(self.0.ended.notified());
            ended.as_mut().enable();
            if self.open() == 0 {
                return;
            }
            ended.await;
        }
    }

    fn report_refusal(&self, address: SocketAddr, refusal: ConnectionRefusal) {
        self.0.metrics.connection_refused(refusal);
        let due = self.table().refused[refusal as usize].due();
        if let Some(suppressed) = due {
            tracing::warn!(
                peer.address = %address,
                reason = refusal.as_str(),
                log.suppressed = suppressed,
                "connection refused"
            );
        }
    }

    fn report_end(&self, address: SocketAddr, end: ConnectionEnd) {
        self.0.metrics.connection_ended(end);
        let event = match end {
            ConnectionEnd::Evicted | ConnectionEnd::PeerLimit | ConnectionEnd::Unread => None,
            ConnectionEnd::Idle | ConnectionEnd::Unidentified | ConnectionEnd::Age => {
                Some("connection closed by a time limit")
            }
            ConnectionEnd::Untrusted => Some("connection closed, client authority withdrawn"),
            ConnectionEnd::Peer
            | ConnectionEnd::Answered
            | ConnectionEnd::Broken
            | ConnectionEnd::Handshake
            | ConnectionEnd::Drain => return,
        };
        let due = self.table().ended[end as usize].due();
        let Some(suppressed) = due else { return };
        if let Some(event) = event {
            tracing::info!(
                peer.address = %address,
                reason = end.as_str(),
                log.suppressed = suppressed,
                "{event}"
            );
        } else {
            tracing::warn!(
                peer.address = %address,
                reason = end.as_str(),
                log.suppressed = suppressed,
                "connection closed to make room"
            );
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn insert(&mut self, entry: &Arc<Entry>) {
        self.all.insert(entry);
        if let Some(key) = entry.key {
            self.peers.entry(key).or_default().insert(entry);
        }
    }

    fn remove(&mut self, entry: &Entry) {
        self.all.remove(entry);
        self.remove_from_peer(entry);
    }

    fn remove_from_peer(&mut self, entry: &Entry) {
        let Some(key) = entry.key.filter(|_| entry.counted.swap(false, Ordering::Relaxed)) else { return };
        if let Some(peer) = self.peers.get_mut(&key) {
            peer.remove(entry);
            if peer.open == 0 {
                self.peers.remove(&key);
            }
        }
    }
}

impl Group {
    fn insert(&mut self, entry: &Arc<Entry>) {
        self.open += 1;
        self.candidates.insert(entry.number, Arc::clone(entry));
    }

    fn remove(&mut self, entry: &Entry) {
        self.open -= 1;
        self.candidates.remove(&entry.number);
    }

    /// Returns the connection that makes room next, if any.
    fn next_to_leave(&mut self, room_from: RoomFrom) -> Option<Arc<Entry>> {
        match room_from {
            RoomFrom::Unidentified => loop {
                // Each identified connection is removed from the candidates once.
                let first = self.candidates.first_entry()?;
                if !first.get().recognition().is_set() {
                    return Some(Arc::clone(first.get()));
                }
                first.remove();
            },
            // The health port has few connections.
            RoomFrom::Any => self.candidates.values().min_by_key(|entry| entry.idleness()).cloned(),
        }
    }
}

/// The place of one connection, given back on drop.
#[derive(Debug)]
pub(super) struct Place {
    connections: Connections,
    entry: Arc<Entry>,
    end: ConnectionEnd,
}

impl Place {
    /// Returns the connection.
    pub(super) const fn entry(&self) -> &Arc<Entry> {
        &self.entry
    }

    /// Stops counting the connection towards the limit of its peer if the peer's certificate
    /// identifies a trusted proxy.
    pub(super) fn authenticated(&self, peer: &Peer) {
        if self.connections.0.identification.trusts(peer) {
            self.connections.table().remove_from_peer(&self.entry);
        }
    }

    /// Gives the place back and reports why the connection has ended.
    pub(super) fn give_back(mut self, end: ConnectionEnd) {
        self.end = end;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let connections = &self.connections;
        let mut table = connections.table();
        // If the place was given away, that is the reported reason, regardless of how the
        // connection ended.
        match self.entry.evicted_for() {
            Some(limit) => {
                self.end = match limit {
                    ConnectionRefusal::TotalLimit => ConnectionEnd::Evicted,
                    ConnectionRefusal::PeerLimit => ConnectionEnd::PeerLimit,
                };
                table.leaving -= 1;
            }
            None => table.remove(&self.entry),
        }
        drop(table);
        connections.report_end(self.entry.address(), self.end);
        connections.0.ended.notify_waiters();
    }
}

#[cfg(test)]
mod tests;
