//! All metrics, as they are registered.
//!
//! When each is counted is documented where it is counted.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use arc_swap::ArcSwap;
use prometheus::{
    Gauge, GaugeVec, Histogram, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry,
    process_collector::ProcessCollector,
};

use tonic::Code;

use super::{
    AccessDenial, AdminMetrics, ApiClientMetrics, CallLimit, ConnectionEnd, ConnectionRefusal, CountedBy,
    Method, OutgoingMetrics, QuotaBucket, SecurityEvent, TraceMetrics, WatchMetrics,
    api_client::ApiClientFamilies,
    audit::AuditQueue,
    caller_memory::{CallerMemory, CallerMemoryMetrics},
    family::{ByCode, ByWord, Durations, Families, PerMethod, per_method},
    health_calls::HealthFamilies,
    key_waits::KeyWaitMetrics,
    peers::PeerFamilies,
    reloads::Reloads,
};
use crate::{
    call::{BodyLimit, InFlightLimit},
    memory::ResponseMemory,
    reason::Reason,
    telemetry::{
        duties::{Duties, Duty},
        names,
        threads::Threads,
    },
};

/// The label of all callers that the rules do not name.
const OTHER: &str = "other";

/// One gateway's metrics.
pub(super) struct Registered {
    pub(super) registry: Registry,
    pub(super) started: PerMethod<IntCounter>,
    pub(super) handled: ByCode,
    pub(super) handling_seconds: Durations,
    pub(super) errors: ByWord<2>,
    pub(super) calls_in_flight: Gauge,
    pub(super) in_flight: Mutex<Vec<InFlightLimit>>,
    pub(super) response_memory_bytes: Gauge,
    pub(super) response_memory_reserved_bytes: Gauge,
    pub(super) response_memory: Mutex<Option<(usize, ResponseMemory)>>,
    pub(super) calls_awaiting_body: Gauge,
    pub(super) awaited_bodies: Mutex<Vec<BodyLimit>>,
    pub(super) calls_shed: ByWord<1>,
    pub(super) refused_calls_summarized: ByWord<1>,
    pub(super) without_deadline: IntCounterVec,
    pub(super) connections: [Gauge; 3],
    pub(super) connections_refused: ByWord<1>,
    pub(super) connections_ended: ByWord<1>,
    pub(super) peers: PeerFamilies,
    pub(super) api_clients: ApiClientFamilies,
    pub(super) known_api_clients: Mutex<Vec<ApiClientMetrics>>,
    pub(super) caller_calls: IntCounterVec,
    pub(super) quota_exceeded: IntCounterVec,
    pub(super) quota_buckets: [IntGauge; QuotaBucket::ALL.len()],
    pub(super) quota_shared: [IntCounter; QuotaBucket::ALL.len()],
    pub(super) callers: ArcSwap<HashMap<Box<str>, Arc<CallerCounters>>>,
    pub(super) other_callers: CallerCounters,
    pub(super) access_denied: ByWord<1>,
    pub(super) spoofed_identity_headers: IntCounter,
    pub(super) audit_records: ByWord<2>,
    pub(super) audit_queue: AuditQueue,
    pub(super) security_events: ByWord<1>,
    pub(super) undelivered_sessions: IntCounterVec,
    pub(super) reloads: Reloads,
    pub(super) jwt_keys_expired: IntGaugeVec,
    pub(super) jwt_key_waits: KeyWaitMetrics,
    pub(super) caller_memories: [CallerMemoryMetrics; CallerMemory::ALL.len()],
    pub(super) certificate_not_before: IntGaugeVec,
    pub(super) certificate_not_after: IntGaugeVec,
    pub(super) event_loop_lag: Histogram,
    pub(super) panics: IntCounter,
    pub(super) threads: Threads,
    pub(super) thread_up: GaugeVec,
    pub(super) duties: Duties,
    pub(super) duty_up: GaugeVec,
    pub(super) limits: IntGaugeVec,
    pub(super) limits_lowered: Gauge,
    pub(super) traces: TraceMetrics,
    pub(super) watches: WatchMetrics,
    pub(super) outgoing: OutgoingMetrics,
    pub(super) admin: AdminMetrics,
    pub(super) health_calls: HealthFamilies,
    pub(super) log_lines_dropped: IntCounter,
    pub(super) log_lines_suppressed: IntCounter,
}

/// The counters of one caller.
#[derive(Debug)]
pub(super) struct CallerCounters {
    pub(super) calls: ByCode,
    pub(super) quota_exceeded: IntCounter,
    pub(super) without_deadline: IntCounter,
}

