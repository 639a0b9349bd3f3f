//! A trace collector (OTLP over gRPC).

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use http::HeaderMap;
use hyper::server::conn::http2;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    service::TowerToHyperService,
};
use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::any_value::Value,
    trace::v1::{Span, span::SpanKind},
};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tonic::{Request, Response, Status};

use super::upstream::Tls;

/// The requests that a collector received, and its next responses.
#[derive(Clone, Default)]
pub(crate) struct Received(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    requests: Vec<(HeaderMap, ExportTraceServiceRequest)>,
    answers: VecDeque<ExportTraceServiceResponse>,
}

#[tonic::async_trait]
impl TraceService for Received {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let (metadata, _, message) = request.into_parts();
        let mut state = self.0.lock().expect("no panic");
        state.requests.push((metadata.into_headers(), message));
        Ok(Response::new(state.answers.pop_front().unwrap_or_default()))
    }
}

impl Received {
    /// Rejects this number of spans of the next batch, with `text`.
    pub(crate) fn reject_next(&self, rejected_spans: i64, text: &str) {
        let error_message = text.to_owned();
        let partial_success = Some(ExportTracePartialSuccess { rejected_spans, error_message });
        self.0.lock().expect("no panic").answers.push_back(ExportTraceServiceResponse { partial_success });
    }

    /// The headers of each request.
    pub(crate) fn headers(&self) -> Vec<HeaderMap> {
        self.0.lock().expect("no panic").requests.iter().map(|(headers, _)| headers.clone()).collect()
    }

    /// The attributes of the resource, as text.
    pub(crate) fn resource(&self) -> Vec<(String, String)> {
        let state = self.0.lock().expect("no panic");
        let resources = state.requests.iter().flat_map(|(_, it)| &it.resource_spans);
        let attributes = resources.filter_map(|it| it.resource.as_ref()).flat_map(|it| &it.attributes);
        attributes
            .map(|attribute| {
                let value = attribute.value.as_ref().and_then(|value| value.value.as_ref());
                let Some(Value::StringValue(text)) = value else { panic!("{attribute:?}") };
                (attribute.key.clone(), text.clone())
            })
            .collect()
    }

    pub(crate) fn spans(&self) -> Vec<Span> {
        let state = self.0.lock().expect("no panic");
        let resources = state.requests.iter().flat_map(|(_, it)| it.resource_spans.clone());
        resources.flat_map(|it| it.scope_spans).flat_map(|it| it.spans).collect()
    }

    pub(crate) fn of_kind(&self, kind: SpanKind) -> Vec<Span> {
        self.spans().into_iter().filter(|span| span.kind == kind as i32).collect()
    }
}

/// Starts a collector.
pub(crate) async fn collector() -> (SocketAddr, Received) {
    start(None).await
}

/// Starts a collector with TLS.
pub(crate) async fn collector_with_tls(tls: &Tls) -> (SocketAddr, Received) {
    start(Some(tls.acceptor.clone())).await
}

async fn start(tls: Option<TlsAcceptor>) -> (SocketAddr, Received) {
    let received = Received::default();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let service = received.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = TowerToHyperService::new(TraceServiceServer::new(service.clone()));
            let tls = tls.clone();
            tokio::spawn(async move {
                let http2 = http2::Builder::new(TokioExecutor::new());
                match tls {
                    None => drop(http2.serve_connection(TokioIo::new(stream), service).await),
                    Some(tls) => {
                        if let Ok(stream) = tls.accept(stream).await {
                            drop(http2.serve_connection(TokioIo::new(stream), service).await);
                        }
                    }
                }
            });
        }
    });
    (address, received)
}
