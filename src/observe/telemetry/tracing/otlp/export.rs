//! Exports batches of spans, on a separate thread.
//!
//! A batch that the collector could not accept is retried as the OTLP specification requires: with
//! growing, jittered pauses, for a limited time. New spans wait in the bounded queue.

use std::{sync::Arc, thread, time::Duration};

use opentelemetry_proto::{
    tonic::collector::trace::v1::ExportTraceServiceRequest,
    transform::{
        common::tonic::ResourceAttributesWithSchema, trace::tonic::group_spans_by_resource_and_scope,
    },
};
use tokio::{sync::watch, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{
    super::{CollectorTls, Settings, TracingError},
    collector::{Collector, Outcome, Target},
    queue::{Batch, Batches},
};
use crate::{
    base::{
        backoff::Backoff,
        clock::{self, Instant},
    },
    observe::telemetry::{
        metrics::{SpanLoss, TraceMetrics},
        threads::{Activity, Threads},
    },
};

/// Pauses between attempts to send a batch.
const BACKOFF: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(10));
/// Minimum pause between two attempts.
const MIN_PAUSE: Duration = Duration::from_millis(100);

/// Handle of the export thread.
#[derive(Clone, Debug)]
pub(super) struct ExportThread {
    stop: CancellationToken,
    /// Closed when the thread has ended.
    ended: watch::Receiver<()>,
}

/// Takes batches from the queue and sends them.
struct Export {
    batches: Batches,
    collector: Collector,
    resource: Arc<ResourceAttributesWithSchema>,
    batch_timeout: Duration,
    stop: CancellationToken,
    metrics: TraceMetrics,
}

impl ExportThread {
    /// Starts the thread.
    pub(super) fn start(
        settings: &Settings,
        tls: Option<&CollectorTls>,
        batches: Batches,
        resource: ResourceAttributesWithSchema,
        metrics: TraceMetrics,
        threads: &Threads,
    ) -> Result<Self, TracingError> {
        let target = Target::new(settings, tls)?;
        let (ending, ended) = watch::channel(());
        let stop = CancellationToken::new();
        let (stopping, batch_timeout) = (stop.clone(), settings.batch_timeout);
        let (starting, started) = std::sync::mpsc::sync_channel(1);
        let heartbeat = threads.register("traces");
        let run = move || {
            let activity = Activity::new(heartbeat.pulse());
            let runtime = match activity.runtime().build() {
                Ok(runtime) => runtime,
                Err(error) => {
                    heartbeat.retire();
                    return drop(starting.send(Err(error)));
                }
            };
            drop(starting.send(Ok(())));
            runtime.block_on(async {
                let collector = target.connect_lazy();
                let resource = Arc::new(resource);
                let export = Export { batches, collector, resource, batch_timeout, stop: stopping, metrics };
                let beating = activity.start_beating(heartbeat.pulse().interval(), |_late| ());
                tokio::select! {
                    () = export.run() => {}
                    never = beating => match never {},
                }
            });
            heartbeat.retire();
            // A name lookup that hangs must not block the thread.
            runtime.shutdown_background();
            drop(ending);
        };
        thread::Builder::new().name("traces".to_owned()).spawn(run).map_err(|_| TracingError::Exporter)?;
        match started.recv() {
            Ok(Ok(())) => Ok(Self { stop, ended }),
            _ => Err(TracingError::Exporter),
        }
    }

    /// Sends the remaining spans. Returns false if that takes longer than `limit`.
    pub(super) async fn stop(&self, limit: Duration) -> bool {
        self.stop.cancel();
        let mut ended = self.ended.clone();
        // An error means that the sender, and therefore the thread, is gone.
        timeout(limit, ended.changed()).await.is_ok()
    }
}

impl Export {
    async fn run(mut self) {
        let stop = self.stop.clone();
        while let Some(batch) = self.batches.next(&stop).await {
            self.send(batch).await;
        }
    }

    async fn send(&mut self, mut batch: Batch) {
        let spans = batch.spans.len();
        let resource_spans =
            group_spans_by_resource_and_scope(std::mem::take(&mut batch.spans), &self.resource);
        let request = ExportTraceServiceRequest { resource_spans };
        let until = clock::now() + self.batch_timeout;
        let mut failures = 0;
        loop {
            match self.collector.send(request.clone()).await {
                Outcome::Accepted { rejected, text } => return self.accepted(spans, rejected, &text),
                Outcome::Refused { cause } => return self.failed(spans, &cause),
                Outcome::Retry { after, cause } => {
                    failures += 1;
                    if !self.pause(failures, after, until).await {
                        return self.failed(spans, &cause);
                    }
                    self.metrics.export_retried();
                }
            }
        }
    }

