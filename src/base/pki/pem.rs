//! Parses the blocks of a PEM file (RFC 7468), with line numbers.
//!
//! As lenient as OpenSSL where the meaning is clear: a byte order mark, any line endings, text
//! around the blocks, RFC 1421 headers. Anything else that resembles a marker is an error, because
//! skipping it would silently shorten a chain.

use std::fmt;

use base64::{
    Engine,
    alphabet::STANDARD,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use zeroize::Zeroizing;

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);
const HYPHENS: &[u8] = b"-----";
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// One block of a PEM file.
pub(super) struct Block {
    pub(super) label: Label,
    /// Counted from 1 among all blocks of the file.
    pub(super) number: usize,
    /// Line number of its BEGIN marker, counted from 1.
    pub(super) line: usize,
    /// The decoded contents, possibly a private key.
    pub(super) der: Zeroizing<Vec<u8>>,
    /// Whether its headers declare it encrypted (RFC 1421, `Proc-Type`).
    pub(super) is_encrypted: bool,
}

/// The kind of a block, from its label. The text of an unknown label is not kept, because it may be
/// part of a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Label {
    /// `CERTIFICATE`, or its old name `X509 CERTIFICATE`.
    Certificate,
    /// `TRUSTED CERTIFICATE`, which only OpenSSL reads.
    TrustedCertificate,
    /// `PRIVATE KEY` (PKCS #8).
    Pkcs8,
    /// `RSA PRIVATE KEY` (PKCS #1).
    Pkcs1,
    /// `EC PRIVATE KEY` (SEC 1).
    Sec1,
    /// `DSA PRIVATE KEY`.
    DsaKey,
    /// `ENCRYPTED PRIVATE KEY`.
    EncryptedKey,
    /// `OPENSSH PRIVATE KEY`.
    OpensshKey,
    /// `PUBLIC KEY`, `RSA PUBLIC KEY`.
    PublicKey,
    /// `CERTIFICATE REQUEST`, `NEW CERTIFICATE REQUEST`.
    Request,
    /// `X509 CRL`.
    RevocationList,
    /// `PKCS7`, `CMS`.
    Pkcs7,
    /// `EC PARAMETERS`, `DH PARAMETERS`, `X9.42 DH PARAMETERS`.
    Parameters,
    /// Anything else.
    Unknown,
}

/// Reason that the blocks of a file cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InvalidPem {
    /// A marker is invalid. Lines are counted from 1.
    Layout {
        /// The kind of error.
        layout: Layout,
        /// The line of the marker, or of the BEGIN of the block.
        line: usize,
    },
    /// A block is not base64.
    NotBase64 {
        /// The block, counted from 1.
        number: usize,
        /// Its first line.
        line: usize,
    },
}

impl Label {
    fn parse(label: &[u8]) -> Self {
        match label {
            b"CERTIFICATE" | b"X509 CERTIFICATE" => Self::Certificate,
            b"TRUSTED CERTIFICATE" => Self::TrustedCertificate,
            b"PRIVATE KEY" => Self::Pkcs8,
            b"RSA PRIVATE KEY" => Self::Pkcs1,
            b"EC PRIVATE KEY" => Self::Sec1,
            b"DSA PRIVATE KEY" => Self::DsaKey,
            b"ENCRYPTED PRIVATE KEY" => Self::EncryptedKey,
            b"OPENSSH PRIVATE KEY" => Self::OpensshKey,
            b"PUBLIC KEY" | b"RSA PUBLIC KEY" => Self::PublicKey,
            b"CERTIFICATE REQUEST" | b"NEW CERTIFICATE REQUEST" => Self::Request,
            b"X509 CRL" => Self::RevocationList,
            b"PKCS7" | b"CMS" | b"PKCS #7 SIGNED DATA" => Self::Pkcs7,
            b"EC PARAMETERS" | b"DH PARAMETERS" | b"X9.42 DH PARAMETERS" => Self::Parameters,
            _ => Self::Unknown,
        }
    }

    /// Returns whether the block is a private key of any kind.
    pub(super) const fn is_private_key(self) -> bool {
        matches!(
            self,
            Self::Pkcs8 | Self::Pkcs1 | Self::Sec1 | Self::DsaKey | Self::EncryptedKey | Self::OpensshKey
        )
    }
}

/// Error in the markers of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// A marker is indented.
    Indented,
    /// Line breaks are escaped as a backslash and an `n`.
    EscapedLineBreaks,
    /// Two markers, or a marker and contents, share a line.
    JoinedLines,
    /// A marker has dashes that are not ASCII hyphens.
    OtherDashes,
    /// A marker has more or fewer than five hyphens, or is not in upper case.
    MalformedMarker,
    /// A block is followed by another BEGIN, or by the END of another kind of block, instead of its
    /// own END.
    MissingEnd,
    /// The file ends within a block.
    Cut,
    /// There is an END without a BEGIN.
    MissingBegin,
}

