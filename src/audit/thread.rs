//! The thread that writes.
//!
//! A call that waits for its line learns that it is written, or that it is not; a line that
//! could not be written in time is kept and written late. Lines of allowed calls go first;
//! lines of refused calls are written as far as they cannot delay them.

use std::{
    collections::VecDeque,
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
    line::{Fate, Line},
    record,
    sink::{Output, Resume, Torn},
    writer::{Message, NotAccepted, Shared},
};
use crate::{
    clock::{self, Instant, WallClock},
    telemetry::{
        metrics::{AuditClass, Metrics},
        threads::{Heartbeat, Pulse},
    },
};

/// Interval between attempts to write to a sink that failed: well within the second that a
/// call would wait.
const RETRY: Duration = Duration::from_millis(250);
/// Maximum bytes per write.
const BATCH_BYTES: usize = 256 * 1024;
/// Maximum bytes of lines of refused calls per write: what a line of an allowed call may
/// have to wait for.
const REFUSED_BYTES: usize = 64 * 1024;
/// Interval between checks for room, while lines of refused calls are held back.
const HOLD_BACK: Duration = Duration::from_millis(5);
/// Time over which lost records are counted before a line reports them.
const LOST_PERIOD: Duration = Duration::from_secs(1);

/// What the thread owns.
pub(super) struct Thread {
    output: Output,
    /// Lines of the write in progress, and afterwards the one that it has torn.
    batch: VecDeque<Line>,
    allowed: VecDeque<Line>,
    refused: VecDeque<Line>,
    /// Lines of refused calls wait until the sink has room for more than them.
    held_back: bool,
    flushes: Vec<oneshot::Sender<()>>,
    torn: Option<Torn>,
    /// When to try again, after the sink has failed.
    retry_at: Option<Instant>,
    /// When to report lost records, if there are any.
    report_at: Option<Instant>,
    is_last_turn: bool,
    shared: Arc<Shared>,
    sink: &'static str,
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
            self.0.soundness.set_broken(&NotAccepted::Stopped);
        }
    }
}

