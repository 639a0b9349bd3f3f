//! The shutdown of the server, in steps whose time limits no peer can extend.

use std::{net::SocketAddr, time::Duration};

use tokio::time::{sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::{connections::Connections, gate::CallGate, refused_calls::RefusedCalls};
use crate::{
    base::clock::{self, Instant},
    domain::call::InFlightLimit,
};

/// Maximum time to write the records of calls that are cut off.
const LAST_RECORDS: Duration = Duration::from_millis(500);

/// Maximum durations of the steps of a drain (ARCHITECTURE.md, "The drain"). With the remaining
/// work of the process, the defaults add up to less than 30 s.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DrainTimes {
    /// `drain_lame_duck`: time during which health reports `NOT_SERVING` before anything else
    /// changes.
    pub lame_duck: Duration,
    /// Time after the GOAWAY during which calls that crossed it are accepted.
    pub stragglers: Duration,
    /// `drain_timeout`: time from the start of the drain until calls in flight are cut off.
    pub cut_off: Duration,
    /// Maximum time for the platform requests of cut-off calls to end.
    pub settle: Duration,
    /// Maximum time for responses to reach a peer before its connection is closed.
    pub linger: Duration,
}

impl Default for DrainTimes {
    fn default() -> Self {
        Self {
            lame_duck: Duration::from_secs(3),
            stragglers: Duration::from_secs(1),
            cut_off: Duration::from_secs(25),
            settle: Duration::from_secs(1),
            linger: Duration::from_secs(1),
        }
    }
}

/// The result of a drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// Number of calls that were cut off because they did not end in time.
    pub cut_off: usize,
    /// Number of connections that were closed by force.
    pub closed: usize,
}

/// The steps of a drain, which connections and calls observe.
#[derive(Clone, Debug)]
pub(super) struct Phases {
    /// No connections are accepted any more, and the open ones get a GOAWAY.
    pub(super) go_away: CancellationToken,
    /// Calls in flight are cut off and answered.
    pub(super) cut_off: CancellationToken,
    /// Connections are closed.
    pub(super) close: CancellationToken,
}

impl Phases {
    /// Creates the phases of a drain that has not started. `go_away` is shared with the caller.
    pub(super) fn new(go_away: CancellationToken) -> Self {
        Self { go_away, cut_off: CancellationToken::new(), close: CancellationToken::new() }
    }

    /// Returns the same phases on child tokens, so that workers do not share a lock in calls.
    pub(super) fn for_worker(&self) -> Self {
        Self {
            go_away: self.go_away.child_token(),
            cut_off: self.cut_off.child_token(),
            close: self.close.child_token(),
        }
    }
}

/// The state that a drain observes and changes.
#[derive(Debug)]
pub(super) struct Drain {
    /// Address of the listener, for the log.
    pub(super) local_addr: SocketAddr,
    pub(super) times: DrainTimes,
    /// Cancelled when the process has to stop at once.
    pub(super) cut_off_calls: CancellationToken,
    /// Cancelled when the drain begins, for health.
    pub(super) draining: CancellationToken,
    pub(super) phases: Phases,
    /// `None` for the health port, which has no calls.
    pub(super) calls: Option<Calls>,
    pub(super) connections: Connections,
}

/// The calls of a server, as its drain sees them.
#[derive(Clone, Debug)]
pub(super) struct Calls {
    pub(super) gate: CallGate,
    pub(super) in_flight: InFlightLimit,
    pub(super) refused: RefusedCalls,
}

impl Drain {
    /// Ends all calls, then all connections. Once `cut_off_calls` is cancelled, waits only for the records
    /// of calls that are cut off.
    pub(super) async fn run(&self) -> Drained {
        let cut_off_at = clock::now() + self.times.cut_off;
        tracing::info!(listener.address = %self.local_addr, "drain started, health is NOT_SERVING");
        self.draining.cancel();
        self.unless_hurried(sleep(self.times.lame_duck)).await;

        tracing::info!(
            listener.address = %self.local_addr,
            calls.in_flight = self.calls.as_ref().map_or(0, |calls| calls.in_flight.count()),
            connections = self.connections.open(),
            "sending GOAWAY to all connections"
        );
        self.phases.go_away.cancel();
        // Serves calls that a peer sent before it saw the GOAWAY.
        self.unless_hurried(timeout(self.times.stragglers, self.connections.all_ended())).await;
        let cut_off = match &self.calls {
            Some(calls) => self.end_calls(calls, cut_off_at).await,
            None => 0,
        };

        self.unless_hurried(timeout(self.times.linger, self.connections.all_ended())).await;
        let closed = self.connections.open();
        self.phases.close.cancel();
        Drained { cut_off, closed }
    }

    /// Ends all calls and returns how many of them were cut off.
    async fn end_calls(&self, calls: &Calls, cut_off_at: Instant) -> usize {
        let Calls { gate, in_flight, .. } = calls;
        gate.close();
        if let Some(Ok(())) = self.unless_hurried(timeout_at(cut_off_at, in_flight.idle())).await {
            return 0;
        }
        let cut_off = in_flight.count();
        tracing::warn!(calls.in_flight = cut_off, "drain cut off calls in flight");
        self.phases.cut_off.cancel();
        if !matches!(self.unless_hurried(timeout(self.times.settle, in_flight.idle())).await, Some(Ok(()))) {
            // The outcome of these calls stays unknown, but their records are written.
            in_flight.abandon();
            let _ = timeout(LAST_RECORDS, in_flight.idle()).await;
        }
        cut_off
    }

    /// Waits for `step`. Returns `None` at once if the drain has to cut off the calls.
    async fn unless_hurried<T>(&self, step: impl Future<Output = T>) -> Option<T> {
        self.cut_off_calls.run_until_cancelled(step).await
    }
}
