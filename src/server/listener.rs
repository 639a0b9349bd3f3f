//! The listening socket, and the loop that accepts connections from it.
//!
//! Nothing is read here: a slow peer never keeps others from being accepted.

use std::{
    future::poll_fn,
    io,
    net::{SocketAddr, TcpListener},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use rustix::process::{Resource, getrlimit};
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::{
    net::TcpStream,
    sync::{OwnedSemaphorePermit, Semaphore},
    time::sleep,
};

use crate::{
    backoff::Backoff,
    clock::{self, Instant},
    telemetry::metrics::Metrics,
};

/// Connections that the kernel has accepted and we have not yet.
const BACKLOG: i32 = 1024;
/// A peer that vanished without a word is found out after this time.
const TCP_KEEPALIVE: Duration = Duration::from_mins(1);
/// After an error that lasts, such as too few file descriptors.
const ACCEPT_BACKOFF: Backoff = Backoff::new(Duration::from_millis(10), Duration::from_secs(1));
/// The same trouble is told once in this time.
const LOG_INTERVAL: Duration = Duration::from_secs(5);

/// An accepted connection, counted until `permit` is dropped.
#[derive(Debug)]
pub(super) struct Accepted {
    pub(super) stream: std::net::TcpStream,
    pub(super) address: SocketAddr,
    pub(super) permit: OwnedSemaphorePermit,
}

/// Binds the address and listens.
pub(super) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // A restart need not wait for connections of the former process to be forgotten.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Warns if the process may not open as many files as its connections need: two for
/// each call's way through, and some for itself.
pub(super) fn check_open_files(max_connections: usize) {
    let needed = u64::try_from(max_connections).unwrap_or(u64::MAX).saturating_mul(2).saturating_add(512);
    if let Some(allowed) = getrlimit(Resource::Nofile).current
        && allowed < needed
    {
        tracing::warn!(
            open_files.allowed = allowed,
            open_files.needed = needed,
            "the limit of open files is too low for the number of connections"
        );
    }
}

/// Accepts connections and hands each on, as long as there are not too many.
///
/// `accept` is the listener's own; tests put one that fails in its place.
pub(super) async fn accept_all(
    mut accept: impl FnMut(&mut Context<'_>) -> Poll<io::Result<(TcpStream, SocketAddr)>>,
    connections: Arc<Semaphore>,
    metrics: Metrics,
    mut hand_on: impl FnMut(Accepted),
) {
    let mut failures = 0;
    let mut trouble = Complaint::default();
    let mut crowd = Complaint::default();
    loop {
        let (stream, address) = match poll_fn(&mut accept).await {
            Ok(accepted) => {
                failures = 0;
                accepted
            }
            Err(error) if is_of_one_connection(&error) => continue,
            Err(error) => {
                failures += 1;
                if trouble.is_due() {
                    tracing::error!(error = %error, failures, "connections cannot be accepted");
                }
                sleep(ACCEPT_BACKOFF.longest(failures)).await;
                continue;
            }
        };
        let Ok(permit) = Arc::clone(&connections).try_acquire_owned() else {
            metrics.connection_refused();
            if crowd.is_due() {
                tracing::warn!(peer.address = %address, "a connection was closed: there are too many");
            }
            continue;
        };
        match prepare(stream) {
            Ok(stream) => hand_on(Accepted { stream, address, permit }),
            Err(error) => {
                tracing::debug!(peer.address = %address, %error, "a connection ended as it was accepted");
            }
        }
    }
}

/// Sets what every connection has, and frees it from the acceptor's runtime.
fn prepare(stream: TcpStream) -> io::Result<std::net::TcpStream> {
    stream.set_nodelay(true)?;
    SockRef::from(&stream).set_tcp_keepalive(&TcpKeepalive::new().with_time(TCP_KEEPALIVE))?;
    stream.into_std()
}

/// The connection at hand is gone; the next one may be fine.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}

/// Keeps the same warning from filling the log.
#[derive(Debug, Default)]
struct Complaint {
    last: Option<Instant>,
}

impl Complaint {
    fn is_due(&mut self) -> bool {
        let now = clock::now();
        let due = self.last.is_none_or(|last| now - last >= LOG_INTERVAL);
        if due {
            self.last = Some(now);
        }
        due
    }
}
