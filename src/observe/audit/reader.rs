//! Reads audit files: lines to typed records.
//!
//! A file may be rotated, compressed with gzip, or contain lines of other programs; lines may be
//! torn. Nothing is guessed: a field that a line does not contain is `None`, and a record that does not
//! contain the decision of the access rules is [`RecordedDecision::NotDecided`]. Whether records are
//! missing is not checked here.
//!
//! The content is untrusted: a line is read up to [`MAX_LINE_BYTES`], an input without an end up to
//! [`MAX_BYTES_WITHOUT_RECORD`], and texts must be escaped before they are printed.
//!
//! ```
//! use ott_gateway::observe::audit::reader::{Content, Event, Records};
//!
//! let line = br#"{"event":"records_lost","time":"2026-01-01T00:00:00Z","class":"refused","count":3,"gateway_version":"0.1.0"}"#;
//! let mut records = Records::new(&line[..]);
//! let item = records.next_item()?.expect("one line");
//! let Content::Record(record) = item.content else { panic!("a record") };
//! assert!(matches!(record.event, Event::RecordsLost { count: 3, .. }));
//! assert!(records.next_item()?.is_none());
//! # Ok::<(), std::io::Error>(())
//! ```

mod call;
mod lines;
mod record;
mod source;
#[cfg(test)]
mod tests;

use std::{
    collections::VecDeque,
    io::{self, BufRead},
};

use self::lines::{Line, Lines};
pub use self::{
    call::{CallEntry, RecordedDecision, User, UserSpelling},
    lines::{MAX_BYTES_WITHOUT_RECORD, MAX_LINE_BYTES},
    record::{ChangeEntry, Event, NameCount, ProcessId, Record, RecordNumber, TokenCounts},
    source::{Source, SourceError},
};

/// The beginning of every record. Cannot occur inside of one, because quotes in texts are escaped.
const BEGINNING: &[u8] = br#"{"event":""#;

/// Minimum length of a part of [`BEGINNING`] that counts as a torn record: `{"ev`.
const MIN_BEGINNING: usize = 4;

/// A part of a file.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    /// The number of its line, from 1.
    pub line: u64,
    /// What it is.
    pub content: Content,
}

/// What a part of a file is.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// A record.
    Record(Box<Record>),
    /// A part of a record.
    Torn,
    /// Something else, for example a line of another program.
    Foreign,
    /// A line that is longer than [`MAX_LINE_BYTES`].
    TooLong,
    /// NUL bytes, as after the truncation of a file that is not appended to.
    Nuls,
}

/// Reads the records of one file.
#[derive(Debug)]
pub struct Records<R> {
    lines: Lines<R>,
    pending: VecDeque<Item>,
    reads_only_rules: bool,
}

impl Records<Source> {
    /// Reads from this source.
    #[must_use]
    pub const fn of(source: Source) -> Self {
        let limit = if source.is_file() { u64::MAX } else { MAX_BYTES_WITHOUT_RECORD };
        Self::within(limit, source)
    }
}

impl<R: BufRead> Records<R> {
    /// Reads from this input, which may have no end.
    pub const fn new(input: R) -> Self {
        Self::within(MAX_BYTES_WITHOUT_RECORD, input)
    }

    const fn within(limit: u64, input: R) -> Self {
        Self { lines: Lines::new(input, limit), pending: VecDeque::new(), reads_only_rules: false }
    }

    /// Skips all records but those that identify the rules in force, `started` and `rules_changed`. Most
    /// lines are then not parsed, which saves most of the time. Only for files, because the end of an
    /// input without an end is not found.
    #[must_use]
    pub fn only_of_rules(self) -> Self {
        Self { reads_only_rules: true, ..self }
    }

    /// Returns the input.
    pub const fn input(&self) -> &R {
        self.lines.input()
    }

    /// Returns the next part. Most lines are one part; a line in which the next record follows a
    /// torn one has several. Blank lines are skipped.
    ///
    /// # Errors
    ///
    /// The input cannot be read, its compressed data is invalid, or it contains no record in
    /// [`MAX_BYTES_WITHOUT_RECORD`] and is not a regular file.
    pub fn next_item(&mut self) -> io::Result<Option<Item>> {
        loop {
            if let Some(item) = self.pending.pop_front() {
                if matches!(item.content, Content::Record(_)) {
                    self.lines.found_record();
                }
                return Ok(Some(item));
            }
            let Some((line, content)) = self.lines.next_line()? else { return Ok(None) };
            match content {
                Line::Text(text) if self.reads_only_rules && !may_identify_rules(text) => {}
                Line::Text(text) => parts(text, |content| self.pending.push_back(Item { line, content })),
                Line::TooLong => self.pending.push_back(Item { line, content: Content::TooLong }),
                Line::Nuls => self.pending.push_back(Item { line, content: Content::Nuls }),
            }
        }
    }
}

/// Returns whether a line may contain a record that identifies the rules in force.
fn may_identify_rules(line: &[u8]) -> bool {
    let contains = |name: &[u8]| line.windows(name.len()).any(|part| part == name);
    contains(b"\"started\"") || contains(b"\"rules_changed\"")
}

/// Splits a line into its parts.
fn parts(line: &[u8], mut add: impl FnMut(Content)) {
    let line = line.trim_ascii();
    if line.is_empty() {
        return;
    }
    if let Some(record) = Record::parse(line) {
        return add(Content::Record(Box::new(record)));
    }
    let starts = || line.windows(BEGINNING.len()).enumerate().filter(|(_, it)| *it == BEGINNING);
    let first = starts().next().map_or(line.len(), |(start, _)| start);
    fragment(&line[..first], &mut add);
    let ends = starts().skip(1).map(|(end, _)| end).chain([line.len()]);
    for ((start, _), end) in starts().zip(ends) {
        let part = &line[start..end];
        match Record::parse_first(part) {
            Some((record, length)) => {
                add(Content::Record(Box::new(record)));
                fragment(&part[length..], &mut add);
            }
            None => add(Content::Torn),
        }
    }
}

/// Classifies what is left of a line beside records.
fn fragment(part: &[u8], add: &mut impl FnMut(Content)) {
    let part = part.trim_ascii();
    if part.is_empty() {
        return;
    }
    // Without its beginning, for example after a file was truncated while it was written.
    let has_end = part.ends_with(b"\"}") || part.ends_with(b",\"late\":true}");
    let is_end = has_end && part.windows(VERSION.len()).any(|it| it == VERSION);
    // Other programs also write lines that begin with a brace.
    let is_beginning = part.len() >= MIN_BEGINNING && BEGINNING.starts_with(part);
    add(if is_beginning || is_end { Content::Torn } else { Content::Foreign });
}

/// The last member of every record but `late`.
const VERSION: &[u8] = br#""gateway_version":""#;
