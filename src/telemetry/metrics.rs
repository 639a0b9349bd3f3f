//! Every metric, with its handle resolved once.
//!
//! A call takes no lock and makes no allocation here. Labels have few values: a name from
//! the code, an API client or a caller that the configuration names;
//! never a user, never a token. `docs/metrics.md` describes each.

mod admin;
mod api_client;
mod audit;
mod caller_memory;
mod family;
mod health_calls;
mod key_waits;
mod outgoing;
mod peers;
mod registered;
mod reloads;
mod security;
mod traces;
mod watches;

use std::{
    fmt,
    sync::{Arc, PoisonError},
    time::Duration,
};

use prometheus::{Gauge, TextEncoder};
use tonic::Code;

use self::registered::{CallerCounters, Registered};
pub use self::{
    admin::{AdminMetrics, AdminPath, AdminResult},
    api_client::{ApiClientMetrics, TokenRefresh},
    audit::{AuditClass, AuditFault, AuditPending, AuditSink, RecordResult},
    caller_memory::{CallerMemory, CallerMemoryMetrics},
    health_calls::{HealthCallMetrics, HealthPort, HealthRefusal},
    key_waits::{KeyWait, KeyWaitMetrics},
    outgoing::{LocalResource, LookupQuery, LookupResult, OutgoingMetrics},
    peers::{Http2Error, TlsFailure},
    reloads::{JwksMetrics, ReloadMetrics, Reloaded},
    security::{AccessDenial, SecurityEvent},
    traces::{SpanLoss, TraceMetrics},
    watches::{WatchLimit, WatchMetrics},
};
use super::{
    duties::{Duties, Duty},
    names,
    threads::Threads,
};
use crate::{
    call::{BodyLimit, InFlightLimit, Operation},
    clock,
    memory::ResponseMemory,
    reason::Reason,
    validity::Validity,
};

/// Maximum number of callers with metrics of their own; the others are counted as one.
const MAX_CALLERS: usize = 1000;

/// All metrics of one gateway. Cheap to clone.
#[derive(Clone)]
pub struct Metrics(Arc<Registered>);

/// The method of a call, as a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Method {
    /// `IssueOtt`.
    IssueOtt,
    /// `LoginWithOtt`.
    LoginWithOtt,
    /// Any other method.
    Unknown,
}

impl Method {
    /// All of them, in order.
    pub const ALL: [Self; 3] = [Self::IssueOtt, Self::LoginWithOtt, Self::Unknown];

    /// The word.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::IssueOtt => "IssueOtt",
            Self::LoginWithOtt => "LoginWithOtt",
            Self::Unknown => "unknown",
        }
    }

    /// `grpc_type`, `grpc_service`, `grpc_method`.
    const fn labels(self) -> [&'static str; 3] {
        let service = match self {
            Self::IssueOtt | Self::LoginWithOtt => names::SERVICE,
            Self::Unknown => "unknown",
        };
        ["unary", service, self.name()]
    }
}

impl From<Option<Operation>> for Method {
    fn from(operation: Option<Operation>) -> Self {
        match operation {
            Some(Operation::IssueOtt) => Self::IssueOtt,
            Some(Operation::LoginWithOtt) => Self::LoginWithOtt,
            None => Self::Unknown,
        }
    }
}

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

/// The state of a connection, as a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionState {
    /// Accepted, and not yet through its TLS handshake and its HTTP/2 preface.
    Handshake,
    /// Open for calls.
    Open,
    /// Sent a GOAWAY; calls in flight go on.
    Draining,
}

/// Why a connection was closed as it was accepted, as a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionRefusal {
    /// All `max_connections` belong to identified callers.
    TotalLimit,
    /// All `max_connections_per_peer` of this peer belong to identified callers.
    PeerLimit,
}

impl ConnectionRefusal {
    /// All of them, in order.
    pub const ALL: [Self; 2] = [Self::TotalLimit, Self::PeerLimit];

    /// The name in metrics and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::TotalLimit => "total_limit",
            Self::PeerLimit => "peer_limit",
        }
    }
}

