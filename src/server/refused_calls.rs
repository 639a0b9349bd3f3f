//! Keeps refused calls from flooding the audit and the log: a token bucket per peer or caller, and
//! one record and one log line per second for the calls beyond it.
//!
//! A call counts as refused if it ended before its work began, so nothing was sent to the platform.
//! A call of an identified caller is counted per caller, so that others at its address do not
//! affect it; any other call is counted per peer address.

mod bucket;
mod table;

use std::{sync::Arc, time::Duration};

use tokio::sync::Notify;

pub use self::bucket::BucketSettings;
use self::table::{Recording, Table};
use crate::{
    base::clock::{self, WallClock},
    caller::Proof,
    domain::call::{Call, Ending, PeerNetwork},
    observe::{
        audit::{Audit, RefusedCalls as Summary},
        telemetry::{
            logging::CALL_TARGET,
            metrics::{CountedBy, Metrics},
        },
    },
    service::RefusedRequests,
};

/// Interval between the records of refused calls without their own record.
const FLUSH_INTERVAL: Duration = Duration::from_secs(1);

/// The refused calls of a server. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct RefusedCalls(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    peers: Table<PeerNetwork>,
    callers: Table<Arc<str>>,
    /// Notified for every call that is counted.
    counted: Notify,
    requests: RefusedRequests,
    audit: Audit,
    metrics: Metrics,
    clock: WallClock,
}

impl RefusedCalls {
    pub(super) fn new(
        settings: BucketSettings,
        requests: RefusedRequests,
        audit: Audit,
        metrics: Metrics,
        clock: WallClock,
    ) -> Self {
        let (peers, callers) =
            (Table::new(settings, CountedBy::Peer), Table::new(settings, CountedBy::Caller));
        Self(Arc::new(Inner { peers, callers, counted: Notify::new(), requests, audit, metrics, clock }))
    }

    /// Decides whether a refused call gets its own record and log line. Takes a token, so call this
    /// once per call.
    pub(super) fn has_own_record(&self, call: &Call) -> bool {
        let now = clock::now();
        let recording = match key(call) {
            Key::Caller(name) => self.0.callers.decide(name, now),
            Key::Peer(network) => self.0.peers.decide(&network, now),
        };
        recording == Recording::Own
    }

    /// Adds the user and the API client of its request to a refused call.
    pub(super) fn record(&self, call: &Call, ending: Ending) {
        self.0.requests.record(call, ending);
    }

    /// Counts a refused call that has no record of its own.
    pub(super) fn summarize(&self, call: &Call, ending: Ending) {
        let now = self.0.clock.now();
        let add = |summary: &mut Summary| {
            if summary.wants_users() {
                self.record(call, ending);
            }
            summary.add(call, ending, now);
            summary.counted_by()
        };
        let counted_by = match key(call) {
            Key::Caller(name) => self.0.callers.summarize(name, now, add),
            Key::Peer(network) => self.0.peers.summarize(&network, now, add),
        };
        self.0.counted.notify_one();
        self.0.metrics.refused_call_summarized(counted_by);
    }

    /// Writes the counts once per second, if there are any. Never returns.
    pub(super) async fn flush_regularly(self) {
        loop {
            // Includes counts left by an earlier run of this task.
            self.flush();
            self.0.counted.notified().await;
            tokio::time::sleep(FLUSH_INTERVAL).await;
        }
    }

    /// Writes the counts since the last flush.
    pub(super) fn flush(&self) {
        let Inner { peers, callers, audit, .. } = &*self.0;
        for summary in peers.take().into_iter().chain(callers.take()) {
            tracing::info!(
                target: CALL_TARGET,
                // First, because `tracing` cannot parse a dotted name after a target.
                reasons = summary.reasons(),
                calls.refused = summary.count(),
                counted_by = summary.counted_by().as_str(),
                peer.addresses = ?summary.peers(),
                caller.names = ?summary.callers(),
                "further calls refused"
            );
            audit.refused_calls(&summary);
        }
    }
}

/// The key by which a refused call is counted.
enum Key<'a> {
    Caller(&'a Arc<str>),
    Peer(PeerNetwork),
}

fn key(call: &Call) -> Key<'_> {
    if let Some((name, proof)) = call.caller()
        && proof != Proof::None.label()
    {
        return Key::Caller(name);
    }
    let unspecified = std::net::Ipv4Addr::UNSPECIFIED.into();
    Key::Peer(PeerNetwork::of(call.peer().map_or(unspecified, |peer| peer.ip())))
}

#[cfg(test)]
mod tests;
