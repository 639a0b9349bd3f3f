//! Takes over changed TLS files while the server runs.
//!
//! By looking at the contents: a Kubernetes secret changes by a symbolic link two
//! folders up, which a watch on the file does not see. A new version that cannot be
//! used is refused as a whole, and the last good one stays.

use std::fmt;

use tokio::{task::spawn_blocking, time::sleep};

use super::{
    Current, Settings, TlsError,
    files::{CERTIFICATE, CLIENT_CA, Contents, Fingerprint},
};
use crate::telemetry::metrics::Metrics;

/// What was seen at the last looks at the files.
pub(crate) struct Reload {
    settings: Settings,
    current: Current,
    in_use: Fingerprint,
    /// Seen at the last look; acted upon only when seen twice, since files that are
    /// being written change from look to look.
    last: Seen,
    /// Refused already, and told so.
    refused: Option<Seen>,
}

/// What one look at the files showed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Seen {
    Unreadable,
    Version(Fingerprint),
}

impl Reload {
    /// Reads the files for the first time: an error here is one at start. Blocks.
    pub(crate) fn start(settings: Settings) -> Result<Self, TlsError> {
        let contents = Contents::read(&settings)?;
        let current = Current::new(contents.configuration(&settings)?);
        let in_use = contents.fingerprint();
        Ok(Self { settings, current, in_use, last: Seen::Version(in_use), refused: None })
    }

    /// What handshakes use.
    pub(crate) fn current(&self) -> Current {
        self.current.clone()
    }

    /// Looks at the files again and again.
    pub(crate) async fn run(mut self, metrics: Metrics) {
        for what in self.followed() {
            metrics.loaded(what);
        }
        loop {
            sleep(self.settings.poll_interval).await;
            let settings = self.settings.clone();
            // Reading files may block on a slow disk.
            if let Ok(contents) = spawn_blocking(move || Contents::read(&settings)).await {
                self.look(contents, &metrics);
            }
        }
    }

    /// What the files are of.
    fn followed(&self) -> &'static [&'static str] {
        if self.settings.client_auth.ca_file().is_some() { &[CERTIFICATE, CLIENT_CA] } else { &[CERTIFICATE] }
    }

    /// Only what has changed was reloaded; nothing is failing any more.
    fn taken_over(&mut self, version: Fingerprint, metrics: &Metrics) {
        for what in self.followed() {
            if version.of(what) == self.in_use.of(what) {
                metrics.reload_mended(what);
            } else {
                metrics.reload(what, true);
            }
        }
        self.in_use = version;
    }

    fn look(&mut self, contents: Result<Contents, TlsError>, metrics: &Metrics) {
        let seen = match &contents {
            Ok(contents) => Seen::Version(contents.fingerprint()),
            Err(_) => Seen::Unreadable,
        };
        let settled = std::mem::replace(&mut self.last, seen) == seen;
        if seen == Seen::Version(self.in_use) {
            if self.refused.take().is_some() {
                for what in self.followed() {
                    metrics.reload_mended(what);
                }
            }
            return;
        }
        if !settled || self.refused == Some(seen) {
            return;
        }
        let private_key_is_open = contents.as_ref().is_ok_and(Contents::private_key_is_open);
        match contents.and_then(|contents| contents.configuration(&self.settings)) {
            Ok(config) => {
                self.current.replace(config);
                if let Seen::Version(version) = seen {
                    self.taken_over(version, metrics);
                }
                self.refused = None;
                tracing::info!("the TLS files have changed and are in use for new connections");
                if private_key_is_open {
                    tracing::warn!(
                        file.path = %self.settings.private_key_file.display(),
                        "every user of this machine can read the new private key's file"
                    );
                }
            }
            Err(error) => {
                self.refused = Some(seen);
                metrics.reload(error.what(&self.settings.client_auth), false);
                tracing::error!(
                    error = %error,
                    cause = std::error::Error::source(&error).map(tracing::field::display),
                    "the new TLS files cannot be used; the last good ones stay"
                );
            }
        }
    }
}

impl fmt::Debug for Reload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reload").field("settings", &self.settings).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
