//! Responses of the collector, and their effect on spans.

use std::{collections::VecDeque, sync::Mutex};

use http::HeaderName;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTracePartialSuccess;
use tonic_types::{ErrorDetails, StatusExt};

use super::*;

/// A collector with a list of responses. When the list is empty, it accepts.
#[derive(Clone, Default)]
struct Scripted(Arc<Mutex<Script>>);

#[derive(Default)]
struct Script {
    responses: VecDeque<Result<ExportTraceServiceResponse, Status>>,
    received: Vec<(HeaderMap, usize)>,
}

#[tonic::async_trait]
impl TraceService for Scripted {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let (metadata, _, batch) = request.into_parts();
        let spans = batch.resource_spans.iter().flat_map(|it| &it.scope_spans).map(|it| it.spans.len()).sum();
        let mut script = self.0.lock().expect("no panic");
        script.received.push((metadata.into_headers(), spans));
        script.responses.pop_front().unwrap_or_else(|| Ok(accepted())).map(Response::new)
    }
}

impl Scripted {
    async fn start(
        responses: impl IntoIterator<Item = Result<ExportTraceServiceResponse, Status>>,
    ) -> (SocketAddr, Self) {
        let scripted = Self::default();
        scripted.0.lock().expect("no panic").responses.extend(responses);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let serving = scripted.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let service = TowerToHyperService::new(TraceServiceServer::new(serving.clone()));
                tokio::spawn(
                    http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service),
                );
            }
        });
        (address, scripted)
    }

    /// Returns the number of spans of each received batch.
    fn batches(&self) -> Vec<usize> {
        self.0.lock().expect("no panic").received.iter().map(|(_, spans)| *spans).collect()
    }

    async fn until_batches(&self, count: usize) {
        let arrived = async {
            while self.batches().len() < count {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, arrived).await.expect("batches arrive");
    }
}

fn accepted() -> ExportTraceServiceResponse {
    ExportTraceServiceResponse::default()
}

fn partial(rejected_spans: i64, error_message: &str) -> ExportTraceServiceResponse {
    let error_message = error_message.to_owned();
    ExportTraceServiceResponse {
        partial_success: Some(ExportTracePartialSuccess { rejected_spans, error_message }),
    }
}

#[expect(clippy::disallowed_methods, reason = "a collector's own status")]
fn status(code: Code, message: &str) -> Status {
    Status::new(code, message)
}

/// Settings that send each span at once.
fn at_once(address: SocketAddr) -> Settings {
    let queue = QueueSettings { batch: 1, ..QueueSettings::default() };
    Settings { queue, ..settings(address) }
}

fn one_span(tracer: &Tracer) {
    let call = tracer.call(MethodLabel::IssueOtt, RequestId::new(), &HeaderMap::new());
    call.follow_caller(&HeaderMap::new());
    call.finish(end(Code::Ok, None));
}

fn retries(metrics: &Metrics) -> usize {
    let text = metrics.render();
    let value = text.lines().find_map(|line| line.strip_prefix("ott_gateway_trace_export_retries_total "));
    value.expect("a series").parse().expect("a number")
}

