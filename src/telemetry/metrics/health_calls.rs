//! Metrics of health calls.
//!
//! A handle of its own, so that the health stack is not given the metrics of calls.

use prometheus::{IntCounter, IntCounterVec};

use super::family::Families;

/// The port on which a health call arrived, as a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HealthPort {
    /// The port of the gateway's calls.
    Main,
    /// The port that serves health alone.
    Health,
}

/// Why a request was not answered with a health status, as a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HealthRefusal {
    /// It was not a gRPC request.
    NotGrpc,
    /// It asked for anything but health, or for a `Watch` beyond the limits.
    Unimplemented,
    /// Its message was malformed, missing or not complete in time.
    NoMessage,
}

impl HealthPort {
    const ALL: [Self; 2] = [Self::Main, Self::Health];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Main => "main",
            Self::Health => "health",
        }
    }
}

impl HealthRefusal {
    const ALL: [Self; 3] = [Self::NotGrpc, Self::Unimplemented, Self::NoMessage];

    const fn as_str(self) -> &'static str {
        match self {
            Self::NotGrpc => "not_grpc",
            Self::Unimplemented => "unimplemented",
            Self::NoMessage => "no_message",
        }
    }
}

/// Metrics of health calls on one port. Cheap to clone.
#[derive(Clone, Debug)]
pub struct HealthCallMetrics {
    checks: IntCounter,
    refused: [IntCounter; HealthRefusal::ALL.len()],
}

impl HealthCallMetrics {
    /// Counts a request that was answered with a health status, or a `Watch` that was opened.
    pub fn answered(&self) {
        self.checks.inc();
    }

    /// Counts any other request.
    pub fn refused(&self, refusal: HealthRefusal) {
        self.refused[refusal as usize].inc();
    }
}

/// Metrics of health calls on all ports.
#[derive(Debug)]
pub(super) struct HealthFamilies([HealthCallMetrics; HealthPort::ALL.len()]);

impl HealthFamilies {
    pub(super) fn register(families: &Families<'_>) -> Self {
        let checks = families.counters(
            "ott_gateway_health_checks_total",
            "Health calls that were answered, `Watch` streams included.",
            &["port"],
        );
        let refused = families.counters(
            "ott_gateway_health_refused_total",
            "Requests of the health stack that were not answered with a health status, by reason.",
            &["port", "reason"],
        );
        Self(HealthPort::ALL.map(|port| of_port(port, &checks, &refused)))
    }

    pub(super) fn of(&self, port: HealthPort) -> HealthCallMetrics {
        self.0[port as usize].clone()
    }
}

fn of_port(port: HealthPort, checks: &IntCounterVec, refused: &IntCounterVec) -> HealthCallMetrics {
    HealthCallMetrics {
        checks: checks.with_label_values(&[port.as_str()]),
        refused: HealthRefusal::ALL
            .map(|refusal| refused.with_label_values(&[port.as_str(), refusal.as_str()])),
    }
}
