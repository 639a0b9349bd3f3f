//! The response to HTTP/1.1 clients.
//!
//! gRPC needs HTTP/2. Closing the connection without a response would hide the reason from the
//! user, so an HTTP/1.1 client gets a response that states it.

use std::time::Duration;

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::timeout,
};

/// Human-readable description of the port's protocol.
pub(super) const SPOKEN: &str = "This port speaks gRPC over HTTP/2 only: POST with content-type application/grpc or \
     application/grpc+proto. HTTP/1.1, gRPC-Web, Connect and JSON are not served.";

/// Maximum time to send the response and for the client to close.
const LIMIT: Duration = Duration::from_secs(1);
/// Maximum number of request bytes that are read after the response. Closing a connection with
/// unread bytes resets it, and the reset can overtake the response.
const MAX_UNREAD_BYTES: usize = 64 * 1024;

/// Reason that an HTTP/1.1 request cannot be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unserved {
    /// The port expects HTTP/2.
    NotHttp2,
    /// The port also expects TLS.
    NotTls,
}

/// Returns whether a connection that begins with these bytes may come from an HTTP/1.1 client: HTTP
/// methods begin with an upper-case letter, and a TLS `ClientHello` with a control character.
pub(super) const fn looks_like(first_bytes: &[u8]) -> bool {
    matches!(first_bytes, [b'A'..=b'Z', ..])
}

/// Sends the response and closes the connection.
pub(super) async fn refuse<Io: AsyncRead + AsyncWrite + Unpin>(io: &mut Io, unserved: Unserved) {
    let response = response(unserved);
    let answer = async {
        io.write_all(response.as_bytes()).await?;
        io.shutdown().await?;
        let mut unread = [0; 1024];
        for _ in 0..MAX_UNREAD_BYTES / unread.len() {
            if io.read(&mut unread).await? == 0 {
                break;
            }
        }
        std::io::Result::Ok(())
    };
    // A client that does not read the response does not get it.
    let _ = timeout(LIMIT, answer).await;
}

fn response(unserved: Unserved) -> String {
    let (status, text) = match unserved {
        Unserved::NotHttp2 => ("505 HTTP Version Not Supported", SPOKEN.to_owned()),
        Unserved::NotTls => ("400 Bad Request", format!("This port expects TLS. {SPOKEN}")),
    };
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{text}\n",
        text.len() + 1
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_bytes_that_begin_with_a_method_look_like_http1() {
        for (bytes, expected) in [
            (&b"GET / HTTP/1.1\r\n"[..], true),
            (b"POST", true),
            (b"", false),
            (b"\x16\x03\x01", false),
            (b"\0\0\0", false),
            (b"get", false),
        ] {
            assert_eq!(looks_like(bytes), expected, "{bytes:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn client_that_neither_reads_nor_closes_is_dropped_after_a_second() {
        let (mut port, _client) = tokio::io::duplex(8);
        let begun = crate::base::clock::now();
        refuse(&mut port, Unserved::NotHttp2).await;
        assert_eq!(begun.elapsed(), LIMIT);
    }

    #[tokio::test(start_paused = true)]
    async fn client_that_never_stops_sending_is_read_up_to_the_limit() {
        let (mut port, mut client) = tokio::io::duplex(MAX_UNREAD_BYTES * 2);
        client.write_all(&vec![b'x'; MAX_UNREAD_BYTES * 2]).await.expect("room");
        let begun = crate::base::clock::now();
        refuse(&mut port, Unserved::NotHttp2).await;
        assert_eq!(begun.elapsed(), Duration::ZERO);
        let mut unread = vec![0; MAX_UNREAD_BYTES * 2];
        let left = port.read(&mut unread).await.expect("bytes");
        assert_eq!(left, MAX_UNREAD_BYTES);
    }
}
