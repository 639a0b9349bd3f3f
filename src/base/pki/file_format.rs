//! Identifies the format of a file without a PEM block.

use std::fmt;

use base64::{Engine, engine::general_purpose::STANDARD};
use zeroize::Zeroizing;

use super::{
    certificate::{Certificate, elements},
    pem::{self, contains},
    wanted::Wanted,
};

/// Format of a file without a PEM block: other formats, and common forms of damaged PEM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileFormat {
    /// Empty, or only whitespace.
    Empty,
    /// Text in UTF-16 or UTF-32.
    Utf16,
    /// A certificate in DER.
    DerCertificate,
    /// A private key in DER.
    DerKey,
    /// A PKCS #12 file (`.p12`, `.pfx`).
    Pkcs12,
    /// A PKCS #7 file in DER (`.p7b`).
    DerPkcs7,
    /// A Java key store.
    JavaKeyStore,
    /// The base64 of a PEM file, as in the `data` of a Kubernetes secret.
    Base64OfPem,
    /// Base64 without BEGIN and END.
    BareBase64,
    /// A JSON document.
    Json,
    /// A YAML document, such as the manifest of a Kubernetes secret.
    Yaml,
    /// An HTML or XML document.
    Html,
    /// An OpenSSH public key.
    OpensshPublicKey,
    /// A `PuTTY` private key.
    PuttyKey,
    /// Other text.
    Text,
    /// Other bytes.
    Binary,
}

impl FileFormat {
    /// Identifies the format of a file without PEM blocks.
    pub(super) fn identify(file: &[u8]) -> Self {
        let text = file.strip_prefix(b"\xef\xbb\xbf").unwrap_or(file).trim_ascii();
        if text.iter().all(|byte| *byte == 0) {
            return Self::Empty;
        }
        if is_wide(file) {
            return Self::Utf16;
        }
        if let Some(der) = Self::from_der(file) {
            return der;
        }
        if [&b"\xfe\xed\xfe\xed"[..], b"\xce\xce\xce\xce"].iter().any(|magic| file.starts_with(magic)) {
            return Self::JavaKeyStore;
        }
        if let Some(base64) = Self::from_base64(text) {
            return base64;
        }
        match text {
            [b'{' | b'[', ..] => Self::Json,
            [b'<', ..] => Self::Html,
            _ if [&b"ssh-"[..], b"ecdsa-sha2-", b"---- BEGIN SSH2"].iter().any(|it| text.starts_with(it)) => {
                Self::OpensshPublicKey
            }
            _ if text.starts_with(b"PuTTY-User-Key-File") => Self::PuttyKey,
            _ if [&b"apiVersion:"[..], b"kind:", b"tls.crt:", b"tls.key:", b"---\n"]
                .iter()
                .any(|it| text.starts_with(it)) =>
            {
                Self::Yaml
            }
            _ if std::str::from_utf8(text).is_ok_and(|text| !text.contains('\0')) => Self::Text,
            _ => Self::Binary,
        }
    }

