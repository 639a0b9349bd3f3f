//! Where an API client's secret comes from, and following a file that is rotated.
//!
//! Nothing here knows what the secret is for. Files are read away from the threads that
//! serve calls.

use std::{
    fs, io,
    io::Read,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use tokio::{sync::watch, task::spawn_blocking, time::sleep};
use zeroize::Zeroizing;

use crate::{secret::Secret, telemetry::metrics::ApiClientMetrics};

/// How often a secret's file is read. A change is used once two readings in a row agree,
/// so after twice this time, and half-written files are not used.
pub(super) const POLL_INTERVAL: Duration = Duration::from_secs(3);

/// The same at the start, when nothing is in use that could serve meanwhile.
const FIRST_INTERVAL: Duration = Duration::from_millis(100);

/// A longer file is no client secret.
const LONGEST_SECRET: usize = 64 * 1024;

/// Where an API client's secret is.
#[derive(Clone, Debug)]
pub enum SecretSource {
    /// In a file, read again and again: a new secret is picked up within 10 seconds,
    /// whether the file was rewritten, renamed over, or sits behind a symbolic link that
    /// was swapped. One newline at its end is not part of it. For a systemd credential,
    /// the path below `$CREDENTIALS_DIRECTORY`.
    File(PathBuf),
    /// Here, for good: from an environment variable. Not empty, or it is never used.
    Fixed(Secret),
}

/// What is known of the secret.
#[derive(Clone, Debug)]
pub(super) enum Loaded {
    /// Nothing has been read yet.
    Pending,
    /// There is none, and never was.
    Unreadable,
    /// The one to use. A file that can no longer be read does not take it away.
    Ready(Secret),
}

impl SecretSource {
    /// Tells the secret, and each new one. Never ends.
    pub(super) async fn follow(
        self,
        api_client: &str,
        loaded: watch::Sender<Loaded>,
        metrics: ApiClientMetrics,
    ) {
        match self {
            Self::File(path) => Follower::new(path, api_client, &loaded, metrics).run().await,
            Self::Fixed(secret) if secret.is_empty() => {
                tracing::error!(api_client.name = api_client, "the client secret is empty");
                loaded.send_replace(Loaded::Unreadable);
            }
            Self::Fixed(secret) => {
                loaded.send_replace(Loaded::Ready(secret));
            }
        }
        std::future::pending::<()>().await;
    }
}

struct Follower<'a> {
    path: PathBuf,
    api_client: &'a str,
    loaded: &'a watch::Sender<Loaded>,
    metrics: ApiClientMetrics,
    in_use: Option<Secret>,
    /// Seen once, and not yet believed.
    candidate: Option<Reading>,
    warned: Option<Unreadable>,
    warned_readable_by_others: bool,
}

impl<'a> Follower<'a> {
    const fn new(
        path: PathBuf,
        api_client: &'a str,
        loaded: &'a watch::Sender<Loaded>,
        metrics: ApiClientMetrics,
    ) -> Self {
        Self {
            path,
            api_client,
            loaded,
            metrics,
            in_use: None,
            candidate: None,
            warned: None,
            warned_readable_by_others: false,
        }
    }

    async fn run(mut self) {
        loop {
            match read(self.path.clone()).await {
                Ok(reading) => self.consider(reading),
                Err(why) => self.miss(why),
            }
            let first = self.in_use.is_none() && self.candidate.is_some();
            sleep(if first { FIRST_INTERVAL } else { POLL_INTERVAL }).await;
        }
    }

    fn consider(&mut self, reading: Reading) {
        let mended = self.warned.take().is_some();
        self.warn_if_readable_by_others(reading.readable_by_others);
        if self.in_use.as_ref().is_some_and(|secret| secret.expose() == reading.secret.expose()) {
            self.candidate = None;
            if mended {
                self.metrics.client_secret_mended();
            }
        } else if self.candidate.as_ref().is_some_and(|candidate| candidate.agrees_with(&reading)) {
            self.candidate = None;
            if self.in_use.is_some() {
                tracing::info!(
                    api_client.name = self.api_client,
                    "the client secret's file has a new secret"
                );
                self.metrics.client_secret_reload(true);
            } else {
                self.metrics.client_secret_loaded();
            }
            self.in_use = Some(reading.secret.clone());
            self.loaded.send_replace(Loaded::Ready(reading.secret));
        } else {
            self.candidate = Some(reading);
        }
    }

    fn miss(&mut self, why: Unreadable) {
        self.candidate = None;
        if self.warned != Some(why) {
            self.warned = Some(why);
            self.metrics.client_secret_reload(false);
            if self.in_use.is_some() {
                tracing::warn!(
                    api_client.name = self.api_client,
                    file.path = %self.path.display(),
                    error = %why,
                    "the client secret's file gives no secret: the last one stays in use"
                );
            } else {
                tracing::error!(
                    api_client.name = self.api_client,
                    file.path = %self.path.display(),
                    error = %why,
                    "the client secret's file gives no secret"
                );
            }
        }
        if self.in_use.is_none() {
            self.loaded.send_if_modified(|loaded| {
                let first = matches!(loaded, Loaded::Pending);
                *loaded = Loaded::Unreadable;
                first
            });
        }
    }

