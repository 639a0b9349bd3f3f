//! The gateway's access token for one API client: fetched, kept fresh, handed out.
//!
//! Nothing here is about calls of users; a token with less life left than an exchange
//! needs is never handed out.

use std::time::Duration;

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
