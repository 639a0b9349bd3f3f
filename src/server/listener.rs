//! The listening socket, and the loop that accepts connections from it.
//!
//! Nothing is read from connections here, so a slow peer never delays accepting others.

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
use crate::{base::backoff::Backoff, observe::telemetry::logging::LogThrottle};

/// Length of the kernel's queue of connections that have not been accepted yet.
const BACKLOG: i32 = 1024;
/// Size of the kernel's send buffer of a connection, in bytes, which the kernel doubles for its own
/// structures. Without a limit the buffer grows to several megabytes. Has room for more than 100
/// responses, the maximum number of streams of a connection.
const SEND_BUFFER: usize = 128 * 1024;
/// Idle time after which TCP keepalive probes detect a peer that vanished.
const TCP_KEEPALIVE: Duration = Duration::from_mins(1);
/// Delay after a persistent error, such as too few file descriptors.
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
    // Otherwise a restart fails while connections of the previous process are in TIME_WAIT.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    // Accepted connections inherit the size.
    socket.set_send_buffer_size(SEND_BUFFER)?;
    accept_both_families(&socket, address)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Makes `[::]` include the addresses of IPv4, which otherwise depends on the host
/// (`net.ipv6.bindv6only`).
fn accept_both_families(socket: &Socket, address: SocketAddr) -> io::Result<()> {
    if address.is_ipv6() && address.ip().is_unspecified() {
        socket.set_only_v6(false)?;
    }
    Ok(())
}

/// Accepts connections and passes on each one that gets a place.
///
/// `accept` is the listener's `poll_accept`; tests replace it with one that fails.
pub(super) async fn accept_all(
    mut accept: impl FnMut(&mut Context<'_>) -> Poll<io::Result<(TcpStream, SocketAddr)>>,
    connections: Connections,
    mut hand_on: impl FnMut(Accepted),
) {
    let mut failures = 0;
    let throttle = LogThrottle::default();
    loop {
        let (stream, address) = match poll_fn(&mut accept).await {
            Ok(accepted) => {
                failures = 0;
                accepted
            }
            Err(error) if affects_one_connection(&error) => continue,
            Err(error) => {
                failures += 1;
                if let Some(suppressed) = throttle.due() {
                    tracing::error!(
                        %error,
                        failures,
                        log.suppressed = suppressed,
                        "cannot accept connections"
                    );
                }
                sleep(ACCEPT_BACKOFF.max_delay(failures)).await;
                continue;
            }
        };
        let Some(place) = connections.admit(address).await else { continue };
        match prepare(stream) {
            Ok(stream) => hand_on(Accepted { stream, place }),
            Err(error) => {
                tracing::debug!(peer.address = %address, %error, "connection failed while being accepted");
            }
        }
    }
}

/// Sets the socket options, and detaches the connection from the acceptor's runtime.
fn prepare(stream: TcpStream) -> io::Result<std::net::TcpStream> {
    stream.set_nodelay(true)?;
    SockRef::from(&stream).set_tcp_keepalive(&TcpKeepalive::new().with_time(TCP_KEEPALIVE))?;
    stream.into_std()
}

/// Returns whether an error concerns only the connection at hand, so that the next one may succeed.
fn affects_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The socket is as on a host where IPv6 excludes IPv4 by default.
    #[test]
    fn unspecified_ipv6_address_includes_ipv4() {
        for (address, is_only_v6) in [("[::]:0", false), ("[::1]:0", true)] {
            let socket = Socket::new(Domain::IPV6, Type::STREAM, Some(Protocol::TCP)).unwrap();
            socket.set_only_v6(true).unwrap();
            accept_both_families(&socket, address.parse().unwrap()).unwrap();
            assert_eq!(socket.only_v6().unwrap(), is_only_v6, "{address}");
        }
        let listener = listen("[::]:0".parse().unwrap()).unwrap();
        let port = listener.local_addr().unwrap().port();
        std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    }
}