/// Why a connection ended, as a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionEnd {
    /// The peer closed it.
    Peer,
    /// Its only request was answered, on the admin port.
    Answered,
    /// It broke: a reset, a violation of HTTP/2, or an unanswered ping.
    Broken,
    /// The TLS handshake or the HTTP/2 preface failed or took too long.
    Handshake,
    /// It carried no call for the idle timeout.
    Idle,
    /// It carried no identified call in time.
    Unidentified,
    /// It made room for another connection, because there were `max_connections`.
    Evicted,
    /// It made room for another connection of the same peer, which had
    /// `max_connections_per_peer`.
    PeerLimit,
    /// Its peer did not accept a response within two seconds, and other calls waited for the memory
    /// that the response took.
    Unread,
    /// It reached its maximum age.
    Age,
    /// The authority of the peer's certificate was withdrawn.
    Untrusted,
    /// The server drains.
    Drain,
}

impl ConnectionEnd {
    /// All of them, in order.
    pub const ALL: [Self; 12] = [
        Self::Peer,
        Self::Answered,
        Self::Broken,
        Self::Handshake,
        Self::Idle,
        Self::Unidentified,
        Self::Evicted,
        Self::PeerLimit,
        Self::Unread,
        Self::Age,
        Self::Untrusted,
        Self::Drain,
    ];

    /// The name in metrics and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Peer => "peer",
            Self::Answered => "answered",
            Self::Broken => "broken",
            Self::Handshake => "handshake",
            Self::Idle => "idle",
            Self::Unidentified => "unidentified",
            Self::Evicted => "evicted",
            Self::PeerLimit => "peer_limit",
            Self::Unread => "unread",
            Self::Age => "age",
            Self::Untrusted => "untrusted",
            Self::Drain => "drain",
        }
    }
}

/// How the attempt ended to log out a session that no caller received, as a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Logout {
    /// The platform has ended the session.
    Succeeded,
    /// The platform refused, or did not answer: the session may be alive.
    Failed,
}

impl Logout {
    /// All of them, in order.
    pub(super) const ALL: [Self; 2] = [Self::Succeeded, Self::Failed];

    /// The name in metrics and audit records.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Succeeded => "logged_out",
            Self::Failed => "logout_failed",
        }
    }
}

/// Which certificates of the listener, as a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Certificate {
    /// The server's own, with its chain.
    Server,
    /// Those of the authorities of client certificates.
    ClientCa,
}

impl Certificate {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::ClientCa => "client_ca",
        }
    }
}

/// Whose bucket of a quota it is, as a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuotaBucket {
    /// All calls of one caller.
    Caller,
    /// The calls of one caller for one user.
    User,
}

impl QuotaBucket {
    /// All of them, in order.
    pub(super) const ALL: [Self; 2] = [Self::Caller, Self::User];

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Caller => "caller",
            Self::User => "user",
        }
    }
}

/// A limit on calls, as a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallLimit {
    /// Calls in flight, of all callers.
    InFlight,
    /// Calls in flight, of one caller.
    CallerInFlight,
    /// Calls whose body has not arrived, of all callers.
    Bodies,
    /// Calls whose body has not arrived, of one caller.
    CallerBodies,
}

impl CallLimit {
    /// All of them.
    pub(super) const ALL: [Self; 4] =
        [Self::InFlight, Self::CallerInFlight, Self::Bodies, Self::CallerBodies];

    /// The name in metrics and in the log.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InFlight => "in_flight",
            Self::CallerInFlight => "caller_in_flight",
            Self::Bodies => "awaited_bodies",
            Self::CallerBodies => "caller_awaited_bodies",
        }
    }
}

/// A limit that is lowered if the process may not open as many files as it takes, as a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EffectiveLimit {
    /// `max_connections`.
    Connections,
    /// `max_in_flight`.
    InFlight,
}

impl EffectiveLimit {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::InFlight => "in_flight",
        }
    }
}

/// What refused calls without records of their own are counted by, as a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CountedBy {
    /// The address of the peer: calls of callers that are not identified.
    Peer,
    /// The identified caller.
    Caller,
    /// Nothing: calls of more peers or callers than are counted separately.
    Others,
}

