//! Metrics of callers' connections.

use prometheus::{Gauge, IntCounter};

use super::{
    Metrics,
    family::{Families, Per},
};
use crate::observe::telemetry::label::labels;

labels! {
    /// The state of a connection, as a label.
    pub enum ConnectionState {
        /// Accepted; the TLS handshake and the HTTP/2 preface are not complete.
        Handshake = "handshake",
        /// Open for calls.
        Open = "open",
        /// GOAWAY sent; calls in flight continue.
        Draining = "draining",
    }
}

labels! {
    /// Why a connection was closed immediately after it was accepted, as a label.
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
        /// It failed: a reset, an HTTP/2 violation, or an unanswered ping.
        Broken = "broken",
        /// The TLS handshake or the HTTP/2 preface failed or took too long.
        Handshake = "handshake",
        /// It had no call for the idle timeout.
        Idle = "idle",
        /// It had no identified call in time.
        Unidentified = "unidentified",
        /// It was closed for another connection, because `max_connections` was reached.
        Evicted = "evicted",
        /// It was closed for another connection of the same peer, because `max_connections_per_peer` was
        /// reached.
        PeerLimit = "peer_limit",
        /// Its peer did not read a response within two seconds while other calls waited for the
        /// response's memory.
        Unread = "unread",
        /// It reached its maximum age.
        Age = "age",
        /// The authority of the peer's certificate was withdrawn.
        Untrusted = "untrusted",
        /// The server was draining.
        Drain = "drain",
    }
}

/// Guard that increments a gauge until it is dropped.
#[derive(Debug)]
pub struct GaugeGuard(Gauge);

impl GaugeGuard {
    pub(super) fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for GaugeGuard {
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
                "Connections that were closed immediately after they were accepted, because of a limit.",
                "reason",
            ),
            ended: families.counter_per(
                "ott_gateway_connections_ended_total",
                "Connections that ended, by reason.",
                "reason",
            ),
        }
    }
}

impl Metrics {
    /// Counts a connection in a state until the returned value is dropped.
    #[must_use = "the connection counts until this is dropped"]
    pub fn connection(&self, state: ConnectionState) -> GaugeGuard {
        GaugeGuard::new(self.0.connections.in_state.get(state))
    }

    /// Counts a connection that was closed immediately after it was accepted.
    pub fn connection_refused(&self, refusal: ConnectionRefusal) {
        self.0.connections.refused.get(refusal).inc();
    }

    /// Counts a connection that has ended.
    pub fn connection_ended(&self, end: ConnectionEnd) {
        self.0.connections.ended.get(end).inc();
    }
}
