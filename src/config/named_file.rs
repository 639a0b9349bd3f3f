//! Checks the files that the configuration names, so that a missing or invalid one fails at
//! start and not at the first call.
//!
//! The contents are not kept: the module that uses a file reads it, and rereads it on changes.

use std::path::{Path, PathBuf};

use super::{
    finding::{Problem, absolute, unreadable},
    section::Section,
};
use crate::{
    base::{
        clock::WallClock,
        files::{self, Contents, Exposure, ReadError},
        pki::{Authorities, CertificateChain, InvalidFile, PrivateKey, ServerIdentity, Warning},
        secret::{
            client_secret::{ClientSecret, InvalidSecret, StoredSecret},
            hmac_key,
        },
    },
    caller::check_jwks,
    token_binding::{StoredKeys, UnusableKeys},
};

/// Reads a file of CA certificates in PEM. Warns about those that peers or the gateway refuse.
pub(super) fn authorities(section: &mut Section<'_>, key: &'static str) -> Option<PathBuf> {
    let (path, authorities) = checked(section, key, |content| Ok(Authorities::parse(content)?))?;
    warn(section, key, &authorities.warnings(WallClock::system().now()));
    Some(path)
}

/// Reads the server's certificate chain in PEM, leaf first. Warns about problems that make
/// clients refuse it.
pub(super) fn certificate_chain(
    section: &mut Section<'_>,
    key: &'static str,
) -> Option<(PathBuf, CertificateChain)> {
    let (path, chain) = checked(section, key, |content| Ok(CertificateChain::parse(content)?))?;
    warn(section, key, &chain.warnings(WallClock::system().now()));
    Some((path, chain))
}

fn warn(section: &Section<'_>, key: &'static str, warnings: &[Warning]) {
    for warning in warnings {
        section.warning(key, warning.to_string());
    }
}

/// Reads a private key in PEM. Warns if other users can read the file.
pub(super) fn private_key(section: &mut Section<'_>, key: &'static str) -> Option<(PathBuf, PrivateKey)> {
    checked_secret(section, key, |content| Ok(PrivateKey::parse(content)?))
}

/// Checks that the private key matches the server's certificate.
pub(super) fn check_pair(
    section: &Section<'_>,
    key: &'static str,
    chain: CertificateChain,
    private_key: &PrivateKey,
) {
    if let Err(why) = ServerIdentity::new(chain, private_key) {
        section.error(key, Problem::rule(why.to_string()));
    }
}

/// Reads a JWT issuer's key set.
pub(super) fn jwks(section: &mut Section<'_>, key: &'static str) -> Option<PathBuf> {
    let check = |content: &[u8]| check_jwks(content).map_err(|error| Problem::rule(error.to_string()));
    let (path, ()) = checked(section, key, check)?;
    Some(path)
}

/// Reads an HMAC key. Warns if other users can read the file.
pub(super) fn hmac_key(section: &mut Section<'_>, key: &'static str) -> Option<PathBuf> {
    let check = |content: &[u8]| hmac_key::check(content).map_err(|error| Problem::rule(error.to_string()));
    let (path, ()) = checked_secret(section, key, check)?;
    Some(path)
}

/// Checks a client secret file at the resolved `path`. Warns if other users can read it.
pub(super) fn client_secret(section: &Section<'_>, key: &'static str, path: PathBuf) -> Option<PathBuf> {
    match StoredSecret::read(&path) {
        Ok(file) => {
            warn_of_doubts(section, key, &file.secret);
            warn_of_exposure(section, key, file.exposure, Contains::Secret);
            Some(path)
        }
        Err(InvalidSecret::Unreadable(kind)) => {
            section.error(key, Problem::Unreadable(unreadable(&path, kind)));
            None
        }
        Err(why) => {
            section.error(key, why.into());
            None
        }
    }
}

