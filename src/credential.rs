//! The gateway's access token for one API client: fetched, kept fresh, handed out.
//!
//! Nothing here is about calls of users; a token with less life left than an exchange
//! needs is never handed out. HTTP clients are not made here either: they come from
//! outside, with every limit set.
//!
//! One task, [`Refresh`], owns the token: it alone asks for one, so there is never more
//! than one request in flight, and no caller that gives up can cancel it. Callers hold a
//! [`Credential`] and read what the task has left for them.

mod access_token;
mod exchange;
#[cfg(test)]
mod for_test;
mod progress;
mod refresh;
mod source;
#[cfg(test)]
mod tests;

use std::{fmt, sync::Arc, time::Duration};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use url::Url;

pub use self::{
    access_token::{Bearer, Generation},
    source::SecretSource,
};
use self::{exchange::HttpExchange, progress::Shared, refresh::Task};
use crate::{
    call::Deadline,
    clock::{Instant, WallClock},
    telemetry::metrics::ApiClientMetrics,
};

/// Gives the HTTP client to use for the next token request: no redirects, no proxy from
/// the environment, no retries of its own. Asked anew each time, because clients are
/// rebuilt so that DNS changes are followed.
pub type ClientSource = Arc<dyn Fn() -> reqwest::Client + Send + Sync>;

/// Why there is no access token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CredentialError {
    /// The platform refuses the API client's id and secret.
    #[error("the platform refuses the API client's credential")]
    Rejected,
    /// The token endpoint could not be reached.
    #[error("the platform's token endpoint could not be reached")]
    Unreachable,
    /// The token endpoint's certificate is not valid.
    #[error("the certificate of the platform's token endpoint is not valid")]
    CertificateInvalid,
    /// The token endpoint is failing: 5xx, 429, a cut-off or malformed answer.
    #[error("the platform's token endpoint is failing")]
    Failing {
        /// When the next request for a token is due.
        retry_after: Duration,
    },
    /// A firewall in front of the platform refused the request (403, not JSON).
    #[error("a firewall in front of the platform refused the token request")]
    Blocked,
    /// An answer that the documentation does not know (3xx, 404, 405, 409, 415 …).
    #[error("the token endpoint answered with HTTP status {status}")]
    Protocol {
        /// The HTTP status.
        status: u16,
    },
    /// The client secret cannot be read.
    #[error("the client secret cannot be read")]
    SecretUnreadable,
    /// Too many calls already wait for the first token.
    #[error("too many calls wait for the access token")]
    WaitingRoomFull,
    /// The caller's deadline came before the token.
    #[error("the deadline passed while waiting for the access token")]
    DeadlinePassed,
}

/// The id of an API client, as it stands in Basic authentication (RFC 7617): not empty,
/// no colon, no control characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientId(Arc<str>);

/// Why a text is no client id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidClientId {
    /// It is empty.
    #[error("is empty")]
    Empty,
    /// A colon would end the id early in Basic authentication.
    #[error("contains a colon")]
    Colon,
    /// RFC 7617 forbids control characters.
    #[error("contains a control character")]
    ControlCharacter,
}

impl ClientId {
    /// Reads a client id.
    pub fn parse(text: &str) -> Result<Self, InvalidClientId> {
        if text.is_empty() {
            return Err(InvalidClientId::Empty);
        }
        if text.contains(':') {
            return Err(InvalidClientId::Colon);
        }
        if text.chars().any(char::is_control) {
            return Err(InvalidClientId::ControlCharacter);
        }
        Ok(Self(Arc::from(text)))
    }

    /// The id itself.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What a credential is made of.
pub struct Settings {
    /// The API client's name in the configuration, for the log.
    pub api_client: Arc<str>,
    /// The API client's id at the platform.
    pub client_id: ClientId,
    /// Where its secret is.
    pub secret: SecretSource,
    /// Where access tokens are fetched.
    pub token_url: Url,
    /// The HTTP client to fetch them with.
    pub http: ClientSource,
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("api_client", &self.api_client)
            .field("client_id", &self.client_id)
            .field("secret", &self.secret)
            .field("token_url", &self.token_url.as_str())
            .finish_non_exhaustive()
    }
}

/// How an API client's credential is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CredentialHealth {
    /// The first token request has not ended.
    Starting,
    /// A token is in service, even if its renewal is failing just now.
    Usable,
    /// No token is in service, because the platform (or the secret's file) is failing.
    Failing {
        /// Since when.
        since: Instant,
    },
    /// No token is in service, and the last definite answer was that the platform
    /// refuses the credential. A platform that then fails to answer at all does not
    /// change that.
    Rejected {
        /// Since when.
        since: Instant,
    },
}

/// The access token of one API client, for those who attach it to requests. Cheap to
/// clone, usable from any runtime.
#[derive(Clone, Debug)]
pub struct Credential(Arc<Shared>);

/// The task that keeps the token of one API client fresh. It does nothing until it is run.
#[must_use = "without `run` there is never a token"]
#[derive(Debug)]
pub struct Refresh(Task<HttpExchange>);

/// A credential and the task that keeps it.
pub fn new(settings: Settings, metrics: ApiClientMetrics, wall: WallClock) -> (Credential, Refresh) {
    let Settings { api_client, client_id, secret, token_url, http } = settings;
    let exchange =
        HttpExchange::new(Arc::clone(&api_client), client_id, token_url, http, wall.clone(), metrics.clone());
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
    let shared = Arc::new(Shared::new(wall));
    let task = Task::new(api_client, secret, exchange, metrics, Arc::clone(&shared));
    (Credential(shared), task)
}

impl Credential {
    /// The token in service, if it outlives an exchange: 30 seconds left, or a quarter
    /// of its lifetime if that is less. Takes no lock and makes no allocation.
    #[must_use]
    pub fn current(&self) -> Option<Bearer> {
        self.0.current()
    }

    /// The token in service; if there is none, the result of the token request that is
    /// under way, which all who wait share. While the task pauses after a failure, that
    /// failure is the answer, at once.
    ///
    /// A caller that gives up does not cancel the request.
    pub async fn bearer(&self, deadline: Deadline) -> Result<Bearer, CredentialError> {
        match self.0.current() {
            Some(bearer) => Ok(bearer),
            None => self.0.next(None, deadline).await,
        }
    }

    /// A token newer than the one that the platform has just refused with a 401.
    ///
    /// However many calls saw the refusal, one token request follows, and each of them
    /// gets the new token. Meanwhile the refused one stays in service for everyone else:
    /// the refusal may be about one user only. At most one such request is made in
    /// 10 seconds; a refusal in between is answered with
    /// [`Rejected`](CredentialError::Rejected) at once.
    pub async fn bearer_after_rejection(
        &self,
        rejected: Generation,
        deadline: Deadline,
    ) -> Result<Bearer, CredentialError> {
        self.0.next(Some(rejected), deadline).await
    }

    /// How the credential is doing, now and from now on.
    #[must_use]
    pub fn health(&self) -> watch::Receiver<CredentialHealth> {
        self.0.health()
    }
}

impl Refresh {
    /// Keeps the token fresh until `stop`. Nothing that the platform or the secret's file
    /// does ends it earlier. Tokens in service stay readable afterwards.
    pub async fn run(self, stop: CancellationToken) {
        self.0.run(stop).await;
    }
}