impl CountedBy {
    /// All of them.
    pub(super) const ALL: [Self; 3] = [Self::Peer, Self::Caller, Self::Others];

    /// The name in metrics and audit records.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Peer => "peer",
            Self::Caller => "caller",
            Self::Others => "others",
        }
    }
}

/// One that is counted in a gauge until it is dropped.
#[derive(Debug)]
pub struct Counted(Gauge);

impl Counted {
    fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Metrics {
    /// Nothing is registered twice: one call for each gateway.
    #[must_use]
    pub fn new() -> Self {
        Self(Arc::new(Registered::new(Threads::new())))
    }

    /// Metrics of a gateway whose threads count as blocked after another time than 10 s.
    #[cfg(test)]
    pub(crate) fn with_blocked_after(limit: Duration) -> Self {
        Self(Arc::new(Registered::new(Threads::for_test(limit))))
    }

    /// The metrics of one API client, resolved once. The last who asks for a name tells
    /// the life of its token.
    #[must_use]
    pub fn api_client(&self, name: &str) -> ApiClientMetrics {
        let metrics = self.0.api_clients.resolve(name, self.0.reloads.clone());
        for logout in Logout::ALL {
            self.0.undelivered_sessions.with_label_values(&[name, logout.as_str()]);
        }
        let mut known = self.0.known_api_clients.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|other| other.name() != name);
        known.push(metrics.clone());
        metrics
    }

    /// The callers that the rules name literally; only these get metrics of their own.
    /// What was counted before stays.
    pub fn set_callers(&self, callers: impl IntoIterator<Item = impl AsRef<str>>) {
        let callers = callers
            .into_iter()
            .take(MAX_CALLERS)
            .map(|caller| (Box::from(caller.as_ref()), Arc::new(self.0.caller_counters(caller.as_ref()))))
            .collect();
        self.0.callers.store(Arc::new(callers));
    }

    /// A call arrived.
    pub fn call_started(&self, method: Method) {
        self.0.started[method as usize].inc();
    }

    /// Counts a call that was answered or cancelled, and the time since it arrived.
    pub fn call_handled(&self, method: Method, code: Code, took: Duration) {
        self.0.handled.counter(method, code).inc();
        self.0.handling_seconds[method as usize].observe(took.as_secs_f64());
    }

    /// A call of that caller was answered.
    pub fn caller_call(&self, caller: &str, method: Method, code: Code) {
        self.with_caller(caller, |counters| counters.calls.counter(method, code).inc());
    }

    /// Counts a call that failed for this reason.
    pub fn error(&self, method: Method, reason: Reason) {
        self.0.errors.increment([method.name(), reason.as_str()]);
    }

    /// Shows how many calls of a server are in flight, from now on.
    pub fn follow_in_flight(&self, calls: InFlightLimit) {
        self.0.in_flight.lock().unwrap_or_else(PoisonError::into_inner).push(calls);
    }

    /// Shows how much of the memory for responses, of `total` bytes, is reserved, from now
    /// on.
    pub fn follow_response_memory(&self, total: usize, memory: ResponseMemory) {
        *self.0.response_memory.lock().unwrap_or_else(PoisonError::into_inner) = Some((total, memory));
    }

    /// Shows how many calls of a server wait for their body, from now on.
    pub fn follow_awaited_bodies(&self, bodies: BodyLimit) {
        self.0.awaited_bodies.lock().unwrap_or_else(PoisonError::into_inner).push(bodies);
    }

    /// Counts a call that was refused because a limit is reached.
    pub fn call_shed(&self, limit: CallLimit) {
        self.0.calls_shed.increment([limit.as_str()]);
    }

    /// Counts a refused call that has no audit record and no log line of its own.
    pub fn refused_call_summarized(&self, counted_by: CountedBy) {
        self.0.refused_calls_summarized.increment([counted_by.as_str()]);
    }

    /// A caller set no deadline.
    pub fn without_deadline(&self, caller: &str) {
        self.with_caller(caller, |counters| counters.without_deadline.inc());
    }

    /// A handler panicked.
    pub fn panic(&self) {
        self.0.panics.inc();
    }