impl Registered {
    #[expect(clippy::too_many_lines, reason = "one entry for each metric, and nothing else")]
    pub(super) fn new(threads: Threads) -> Self {
        let registry = Registry::new();
        let families = Families(&registry);
        let labels = ["grpc_type", "grpc_service", "grpc_method"];
        let handled_labels = ["grpc_type", "grpc_service", "grpc_method", "grpc_code"];
        families
            .gauges("ott_gateway_build_info", "The version of the gateway; always 1.", &["version"])
            .with_label_values(&[env!("CARGO_PKG_VERSION")])
            .set(1.0);
        let connections = families.gauges("ott_gateway_connections", "Connections of callers.", &["state"]);
        let caller_calls = families.counters(
            "ott_gateway_caller_calls_total",
            "Calls that ended, by the callers that the access rules name; `other` is everyone else.",
            &["caller", "method", "code"],
        );
        let quota_exceeded = families.counters(
            "ott_gateway_quota_exceeded_total",
            "Calls over the caller's quota: refused, or let pass in a dry run.",
            &["caller"],
        );
        let quota_buckets = families.int_gauges(
            "ott_gateway_quota_buckets",
            "Callers, and users of callers, of which quotas remember something.",
            &["per"],
        );
        let quota_shared = families.counters(
            "ott_gateway_quota_shared_decisions_total",
            "Decisions of quotas by a bucket that several callers or users share.",
            &["per"],
        );
        let without_deadline = families.counters(
            "ott_gateway_calls_without_deadline_total",
            "Calls without a deadline of their own.",
            &["caller"],
        );
        let errors = ByWord::new(families.counters(
            "ott_gateway_errors_total",
            "Calls that failed, by reason.",
            &["method", "reason"],
        ));
        for method in Method::ALL {
            for reason in Reason::ALL {
                errors.show([method.name(), reason.as_str()]);
            }
        }
        let handled = ByCode::of_server(families.counters(
            "grpc_server_handled_total",
            "Calls that ended, with any outcome.",
            &handled_labels,
        ));
        for method in Method::ALL {
            for code in names::ALL_CODES {
                handled.counter(method, code);
            }
        }
        let duty_restarts = families.counters(
            "ott_gateway_duty_restarts_total",
            "Background tasks that ended and were restarted.",
            &["duty"],
        );
        let registered = Self {
            started: per_method(&families.counters(
                "grpc_server_started_total",
                "Calls that arrived.",
                &labels,
            )),
            handled,
            handling_seconds: per_method(&families.histograms(
                "grpc_server_handling_seconds",
                "From the arrival of a call to its end.",
                &labels,
            )),
            errors,
            calls_in_flight: families.gauge(
                "ott_gateway_calls_in_flight",
                "Calls that are being worked on, those included whose caller has gone.",
            ),
            in_flight: Mutex::default(),
            response_memory_bytes: families.gauge(
                "ott_gateway_response_memory_bytes",
                "Memory for responses to logins, in bytes.",
            ),
            response_memory_reserved_bytes: families.gauge(
                "ott_gateway_response_memory_reserved_bytes",
                "The part of it that is reserved by calls, in bytes.",
            ),
            response_memory: Mutex::default(),
            calls_awaiting_body: families.gauge(
                "ott_gateway_calls_awaiting_body",
                "Calls whose request body has not arrived completely.",
            ),
            awaited_bodies: Mutex::default(),
            calls_shed: ByWord::new(families.counters(
                "ott_gateway_calls_shed_total",
                "Calls that were refused because a limit is reached.",
                &["limit"],
            )),
            refused_calls_summarized: ByWord::new(families.counters(
                "ott_gateway_refused_calls_summarized_total",
                "Refused calls that have no audit record and no log line of their own.",
                &["counted_by"],
            )),
            connections: ["handshake", "open", "draining"]
                .map(|state| connections.with_label_values(&[state])),
            connections_refused: ByWord::new(families.counters(
                "ott_gateway_connections_refused_total",
                "Connections that were closed as they were accepted because there are too many.",
                &["reason"],
            )),
            connections_ended: ByWord::new(families.counters(
                "ott_gateway_connections_ended_total",
                "Connections that ended, by the reason.",
                &["reason"],
            )),
            peers: PeerFamilies::register(&families),
            api_clients: ApiClientFamilies::register(&families),
            known_api_clients: Mutex::default(),
            other_callers: CallerCounters::new(&caller_calls, &quota_exceeded, &without_deadline, OTHER),
            caller_calls,
            quota_exceeded,
            quota_buckets: QuotaBucket::ALL.map(|per| quota_buckets.with_label_values(&[per.as_str()])),
            quota_shared: QuotaBucket::ALL.map(|per| quota_shared.with_label_values(&[per.as_str()])),
            without_deadline,
            callers: ArcSwap::default(),
            access_denied: ByWord::new(families.counters(
                "ott_gateway_access_denied_total",
                "Calls that the access rules refused.",
                &["reason"],
            )),
            spoofed_identity_headers: families.counter(
                "ott_gateway_spoofed_identity_headers_total",
                "Identity headers that came from a peer that may not send them, and were ignored.",
            ),
            audit_records: ByWord::new(families.counters(
                "ott_gateway_audit_records_total",
                "Audit records, by what became of them.",
                &["sink", "result"],
            )),
            audit_queue: AuditQueue::register(&families),
            security_events: ByWord::new(families.counters(
                "ott_gateway_security_events_total",
                "Events that a security team wants to see.",
                &["kind"],
            )),
            undelivered_sessions: families.counters(
                "ott_gateway_undelivered_sessions_total",
                "Sessions that the platform opened and no caller received.",
                &["api_client", "outcome"],
            ),
            reloads: Reloads::register(&families),
            jwt_key_waits: KeyWaitMetrics::register(&families),
            caller_memories: CallerMemoryMetrics::register(&families),
            jwt_keys_expired: families.int_gauges(
                "ott_gateway_jwt_keys_expired",
                "Whether the keys of a JWT issuer were fetched too long ago to be accepted.",
                &["issuer"],
            ),
            certificate_not_before: families.int_gauges(
                "ott_gateway_certificate_not_before_timestamp_seconds",
                "From when the certificate in use that ends next is valid.",
                &["certificate"],
            ),
            certificate_not_after: families.int_gauges(
                "ott_gateway_certificate_not_after_timestamp_seconds",
                "When the certificate in use that ends next expires.",
                &["certificate"],
            ),
            event_loop_lag: families.histogram(
                "ott_gateway_event_loop_lag_seconds",
                "How much later than due the workers get to something, measured four times a second while they have something to do.",
            ),
            panics: families.counter("ott_gateway_panics_total", "Panics while a call was handled."),
            threads,
            thread_up: families.gauges(
                "ott_gateway_thread_up",
                "1 if the thread responds, 0 if it is blocked or dead.",
                &["thread"],
            ),
            duties: Duties::new(Duty::ALL.map(|duty| duty_restarts.with_label_values(&[duty.as_str()]))),
            duty_up: families.gauges(
                "ott_gateway_duty_up",
                "1 if the background task runs, 0 if it has been failing for 10 s or more.",
                &["duty"],
            ),
            limits: families.int_gauges(
                "ott_gateway_limit",
                "Limits in effect, which depend on the limit of open files.",
                &["limit"],
            ),
            limits_lowered: families.gauge(
                "ott_gateway_limits_lowered",
                "1 if the limit of open files is too low for the configured limits.",
            ),
            traces: TraceMetrics::register(&families),
            watches: WatchMetrics::register(&families),
            outgoing: OutgoingMetrics::register(&families),
            admin: AdminMetrics::register(&families),
            health_calls: HealthFamilies::register(&families),
            log_lines_dropped: families.counter(
                "ott_gateway_log_lines_dropped_total",
                "Log lines that could not be written, or were dropped because standard error was not read fast enough.",
            ),
            log_lines_suppressed: families.counter(
                "ott_gateway_log_lines_suppressed_total",
                "Log lines that were left out because the same one had just been written often.",
            ),
            registry,
        };
        // An alert on the increase of what has never been shown would miss its first event.
        for event in SecurityEvent::ALL {
            registered.security_events.show([event.as_str()]);
        }
        for refusal in ConnectionRefusal::ALL {
            registered.connections_refused.show([refusal.as_str()]);
        }
        for end in ConnectionEnd::ALL {
            registered.connections_ended.show([end.as_str()]);
        }
        for counted_by in CountedBy::ALL {
            registered.refused_calls_summarized.show([counted_by.as_str()]);
        }
        for limit in CallLimit::ALL {
            registered.calls_shed.show([limit.as_str()]);
        }
        for reason in AccessDenial::ALL {
            registered.access_denied.show([reason.as_str()]);
        }
        // Registered by nobody else in this registry, so this cannot fail.
        let _ = registered.registry.register(Box::new(ProcessCollector::for_self()));
        registered
    }

    pub(super) fn caller_counters(&self, caller: &str) -> CallerCounters {
        CallerCounters::new(&self.caller_calls, &self.quota_exceeded, &self.without_deadline, caller)
    }
}

impl CallerCounters {
    fn new(
        calls: &IntCounterVec,
        quota_exceeded: &IntCounterVec,
        without_deadline: &IntCounterVec,
        caller: &str,
    ) -> Self {
        let calls = ByCode::of_caller(calls.clone(), caller);
        // The rest with the first call that ends so: there may be many callers.
        for method in [Method::IssueOtt, Method::LoginWithOtt] {
            calls.counter(method, Code::Ok);
        }
        Self {
            calls,
            quota_exceeded: quota_exceeded.with_label_values(&[caller]),
            without_deadline: without_deadline.with_label_values(&[caller]),
        }
    }
}
