//! Metrics of traces.

use prometheus::IntCounter;

use super::family::{Families, Per};
use crate::observe::telemetry::label::labels;

labels! {
    /// Why a span did not reach the collector, as a label.
    pub enum SpanLoss {
        /// Too many spans were waiting.
        QueueFull = "queue_full",
        /// The total size of the waiting spans was too large.
        QueueBytes = "queue_bytes",
        /// The collector could not be reached, or refused the batch.
        ExportFailed = "export_failed",
        /// The collector accepted the batch without this span.
        Rejected = "rejected",
        /// Too many calls of callers that are not identified were recorded.
        CallerNotIdentified = "caller_not_identified",
    }
}

/// Metrics of traces. Cheap to clone.
#[derive(Clone, Debug)]
pub struct TraceMetrics {
    lost: Per<SpanLoss, IntCounter>,
    retries: IntCounter,
}

impl TraceMetrics {
    pub(super) fn register(families: &Families<'_>) -> Self {
        let lost = families.counter_per(
            "ott_gateway_trace_spans_lost_total",
            "Spans that did not reach the trace collector, by reason.",
            "reason",
        );
        let retries = families.counter(
            "ott_gateway_trace_export_retries_total",
            "Batches of spans that were resent to the trace collector.",
        );
        Self { lost, retries }
    }

    /// Counts spans that are lost.
    pub fn lost(&self, reason: SpanLoss, spans: usize) {
        self.lost.get(reason).inc_by(u64::try_from(spans).unwrap_or(u64::MAX));
    }

    /// Counts a batch that is resent.
    pub fn export_retried(&self) {
        self.retries.inc();
    }
}
