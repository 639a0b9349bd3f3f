//! The task that keeps the token fresh: when to ask for one, and how long to pause.
//!
//! It knows neither HTTP nor files: it asks a [`TokenExchange`], and is told the secret
//! by its [source](super::source). No outcome of either ends it.

use std::{future::pending, sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    time::{sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    CredentialError,
    access_token::{AccessToken, Fetched, Generation},
    exchange::{Failure, TokenExchange},
    progress::Shared,
    source::{Loaded, SecretSource},
};
use crate::{
    backoff::Backoff,
    clock::{self, Instant},
    secret::client_secret::ClientSecret,
    telemetry::metrics::{ApiClientMetrics, TokenRefresh},
};

/// A token request takes no longer, whatever keeps it.
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Token requests are at least so far apart, whatever leads to them.
pub(super) const REQUEST_FLOOR: Duration = Duration::from_secs(1);

/// From the beginning of a request that fails, the next one is no further away; with a
/// second for that request itself, calls succeed within 31 s of the platform healing.
pub(super) const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// What is added to the floor after a failure.
const BACKOFF: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(29));

/// How often the two clocks are compared.
pub(super) const CLOCK_CHECK_INTERVAL: Duration = Duration::from_secs(10);

/// The same failure is logged again after this time.
const LOG_INTERVAL: Duration = Duration::from_mins(1);

#[derive(Debug)]
pub(super) struct Task<X> {
    api_client: Arc<str>,
    source: SecretSource,
    exchange: X,
    metrics: ApiClientMetrics,
    shared: Arc<Shared>,
    generation: Generation,
    /// In a row.
    failures: u32,
    logged: Option<(CredentialError, Instant)>,
}

impl<X: TokenExchange> Task<X> {
    pub(super) fn new(
        api_client: Arc<str>,
        source: SecretSource,
        exchange: X,
        metrics: ApiClientMetrics,
        shared: Arc<Shared>,
    ) -> Self {
        Self {
            api_client,
            source,
            exchange,
            metrics,
            shared,
            generation: Generation::ZERO,
            failures: 0,
            logged: None,
        }
    }

    pub(super) async fn run(mut self, stop: CancellationToken) {
        let (loaded, secrets) = watch::channel(Loaded::Pending);
        let source = self.source.clone();
        let api_client = Arc::clone(&self.api_client);
        let (metrics, wall) = (self.metrics.clone(), self.shared.wall().clone());
        tokio::select! {
            () = stop.cancelled() => {}
            () = source.follow(&api_client, loaded, metrics, wall) => {}
            () = self.keep_fresh(secrets) => {}
        }
    }

    async fn keep_fresh(&mut self, mut secrets: watch::Receiver<Loaded>) {
        loop {
            let loaded = secrets.borrow_and_update().clone();
            match loaded {
                Loaded::Pending => changed(&mut secrets).await,
                Loaded::Unreadable(_) => {
                    // Its source has logged why.
                    self.shared.failed(CredentialError::SecretUnreadable, None);
                    changed(&mut secrets).await;
                }
                Loaded::Ready(secret) => {
                    self.shared.request_due();
                    let sent = clock::now();
                    let due = self.request(&secret, sent).await;
                    self.rest(due, &mut secrets).await;
                    self.shared.request_due();
                    sleep_until(sent + REQUEST_FLOOR).await;
                }
            }
        }
    }

    /// Asks for a token, and tells when to ask again.
    async fn request(&mut self, secret: &ClientSecret, sent: Instant) -> Instant {
        let sent_wall = self.shared.wall().now();
        let answer = match timeout(REQUEST_TIMEOUT, self.exchange.fetch(secret)).await {
            Ok(answer) => answer,
            Err(_) => Err(Failure::failing("no complete answer in time")),
        };
        match answer.and_then(|fetched| self.token(fetched, sent, sent_wall)) {
            Ok(token) => {
                let due = token.refresh_at();
                self.record_success(token);
                due
            }
            Err(failure) => {
                self.metrics.token_refresh(match failure.error {
                    CredentialError::Rejected => TokenRefresh::Rejected,
                    _ => TokenRefresh::Failed,
                });
                self.failures = self.failures.saturating_add(1);
                let due = next_request(self.failures, failure.retry_after, sent, clock::now());
                self.record_failure(failure, due);
                due
            }
        }
    }

