//! The queue of spans on their way to the collector, which counts what it loses.
//!
//! The SDK drops spans from its full queue without a count that can be read. So they are
//! dropped here, before its queue is full.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use opentelemetry::Context;
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    trace::{BatchConfigBuilder, BatchSpanProcessor, Span, SpanData, SpanExporter, SpanProcessor},
};

use crate::telemetry::metrics::{SpanLoss, TraceMetrics};

/// Maximum number of spans that wait for the exporter.
pub(super) const QUEUE: usize = 8192;

/// The SDK's queue and exporter thread behind a limit.
#[derive(Debug)]
pub(super) struct Queue {
    batches: BatchSpanProcessor,
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    waiting: AtomicUsize,
    /// Spans dropped from the full queue since the last log line about it.
    unreported: AtomicU64,
    metrics: TraceMetrics,
}

/// Sends batches, and logs and counts the spans that are lost. The SDK is silent about them.
#[derive(Debug)]
struct Exporter<E> {
    exporter: E,
    state: Arc<State>,
}

impl Queue {
    pub(super) fn new<E: SpanExporter + 'static>(exporter: E, metrics: TraceMetrics) -> Self {
        let state = Arc::new(State { waiting: AtomicUsize::new(0), unreported: AtomicU64::new(0), metrics });
        let exporter = Exporter { exporter, state: Arc::clone(&state) };
        let config = BatchConfigBuilder::default().with_max_queue_size(QUEUE).build();
        let batches = BatchSpanProcessor::builder(exporter).with_batch_config(config).build();
        Self { batches, state }
    }
}

impl SpanProcessor for Queue {
    fn on_start(&self, span: &mut Span, context: &Context) {
        self.batches.on_start(span, context);
    }

    fn on_end(&self, span: SpanData) {
        let more = |waiting| (waiting < QUEUE).then_some(waiting + 1);
        if self.state.waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok() {
            self.batches.on_end(span);
        } else {
            self.state.metrics.lost(SpanLoss::QueueFull, 1);
            self.state.unreported.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.batches.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.batches.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.batches.set_resource(resource);
    }
}

impl<E: SpanExporter> SpanExporter for Exporter<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        self.state.waiting.fetch_sub(spans, Ordering::Relaxed);
        let dropped = self.state.unreported.swap(0, Ordering::Relaxed);
        if dropped > 0 {
            ::tracing::warn!(spans = dropped, "trace queue full, dropped spans");
        }
        let result = self.exporter.export(batch).await;
        if let Err(error) = &result {
            self.state.metrics.lost(SpanLoss::ExportFailed, spans);
            ::tracing::warn!(error = %error, spans, "trace export failed, dropped spans");
        }
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}
