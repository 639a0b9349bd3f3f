//! Traces by OTLP/gRPC: one span for each call, and one for each attempt at the
//! platform.
//!
//! Off unless configured, and then nothing but an empty check is left of it. A
//! collector that is slow or gone costs spans, never a call. No span names a user or
//! holds a token.

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

use crate::call::{Certainty, Operation};

/// What can be configured about traces: by `[telemetry]`, or by the variables of the environment
/// that OpenTelemetry defines (`OTEL_…`).
#[derive(Clone, PartialEq)]
pub struct Settings {
    /// `otlp_endpoint`: where the collector listens, for example `http://127.0.0.1:4317`.
    pub endpoint: Url,
    /// `otlp_ca_file`: the only authorities that the certificate of an `https` collector may come
    /// from; the system's.
    pub ca_file: Option<PathBuf>,
    /// Headers of each request to the collector. Their values are secrets.
    pub headers: HeaderMap,
    /// Maximum time of one attempt to send a batch. 5 s.
    pub attempt_timeout: Duration,
    /// Maximum time for which a batch is sent again. 30 s.
    pub batch_timeout: Duration,
    /// Which calls are recorded.
    pub sampling: SamplingSettings,
    /// The spans that wait for the collector.
    pub queue: QueueSettings,
    /// `service.name` of the resource. `ott-gateway`.
    pub service_name: String,
    /// Further attributes of the resource.
    pub resource: Vec<(String, String)>,
    /// Maximum number of attributes of a span. 128.
    pub max_attributes: u32,
    /// Maximum length of attributes that contain text of others, in characters. 1024.
    pub max_value_length: usize,
    /// Whether W3C Trace Context is read from callers and passed on.
    pub propagate: bool,
}

/// How an `https` collector is authenticated.
#[derive(Clone)]
pub struct CollectorTls {
    /// The configuration of new connections. Follows changes of the trusted authorities.
    pub config: Arc<ClientConfig>,
    /// Returns how often the authorities have changed. Connections of an earlier generation are
    /// not used.
    pub generation: Arc<dyn Fn() -> u64 + Send + Sync>,
}

impl fmt::Debug for CollectorTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CollectorTls").finish_non_exhaustive()
    }
}

/// Which calls are recorded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SamplingSettings {
    /// `trace_ratio`: share of the calls that are recorded, from 0 to 1. 1.
    pub ratio: f64,
    /// Whether the decision of an identified caller takes precedence. True.
    pub follow_callers: bool,
}

/// Limits of the queue of spans.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueSettings {
    /// Maximum number of spans that are not sent yet. 8192.
    pub max_spans: usize,
    /// Maximum number of spans that are sent together. 512.
    pub batch: usize,
    /// Time after which a batch is sent although it is not complete. 5 s.
    pub delay: Duration,
}

impl Settings {
    /// Settings for a collector, with the default limits.
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
    /// An `https` collector needs authorities.
    #[error("the trace collector's certificate cannot be verified without authorities")]
    Tls,
    /// The thread that sends spans cannot be started.
    #[error("the thread that sends traces cannot be started")]
    Exporter,
    /// This program was built without traces.
    #[error("this program was built without the feature `otlp`")]
    Unsupported,
}

/// How a call ended, for its span.
#[derive(Clone, Copy, Debug)]
pub struct CallEnd<'a> {
    /// The gRPC status code.
    pub code: tonic::Code,
    /// The reason, unless all went well.
    pub reason: Option<&'static str>,
    /// The cause of a failure, for the operator.
    pub cause: Option<&'a str>,
    /// The API client that was used.
    pub api_client: Option<&'a str>,
    /// What is known of the platform's side.
    pub outcome: Certainty,
}

/// One attempt at the platform, for its span.
#[derive(Clone, Copy, Debug)]
pub struct Attempt<'a> {
    /// What it is about.
    pub operation: Operation,
    /// The HTTP method.
    pub method: &'static str,
    /// Where to: a data center and one of the few paths that it has, without anything
    /// secret and without anything of the call.
    pub url: &'a Url,
    /// How many attempts there were before.
    pub resends: u32,
}

#[cfg(test)]
#[cfg(feature = "otlp")]
mod tests;
