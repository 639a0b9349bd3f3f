//! Writes one line for every call: who got which token, and how it ended.
//!
//! The record of an allowed call is handed to the kernel before the response is sent; otherwise the
//! caller gets no token. Nothing is sent to the platform while records cannot be written. If the
//! response could not be delivered, a second record corrects the first. A session that no caller
//! received gets its own line. Refused calls do not wait for their records, and have a separate
//! queue: they cannot delay or displace records of allowed calls. Lines do not depend on log
//! levels, and contain a fingerprint instead of a token. `docs/audit.md` describes them.
//!
//! ```
//! use std::time::Duration;
//!
//! use ott_gateway::{
//!     base::clock::{self, WallClock},
//!     domain::call::{Call, Certainty, Deadline, Ending},
//!     observe::{
//!         audit::{Audit, Fingerprints, Settings, Sink},
//!         telemetry::metrics::Metrics,
//!     },
//! };
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! # let path = folder.path().join("audit.jsonl");
//! let settings = Settings::new(Sink::File(path.clone()));
//! let fingerprints = Fingerprints::default();
//! let audit = Audit::start(&settings, None, 16, &fingerprints, &Metrics::new(), WallClock::system())?;
//!
//! let call = Call::new(clock::now(), Deadline::after(Duration::from_secs(10)));
//! audit.expect_record().await?; // before anything is sent to the platform
//! call.work_begins();
//! call.attempt_ended(Certainty::Done);
//! audit.record(&call, Ending::Succeeded).await?; // before the response is sent
//! assert!(std::fs::read_to_string(path)?.contains(r#""outcome":"done""#));
//! # Ok(())
//! # }
//! ```

mod acknowledgement;
mod availability;
mod backlog;
mod closing;
mod device;
mod fingerprint;
#[cfg(test)]
pub(crate) mod for_test;
mod handover;
mod inbox;
mod judge;
mod line;
mod numbering;
mod opened;
mod places;
mod probe;
mod process_records;
pub mod reader;
mod readiness;
mod record;
mod signal;
mod sink;
mod started;
mod thread;
mod writer;

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use tokio::{sync::oneshot, time::timeout};

pub use self::{
    fingerprint::HmacKey,
    process_records::{
        BoundedNames, Fingerprints, NotCompared, RulesChange, RulesDifferences, RulesSummary, StopCause,
        TokenChanges,
    },
    readiness::Readiness,
    record::RefusedCalls,
    sink::Sink,
};
use self::{
    fingerprint::{Fingerprinter, unkeyed_hash},
    judge::MAX_WRITE,
    line::Line,
    numbering::{Number, Numbering},
    sink::CHECK_INTERVAL,
    started::Started,
    writer::Writer,
};
use crate::{
    base::clock::WallClock,
    domain::{
        call::{Call, Ending},
        ott::{OneTimeToken, TokenHash},
        reason::Reason,
    },
    observe::telemetry::metrics::{AuditClass, Logout, Metrics, RecordResult},
};

/// Maximum time for writing the last records at shutdown, unless the sink is unavailable: the write
/// in progress, and their own.
pub const FLUSH_LIMIT: Duration = MAX_WRITE.saturating_mul(2);

/// The audit log, or none. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Audit(Option<Arc<Started>>);

/// Settings of the audit (`[audit]`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// `sink`: the destination of the records; standard output.
    pub sink: Sink,
    /// `hmac_key_file` and `hmac_key_id`: the key of the fingerprints. Without one, each process
    /// generates its own: the records of issue and login can then be joined only if the same
    /// process handled both.
    pub hmac_key: Option<HmacKeyFile>,
    /// `fsync`: whether the record of an allowed call must be on the disk, and not only in the
    /// kernel, before the response is sent; false. Regular files only.
    pub fsync: bool,
}

/// The file with the key of the fingerprints. The code that starts the audit reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HmacKeyFile {
    /// `hmac_key_file`: a file of at least 32 bytes.
    pub path: PathBuf,
    /// `hmac_key_id`: the name of the key in records, 1 to 32 letters, digits, "-", "_" and ".";
    /// the name of its file without the extension.
    pub id: String,
}

impl Settings {
    /// Returns settings for this sink, with records in the kernel before the response is sent.
    #[must_use]
    pub const fn new(sink: Sink) -> Self {
        Self { sink, hmac_key: None, fsync: false }
    }

    /// Checks the sink without opening it.
    ///
    /// # Errors
    ///
    /// The sink is a device that discards all data.
    pub fn check(&self) -> Result<(), AuditError> {
        self.sink.check().map_err(|source| AuditError::Open { sink: self.sink.path(), source })
    }
}

