//! One line on its way to the sink.

use smallvec::SmallVec;

use super::{acknowledgement::Acknowledger, signal::Wakes};
use crate::observe::telemetry::metrics::AuditClass;

/// Lines that are sent together. On a worker that is not busy, most turns have one.
pub(super) type Lines = SmallVec<[Line; 1]>;

/// A line to be written: a JSON object without its closing brace.
#[derive(Debug)]
pub(super) struct Line {
    text: String,
    class: AuditClass,
    /// Number of calls that it records.
    records: u64,
    receiver: Receiver,
    /// Whether it takes a place of its class until it is written.
    has_place: bool,
    late: bool,
    newline_first: bool,
    written: usize,
}

/// The receiver of the acknowledgement.
#[derive(Debug)]
enum Receiver {
    /// None, from the beginning: the line is valid even if it is written later.
    Nobody,
    /// A call that is answered after the line is written.
    Call(Acknowledger),
    /// The call no longer waits: the response that the line describes was not delivered.
    Gone,
}

/// Fate of a line that was written completely.
pub(super) enum Fate {
    /// The call that waits for it continues.
    Awaited,
    /// It is valid, and no call waited for it.
    Unawaited,
    /// It was marked as late.
    Late,
    /// It is not valid: write this one.
    Repeat(Line),
}

impl Line {
    /// Creates a line that a call waits for.
    pub(super) fn awaited(text: String, acknowledger: Acknowledger) -> Self {
        Self { receiver: Receiver::Call(acknowledger), ..Self::unawaited(text, AuditClass::Allowed) }
    }

    /// Creates a line that no call waits for.
    pub(super) fn unawaited(text: String, class: AuditClass) -> Self {
        Self {
            text,
            class,
            records: 1,
            receiver: Receiver::Nobody,
            has_place: true,
            late: false,
            newline_first: false,
            written: 0,
        }
    }

    /// Creates a line that no call waits for, marked as late.
    pub(super) fn late(text: String, class: AuditClass) -> Self {
        Self { late: true, ..Self::unawaited(text, class) }
    }

    /// Creates a line that the writer itself adds. It takes no place.
    pub(super) fn notice(text: String, class: AuditClass, late: bool) -> Self {
        Self { has_place: false, late, ..Self::unawaited(text, class) }
    }

    /// Returns the same line as the record of this many calls.
    pub(super) fn for_calls(self, records: u64) -> Self {
        Self { records, ..self }
    }

    pub(super) const fn class(&self) -> AuditClass {
        self.class
    }

    pub(super) const fn records(&self) -> u64 {
        self.records
    }

    pub(super) const fn has_place(&self) -> bool {
        self.has_place
    }

    /// Returns whether only its beginning has been written.
    pub(super) const fn is_begun(&self) -> bool {
        self.written > 0
    }

    pub(super) const fn is_newline_first(&self) -> bool {
        self.newline_first
    }

    /// Fails the call that waits, and marks the line as late. A partially written line is finished
    /// as it was begun.
    pub(super) fn give_up(&mut self, wakes: &mut Wakes) {
        if let Some(acknowledger) = self.take_call() {
            acknowledger.failed(wakes);
        }
        self.mark_late();
    }

    /// Takes the waiting call, if there is one.
    fn take_call(&mut self) -> Option<Acknowledger> {
        if !matches!(self.receiver, Receiver::Call(_)) {
            return None;
        }
        match std::mem::replace(&mut self.receiver, Receiver::Gone) {
            Receiver::Call(acknowledger) => Some(acknowledger),
            Receiver::Nobody | Receiver::Gone => None,
        }
    }

    const fn mark_late(&mut self) {
        if self.written == 0 {
            self.late = true;
        }
    }

    /// Marks the line as late if the call has given up.
    pub(super) fn note_abandoned(&mut self) {
        if let Receiver::Call(acknowledger) = &self.receiver
            && acknowledger.is_given_up()
        {
            self.receiver = Receiver::Gone;
            self.mark_late();
        }
    }

    /// Restarts the line from its beginning.
    pub(super) fn restart(&mut self) {
        self.written = 0;
        if !matches!(self.receiver, Receiver::Call(_)) {
            self.late = true;
        }
    }

    /// Sets whether a newline precedes the line, to end a partial line.
    pub(super) const fn set_newline_first(&mut self, newline_first: bool) {
        self.newline_first = newline_first;
    }

    fn parts(&self) -> [&[u8]; 3] {
        [
            if self.newline_first { b"\n" } else { b"" },
            self.text.as_bytes(),
            if self.late { b",\"late\":true}\n" } else { b"}\n" },
        ]
    }

    /// Returns the number of bytes that are not written yet.
    pub(super) fn unwritten(&self) -> usize {
        self.parts().iter().map(|part| part.len()).sum::<usize>() - self.written
    }

    pub(super) fn append_unwritten(&self, batch: &mut Vec<u8>) {
        let start = batch.len();
        self.parts().iter().for_each(|part| batch.extend_from_slice(part));
        batch.drain(start..start + self.written);
    }

    /// Records that this many more bytes were written.
    pub(super) const fn advance(&mut self, bytes: usize) {
        self.written += bytes;
    }

    /// Ends the line, which was written completely (with `fsync`, to the disk).
    pub(super) fn finish(self, wakes: &mut Wakes) -> Fate {
        let fate = match self.receiver {
            Receiver::Call(acknowledger) => acknowledger.written(wakes).then_some(Fate::Awaited),
            Receiver::Nobody => Some(Fate::Unawaited),
            Receiver::Gone => None,
        };
        if self.late {
            return Fate::Late;
        }
        // Otherwise the line describes a response that was not delivered.
        let repeated = || Self { has_place: self.has_place, ..Self::late(self.text, self.class) };
        fate.unwrap_or_else(|| Fate::Repeat(repeated()))
    }
}
