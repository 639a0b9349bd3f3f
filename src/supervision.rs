//! Runs the background tasks of a gateway, and restarts tasks that end.
//!
//! A task that runs for the lifetime of the gateway is a [`Duty`], and may only be started here
//! (`tests/it/structure.rs` checks this). It keeps its state across restarts. Threads are not
//! supervised here: each has a [heartbeat](crate::observe::telemetry::threads), and the process stops when
//! one of them dies.
//!
//! ```
//! use std::{convert::Infallible, future::pending};
//!
//! use futures_util::FutureExt;
//! use ott_gateway::{
//!     observe::telemetry::{duties::Duty, metrics::Metrics},
//!     supervision::Supervisor,
//! };
//! use tokio::sync::mpsc;
//! use tokio_util::sync::CancellationToken;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let (stop, metrics) = (CancellationToken::new(), Metrics::new());
//! let supervisor = Supervisor::new(metrics.duties().clone(), stop.clone());
//! let (refreshed, mut refreshes) = mpsc::unbounded_channel();
//! supervisor.start(Duty::AccessToken, Some("eu2"), refreshed, |refreshed| {
//!     let _ = refreshed.send("token");
//!     pending::<Infallible>().boxed()
//! });
//! assert_eq!(refreshes.recv().await, Some("token"));
//! assert!(metrics.duties().down().is_empty());
//!
//! stop.cancel();
//! supervisor.stopped().await;
//! # }
//! ```

use std::{convert::Infallible, panic::AssertUnwindSafe, time::Duration};

use futures_util::{FutureExt, future::BoxFuture};
use tokio::time::sleep;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    base::backoff::Backoff,
    observe::telemetry::duties::{Duties, Duty, Registration},
};

#[cfg(test)]
mod tests;

/// Delay before a duty is restarted: short after the first failure, and long enough that a duty
/// that always fails takes no CPU time from calls.
const RESTART: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));

/// Starts duties, and stops them when its token is cancelled. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Supervisor {
    duties: Duties,
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// The outcome of a duty that ended by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// The duty is done, and is not restarted.
    Finished,
    /// The duty returned unexpectedly.
    Returned,
    /// The duty panicked. The panic's text is omitted, because it may contain anything.
    Panicked,
    /// The duty cannot continue, for this reason.
    Failed(String),
}

impl From<()> for Exit {
    fn from((): ()) -> Self {
        Self::Returned
    }
}

impl From<Infallible> for Exit {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

impl Supervisor {
    /// Creates a supervisor whose duties stop when `stop` is cancelled.
    #[must_use]
    pub fn new(duties: Duties, stop: CancellationToken) -> Self {
        Self { duties, stop, tasks: TaskTracker::new() }
    }

    /// Starts a duty on the current runtime. `subject` distinguishes several duties of the same
    /// kind: an API client, an issuer, a listener.
    ///
    /// When the task panics or returns, `run` is called again with the same `state`, after a delay
    /// of 0.1 s that doubles up to 5 s. It must be able to continue from any `state` that a panic
    /// leaves.
    pub fn start<S, E>(
        &self,
        duty: Duty,
        subject: Option<&str>,
        state: S,
        run: impl for<'a> FnMut(&'a mut S) -> BoxFuture<'a, E> + Send + 'static,
    ) where
        S: Send + 'static,
        E: Into<Exit> + Send + 'static,
    {
        let registration = self.duties.register(duty, subject);
        let subject = subject.map(str::to_owned);
        let supervised = supervise(registration, duty, subject, state, run);
        self.tasks.spawn(self.stop.clone().run_until_cancelled_owned(supervised));
    }

    /// Waits until all duties have stopped. Cancel `stop` first.
    pub async fn stopped(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }
}

async fn supervise<S, E: Into<Exit>>(
    registration: Registration,
    duty: Duty,
    subject: Option<String>,
    mut state: S,
    mut run: impl for<'a> FnMut(&'a mut S) -> BoxFuture<'a, E>,
) {
    loop {
        registration.started();
        let running = AssertUnwindSafe(async { run(&mut state).await }).catch_unwind();
        let cause = match running.await.map(Into::into) {
            Ok(Exit::Finished) => return,
            Ok(Exit::Failed(cause)) => cause,
            Ok(Exit::Returned) => "it returned".to_owned(),
            Ok(Exit::Panicked) | Err(_) => "it panicked".to_owned(),
        };
        let failures = registration.failed();
        let pause = RESTART.max_delay(failures);
        tracing::error!(
            duty.name = duty.as_str(),
            duty.subject = subject,
            cause,
            failures,
            retry_in_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX),
            "background task ended, restarting it"
        );
        sleep(pause).await;
    }
}
