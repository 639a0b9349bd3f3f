//! Lines of bounded length, from an input that may have no end.

use std::io::{self, BufRead};

/// Maximum length of a line, in bytes. The gateway writes much shorter ones.
pub const MAX_LINE_BYTES: usize = 1024 * 1024;
/// Maximum number of bytes without a record, unless the input is a file with an end. The NUL bytes
/// that a truncated log begins with are as many as the log had before.
pub const MAX_BYTES_WITHOUT_RECORD: u64 = 1024 * 1024 * 1024;
/// Number of bytes of a longer line that are read at once.
const SKIPPED_AT_ONCE: u64 = 64 * 1024;
/// Number of NUL bytes that are compared at once.
const NULS: [u8; 4096] = [0; 4096];

/// Reads lines.
#[derive(Debug)]
pub(super) struct Lines<R> {
    input: R,
    line: Vec<u8>,
    number: u64,
    /// Whether NUL bytes at the beginning of the next line were skipped and reported.
    has_begun: bool,
    /// Maximum number of bytes without a record.
    limit: u64,
    /// Number of bytes since the last record.
    without_record: u64,
}

/// A line.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line<'a> {
    /// Without its newline.
    Text(&'a [u8]),
    /// Longer than [`MAX_LINE_BYTES`].
    TooLong,
    /// NUL bytes before the rest of the line, which follows.
    Nuls,
}

impl<R: BufRead> Lines<R> {
    /// Reads from an input, of which at most `limit` bytes may follow each other without a record.
    pub(super) const fn new(input: R, limit: u64) -> Self {
        Self { input, line: Vec::new(), number: 0, has_begun: false, limit, without_record: 0 }
    }

    /// Returns the input.
    pub(super) const fn input(&self) -> &R {
        &self.input
    }

    /// Notes that the last line contained a record.
    pub(super) const fn found_record(&mut self) {
        self.without_record = 0;
    }

    /// Returns the next line and its number, from 1.
    pub(super) fn next_line(&mut self) -> io::Result<Option<(u64, Line<'_>)>> {
        if !self.has_begun && self.skip_nuls()? {
            self.has_begun = true;
            return Ok(Some((self.number + 1, Line::Nuls)));
        }
        self.has_begun = false;
        self.line.clear();
        let limit = MAX_LINE_BYTES as u64 + 1;
        let read = io::Read::take(&mut self.input, limit).read_until(b'\n', &mut self.line)?;
        if read == 0 {
            return Ok(None);
        }
        self.number += 1;
        self.count(read as u64)?;
        if self.line.pop_if(|last| *last == b'\n').is_none() && self.line.len() > MAX_LINE_BYTES {
            self.skip_rest()?;
            return Ok(Some((self.number, Line::TooLong)));
        }
        Ok(Some((self.number, Line::Text(&self.line))))
    }

    /// Skips NUL bytes. There can be gigabytes of them, which use no space on a disk. Returns whether
    /// there were any.
    fn skip_nuls(&mut self) -> io::Result<bool> {
        let mut has_skipped = false;
        loop {
            let Nuls { count, is_end } = skip_buffered_nuls(&mut self.input)?;
            self.count(count)?;
            has_skipped |= count > 0;
            if is_end {
                return Ok(has_skipped);
            }
        }
    }

    /// Counts bytes that were read.
    fn count(&mut self, bytes: u64) -> io::Result<()> {
        self.without_record = self.without_record.saturating_add(bytes);
        if self.without_record <= self.limit {
            return Ok(());
        }
        let (mebibytes, line) = (self.limit / (1024 * 1024), self.number);
        let text = format!(
            "no record in {mebibytes} MiB, up to line {line}: it is not an audit log, or it has no end"
        );
        Err(io::Error::new(io::ErrorKind::InvalidData, text))
    }

    fn skip_rest(&mut self) -> io::Result<()> {
        loop {
            self.line.clear();
            let read = io::Read::take(&mut self.input, SKIPPED_AT_ONCE).read_until(b'\n', &mut self.line)?;
            self.count(read as u64)?;
            if read == 0 || self.line.last() == Some(&b'\n') {
                return Ok(());
            }
        }
    }
}

/// NUL bytes that were skipped.
pub(super) struct Nuls {
    pub(super) count: u64,
    /// Whether another byte or the end of the input follows.
    pub(super) is_end: bool,
}

/// Skips the NUL bytes at the beginning of the buffer, which is filled if it is empty.
pub(super) fn skip_buffered_nuls(input: &mut impl BufRead) -> io::Result<Nuls> {
    let buffer = input.fill_buf()?;
    let is_nul = |block: &&[u8]| NULS.get(..block.len()) == Some(*block);
    let whole: usize = buffer.chunks(NULS.len()).take_while(is_nul).map(<[u8]>::len).sum();
    let rest = buffer.get(whole..).unwrap_or_default();
    let nuls = whole + rest.iter().take_while(|byte| **byte == 0).count();
    let is_end = nuls < buffer.len() || buffer.is_empty();
    input.consume(nuls);
    Ok(Nuls { count: nuls as u64, is_end })
}
