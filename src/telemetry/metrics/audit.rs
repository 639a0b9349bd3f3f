//! Metrics of the audit log's queue, by class of record.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicUsize, Ordering},
};

use prometheus::{Gauge, IntCounter};

use super::family::Families;

/// Class of an audit record, as a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuditClass {
    /// The rules allowed the call, and its work at the platform was begun: a token may have
    /// been minted or spent.
    Allowed,
    /// The call was refused before anything was sent to the platform.
    Refused,
}

impl AuditClass {
    /// All classes, in order.
    pub const ALL: [Self; 2] = [Self::Allowed, Self::Refused];

    /// The name in metrics and audit records.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Refused => "refused",
        }
    }
}

/// Number of records of one audit log that wait to be written, by class.
#[derive(Debug, Default)]
pub struct AuditPending([AtomicUsize; AuditClass::ALL.len()]);

impl AuditPending {
    /// Returns the number of records of this class.
    #[must_use]
    pub fn of(&self, class: AuditClass) -> &AtomicUsize {
        &self.0[class as usize]
    }
}

/// The families, with one member for each class.
#[derive(Debug)]
pub(super) struct AuditQueue {
    lost: [IntCounter; AuditClass::ALL.len()],
    pending: [Gauge; AuditClass::ALL.len()],
    followed: Mutex<Vec<Arc<AuditPending>>>,
}

impl AuditQueue {
    pub(super) fn register(families: &Families<'_>) -> Self {
        let lost = families.counters(
            "ott_gateway_audit_records_lost_total",
            "Audit records that were dropped because too many were waiting to be written.",
            &["class"],
        );
        let pending = families.gauges(
            "ott_gateway_audit_records_pending",
            "Audit records that wait to be written.",
            &["class"],
        );
        Self {
            lost: AuditClass::ALL.map(|class| lost.with_label_values(&[class.as_str()])),
            pending: AuditClass::ALL.map(|class| pending.with_label_values(&[class.as_str()])),
            followed: Mutex::default(),
        }
    }

    pub(super) fn count_lost(&self, class: AuditClass, records: u64) {
        self.lost[class as usize].inc_by(records);
    }

    pub(super) fn follow(&self) -> Arc<AuditPending> {
        let pending = Arc::<AuditPending>::default();
        self.followed.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&pending));
        pending
    }

    /// Sets the gauges to the current numbers.
    pub(super) fn refresh(&self) {
        let followed = self.followed.lock().unwrap_or_else(PoisonError::into_inner);
        for class in AuditClass::ALL {
            let count: usize = followed.iter().map(|pending| pending.of(class).load(Ordering::Acquire)).sum();
            self.pending[class as usize].set(f64::from(u32::try_from(count).unwrap_or(u32::MAX)));
        }
    }
}