impl Thread {
    pub(super) fn new(
        output: Output,
        shared: Arc<Shared>,
        sink: &'static str,
        metrics: Metrics,
        clock: WallClock,
    ) -> Self {
        let heartbeat = metrics.threads().register("audit");
        Self {
            pulse: heartbeat.pulse(),
            heartbeat,
            output,
            batch: VecDeque::new(),
            allowed: VecDeque::new(),
            refused: VecDeque::new(),
            held_back: false,
            flushes: Vec::new(),
            torn: None,
            retry_at: None,
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
                self.output.release();
            }
            let is_due = match self.retry_at {
                Some(at) => at <= clock::now(),
                None => has_message || self.has_lines() || self.report_at.is_some(),
            };
            if is_due || reopen || self.hurries() {
                self.write_and_judge();
            }
            self.answer_flushes();
            if self.is_last_turn && (self.retry_at.is_some() || !self.has_lines()) {
                self.heartbeat.retire();
                return;
            }
        }
    }

    /// Takes all messages that are there, and waits for one if there is nothing else to do.
    /// Returns whether there was one.
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
            return Some(until(at));
        }
        if !self.batch.is_empty() || !self.allowed.is_empty() || !self.flushes.is_empty() {
            return Some(Duration::ZERO);
        }
        match (self.refused.is_empty(), self.held_back) {
            (true, _) => self.report_at.map(until),
            (false, true) => Some(HOLD_BACK),
            (false, false) => Some(Duration::ZERO),
        }
    }

    /// Whether everything is to be written now, even if that blocks.
    fn hurries(&self) -> bool {
        self.is_last_turn || !self.flushes.is_empty()
    }

    fn has_lines(&self) -> bool {
        !(self.batch.is_empty() && self.allowed.is_empty() && self.refused.is_empty())
    }

    fn lines_of(&mut self, class: AuditClass) -> &mut VecDeque<Line> {
        match class {
            AuditClass::Allowed => &mut self.allowed,
            AuditClass::Refused => &mut self.refused,
        }
    }

    fn keep(&mut self, mut line: Line) {
        if self.retry_at.is_some() {
            line.give_up();
        }
        self.lines_of(line.class()).push_back(line);
    }

    fn answer_flushes(&mut self) {
        if self.retry_at.is_some() {
            // Dropped: the lines cannot be written now.
            self.flushes.clear();
        } else if !self.has_lines() {
            for done in self.flushes.drain(..) {
                // The receiver may have stopped waiting.
                let _ = done.send(());
            }
        }
    }

    /// Writes one batch, and records whether the sink is available.
    fn write_and_judge(&mut self) {
        self.report_lost();
        match self.write_batch() {
            Ok(()) => {
                self.retry_at = None;
                if self.allowed.is_empty() {
                    self.shared.soundness.set_sound();
                }
                if self.report_at.is_none() && self.shared.places.has_lost() {
                    self.report_at = Some(clock::now() + LOST_PERIOD);
                }
            }
            Err(error) => {
                self.retry_at = Some(clock::now() + RETRY);
                // Published before calls stop waiting, so that none of them starts another.
                self.shared.soundness.set_broken(&error);
                for lines in [&mut self.batch, &mut self.allowed, &mut self.refused] {
                    lines.iter_mut().for_each(Line::give_up);
                }
            }
        }
    }

    fn write_batch(&mut self) -> io::Result<()> {
        // Done even if there is nothing to write: reopening shows its errors at once, and
        // a disk that failed has to keep something before it counts as available.
        self.output.ready()?;
        if self.retry_at.is_some() {
            self.output.sync()?;
        }
        self.resume();
        self.fill_batch();
        let mut bytes = Vec::new();
        self.batch.iter().for_each(|line| line.append_unwritten(&mut bytes));
        let (written, result) = self.write(&bytes);
        if written > 0
            && self.batch.front().is_some_and(|first| first.is_newline_first() && !first.is_begun())
        {
            tracing::warn!("audit sink ended in half a line, started a new line");
        }
        // Lines that are whole are confirmed even if the rest failed. Lines of refused calls
        // alone are not synced: an allowed call would have to wait for that.
        let has_allowed = self.batch.iter().any(|line| line.class() == AuditClass::Allowed);
        let synced = if has_allowed || self.hurries() { self.output.sync() } else { Ok(()) };
        self.credit(written, synced.is_ok());
        result.and(synced)
    }

    /// Adds a line about the lost records of each class, at most once in each period.
    fn report_lost(&mut self) {
        let is_due = self.report_at.is_some_and(|at| at <= clock::now()) && !self.held_back;
        if self.retry_at.is_some() || !(is_due || self.hurries()) {
            return;
        }
        self.report_at = None;
        for class in AuditClass::ALL {
            let count = self.shared.places.take_lost(class);
            if count > 0 {
                tracing::warn!(class = class.as_str(), count, "audit records lost");
                let text = record::of_lost(class, count, self.clock.now());
                self.lines_of(class).push_back(Line::notice(text, class));
            }
        }
    }

    /// Decides how to go on with a line that was torn.
    fn resume(&mut self) {
        let Some(torn) = self.torn.take() else { return };
        let Some(line) = self.batch.front_mut() else { return };
        match self.output.resume(torn) {
            Resume::Rest => return,
            Resume::Whole => {}
            Resume::NewLine => self.output.set_unfinished(),
        }
        line.restart();
    }

    /// Moves the next lines to the batch: those of allowed calls, then as many of refused
    /// calls as leave room in the sink. One line is moved even if it is longer than its limit.
    fn fill_batch(&mut self) {
        let mut bytes: usize = self.batch.iter().map(Line::unwritten).sum();
        let mut move_lines = |lines: &mut VecDeque<Line>, batch: &mut VecDeque<Line>, limit: usize| {
            let start = bytes;
            while let Some(mut line) =
                lines.pop_front_if(|line| bytes == start || bytes - start + line.unwritten() <= limit)
            {
                line.give_up_if_abandoned();
                bytes += line.unwritten();
                batch.push_back(line);
            }
            bytes
        };
        let bytes = move_lines(&mut self.allowed, &mut self.batch, BATCH_BYTES);
        self.held_back = false;
        if !self.refused.is_empty() {
            let room = if self.hurries() { REFUSED_BYTES } else { self.output.spare_room(bytes) };
            if room > 0 {
                move_lines(&mut self.refused, &mut self.batch, room.min(REFUSED_BYTES));
            }
            self.held_back = room < REFUSED_BYTES && !self.refused.is_empty();
        }
        let Some(first) = self.batch.front_mut() else { return };
        if !first.is_begun() {
            first.set_newline_first(self.output.is_unfinished());
        }
    }

    fn write(&mut self, bytes: &[u8]) -> (usize, io::Result<()>) {
        let mut written = 0;
        while written < bytes.len() {
            self.pulse.beat();
            match self.output.write(&bytes[written..]) {
                Ok(more) => written += more,
                Err(error) => return (written, Err(error)),
            }
        }
        (written, Ok(()))
    }

    /// Ends the lines of the first `bytes` bytes. Keeps the line that was torn, and returns
    /// the others to where they came from.
    fn credit(&mut self, mut bytes: usize, kept: bool) {
        while let Some(line) = self.batch.pop_front_if(|line| line.unwritten() <= bytes) {
            bytes -= line.unwritten();
            self.end(line, kept);
        }
        if let Some(line) = self.batch.front_mut() {
            line.advance(bytes);
            self.torn = if line.is_begun() { self.output.torn() } else { None };
        }
        let torn = usize::from(self.torn.is_some());
        while self.batch.len() > torn {
            if let Some(mut line) = self.batch.pop_back() {
                line.set_newline_first(false);
                self.lines_of(line.class()).push_front(line);
            }
        }
    }

    fn end(&mut self, line: Line, kept: bool) {
        let (class, has_place) = (line.class(), line.has_place());
        let result = match line.finish(kept) {
            Fate::Awaited => None,
            Fate::Unawaited => Some("ok"),
            Fate::Late => Some("late"),
            Fate::Repeat(line) => return self.lines_of(class).push_back(line),
        };
        if has_place {
            self.shared.places.release(class);
        }
        if let Some(result) = result {
            self.metrics.audit_record(self.sink, result);
        }
    }
}
