//! What an audit log consists of while it is on, and how a call waits for its record.

use std::{sync::Arc, time::Duration};

use super::{
    AuditUnavailable,
    availability::Availability,
    fingerprint::Fingerprinter,
    handover::{Handover, Handovers, Lines},
    line::Line,
    writer::{NotAccepted, Writer},
};
use crate::{
    clock::WallClock,
    telemetry::metrics::{AuditClass, AuditFault, AuditSink, Metrics},
};

/// Maximum time that a call waits for its record: for the write in progress and for its own,
/// even if the sink has just become slow. What the platform did for the call would be lost
/// otherwise.
pub(super) const RECORD_LIMIT: Duration = Duration::from_secs(4);

/// The parts of an audit log that is on, as one worker uses it.
#[derive(Debug)]
pub(super) struct Started {
    pub(super) writer: Writer,
    /// The hand-over of this worker. `None` for what runs on no worker, and sends its lines directly.
    pub(super) handover: Option<Arc<Handover>>,
    pub(super) handovers: Arc<Handovers>,
    pub(super) fingerprinter: Arc<Fingerprinter>,
    pub(super) sink: AuditSink,
    pub(super) metrics: Metrics,
    pub(super) clock: WallClock,
}

impl Started {
    /// Returns the same audit log for the worker whose runtime this is called on.
    pub(super) fn on_this_runtime(&self) -> Self {
        Self {
            writer: self.writer.clone(),
            handover: self.handovers.of_this_runtime(&self.writer),
            handovers: Arc::clone(&self.handovers),
            fingerprinter: Arc::clone(&self.fingerprinter),
            sink: self.sink,
            metrics: self.metrics.clone(),
            clock: self.clock.clone(),
        }
    }

    pub(super) fn availability(&self) -> &Availability {
        self.writer.availability()
    }

    /// Hands over a line that nobody waits for. If there is no place for it, the sink is marked as
    /// unavailable.
    pub(super) fn submit(&self, line: Line) -> Result<(), NotAccepted> {
        self.take_place(line.class())?;
        self.hand_over(line)
    }

    /// Hands over the record of this many refused calls, which is made only if there is a
    /// place for it. Otherwise that many records count as lost.
    pub(super) fn submit_refused(&self, calls: u64, text: impl FnOnce() -> String) {
        let class = AuditClass::Refused;
        if self.writer.take_place(class, calls).is_err() {
            return;
        }
        let line = if self.availability().is_unavailable() { Line::late } else { Line::unawaited };
        // Counted as lost if the thread has stopped; nothing was handed out for it.
        let _ = self.hand_over(line(text(), class).of_calls(calls));
    }

    /// Writes the record of a call, and waits for it.
    pub(super) async fn write(&self, text: String) -> Result<(), AuditUnavailable> {
        let result = self.acknowledged(text).await;
        if result.is_err() {
            self.metrics.audit_fault(AuditFault::AnswerWithheld);
        }
        result
    }

    async fn acknowledged(&self, text: String) -> Result<(), AuditUnavailable> {
        self.take_place(AuditClass::Allowed).map_err(|_| AuditUnavailable)?;
        let text = match &self.handover {
            Some(handover) => match handover.submit_awaited(text) {
                Ok(acknowledgement) => return acknowledgement.await,
                Err(text) => text,
            },
            None => text,
        };
        // On the heap: the future of every call would have room for it otherwise.
        Box::pin(self.acknowledged_alone(text)).await
    }

    /// Waits for a line with a hand-over of its own: as on a worker, but for one call.
    async fn acknowledged_alone(&self, text: String) -> Result<(), AuditUnavailable> {
        let (handover, driver) = Handover::new(self.writer.clone());
        let acknowledgement = handover.submit_awaited(text).map_err(|_| AuditUnavailable)?;
        tokio::select! {
            biased;
            () = driver => Err(AuditUnavailable),
            result = acknowledgement => result,
        }
    }

    /// Takes a place for a line. Without one, the sink is marked as unavailable.
    fn take_place(&self, class: AuditClass) -> Result<(), NotAccepted> {
        self.writer.take_place(class, 1).inspect_err(|error| {
            self.availability().distrust(error);
            // The thread may be done with all lines by now, and has to see whether the sink
            // is available.
            self.writer.wake();
        })
    }

    fn hand_over(&self, line: Line) -> Result<(), NotAccepted> {
        match &self.handover {
            Some(handover) => handover.submit(line),
            None => self.writer.send(Lines::from_buf([line])),
        }
    }
}
