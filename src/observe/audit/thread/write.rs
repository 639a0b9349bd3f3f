//! One write: its content, its repetition, and its effect on the availability of the sink.

use std::{io, thread, time::Duration};

use super::Thread;
use crate::{
    base::clock::{self, Instant},
    observe::{
        audit::{
            inbox::WriterState,
            line::{Fate, Line},
            probe::{Probe, ProbeCause},
            record,
            signal::Wakes,
            sink::Ready,
        },
        telemetry::metrics::{AuditClass, AuditError, AuditSink, Metrics, RecordResult},
    },
};

/// Time for which a failing write is repeated, from its beginning, before it counts as failed.
/// Calls wait for it.
const REPEAT_LIMIT: Duration = Duration::from_secs(1);
/// Pause before a failed write is repeated; each further pause is twice as long.
const MIN_PAUSE: Duration = Duration::from_millis(10);
const MAX_PAUSE: Duration = Duration::from_millis(250);
/// Interval between attempts to write to a sink that failed.
const RETRY: Duration = Duration::from_millis(250);
/// Maximum bytes per system call, so that the heartbeat shows a slow sink as slow and not as
/// blocked.
const CHUNK_BYTES: usize = 256 * 1024;
/// Maximum size of the buffer that is kept for the next write.
const KEPT_BYTES: usize = 64 * 1024;
/// Time over which lost records are counted before a line reports them.
const LOST_PERIOD: Duration = Duration::from_secs(1);

/// Result of a successful write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Written {
    /// Nothing, which shows nothing about the sink.
    Nothing,
    /// Lines of refused calls only, which are not synced: lines of allowed calls may take longer.
    Unsynced,
    /// Lines of allowed calls, synced if that is configured.
    Synced,
}

impl Thread {
    /// Writes one batch, repeats it if it fails, and records whether the sink is available.
    pub(super) fn turn(&mut self) {
        self.report_lost();
        let started = clock::now();
        self.write_probe_if_due(started);
        self.shared.availability.begin(started);
        let result = self.write_with_repeats(started);
        let now = clock::now();
        let took = now.saturating_duration_since(started);
        if !matches!(result, Ok(Written::Nothing)) {
            self.metrics.audit_write(took);
        }
        match &result {
            Ok(Written::Nothing) => {}
            Ok(written) => self.judge_written(*written, started, now),
            Err(error) => self.judge_failed(error, now),
        }
        if self.report_at.is_none() && self.shared.places.has_lost() {
            self.report_at = Some(now + LOST_PERIOD);
        }
        self.shared.availability.end();
    }

    fn judge_written(&mut self, written: Written, started: Instant, now: Instant) {
        self.retry_at = None;
        if !self.judge.written(started, now) {
            self.metrics.audit_fault(AuditError::WriteSlow);
            self.shared.availability.set_unavailable(&"writing audit records takes too long");
        } else if written == Written::Synced && self.judge.is_available() && self.backlog.has_no_allowed() {
            self.shared.availability.set_available(started);
        }
        self.probe = (!self.judge.is_available()).then(|| Probe::of_outage(now));
    }

    fn judge_failed(&mut self, error: &io::Error, now: Instant) {
        self.metrics.audit_fault(AuditError::WriteFailed);
        self.judge.failed(now);
        self.retry_at = Some(now + RETRY);
        self.probe = None;
        // Published before waiting calls fail, so that no new call starts.
        if self.output.is_closed_by(error) {
            self.shared.availability.set_closed(error);
        } else {
            self.shared.availability.set_unavailable(error);
        }
        self.backlog.give_up(&mut self.wakes);
        self.wakes.send();
    }

    /// Adds a probe if one is due.
    fn write_probe_if_due(&mut self, now: Instant) {
        if self.retry_at.is_some() {
            self.write_probe(ProbeCause::Outage);
        } else if let Some(probe) = self.probe.filter(|probe| probe.at <= now) {
            self.write_probe(probe.cause);
        }
    }

    /// Adds a probe, unless a pending line of an allowed call replaces it.
    fn write_probe(&mut self, cause: ProbeCause) {
        if self.backlog.has_no_allowed() && !self.is_last_turn {
            let text = record::for_probe(cause, self.shared.numbering.next(), self.clock.now());
            self.backlog.push(Line::notice(text, AuditClass::Allowed, self.judge.is_in_outage()));
        }
    }

