//! Metrics of calls, regardless of the caller.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use prometheus::{Gauge, Histogram, IntCounter};
use tonic::Code;

use super::{
    Metrics,
    family::{ByCode, Families, METHOD_LABELS, Per, per_method},
};
use crate::{
    base::memory::ResponseMemory,
    domain::{
        call::{BodyLimit, InFlightLimit, Method},
        reason::Reason,
    },
    observe::telemetry::{
        label::{Label, labels},
        names,
    },
};

labels! {
    /// The method of a call, as a label.
    pub enum MethodLabel {
        /// `IssueOtt`.
        IssueOtt = "IssueOtt",
        /// `LoginWithOtt`.
        LoginWithOtt = "LoginWithOtt",
        /// Any other method.
        Unknown = "unknown",
    }
}

impl MethodLabel {
    /// Returns the values of `grpc_type`, `grpc_service` and `grpc_method`.
    pub(super) const fn labels(self) -> [&'static str; 3] {
        let service = match self {
            Self::IssueOtt | Self::LoginWithOtt => names::SERVICE,
            Self::Unknown => "unknown",
        };
        ["unary", service, self.as_str()]
    }
}

impl From<Option<Method>> for MethodLabel {
    fn from(method: Option<Method>) -> Self {
        match method {
            Some(Method::IssueOtt) => Self::IssueOtt,
            Some(Method::LoginWithOtt) => Self::LoginWithOtt,
            None => Self::Unknown,
        }
    }
}

impl Label for Reason {
    const VALUES: &'static [Self] = Self::ALL;

    fn as_str(self) -> &'static str {
        Self::as_str(self)
    }

    fn index(self) -> usize {
        self as usize
    }
}

labels! {
    /// A limit on calls, as a label.
    pub enum CallLimit {
        /// Calls in flight, of all callers.
        InFlight = "in_flight",
        /// Calls in flight, of one caller.
        CallerInFlight = "caller_in_flight",
        /// Calls whose body has not arrived, of all callers.
        Bodies = "awaited_bodies",
        /// Calls whose body has not arrived, of one caller.
        CallerBodies = "caller_awaited_bodies",
    }
}

labels! {
    /// Key by which refused calls without their own records are counted, as a label.
    pub enum CountedBy {
        /// The peer address, for callers that are not identified.
        Peer = "peer",
        /// The identified caller.
        Caller = "caller",
        /// None, if more peers or callers are refused than are counted separately.
        Others = "others",
    }
}

/// The families of this module.
pub(super) struct CallFamilies {
    started: Per<MethodLabel, IntCounter>,
    handled: ByCode,
    handling_seconds: Per<MethodLabel, Histogram>,
    errors: Per<MethodLabel, Per<Reason, IntCounter>>,
    calls_in_flight: Gauge,
    in_flight: Mutex<Vec<InFlightLimit>>,
    response_memory_bytes: Gauge,
    response_memory_reserved_bytes: Gauge,
    response_memory: Mutex<Option<(usize, ResponseMemory)>>,
    calls_awaiting_body: Gauge,
    awaited_bodies: Mutex<Vec<BodyLimit>>,
    shed: Per<CallLimit, IntCounter>,
    summarized: Per<CountedBy, IntCounter>,
    panics: IntCounter,
}

