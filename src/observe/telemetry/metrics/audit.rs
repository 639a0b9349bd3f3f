//! Metrics of the audit log: its records, its queue and its sink.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use prometheus::{Gauge, Histogram, IntCounter};

use super::{
    Metrics,
    family::{Families, LazyCounters, Per},
};
use crate::observe::telemetry::label::labels;

labels! {
    /// Class of an audit record, as a label.
    pub enum AuditClass {
        /// The rules allowed the call, and its work at the platform began: a token may have been issued
        /// or spent.
        Allowed = "allowed",
        /// The call was refused before anything was sent to the platform.
        Refused = "refused",
    }
}

labels! {
    /// Destination of audit records, as a label.
    pub enum AuditSink {
        /// Standard output.
        Stdout = "stdout",
        /// A file, a named pipe or a device.
        File = "file",
    }
}

labels! {
    /// Result of writing an audit record, as a label.
    pub enum RecordResult {
        /// It was written in time.
        Ok = "ok",
        /// It was not written in time, and its call was refused.
        Failed = "failed",
        /// It was written after its call was answered.
        Late = "late",
    }
}

labels! {
    /// A failure of the sink, as a label.
    pub enum AuditError {
        /// A write failed and was repeated while calls waited.
        WriteRepeated = "write_repeated",
        /// A write failed after all repetitions. The sink is unavailable.
        WriteFailed = "write_failed",
        /// A write succeeded, but took 1.25 s or longer. The sink is unavailable.
        WriteSlow = "write_slow",
        /// The file at the path could not be opened, and the previous one is still in use.
        ReopenFailed = "reopen_failed",
        /// The sink ended in a partial line, which was terminated before the next record.
        HalfLine = "half_line",
        /// A response of the platform was withheld, because the record of the call could not be
        /// written.
        AnswerWithheld = "answer_withheld",
    }
}

/// Number of pending records of one audit log, by class.
#[derive(Debug, Default)]
pub struct AuditPending([AtomicUsize; AuditClass::ALL.len()]);

impl AuditPending {
    /// Returns the number of records of this class.
    #[must_use]
    pub fn of(&self, class: AuditClass) -> &AtomicUsize {
        &self.0[class as usize]
    }
}

/// The families of this module.
#[derive(Debug)]
pub(super) struct AuditFamilies {
    records: LazyCounters<AuditSink, RecordResult>,
    lost: Per<AuditClass, IntCounter>,
    pending: Per<AuditClass, Gauge>,
    faults: Per<AuditError, IntCounter>,
    write_seconds: Histogram,
    up: Gauge,
    followed: Mutex<Vec<Arc<AuditPending>>>,
}

impl AuditFamilies {
    pub(super) fn register(families: &Families<'_>) -> Self {
        let records = families.counters(
            "ott_gateway_audit_records_total",
            "Audit records, by result.",
            &["sink", "result"],
        );
        let up = families.gauge("ott_gateway_audit_sink_up", "Whether audit records can be written in time.");
        // Without an audit log, no call is refused because of it.
        up.set(1.0);
        Self {
            up,
            records: LazyCounters::new(records),
            lost: families.counter_per(
                "ott_gateway_audit_records_lost_total",
                "Audit records that were dropped because too many were waiting to be written.",
                "class",
            ),
            pending: families.gauge_per(
                "ott_gateway_audit_records_pending",
                "Audit records waiting to be written.",
                "class",
            ),
            faults: families.counter_per(
                "ott_gateway_audit_faults_total",
                "Failures of the audit sink.",
                "kind",
            ),
            write_seconds: families
                .histogram("ott_gateway_audit_write_seconds", "Duration of writes to the audit sink."),
            followed: Mutex::default(),
        }
    }

    pub(super) fn count_lost(&self, class: AuditClass, records: u64) {
        self.lost.get(class).inc_by(records);
    }

    pub(super) fn count_fault(&self, fault: AuditError) {
        self.faults.get(fault).inc();
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
            self.pending.get(class).set(f64::from(u32::try_from(count).unwrap_or(u32::MAX)));
        }
    }
}

impl Metrics {
    /// Exports the counters of an audit log before its first record.
    pub fn audit_sink(&self, sink: AuditSink) {
        self.0.audit.records.show(sink);
    }

    /// Counts an audit record.
    pub fn audit_record(&self, sink: AuditSink, result: RecordResult) {
        self.0.audit.records.get(sink, result).inc();
    }

    /// Counts audit records that were dropped because too many were waiting to be written.
    pub fn audit_records_lost(&self, class: AuditClass, records: u64) {
        self.0.audit.count_lost(class, records);
    }

    /// Counts a failure of the audit sink.
    pub fn audit_fault(&self, fault: AuditError) {
        self.0.audit.count_fault(fault);
    }

    /// Records the duration of a write to the audit sink, including its sync and repetitions.
    pub fn audit_write(&self, took: Duration) {
        self.0.audit.observe_write(took);
    }

    /// Sets whether audit records can be written in time.
    pub fn audit_sink_up(&self, up: bool) {
        self.0.audit.set_up(up);
    }

    /// Returns the counts of pending records for a new audit log. They are exported from now on.
    #[must_use]
    pub fn audit_pending(&self) -> Arc<AuditPending> {
        self.0.audit.follow()
    }
}