    /// A connection is in that state until what is returned is dropped.
    #[must_use = "the connection counts until this is dropped"]
    pub fn connection(&self, state: ConnectionState) -> Counted {
        Counted::new(&self.0.connections[state as usize])
    }

    /// Counts a connection that was closed as it was accepted.
    pub fn connection_refused(&self, refusal: ConnectionRefusal) {
        self.0.connections_refused.increment([refusal.as_str()]);
    }

    /// Counts a connection that has ended.
    pub fn connection_ended(&self, end: ConnectionEnd) {
        self.0.connections_ended.increment([end.as_str()]);
    }

    /// Counts an identity header from a peer that may not send it.
    pub fn spoofed_identity_header(&self) {
        self.0.spoofed_identity_headers.inc();
    }

    /// Counts an event that may be an attack.
    pub fn security_event(&self, event: SecurityEvent) {
        self.0.security_events.increment([event.as_str()]);
    }

    /// Counts a session of an API client that no caller received.
    pub fn undelivered_session(&self, api_client: &str, logout: Logout) {
        self.0.undelivered_sessions.with_label_values(&[api_client, logout.as_str()]).inc();
    }

    /// Counts a call that the access rules refused.
    pub fn access_denied(&self, reason: AccessDenial) {
        self.0.access_denied.increment([reason.as_str()]);
    }

    /// A caller used up its quota; in a dry run its call passes all the same.
    pub fn quota_exceeded(&self, caller: &str) {
        self.with_caller(caller, |counters| counters.quota_exceeded.inc());
    }

    /// Adds to the number of buckets that quotas remember.
    pub fn quota_buckets(&self, bucket: QuotaBucket, change: i64) {
        self.0.quota_buckets[bucket as usize].add(change);
    }

    /// Counts a decision of a quota by a bucket that several callers or users share.
    pub fn quota_shared(&self, bucket: QuotaBucket) {
        self.0.quota_shared[bucket as usize].inc();
    }

    /// Shows the counters of an audit log before its first record.
    pub fn audit_sink(&self, sink: AuditSink) {
        for result in RecordResult::ALL {
            self.0.audit_records.show([sink.as_str(), result.as_str()]);
        }
    }

    /// Counts an audit record.
    pub fn audit_record(&self, sink: AuditSink, result: RecordResult) {
        self.0.audit_records.increment([sink.as_str(), result.as_str()]);
    }

    /// Counts audit records that were dropped because too many were waiting to be written.
    pub fn audit_records_lost(&self, class: AuditClass, records: u64) {
        self.0.audit_queue.count_lost(class, records);
    }

    /// Counts something that went wrong with the audit sink.
    pub fn audit_fault(&self, fault: AuditFault) {
        self.0.audit_queue.count_fault(fault);
    }

    /// Records how long a write to the audit sink took, with its sync and its repetitions.
    pub fn audit_write(&self, took: Duration) {
        self.0.audit_queue.observe_write(took);
    }

    /// Sets whether audit records can be written in time.
    pub fn audit_sink_up(&self, up: bool) {
        self.0.audit_queue.set_up(up);
    }

    /// Returns the counts of waiting records for a new audit log. They are exported as
    /// gauges from now on.
    #[must_use]
    pub fn audit_pending(&self) -> Arc<AuditPending> {
        self.0.audit_queue.follow()
    }

    /// Returns the metrics of a file that is reloaded. `owner`: the API client or issuer that it
    /// belongs to; empty if there is only one such file.
    #[must_use]
    pub fn reloads(&self, what: Reloaded, owner: &str) -> ReloadMetrics {
        ReloadMetrics::new(&self.0.reloads, what, owner)
    }

    /// The metrics of the keys of one JWT issuer.
    #[must_use]
    pub fn jwt_issuer(&self, name: &str) -> JwksMetrics {
        JwksMetrics {
            reloads: self.reloads(Reloaded::Jwks, name),
            expired: self.0.jwt_keys_expired.clone(),
            issuer: Arc::from(name),
        }
    }

    /// Returns the metrics of calls that lack a JWT key.
    #[must_use]
    pub fn jwt_key_waits(&self) -> KeyWaitMetrics {
        self.0.jwt_key_waits.clone()
    }

