//! Client of the platform's REST API, as typed operations.
//!
//! The only entry point is [`ApiClient`]. Its methods take permits, so that the platform
//! receives no request that was not allowed. `access` decides who may do what, and `status` maps
//! failures to statuses.
//!
//! ```
//! use ott_gateway::{
//!     access::IssuePermit,
//!     domain::{
//!         call::Call,
//!         ott::{IssuedToken, OneTimeToken},
//!     },
//!     observe::telemetry::tracing::CallSpan,
//!     platform::{ApiClient, data_center::DataCenter, error::PlatformError},
//! };
//!
//! /// With a permit, issuing is one call. Its certainty is in the `Call` afterwards.
//! async fn issue(client: &ApiClient, permit: &IssuePermit, call: &Call) -> Result<IssuedToken, PlatformError> {
//!     client.issue_ott(permit, call, &CallSpan::default()).await
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // The URL for a browser needs no request.
//! let data_center = DataCenter::parse("https://eu2-cloud.acronis.com")?;
//! let target = data_center.target_uri("/mc/", &[])?;
//! let url = data_center.browser_login_url(&OneTimeToken::try_new("token".to_owned())?, &target);
//! assert!(url.expose().starts_with("https://eu2-cloud.acronis.com/api/2/idp/external-login#ott=token"));
//! assert!(data_center.target_uri("https://elsewhere.example/", &[]).is_err());
//! # Ok(())
//! # }
//! ```

mod attempt;
mod breaker;
mod connections;
pub mod data_center;
mod endpoint;
pub mod error;
mod error_code;
mod exchange;
mod headers;
mod issue;
mod leaks;
mod login;
mod messages;
mod outgoing;
mod response;
mod retry;
mod set_cookie;
mod window;

#[cfg(test)]
pub(crate) mod tests;

use std::{fmt, sync::Arc, time::Duration};

pub use self::{
    breaker::BreakerSettings,
    login::{FailedLogin, LogoutOutcome},
};
use self::{
    connections::{Connections, Generation, Reuse},
    data_center::{DataCenter, InvalidTargetUri, Origin, TargetUri},
    endpoint::Endpoint,
    retry::{RetryBudget, RetryPolicy},
};
use crate::{
    base::{
        backoff::Backoff,
        clock::WallClock,
        memory::{MAX_RESPONSE_BYTES, ResponseMemory},
        secret::Secret,
    },
    credential::Credential,
    domain::ott::{LoginUrl, OneTimeToken},
    http_client::{HttpClientError, HttpSettings},
    observe::telemetry::metrics::ApiClientMetrics,
};

/// Connections for issuing. The maximum idle time is less than the usual minute after which servers
/// close a connection.
const ISSUING: Reuse = Reuse { max_idle: Duration::from_secs(30), over_http1: true };
/// Connections for logins. If a server closes an idle connection just when the token is sent, the
/// token is lost, and some servers close after 2 s. Over HTTP/1.1, a stray response on a reused
/// connection would give a caller the session of another user.
const LOGIN: Reuse = Reuse { max_idle: Duration::from_secs(2), over_http1: false };

/// Settings of one API client (`[api_clients.NAME]`), without its credential and its connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// `data_center_url`: the data center of the platform.
    pub data_center: DataCenter,
    /// `target_origins`: origins that a login may redirect to, besides the data center's; none.
    pub target_origins: Vec<Origin>,
    /// `propagate_trace`: whether requests to the platform carry the trace of the call (W3C Trace
    /// Context); false.
    pub propagate_trace: bool,
    /// Times and limits, of which `min_login_time` is a key. The breaker is off in the sandbox.
    pub limits: Limits,
}

impl Settings {
    /// Returns the documented defaults (`docs/configuration.md`) for this data center.
    #[must_use]
    pub fn new(data_center: DataCenter) -> Self {
        Self { data_center, target_origins: Vec::new(), propagate_trace: false, limits: Limits::default() }
    }
}

