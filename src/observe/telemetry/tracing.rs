//! Traces over OTLP/gRPC: one span per call, and one per attempt at the platform.
//!
//! Off unless configured; the cost is then a single check. A slow or unavailable collector loses
//! spans, and never delays a call. Spans contain no user names and no tokens.

#[cfg(not(feature = "otlp"))]
mod none;
#[cfg(feature = "otlp")]
mod otlp;

#[cfg(not(feature = "otlp"))]
pub use none::{AttemptSpan, CallSpan, Tracer};
#[cfg(feature = "otlp")]
pub use otlp::{AttemptSpan, CallSpan, Tracer};

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use http::HeaderMap;
use rustls::ClientConfig;
use url::Url;

use crate::domain::call::{Certainty, Method};

/// Settings of traces: `[telemetry]`, or the environment variables that OpenTelemetry defines
/// (`OTEL_…`).
#[derive(Clone, PartialEq)]
pub struct Settings {
    /// `otlp_endpoint`: URL of the collector, for example `http://127.0.0.1:4317`.
    pub endpoint: Url,
    /// `otlp_ca_file`: the only authorities trusted for the certificate of an `https` collector.
    /// `None` means the system's.
    pub ca_file: Option<PathBuf>,
    /// Headers of each request to the collector. Their values are secrets.
    pub headers: HeaderMap,
    /// Timeout of one attempt to send a batch. 5 s.
    pub attempt_timeout: Duration,
    /// Maximum time for which sending a batch is retried. 30 s.
    pub batch_timeout: Duration,
    /// Sampling of calls.
    pub sampling: SamplingSettings,
    /// Queue of spans for the collector.
    pub queue: QueueSettings,
    /// `service.name` of the resource. `ott-gateway`.
    pub service_name: String,
    /// Additional attributes of the resource.
    pub resource: Vec<(String, String)>,
    /// Maximum number of attributes of a span. 128.
    pub max_attributes: u32,
    /// Maximum length of attributes with text from others, in characters. 1024.
    pub max_value_length: usize,
    /// Whether W3C Trace Context is accepted from callers and propagated.
    pub propagate: bool,
}

/// TLS for connections to an `https` collector.
#[derive(Clone)]
pub struct CollectorTls {
    /// The configuration of new connections. Follows changes of the trusted authorities.
    pub config: Arc<ClientConfig>,
    /// Returns the number of changes of the authorities. Connections of an earlier generation are
    /// not used.
    pub generation: Arc<dyn Fn() -> u64 + Send + Sync>,
}

impl fmt::Debug for CollectorTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CollectorTls").finish_non_exhaustive()
    }
}

/// Settings of sampling.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SamplingSettings {
    /// `trace_ratio`: share of calls that are recorded, from 0 to 1. 1.
    pub ratio: f64,
    /// Whether the sampling decision of an identified caller takes precedence. True.
    pub follow_callers: bool,
}

/// Limits of the queue of spans.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueSettings {
    /// Maximum number of unsent spans. 8192.
    pub max_spans: usize,
    /// Maximum number of spans per batch. 512.
    pub batch: usize,
    /// Time after which an incomplete batch is sent. 5 s.
    pub delay: Duration,
}

impl Settings {
    /// Creates settings for a collector, with the default limits.
    #[must_use]
    pub fn new(endpoint: Url) -> Self {
        Self {
            endpoint,
            ca_file: None,
            headers: HeaderMap::new(),
            attempt_timeout: Duration::from_secs(5),
            batch_timeout: Duration::from_secs(30),
            sampling: SamplingSettings::default(),
            queue: QueueSettings::default(),
            service_name: "ott-gateway".to_owned(),
            resource: Vec::new(),
            max_attributes: 128,
            max_value_length: 1024,
            propagate: true,
        }
    }
}

impl Default for SamplingSettings {
    fn default() -> Self {
        Self { ratio: 1.0, follow_callers: true }
    }
}

impl Default for QueueSettings {
    fn default() -> Self {
        Self { max_spans: 8192, batch: 512, delay: Duration::from_secs(5) }
    }
}

impl fmt::Debug for Settings {
    /// Without the values of headers.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings").field("endpoint", &self.endpoint.as_str()).finish_non_exhaustive()
    }
}

/// Why traces cannot start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TracingError {
    /// The endpoint is not an address such as `http://127.0.0.1:4317`.
    #[error("the trace collector's endpoint is not an http or https URL")]
    Endpoint,
    /// An `https` collector needs trusted authorities.
    #[error("cannot verify the certificate of the trace collector without trusted authorities")]
    Tls,
    /// The thread that sends spans cannot be started.
    #[error("cannot start the thread that sends traces")]
    Exporter,
    /// This program was built without support for traces.
    #[error("this program was built without the feature `otlp`")]
    Unsupported,
}

/// How a call ended, for its span.
#[derive(Clone, Copy, Debug)]
pub struct CallEnd<'a> {
    /// The gRPC status code.
    pub code: tonic::Code,
    /// The reason of a failure.
    pub reason: Option<&'static str>,
    /// The cause of a failure, for the operator.
    pub cause: Option<&'a str>,
    /// The API client that was used.
    pub api_client: Option<&'a str>,
    /// How certain the effect at the platform is.
    pub outcome: Certainty,
}

/// One attempt at the platform, for its span.
#[derive(Clone, Copy, Debug)]
pub struct Attempt<'a> {
    /// The method of the call.
    pub method: Method,
    /// The HTTP method.
    pub http_method: &'static str,
    /// The URL: a data center and one of its few paths. Contains no secrets and no data of the
    /// call.
    pub url: &'a Url,
    /// Number of previous attempts.
    pub resends: u32,
}

#[cfg(test)]
#[cfg(feature = "otlp")]
mod tests;
