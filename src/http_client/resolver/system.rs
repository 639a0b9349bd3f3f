//! The system's resolver, on separate threads.
//!
//! `getaddrinfo` blocks its thread, for half a minute or more if the name servers do not respond.
//! Each query in progress therefore has a thread, up to a limit. Further queries are queued, until
//! their lookup no longer waits for them.

mod hosts_file;

use std::{
    collections::VecDeque,
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use dns_lookup::{AddrFamily, AddrInfoHints, LookupErrorKind, SockType, getaddrinfo};

use super::{
    NameService,
    host::Reply,
    query::{QueryError, ResolvedAddresses},
    state::QUERY_LIMIT,
};
use crate::{
    http_client::local_resource::missing_resource,
    observe::telemetry::metrics::{LocalResource, LookupQuery},
};

/// Maximum number of lookup threads.
const MAX_THREADS: usize = 32;
/// Maximum number of addresses that are kept per answer.
const MAX_ADDRESSES: usize = 32;
/// `EAI_AGAIN` after this long means that no name server answered: the resolver waits at least
/// 5 s for each (`timeout` in resolv.conf, unless configured).
const SILENCE: Duration = Duration::from_secs(4);
/// `EAI_ADDRFAMILY` of glibc: the name has no address of that family.
const EAI_ADDRFAMILY: i32 = -9;

/// The system's resolver.
pub(super) struct SystemNames {
    threads: Arc<Threads>,
    /// Stack size of the threads, in bytes; the default of the standard library unless set.
    stack_size: Option<usize>,
}

struct Threads {
    hosts_file: PathBuf,
    max: usize,
    queue: Mutex<Queue>,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Reply>,
    running: usize,
}

impl Default for SystemNames {
    fn default() -> Self {
        Self::new(PathBuf::from("/etc/hosts"), MAX_THREADS)
    }
}

impl SystemNames {
    fn new(hosts_file: PathBuf, max: usize) -> Self {
        Self { threads: Arc::new(Threads { hosts_file, max, queue: Mutex::default() }), stack_size: None }
    }

    /// Creates a resolver with at most one thread.
    #[cfg(test)]
    pub(super) fn with_one_thread() -> Self {
        Self::new(PathBuf::from("/etc/hosts"), 1)
    }

    /// Creates a resolver whose threads cannot be created: no machine has enough memory for their
    /// stacks.
    #[cfg(test)]
    pub(super) fn without_threads() -> Self {
        Self { stack_size: Some(1 << 60), ..Self::default() }
    }
}

impl NameService for SystemNames {
    fn ask(&self, reply: Reply) {
        let mut queue = self.threads.queue();
        let overdue = queue.take_overdue();
        queue.waiting.push_back(reply);
        let not_started = if queue.running < self.threads.max { self.start_thread(&mut queue) } else { None };
        drop(queue);
        // After unlocking, because the host may send its next query at once.
        for reply in overdue {
            let elapsed = reply.elapsed();
            reply.send(Err(QueryError::NoAnswer(elapsed)));
        }
        if let Some((reply, error)) = not_started {
            let cause = format!("cannot start a thread: {error}");
            reply.send(Err(QueryError::Exhausted { resource: LocalResource::Threads, cause }));
        }
    }
}

impl SystemNames {
    /// Starts a thread for the last query in the queue. Returns the query if that fails.
    fn start_thread(&self, queue: &mut Queue) -> Option<(Reply, io::Error)> {
        let mut builder = thread::Builder::new().name("name-lookup".to_owned());
        if let Some(size) = self.stack_size {
            builder = builder.stack_size(size);
        }
        let threads = Arc::clone(&self.threads);
        // The thread takes the query from the queue, so that no query is lost if the thread cannot
        // be created. The queue is locked until then.
        match builder.spawn(move || threads.work()) {
            Ok(_) => {
                queue.running += 1;
                None
            }
            Err(error) => queue.waiting.pop_back().map(|reply| (reply, error)),
        }
    }
}

impl Queue {
    /// Removes the queries that their lookup has abandoned and sent again. Otherwise threads that
    /// hang would make the queue grow without bound.
    fn take_overdue(&mut self) -> Vec<Reply> {
        let mut overdue = Vec::new();
        while let Some(reply) = self.waiting.pop_front_if(|reply| reply.elapsed() >= QUERY_LIMIT) {
            overdue.push(reply);
        }
        overdue
    }
}

impl Threads {
    /// Answers queries until the queue is empty.
    fn work(self: Arc<Self>) {
        // Decrements the count even if a query panics.
        let running = Running(self);
        while let Some(reply) = running.next() {
            let result = look_up(&running.0, reply.name(), reply.query());
            let result = match result {
                Err(QueryError::ServerFailure) if reply.elapsed() >= SILENCE => {
                    Err(QueryError::NoAnswer(reply.elapsed()))
                }
                result => result,
            };
            reply.send(result);
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A thread that counts as running.
struct Running(Arc<Threads>);

impl Running {
    fn next(&self) -> Option<Reply> {
        self.0.queue().waiting.pop_front()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.queue().running -= 1;
    }
}

/// Looks up a name with the system's resolver. Blocks.
fn look_up(threads: &Threads, name: &str, query: LookupQuery) -> Result<ResolvedAddresses, QueryError> {
    let absolute = if name.ends_with('.') { name.to_owned() } else { format!("{name}.") };
    let (name, family) = match query {
        LookupQuery::AsConfigured => (name, 0),
        // The hosts file has no absolute names, and its entries override the name servers.
        _ if hosts_file::lists(&threads.hosts_file, name) => return Err(QueryError::InHostsFile),
        LookupQuery::Ipv4 => (&*absolute, AddrFamily::Inet.into()),
        LookupQuery::Ipv6 => (&*absolute, AddrFamily::Inet6.into()),
    };
    // Without a socket type each address is returned once per type.
    let hints =
        AddrInfoHints { address: family, socktype: SockType::Stream.into(), ..AddrInfoHints::default() };
    let found = getaddrinfo(Some(name), None, Some(hints)).map_err(query_error)?;
    let addresses: Vec<IpAddr> =
        found.filter_map(Result::ok).map(|info| info.sockaddr.ip()).take(MAX_ADDRESSES).collect();
    match addresses.first() {
        None => Err(QueryError::NoAddress),
        Some(first) => Ok(ResolvedAddresses {
            is_routable: query != LookupQuery::Ipv6 || is_routable(*first),
            addresses,
        }),
    }
}

fn query_error(error: dns_lookup::LookupError) -> QueryError {
    if error.error_num() == EAI_ADDRFAMILY {
        return QueryError::NoAddress;
    }
    match error.kind() {
        LookupErrorKind::NoName => QueryError::NoSuchName,
        LookupErrorKind::NoData => QueryError::NoAddress,
        LookupErrorKind::Again | LookupErrorKind::Fail => QueryError::ServerFailure,
        LookupErrorKind::Memory => {
            QueryError::Exhausted { resource: LocalResource::Memory, cause: error.to_string() }
        }
        _ => {
            let error = io::Error::from(error);
            let cause = error.to_string();
            match missing_resource(&error) {
                Some(resource) => QueryError::Exhausted { resource, cause },
                None => QueryError::Failed(cause),
            }
        }
    }
}

/// Returns whether this machine has a route and a source address for an IPv6 address. Sends
/// nothing.
fn is_routable(address: IpAddr) -> bool {
    const DISCARD: u16 = 9;
    let probe = |socket: UdpSocket| socket.connect(SocketAddr::new(address, DISCARD));
    UdpSocket::bind("[::]:0").and_then(probe).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{http_client::resolver::Resolver, observe::telemetry::metrics::OutgoingMetrics};

    #[test]
    fn names_in_the_hosts_file_are_resolved_by_the_system() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "127.0.0.1 localhost\n10.0.0.1 platform.example\n").unwrap();
        let threads = Threads { hosts_file: file.path().to_owned(), max: 1, queue: Mutex::default() };
        for query in [LookupQuery::Ipv4, LookupQuery::Ipv6] {
            assert_eq!(look_up(&threads, "platform.example", query), Err(QueryError::InHostsFile));
        }
        let found = look_up(&threads, "localhost", LookupQuery::AsConfigured).unwrap();
        assert!(found.addresses.iter().all(IpAddr::is_loopback) && !found.addresses.is_empty(), "{found:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn queued_queries_are_removed_when_their_lookup_sends_them_again() {
        let names = SystemNames::new(PathBuf::from("/etc/hosts"), 0);
        let threads = Arc::clone(&names.threads);
        let resolver = Resolver::new(Box::new(names), OutgoingMetrics::default());
        let host = resolver.host("eu2.example");
        for _ in 0..100 {
            host.refresh_if_due();
            assert_eq!(threads.queue().waiting.len(), 2, "one query for each family");
            tokio::time::advance(QUERY_LIMIT).await;
        }
    }

    #[test]
    fn addresses_without_a_route_are_recognized() {
        // A link-local address needs a zone.
        assert!(!is_routable("fe80::1".parse().unwrap()));
    }
}
