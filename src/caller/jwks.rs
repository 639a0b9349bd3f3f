//! Fetches an issuer's public keys and keeps them fresh.
//!
//! Verification uses [`KeyRing`], and the task [`JwksRefresh`] updates it. Keys are replaced only
//! by a set with usable keys: after a failed fetch or with an invalid file, the last valid ones
//! stay in use. Keys from a URL are not accepted beyond a maximum age, because a key that the
//! issuer has withdrawn must not stay valid indefinitely while the issuer is unreachable.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwapOption;
use jsonwebtoken::Algorithm;
use tokio::time::{sleep, timeout};
use url::Url;

mod demand;
mod file;

use self::demand::Demand;
pub use self::demand::KeyFetchError;
pub(super) use self::demand::{Freshness, KeyWaiters};
pub use self::file::JwksFileError;
use self::file::KeyFile;
use super::{
    InvalidSettings,
    key_set::{JwksError, KeySet, Lookup, MAX_JWKS_BYTES},
};
use crate::{
    base::{
        backoff::Backoff,
        clock::{self, Instant, WallClock},
        files::{Follower, Outcomes},
    },
    domain::call::PeerNetwork,
    http_client::{
        UnpooledClient,
        body::{self, BodyError},
        is_loopback,
    },
    observe::telemetry::metrics::JwksMetrics,
};

/// Interval between fetches when no call needs an unknown key.
const REFETCH_INTERVAL: Duration = Duration::from_mins(5);
/// Maximum time for one fetch, including the body.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);
/// Minimum delay after a failed fetch.
const MIN_RETRY_WAIT: Duration = Duration::from_millis(500);
/// Backoff after failed fetches.
const BACKOFF: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));

/// Source of an issuer's keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JwksSource {
    /// `jwks_file`: a file, which may be replaced at any time.
    File(PathBuf),
    /// `jwks_url`: a URL.
    Url(JwksUrl),
}

/// URL of an issuer's keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JwksUrl {
    /// `jwks_url`: the URL: https, or http on a loopback host.
    pub url: Url,
    /// `jwks_ca_file`: the only authorities trusted for the server's certificate, in PEM. `None`
    /// means the system's.
    pub ca_file: Option<PathBuf>,
    /// `jwks_max_age`: maximum age of the keys since the last successful fetch; 24 h, from 10 min
    /// to 30 days.
    pub max_age: Duration,
}

impl JwksUrl {
    /// Checks that the URL is https, or http on this machine.
    pub(super) fn check(&self) -> Result<(), InvalidSettings> {
        if is_safe(&self.url) { Ok(()) } else { Err(InvalidSettings::JwksUrl) }
    }
}

/// Error of a fetch.
#[derive(Debug, thiserror::Error)]
enum FetchError {
    #[error("no complete response within 5 seconds")]
    Timeout,
    #[error("the request failed: {0}")]
    Transport(String),
    #[error("the issuer responded with HTTP status {0}")]
    Status(u16),
    #[error(transparent)]
    Jwks(#[from] JwksError),
}

/// An issuer's current keys, and the means to request newer ones.
#[derive(Debug)]
pub(super) struct KeyRing {
    keys: ArcSwapOption<CurrentKeys>,
    /// `None` for a file.
    max_age: Option<Duration>,
    clock: WallClock,
    /// `None` for a file, which is polled often enough.
    demand: Option<Demand>,
}

/// Keys, and their fetch time by both clocks: the monotonic clock does not advance during suspend,
/// and the wall clock can be set back.
#[derive(Debug)]
struct CurrentKeys {
    keys: KeySet,
    generation: KeyGeneration,
    fetched: (Instant, SystemTime),
}

/// Identifies a version of an issuer's keys. Fetching the same keys again does not change it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct KeyGeneration(u64);

/// The task that keeps an issuer's keys fresh.
pub struct JwksRefresh {
    ring: Arc<KeyRing>,
    source: Source,
    seen: SourceState,
    /// Whether the log has reported that the keys are too old.
    too_old: bool,
    metrics: JwksMetrics,
}

/// The source of the keys, opened.
enum Source {
    File(Box<Follower<KeyFile>>),
    Url { url: Url, http: UnpooledClient },
}

/// The last contents of the source, and its failures.
#[derive(Debug, Default)]
struct SourceState {
    /// The JSON of the keys in use.
    in_use: Option<Vec<u8>>,
    /// The JSON that was refused last, since the keys in use were loaded.
    refused: Option<Vec<u8>>,
    /// Consecutive failures.
    failures: u32,
}

impl KeyRing {
    fn new(max_age: Option<Duration>, demand: Option<Demand>) -> Self {
        Self { keys: ArcSwapOption::empty(), max_age, clock: WallClock::system(), demand }
    }

