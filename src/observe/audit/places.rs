//! Bounds on the number of pending records.
//!
//! Each class of records has separate places, so that records of refused calls never take one from
//! an allowed call. A place is taken when a record is handed over, not when the writer thread
//! receives it: the bounds also hold while the thread is blocked in a write.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use crate::observe::telemetry::metrics::{AuditClass, AuditPending, Metrics};

/// Maximum number of lines of one allowed call: its record, a correction, and the line of an
/// undelivered session.
const LINES_PER_CALL: usize = 3;
/// Maximum number of pending records of refused calls.
pub(super) const REFUSED: usize = 4096;

/// Records of one class that are lost and not reported yet.
#[derive(Debug, Default)]
struct LostCounts {
    calls: AtomicU64,
    records: AtomicU64,
}

/// Number of lost records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lost {
    /// Number of calls that they represent: one record may be that of several refused calls.
    pub(super) calls: u64,
    /// Number of records, each with a number of its own.
    pub(super) records: u64,
}

/// Places of one audit log.
#[derive(Debug)]
pub(super) struct Places {
    capacity: [usize; AuditClass::ALL.len()],
    taken: Arc<AuditPending>,
    lost: [LostCounts; AuditClass::ALL.len()],
    metrics: Metrics,
}

impl Places {
    /// Creates places for all lines of `max_in_flight` allowed calls, and for [`REFUSED`] records
    /// of refused calls.
    ///
    /// An allowed call counts as in flight while it waits for its record. Once a record was not
    /// written in time, no more calls are accepted. So at most `max_in_flight` calls have pending
    /// lines.
    pub(super) fn new(max_in_flight: usize, metrics: Metrics) -> Self {
        let capacity = AuditClass::ALL.map(|class| match class {
            AuditClass::Allowed => max_in_flight.saturating_mul(LINES_PER_CALL),
            AuditClass::Refused => REFUSED,
        });
        Self { capacity, taken: metrics.audit_pending(), lost: Default::default(), metrics }
    }

    /// Takes a place for a line that records this many calls. Returns false if there is none; the
    /// line then counts as lost.
    pub(super) fn take(&self, class: AuditClass, calls: u64) -> bool {
        let capacity = self.capacity[class as usize];
        let one_more = |taken: usize| (taken < capacity).then_some(taken + 1);
        let is_taken =
            self.taken.of(class).fetch_update(Ordering::AcqRel, Ordering::Acquire, one_more).is_ok();
        if !is_taken {
            self.count_lost(class, calls);
        }
        is_taken
    }

    /// Releases a place.
    pub(super) fn release(&self, class: AuditClass) {
        self.taken.of(class).fetch_sub(1, Ordering::AcqRel);
    }

    /// Counts the loss of one record that represents this many calls.
    pub(super) fn count_lost(&self, class: AuditClass, calls: u64) {
        let lost = &self.lost[class as usize];
        // In this order: a report of these calls includes their record.
        lost.records.fetch_add(1, Ordering::AcqRel);
        lost.calls.fetch_add(calls, Ordering::AcqRel);
        self.metrics.audit_records_lost(class, calls);
    }

    /// Returns whether records of any class were lost and not reported yet.
    pub(super) fn has_lost(&self) -> bool {
        AuditClass::ALL.iter().any(|class| self.lost[*class as usize].calls.load(Ordering::Acquire) > 0)
    }

    /// Returns the number of records lost since the last call.
    pub(super) fn take_lost(&self, class: AuditClass) -> Lost {
        let lost = &self.lost[class as usize];
        let calls = lost.calls.swap(0, Ordering::AcqRel);
        Lost { calls, records: lost.records.swap(0, Ordering::AcqRel) }
    }
}
