//! The thread that writes.
//!
//! A call that waits for its line goes on when the line is written, or when writing has
//! failed; a line that could not be written in time is kept and written late. Each write is
//! judged by its result and by its time.

use std::{
    io,
    sync::{
        Arc,
        atomic::Ordering,
        mpsc::{Receiver, RecvTimeoutError},
    },
    thread,
    time::Duration,
};

use tokio::sync::oneshot;

use super::{
    backlog::Backlog,
    judge::Judge,
    line::{Fate, Line},
    record,
    sink::Output,
    writer::{Message, NotAccepted, Shared},
};
use crate::{
    clock::{self, Instant, WallClock},
    telemetry::{
        metrics::{AuditClass, AuditFault, AuditSink, Metrics, RecordResult},
        threads::{Heartbeat, Pulse},
    },
};

/// Time within which a failed write is repeated, from its beginning, before it counts as
/// failed. Calls wait that long.
const REPEAT_LIMIT: Duration = Duration::from_secs(1);
/// Pause before a failed write is repeated; each further pause is twice as long.
const MIN_PAUSE: Duration = Duration::from_millis(10);
const MAX_PAUSE: Duration = Duration::from_millis(250);
/// Interval between attempts to write to a sink that failed.
const RETRY: Duration = Duration::from_millis(250);
/// Interval between records that are written only to see whether an unavailable sink is
/// available again.
const PROBE: Duration = Duration::from_secs(1);
/// Maximum bytes per system call, so that the heartbeat shows a slow sink as slow and not as
/// blocked.
const CHUNK_BYTES: usize = 256 * 1024;
/// Time over which lost records are counted before a line reports them.
const LOST_PERIOD: Duration = Duration::from_secs(1);

/// What the thread owns.
pub(super) struct Thread {
    output: Output,
    backlog: Backlog,
    judge: Judge,
    flushes: Vec<oneshot::Sender<()>>,
    /// When to try again, after a write has failed.
    retry_at: Option<Instant>,
    /// When to write a probe, while the sink is unavailable and there is nothing to write.
    probe_at: Option<Instant>,
    /// When to report lost records, if there are any.
    report_at: Option<Instant>,
    is_last_turn: bool,
    shared: Arc<Shared>,
    sink: AuditSink,
    metrics: Metrics,
    clock: WallClock,
    heartbeat: Heartbeat,
    pulse: Pulse,
}

/// Marks the sink as unavailable if the thread panics.
struct Alarm(Arc<Shared>);

impl Drop for Alarm {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.availability.set_unavailable(&NotAccepted::Stopped);
        }
    }
}

impl Thread {
    pub(super) fn new(
        output: Output,
        shared: Arc<Shared>,
        sink: AuditSink,
        metrics: Metrics,
        clock: WallClock,
    ) -> Self {
        let heartbeat = metrics.threads().register("audit");
        Self {
            pulse: heartbeat.pulse(),
            heartbeat,
            output,
            backlog: Backlog::default(),
            judge: Judge::default(),
            flushes: Vec::new(),
            retry_at: None,
            probe_at: None,
            report_at: None,
            is_last_turn: false,
            shared,
            sink,
            metrics,
            clock,
        }
    }

    /// Starts the thread. It ends with the last sender.
    pub(super) fn start(self, inbox: Receiver<Message>) -> io::Result<()> {
        thread::Builder::new().name("audit".to_owned()).spawn(move || self.run(&inbox)).map(drop)
    }

    fn run(mut self, inbox: &Receiver<Message>) {
        // Dropped before the lines: the sink is known to be unavailable before the calls
        // that wait for them go on.
        let _alarm = Alarm(Arc::clone(&self.shared));
        loop {
            let has_message = self.receive(inbox);
            let reopen = self.shared.reopen.swap(false, Ordering::AcqRel);
            if reopen {
                self.output.reopen();
            }
            self.heed_calls();
            let is_due = match self.retry_at {
                Some(at) => at <= clock::now() || self.is_last_turn,
                None => {
                    has_message
                        || !self.backlog.is_empty()
                        || self.report_at.is_some()
                        || self.probe_at.is_some_and(|at| at <= clock::now())
                        || self.output.is_outdated()
                }
            };
            if is_due || reopen || self.hurries() {
                self.turn();
            }
            self.answer_flushes();
            if self.is_last_turn && (self.retry_at.is_some() || self.backlog.is_empty()) {
                self.heartbeat.retire();
                return;
            }
        }
    }

