//! Metrics of health calls.
//!
//! A separate handle, so that the health stack has no access to the metrics of calls.

use prometheus::IntCounter;

use super::family::{Families, Per};
use crate::observe::telemetry::label::labels;

labels! {
    /// The port on which a health call arrived, as a label.
    pub enum HealthPort {
        /// The port of the gateway's calls.
        Main = "main",
        /// The port that serves only health.
        Health = "health",
    }
}

labels! {
    /// Why a request was not answered with a health status, as a label.
    pub enum HealthRefusal {
        /// It was not a gRPC request.
        NotGrpc = "not_grpc",
        /// It called another service, or opened a `Watch` beyond the limits.
        Unimplemented = "unimplemented",
        /// Its message was malformed, missing or not complete in time.
        NoMessage = "no_message",
    }
}

/// Metrics of health calls on one port. Cheap to clone.
#[derive(Clone, Debug)]
pub struct HealthCallMetrics {
    checks: IntCounter,
    refused: Per<HealthRefusal, IntCounter>,
}

impl HealthCallMetrics {
    /// Counts a request that was answered with a health status, or a `Watch` that was opened.
    pub fn answered(&self) {
        self.checks.inc();
    }

    /// Counts any other request.
    pub fn refused(&self, refusal: HealthRefusal) {
        self.refused.get(refusal).inc();
    }
}

/// Metrics of health calls on all ports.
#[derive(Debug)]
pub(super) struct HealthFamilies(Per<HealthPort, HealthCallMetrics>);

impl HealthFamilies {
    pub(super) fn register(families: &Families<'_>) -> Self {
        let checks: Per<HealthPort, IntCounter> = families.counter_per(
            "ott_gateway_health_checks_total",
            "Health calls that were answered, `Watch` streams included.",
            "port",
        );
        let refused: Per<HealthPort, Per<HealthRefusal, IntCounter>> = families.counter_per_pair(
            "ott_gateway_health_refused_total",
            "Requests of the health stack that were not answered with a health status, by reason.",
            ["port", "reason"],
        );
        Self(Per::new(|port| HealthCallMetrics {
            checks: checks.get(port).clone(),
            refused: refused.get(port).clone(),
        }))
    }

    pub(super) fn of(&self, port: HealthPort) -> HealthCallMetrics {
        self.0.get(port).clone()
    }
}