    fn warn_if_readable_by_others(&mut self, readable: bool) {
        if readable && !self.warned_readable_by_others {
            tracing::warn!(
                api_client.name = self.api_client,
                file.path = %self.path.display(),
                "every user of this machine can read the client secret's file"
            );
        }
        self.warned_readable_by_others = readable;
    }
}

/// One look at a secret's file.
struct Reading {
    secret: Secret,
    inode: u64,
    modified: Option<SystemTime>,
    readable_by_others: bool,
}

impl Reading {
    /// Whether the file was left alone in between.
    fn agrees_with(&self, later: &Self) -> bool {
        self.inode == later.inode
            && self.modified == later.modified
            && self.secret.expose() == later.secret.expose()
    }
}

/// Why a file gives no secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum Unreadable {
    #[error("it cannot be read: {0}")]
    Io(io::ErrorKind),
    #[error("it is no regular file")]
    NotAFile,
    #[error("it is longer than 64 KiB")]
    TooLong,
    #[error("it is empty")]
    Empty,
    #[error("it is not UTF-8 text")]
    NotText,
    #[error("it has a control character inside, such as a second line")]
    ControlCharacter,
}

async fn read(path: PathBuf) -> Result<Reading, Unreadable> {
    spawn_blocking(move || read_now(&path)).await.unwrap_or(Err(Unreadable::Io(io::ErrorKind::Other)))
}

fn read_now(path: &Path) -> Result<Reading, Unreadable> {
    let failed = |error: io::Error| Unreadable::Io(error.kind());
    // Looked at first: opening a pipe would wait for its writer.
    if !fs::metadata(path).map_err(failed)?.is_file() {
        return Err(Unreadable::NotAFile);
    }
    let file = fs::File::open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    let mut bytes = Zeroizing::new(Vec::with_capacity(LONGEST_SECRET + 1));
    file.take(LONGEST_SECRET as u64 + 1).read_to_end(&mut bytes).map_err(failed)?;
    Ok(Reading {
        secret: parse(&bytes)?,
        inode: inode(&metadata),
        modified: metadata.modified().ok(),
        readable_by_others: readable_by_others(&metadata),
    })
}

fn parse(bytes: &[u8]) -> Result<Secret, Unreadable> {
    if bytes.len() > LONGEST_SECRET {
        return Err(Unreadable::TooLong);
    }
    let text = std::str::from_utf8(bytes).map_err(|_| Unreadable::NotText)?;
    let text = text.strip_suffix('\n').map_or(text, |line| line.strip_suffix('\r').unwrap_or(line));
    if text.is_empty() {
        return Err(Unreadable::Empty);
    }
    // RFC 7617 forbids them in a password, and a second line is a slip.
    if text.chars().any(char::is_control) {
        return Err(Unreadable::ControlCharacter);
    }
    Ok(Secret::new(text.to_owned()))
}

#[cfg(unix)]
fn inode(metadata: &fs::Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::ino(metadata)
}

#[cfg(not(unix))]
const fn inode(_metadata: &fs::Metadata) -> u64 {
    0
}

#[cfg(unix)]
fn readable_by_others(metadata: &fs::Metadata) -> bool {
    std::os::unix::fs::MetadataExt::mode(metadata) & 0o004 != 0
}

#[cfg(not(unix))]
const fn readable_by_others(_metadata: &fs::Metadata) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_newline_at_the_end_is_not_part_of_the_secret() {
        for (content, secret) in [
            ("s3cret", "s3cret"),
            ("s3cret\n", "s3cret"),
            ("s3cret\r\n", "s3cret"),
            (" s3cret ", " s3cret "),
            ("p\u{e4}ss", "p\u{e4}ss"),
        ] {
            assert_eq!(
                parse(content.as_bytes()).map(|secret| secret.expose().to_owned()),
                Ok(secret.to_owned())
            );
        }
    }

    #[test]
    fn file_without_exactly_one_secret_is_refused() {
        for (content, why) in [
            (&b""[..], Unreadable::Empty),
            (b"\n", Unreadable::Empty),
            (b"s3cret\n\n", Unreadable::ControlCharacter),
            (b"one\ntwo\n", Unreadable::ControlCharacter),
            (b"s3\0cret", Unreadable::ControlCharacter),
            (b"\xff\xfe", Unreadable::NotText),
            (&vec![b'a'; LONGEST_SECRET + 1], Unreadable::TooLong),
        ] {
            assert_eq!(parse(content).err(), Some(why));
        }
    }

    #[test]
    fn what_is_no_regular_file_is_not_opened() {
        let directory = tempfile::tempdir().expect("a directory can be made");
        assert_eq!(read_now(directory.path()).err(), Some(Unreadable::NotAFile));
        assert_eq!(
            read_now(&directory.path().join("none")).err(),
            Some(Unreadable::Io(io::ErrorKind::NotFound))
        );
    }

    #[cfg(unix)]
    #[test]
    fn file_that_everyone_can_read_is_noticed() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().expect("a directory can be made");
        let path = directory.path().join("secret");
        fs::write(&path, "s3cret").expect("it can be written");
        for (mode, noticed) in [(0o600, false), (0o640, false), (0o644, true)] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("the mode can be set");
            assert_eq!(read_now(&path).map(|reading| reading.readable_by_others), Ok(noticed));
        }
    }
}
