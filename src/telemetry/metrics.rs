//! Every metric, with its handle resolved once.
//!
//! A call takes no lock and makes no allocation here.

use std::{sync::Arc, time::Duration};

use crate::{
    call::{Certainty, Operation},
    clock::Instant,
};

/// All metrics of one gateway. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Metrics(Arc<Registered>);

#[derive(Debug, Default)]
struct Registered {}

/// The metrics of one API client.
#[derive(Clone, Debug, Default)]
pub struct ApiClientMetrics {}

/// The state of a breaker, as a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakerState {
    /// Everything passes.
    Closed,
    /// Only a probe passes.
    HalfOpen,
    /// Nothing passes.
    Open,
}

impl Metrics {
    /// Nothing is registered twice: one call for each gateway.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The metrics of one API client, resolved once.
    #[must_use]
    pub fn api_client(&self, _name: &str) -> ApiClientMetrics {
        ApiClientMetrics::default()
    }

    /// A connection was accepted.
    pub fn connection_opened(&self) {}
    /// A connection has ended.
    pub fn connection_closed(&self) {}
    /// A connection was turned away because there are too many.
    pub fn connection_refused(&self) {}
    /// A TLS handshake ended: `ok`, `failed`, `timeout`, `no_alpn`.
    pub fn tls_handshake(&self, _result: &'static str) {}
    /// A header that claims an identity came from a peer that may not tell it.
    pub fn spoofed_identity_header(&self) {}
    /// Something that a security team wants to see: `ott_in_use`, `ott_rejected`,
    /// `duplicate_identity`, `slow_handshake` …
    pub fn security_event(&self, _kind: &'static str) {}
    /// The rules refused a call.
    pub fn access_denied(&self, _reason: &'static str) {}
    /// A caller used up its quota.
    pub fn quota_exceeded(&self, _caller: &str) {}
    /// An audit record was written, or could not be: `ok`, `failed`, `timeout`.
    pub fn audit_record(&self, _sink: &'static str, _result: &'static str) {}
    /// Something was reloaded, or its new version refused. `what`: `rules`,
    /// `certificate`, `client_ca`, `client_secret`, `jwks` …
    pub fn reload(&self, _what: &'static str, _ok: bool) {}
}

impl ApiClientMetrics {
    /// One attempt at the platform ended.
    pub fn request(
        &self,
        _operation: Operation,
        _certainty: Certainty,
        _http_status: Option<u16>,
        _took: Duration,
    ) {
    }
    /// An attempt is repeated.
    pub fn retry(&self, _operation: Operation) {}
    /// The breaker changed.
    pub fn breaker(&self, _state: BreakerState) {}
    /// A token request ended.
    pub fn token_refresh(&self, _ok: bool) {}
    /// The access token in use is valid until then; none if there is none.
    pub fn token_valid_until(&self, _until: Option<Instant>) {}
    /// The platform's clock is ahead of ours by so many seconds.
    pub fn clock_skew(&self, _seconds: f64) {}
}
