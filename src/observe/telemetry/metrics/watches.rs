//! Metrics of the `Watch` streams of the health service.
//!
//! A separate handle, so that the health service has no access to the metrics of calls.

use prometheus::{Gauge, IntCounter};

use super::{
    GaugeGuard,
    family::{Families, Per},
};
use crate::observe::telemetry::label::labels;

labels! {
    /// The limit that refused a `Watch`, as a label.
    pub enum WatchLimit {
        /// Streams of one connection.
        Connection = "connection",
        /// Streams of one peer address.
        Address = "address",
    }
}

/// Metrics of `Watch` streams. Cheap to clone.
#[derive(Clone, Debug)]
pub struct WatchMetrics {
    open: Gauge,
    refused: Per<WatchLimit, IntCounter>,
}

impl WatchMetrics {
    pub(super) fn register(families: &Families<'_>) -> Self {
        let refused = families.counter_per(
            "ott_gateway_health_watches_refused_total",
            "Health `Watch` streams that were refused because too many were open.",
            "limit",
        );
        Self {
            open: families.gauge("ott_gateway_health_watches", "Health `Watch` streams that are open."),
            refused,
        }
    }

    /// Counts a stream as open until the returned value is dropped.
    #[must_use = "the stream counts until this is dropped"]
    pub fn opened(&self) -> GaugeGuard {
        GaugeGuard::new(&self.open)
    }

    /// Counts a stream that was refused.
    pub fn refused(&self, limit: WatchLimit) {
        self.refused.get(limit).inc();
    }
}