impl CallFamilies {
    pub(super) fn register(families: &Families<'_>) -> Self {
        let [kind, service, method] = METHOD_LABELS;
        let handled = ByCode::for_server(families.counters(
            "grpc_server_handled_total",
            "Calls that ended, with any outcome.",
            &[kind, service, method, "grpc_code"],
        ));
        for method in MethodLabel::ALL {
            for code in names::ALL_CODES {
                handled.counter(method, code);
            }
        }
        Self {
            started: per_method(&families.counters(
                "grpc_server_started_total",
                "Calls that arrived.",
                &METHOD_LABELS,
            )),
            handled,
            handling_seconds: per_method(&families.histograms(
                "grpc_server_handling_seconds",
                "Time from the arrival of a call to its end.",
                &METHOD_LABELS,
            )),
            errors: families.counter_per_pair(
                "ott_gateway_errors_total",
                "Calls that failed, by reason.",
                ["method", "reason"],
            ),
            calls_in_flight: families.gauge(
                "ott_gateway_calls_in_flight",
                "Calls in flight, including those whose caller has disconnected.",
            ),
            in_flight: Mutex::default(),
            response_memory_bytes: families
                .gauge("ott_gateway_response_memory_bytes", "Memory for responses to logins, in bytes."),
            response_memory_reserved_bytes: families.gauge(
                "ott_gateway_response_memory_reserved_bytes",
                "Memory for responses to logins that calls have reserved, in bytes.",
            ),
            response_memory: Mutex::default(),
            calls_awaiting_body: families.gauge(
                "ott_gateway_calls_awaiting_body",
                "Calls whose request body has not arrived completely.",
            ),
            awaited_bodies: Mutex::default(),
            shed: families.counter_per(
                "ott_gateway_calls_shed_total",
                "Calls that were refused because a limit was reached.",
                "limit",
            ),
            summarized: families.counter_per(
                "ott_gateway_refused_calls_summarized_total",
                "Refused calls without their own audit record and log line.",
                "counted_by",
            ),
            panics: families.counter("ott_gateway_panics_total", "Panics while a call was handled."),
        }
    }

    /// Sets the gauges to their current values.
    pub(super) fn refresh(&self) {
        let in_flight = self.in_flight.lock().unwrap_or_else(PoisonError::into_inner);
        self.calls_in_flight.set(sum(in_flight.iter().map(InFlightLimit::count)));
        let bodies = self.awaited_bodies.lock().unwrap_or_else(PoisonError::into_inner);
        self.calls_awaiting_body.set(sum(bodies.iter().map(BodyLimit::count)));
        if let Some((total, memory)) = &*self.response_memory.lock().unwrap_or_else(PoisonError::into_inner) {
            let reserved = total.saturating_sub(memory.available_bytes());
            self.response_memory_reserved_bytes.set(sum([reserved].into_iter()));
            self.response_memory_bytes.set(sum([*total].into_iter()));
        }
    }
}

fn sum(counts: impl Iterator<Item = usize>) -> f64 {
    f64::from(u32::try_from(counts.sum::<usize>()).unwrap_or(u32::MAX))
}

impl Metrics {
    /// Counts a call that arrived.
    pub fn call_started(&self, method: MethodLabel) {
        self.0.calls.started.get(method).inc();
    }

    /// Counts a call that was answered or cancelled, and the time since it arrived.
    pub fn call_handled(&self, method: MethodLabel, code: Code, took: Duration) {
        self.0.calls.handled.counter(method, code).inc();
        self.0.calls.handling_seconds.get(method).observe(took.as_secs_f64());
    }

    /// Counts a call that failed for this reason.
    pub fn error(&self, method: MethodLabel, reason: Reason) {
        self.0.calls.errors.get(method).get(reason).inc();
    }

    /// Exports the number of a server's calls in flight from now on.
    pub fn follow_in_flight(&self, calls: InFlightLimit) {
        self.0.calls.in_flight.lock().unwrap_or_else(PoisonError::into_inner).push(calls);
    }

    /// Exports the size of the memory for responses, `total` bytes, and the reserved part from now on.
    pub fn follow_response_memory(&self, total: usize, memory: ResponseMemory) {
        *self.0.calls.response_memory.lock().unwrap_or_else(PoisonError::into_inner) = Some((total, memory));
    }

    /// Exports the number of a server's calls that wait for their body from now on.
    pub fn follow_awaited_bodies(&self, bodies: BodyLimit) {
        self.0.calls.awaited_bodies.lock().unwrap_or_else(PoisonError::into_inner).push(bodies);
    }

    /// Counts a call that was refused because a limit was reached.
    pub fn call_shed(&self, limit: CallLimit) {
        self.0.calls.shed.get(limit).inc();
    }

    /// Counts a refused call without its own audit record and log line.
    pub fn refused_call_summarized(&self, counted_by: CountedBy) {
        self.0.calls.summarized.get(counted_by).inc();
    }

    /// Counts a panic of a handler.
    pub fn panic(&self) {
        self.0.calls.panics.inc();
    }
}
