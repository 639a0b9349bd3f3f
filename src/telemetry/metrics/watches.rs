//! Metrics of the `Watch` streams of the health service.
//!
//! A handle of its own, so that the health service is not given the metrics of calls.

use prometheus::{Gauge, IntCounter};

use super::{Counted, family::Families};

/// The limit that refused a `Watch`, as a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchLimit {
    /// Streams of one connection.
    Connection,
    /// Streams of one peer address.
    Address,
}

impl WatchLimit {
    const ALL: [Self; 2] = [Self::Connection, Self::Address];

    /// The name in metrics and log lines.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connection => "connection",
            Self::Address => "address",
        }
    }
}

/// Metrics of `Watch` streams. Cheap to clone.
#[derive(Clone, Debug)]
pub struct WatchMetrics {
    open: Gauge,
    refused: [IntCounter; WatchLimit::ALL.len()],
}

impl WatchMetrics {
    pub(super) fn register(families: &Families<'_>) -> Self {
        let refused = families.counters(
            "ott_gateway_health_watches_refused_total",
            "Health `Watch` streams that were refused because too many were open.",
            &["limit"],
        );
        Self {
            open: families.gauge("ott_gateway_health_watches", "Health `Watch` streams that are open."),
            refused: WatchLimit::ALL.map(|limit| refused.with_label_values(&[limit.as_str()])),
        }
    }

    /// Counts a stream as open until the returned value is dropped.
    #[must_use = "the stream counts until this is dropped"]
    pub fn opened(&self) -> Counted {
        Counted::new(&self.open)
    }

    /// Counts a stream that was refused.
    pub fn refused(&self, limit: WatchLimit) {
        self.refused[limit as usize].inc();
    }
}
