//! Starts token binding with the configured keys.

use std::sync::Arc;

use super::StartError;
use crate::{
    base::{
        clock::WallClock,
        files::{Follower, Trigger},
    },
    observe::telemetry::metrics::Metrics,
    token_binding::{KeyFile, KeySource, StoredKeys, TokenBinding},
};

/// Token binding, and the follower of its keys.
pub(super) struct TokenKeys {
    pub(super) token_binding: TokenBinding,
    /// `None` if there are no keys, or they never change.
    pub(super) follower: Option<Follower<KeyFile>>,
}

impl TokenKeys {
    /// Reads the keys, if any are configured.
    pub(super) fn read(source: Option<&KeySource>, metrics: &Metrics) -> Result<Self, StartError> {
        let wall = WallClock::system();
        Ok(match source {
            None => Self { token_binding: TokenBinding::without_keys(), follower: None },
            Some(KeySource::Fixed(keys)) => {
                Self { token_binding: TokenBinding::new(Arc::clone(keys), wall), follower: None }
            }
            Some(KeySource::File(path)) => {
                let (token_binding, follower) = KeyFile::open(path.clone(), metrics, wall)
                    .map_err(|error| StartError::TokenKeys(path.clone(), error))?;
                Self { token_binding, follower: Some(follower) }
            }
        })
    }

    /// Returns the trigger that reads the keys at once, if they are in a file.
    pub(super) fn reload(&self) -> Option<Trigger> {
        self.follower.as_ref().map(Follower::trigger)
    }
}

/// Checks that the keys can be read, if any are configured.
pub(super) fn check(source: Option<&KeySource>) -> Result<(), StartError> {
    if let Some(KeySource::File(path)) = source {
        StoredKeys::read(path).map_err(|error| StartError::TokenKeys(path.clone(), error))?;
    }
    Ok(())
}
