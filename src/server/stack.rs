//! The middleware of the main port: the steps between connection and handler.
//!
//! Each step has its own file. Access to methods is decided here, and access to users in the typed
//! handlers.

use std::{
    future::ready,
    mem,
    panic::AssertUnwindSafe,
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures_util::FutureExt;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header::CONTENT_TYPE, request::Parts};
use http_body_util::Full;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;

use super::{
    completion::{self, Audited, Completion},
    deadline::{self, MalformedTimeout},
    gate::CallGate,
    handlers::Handlers,
    holders::WorkerHolders,
    http1_refusal::SPOKEN,
    message::ArrivingMessage,
    refused_bodies::WorkerRefusedBodies,
    refused_calls::RefusedCalls,
    request_body::RequestBody,
    response_body::ResponseBody,
};
use crate::{
    access::{Access, Admission, Denied, Policy, RefusedRehearsal},
    base::clock::Instant,
    caller::{Caller, CallerPolicy, Identification, Peer, Proof},
    domain::call::{Call, Deadline, Holder, Method, RequestId},
    observe::{
        audit::Audit,
        telemetry::{
            metrics::{Metrics, SecurityEvent},
            panics,
            tracing::{CallSpan, Tracer},
        },
    },
    service::arrival::Arrival,
    status::{Case, Failure, Reason},
};

/// Maximum size of a request message, in bytes, as documented in the proto file.
const MAX_MESSAGE_BYTES: usize = 16 * 1024;

/// Path prefix of the gateway's own service.
const OTT_SERVICE: &str = "/ott.v1.OttService/";
/// Path prefixes of both versions of the reflection service.
const REFLECTION_SERVICES: [&str; 2] =
    ["/grpc.reflection.v1.ServerReflection/", "/grpc.reflection.v1alpha.ServerReflection/"];

/// The middleware of the main port and the handlers behind it; one per worker.
#[derive(Debug)]
pub(super) struct CallStack {
    pub(super) handlers: Handlers,
    pub(super) identification: Identification,
    pub(super) access: Access,
    pub(super) audit: Audit,
    pub(super) metrics: Metrics,
    pub(super) tracer: Tracer,
    pub(super) gate: CallGate,
    pub(super) holders: WorkerHolders,
    pub(super) refused_calls: RefusedCalls,
    pub(super) refused_bodies: WorkerRefusedBodies,
    pub(super) cut_off: CancellationToken,
    pub(super) times: CallTimes,
}

/// Time limits of a call.
#[derive(Clone, Copy, Debug)]
pub(super) struct CallTimes {
    /// Maximum deadline of a call; also that of a call without one.
    pub(super) max_deadline: Duration,
    /// Maximum time from the identification of a call until its body has arrived.
    pub(super) body_timeout: Duration,
}

