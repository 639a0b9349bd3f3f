//! The middleware of the main port: the steps of a call between connection and handler.
//!
//! Each step has its own file. What a caller may do is decided in the typed handlers; paths
//! are used only for metrics, audit and the choice of the stack.

use std::{panic::AssertUnwindSafe, time::Duration};

use futures_util::FutureExt;
use http::{HeaderMap, Method, Request, Response, StatusCode, header::CONTENT_TYPE};
use tokio_util::sync::CancellationToken;
use tonic::{body::Body, service::Routes};
use tower::Service;

use super::{
    completion::{self, Audited, Completion, REQUEST_ID},
    deadline::{self, MalformedTimeout},
    gate::Gate,
    request_body::RequestBody,
};
use crate::{
    access::Access,
    arrival::Arrival,
    audit::Audit,
    call::{Call, Deadline, Operation, RequestId},
    caller::{BearerTokens, Caller, Identification, Peer, Proof},
    clock::Instant,
    status::{Failure, Reason},
    telemetry::{
        metrics::Metrics,
        panics,
        tracing::{CallSpan, Tracer},
    },
};

/// The paths of the gateway's own service.
const OTT_SERVICE: &str = "/ott.v1.OttService/";
/// The paths of the reflection services, of either version.
const REFLECTION_SERVICES: [&str; 2] =
    ["/grpc.reflection.v1.ServerReflection/", "/grpc.reflection.v1alpha.ServerReflection/"];

/// The middleware of the main port and the routes behind it; one for each worker.
#[derive(Debug)]
pub(super) struct CallStack {
    pub(super) routes: Routes,
    pub(super) identification: Identification,
    pub(super) access: Access,
    pub(super) audit: Audit,
    pub(super) metrics: Metrics,
    pub(super) tracer: Tracer,
    pub(super) gate: Gate,
    pub(super) cut_off: CancellationToken,
    pub(super) max_deadline: Duration,
}

impl CallStack {
    /// Answers one call that arrived then from that peer.
    pub(super) async fn answer<B>(&self, request: Request<B>, peer: &Peer, arrived: Instant) -> Response<Body>
    where
        B: http_body::Body<Data = bytes::Bytes> + Send + Unpin + 'static,
        B::Error: Into<tonic::codegen::StdError>,
    {
        let (call, timeout) = self.arrive(&request, peer, arrived);
        if let Err(status) = speaks_grpc(&request) {
            return refuse_protocol(status, &call);
        }
        if REFLECTION_SERVICES.iter().any(|service| request.uri().path().starts_with(service)) {
            return self.answer_reflection(request, &call, timeout, peer).await;
        }
        let span = self.tracer.call(call.operation().into(), call.request_id(), request.headers());
        let (audit, metrics) = (self.audit.clone(), self.metrics.clone());
        let completion = Completion::of(call.clone(), span.clone(), audited(&request), audit, metrics);
        let work = self.admit_and_answer(request, &call, span, timeout, peer);
        let outcome = self.without_panic(&call, work).await;
        completion.finish(outcome).await
    }

    /// The steps that can turn a call away, in order, and the handler behind them.
    async fn admit_and_answer<B>(
        &self,
        request: Request<B>,
        call: &Call,
        span: CallSpan,
        timeout: Result<(), MalformedTimeout>,
        peer: &Peer,
    ) -> Result<Response<Body>, Failure>
    where
        B: http_body::Body<Data = bytes::Bytes> + Send + Unpin + 'static,
        B::Error: Into<tonic::codegen::StdError>,
    {
        timeout.map_err(|MalformedTimeout| {
            Failure::new(Reason::InvalidRequest)
                .violation("grpc-timeout", "1 to 8 digits and one of the units H M S m u n, given once")
        })?;
        let in_flight = Some(self.gate.admit()?);
        let mut request = request.map(|body| RequestBody::new(body, call.clone()));
        deadline::within(call, &self.cut_off, async {
            // Read once: tokens and rules of one version decide on the whole call.
            let policy = self.access.policy();
            let caller = self.identify(request.headers(), call, peer, policy.tokens()).await?;
            if *caller.proof() != Proof::None {
                span.follow_caller();
            }
            let (call, recognition) = (call.clone(), peer.recognition().clone());
            let arrival = Arrival { call, caller, policy, span, in_flight, recognition };
            request.extensions_mut().insert(arrival);
            Ok(self.route(request).await)
        })
        .await
    }

