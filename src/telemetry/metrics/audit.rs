//! Metrics of the audit log's queue, by class of record.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use prometheus::{Gauge, Histogram, IntCounter};

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

/// Where audit records are written, as a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuditSink {
    /// Standard output.
    Stdout,
    /// A file, a named pipe or a device.
    File,
}

impl AuditSink {
    /// The name in metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::File => "file",
        }
    }
}

/// Whether an audit record was written, as a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordResult {
    /// It was written in time.
    Ok,
    /// It was not, and its call was refused.
    Failed,
    /// It was written after its call had been answered.
    Late,
}

impl RecordResult {
    /// All results, in order.
    pub const ALL: [Self; 3] = [Self::Ok, Self::Failed, Self::Late];

    /// The name in metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Failed => "failed",
            Self::Late => "late",
        }
    }
}

/// Something that went wrong with the sink, as a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuditFault {
    /// A write failed and was repeated while calls waited.
    WriteRepeated,
    /// A write failed, after its repetitions. The sink is unavailable.
    WriteFailed,
    /// A write succeeded, but took 1.25 s or longer. The sink is unavailable.
    WriteSlow,
    /// The file at the path could not be opened, and the previous one is still in use.
    ReopenFailed,
    /// The sink ended in half a line, which was ended before the next record.
    HalfLine,
    /// The platform had answered a call, and its answer was withheld because its record could
    /// not be written.
    AnswerWithheld,
}

impl AuditFault {
    /// All faults, in order.
    pub const ALL: [Self; 6] = [
        Self::WriteRepeated,
        Self::WriteFailed,
        Self::WriteSlow,
        Self::ReopenFailed,
        Self::HalfLine,
        Self::AnswerWithheld,
    ];

    /// The name in metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::WriteRepeated => "write_repeated",
            Self::WriteFailed => "write_failed",
            Self::WriteSlow => "write_slow",
            Self::ReopenFailed => "reopen_failed",
            Self::HalfLine => "half_line",
            Self::AnswerWithheld => "answer_withheld",
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
    faults: [IntCounter; AuditFault::ALL.len()],
    write_seconds: Histogram,
    up: Gauge,
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
        let faults = families.counters(
            "ott_gateway_audit_faults_total",
            "What went wrong with the audit sink.",
            &["kind"],
        );
        let up = families.gauge("ott_gateway_audit_sink_up", "Whether audit records can be written in time.");
        // Without an audit log, no call is refused because of it.
        up.set(1.0);
        Self {
            up,
            faults: AuditFault::ALL.map(|fault| faults.with_label_values(&[fault.as_str()])),
            write_seconds: families
                .histogram("ott_gateway_audit_write_seconds", "Duration of writes to the audit sink."),
            lost: AuditClass::ALL.map(|class| lost.with_label_values(&[class.as_str()])),
            pending: AuditClass::ALL.map(|class| pending.with_label_values(&[class.as_str()])),
            followed: Mutex::default(),
        }
    }

    pub(super) fn count_lost(&self, class: AuditClass, records: u64) {
        self.lost[class as usize].inc_by(records);
    }

    pub(super) fn count_fault(&self, fault: AuditFault) {
        self.faults[fault as usize].inc();
    }

    pub(super) fn observe_write(&self, took: Duration) {
        self.write_seconds.observe(took.as_secs_f64());
    }

    pub(super) fn set_up(&self, up: bool) {
        self.up.set(f64::from(u8::from(up)));
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
