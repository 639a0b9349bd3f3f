//! Credentials for the tests of other modules: the real code, with an exchange that sends nothing.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use tokio_util::sync::CancellationToken;

use super::{
    Credential, CredentialError, CredentialErrorKind, SecretSource, access_token::Fetched,
    exchange::TokenExchange, with_exchange,
};
use crate::{
    base::{clock::WallClock, secret::client_secret::ClientSecret},
    observe::telemetry::metrics::ApiClientMetrics,
};

const LIFETIME: Duration = Duration::from_hours(2);

/// Returns `access-token-1`, `access-token-2` …, until it fails.
#[derive(Debug)]
struct Numbered {
    next: AtomicU32,
    lifetime: Duration,
    /// The first token that is refused, counted from 1, and the error.
    failing: Option<(u32, CredentialErrorKind)>,
}

impl TokenExchange for Numbered {
    async fn fetch(&self, _: &ClientSecret) -> Result<Fetched, CredentialError> {
        let number = self.next.fetch_add(1, Ordering::SeqCst);
        match self.failing {
            Some((from, kind)) if number >= from => {
                Err(CredentialError::new(kind, "failure injected by the test"))
            }
            _ => Ok(Fetched::new(&format!("access-token-{number}"), self.lifetime).expect("a valid token")),
        }
    }
}

impl Credential {
    /// Creates a credential with the tokens `access-token-1`, `access-token-2` and so on. Its
    /// refresh task runs on the current runtime.
    pub(crate) fn for_test() -> Self {
        Self::with_tokens(LIFETIME, None)
    }

    /// Creates a credential that never gets a token.
    pub(crate) fn failing_for_test(error: CredentialErrorKind) -> Self {
        Self::with_tokens(LIFETIME, Some((1, error)))
    }

    /// Creates a credential with a single token, which is valid for four seconds.
    pub(crate) fn lapsing_for_test(error: CredentialErrorKind) -> Self {
        Self::with_tokens(Duration::from_secs(4), Some((2, error)))
    }

    fn with_tokens(lifetime: Duration, failing: Option<(u32, CredentialErrorKind)>) -> Self {
        let exchange = Numbered { next: AtomicU32::new(1), lifetime, failing };
        let secret = SecretSource::Fixed(ClientSecret::parse(b"secret").expect("a secret"));
        let metrics = ApiClientMetrics::default();
        let (credential, task) =
            with_exchange(Arc::from("test"), secret, exchange, metrics, WallClock::system());
        tokio::spawn(task.run(CancellationToken::new()));
        credential
    }
}