/// Why the audit cannot start.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The sink cannot be opened.
    #[error("cannot open the audit sink {sink}: {source}")]
    Open {
        /// The file, or `stdout`.
        sink: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The writer's thread cannot be started.
    #[error("cannot start the thread that writes audit records: {0}")]
    Thread(io::Error),
    /// The system provides no randomness for a key, or for the identity of the process.
    #[error("cannot generate the key and the identity of the audit log: the system provides no randomness")]
    Randomness,
}

/// The audit record could not be handed to the kernel in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the audit record cannot be written")]
pub struct AuditUnavailable;

impl Audit {
    /// Creates an audit log that is off.
    #[must_use]
    pub fn off() -> Self {
        Self::default()
    }

    /// Opens the sink and starts the writer thread. The thread ends with the last clone. `hmac_key`
    /// is the content of the configured file. All records of `max_in_flight` calls are kept while
    /// the sink is unavailable. The first record, `started`, contains the fingerprints; it also
    /// proves that the sink works, and calls wait for it.
    pub fn start(
        settings: &Settings,
        hmac_key: Option<&HmacKey>,
        max_in_flight: usize,
        fingerprints: &Fingerprints,
        metrics: &Metrics,
        clock: WallClock,
    ) -> Result<Self, AuditError> {
        Self::start_checking(CHECK_INTERVAL, settings, hmac_key, max_in_flight, fingerprints, metrics, clock)
    }

    /// Starts the audit log. `interval` is that between checks whether the path leads to the open
    /// file.
    fn start_checking(
        interval: Duration,
        settings: &Settings,
        hmac_key: Option<&HmacKey>,
        max_in_flight: usize,
        fingerprints: &Fingerprints,
        metrics: &Metrics,
        clock: WallClock,
    ) -> Result<Self, AuditError> {
        let Some(sink) = settings.sink.label() else { return Ok(Self::off()) };
        let Some(output) = settings
            .sink
            .open(settings.fsync, metrics)
            .map_err(|source| AuditError::Open { sink: settings.sink.path(), source })?
        else {
            return Ok(Self::off());
        };
        let output = output.checked_every(interval);
        let fingerprinter = match hmac_key {
            Some(key) => Fingerprinter::new(key),
            None => Fingerprinter::with_random_key().ok_or(AuditError::Randomness)?,
        };
        let numbering = Numbering::with_random_identity().ok_or(AuditError::Randomness)?;
        let first = record::of_start(fingerprints, numbering.next(), clock.now());
        let (writer, messages) = Writer::new(max_in_flight, numbering, metrics);
        writer
            .start(messages, output, first, sink, metrics.clone(), clock.clone())
            .map_err(AuditError::Thread)?;
        metrics.audit_sink(sink);
        Ok(Self(Some(Arc::new(Started {
            writer,
            handover: None,
            handovers: Arc::default(),
            fingerprinter: Arc::new(fingerprinter),
            sink,
            metrics: metrics.clone(),
            clock,
        }))))
    }

    /// Returns the same audit log for a worker: all lines of one turn of its event loop are handed
    /// over together. Must be called inside the worker's runtime. Use on other threads is correct
    /// but costs more.
    #[must_use]
    pub fn on_this_runtime(&self) -> Self {
        Self(self.0.as_ref().map(|started| Arc::new(started.on_this_runtime())))
    }

    /// Returns whether the sink is unavailable, so that no call should be accepted. It recovers
    /// without a call, because pending records or probes are written.
    #[must_use]
    pub fn is_unavailable(&self) -> bool {
        self.0.as_ref().is_some_and(|started| started.availability().is_unavailable())
    }

    /// Waits until the record of a call that begins now can be expected to be written in time.
    /// Nothing of a call may be sent to the platform before. Returns at once, unless the write in
    /// progress is in doubt (it is the first one to its file, is being repeated, or has been in
    /// progress for 50 ms) or the last one was 10 s ago. Even then it returns within 1.25 s of the
    /// beginning of a write.
    ///
    /// # Errors
    ///
    /// The sink is unavailable.
    pub async fn expect_record(&self) -> Result<(), AuditUnavailable> {
        match &self.0 {
            Some(started) => started.writer.expect_record().await,
            None => Ok(()),
        }
    }

    /// Returns a watch on the sink for the health of the replica, starting with its first write.
    /// `None` if the audit log is off.
    #[must_use]
    pub fn readiness(&self) -> Option<Readiness> {
        self.0.as_ref().map(|started| Readiness::new(started.writer.availability()))
    }

    /// Resolves when the sink is permanently unavailable, so that the process must stop: the reader
    /// of standard output is gone. A named pipe may get another reader, and a file may become
    /// available again.
    pub async fn closed(&self) {
        match &self.0 {
            Some(started) => closing::closed(started.availability(), started.sink).await,
            None => std::future::pending().await,
        }
    }

