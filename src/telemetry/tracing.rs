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

use url::Url;

use crate::call::{Certainty, Operation};

/// What can be chosen about traces.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where the collector listens, for example `http://127.0.0.1:4317`; with `https`
    /// its certificate is checked against the system's roots.
    pub endpoint: String,
    /// Share of the calls that are recorded, from 0 to 1, unless an identified caller has
    /// decided: its decision is followed.
    pub sample_ratio: f64,
}

/// Why traces cannot start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TracingError {
    /// The endpoint is not an address such as `http://127.0.0.1:4317`.
    #[error("the trace collector's endpoint is not an http or https URL")]
    Endpoint,
    /// TLS to the collector cannot be set up.
    #[error("TLS to the trace collector cannot be set up")]
    Tls,
    /// The exporter cannot be made.
    #[error("the exporter of traces cannot be made")]
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
