//! Takes over changed TLS files while the server runs.
//!
//! By comparing the contents: a Kubernetes secret changes by a symbolic link two folders up,
//! which a watch on the file does not see. A new version that cannot be used, or whose
//! certificate is not valid now, is refused as a whole, and the last good one stays. It is tried
//! again at every poll, because a certificate that is not valid yet will be.

use std::{fmt, sync::Arc};

use rustls::ServerConfig;
use tokio::{task::spawn_blocking, time::sleep};

use super::{
    Current, Settings, TlsError,
    expiry::Expiry,
    files::{CERTIFICATE, CLIENT_CA, Contents, Fingerprint, Parsed},
};
use crate::{
    clock::WallClock,
    files::Outcomes,
    telemetry::metrics::{Metrics, Reloaded},
};

/// What was seen at the last looks at the files.
pub(crate) struct Reload {
    settings: Settings,
    current: Current,
    in_use: Fingerprint,
    /// Seen at the last look; acted upon only when seen twice, since files that are
    /// being written change from look to look.
    last: Seen,
    /// The version that was refused last and why, so that it is counted and logged once.
    refused: Option<(Seen, String)>,
    expiry: Expiry,
    clock: WallClock,
}

/// A new version, ready for use.
struct Prepared {
    config: Arc<ServerConfig>,
    parsed: Parsed,
    expiry: Expiry,
    version: Fingerprint,
    private_key_is_open: bool,
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
        let clock = WallClock::system();
        // One that is not valid is better than no gateway; the configuration warns of it.
        let expiry = Expiry::new(&settings, contents.validities(&settings)?, clock.now());
        Ok(Self { settings, current, in_use, last: Seen::Version(in_use), refused: None, expiry, clock })
    }

    /// What handshakes use.
    pub(crate) fn current(&self) -> Current {
        self.current.clone()
    }

    /// Looks at the files again and again.
    pub(crate) async fn run(mut self, metrics: Metrics) {
        for &what in self.followed() {
            metrics.reloads(what, "").loaded();
        }
        loop {
            self.expiry.follow(self.clock.now(), &metrics);
            sleep(self.settings.poll_interval).await;
            let settings = self.settings.clone();
            // Reading files may block on a slow disk.
            if let Ok(contents) = spawn_blocking(move || Contents::read(&settings)).await {
                self.look(contents, &metrics);
            }
        }
    }

    /// What the files are of.
    fn followed(&self) -> &'static [Reloaded] {
        if self.settings.client_auth.ca_file().is_some() { &[CERTIFICATE, CLIENT_CA] } else { &[CERTIFICATE] }
    }

    /// Only what has changed was reloaded; nothing is failing any more.
    fn taken_over(&mut self, version: Fingerprint, metrics: &Metrics) {
        for &what in self.followed() {
            if version.of(what) == self.in_use.of(what) {
                metrics.reloads(what, "").recovered();
            } else {
                metrics.reloads(what, "").reloaded(true);
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
                for &what in self.followed() {
                    metrics.reloads(what, "").recovered();
                }
            }
            return;
        }
        if !settled {
            return;
        }
        match contents.and_then(|contents| self.prepare(&contents)) {
            Ok(new) => self.put_into_use(new, metrics),
            Err(error) => self.refuse(seen, &error, metrics),
        }
    }

    /// Makes everything that can be refused.
    fn prepare(&self, contents: &Contents) -> Result<Prepared, TlsError> {
        let parsed = contents.parse(&self.settings)?;
        let config = parsed.configuration(&self.settings.client_auth)?;
        let expiry = Expiry::new(&self.settings, parsed.validities(), self.clock.now());
        expiry.check()?;
        let private_key_is_open = contents.private_key_is_open();
        let version = contents.fingerprint();
        Ok(Prepared { config, parsed, expiry, version, private_key_is_open })
    }

    fn put_into_use(&mut self, new: Prepared, metrics: &Metrics) {
        self.current.replace(new.config);
        self.taken_over(new.version, metrics);
        self.expiry = new.expiry;
        self.refused = None;
        tracing::info!("TLS files reloaded for new connections");
        self.expiry.warn();
        new.parsed.warn(&self.settings, self.clock.now());
        if new.private_key_is_open {
            tracing::warn!(
                file.path = %self.settings.private_key_file.display(),
                "every user of this machine can read the new private key's file"
            );
        }
    }

    fn refuse(&mut self, seen: Seen, error: &TlsError, metrics: &Metrics) {
        let refused = Some((seen, error.to_string()));
        if self.refused == refused {
            return;
        }
        self.refused = refused;
        metrics.reloads(error.what(&self.settings.client_auth), "").reloaded(false);
        tracing::error!(
            error = %error,
            cause = std::error::Error::source(error).map(tracing::field::display),
            "new TLS files refused, keeping the current ones"
        );
    }
}

impl fmt::Debug for Reload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reload").field("settings", &self.settings).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
