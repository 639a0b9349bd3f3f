//! Queued lines, and the lines of the write in progress.
//!
//! Lines of allowed calls go first. Lines of refused calls are written only if they cannot delay
//! the others.

use std::{collections::VecDeque, time::Duration};

use super::{
    line::Line,
    signal::Wakes,
    sink::{Output, Resume, TornLine},
};
use crate::observe::telemetry::metrics::AuditClass;

/// Maximum bytes of lines of allowed calls per write. In practice all of them fit, so that a call
/// waits only for the write in progress and for its own, even if each takes a second.
const ALLOWED_BYTES: usize = 4 * 1024 * 1024;
/// Maximum bytes of lines of refused calls per write. A line of an allowed call may have to wait
/// for them.
const REFUSED_BYTES: usize = 64 * 1024;
/// Interval between checks for room, while lines of refused calls are held back.
const HOLD_BACK: Duration = Duration::from_millis(5);

#[derive(Default)]
pub(super) struct Backlog {
    /// Lines of the write in progress. Afterwards only the partial line, if any.
    batch: VecDeque<Line>,
    allowed: VecDeque<Line>,
    refused: VecDeque<Line>,
    /// Whether lines of refused calls wait until the sink has room to spare.
    held_back: bool,
    torn: Option<TornLine>,
}

impl Backlog {
    pub(super) fn push(&mut self, line: Line) {
        self.lines_of(line.class()).push_back(line);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.batch.is_empty() && self.allowed.is_empty() && self.refused.is_empty()
    }

    /// Returns whether the sink ends in a partial line.
    #[cfg(test)]
    pub(super) const fn is_torn(&self) -> bool {
        self.torn.is_some()
    }

    /// Returns whether no line of an allowed call is pending.
    pub(super) fn has_no_allowed(&self) -> bool {
        self.batch.is_empty() && self.allowed.is_empty()
    }

    pub(super) const fn is_held_back(&self) -> bool {
        self.held_back
    }

    /// Returns the time until the next write; `None` if there is nothing to write.
    pub(super) fn due_in(&self) -> Option<Duration> {
        if self.is_empty() {
            None
        } else if self.has_no_allowed() && self.held_back {
            Some(HOLD_BACK)
        } else {
            Some(Duration::ZERO)
        }
    }

    /// Fails the calls that wait for a line, so that they go on without it.
    pub(super) fn give_up(&mut self, wakes: &mut Wakes) {
        for lines in [&mut self.batch, &mut self.allowed, &mut self.refused] {
            for line in lines.iter_mut() {
                line.give_up(wakes);
            }
        }
    }

    /// Moves the lines of the next write to the batch: those of allowed calls, then those of
    /// refused calls that leave room in the sink. One line is moved even if it is longer than its
    /// limit. `all` moves lines of refused calls even if writing them blocks.
    pub(super) fn fill(&mut self, output: &Output, all: bool) {
        let mut bytes: usize = self.batch.iter().map(Line::unwritten).sum();
        let mut move_lines = |lines: &mut VecDeque<Line>, batch: &mut VecDeque<Line>, limit: usize| {
            let start = bytes;
            while let Some(mut line) =
                lines.pop_front_if(|line| bytes == start || bytes - start + line.unwritten() <= limit)
            {
                line.note_abandoned();
                bytes += line.unwritten();
                batch.push_back(line);
            }
            bytes
        };
        let bytes = move_lines(&mut self.allowed, &mut self.batch, ALLOWED_BYTES);
        self.held_back = false;
        if !self.refused.is_empty() {
            let room = if all { REFUSED_BYTES } else { output.spare_room(bytes) };
            if room > 0 {
                move_lines(&mut self.refused, &mut self.batch, room.min(REFUSED_BYTES));
            }
            self.held_back = room < REFUSED_BYTES && !self.refused.is_empty();
        }
        let Some(first) = self.batch.front_mut() else { return };
        if !first.is_begun() {
            first.set_newline_first(output.is_unfinished());
        }
    }

    /// Appends the unwritten bytes of the batch.
    pub(super) fn append_unwritten(&self, bytes: &mut Vec<u8>) {
        bytes.reserve(self.batch.iter().map(Line::unwritten).sum());
        self.batch.iter().for_each(|line| line.append_unwritten(bytes));
    }

    /// Returns whether the batch begins by ending a partial line in the sink.
    pub(super) fn ends_partial_line(&self) -> bool {
        self.batch.front().is_some_and(|first| first.is_newline_first() && !first.is_begun())
    }

    /// Returns whether the batch contains lines of allowed calls.
    pub(super) fn has_allowed_in_batch(&self) -> bool {
        self.batch.iter().any(|line| line.class() == AuditClass::Allowed)
    }

    /// Decides how to continue a partial line. `continues`: the same write continues after the sink
    /// had no room for a moment.
    pub(super) fn resume(&mut self, output: &mut Output, continues: bool) {
        let Some(torn) = self.torn.take() else { return };
        let Some(line) = self.batch.front_mut() else { return };
        match output.resume(torn, continues) {
            Resume::Rest => return,
            Resume::Whole => {}
            Resume::NewLine => output.set_unfinished(),
        }
        line.restart();
    }

    /// Ends the lines within the first `bytes` bytes of the batch. Keeps the partial line, and puts
    /// the others back into their queues. If the written data may be lost again (`synced` is
    /// false), lines of allowed calls are written again.
    pub(super) fn credit(
        &mut self,
        mut bytes: usize,
        synced: bool,
        output: &Output,
        mut end: impl FnMut(Line) -> Option<Line>,
    ) {
        let mut again = Vec::new();
        while let Some(mut line) = self.batch.pop_front_if(|line| line.unwritten() <= bytes) {
            bytes -= line.unwritten();
            if synced || line.class() == AuditClass::Refused {
                again.extend(end(line));
            } else {
                line.restart();
                again.push(line);
            }
        }
        if let Some(line) = self.batch.front_mut() {
            line.advance(bytes);
            self.torn = if line.is_begun() { output.torn() } else { None };
        }
        let torn = usize::from(self.torn.is_some());
        while self.batch.len() > torn {
            if let Some(line) = self.batch.pop_back() {
                self.put_back(line);
            }
        }
        again.into_iter().rev().for_each(|line| self.put_back(line));
    }

    fn put_back(&mut self, mut line: Line) {
        line.set_newline_first(false);
        self.lines_of(line.class()).push_front(line);
    }

    fn lines_of(&mut self, class: AuditClass) -> &mut VecDeque<Line> {
        match class {
            AuditClass::Allowed => &mut self.allowed,
            AuditClass::Refused => &mut self.refused,
        }
    }
}
