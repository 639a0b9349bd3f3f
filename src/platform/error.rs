//! Failures of operations at the platform.
//!
//! `Display` is for the operator: it contains the root cause, but no secret and no text of a
//! response body. `status` decides which gRPC status a caller gets. The certainty of the effect is
//! stored only in the [`Call`](crate::domain::call::Call).

use std::{fmt, time::Duration};

pub use super::{error_code::PlatformErrorCode, set_cookie::CookieProblem};
use crate::credential::CredentialError;

/// Last failure of an operation.
#[derive(Debug, thiserror::Error)]
pub enum PlatformError {
    /// There is no connection (TCP, a proxy, an aborted TLS handshake), or the stream was refused
    /// before it was processed.
    #[error("cannot reach the platform: {0}")]
    Unreachable(String),
    /// The platform's certificate is expired, for another name, or not trusted.
    #[error("the platform's certificate is not valid: {0}")]
    CertificateInvalid(String),
    /// The platform's name could not be looked up.
    #[error("cannot reach the platform: {0}")]
    NameLookup(String),
    /// This machine or process lacks a resource for a connection: descriptors, ports, memory.
    #[error("this machine cannot open a connection to the platform: {0}")]
    Exhausted(String),
    /// All HTTP/2 streams that the platform accepts were in use by this gateway.
    #[error("no free HTTP/2 stream: all that the platform accepts are in use by this gateway")]
    Queued,
    /// The memory for the response stayed in use by other calls.
    #[error("no memory for the response: all memory for responses is in use")]
    MemoryInUse,
    /// The breaker is open: the endpoint has been failing.
    #[error("the circuit breaker is open, next probe in {retry_after:?}")]
    BreakerOpen {
        /// Time until the next probe.
        retry_after: Duration,
    },
    /// The request may have been sent, and there is no usable response: reset, timeout, truncated
    /// body.
    #[error("the exchange with the platform was interrupted: {0}")]
    Interrupted(String),
    /// A response other than 2xx.
    #[error("{0}")]
    Response(ErrorResponse),
    /// A 2xx response that is not as documented.
    #[error("undocumented response: {0}")]
    Malformed(Malformation),
    /// There is no access token.
    #[error("no access token: {0}")]
    Credential(#[from] CredentialError),
    /// Too little of the deadline is left to send anything.
    #[error("too little time left to send the request")]
    DeadlinePassed,
}

/// Problem with a 2xx response. The texts are fixed, and contain nothing of the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformation {
    /// The content type is not JSON.
    #[error("its content type is not application/json")]
    ContentType,
    /// It is compressed, although the request accepts no coding.
    #[error("it is compressed (Content-Encoding), although the request did not accept that")]
    ContentCoding,
    /// It is not a JSON object.
    #[error("its body is not a JSON object")]
    Json,
    /// Its body is larger than allowed for this kind of response.
    #[error("its body is too large")]
    TooLarge,
    /// Its headers are larger than 64 KiB.
    #[error("its headers are larger than 64 KiB")]
    Headers,
    /// The token, or the account's `id` or `login`, is missing or not usable.
    #[error("the one-time token, or the account's id or login, is missing or not usable")]
    Missing,
    /// Its cookies cannot be passed on.
    #[error("{0}")]
    Cookies(CookieProblem),
}

/// A response other than 2xx, reduced to the parts that may be returned to the caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErrorResponse {
    /// The HTTP status.
    pub status: u16,
    /// The error object, if the body was one.
    pub body: Option<ErrorBody>,
    /// `Retry-After`, as a duration from now; not clamped.
    pub retry_after: Option<Duration>,
}

impl ErrorResponse {
    /// Returns whether the response proves that the request had no effect.
    ///
    /// Proxies send 408, 425 and 499 while the server may have the request, and a redirect can
    /// follow an action. With `spends`, a wrong result would cost the caller a token, so the
    /// refusal has to come from the platform itself, with its error object: a response of a proxy
    /// may be sent after the request has reached the platform.
    #[must_use]
    pub fn is_definite(&self, spends: bool) -> bool {
        match self.status {
            408 | 425 | 499 => false,
            // These refuse the token. The code is ignored, because it could distinguish an
            // unknown token from a used one.
            400 | 401 | 404 | 410 if spends => self.body.is_some(),
            400..=499 => !spends || (self.body.is_some() && !self.is_internal_error()),
            _ => false,
        }
    }

    /// Returns whether its API code reports an internal error of the platform, regardless of
    /// the HTTP status.
    #[must_use]
    pub fn is_internal_error(&self) -> bool {
        use PlatformErrorCode::{BackupServiceUnavailable, InternalSystemError};
        let code = self.body.as_ref().and_then(|body| body.code);
        matches!(code, Some(InternalSystemError | BackupServiceUnavailable))
    }
}

impl fmt::Display for ErrorResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HTTP status {}", self.status)?;
        match &self.body {
            None => f.write_str(" without the platform's error object"),
            Some(ErrorBody { code: Some(code), .. }) => write!(f, ", API code {}", code.number()),
            Some(_) => Ok(()),
        }
    }
}

/// The platform's error object, reduced to the parts that may be returned to the caller.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ErrorBody {
    /// The platform's code, unless it merely repeats the HTTP status.
    pub code: Option<PlatformErrorCode>,
    /// The part of the platform that answered: at most 64 bytes of visible ASCII.
    pub domain: Option<String>,
    /// Its message, at most 256 bytes, without control characters and values of the request.
    pub message: Option<String>,
}
