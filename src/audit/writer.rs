//! The thread that writes, so that a disk or a pipe that hangs stops nothing else.
//!
//! Whoever waits for a line learns that it is written, or that it is not; a line that
//! could not be written in time is kept and written late. What a line says is not
//! known here.

use std::{
    collections::VecDeque,
    fmt::Display,
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    thread,
    time::Duration,
};

use tokio::sync::{oneshot, watch};

use super::{
    record,
    sink::{Output, Resume, Torn},
};
use crate::{
    clock::{self, Instant, WallClock},
    telemetry::metrics::Metrics,
};

/// The most lines on the way to the thread: one for each call that may be in flight.
const QUEUE: usize = 4096;
/// The most lines that are kept while the sink is broken (some 5 MiB).
const KEPT: usize = 2 * QUEUE;
/// How often a broken sink is tried: well within the second that a call would wait.
const RETRY: Duration = Duration::from_millis(250);
/// The most bytes of one write.
const BATCH_BYTES: usize = 256 * 1024;

/// A line on its way: a JSON object without its closing brace.
pub(super) struct Line {
    text: String,
    ack: Option<oneshot::Sender<()>>,
    /// Nobody ever waited for it: it is valid even if nobody learns that it is written.
    unawaited: bool,
    late: bool,
    newline_first: bool,
    written: usize,
}

/// Whether the sink works.
#[derive(Debug)]
pub(super) struct Soundness {
    broken: AtomicBool,
    changes: watch::Sender<bool>,
}

/// The way to the thread. The thread ends when this is dropped.
#[derive(Debug)]
pub(super) struct Writer {
    inbox: SyncSender<Message>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    soundness: Soundness,
    reopen: AtomicBool,
    lost: AtomicU64,
}

enum Message {
    Line(Line),
    Flush(oneshot::Sender<()>),
    Wake,
}

/// What the thread owns.
struct Thread {
    output: Output,
    lines: VecDeque<Line>,
    torn: Option<Torn>,
    retry_at: Option<Instant>,
    shared: Arc<Shared>,
    sink: &'static str,
    metrics: Metrics,
    clock: WallClock,
}

impl Line {
    /// A line that somebody waits for.
    pub(super) fn new(text: String, ack: oneshot::Sender<()>) -> Self {
        Self { ack: Some(ack), unawaited: false, ..Self::unawaited(text) }
    }

    /// A line that is too late already.
    pub(super) fn late(text: String) -> Self {
        Self { late: true, ..Self::unawaited(text) }
    }

    /// A line that nobody waits for.
    pub(super) fn unawaited(text: String) -> Self {
        Self { text, ack: None, unawaited: true, late: false, newline_first: false, written: 0 }
    }

    /// Whoever waited has given up: what the line says was not delivered. A line that
    /// is half written has to be finished as it was begun.
    fn give_up(&mut self) {
        self.ack = None;
        if self.written == 0 {
            self.late = true;
        }
    }

    fn parts(&self) -> [&[u8]; 3] {
        [
            if self.newline_first { b"\n" } else { b"" },
            self.text.as_bytes(),
            if self.late { b",\"late\":true}\n" } else { b"}\n" },
        ]
    }

    fn unwritten(&self) -> usize {
        self.parts().iter().map(|part| part.len()).sum::<usize>() - self.written
    }

    fn append_unwritten(&self, batch: &mut Vec<u8>) {
        let start = batch.len();
        self.parts().iter().for_each(|part| batch.extend_from_slice(part));
        batch.drain(start..start + self.written);
    }
}

impl Soundness {
    fn new() -> Self {
        Self { broken: AtomicBool::new(false), changes: watch::Sender::new(false) }
    }

    pub(super) fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Acquire)
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<bool> {
        self.changes.subscribe()
    }

    pub(super) fn set_broken(&self, why: &dyn Display) {
        if !self.broken.swap(true, Ordering::AcqRel) {
            tracing::error!(error = %why, "audit records cannot be written; calls are refused until they can");
            self.changes.send_replace(true);
        }
    }

    fn set_sound(&self) {
        if self.broken.swap(false, Ordering::AcqRel) {
            tracing::warn!("audit records can be written again; calls are accepted");
            self.changes.send_replace(false);
        }
    }
}

impl Writer {
    /// Starts the thread.
    pub(super) fn start(
        output: Output,
        sink: &'static str,
        metrics: Metrics,
        clock: WallClock,
    ) -> io::Result<Self> {
        let (inbox, messages) = sync_channel(QUEUE);
        let shared = Arc::new(Shared {
            soundness: Soundness::new(),
            reopen: AtomicBool::new(false),
            lost: AtomicU64::new(0),
        });
        let thread = Thread {
            output,
            lines: VecDeque::new(),
            torn: None,
            retry_at: None,
            shared: Arc::clone(&shared),
            sink,
            metrics,
            clock,
        };
        thread::Builder::new().name("audit".to_owned()).spawn(move || thread.run(&messages))?;
        Ok(Self { inbox, shared })
    }

    pub(super) fn soundness(&self) -> &Soundness {
        &self.shared.soundness
    }

    /// Hands a line over; false if there are too many, and then it is lost.
    pub(super) fn submit(&self, line: Line) -> bool {
        let taken = self.inbox.try_send(Message::Line(line)).is_ok();
        if !taken {
            self.shared.lost.fetch_add(1, Ordering::AcqRel);
        }
        taken
    }

