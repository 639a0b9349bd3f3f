//! Hands over lines from one worker to the writer thread.
//!
//! All lines of one turn of the worker's event loop go to the thread as one message, which wakes it
//! at most once. The first line of a turn wakes a task on the worker. The worker's task queue is
//! first in, first out, so this task runs after all tasks that are ready at that time. It sends the
//! lines. The thread wakes it again when their fate is decided, once per batch, and it then wakes
//! their calls. These wake-ups are local, and the responses of calls that continue in one turn are
//! sent with one system call per connection.
//!
//! A lock protects the lines. Except for a flush, only the worker takes it, so it is uncontended in
//! practice. Correctness does not depend on the thread that uses a hand-over: a call on another
//! thread only costs more.

mod driver;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::runtime;

pub(super) use self::driver::Driver;
use self::driver::Waiting;
use super::{
    acknowledgement::{Acknowledgement, acknowledgement},
    inbox::NotAccepted,
    line::{Line, Lines},
    signal::Signal,
    writer::Writer,
};
use crate::base::clock;

/// The lines of one worker that have not been sent yet. Sends them on drop.
#[derive(Debug)]
pub(super) struct Handover {
    writer: Writer,
    /// Wakes the task: there are lines to send, or decided ones.
    signal: Arc<Signal>,
    turn: Mutex<Turn>,
}

/// Input of the task.
#[derive(Debug, Default)]
struct Turn {
    /// Whether the task runs. If it does not, nothing would send lines added here.
    is_driven: bool,
    lines: Lines,
    /// The calls that wait for lines, in the order of the lines.
    waiting: Vec<Waiting>,
}

impl Handover {
    /// Creates a hand-over, and its task, which must be polled until it ends. It ends with the
    /// hand-over.
    pub(super) fn new(writer: Writer) -> (Arc<Self>, Driver) {
        let turn = Mutex::new(Turn { is_driven: true, ..Turn::default() });
        let handover = Arc::new(Self { writer, signal: Arc::default(), turn });
        let driver = Driver::new(&handover);
        (handover, driver)
    }

    /// Hands over a line that has a place and that no call waits for.
    ///
    /// # Errors
    ///
    /// The thread is known to have stopped.
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

    /// Hands over a line that has a place and that a call waits for. Returns the text if the task
    /// no longer runs.
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

    /// Adds a line. The first line wakes the task. For a later one the task is already woken and
    /// has not taken the lines yet, because it takes them under the same lock.
    fn add(&self, mut turn: MutexGuard<'_, Turn>, line: Line) {
        let is_first = turn.lines.is_empty();
        turn.lines.push(line);
        drop(turn);
        if is_first {
            self.signal.wake();
        }
    }

    /// Sends the lines of the turn. Runs under the lock, so that a flush finds each line either
    /// here or with the thread, and lines keep their order.
    fn send_turn(&self, turn: &mut Turn) {
        if !turn.lines.is_empty() {
            // If the thread has stopped, dropping the lines wakes their calls.
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
        // Makes the task end.
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
        // The task of a stopped runtime is gone, and its id may be reused.
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