impl fmt::Display for InvalidPem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Layout { layout, line } => write!(f, "line {line} of the file {layout}"),
            Self::NotBase64 { number, line } => write!(
                f,
                "block {number} of the file (line {line}) is not base64; copy the file again, in full and \
                 as text"
            ),
        }
    }
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Indented => {
                "is indented; remove the white space at the start of each line, for example with `sed \
                 's/^[[:space:]]*//' OLD > NEW`"
            }
            Self::EscapedLineBreaks => {
                "has \\n written as two characters instead of line breaks; replace them, for example \
                 with `sed 's/\\\\n/\\n/g' OLD > NEW`"
            }
            Self::JoinedLines => {
                "has other text on the line of a BEGIN or END marker; put each marker on a line of its own \
                 (files without a line break at their end join when they are concatenated)"
            }
            Self::OtherDashes => {
                "has dashes that are not hyphens, as word processors insert them; type `-----` with hyphens"
            }
            Self::MalformedMarker => {
                "is not a valid marker; write it with five hyphens on either side and in capitals, such as \
                 `-----BEGIN CERTIFICATE-----`"
            }
            Self::MissingEnd => "begins a block whose END line is missing; copy the file again, in full",
            Self::Cut => "begins a block that is cut off; copy the file again, in full",
            Self::MissingBegin => "ends a block whose BEGIN line is missing; copy the file again, in full",
        })
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Certificate => "a certificate",
            Self::TrustedCertificate => "a TRUSTED CERTIFICATE, which only OpenSSL reads",
            Self::Pkcs8 | Self::Pkcs1 | Self::Sec1 => "a private key",
            Self::DsaKey => "a DSA private key",
            Self::EncryptedKey => "an encrypted private key",
            Self::OpensshKey => "an OpenSSH private key",
            Self::PublicKey => "a public key",
            Self::Request => "a certificate signing request",
            Self::RevocationList => "a certificate revocation list",
            Self::Pkcs7 => "PKCS #7",
            Self::Parameters => "key parameters without a key",
            Self::Unknown => "a PEM block with an unknown label",
        })
    }
}

/// A line, classified by its markers.
enum Line<'a> {
    Begin(&'a [u8]),
    End(&'a [u8]),
    Invalid(Layout),
    Other,
}

/// Returns all blocks of a file, in order.
pub(super) fn blocks(file: &[u8]) -> Result<Vec<Block>, InvalidPem> {
    let mut blocks = Vec::new();
    let mut open: Option<Open<'_>> = None;
    for (number, line) in (1..).zip(lines(file)) {
        match (classify(line), &mut open) {
            (Line::Other, None) => {}
            (Line::Other, Some(block)) => block.add(line),
            (Line::Begin(label), None) => open = Some(Open::new(label, number)),
            (Line::End(label), Some(block)) if label == block.label => {
                blocks.extend(open.take().map(|block| block.close(blocks.len() + 1)).transpose()?);
            }
            (Line::Begin(_) | Line::End(_), Some(block)) => {
                return Err(InvalidPem::Layout { layout: Layout::MissingEnd, line: block.line });
            }
            (Line::End(_), None) => {
                return Err(InvalidPem::Layout { layout: Layout::MissingBegin, line: number });
            }
            (Line::Invalid(layout), _) => return Err(InvalidPem::Layout { layout, line: number }),
        }
    }
    match open {
        Some(block) => Err(InvalidPem::Layout { layout: Layout::Cut, line: block.line }),
        None if ends_in_marker(file) => {
            Err(InvalidPem::Layout { layout: Layout::Cut, line: lines(file).count() })
        }
        None => Ok(blocks),
    }
}

/// Returns whether a file ends within the hyphens or the first word of a BEGIN marker. If it ends
/// later, the marker is malformed.
fn ends_in_marker(file: &[u8]) -> bool {
    lines(file).last().is_some_and(|line| !line.is_empty() && b"-----BEGIN ".starts_with(line))
}

/// A block whose END has not been reached.
struct Open<'a> {
    label: &'a [u8],
    line: usize,
    /// The text after the headers, without white space.
    base64: Zeroizing<Vec<u8>>,
    in_headers: bool,
    is_encrypted: bool,
}

impl<'a> Open<'a> {
    fn new(label: &'a [u8], line: usize) -> Self {
        Self { label, line, base64: Zeroizing::default(), in_headers: false, is_encrypted: false }
    }

