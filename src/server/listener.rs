//! The listening socket, and the loop that accepts connections from it.
//!
//! Nothing is read here: a slow peer never keeps others from being accepted.

use std::{
    future::poll_fn,
    io,
    net::{SocketAddr, TcpListener},
    task::{Context, Poll},
    time::Duration,
};

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::{net::TcpStream, time::sleep};

use super::connections::{Connections, Place};
use crate::{backoff::Backoff, telemetry::logging::LogThrottle};

/// Connections that the kernel has accepted and we have not yet.
const BACKLOG: i32 = 1024;
/// Bytes that the kernel keeps for a peer that has not acknowledged them; it doubles the
/// number, for its own structures. Without a limit it grows to several megabytes per
/// connection. More than 100 responses, as many as a connection may have at once.
const SEND_BUFFER: usize = 128 * 1024;
/// A peer that vanished without a word is found out after this time.
const TCP_KEEPALIVE: Duration = Duration::from_mins(1);
/// After an error that lasts, such as too few file descriptors.
const ACCEPT_BACKOFF: Backoff = Backoff::new(Duration::from_millis(10), Duration::from_secs(1));

/// An accepted connection and its place among all connections.
#[derive(Debug)]
pub(super) struct Accepted {
    pub(super) stream: std::net::TcpStream,
    pub(super) place: Place,
}

/// Binds the address and listens.
pub(super) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // A restart need not wait for connections of the former process to be forgotten.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    // Accepted connections inherit it.
    socket.set_send_buffer_size(SEND_BUFFER)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Accepts connections and hands on each for which there is a place.
///
/// `accept` is the listener's own; tests put one that fails in its place.
pub(super) async fn accept_all(
    mut accept: impl FnMut(&mut Context<'_>) -> Poll<io::Result<(TcpStream, SocketAddr)>>,
    connections: Connections,
    mut hand_on: impl FnMut(Accepted),
) {
    let mut failures = 0;
    let trouble = LogThrottle::default();
    loop {
        let (stream, address) = match poll_fn(&mut accept).await {
            Ok(accepted) => {
                failures = 0;
                accepted
            }
            Err(error) if is_of_one_connection(&error) => continue,
            Err(error) => {
                failures += 1;
                if let Some(suppressed) = trouble.due() {
                    tracing::error!(
                        %error,
                        failures,
                        log.suppressed = suppressed,
                        "connections cannot be accepted"
                    );
                }
                sleep(ACCEPT_BACKOFF.longest(failures)).await;
                continue;
            }
        };
        let Some(place) = connections.admit(address).await else { continue };
        match prepare(stream) {
            Ok(stream) => hand_on(Accepted { stream, place }),
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
