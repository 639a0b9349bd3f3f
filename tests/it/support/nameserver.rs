//! A name server that misbehaves on request, for a gateway whose `resolv.conf` names it.
//!
//! Needs port 53, which only root may bind on most machines.

use std::{
    collections::{HashMap, VecDeque},
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicU8, Ordering},
    },
    thread,
    time::Duration,
};

use ott_gateway::base::clock;

/// Response to a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    /// The address, no data, or NXDOMAIN.
    Honest,
    /// SERVFAIL.
    ServerFailure,
    /// No response.
    Silence,
}

/// Address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Family {
    Ipv4,
    Ipv6,
}

/// A name server. Dropping it ends its thread.
pub(crate) struct NameServer {
    address: Ipv4Addr,
    shared: Arc<ServerState>,
}

#[derive(Default)]
struct ServerState {
    zone: Mutex<HashMap<String, IpAddr>>,
    replies: Mutex<HashMap<Family, Reply>>,
    queries: Mutex<VecDeque<(String, Family)>>,
    arrived: Condvar,
}

impl NameServer {
    /// Starts an honest name server with this one name. `None` if this user may not bind port 53,
    /// or if the machine has a name server on all addresses.
    pub(crate) fn start(name: &str, address: IpAddr) -> Option<Self> {
        // Each has its own address, because the port is fixed.
        static NEXT: AtomicU8 = AtomicU8::new(1);
        let own = Ipv4Addr::new(127, 53, NEXT.fetch_add(1, Ordering::Relaxed), 1);
        let socket = match UdpSocket::bind((own, 53)) {
            Ok(socket) => socket,
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::PermissionDenied
                        | io::ErrorKind::AddrInUse
                        | io::ErrorKind::AddrNotAvailable
                ) =>
            {
                return None;
            }
            Err(error) => panic!("{own}:53: {error}"),
        };
        socket.set_read_timeout(Some(Duration::from_millis(100))).expect("a timeout");
        let shared = Arc::new(ServerState::default());
        shared.zone.lock().expect("not poisoned").insert(name.to_owned(), address);
        let server = Arc::downgrade(&shared);
        thread::spawn(move || {
            let mut buffer = [0; 1024];
            loop {
                let received = socket.recv_from(&mut buffer);
                let Some(shared) = server.upgrade() else { return };
                if let Ok((length, peer)) = received {
                    shared.answer(&socket, &buffer[..length], peer);
                }
            }
        });
        Some(Self { address: own, shared })
    }

    /// The `resolv.conf` of a default pod: `ndots:5` and a search list of three domains.
    pub(crate) fn resolv_conf(&self) -> String {
        format!(
            "nameserver {}\nsearch shop.svc.cluster.test svc.cluster.test cluster.test\noptions ndots:5\n",
            self.address
        )
    }

    /// Sets the reply to queries for `family`.
    pub(crate) fn replies(&self, family: Family, reply: Reply) {
        self.shared.replies.lock().expect("not poisoned").insert(family, reply);
    }

    /// Sets the reply to all queries.
    pub(crate) fn replies_to_all(&self, reply: Reply) {
        self.replies(Family::Ipv4, reply);
        self.replies(Family::Ipv6, reply);
    }

    /// All queries so far.
    pub(crate) fn queries(&self) -> Vec<(String, Family)> {
        self.shared.queries.lock().expect("not poisoned").iter().cloned().collect()
    }

    /// Waits for another query for `family`.
    pub(crate) fn next_query(&self, family: Family) {
        let until = clock::now() + Duration::from_mins(1);
        let mut queries = self.shared.queries.lock().expect("not poisoned");
        let seen = queries.len();
        while !queries.iter().skip(seen).any(|(_, other)| *other == family) {
            let left = until.saturating_duration_since(clock::now());
            assert!(!left.is_zero(), "no query: {queries:?}");
            queries = self.shared.arrived.wait_timeout(queries, left).expect("not poisoned").0;
        }
    }
}

impl ServerState {
    fn answer(&self, socket: &UdpSocket, query: &[u8], peer: SocketAddr) {
        let Some((name, family, end)) = question(query) else { return };
        self.queries.lock().expect("not poisoned").push_back((name.clone(), family));
        self.arrived.notify_all();
        let reply = self.replies.lock().expect("not poisoned").get(&family).copied();
        let address = self.zone.lock().expect("not poisoned").get(&name).copied();
        let (code, data) = match (reply.unwrap_or(Reply::Honest), address) {
            (Reply::Silence, _) => return,
            (Reply::ServerFailure, _) => (2, None),
            (Reply::Honest, None) => (3, None),
            (Reply::Honest, Some(IpAddr::V4(ip))) if family == Family::Ipv4 => {
                (0, Some(ip.octets().to_vec()))
            }
            (Reply::Honest, Some(IpAddr::V6(ip))) if family == Family::Ipv6 => {
                (0, Some(ip.octets().to_vec()))
            }
            (Reply::Honest, Some(_)) => (0, None),
        };
        let mut response = query[..2].to_vec();
        response.extend_from_slice(&[0x81, 0x80 | code, 0, 1, 0, u8::from(data.is_some()), 0, 0, 0, 0]);
        response.extend_from_slice(&query[12..end]);
        if let Some(data) = data {
            // Pointer to the name of the question, type and class, a TTL of one hour, the address.
            response.extend_from_slice(&[0xc0, 12]);
            response.extend_from_slice(&query[end - 4..end]);
            response.extend_from_slice(&[0, 0, 14, 16, 0, u8::try_from(data.len()).expect("short")]);
            response.extend_from_slice(&data);
        }
        let _ = socket.send_to(&response, peer);
    }
}

/// Name and family of a query, and the end of its question.
fn question(query: &[u8]) -> Option<(String, Family, usize)> {
    let mut labels = Vec::new();
    let mut at = 12;
    loop {
        let length = usize::from(*query.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        labels.push(String::from_utf8_lossy(query.get(at..at + length)?).to_ascii_lowercase());
        at += length;
    }
    let family = match query.get(at..at + 2)? {
        [0, 1] => Family::Ipv4,
        [0, 28] => Family::Ipv6,
        _ => return None,
    };
    Some((labels.join("."), family, at + 4))
}
