//! The gRPC server: accepts connections, runs calls through the middleware, and drains.
//!
//! tonic's generated services run on our own connection driver, because tonic's server has no
//! limits for peers that never send, never read or never disconnect. `connection` has the life of a
//! connection, `stack` the steps of a call in their order, `drain` the shutdown. The handlers in
//! `service` decide what a call does.

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
    connection::ConnectionContext,
    connections::Connections,
    drain::{Calls, Drain, Phases},
    gate::CallGate,
    holders::Holders,
    port::Port,
    refused_bodies::RefusedBodies,
    refused_calls::RefusedCalls,
    stack::{CallStack, CallTimes},
    stream_guard::StreamBudget,
    tls::Handshakes,
    worker::{Stopped, Worker},
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
    base::clock::WallClock,
    caller::Identification,
    domain::call::{BodyLimit, InFlightLimit},
    observe::{
        audit::Audit,
        health::HealthService,
        telemetry::{
            duties::Duty,
            metrics::{HealthPort, Metrics},
            tracing::Tracer,
        },
    },
    service::RefusedRequests,
    supervision::{Exit, Supervisor},
};

/// Maximum time for the workers to stop once their connections are closed.
const WORKER_STOP_TIMEOUT: Duration = Duration::from_secs(1);

/// Dependencies of the main port's calls.
#[derive(Clone, Debug)]
pub struct Dependencies {
    /// Identifies callers.
    pub identification: Identification,
    /// The bearer tokens and access rules in force. A call that the rules refuse for every user
    /// takes no place from others.
    pub access: Access,
    /// Records calls that did not reach a handler.
    pub audit: Audit,
    /// Adds the user and the API client of a refused request to its call.
    pub refused_requests: RefusedRequests,
    /// Metrics of calls and connections.
    pub metrics: Metrics,
    /// Creates a span for each call.
    pub tracer: Tracer,
    /// Answers health calls.
    pub health: HealthService,
    /// Cancelled when a drain begins, so that health reports `NOT_SERVING`.
    pub draining: CancellationToken,
    /// Cancelled when all connections are sent a GOAWAY, so that health ends its open streams.
    pub goaway_sent: CancellationToken,
}

/// Error of [`bind`] and [`check`].
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The address cannot be bound.
    #[error("cannot listen on {address}")]
    Address {
        /// The address.
        address: SocketAddr,
        /// The cause.
        source: io::Error,
    },
    /// Plaintext on an address that is not loopback, which would send secrets over the network
    /// unencrypted.
    #[error("{address} is not a loopback address, and plaintext is not allowed on others")]
    PlaintextBeyondLoopback {
        /// The address.
        address: SocketAddr,
    },
    /// The TLS files cannot be used.
    #[error("cannot set up TLS")]
    Tls(#[from] tls::TlsError),
}