    fn add(&mut self, line: &[u8]) {
        // A colon is not part of the base64 alphabet.
        if self.base64.is_empty() && line.contains(&b':') {
            self.in_headers = true;
            self.is_encrypted |= line.starts_with(b"Proc-Type:") && line.ends_with(b"ENCRYPTED");
        } else if self.in_headers {
            // The headers end at an empty line. Before it, a header may be continued.
            self.in_headers = !line.is_empty();
        } else {
            self.base64.extend(line.iter().filter(|byte| !byte.is_ascii_whitespace()));
        }
    }

    fn close(self, number: usize) -> Result<Block, InvalidPem> {
        let label = Label::parse(self.label);
        let decoded = BASE64.decode(&*self.base64).map(Zeroizing::new);
        let der = decoded.map_err(|_| InvalidPem::NotBase64 { number, line: self.line })?;
        Ok(Block { label, number, line: self.line, der, is_encrypted: self.is_encrypted })
    }
}

/// Returns the lines of a file without line endings (LF, CR LF or CR) and trailing white space.
fn lines(file: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(file);
    std::iter::from_fn(move || {
        let text = rest?;
        let end = text.iter().position(|byte| matches!(byte, b'\n' | b'\r'));
        let line = end.map_or(text, |end| &text[..end]);
        rest = end.map(|end| {
            let after = &text[end..];
            after.strip_prefix(b"\r\n").unwrap_or(&after[1..])
        });
        // Concatenated files can have a byte order mark before each block.
        let line = line.strip_prefix(BYTE_ORDER_MARK).unwrap_or(line);
        Some(line.trim_ascii_end())
    })
}

fn classify(line: &[u8]) -> Line<'_> {
    if let Some(label) = marked(line, b"BEGIN ") {
        return Line::Begin(label);
    }
    if let Some(label) = marked(line, b"END ") {
        return Line::End(label);
    }
    marker_error(line).map_or(Line::Other, Line::Invalid)
}

/// Returns the label of a well-formed marker.
fn marked<'a>(line: &'a [u8], word: &[u8]) -> Option<&'a [u8]> {
    let label = line.strip_prefix(HYPHENS)?.strip_prefix(word)?.strip_suffix(HYPHENS)?;
    let is_plain = |byte: &u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || b" .#".contains(byte);
    (!label.is_empty() && label.iter().all(is_plain)).then_some(label)
}

/// Returns the error in a line that resembles a marker and is not valid.
fn marker_error(line: &[u8]) -> Option<Layout> {
    let trimmed = line.trim_ascii_start();
    let has = |text: &[u8]| contains(line, text);
    if has(b"-----BEGIN ") || has(b"-----END ") {
        return Some(if has(b"-----\\n") || has(b"\\n-----") {
            Layout::EscapedLineBreaks
        } else if [&b"BEGIN "[..], b"END "].iter().any(|word| marked(trimmed, word).is_some()) {
            Layout::Indented
        } else if trimmed.starts_with(HYPHENS) && has_contents_after_marker(trimmed)
            || !trimmed.starts_with(b"-")
        {
            Layout::JoinedLines
        } else {
            Layout::MalformedMarker
        });
    }
    // A comment that mentions a marker does not begin with a dash.
    let (dashes, rest) = split_dashes(trimmed);
    let is_marker = dashes > 0
        && [&b"BEGIN "[..], b"END "].iter().any(|word| {
            let start = rest.trim_ascii_start();
            start.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word))
        });
    is_marker.then(|| {
        if trimmed.iter().any(|byte| !byte.is_ascii()) {
            Layout::OtherDashes
        } else {
            Layout::MalformedMarker
        }
    })
}

/// Returns whether the label of the first marker is followed by anything but hyphens.
fn has_contents_after_marker(marker: &[u8]) -> bool {
    let label = marker.get(HYPHENS.len()..).unwrap_or_default();
    let end = (0..label.len()).find(|at| label[*at..].starts_with(HYPHENS));
    end.is_some_and(|end| label[end..].iter().any(|byte| *byte != b'-'))
}

/// Returns the number of dashes of any encoding at the start, and the rest of the line.
fn split_dashes(mut line: &[u8]) -> (usize, &[u8]) {
    // ASCII; U+2010 to U+2015 and U+2212 in UTF-8; en and em dash in Windows-1252.
    let starts = [&b"-"[..], b"\xe2\x80\x90", b"\xe2\x80\x91", b"\xe2\x80\x92", b"\xe2\x80\x93"];
    let more = [&b"\xe2\x80\x94"[..], b"\xe2\x80\x95", b"\xe2\x88\x92", b"\x96", b"\x97", b"\xad"];
    let mut count = 0;
    while let Some(rest) = starts.iter().chain(&more).find_map(|dash| line.strip_prefix(*dash)) {
        (line, count) = (rest, count + 1);
    }
    (count, line)
}

/// Returns whether `text` contains `part`.
pub(super) fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}
