//! Spans, and their way to the collector.
//!
//! Attribute names are those of OpenTelemetry's stable RPC and HTTP conventions
//! (1.45); what has no name there starts with `ott_gateway.`.

mod queue;
mod sampling;

use std::{
    fmt,
    sync::{Arc, OnceLock},
    thread,
    time::{Duration, SystemTime},
};

use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::{
    Context, KeyValue,
    propagation::{Extractor, Injector, TextMapPropagator},
    trace::{SpanKind, Status, TraceContextExt, Tracer as _, TracerProvider},
};
use opentelemetry_otlp::{RetryPolicy, WithExportConfig, WithTonicConfig};
use opentelemetry_sdk::{
    Resource,
    propagation::TraceContextPropagator,
    trace::{SdkTracer, SdkTracerProvider},
};
use tokio::sync::oneshot;
use tonic::{
    Code,
    transport::{ClientTlsConfig, Endpoint},
};

use self::{
    queue::Queue,
    sampling::{Decided, Sampling},
};
use super::{Attempt, CallEnd, Settings, TracingError};
use crate::{
    call::RequestId,
    clock::WallClock,
    telemetry::{
        metrics::{Method, TraceMetrics},
        names,
    },
};

/// How long the collector may take to answer.
const EXPORT_LIMIT: Duration = Duration::from_secs(5);

/// Makes spans. Cheap to clone.
#[derive(Clone, Default)]
pub struct Tracer(Option<Arc<Started>>);

struct Started {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
    propagator: TraceContextPropagator,
    sampling: Sampling,
}

/// The span of a call; ends when it is finished, or when the last clone is dropped.
///
/// Whether it is recorded is decided when it is first used, because that depends on whether
/// the caller is identified.
#[derive(Clone, Default)]
pub struct CallSpan(Option<Arc<Call>>);

struct Call {
    started: Arc<Started>,
    method: Method,
    request_id: RequestId,
    arrived: SystemTime,
    /// The caller's span, if it named one.
    parent: Context,
    /// With the span of the call.
    context: OnceLock<Context>,
}

/// The span of one attempt at the platform; ends when it is dropped.
#[derive(Default)]
pub struct AttemptSpan(Option<(Arc<Started>, Context)>);

impl Tracer {
    /// No traces.
    #[must_use]
    pub fn off() -> Self {
        Self::default()
    }

    /// Starts to send spans to the collector; it need not be there yet. Must be called
    /// on the runtime that is to carry the connection, and that outlives
    /// [`stop`](Self::stop).
    pub fn start(settings: &Settings, metrics: TraceMetrics) -> Result<Self, TracingError> {
        let mut endpoint = Endpoint::from_shared(settings.endpoint.clone())
            .map_err(|_| TracingError::Endpoint)?
            .timeout(EXPORT_LIMIT)
            .connect_timeout(EXPORT_LIMIT);
        match endpoint.uri().scheme_str() {
            Some("http") => {}
            Some("https") => {
                endpoint = endpoint
                    .tls_config(ClientTlsConfig::new().with_native_roots())
                    .map_err(|_| TracingError::Tls)?;
            }
            _ => return Err(TracingError::Endpoint),
        }
        let exporter = opentelemetry_otlp::SpanExporter::builder()
            .with_tonic()
            .with_channel(endpoint.connect_lazy())
            .with_timeout(EXPORT_LIMIT)
            .with_retry_policy(RetryPolicy::disabled())
            .build()
            .map_err(|_| TracingError::Exporter)?;
        let resource = Resource::builder_empty()
            .with_service_name("ott-gateway")
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .with_attribute(KeyValue::new("service.instance.id", RequestId::new().to_string()))
            .build();
        let provider = SdkTracerProvider::builder()
            .with_span_processor(Queue::new(exporter, metrics.clone()))
            .with_sampler(Decided)
            .with_resource(resource)
            .build();
        let tracer = provider.tracer("ott-gateway");
        let propagator = TraceContextPropagator::new();
        let sampling = Sampling::new(settings.sample_ratio, metrics);
        Ok(Self(Some(Arc::new(Started { provider, tracer, propagator, sampling }))))
    }