#[tokio::test(flavor = "multi_thread")]
async fn batch_is_retried_after_a_retryable_failure() {
    let details = ErrorDetails::with_retry_info(Some(Duration::from_millis(1)));
    let full = Status::with_error_details(Code::ResourceExhausted, "full", details);
    for refusal in [
        status(Code::Unavailable, "starting"),
        status(Code::Aborted, "again"),
        status(Code::Cancelled, "again"),
        status(Code::DeadlineExceeded, "again"),
        status(Code::OutOfRange, "again"),
        status(Code::DataLoss, "again"),
        full,
    ] {
        let code = refusal.code();
        let (address, collector) = Scripted::start([Err(refusal)]).await;
        let metrics = Metrics::new();
        let tracer = Tracer::start(&at_once(address), None, &metrics).expect("it starts");
        one_span(&tracer);
        collector.until_batches(2).await;
        tracer.stop(PATIENCE).await;
        assert_eq!(collector.batches(), [1, 1], "{code:?}");
        assert_eq!((lost(&metrics, "export_failed"), retries(&metrics)), (0, 1), "{code:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn batch_is_not_retried_after_a_permanent_failure() {
    for code in [
        Code::InvalidArgument,
        Code::Unauthenticated,
        Code::PermissionDenied,
        Code::Unimplemented,
        Code::Internal,
        Code::Unknown,
        // Without RetryInfo.
        Code::ResourceExhausted,
    ] {
        let (address, collector) = Scripted::start([Err(status(code, "no"))]).await;
        let metrics = Metrics::new();
        let tracer = Tracer::start(&at_once(address), None, &metrics).expect("it starts");
        one_span(&tracer);
        collector.until_batches(1).await;
        one_span(&tracer);
        collector.until_batches(2).await;
        tracer.stop(PATIENCE).await;
        assert_eq!((lost(&metrics, "export_failed"), retries(&metrics)), (1, 0), "{code:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn batch_is_dropped_if_the_requested_delay_exceeds_its_limit() {
    let details = ErrorDetails::with_retry_info(Some(Duration::from_hours(1)));
    let later = Status::with_error_details(Code::Unavailable, "later", details);
    let (address, collector) = Scripted::start([Err(later)]).await;
    let metrics = Metrics::new();
    let tracer = Tracer::start(&at_once(address), None, &metrics).expect("it starts");
    one_span(&tracer);
    collector.until_batches(1).await;
    one_span(&tracer);
    collector.until_batches(2).await;
    tracer.stop(PATIENCE).await;
    assert_eq!((lost(&metrics, "export_failed"), retries(&metrics)), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn spans_that_the_collector_rejects_are_counted() {
    let (address, collector) =
        Scripted::start([Ok(partial(1, "too old")), Ok(partial(-5, "")), Ok(partial(7, "more than sent"))])
            .await;
    let metrics = Metrics::new();
    let tracer = Tracer::start(&at_once(address), None, &metrics).expect("it starts");
    for (batches, rejected) in [(1, 1), (2, 1), (3, 2)] {
        one_span(&tracer);
        collector.until_batches(batches).await;
        let counted = async {
            while lost(&metrics, "rejected") < rejected {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, counted).await.expect("it is counted");
    }
    tracer.stop(PATIENCE).await;
    assert_eq!((lost(&metrics, "rejected"), lost(&metrics, "export_failed")), (2, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_batch_carries_the_configured_headers_and_resource() {
    let (address, collector) = Scripted::start([]).await;
    let mut token = HeaderValue::from_static("canary-token");
    token.set_sensitive(true);
    let headers = HeaderMap::from_iter([(HeaderName::from_static("api-key"), token)]);
    let settings = Settings { headers, ..at_once(address) };
    assert!(!format!("{settings:?}").contains("canary"), "{settings:?}");
    let tracer = Tracer::start(&settings, None, &Metrics::new()).expect("it starts");
    one_span(&tracer);
    tracer.stop(PATIENCE).await;
    let received = collector.0.lock().expect("no panic").received.pop().expect("a batch");
    assert_eq!(received.0["api-key"], "canary-token");
    assert_eq!(received.0["content-type"], "application/grpc");
}

#[tokio::test(flavor = "multi_thread")]
async fn tracestate_is_kept_only_of_identified_callers_and_up_to_512_bytes() {
    let (address, mut received) = receiver().await;
    let mut with_state = headers(&[PARENT]);
    let members: Vec<String> = (0..26).map(|number| format!("k{number}={}", "v".repeat(500 / 26))).collect();
    with_state.insert("tracestate", HeaderValue::from_str(&members.join(",")).expect("a value"));
    let tracer = tracer(address, 1.0);
    let unidentified = tracer.call(MethodLabel::IssueOtt, RequestId::new(), &with_state);
    begin(&unidentified).answered(200);
    unidentified.finish(end(Code::Ok, None));
    let known = tracer.call(MethodLabel::IssueOtt, RequestId::new(), &with_state);
    known.follow_caller(&with_state);
    let attempt = begin(&known);
    let mut upstream = HeaderMap::new();
    attempt.inject(&mut upstream);
    attempt.answered(200);
    known.finish(end(Code::Ok, None));
    tracer.stop(PATIENCE).await;
    let states: Vec<String> = spans(&mut received).into_iter().map(|span| span.trace_state).collect();
    assert_eq!(states.len(), 4);
    assert!(states[..2].iter().all(String::is_empty), "{states:?}");
    for state in [&states[2], &states[3], &upstream["tracestate"].to_str().expect("text").to_owned()] {
        assert!(
            (400..=512).contains(&state.len()) && members.join(",").starts_with(state.as_str()),
            "{state}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn attributes_with_text_of_others_are_truncated() {
    let (address, mut received) = receiver().await;
    let tracer = tracer(address, 1.0);
    let long = "ä".repeat(100_000);
    let call = tracer.call(MethodLabel::IssueOtt, RequestId::new(), &HeaderMap::new());
    begin(&call).failed("unreachable", &long);
    call.finish(CallEnd { cause: Some(&long), ..end(Code::Unavailable, None) });
    tracer.stop(PATIENCE).await;
    let spans = spans(&mut received);
    let server = spans.iter().find(|span| span.kind == SpanKind::Server as i32).expect("a server span");
    assert_eq!(attributes(&server.attributes)["ott_gateway.cause"], "ä".repeat(1024));
    let client = spans.iter().find(|span| span.kind == SpanKind::Client as i32).expect("a client span");
    assert_eq!(client.status.as_ref().expect("a status").message, "ä".repeat(1024));
}

#[tokio::test(flavor = "multi_thread")]
async fn thread_has_a_heartbeat_until_it_ends_normally() {
    let (address, _collector) = Scripted::start([]).await;
    let metrics = Metrics::new();
    let tracer = Tracer::start(&at_once(address), None, &metrics).expect("it starts");
    assert!(metrics.render().contains("ott_gateway_thread_up{thread=\"traces\"} 1"));
    tracer.stop(PATIENCE).await;
    assert!(!metrics.render().contains("thread=\"traces\""));
    let lost = tokio::time::timeout(Duration::ZERO, metrics.threads().lost()).await;
    assert!(lost.is_err(), "it has not died");
}
