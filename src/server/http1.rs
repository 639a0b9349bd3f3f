//! A port for HTTP/1.1 without TLS: one request per connection, on its own thread.
//!
//! Clients are not identified here, so they must not affect the callers of the main port: the
//! thread shares no queue with the one that accepts their connections. A full port gives the place
//! of the longest-idle connection to the new one, so that probes and scrapes are never refused. The
//! caller of this module supplies the responses.

use std::{
    convert::Infallible,
    net::{SocketAddr, TcpListener},
    pin::pin,
    sync::Arc,
    task::Context,
    thread,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{net::TcpStream, runtime, sync::oneshot, time::sleep};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::body::Body;

use super::{
    Bound, ServeError,
    connections::{Connections, Place},
    limits::Limits,
    listener::{self, Accepted},
};
use crate::{
    base::clock,
    caller::Identification,
    observe::telemetry::metrics::{ConnectionEnd, Metrics},
};

/// A running HTTP/1.1 port. It stops in the background if it is dropped without
/// [`stop`](Self::stop).
#[derive(Debug)]
pub struct Http1Server {
    local_addr: SocketAddr,
    stop: DropGuard,
    stopped: oneshot::Receiver<()>,
}

impl Http1Server {
    /// Returns the bound address.
    #[must_use]
    pub const fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Closes all connections and stops the thread.
    pub async fn stop(self) {
        drop(self.stop);
        // The sender is dropped with the thread.
        let _ = self.stopped.await;
    }
}

impl Bound {
    /// Starts a thread named `thread` that answers HTTP/1.1 requests. `metrics` counts its
    /// connections.
    ///
    /// Of the limits, only those on connections, `idle_timeout` (until the head of the request is
    /// complete), `connection_age` (in total) and `max_header_list` apply.
    ///
    /// # Errors
    ///
    /// The thread cannot be started.
    pub async fn serve_http1<Answer, Answered>(
        self,
        thread: &str,
        metrics: Metrics,
        answer: Answer,
    ) -> Result<Http1Server, ServeError<Infallible>>
    where
        Answer: Fn(Request<Incoming>) -> Answered + Clone + Send + 'static,
        Answered: Future<Output = Response<Full<Bytes>>> + Send + 'static,
    {
        let Self { settings, listener, local_addr, .. } = self;
        let stop = CancellationToken::new();
        let (started, is_started) = oneshot::channel();
        let (end, stopped) = oneshot::channel::<()>();
        let heartbeat = metrics.threads().register(thread);
        // Needs no heartbeat while idle: its answers to probes show that it responds.
        heartbeat.pulse().wait();
        let serving =
            stop.clone().run_until_cancelled_owned(serve(listener, settings.limits, metrics, answer));
        thread::Builder::new()
            .name(thread.to_owned())
            .spawn(move || {
                let _end = end;
                // Built on this thread: if the thread cannot be started, nothing drops a
                // runtime in the asynchronous context of the caller, which would panic.
                let runtime = match runtime::Builder::new_current_thread().enable_all().build() {
                    Ok(runtime) => runtime,
                    Err(error) => {
                        let _ = started.send(Err(ServeError::Runtime(error)));
                        return heartbeat.retire();
                    }
                };
                let _ = started.send(Ok(()));
                match runtime.block_on(serving) {
                    None => heartbeat.retire(),
                    // The thread counts as dead, because `heartbeat` is dropped without being
                    // retired.
                    Some(Ok(())) => tracing::error!(listener.address = %local_addr, "listener stopped"),
                    Some(Err(error)) => {
                        tracing::error!(listener.address = %local_addr, %error, "listener failed");
                    }
                }
                runtime.shutdown_background();
            })
            .map_err(ServeError::Thread)?;
        is_started.await.map_err(|_| ServeError::WorkerStopped)??;
        tracing::info!(listener.address = %local_addr, "server listening");
        Ok(Http1Server { local_addr, stop: stop.drop_guard(), stopped })
    }
}

/// Accepts and serves connections. Returns only if the listener cannot be used.
async fn serve<Answer, Answered>(
    listener: TcpListener,
    limits: Limits,
    metrics: Metrics,
    answer: Answer,
) -> std::io::Result<()>
where
    Answer: Fn(Request<Incoming>) -> Answered + Clone + Send + 'static,
    Answered: Future<Output = Response<Full<Bytes>>> + Send + 'static,
{
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let connections = Connections::new(&limits, Identification::none(), metrics);
    let accept = |cx: &mut Context<'_>| listener.poll_accept(cx);
    let hand_on = move |Accepted { stream, place }| {
        let (limits, answer) = (limits.clone(), answer.clone());
        tokio::spawn(async move {
            let end = match TcpStream::from_std(stream) {
                Ok(stream) => serve_connection(stream, &place, &limits, answer).await,
                Err(_) => ConnectionEnd::Broken,
            };
            place.give_back(end);
        });
    };
    listener::accept_all(accept, connections, hand_on).await;
    Ok(())
}

/// Serves one request and returns why the connection ended.
async fn serve_connection<Answer, Answered>(
    stream: TcpStream,
    place: &Place,
    limits: &Limits,
    answer: Answer,
) -> ConnectionEnd
where
    Answer: Fn(Request<Incoming>) -> Answered,
    Answered: Future<Output = Response<Full<Bytes>>>,
{
    let entry = place.entry();
    let calls = Arc::clone(entry);
    let service = service_fn(move |request| {
        let call = calls.call(clock::now());
        let answered = answer(request);
        async move { Ok::<_, Infallible>(call.responding(answered.await.map(Body::new))) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.idle_timeout)
        .max_buf_size(limits.max_header_list as usize)
        // Scrapes and probes are too far apart to benefit from it.
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        ended = pin!(connection) => match ended {
            Ok(()) => ConnectionEnd::Answered,
            Err(error) if error.is_timeout() => ConnectionEnd::Idle,
            Err(error) => {
                tracing::debug!(peer.address = %entry.address(), %error, "connection failed");
                ConnectionEnd::Broken
            }
        },
        () = entry.evicted().cancelled() => ConnectionEnd::Evicted,
        // A peer that does not read its response must not keep its place.
        () = sleep(limits.connection_age) => ConnectionEnd::Age,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        sync::Semaphore,
        task::AbortHandle,
        time::timeout,
    };

    use super::*;
    use crate::server::{Settings, Transport, bind};

    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: gateway\r\n\r\n";
    const MAX_CONNECTIONS: usize = 8;
    /// Longer than any limit of the port.
    const SOON: Duration = Duration::from_mins(1);

    /// A port that runs on the test's own runtime, so that the test's clock applies.
    struct Served {
        address: SocketAddr,
        metrics: Metrics,
        /// Gets a permit for each request for `/never`.
        entered: Arc<Semaphore>,
        task: AbortHandle,
    }

    impl Drop for Served {
        fn drop(&mut self) {
            self.task.abort();
        }
    }

    fn settings() -> Settings {
        let mut settings = Settings::new(([127, 0, 0, 1], 0).into(), Transport::LoopbackPlaintext);
        settings.limits = Limits {
            max_connections: MAX_CONNECTIONS,
            idle_timeout: Duration::from_secs(5),
            unidentified_timeout: None,
            connection_age: Duration::from_secs(10),
            ..Limits::default()
        };
        settings
    }

    /// Answers `/` at once, `/never` never, and `/long` with more data than a socket buffers.
    async fn answer(request: Request<Incoming>, entered: Arc<Semaphore>) -> Response<Full<Bytes>> {
        match request.uri().path() {
            "/never" => {
                entered.add_permits(1);
                std::future::pending().await
            }
            "/long" => Response::new(Full::from(vec![b'.'; 64 << 20])),
            _ => Response::new(Full::from("answered")),
        }
    }

    fn served() -> Served {
        let (bound, metrics) = (bind(settings()).unwrap(), Metrics::new());
        let address = bound.local_addr();
        let entered = Arc::new(Semaphore::new(0));
        let seen = Arc::clone(&entered);
        let answer = move |request| answer(request, Arc::clone(&seen));
        let task = tokio::spawn(serve(bound.listener, bound.settings.limits, metrics.clone(), answer));
        Served { address, metrics, entered, task: task.abort_handle() }
    }

    impl Served {
        async fn opened(&self, bytes: &[u8]) -> TcpStream {
            let mut stream = TcpStream::connect(self.address).await.unwrap();
            stream.write_all(bytes).await.unwrap();
            stream
        }

        /// Opens a connection whose request is in progress.
        async fn busy(&self) -> TcpStream {
            let stream = self.opened(b"GET /never HTTP/1.1\r\nhost: gateway\r\n\r\n").await;
            self.entered.acquire().await.unwrap().forget();
            stream
        }

        async fn is_answered(&self) -> bool {
            rest(self.opened(REQUEST).await).await.ends_with(b"\r\n\r\nanswered")
        }

        fn ended(&self, reason: ConnectionEnd) -> u64 {
            let prefix = format!("ott_gateway_connections_ended_total{{reason=\"{}\"}} ", reason.as_str());
            let text = self.metrics.render();
            text.lines().find_map(|line| line.strip_prefix(&prefix)).unwrap().parse().unwrap()
        }
    }

    /// Reads what the port sends before it closes the connection.
    async fn rest(mut stream: TcpStream) -> Vec<u8> {
        let mut received = Vec::new();
        // A reset also ends the connection: the port may have closed it with unread bytes.
        let _ = timeout(SOON, stream.read_to_end(&mut received)).await.expect("the connection is closed");
        received
    }

    #[tokio::test]
    async fn connections_without_a_complete_request_make_room_for_new_ones() {
        for half in [&b""[..], b"GET / HT", b"GET / HTTP/1.1\r\nx-slow: "] {
            let served = served();
            let mut held = Vec::new();
            for _ in 0..3 * MAX_CONNECTIONS {
                held.push(served.opened(half).await);
            }
            assert!(served.is_answered().await, "{half:?}");
            for evicted in held.drain(..=2 * MAX_CONNECTIONS) {
                assert_eq!(rest(evicted).await, b"", "{half:?}");
            }
            assert_eq!(served.ended(ConnectionEnd::Evicted), 2 * MAX_CONNECTIONS as u64 + 1, "{half:?}");
        }
    }

    #[tokio::test]
    async fn connections_with_a_request_in_progress_make_room_after_the_idle_ones() {
        let served = served();
        let oldest = served.busy().await;
        let mut idle = Vec::new();
        for _ in 0..2 * MAX_CONNECTIONS {
            idle.push(served.opened(b"").await);
        }
        assert!(served.is_answered().await);
        let mut busy = Vec::new();
        for _ in 1..MAX_CONNECTIONS {
            busy.push(served.busy().await);
        }
        for stream in busy.iter().chain([&oldest]) {
            let read = stream.try_read(&mut [0]);
            assert!(
                read.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock),
                "the connection is open"
            );
        }
        assert!(served.is_answered().await, "all have a request, so the oldest makes room");
        assert_eq!(rest(oldest).await, b"");
    }

    #[tokio::test(start_paused = true)]
    async fn silent_and_slow_connections_are_closed_in_time() {
        let served = served();
        for opening in [&b""[..], b"GET / HTTP/1.1\r\nx-slow: "] {
            let (stream, started) = (served.opened(opening).await, clock::now());
            rest(stream).await;
            let took = started.elapsed();
            assert!((5..6).contains(&took.as_secs()), "{took:?} {opening:?}");
        }
        assert_eq!(served.ended(ConnectionEnd::Idle), 2);
        assert!(served.is_answered().await);
    }

    #[tokio::test(start_paused = true)]
    async fn request_whose_response_is_not_sent_is_ended_in_time() {
        let served = served();
        for path in ["/never", "/long"] {
            let request = format!("GET {path} HTTP/1.1\r\nhost: gateway\r\n\r\n");
            let before = served.ended(ConnectionEnd::Age);
            let (_unread, started) = (served.opened(request.as_bytes()).await, clock::now());
            while served.ended(ConnectionEnd::Age) == before {
                assert!(started.elapsed() < SOON, "{path}");
                sleep(Duration::from_millis(100)).await;
            }
            let took = started.elapsed();
            assert!((10..11).contains(&took.as_secs()), "{took:?} {path}");
        }
        assert!(served.is_answered().await);
    }

    #[tokio::test]
    async fn port_is_served_while_the_runtime_that_started_it_is_blocked() {
        use std::io::{Read, Write};

        let answer = |request| answer(request, Arc::new(Semaphore::new(0)));
        let server = bind(settings()).unwrap().serve_http1("test", Metrics::new(), answer).await.unwrap();
        // No `await` until the end, so nothing else runs on this runtime.
        let mut stream = std::net::TcpStream::connect(server.local_addr()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream.write_all(REQUEST).unwrap();
        let mut answered = Vec::new();
        stream.read_to_end(&mut answered).unwrap();
        assert!(answered.ends_with(b"\r\n\r\nanswered"));
        server.stop().await;
    }

    #[tokio::test]
    async fn stopped_port_has_closed_its_connections_and_its_listener() {
        let metrics = Metrics::new();
        let entered = Arc::new(Semaphore::new(0));
        let answer = move |request| answer(request, Arc::clone(&entered));
        let server = bind(settings()).unwrap().serve_http1("test", metrics, answer).await.unwrap();
        let address = server.local_addr();
        let mut answered = TcpStream::connect(address).await.unwrap();
        answered.write_all(REQUEST).await.unwrap();
        assert!(rest(answered).await.ends_with(b"answered"));
        let open = TcpStream::connect(address).await.unwrap();
        server.stop().await;
        assert_eq!(rest(open).await, b"");
        assert!(TcpStream::connect(address).await.is_err());
    }
}