    /// Waits before the next attempt. Returns false if there is none, because the time of the batch
    /// is over or the process stops.
    async fn pause(&self, failures: u32, after: Option<Duration>, until: Instant) -> bool {
        // Jitter only adds to a delay that the collector asked for.
        let jitter = BACKOFF.full_jitter(failures).max(MIN_PAUSE);
        let next = clock::now() + after.map_or(jitter, |after| after.saturating_add(MIN_PAUSE));
        if next >= until {
            return false;
        }
        let stopped = self.stop.cancelled();
        timeout(next.saturating_duration_since(clock::now()), stopped).await.is_err()
    }

    fn accepted(&self, spans: usize, rejected: u64, text: &str) {
        let rejected = usize::try_from(rejected).unwrap_or(usize::MAX).min(spans);
        self.metrics.lost(SpanLoss::Rejected, rejected);
        if rejected > 0 {
            ::tracing::warn!(spans = rejected, collector.text = text, "trace collector rejected spans");
        } else if !text.is_empty() {
            ::tracing::warn!(collector.text = text, "trace collector returned a warning");
        }
    }

    fn failed(&self, spans: usize, cause: &str) {
        self.metrics.lost(SpanLoss::ExportFailed, spans);
        ::tracing::warn!(error = cause, spans, "trace export failed, dropped spans");
    }
}

#[cfg(test)]
mod tests {
    use super::{super::queue::queue, *};
    use crate::observe::telemetry::{
        logging::captured::CapturedLog, metrics::Metrics, tracing::QueueSettings,
    };

    /// Creates an export to a missing collector, without connecting.
    fn idle_export() -> Export {
        let metrics = Metrics::new();
        let settings = Settings::new("http://127.0.0.1:1".parse().expect("a URL"));
        let (_queue, batches) = queue(QueueSettings::default(), metrics.traces());
        Export {
            batches,
            collector: Target::new(&settings, None).expect("a target").connect_lazy(),
            resource: Arc::default(),
            batch_timeout: settings.batch_timeout,
            stop: CancellationToken::new(),
            metrics: metrics.traces(),
        }
    }

    #[tokio::test]
    async fn responses_of_the_collector_are_logged() {
        let export = idle_export();
        let log = CapturedLog::start();
        export.accepted(5, 0, "");
        assert!(log.text().is_empty());
        export.accepted(5, 2, "too old");
        export.accepted(5, 0, "a hint");
        export.failed(5, "Internal: oops");
        let text = log.text();
        let lines: Vec<&str> = text.lines().collect();
        let [rejected, warning, failed] = &lines[..] else { panic!("{text}") };
        assert!(
            rejected.contains("trace collector rejected spans") && rejected.contains("spans=2"),
            "{text}"
        );
        assert!(rejected.contains("collector.text=\"too old\""), "{text}");
        assert!(
            warning.contains("trace collector returned a warning") && warning.contains("a hint"),
            "{text}"
        );
        assert!(failed.contains("trace export failed, dropped spans") && failed.contains("oops"), "{text}");
    }

    #[tokio::test(start_paused = true)]
    async fn pauses_grow_with_jitter_and_end_at_the_limit_or_at_shutdown() {
        let export = idle_export();
        let far = clock::now() + Duration::from_hours(10);
        for (failures, maximum) in [(1, 1), (3, 4), (9, 10)] {
            let mut pauses = Vec::new();
            for _ in 0..100 {
                let started = clock::now();
                assert!(export.pause(failures, None, far).await);
                pauses.push(started.elapsed());
            }
            crate::base::backoff::assert_spread(
                &pauses,
                MIN_PAUSE,
                Duration::from_secs(maximum) + Duration::from_millis(2),
            );
        }
        let started = clock::now();
        assert!(export.pause(1, Some(Duration::from_secs(7)), far).await, "the collector's own delay");
        assert!(started.elapsed() >= Duration::from_secs(7));
        let started = clock::now();
        assert!(!export.pause(1, Some(Duration::from_hours(11)), far).await);
        assert!(!export.pause(1, None, clock::now()).await);
        export.stop.cancel();
        assert!(!export.pause(1, Some(Duration::from_secs(7)), far).await);
        assert_eq!(started.elapsed(), Duration::ZERO);
    }
}
