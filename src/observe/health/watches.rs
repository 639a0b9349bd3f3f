//! Limits on `Watch` streams, per connection and per peer address.
//!
//! There is no limit over all peers, because unidentified peers could use it up. Each connection
//! has its own places, and the number of connections is limited elsewhere. A refused `Watch` gets
//! UNIMPLEMENTED (`service.rs`), which clients with client-side health checking interpret as a
//! server without a health service and treat as healthy (gRFC A17).

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

use crate::observe::telemetry::metrics::{GaugeGuard, WatchLimit, WatchMetrics};

/// Maximum number of `Watch` streams per connection. A client needs one for each service name that
/// it checks, and there are two names.
pub const MAX_WATCHES_PER_CONNECTION: u32 = 4;

/// The `Watch` streams of one gateway. Clones share their counts.
#[derive(Clone, Debug)]
pub struct Watches(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    max_per_address: u32,
    /// Contains only addresses with open streams.
    by_address: Mutex<HashMap<IpAddr, u32>>,
    metrics: WatchMetrics,
}

/// The peer of a connection, for the limit per address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchPeer {
    /// A client, or clients behind one address.
    Address(SocketAddr),
    /// A trusted proxy, which is exempt from the limit per address.
    Proxy(SocketAddr),
}

/// The `Watch` streams of one connection.
#[derive(Debug)]
pub(super) struct ConnectionWatches {
    watches: Watches,
    peer: WatchPeer,
    open: Arc<AtomicU32>,
}

/// The place of an open `Watch` stream, freed on drop.
#[derive(Debug)]
pub(super) struct OpenWatch {
    open: Arc<AtomicU32>,
    _address_place: Option<AddressPlace>,
    _counted: GaugeGuard,
}

/// One stream counted for an address until dropped.
#[derive(Debug)]
struct AddressPlace {
    watches: Watches,
    address: IpAddr,
}

impl Watches {
    /// Creates the limits. A peer address gets at most `max_per_address` streams over all its
    /// connections. Loopback addresses and trusted proxies are exempt.
    #[must_use]
    pub fn new(max_per_address: u32, metrics: WatchMetrics) -> Self {
        Self(Arc::new(Inner { max_per_address, by_address: Mutex::default(), metrics }))
    }

    pub(super) fn of_connection(&self, peer: WatchPeer) -> ConnectionWatches {
        ConnectionWatches { watches: self.clone(), peer, open: Arc::default() }
    }

    fn by_address(&self) -> MutexGuard<'_, HashMap<IpAddr, u32>> {
        // No code panics while it holds the lock.
        self.0.by_address.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open_for(&self, address: IpAddr) -> Option<AddressPlace> {
        let mut by_address = self.by_address();
        let open = by_address.get(&address).copied().unwrap_or(0);
        if open >= self.0.max_per_address {
            return None;
        }
        by_address.insert(address, open + 1);
        drop(by_address);
        Some(AddressPlace { watches: self.clone(), address })
    }
}

impl WatchPeer {
    const fn address(self) -> SocketAddr {
        match self {
            Self::Address(address) | Self::Proxy(address) => address,
        }
    }

    /// Returns the address whose streams are limited, unless the peer is exempt. For IPv6 this is
    /// the /64 network, because a single host usually has a whole /64.
    fn limited(self) -> Option<IpAddr> {
        let Self::Address(address) = self else { return None };
        // An IPv6 listener reports IPv4 peers as IPv4-mapped addresses.
        match address.ip().to_canonical() {
            address if address.is_loopback() => None,
            IpAddr::V4(address) => Some(address.into()),
            IpAddr::V6(address) => {
                let [a, b, c, d, ..] = address.segments();
                Some(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into())
            }
        }
    }
}

impl ConnectionWatches {
    /// Takes a place for another stream. If a limit is reached, counts and logs it.
    pub(super) fn open(&self) -> Result<OpenWatch, WatchLimit> {
        self.take().inspect_err(|limit| {
            self.watches.0.metrics.refused(*limit);
            tracing::warn!(
                peer.address = %self.peer.address(),
                limit = limit.as_str(),
                "health watch refused, too many are open"
            );
        })
    }

