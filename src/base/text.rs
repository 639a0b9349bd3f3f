//! Makes untrusted text safe to print.
//!
//! Defines one list of characters ([`is_unprintable`]) and their escapes, for log lines, audit
//! records, terminals and statuses. Input from a peer, a certificate, a configuration file or a
//! library's error text can contain any character, and some of them end a line, control a terminal,
//! or make two texts look the same.
//!
//! This module does not validate: names and values are checked where they are parsed.
//!
//! ```
//! use ott_gateway::base::text::Printable;
//!
//! assert_eq!(Printable("a\nb\u{202e}").to_string(), r"a\nb\u{202e}");
//! ```

use std::{
    fmt::{self, Write},
    io,
};

use serde_json::ser::Formatter;

/// Returns whether a character must be escaped for printing.
///
/// These are control characters (C0, DEL, C1), line and paragraph separators, characters that are
/// invisible or change the display of their neighbours (Unicode's `Default_Ignorable_Code_Point`,
/// which includes bidirectional marks, zero-width characters, the byte order mark, variation
/// selectors and tags), interlinear annotations, and noncharacters. All other characters stay
/// unchanged, in any script.
#[must_use]
pub const fn is_unprintable(character: char) -> bool {
    matches!(character,
        '\0'..='\u{1f}' | '\u{7f}'..='\u{9f}'
        | '\u{ad}' | '\u{34f}' | '\u{61c}'
        | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}' | '\u{180b}'..='\u{180f}'
        | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
        | '\u{2800}' | '\u{3164}'
        | '\u{fdd0}'..='\u{fdef}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}'
        | '\u{fff0}'..='\u{fffb}'
        | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}'
        | '\u{e0000}'..='\u{e0fff}')
        || (character as u32) & 0xfffe == 0xfffe
}

/// Returns the position of the first unprintable character.
fn find_unprintable(text: &str) -> Option<usize> {
    find(text, |byte| matches!(byte, b' '..=b'~'), is_unprintable)
}

/// Returns the position of the first wanted character. `plain` ASCII characters are never wanted.
/// Most texts contain only these, which is checked without a branch per byte, because every call
/// has a record of many strings.
fn find(text: &str, plain: impl Fn(u8) -> bool + Copy, wanted: impl Fn(char) -> bool) -> Option<usize> {
    let bytes = text.as_bytes();
    if consists_of::<16>(bytes, plain).or_else(|| consists_of::<8>(bytes, plain)) == Some(true) {
        return None;
    }
    let first = bytes.iter().position(|&byte| !plain(byte))?;
    // All bytes before it are ASCII characters.
    text.get(first..)?.find(wanted).map(|at| first + at)
}

/// Returns whether all bytes are wanted, compared in blocks of `N`. `None` if there are fewer than
/// `N`.
fn consists_of<const N: usize>(bytes: &[u8], wanted: impl Fn(u8) -> bool + Copy) -> Option<bool> {
    let all = |block: &[u8; N]| block.iter().fold(true, |all, &byte| all & wanted(byte));
    // The last block may overlap the one before it.
    let last = bytes.last_chunk()?;
    Some(bytes.as_chunks().0.iter().all(all) && all(last))
}

/// Notation of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notation {
    /// Unquoted, with Rust's escapes (`\n`, `\u{1b}`).
    Plain,
    /// Between double quotes, with Rust's escapes; quotes and backslashes are escaped too.
    Quoted,
    /// Inside a JSON string, so that parsers restore the original text.
    Json,
}

impl Notation {
    /// Returns whether a character is escaped.
    #[must_use]
    pub const fn escapes(self, character: char) -> bool {
        match character {
            ' ' | '!' | '#'..='[' | ']'..='~' => false,
            '"' | '\\' => !matches!(self, Self::Plain),
            _ => is_unprintable(character),
        }
    }

    /// Returns the position of the first character that is escaped.
    fn find_escaped(self, text: &str) -> Option<usize> {
        // Not escaped in any notation.
        let plain = |byte| matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\';
        find(text, plain, |character| self.escapes(character))
    }

    /// Writes the escape of a character.
    pub fn write_escape(self, character: char, to: &mut impl Write) -> fmt::Result {
        match character {
            '\n' => to.write_str("\\n"),
            '\r' => to.write_str("\\r"),
            '\t' => to.write_str("\\t"),
            '"' => to.write_str("\\\""),
            '\\' => to.write_str("\\\\"),
            _ if self == Self::Json => {
                let mut units = [0; 2];
                character.encode_utf16(&mut units).iter().try_for_each(|unit| write!(to, "\\u{unit:04x}"))
            }
            _ => write!(to, "\\u{{{:x}}}", u32::from(character)),
        }
    }
}

/// Displays a value on one line, with unprintable characters escaped.
#[derive(Clone, Copy, Debug)]
pub struct Printable<T>(pub T);

impl<T: fmt::Display> fmt::Display for Printable<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(Escaping::new(f, Notation::Plain), "{}", self.0)
    }
}

