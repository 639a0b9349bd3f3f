//! The token exchange: the API client's id and secret for an access token.
//!
//! One request and its answer; when to send it is not decided here, nor how long it may
//! take in all.

mod answer;

use std::{
    borrow::Cow,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use http::{
    HeaderMap, HeaderValue,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, DATE},
};
use url::Url;
use zeroize::Zeroizing;

use self::answer::Answer;
use super::{
    ClientId, ClientSource, CredentialError,
    access_token::{Fetched, sensitive_header},
};
use crate::{
    clock::WallClock,
    http_client::{
        body,
        cause::{is_invalid_certificate, root_cause},
        date::parse_date,
    },
    secret::client_secret::ClientSecret,
    telemetry::metrics::ApiClientMetrics,
};

/// Maximum size of a token response, in bytes.
const MAX_BODY_BYTES: usize = 64 * 1024;

/// The platform's clock may be so far from ours without a warning.
const CLOCK_TOLERANCE_SECONDS: f64 = 30.0;

const BODY: &str = "grant_type=client_credentials";

/// Asks the platform for an access token.
pub(super) trait TokenExchange: Send + Sync {
    /// One token request.
    fn fetch(&self, secret: &ClientSecret) -> impl Future<Output = Result<Fetched, Failure>> + Send;
}

/// Why a token request gave no token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) error: CredentialError,
    /// The platform's wish, within bounds.
    pub(super) retry_after: Option<Duration>,
    /// For the operator. Never text from the body of an answer.
    pub(super) cause: Cow<'static, str>,
}

impl Failure {
    pub(super) fn new(error: CredentialError, cause: impl Into<Cow<'static, str>>) -> Self {
        Self { error, retry_after: None, cause: cause.into() }
    }

    /// The platform fails, and says nothing definite.
    pub(super) fn failing(cause: impl Into<Cow<'static, str>>) -> Self {
        // How long the pause will be is decided where it is made.
        Self::new(CredentialError::Failing { retry_after: Duration::ZERO }, cause)
    }
}

/// The exchange over HTTP.
pub(super) struct HttpExchange {
    api_client: Arc<str>,
    client_id: ClientId,
    url: Url,
    http: ClientSource,
    wall: WallClock,
    metrics: ApiClientMetrics,
    /// Whether the last answer's clock was too far from ours, so that it is said once.
    skewed: AtomicBool,
}

impl fmt::Debug for HttpExchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpExchange").field("api_client", &self.api_client).finish_non_exhaustive()
    }
}

impl HttpExchange {
    pub(super) const fn new(
        api_client: Arc<str>,
        client_id: ClientId,
        url: Url,
        http: ClientSource,
        wall: WallClock,
        metrics: ApiClientMetrics,
    ) -> Self {
        Self { api_client, client_id, url, http, wall, metrics, skewed: AtomicBool::new(false) }
    }

    async fn send(&self, secret: &ClientSecret) -> Result<reqwest::Response, Failure> {
        let authorization = basic(&self.client_id, secret)
            .ok_or_else(|| Failure::new(CredentialError::SecretUnreadable, "it cannot stand in a header"))?;
        (self.http)()
            .post(self.url.clone())
            .header(AUTHORIZATION, authorization)
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header(ACCEPT, "application/json")
            .body(BODY)
            .send()
            .await
            .map_err(|error| unsent(&error))
    }

    /// The time that the answer tells, and ours.
    fn times(&self, headers: &HeaderMap) -> (Option<SystemTime>, SystemTime) {
        let ours = self.wall.now();
        let date = headers.get(DATE).and_then(|date| parse_date(date.as_bytes()));
        if let Some(theirs) = date {
            self.note_skew(theirs, ours);
        }
        (date, ours)
    }

    pub(super) fn note_skew(&self, theirs: SystemTime, ours: SystemTime) {
        let seconds = match theirs.duration_since(ours) {
            Ok(ahead) => ahead.as_secs_f64(),
            Err(behind) => -behind.duration().as_secs_f64(),
        };
        self.metrics.clock_skew(seconds);
        let skewed = seconds.abs() > CLOCK_TOLERANCE_SECONDS;
        if skewed && !self.skewed.swap(skewed, Ordering::Relaxed) {
            tracing::warn!(
                api_client.name = %self.api_client,
                clock.skew_s = seconds,
                "the platform's clock and ours are far apart"
            );
        } else {
            self.skewed.store(skewed, Ordering::Relaxed);
        }
    }
}

impl TokenExchange for HttpExchange {
    async fn fetch(&self, secret: &ClientSecret) -> Result<Fetched, Failure> {
        let response = self.send(secret).await?;
        let status = response.status();
        let headers = response.headers().clone();
        let (date, ours) = self.times(&headers);
        let body = if Answer::needs_body(status) {
            body::read(response, MAX_BODY_BYTES).await
        } else {
            Ok(Zeroizing::default())
        };
        Answer { status, headers: &headers, body, now: date.unwrap_or(ours) }.judge()
    }
}

/// Basic authentication with the raw id and secret, as the platform's own samples do it
/// (and not form-encoded first, as RFC 6749 would have it).
fn basic(client_id: &ClientId, secret: &ClientSecret) -> Option<HeaderValue> {
    let pair = Zeroizing::new([client_id.as_str(), ":", secret.expose()].concat());
    let encoded = Zeroizing::new(STANDARD.encode(pair.as_bytes()));
    sensitive_header(&["Basic ", &encoded])
}

/// What it means that no answer's head came.
fn unsent(error: &reqwest::Error) -> Failure {
    if !error.is_connect() {
        return Failure::failing("the connection ended before the answer");
    }
    let kind = if is_invalid_certificate(error) {
        CredentialError::CertificateInvalid
    } else {
        CredentialError::Unreachable
    };
    Failure::new(kind, root_cause(error))
}
