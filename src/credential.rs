//! Access tokens of the API clients: fetches a token, keeps it fresh and hands it out.
//!
//! A token is handed out only if it will outlive an exchange that begins now. HTTP clients are not
//! created here; the caller passes them in with every limit set.
//!
//! Only one task, [`Refresh`], requests tokens. There is therefore never more than one token
//! request in flight, and a caller that disconnects cannot cancel it. Callers hold a [`Credential`]
//! and read the tokens that the task publishes.
//!
//! ```
//! use ott_gateway::{
//!     base::{clock::WallClock, secret::client_secret::ClientSecret},
//!     credential::{self, ClientId, CredentialHealth, SecretSource, Settings, TokenEndpoint},
//!     http_client::{ClientTls, HttpSettings, Resolver, UnpooledClient},
//!     observe::telemetry::metrics::Metrics,
//! };
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let (metrics, url) = (Metrics::new(), url::Url::parse("http://127.0.0.1:8080/token")?);
//! let http = HttpSettings::new(url.clone(), ClientTls::new(None)?, Resolver::system(metrics.outgoing()));
//! let endpoint = TokenEndpoint { api_client: "eu2".into(), url, http: UnpooledClient::new(http)? };
//! let secret = SecretSource::Fixed(ClientSecret::parse(b"secret\n")?);
//! let settings = Settings { client_id: ClientId::parse("id")?, secret };
//! let (credential, refresh) =
//!     credential::new(settings, endpoint, metrics.api_client("eu2"), WallClock::system());
//!
//! // `app` runs `refresh` as a duty. Calls read the token, or wait for it with `bearer`.
//! assert!(credential.current().is_none());
//! assert_eq!(credential.health().current(), CredentialHealth::Starting);
//! # drop(refresh);
//! # Ok(())
//! # }
//! ```

mod access_token;
mod error;
mod exchange;
#[cfg(test)]
mod for_test;
mod refresh;
mod rejection;
mod shared;
mod source;
mod state;
#[cfg(test)]
mod tests;
mod tokens;

use std::{fmt, sync::Arc};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use url::Url;

pub use self::{
    access_token::Bearer,
    error::{CredentialError, CredentialErrorKind},
    rejection::Replay,
    source::SecretSource,
};
use self::{exchange::HttpExchange, refresh::Task, shared::CredentialState, state::State};
use crate::{
    base::clock::{Instant, WallClock},
    domain::call::Deadline,
    http_client::UnpooledClient,
    observe::telemetry::metrics::ApiClientMetrics,
};

/// Id of an API client: 1 to 255 visible ASCII characters without a colon, which would end the id
/// early in Basic authentication (RFC 7617, section 2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientId(Arc<str>);

/// A string is not a valid client id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be at most 255 visible ASCII characters without a colon")]
pub struct InvalidClientId;

impl ClientId {
    /// Parses a client id.
    pub fn parse(text: &str) -> Result<Self, InvalidClientId> {
        let is_valid = (1..=255).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':');
        if is_valid { Ok(Self(Arc::from(text))) } else { Err(InvalidClientId) }
    }

    /// The id itself.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Settings of a credential (`[api_clients.NAME]`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// `client_id`: the API client's id at the platform.
    pub client_id: ClientId,
    /// `client_secret_file`, `client_secret_env` or `client_secret_credential`: the source of its
    /// secret.
    pub secret: SecretSource,
}

/// Source of the access tokens of an API client.
pub struct TokenEndpoint {
    /// The API client's name in the configuration, for the log.
    pub api_client: Arc<str>,
    /// The platform's token endpoint.
    pub url: Url,
    /// The HTTP client for token requests.
    pub http: UnpooledClient,
}

impl fmt::Debug for TokenEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenEndpoint")
            .field("api_client", &self.api_client)
            .field("url", &self.url.as_str())
            .finish_non_exhaustive()
    }
}

/// Health of an API client's credential.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CredentialHealth {
    /// The first token request has not completed.
    Starting,
    /// A token is in service, even if its renewal is failing at the moment.
    Usable,
    /// No token is in service, because the platform is failing.
    Failing {
        /// Since when.
        since: Instant,
        /// Whether there was ever a token since the process started.
        had_token: bool,
    },
    /// No token is in service, and an operator has to act: the platform refuses the
    /// credential, or the secret cannot be read. Stays if the platform then stops answering.
    Refused {
        /// Since when.
        since: Instant,
        /// Whether there was ever a token since the process started.
        had_token: bool,
        /// The last refusal.
        error: CredentialError,
    },
}

/// Watch on the health of a credential.
#[derive(Debug)]
pub struct HealthWatch(watch::Receiver<State>);

impl HealthWatch {
    /// Returns the current health.
    pub fn current(&mut self) -> CredentialHealth {
        self.0.borrow_and_update().health()
    }