/// Error of [`Bound::serve`] and its variants.
#[derive(Debug, thiserror::Error)]
pub enum ServeError<E> {
    /// The operating system cannot start another thread.
    #[error("cannot start a thread")]
    Thread(#[source] io::Error),
    /// The runtime of a worker thread cannot be built.
    #[error("cannot build the runtime of a thread")]
    Runtime(#[source] io::Error),
    /// The listening socket cannot be used.
    #[error("cannot use the listening socket")]
    Socket(#[source] io::Error),
    /// The routes of a worker cannot be created.
    #[error("cannot create the routes of a worker")]
    Routes(#[source] E),
    /// A worker stopped while it was starting.
    #[error("a worker stopped while it was starting")]
    WorkerStopped,
}

/// Binds the address and reads the TLS files, without serving yet. Blocks.
pub fn bind(settings: Settings) -> Result<Bound, BindError> {
    let address = settings.listen;
    let tls = transport(&settings)?;
    let address_error = |source| BindError::Address { address, source };
    let listener = listener::listen(address).map_err(address_error)?;
    let local_addr = listener.local_addr().map_err(address_error)?;
    Ok(Bound { settings, tls, listener, local_addr })
}

/// Runs the checks of [`bind`] without listening.
///
/// # Errors
///
/// The transport is not allowed on this address, or the TLS files cannot be used.
pub fn check(settings: &Settings) -> Result<(), BindError> {
    transport(settings).map(drop)
}

/// Reads the TLS files if the transport uses TLS.
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

/// A bound server that does not serve yet.
#[derive(Debug)]
pub struct Bound {
    settings: Settings,
    tls: Option<tls::Reload>,
    listener: TcpListener,
    local_addr: SocketAddr,
}

impl Bound {
    /// Returns the bound address.
    #[must_use]
    pub const fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Serves the main port: starts the workers and accepts calls.
    ///
    /// `handlers` is called once on each worker's thread, inside its runtime, so that each worker
    /// has its own connections to the platform. Connections are accepted and TLS files reloaded on
    /// the caller's runtime.
    ///
    /// # Errors
    ///
    /// A worker cannot be started, or `handlers` fails.
    pub async fn serve<E: Send + 'static>(
        self,
        dependencies: Dependencies,
        handlers: impl Fn() -> Result<Handlers, E> + Send + Sync + 'static,
    ) -> Result<Server, ServeError<E>> {
        let in_flight = InFlightLimit::new(self.settings.max_in_flight);
        dependencies.metrics.follow_in_flight(in_flight.clone());
        let bodies = BodyLimit::new(self.settings.max_awaited_bodies.min(self.settings.max_in_flight));
        dependencies.metrics.follow_awaited_bodies(bodies.clone());
        let gate = CallGate::new(
            in_flight.clone(),
            bodies,
            dependencies.audit.clone(),
            dependencies.metrics.clone(),
        );
        let refused_calls = RefusedCalls::new(
            self.settings.refused_calls,
            dependencies.refused_requests.clone(),
            dependencies.audit.clone(),
            dependencies.metrics.clone(),
            WallClock::system(),
        );
        let calls = Calls { gate: gate.clone(), in_flight, refused: refused_calls.clone() };
        let holders = Holders::default();
        let Settings { max_deadline, body_timeout, .. } = self.settings;
        let times = CallTimes { max_deadline, body_timeout };
        let refused_bodies = RefusedBodies::new(body_timeout);
        let phases = Phases::new(dependencies.goaway_sent);
        let metrics = dependencies.metrics.clone();
        let supervisor = Supervisor::new(metrics.duties().clone(), phases.close.clone());
        supervisor.start(Duty::RefusedCalls, None, refused_calls.clone(), |refused| {
            refused.clone().flush_regularly().boxed()
        });
        let health_calls = metrics.health_calls(HealthPort::Main);
        let identification = dependencies.identification.clone();
        let connections = Connections::new(&self.settings.limits, identification, metrics.clone());
        let port = move |phases: &Phases| {
            let calls = CallStack {
                handlers: handlers()?,
                identification: dependencies.identification.clone(),
                access: dependencies.access.clone(),
                audit: dependencies.audit.on_this_runtime(),
                metrics: dependencies.metrics.clone(),
                tracer: dependencies.tracer.clone(),
                gate: gate.clone(),
                holders: holders.for_worker(),
                refused_calls: refused_calls.clone(),
                refused_bodies: refused_bodies.for_worker(),
                cut_off: phases.cut_off.clone(),
                times,
            };
            Ok(Port {
                health: dependencies.health.clone(),
                health_calls: health_calls.clone(),
                calls: Some(calls),
            })
        };
        self.run(metrics, phases, dependencies.draining, Some(calls), connections, port).await
    }

    /// Serves the health port: starts the workers and answers health calls only. `metrics` counts
    /// its connections.
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
        // Stops the workers if startup fails halfway.
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
                Ok(ConnectionContext { port, handshakes, limits, stream_budget, phases, metrics })
            };
            let heartbeat = threads.register(format!("{role}-{number}"));
            let (worker, started, ended) = Worker::start(heartbeat, make).map_err(ServeError::Thread)?;
            started.await.map_err(|_| ServeError::WorkerStopped)??;
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
            "server listening"
        );
        let cut_off_calls = CancellationToken::new();
        let drain = Drain { times: settings.drain, cut_off_calls, draining, phases, calls, connections };
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

/// A running server. It stops at once if it is dropped without a [drain](Self::drain).
#[derive(Debug)]
pub struct Server {
    local_addr: SocketAddr,
    drain: Drain,
    workers: Vec<Stopped>,
    _close: DropGuard,
}

impl Server {
    /// Returns the bound address.
    #[must_use]
    pub const fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Returns the token that makes a [drain](Self::drain) end all calls at once and wait only for
    /// their audit records.
    #[must_use]
    pub fn cut_off_calls(&self) -> CancellationToken {
        self.drain.cut_off_calls.clone()
    }

    /// Returns the number of calls in flight.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.drain.calls.as_ref().map_or(0, |calls| calls.in_flight.count())
    }

    /// Stops the server: reports `NOT_SERVING`, stops accepting and sends GOAWAY to all
    /// connections, ends all calls, then closes all connections. With the default times, this takes
    /// at most 28.5 s, regardless of what peers do.
    pub async fn drain(self) -> Drained {
        let drained = self.drain.run().await;
        let workers = async {
            for worker in self.workers {
                // An error also means that the worker has stopped: the sender is dropped with the
                // thread.
                let _ = worker.await;
            }
        };
        let workers = tokio::time::timeout(WORKER_STOP_TIMEOUT, workers);
        if let Some(Err(_)) = self.drain.cut_off_calls.run_until_cancelled(workers).await {
            tracing::warn!("worker did not stop in time, not waiting for it");
        }
        // Flushed after the last call, and before the audit writes its last records.
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
