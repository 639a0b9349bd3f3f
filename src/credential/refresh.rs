//! The task that keeps the token fresh: when to request one, and how long to pause.
//!
//! A [`TokenExchange`] sends the requests, and the [source](super::source) reads the secret. No
//! failure of either ends the task.

use std::{future::pending, sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    time::{sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    CredentialError, CredentialErrorKind,
    access_token::{AccessToken, Fetched, Generation},
    exchange::TokenExchange,
    shared::CredentialState,
    source::{Loaded, SecretSource},
};
use crate::{
    base::{
        backoff::Backoff,
        clock::{self, Instant},
        secret::client_secret::ClientSecret,
    },
    observe::telemetry::metrics::{ApiClientMetrics, TokenRefresh},
};

/// Maximum duration of one token request.
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Minimum interval between token requests.
pub(super) const REQUEST_FLOOR: Duration = Duration::from_secs(1);

/// Maximum interval between a failed request and the next. If that request takes up to a second,
/// calls succeed within 31 s of the platform's recovery.
pub(super) const MAX_PAUSE: Duration = Duration::from_secs(30);

/// Added to the floor after a failure.
const BACKOFF: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(29));

/// How often the two clocks are compared.
pub(super) const CLOCK_CHECK_INTERVAL: Duration = Duration::from_secs(10);

/// Interval after which the same failure is logged again.
const LOG_INTERVAL: Duration = Duration::from_mins(1);

#[derive(Debug)]
pub(super) struct Task<X> {
    api_client: Arc<str>,
    source: SecretSource,
    exchange: X,
    metrics: ApiClientMetrics,
    shared: Arc<CredentialState>,
    generation: Generation,
    /// Number of failed token requests in a row.
    failures: u32,
    logged: Option<(CredentialErrorKind, String, Instant)>,
}

impl<X: TokenExchange> Task<X> {
    pub(super) fn new(
        api_client: Arc<str>,
        source: SecretSource,
        exchange: X,
        metrics: ApiClientMetrics,
        shared: Arc<CredentialState>,
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
        stop.run_until_cancelled(self.follow()).await;
    }

    /// Follows the secret and keeps the token fresh. Never returns. If an earlier run was dropped,
    /// continues from its state.
    pub(super) async fn follow(&mut self) {
        let (loaded, secrets) = watch::channel(Loaded::Pending);
        let source = self.source.clone();
        let api_client = Arc::clone(&self.api_client);
        let (reloads, wall) = (self.metrics.client_secret(), self.shared.wall().clone());
        tokio::select! {
            () = source.follow(api_client, loaded, reloads, wall) => {}
            () = self.keep_fresh(secrets) => {}
        }
    }

