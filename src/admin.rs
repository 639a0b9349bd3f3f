//! The admin listener: `/metrics`, `/livez`, `/readyz`, and nothing else.
//!
//! HTTP/1.1 without TLS or identity: it belongs on loopback or on a network of the
//! operator's. Nothing here can be changed from outside.

use std::{convert::Infallible, fmt::Display, io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
    routing::get,
};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};

use crate::{health::Health, telemetry::metrics::Metrics};

/// The most connections at a time; more wait to be accepted.
const MAX_CONNECTIONS: usize = 64;
/// How long a request's head may take.
const HEAD_LIMIT: Duration = Duration::from_secs(5);
/// How long a connection may take in all: a slow reader must not hold its place.
const CONNECTION_LIMIT: Duration = Duration::from_secs(10);
/// The pause after a failed accept: the process is out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A bound admin listener.
#[derive(Debug)]
pub struct Admin {
    listener: TcpListener,
    address: SocketAddr,
}

#[derive(Clone)]
struct Sources {
    metrics: Metrics,
    health: Health,
}

impl Admin {
    /// Binds the listener.
    pub async fn bind(listen: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(listen).await?;
        let address = listener.local_addr()?;
        Ok(Self { listener, address })
    }

    /// The address that it is bound to.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves for ever; drop the future to stop.
    pub async fn serve(self, metrics: Metrics, health: Health) -> Infallible {
        let router = Router::new()
            .route("/metrics", get(metrics_page))
            .route("/livez", get(alive))
            .route("/readyz", get(ready))
            .with_state(Sources { metrics, health });
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let mut connections = tokio::task::JoinSet::new();
        loop {
            // The semaphore is never closed.
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { continue };
            while connections.try_join_next().is_some() {}
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let router = router.clone();
                    connections.spawn(async move {
                        serve_connection(stream, router).await;
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(error = %error, "the admin listener cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

async fn serve_connection(stream: TcpStream, router: Router) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_LIMIT)
        .max_buf_size(16 * 1024)
        // One request for each connection: scrapes and probes are far apart.
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    match tokio::time::timeout(CONNECTION_LIMIT, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(error = %error, "a connection to the admin listener failed"),
        Err(_) => tracing::debug!("a connection to the admin listener took too long"),
    }
}

async fn metrics_page(State(sources): State<Sources>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], sources.metrics.render())
}

async fn alive(State(sources): State<Sources>) -> (StatusCode, String) {
    page("not alive", &sources.metrics.threads().unresponsive())
}

async fn ready(State(sources): State<Sources>) -> (StatusCode, String) {
    page("not ready", &sources.health.why_not())
}

/// Returns `ok`, or one line for each reason why not.
fn page<T: Display>(not: &str, reasons: &[T]) -> (StatusCode, String) {
    if reasons.is_empty() {
        return (StatusCode::OK, "ok\n".to_owned());
    }
    let lines: Vec<String> = reasons.iter().map(|reason| format!("{not}: {reason}\n")).collect();
    (StatusCode::SERVICE_UNAVAILABLE, lines.concat())
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        task::AbortHandle,
    };

    use super::*;
    use crate::clock;

    struct Served {
        address: SocketAddr,
        health: Health,
        metrics: Metrics,
        task: AbortHandle,
    }

    impl Drop for Served {
        fn drop(&mut self) {
            self.task.abort();
        }
    }

    async fn served() -> Served {
        let admin = Admin::bind("127.0.0.1:0".parse().expect("an address")).await.expect("a port");
        let (address, health) = (admin.address(), Health::new());
        // A thread is blocked at once, unless it waits.
        let metrics = Metrics::with_blocked_after(Duration::ZERO);
        let task = tokio::spawn(admin.serve(metrics.clone(), health.clone())).abort_handle();
        Served { address, health, metrics, task }
    }

    async fn exchange(address: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).await.expect("it accepts");
        stream.write_all(request.as_bytes()).await.expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("it answers");
        answer
    }

    async fn page(served: &Served, path: &str) -> String {
        exchange(served.address, &format!("GET {path} HTTP/1.1\r\nhost: admin\r\n\r\n")).await
    }

    #[tokio::test]
    async fn three_pages_and_nothing_else() {
        let served = served().await;
        let metrics = page(&served, "/metrics").await;
        assert!(metrics.starts_with("HTTP/1.1 200 OK\r\n"), "{metrics}");
        assert!(metrics.contains("content-type: text/plain; version=0.0.4; charset=utf-8\r\n"), "{metrics}");
        assert!(metrics.contains("\nott_gateway_build_info{version="), "{metrics}");
        assert!(page(&served, "/livez").await.ends_with("\r\n\r\nok\n"));
        for path in ["/", "/metrics/", "/debug/pprof", "/readyz/x", "//livez", "/%6cive"] {
            assert!(page(&served, path).await.starts_with("HTTP/1.1 404 "), "{path}");
        }
        let posted = "POST /readyz HTTP/1.1\r\nhost: admin\r\ncontent-length: 0\r\n\r\n";
        assert!(exchange(served.address, posted).await.starts_with("HTTP/1.1 405 "));
    }

    #[tokio::test]
    async fn readiness_says_why_not_and_liveness_does_not_care() {
        let served = served().await;
        assert!(page(&served, "/readyz").await.starts_with("HTTP/1.1 200 "));
        let _starting = served.health.credential("eu2");
        served.health.set_audit_broken(true);
        let answer = page(&served, "/readyz").await;
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        assert!(
            answer.ends_with(
                "not ready: the first token request of API client \"eu2\" has not ended\n\
                 not ready: audit records cannot be written\n"
            ),
            "{answer}"
        );
        assert!(page(&served, "/livez").await.starts_with("HTTP/1.1 200 "));
    }

    #[tokio::test]
    async fn liveness_names_each_thread_that_is_blocked_or_dead() {
        let served = served().await;
        let threads = served.metrics.threads();
        let (blocked, waiting) = (threads.register("worker-0"), threads.register("audit"));
        waiting.pulse().wait();
        drop(threads.register("worker-1"));
        let answer = page(&served, "/livez").await;
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        let body = "\r\n\r\nnot alive: thread worker-0 has been blocked for 0 s\n\
                    not alive: thread worker-1 has panicked\n";
        assert!(answer.ends_with(body), "{answer}");
        blocked.pulse().wait();
        assert!(page(&served, "/livez").await.ends_with("\r\n\r\nnot alive: thread worker-1 has panicked\n"));
        assert!(
            page(&served, "/readyz").await.starts_with("HTTP/1.1 200 "),
            "readiness does not depend on it"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn silent_and_slow_peers_are_sent_away() {
        let served = served().await;
        for (opening, limit) in [("", HEAD_LIMIT), ("GET /livez HTTP/1.1\r\nx-slow: ", HEAD_LIMIT)] {
            let started = clock::now();
            exchange(served.address, opening).await;
            assert!(started.elapsed() <= limit + Duration::from_secs(1), "{opening:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn peers_that_hold_every_place_do_not_keep_the_others_out() {
        let served = served().await;
        let mut silent = Vec::new();
        for _ in 0..MAX_CONNECTIONS {
            silent.push(TcpStream::connect(served.address).await.expect("it accepts"));
        }
        let started = clock::now();
        assert!(page(&served, "/livez").await.ends_with("ok\n"));
        assert!(started.elapsed() <= CONNECTION_LIMIT);
    }
}