    /// Writes one batch. If that fails outside of an outage, repeats it for [`REPEAT_LIMIT`], which
    /// calls wait for in any case.
    fn write_with_repeats(&mut self, started: Instant) -> io::Result<Written> {
        let mut result = self.write_batch(self.retry_at.is_some(), false);
        let mut pause = MIN_PAUSE;
        while let Err(error) = &result {
            let is_over = clock::now().saturating_duration_since(started) >= REPEAT_LIMIT;
            if is_over || self.judge.is_in_outage() || self.output.is_closed_by(error) {
                break;
            }
            let continues = error.kind() == io::ErrorKind::WouldBlock;
            self.metrics.audit_fault(AuditError::WriteRepeated);
            self.shared.availability.doubt();
            self.pulse.beat();
            thread::sleep(pause);
            pause = (pause * 2).min(MAX_PAUSE);
            result = self.write_batch(true, continues);
        }
        result
    }

    fn write_batch(&mut self, has_failed: bool, continues: bool) -> io::Result<Written> {
        if has_failed {
            self.output.check_again();
        }
        // Runs even if there is nothing to write, so that a file is opened again at once.
        if self.output.ready()? == Ready::NewFile {
            self.shared.availability.doubt();
            self.write_probe(ProbeCause::NewFile);
        }
        if has_failed {
            // After a failure, a sync must succeed before more is written.
            self.output.sync()?;
        }
        self.backlog.resume(&mut self.output, continues);
        self.backlog.fill(&self.output, self.must_write_all());
        let mut bytes = std::mem::take(&mut self.bytes);
        self.backlog.append_unwritten(&mut bytes);
        let is_empty = bytes.is_empty();
        let (written, result) = self.write(&bytes);
        bytes.clear();
        bytes.shrink_to(KEPT_BYTES);
        self.bytes = bytes;
        if written > 0 && self.backlog.ends_partial_line() {
            self.metrics.audit_fault(AuditError::HalfLine);
            tracing::warn!("audit sink ended in partial line");
        }
        let has_name = self.output.check_written();
        // Complete lines are confirmed even if the rest failed. A batch with only lines of refused
        // calls is not synced, because an allowed call would have to wait for that. While the sink
        // is unavailable it is synced, because the write is then judged like that of an allowed
        // call.
        let must_sync =
            self.backlog.has_allowed_in_batch() || self.must_write_all() || !self.judge.is_available();
        let synced = if must_sync && has_name.is_ok() { self.output.sync() } else { Ok(()) };
        let written = if has_name.is_ok() { written } else { 0 };
        let Self { backlog, output, shared, metrics, sink, wakes, .. } = self;
        backlog.credit(written, synced.is_ok(), output, |line| end(line, shared, metrics, *sink, wakes));
        // Once for all lines of the batch.
        self.wakes.send();
        result.and(has_name).and(synced)?;
        Ok(if is_empty {
            Written::Nothing
        } else if must_sync {
            Written::Synced
        } else {
            Written::Unsynced
        })
    }

    fn write(&mut self, bytes: &[u8]) -> (usize, io::Result<()>) {
        let mut written = 0;
        while written < bytes.len() {
            self.pulse.beat();
            let end = bytes.len().min(written + CHUNK_BYTES);
            match self.output.write(&bytes[written..end]) {
                Ok(more) => written += more,
                Err(error) => return (written, Err(error)),
            }
        }
        (written, Ok(()))
    }

    /// Adds a line about the lost records of each class, at most once in each period.
    fn report_lost(&mut self) {
        let is_due = self.report_at.is_some_and(|at| at <= clock::now()) && !self.backlog.is_held_back();
        if self.retry_at.is_some() || !(is_due || self.must_write_all()) {
            return;
        }
        self.report_at = None;
        for class in AuditClass::ALL {
            let lost = self.shared.places.take_lost(class);
            if lost.calls > 0 {
                tracing::warn!(class = class.as_str(), count = lost.calls, "audit records lost");
                let text = record::for_lost(class, lost, self.shared.numbering.next(), self.clock.now());
                self.backlog.push(Line::notice(text, class, true));
            }
        }
    }
}

/// Ends a line that was written. Returns the line to write instead if this one is not valid.
fn end(
    line: Line,
    shared: &WriterState,
    metrics: &Metrics,
    sink: AuditSink,
    wakes: &mut Wakes,
) -> Option<Line> {
    let (class, has_place) = (line.class(), line.has_place());
    let result = match line.finish(wakes) {
        Fate::Awaited => None,
        Fate::Unawaited => Some(RecordResult::Ok),
        Fate::Late => Some(RecordResult::Late),
        Fate::Repeat(line) => return Some(line),
    };
    if has_place {
        shared.places.release(class);
        if let Some(result) = result {
            metrics.audit_record(sink, result);
        }
    }
    None
}
