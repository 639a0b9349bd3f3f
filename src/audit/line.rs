//! One line on its way to the sink.

use super::{acknowledgement::Acknowledger, signal::Wakes};
use crate::telemetry::metrics::AuditClass;

/// A line to be written: a JSON object without its closing brace.
#[derive(Debug)]
pub(super) struct Line {
    text: String,
    class: AuditClass,
    /// Number of calls that it is the record of.
    records: u64,
    receiver: Receiver,
    /// Counted in the places of its class until it is written.
    has_place: bool,
    late: bool,
    newline_first: bool,
    written: usize,
}

/// Who waits until the line is written.
#[derive(Debug)]
enum Receiver {
    /// Nobody, from the beginning: the line is valid even if it is written later.
    Nobody,
    /// A call that is answered afterwards.
    Call(Acknowledger),
    /// The call does not wait any more: what the line reports was not delivered.
    Gone,
}

/// What became of a line, all of which was written.
pub(super) enum Fate {
    /// The call that waited for it goes on.
    Awaited,
    /// It is valid, and nobody waited for it.
    Unawaited,
    /// It was marked as late.
    Late,
    /// It is not valid as it is: write this one.
    Repeat(Line),
}

impl Line {
    /// A line that a call waits for.
    pub(super) fn awaited(text: String, acknowledger: Acknowledger) -> Self {
        Self { receiver: Receiver::Call(acknowledger), ..Self::unawaited(text, AuditClass::Allowed) }
    }

    /// A line that nobody waits for.
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

    /// A line that nobody waits for and that is late already.
    pub(super) fn late(text: String, class: AuditClass) -> Self {
        Self { late: true, ..Self::unawaited(text, class) }
    }

    /// A line that the writer itself adds. It takes no place.
    pub(super) fn notice(text: String, class: AuditClass, late: bool) -> Self {
        Self { has_place: false, late, ..Self::unawaited(text, class) }
    }

    /// The same line as the record of this many calls.
    pub(super) fn of_calls(self, records: u64) -> Self {
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

    /// Whether its beginning has been written, and the rest has not.
    pub(super) const fn is_begun(&self) -> bool {
        self.written > 0
    }

    pub(super) const fn is_newline_first(&self) -> bool {
        self.newline_first
    }

    /// Lets the call that waits go on without the line, and marks the line as late. A line
    /// that is half written has to be finished as it was begun.
    pub(super) fn give_up(&mut self, wakes: &mut Wakes) {
        if let Some(acknowledger) = self.take_call() {
            acknowledger.failed(wakes);
        }
        self.mark_late();
    }

    /// Takes the call that waits, if one does.
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

    /// Marks the line as late if the call has given up by itself.
    pub(super) fn heed_call(&mut self) {
        if let Receiver::Call(acknowledger) = &self.receiver
            && acknowledger.is_given_up()
        {
            self.receiver = Receiver::Gone;
            self.mark_late();
        }
    }

    /// Restarts the line, on a line of its own.
    pub(super) fn restart(&mut self) {
        self.written = 0;
        if !matches!(self.receiver, Receiver::Call(_)) {
            self.late = true;
        }
    }

    /// Sets whether a newline precedes the line, to end another one.
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

    /// Number of bytes that are still to be written.
    pub(super) fn unwritten(&self) -> usize {
        self.parts().iter().map(|part| part.len()).sum::<usize>() - self.written
    }

    pub(super) fn append_unwritten(&self, batch: &mut Vec<u8>) {
        let start = batch.len();
        self.parts().iter().for_each(|part| batch.extend_from_slice(part));
        batch.drain(start..start + self.written);
    }

    /// Records that only this many more bytes were written.
    pub(super) const fn advance(&mut self, bytes: usize) {
        self.written += bytes;
    }

    /// Ends the line, all of which is where it has to be (with `fsync`, on the disk).
    pub(super) fn finish(self, wakes: &mut Wakes) -> Fate {
        let fate = match self.receiver {
            Receiver::Call(acknowledger) => acknowledger.written(wakes).then_some(Fate::Awaited),
            Receiver::Nobody => Some(Fate::Unawaited),
            Receiver::Gone => None,
        };
        if self.late {
            return Fate::Late;
        }
        // Otherwise the line describes an answer that was not delivered.
        let repeated = || Self { has_place: self.has_place, ..Self::late(self.text, self.class) };
        fate.unwrap_or_else(|| Fate::Repeat(repeated()))
    }
}