impl CallStack {
    /// Answers one call from `peer` that arrived at `arrived`.
    ///
    /// The future is boxed, because the library moves it several times when it spawns a task for
    /// it. It is not an `async fn`, which would keep its arguments in addition to the values made
    /// from them.
    pub(super) fn answer<'a, B>(
        &'a self,
        request: Request<B>,
        peer: &'a Peer,
        arrived: Instant,
    ) -> Pin<Box<dyn Future<Output = Response<ResponseBody>> + Send + 'a>>
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<tonic::codegen::StdError>,
    {
        let (call, timeout) = self.arrive(&request, peer, arrived);
        if let Err(status) = speaks_grpc(&request) {
            return Box::pin(ready(refuse_protocol(status, expects_grpc(request.headers()), &call)));
        }
        if REFLECTION_SERVICES.iter().any(|service| request.uri().path().starts_with(service)) {
            return Box::pin(async move { self.answer_reflection(request, &call, timeout, peer).await });
        }
        let span = self.tracer.call(call.method().into(), call.request_id(), request.headers());
        let (audit, metrics) = (self.audit.clone(), self.metrics.clone());
        let refused_calls = self.refused_calls.clone();
        let mut completion =
            Completion::of(call.clone(), span.clone(), audited(&request), audit, refused_calls, metrics);
        let (mut head, body) = request.into_parts();
        let mut message = ArrivingMessage::new(RequestBody::new(body, call.clone()), MAX_MESSAGE_BYTES);
        Box::pin(async move {
            let mut rehearsal = None;
            let outcome = if let Err(failure) = self.check(timeout) {
                Err(failure)
            } else {
                let (message, rehearsal) = (&mut message, &mut rehearsal);
                // Pinned here and below, because passing a future by value reserves space for it
                // twice.
                let work = pin!(self.admit_and_answer(&mut head, message, &call, span, peer, rehearsal));
                self.without_panic(&call, work).await
            };
            if let Some(rehearsal) = rehearsal {
                completion.rehearse(rehearsal);
            }
            if let Err(failure) = &outcome
                && !message.is_begun()
                && completion.has_own_record()
            {
                // Decided before the message is read, so that a caller that withholds or breaks off
                // the message cannot hide why the call was refused.
                completion.decide(failure.ending(&call));
                let is_proxy = self.identification.trusts(peer);
                self.refused_bodies.receive(&mut message, &call, peer, is_proxy, &self.cut_off).await;
            }
            completion.finish(outcome).await
        })
    }

    /// The steps that can refuse a call, in order, and the handler behind them. Sets `rehearsal` if
    /// the rules refuse the call before its message is read.
    ///
    /// A call that will be refused takes no place, and a call whose body has not arrived takes none
    /// among the calls in flight, because it has cost its caller almost nothing.
    async fn admit_and_answer<B>(
        &self,
        head: &mut Parts,
        message: &mut ArrivingMessage<B>,
        call: &Call,
        span: CallSpan,
        peer: &Peer,
        rehearsal: &mut Option<RefusedRehearsal>,
    ) -> Result<Response<ResponseBody>, Failure>
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<tonic::codegen::StdError>,
    {
        let work = pin!(async {
            // Read once, so that tokens, claims and rules of one version apply to the whole call.
            let policy = self.access.policy();
            let caller = self.identify(&head.headers, call, peer, policy.for_callers()).await?;
            if *caller.proof() != Proof::None {
                span.follow_caller(&head.headers);
            }
            let Some(method) = call.method() else {
                if head.uri.path().starts_with(OTT_SERVICE) {
                    self.access.mentions(&policy, &caller)?;
                    peer.recognition().set();
                }
                return Err(Failure::new(Reason::MethodUnknown));
            };
            let policy = policy.into_shared();
            let admission = self.admits(Arc::clone(&policy), call, &caller, method, peer);
            if admission.is_err() {
                *rehearsal = self.access.rehearse_refusal(&policy, call, &caller, method);
            }
            let admission = admission?;
            let holder = self.holder(&caller, peer);
            call.set_consumer(holder.consumer());
            let message = self.receive(message, &holder).await?;
            call.keep_message(message.clone());
            let in_flight = self.gate.admit(&holder, admission.max_in_flight())?;
            self.gate.expect_record().await?;
            let arrival = Arrival {
                call: call.clone(),
                caller,
                policy,
                span,
                in_flight: Some(in_flight),
                recognition: peer.recognition().clone(),
            };
            let answer = self.handlers.call(head, &message, arrival, admission);
            // The call may wait for a long time and needs neither.
            drop((message, mem::take(&mut head.headers)));
            answer.await
        });
        deadline::within(call, &self.cut_off, work).await
    }

    /// Returns what the rules allow the caller, who is recognized if one of them names it.
    fn admits(
        &self,
        policy: Arc<Policy>,
        call: &Call,
        caller: &Caller,
        method: Method,
        peer: &Peer,
    ) -> Result<Admission, Denied> {
        let admission = self.access.admits(policy, call, caller, method);
        if admission.as_ref().err().is_none_or(Denied::names_caller) {
            peer.recognition().set();
        }
        admission
    }

    /// Returns the complete body of a call.
    async fn receive<B>(&self, message: &mut ArrivingMessage<B>, holder: &Holder) -> Result<Bytes, Failure>
    where
        B: http_body::Body<Data = Bytes> + Unpin,
        B::Error: Into<tonic::codegen::StdError>,
    {
        // Most bodies arrive together with their headers, and need no place.
        if let Some(arrived) = message.complete().now_or_never() {
            return Ok(arrived?);
        }
        let _place = self.gate.await_body(holder)?;
        let body_timeout = self.times.body_timeout;
        match tokio::time::timeout(body_timeout, message.complete()).await {
            Ok(arrived) => Ok(arrived?),
            Err(_elapsed) => {
                self.metrics.security_event(SecurityEvent::SlowBody);
                Err(Failure::slow_body(body_timeout))
            }
        }
    }

    /// Answers a reflection request within the limit of calls in flight. The service checks that a
    /// rule names the caller. The request is not counted as a call, and its own errors are kept. If
    /// reflection is disabled, the method is unknown.
    async fn answer_reflection<B>(
        &self,
        request: Request<B>,
        call: &Call,
        timeout: Result<(), MalformedTimeout>,
        peer: &Peer,
    ) -> Response<ResponseBody>
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<tonic::codegen::StdError>,
    {
        let work = async {
            self.check(timeout)?;
            let mut request = request.map(|body| RequestBody::new(body, call.clone()));
            deadline::within(call, &self.cut_off, async {
                let policy = self.access.policy();
                let caller = self.identify(request.headers(), call, peer, policy.for_callers()).await?;
                // Reflection is a stream, so there is no complete body to wait for.
                let share = self.access.max_in_flight(&policy, &caller);
                let in_flight = self.gate.admit(&self.holder(&caller, peer), share)?;
                request.extensions_mut().insert(Arrival {
                    call: call.clone(),
                    caller,
                    policy: policy.into_shared(),
                    span: CallSpan::default(),
                    in_flight: Some(in_flight),
                    recognition: peer.recognition().clone(),
                });
                Ok(self.handlers.route(request).await)
            })
            .await
        };
        match self.without_panic(call, work).await {
            Ok(response) => completion::with_documented_unknown_method(response, call),
            Err(failure) => completion::answer(failure, call),
        }
    }

    /// Refuses a call that cannot be accepted from any caller.
    fn check(&self, timeout: Result<(), MalformedTimeout>) -> Result<(), Failure> {
        timeout.map_err(|MalformedTimeout| {
            Failure::new(Reason::InvalidRequest).violation(
                "grpc-timeout",
                "must be one value of 1 to 8 digits and one of the units H M S m u n",
            )
        })?;
        self.gate.check()
    }

    fn holder(&self, caller: &Caller, peer: &Peer) -> Holder {
        self.holders.of(caller, peer, self.identification.trusts(peer))
    }

    /// Creates the call: its id, its times and its method.
    fn arrive<B>(
        &self,
        request: &Request<B>,
        peer: &Peer,
        arrived: Instant,
    ) -> (Call, Result<(), MalformedTimeout>) {
        let (deadline, timeout) = match deadline::of(request.headers(), arrived, self.times.max_deadline) {
            Ok(deadline) => (deadline, Ok(())),
            Err(malformed) => (Deadline::at(arrived + self.times.max_deadline), Err(malformed)),
        };
        let call = Call::with_request_id(request_id(request.headers()), arrived, deadline);
        call.set_peer(peer.address());
        match request.uri().path().strip_prefix(OTT_SERVICE) {
            Some("IssueOtt") => call.set_method(Method::IssueOtt),
            Some("LoginWithOtt") => call.set_method(Method::LoginWithOtt),
            _ => {}
        }
        (call, timeout)
    }

    async fn identify(
        &self,
        headers: &HeaderMap,
        call: &Call,
        peer: &Peer,
        policy: CallerPolicy<'_>,
    ) -> Result<Caller, Failure> {
        let caller = self.identification.identify(headers, peer, policy).await.inspect_err(|_| {
            self.metrics.security_event(SecurityEvent::CallerUnauthenticated);
            tracing::debug!(
                request.id = %call.request_id(),
                peer.address = %peer.address(),
                "caller not identified"
            );
        })?;
        call.set_caller(Arc::clone(caller.name()), caller.proof().label());
        if call.method().is_some() && !headers.contains_key(deadline::TIMEOUT) {
            self.metrics.without_deadline(caller.name());
        }
        Ok(caller)
    }

    /// Turns a panic into a failure, so that the connection and its other calls continue.
    async fn without_panic<T>(
        &self,
        call: &Call,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        // Unwind safe: state of the work is dropped with it, and the state of the call is atomic.
        AssertUnwindSafe(work).catch_unwind().await.unwrap_or_else(|_payload| {
            call.abandon();
            panics::call_panicked(call, &self.metrics);
            Err(Failure::new(Reason::InternalError))
        })
    }
}

