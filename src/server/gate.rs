//! Admission of calls: drain, audit availability, and limits on calls.
//!
//! A call that is refused here was not sent to the platform, so it is safe to retry it on another
//! replica.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use crate::{
    base::backoff::jittered,
    domain::call::{AwaitedBody, BodyLimit, Exhausted, Holder, InFlight, InFlightLimit},
    observe::{
        audit::Audit,
        telemetry::metrics::{CallLimit, Metrics},
    },
    server::deadline::RETRY_AFTER_DRAIN,
    status::{Failure, Reason},
};

/// Retry delay of a call that was refused, before jitter.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The gate of all calls of all workers. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct CallGate {
    closed: Arc<AtomicBool>,
    in_flight: InFlightLimit,
    bodies: BodyLimit,
    audit: Audit,
    metrics: Metrics,
}

impl CallGate {
    pub(super) fn new(in_flight: InFlightLimit, bodies: BodyLimit, audit: Audit, metrics: Metrics) -> Self {
        Self { closed: Arc::default(), in_flight, bodies, audit, metrics }
    }

    /// Refuses all further calls, including those whose body has not arrived yet.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
    }

    /// Refuses the call if no calls are accepted at the moment. Call this before identifying the
    /// caller, which costs more.
    pub(super) fn check(&self) -> Result<(), Failure> {
        if self.closed.load(Ordering::SeqCst) {
            return Err(Failure::new(Reason::Draining).retry_after(RETRY_AFTER_DRAIN));
        }
        if self.audit.is_unavailable() {
            return Err(audit_unavailable());
        }
        Ok(())
    }

    /// Waits until the audit is expected to write the record of the call in time. Nothing may be
    /// sent to the platform before this returns.
    pub(super) async fn expect_record(&self) -> Result<(), Failure> {
        self.audit.expect_record().await.map_err(|_| audit_unavailable())
    }

    /// Admits a call to wait for its body.
    pub(super) fn await_body(&self, holder: &Holder) -> Result<AwaitedBody, Failure> {
        self.bodies.wait(holder).map_err(|exhausted| {
            let limit = match exhausted {
                Exhausted::Share => CallLimit::CallerBodies,
                Exhausted::Total => CallLimit::Bodies,
            };
            self.overloaded(exhausted, limit)
        })
    }

    /// Admits a call to be in flight. `share` is the maximum number of places for its holder; by
    /// default half of all places while others need some.
    pub(super) fn admit(&self, holder: &Holder, share: Option<usize>) -> Result<InFlight, Failure> {
        let place = self.in_flight.admit(holder, share).map_err(|exhausted| {
            let limit = match exhausted {
                Exhausted::Share => CallLimit::CallerInFlight,
                Exhausted::Total => CallLimit::InFlight,
            };
            self.overloaded(exhausted, limit)
        })?;
        // Checked after the place is taken: a drain closes the gate before it waits for the calls
        // in flight, so this call is either refused here or waited for.
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

/// Returns a delay with jitter, so that calls that were refused together do not retry together.
fn retry_after() -> Duration {
    jittered(RETRY_AFTER, 0.5, 1.5)
}
