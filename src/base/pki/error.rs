//! Errors in files, each with one sentence that states the cause and the remedy.

use std::fmt;

use super::{
    certificate::{KeyKind, MIN_RSA_BITS, UnusableCertificate},
    file_format::FileFormat,
    pem::{self, Block, InvalidPem, Label},
    wanted::Wanted,
};

/// Reason that a file cannot be used. `Display` is one sentence with the remedy, and contains no
/// part of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InvalidFile {
    /// The file contains no PEM block.
    NotPem(FileFormat, Wanted),
    /// The blocks cannot be read.
    Pem(InvalidPem),
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
        let is_document = |format| matches!(format, FileFormat::Json | FileFormat::Yaml | FileFormat::Html);
        match pem::blocks(file) {
            Ok(blocks) if !blocks.is_empty() => Ok(blocks),
            // Certificates inside another document have invalid markers.
            Err(error) => {
                let format = FileFormat::identify(file);
                Err(if is_document(format) {
                    InvalidFile::NotPem(format, self)
                } else {
                    InvalidFile::Pem(error)
                })
            }
            Ok(_) => Err(InvalidFile::NotPem(FileFormat::identify(file), self)),
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
}

impl std::error::Error for InvalidFile {}

impl fmt::Display for InvalidFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotPem(format, wanted) => format.describe(f, *wanted),
            Self::Pem(error) => error.fmt(f),
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
                "is an RSA key of {bits} bits, which is too short; create one of at least \
                 {MIN_RSA_BITS} bits and a certificate for it"
            ),
            Self::Kind(kind) => write!(
                f,
                "is of kind {kind}, which TLS does not use here; create a P-256 or RSA key and a certificate \
                 for it"
            ),
        }
    }
}