    fn token(
        &self,
        fetched: Fetched,
        sent: Instant,
        sent_wall: std::time::SystemTime,
    ) -> Result<AccessToken, Failure> {
        let token = AccessToken::new(fetched, self.generation.next(), sent, sent_wall);
        if token.is_usable(clock::now(), self.shared.wall().now()) {
            Ok(token)
        } else {
            Err(Failure::failing("the token had expired on arrival"))
        }
    }

    /// Until the next token request: it is due, its secret has changed, a caller ordered
    /// it, or the clocks no longer agree.
    async fn rest(&mut self, due: Instant, secrets: &mut watch::Receiver<Loaded>) {
        loop {
            let wake = due.min(clock::now() + CLOCK_CHECK_INTERVAL);
            tokio::select! {
                () = changed(secrets) => {
                    // What the old secret has met says nothing about the new one.
                    self.failures = 0;
                    return;
                }
                () = self.shared.ordered() => return,
                () = sleep_until(wake) => {}
            }
            if clock::now() >= due {
                return;
            }
            // After a failure a request is due soon anyhow, and not earlier.
            if self.failures == 0 && self.clocks_disagree() {
                tracing::warn!(
                    api_client.name = %self.api_client,
                    "the wall clock was set, or the machine slept: fetching a new access token"
                );
                return;
            }
        }
    }

    fn clocks_disagree(&self) -> bool {
        let wall = self.shared.wall().now();
        self.shared.token().is_some_and(|token| token.clock_jumped(clock::now(), wall))
    }

    fn record_success(&mut self, token: AccessToken) {
        self.metrics.token_refresh(TokenRefresh::Fetched);
        self.metrics.token_valid_until(Some(token.valid_until()));
        self.generation = token.generation();
        if self.logged.take().is_some() || self.generation == Generation::ZERO.next() {
            tracing::info!(
                api_client.name = %self.api_client,
                token.lifetime_s = token.lifetime().as_secs(),
                failures = self.failures,
                "an access token is in service"
            );
        } else {
            tracing::debug!(api_client.name = %self.api_client, "the access token was renewed");
        }
        self.failures = 0;
        self.shared.succeeded(token);
    }

    fn record_failure(&mut self, failure: Failure, retry_at: Instant) {
        self.log(&failure, retry_at);
        self.shared.failed(failure.error, Some(retry_at));
        if self.shared.current().is_none() {
            self.metrics.token_valid_until(None);
        }
    }

    fn log(&mut self, failure: &Failure, retry_at: Instant) {
        let now = clock::now();
        let known =
            |(error, at): &(CredentialError, Instant)| *error == failure.error && now < *at + LOG_INTERVAL;
        if self.logged.as_ref().is_some_and(known) {
            return;
        }
        self.logged = Some((failure.error.clone(), now));
        // The levels differ, and a level is fixed where the event is made.
        macro_rules! log {
            ($level:ident) => {
                tracing::$level!(
                    api_client.name = %self.api_client,
                    error = %failure.error,
                    cause = %failure.cause,
                    retry_in_ms = u64::try_from((retry_at - now).as_millis()).unwrap_or(u64::MAX),
                    token.in_service = self.shared.current().is_some(),
                    "no new access token"
                )
            };
        }
        match failure.error {
            CredentialError::Rejected
            | CredentialError::CertificateInvalid
            | CredentialError::Protocol { .. }
            | CredentialError::SecretUnreadable => log!(error),
            CredentialError::Unreachable
            | CredentialError::Failing { .. }
            | CredentialError::Blocked
            | CredentialError::WaitingRoomFull
            | CredentialError::DeadlinePassed => log!(warn),
        }
    }
}

impl<X> Drop for Task<X> {
    fn drop(&mut self) {
        self.shared.stopped();
    }
}

/// When to ask again after so many failures in a row, the last of which was sent and
/// ended at these moments.
///
/// The pause counts from the sending, so that a request that hung does not add to it;
/// what the platform asks for with `Retry-After` counts from its answer.
fn next_request(failures: u32, retry_after: Option<Duration>, sent: Instant, ended: Instant) -> Instant {
    let backoff = sent + REQUEST_FLOOR + BACKOFF.full_jitter(failures);
    let wished = retry_after.map_or(backoff, |wait| backoff.max(ended + wait));
    wished.min(sent + LONGEST_PAUSE).max(ended + REQUEST_FLOOR)
}

/// Waits for another secret; for ever if the source has ended.
async fn changed(secrets: &mut watch::Receiver<Loaded>) {
    if secrets.changed().await.is_err() {
        pending::<()>().await;
    }
}
