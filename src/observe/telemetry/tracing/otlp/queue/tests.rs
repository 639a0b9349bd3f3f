use opentelemetry::{
    InstrumentationScope,
    trace::{SpanContext, SpanId, SpanKind, TraceFlags, TraceId, TraceState},
};
use opentelemetry_sdk::trace::{SpanEvents, SpanLinks};

use super::*;
use crate::{base::clock::WallClock, observe::telemetry::metrics::Metrics};

fn span(attribute: usize) -> SpanData {
    let now = WallClock::system().now();
    SpanData {
        span_context: SpanContext::new(
            TraceId::from(1),
            SpanId::from(1),
            TraceFlags::SAMPLED,
            false,
            TraceState::default(),
        ),
        parent_span_id: SpanId::INVALID,
        parent_span_is_remote: false,
        span_kind: SpanKind::Server,
        name: "call".into(),
        start_time: now,
        end_time: now,
        attributes: vec![KeyValue::new("cause", "x".repeat(attribute))],
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        status: Status::Unset,
        instrumentation_scope: InstrumentationScope::default(),
    }
}

fn settings(batch: usize) -> QueueSettings {
    QueueSettings { batch, ..QueueSettings::default() }
}

fn lost(metrics: &Metrics, reason: &str) -> usize {
    let series = format!("ott_gateway_trace_spans_lost_total{{reason=\"{reason}\"}} ");
    let text = metrics.render();
    let value = text.lines().find_map(|line| line.strip_prefix(&*series));
    value.expect("a series").parse().expect("a number")
}

#[tokio::test(start_paused = true)]
async fn large_spans_are_bounded_by_their_bytes() {
    const SIZE: usize = 100_000;
    let metrics = Metrics::new();
    let (queue, mut batches) = queue(settings(64), metrics.traces());
    (0..1000).for_each(|_| queue.on_end(span(SIZE)));
    let kept = queue.length().get();
    assert!((MAX_BYTES / SIZE - 2..=MAX_BYTES / SIZE).contains(&kept), "{kept}");
    assert_eq!((lost(&metrics, "queue_bytes"), lost(&metrics, "queue_full")), (1000 - kept, 0));

    // A batch keeps its places until it is dropped.
    let stop = CancellationToken::new();
    let batch = batches.next(&stop).await.expect("a batch");
    assert_eq!(batch.spans.len(), 64);
    queue.on_end(span(SIZE));
    assert_eq!(queue.length().get(), kept);
    drop(batch);
    queue.on_end(span(SIZE));
    assert_eq!(queue.length().get(), kept - 64 + 1);
    stop.cancel();
    while batches.next(&stop).await.is_some() {}
    assert_eq!(queue.length().get(), 0);
    assert_eq!(queue.shared.bytes.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn batch_is_returned_when_complete_or_after_the_delay() {
    let (queue, mut batches) = queue(settings(3), Metrics::new().traces());
    let stop = CancellationToken::new();
    let started = crate::base::clock::now();
    (0..7).for_each(|_| queue.on_end(span(1)));
    for expected in [3, 3] {
        assert_eq!(batches.next(&stop).await.map(|batch| batch.spans.len()), Some(expected));
    }
    assert_eq!(started.elapsed(), Duration::ZERO);
    assert_eq!(batches.next(&stop).await.map(|batch| batch.spans.len()), Some(1));
    assert_eq!(started.elapsed(), Duration::from_secs(5));
    // Waits for a batch that becomes complete in the meantime.
    let (next, ()) = tokio::join!(batches.next(&stop), async {
        tokio::task::yield_now().await;
        (0..3).for_each(|_| queue.on_end(span(1)));
    });
    assert_eq!(next.map(|batch| batch.spans.len()), Some(3));
    assert_eq!(started.elapsed(), Duration::from_secs(5));
}

#[tokio::test(start_paused = true)]
async fn after_stop_the_remaining_spans_are_returned_at_once() {
    let metrics = Metrics::new();
    let (queue, mut batches) = queue(settings(10), metrics.traces());
    let stop = CancellationToken::new();
    queue.on_end(span(1));
    stop.cancel();
    let started = crate::base::clock::now();
    assert_eq!(batches.next(&stop).await.map(|batch| batch.spans.len()), Some(1));
    assert!(batches.next(&stop).await.is_none());
    assert_eq!(started.elapsed(), Duration::ZERO);
    drop(batches);
    queue.on_end(span(1));
    assert_eq!((lost(&metrics, "export_failed"), queue.length().get()), (1, 0));
}

#[test]
fn texts_of_a_span_are_part_of_its_size() {
    let bare = estimated_bytes(&span(0));
    assert!((300..1500).contains(&bare), "{bare}");
    assert_eq!(estimated_bytes(&span(5000)), bare + 5000);
    let state = TraceState::from_key_value([("k", "v".repeat(256))]).expect("a state");
    let mut with_state = span(0);
    with_state.span_context =
        SpanContext::new(TraceId::from(1), SpanId::from(1), TraceFlags::SAMPLED, true, state);
    assert!(estimated_bytes(&with_state) > bare + 256);
    let mut failed = span(0);
    failed.status = Status::error("x".repeat(700));
    assert!(estimated_bytes(&failed) >= bare + 700);
}