/// Returns the caller's request id if there is exactly one and it is well formed, else a new one.
fn request_id(headers: &HeaderMap) -> RequestId {
    let mut given = headers.get_all(RequestId::HEADER).iter();
    match (given.next(), given.next()) {
        (Some(id), None) => RequestId::given(id.as_bytes()).unwrap_or_default(),
        _ => RequestId::new(),
    }
}

fn audited<B>(request: &Request<B>) -> Audited {
    if request.uri().path().starts_with(OTT_SERVICE) { Audited::Yes } else { Audited::No }
}

/// Checks that a request is gRPC with protocol buffers, not gRPC-Web or JSON. The error is the HTTP
/// status of the response.
pub(super) fn speaks_grpc<B>(request: &Request<B>) -> Result<(), StatusCode> {
    if request.method() != http::Method::POST {
        return Err(StatusCode::METHOD_NOT_ALLOWED);
    }
    let content_type = request.headers().get(CONTENT_TYPE).map_or(&[][..], |value| value.as_bytes());
    let kind = content_type.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii_end();
    match kind {
        b"application/grpc" | b"application/grpc+proto" => Ok(()),
        _ => Err(StatusCode::UNSUPPORTED_MEDIA_TYPE),
    }
}

/// Answers a request that is not gRPC with an HTTP status and a readable text, and with a gRPC
/// status in case the client understands it.
fn refuse_protocol(status: StatusCode, is_grpc: bool, call: &Call) -> Response<ResponseBody> {
    let not_grpc = Failure::of(Case::NotGrpc);
    let failure = if status == StatusCode::METHOD_NOT_ALLOWED {
        not_grpc.violation(":method", "must be POST")
    } else {
        not_grpc.violation("content-type", "must be application/grpc or application/grpc+proto")
    };
    let mut response = completion::answer(failure, call);
    *response.status_mut() = status;
    if !is_grpc {
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        *response.body_mut() = Body::new(Full::from(SPOKEN)).into();
    }
    response
}

/// Returns whether the client expects a gRPC response: its content type is a gRPC type, though
/// possibly one that is not served, such as `application/grpc+json`.
fn expects_grpc(headers: &HeaderMap) -> bool {
    let content_type = headers.get(CONTENT_TYPE).map_or(&[][..], |value| value.as_bytes());
    content_type.strip_prefix(b"application/grpc").is_some_and(|rest| matches!(rest, [] | [b'+' | b';', ..]))
}
