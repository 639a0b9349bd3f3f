//! Accepting connections and serving HTTP/1.1 on them.
//!
//! axum has a loop of its own, but one that keeps no hold of the connection: a fault
//! that resets it needs one.

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

/// Connections at a time; more wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 1_024;
/// How long a request's head may take, and how long an idle connection is kept.
const MAX_HEAD_TIME: Duration = Duration::from_secs(75);
/// What a connection may still take once the sandbox stops.
const GRACE: Duration = Duration::from_secs(1);
/// The pause after a failed `accept`, which fails again at once while descriptors are short.
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
                    tracing::warn!(error = %error, "the sandbox could not accept a connection");
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
    // An answer is one or two small writes: waiting to join them only delays it. If it
    // cannot be set, the answer is merely later.
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
    // How a connection ends is its client's business, or a fault's.
    tokio::select! {
        _ = connection.as_mut() => {}
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            let _ = tokio::time::timeout(GRACE, connection).await;
        }
    }
}
