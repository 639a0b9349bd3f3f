//! Credentials for the tests of other stages: the real thing, on an exchange that asks
//! nobody.

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
use crate::{clock::WallClock, secret::client_secret::ClientSecret, telemetry::metrics::ApiClientMetrics};

/// Answers with `access-token-1`, `access-token-2` …, or always with the same failure.
#[derive(Debug)]
struct Numbered {
    next: AtomicU32,
    failing: Option<CredentialErrorKind>,
}

impl TokenExchange for Numbered {
    async fn fetch(&self, _: &ClientSecret) -> Result<Fetched, CredentialError> {
        if let Some(kind) = self.failing {
            return Err(CredentialError::new(kind, "as the test wants it"));
        }
        let token = format!("access-token-{}", self.next.fetch_add(1, Ordering::SeqCst));
        Ok(Fetched::new(&token, Duration::from_hours(2)).expect("a good token"))
    }
}

impl Credential {
    /// One whose tokens are `access-token-1`, `access-token-2` and so on. Its refresh runs
    /// on the current runtime.
    pub(crate) fn for_test() -> Self {
        Self::on(Numbered { next: AtomicU32::new(1), failing: None })
    }

    /// One that never gets a token.
    pub(crate) fn failing_for_test(error: CredentialErrorKind) -> Self {
        Self::on(Numbered { next: AtomicU32::new(1), failing: Some(error) })
    }

    fn on(exchange: Numbered) -> Self {
        let secret = SecretSource::Fixed(ClientSecret::parse(b"secret").expect("a secret"));
        let metrics = ApiClientMetrics::default();
        let (credential, task) =
            with_exchange(Arc::from("test"), secret, exchange, metrics, WallClock::system());
        tokio::spawn(task.run(CancellationToken::new()));
        credential
    }
}
