//! Keeps refused calls from flooding the audit and the log: a token bucket for each peer or
//! caller, and one record and one log line a second for the calls beyond it.
//!
//! A call is refused if it ended before its work began: nothing was sent to the platform for
//! it. A call of an identified caller is counted by the caller, so that nobody else at its
//! address affects it; any other call is counted by the address of its peer.

mod bucket;
mod table;

use std::{sync::Arc, time::Duration};

use tokio::sync::Notify;

pub use self::bucket::BucketSettings;
use self::table::{Recording, Table};
use crate::{
    audit::{Audit, RefusedCalls as Summary},
    call::{Call, Ending, PeerNetwork},
    caller::Proof,
    clock::{self, WallClock},
    service::RefusedRequests,
    telemetry::{
        logging::CALL_TARGET,
        metrics::{CountedBy, Metrics},
    },
};

/// Interval between the records of refused calls that have none of their own.
const FLUSH_INTERVAL: Duration = Duration::from_secs(1);

/// The refused calls of a server. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct RefusedCalls(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    peers: Table<PeerNetwork>,
    callers: Table<Arc<str>>,
    /// Notified of every call that is counted.
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

    /// Decides whether a refused call gets a record and a log line of its own. Ask once for
    /// each call: it costs a token.
    pub(super) fn has_own_record(&self, call: &Call) -> bool {
        let now = clock::now();
        let recording = match key(call) {
            Key::Caller(name) => self.0.callers.decide(name, now),
            Key::Peer(network) => self.0.peers.decide(&network, now),
        };
        recording == Recording::Own
    }

    /// Completes a refused call with what its request named.
    pub(super) fn name(&self, call: &Call, ending: Ending) {
        self.0.requests.name(call, ending);
    }

    /// Counts a refused call that has no record of its own.
    pub(super) fn summarize(&self, call: &Call, ending: Ending) {
        let now = self.0.clock.now();
        let add = |summary: &mut Summary| {
            if summary.wants_users() {
                self.name(call, ending);
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

    /// Writes what has been counted, once a second if there is something. Never returns.
    pub(super) async fn flush_regularly(self) {
        loop {
            // Also what an earlier run has left behind.
            self.flush();
            self.0.counted.notified().await;
            tokio::time::sleep(FLUSH_INTERVAL).await;
        }
    }

    /// Writes what has been counted since the last time.
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

/// What a refused call is counted by.
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
