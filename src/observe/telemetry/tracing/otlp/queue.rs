//! Queue of spans for the collector.
//!
//! It is bounded in spans and in bytes. Spans beyond the bounds are dropped, counted and logged. A
//! batch keeps its places until the collector has accepted it or it is dropped.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use opentelemetry::{Context, KeyValue, Value, trace::Status};
use opentelemetry_sdk::{
    error::OTelSdkResult,
    trace::{Span, SpanData, SpanProcessor},
};
use tokio::sync::{
    Notify,
    mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
};
use tokio_util::sync::CancellationToken;

use crate::observe::telemetry::{
    metrics::{SpanLoss, TraceMetrics},
    tracing::QueueSettings,
};

/// Maximum size of all spans in the queue, in bytes.
const MAX_BYTES: usize = 16 * 1024 * 1024;
/// Estimated overhead of a heap allocation, in bytes.
const ALLOCATION: usize = 16;

/// Producer end of the queue.
#[derive(Debug)]
pub(super) struct Queue {
    spans: UnboundedSender<Queued>,
    shared: Arc<QueueState>,
}

/// Handle to read the number of queued spans.
#[derive(Debug)]
pub(super) struct Length(Arc<QueueState>);

/// Consumer end of the queue, which returns batches.
pub(super) struct Batches {
    spans: UnboundedReceiver<Queued>,
    shared: Arc<QueueState>,
}

/// Spans that are sent together. Their places are freed on drop.
pub(super) struct Batch {
    pub(super) spans: Vec<SpanData>,
    count: usize,
    bytes: usize,
    shared: Arc<QueueState>,
}

#[derive(Debug)]
struct Queued {
    span: SpanData,
    bytes: usize,
}

#[derive(Debug)]
struct QueueState {
    settings: QueueSettings,
    count: AtomicUsize,
    bytes: AtomicUsize,
    /// Signals that a batch is complete.
    complete: Notify,
    /// Spans dropped since the last log line about them.
    unreported: AtomicU64,
    metrics: TraceMetrics,
}

/// Returns both ends of a new queue.
pub(super) fn queue(settings: QueueSettings, metrics: TraceMetrics) -> (Queue, Batches) {
    let (sender, receiver) = unbounded_channel();
    let shared = Arc::new(QueueState {
        settings,
        count: AtomicUsize::new(0),
        bytes: AtomicUsize::new(0),
        complete: Notify::new(),
        unreported: AtomicU64::new(0),
        metrics,
    });
    (Queue { spans: sender, shared: Arc::clone(&shared) }, Batches { spans: receiver, shared })
}

impl Queue {
    /// Returns a handle to read the number of unsent spans.
    pub(super) fn length(&self) -> Length {
        Length(Arc::clone(&self.shared))
    }
}

impl Length {
    pub(super) fn get(&self) -> usize {
        self.0.count.load(Ordering::Relaxed)
    }
}

impl QueueState {
    fn take_place(&self, bytes: usize) -> Result<(), SpanLoss> {
        let max_spans = self.settings.max_spans;
        let one_more = |count| (count < max_spans).then_some(count + 1);
        let count = self
            .count
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more)
            .map_err(|_full| SpanLoss::QueueFull)?;
        let more = |taken: usize| taken.checked_add(bytes).filter(|total| *total <= MAX_BYTES);
        if self.bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_err() {
            self.count.fetch_sub(1, Ordering::Relaxed);
            return Err(SpanLoss::QueueBytes);
        }
        // Once per batch, so that not every span causes a wake-up.
        if count + 1 == self.settings.batch {
            self.complete.notify_one();
        }
        Ok(())
    }

    fn free(&self, count: usize, bytes: usize) {
        self.count.fetch_sub(count, Ordering::Relaxed);
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    fn lose(&self, loss: SpanLoss) {
        self.metrics.lost(loss, 1);
        self.unreported.fetch_add(1, Ordering::Relaxed);
    }
}

impl SpanProcessor for Queue {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        let bytes = estimated_bytes(&span);
        if let Err(loss) = self.shared.take_place(bytes) {
            self.shared.lose(loss);
        } else if self.spans.send(Queued { span, bytes }).is_err() {
            self.shared.free(1, bytes);
            self.shared.lose(SpanLoss::ExportFailed);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

impl Batches {
    /// Returns the next batch once it is complete, or once its oldest span has waited for the
    /// queue's delay. After `stop`, batches are returned at once; `None` when no span is left.
    pub(super) async fn next(&mut self, stop: &CancellationToken) -> Option<Batch> {
        let settings = self.shared.settings;
        loop {
            let mut delay = std::pin::pin!(tokio::time::sleep(settings.delay));
            while self.shared.count.load(Ordering::Relaxed) < settings.batch {
                tokio::select! {
                    // The notification may be for an earlier batch.
                    () = self.shared.complete.notified() => {}
                    () = &mut delay => break,
                    () = stop.cancelled() => break,
                }
            }
            let stopped = stop.is_cancelled();
            let batch = self.take(settings.batch);
            let dropped = self.shared.unreported.swap(0, Ordering::Relaxed);
            if dropped > 0 {
                ::tracing::warn!(spans = dropped, "trace queue full, dropped spans");
            }
            if !batch.spans.is_empty() {
                return Some(batch);
            }
            if stopped {
                return None;
            }
        }
    }

    fn take(&mut self, max: usize) -> Batch {
        let mut batch = Batch { spans: Vec::new(), count: 0, bytes: 0, shared: Arc::clone(&self.shared) };
        while batch.count < max
            && let Ok(queued) = self.spans.try_recv()
        {
            batch.count += 1;
            batch.bytes += queued.bytes;
            batch.spans.push(queued.span);
        }
        batch
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        self.shared.free(self.count, self.bytes);
    }
}

/// Returns the size of a span including its heap data, in bytes.
fn estimated_bytes(span: &SpanData) -> usize {
    let attributes = |attributes: &[KeyValue]| -> usize {
        let each = |attribute: &KeyValue| {
            let text = match &attribute.value {
                Value::String(text) => text.as_str().len() + ALLOCATION,
                Value::Array(_) => 1024,
                _ => 0,
            };
            size_of::<KeyValue>() + text
        };
        attributes.iter().map(each).sum()
    };
    let state: usize = span
        .span_context
        .trace_state()
        .into_iter()
        .map(|(key, value)| key.len() + value.len() + 2 * (size_of::<String>() + ALLOCATION))
        .sum();
    let status = match &span.status {
        Status::Error { description } => description.len(),
        _ => 0,
    };
    let events: usize = span.events.iter().map(|event| 128 + attributes(&event.attributes)).sum();
    let links: usize = span.links.iter().map(|link| 128 + attributes(&link.attributes)).sum();
    size_of::<Queued>()
        + span.name.len()
        + attributes(&span.attributes)
        + state
        + status
        + events
        + links
        + 4 * ALLOCATION
}

#[cfg(test)]
mod tests;
