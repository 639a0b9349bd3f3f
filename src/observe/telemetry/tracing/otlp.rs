//! Creates spans and exports them to the collector.
//!
//! Attribute names follow OpenTelemetry's stable RPC and HTTP conventions (1.45); names of other
//! attributes start with `ott_gateway.`.

mod collector;
mod context;
mod export;
mod queue;
mod sampling;

use std::{
    fmt,
    sync::{Arc, OnceLock},
    time::{Duration, SystemTime},
};

use http::HeaderMap;
use opentelemetry::{
    Context, KeyValue,
    trace::{SpanContext, SpanKind, Status, TraceContextExt, Tracer as _, TracerProvider},
};
use opentelemetry_proto::transform::common::tonic::ResourceAttributesWithSchema;
use opentelemetry_sdk::{
    Resource,
    trace::{SdkTracer, SdkTracerProvider, SpanLimits},
};
use tonic::Code;

use self::{
    export::ExportThread,
    queue::queue,
    sampling::{Decided, Sampling},
};
use super::{Attempt, CallEnd, CollectorTls, Settings, TracingError};
use crate::{
    base::clock::WallClock,
    domain::call::RequestId,
    observe::telemetry::{
        metrics::{MethodLabel, Metrics, SpanLoss, TraceMetrics},
        names,
    },
};

/// Creates spans. Cheap to clone.
#[derive(Clone, Default)]
pub struct Tracer(Option<Arc<ActiveTracer>>);

struct ActiveTracer {
    tracer: SdkTracer,
    /// Ends the queue when the last handle is dropped.
    _provider: SdkTracerProvider,
    export: ExportThread,
    sampling: Sampling,
    propagate: bool,
    max_value_length: usize,
    queued: queue::Length,
    metrics: TraceMetrics,
}

/// Span of a call. Ends when it is finished, or when the last clone is dropped.
///
/// Sampling is decided at the first use, because it depends on whether the caller is identified.
#[derive(Clone, Default)]
pub struct CallSpan(Option<Arc<Call>>);

struct Call {
    active: Arc<ActiveTracer>,
    method: MethodLabel,
    request_id: RequestId,
    arrived: SystemTime,
    /// The caller's span, if it sent one, without its `tracestate`.
    parent: Option<SpanContext>,
    /// Context with the span of the call.
    context: OnceLock<Context>,
}

/// Span of one attempt at the platform. Ends when it is dropped.
#[derive(Default)]
pub struct AttemptSpan(Option<(Arc<ActiveTracer>, Context)>);

impl Tracer {
    /// Creates a tracer without traces.
    #[must_use]
    pub fn off() -> Self {
        Self::default()
    }

    /// Starts a thread that sends spans to the collector. The collector need not be reachable
    /// yet. An `https` collector needs `tls`.
    pub fn start(
        settings: &Settings,
        tls: Option<&CollectorTls>,
        metrics: &Metrics,
    ) -> Result<Self, TracingError> {
        let (threads, metrics) = (metrics.threads(), metrics.traces());
        let mut resource = Resource::builder_empty()
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .with_attribute(KeyValue::new("service.instance.id", RequestId::new().to_string()));
        for (name, value) in &settings.resource {
            resource = resource.with_attribute(KeyValue::new(name.clone(), value.clone()));
        }
        let resource = resource.with_service_name(settings.service_name.clone()).build();
        let (queue, batches) = queue(settings.queue, metrics.clone());
        let queued = queue.length();
        let of_spans = ResourceAttributesWithSchema::from(&resource);
        let export = ExportThread::start(settings, tls, batches, of_spans, metrics.clone(), threads)?;
        let limits = SpanLimits { max_attributes_per_span: settings.max_attributes, ..SpanLimits::default() };
        let provider = SdkTracerProvider::builder()
            .with_span_processor(queue)
            .with_sampler(Decided)
            .with_span_limits(limits)
            .with_resource(resource)
            .build();
        let tracer = provider.tracer("ott-gateway");
        Ok(Self(Some(Arc::new(ActiveTracer {
            tracer,
            _provider: provider,
            export,
            sampling: Sampling::new(settings.sampling, metrics.clone()),
            propagate: settings.propagate,
            max_value_length: settings.max_value_length,
            queued,
            metrics,
        }))))
    }

    /// Begins the span of a call that has just arrived with these headers.
    #[must_use]
    pub fn call(&self, method: MethodLabel, request_id: RequestId, headers: &HeaderMap) -> CallSpan {
        let Some(active) = &self.0 else { return CallSpan::default() };
        let parent = active.propagate.then(|| context::parent(headers)).flatten();
        CallSpan(Some(Arc::new(Call {
            active: Arc::clone(active),
            method,
            request_id,
            arrived: WallClock::system().now(),
            parent,
            context: OnceLock::new(),
        })))
    }

