//! The life of one connection: TLS, HTTP/2, time limits, drain.
//!
//! Every wait for the peer has a time limit. The handling of calls is in `stack` and
//! `health_stack`.

use std::{convert::Infallible, error::Error, pin::pin, sync::Arc, time::Duration};

use futures_util::FutureExt;
use hyper::{server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    task::yield_now,
    time::{timeout, timeout_at},
};

use super::{
    connections::{Entry, Place},
    drain::Phases,
    limits::Limits,
    on_wake::OnWake,
    port::Port,
    preface,
    stream_guard::{Guarded, Pass, StreamBudget},
    tls::{Handshakes, Trust},
    turn_clock::TurnClock,
};
use crate::{
    base::clock,
    caller::Peer,
    observe::telemetry::metrics::{
        ConnectionEnd, ConnectionState, GaugeGuard, Http2Error, Metrics, SecurityEvent,
    },
};

/// Time for calls in progress once the peer's certificate is no longer trusted.
const UNTRUSTED_GRACE: Duration = Duration::from_secs(1);

/// The context that all connections of a worker share.
#[derive(Debug)]
pub(super) struct ConnectionContext {
    pub(super) port: Arc<Port>,
    pub(super) handshakes: Option<Handshakes>,
    pub(super) limits: Limits,
    pub(super) stream_budget: StreamBudget,
    pub(super) phases: Phases,
    pub(super) metrics: Metrics,
}

/// Serves a connection until it ends, is evicted for another, or is closed by a drain.
pub(super) async fn serve(shared: Arc<ConnectionContext>, stream: TcpStream, place: Place) {
    let closed = OnWake::new(shared.phases.close.cancelled());
    let end = tokio::select! {
        biased;
        () = closed => ConnectionEnd::Drain,
        end = secure_and_serve(&shared, stream, &place) => end,
    };
    place.give_back(end);
}

async fn secure_and_serve(shared: &ConnectionContext, stream: TcpStream, place: &Place) -> ConnectionEnd {
    let handshaking = shared.metrics.connection(ConnectionState::Handshake);
    let address = place.entry().address();
    let Some(handshakes) = &shared.handshakes else {
        let peer = Peer::plaintext(address);
        return serve_http2(shared, stream, peer, None, place.entry(), handshaking).await;
    };
    // Boxed, like the stream, because a task is always as large as its largest state, and each
    // state that a value passes through reserves space for it.
    let handshake = Box::pin(async {
        let (stream, peer, trust) = handshakes.complete(stream, address).await?;
        Some((Box::new(stream), peer, trust))
    });
    match place.entry().evicted().run_until_cancelled(handshake).await {
        None => ConnectionEnd::Evicted,
        Some(None) => ConnectionEnd::Handshake,
        Some(Some((stream, peer, trust))) => {
            place.authenticated(&peer);
            serve_http2(shared, stream, peer, Some(trust), place.entry(), handshaking).await
        }
    }
}