    /// Begins the span of a call that has just arrived with these headers.
    #[must_use]
    pub fn call(&self, method: Method, request_id: RequestId, headers: &HeaderMap) -> CallSpan {
        let Some(started) = &self.0 else { return CallSpan::default() };
        let parent = started.propagator.extract_with_context(&Context::new(), &Headers(headers));
        CallSpan(Some(Arc::new(Call {
            started: Arc::clone(started),
            method,
            request_id,
            arrived: WallClock::system().now(),
            parent,
            context: OnceLock::new(),
        })))
    }

    /// Sends what is left and stops, within that time.
    pub async fn stop(&self, limit: Duration) {
        let Some(started) = self.0.clone() else { return };
        let (done, stopped) = oneshot::channel();
        // It blocks, while the runtime goes on carrying the connection. `spawn_blocking` would
        // panic if the system starts no thread, and end the drain.
        let stopping = thread::Builder::new().name("traces".to_owned()).spawn(move || {
            // The receiver may have stopped waiting.
            let _ = done.send(started.provider.shutdown_with_timeout(limit));
        });
        if let Err(error) = stopping {
            ::tracing::warn!(%error, "cannot start a thread to export the last spans");
        } else if !matches!(tokio::time::timeout(limit, stopped).await, Ok(Ok(Ok(())))) {
            ::tracing::warn!("trace collector did not accept the last spans");
        }
    }
}

impl Call {
    /// Returns the context with the span of the call. The first use decides whether the span
    /// is recorded.
    fn context(&self, identified: bool) -> &Context {
        self.context.get_or_init(|| {
            let (name, rpc_method) = match self.method {
                Method::IssueOtt => ("ott.v1.OttService/IssueOtt", "ott.v1.OttService/IssueOtt"),
                Method::LoginWithOtt => ("ott.v1.OttService/LoginWithOtt", "ott.v1.OttService/LoginWithOtt"),
                Method::Unknown => ("grpc", "_OTHER"),
            };
            let parent = self.started.sampling.decide(&self.parent, identified);
            let span = self
                .started
                .tracer
                .span_builder(name)
                .with_kind(SpanKind::Server)
                .with_start_time(self.arrived)
                .with_attributes([
                    KeyValue::new("rpc.system.name", "grpc"),
                    KeyValue::new("rpc.method", rpc_method),
                    KeyValue::new("ott_gateway.request_id", self.request_id.to_string()),
                ])
                .start_with_context(&self.started.tracer, &parent);
            parent.with_span(span)
        })
    }
}

impl Drop for Call {
    /// A call that was not finished has a span too.
    fn drop(&mut self) {
        self.context(false);
    }
}

impl CallSpan {
    /// Follows the caller's decision whether the call is recorded, because the caller is
    /// identified. Without this, the gateway decides.
    pub fn follow_caller(&self) {
        if let Some(call) = &self.0 {
            call.context(true);
        }
    }

    /// The id of the trace, for log lines. `None` if the call is not recorded, or has not
    /// been decided about.
    #[must_use]
    pub fn trace_id(&self) -> Option<String> {
        let context = self.0.as_ref()?.context.get()?;
        let span = context.span();
        span.span_context().is_sampled().then(|| span.span_context().trace_id().to_string())
    }

