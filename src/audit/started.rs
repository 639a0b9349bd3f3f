//! What an audit log consists of while it is on, and how a call waits for its record.

use std::time::Duration;

use tokio::{sync::oneshot, time::timeout};

use super::{
    AuditUnavailable, availability::Availability, fingerprint::Fingerprinter, judge::MAX_WRITE, line::Line,
    writer::Writer,
};
use crate::{
    clock::WallClock,
    telemetry::metrics::{AuditFault, AuditSink, Metrics},
};

/// Maximum time that a call waits for its record: for the write in progress and for its own,
/// even if the sink has just become slow. What the platform did for the call would be lost
/// otherwise.
pub(super) const RECORD_LIMIT: Duration = Duration::from_secs(4);

/// The parts of an audit log that is on.
#[derive(Debug)]
pub(super) struct Started {
    pub(super) writer: Writer,
    pub(super) fingerprinter: Fingerprinter,
    pub(super) sink: AuditSink,
    pub(super) metrics: Metrics,
    pub(super) clock: WallClock,
}

impl Started {
    pub(super) fn availability(&self) -> &Availability {
        self.writer.availability()
    }

    /// Hands over a line of an allowed call. Returns whether it was accepted; if not, the
    /// sink is marked as unavailable.
    pub(super) fn submit(&self, line: Line) -> bool {
        let accepted = self.writer.submit(line);
        if let Err(error) = accepted {
            self.availability().distrust(&error);
            // The thread may be done with all lines by now, and has to see whether the sink
            // is available.
            self.writer.wake();
        }
        accepted.is_ok()
    }

    /// Writes the record of a call, and waits for it.
    pub(super) async fn write(&self, text: String) -> Result<(), AuditUnavailable> {
        let (ack, mut written) = oneshot::channel();
        let result = if self.submit(Line::awaited(text, ack)) {
            match timeout(MAX_WRITE, &mut written).await {
                Ok(written) => written.map_err(|_| AuditUnavailable),
                Err(_) => self.write_late(written).await,
            }
        } else {
            Err(AuditUnavailable)
        };
        if result.is_err() {
            self.metrics.audit_fault(AuditFault::AnswerWithheld);
        }
        result
    }

    /// Goes on waiting for a record that has not been written in the time of one write.
    async fn write_late(&self, written: oneshot::Receiver<()>) -> Result<(), AuditUnavailable> {
        // Reading this makes the sink unavailable if the write in progress takes too long. The
        // call itself was sent, and waits on.
        let _ = self.availability().is_unavailable();
        if let Ok(written) = timeout(RECORD_LIMIT.saturating_sub(MAX_WRITE), written).await {
            return written.map_err(|_| AuditUnavailable);
        }
        self.availability().distrust(&"an audit record was not written in time");
        self.writer.wake();
        Err(AuditUnavailable)
    }
}
