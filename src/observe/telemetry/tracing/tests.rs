//! Tests with a real OTLP/gRPC receiver.

mod export;

use std::{collections::HashMap, net::SocketAddr, sync::Arc, time::Duration};

use http::HeaderValue;
use hyper::server::conn::http2;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    service::TowerToHyperService,
};
use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::{KeyValue, any_value::Value},
    trace::v1::{Span, span::SpanKind, status::StatusCode},
};
use tokio::{
    net::{TcpListener, TcpSocket},
    sync::{Semaphore, mpsc},
};
use tonic::{Code, Request, Response, Status};

use super::*;
use crate::{
    base::clock,
    domain::call::RequestId,
    observe::telemetry::metrics::{MethodLabel, Metrics},
};

/// Maximum time that a test waits for an event. Only a failing test waits this long.
const PATIENCE: Duration = Duration::from_mins(2);
const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const UNSAMPLED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";

/// Accepts a batch once it has a permit.
struct Receiver(mpsc::UnboundedSender<ExportTraceServiceRequest>, Arc<Semaphore>);

#[tonic::async_trait]
impl TraceService for Receiver {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        drop(self.1.acquire().await.expect("it is never closed"));
        self.0.send(request.into_inner()).expect("the test receives");
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

async fn receiver() -> (SocketAddr, mpsc::UnboundedReceiver<ExportTraceServiceRequest>) {
    receiver_that_waits_for(Arc::new(Semaphore::new(1))).await
}

async fn receiver_that_waits_for(
    permits: Arc<Semaphore>,
) -> (SocketAddr, mpsc::UnboundedReceiver<ExportTraceServiceRequest>) {
    let (sender, received) = mpsc::unbounded_channel();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = TraceServiceServer::new(Receiver(sender.clone(), Arc::clone(&permits)));
            tokio::spawn(
                http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service)),
            );
        }
    });
    (address, received)
}

/// Reserves a port without a listener.
fn unused_port() -> TcpSocket {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a port");
    socket
}

fn tracer(address: SocketAddr, sample_ratio: f64) -> Tracer {
    tracer_with(address, sample_ratio, &Metrics::new())
}

fn tracer_with(address: SocketAddr, sample_ratio: f64, metrics: &Metrics) -> Tracer {
    let sampling = SamplingSettings { ratio: sample_ratio, ..SamplingSettings::default() };
    Tracer::start(&Settings { sampling, ..settings(address) }, None, metrics).expect("it starts")
}

fn settings(address: SocketAddr) -> Settings {
    Settings::new(format!("http://{address}").parse().expect("a URL"))
}

/// Returns the number of spans lost for this reason.
fn lost(metrics: &Metrics, reason: &str) -> usize {
    let series = format!("ott_gateway_trace_spans_lost_total{{reason=\"{reason}\"}} ");
    let text = metrics.render();
    let value = text.lines().find_map(|line| line.strip_prefix(&*series));
    value.expect("it is shown").parse().expect("a number")
}

fn headers(parents: &[&'static str]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for parent in parents {
        headers.append("traceparent", HeaderValue::from_static(parent));
    }
    headers
}

fn begin(span: &CallSpan) -> AttemptSpan {
    let url = Url::parse("https://eu2-cloud.example/api/2/idp/ott").expect("a URL");
    span.attempt(&Attempt { method: Method::IssueOtt, http_method: "POST", url: &url, resends: 1 })
}

