//! Follows a file with an issuer's keys.

use std::{path::PathBuf, sync::Arc};

use super::KeyRing;
use crate::{
    base::{
        clock::WallClock,
        files::{self, FollowedFile, Follower, Outcomes, Parser, PollError, ReadError},
    },
    caller::{
        InvalidSettings,
        key_set::{JwksError, KeySet},
    },
    observe::telemetry::metrics::JwksMetrics,
};

/// Reason that a key file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JwksFileError {
    /// The file cannot be read.
    #[error(transparent)]
    Unreadable(#[from] ReadError),
    /// The file has no usable keys.
    #[error(transparent)]
    Jwks(#[from] JwksError),
}

/// A key file, and the key ring that it feeds.
pub(super) struct KeyFile {
    path: PathBuf,
    ring: Arc<KeyRing>,
    metrics: JwksMetrics,
}

impl KeyFile {
    /// Reads the file for the first time, so that an invalid file is a startup error. Blocks.
    pub(super) fn start(
        path: PathBuf,
        ring: Arc<KeyRing>,
        metrics: JwksMetrics,
    ) -> Result<Follower<Self>, InvalidSettings> {
        let file = Self { path, ring, metrics };
        let keys = files::load(&file.name(), file.parser())
            .map_err(|error| InvalidSettings::JwksFile { path: file.path.clone(), error })?;
        file.ring.keep(keys.clone());
        Ok(Follower::new(file, Some(keys), WallClock::system()))
    }
}

impl FollowedFile for KeyFile {
    type Value = KeySet;
    type Error = JwksFileError;

    fn name(&self) -> Arc<str> {
        self.path.display().to_string().into()
    }

    fn parser(&self) -> Parser<KeySet, JwksFileError> {
        let path = self.path.clone();
        // Read with the same limit as in `check-config`. The limit of a key set applies to its
        // contents.
        Arc::new(move |reader| Ok(KeySet::parse(&reader.read(&path, files::MAX_BYTES)?.bytes)?))
    }

    fn outcomes(&self) -> &dyn Outcomes {
        &self.metrics.reloads
    }

    fn apply(&mut self, new: &KeySet, _: Option<&KeySet>) -> Result<(), JwksFileError> {
        self.ring.keep(new.clone());
        tracing::info!(
            jwt.issuer = self.metrics.issuer(),
            file.path = %self.path.display(),
            keys = new.len(),
            "JWT keys loaded"
        );
        Ok(())
    }

    fn refused(&mut self, error: &PollError<JwksFileError>, _: Option<&KeySet>) {
        tracing::warn!(
            jwt.issuer = self.metrics.issuer(),
            file.path = %self.path.display(),
            %error,
            keys_in_use = true,
            "cannot refresh JWT keys"
        );
    }
}
