//! The shutdown of the server: in steps, each with a time limit that no peer can extend.

use std::time::Duration;

use tokio::time::{sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::{connections::Connections, gate::Gate, refused_calls::RefusedCalls};
use crate::{
    call::InFlightLimit,
    clock::{self, Instant},
};

/// Maximum time for writing the records of calls that are cut off.
const LAST_RECORDS: Duration = Duration::from_millis(500);

/// Maximum durations of the steps of a drain (ARCHITECTURE.md, "The drain"); together with
/// the remaining work of the process, less than 30 s.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DrainTimes {
    /// `drain_lame_duck`: time for which load balancers see `NOT_SERVING` before anything else changes.
    pub lame_duck: Duration,
    /// Time after the GOAWAY for which calls that crossed it are accepted.
    pub stragglers: Duration,
    /// `drain_timeout`: from the beginning of the drain until calls in flight are cut off.
    pub cut_off: Duration,
    /// Maximum time for platform requests that were cut off to end.
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

/// How a drain ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// Calls that were cut off because they did not end in time.
    pub cut_off: usize,
    /// Connections that were closed by force.
    pub closed: usize,
}

/// The steps of a drain, as connections and calls see them.
#[derive(Clone, Debug)]
pub(super) struct Phases {
    /// No more connections; existing ones get a GOAWAY.
    pub(super) go_away: CancellationToken,
    /// Calls in flight are answered now.
    pub(super) cut_off: CancellationToken,
    /// Connections are closed now.
    pub(super) close: CancellationToken,
}

impl Phases {
    /// None has come yet.
    pub(super) fn new(go_away: CancellationToken) -> Self {
        Self { go_away, cut_off: CancellationToken::new(), close: CancellationToken::new() }
    }

    /// The same steps, on tokens of their own: workers then share no lock for a call.
    pub(super) fn for_worker(&self) -> Self {
        Self {
            go_away: self.go_away.child_token(),
            cut_off: self.cut_off.child_token(),
            close: self.close.child_token(),
        }
    }
}

/// What a drain watches and moves.
#[derive(Debug)]
pub(super) struct Drain {
    pub(super) times: DrainTimes,
    /// Cancelled when the process has to stop at once.
    pub(super) hurry: CancellationToken,
    /// Cancelled when the drain begins, for health.
    pub(super) draining: CancellationToken,
    pub(super) phases: Phases,
    /// `None` for the health port, which has no calls.
    pub(super) calls: Option<Calls>,
    pub(super) connections: Connections,
}

/// The calls of a server, as its drain ends them.
#[derive(Clone, Debug)]
pub(super) struct Calls {
    pub(super) gate: Gate,
    pub(super) in_flight: InFlightLimit,
    pub(super) refused: RefusedCalls,
}

impl Drain {
    /// Ends all calls, then all connections. With `hurry`, waits for nothing but the records
    /// of calls that are cut off.
    pub(super) async fn run(&self) -> Drained {
        let cut_off_at = clock::now() + self.times.cut_off;
        tracing::info!("drain started, health is NOT_SERVING");
        self.draining.cancel();
        self.unless_hurried(sleep(self.times.lame_duck)).await;

        tracing::info!(
            calls.in_flight = self.calls.as_ref().map_or(0, |calls| calls.in_flight.count()),
            connections = self.connections.open(),
            "sending GOAWAY to all connections"
        );
        self.phases.go_away.cancel();
        // A peer that has not seen the GOAWAY yet may have sent calls: they are served.
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
        tracing::warn!(calls.in_flight = cut_off, "calls were cut off by the drain");
        self.phases.cut_off.cancel();
        if !matches!(self.unless_hurried(timeout(self.times.settle, in_flight.idle())).await, Some(Ok(()))) {
            // Their outcome stays unknown, but their records are written.
            in_flight.give_up();
            let _ = timeout(LAST_RECORDS, in_flight.idle()).await;
        }
        cut_off
    }

    /// Waits for `step`, and returns `None` at once if the drain has to hurry.
    async fn unless_hurried<T>(&self, step: impl Future<Output = T>) -> Option<T> {
        self.hurry.run_until_cancelled(step).await
    }
}
