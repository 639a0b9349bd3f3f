//! One connection, from its first byte to its last: TLS, HTTP/2, age, drain.
//!
//! Each wait for the peer has an end. What a call on the connection goes through is
//! not decided here.

use std::{convert::Infallible, net::SocketAddr, pin::pin, sync::Arc};

use hyper::{server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::{sleep, timeout},
};

use super::{drain::Phases, limits::Limits, preface, stack::Stack, tls::Handshakes};
use crate::{
    backoff::jittered,
    caller::Peer,
    clock,
    telemetry::metrics::{ConnectionState, Counted, Metrics},
};

/// What all connections of one worker have in common.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) stack: Arc<Stack>,
    pub(super) handshakes: Option<Handshakes>,
    pub(super) limits: Limits,
    pub(super) phases: Phases,
    pub(super) metrics: Metrics,
}

/// Serves a connection until it ends, or a drain ends it.
pub(super) async fn serve(shared: Arc<Shared>, stream: TcpStream, address: SocketAddr) {
    let connection = async {
        let shaking_hands = shared.metrics.connection(ConnectionState::Handshake);
        match &shared.handshakes {
            None => serve_http2(&shared, stream, Peer::plaintext(address), shaking_hands).await,
            Some(handshakes) => {
                if let Some((stream, peer)) = handshakes.complete(stream, address).await {
                    serve_http2(&shared, stream, peer, shaking_hands).await;
                }
            }
        }
    };
    tokio::select! {
        biased;
        () = shared.phases.close.cancelled() => {}
        () = connection => {}
    }
}

async fn serve_http2<Io>(shared: &Shared, io: Io, peer: Peer, shaking_hands: Counted)
where
    Io: AsyncRead + AsyncWrite + Unpin,
{
    let io = match timeout(shared.limits.preface_timeout, preface::expect(io)).await {
        Ok(Ok(io)) => io,
        Ok(Err(error)) => {
            tracing::debug!(peer.address = %peer.address(), %error, "a peer does not speak HTTP/2");
            return;
        }
        Err(_elapsed) => {
            shared.metrics.security_event("slow_preface");
            tracing::debug!(peer.address = %peer.address(), "a peer did not send its preface in time");
            return;
        }
    };

    drop(shaking_hands);
    let open = shared.metrics.connection(ConnectionState::Open);
    let peer = Arc::new(peer);
    let service = service_fn(|request| {
        // Not in the future: the time that it waits for its first turn counts.
        let arrived = clock::now();
        let (stack, peer) = (Arc::clone(&shared.stack), Arc::clone(&peer));
        async move { Ok::<_, Infallible>(stack.answer(request, &peer, arrived).await) }
    });
    let mut connection = pin!(builder(&shared.limits).serve_connection(TokioIo::new(io), service));
    let grace = tokio::select! {
        ended = connection.as_mut() => return log_end(&peer, &ended),
        () = shared.phases.go_away.cancelled() => None,
        () = sleep(jittered(shared.limits.connection_age, 0.9, 1.1)) => Some(shared.limits.connection_grace),
    };

    drop(open);
    let _draining = shared.metrics.connection(ConnectionState::Draining);
    connection.as_mut().graceful_shutdown();
    match grace {
        // A drain has an end of its own.
        None => log_end(&peer, &connection.await),
        Some(grace) => {
            if let Ok(ended) = timeout(grace, connection).await {
                log_end(&peer, &ended);
            } else {
                tracing::debug!(peer.address = %peer.address(), "an old connection was closed by force");
            }
        }
    }
}

/// HTTP/2 with every limit set.
fn builder(limits: &Limits) -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.max_streams)
        .max_local_error_reset_streams(limits.max_local_error_resets)
        .max_pending_accept_reset_streams(limits.max_pending_resets)
        .max_header_list_size(limits.max_header_list)
        .max_frame_size(limits.max_frame)
        .initial_stream_window_size(limits.stream_window)
        .initial_connection_window_size(limits.connection_window)
        .max_send_buf_size(limits.max_send_buffer)
        .keep_alive_interval(limits.keepalive_interval)
        .keep_alive_timeout(limits.keepalive_timeout)
        .auto_date_header(false);
    builder
}

fn log_end(peer: &Peer, ended: &hyper::Result<()>) {
    if let Err(error) = ended {
        tracing::debug!(peer.address = %peer.address(), %error, "a connection ended with an error");
    }
}
