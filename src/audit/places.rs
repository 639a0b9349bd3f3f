//! Bounds on the records that wait to be written.
//!
//! Each class of records has places of its own, so that records of refused calls never
//! take one from a call that has something to lose. Places are counted when a record is
//! handed over, and not when the writing thread takes it: the bounds also hold while the
//! thread is blocked in a write.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use crate::telemetry::metrics::{AuditClass, AuditPending, Metrics};

/// Maximum number of lines of one allowed call: its record, a correction, and the line of
/// a session that was not delivered.
const LINES_PER_CALL: usize = 3;
/// Maximum number of waiting records of refused calls.
pub(super) const REFUSED: usize = 4096;

/// The places of one audit log.
#[derive(Debug)]
pub(super) struct Places {
    capacity: [usize; AuditClass::ALL.len()],
    taken: Arc<AuditPending>,
    lost: [AtomicU64; AuditClass::ALL.len()],
    metrics: Metrics,
}

impl Places {
    /// Places for all lines of `max_in_flight` allowed calls, and for [`REFUSED`] others.
    ///
    /// An allowed call keeps its place among the calls in flight while it waits for its
    /// record. Once a record has not been written in time, no more calls are accepted. So
    /// there are at most `max_in_flight` calls whose lines wait.
    pub(super) fn new(max_in_flight: usize, metrics: Metrics) -> Self {
        let capacity = AuditClass::ALL.map(|class| match class {
            AuditClass::Allowed => max_in_flight.saturating_mul(LINES_PER_CALL),
            AuditClass::Refused => REFUSED,
        });
        Self { capacity, taken: metrics.audit_pending(), lost: Default::default(), metrics }
    }

    /// Takes a place for a line that stands for this many records. Returns false if there is
    /// none; the records then count as lost.
    pub(super) fn take(&self, class: AuditClass, records: u64) -> bool {
        let capacity = self.capacity[class as usize];
        let one_more = |taken: usize| (taken < capacity).then_some(taken + 1);
        let is_taken =
            self.taken.of(class).fetch_update(Ordering::AcqRel, Ordering::Acquire, one_more).is_ok();
        if !is_taken {
            self.count_lost(class, records);
        }
        is_taken
    }

    /// Gives a place back.
    pub(super) fn release(&self, class: AuditClass) {
        self.taken.of(class).fetch_sub(1, Ordering::AcqRel);
    }

    /// Counts records that are lost.
    pub(super) fn count_lost(&self, class: AuditClass, records: u64) {
        self.lost[class as usize].fetch_add(records, Ordering::AcqRel);
        self.metrics.audit_records_lost(class, records);
    }

    /// Whether records of any class were lost and not reported yet.
    pub(super) fn has_lost(&self) -> bool {
        AuditClass::ALL.iter().any(|class| self.lost[*class as usize].load(Ordering::Acquire) > 0)
    }

    /// Returns the number of records lost since the last time.
    pub(super) fn take_lost(&self, class: AuditClass) -> u64 {
        self.lost[class as usize].swap(0, Ordering::AcqRel)
    }
}
