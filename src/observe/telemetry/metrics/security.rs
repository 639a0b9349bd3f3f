//! Metrics of security events.

use prometheus::{IntCounter, IntCounterVec};

use super::{
    Metrics,
    family::{Families, Per},
};
use crate::observe::telemetry::label::labels;

labels! {
    /// An event that may be an attack, as a label.
    pub enum SecurityEvent {
        /// A token was presented while another call was spending it.
        OttInUse = "ott_in_use",
        /// A token is unknown, used or expired.
        OttRejected = "ott_rejected",
        /// The platform answered a login with the account of another user.
        AccountMismatch = "account_mismatch",
        /// A caller spent the token of a user that its rules do not allow.
        AccountNotAllowed = "account_not_allowed",
        /// A credential is missing or not valid.
        CallerUnauthenticated = "caller_unauthenticated",
        /// Identity metadata was given twice.
        DuplicateIdentity = "duplicate_identity",
        /// A TLS handshake was not completed in time.
        SlowHandshake = "slow_handshake",
        /// The HTTP/2 preface did not arrive in time.
        SlowPreface = "slow_preface",
        /// The message of a call did not arrive in time.
        SlowBody = "slow_body",
    }
}

labels! {
    /// Result of logging out a session that no caller received, as a label.
    pub enum Logout {
        /// The platform ended the session.
        Succeeded = "logged_out",
        /// The platform refused or did not respond: the session may still exist.
        Failed = "logout_failed",
    }
}

/// The families of this module.
pub(super) struct SecurityFamilies {
    events: Per<SecurityEvent, IntCounter>,
    spoofed_identity_headers: IntCounter,
    undelivered_sessions: IntCounterVec,
}

impl SecurityFamilies {
    pub(super) fn register(families: &Families<'_>) -> Self {
        Self {
            events: families.counter_per(
                "ott_gateway_security_events_total",
                "Events that may be attacks.",
                "kind",
            ),
            spoofed_identity_headers: families.counter(
                "ott_gateway_spoofed_identity_headers_total",
                "Identity headers from untrusted peers, which were ignored.",
            ),
            undelivered_sessions: families.counters(
                "ott_gateway_undelivered_sessions_total",
                "Sessions that the platform opened and no caller received.",
                &["api_client", "outcome"],
            ),
        }
    }

    /// Exports the counters of an API client before their first event.
    pub(super) fn show(&self, api_client: &str) {
        for logout in Logout::ALL {
            self.undelivered_sessions.with_label_values(&[api_client, logout.as_str()]);
        }
    }
}

impl Metrics {
    /// Counts an identity header from an untrusted peer.
    pub fn spoofed_identity_header(&self) {
        self.0.security.spoofed_identity_headers.inc();
    }

    /// Counts an event that may be an attack.
    pub fn security_event(&self, event: SecurityEvent) {
        self.0.security.events.get(event).inc();
    }

    /// Counts a session of an API client that no caller received.
    pub fn undelivered_session(&self, api_client: &str, logout: Logout) {
        self.0.security.undelivered_sessions.with_label_values(&[api_client, logout.as_str()]).inc();
    }
}