/// Like [`Printable`], limited to a number of bytes, with a marker if the text was cut.
#[derive(Clone, Copy, Debug)]
pub struct Excerpt<T>(pub T, pub usize);

impl<T: fmt::Display> fmt::Display for Excerpt<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bounded = Bounded::new(f, Notation::Plain, self.1);
        write!(bounded, "{}", self.0)?;
        bounded.finish().map(drop)
    }
}

/// A writer that escapes its input.
#[derive(Debug)]
pub struct Escaping<W> {
    to: W,
    notation: Notation,
}

impl<W: Write> Escaping<W> {
    /// Creates a writer that writes to another one.
    pub const fn new(to: W, notation: Notation) -> Self {
        Self { to, notation }
    }
}

impl<W: Write> Write for Escaping<W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut rest = text;
        while let Some(at) = self.notation.find_escaped(rest) {
            let (printable, from) = rest.split_at(at);
            self.to.write_str(printable)?;
            let Some(character) = from.chars().next() else { break };
            self.notation.write_escape(character, &mut self.to)?;
            rest = &from[character.len_utf8()..];
        }
        self.to.write_str(rest)
    }
}

/// A writer that escapes its input and stops at a limit, so that any text takes up a bounded part
/// of a line.
#[derive(Debug)]
pub struct Bounded<W> {
    to: W,
    notation: Notation,
    /// Number of bytes that may still be written.
    room: usize,
    /// Number of bytes written.
    written: usize,
    /// Length of the text in bytes, without escapes.
    length: usize,
    is_cut: bool,
}

impl<W: Write> Bounded<W> {
    /// Creates a writer that writes at most `limit` bytes. [`Bounded::finish`] adds the marker of a
    /// cut text, which does not count towards the limit.
    pub const fn new(to: W, notation: Notation, limit: usize) -> Self {
        Self { to, notation, room: limit, written: 0, length: 0, is_cut: false }
    }

    /// Ends the text, and adds a marker with its total length in bytes if it was cut. Returns the
    /// number of bytes written, without the marker.
    pub fn finish(mut self) -> Result<usize, fmt::Error> {
        if self.is_cut {
            write!(self.to, "… [cut, {} bytes in all]", self.length)?;
        }
        Ok(self.written)
    }

    fn pass(&mut self, text: &str) -> fmt::Result {
        // After the first piece that does not fit, no further text is written.
        if text.len() > self.room {
            self.is_cut = true;
            self.room = 0;
            return Ok(());
        }
        self.room -= text.len();
        self.written += text.len();
        self.to.write_str(text)
    }
}

impl<W: Write> Write for Bounded<W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.length = self.length.saturating_add(text.len());
        if self.is_cut {
            return Ok(());
        }
        let mut rest = text;
        while !rest.is_empty() && !self.is_cut {
            let end = self.notation.find_escaped(rest).unwrap_or(rest.len());
            let (printable, from) = rest.split_at(end);
            if printable.len() > self.room {
                self.pass(&printable[..printable.floor_char_boundary(self.room)])?;
                self.is_cut = true;
                return Ok(());
            }
            self.pass(printable)?;
            let Some(character) = from.chars().next() else { break };
            let mut escape = Escape::default();
            self.notation.write_escape(character, &mut escape)?;
            self.pass(escape.as_str())?;
            rest = &from[character.len_utf8()..];
        }
        Ok(())
    }
}

/// The escape of one character. The longest is a surrogate pair, 12 bytes.
#[derive(Default)]
struct Escape {
    bytes: [u8; 12],
    length: usize,
}

impl Escape {
    fn as_str(&self) -> &str {
        str::from_utf8(&self.bytes[..self.length]).unwrap_or_default()
    }
}

impl Write for Escape {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let end = self.length + text.len();
        self.bytes.get_mut(self.length..end).ok_or(fmt::Error)?.copy_from_slice(text.as_bytes());
        self.length = end;
        Ok(())
    }
}

/// Returns the text without unprintable characters, for programs that display escapes literally.
#[must_use]
pub fn without_unprintable(text: &str) -> String {
    text.chars().filter(|&character| !is_unprintable(character)).collect()
}

/// A formatter for compact JSON without unprintable characters.
#[derive(Clone, Copy, Debug, Default)]
pub struct PrintableJson;

impl Formatter for PrintableJson {
    fn write_string_fragment<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        // serde_json has already escaped the characters that JSON forbids.
        let mut rest = fragment;
        while let Some(at) = find_unprintable(rest) {
            let (printable, from) = rest.split_at(at);
            writer.write_all(printable.as_bytes())?;
            let Some(character) = from.chars().next() else { break };
            let mut escape = Escape::default();
            Notation::Json.write_escape(character, &mut escape).map_err(io::Error::other)?;
            writer.write_all(escape.as_str().as_bytes())?;
            rest = &from[character.len_utf8()..];
        }
        writer.write_all(rest.as_bytes())
    }
}

#[cfg(test)]
mod tests;