fn end(code: Code, reason: Option<&'static str>) -> CallEnd<'static> {
    CallEnd { code, reason, cause: None, api_client: Some("eu2"), outcome: Certainty::Done }
}

fn attributes(pairs: &[KeyValue]) -> HashMap<&str, String> {
    pairs
        .iter()
        .map(|pair| {
            let value = match pair.value.as_ref().and_then(|value| value.value.as_ref()) {
                Some(Value::StringValue(text)) => text.clone(),
                Some(Value::IntValue(number)) => number.to_string(),
                other => panic!("{other:?}"),
            };
            (pair.key.as_str(), value)
        })
        .collect()
}

fn spans(received: &mut mpsc::UnboundedReceiver<ExportTraceServiceRequest>) -> Vec<Span> {
    let mut spans = Vec::new();
    while let Ok(request) = received.try_recv() {
        for resource in request.resource_spans {
            let described = resource.resource.expect("a resource").attributes;
            assert_eq!(attributes(&described)["service.name"], "ott-gateway");
            spans.extend(resource.scope_spans.into_iter().flat_map(|scope| scope.spans));
        }
    }
    spans
}

#[tokio::test]
async fn call_and_its_attempts_are_exported_as_one_trace() {
    let (address, mut received) = receiver().await;
    let tracer = tracer(address, 0.0);
    let request_id = RequestId::new();
    let call = tracer.call(MethodLabel::IssueOtt, request_id, &headers(&[PARENT]));
    assert_eq!(call.trace_id(), None, "it is not decided yet");
    call.follow_caller(&headers(&[PARENT]));
    assert_eq!(call.trace_id().as_deref(), Some("0af7651916cd43dd8448eb211c80319c"));
    let attempt = begin(&call);
    let mut upstream = HeaderMap::new();
    attempt.inject(&mut upstream);
    attempt.answered(503);
    begin(&call).failed("timeout", "no response in time");
    call.finish(end(Code::Unavailable, Some("PLATFORM_UNAVAILABLE")));
    tracer.stop(PATIENCE).await;

    let spans = spans(&mut received);
    assert_eq!(spans.len(), 3);
    let server = spans.iter().find(|span| span.kind == SpanKind::Server as i32).expect("a server span");
    assert_eq!(server.name, "ott.v1.OttService/IssueOtt");
    assert_eq!(server.parent_span_id, [0xb7, 0xad, 0x6b, 0x71, 0x69, 0x20, 0x33, 0x31]);
    assert_eq!(server.status.as_ref().expect("a status").code(), StatusCode::Error);
    let expected = [
        ("rpc.system.name", "grpc"),
        ("rpc.method", "ott.v1.OttService/IssueOtt"),
        ("rpc.response.status_code", "UNAVAILABLE"),
        ("error.type", "UNAVAILABLE"),
        ("ott_gateway.request_id", &request_id.to_string()),
        ("ott_gateway.reason", "PLATFORM_UNAVAILABLE"),
        ("ott_gateway.api_client", "eu2"),
        ("ott_gateway.outcome", "done"),
    ]
    .map(|(name, value)| (name, value.to_owned()));
    assert_eq!(attributes(&server.attributes), HashMap::from(expected));

    let clients: Vec<&Span> = spans.iter().filter(|span| span.kind == SpanKind::Client as i32).collect();
    let errors = clients.iter().map(|span| attributes(&span.attributes)["error.type"].clone());
    assert_eq!(errors.collect::<Vec<_>>(), ["503", "timeout"]);
    for client in &clients {
        assert_eq!(client.name, "POST /api/2/idp/ott");
        assert_eq!((&client.trace_id, &client.parent_span_id), (&server.trace_id, &server.span_id));
        let attributes = attributes(&client.attributes);
        assert_eq!(attributes["http.request.method"], "POST");
        assert_eq!(attributes["url.full"], "https://eu2-cloud.example/api/2/idp/ott");
        assert_eq!(attributes["url.template"], "/api/2/idp/ott");
        assert_eq!(attributes["server.address"], "eu2-cloud.example");
        assert_eq!(attributes["server.port"], "443");
        assert_eq!(attributes["http.request.resend_count"], "1");
    }
    let propagated = upstream["traceparent"].to_str().expect("text");
    assert!(propagated.starts_with("00-0af7651916cd43dd8448eb211c80319c-"), "{propagated}");
    assert!(!propagated.contains("b7ad6b7169203331"), "the attempt is the parent at the platform");
}

#[tokio::test]
async fn decision_of_an_identified_caller_is_used_and_otherwise_our_own() {
    let (address, mut received) = receiver().await;
    for (parents, sample_ratio, traced) in [
        (&[UNSAMPLED][..], 1.0, false),
        (&[PARENT][..], 0.0, true),
        (&[][..], 0.0, false),
        (&[][..], 1.0, true),
        // Two parents count as none.
        (&[PARENT, PARENT][..], 0.0, false),
        (&["00-nonsense"][..], 1.0, true),
    ] {
        let tracer = tracer(address, sample_ratio);
        let call = tracer.call(MethodLabel::Unknown, RequestId::new(), &headers(parents));
        call.follow_caller(&headers(parents));
        call.finish(end(Code::Unimplemented, None));
        // An unfinished call ends when its last clone is dropped.
        tracer
            .call(MethodLabel::LoginWithOtt, RequestId::new(), &headers(parents))
            .follow_caller(&headers(parents));
        tracer.stop(PATIENCE).await;
        let spans = spans(&mut received);
        assert_eq!(spans.len(), if traced { 2 } else { 0 }, "{parents:?} {sample_ratio}");
        assert_eq!(call.trace_id().is_some(), traced);
    }
}

#[tokio::test]
async fn unidentified_caller_does_not_control_sampling() {
    let (address, mut received) = receiver().await;
    // Samplers by trace id record ids with a small lower half.
    let chosen = "00-0af7651916cd43dd0000000000000000-b7ad6b7169203331-01";
    for (parent, sample_ratio, traced) in
        [(PARENT, 0.0, false), (UNSAMPLED, 1.0, true), (chosen, 1e-12, false), (chosen, 1.0, true)]
    {
        let tracer = tracer(address, sample_ratio);
        let call = tracer.call(MethodLabel::IssueOtt, RequestId::new(), &headers(&[parent]));
        begin(&call).answered(200);
        // Too late: an attempt has already decided.
        call.follow_caller(&HeaderMap::new());
        call.finish(end(Code::Unauthenticated, None));
        assert_eq!(call.trace_id().is_some(), traced, "{parent} {sample_ratio}");
        drop(tracer.call(MethodLabel::LoginWithOtt, RequestId::new(), &headers(&[parent])));
        tracer.stop(PATIENCE).await;
        let spans = spans(&mut received);
        assert_eq!(spans.len(), if traced { 3 } else { 0 }, "{parent} {sample_ratio}");
        let trace = u128::from_str_radix(&parent[3..35], 16).expect("hexadecimal").to_be_bytes();
        let continued = |span: &Span| span.trace_id == trace;
        assert!(spans.iter().all(continued), "the trace is continued");
    }
}

#[tokio::test]
async fn every_span_is_received_or_counted_as_lost() {
    const CALLS: usize = 10_000;
    let permits = Arc::new(Semaphore::new(0));
    let (address, mut received) = receiver_that_waits_for(Arc::clone(&permits)).await;
    let metrics = Metrics::new();
    let tracer = tracer_with(address, 1.0, &metrics);
    for _ in 0..CALLS {
        let call = tracer.call(MethodLabel::IssueOtt, RequestId::new(), &HeaderMap::new());
        call.follow_caller(&HeaderMap::new());
        call.finish(end(Code::Ok, None));
    }
    let dropped = lost(&metrics, "queue_full");
    assert_eq!(dropped, CALLS - 8192, "a batch in progress keeps its places");
    permits.add_permits(1);
    tracer.stop(PATIENCE).await;
    assert_eq!(lost(&metrics, "queue_full"), dropped);
    assert_eq!(spans(&mut received).len() + dropped, CALLS);
    assert_eq!(lost(&metrics, "export_failed"), 0);
}

#[tokio::test]
async fn unexported_spans_are_counted() {
    let gone = unused_port();
    let address = gone.local_addr().expect("an address");
    let metrics = Metrics::new();
    let tracer = tracer_with(address, 1.0, &metrics);
    for _ in 0..7 {
        let call = tracer.call(MethodLabel::IssueOtt, RequestId::new(), &HeaderMap::new());
        call.finish(end(Code::Ok, None));
    }
    tracer.stop(PATIENCE).await;
    assert_eq!(lost(&metrics, "export_failed"), 7);
}

#[tokio::test]
async fn unavailable_collector_does_not_delay_calls() {
    // Accepts connections, and never responds.
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let gone = unused_port();
    for address in [gone.local_addr().expect("an address"), silent.local_addr().expect("an address")] {
        let batch_timeout = 2 * PATIENCE;
        let settings = Settings { attempt_timeout: batch_timeout, batch_timeout, ..settings(address) };
        let tracer = Tracer::start(&settings, None, &Metrics::new()).expect("it starts");
        let started = clock::now();
        for _ in 0..20_000 {
            let call = tracer.call(MethodLabel::IssueOtt, RequestId::new(), &HeaderMap::new());
            call.follow_caller(&HeaderMap::new());
            call.finish(end(Code::Ok, None));
        }
        tracer.stop(Duration::from_millis(300)).await;
        assert!(started.elapsed() < PATIENCE, "{:?}", started.elapsed());
    }
}

#[tokio::test]
async fn disabled_traces_inject_no_headers() {
    let tracer = Tracer::off();
    let call = tracer.call(MethodLabel::IssueOtt, RequestId::new(), &headers(&[PARENT]));
    let mut upstream = HeaderMap::new();
    begin(&call).inject(&mut upstream);
    assert!(upstream.is_empty() && call.trace_id().is_none());
    tracer.stop(PATIENCE).await;
}

#[tokio::test]
async fn invalid_endpoint_is_rejected() {
    for (endpoint, error) in [
        ("ftp://127.0.0.1", TracingError::Endpoint),
        ("grpc://collector:4317", TracingError::Endpoint),
        ("collector:4317", TracingError::Endpoint),
        ("https://collector:4317", TracingError::Tls),
    ] {
        let settings = Settings::new(endpoint.parse().expect("a URL"));
        assert_eq!(Tracer::start(&settings, None, &Metrics::new()).err(), Some(error), "{endpoint:?}");
    }
}