    /// Returns the metrics of a memory of callers.
    #[must_use]
    pub fn caller_memory(&self, memory: CallerMemory) -> CallerMemoryMetrics {
        self.0.caller_memories[memory as usize].clone()
    }

    /// Shows the certificate in use that ends next.
    pub fn certificate(&self, certificate: Certificate, validity: Validity) {
        let seconds = |time| i64::try_from(clock::unix_seconds(time)).unwrap_or(i64::MAX);
        for (family, time) in [
            (&self.0.certificate_not_before, validity.not_before),
            (&self.0.certificate_not_after, validity.not_after),
        ] {
            family.with_label_values(&[certificate.as_str()]).set(seconds(time));
        }
    }

    /// Records how late a timer of a worker was.
    pub fn event_loop_lag(&self, lag: Duration) {
        self.0.event_loop_lag.observe(lag.as_secs_f64());
    }

    /// Returns the heartbeats of threads, which the metrics show.
    #[must_use]
    pub fn threads(&self) -> &Threads {
        &self.0.threads
    }

    /// Returns the background tasks, which the metrics show.
    #[must_use]
    pub fn duties(&self) -> &Duties {
        &self.0.duties
    }

    /// Sets a limit in effect.
    pub fn limit(&self, limit: EffectiveLimit, value: u32) {
        self.0.limits.with_label_values(&[limit.as_str()]).set(value.into());
    }

    /// Sets whether limits are lower than configured because of the limit of open files.
    pub fn limits_lowered(&self, lowered: bool) {
        self.0.limits_lowered.set(f64::from(u8::from(lowered)));
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

    /// How many log lines have been dropped and suppressed in this process so far.
    pub fn set_log_lines(&self, dropped: u64, suppressed: u64) {
        for (counter, now) in
            [(&self.0.log_lines_dropped, dropped), (&self.0.log_lines_suppressed, suppressed)]
        {
            counter.inc_by(now.saturating_sub(counter.get()));
        }
    }

    /// All metrics in Prometheus' text format.
    #[must_use]
    pub fn render(&self) -> String {
        for client in self.0.known_api_clients.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            client.refresh();
        }
        self.0.audit_queue.refresh();
        self.0.outgoing.refresh();
        let in_flight = self.0.in_flight.lock().unwrap_or_else(PoisonError::into_inner);
        self.0.calls_in_flight.set(sum(in_flight.iter().map(InFlightLimit::count)));
        let bodies = self.0.awaited_bodies.lock().unwrap_or_else(PoisonError::into_inner);
        self.0.calls_awaiting_body.set(sum(bodies.iter().map(BodyLimit::count)));
        if let Some((total, memory)) = &*self.0.response_memory.lock().unwrap_or_else(PoisonError::into_inner)
        {
            let reserved = total.saturating_sub(memory.available_bytes());
            self.0.response_memory_reserved_bytes.set(sum([reserved].into_iter()));
            self.0.response_memory_bytes.set(sum([*total].into_iter()));
        }
        // A thread that has ended as intended is no longer shown.
        self.0.thread_up.reset();
        for (thread, condition) in self.0.threads.conditions() {
            let up = if condition.is_failure() { 0.0 } else { 1.0 };
            self.0.thread_up.with_label_values(&[&*thread]).set(up);
        }
        self.0.duty_up.reset();
        for duty in Duty::ALL {
            if let Some(is_up) = self.0.duties.is_up(duty) {
                self.0.duty_up.with_label_values(&[duty.as_str()]).set(f64::from(u8::from(is_up)));
            }
        }
        // Fails only for metrics without a name or a value.
        TextEncoder::new().encode_to_string(&self.0.registry.gather()).unwrap_or_default()
    }

    fn with_caller(&self, caller: &str, count: impl FnOnce(&CallerCounters)) {
        match self.0.callers.load().get(caller) {
            Some(counters) => count(counters),
            None => count(&self.0.other_callers),
        }
    }
}

fn sum(counts: impl Iterator<Item = usize>) -> f64 {
    f64::from(u32::try_from(counts.sum::<usize>()).unwrap_or(u32::MAX))
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
