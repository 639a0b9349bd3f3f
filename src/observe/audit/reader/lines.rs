//! Lines of bounded length.

use std::io::{self, BufRead};

/// Maximum length of a line, in bytes. The gateway writes much shorter ones.
pub const MAX_LINE_BYTES: usize = 1024 * 1024;
/// Number of bytes of a longer line that are read at once.
const SKIPPED_AT_ONCE: u64 = 64 * 1024;

/// Reads lines.
#[derive(Debug)]
pub(super) struct Lines<R> {
    input: R,
    line: Vec<u8>,
    number: u64,
    /// Whether NUL bytes at the beginning of the next line were skipped and reported.
    has_begun: bool,
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
    pub(super) const fn new(input: R) -> Self {
        Self { input, line: Vec::new(), number: 0, has_begun: false }
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
        if io::Read::take(&mut self.input, limit).read_until(b'\n', &mut self.line)? == 0 {
            return Ok(None);
        }
        self.number += 1;
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
            let buffer = self.input.fill_buf()?;
            let nuls = buffer.iter().take_while(|byte| **byte == 0).count();
            let is_end = nuls < buffer.len() || buffer.is_empty();
            self.input.consume(nuls);
            has_skipped |= nuls > 0;
            if is_end {
                return Ok(has_skipped);
            }
        }
    }

    fn skip_rest(&mut self) -> io::Result<()> {
        loop {
            self.line.clear();
            let read = io::Read::take(&mut self.input, SKIPPED_AT_ONCE).read_until(b'\n', &mut self.line)?;
            if read == 0 || self.line.last() == Some(&b'\n') {
                return Ok(());
            }
        }
    }
}
