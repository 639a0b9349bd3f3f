//! Parses client secrets.
//!
//! This is the only parser: `config` uses it to check a configuration and `credential` to follow a
//! rotated file, so that both refuse the same secrets, whether they come from a file, an
//! environment variable or a systemd credential. `credential` sends the secret.

#[cfg(test)]
mod tests;

use std::{fmt, io, path::Path};

use super::Secret;
use crate::base::files::{self, Contents, Exposure, ReadError, Unanswered};

/// Maximum size of a client secret in bytes, including its newline.
pub const MAX_BYTES: usize = 64 * 1024;

/// A secret that is valid for Basic authentication (RFC 7617): UTF-8 text without control
/// characters, not blank.
#[derive(Clone)]
pub struct ClientSecret(Secret);

impl ClientSecret {
    /// Parses the bytes of a file or a variable. One trailing newline (`\n` or `\r\n`) is not part
    /// of the secret, because editors, `echo` and `base64` add it.
    ///
    /// # Errors
    ///
    /// The bytes are not one line of text, are blank, or exceed 64 KiB.
    pub fn parse(bytes: &[u8]) -> Result<Self, InvalidSecret> {
        if bytes.len() > MAX_BYTES {
            return Err(InvalidSecret::TooLarge);
        }
        let text = std::str::from_utf8(without_newline(bytes)).map_err(|_| InvalidSecret::NotText)?;
        if text.chars().all(is_blank) {
            return Err(InvalidSecret::Blank);
        }
        if text.starts_with(BYTE_ORDER_MARK) {
            return Err(InvalidSecret::ByteOrderMark);
        }
        if text.contains(LINE_BREAKS) {
            return Err(InvalidSecret::LineBreak);
        }
        if text.chars().any(char::is_control) {
            return Err(InvalidSecret::ControlCharacter);
        }
        Ok(Self(Secret::new(text.to_owned())))
    }

    /// Returns the secret, for sending.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.0.expose()
    }

    /// Returns signs that a valid secret was copied incorrectly, at most one of each kind.
    pub fn doubts(&self) -> impl Iterator<Item = Doubt> {
        let has = |is: fn(char) -> bool| {
            let text = self.expose();
            text.starts_with(is) || text.ends_with(is)
        };
        let found = [(Doubt::Blank, has(is_blank)), (Doubt::Quote, has(is_quote))];
        found.into_iter().filter_map(|(doubt, found)| found.then_some(doubt))
    }
}

impl fmt::Debug for ClientSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Reason that a client secret is not valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSecret {
    /// The operating system returned an error for the file.
    #[error("{}", files::describe(*.0))]
    Unreadable(io::ErrorKind),
    /// The file system did not respond.
    #[error("the file could not be read within 5 seconds; check the file system that it is on")]
    Unanswered,
    /// The operating system could not start a thread to read the file.
    #[error("cannot start a thread to read the file; check the limits on threads and processes")]
    NoThread,
    /// The file is a FIFO, a pipe, a socket or a device.
    #[error("is not a regular file, so it cannot be read again after a change; write the secret to a file")]
    NotRegular,
    /// The text is longer than 64 KiB.
    #[error("the secret is longer than 64 KiB; check that this is the right file or variable")]
    TooLarge,
    /// The text is not UTF-8.
    #[error("the secret must be UTF-8 text; copy the text that the platform displayed")]
    NotText,
    /// The text is empty or blank.
    #[error("the secret is blank; copy the secret that the platform displayed")]
    Blank,
    /// The text begins with U+FEFF.
    #[error("the secret begins with a byte order mark; save it as UTF-8 without one")]
    ByteOrderMark,
    /// The text has more than one line.
    #[error("the secret contains a line break; write it on one line, with at most one newline at the end")]
    LineBreak,
    /// The text contains a control character, which RFC 7617 forbids in a password.
    #[error("the secret contains a control character; copy only the characters that the platform displayed")]
    ControlCharacter,
}

impl From<ReadError> for InvalidSecret {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::NotRegular => Self::NotRegular,
            ReadError::TooLarge(_) => Self::TooLarge,
            ReadError::Io(error) => Self::Unreadable(error.kind()),
            ReadError::Unanswered(Unanswered::NoThread(_)) => Self::NoThread,
            ReadError::Unanswered(_) => Self::Unanswered,
        }
    }
}

/// A sign that a secret was copied with extra characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// A blank or an invisible character at either end.
    Blank,
    /// A quotation mark at either end.
    Quote,
}

impl Doubt {
    /// Returns the text of the warning.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Blank => "the secret begins or ends with a blank, which is sent as part of it",
            Self::Quote => "the secret begins or ends with a quotation mark, which is sent as part of it",
        }
    }
}

/// A secret from a file.
#[derive(Debug)]
pub struct StoredSecret {
    /// The secret.
    pub secret: ClientSecret,
    /// Access of every user of this machine to the file.
    pub exposure: Exposure,
}

impl StoredSecret {
    /// Parses the contents of a file of at most [`MAX_BYTES`].
    ///
    /// # Errors
    ///
    /// The contents are not a valid secret.
    pub fn parse(contents: &Contents) -> Result<Self, InvalidSecret> {
        Ok(Self { secret: ClientSecret::parse(&contents.bytes)?, exposure: contents.exposure })
    }

    /// Reads a secret from a regular file once. Blocks for at most
    /// [`READ_TIMEOUT`](files::READ_TIMEOUT).
    ///
    /// # Errors
    ///
    /// The file cannot be read, or its contents are not a valid secret.
    pub fn read(path: &Path) -> Result<Self, InvalidSecret> {
        Self::parse(&files::read(path, MAX_BYTES)?)
    }
}

/// Compares the secrets, not the permissions of their files.
impl PartialEq for StoredSecret {
    fn eq(&self, other: &Self) -> bool {
        self.secret.expose() == other.secret.expose()
    }
}

/// Returns the bytes without one trailing newline.
#[must_use]
pub fn without_newline(bytes: &[u8]) -> &[u8] {
    bytes.strip_suffix(b"\n").map_or(bytes, |line| line.strip_suffix(b"\r").unwrap_or(line))
}

const BYTE_ORDER_MARK: char = '\u{feff}';

/// Line breaks in ASCII and Unicode.
const LINE_BREAKS: [char; 7] = ['\n', '\r', '\u{b}', '\u{c}', '\u{85}', '\u{2028}', '\u{2029}'];

/// Returns whether a character is invisible, so that it is copied unnoticed.
fn is_blank(character: char) -> bool {
    character.is_whitespace() || matches!(character, '\u{200b}'..='\u{200f}' | '\u{2060}' | BYTE_ORDER_MARK)
}

fn is_quote(character: char) -> bool {
    matches!(
        character,
        '"' | '\'' | '`' | '\u{ab}' | '\u{bb}' | '\u{2018}'..='\u{201f}' | '\u{2039}' | '\u{203a}'
    )
}
