//! What a file is that contains no PEM block.

use base64::{Engine, engine::general_purpose::STANDARD};
use zeroize::Zeroizing;

use super::{
    certificate::{Certificate, elements},
    pem::{self, contains},
};

/// Other formats, and what becomes of PEM when it is copied about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Foreign {
    /// Nothing but white space, or nothing at all.
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
    /// A public key of OpenSSH.
    OpensshPublicKey,
    /// A private key of PuTTY.
    PuttyKey,
    /// Other text.
    Text,
    /// Other bytes.
    Binary,
}

impl Foreign {
    /// Returns what a file without PEM blocks is.
    pub(super) fn identify(file: &[u8]) -> Self {
        let text = file.strip_prefix(b"\xef\xbb\xbf").unwrap_or(file).trim_ascii();
        if text.iter().all(|byte| *byte == 0) {
            return Self::Empty;
        }
        if is_wide(file) {
            return Self::Utf16;
        }
        if let Some(der) = Self::of_der(file) {
            return der;
        }
        if [&b"\xfe\xed\xfe\xed"[..], b"\xce\xce\xce\xce"].iter().any(|magic| file.starts_with(magic)) {
            return Self::JavaKeyStore;
        }
        if let Some(base64) = Self::of_base64(text) {
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

    /// DER begins with a SEQUENCE; its structure shows what it is.
    fn of_der(file: &[u8]) -> Option<Self> {
        if Certificate::parse(file).is_ok() {
            return Some(Self::DerCertificate);
        }
        let parts = elements(file)?;
        let tags: Vec<u32> = parts.iter().map(|part| part.tag().0).collect();
        const INTEGER: u32 = 2;
        const OCTET_STRING: u32 = 4;
        const OID: u32 = 6;
        const SEQUENCE: u32 = 16;
        match *tags {
            [INTEGER, SEQUENCE, ..] if parts[0].data == [3] => Some(Self::Pkcs12),
            // PKCS #8, encrypted PKCS #8, SEC 1, PKCS #1.
            [INTEGER, SEQUENCE, OCTET_STRING, ..]
            | [SEQUENCE, OCTET_STRING]
            | [INTEGER, OCTET_STRING, ..] => Some(Self::DerKey),
            [INTEGER, INTEGER, INTEGER, INTEGER, INTEGER, INTEGER, ..] => Some(Self::DerKey),
            [OID, ..] => Some(Self::DerPkcs7),
            _ => None,
        }
    }

    fn of_base64(text: &[u8]) -> Option<Self> {
        let compact: Zeroizing<Vec<u8>> =
            Zeroizing::new(text.iter().filter(|byte| !byte.is_ascii_whitespace()).copied().collect());
        // Shorter than any key or certificate, and any word would be base64.
        const MIN_LENGTH: usize = 40;
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

/// Whether text is in UTF-16 or UTF-32: it begins with the mark of one, or every other byte
/// of its start is zero.
fn is_wide(file: &[u8]) -> bool {
    let has_mark = file.starts_with(b"\xff\xfe") || file.starts_with(b"\xfe\xff");
    let start = file.get(..8).unwrap_or_default();
    let zeros_at = |first: usize| start.iter().skip(first).step_by(2).all(|byte| *byte == 0);
    let text_at = |first: usize| start.iter().skip(first).step_by(2).all(|byte| byte.is_ascii_graphic());
    has_mark || !start.is_empty() && (zeros_at(0) && text_at(1) || zeros_at(1) && text_at(0))
}
