//! Reads an API client's secret, and follows a file that is rotated.
//!
//! [`client_secret`](crate::secret::client_secret) decides which secrets are valid. Files are
//! read on blocking threads, not on those that serve calls.

use std::{
    io,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use tokio::{sync::watch, task::spawn_blocking, time::sleep};

use crate::{
    clock::WallClock,
    secret::client_secret::{ClientSecret, InvalidSecret, SecretFile},
    telemetry::metrics::ApiClientMetrics,
};

/// How often a secret's file is read. A changed secret is used once two readings in a row
/// agree, so after twice this time, and a half-written file is not used.
pub(super) const POLL_INTERVAL: Duration = Duration::from_secs(3);

/// The same at start, when there is no secret in use yet.
const FIRST_INTERVAL: Duration = Duration::from_millis(4);

/// At start, a file that nobody has written to for this long is used at the first reading.
/// Twice the coarsest time stamp of a common file system.
const SETTLED_AFTER: Duration = Duration::from_secs(4);

/// Source of an API client's secret.
#[derive(Clone, Debug)]
pub enum SecretSource {
    /// A file, which is polled: a new secret is used within 10 seconds, whether the file was
    /// rewritten, replaced by a rename, or is behind a symbolic link that was swapped. For a
    /// systemd credential, the path below `$CREDENTIALS_DIRECTORY`.
    File(PathBuf),
    /// A secret that never changes: from an environment variable.
    Fixed(ClientSecret),
}

/// The secret, as far as it is known.
#[derive(Clone, Debug)]
pub(super) enum Loaded {
    /// Nothing has been read yet.
    Pending,
    /// No secret could be read since the start.
    Unreadable(InvalidSecret),
    /// The secret to use. Kept if the file can no longer be read.
    Ready(ClientSecret),
}

impl SecretSource {
    /// Publishes the secret, and each new one. Never returns.
    pub(super) async fn follow(
        self,
        api_client: &str,
        loaded: watch::Sender<Loaded>,
        metrics: ApiClientMetrics,
        wall: WallClock,
    ) {
        match self {
            Self::File(path) => Follower::new(path, api_client, &loaded, metrics, wall).run().await,
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
    wall: WallClock,
    in_use: Option<ClientSecret>,
    /// Read once. Used when the next reading agrees.
    candidate: Option<SecretFile>,
    warned: Option<InvalidSecret>,
    warned_readable_by_others: bool,
}

impl<'a> Follower<'a> {
    const fn new(
        path: PathBuf,
        api_client: &'a str,
        loaded: &'a watch::Sender<Loaded>,
        metrics: ApiClientMetrics,
        wall: WallClock,
    ) -> Self {
        Self {
            path,
            api_client,
            loaded,
            metrics,
            wall,
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
                Err(why) => self.cannot_read(why),
            }
            let first = self.in_use.is_none() && self.candidate.is_some();
            sleep(if first { FIRST_INTERVAL } else { POLL_INTERVAL }).await;
        }
    }

    fn consider(&mut self, reading: SecretFile) {
        let recovered = self.warned.take().is_some();
        self.warn_if_readable_by_others(reading.readable_by_others);
        if self.in_use.as_ref().is_some_and(|secret| secret.expose() == reading.secret.expose()) {
            self.candidate = None;
            if recovered {
                self.metrics.client_secret_recovered();
            }
        } else if self.is_whole(&reading) {
            self.candidate = None;
            self.use_secret(reading.secret);
        } else {
            self.candidate = Some(reading);
        }
    }

    /// Returns whether the file has probably been written in full.
    fn is_whole(&self, reading: &SecretFile) -> bool {
        match &self.candidate {
            Some(candidate) => agree(candidate, reading),
            None => self.in_use.is_none() && is_settled(reading, self.wall.now()),
        }
    }

    fn use_secret(&mut self, secret: ClientSecret) {
        if self.in_use.is_some() {
            tracing::info!(api_client.name = self.api_client, "new client secret read");
            // Those of the first secret were reported with the configuration.
            for doubt in secret.doubts() {
                tracing::warn!(
                    api_client.name = self.api_client,
                    file.path = %self.path.display(),
                    warning = doubt.text(),
                    "new client secret is doubtful"
                );
            }
            self.metrics.client_secret_reload(true);
        } else {
            self.metrics.client_secret_loaded();
        }
        self.in_use = Some(secret.clone());
        self.loaded.send_replace(Loaded::Ready(secret));
    }

    fn cannot_read(&mut self, why: InvalidSecret) {
        self.candidate = None;
        if self.warned != Some(why) {
            self.warned = Some(why);
            self.metrics.client_secret_reload(false);
            if self.in_use.is_some() {
                tracing::warn!(
                    api_client.name = self.api_client,
                    file.path = %self.path.display(),
                    error = %why,
                    "cannot read new client secret, keeping the current one"
                );
            } else {
                tracing::error!(
                    api_client.name = self.api_client,
                    file.path = %self.path.display(),
                    error = %why,
                    "cannot read client secret"
                );
            }
        }
        if self.in_use.is_none() {
            self.loaded.send_if_modified(|loaded| {
                let changed = !matches!(loaded, Loaded::Unreadable(known) if *known == why);
                *loaded = Loaded::Unreadable(why);
                changed
            });
        }
    }

    fn warn_if_readable_by_others(&mut self, readable: bool) {
        if readable && !self.warned_readable_by_others {
            tracing::warn!(
                api_client.name = self.api_client,
                file.path = %self.path.display(),
                "client secret file is readable by every user"
            );
        }
        self.warned_readable_by_others = readable;
    }
}

/// Returns whether the file did not change between two readings.
fn agree(earlier: &SecretFile, later: &SecretFile) -> bool {
    earlier.inode == later.inode
        && earlier.modified == later.modified
        && earlier.secret.expose() == later.secret.expose()
}

/// Returns whether the last write to the file is so long ago that it was probably the last
/// one.
fn is_settled(reading: &SecretFile, now: SystemTime) -> bool {
    let age = reading.modified.and_then(|modified| now.duration_since(modified).ok());
    age.is_some_and(|age| age >= SETTLED_AFTER)
}

#[expect(clippy::disallowed_methods, reason = "in a duty: a panic restarts it")]
async fn read(path: PathBuf) -> Result<SecretFile, InvalidSecret> {
    let failed = InvalidSecret::Unreadable(io::ErrorKind::Other);
    spawn_blocking(move || SecretFile::read(&path)).await.unwrap_or(Err(failed))
}
