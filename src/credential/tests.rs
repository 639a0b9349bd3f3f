//! Tests for the guarantees in ARCHITECTURE.md, "Access tokens".
//!
//! Time is paused, and each test answers the requests to a fake token endpoint itself. `http` tests
//! the real exchange, with real sockets.

mod faults;
mod http;
mod refreshing;
mod rejection;
mod secret_file;
mod service;
mod silence;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{mpsc, oneshot},
    time::{sleep, timeout},
};

use super::{
    access_token::{Fetched, Generation},
    exchange::TokenExchange,
    *,
};
use crate::base::{clock, secret::client_secret::ClientSecret};

const HOUR: Duration = Duration::from_hours(1);
const LIFETIME: Duration = Duration::from_hours(2);

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn secret(text: &str) -> ClientSecret {
    ClientSecret::parse(text.as_bytes()).expect("a secret")
}

fn soon() -> Deadline {
    Deadline::after(seconds(60))
}

/// Fake token endpoint.
struct FakeExchange {
    requests: mpsc::UnboundedSender<TokenRequest>,
    in_flight: Arc<AtomicUsize>,
    max_in_flight: Arc<AtomicUsize>,
}

/// A token request that waits for its response. If this is dropped, it never gets one.
struct TokenRequest {
    secret: String,
    at: Instant,
    answer: oneshot::Sender<Result<Fetched, CredentialError>>,
}

impl TokenRequest {
    fn grant(self, lifetime: Duration) {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let token = format!("token-{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        self.answer(Fetched::new(&token, lifetime).ok_or_else(|| CredentialError::failing("no token")));
    }

    fn fail(self, kind: CredentialErrorKind) {
        self.answer(Err(CredentialError::new(kind, "failure injected by the test")));
    }

    fn answer(self, answer: Result<Fetched, CredentialError>) {
        assert!(self.answer.send(answer).is_ok(), "the request was cancelled");
    }

    fn is_cancelled(&self) -> bool {
        self.answer.is_closed()
    }
}

struct InFlight(Arc<AtomicUsize>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl TokenExchange for FakeExchange {
    async fn fetch(&self, secret: &ClientSecret) -> Result<Fetched, CredentialError> {
        let now_in_flight = self.in_flight.fetch_add(1, Ordering::SeqCst) + 1;
        let _in_flight = InFlight(Arc::clone(&self.in_flight));
        self.max_in_flight.fetch_max(now_in_flight, Ordering::SeqCst);
        let (answer, answered) = oneshot::channel();
        let secret = secret.expose().to_owned();
        let _ = self.requests.send(TokenRequest { secret, at: clock::now(), answer });
        match answered.await {
            Ok(answer) => answer,
            Err(_) => std::future::pending().await,
        }
    }
}

/// A credential whose refresh task runs against a fake token endpoint.
struct Running {
    credential: Credential,
    requests: mpsc::UnboundedReceiver<TokenRequest>,
    max_in_flight: Arc<AtomicUsize>,
    wall: WallClock,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Running {
    fn start() -> Self {
        Self::start_with(SecretSource::Fixed(secret("hush")))
    }

    fn start_with(secret: SecretSource) -> Self {
        let (sender, requests) = mpsc::unbounded_channel();
        let max_in_flight = Arc::new(AtomicUsize::new(0));
        let exchange = FakeExchange {
            requests: sender,
            in_flight: Arc::default(),
            max_in_flight: Arc::clone(&max_in_flight),
        };
        let wall = WallClock::following_monotonic();
        let (credential, task) =
            with_exchange(Arc::from("eu2"), secret, exchange, ApiClientMetrics::default(), wall.clone());
        let stop = CancellationToken::new();
        let task = tokio::spawn(task.run(stop.clone()));
        Self { credential, requests, max_in_flight, wall, stop, task }
    }

    /// Starts with a token of that lifetime in service, which was accepted once.
    async fn start_with_token(lifetime: Duration) -> Self {
        let mut running = Self::start();
        running.request().await.grant(lifetime);
        running.token_works().await;
        running
    }

    /// Makes a call that succeeds.
    async fn token_works(&self) {
        let bearer = self.credential.bearer(soon()).await.expect("a token was granted");
        self.credential.accepted(&bearer);
    }

    /// Waits for the next token request.
    async fn request(&mut self) -> TokenRequest {
        timeout(HOUR * 3, self.requests.recv()).await.expect("a token request is due").expect("the task runs")
    }

    /// Asserts that no token is requested for `duration`.
    async fn is_quiet_for(&mut self, duration: Duration) {
        assert!(timeout(duration, self.requests.recv()).await.is_err(), "an unexpected token request");
    }

    /// Returns the generation of the newest token in service. Unlike a call, does not claim a
    /// probe.
    fn generation(&self) -> Option<Generation> {
        let shared = &self.credential.0;
        let tokens = shared.tokens().filter(|tokens| tokens.are_usable(shared.now()))?;
        Some(tokens.newest().generation())
    }

    /// Starts `count` calls that wait for a token.
    async fn waiters(
        &self,
        count: usize,
    ) -> tokio::task::JoinSet<(Duration, Result<Bearer, CredentialError>)> {
        let mut waiters = tokio::task::JoinSet::new();
        for _ in 0..count {
            let credential = self.credential.clone();
            waiters.spawn(timed(async move { credential.bearer(soon()).await }));
        }
        settle().await;
        waiters
    }
}

fn is_failing<T>(answer: &Result<T, CredentialError>) -> bool {
    answer.as_ref().is_err_and(|error| error.kind() == CredentialErrorKind::Failing)
}

/// Returns how long the future took, and its output.
async fn timed<T>(future: impl Future<Output = T>) -> (Duration, T) {
    let start = clock::now();
    let output = future.await;
    (clock::now() - start, output)
}

/// Waits until every task is idle: paused time advances only then.
async fn settle() {
    sleep(Duration::from_millis(1)).await;
}