/// Reads the keys of sealed tokens. Warns if other users can read the file.
pub(super) fn token_keys(section: &mut Section<'_>, key: &'static str) -> Option<PathBuf> {
    let path = section.path(key)?;
    match StoredKeys::read(&path) {
        Ok(stored) => {
            warn_of_exposure(section, key, stored.exposure, Contains::Secret);
            return Some(path);
        }
        Err(UnusableKeys::Unreadable(error)) => section.error(key, Problem::of_file(&path, error)),
        Err(UnusableKeys::Invalid(why)) => section.error(key, Problem::rule(why.to_string())),
    }
    None
}

/// Warns about probable mistakes in a client secret.
pub(super) fn warn_of_doubts(section: &Section<'_>, key: &'static str, secret: &ClientSecret) {
    for doubt in secret.doubts() {
        section.warning(key, doubt.text());
    }
}

impl From<InvalidSecret> for Problem {
    fn from(why: InvalidSecret) -> Self {
        match why {
            InvalidSecret::NoResult | InvalidSecret::NoThread => Self::Unanswered(why.to_string().into()),
            other => Self::rule(other.to_string()),
        }
    }
}

impl From<InvalidFile> for Problem {
    fn from(why: InvalidFile) -> Self {
        Self::rule(why.to_string())
    }
}

impl From<ReadError> for Problem {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::NoResult(why) => Self::Unanswered(why.to_string().into()),
            ReadError::Io(_) => Self::Unreadable(error.to_string()),
            other => Self::rule(other.to_string()),
        }
    }
}

impl Problem {
    /// Returns the problem of a file that cannot be read, with its absolute path.
    fn of_file(path: &Path, error: ReadError) -> Self {
        match error {
            ReadError::Io(error) => Self::Unreadable(unreadable(path, error.kind())),
            ReadError::NoResult(_) => error.into(),
            ReadError::NotRegular | ReadError::TooLarge(_) => {
                Self::rule(format!("{}: {error}", absolute(path).display()))
            }
        }
    }
}

/// Returns the path of a file and its parsed contents.
fn checked<T>(
    section: &mut Section<'_>,
    key: &'static str,
    parse: impl FnOnce(&[u8]) -> Result<T, Problem>,
) -> Option<(PathBuf, T)> {
    read_and_parse(section, key, parse, Contains::NoSecret)
}

/// Like [`checked`], and warns if other users can read the file.
fn checked_secret<T>(
    section: &mut Section<'_>,
    key: &'static str,
    parse: impl FnOnce(&[u8]) -> Result<T, Problem>,
) -> Option<(PathBuf, T)> {
    read_and_parse(section, key, parse, Contains::Secret)
}

fn read_and_parse<T>(
    section: &mut Section<'_>,
    key: &'static str,
    parse: impl FnOnce(&[u8]) -> Result<T, Problem>,
    contains: Contains,
) -> Option<(PathBuf, T)> {
    let path = section.path(key)?;
    let (parsed, exposure) = read(&path)
        .and_then(|contents| Ok((parse(&contents.bytes)?, contents.exposure)))
        .map_err(|problem| section.error(key, problem))
        .ok()?;
    warn_of_exposure(section, key, exposure, contains);
    Some((path, parsed))
}

/// Whether a file contains a secret that other users must not read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Contains {
    Secret,
    NoSecret,
}

fn warn_of_exposure(section: &Section<'_>, key: &'static str, exposure: Exposure, contains: Contains) {
    let Exposure { readable, writable, replaceable } = exposure;
    match contains {
        Contains::Secret if writable => {
            section.warning(key, "every user of this machine can change the file; chmod it to 0400");
        }
        Contains::Secret if readable => {
            section.warning(key, "every user of this machine can read the file; chmod it to 0400");
        }
        Contains::NoSecret if writable => {
            section.warning(key, "every user of this machine can change the file; chmod it to 0644");
        }
        Contains::Secret | Contains::NoSecret => {}
    }
    if replaceable {
        section.warning(
            key,
            "every user of this machine can replace the file, because its folder is writable by all; chmod the \
             folder to 0755",
        );
    }
}

/// Reads a file named in the configuration.
fn read(path: &Path) -> Result<Contents, Problem> {
    files::read(path, files::MAX_BYTES).map_err(|error| Problem::of_file(path, error))
}
