//! Errors in files, each with one sentence that states the cause and the remedy.

use std::fmt;

use super::{
    certificate::KeyKind,
    foreign::Foreign,
    pem::{self, Block, Label, Layout},
};

/// The required contents of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// The certificate chain of the server.
    CertificateChain,
    /// The private key of the server.
    PrivateKey,
    /// The certificates of authorities.
    Authorities,
}

/// Reason that a file cannot be used. `Display` is one sentence with the remedy, and contains no
/// part of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InvalidFile {
    /// The file contains no PEM block.
    Foreign(Foreign, Wanted),
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
    /// The file contains blocks, but none of the required kind.
    Missing {
        /// The required contents.
        wanted: Wanted,
        /// The first block.
        found: Label,
    },
    /// The file contains a block of a kind that does not belong there.
    Unexpected {
        /// The required contents.
        wanted: Wanted,
        /// The kind of the block.
        found: Label,
        /// The block, counted from 1.
        number: usize,
        /// Its first line.
        line: usize,
    },
    /// A certificate cannot be used.
    Certificate {
        /// The block, counted from 1.
        number: usize,
        /// Its first line.
        line: usize,
        /// The cause.
        why: UnusableCertificate,
    },
    /// The file contains this number of private keys.
    SeveralKeys(usize),
    /// The private key cannot be used.
    Key {
        /// Its first line.
        line: usize,
        /// The cause.
        why: UnusableKey,
    },
}

/// Reason that a block labelled as a certificate cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UnusableCertificate {
    /// It is not a certificate.
    NotCertificate,
    /// There is data after the certificate.
    TrailingData,
    /// The server's own certificate has X.509 version 1 or 2.
    OldVersion,
    /// The TLS library refuses it, for this reason.
    Refused(String),
}

/// Reason that a private key cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnusableKey {
    /// It is encrypted.
    Encrypted,
    /// It is in OpenSSH's format.
    Openssh,
    /// It is truncated or damaged.
    Malformed,
    /// It is an RSA key that is too short; its size in bits.
    ShortRsa(usize),
    /// It is of a kind that is not supported for TLS.
    Kind(KeyKind),
}

impl Wanted {
    /// Returns the blocks of a file that has at least one.
    pub(super) fn blocks(self, file: &[u8]) -> Result<Vec<Block>, InvalidFile> {
        let is_document = |foreign| matches!(foreign, Foreign::Json | Foreign::Yaml | Foreign::Html);
        match pem::blocks(file) {
            Ok(blocks) if !blocks.is_empty() => Ok(blocks),
            // Certificates inside another document have invalid markers.
            Err(error) => {
                let foreign = Foreign::identify(file);
                Err(if is_document(foreign) { InvalidFile::Foreign(foreign, self) } else { error })
            }
            Ok(_) => Err(InvalidFile::Foreign(Foreign::identify(file), self)),
        }
    }

    /// Returns the error for a file without the required contents.
    pub(super) fn missing(self, blocks: &[Block]) -> InvalidFile {
        let found = blocks.first().map_or(Label::Unknown, |block| block.label);
        InvalidFile::Missing { wanted: self, found }
    }

    /// Returns the error for a block that does not belong there.
    pub(super) const fn unexpected(self, block: &Block, found: Label) -> InvalidFile {
        InvalidFile::Unexpected { wanted: self, found, number: block.number, line: block.line }
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::CertificateChain => "the certificate chain",
            Self::PrivateKey => "the private key",
            Self::Authorities => "the certificates of the authorities",
        }
    }

    pub(super) const fn is_key(self) -> bool {
        matches!(self, Self::PrivateKey)
    }
}

impl std::error::Error for InvalidFile {}

impl fmt::Display for InvalidFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Foreign(foreign, wanted) => foreign.describe(f, *wanted),
            Self::Layout { layout, line } => write!(f, "line {line} of the file {layout}"),
            Self::NotBase64 { number, line } => write!(
                f,
                "block {number} of the file (line {line}) is not base64; copy the file again, in full and \
                 as text"
            ),
            Self::Missing { wanted, found } => {
                write!(f, "the file contains {found} and not {}; {}", wanted.name(), Remedy(*wanted, *found))
            }
            Self::Unexpected { wanted, found, number, line } => {
                write!(f, "block {number} of the file (line {line}) is {found}; {}", Remedy(*wanted, *found))
            }
            Self::Certificate { number, line, why } => {
                write!(f, "block {number} of the file (line {line}) {why}")
            }
            Self::SeveralKeys(count) => write!(
                f,
                "the file contains {count} private keys; leave only the key of the server's certificate in it"
            ),
            Self::Key { line, why } => write!(f, "the private key in line {line} of the file {why}"),
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
                "has \\n written as two characters instead of line breaks; write real ones, for example \
                 with `sed 's/\\\\n/\\n/g' OLD > NEW`"
            }
            Self::JoinedLines => {
                "has a BEGIN or END marker and something else on it; put each marker on a line of its own \
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

/// The remedy for a block that does not belong there.
struct Remedy(Wanted, Label);

impl fmt::Display for Remedy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(wanted, found) = *self;
        f.write_str(match (wanted, found) {
            (_, Label::TrustedCertificate) => "convert it with `openssl x509 -in OLD -out NEW`",
            (_, Label::Pkcs7) => {
                "extract the certificates with `openssl pkcs7 -print_certs -in OLD -out NEW`"
            }
            (Wanted::PrivateKey, Label::Certificate) => {
                "if the paths of the certificate and the private key are swapped, exchange them"
            }
            (Wanted::CertificateChain, found) if found.is_private_key() => {
                "if the paths of the certificate and the private key are swapped, exchange them"
            }
            (_, found) if found.is_private_key() => "name the file of the certificates instead",
            (Wanted::PrivateKey, Label::Request) => "use the private key that the request was made with",
            (_, Label::Request) => "use the certificate that the authority has issued for the request",
            (Wanted::PrivateKey, Label::PublicKey) => "use the private key that it belongs to",
            (_, Label::PublicKey) => "use the certificate that it is part of",
            (_, Label::Unknown) => "remove the block, or correct the label in its BEGIN and END lines",
            _ => "remove the block, or name the right file",
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

impl fmt::Display for UnusableCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotCertificate => {
                f.write_str("is labelled as a certificate and does not contain one; copy it again, in full")
            }
            Self::TrailingData => f.write_str(
                "has data after the certificate; export it again with `openssl x509 -in OLD -out NEW`",
            ),
            Self::OldVersion => f.write_str(
                "is a certificate of X.509 version 1, which TLS libraries refuse; issue it with extensions \
                 (`openssl x509 -req` needs -extfile)",
            ),
            Self::Refused(reason) => write!(f, "cannot be used: {reason}; issue another certificate"),
        }
    }
}

impl fmt::Display for UnusableKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Encrypted => f.write_str("is encrypted; decrypt it with `openssl pkey -in OLD -out NEW`"),
            Self::Openssh => {
                f.write_str("is in OpenSSH's format; convert it with `ssh-keygen -p -N '' -m PEM -f FILE`")
            }
            Self::Malformed => f.write_str("is truncated or damaged; copy it again, in full"),
            Self::ShortRsa(bits) => write!(
                f,
                "is an RSA key of {bits} bits, which is too short; create one of at least {} bits and a \
                 certificate for it",
                super::certificate::MIN_RSA_BITS
            ),
            Self::Kind(kind) => write!(
                f,
                "is of kind {kind}, which TLS does not use here; create a P-256 or RSA key and a certificate \
                 for it"
            ),
        }
    }
}