    /// Begins the span of an attempt at the platform.
    #[must_use]
    pub fn attempt(&self, attempt: &Attempt<'_>) -> AttemptSpan {
        let Some(call) = &self.0 else { return AttemptSpan::default() };
        let (started, context) = (&call.started, call.context(false));
        let url = attempt.url;
        let mut attributes = vec![
            KeyValue::new("http.request.method", attempt.method),
            KeyValue::new("url.full", url.to_string()),
            KeyValue::new("url.template", url.path().to_owned()),
            KeyValue::new("server.address", url.host_str().unwrap_or_default().to_owned()),
            KeyValue::new("server.port", url.port_or_known_default().map_or(0, i64::from)),
            KeyValue::new("ott_gateway.operation", attempt.operation.name()),
        ];
        if attempt.resends > 0 {
            attributes.push(KeyValue::new("http.request.resend_count", i64::from(attempt.resends)));
        }
        let span = started
            .tracer
            .span_builder(format!("{} {}", attempt.method, url.path()))
            .with_kind(SpanKind::Client)
            .with_attributes(attributes)
            .start_with_context(&started.tracer, context);
        AttemptSpan(Some((Arc::clone(started), context.with_span(span))))
    }

    /// Ends the span.
    pub fn finish(&self, end: CallEnd<'_>) {
        let Some(call) = &self.0 else { return };
        let span = call.context(false).span();
        let code = names::status_name(end.code);
        span.set_attribute(KeyValue::new("rpc.response.status_code", code));
        span.set_attribute(KeyValue::new("ott_gateway.outcome", end.outcome.as_str()));
        if let Some(api_client) = end.api_client {
            span.set_attribute(KeyValue::new("ott_gateway.api_client", api_client.to_owned()));
        }
        if let Some(reason) = end.reason {
            span.set_attribute(KeyValue::new("ott_gateway.reason", reason));
        }
        if let Some(cause) = end.cause {
            span.set_attribute(KeyValue::new("ott_gateway.cause", cause.to_owned()));
        }
        if is_fault_of_server(end.code) {
            span.set_attribute(KeyValue::new("error.type", code));
            span.set_status(Status::error(end.reason.unwrap_or_default()));
        }
        span.end();
    }
}

impl AttemptSpan {
    /// Passes the trace on in the headers of the request.
    pub fn inject(&self, headers: &mut HeaderMap) {
        if let Some((started, context)) = &self.0 {
            started.propagator.inject_context(context, &mut HeadersMut(headers));
        }
    }

    /// Ends the span: the platform answered.
    pub fn answered(self, http_status: u16) {
        let Some((_, context)) = &self.0 else { return };
        let span = context.span();
        span.set_attribute(KeyValue::new("http.response.status_code", i64::from(http_status)));
        if http_status >= 400 {
            span.set_attribute(KeyValue::new("error.type", http_status.to_string()));
            span.set_status(Status::error(""));
        }
        span.end();
    }

    /// Ends the span of an attempt without a usable response.
    pub fn failed(self, error_type: &'static str, cause: &str) {
        let Some((_, context)) = &self.0 else { return };
        let span = context.span();
        span.set_attribute(KeyValue::new("error.type", error_type));
        span.set_status(Status::error(cause.to_owned()));
        span.end();
    }
}

impl fmt::Debug for Tracer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tracer").field("on", &self.0.is_some()).finish()
    }
}

impl fmt::Debug for CallSpan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CallSpan").field(&self.trace_id()).finish()
    }
}

impl fmt::Debug for AttemptSpan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AttemptSpan").finish_non_exhaustive()
    }
}

/// The codes that the conventions count as the server's faults.
const fn is_fault_of_server(code: Code) -> bool {
    matches!(
        code,
        Code::Unknown
            | Code::DeadlineExceeded
            | Code::Unimplemented
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss
    )
}

struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        let mut values = self.0.get_all(key).iter();
        let first = values.next()?;
        // Two parents are no parent (W3C Trace Context, 3.2). A `tracestate` may come in
        // parts; it is not worth joining them.
        values.next().is_none().then(|| first.to_str().ok()).flatten()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(HeaderName::as_str).collect()
    }
}

struct HeadersMut<'a>(&'a mut HeaderMap);

impl Injector for HeadersMut<'_> {
    fn set(&mut self, key: &str, value: String) {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(key), HeaderValue::try_from(value)) {
            self.0.insert(name, value);
        }
    }
}
