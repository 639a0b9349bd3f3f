//! Why there is no access token.
//!
//! The kind determines the caller's status (in `status`). The cause is for operators and never
//! reaches a caller.

use std::{borrow::Cow, fmt, time::Duration};

/// Failure to fetch or use an access token. Displayed as `KIND: CAUSE`, for operators.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CredentialError {
    kind: CredentialErrorKind,
    cause: Cow<'static, str>,
    retry_after: Option<Duration>,
}

/// Kind of a failure to fetch or use an access token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CredentialErrorKind {
    /// The platform refuses the API client's id and secret.
    #[error("the platform refuses the API client's credential")]
    Rejected,
    /// The token endpoint could not be reached.
    #[error("cannot reach the platform's token endpoint")]
    Unreachable,
    /// This machine or process lacks a resource for a connection: descriptors, ports, memory.
    #[error("this machine cannot open a connection to the platform's token endpoint")]
    Exhausted,
    /// The token endpoint's certificate is not valid.
    #[error("the certificate of the platform's token endpoint is not valid")]
    CertificateInvalid,
    /// The token endpoint is failing: 5xx, 429, or a truncated or malformed response.
    #[error("the platform's token endpoint is failing")]
    Failing,
    /// A firewall in front of the platform refused the request (403, not JSON).
    #[error("a firewall in front of the platform refused the token request")]
    Blocked,
    /// A response that the documentation does not list (3xx, 404, 405, 409, 415 …).
    #[error("the platform's token endpoint returned an undocumented response")]
    Protocol {
        /// The HTTP status.
        status: u16,
    },
    /// The client secret cannot be read.
    #[error("cannot read the client secret")]
    SecretUnreadable,
    /// The API does not accept a new access token yet, and there is no older one.
    #[error("the platform does not accept the new access token yet")]
    NotAcceptedYet,
    /// The platform refused the access token, and a new one was requested only recently.
    #[error("the platform refused the access token, and a new one was requested recently")]
    RefreshLimited,
    /// The caller's deadline passed before there was a token.
    #[error("the deadline passed while waiting for an access token")]
    DeadlinePassed,
}

impl CredentialErrorKind {
    /// Returns whether an operator has to act on this API client before there can be a token.
    #[must_use]
    pub const fn is_refusal(self) -> bool {
        matches!(self, Self::Rejected | Self::SecretUnreadable)
    }
}

impl CredentialError {
    /// Creates an error. `cause` comes from the network stack or is a fixed text; it must not
    /// contain text of a response body or a secret. Empty if the kind is enough.
    pub(crate) fn new(kind: CredentialErrorKind, cause: impl Into<Cow<'static, str>>) -> Self {
        Self { kind, cause: cause.into(), retry_after: None }
    }

    /// Creates an error of kind [`Failing`](CredentialErrorKind::Failing).
    pub(super) fn failing(cause: impl Into<Cow<'static, str>>) -> Self {
        Self::new(CredentialErrorKind::Failing, cause)
    }

    /// Returns the same error with the delay after which a retry can succeed.
    pub(crate) const fn with_retry_after(mut self, retry_after: Option<Duration>) -> Self {
        self.retry_after = retry_after;
        self
    }

    /// Returns the kind, for the status of a call.
    #[must_use]
    pub const fn kind(&self) -> CredentialErrorKind {
        self.kind
    }

    /// Returns the cause, for operators; empty if the kind is enough.
    #[must_use]
    pub fn cause(&self) -> &str {
        &self.cause
    }

    /// Returns the delay after which a retry can succeed, if it is known.
    #[must_use]
    pub const fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }
}

impl fmt::Display for CredentialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.cause.is_empty() {
            write!(f, "{}", self.kind)
        } else {
            write!(f, "{}: {}", self.kind, self.cause)
        }
    }
}

impl std::error::Error for CredentialError {}
