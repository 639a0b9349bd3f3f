//! The platform's REST API as typed operations.
//!
//! One way in: [`PlatformClient`]. It takes permits, so that nothing is asked of the
//! platform that was not allowed; who may do what is decided in `access`, and what a
//! failure is called towards callers in `status`.

mod attempt;
mod breaker;
pub mod endpoint;
pub mod error;
mod error_code;
mod issue;
mod login;
mod messages;
mod outgoing;
mod retry;
mod set_cookie;
mod window;

#[cfg(test)]
mod tests;

use std::{fmt, sync::Arc, time::Duration};

use self::{
    attempt::{Ended, NotSent, Request},
    breaker::{Admission, Breaker},
    endpoint::{DataCenter, InvalidTargetUri, Landing, Origin},
    error::{ErrorKind, PlatformError},
    retry::{RetryBudget, RetryPolicy},
};
pub use self::{breaker::BreakerSettings, login::FailedLogin};
use crate::{
    backoff::Backoff,
    call::{Call, Operation},
    clock::{self, WallClock},
    credential::Credential,
    http_client::HttpClient,
    ott::{LoginUrl, OneTimeToken},
    telemetry::{
        metrics::ApiClientMetrics,
        tracing::{Attempt, AttemptSpan, CallSpan},
    },
};

/// What one API client is configured with, apart from its credential.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Its name in the configuration.
    pub name: Arc<str>,
    /// Where the platform is.
    pub data_center: DataCenter,
    /// Where else than at the data center a login may land.
    pub target_origins: Vec<Origin>,
    /// Whether the platform is told of the trace that a call belongs to (W3C Trace
    /// Context).
    pub propagate_trace: bool,
    /// Times and limits.
    pub limits: Limits,
}

/// Times and limits; what they are for is in ARCHITECTURE.md, "Attempts and time".
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// For one attempt at minting, connecting included. 3 s.
    pub attempt_timeout: Duration,
    /// For one attempt at a login, connecting included. 8 s.
    pub login_timeout: Duration,
    /// For ending a session that nobody will get. 3 s.
    pub logout_timeout: Duration,
    /// The most attempts at minting for one call; the replay after a 401 is not
    /// counted. 3.
    pub max_attempts: u32,
    /// The longest waits between two attempts: the first, and the last. 0.2 s and 2 s.
    pub retry_wait: (Duration, Duration),
    /// A `Retry-After` up to this is waited for, a longer one is passed on. 2 s.
    pub longest_retry_after: Duration,
    /// With less than this left of the deadline nothing is sent. 20 ms.
    pub min_time_left: Duration,
    /// A login that was not sent is tried again only with more than this left. 2 s.
    pub min_time_left_for_second_login: Duration,
    /// The most bytes of the answer to minting. 16 KiB.
    pub max_ott_bytes: usize,
    /// The most bytes of the answer to a login. 256 KiB.
    pub max_login_bytes: usize,
    /// When to stop asking a platform that is down; none: never.
    pub breaker: Option<BreakerSettings>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            attempt_timeout: Duration::from_secs(3),
            login_timeout: Duration::from_secs(8),
            logout_timeout: Duration::from_secs(3),
            max_attempts: 3,
            retry_wait: (Duration::from_millis(200), Duration::from_secs(2)),
            longest_retry_after: Duration::from_secs(2),
            min_time_left: Duration::from_millis(20),
            min_time_left_for_second_login: Duration::from_secs(2),
            max_ott_bytes: 16 * 1024,
            max_login_bytes: 256 * 1024,
            breaker: Some(BreakerSettings::default()),
        }
    }
}

impl Limits {
    const fn retry_policy(&self) -> RetryPolicy {
        RetryPolicy {
            max_attempts: self.max_attempts,
            backoff: Backoff::new(self.retry_wait.0, self.retry_wait.1),
            longest_retry_after: self.longest_retry_after,
        }
    }
}

/// What all threads share of one API client.
pub struct ApiClient {
    settings: Settings,
    credential: Credential,
    breaker: Breaker,
    retry_budget: RetryBudget,
    metrics: ApiClientMetrics,
    wall: WallClock,
}

impl ApiClient {
    /// An API client that has not been used yet.
    #[must_use]
    pub fn new(settings: Settings, credential: Credential, metrics: ApiClientMetrics) -> Arc<Self> {
        Arc::new(Self {
            breaker: Breaker::new(settings.limits.breaker, metrics.clone()),
            retry_budget: RetryBudget::new(),
            settings,
            credential,
            metrics,
            wall: WallClock::system(),
        })
    }