    /// Replaces the keys. Called by one task only.
    fn keep(&self, keys: KeySet) {
        let generation = match self.keys.load().as_ref() {
            None => KeyGeneration(0),
            Some(kept) if kept.keys == keys => kept.generation,
            Some(kept) => KeyGeneration(kept.generation.0 + 1),
        };
        let fetched = (clock::now(), self.clock.now());
        self.keys.store(Some(Arc::new(CurrentKeys { keys, generation, fetched })));
    }

    /// Returns whether there are keys that were fetched too long ago.
    fn is_too_old(&self) -> bool {
        self.keys.load().as_ref().is_some_and(|kept| self.are_too_old(kept))
    }

    fn are_too_old(&self, kept: &CurrentKeys) -> bool {
        let Some(max_age) = self.max_age else { return false };
        let (monotonic, wall) = kept.fetched;
        let by_wall = self.clock.now().duration_since(wall).unwrap_or_default();
        monotonic.elapsed().max(by_wall) > max_age
    }

    /// Creates a key ring whose keys only a test changes.
    #[cfg(test)]
    pub(super) fn fixed(json: &[u8], max_age: Option<Duration>) -> Arc<Self> {
        let ring = Self::new(max_age, None);
        ring.replace(json);
        Arc::new(ring)
    }

    #[cfg(test)]
    pub(super) fn replace(&self, json: &[u8]) {
        self.keep(KeySet::parse(json).unwrap());
    }

    /// Looks up the key for an algorithm and a key id, and returns it with the generation of the
    /// keys.
    pub(super) fn find(&self, algorithm: Algorithm, id: Option<&str>) -> (Lookup, Option<KeyGeneration>) {
        match self.keys.load().as_ref() {
            None => (Lookup::NoKeysYet, None),
            Some(kept) if self.are_too_old(kept) => (Lookup::TooOld, None),
            Some(kept) => (kept.keys.find(algorithm, id), Some(kept.generation)),
        }
    }

    /// Returns the generation of the keys, or `None` if there are no keys or they are too old.
    pub(super) fn generation(&self) -> Option<KeyGeneration> {
        self.keys.load().as_ref().filter(|kept| !self.are_too_old(kept)).map(|kept| kept.generation)
    }

    /// Waits for newer keys, for a token whose key is unknown: at most a second, and only if there
    /// is a place for its peer. Returns at once if no fetch is due or the last one failed.
    pub(super) async fn refreshed(
        &self,
        waiters: &KeyWaiters,
        network: Option<PeerNetwork>,
    ) -> Result<Freshness, KeyFetchError> {
        match &self.demand {
            Some(demand) => demand.refreshed(waiters, network).await,
            None => Ok(Freshness::Recent),
        }
    }
}

impl JwksRefresh {
    /// Creates a refresh from a file. Reads it at once, so that an invalid file is a startup error.
    pub(super) fn from_file(
        path: PathBuf,
        metrics: JwksMetrics,
    ) -> Result<(Arc<KeyRing>, Self), InvalidSettings> {
        let ring = Arc::new(KeyRing::new(None, None));
        let file = KeyFile::start(path, Arc::clone(&ring), metrics.clone())?;
        Ok(Self::new(ring, Source::File(Box::new(file)), metrics))
    }

    /// Creates a refresh from a URL, which is fetched when the task runs.
    pub(super) fn from_url(
        source: &JwksUrl,
        http: UnpooledClient,
        metrics: JwksMetrics,
    ) -> (Arc<KeyRing>, Self) {
        metrics.expired(false);
        let ring = Arc::new(KeyRing::new(Some(source.max_age), Some(Demand::new())));
        Self::new(ring, Source::Url { url: source.url.clone(), http }, metrics)
    }

    fn new(ring: Arc<KeyRing>, source: Source, metrics: JwksMetrics) -> (Arc<KeyRing>, Self) {
        let refresh =
            Self { ring: Arc::clone(&ring), source, seen: SourceState::default(), too_old: false, metrics };
        (ring, refresh)
    }

    /// Returns the name of the keys' issuer.
    #[must_use]
    pub fn issuer(&self) -> &str {
        self.metrics.issuer()
    }

    /// Keeps the keys fresh. Never returns. Dropping the future stops the refresh, and the keys
    /// stay as they are.
    pub async fn run(&mut self) {
        let (url, http) = match &mut self.source {
            Source::File(file) => match file.run().await {},
            Source::Url { url, http } => (url.clone(), http.clone()),
        };
        let ring = Arc::clone(&self.ring);
        if let Some(demand) = &ring.demand {
            self.follow_url(&url, &http, demand).await;
        }
    }

