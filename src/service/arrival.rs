//! The context that the middleware attaches to a request for its handler.
//!
//! Separate from `server`, which creates it, and `service`, which uses it, because neither may
//! depend on the other.

use std::sync::Arc;

use tonic::Request;

use crate::{
    access::Policy,
    base::clock,
    caller::{Caller, Recognition},
    domain::call::{Call, Deadline, InFlight},
    observe::telemetry::tracing::CallSpan,
};

/// The context of a call, in the extensions of its request.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// State of the call.
    pub call: Call,
    /// The authenticated caller.
    pub caller: Caller,
    /// The rules that decide the call, of the same version as the bearer tokens that identified the
    /// caller.
    pub policy: Arc<Policy>,
    /// Span of the call, the parent of the spans of its attempts.
    pub span: CallSpan,
    /// The place among the calls in flight, held until all work of the call has ended.
    pub in_flight: Option<InFlight>,
    /// Set when the access rules name the caller, so that its connection is kept.
    pub recognition: Recognition,
}

impl Arrival {
    /// Splits a request into its context and its message.
    ///
    /// Without the middleware, as in tests of the bare service, the context is an anonymous call
    /// whose deadline has passed and that no rule allows.
    pub fn split<T>(request: Request<T>) -> (Self, T) {
        let (_, mut extensions, message) = request.into_parts();
        (extensions.remove().unwrap_or_else(Self::unknown), message)
    }

    /// Returns a copy of the context of a request.
    pub fn peek<T>(request: &Request<T>) -> Self {
        request.extensions().get().cloned().unwrap_or_else(Self::unknown)
    }

    fn unknown() -> Self {
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
