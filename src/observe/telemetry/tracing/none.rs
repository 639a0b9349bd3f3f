//! Stubs for a program that is built without traces.

use std::time::Duration;

use http::HeaderMap;

use super::{Attempt, CallEnd, CollectorTls, Settings, TracingError};
use crate::{
    domain::call::RequestId,
    observe::telemetry::metrics::{MethodLabel, Metrics},
};

/// Creates no spans.
#[derive(Clone, Debug, Default)]
pub struct Tracer;

/// Stub of a call's span.
#[derive(Clone, Debug, Default)]
pub struct CallSpan(());

/// Stub of an attempt's span.
#[derive(Debug, Default)]
pub struct AttemptSpan;

impl Tracer {
    /// Creates a tracer.
    #[must_use]
    pub fn off() -> Self {
        Self
    }

    /// Fails.
    pub fn start(_: &Settings, _: Option<&CollectorTls>, _: &Metrics) -> Result<Self, TracingError> {
        Err(TracingError::Unsupported)
    }

    /// Does nothing.
    #[must_use]
    pub fn call(&self, _: MethodLabel, _: RequestId, _: &HeaderMap) -> CallSpan {
        CallSpan(())
    }

    /// Does nothing.
    #[expect(clippy::unused_async, reason = "the signature must match that of `otlp`")]
    pub async fn stop(&self, _: Duration) {}
}

impl CallSpan {
    /// Does nothing.
    pub const fn follow_caller(&self, _: &HeaderMap) {}

    /// Returns `None`.
    #[must_use]
    pub fn trace_id(&self) -> Option<String> {
        None
    }

    /// Does nothing.
    #[must_use]
    pub fn attempt(&self, _: &Attempt<'_>) -> AttemptSpan {
        AttemptSpan
    }

    /// Does nothing.
    pub fn finish(&self, _: CallEnd<'_>) {}
}

impl AttemptSpan {
    /// Does nothing.
    pub fn inject(&self, _: &mut HeaderMap) {}

    /// Does nothing.
    pub fn answered(self, _: u16) {}

    /// Does nothing.
    pub fn failed(self, _: &'static str, _: &str) {}
}