    fn take(&self) -> Result<OpenWatch, WatchLimit> {
        let more = |open| (open < MAX_WATCHES_PER_CONNECTION).then_some(open + 1);
        if self.open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_err() {
            return Err(WatchLimit::Connection);
        }
        let address_place = match self.peer.limited().map(|address| self.watches.open_for(address)) {
            None => None,
            Some(Some(address_place)) => Some(address_place),
            Some(None) => {
                self.open.fetch_sub(1, Ordering::Relaxed);
                return Err(WatchLimit::Address);
            }
        };
        let counted = self.watches.0.metrics.opened();
        Ok(OpenWatch { open: Arc::clone(&self.open), _address_place: address_place, _counted: counted })
    }
}

impl Drop for OpenWatch {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for AddressPlace {
    fn drop(&mut self) {
        let mut by_address = self.watches.by_address();
        match by_address.get_mut(&self.address) {
            Some(open) if *open > 1 => *open -= 1,
            _ => {
                by_address.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::telemetry::metrics::Metrics;

    fn watches(max_per_address: u32) -> (Watches, Metrics) {
        let metrics = Metrics::new();
        (Watches::new(max_per_address, metrics.watches()), metrics)
    }

    fn address(text: &str) -> WatchPeer {
        WatchPeer::Address(text.parse().expect("an address"))
    }

    fn shows(metrics: &Metrics, line: &str) {
        let text = metrics.render();
        assert!(text.lines().any(|shown| shown == line), "{line} is not in\n{text}");
    }

    #[test]
    fn places_of_a_connection_become_free_when_streams_end() {
        let (watches, metrics) = watches(100);
        let connection = watches.of_connection(address("192.0.2.1:1000"));
        let mut open: Vec<_> = (0..4).map(|_| connection.open().expect("a place")).collect();
        assert_eq!(connection.open().err(), Some(WatchLimit::Connection));
        let another = watches.of_connection(address("192.0.2.1:1001"));
        let elsewhere = another.open().expect("another connection has its own places");
        shows(&metrics, "ott_gateway_health_watches 5");
        shows(&metrics, r#"ott_gateway_health_watches_refused_total{limit="connection"} 1"#);
        open.pop();
        open.push(connection.open().expect("the place is free again"));
        drop((open, another, elsewhere));
        shows(&metrics, "ott_gateway_health_watches 0");
        assert!(watches.by_address().is_empty(), "addresses without streams are removed");
    }

    #[test]
    fn address_is_limited_over_its_connections_and_does_not_affect_others() {
        let (watches, metrics) = watches(6);
        let connections: Vec<_> = ["192.0.2.1:1000", "[::ffff:192.0.2.1]:1001"]
            .map(address)
            .map(|peer| watches.of_connection(peer))
            .into();
        let mut open: Vec<_> =
            (0..6).map(|number| connections[number % 2].open().expect("a place")).collect();
        for connection in &connections {
            assert_eq!(connection.open().err(), Some(WatchLimit::Address));
        }
        shows(&metrics, r#"ott_gateway_health_watches_refused_total{limit="address"} 2"#);
        let host = watches.of_connection(address("[2001:db8:0:1::1]:1000"));
        let _of_host: Vec<_> = (0..4).map(|_| host.open().expect("a place")).collect();
        let same = watches.of_connection(address("[2001:db8:0:1:ffff::2]:1000"));
        let _of_same: Vec<_> = (0..2).map(|_| same.open().expect("a place")).collect();
        assert_eq!(same.open().err(), Some(WatchLimit::Address), "a /64 counts as one address");
        let other = watches.of_connection(address("192.0.2.2:1000"));
        let _other = other.open().expect("another address has its own places");
        open.pop();
        open.push(connections[0].open().expect("a refusal does not take a place of the connection"));
    }

    #[test]
    fn loopback_and_proxies_are_limited_only_per_connection() {
        let (watches, _) = watches(1);
        let exempt = [
            address("127.0.0.1:1000"),
            address("[::1]:1000"),
            address("[::ffff:127.0.0.1]:1000"),
            WatchPeer::Proxy("192.0.2.1:1000".parse().expect("an address")),
        ];
        for peer in exempt {
            let connections = [(); 2].map(|()| watches.of_connection(peer));
            for connection in &connections {
                let _open = [(); 4].map(|()| connection.open().expect("a place"));
                assert_eq!(connection.open().err(), Some(WatchLimit::Connection), "{peer:?}");
            }
        }
    }
}
