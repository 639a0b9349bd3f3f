//! Sampling: decides which calls are recorded.
//!
//! The `traceparent` of an identified caller decides for its calls. An unidentified caller must not
//! decide what the collector stores: its sampled flag and trace id are ignored, and recorded calls
//! of all such callers are limited per second.

use std::sync::atomic::{AtomicU64, Ordering};

use opentelemetry::{
    Context, KeyValue,
    trace::{Link, SpanKind, TraceContextExt, TraceId},
};
use opentelemetry_sdk::trace::{SamplingDecision, SamplingResult, ShouldSample};
use rand::RngExt;

use crate::{
    base::clock::{self, Instant},
    observe::telemetry::{
        metrics::{SpanLoss, TraceMetrics},
        tracing::SamplingSettings,
    },
};

/// Maximum number of recorded calls of unidentified callers, per second, so that they cannot fill
/// the queue of spans, which is emptied every few seconds.
const MAX_UNIDENTIFIED: u64 = 100;

/// Decides which calls are recorded.
#[derive(Debug)]
pub(super) struct Sampling {
    settings: SamplingSettings,
    unidentified: PerSecond,
    metrics: TraceMetrics,
}

/// Counts events in the current second.
#[derive(Debug)]
struct PerSecond {
    started: Instant,
    /// The second since `started` in the upper 32 bits, and the number of events in it in the lower
    /// 32 bits.
    count: AtomicU64,
}

/// Sampling decision about a call, stored in the context of its spans.
#[derive(Clone, Copy, Debug)]
struct Recorded(bool);

/// Sampler that uses the decision in the context of a span.
#[derive(Clone, Copy, Debug)]
pub(super) struct Decided;

impl Sampling {
    pub(super) fn new(settings: SamplingSettings, metrics: TraceMetrics) -> Self {
        let unidentified = PerSecond { started: clock::now(), count: AtomicU64::new(0) };
        Self { settings, unidentified, metrics }
    }

    /// Returns the context for the spans of a call with this remote parent.
    pub(super) fn decide(&self, parent: &Context, identified: bool) -> Context {
        let by_ratio = || rand::rng().random::<f64>() < self.settings.ratio;
        let recorded = if identified {
            let remote = parent.span().span_context().clone();
            if remote.is_valid() && self.settings.follow_callers { remote.is_sampled() } else { by_ratio() }
        } else {
            by_ratio() && self.admit_unidentified()
        };
        parent.with_value(Recorded(recorded))
    }

    fn admit_unidentified(&self) -> bool {
        let admitted = self.unidentified.count() <= MAX_UNIDENTIFIED;
        if !admitted {
            self.metrics.lost(SpanLoss::CallerNotIdentified, 1);
        }
        admitted
    }
}

impl PerSecond {
    /// Counts an event and returns the number of events in this second.
    fn count(&self) -> u64 {
        let second = clock::now().saturating_duration_since(self.started).as_secs() << 32;
        let next = |count: u64| {
            let same_second = count >> 32 == second >> 32;
            if same_second { count.saturating_add(1) } else { second + 1 }
        };
        let counted =
            self.count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| Some(next(count)));
        next(counted.unwrap_or_default()) & u64::from(u32::MAX)
    }
}

impl ShouldSample for Decided {
    fn should_sample(
        &self,
        parent: Option<&Context>,
        _: TraceId,
        _: &str,
        _: &SpanKind,
        _: &[KeyValue],
        _: &[Link],
    ) -> SamplingResult {
        let recorded = parent.and_then(|parent| parent.get::<Recorded>()).is_some_and(|recorded| recorded.0);
        SamplingResult {
            decision: if recorded { SamplingDecision::RecordAndSample } else { SamplingDecision::Drop },
            attributes: Vec::new(),
            trace_state: parent
                .map(|parent| parent.span().span_context().trace_state().clone())
                .unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::observe::telemetry::metrics::Metrics;

    #[tokio::test(start_paused = true)]
    async fn unidentified_callers_have_a_limit_per_second_and_identified_ones_do_not() {
        let metrics = Metrics::new();
        let sampling = Sampling::new(SamplingSettings::default(), metrics.traces());
        let recorded = |identified| {
            let decided = (0..250).map(|_| sampling.decide(&Context::new(), identified));
            decided.filter(|context| context.get::<Recorded>().is_some_and(|recorded| recorded.0)).count()
        };
        assert_eq!(recorded(false), 100);
        assert_eq!(recorded(true), 250);
        let lost = "ott_gateway_trace_spans_lost_total{reason=\"caller_not_identified\"} 150";
        assert!(metrics.render().lines().any(|line| line == lost));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(recorded(false), 100);
        tokio::time::advance(Duration::from_hours(1)).await;
        assert_eq!(recorded(false), 100);
    }
}