    /// Waits until the health may have changed. Returns `false` if it cannot change any more.
    pub async fn changed(&mut self) -> bool {
        self.0.changed().await.is_ok()
    }
}

/// Access token of one API client, to be attached to requests. Cheap to clone, usable from any
/// runtime.
#[derive(Clone, Debug)]
pub struct Credential(Arc<CredentialState>);

/// Task that keeps the token of one API client fresh. Does nothing until it is run.
#[must_use = "without `run` there is never a token"]
#[derive(Debug)]
pub struct Refresh(Task<HttpExchange>);

/// Creates a credential and the task that keeps its token fresh.
pub fn new(
    settings: Settings,
    endpoint: TokenEndpoint,
    metrics: ApiClientMetrics,
    wall: WallClock,
) -> (Credential, Refresh) {
    let Settings { client_id, secret } = settings;
    let TokenEndpoint { api_client, url, http } = endpoint;
    let exchange =
        HttpExchange::new(Arc::clone(&api_client), client_id, url, http, wall.clone(), metrics.clone());
    let (credential, task) = with_exchange(api_client, secret, exchange, metrics, wall);
    (credential, Refresh(task))
}

fn with_exchange<X: exchange::TokenExchange>(
    api_client: Arc<str>,
    secret: SecretSource,
    exchange: X,
    metrics: ApiClientMetrics,
    wall: WallClock,
) -> (Credential, Task<X>) {
    let shared = Arc::new(CredentialState::new(wall));
    let task = Task::new(api_client, secret, exchange, metrics, Arc::clone(&shared));
    (Credential(shared), task)
}

impl Credential {
    /// Returns the token for a call that begins now, if one will outlive the exchange: it has 30
    /// seconds left, or a quarter of its lifetime if that is less. Takes no lock and does not
    /// allocate.
    ///
    /// Until the API has accepted a new token once, one call per second uses it; all other calls
    /// use the previous token while that is valid.
    #[must_use]
    pub fn current(&self) -> Option<Bearer> {
        self.0.current()
    }

    /// Returns the token in service, or waits for the token request in progress, whose result all
    /// waiting calls share. While the task pauses after a failure, returns that failure at once.
    ///
    /// Dropping the future does not cancel the request.
    pub async fn bearer(&self, deadline: Deadline) -> Result<Bearer, CredentialError> {
        match self.0.current() {
            Some(bearer) => Ok(bearer),
            None => self.0.next(deadline).await,
        }
    }

    /// Decides how a call proceeds after the platform has answered it with a 401: how to send it
    /// again, or that the 401 is final. `subject` is the user that the call is for. `refused` must
    /// be the bearer of the last attempt: the bearer records what the call has tried, which bounds
    /// the number of replays.
    ///
    /// - A token that a node of the API may not know yet (it was never accepted, or is younger than
    ///   10 seconds) is replaced by the previous one while that is valid.
    /// - Without a previous token that works, the call is repeated with the same token after 0.5 to
    ///   1 s, if its deadline allows, until the token is 10 seconds old.
    /// - Otherwise one token is requested, regardless of the number of refused calls and of their
    ///   subjects. Meanwhile the refused token stays in service for others, because the refusal may
    ///   be about one user only. Since the new token is young for 10 seconds, one user whose 401
    ///   persists causes at most one request in 10 seconds.
    ///
    /// # Errors
    ///
    /// [`RefreshLimited`](CredentialErrorKind::RefreshLimited) and
    /// [`NotAcceptedYet`](CredentialErrorKind::NotAcceptedYet) carry the time after which to try
    /// again; any other error is the failure of the token request.
    pub async fn after_rejection(
        &self,
        refused: &Bearer,
        subject: &str,
        deadline: Deadline,
    ) -> Result<Replay, CredentialError> {
        self.0.after_rejection(refused, subject, deadline).await
    }

    /// Records that the platform has accepted a token: it answered with a 2xx, or with its own
    /// error object and a status other than 401. A response of a proxy or a firewall proves
    /// nothing. Costs two atomic loads once the token has been accepted.
    pub fn accepted(&self, bearer: &Bearer) {
        self.0.accepted(bearer);
    }

    /// Returns a watch on the health of the credential.
    #[must_use]
    pub fn health(&self) -> HealthWatch {
        HealthWatch(self.0.watch())
    }
}

impl Refresh {
    /// Keeps the token fresh until `stop`. No failure of the platform or of the secret file ends it
    /// earlier. Tokens in service stay readable afterwards.
    pub async fn run(self, stop: CancellationToken) {
        self.0.run(stop).await;
    }

    /// Keeps the token fresh. Never returns; can be called again if the future was dropped.
    pub async fn keep_fresh(&mut self) {
        self.0.follow().await;
    }
}
