//! Everything that can go wrong between us and the platform, and how sure we are of
//! what happened.
//!
//! Which gRPC status each of these becomes is decided in `status`.

use std::time::Duration;

pub use super::error_code::PlatformErrorCode;
use crate::{call::Certainty, credential::CredentialError};

/// One failed operation.
#[derive(Debug, thiserror::Error)]
#[error("{kind}")]
pub struct PlatformError {
    /// What went wrong last.
    pub kind: ErrorKind,
    /// How sure we are of what the platform did, over all attempts.
    pub certainty: Certainty,
}

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum ErrorKind {
    /// No connection could be made: DNS, connect, a TLS handshake cut off, or the
    /// stream was refused before it was processed.
    #[error("the platform could not be reached")]
    Unreachable,
    /// The platform's certificate is not valid for its name, or not trusted.
    #[error("the platform's certificate is not valid")]
    CertificateInvalid,
    /// The breaker is open: the platform has been failing.
    #[error("the platform has been failing; not asked again before {retry_after:?}")]
    BreakerOpen {
        /// When the next probe is due.
        retry_after: Duration,
    },
    /// Bytes may have left and no usable answer came: reset, timeout, cut-off body.
    #[error("the exchange with the platform broke off")]
    Interrupted,
    /// An answer other than 2xx.
    #[error("the platform answered with HTTP status {}", .0.status)]
    Answer(ErrorAnswer),
    /// A 2xx answer that is not what the documentation promises.
    #[error("the platform's answer is not as documented: {0}")]
    Malformed(Malformation),
    /// No access token could be had.
    #[error(transparent)]
    Credential(#[from] CredentialError),
    /// Too little of the deadline is left to send anything.
    #[error("too little time is left")]
    DeadlinePassed,
}

/// What is wrong with a 2xx answer. Fixed words only: nothing of the body is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformation {
    /// The content type is not JSON.
    #[error("its content type is not application/json")]
    ContentType,
    /// It is not the JSON that was promised.
    #[error("it is not the promised JSON")]
    Json,
    /// It is larger than this kind of answer may be.
    #[error("it is too large")]
    TooLarge,
    /// What it was asked for is missing or unusable.
    #[error("the token or the account is missing in it")]
    Missing,
    /// It sets more, or longer, cookies than a session can have.
    #[error("it sets too many or too long cookies")]
    Cookies,
}

/// An answer other than 2xx, reduced to what may be passed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErrorAnswer {
    /// The HTTP status.
    pub status: u16,
    /// The error object, if the body was one.
    pub body: Option<ErrorBody>,
    /// `Retry-After`, as a duration from now; unclamped.
    pub retry_after: Option<Duration>,
}

impl ErrorAnswer {
    /// Whether its code says that the platform failed inside, whatever its HTTP status.
    #[must_use]
    pub fn tells_of_a_fault_inside(&self) -> bool {
        use PlatformErrorCode::{BackupServiceUnavailable, InternalSystemError};
        let code = self.body.as_ref().and_then(|body| body.code);
        matches!(code, Some(InternalSystemError | BackupServiceUnavailable))
    }
}

/// The platform's error object, reduced to what may be passed on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ErrorBody {
    /// The platform's code, unless it merely repeats the HTTP status.
    pub code: Option<PlatformErrorCode>,
    /// Which part of the platform speaks; at most 64 bytes of visible ASCII.
    pub domain: Option<String>,
    /// Its message: control characters and any echo of the request's own values
    /// removed, at most 256 bytes.
    pub message: Option<String>,
}