    /// Writes what was found and how to fix it.
    pub(super) fn describe(self, f: &mut fmt::Formatter<'_>, wanted: Wanted) -> fmt::Result {
        let key = wanted.is_key();
        let (found, remedy) = match self {
            Self::Empty => {
                return write!(f, "the file is empty; write {} in PEM to it", wanted.name());
            }
            Self::Utf16 => {
                ("text in UTF-16", "save it as UTF-8, for example with `iconv -f UTF-16 -t UTF-8 OLD > NEW`")
            }
            Self::DerCertificate if key => {
                ("a certificate in DER", "name the file of the private key, or exchange the two files")
            }
            Self::DerCertificate => {
                ("a certificate in DER", "convert it with `openssl x509 -inform DER -in OLD -out NEW`")
            }
            Self::DerKey if key => {
                ("a private key in DER", "convert it with `openssl pkey -inform DER -in OLD -out NEW`")
            }
            Self::DerKey => {
                ("a private key in DER", "name the file of the certificates, or exchange the two files")
            }
            Self::Pkcs12 if key => (
                "a PKCS #12 archive",
                "extract the key with `openssl pkcs12 -in OLD -nocerts -nodes -out NEW`",
            ),
            Self::Pkcs12 => (
                "a PKCS #12 archive",
                "extract the certificates with `openssl pkcs12 -in OLD -nokeys -out NEW`",
            ),
            Self::DerPkcs7 => (
                "PKCS #7 in DER",
                "extract the certificates with `openssl pkcs7 -inform DER -print_certs -in OLD -out NEW`",
            ),
            Self::JavaKeyStore => (
                "a Java key store",
                "convert it with `keytool -importkeystore -srckeystore OLD -destkeystore NEW -deststoretype \
             PKCS12`, and then from PKCS #12 with `openssl pkcs12`",
            ),
            Self::Base64OfPem => ("the base64 of a PEM file", "decode it once with `base64 -d OLD > NEW`"),
            Self::BareBase64 => (
                "base64 without BEGIN and END lines",
                "put a BEGIN line before it and an END line behind it, such as \
             `-----BEGIN CERTIFICATE-----` and `-----END CERTIFICATE-----`",
            ),
            Self::Json => ("JSON", "write the PEM text of its field to a file of its own"),
            Self::Yaml => {
                ("YAML", "write the PEM text of its field to a file of its own, without indentation")
            }
            Self::Html => ("HTML or XML", "download the PEM file itself"),
            Self::OpensshPublicKey => ("an OpenSSH public key", "use a certificate and key for TLS"),
            Self::PuttyKey => (
                "a PuTTY private key",
                "export it as PEM with `puttygen OLD -O private-openssh \
                                                         -o NEW` and then `ssh-keygen -p -N '' -m PEM -f NEW`",
            ),
            Self::Text => ("text without a BEGIN line", "check that this is the right file, in PEM"),
            Self::Binary => ("binary data", "check that this is the right file, in PEM"),
        };
        write!(f, "the file contains {found}; {remedy}")
    }

    /// Identifies DER by its structure. It begins with a SEQUENCE.
    fn from_der(file: &[u8]) -> Option<Self> {
        const INTEGER: u32 = 2;
        const OCTET_STRING: u32 = 4;
        const OID: u32 = 6;
        const SEQUENCE: u32 = 16;
        if Certificate::parse(file).is_ok() {
            return Some(Self::DerCertificate);
        }
        let parts = elements(file)?;
        let tags: Vec<u32> = parts.iter().map(|part| part.tag().0).collect();
        match *tags {
            [INTEGER, SEQUENCE, ..] if parts[0].data == [3] => Some(Self::Pkcs12),
            // PKCS #8, encrypted PKCS #8, SEC 1, PKCS #1.
            [INTEGER, SEQUENCE, OCTET_STRING, ..]
            | [SEQUENCE, OCTET_STRING]
            | [INTEGER, OCTET_STRING, ..]
            | [INTEGER, INTEGER, INTEGER, INTEGER, INTEGER, INTEGER, ..] => Some(Self::DerKey),
            [OID, ..] => Some(Self::DerPkcs7),
            _ => None,
        }
    }

    fn from_base64(text: &[u8]) -> Option<Self> {
        // Shorter than any key or certificate. Without a minimum, any word would be base64.
        const MIN_LENGTH: usize = 40;
        let compact: Zeroizing<Vec<u8>> =
            Zeroizing::new(text.iter().filter(|byte| !byte.is_ascii_whitespace()).copied().collect());
        if compact.len() < MIN_LENGTH {
            return None;
        }
        let decoded = Zeroizing::new(STANDARD.decode(&*compact).ok()?);
        if contains(&decoded, b"-----BEGIN ") && pem::blocks(&decoded).is_ok_and(|blocks| !blocks.is_empty())
        {
            return Some(Self::Base64OfPem);
        }
        Some(Self::BareBase64)
    }
}

/// Returns whether a text is UTF-16 or UTF-32: it begins with a byte order mark, or every other
/// byte of its start is zero.
fn is_wide(file: &[u8]) -> bool {
    let has_mark = file.starts_with(b"\xff\xfe") || file.starts_with(b"\xfe\xff");
    let start = file.get(..8).unwrap_or_default();
    let zeros_at = |first: usize| start.iter().skip(first).step_by(2).all(|byte| *byte == 0);
    let text_at = |first: usize| start.iter().skip(first).step_by(2).all(u8::is_ascii_graphic);
    has_mark || !start.is_empty() && (zeros_at(0) && text_at(1) || zeros_at(1) && text_at(0))
}