    /// Takes over all messages; waits for one if there is nothing else to do. Returns whether
    /// there was one.
    fn receive(&mut self, inbox: &Receiver<Message>) -> bool {
        self.pulse.wait();
        let first = match self.longest_wait() {
            None => inbox.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(wait) => inbox.recv_timeout(wait),
        };
        self.pulse.beat();
        self.is_last_turn = matches!(first, Err(RecvTimeoutError::Disconnected));
        let has_message = first.is_ok();
        // Ends, because all places are taken at some time.
        for message in first.into_iter().chain(inbox.try_iter()) {
            match message {
                Message::Line(line) => self.keep(line),
                Message::Flush(done) => self.flushes.push(done),
                // Reset first: what happens from now on sends a message of its own.
                Message::Wake => self.shared.wakes.store(false, Ordering::Release),
                #[cfg(test)]
                Message::Panic => panic!("a defect"),
            }
        }
        has_message
    }

    /// Returns how long the thread may wait for a message; `None` if there is nothing else
    /// to do.
    fn longest_wait(&self) -> Option<Duration> {
        let until = |at: Instant| at.saturating_duration_since(clock::now());
        if let Some(at) = self.retry_at {
            return Some(if self.flushes.is_empty() { until(at) } else { until(at).min(MIN_PAUSE) });
        }
        if !self.flushes.is_empty() {
            return Some(Duration::ZERO);
        }
        let times = [self.report_at, self.probe_at, self.output.reopen_at()];
        times.into_iter().flatten().map(until).chain(self.backlog.due_in()).min()
    }

    /// Whether everything is to be written now, even if that blocks.
    fn hurries(&self) -> bool {
        self.is_last_turn || !self.flushes.is_empty()
    }

    fn keep(&mut self, mut line: Line) {
        if self.retry_at.is_some() {
            line.give_up();
        }
        self.backlog.push(line);
    }

    /// A call that has waited too long marks the sink as unavailable by itself. A good write
    /// has to follow.
    fn heed_calls(&mut self) {
        if self.shared.availability.take_distrust() && self.judge.is_available() {
            self.judge.failed(clock::now());
            self.probe_at = Some(clock::now());
        }
    }

    fn answer_flushes(&mut self) {
        if self.retry_at.is_none() && self.backlog.is_empty() {
            for done in self.flushes.drain(..) {
                // The receiver may have stopped waiting.
                let _ = done.send(());
            }
        }
        self.flushes.retain(|done| !done.is_closed());
    }

    /// Writes one batch, repeats it if it fails, and records whether the sink is available.
    fn turn(&mut self) {
        self.report_lost();
        let started = clock::now();
        self.probe(started);
        self.shared.availability.begin(started);
        let result = self.write_patiently(started);
        let now = clock::now();
        let took = now.saturating_duration_since(started);
        if !matches!(result, Ok(0)) {
            self.metrics.audit_write(took);
        }
        match &result {
            // Shows nothing about the sink.
            Ok(0) => {}
            Ok(_) => self.judge_written(started, now),
            Err(error) => self.judge_failed(error, now),
        }
        if self.report_at.is_none() && self.shared.places.has_lost() {
            self.report_at = Some(now + LOST_PERIOD);
        }
        self.shared.availability.end(took);
    }

    fn judge_written(&mut self, started: Instant, now: Instant) {
        self.retry_at = None;
        if !self.judge.written(started, now) {
            self.metrics.audit_fault(AuditFault::WriteSlow);
            self.shared.availability.set_unavailable(&"writing audit records takes too long");
        } else if self.judge.is_available() && self.backlog.has_no_allowed() {
            self.shared.availability.set_available();
        }
        self.probe_at = (!self.judge.is_available()).then(|| now + PROBE);
    }

