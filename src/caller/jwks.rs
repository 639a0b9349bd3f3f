//! An issuer's public keys, kept fresh.
//!
//! [`KeyRing`] is what verification looks at; [`JwksRefresh`] is the one task that changes
//! it. Keys are only ever replaced by a set that has some: a failed fetch or a broken
//! file leaves the last good ones.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwapOption;
use jsonwebtoken::Algorithm;
use tokio::{
    io::AsyncReadExt as _,
    sync::{Notify, watch},
    time::{sleep, timeout},
};
use url::Url;

use super::key_set::{JwksFault, KeySet, Lookup, MAX_JWKS_BYTES};
use crate::{
    backoff::Backoff,
    clock::{self, Instant},
    telemetry::metrics::Metrics,
};

/// How often the keys are fetched when nobody asks for an unknown one.
const REFETCH_INTERVAL: Duration = Duration::from_mins(5);
/// Between two fetches that unknown keys cause. Anyone can make up an unknown key: this
/// keeps a flood of them away from the issuer.
const UNKNOWN_KEY_FLOOR: Duration = Duration::from_secs(10);
/// How long one fetch may take, body included.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);
/// After failed fetches.
const BACKOFF: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));
/// How often a key file is looked at; a change must be in use within 10 seconds.
const FILE_POLL_INTERVAL: Duration = Duration::from_secs(5);

/// Makes the HTTP client for fetching keys; called for each fetch, so that it may be
/// replaced. It must not follow redirects.
pub type HttpClientSource = Arc<dyn Fn() -> reqwest::Client + Send + Sync>;

/// Where an issuer's keys are.
#[derive(Clone)]
pub enum JwksSource {
    /// In a file, which may be replaced at any time.
    File(PathBuf),
    /// On the network.
    Url {
        /// https; http only on a loopback host.
        url: Url,
        /// What fetches them.
        http: HttpClientSource,
    },
}

impl std::fmt::Debug for JwksSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Url { url, .. } => f.debug_tuple("Url").field(&url.as_str()).finish(),
        }
    }
}

