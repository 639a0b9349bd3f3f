//! Handle of the writer thread, which isolates the workers from a disk or a pipe that hangs.
//!
//! Sending lines never waits, and wakes the thread only if it sleeps. The content of lines, and
//! which are sent together, is decided elsewhere.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, Sender, channel},
    },
};

use tokio::sync::oneshot;

use super::{
    AuditUnavailable,
    availability::Availability,
    inbox::{Message, NotAccepted, WriterState},
    line::Lines,
    numbering::{Number, Numbering},
    places::Places,
    sink::Output,
    thread::Thread,
};
use crate::{
    base::clock::WallClock,
    observe::telemetry::metrics::{AuditClass, AuditSink, Metrics},
};

/// Handle of the writer thread. The thread ends when all clones are dropped.
#[derive(Clone, Debug)]
pub(super) struct Writer {
    /// Bounded by the places that lines take first.
    inbox: Sender<Message>,
    shared: Arc<WriterState>,
}

impl Writer {
    /// Starts the thread, which writes the record `first` before all others.
    pub(super) fn start(
        &self,
        messages: Receiver<Message>,
        output: Output,
        first: String,
        sink: AuditSink,
        metrics: Metrics,
        clock: WallClock,
    ) -> io::Result<()> {
        Thread::new(output, first, Arc::clone(&self.shared), sink, metrics, clock).start(messages)
    }

    /// Creates a handle, and the receiver of its messages. It has places for all lines of
    /// `max_in_flight` allowed calls.
    pub(super) fn new(
        max_in_flight: usize,
        numbering: Numbering,
        metrics: &Metrics,
    ) -> (Self, Receiver<Message>) {
        let (inbox, messages) = channel();
        let shared = Arc::new(WriterState {
            availability: Arc::new(Availability::new(metrics.clone())),
            places: Places::new(max_in_flight, metrics.clone()),
            numbering,
            reopen: AtomicBool::new(false),
            probe: AtomicBool::new(false),
            wakes: AtomicBool::new(false),
        });
        (Self { inbox, shared }, messages)
    }

    pub(super) fn availability(&self) -> &Arc<Availability> {
        &self.shared.availability
    }

    /// Waits until the record of a call that begins now can be expected to be written in time.
    pub(super) async fn expect_record(&self) -> Result<(), AuditUnavailable> {
        self.availability().expected(|| self.probe()).await
    }

    /// Makes the thread write something.
    fn probe(&self) {
        self.shared.probe.store(true, Ordering::Release);
        self.wake();
    }

    /// Returns the number of the next record.
    pub(super) fn next_number(&self) -> Number<'_> {
        self.shared.numbering.next()
    }

    /// Takes a place for a line that records this many calls. If there is none, the line counts as
    /// lost.
    pub(super) fn take_place(&self, class: AuditClass, records: u64) -> Result<(), NotAccepted> {
        if self.shared.places.take(class, records) { Ok(()) } else { Err(NotAccepted::Full) }
    }

    /// Sends lines that have places. If the thread has stopped, they count as lost, and the sink is
    /// marked as unavailable if one of them belongs to an allowed call.
    pub(super) fn send(&self, lines: Lines) -> Result<(), NotAccepted> {
        self.inbox.send(Message::Lines(lines)).map_err(|refused| {
            self.count_lost(&refused.0);
            NotAccepted::Stopped
        })
    }

    fn count_lost(&self, message: &Message) {
        let Message::Lines(lines) = message else { return };
        for line in lines {
            self.shared.places.release(line.class());
            self.shared.places.count_lost(line.class(), line.records());
        }
        // Refused calls got nothing, so that their lines do not matter here.
        if lines.iter().any(|line| line.class() == AuditClass::Allowed) {
            self.availability().distrust(&NotAccepted::Stopped);
        }
    }

    /// Asks the thread to report when all lines so far are written. It keeps trying until the
    /// receiver is dropped. Returns false if the thread has stopped.
    pub(super) fn flush(&self, done: oneshot::Sender<()>) -> bool {
        self.inbox.send(Message::Flush(done)).is_ok()
    }

    /// Makes the thread check whether the sink is available.
    pub(super) fn wake(&self) {
        if !self.shared.wakes.swap(true, Ordering::AcqRel) {
            // If the thread has stopped, handing over a line reports it.
            let _ = self.inbox.send(Message::Wake);
        }
    }

    /// Makes the thread open the file again.
    pub(super) fn reopen(&self) {
        self.shared.reopen.store(true, Ordering::Release);
        self.wake();
    }

    /// Makes the thread panic.
    #[cfg(test)]
    pub(super) fn panic(&self) {
        let _ = self.inbox.send(Message::Panic);
    }
}
