//! The writer thread.
//!
//! A call that waits for its line continues when the line is written, or when writing has failed; a
//! line that could not be written in time is kept and written late. Each write is judged by its
//! result and its duration.

mod write;

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
    inbox::{Message, NotAccepted, WriterState},
    judge::Judge,
    line::Line,
    probe::{Probe, ProbeCause},
    signal::Wakes,
    sink::Output,
};
use crate::{
    base::clock::{self, Instant, WallClock},
    observe::telemetry::{
        metrics::{AuditClass, AuditSink, Metrics},
        threads::{Heartbeat, Pulse},
    },
};

/// Interval between attempts to answer a flush while the sink fails.
const FLUSH_PAUSE: Duration = Duration::from_millis(10);

/// State of the thread.
pub(super) struct Thread {
    output: Output,
    backlog: Backlog,
    judge: Judge,
    flushes: Vec<oneshot::Sender<()>>,
    /// Buffer for one batch. Reused for the next.
    bytes: Vec<u8>,
    /// Tasks to wake once the lines of a batch are decided.
    wakes: Wakes,
    /// When to try again, after a write has failed.
    retry_at: Option<Instant>,
    /// The probe to write next.
    probe: Option<Probe>,
    /// When to report lost records, if there are any.
    report_at: Option<Instant>,
    is_last_turn: bool,
    shared: Arc<WriterState>,
    sink: AuditSink,
    metrics: Metrics,
    clock: WallClock,
    heartbeat: Heartbeat,
    pulse: Pulse,
}

/// Marks the sink as unavailable if the thread panics.
struct Alarm(Arc<WriterState>);

impl Drop for Alarm {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.availability.set_unavailable(&NotAccepted::Stopped);
        }
    }
}

impl Thread {
    /// `first` is the text of the first record.
    pub(super) fn new(
        output: Output,
        first: String,
        shared: Arc<WriterState>,
        sink: AuditSink,
        metrics: Metrics,
        clock: WallClock,
    ) -> Self {
        let heartbeat = metrics.threads().register("audit");
        let mut backlog = Backlog::default();
        backlog.push(Line::notice(first, AuditClass::Allowed, false));
        Self {
            pulse: heartbeat.pulse(),
            heartbeat,
            output,
            backlog,
            judge: Judge::default(),
            flushes: Vec::new(),
            bytes: Vec::new(),
            wakes: Wakes::default(),
            retry_at: None,
            probe: None,
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
        // Dropped before the lines, so that the sink is marked as unavailable before the waiting
        // calls continue.
        let _alarm = Alarm(Arc::clone(&self.shared));
        loop {
            let has_message = self.receive(inbox);
            let reopen = self.shared.reopen.swap(false, Ordering::AcqRel);
            if reopen {
                // It may be a different file afterwards.
                self.shared.availability.doubt();
                self.output.reopen();
            }
            if self.shared.probe.swap(false, Ordering::AcqRel) && !self.judge.is_in_outage() {
                self.probe = Some(Probe::due(ProbeCause::Pause, clock::now()));
            }
            self.check_distrust();
            let is_due = match self.retry_at {
                Some(at) => at <= clock::now() || self.is_last_turn,
                None => {
                    has_message
                        || !self.backlog.is_empty()
                        || self.report_at.is_some()
                        || self.probe.is_some_and(|probe| probe.at <= clock::now())
                        || self.output.is_outdated()
                }
            };
            if is_due || reopen || self.must_write_all() {
                self.turn();
            }
            self.answer_flushes();
            if self.is_last_turn && (self.retry_at.is_some() || self.backlog.is_empty()) {
                self.heartbeat.retire();
                return;
            }
        }
    }

    /// Receives all messages; waits for one if there is nothing else to do. Returns whether there
    /// was one.
    fn receive(&mut self, inbox: &Receiver<Message>) -> bool {
        self.pulse.wait();
        let first = match self.wait_limit() {
            None => inbox.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(wait) => inbox.recv_timeout(wait),
        };
        self.pulse.beat();
        self.is_last_turn = matches!(first, Err(RecvTimeoutError::Disconnected));
        let has_message = first.is_ok();
        // Terminates, because the number of places is bounded.
        for message in first.into_iter().chain(inbox.try_iter()) {
            match message {
                Message::Lines(lines) => lines.into_iter().for_each(|line| self.keep(line)),
                Message::Flush(done) => self.flushes.push(done),
                // Reset first: later changes send another message, and earlier ones are visible
                // afterwards.
                Message::Wake => drop(self.shared.wakes.swap(false, Ordering::AcqRel)),
                #[cfg(test)]
                Message::Panic => panic!("a defect"),
            }
        }
        self.wakes.send();
        has_message
    }

    /// Returns how long the thread may wait for a message; `None` if there is nothing else
    /// to do.
    fn wait_limit(&self) -> Option<Duration> {
        let until = |at: Instant| at.saturating_duration_since(clock::now());
        if let Some(at) = self.retry_at {
            return Some(if self.flushes.is_empty() { until(at) } else { until(at).min(FLUSH_PAUSE) });
        }
        if !self.flushes.is_empty() {
            return Some(Duration::ZERO);
        }
        let times = [self.report_at, self.probe.map(|probe| probe.at), self.output.reopen_at()];
        times.into_iter().flatten().map(until).chain(self.backlog.due_in()).min()
    }

    /// Returns whether everything must be written now, even if that blocks.
    fn must_write_all(&self) -> bool {
        self.is_last_turn || !self.flushes.is_empty()
    }

    fn keep(&mut self, mut line: Line) {
        if self.retry_at.is_some() {
            line.give_up(&mut self.wakes);
        }
        self.backlog.push(line);
    }

    /// Handles that a call has marked the sink as unavailable, because it has waited too long. A
    /// successful write must follow.
    fn check_distrust(&mut self) {
        if self.shared.availability.take_distrust() && !self.judge.is_in_outage() {
            self.judge.failed(clock::now());
            self.probe = Some(Probe::due(ProbeCause::Outage, clock::now()));
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
}
