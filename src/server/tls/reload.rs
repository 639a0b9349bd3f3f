//! Reloads changed TLS files while the server runs.
//!
//! Certificate and private key are followed as a pair, and the client CAs separately: withdrawing
//! an authority must work even while the certificate cannot be reloaded. A new version that cannot
//! be used is refused, and the last valid one stays in use.
//!
//! A certificate that is not valid now is only a warning at startup and in `check-config`, because
//! there is no other one to use. For the same reason, it replaces one that is not valid now either.
//! While the one in use is valid, it is refused with the text of that warning, and tried again at
//! every poll.

use std::{
    convert::Infallible,
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use super::{
    ClientAuth, Current, Settings, TlsError,
    expiry::Expiry,
    files::{self, Pair},
};
use crate::{
    base::{
        clock::WallClock,
        files::{FollowedFile, Follower, Outcomes, Parser, PollError, load},
        pki::Authorities,
    },
    observe::telemetry::metrics::{Certificate, Metrics, ReloadMetrics, Reloaded},
};

/// TLS files that were read at startup, and are followed from then on.
pub(crate) struct Reload {
    settings: Settings,
    current: Current,
    clock: WallClock,
    /// `Some` until the files are followed.
    initial: Option<Initial>,
    followers: Option<(Follower<PairFiles>, Option<Follower<ClientCaFile>>)>,
}

/// The contents of the files at startup.
struct Initial {
    pair: Pair,
    client_cas: Option<(PathBuf, Authorities)>,
}

impl Reload {
    /// Reads the files for the first time; an error is a startup error. Blocks for at most twice
    /// [`READ_TIMEOUT`](crate::base::files::READ_TIMEOUT).
    pub(crate) fn start(settings: Settings) -> Result<Self, TlsError> {
        let client_auth = &settings.client_auth;
        let pair = read_once(&pair_name(&settings), pair_parser(&settings))?;
        let client_cas = match client_auth.ca_file() {
            Some(file) => Some((file.clone(), read_once(&file.display().to_string(), ca_parser(file))?)),
            None => None,
        };
        let authorities = client_cas.as_ref().map(|(_, authorities)| authorities);
        let current = Current::new(pair.identity.clone(), client_auth, authorities)?;
        let initial = Some(Initial { pair, client_cas });
        Ok(Self { settings, current, clock: WallClock::system(), initial, followers: None })
    }

    /// Returns the configuration that handshakes use.
    pub(crate) fn current(&self) -> Current {
        self.current.clone()
    }

    /// Follows the files. Never returns.
    pub(crate) async fn run(&mut self, metrics: &Metrics) -> Infallible {
        if let Some(initial) = self.initial.take() {
            self.followers = Some(self.followers(initial, metrics));
        }
        match &mut self.followers {
            Some((pair, Some(client_cas))) => {
                let (never, _) = tokio::join!(pair.run(), client_cas.run());
                never
            }
            Some((pair, None)) => pair.run().await,
            // Unreachable: `followers` is set when `initial` is taken.
            None => std::future::pending().await,
        }
    }

    fn followers(
        &self,
        Initial { pair, client_cas }: Initial,
        metrics: &Metrics,
    ) -> (Follower<PairFiles>, Option<Follower<ClientCaFile>>) {
        let Self { settings, current, clock, .. } = self;
        let (settings, current, clock) = (settings.clone(), current.clone(), clock.clone());
        let interval = settings.poll_interval;
        let (client_auth, ca_current) = (settings.client_auth.clone(), current.clone());
        let files = PairFiles::new(settings, current, &pair, metrics, &clock);
        let pair = Follower::new(files, Some(pair), clock.clone()).poll_every(interval);
        let client_cas = client_cas.map(|(path, client_cas)| {
            let file = ClientCaFile::new(path, client_auth, ca_current, &client_cas, metrics, &clock);
            Follower::new(file, Some(client_cas), clock).poll_every(interval)
        });
        (pair, client_cas)
    }
}

impl fmt::Debug for Reload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reload").field("settings", &self.settings).finish_non_exhaustive()
    }
}

fn read_once<T: Send + 'static>(name: &str, parser: Parser<T, TlsError>) -> Result<T, TlsError> {
    load(name, parser).map_err(|error| match error {
        PollError::Refused(error) => error,
        PollError::NoResult(error) => TlsError::Unreadable { file: name.into(), error: error.into() },
        PollError::KeepsChanging => {
            TlsError::Unreadable { file: name.into(), error: io::Error::other(error.to_string()).into() }
        }
    })
}

fn pair_name(settings: &Settings) -> String {
    format!("{}, {}", settings.certificate_file.display(), settings.private_key_file.display())
}

fn pair_parser(settings: &Settings) -> Parser<Pair, TlsError> {
    let (chain, key) = (settings.certificate_file.clone(), settings.private_key_file.clone());
    Arc::new(move |reader| Pair::read(reader, &chain, &key))
}

fn ca_parser(file: &Path) -> Parser<Authorities, TlsError> {
    let file = file.to_owned();
    Arc::new(move |reader| files::client_cas(reader, &file))
}

