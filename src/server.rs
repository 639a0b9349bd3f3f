//! The gRPC server: connections in, calls through the middleware, drain.
//!
//! tonic's generated services run behind it on a connection driver of our own, because
//! tonic's server leaves peers that never speak, never read or never leave without
//! bounds. What the calls do is not known here.

mod call_log;
mod completion;
mod connection;
mod connections;
mod deadline;
mod drain;
mod frame_scanner;
mod gate;
mod handlers;
mod health_stack;
mod holders;
mod http1;
mod http1_refusal;
mod limits;
mod listener;
mod message;
mod on_wake;
mod port;
mod preface;
mod refused_bodies;
mod refused_calls;
mod request_body;
mod response_body;
mod settings;
mod stack;
mod stream_guard;
pub mod tls;
mod turn_clock;
mod worker;

use std::{
    convert::Infallible,
    io,
    net::{SocketAddr, TcpListener},
    sync::Arc,
    task::Context,
    time::Duration,
};

use futures_util::FutureExt;
use tokio_util::sync::{CancellationToken, DropGuard};

pub(crate) use self::connections::MAX_LEAVING;
use self::{
    connection::Shared,
    connections::Connections,
    drain::{Calls, Drain, Phases},
    gate::Gate,
    holders::Holders,
    port::Port,
    refused_bodies::RefusedBodies,
    refused_calls::RefusedCalls,
    stack::{CallStack, CallTimes},
    stream_guard::StreamBudget,
    tls::Handshakes,
    worker::{Ended, Worker},
};
pub use self::{
    drain::{DrainTimes, Drained},
    handlers::Handlers,
    http1::Http1Server,
    limits::Limits,
    refused_calls::BucketSettings,
    settings::{Settings, Transport},
};
use crate::{
    access::Access,
    audit::Audit,
    call::{BodyLimit, InFlightLimit},
    caller::Identification,
    clock::WallClock,
    health::HealthService,
    service::RefusedRequests,
    supervision::{Exit, Supervisor},
    telemetry::{
        duties::Duty,
        metrics::{HealthPort, Metrics},
        tracing::Tracer,
    },
};

/// How long the workers may take to stop once their connections are closed.
const WORKER_END: Duration = Duration::from_secs(1);

/// What the main port needs for its calls.
#[derive(Clone, Debug)]
pub struct Parts {
    /// Identifies callers.
    pub identification: Identification,
    /// Has the bearer tokens and the rules in force. A call that the rules refuse in any case takes
    /// no place from others.
    pub access: Access,
    /// Receives the records of calls that did not reach a handler.
    pub audit: Audit,
    /// Reads what refused requests named.
    pub refused_requests: RefusedRequests,
    /// Metrics of calls and connections.
    pub metrics: Metrics,
    /// Creates a span for each call.
    pub tracer: Tracer,
    /// Answers health calls.
    pub health: HealthService,
    /// Cancelled as a drain begins, so that health can turn to `NOT_SERVING`.
    pub draining: CancellationToken,
    /// Cancelled when connections are told to go away, so that health can end its open
    /// streams.
    pub going_away: CancellationToken,
}

