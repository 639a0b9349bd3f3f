//! Metrics of the connections of callers.

use prometheus::{Gauge, IntCounter};

use super::{
    Metrics,
    family::{Families, Per},
};
use crate::telemetry::label::labels;

labels! {
    /// The state of a connection, as a label.
    pub enum ConnectionState {
        /// Accepted, and not yet through its TLS handshake and its HTTP/2 preface.
        Handshake = "handshake",
        /// Open for calls.
        Open = "open",
        /// Sent a GOAWAY; calls in flight go on.
        Draining = "draining",
    }
}

labels! {
    /// Why a connection was closed as it was accepted, as a label.
    pub enum ConnectionRefusal {
        /// All `max_connections` belong to identified callers.
        TotalLimit = "total_limit",
        /// All `max_connections_per_peer` of this peer belong to identified callers.
        PeerLimit = "peer_limit",
    }
}

labels! {
    /// Why a connection ended, as a label.
    pub enum ConnectionEnd {
        /// The peer closed it.
        Peer = "peer",
        /// Its only request was answered, on the admin port.
        Answered = "answered",
        /// It broke: a reset, a violation of HTTP/2, or an unanswered ping.
        Broken = "broken",
        /// The TLS handshake or the HTTP/2 preface failed or took too long.
        Handshake = "handshake",
        /// It carried no call for the idle timeout.
        Idle = "idle",
        /// It carried no identified call in time.
        Unidentified = "unidentified",
        /// It made room for another connection, because there were `max_connections`.
        Evicted = "evicted",
        /// It made room for another connection of the same peer, which had
        /// `max_connections_per_peer`.
        PeerLimit = "peer_limit",
        /// Its peer did not accept a response within two seconds, and other calls waited for the memory
        /// that the response took.
        Unread = "unread",
        /// It reached its maximum age.
        Age = "age",
        /// The authority of the peer's certificate was withdrawn.
        Untrusted = "untrusted",
        /// The server drains.
        Drain = "drain",
    }
}

/// One that is counted in a gauge until it is dropped.
#[derive(Debug)]
pub struct Counted(Gauge);

impl Counted {
    pub(super) fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// The families of this module.
pub(super) struct ConnectionFamilies {
    in_state: Per<ConnectionState, Gauge>,
    refused: Per<ConnectionRefusal, IntCounter>,
    ended: Per<ConnectionEnd, IntCounter>,
}

impl ConnectionFamilies {
    pub(super) fn register(families: &Families<'_>) -> Self {
        Self {
            in_state: families.gauge_per("ott_gateway_connections", "Connections of callers.", "state"),
            refused: families.counter_per(
                "ott_gateway_connections_refused_total",
                "Connections that were closed as they were accepted because there are too many.",
                "reason",
            ),
            ended: families.counter_per(
                "ott_gateway_connections_ended_total",
                "Connections that ended, by the reason.",
                "reason",
            ),
        }
    }
}

impl Metrics {
    /// A connection is in that state until what is returned is dropped.
    #[must_use = "the connection counts until this is dropped"]
    pub fn connection(&self, state: ConnectionState) -> Counted {
        Counted::new(self.0.connections.in_state.get(state))
    }

    /// Counts a connection that was closed as it was accepted.
    pub fn connection_refused(&self, refusal: ConnectionRefusal) {
        self.0.connections.refused.get(refusal).inc();
    }

    /// Counts a connection that has ended.
    pub fn connection_ended(&self, end: ConnectionEnd) {
        self.0.connections.ended.get(end).inc();
    }
}
