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
    runtime,
    sync::{mpsc, oneshot},
    time::sleep_until,
};
use tokio_util::task::TaskTracker;

use super::{
    connection::{self, Shared},
    listener::Accepted,
};
use crate::{clock, telemetry::metrics::Metrics};

/// How often a worker's lag is measured.
const LAG_INTERVAL: Duration = Duration::from_millis(250);

/// A running worker, as the acceptor sees it.
#[derive(Debug)]
pub(super) struct Worker {
    connections: mpsc::UnboundedSender<Accepted>,
    load: Arc<AtomicUsize>,
}

/// Resolves when a worker serves, or could not be made.
pub(super) type Started<E> = oneshot::Receiver<Result<(), E>>;

/// Resolves when a worker's thread has nothing left to do, or is dead.
pub(super) type Ended = oneshot::Receiver<()>;

impl Worker {
    /// Starts a worker. `make` runs once on its thread, inside its runtime; its answer
    /// comes by `started`.
    pub(super) fn start<E: Send + 'static>(
        number: usize,
        make: impl FnOnce() -> Result<Shared, E> + Send + 'static,
    ) -> io::Result<(Self, Started<E>, Ended)> {
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let (started, is_started) = oneshot::channel();
        let (end, ended) = oneshot::channel();
        // Unbounded, but never longer than the number of connections allowed.
        let (connections, accepted) = mpsc::unbounded_channel();
        let load = Arc::new(AtomicUsize::new(0));
        let worker = Self { connections, load: Arc::clone(&load) };
        thread::Builder::new().name(format!("worker-{number}")).spawn(move || {
            // Dropped with the thread, also if it panics.
            let _end = end;
            let run = async {
                match make() {
                    Ok(shared) => {
                        let _ = started.send(Ok(()));
                        tokio::spawn(watch_lag(shared.metrics.clone()));
                        serve_all(Arc::new(shared), accepted, load).await;
                    }
                    Err(error) => {
                        let _ = started.send(Err(error));
                    }
                }
            };
            runtime.block_on(run);
            // A name lookup that hangs must not hold the thread up.
            runtime.shutdown_background();
        })?;
        Ok((worker, is_started, ended))
    }

    /// How many connections it has.
    fn load(&self) -> usize {
        self.load.load(Ordering::Relaxed)
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

/// Hands a connection to the worker that has the fewest; a dead one is passed over.
pub(super) fn hand_to_least_loaded(workers: &[Worker], mut accepted: Accepted) {
    let mut by_load: Vec<&Worker> = workers.iter().collect();
    by_load.sort_by_key(|worker| worker.load());
    for worker in by_load {
        match worker.hand_over(accepted) {
            Ok(()) => return,
            Err(refused) => accepted = refused,
        }
    }
    tracing::error!(peer.address = %accepted.place.entry().address(), "no worker is left to serve a connection");
}

/// Measures how late this worker gets to things, for ever.
///
/// All its calls wait as long: it is starved of CPU, or something blocks it.
async fn watch_lag(metrics: Metrics) {
    loop {
        let due = clock::now() + LAG_INTERVAL;
        sleep_until(due).await;
        metrics.event_loop_lag(clock::now().saturating_duration_since(due));
    }
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
