//! Reads the secret of an API client, and follows a file that is rotated.
//!
//! [`client_secret`] validates secrets.

use std::{path::PathBuf, sync::Arc};

use tokio::sync::watch;

use crate::{
    base::{
        clock::WallClock,
        files::{FollowedFile, Follower, Outcomes, Parser, PollError},
        secret::client_secret::{self, ClientSecret, InvalidSecret, StoredSecret},
    },
    observe::telemetry::metrics::ReloadMetrics,
};

/// Source of an API client's secret.
#[derive(Clone, Debug)]
pub enum SecretSource {
    /// `client_secret_file`: a polled file. A new secret is used within 10 seconds, whether the
    /// file was rewritten, replaced by a rename, or reached through a symbolic link that was
    /// swapped.
    File(PathBuf),
    /// `client_secret_credential`: the file of that name in `$CREDENTIALS_DIRECTORY`, the directory
    /// of systemd credentials. It is polled too.
    Credential(PathBuf),
    /// `client_secret_env`: a secret that never changes, from an environment variable.
    Fixed(ClientSecret),
}

impl PartialEq for SecretSource {
    /// Compares the places. An environment variable cannot change while the process runs.
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::File(path), Self::File(other)) | (Self::Credential(path), Self::Credential(other)) => {
                path == other
            }
            (Self::Fixed(_), Self::Fixed(_)) => true,
            _ => false,
        }
    }
}

impl Eq for SecretSource {}

/// Result of reading the secret.
#[derive(Clone, Debug)]
pub(super) enum Loaded {
    /// Nothing has been read yet.
    Pending,
    /// No secret has been read since the start.
    Unreadable(Arc<str>),
    /// The secret to use. Kept if the file can no longer be read.
    Ready(ClientSecret),
}

impl SecretSource {
    /// Publishes the secret and each later one. Never returns.
    pub(super) async fn follow(
        self,
        api_client: Arc<str>,
        loaded: watch::Sender<Loaded>,
        reloads: ReloadMetrics,
        wall: WallClock,
    ) {
        match self {
            Self::File(path) | Self::Credential(path) => {
                let file = SecretFile { path, api_client, loaded, reloads, warned_readable_by_others: false };
                match Follower::new(file, None, wall).run().await {}
            }
            Self::Fixed(secret) => {
                loaded.send_replace(Loaded::Ready(secret));
                std::future::pending::<()>().await;
            }
        }
    }
}

/// File of a client secret.
struct SecretFile {
    path: PathBuf,
    api_client: Arc<str>,
    loaded: watch::Sender<Loaded>,
    reloads: ReloadMetrics,
    warned_readable_by_others: bool,
}

impl FollowedFile for SecretFile {
    type Value = StoredSecret;
    type Error = InvalidSecret;

    fn name(&self) -> Arc<str> {
        self.path.display().to_string().into()
    }

    fn parser(&self) -> Parser<StoredSecret, InvalidSecret> {
        let path = self.path.clone();
        Arc::new(move |reader| StoredSecret::parse(&reader.read(&path, client_secret::MAX_BYTES)?))
    }

    fn outcomes(&self) -> &dyn Outcomes {
        &self.reloads
    }

    fn apply(&mut self, new: &StoredSecret, old: Option<&StoredSecret>) -> Result<(), InvalidSecret> {
        if old.is_some() {
            tracing::info!(api_client.name = &*self.api_client, "new client secret read");
            // Warnings about the first secret were reported with the configuration.
            for doubt in new.secret.doubts() {
                tracing::warn!(
                    api_client.name = &*self.api_client,
                    file.path = %self.path.display(),
                    warning = doubt.text(),
                    "new client secret looks wrong"
                );
            }
        }
        self.loaded.send_replace(Loaded::Ready(new.secret.clone()));
        Ok(())
    }

    fn refused(&mut self, error: &PollError<InvalidSecret>, in_use: Option<&StoredSecret>) {
        if in_use.is_some() {
            tracing::warn!(
                api_client.name = &*self.api_client,
                file.path = %self.path.display(),
                %error,
                "cannot read new client secret, keeping the current one"
            );
        } else {
            tracing::error!(
                api_client.name = &*self.api_client,
                file.path = %self.path.display(),
                %error,
                "cannot read client secret"
            );
            self.loaded.send_replace(Loaded::Unreadable(error.to_string().into()));
        }
    }

    fn polled(&mut self, seen: Option<&StoredSecret>) {
        let Some(seen) = seen else { return };
        if seen.exposure.readable && !self.warned_readable_by_others {
            tracing::warn!(
                api_client.name = &*self.api_client,
                file.path = %self.path.display(),
                "client secret file is readable by every user"
            );
        }
        self.warned_readable_by_others = seen.exposure.readable;
    }
}