/// Times and limits; ARCHITECTURE.md, "Attempts and time", explains them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Timeout of one attempt at issuing, including connecting. 3 s.
    pub attempt_timeout: Duration,
    /// Timeout of one attempt at a login, including connecting. 8 s.
    pub login_timeout: Duration,
    /// Timeout for logging out an undelivered session. 3 s.
    pub logout_timeout: Duration,
    /// Maximum number of attempts at issuing for one call; the replay after a 401 is not
    /// counted. 3.
    pub max_attempts: u32,
    /// Maximum wait between two attempts: after the first failure, and after any. 0.2 s and
    /// 2 s.
    pub retry_wait: (Duration, Duration),
    /// Maximum `Retry-After` that is waited for; a longer one is returned to the caller. 2 s.
    pub max_retry_after: Duration,
    /// Minimum time before the deadline for an attempt at issuing. 20 ms.
    pub min_time_left: Duration,
    /// `min_login_time`: minimum time before the deadline for spending a token: with less, the
    /// session could not be delivered. 400 ms, from 20 ms to 5 s.
    pub min_login_time_left: Duration,
    /// Minimum time before the deadline for a second attempt at a login that was not sent. 2 s.
    pub min_time_left_for_second_login: Duration,
    /// Maximum size of the response to issuing, in bytes. 16 KiB.
    pub max_ott_bytes: usize,
    /// Maximum size of the response to a login, in bytes. 256 KiB.
    pub max_login_bytes: usize,
    /// When to stop sending requests to an endpoint that is down; `None`: never.
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
            max_retry_after: Duration::from_secs(2),
            min_time_left: Duration::from_millis(20),
            min_login_time_left: Duration::from_millis(400),
            min_time_left_for_second_login: Duration::from_secs(2),
            max_ott_bytes: 16 * 1024,
            max_login_bytes: MAX_RESPONSE_BYTES,
            breaker: Some(BreakerSettings::default()),
        }
    }
}

impl Limits {
    const fn retry_policy(&self) -> RetryPolicy {
        RetryPolicy {
            backoff: Backoff::new(self.retry_wait.0, self.retry_wait.1),
            max_retry_after: self.max_retry_after,
        }
    }
}

/// State of an API client that all workers share.
pub struct ApiClientState {
    name: Arc<str>,
    settings: Settings,
    credential: Credential,
    ott: Endpoint,
    ott_login: Endpoint,
    retry_budget: RetryBudget,
    generation: Generation,
    metrics: ApiClientMetrics,
    wall: WallClock,
}

impl ApiClientState {
    /// Creates an unused API client. `name` is its name in the configuration. All API clients share
    /// `memory`.
    #[must_use]
    pub fn new(
        name: Arc<str>,
        settings: Settings,
        memory: &ResponseMemory,
        credential: Credential,
        metrics: ApiClientMetrics,
    ) -> Arc<Self> {
        Arc::new(Self {
            name,
            ott: Endpoint::ott(&settings, memory, &metrics),
            ott_login: Endpoint::ott_login(&settings, memory, &metrics),
            retry_budget: RetryBudget::new(),
            generation: Generation::default(),
            settings,
            credential,
            metrics,
            wall: WallClock::system(),
        })
    }

    /// Its name in the configuration.
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Returns its data center.
    #[must_use]
    pub fn data_center(&self) -> &DataCenter {
        &self.settings.data_center
    }

    /// Returns where a login lands, if `target_uri` is allowed.
    pub fn target_uri(&self, target_uri: &str) -> Result<TargetUri, InvalidTargetUri> {
        self.settings.data_center.target_uri(target_uri, &self.settings.target_origins)
    }

    /// Returns the URL that logs a browser in and redirects it to `target_uri`.
    #[must_use]
    pub fn browser_login_url(&self, ott: &OneTimeToken, target_uri: &TargetUri) -> LoginUrl {
        self.settings.data_center.browser_login_url(ott, target_uri)
    }
}

impl fmt::Debug for ApiClientState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiClientState").field("name", self.name()).finish_non_exhaustive()
    }
}

/// One API client, on the connections of one worker. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ApiClient {
    state: Arc<ApiClientState>,
    ott_connections: Arc<Connections>,
    login_connections: Arc<Connections>,
    /// The password in the proxy's URL, which an error of the proxy or the server could repeat.
    proxy_password: Option<Arc<Secret>>,
}

impl ApiClient {
    /// Creates a client with its own connections, which are opened on demand.
    pub fn new(state: Arc<ApiClientState>, http: HttpSettings) -> Result<Self, HttpClientError> {
        let generation = &state.generation;
        let proxy_password = http.proxy.as_ref().and_then(|proxy| proxy.url().password());
        let proxy_password = proxy_password.map(|password| Arc::new(Secret::new(password.to_owned())));
        // Only issuing can be repeated after a response that could not be read.
        let issuing = http.clone().expecting_few_headers();
        let ott_connections = Connections::new(issuing, ISSUING, generation.clone())?;
        let login_connections = Connections::new(http, LOGIN, generation.clone())?;
        Ok(Self { state, ott_connections, login_connections, proxy_password })
    }

    /// Returns the state that is shared with the other workers.
    #[must_use]
    pub const fn state(&self) -> &Arc<ApiClientState> {
        &self.state
    }

    /// Returns the name of the API client in the configuration.
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        self.state.name()
    }

    /// Stops using the current HTTP/1.1 connections of the API client on all workers, because one
    /// of them has carried the response to another request.
    pub fn retire_connections(&self) {
        self.state.generation.end();
    }

    fn limits(&self) -> &Limits {
        &self.state.settings.limits
    }
}
