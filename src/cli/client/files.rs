//! The files with a client's credentials and trusted authorities.
//!
//! Certificates and keys are parsed like those of the gateway. Errors never contain a part of a file,
//! or an argument that may be a token.

use std::{
    fs,
    io::{self, Read},
    path::Path,
};

use tonic::metadata::{Ascii, MetadataValue};
use zeroize::Zeroizing;

use crate::{
    base::{
        files::describe,
        pki::{Authorities, CertificateChain, InvalidFile, PrivateKey, ServerIdentity},
    },
    cli::failure::Failure,
    config::absolute,
};

/// Maximum size of a file, in bytes.
const MAX_BYTES: u64 = 1024 * 1024;
/// Maximum size of a bearer token, in bytes. Servers refuse longer headers.
const MAX_TOKEN_BYTES: usize = 16 * 1024;

/// Reads the certificates of authorities.
pub(super) fn authorities(argument: &'static str, path: &Path) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let content = read(argument, path)?;
    Authorities::parse(&content).map_err(|why| invalid(argument, path, &why))?;
    Ok(content)
}

/// Reads a certificate chain and its private key.
pub(super) fn identity(certificate: &Path, private_key: &Path) -> Result<[Zeroizing<Vec<u8>>; 2], Failure> {
    let (of_certificate, of_key) = ("--certificate-file", "--private-key-file");
    let files = [read(of_certificate, certificate)?, read(of_key, private_key)?];
    let chain =
        CertificateChain::parse(&files[0]).map_err(|why| invalid(of_certificate, certificate, &why))?;
    let key = PrivateKey::parse(&files[1]).map_err(|why| invalid(of_key, private_key, &why))?;
    ServerIdentity::new(chain, &key)
        .map_err(|why| Failure::Usage(format!("{of_key}: {}: {why}", absolute(private_key).display())))?;
    Ok(files)
}

fn invalid(argument: &str, path: &Path, why: &InvalidFile) -> Failure {
    Failure::Usage(format!("{argument}: {}: {why}", absolute(path).display()))
}

/// Reads a bearer token and returns the value of the `authorization` header.
pub(super) fn authorization(path: &Path) -> Result<MetadataValue<Ascii>, Failure> {
    const ARGUMENT: &str = "--bearer-token-file";
    let content = read(ARGUMENT, path).map_err(|failure| match failure {
        Failure::File { kind, .. } if may_be_token(path) => Failure::Usage(format!(
            "cannot read the file of {ARGUMENT}: {}; write the token to a file and use its path (the argument is \
             not shown, because it may be the token itself)",
            describe(kind)
        )),
        other => other,
    })?;
    let refused = |rule: &str| Failure::Usage(format!("{ARGUMENT}: {}: {rule}", absolute(path).display()));
    let token = bearer_token(&content).map_err(refused)?;
    let header = Zeroizing::new(format!("Bearer {token}"));
    let mut value = MetadataValue::try_from(header.as_str())
        .map_err(|_| refused("the token contains a character that is not allowed in a header"))?;
    value.set_sensitive(true);
    Ok(value)
}

/// Returns whether an argument that is not a file may be the token. A path in an existing folder is
/// not a token.
fn may_be_token(path: &Path) -> bool {
    !path.parent().is_some_and(|folder| folder != Path::new("") && folder.is_dir())
}