    async fn follow_url(&mut self, url: &Url, http: &UnpooledClient, demand: &Demand) {
        loop {
            demand.begin();
            let fetched = fetch(http, url).await;
            self.take(fetched);
            demand.end(self.seen.failures > 0);
            tokio::select! {
                () = sleep(next_fetch(self.seen.failures)) => {}
                () = demand.wanted() => {}
            }
        }
    }

    /// Puts valid keys into use, or keeps the last valid ones.
    fn take(&mut self, json: Result<Vec<u8>, FetchError>) {
        match json {
            Ok(json) => match KeySet::parse(&json) {
                Ok(keys) => self.put_into_use(json, keys),
                Err(error) => self.refuse(Some(json), &error.into()),
            },
            Err(error) => self.refuse(None, &error),
        }
    }

    fn put_into_use(&mut self, json: Vec<u8>, keys: KeySet) {
        let has_recovered = self.seen.failures > 0;
        let changed = self.seen.in_use.as_ref() != Some(&json);
        if self.seen.in_use.is_none() {
            self.metrics.reloads.loaded();
        } else if changed {
            self.metrics.reloads.reloaded(true);
        } else if has_recovered {
            self.metrics.reloads.recovered();
        }
        if changed || has_recovered {
            tracing::info!(jwt.issuer = self.metrics.issuer(), keys = keys.len(), "JWT keys loaded");
        }
        self.ring.keep(keys);
        if std::mem::take(&mut self.too_old) {
            self.metrics.expired(false);
        }
        self.seen = SourceState { in_use: Some(json), refused: None, failures: 0 };
    }

    /// Records a failure. Of consecutive failures, the first one and each new invalid content is
    /// counted, and every power of two is logged.
    fn refuse(&mut self, json: Option<Vec<u8>>, error: &FetchError) {
        let another = json.is_some() && json != self.seen.refused;
        if self.seen.failures == 0 || another {
            self.metrics.reloads.reloaded(false);
        }
        self.seen.refused = json.or_else(|| self.seen.refused.take());
        self.seen.failures = self.seen.failures.saturating_add(1);
        let failures = self.seen.failures;
        if !self.too_old && self.ring.is_too_old() {
            self.too_old = true;
            self.metrics.expired(true);
            tracing::error!(
                jwt.issuer = self.metrics.issuer(),
                %error,
                failures,
                "JWT keys are older than jwks_max_age, refusing all JWTs of the issuer"
            );
        } else if failures.is_power_of_two() {
            tracing::warn!(
                jwt.issuer = self.metrics.issuer(),
                %error,
                failures,
                keys_in_use = self.seen.in_use.is_some() && !self.too_old,
                "cannot refresh JWT keys"
            );
        }
    }
}

impl std::fmt::Debug for JwksRefresh {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let source: &dyn std::fmt::Debug = match &self.source {
            Source::File(file) => &file.name(),
            Source::Url { url, .. } => &url.as_str(),
        };
        f.debug_struct("JwksRefresh").field("source", source).finish_non_exhaustive()
    }
}

/// Returns whether a URL is https, or http on this machine, without a user name or a password.
fn is_safe(url: &Url) -> bool {
    url.username().is_empty()
        && url.password().is_none()
        && (url.scheme() == "https" || (url.scheme() == "http" && is_loopback(url)))
}

/// Returns the delay before the next fetch, after `failures` consecutive failures.
fn next_fetch(failures: u32) -> Duration {
    match failures {
        0 => REFETCH_INTERVAL,
        failures => BACKOFF.full_jitter(failures).max(MIN_RETRY_WAIT),
    }
}

async fn fetch(http: &UnpooledClient, url: &Url) -> Result<Vec<u8>, FetchError> {
    let fetching = async {
        let mut response = match http.get(url.clone()).await {
            Ok(response) => response,
            Err(error) => return Err(FetchError::Transport(http.cause_of(&error).await)),
        };
        if response.status() != reqwest::StatusCode::OK {
            return Err(FetchError::Status(response.status().as_u16()));
        }
        let mut json = body::read(&mut response, MAX_JWKS_BYTES).await.map_err(|error| match error {
            BodyError::TooLarge { .. } => FetchError::Jwks(JwksError::TooLarge),
            cut_off @ BodyError::CutOff { .. } => FetchError::Transport(cut_off.to_string()),
        })?;
        // Public keys need not be wiped.
        Ok(std::mem::take(&mut *json))
    };
    timeout(FETCH_TIMEOUT, fetching).await.unwrap_or_else(|_| {
        let lookup = http.unanswered_lookup();
        Err(lookup.map_or(FetchError::Timeout, |error| FetchError::Transport(error.to_string())))
    })
}

#[cfg(test)]
mod tests;
