//! A running audit log, and how a call waits for its record.

use std::{sync::Arc, time::Duration};

use super::{
    AuditUnavailable,
    availability::Availability,
    fingerprint::Fingerprinter,
    handover::{Handover, Handovers},
    inbox::NotAccepted,
    line::{Line, Lines},
    numbering::Number,
    writer::Writer,
};
use crate::{
    base::clock::WallClock,
    observe::telemetry::metrics::{AuditClass, AuditError, AuditSink, Metrics},
};

/// Maximum time that a call waits for its record: for the write in progress and for its own, even
/// if the sink has just become slow. Giving up earlier would discard the platform's result.
pub(super) const RECORD_LIMIT: Duration = Duration::from_secs(4);

/// A running audit log, as one worker uses it.
#[derive(Debug)]
pub(super) struct Started {
    pub(super) writer: Writer,
    /// The hand-over of this worker. `None` outside of a worker, where lines are sent directly.
    pub(super) handover: Option<Arc<Handover>>,
    pub(super) handovers: Arc<Handovers>,
    pub(super) fingerprinter: Arc<Fingerprinter>,
    pub(super) sink: AuditSink,
    pub(super) metrics: Metrics,
    pub(super) clock: WallClock,
}

impl Started {
    /// Returns the same audit log for the worker of the current runtime.
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

    /// Hands over a line that no call waits for. If there is no place for it, the sink is marked as
    /// unavailable.
    pub(super) fn submit(&self, line: Line) -> Result<(), NotAccepted> {
        self.take_place(line.class())?;
        self.hand_over(line)
    }

    /// Hands over the record of this many refused calls. `text` is called only if there is a place;
    /// otherwise `calls` records count as lost, and the number of the record stays unused.
    pub(super) fn submit_refused(&self, calls: u64, text: impl FnOnce(Number<'_>) -> String) {
        let class = AuditClass::Refused;
        let number = self.writer.next_number();
        if self.writer.take_place(class, calls).is_err() {
            return;
        }
        let line = if self.availability().is_unavailable() { Line::late } else { Line::unawaited };
        // Counted as lost if the thread has stopped. The call got nothing, so it need not fail.
        let _ = self.hand_over(line(text(number), class).for_calls(calls));
    }

    /// Writes the record of a call, and waits for it.
    pub(super) async fn write(&self, text: String) -> Result<(), AuditUnavailable> {
        let result = self.acknowledged(text).await;
        if result.is_err() {
            self.metrics.audit_fault(AuditError::AnswerWithheld);
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
        // On the heap: otherwise the future of every call would reserve space for it.
        Box::pin(self.acknowledged_off_worker(text)).await
    }

    /// Waits for a line with a separate hand-over: like on a worker, but for one call.
    async fn acknowledged_off_worker(&self, text: String) -> Result<(), AuditUnavailable> {
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
            // The thread may have finished all lines by now, and has to probe the sink.
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
