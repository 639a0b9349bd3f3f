//! Accepts connections and serves HTTP/1.1 on them.
//!
//! `axum::serve` gives no access to the connection, which `reset` needs.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

use super::wire::{Cutter, Wire};

/// Maximum number of connections; others wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 1_024;
/// Maximum time to receive the head of a request, including idle time.
const MAX_HEAD_TIME: Duration = Duration::from_secs(75);
/// Maximum time for requests in progress after the sandbox stops.
const GRACE: Duration = Duration::from_secs(1);
/// Pause after a failed `accept`, which fails at once while descriptors are exhausted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until `stop` is cancelled, each connection as a task of `tasks`.
pub(super) async fn serve(
    listener: TcpListener,
    router: Router,
    stop: CancellationToken,
    tasks: TaskTracker,
) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let accept_all = async {
        loop {
            // The semaphore is never closed.
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, _)) => {
                    tasks.spawn(connection(stream, router.clone(), stop.clone(), place));
                }
                Err(error) => {
                    tracing::warn!(error = %error, "sandbox cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    };
    tokio::select! {
        () = accept_all => {}
        () = stop.cancelled() => {}
    }
}

async fn connection(
    stream: TcpStream,
    router: Router,
    stop: CancellationToken,
    _place: OwnedSemaphorePermit,
) {
    // Nagle would delay responses of two small writes.
    let _ = stream.set_nodelay(true);
    let cutter = Cutter::default();
    let wire = Wire::new(stream, cutter.clone());
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(cutter.clone());
        router.clone().oneshot(request)
    });
    let mut connection = std::pin::pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(MAX_HEAD_TIME)
            .serve_connection(TokioIo::new(wire), service)
    );
    // Errors are expected: clients disconnect, and faults reset connections.
    tokio::select! {
        _ = connection.as_mut() => {}
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            let _ = tokio::time::timeout(GRACE, connection).await;
        }
    }
}