    fn judge_failed(&mut self, error: &io::Error, now: Instant) {
        self.metrics.audit_fault(AuditFault::WriteFailed);
        self.judge.failed(now);
        self.retry_at = Some(now + RETRY);
        self.probe_at = None;
        // Published before calls stop waiting, so that none of them starts another.
        if self.output.is_closed_by(error) {
            self.shared.availability.set_closed(error);
        } else {
            self.shared.availability.set_unavailable(error);
        }
        self.backlog.give_up();
    }

    /// Adds a line that shows whether the sink is available again, if no line of an allowed
    /// call does and it is time for one.
    fn probe(&mut self, now: Instant) {
        let is_due = self.retry_at.is_some() || self.probe_at.is_some_and(|at| at <= now);
        if is_due && self.backlog.has_no_allowed() && !self.is_last_turn {
            let text = record::of_probe(self.clock.now());
            self.backlog.push(Line::notice(text, AuditClass::Allowed));
        }
    }

    /// Writes one batch, and returns its length. If that fails while the sink is available,
    /// repeats it for [`REPEAT_LIMIT`], which calls wait in any case.
    fn write_patiently(&mut self, started: Instant) -> io::Result<usize> {
        let mut result = self.write_batch(self.retry_at.is_some(), false);
        let mut pause = MIN_PAUSE;
        while let Err(error) = &result {
            let is_over = clock::now().saturating_duration_since(started) >= REPEAT_LIMIT;
            if is_over || !self.judge.is_available() || self.output.is_closed_by(error) {
                break;
            }
            let continues = error.kind() == io::ErrorKind::WouldBlock;
            self.metrics.audit_fault(AuditFault::WriteRepeated);
            self.shared.availability.retry();
            self.pulse.beat();
            thread::sleep(pause);
            pause = (pause * 2).min(MAX_PAUSE);
            result = self.write_batch(true, continues);
        }
        result
    }

    fn write_batch(&mut self, has_failed: bool, continues: bool) -> io::Result<usize> {
        // Done even if there is nothing to write, so that a file is opened again at once.
        self.output.ready()?;
        if has_failed {
            // A disk that failed has to keep something before more is written to it.
            self.output.sync()?;
        }
        self.backlog.resume(&mut self.output, continues);
        self.backlog.fill(&self.output, self.hurries());
        let bytes = self.backlog.unwritten();
        let (written, result) = self.write(&bytes);
        if written > 0 && self.backlog.ends_half_a_line() {
            self.metrics.audit_fault(AuditFault::HalfLine);
            tracing::warn!("audit sink ended in half a line, started a new line");
        }
        let has_name = self.output.check_written();
        // Lines that are whole are confirmed even if the rest failed. Lines of refused calls
        // alone are not synced: an allowed call would have to wait for that. They are while
        // the sink is unavailable, because this write is judged as that of an allowed call.
        let must_sync = self.backlog.has_allowed_in_batch() || self.hurries() || !self.judge.is_available();
        let synced = if must_sync && has_name.is_ok() { self.output.sync() } else { Ok(()) };
        let written = if has_name.is_ok() { written } else { 0 };
        let Self { backlog, output, shared, metrics, sink, .. } = self;
        backlog.credit(written, synced.is_ok(), output, |line| end(line, shared, metrics, *sink));
        result.and(has_name).and(synced).map(|()| bytes.len())
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
        if self.retry_at.is_some() || !(is_due || self.hurries()) {
            return;
        }
        self.report_at = None;
        for class in AuditClass::ALL {
            let count = self.shared.places.take_lost(class);
            if count > 0 {
                tracing::warn!(class = class.as_str(), count, "audit records lost");
                let text = record::of_lost(class, count, self.clock.now());
                self.backlog.push(Line::notice(text, class));
            }
        }
    }
}

/// Ends a line that is where it has to be. Returns the line that has to be written because
/// this one is not valid.
fn end(line: Line, shared: &Shared, metrics: &Metrics, sink: AuditSink) -> Option<Line> {
    let (class, has_place) = (line.class(), line.has_place());
    let result = match line.finish() {
        Fate::Awaited => None,
        Fate::Unawaited => Some(RecordResult::Ok),
        Fate::Late => Some(RecordResult::Late),
        Fate::Repeat(line) => return Some(line),
    };
    if has_place {
        shared.places.release(class);
    }
    if let Some(result) = result {
        metrics.audit_record(sink, result);
    }
    None
}