/// Why the server cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The address cannot be had.
    #[error("cannot listen on {address}")]
    Address {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// Without TLS, secrets would cross the network in the clear.
    #[error("{address} is not a loopback address, and plaintext is not allowed on others")]
    PlaintextBeyondLoopback {
        /// The address.
        address: SocketAddr,
    },
    /// The TLS files cannot be used.
    #[error("TLS cannot be set up")]
    Tls(#[from] tls::TlsError),
}

/// Why the workers cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError<E> {
    /// The system does not start another thread.
    #[error("cannot start a thread")]
    Thread(#[source] io::Error),
    /// The runtime of a thread cannot be built.
    #[error("cannot build the runtime of a thread")]
    Runtime(#[source] io::Error),
    /// The listening socket cannot be used.
    #[error("cannot use the listening socket")]
    Socket(#[source] io::Error),
    /// The routes cannot be made.
    #[error("the routes of a worker cannot be made")]
    Routes(#[source] E),
    /// A worker ended while it was starting.
    #[error("a worker ended while it was starting")]
    Ended,
}

/// Binds the address and reads the TLS files; nothing is served yet. Blocks.
pub fn bind(settings: Settings) -> Result<Bound, BindError> {
    let address = settings.listen;
    let tls = transport(&settings)?;
    let of_address = |source| BindError::Address { address, source };
    let listener = listener::listen(address).map_err(of_address)?;
    let local_addr = listener.local_addr().map_err(of_address)?;
    Ok(Bound { settings, tls, listener, local_addr })
}

/// Checks what [`bind`] checks, without listening.
///
/// # Errors
///
/// The transport is not allowed on this address, or the TLS files cannot be used.
pub fn check(settings: &Settings) -> Result<(), BindError> {
    transport(settings).map(drop)
}

/// The TLS of the transport, if it has any.
fn transport(settings: &Settings) -> Result<Option<tls::Reload>, BindError> {
    let address = settings.listen;
    match &settings.transport {
        Transport::Tls(tls) => Ok(Some(tls::Reload::start(tls.clone())?)),
        Transport::LoopbackPlaintext if !address.ip().is_loopback() => {
            Err(BindError::PlaintextBeyondLoopback { address })
        }
        Transport::LoopbackPlaintext | Transport::Plaintext => Ok(None),
    }
}

/// A server that listens and does not serve yet.
#[derive(Debug)]
pub struct Bound {
    settings: Settings,
    tls: Option<tls::Reload>,
    listener: TcpListener,
    local_addr: SocketAddr,
}

impl Bound {
    /// The address in use.
    #[must_use]
    pub const fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Starts the workers and serves calls: the main port.
    ///
    /// `handlers` is called once on each worker's thread, inside its runtime, so that each worker
    /// has its own connections to the platform. Connections are accepted and TLS files reloaded
    /// on the runtime of the caller.
    ///
    /// # Errors
    ///
    /// A worker cannot be started, or `handlers` fails.
    pub async fn serve<E: Send + 'static>(
        self,
        parts: Parts,
        handlers: impl Fn() -> Result<Handlers, E> + Send + Sync + 'static,
    ) -> Result<Server, ServeError<E>> {
        let in_flight = InFlightLimit::new(self.settings.max_in_flight);
        parts.metrics.follow_in_flight(in_flight.clone());
        let bodies = BodyLimit::new(self.settings.max_awaited_bodies.min(self.settings.max_in_flight));
        parts.metrics.follow_awaited_bodies(bodies.clone());
        let gate = Gate::new(in_flight.clone(), bodies, parts.audit.clone(), parts.metrics.clone());
        let refused_calls = RefusedCalls::new(
            self.settings.refused_calls,
            parts.refused_requests.clone(),
            parts.audit.clone(),
            parts.metrics.clone(),
            WallClock::system(),
        );
        let calls = Calls { gate: gate.clone(), in_flight, refused: refused_calls.clone() };
        let holders = Holders::default();
        let Settings { max_deadline, body_timeout, .. } = self.settings;
        let times = CallTimes { max_deadline, body_timeout };
        let refused_bodies = RefusedBodies::new(body_timeout);
        let phases = Phases::new(parts.going_away);
        let metrics = parts.metrics.clone();
        let supervisor = Supervisor::new(metrics.duties().clone(), phases.close.clone());
        supervisor.start(Duty::RefusedCalls, None, refused_calls.clone(), |refused| {
            refused.clone().flush_regularly().boxed()
        });
        let health_calls = metrics.health_calls(HealthPort::Main);
        let identification = parts.identification.clone();
        let connections = Connections::new(&self.settings.limits, identification, metrics.clone());
        let port = move |phases: &Phases| {
            let calls = CallStack {
                handlers: handlers()?,
                identification: parts.identification.clone(),
                access: parts.access.clone(),
                audit: parts.audit.on_this_runtime(),
                metrics: parts.metrics.clone(),
                tracer: parts.tracer.clone(),
                gate: gate.clone(),
                holders: holders.for_worker(),
                refused_calls: refused_calls.clone(),
                refused_bodies: refused_bodies.for_worker(),
                cut_off: phases.cut_off.clone(),
                times,
            };
            Ok(Port { health: parts.health.clone(), health_calls: health_calls.clone(), calls: Some(calls) })
        };
        self.run(metrics, phases, parts.draining, Some(calls), connections, port).await
    }

    /// Starts the workers and serves health alone: the health port. `metrics` counts its
    /// connections.
    ///
    /// # Errors
    ///
    /// A worker cannot be started.
    pub async fn serve_health(
        self,
        metrics: Metrics,
        health: HealthService,
    ) -> Result<Server, ServeError<Infallible>> {
        let health_calls = metrics.health_calls(HealthPort::Health);
        let port = move |_: &Phases| {
            Ok(Port { health: health.clone(), health_calls: health_calls.clone(), calls: None })
        };
        let phases = Phases::new(CancellationToken::new());
        let connections = Connections::new(&self.settings.limits, Identification::none(), metrics.clone());
        self.run(metrics, phases, CancellationToken::new(), None, connections, port).await
    }

    /// Starts the workers and accepts connections. `port` is called once on each worker's
    /// thread, inside its runtime.
    async fn run<E: Send + 'static>(
        self,
        metrics: Metrics,
        phases: Phases,
        draining: CancellationToken,
        calls: Option<Calls>,
        connections: Connections,
        port: impl Fn(&Phases) -> Result<Port, E> + Send + Sync + 'static,
    ) -> Result<Server, ServeError<E>> {
        let Self { settings, tls, listener, local_addr } = self;
        // Stops the workers if starting fails half-way.
        let close = phases.close.clone().drop_guard();

        let port = Arc::new(port);
        let threads = metrics.threads().clone();
        let stream_budget = StreamBudget::new(&settings.limits, metrics.clone());
        let role = if calls.is_some() { "worker" } else { "health" };
        let mut workers = Vec::new();
        let mut ends = Vec::new();
        for number in 0..settings.number_of_workers() {
            let phases = phases.for_worker();
            let (limits, metrics) = (settings.limits.clone(), metrics.clone());
            let handshakes = tls
                .as_ref()
                .map(|tls| Handshakes::new(tls.current(), limits.handshake_timeout, metrics.clone()));
            let (port, stream_budget) = (Arc::clone(&port), stream_budget.clone());
            let make = move || {
                let port = Arc::new(port(&phases)?);
                Ok(Shared { port, handshakes, limits, stream_budget, phases, metrics })
            };
            let heartbeat = threads.register(format!("{role}-{number}"));
            let (worker, started, ended) = Worker::start(heartbeat, make).map_err(ServeError::Thread)?;
            started.await.map_err(|_| ServeError::Ended)??;
            workers.push(worker);
            ends.push(ended);
        }

        let listener = tokio::net::TcpListener::from_std(listener).map_err(ServeError::Socket)?;
        let supervisor = Supervisor::new(metrics.duties().clone(), phases.close.clone());
        if let Some(tls) = tls {
            supervisor.start(Duty::TlsFiles, None, (tls, metrics.clone()), |(tls, metrics)| {
                tls.run(metrics).boxed()
            });
        }
        let acceptor =
            Acceptor { listener, connections: connections.clone(), workers, go_away: phases.go_away.clone() };
        supervisor.start(Duty::Accept, Some(role), acceptor, |acceptor| acceptor.run().boxed());
        tracing::info!(
            listener.address = %local_addr,
            listener.worker_threads = ends.len(),
            "the server is listening"
        );
        let hurry = CancellationToken::new();
        let drain = Drain { times: settings.drain, hurry, draining, phases, calls, connections };
        Ok(Server { local_addr, drain, workers: ends, _close: close })
    }
}

/// Accepts connections until the drain sends GOAWAY to all of them.
struct Acceptor {
    listener: tokio::net::TcpListener,
    connections: Connections,
    workers: Vec<Worker>,
    go_away: CancellationToken,
}

impl Acceptor {
    async fn run(&mut self) -> Exit {
        let accept = |cx: &mut Context<'_>| self.listener.poll_accept(cx);
        let hand_on = |accepted| worker::hand_to_least_loaded(&self.workers, accepted);
        let accepting = listener::accept_all(accept, self.connections.clone(), hand_on);
        match self.go_away.run_until_cancelled(accepting).await {
            None => Exit::Finished,
            Some(()) => Exit::Returned,
        }
    }
}

/// A running server. Dropped without a [drain](Self::drain), it ends at once.
#[derive(Debug)]
pub struct Server {
    local_addr: SocketAddr,
    drain: Drain,
    workers: Vec<Ended>,
    _close: DropGuard,
}

impl Server {
    /// The address in use.
    #[must_use]
    pub const fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Returns the token that makes a [drain](Self::drain) end all calls at once, and wait
    /// only for their audit records.
    #[must_use]
    pub fn hurry(&self) -> CancellationToken {
        self.drain.hurry.clone()
    }

    /// Number of calls in flight.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.drain.calls.as_ref().map_or(0, |calls| calls.in_flight.count())
    }

    /// Ends the server: `NOT_SERVING`, then no more connections and a GOAWAY to each,
    /// then the end of all calls, then of all connections. With the default times it
    /// is over within 28.5 s, whatever peers do.
    pub async fn drain(self) -> Drained {
        let drained = self.drain.run().await;
        let workers = async {
            for worker in self.workers {
                // An error is the end as well: the other side is dropped with the thread.
                let _ = worker.await;
            }
        };
        let workers = tokio::time::timeout(WORKER_END, workers);
        if let Some(Err(_)) = self.drain.hurry.run_until_cancelled(workers).await {
            tracing::warn!("worker did not stop in time, not waiting for it");
        }
        // After the last call, and before the audit writes its last records.
        if let Some(calls) = &self.drain.calls {
            calls.refused.flush();
        }
        tracing::info!(
            calls.cut_off = drained.cut_off,
            connections.closed = drained.closed,
            "drain finished"
        );
        drained
    }
}

#[cfg(test)]
mod tests;