    /// Sends the remaining spans and stops, within `limit`.
    pub async fn stop(&self, limit: Duration) {
        let Some(active) = self.0.clone() else { return };
        if !active.export.stop(limit).await {
            let spans = active.queued.get();
            active.metrics.lost(SpanLoss::ExportFailed, spans);
            ::tracing::warn!(spans, "trace export timed out, dropped spans");
        }
    }
}

impl ActiveTracer {
    /// Returns an attribute whose value may come from others, truncated to the maximum length.
    fn text(&self, name: &'static str, value: &str) -> KeyValue {
        KeyValue::new(name, self.cut(value))
    }

    fn cut(&self, text: &str) -> String {
        text.chars().take(self.max_value_length).collect()
    }
}

impl Call {
    /// Returns the context with the span of the call. The first use decides whether the span is
    /// recorded. `identified` are the headers of the call if its caller is identified.
    fn context(&self, identified: Option<&HeaderMap>) -> &Context {
        self.context.get_or_init(|| {
            let (name, rpc_method) = match self.method {
                MethodLabel::IssueOtt => ("ott.v1.OttService/IssueOtt", "ott.v1.OttService/IssueOtt"),
                MethodLabel::LoginWithOtt => {
                    ("ott.v1.OttService/LoginWithOtt", "ott.v1.OttService/LoginWithOtt")
                }
                MethodLabel::Unknown => ("grpc", "_OTHER"),
            };
            let parent = match (&self.parent, identified) {
                (Some(parent), Some(headers)) => {
                    Context::new().with_remote_span_context(context::with_state(parent, headers))
                }
                (Some(parent), None) => Context::new().with_remote_span_context(parent.clone()),
                (None, _) => Context::new(),
            };
            let parent = self.active.sampling.decide(&parent, identified.is_some());
            let span = self
                .active
                .tracer
                .span_builder(name)
                .with_kind(SpanKind::Server)
                .with_start_time(self.arrived)
                .with_attributes([
                    KeyValue::new("rpc.system.name", "grpc"),
                    KeyValue::new("rpc.method", rpc_method),
                    KeyValue::new("ott_gateway.request_id", self.request_id.to_string()),
                ])
                .start_with_context(&self.active.tracer, &parent);
            parent.with_span(span)
        })
    }
}

impl Drop for Call {
    /// Creates a span even for a call that was not finished.
    fn drop(&mut self) {
        self.context(None);
    }
}

impl CallSpan {
    /// Uses the sampling decision of an identified caller. Without this, the gateway decides.
    ///
    /// Reads the caller's `tracestate`, and keeps at most 512 bytes of it.
    pub fn follow_caller(&self, headers: &HeaderMap) {
        if let Some(call) = &self.0 {
            call.context(Some(headers));
        }
    }

    /// Returns the id of the trace, for log lines. `None` if the call is not recorded, or sampling
    /// is not decided yet.
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
        let (active, context) = (&call.active, call.context(None));
        let url = attempt.url;
        let mut attributes = vec![
            KeyValue::new("http.request.method", attempt.http_method),
            KeyValue::new("url.full", url.to_string()),
            KeyValue::new("url.template", url.path().to_owned()),
            KeyValue::new("server.address", url.host_str().unwrap_or_default().to_owned()),
            KeyValue::new("server.port", url.port_or_known_default().map_or(0, i64::from)),
            KeyValue::new("ott_gateway.operation", attempt.method.name()),
        ];
        if attempt.resends > 0 {
            attributes.push(KeyValue::new("http.request.resend_count", i64::from(attempt.resends)));
        }
        let span = active
            .tracer
            .span_builder(format!("{} {}", attempt.http_method, url.path()))
            .with_kind(SpanKind::Client)
            .with_attributes(attributes)
            .start_with_context(&active.tracer, context);
        AttemptSpan(Some((Arc::clone(active), context.with_span(span))))
    }

    /// Ends the span.
    pub fn finish(&self, end: CallEnd<'_>) {
        let Some(call) = &self.0 else { return };
        let span = call.context(None).span();
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
            span.set_attribute(call.active.text("ott_gateway.cause", cause));
        }
        if is_server_error(end.code) {
            span.set_attribute(KeyValue::new("error.type", code));
            span.set_status(Status::error(end.reason.unwrap_or_default()));
        }
        span.end();
    }
}

impl AttemptSpan {
    /// Propagates the trace in the headers of the request.
    pub fn inject(&self, headers: &mut HeaderMap) {
        if let Some((active, context)) = &self.0
            && active.propagate
        {
            context::inject(context.span().span_context(), headers);
        }
    }

    /// Ends the span of an attempt with a response.
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
        let Some((active, context)) = &self.0 else { return };
        let span = context.span();
        span.set_attribute(KeyValue::new("error.type", error_type));
        span.set_status(Status::error(active.cut(cause)));
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

/// Returns whether the conventions count the code as a server error.
const fn is_server_error(code: Code) -> bool {
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
