//! One thread with a runtime of its own, and the connections that live on it.
//!
//! What a connection needs never leaves its thread, so calls share no queue and no
//! pool.

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
    connection::{self, Shared},
    listener::Accepted,
};
use crate::telemetry::threads::{Activity, Condition, Heartbeat, Pulse};

/// Time between measurements of the lag of a worker that has something to do.
const LAG_INTERVAL: Duration = Duration::from_millis(250);

/// A running worker, as the acceptor sees it.
#[derive(Debug)]
pub(super) struct Worker {
    connections: mpsc::UnboundedSender<Accepted>,
    load: Arc<AtomicUsize>,
    pulse: Pulse,
}

/// Resolves when a worker serves, or could not be made.
pub(super) type Started<E> = oneshot::Receiver<Result<(), ServeError<E>>>;

/// Resolves when a worker's thread has nothing left to do, or is dead.
pub(super) type Ended = oneshot::Receiver<()>;

impl Worker {
    /// Starts a worker. `make` runs once on its thread, inside its runtime; its answer
    /// comes by `started`.
    pub(super) fn start<E: Send + 'static>(
        heartbeat: Heartbeat,
        make: impl FnOnce() -> Result<Shared, E> + Send + 'static,
    ) -> io::Result<(Self, Started<E>, Ended)> {
        let (started, is_started) = oneshot::channel();
        let (end, ended) = oneshot::channel();
        // Unbounded, but never longer than the number of connections allowed.
        let (connections, accepted) = mpsc::unbounded_channel();
        let load = Arc::new(AtomicUsize::new(0));
        let pulse = heartbeat.pulse();
        let worker = Self { connections, load: Arc::clone(&load), pulse: pulse.clone() };
        thread::Builder::new().name(pulse.name().to_owned()).spawn(move || {
            // Dropped with the thread, also if it panics.
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
                        // All its calls wait as long.
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
            // A name lookup that hangs must not hold the thread up.
            runtime.shutdown_background();
            heartbeat.retire();
        })?;
        Ok((worker, is_started, ended))
    }

    /// Returns what decides which worker gets a connection, the lowest first: whether its
    /// heartbeat is late, and how many connections it has. `None` if it is blocked or dead.
    fn rank(&self) -> Option<(bool, usize)> {
        let condition = self.pulse.condition();
        let late = condition == Condition::Late;
        (!condition.is_failure()).then(|| (late, self.load.load(Ordering::Relaxed)))
    }

    /// Hands a connection over; gives it back if the worker is dead.
    fn hand_over(&self, accepted: Accepted) -> Result<(), Accepted> {
        self.load.fetch_add(1, Ordering::Relaxed);
        self.connections.send(accepted).map_err(|refused| {
            self.load.fetch_sub(1, Ordering::Relaxed);
            refused.0
        })
    }
}

/// Hands a connection to the worker that has the fewest, of those that respond. Without one,
/// the connection is closed, so that its peer tries another replica.
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
    tracing::error!(peer.address = %accepted.place.entry().address(), "no worker can serve a connection");
}

/// Serves connections until the drain closes them.
///
/// A panic in the task of one connection ends with that task.
async fn serve_all(
    shared: Arc<Shared>,
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
        let counted = Counted(Arc::clone(&load));
        match TcpStream::from_std(stream) {
            Ok(stream) => {
                let shared = Arc::clone(&shared);
                tasks.spawn(async move {
                    let _counted = counted;
                    connection::serve(shared, stream, place).await;
                });
            }
            Err(error) => {
                let address = place.entry().address();
                tracing::debug!(peer.address = %address, %error, "a connection could not be taken over");
            }
        }
    }
    tasks.close();
    tasks.wait().await;
}

/// A connection counts until this is dropped, even if its task panics.
#[derive(Debug)]
struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