/// Why keys were not fetched.
#[derive(Debug, thiserror::Error)]
enum FetchFault {
    #[error("no complete answer within 5 seconds")]
    Timeout,
    #[error("the request failed: {0}")]
    Transport(#[source] reqwest::Error),
    #[error("the answer has the HTTP status {0}")]
    Status(u16),
    #[error("the file cannot be read: {0}")]
    File(#[source] std::io::Error),
    #[error(transparent)]
    Jwks(#[from] JwksFault),
}

/// An issuer's keys as last seen, and the way to ask for newer ones.
#[derive(Debug)]
pub(super) struct KeyRing {
    keys: ArcSwapOption<KeySet>,
    /// None for a file: it is looked at often enough.
    demand: Option<Demand>,
}

/// Brings those who miss a key together with the task that fetches.
#[derive(Debug)]
struct Demand {
    state: Mutex<DemandState>,
    wanted: Notify,
    /// Counts the fetches that have ended.
    ended: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct DemandState {
    in_flight: bool,
    wanted: bool,
    last_started: Option<Instant>,
}

/// The task that keeps an issuer's keys fresh.
pub struct JwksRefresh {
    ring: Arc<KeyRing>,
    source: JwksSource,
    metrics: Metrics,
}

/// What a key file was like when it was last looked at.
#[derive(Debug, Default)]
struct SeenFile {
    content: Option<Vec<u8>>,
    failures: u32,
}

impl KeyRing {
    /// Keys that never change.
    #[cfg(test)]
    pub(super) fn fixed(json: &[u8]) -> Arc<Self> {
        Arc::new(Self { keys: ArcSwapOption::from_pointee(KeySet::parse(json).unwrap()), demand: None })
    }

    /// What there is for a token with this algorithm and key id.
    pub(super) fn find(&self, algorithm: Algorithm, id: Option<&str>) -> Lookup {
        self.keys.load().as_ref().map_or(Lookup::NoKeysYet, |keys| keys.find(algorithm, id))
    }

    /// Waits for a fetch: the one under way, or a new one if the last is long enough
    /// ago. False at once if there will be none.
    pub(super) async fn fetched_again(&self) -> bool {
        let Some(mut ended) = self.demand.as_ref().and_then(Demand::join) else { return false };
        timeout(FETCH_TIMEOUT + Duration::from_secs(1), ended.changed()).await.is_ok_and(|seen| seen.is_ok())
    }
}

impl Demand {
    fn new() -> Self {
        Self { state: Mutex::default(), wanted: Notify::new(), ended: watch::Sender::new(0) }
    }

    fn join(&self) -> Option<watch::Receiver<u64>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if !state.in_flight {
            if state.last_started.is_some_and(|started| started.elapsed() < UNKNOWN_KEY_FLOOR) {
                return None;
            }
            state.in_flight = true;
            state.wanted = true;
            state.last_started = Some(clock::now());
            self.wanted.notify_one();
        }
        // Under the lock, so that the fetch cannot end in between.
        Some(self.ended.subscribe())
    }

    fn begin(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        *state = DemandState { in_flight: true, wanted: false, last_started: Some(clock::now()) };
    }

    fn end(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.in_flight = false;
        self.ended.send_modify(|count| *count += 1);
    }

    /// Returns once somebody wants a fetch that has not begun.
    async fn wanted(&self) {
        while !self.state.lock().unwrap_or_else(PoisonError::into_inner).wanted {
            self.wanted.notified().await;
        }
    }
}

impl JwksRefresh {
    /// A file is read at once, so that a wrong one is found at start; a URL is fetched
    /// when the task runs.
    pub(super) fn start(
        source: JwksSource,
        metrics: Metrics,
    ) -> Result<(Arc<KeyRing>, Self), super::InvalidSettings> {
        let ring = match &source {
            JwksSource::File(path) => {
                let invalid = |fault| super::InvalidSettings::Jwks { path: path.clone(), fault };
                let json = std::fs::read(path)
                    .map_err(|source| super::InvalidSettings::JwksFile { path: path.clone(), source })?;
                let keys = KeySet::parse(&json).map_err(invalid)?;
                KeyRing { keys: ArcSwapOption::from_pointee(keys), demand: None }
            }
            JwksSource::Url { url, .. } => {
                if !is_safe(url) {
                    return Err(super::InvalidSettings::JwksUrl);
                }
                KeyRing { keys: ArcSwapOption::empty(), demand: Some(Demand::new()) }
            }
        };
        let ring = Arc::new(ring);
        Ok((Arc::clone(&ring), Self { ring, source, metrics }))
    }

    /// Runs for ever; dropping it stops the refresh, and the keys stay as they are.
    pub async fn run(self) {
        match (&self.source, &self.ring.demand) {
            (JwksSource::Url { url, http }, Some(demand)) => self.follow_url(url, http, demand).await,
            (JwksSource::File(path), _) => self.follow_file(path).await,
            (JwksSource::Url { .. }, None) => {}
        }
    }

    async fn follow_url(&self, url: &Url, http: &HttpClientSource, demand: &Demand) {
        let mut failures = 0;
        loop {
            demand.begin();
            let fetched = fetch(&http(), url).await;
            let is_ok = fetched.is_ok();
            self.take(fetched, failures);
            demand.end();
            failures = if is_ok { 0 } else { failures + 1 };
            let wait = if is_ok {
                REFETCH_INTERVAL
            } else {
                BACKOFF.full_jitter(failures).max(Duration::from_millis(500))
            };
            tokio::select! {
                () = sleep(wait) => {}
                () = demand.wanted() => {}
            }
        }
    }

    async fn follow_file(&self, path: &Path) {
        let mut seen = SeenFile::default();
        loop {
            self.look_at(path, &mut seen).await;
            sleep(FILE_POLL_INTERVAL).await;
        }
    }

    /// Takes the file's keys if it has changed since it was last seen.
    async fn look_at(&self, path: &Path, seen: &mut SeenFile) {
        let json = read(path).await;
        if json.is_ok() && json.as_ref().ok() == seen.content.as_ref() {
            return;
        }
        seen.content = json.as_ref().ok().cloned();
        let keys = json.and_then(|json| Ok(KeySet::parse(&json)?));
        let is_ok = keys.is_ok();
        self.take(keys, seen.failures);
        seen.failures = if is_ok { 0 } else { seen.failures + 1 };
    }

    /// Puts good keys into use, and keeps the last good ones otherwise. Of failures in
    /// a row every power of two is logged.
    fn take(&self, keys: Result<KeySet, FetchFault>, failures_before: u32) {
        self.metrics.reload("jwks", keys.is_ok());
        match keys {
            Ok(keys) => {
                if failures_before > 0 || self.ring.keys.load().is_none() {
                    tracing::info!(keys = keys.len(), "the JWT issuer's keys are loaded");
                }
                self.ring.keys.store(Some(Arc::new(keys)));
            }
            Err(fault) if (failures_before + 1).is_power_of_two() => {
                let failures = failures_before + 1;
                if self.ring.keys.load().is_some() {
                    tracing::warn!(
                        error = %fault,
                        failures,
                        "the JWT issuer's keys could not be refreshed; the last good ones stay in use"
                    );
                } else {
                    tracing::warn!(
                        error = %fault,
                        failures,
                        "the JWT issuer's keys could not be fetched: no JWT can be verified yet"
                    );
                }
            }
            Err(_) => {}
        }
    }
}

impl std::fmt::Debug for JwksRefresh {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JwksRefresh").field("source", &self.source).finish_non_exhaustive()
    }
}

/// https, or http that stays on this machine; no user name or password.
fn is_safe(url: &Url) -> bool {
    let is_loopback = match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost",
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    };
    url.username().is_empty()
        && url.password().is_none()
        && (url.scheme() == "https" || (url.scheme() == "http" && is_loopback))
}

async fn fetch(http: &reqwest::Client, url: &Url) -> Result<KeySet, FetchFault> {
    let fetching = async {
        let transport = |error: reqwest::Error| FetchFault::Transport(error.without_url());
        let mut answer = http.get(url.clone()).send().await.map_err(transport)?;
        if answer.status() != reqwest::StatusCode::OK {
            return Err(FetchFault::Status(answer.status().as_u16()));
        }
        let mut json = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(transport)? {
            if json.len() + chunk.len() > MAX_JWKS_BYTES {
                return Err(JwksFault::TooLarge.into());
            }
            json.extend_from_slice(&chunk);
        }
        Ok(KeySet::parse(&json)?)
    };
    timeout(FETCH_TIMEOUT, fetching).await.unwrap_or(Err(FetchFault::Timeout))
}

async fn read(path: &Path) -> Result<Vec<u8>, FetchFault> {
    let mut json = Vec::new();
    let file = tokio::fs::File::open(path).await.map_err(FetchFault::File)?;
    let bound = u64::try_from(MAX_JWKS_BYTES).unwrap_or(u64::MAX).saturating_add(1);
    file.take(bound).read_to_end(&mut json).await.map_err(FetchFault::File)?;
    Ok(json)
}

#[cfg(test)]
mod tests;