    /// Writes the record of a call. Reads caller, user, fingerprint and outcome from the call.
    ///
    /// If the call's work has begun, this waits until the kernel has the record, at most 4 s. If
    /// this fails, or if the future is dropped, the record is written as soon as possible, marked
    /// as late: the response that it describes was not delivered.
    ///
    /// The record of any other call is handed over without waiting, because the caller got nothing.
    /// If too many are queued, it is dropped and counted.
    pub async fn record(&self, call: &Call, ending: Ending) -> Result<(), AuditUnavailable> {
        let Some(started) = &self.0 else { return Ok(()) };
        let text = |number: Number<'_>| record::for_call(call, ending, number, started.clock.now());
        let result = match class_of(call) {
            AuditClass::Allowed => started.write(text(started.writer.next_number())).await,
            AuditClass::Refused => {
                started.submit_refused(1, text);
                if ending.reason() != Some(Reason::AuditUnavailable) {
                    // Counted once it is written.
                    return Ok(());
                }
                Err(AuditUnavailable)
            }
        };
        let label = if result.is_ok() { RecordResult::Ok } else { RecordResult::Failed };
        started.metrics.audit_record(started.sink, label);
        result
    }

    /// Writes one record for refused calls that have no record of their own. Does not wait.
    pub fn refused_calls(&self, calls: &RefusedCalls) {
        if let Some(started) = &self.0 {
            let text = |number: Number<'_>| record::of_refused_calls(calls, number, started.clock.now());
            started.submit_refused(calls.count(), text);
        }
    }

    /// Corrects the record of a call whose response was not delivered: writes a second record,
    /// marked as late. Does not wait; the line is written as soon as the sink allows.
    pub fn correct_record(&self, call: &Call, ending: Ending) {
        if let Some(started) = &self.0 {
            let text = record::for_call(call, ending, started.writer.next_number(), started.clock.now());
            // A line that is not accepted makes the sink unavailable, which reports it.
            let _ = started.submit(Line::late(text, class_of(call)));
        }
    }

    /// Writes the line of a session that no caller received, after the attempt to log it
    /// out. `status` is the HTTP status of that attempt. Does not wait; the line is written
    /// as soon as the sink allows.
    pub fn undelivered_session(&self, call: &Call, logout: Logout, status: Option<u16>) {
        if let Some(started) = &self.0 {
            let text = record::of_undelivered_session(
                call,
                logout,
                status,
                started.writer.next_number(),
                started.clock.now(),
            );
            let _ = started.submit(Line::unawaited(text, AuditClass::Allowed));
        }
    }

    /// Returns the hash of a token. While the audit log is on, its fingerprint is derived from this
    /// hash, so a token is hashed only once.
    #[must_use]
    pub fn token_hash(&self, ott: &OneTimeToken) -> TokenHash {
        match &self.0 {
            Some(started) => started.fingerprinter.hash(ott),
            None => unkeyed_hash(ott),
        }
    }

    /// Returns the fingerprint of a token with this [`hash`](Self::token_hash), which joins the issue
    /// and the login of the same token. `None` if the audit is off.
    #[must_use]
    pub fn fingerprint(&self, hash: &TokenHash) -> Option<String> {
        self.0.as_ref().map(|started| started.fingerprinter.of(hash))
    }

    /// Reopens the file (SIGHUP), so that it can be rotated by renaming.
    pub fn reopen(&self) {
        if let Some(started) = &self.0 {
            started.writer.reopen();
        }
    }

    /// Waits until all records so far are written, at most for `limit` ([`FLUSH_LIMIT`] is enough
    /// for a sink that works). Until then, failed writes are repeated. Call it before the process
    /// exits, even on an immediate exit: pending records are lost with the process.
    pub async fn flush(&self, limit: Duration) -> Result<(), AuditUnavailable> {
        let Some(started) = &self.0 else { return Ok(()) };
        // Lines first: the thread receives messages in order.
        started.handovers.send();
        let (done, finished) = oneshot::channel();
        if !started.writer.flush(done) {
            return Err(AuditUnavailable);
        }
        match timeout(limit, finished).await {
            Ok(Ok(())) => Ok(()),
            _ => Err(AuditUnavailable),
        }
    }
}

/// Returns the class of a call's records. A call whose work has not begun has sent nothing to the
/// platform, so losing its record is acceptable.
fn class_of(call: &Call) -> AuditClass {
    if call.has_work_begun() { AuditClass::Allowed } else { AuditClass::Refused }
}

#[cfg(test)]
mod tests;
