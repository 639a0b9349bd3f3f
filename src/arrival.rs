//! The value that the middleware attaches to a request for its handler.
//!
//! A module of its own because `server` creates it, `service` uses it, and neither may depend
//! on the other.

use std::sync::Arc;

use tonic::Request;

use crate::{
    access::Policy,
    call::{Call, Deadline, InFlight},
    caller::{Caller, Recognition},
    clock,
    telemetry::tracing::CallSpan,
};

/// A call as it reaches its handler. Part of the request's extensions.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// State of the call.
    pub call: Call,
    /// The authenticated caller.
    pub caller: Caller,
    /// The rules that decide on the call. The caller was identified by the bearer tokens of the
    /// same version.
    pub policy: Arc<Policy>,
    /// Span of the call, the parent of the spans of its attempts at the platform.
    pub span: CallSpan,
    /// The call's place among the calls in flight, held until all its work has ended.
    pub in_flight: Option<InFlight>,
    /// Set once the access rules are found to name the caller, so that its connection is kept.
    pub recognition: Recognition,
}

impl Arrival {
    /// Splits a request into what the middleware attached and the message.
    ///
    /// A server without the middleware (a test of the bare service) gets an anonymous call
    /// whose deadline has passed and that no rule allows.
    pub fn split<T>(request: Request<T>) -> (Self, T) {
        let (_, mut extensions, message) = request.into_parts();
        (extensions.remove().unwrap_or_else(Self::nobody), message)
    }

    /// Returns a copy of what the middleware attached to a request.
    pub fn peek<T>(request: &Request<T>) -> Self {
        request.extensions().get().cloned().unwrap_or_else(Self::nobody)
    }

    fn nobody() -> Self {
        let now = clock::now();
        Self {
            call: Call::new(now, Deadline::at(now)),
            caller: Caller::anonymous(),
            policy: Arc::new(Policy::closed()),
            span: CallSpan::default(),
            in_flight: None,
            recognition: Recognition::default(),
        }
    }
}
