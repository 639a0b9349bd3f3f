//! Reads the keys of sealed tokens from a file, and follows its changes.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{Keys, MAX_KEYS_BYTES, TokenBinding, keys::InvalidKeys};
use crate::{
    base::{
        clock::WallClock,
        files::{self, Contents, Exposure, FollowedFile, Follower, Outcomes, Parser, PollError, ReadError},
    },
    observe::telemetry::metrics::{Metrics, ReloadMetrics, Reloaded},
};

/// Source of the keys of sealed tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySource {
    /// `keys_file` of `[token_binding]`: a polled file. New keys are used within 10 seconds.
    File(PathBuf),
    /// Keys that never change and that no file contains, for the sandbox.
    Fixed(Arc<Keys>),
}

/// The keys in a file.
#[derive(Debug)]
pub struct StoredKeys {
    /// The keys.
    pub keys: Arc<Keys>,
    /// Access of every user of this machine to the file.
    pub exposure: Exposure,
}

/// Reason that the keys in a file cannot be used. Contains nothing of the file but numbers of lines.
#[derive(Debug, thiserror::Error)]
pub enum UnusableKeys {
    /// The file cannot be read.
    #[error(transparent)]
    Unreadable(#[from] ReadError),
    /// The contents are not keys.
    #[error(transparent)]
    Invalid(#[from] InvalidKeys),
}

impl StoredKeys {
    /// Reads a file once. Blocks for at most [`READ_TIMEOUT`](files::READ_TIMEOUT).
    ///
    /// # Errors
    ///
    /// The file cannot be read, or its contents are not keys.
    pub fn read(path: &Path) -> Result<Self, UnusableKeys> {
        Self::parse(&files::read(path, MAX_KEYS_BYTES)?)
    }

    fn parse(contents: &Contents) -> Result<Self, UnusableKeys> {
        let keys = Arc::new(Keys::parse(&contents.bytes)?);
        Ok(Self { keys, exposure: contents.exposure })
    }
}

/// Compares the keys, not the permissions of their files.
impl PartialEq for StoredKeys {
    fn eq(&self, other: &Self) -> bool {
        self.keys == other.keys
    }
}

/// The file with the keys of a [`TokenBinding`].
#[derive(Debug)]
pub struct KeyFile {
    path: PathBuf,
    token_binding: TokenBinding,
    reloads: ReloadMetrics,
    warned_readable_by_others: bool,
}

impl KeyFile {
    /// Reads the file. Returns token binding with its keys, and the follower that replaces them.
    ///
    /// # Errors
    ///
    /// The file cannot be read, or its contents are not keys.
    pub fn open(
        path: PathBuf,
        metrics: &Metrics,
        wall: WallClock,
    ) -> Result<(TokenBinding, Follower<Self>), UnusableKeys> {
        let stored = StoredKeys::read(&path)?;
        let token_binding = TokenBinding::new(Arc::clone(&stored.keys), wall.clone());
        let file = Self {
            path,
            token_binding: token_binding.clone(),
            reloads: metrics.reloads(Reloaded::TokenKeys, ""),
            // A warning about the first version was reported with the configuration.
            warned_readable_by_others: stored.exposure.readable,
        };
        file.report(&stored.keys);
        Ok((token_binding, Follower::new(file, Some(stored), wall)))
    }

    /// Logs the ids of the keys.
    fn report(&self, keys: &Keys) {
        tracing::info!(
            file.path = %self.path.display(),
            token_keys.sealing = keys.sealing().id(),
            token_keys.ids = keys.ids().collect::<Vec<_>>().join(", "),
            "token keys in use"
        );
    }

    /// Warns about a change that makes gateways refuse valid tokens: those of replicas that have not
    /// read the new file yet, or those that were sealed shortly before.
    fn warn_of_gap(new: &Keys, old: &Keys) {
        if !old.has(new.sealing()) {
            tracing::warn!(
                token_keys.sealing = new.sealing().id(),
                "new token key seals before every replica can open"
            );
        }
        if !new.has(old.sealing()) {
            tracing::warn!(
                token_keys.removed = old.sealing().id(),
                "token key removed while its tokens were valid"
            );
        }
    }
}

impl FollowedFile for KeyFile {
    type Value = StoredKeys;
    type Error = UnusableKeys;

    fn name(&self) -> Arc<str> {
        self.path.display().to_string().into()
    }

    fn parser(&self) -> Parser<StoredKeys, UnusableKeys> {
        let path = self.path.clone();
        Arc::new(move |reader| StoredKeys::parse(&reader.read(&path, MAX_KEYS_BYTES)?))
    }

    fn outcomes(&self) -> &dyn Outcomes {
        &self.reloads
    }

    fn apply(&mut self, new: &StoredKeys, old: Option<&StoredKeys>) -> Result<(), UnusableKeys> {
        self.token_binding.replace_keys(Arc::clone(&new.keys));
        self.report(&new.keys);
        if let Some(old) = old {
            Self::warn_of_gap(&new.keys, &old.keys);
        }
        Ok(())
    }

    fn refused(&mut self, error: &PollError<UnusableKeys>, _: Option<&StoredKeys>) {
        tracing::error!(
            file.path = %self.path.display(),
            %error,
            "new token keys refused, keeping the current ones"
        );
    }

    fn polled(&mut self, seen: Option<&StoredKeys>) {
        let Some(seen) = seen else { return };
        if seen.exposure.readable && !self.warned_readable_by_others {
            tracing::warn!(
                file.path = %self.path.display(),
                "token key file is readable by every user"
            );
        }
        self.warned_readable_by_others = seen.exposure.readable;
    }
}

#[cfg(test)]
mod tests;