/// Returns the token in a file: one word, with at most one newline at the end.
fn bearer_token(content: &[u8]) -> Result<&str, &'static str> {
    if content.starts_with(b"\xef\xbb\xbf") {
        return Err("the file begins with a byte order mark; save it as UTF-8 without one");
    }
    let text = std::str::from_utf8(content)
        .map_err(|_| "the file is not text; write the token to it, in UTF-8 or ASCII")?;
    let line = text.strip_suffix('\n').unwrap_or(text);
    let token = line.strip_suffix('\r').unwrap_or(line);
    if token.trim().is_empty() {
        return Err("the file is empty; write the token to it");
    }
    let lower = token.trim_start().to_ascii_lowercase();
    if lower.starts_with("authorization:") || lower.starts_with("authorization ") {
        return Err("the file contains a header; write only the token to it");
    }
    if lower.strip_prefix("bearer").is_some_and(|rest| !rest.starts_with(is_of_token)) {
        return Err("the file begins with \"Bearer\"; remove it, so that the file contains only the token");
    }
    if lower.starts_with("-----begin") {
        return Err("the file contains PEM; use the file with the token");
    }
    if lower.starts_with('{') {
        return Err("the file contains JSON; write only the token to it");
    }
    if lower.starts_with("sha256:") {
        return Err(
            "the file contains the hash of a token, which belongs in the gateway's configuration; use the file \
                    with the token",
        );
    }
    if token.contains(['"', '\'', '`', '\u{201c}', '\u{201d}']) {
        return Err("the token is in quotation marks; remove them");
    }
    if token.contains(['\n', '\r']) {
        return Err("the file has more than one line; write only the token to it");
    }
    if token.contains(|character: char| character.is_whitespace() || character.is_control()) {
        return Err("the token contains whitespace or a control character; remove it");
    }
    if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("the token contains a non-ASCII character; copy it again");
    }
    if token.len() > MAX_TOKEN_BYTES {
        return Err("the token is longer than 16 KiB; check that this is the right file");
    }
    Ok(token)
}

/// Returns whether a token may contain the character (RFC 6750, 2.1).
fn is_of_token(character: char) -> bool {
    character.is_ascii_alphanumeric() || "-._~+/=".contains(character)
}

/// Reads a file once, because it may be a pipe.
fn read(argument: &'static str, path: &Path) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let failed = |error: &io::Error| Failure::File { argument, path: absolute(path), kind: error.kind() };
    if path == Path::new("-") {
        return Err(Failure::Usage(format!(
            "{argument} cannot be standard input; use a file (if the file is named -, write ./-)"
        )));
    }
    let mut content = Zeroizing::new(Vec::new());
    fs::File::open(path)
        .and_then(|file| file.take(MAX_BYTES + 1).read_to_end(&mut content))
        .map_err(|error| failed(&error))?;
    if content.len() as u64 > MAX_BYTES {
        return Err(Failure::Usage(format!(
            "{argument}: {} is larger than 1 MiB; check that this is the right file",
            absolute(path).display()
        )));
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bearer_token_must_be_the_only_word_of_its_file() {
        for (content, token) in
            [("abc", "abc"), ("abc\n", "abc"), ("a.b-c_~+/=\r\n", "a.b-c_~+/="), ("bearerX", "bearerX")]
        {
            assert_eq!(bearer_token(content.as_bytes()), Ok(token));
        }
        for (content, part) in [
            ("Bearer s3cret", "\"Bearer\""),
            ("bearer s3cret\n", "\"Bearer\""),
            (" BEARER\ts3cret", "\"Bearer\""),
            ("Bearer: s3cret", "\"Bearer\""),
            ("Bearer\n", "\"Bearer\""),
            ("Authorization: Bearer s3cret", "a header"),
            ("\u{feff}s3cret", "byte order mark"),
            ("\"s3cret\"", "quotation marks"),
            ("'s3cret'\n", "quotation marks"),
            ("s3cret\n\n", "more than one line"),
            ("s3cret\ns3cret\n", "more than one line"),
            (" s3cret", "whitespace"),
            ("s3cret ", "whitespace"),
            ("s3 cret", "whitespace"),
            ("s3\u{7}cret", "whitespace"),
            ("s3cr\u{e9}t", "non-ASCII"),
            ("{\"token\": \"s3cret\"}", "JSON"),
            ("-----BEGIN CERTIFICATE-----\ns3cret", "PEM"),
            ("sha256:s3cret", "hash"),
            ("", "empty"),
            (" \n", "empty"),
        ] {
            let rule = bearer_token(content.as_bytes()).expect_err(content);
            assert!(rule.contains(part) && !rule.contains("s3cret"), "{content}: {rule}");
        }
        assert!(bearer_token(b"\xff\xfes\0").unwrap_err().contains("not text"));
        assert!(bearer_token(&vec![b'a'; MAX_TOKEN_BYTES + 1]).unwrap_err().contains("16 KiB"));
    }
}