/// Certificate and private key.
struct PairFiles {
    settings: Settings,
    current: Current,
    expiry: Expiry,
    metrics: Metrics,
    reloads: ReloadMetrics,
    clock: WallClock,
}

impl PairFiles {
    /// `pair` is already in use, valid or not.
    fn new(settings: Settings, current: Current, pair: &Pair, metrics: &Metrics, clock: &WallClock) -> Self {
        let (file, chain) = (&settings.certificate_file, pair.identity.chain());
        Self {
            expiry: Expiry::new(Certificate::Server, file, chain.validities(), clock.now()),
            settings,
            current,
            metrics: metrics.clone(),
            reloads: metrics.reloads(Reloaded::Certificate, ""),
            clock: clock.clone(),
        }
    }
}

impl FollowedFile for PairFiles {
    type Value = Pair;
    type Error = TlsError;

    fn name(&self) -> Arc<str> {
        pair_name(&self.settings).into()
    }

    fn parser(&self) -> Parser<Pair, TlsError> {
        pair_parser(&self.settings)
    }

    fn outcomes(&self) -> &dyn Outcomes {
        &self.reloads
    }

    fn apply(&mut self, new: &Pair, old: Option<&Pair>) -> Result<(), TlsError> {
        let now = self.clock.now();
        let (file, chain) = (&self.settings.certificate_file, new.identity.chain());
        if let Some(warning) = chain.not_valid_now(now)
            && old.is_some_and(|old| old.identity.chain().not_valid_now(now).is_none())
        {
            return Err(TlsError::NotValidNow { file: file.clone(), warning });
        }
        let expiry = Expiry::new(Certificate::Server, file, chain.validities(), now);
        self.current.replace_identity(new.identity.clone())?;
        tracing::info!(file.path = %file.display(), "TLS certificate reloaded for new connections");
        files::warn(file, &chain.warnings(now));
        if new.key_is_open {
            tracing::warn!(
                file.path = %self.settings.private_key_file.display(),
                "new private key file is readable by every user"
            );
        }
        follow(&mut self.expiry, expiry, now, &self.metrics);
        Ok(())
    }

    fn refused(&mut self, error: &PollError<TlsError>, _: Option<&Pair>) {
        refused(&pair_name(&self.settings), error);
    }

    fn polled(&mut self, _: Option<&Pair>) {
        self.expiry.follow(self.clock.now(), &self.metrics);
    }
}

/// The authorities of client certificates.
struct ClientCaFile {
    path: PathBuf,
    client_auth: ClientAuth,
    current: Current,
    expiry: Expiry,
    metrics: Metrics,
    reloads: ReloadMetrics,
    clock: WallClock,
}

impl ClientCaFile {
    /// `client_cas` are already in use.
    fn new(
        path: PathBuf,
        client_auth: ClientAuth,
        current: Current,
        client_cas: &Authorities,
        metrics: &Metrics,
        clock: &WallClock,
    ) -> Self {
        Self {
            expiry: Expiry::new(Certificate::ClientCa, &path, client_cas.validities(), clock.now()),
            path,
            client_auth,
            current,
            metrics: metrics.clone(),
            reloads: metrics.reloads(Reloaded::ClientCa, ""),
            clock: clock.clone(),
        }
    }
}

impl FollowedFile for ClientCaFile {
    type Value = Authorities;
    type Error = TlsError;

    fn name(&self) -> Arc<str> {
        self.path.display().to_string().into()
    }

    fn parser(&self) -> Parser<Authorities, TlsError> {
        ca_parser(&self.path)
    }

    fn outcomes(&self) -> &dyn Outcomes {
        &self.reloads
    }

    fn apply(&mut self, new: &Authorities, _: Option<&Authorities>) -> Result<(), TlsError> {
        let now = self.clock.now();
        // Replaced even if none of the new ones is valid now, because removed authorities must not
        // be trusted any more.
        let expiry = Expiry::new(Certificate::ClientCa, &self.path, new.validities(), now);
        self.current.replace_client_cas(&self.client_auth, new)?;
        tracing::info!(
            file.path = %self.path.display(),
            certificates = new.count(),
            "client authorities reloaded, verifying open connections again"
        );
        files::warn(&self.path, &new.warnings(now));
        follow(&mut self.expiry, expiry, now, &self.metrics);
        Ok(())
    }

    fn refused(&mut self, error: &PollError<TlsError>, _: Option<&Authorities>) {
        refused(&self.path.display().to_string(), error);
    }

    fn polled(&mut self, _: Option<&Authorities>) {
        self.expiry.follow(self.clock.now(), &self.metrics);
    }
}

/// Follows the validity of a new version from now on.
fn follow(current: &mut Expiry, new: Expiry, now: SystemTime, metrics: &Metrics) {
    *current = new;
    current.warn();
    current.follow(now, metrics);
}

fn refused(files: &str, error: &PollError<TlsError>) {
    let cause = match error {
        PollError::Refused(error) => std::error::Error::source(error),
        PollError::NoResult(_) | PollError::KeepsChanging => None,
    };
    tracing::error!(
        file.path = files,
        %error,
        cause = cause.map(tracing::field::display),
        "new TLS files refused, keeping the current ones"
    );
}

#[cfg(test)]
mod tests;