async fn serve_http2<Io>(
    shared: &ConnectionContext,
    io: Io,
    peer: Peer,
    mut trust: Option<Trust>,
    entry: &Arc<Entry>,
    handshaking: GaugeGuard,
) -> ConnectionEnd
where
    Io: AsyncRead + AsyncWrite + Unpin,
{
    let preface = timeout(shared.limits.preface_timeout, preface::expect(io));
    let io = match entry.evicted().run_until_cancelled(preface).await {
        None => return ConnectionEnd::Evicted,
        Some(Ok(Ok(io))) => io,
        Some(Ok(Err(error))) => {
            tracing::debug!(peer.address = %peer.address(), %error, "peer does not speak HTTP/2");
            return ConnectionEnd::Handshake;
        }
        Some(Err(_elapsed)) => {
            shared.metrics.security_event(SecurityEvent::SlowPreface);
            tracing::debug!(peer.address = %peer.address(), "peer sent no preface in time");
            return ConnectionEnd::Handshake;
        }
    };

    drop(handshaking);
    let open = shared.metrics.connection(ConnectionState::Open);
    let peer = peer.with_recognition(entry.recognition().clone());
    let requests = Arc::new(shared.port.connection(peer));
    let peer = requests.peer();
    let pass = Pass::default();
    let budget = shared.stream_budget.clone();
    let io = Guarded::new(io, pass.clone(), &shared.limits, peer, budget, shared.metrics.clone());
    let service = service_fn(|request| {
        // Taken before the future is polled, so that queueing counts against the deadline.
        let arrived = pass.clock().now();
        let call = entry.call(arrived);
        let (port, requests) = (Arc::clone(&shared.port), Arc::clone(&requests));
        let may_be_reset = pass.has_resets();
        async move {
            if may_be_reset {
                // Yields once, because hyper drops the future of a reset stream only while it is
                // pending.
                yield_now().await;
            }
            Ok::<_, Infallible>(call.responding(port.answer(request, &requests, arrived).await))
        }
    });
    let mut connection =
        pin!(builder(&shared.limits, pass.clock().clone()).serve_connection(TokioIo::new(io), service));
    let over = OnWake::new(async {
        tokio::select! {
            () = shared.phases.go_away.cancelled() => ConnectionEnd::Drain,
            () = withdrawn(&mut trust) => ConnectionEnd::Untrusted,
            () = entry.evicted().cancelled() => ConnectionEnd::Evicted,
            () = entry.unread().cancelled() => ConnectionEnd::Unread,
            end = entry.is_over(&shared.limits) => end,
        }
    });
    let end = tokio::select! {
        ended = pass.drive(connection.as_mut()) => return ended_by_itself(peer, &ended, &shared.metrics),
        end = over => end,
    };

    drop(open);
    let _draining = shared.metrics.connection(ConnectionState::Draining);
    connection.as_mut().graceful_shutdown();
    match end {
        // A drain has its own time limits.
        ConnectionEnd::Drain => {
            match entry.unread().run_until_cancelled(pass.drive(connection.as_mut())).await {
                Some(ended) => drop(ended_by_itself(peer, &ended, &shared.metrics)),
                None => drop(timeout(shared.limits.unread_grace, pass.drive(connection)).await),
            }
        }
        // The place has been given away, or the peer accepts nothing: the GOAWAY is written without
        // waiting for the peer.
        _ if end == ConnectionEnd::Evicted || entry.is_stalled(clock::now(), &shared.limits) => {
            let _ = pass.drive(connection).now_or_never();
        }
        // Behind a proxy, calls of others can share the connection with the unread response.
        ConnectionEnd::Unread => {
            let closing = timeout(shared.limits.unread_grace, pass.drive(connection));
            drop(entry.evicted().run_until_cancelled(closing).await);
        }
        _ => {
            let Limits { goaway_timeout, connection_grace, .. } = shared.limits;
            // A peer that ignores the GOAWAY can start calls until then.
            let connection_grace =
                if end == ConnectionEnd::Untrusted { UNTRUSTED_GRACE } else { connection_grace };
            let last = clock::now() + connection_grace;
            // Calls of unidentified callers get no grace period.
            let has_grace = || end != ConnectionEnd::Unidentified || entry.recognition().is_set();
            let closing = async {
                if timeout(goaway_timeout.min(connection_grace), pass.drive(connection.as_mut()))
                    .await
                    .is_ok()
                {
                    return true;
                }
                let rest = pass.drive(connection.as_mut());
                entry.calls() > 0 && has_grace() && timeout_at(last, rest).await.is_ok()
            };
            let closing = entry.unread().run_until_cancelled(closing);
            match entry.evicted().run_until_cancelled(closing).await {
                Some(Some(false)) => {
                    tracing::debug!(peer.address = %peer.address(), "peer ignored GOAWAY");
                }
                Some(None) => drop(timeout(shared.limits.unread_grace, pass.drive(connection)).await),
                Some(Some(true)) | None => {}
            }
        }
    }
    end
}

/// Resolves when the peer's certificate is no longer trusted.
async fn withdrawn(trust: &mut Option<Trust>) {
    match trust {
        Some(trust) => trust.withdrawn().await,
        None => std::future::pending().await,
    }
}

/// Returns an HTTP/2 builder with every limit set.
fn builder(limits: &Limits, clock: TurnClock) -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(clock)
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

/// Logs the end of a connection that was not closed by this side, and counts the HTTP/2 errors for
/// which the library ended it.
fn ended_by_itself(peer: &Peer, ended: &hyper::Result<()>, metrics: &Metrics) -> ConnectionEnd {
    let Err(error) = ended else { return ConnectionEnd::Peer };
    if let Some((rejected, reason)) = rejection(error) {
        let reason = Http2Error::from_code(reason);
        metrics.http2_connection_rejected(reason);
        tracing::info!(
            peer.address = %peer.address(),
            http2.error = reason.as_str(),
            error = %rejected,
            "HTTP/2 connection rejected"
        );
    } else {
        tracing::debug!(peer.address = %peer.address(), %error, "connection failed");
    }
    ConnectionEnd::Broken
}

/// Returns the error with which the HTTP/2 library ended the connection, if it did, and its code.
fn rejection(error: &hyper::Error) -> Option<(&h2::Error, h2::Reason)> {
    let error = error.source()?.downcast_ref::<h2::Error>()?;
    let reason = error.reason()?;
    (error.is_go_away() && error.is_library()).then_some((error, reason))
}
