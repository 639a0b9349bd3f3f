//! Whether a call may begin here at all.
//!
//! What is turned away here was not sent anywhere, so a retry elsewhere is safe.

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
    call::{InFlight, InFlightLimit},
    server::deadline::RETRY_AFTER_DRAIN,
    status::{Failure, Reason},
};

/// When a call that was turned away may come again, before jitter.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The one gate that all calls of all workers pass. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Gate {
    closed: Arc<AtomicBool>,
    in_flight: InFlightLimit,
    audit: Audit,
}

impl Gate {
    pub(super) fn new(in_flight: InFlightLimit, audit: Audit) -> Self {
        Self { closed: Arc::default(), in_flight, audit }
    }

    /// Lets nobody in any more.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }

    /// Lets a call in, or says why not.
    pub(super) fn admit(&self) -> Result<InFlight, Failure> {
        let refuse = |reason, wait| Failure::new(reason).retry_after(wait);
        if self.closed.load(Ordering::Acquire) {
            return Err(refuse(Reason::Draining, RETRY_AFTER_DRAIN));
        }
        // Spread out, so that those turned away together do not come back together.
        let wait = || jittered(RETRY_AFTER, 0.5, 1.5);
        if self.audit.is_broken() {
            return Err(refuse(Reason::AuditUnavailable, wait()));
        }
        self.in_flight.admit().ok_or_else(|| refuse(Reason::Overloaded, wait()))
    }
}
