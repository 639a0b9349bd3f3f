//! Whether a call may begin here at all.
//!
//! What is refused here was not sent anywhere, so a retry elsewhere is safe.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use crate::{
    audit::Audit,
    backoff::jittered,
    call::{AwaitedBody, BodyLimit, Exhausted, Holder, InFlight, InFlightLimit},
    server::deadline::RETRY_AFTER_DRAIN,
    status::{Failure, Reason},
    telemetry::metrics::{CallLimit, Metrics},
};

/// Retry delay of a call that was refused, before jitter.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The one gate that all calls of all workers pass. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Gate {
    closed: Arc<AtomicBool>,
    in_flight: InFlightLimit,
    bodies: BodyLimit,
    audit: Audit,
    metrics: Metrics,
}

impl Gate {
    pub(super) fn new(in_flight: InFlightLimit, bodies: BodyLimit, audit: Audit, metrics: Metrics) -> Self {
        Self { closed: Arc::default(), in_flight, bodies, audit, metrics }
    }

    /// Refuses all further calls, including those whose body has not arrived.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
    }

    /// Refuses a call while none is accepted, before anything is spent on finding out who
    /// calls.
    pub(super) fn check(&self) -> Result<(), Failure> {
        if self.closed.load(Ordering::SeqCst) {
            return Err(Failure::new(Reason::Draining).retry_after(RETRY_AFTER_DRAIN));
        }
        if self.audit.is_unavailable() {
            return Err(audit_unavailable());
        }
        Ok(())
    }

    /// Waits until the record of a call can be expected to be written in time. Nothing may be
    /// sent to the platform before.
    pub(super) async fn expect_record(&self) -> Result<(), Failure> {
        self.audit.expect_record().await.map_err(|_| audit_unavailable())
    }

    /// Lets a call wait for its body.
    pub(super) fn await_body(&self, holder: &Holder) -> Result<AwaitedBody, Failure> {
        self.bodies.wait(holder).map_err(|exhausted| {
            let limit = match exhausted {
                Exhausted::Share => CallLimit::CallerBodies,
                Exhausted::Total => CallLimit::Bodies,
            };
            self.overloaded(exhausted, limit)
        })
    }

    /// Lets a call be in flight. `share` is the number of places that its holder may have, by
    /// default half of them while others want some.
    pub(super) fn admit(&self, holder: &Holder, share: Option<usize>) -> Result<InFlight, Failure> {
        let place = self.in_flight.admit(holder, share).map_err(|exhausted| {
            let limit = match exhausted {
                Exhausted::Share => CallLimit::CallerInFlight,
                Exhausted::Total => CallLimit::InFlight,
            };
            self.overloaded(exhausted, limit)
        })?;
        // After the place is taken: a drain closes the gate before it waits for the calls in
        // flight, so it either refuses this call here or waits for it.
        self.check()?;
        Ok(place)
    }

    fn overloaded(&self, exhausted: Exhausted, limit: CallLimit) -> Failure {
        self.metrics.call_shed(limit);
        Failure::overloaded(exhausted, limit.as_str()).retry_after(retry_after())
    }
}

fn audit_unavailable() -> Failure {
    Failure::new(Reason::AuditUnavailable).retry_after(retry_after())
}

/// Spread out, so that calls that were refused together do not come back together.
fn retry_after() -> Duration {
    jittered(RETRY_AFTER, 0.5, 1.5)
}