    async fn keep_fresh(&mut self, mut secrets: watch::Receiver<Loaded>) {
        loop {
            let loaded = secrets.borrow_and_update().clone();
            match loaded {
                Loaded::Pending => changed(&mut secrets).await,
                Loaded::Unreadable(why) => {
                    // The source has logged it.
                    let kind = CredentialErrorKind::SecretUnreadable;
                    self.shared.failed(CredentialError::new(kind, (*why).to_owned()), None);
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

    /// Requests a token. Returns when the next request is due.
    async fn request(&mut self, secret: &ClientSecret, sent: Instant) -> Instant {
        let sent_wall = self.shared.wall().now();
        let response = match timeout(REQUEST_TIMEOUT, self.exchange.fetch(secret)).await {
            Ok(response) => response,
            Err(_) => Err(CredentialError::failing("no complete response within 10 s")),
        };
        match response.and_then(|fetched| self.token(fetched, sent, sent_wall)) {
            Ok(token) => {
                let due = token.refresh_at();
                self.record_success(token);
                due
            }
            Err(error) => {
                self.metrics.token_refresh(match error.kind() {
                    CredentialErrorKind::Rejected => TokenRefresh::Rejected,
                    _ => TokenRefresh::Failed,
                });
                self.failures = self.failures.saturating_add(1);
                let due = next_request(self.failures, error.retry_after(), sent, clock::now());
                self.record_failure(error, due);
                due
            }
        }
    }

    fn token(
        &self,
        fetched: Fetched,
        sent: Instant,
        sent_wall: std::time::SystemTime,
    ) -> Result<AccessToken, CredentialError> {
        let now = self.shared.now();
        let token = AccessToken::new(fetched, self.generation.next(), (sent, sent_wall), now.instant);
        if token.is_usable(now) {
            Ok(token)
        } else {
            Err(CredentialError::failing("the token had expired on arrival"))
        }
    }

    /// Waits until a token request is needed: it is due, the secret has changed, a caller has
    /// ordered it, or the clocks have diverged.
    async fn rest(&mut self, due: Instant, secrets: &mut watch::Receiver<Loaded>) {
        loop {
            let wake = due.min(clock::now() + CLOCK_CHECK_INTERVAL);
            tokio::select! {
                () = changed(secrets) => {
                    // Failures with the old secret must not delay the first request with the new
                    // one.
                    self.failures = 0;
                    return;
                }
                () = self.shared.ordered() => return,
                () = sleep_until(wake) => {}
            }
            if clock::now() >= due {
                return;
            }
            // After a failure the next request is due soon in any case.
            if self.failures == 0 && self.clocks_diverged() {
                tracing::warn!(
                    api_client.name = %self.api_client,
                    "wall clock jumped, refreshing access token"
                );
                return;
            }
        }
    }

    fn clocks_diverged(&self) -> bool {
        let now = self.shared.now();
        self.shared.tokens().is_some_and(|tokens| tokens.newest().clock_jumped(now))
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
                "access token fetched"
            );
        } else {
            tracing::debug!(api_client.name = %self.api_client, "access token refreshed");
        }
        self.failures = 0;
        self.shared.succeeded(token);
    }

    fn record_failure(&mut self, error: CredentialError, retry_at: Instant) {
        self.log(&error, retry_at);
        self.shared.failed(error, Some(retry_at));
        if !self.shared.has_usable_token() {
            self.metrics.token_valid_until(None);
        }
    }

    fn log(&mut self, error: &CredentialError, retry_at: Instant) {
        let now = clock::now();
        if self.logged.as_ref().is_some_and(|(kind, cause, at)| {
            *kind == error.kind() && cause == error.cause() && now < *at + LOG_INTERVAL
        }) {
            return;
        }
        self.logged = Some((error.kind(), error.cause().to_owned(), now));
        // `tracing` fixes the level of an event at compile time.
        macro_rules! log {
            ($level:ident) => {
                tracing::$level!(
                    api_client.name = %self.api_client,
                    error = %error.kind(),
                    cause = error.cause(),
                    retry_in_ms = u64::try_from((retry_at - now).as_millis()).unwrap_or(u64::MAX),
                    token.in_service = self.shared.has_usable_token(),
                    "cannot refresh access token"
                )
            };
        }
        match error.kind() {
            CredentialErrorKind::Rejected
            | CredentialErrorKind::CertificateInvalid
            | CredentialErrorKind::Protocol { .. }
            | CredentialErrorKind::SecretUnreadable => log!(error),
            _ => log!(warn),
        }
    }
}

impl<X> Drop for Task<X> {
    fn drop(&mut self) {
        self.shared.stopped();
    }
}

/// Returns when to send the next request after `failures` failures in a row. The last request was
/// sent at `sent` and ended at `ended`.
///
/// The pause counts from `sent`, so that a request that hung does not prolong it. The delay that
/// the platform requests with `Retry-After` counts from `ended`.
fn next_request(failures: u32, retry_after: Option<Duration>, sent: Instant, ended: Instant) -> Instant {
    let backoff = sent + REQUEST_FLOOR + BACKOFF.full_jitter(failures);
    let requested = retry_after.map_or(backoff, |wait| backoff.max(ended + wait));
    requested.min(sent + MAX_PAUSE).max(ended + REQUEST_FLOOR)
}

/// Waits for another secret. Never returns if the source has ended.
async fn changed(secrets: &mut watch::Receiver<Loaded>) {
    if secrets.changed().await.is_err() {
        pending::<()>().await;
    }
}