    /// Reflection is for callers whom the rules name, within the same limits as a call,
    /// but it is none: it is not counted, and keeps its own errors. Where it is switched
    /// off, there is no such method.
    async fn answer_reflection<B>(
        &self,
        request: Request<B>,
        call: &Call,
        timeout: Result<(), MalformedTimeout>,
        peer: &Peer,
    ) -> Response<Body>
    where
        B: http_body::Body<Data = bytes::Bytes> + Send + Unpin + 'static,
        B::Error: Into<tonic::codegen::StdError>,
    {
        let work = self.admit_and_answer(request, call, CallSpan::default(), timeout, peer);
        match self.without_panic(call, work).await {
            Ok(response) => completion::with_documented_unknown_method(response, call),
            Err(failure) => completion::answer(failure, call),
        }
    }

    /// Notes what a call is known by: its id, its times and its method.
    fn arrive<B>(
        &self,
        request: &Request<B>,
        peer: &Peer,
        arrived: Instant,
    ) -> (Call, Result<(), MalformedTimeout>) {
        let (deadline, timeout) = match deadline::of(request.headers(), arrived, self.max_deadline) {
            Ok(deadline) => (deadline, Ok(())),
            Err(malformed) => (Deadline::at(arrived + self.max_deadline), Err(malformed)),
        };
        let call = Call::with_request_id(request_id(request.headers()), arrived, deadline);
        call.set_peer(peer.address());
        match request.uri().path().strip_prefix(OTT_SERVICE) {
            Some("IssueOtt") => call.set_operation(Operation::IssueOtt),
            Some("LoginWithOtt") => call.set_operation(Operation::LoginWithOtt),
            _ => {}
        }
        (call, timeout)
    }

    async fn identify(
        &self,
        headers: &HeaderMap,
        call: &Call,
        peer: &Peer,
        tokens: &BearerTokens,
    ) -> Result<Caller, Failure> {
        let caller = self.identification.identify(headers, peer, tokens).await.inspect_err(|_| {
            self.metrics.security_event("caller_unauthenticated");
            tracing::debug!(
                request.id = %call.request_id(),
                peer.address = %peer.address(),
                "caller not identified"
            );
        })?;
        call.set_caller(std::sync::Arc::clone(caller.name()), caller.proof().label());
        if call.operation().is_some() && !headers.contains_key("grpc-timeout") {
            self.metrics.without_deadline(caller.name());
        }
        Ok(caller)
    }

    async fn route<B>(&self, request: Request<B>) -> Response<Body>
    where
        B: http_body::Body<Data = bytes::Bytes> + Send + Unpin + 'static,
        B::Error: Into<tonic::codegen::StdError>,
    {
        // The router is always ready and never fails.
        match self.routes.clone().call(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }

    /// Turns a panic into an answer; the connection and its other calls go on.
    async fn without_panic<T>(
        &self,
        call: &Call,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        // What the work has left half done is dropped with it; the call's own record
        // consists of atomics.
        AssertUnwindSafe(work).catch_unwind().await.unwrap_or_else(|_payload| {
            call.abandon();
            panics::call_panicked(call, &self.metrics);
            Err(Failure::new(Reason::InternalError))
        })
    }
}

/// The caller's own id for the call, if it gave exactly one that is well formed.
fn request_id(headers: &HeaderMap) -> RequestId {
    let mut given = headers.get_all(REQUEST_ID).iter();
    match (given.next(), given.next()) {
        (Some(id), None) => RequestId::given(id.as_bytes()).unwrap_or_default(),
        _ => RequestId::new(),
    }
}

fn audited<B>(request: &Request<B>) -> Audited {
    if request.uri().path().starts_with(OTT_SERVICE) { Audited::Yes } else { Audited::No }
}

/// Accepts gRPC with protocol buffers only: not gRPC-Web, not JSON. The error is the HTTP
/// status to answer with.
pub(super) fn speaks_grpc<B>(request: &Request<B>) -> Result<(), StatusCode> {
    if request.method() != Method::POST {
        return Err(StatusCode::METHOD_NOT_ALLOWED);
    }
    let content_type = request.headers().get(CONTENT_TYPE).map_or(&[][..], |value| value.as_bytes());
    let kind = content_type.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii_end();
    match kind {
        b"application/grpc" | b"application/grpc+proto" => Ok(()),
        _ => Err(StatusCode::UNSUPPORTED_MEDIA_TYPE),
    }
}

/// What does not speak gRPC gets an HTTP status, and a gRPC one in case it does
/// understand it.
fn refuse_protocol(status: StatusCode, call: &Call) -> Response<Body> {
    let rule = "POST, with content-type application/grpc or application/grpc+proto";
    let failure = Failure::new(Reason::InvalidRequest).violation("content-type", rule);
    let mut response = completion::answer(failure, call);
    *response.status_mut() = status;
    response
}
