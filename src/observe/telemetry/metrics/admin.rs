//! Metrics of requests on the admin port.

use prometheus::IntCounter;

use super::family::{Families, Per};
use crate::observe::telemetry::label::labels;

labels! {
    /// Path of a request on the admin port, as a label.
    pub enum AdminPath {
        /// `/metrics`.
        Metrics = "metrics",
        /// `/livez`.
        Livez = "livez",
        /// `/readyz`.
        Readyz = "readyz",
        /// Any other path.
        Other = "other",
    }
}

labels! {
    /// Result of a request, as a label.
    pub enum AdminResult {
        /// 200.
        Ok = "ok",
        /// 503: not alive, or not ready.
        Failing = "failing",
        /// 404 or 405: no such page, or no such method.
        Rejected = "rejected",
    }
}

/// Metrics of the admin port. Cheap to clone.
#[derive(Clone, Debug)]
pub struct AdminMetrics {
    requests: Per<AdminPath, Per<AdminResult, IntCounter>>,
}

impl AdminMetrics {
    pub(super) fn register(families: &Families<'_>) -> Self {
        Self {
            requests: families.counter_per_pair(
                "ott_gateway_admin_requests_total",
                "Requests on the admin port that were answered.",
                ["path", "result"],
            ),
        }
    }

    /// Counts a request that was answered.
    pub fn answered(&self, path: AdminPath, result: AdminResult) {
        self.requests.get(path).get(result).inc();
    }
}
