//! The way to the thread that writes, so that a disk or a pipe that hangs stops nothing
//! else.
//!
//! Sending lines never waits, and wakes the thread only if it sleeps. What lines contain, and
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
    AuditUnavailable, availability::Availability, handover::Lines, places::Places, sink::Output,
    thread::Thread,
};
use crate::{
    clock::WallClock,
    telemetry::metrics::{AuditClass, AuditSink, Metrics},
};

/// The way to the thread. The thread ends when all clones are dropped.
#[derive(Clone, Debug)]
pub(super) struct Writer {
    /// Not bounded by itself: lines take a place first.
    inbox: Sender<Message>,
    shared: Arc<Shared>,
}

/// What calls and the thread share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) availability: Arc<Availability>,
    pub(super) places: Places,
    /// The file is to be opened again.
    pub(super) reopen: AtomicBool,
    /// A call waits for a write.
    pub(super) probe: AtomicBool,
    /// A [`Message::Wake`] is on its way, so that no other is needed.
    pub(super) wakes: AtomicBool,
}

/// What the thread is asked to do.
pub(super) enum Message {
    /// Write these lines.
    Lines(Lines),
    /// Report when all lines so far are written.
    Flush(oneshot::Sender<()>),
    /// Check whether the sink is available, open the file again, or write a probe.
    Wake,
    /// Fail as a defect would.
    #[cfg(test)]
    Panic,
}

/// Why a line was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NotAccepted {
    /// No place is free.
    #[error("too many audit records are waiting")]
    Full,
    /// The thread has panicked.
    #[error("the thread that writes audit records has stopped; restart the gateway")]
    Stopped,
}

impl Writer {
    /// Starts the thread. It keeps all lines of `max_in_flight` allowed calls.
    pub(super) fn start(
        output: Output,
        sink: AuditSink,
        max_in_flight: usize,
        metrics: Metrics,
        clock: WallClock,
    ) -> io::Result<Self> {
        let (writer, messages) = Self::new(max_in_flight, &metrics);
        Thread::new(output, Arc::clone(&writer.shared), sink, metrics, clock).start(messages)?;
        Ok(writer)
    }

    /// Creates the way to a thread that receives these messages.
    pub(super) fn new(max_in_flight: usize, metrics: &Metrics) -> (Self, Receiver<Message>) {
        let (inbox, messages) = channel();
        let shared = Arc::new(Shared {
            availability: Arc::new(Availability::new(metrics.clone())),
            places: Places::new(max_in_flight, metrics.clone()),
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

    /// Takes a place for a line that is the record of this many calls. Without one the line is lost,
    /// and counted.
    pub(super) fn take_place(&self, class: AuditClass, records: u64) -> Result<(), NotAccepted> {
        if self.shared.places.take(class, records) { Ok(()) } else { Err(NotAccepted::Full) }
    }

    /// Sends lines that have places. If the thread has stopped, they are lost, and counted; the
    /// sink is marked as unavailable if one of them is of an allowed call.
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
        // Nothing was handed out for the others.
        if lines.iter().any(|line| line.class() == AuditClass::Allowed) {
            self.availability().distrust(&NotAccepted::Stopped);
        }
    }

    /// Asks the thread to report when all lines so far are written. It tries until the receiver
    /// is dropped. Returns false if the thread has stopped.
    pub(super) fn flush(&self, done: oneshot::Sender<()>) -> bool {
        self.inbox.send(Message::Flush(done)).is_ok()
    }

    /// Makes the thread check whether the sink is available.
    pub(super) fn wake(&self) {
        if !self.shared.wakes.swap(true, Ordering::AcqRel) {
            // A thread that has stopped is reported when a line is handed over.
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
