//! Limits on peers, each with the attack or failure that it bounds.

use std::time::Duration;

/// Limits on what peers may take from the server. All of them are set explicitly; none is left to a
/// library's default.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// `max_connections`: maximum number of connections, over all workers. A further one takes the
    /// place of a connection that has carried no identified call, and is closed if there is none.
    pub max_connections: usize,
    /// `max_connections_per_peer`: maximum number of connections of one peer: an IPv4 address or an
    /// IPv6 /64. Loopback addresses and trusted proxies are exempt. A further one takes the place
    /// of another connection of the same peer, as above. `None` means a quarter of
    /// `max_connections`.
    pub max_connections_per_peer: Option<usize>,
    /// `idle_timeout`: a connection without a call in progress for this time is sent a GOAWAY.
    pub idle_timeout: Duration,
    /// A connection is sent a GOAWAY this long after it was accepted if it has carried no call of a
    /// caller that the access rules name. `None` for a port without caller identification: there,
    /// the connection that has been idle longest makes room for others.
    pub unidentified_timeout: Option<Duration>,
    /// A connection that has carried no call of a caller that the access rules name is closed
    /// when the peer has not accepted a response for this time, after `unidentified_timeout`.
    pub delivery_timeout: Duration,
    /// Maximum time for a TLS handshake, including the wait for its share of CPU time.
    pub handshake_timeout: Duration,
    /// Maximum time for the HTTP/2 preface to arrive.
    pub preface_timeout: Duration,
    /// A peer that has sent nothing for this time is pinged.
    pub keepalive_interval: Duration,
    /// A connection whose ping is not answered within this time is closed.
    pub keepalive_timeout: Duration,
    /// `max_connection_age`: a connection gets a GOAWAY at this age ± 10 %, so that a load balancer
    /// can redistribute the callers.
    pub connection_age: Duration,
    /// A connection with calls in progress that was sent a GOAWAY because of a time limit is closed
    /// after this time, which is longer than any call may take.
    pub connection_grace: Duration,
    /// The same without calls in progress. The peer answers the GOAWAY within one round trip.
    pub goaway_timeout: Duration,
    /// Time for the other calls of a connection that is closed because the peer does not read a
    /// response whose memory others wait for.
    pub unread_grace: Duration,
    /// Maximum number of open streams per connection; further ones are refused (`REFUSED_STREAM`).
    pub max_streams: u32,
    /// Maximum number of open streams on a connection that has carried no call of a caller that the
    /// access rules name. At the stream that would exceed it, reading pauses until another stream
    /// ends or a call identifies the caller. Bounds what peers without a credential hold in total.
    pub unidentified_streams: usize,
    /// Maximum number of open streams beyond that, on all those connections together.
    pub shared_unidentified_streams: usize,
    /// Burst of streams that a client may reset or have refused (`REFUSED_STREAM`). Each stream
    /// that is answered adds one again, up to this number. Beyond it and `resets_per_second`, the
    /// connection ends with GOAWAY (rapid reset, CVE-2023-44487). More than the 1,000 calls that a
    /// client's channel may have waiting when their common deadline passes; nghttp2 allows 1,000.
    pub reset_burst: u32,
    /// Number added to the allowance per second.
    pub resets_per_second: u32,
    /// Burst of streams that our side may reset because of the peer's errors; more end the
    /// connection with GOAWAY (`MadeYouReset`, CVE-2025-8671). Equal to `max_streams`. A request
    /// body that arrives after its call was answered does not count.
    pub stream_error_burst: u32,
    /// Number added to the allowance per second.
    pub stream_errors_per_second: u32,
    /// Maximum number of streams that our side resets or refuses in the lifetime of a connection.
    /// Bounds the frames queued for a peer that does not read.
    pub max_local_error_resets: usize,
    /// Maximum number of resets that are read before the streams opened until then are accepted.
    /// Bounds the streams that were reset and wait to be accepted.
    pub max_pending_resets: usize,
    /// Maximum size of the request headers, in bytes as HPACK counts them.
    pub max_header_list: u32,
    /// Maximum frame size, in bytes.
    pub max_frame: u32,
    /// Flow-control window of a stream, in bytes.
    pub stream_window: u32,
    /// Flow-control window of a connection, in bytes.
    pub connection_window: u32,
    /// Maximum number of bytes buffered per stream for a peer that does not read.
    pub max_send_buffer: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 1024,
            max_connections_per_peer: None,
            idle_timeout: Duration::from_mins(5),
            unidentified_timeout: Some(Duration::from_secs(15)),
            delivery_timeout: Duration::from_secs(10),
            handshake_timeout: Duration::from_secs(5),
            preface_timeout: Duration::from_secs(5),
            keepalive_interval: Duration::from_secs(30),
            keepalive_timeout: Duration::from_secs(20),
            connection_age: Duration::from_mins(30),
            connection_grace: Duration::from_secs(30),
            goaway_timeout: Duration::from_secs(5),
            unread_grace: Duration::from_secs(1),
            max_streams: 100,
            unidentified_streams: 2,
            shared_unidentified_streams: 512,
            reset_burst: 2000,
            resets_per_second: 200,
            stream_error_burst: 100,
            stream_errors_per_second: 50,
            max_local_error_resets: 4096,
            max_pending_resets: 20,
            max_header_list: 16 * 1024,
            max_frame: 16 * 1024,
            stream_window: 64 * 1024,
            connection_window: 256 * 1024,
            max_send_buffer: 64 * 1024,
        }
    }
}

impl Limits {
    /// Returns the maximum number of connections of one peer.
    #[must_use]
    pub fn max_per_peer(&self) -> usize {
        self.max_connections_per_peer.unwrap_or_else(|| (self.max_connections / 4).max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_peer_has_a_quarter_of_the_connections_unless_configured() {
        let with = |max_connections, max_connections_per_peer| {
            Limits { max_connections, max_connections_per_peer, ..Limits::default() }.max_per_peer()
        };
        assert_eq!(
            [with(1024, None), with(2000, None), with(3, None), with(1024, Some(7))],
            [256, 500, 1, 7]
        );
    }
}