    /// Its name in the configuration.
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        &self.settings.name
    }

    /// Where its platform is.
    #[must_use]
    pub fn data_center(&self) -> &DataCenter {
        &self.settings.data_center
    }

    /// Where a login lands, if it may land there.
    pub fn landing(&self, target_uri: &str) -> Result<Landing, InvalidTargetUri> {
        self.settings.data_center.landing(target_uri, &self.settings.target_origins)
    }

    /// The URL that logs a browser in and lands there.
    #[must_use]
    pub fn browser_login_url(&self, ott: &OneTimeToken, landing: &Landing) -> LoginUrl {
        self.settings.data_center.browser_login_url(ott, landing)
    }
}

impl fmt::Debug for ApiClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiClient").field("name", self.name()).finish_non_exhaustive()
    }
}

/// One API client, on the connections of one thread. Cheap to clone.
#[derive(Clone, Debug)]
pub struct PlatformClient {
    api_client: Arc<ApiClient>,
    http: Arc<HttpClient>,
}

impl PlatformClient {
    /// The API client, over these connections.
    #[must_use]
    pub fn new(api_client: Arc<ApiClient>, http: HttpClient) -> Self {
        Self { api_client, http: Arc::new(http) }
    }

    /// What it shares with the other threads.
    #[must_use]
    pub const fn api_client(&self) -> &Arc<ApiClient> {
        &self.api_client
    }

    /// The name of the API client in the configuration.
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        self.api_client.name()
    }

    fn limits(&self) -> &Limits {
        &self.api_client.settings.limits
    }

    /// Whether after waiting that long an attempt may begin: someone waits for it, and
    /// there is time enough.
    fn in_time(&self, wait: Duration, call: &Call) -> Result<(), ErrorKind> {
        let needed = wait.saturating_add(self.limits().min_time_left);
        if call.is_abandoned() || call.deadline().remaining() < needed {
            return Err(ErrorKind::DeadlinePassed);
        }
        Ok(())
    }

    /// Asks the breaker.
    fn admit(&self, operation: Operation) -> Result<Admission, ErrorKind> {
        self.api_client
            .breaker
            .admit(operation)
            .map_err(|open| ErrorKind::BreakerOpen { retry_after: open.retry_after })
    }

    /// Makes one admitted attempt, and tells the breaker, the metrics and the trace of it.
    async fn attempt(
        &self,
        operation: Operation,
        admission: Admission,
        mut request: Request,
        call: &Call,
        span: &CallSpan,
    ) -> Ended {
        let span = attempt_span(operation, &request, call, span);
        request.trace.clear();
        if self.api_client.settings.propagate_trace {
            span.inject(&mut request.trace);
        }
        let began = clock::now();
        let client = self.http.current();
        let ended = attempt::send(&client, request, call, &self.api_client.wall).await;
        let took = began.elapsed();
        match ended.outcome() {
            Ok(status) => span.answered(status),
            Err(error_type) => span.failed(error_type),
        }
        self.api_client.breaker.report(admission, ended.is_failure());
        self.api_client.metrics.request(operation, ended.certainty(), ended.http_status(), took);
        tracing::debug!(
            request.id = %call.request_id(),
            api_client.name = %self.api_client.name(),
            rpc.method = operation.name(),
            http.status = ended.http_status(),
            outcome = ended.certainty().as_str(),
            duration_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            "an attempt at the platform ended"
        );
        ended
    }
}

/// The span of an attempt that is about to begin.
fn attempt_span(operation: Operation, request: &Request, call: &Call, span: &CallSpan) -> AttemptSpan {
    span.attempt(&Attempt { operation, method: "POST", url: &request.url, resends: call.attempts() })
}

/// The error of a call that ends with that failure.
fn failed(kind: ErrorKind, call: &Call) -> PlatformError {
    PlatformError { kind, certainty: call.certainty() }
}

impl From<NotSent> for ErrorKind {
    fn from(cause: NotSent) -> Self {
        match cause {
            NotSent::Unreachable => Self::Unreachable,
            NotSent::CertificateInvalid => Self::CertificateInvalid,
            NotSent::Withdrawn => Self::DeadlinePassed,
        }
    }
}
