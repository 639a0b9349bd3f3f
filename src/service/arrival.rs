//! What the middleware learned of a call before its message was looked at.

use tonic::Request;

use crate::{
    call::{Call, Deadline, InFlight},
    caller::Caller,
    clock,
    telemetry::tracing::CallSpan,
};

/// A call as it reaches its handler.
#[derive(Debug)]
pub(super) struct Arrival {
    /// What is known of the call.
    pub(super) call: Call,
    /// Who calls.
    pub(super) caller: Caller,
    /// The call's span, above those of its attempts at the platform.
    pub(super) span: CallSpan,
    /// The call's place among those in flight, held until all its work has ended.
    pub(super) in_flight: Option<InFlight>,
}

impl Arrival {
    /// Takes the request apart.
    ///
    /// The middleware has attached all of it; a server without it (a test of the bare
    /// service) gets an anonymous call that has no time.
    pub(super) fn of<T>(request: Request<T>) -> (Self, T) {
        (Self::peek(&request), request.into_inner())
    }

    /// The same, of a request that goes on.
    pub(super) fn peek<T>(request: &Request<T>) -> Self {
        let extensions = request.extensions();
        let call = extensions.get().cloned().unwrap_or_else(|| {
            let now = clock::now();
            Call::new(now, Deadline::at(now))
        });
        let caller = extensions.get().cloned().unwrap_or_else(Caller::anonymous);
        let span = extensions.get().cloned().unwrap_or_default();
        Self { call, caller, span, in_flight: extensions.get().cloned() }
    }
}
