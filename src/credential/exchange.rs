//! The token request: exchanges the API client's id and secret for an access token.
//!
//! The caller decides when it is sent and how long it may take.

mod lifetime;
mod token_response;

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::SystemTime,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use http::{
    HeaderMap, HeaderValue,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, DATE},
};
use url::Url;
use zeroize::Zeroizing;

use self::{
    lifetime::Problem,
    token_response::{Granted, TokenResponse},
};
use super::{
    ClientId, CredentialError, CredentialErrorKind,
    access_token::{Fetched, sensitive_header},
};
use crate::{
    base::{clock::WallClock, secret::client_secret::ClientSecret},
    http_client::{ConnectError, UnpooledClient, body, date::parse_date},
    observe::telemetry::metrics::ApiClientMetrics,
};

/// Maximum size of a token response, in bytes.
const MAX_BODY_BYTES: usize = 64 * 1024;

/// Maximum distance of the platform's clock from ours without a warning, in seconds.
const CLOCK_TOLERANCE_SECONDS: f64 = 30.0;

const BODY: &str = "grant_type=client_credentials";

/// Requests an access token from the platform.
pub(super) trait TokenExchange: Send + Sync {
    /// Sends one token request. The error's `retry_after` is the delay that the platform requests,
    /// clamped.
    fn fetch(&self, secret: &ClientSecret) -> impl Future<Output = Result<Fetched, CredentialError>> + Send;
}

/// Token exchange over HTTP.
pub(super) struct HttpExchange {
    api_client: Arc<str>,
    client_id: ClientId,
    url: Url,
    http: UnpooledClient,
    wall: WallClock,
    metrics: ApiClientMetrics,
    /// Whether the clock of the last response was too far from ours. Prevents repeated warnings.
    skewed: AtomicBool,
    /// Problem with the lifetime in the last response. Prevents repeated warnings.
    lifetime_problem: Mutex<Option<Problem>>,
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
        http: UnpooledClient,
        wall: WallClock,
        metrics: ApiClientMetrics,
    ) -> Self {
        Self {
            api_client,
            client_id,
            url,
            http,
            wall,
            metrics,
            skewed: AtomicBool::new(false),
            lifetime_problem: Mutex::new(None),
        }
    }

    async fn send(&self, authorization: HeaderValue) -> Result<reqwest::Response, CredentialError> {
        let request = self
            .http
            .client()
            .post(self.url.clone())
            .header(AUTHORIZATION, authorization)
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header(ACCEPT, "application/json")
            .body(BODY);
        match self.http.send(request).await {
            Ok(response) => Ok(response),
            Err(error) => Err(without_response(&error, self.http.cause_of(&error).await)),
        }
    }

    /// Returns the time in the `Date` header of the response, and ours.
    fn times(&self, headers: &HeaderMap) -> (Option<SystemTime>, SystemTime) {
        let ours = self.wall.now();
        let date = headers.get(DATE).and_then(|date| parse_date(date.as_bytes()));
        if let Some(theirs) = date {
            self.note_skew(theirs, ours);
        }
        (date, ours)
    }

    /// Warns about an undocumented lifetime, once per change.
    fn note_lifetime(&self, granted: &Granted) {
        let mut last = self.lifetime_problem.lock().unwrap_or_else(PoisonError::into_inner);
        if *last == granted.lifetime_problem {
            return;
        }
        *last = granted.lifetime_problem;
        if let Some(problem) = granted.lifetime_problem {
            tracing::warn!(
                api_client.name = %self.api_client,
                token.lifetime_s = granted.token.lifetime().as_secs(),
                cause = problem.text(),
                "access token lifetime unclear"
            );
        }
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
                "platform clock differs from ours"
            );
        } else {
            self.skewed.store(skewed, Ordering::Relaxed);
        }
    }
}

impl TokenExchange for HttpExchange {
    async fn fetch(&self, secret: &ClientSecret) -> Result<Fetched, CredentialError> {
        let unusable =
            || CredentialError::new(CredentialErrorKind::SecretUnreadable, "a header cannot carry it");
        let authorization = basic(&self.client_id, secret).ok_or_else(unusable)?;
        let mut response = self.send(authorization.clone()).await?;
        let status = response.status();
        let headers = response.headers().clone();
        let (date, ours) = self.times(&headers);
        let body = if TokenResponse::needs_body(status) {
            body::read(&mut response, MAX_BODY_BYTES).await
        } else {
            Ok(Zeroizing::default())
        };
        let granted =
            TokenResponse { status, headers: &headers, body, now: date.unwrap_or(ours) }.interpret()?;
        self.note_lifetime(&granted);
        Ok(granted.token.requested_with(authorization))
    }
}

/// Returns Basic authentication with the raw id and secret, as in the platform's samples
/// (RFC 6749 would form-encode them first).
fn basic(client_id: &ClientId, secret: &ClientSecret) -> Option<HeaderValue> {
    let pair = Zeroizing::new([client_id.as_str(), ":", secret.expose()].concat());
    let encoded = Zeroizing::new(STANDARD.encode(pair.as_bytes()));
    sensitive_header(&["Basic ", &encoded])
}

/// Returns the error of a request that got no response head.
fn without_response(error: &reqwest::Error, cause: String) -> CredentialError {
    let kind = if error.is_connect() {
        match ConnectError::from_error(error) {
            ConnectError::Exhausted(_) => CredentialErrorKind::Exhausted,
            ConnectError::CertificateInvalid => CredentialErrorKind::CertificateInvalid,
            ConnectError::NameLookup | ConnectError::Unreachable => CredentialErrorKind::Unreachable,
        }
    } else {
        CredentialErrorKind::Failing
    };
    CredentialError::new(kind, cause)
}
