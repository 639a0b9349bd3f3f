//! A worker thread with its own runtime, and the connections that it serves.
//!
//! The state of a connection stays on its thread, so workers share no queue and no pool.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use tokio::{
    net::TcpStream,
    sync::{mpsc, oneshot},
};
use tokio_util::task::TaskTracker;

use super::{
    ServeError,
    connection::{self, ConnectionContext},
    listener::Accepted,
};
use crate::observe::telemetry::threads::{Activity, Condition, Heartbeat, Pulse};

/// Time between lag measurements of a worker that is not idle.
const LAG_INTERVAL: Duration = Duration::from_millis(250);

/// The acceptor's handle of a running worker.
#[derive(Debug)]
pub(super) struct Worker {
    connections: mpsc::UnboundedSender<Accepted>,
    load: Arc<AtomicUsize>,
    pulse: Pulse,
}

/// Resolves when a worker serves, or could not be created.
pub(super) type WorkerStarted<E> = oneshot::Receiver<Result<(), ServeError<E>>>;

/// Resolves when a worker's thread has finished or died.
pub(super) type WorkerStopped = oneshot::Receiver<()>;

impl Worker {
    /// Starts a worker. `make` runs once on the worker's thread, inside its runtime; [`WorkerStarted`]
    /// receives its result.
    pub(super) fn start<E: Send + 'static>(
        heartbeat: Heartbeat,
        make: impl FnOnce() -> Result<ConnectionContext, E> + Send + 'static,
    ) -> io::Result<(Self, WorkerStarted<E>, WorkerStopped)> {
        let (started, is_started) = oneshot::channel();
        let (end, ended) = oneshot::channel();
        // Unbounded, but limited by the maximum number of connections.
        let (connections, accepted) = mpsc::unbounded_channel();
        let load = Arc::new(AtomicUsize::new(0));
        let pulse = heartbeat.pulse();
        let worker = Self { connections, load: Arc::clone(&load), pulse: pulse.clone() };
        thread::Builder::new().name(pulse.name().to_owned()).spawn(move || {
            // Dropped with the thread, even if it panics.
            let _end = end;
            let activity = Activity::new(pulse);
            // Built on this thread: if the thread cannot be started, nothing drops a runtime
            // in the asynchronous context of the caller, which would panic.
            let runtime = match activity.runtime().build() {
                Ok(runtime) => runtime,
                Err(error) => {
                    let _ = started.send(Err(ServeError::Runtime(error)));
                    return heartbeat.retire();
                }
            };
            runtime.block_on(async {
                match make() {
                    Ok(shared) => {
                        let _ = started.send(Ok(()));
                        // The lag delays all calls of the worker.
                        let metrics = shared.metrics.clone();
                        let beating =
                            activity.start_beating(LAG_INTERVAL, move |lag| metrics.event_loop_lag(lag));
                        tokio::select! {
                            biased;
                            () = serve_all(Arc::new(shared), accepted, load) => {}
                            never = beating => match never {},
                        }
                    }
                    Err(error) => {
                        let _ = started.send(Err(ServeError::Routes(error)));
                    }
                }
            });
            // A hanging name lookup must not block the thread.
            runtime.shutdown_background();
            heartbeat.retire();
        })?;
        Ok((worker, is_started, ended))
    }

    /// Returns the sort key for new connections, lowest first: whether the heartbeat is late, then
    /// the number of connections. `None` if the worker is blocked or dead.
    fn rank(&self) -> Option<(bool, usize)> {
        let condition = self.pulse.condition();
        let late = condition == Condition::Late;
        (!condition.is_failure()).then(|| (late, self.load.load(Ordering::Relaxed)))
    }

    /// Hands over a connection; returns it if the worker is dead.
    fn hand_over(&self, accepted: Accepted) -> Result<(), Accepted> {
        self.load.fetch_add(1, Ordering::Relaxed);
        self.connections.send(accepted).map_err(|refused| {
            self.load.fetch_sub(1, Ordering::Relaxed);
            refused.0
        })
    }
}

/// Hands a connection to the responsive worker with the fewest connections. If there is none,
/// closes the connection, so that the peer tries another replica.
pub(super) fn hand_to_least_loaded(workers: &[Worker], mut accepted: Accepted) {
    let mut ranked: Vec<_> =
        workers.iter().filter_map(|worker| worker.rank().map(|rank| (rank, worker))).collect();
    ranked.sort_by_key(|(rank, _)| *rank);
    for (_, worker) in ranked {
        match worker.hand_over(accepted) {
            Ok(()) => return,
            Err(refused) => accepted = refused,
        }
    }
    tracing::error!(peer.address = %accepted.place.entry().address(), "no worker available, closing connection");
}

/// Serves connections until the drain closes them.
///
/// A panic in the task of one connection does not affect the others.
async fn serve_all(
    shared: Arc<ConnectionContext>,
    mut accepted: mpsc::UnboundedReceiver<Accepted>,
    load: Arc<AtomicUsize>,
) {
    let tasks = TaskTracker::new();
    loop {
        let Accepted { stream, place } = tokio::select! {
            biased;
            () = shared.phases.close.cancelled() => break,
            Some(accepted) = accepted.recv() => accepted,
        };
        let load_guard = LoadGuard(Arc::clone(&load));
        match TcpStream::from_std(stream) {
            Ok(stream) => {
                let shared = Arc::clone(&shared);
                tasks.spawn(async move {
                    let _load_guard = load_guard;
                    connection::serve(shared, stream, place).await;
                });
            }
            Err(error) => {
                let address = place.entry().address();
                tracing::debug!(peer.address = %address, %error, "cannot adopt connection");
            }
        }
    }
    tasks.close();
    tasks.wait().await;
}

/// Counts a connection until dropped, even if its task panics.
#[derive(Debug)]
struct LoadGuard(Arc<AtomicUsize>);

impl Drop for LoadGuard {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
