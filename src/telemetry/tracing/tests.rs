//! Against a real receiver of OTLP over gRPC.

use std::{collections::HashMap, net::SocketAddr, time::Duration};

use http::{HeaderMap, HeaderValue};
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
use tokio::{net::TcpListener, sync::mpsc};
use tonic::{Code, Request, Response, Status};

use super::*;
use crate::{call::RequestId, clock, telemetry::metrics::Method};

const PATIENCE: Duration = Duration::from_secs(10);
const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const UNSAMPLED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";

struct Receiver(mpsc::UnboundedSender<ExportTraceServiceRequest>);

#[tonic::async_trait]
impl TraceService for Receiver {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.0.send(request.into_inner()).expect("the test listens");
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

async fn receiver() -> (SocketAddr, mpsc::UnboundedReceiver<ExportTraceServiceRequest>) {
    let (sender, received) = mpsc::unbounded_channel();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = TraceServiceServer::new(Receiver(sender.clone()));
            tokio::spawn(
                http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service)),
            );
        }
    });
    (address, received)
}

fn tracer(address: SocketAddr, sample_ratio: f64) -> Tracer {
    Tracer::start(&Settings { endpoint: format!("http://{address}"), sample_ratio }).expect("it starts")
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
    span.attempt(&Attempt { operation: Operation::IssueOtt, method: "POST", url: &url, resends: 1 })
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
async fn a_call_and_its_attempts_reach_the_collector_as_one_trace() {
    let (address, mut received) = receiver().await;
    let tracer = tracer(address, 0.0);
    let request_id = RequestId::new();
    let call = tracer.call(Method::IssueOtt, request_id, &headers(&[PARENT]));
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
    let passed_on = upstream["traceparent"].to_str().expect("text");
    assert!(passed_on.starts_with("00-0af7651916cd43dd8448eb211c80319c-"), "{passed_on}");
    assert!(!passed_on.contains("b7ad6b7169203331"), "the parent of what follows is the attempt");
}

#[tokio::test]
async fn the_callers_decision_is_followed_and_otherwise_our_own() {
    let (address, mut received) = receiver().await;
    for (parents, sample_ratio, traced) in [
        (&[UNSAMPLED][..], 1.0, false),
        (&[PARENT][..], 0.0, true),
        (&[][..], 0.0, false),
        (&[][..], 1.0, true),
        // Two parents are none.
        (&[PARENT, PARENT][..], 0.0, false),
        (&["00-nonsense"][..], 1.0, true),
    ] {
        let tracer = tracer(address, sample_ratio);
        let call = tracer.call(Method::Unknown, RequestId::new(), &headers(parents));
        call.finish(end(Code::Unimplemented, None));
        // A call that nobody finishes ends with its last holder.
        drop(tracer.call(Method::LoginWithOtt, RequestId::new(), &headers(parents)));
        tracer.stop(PATIENCE).await;
        let spans = spans(&mut received);
        assert_eq!(spans.len(), if traced { 2 } else { 0 }, "{parents:?} {sample_ratio}");
        assert_eq!(call.trace_id().is_some(), traced);
    }
}

#[tokio::test]
async fn a_collector_that_is_gone_or_hangs_costs_no_call_anything() {
    // Accepts, and never says a word.
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let gone = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let closed = gone.local_addr().expect("an address");
    drop(gone);
    for address in [closed, silent.local_addr().expect("an address")] {
        let tracer = tracer(address, 1.0);
        let started = clock::now();
        for _ in 0..20_000 {
            let call = tracer.call(Method::IssueOtt, RequestId::new(), &HeaderMap::new());
            call.finish(end(Code::Ok, None));
        }
        assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
        let stopping = clock::now();
        tracer.stop(Duration::from_millis(300)).await;
        assert!(stopping.elapsed() < Duration::from_secs(1), "{:?}", stopping.elapsed());
    }
}

#[tokio::test]
async fn traces_that_are_off_leave_no_trace() {
    let tracer = Tracer::off();
    let call = tracer.call(Method::IssueOtt, RequestId::new(), &headers(&[PARENT]));
    let mut upstream = HeaderMap::new();
    begin(&call).inject(&mut upstream);
    assert!(upstream.is_empty() && call.trace_id().is_none());
    tracer.stop(PATIENCE).await;
}

#[tokio::test]
async fn an_endpoint_that_is_no_url_is_refused() {
    for endpoint in ["", "127.0.0.1:4317", "ftp://127.0.0.1", "http://", "grpc://collector:4317"] {
        let settings = Settings { endpoint: endpoint.to_owned(), sample_ratio: 1.0 };
        assert_eq!(Tracer::start(&settings).err(), Some(TracingError::Endpoint), "{endpoint:?}");
    }
}
