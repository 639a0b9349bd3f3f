//! All metrics, with handles that are resolved once.
//!
//! A call takes no lock and makes no allocation here. The values of labels are constants of the code,
//! or API clients and callers of the configuration; never users or tokens. `docs/metrics.md`
//! describes every metric.

mod admin;
mod api_client;
mod audit;
mod caller_memory;
mod callers;
mod calls;
mod candidates;
mod certificates;
mod connections;
mod family;
mod health_calls;
mod key_waits;
mod outgoing;
mod peers;
mod process;
mod reloads;
mod security;
mod token_binding;
mod traces;
mod watches;

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use prometheus::{IntGaugeVec, Registry, TextEncoder, process_collector::ProcessCollector};

pub use self::{
    admin::{AdminMetrics, AdminPath, AdminResult},
    api_client::{ApiClientMetrics, BreakerState, TokenRefresh},
    audit::{AuditClass, AuditError, AuditPending, AuditSink, RecordResult},
    caller_memory::{CallerMemory, CallerMemoryMetrics},
    callers::{AccessDenial, QuotaBucket},
    calls::{CallLimit, CountedBy, MethodLabel},
    certificates::Certificate,
    connections::{ConnectionEnd, ConnectionRefusal, ConnectionState, GaugeGuard},
    health_calls::{HealthCallMetrics, HealthPort, HealthRefusal},
    key_waits::{KeyWait, KeyWaitMetrics},
    outgoing::{LocalResource, LookupQuery, LookupResult, OutgoingMetrics},
    peers::{Http2Error, TlsFailure},
    process::EffectiveLimit,
    reloads::{JwksMetrics, ReloadMetrics, Reloaded},
    security::{Logout, SecurityEvent},
    token_binding::SealRefusal,
    traces::{SpanLoss, TraceMetrics},
    watches::{WatchLimit, WatchMetrics},
};
use self::{
    api_client::ApiClientFamilies,
    audit::AuditFamilies,
    callers::CallerFamilies,
    calls::CallFamilies,
    candidates::CandidateFamilies,
    certificates::CertificateFamilies,
    connections::ConnectionFamilies,
    family::{Families, Per},
    health_calls::HealthFamilies,
    peers::PeerFamilies,
    process::ProcessFamilies,
    reloads::Reloads,
    security::SecurityFamilies,
    token_binding::TokenBindingFamilies,
};
use super::threads::Threads;

/// All metrics of one gateway. Cheap to clone.
#[derive(Clone)]
pub struct Metrics(Arc<Registered>);

/// The metrics registered for one gateway, by subject.
struct Registered {
    registry: Registry,
    calls: CallFamilies,
    callers: CallerFamilies,
    candidates: CandidateFamilies,
    connections: ConnectionFamilies,
    peers: PeerFamilies,
    security: SecurityFamilies,
    token_binding: TokenBindingFamilies,
    certificates: CertificateFamilies,
    api_clients: ApiClientFamilies,
    known_api_clients: Mutex<Vec<ApiClientMetrics>>,
    audit: AuditFamilies,
    reloads: Reloads,
    jwt_keys_expired: IntGaugeVec,
    jwt_key_waits: KeyWaitMetrics,
    caller_memories: Per<CallerMemory, CallerMemoryMetrics>,
    process: ProcessFamilies,
    traces: TraceMetrics,
    watches: WatchMetrics,
    outgoing: OutgoingMetrics,
    admin: AdminMetrics,
    health_calls: HealthFamilies,
}

impl Registered {
    fn new(threads: Threads) -> Self {
        let registry = Registry::new();
        let families = Families(&registry);
        let registered = Self {
            calls: CallFamilies::register(&families),
            callers: CallerFamilies::register(&families),
            candidates: CandidateFamilies::register(&families),
            connections: ConnectionFamilies::register(&families),
            peers: PeerFamilies::register(&families),
            security: SecurityFamilies::register(&families),
            token_binding: TokenBindingFamilies::register(&families),
            certificates: CertificateFamilies::register(&families),
            api_clients: ApiClientFamilies::register(&families),
            known_api_clients: Mutex::default(),
            audit: AuditFamilies::register(&families),
            reloads: Reloads::register(&families),
            jwt_keys_expired: families.int_gauges(
                "ott_gateway_jwt_keys_expired",
                "Whether the keys of a JWT issuer were fetched too long ago to be accepted.",
                &["issuer"],
            ),
            jwt_key_waits: KeyWaitMetrics::register(&families),
            caller_memories: CallerMemoryMetrics::register(&families),
            process: ProcessFamilies::register(&families, threads),
            traces: TraceMetrics::register(&families),
            watches: WatchMetrics::register(&families),
            outgoing: OutgoingMetrics::register(&families),
            admin: AdminMetrics::register(&families),
            health_calls: HealthFamilies::register(&families),
            registry,
        };
        // It is registered only once, so this cannot fail.
        let _ = registered.registry.register(Box::new(ProcessCollector::for_self()));
        registered
    }
}

impl Metrics {
    /// Registers all metrics in a new registry. Called once per gateway.
    #[must_use]
    pub fn new() -> Self {
        Self(Arc::new(Registered::new(Threads::new())))
    }

    /// Creates metrics whose threads count as blocked after `limit` instead of 10 s.
    #[cfg(test)]
    pub(crate) fn with_blocked_after(limit: std::time::Duration) -> Self {
        Self(Arc::new(Registered::new(Threads::for_test(limit))))
    }

    /// Returns the metrics of one API client. The handle that was created last for a name sets the
    /// remaining lifetime of its token.
    #[must_use]
    pub fn api_client(&self, name: &str) -> ApiClientMetrics {
        let metrics = self.0.api_clients.resolve(name, self.0.reloads.clone());
        self.0.security.show(name);
        let mut known = self.0.known_api_clients.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|other| other.name() != name);
        known.push(metrics.clone());
        metrics
    }

    /// Returns the metrics of calls that lack a JWT key.
    #[must_use]
    pub fn jwt_key_waits(&self) -> KeyWaitMetrics {
        self.0.jwt_key_waits.clone()
    }

    /// Returns the metrics of a cache of identified callers.
    #[must_use]
    pub fn caller_memory(&self, memory: CallerMemory) -> CallerMemoryMetrics {
        self.0.caller_memories.get(memory).clone()
    }

    /// Returns the metrics of traces.
    #[must_use]
    pub fn traces(&self) -> TraceMetrics {
        self.0.traces.clone()
    }

    /// Returns the metrics of outgoing connections.
    #[must_use]
    pub fn outgoing(&self) -> OutgoingMetrics {
        self.0.outgoing.clone()
    }

    /// Returns the metrics of the admin port's requests.
    #[must_use]
    pub fn admin(&self) -> AdminMetrics {
        self.0.admin.clone()
    }

    /// Returns the metrics of health calls on a port.
    #[must_use]
    pub fn health_calls(&self, port: HealthPort) -> HealthCallMetrics {
        self.0.health_calls.of(port)
    }

    /// Returns the metrics of the health service's `Watch` streams.
    #[must_use]
    pub fn watches(&self) -> WatchMetrics {
        self.0.watches.clone()
    }

    /// Returns all metrics in the Prometheus text format.
    #[must_use]
    pub fn render(&self) -> String {
        for client in self.0.known_api_clients.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            client.refresh();
        }
        self.0.audit.refresh();
        self.0.outgoing.refresh();
        self.0.calls.refresh();
        self.0.process.refresh();
        // Fails only for metrics without a name or a value.
        TextEncoder::new().encode_to_string(&self.0.registry.gather()).unwrap_or_default()
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
