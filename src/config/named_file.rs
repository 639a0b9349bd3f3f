//! Looks into the files that the configuration names, so that a missing or a wrong one
//! is a fault at start and not at the first call.
//!
//! The contents are not kept: whoever uses a file reads it, and reads it again when it
//! changes.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use zeroize::Zeroizing;

use super::{fault::Problem, section::Section};

/// A file that must hold certificates in PEM.
pub(super) fn certificates(section: &mut Section<'_>, key: &'static str) -> Option<PathBuf> {
    checked(section, key, |content| {
        let certificates: Vec<_> = CertificateDer::pem_slice_iter(content).collect();
        if certificates.is_empty() || certificates.iter().any(Result::is_err) {
            return Err(Problem::rule("the file must hold certificates in PEM"));
        }
        Ok(())
    })
}

/// A file that must hold a private key in PEM, and that others should not read.
pub(super) fn private_key(section: &mut Section<'_>, key: &'static str) -> Option<PathBuf> {
    let path = checked(section, key, |content| {
        PrivateKeyDer::from_pem_slice(content)
            .map(|_| ())
            .map_err(|_| Problem::rule("the file must hold a private key in PEM"))
    })?;
    warn_if_others_read(section, key, &path);
    Some(path)
}

/// A file that must hold a JSON object.
pub(super) fn json_object(section: &mut Section<'_>, key: &'static str) -> Option<PathBuf> {
    checked(section, key, |content| {
        serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(content)
            .map(|_| ())
            .map_err(|_| Problem::rule("the file must hold a JSON object"))
    })
}

/// A file with a secret of at least so many bytes, which others should not read. One
/// newline at its end does not count.
pub(super) fn secret(section: &mut Section<'_>, key: &'static str, least: usize) -> Option<PathBuf> {
    let path = section.path(key)?;
    secret_at(section, key, path, least)
}

/// As [`secret`], for a path that the key does not tell by itself.
pub(super) fn secret_at(
    section: &Section<'_>,
    key: &'static str,
    path: PathBuf,
    least: usize,
) -> Option<PathBuf> {
    match read(&path) {
        Ok(content) => {
            if let Err(problem) = check_secret(&content, least) {
                section.fault(key, problem);
                return None;
            }
        }
        Err(error) => {
            section.fault(key, Problem::Unreadable(error.kind()));
            return None;
        }
    }
    warn_if_others_read(section, key, &path);
    Some(path)
}

/// Whether a secret is there, is text, and is long enough.
pub(super) fn check_secret(content: &[u8], least: usize) -> Result<(), Problem> {
    let content = content.strip_suffix(b"\n").unwrap_or(content);
    let content = content.strip_suffix(b"\r").unwrap_or(content);
    if std::str::from_utf8(content).is_err() {
        Err(Problem::rule("the secret must be UTF-8 text"))
    } else if content.iter().all(u8::is_ascii_whitespace) {
        Err(Problem::rule("the secret is empty"))
    } else if content.len() < least {
        Err(Problem::rule(format!("the secret is too short: at least {least} bytes are wanted")))
    } else {
        Ok(())
    }
}

fn checked(
    section: &mut Section<'_>,
    key: &'static str,
    check: impl FnOnce(&[u8]) -> Result<(), Problem>,
) -> Option<PathBuf> {
    let path = section.path(key)?;
    read(&path)
        .map_err(|error| Problem::Unreadable(error.kind()))
        .and_then(|content| check(&content))
        .map_err(|problem| section.fault(key, problem))
        .ok()?;
    if others_may_write(&path) {
        section.warning(key, "every user of this machine can change the file; chmod it to 0644");
    }
    Some(path)
}

fn read(path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    fs::read(path).map(Zeroizing::new)
}

/// Bits of a file's mode.
const OTHERS_MAY_READ: u32 = 0o004;
const OTHERS_MAY_WRITE: u32 = 0o002;

/// Whether every user of this machine can change the file.
pub(super) fn others_may_write(path: &Path) -> bool {
    is_open_to_others(path, OTHERS_MAY_WRITE)
}

fn is_open_to_others(path: &Path, bit: u32) -> bool {
    fs::metadata(path).is_ok_and(|file| file.is_file() && file.permissions().mode() & bit != 0)
}

fn warn_if_others_read(section: &Section<'_>, key: &str, path: &Path) {
    if is_open_to_others(path, OTHERS_MAY_READ) {
        section.warning(key, "every user of this machine can read the file; chmod it to 0400");
    }
}