    /// Asks to be told when all lines so far are written; false if there are too many.
    /// The sender is dropped if they cannot be written now.
    pub(super) fn flush(&self, done: oneshot::Sender<()>) -> bool {
        self.inbox.try_send(Message::Flush(done)).is_ok()
    }

    /// Lets the thread look whether the sink works. A thread with a full inbox looks
    /// anyway.
    pub(super) fn wake(&self) {
        let _ = self.inbox.try_send(Message::Wake);
    }

    /// Lets the thread open the file anew.
    pub(super) fn reopen(&self) {
        self.shared.reopen.store(true, Ordering::Release);
        self.wake();
    }
}

impl Thread {
    fn run(mut self, inbox: &Receiver<Message>) {
        loop {
            let first = match self.retry_at {
                None => inbox.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(at) => inbox.recv_timeout(at.saturating_duration_since(clock::now())),
            };
            let is_last = matches!(first, Err(RecvTimeoutError::Disconnected));
            let mut flushes = Vec::new();
            for message in first.into_iter().chain(inbox.try_iter().take(QUEUE)) {
                match message {
                    Message::Line(line) => self.keep(line),
                    Message::Flush(done) => flushes.push(done),
                    Message::Wake => {}
                }
            }
            let reopen = self.shared.reopen.swap(false, Ordering::AcqRel);
            if reopen {
                self.output.release();
            }
            let due = self.retry_at.is_none_or(|at| at <= clock::now());
            if due || reopen || is_last || !flushes.is_empty() {
                self.write_and_judge();
            }
            if self.lines.is_empty() {
                for done in flushes {
                    // Whoever asked may have stopped waiting.
                    let _ = done.send(());
                }
            }
            if is_last {
                return;
            }
        }
    }

    fn keep(&mut self, mut line: Line) {
        if self.retry_at.is_some() {
            line.give_up();
        }
        if self.lines.len() < KEPT {
            self.lines.push_back(line);
        } else {
            self.shared.lost.fetch_add(1, Ordering::AcqRel);
        }
    }

    fn write_and_judge(&mut self) {
        match self.write_all() {
            Ok(()) => {
                self.retry_at = None;
                self.shared.soundness.set_sound();
            }
            Err(error) => {
                self.retry_at = Some(clock::now() + RETRY);
                // Known before those who wait are told, so that none of them starts anew.
                self.shared.soundness.set_broken(&error);
                self.lines.iter_mut().for_each(Line::give_up);
            }
        }
    }

    fn write_all(&mut self) -> io::Result<()> {
        // Done even if there is nothing to write: reopening shows its faults at once, and
        // a disk that failed has to keep something before it counts as mended.
        self.output.ready()?;
        if self.retry_at.is_some() {
            self.output.sync()?;
        }
        while !self.lines.is_empty() {
            self.output.ready()?;
            self.resume();
            let batch = self.batch();
            let (written, result) = self.write(&batch);
            // Lines that are whole are confirmed even if the rest failed.
            let synced = self.output.sync();
            self.credit(written, synced.is_ok());
            result.and(synced)?;
            if self.lines.is_empty() {
                self.own_up();
            }
        }
        Ok(())
    }

    /// Queues a line about the lines that are lost, if there are any.
    fn own_up(&mut self) {
        let lost = self.shared.lost.swap(0, Ordering::AcqRel);
        if lost > 0 {
            self.lines.push_back(Line::late(record::of_lost(lost, self.clock.now())));
        }
    }

    /// Decides how to go on with a line that was torn.
    fn resume(&mut self) {
        let Some(torn) = self.torn.take() else { return };
        let Some(line) = self.lines.front_mut() else { return };
        match self.output.resume(torn) {
            Resume::Rest => return,
            Resume::Whole => line.newline_first = false,
            Resume::NewLine => line.newline_first = true,
        }
        line.written = 0;
        if line.ack.is_none() {
            line.late = true;
        }
    }

    fn batch(&mut self) -> Vec<u8> {
        let mut batch = Vec::new();
        for line in &mut self.lines {
            if !batch.is_empty() && batch.len() + line.unwritten() > BATCH_BYTES {
                break;
            }
            if line.ack.as_ref().is_some_and(oneshot::Sender::is_closed) {
                line.give_up();
            }
            line.append_unwritten(&mut batch);
        }
        batch
    }

    fn write(&mut self, batch: &[u8]) -> (usize, io::Result<()>) {
        let mut written = 0;
        while written < batch.len() {
            match self.output.write(&batch[written..]) {
                Ok(bytes) => written += bytes,
                Err(error) => return (written, Err(error)),
            }
        }
        (written, Ok(()))
    }

    /// Tells those who wait for the first `bytes` bytes.
    fn credit(&mut self, mut bytes: usize, kept: bool) {
        while let Some(mut line) = self.lines.pop_front() {
            let unwritten = line.unwritten();
            if bytes < unwritten {
                line.written += bytes;
                self.torn = if line.written > 0 { self.output.torn() } else { None };
                self.lines.push_front(line);
                return;
            }
            bytes -= unwritten;
            let confirmed = kept && (line.unawaited || line.ack.is_some_and(|ack| ack.send(()).is_ok()));
            if line.late {
                self.metrics.audit_record(self.sink, "late");
            } else if !confirmed {
                // The line describes an answer that was not delivered, or may not be on
                // the disk: it is written again, as late.
                self.lines.push_back(Line::late(line.text));
            } else if line.unawaited {
                self.metrics.audit_record(self.sink, "ok");
            }
        }
    }
}
