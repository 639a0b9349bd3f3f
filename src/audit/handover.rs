//! The hand-over of lines from one worker to the thread that writes.
//!
//! All lines of a turn of the worker's event loop go to the thread as one message, which wakes it
//! at most once. The first line of a turn wakes a task on the worker. The worker's queue of tasks
//! is first in, first out: the task runs after all tasks that are ready then, and no later. It
//! sends the lines; the thread wakes it again when it has decided them, once for each batch, and
//! it then wakes their calls. These are local wake-ups, and the answers of calls that go on in one
//! turn leave with one system call for each connection.
//!
//! A lock protects the lines. Only the worker takes it, except for a flush, so it is free in
//! practice. Correctness does not depend on who uses a hand-over: a call on another thread only
//! costs more.

mod driver;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use smallvec::SmallVec;
use tokio::runtime;

pub(super) use self::driver::Driver;
use self::driver::Waiting;
use super::{
    acknowledgement::{Acknowledgement, acknowledgement},
    line::Line,
    signal::Signal,
    writer::{NotAccepted, Writer},
};
use crate::clock;

/// Lines that are sent together. Most turns of a worker that is not busy have one.
pub(super) type Lines = SmallVec<[Line; 1]>;

/// The lines of one worker that have not been sent yet. Dropped, it sends them.
#[derive(Debug)]
pub(super) struct Handover {
    writer: Writer,
    /// Wakes the task: lines are to be sent, or have been decided.
    signal: Arc<Signal>,
    turn: Mutex<Turn>,
}

/// What the task has to take over.
#[derive(Debug, Default)]
struct Turn {
    /// The task runs. Otherwise nothing would send what is added here.
    is_driven: bool,
    lines: Lines,
    /// The calls that wait for some of the lines, in the same order.
    waiting: Vec<Waiting>,
}

impl Handover {
    /// Creates a hand-over, and the task that has to be polled until it ends. It ends with the
    /// hand-over.
    pub(super) fn new(writer: Writer) -> (Arc<Self>, Driver) {
        let turn = Mutex::new(Turn { is_driven: true, ..Turn::default() });
        let handover = Arc::new(Self { writer, signal: Arc::default(), turn });
        let driver = Driver::new(&handover);
        (handover, driver)
    }

    /// Hands over a line that has a place and that nobody waits for.
    ///
    /// # Errors
    ///
    /// The thread has stopped, as is known already.
    pub(super) fn submit(&self, line: Line) -> Result<(), NotAccepted> {
        let turn = self.turn();
        if turn.is_driven {
            self.add(turn, line);
            Ok(())
        } else {
            drop(turn);
            self.writer.send(Lines::from_buf([line]))
        }
    }

    /// Hands over a line that has a place and that a call waits for. Gives the text back if the
    /// task does not run any more.
    pub(super) fn submit_awaited(&self, text: String) -> Result<Acknowledgement, String> {
        let mut turn = self.turn();
        if !turn.is_driven {
            return Err(text);
        }
        let (acknowledger, acknowledgement, waiter) = acknowledgement(&self.signal);
        turn.waiting.push(Waiting { waiter, since: clock::now() });
        self.add(turn, Line::awaited(text, acknowledger));
        Ok(acknowledgement)
    }

    /// Sends the lines that were handed over so far.
    pub(super) fn send(&self) {
        self.send_turn(&mut self.turn());
    }

    /// Adds a line, and wakes the task for the first one. For a later one it is woken already,
    /// and has not taken the lines since: it takes them under the same lock.
    fn add(&self, mut turn: MutexGuard<'_, Turn>, line: Line) {
        let is_first = turn.lines.is_empty();
        turn.lines.push(line);
        drop(turn);
        if is_first {
            self.signal.wake();
        }
    }

    /// Sends the lines of the turn. This is done under the lock, so that a flush finds a line
    /// either here or with the thread, and lines keep their order.
    fn send_turn(&self, turn: &mut Turn) {
        if !turn.lines.is_empty() {
            // If the thread has stopped, the calls that wait are woken as their lines are dropped.
            let _ = self.writer.send(std::mem::take(&mut turn.lines));
        }
    }

    fn turn(&self) -> MutexGuard<'_, Turn> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Handover {
    fn drop(&mut self) {
        self.send();
        // The task ends.
        self.signal.wake();
    }
}

/// The hand-overs of all workers.
#[derive(Debug, Default)]
pub(super) struct Handovers(Mutex<Vec<(runtime::Id, Arc<Handover>)>>);

impl Handovers {
    /// Returns the hand-over of the current runtime, which has at most one. `None` outside of a
    /// runtime.
    pub(super) fn of_this_runtime(&self, writer: &Writer) -> Option<Arc<Handover>> {
        let runtime = runtime::Handle::try_current().ok()?;
        let mut all = self.all();
        // The task of a runtime that has ended is gone, and its id may be used again.
        all.retain(|(_, handover)| handover.turn().is_driven);
        if let Some((_, handover)) = all.iter().find(|(id, _)| *id == runtime.id()) {
            return Some(Arc::clone(handover));
        }
        let (handover, driver) = Handover::new(writer.clone());
        all.push((runtime.id(), Arc::clone(&handover)));
        runtime.spawn(driver);
        Some(handover)
    }

    /// Sends the lines of all workers.
    pub(super) fn send(&self) {
        self.all().iter().for_each(|(_, handover)| handover.send());
    }

    fn all(&self) -> MutexGuard<'_, Vec<(runtime::Id, Arc<Handover>)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
