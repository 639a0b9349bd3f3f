//! Metrics of traces.

use prometheus::IntCounter;

use super::family::Families;

/// Why a span did not reach the collector, as a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpanLoss {
    /// Too many spans were waiting.
    QueueFull,
    /// The spans that were waiting were too large together.
    QueueBytes,
    /// The collector could not be reached, or refused the batch.
    ExportFailed,
    /// The collector accepted the batch without this span.
    Rejected,
    /// Too many calls of callers that are not identified were recorded.
    CallerNotIdentified,
}

impl SpanLoss {
    const ALL: [Self; 5] =
        [Self::QueueFull, Self::QueueBytes, Self::ExportFailed, Self::Rejected, Self::CallerNotIdentified];

    const fn as_str(self) -> &'static str {
        match self {
            Self::QueueFull => "queue_full",
            Self::QueueBytes => "queue_bytes",
            Self::ExportFailed => "export_failed",
            Self::Rejected => "rejected",
            Self::CallerNotIdentified => "caller_not_identified",
        }
    }
}

/// Metrics of traces. Cheap to clone.
#[derive(Clone, Debug)]
pub struct TraceMetrics {
    lost: [IntCounter; SpanLoss::ALL.len()],
    retries: IntCounter,
}

impl TraceMetrics {
    pub(super) fn register(families: &Families<'_>) -> Self {
        let lost = families.counters(
            "ott_gateway_trace_spans_lost_total",
            "Spans that did not reach the trace collector, by reason.",
            &["reason"],
        );
        let retries = families.counter(
            "ott_gateway_trace_export_retries_total",
            "Batches of spans that were sent to the trace collector again.",
        );
        Self { lost: SpanLoss::ALL.map(|reason| lost.with_label_values(&[reason.as_str()])), retries }
    }

    /// Counts spans that are lost.
    pub fn lost(&self, reason: SpanLoss, spans: usize) {
        self.lost[reason as usize].inc_by(u64::try_from(spans).unwrap_or(u64::MAX));
    }

    /// Counts a batch that is sent again.
    pub fn export_retried(&self) {
        self.retries.inc();
    }
}
