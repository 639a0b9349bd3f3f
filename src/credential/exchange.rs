//! The token exchange: the API client's id and secret for an access token.
//!
//! One request and its answer; when to send it is not decided here, nor how long it may
//! take in all.

mod answer;

use std::{
    borrow::Cow,
    error::Error,
    fmt, io,
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
use crate::{clock::WallClock, secret::Secret, telemetry::metrics::ApiClientMetrics};

/// A longer answer is malformed.
const LONGEST_BODY: usize = 64 * 1024;

/// The platform's clock may be so far from ours without a warning.
const CLOCK_TOLERANCE_SECONDS: f64 = 30.0;

const BODY: &str = "grant_type=client_credentials";

/// Asks the platform for an access token.
pub(super) trait TokenExchange: Send + Sync {
    /// One token request.
    fn fetch(&self, secret: &Secret) -> impl Future<Output = Result<Fetched, Failure>> + Send;
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

    async fn send(&self, secret: &Secret) -> Result<reqwest::Response, Failure> {
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
        let date = headers.get(DATE).and_then(|date| httpdate::parse_http_date(date.to_str().ok()?).ok());
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
    async fn fetch(&self, secret: &Secret) -> Result<Fetched, Failure> {
        let response = self.send(secret).await?;
        let status = response.status();
        let headers = response.headers().clone();
        let (date, ours) = self.times(&headers);
        let body =
            if Answer::needs_body(status) { read_body(response).await } else { Ok(Zeroizing::default()) };
        Answer { status, headers: &headers, body, now: date.unwrap_or(ours) }.judge()
    }
}

/// Basic authentication with the raw id and secret, as the platform's own samples do it
/// (and not form-encoded first, as RFC 6749 would have it).
fn basic(client_id: &ClientId, secret: &Secret) -> Option<HeaderValue> {
    let pair = Zeroizing::new([client_id.as_str(), ":", secret.expose()].concat());
    let encoded = Zeroizing::new(STANDARD.encode(pair.as_bytes()));
    sensitive_header(&["Basic ", &encoded])
}

/// The whole body, or why there is none. Counted while it is read.
async fn read_body(mut response: reqwest::Response) -> Result<Zeroizing<Vec<u8>>, &'static str> {
    const TOO_LONG: &str = "the answer is longer than 64 KiB";
    if response.content_length().is_some_and(|length| length > LONGEST_BODY as u64) {
        return Err(TOO_LONG);
    }
    // Never grown: growing would leave copies behind that nobody overwrites.
    let mut body = Zeroizing::new(Vec::with_capacity(LONGEST_BODY));
    while let Some(chunk) = response.chunk().await.map_err(|_| "the answer was cut off")? {
        if chunk.len() > LONGEST_BODY - body.len() {
            return Err(TOO_LONG);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// What it means that no answer's head came.
fn unsent(error: &reqwest::Error) -> Failure {
    if !error.is_connect() {
        return Failure::failing("the connection ended before the answer");
    }
    let causes = Causes(Some(error));
    let error = if causes.clone().any(is_invalid_certificate) {
        CredentialError::CertificateInvalid
    } else {
        CredentialError::Unreachable
    };
    // The first one says the URL, which the log need not repeat; the last says why.
    let cause = causes.last().map_or_else(String::new, ToString::to_string);
    Failure::new(error, cause)
}

/// An error, and what has led to it.
#[derive(Clone)]
struct Causes<'a>(Option<&'a (dyn Error + 'static)>);

impl<'a> Iterator for Causes<'a> {
    type Item = &'a (dyn Error + 'static);

    fn next(&mut self) -> Option<Self::Item> {
        let error = self.0.take()?;
        // `io::Error` leaves out the error it wraps when asked for its source.
        let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        self.0 = match wrapped {
            Some(wrapped) => Some(wrapped),
            None => error.source(),
        };
        Some(error)
    }
}

fn is_invalid_certificate(error: &(dyn Error + 'static)) -> bool {
    matches!(error.downcast_ref::<rustls::Error>(), Some(rustls::Error::InvalidCertificate(_)))
}
