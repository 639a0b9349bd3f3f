//! Queries of a name lookup, and their results.

use std::{fmt, net::IpAddr, sync::Arc, time::Duration};

use super::host::Host;
use crate::{
    base::clock::{self, Instant},
    observe::telemetry::metrics::{LocalResource, LookupQuery, LookupResult},
};

/// Answers queries. Returns at once; the result is sent through the [`Reply`].
pub(super) trait NameService: Send + Sync {
    fn ask(&self, reply: Reply);
}

/// Addresses in the answer to a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) addresses: Vec<IpAddr>,
    /// Whether this machine has a route to them.
    pub(super) is_routable: bool,
}

/// Failure of a query.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum QueryError {
    #[error("no such name")]
    NoSuchName,
    #[error("the name has no address")]
    NoAddress,
    /// The absolute name is not looked up, because the hosts file lists the name.
    #[error("the name is in the hosts file")]
    InHostsFile,
    #[error("the name servers failed (SERVFAIL, REFUSED) or cannot be reached")]
    ServerFailure,
    #[error("no answer for {}", Seconds(*.0))]
    NoAnswer(Duration),
    #[error("{cause}")]
    Exhausted { resource: LocalResource, cause: String },
    #[error("{0}")]
    Failed(String),
}

impl QueryError {
    const fn result(&self) -> LookupResult {
        match self {
            Self::NoSuchName => LookupResult::NoSuchName,
            Self::NoAddress => LookupResult::NoAddress,
            Self::InHostsFile => LookupResult::InHostsFile,
            Self::ServerFailure => LookupResult::ServerFailure,
            Self::NoAnswer(_) => LookupResult::NoAnswer,
            Self::Exhausted { .. } => LookupResult::Exhausted,
            Self::Failed(_) => LookupResult::Failed,
        }
    }
}

/// A duration in seconds, to a tenth.
struct Seconds(Duration);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs_f64();
        if seconds.fract() < 0.05 { write!(f, "{seconds:.0} s") } else { write!(f, "{seconds:.1} s") }
    }
}

/// A query in progress. Dropping it without a result fails it, so that it always ends.
pub(super) struct Reply {
    host: Arc<Host>,
    query: LookupQuery,
    /// Distinguishes it from an earlier query of the same kind that was abandoned.
    id: u64,
    asked_at: Instant,
    is_sent: bool,
}

impl Reply {
    pub(super) const fn new(host: Arc<Host>, query: LookupQuery, id: u64, asked_at: Instant) -> Self {
        Self { host, query, id, asked_at, is_sent: false }
    }

    pub(super) fn name(&self) -> &str {
        self.host.name()
    }

    pub(super) const fn query(&self) -> LookupQuery {
        self.query
    }

    /// Returns the time since the query was asked.
    pub(super) fn elapsed(&self) -> Duration {
        clock::now().saturating_duration_since(self.asked_at)
    }

    pub(super) fn send(mut self, result: Result<Answer, QueryError>) {
        self.end(result);
    }

    fn end(&mut self, result: Result<Answer, QueryError>) {
        if std::mem::replace(&mut self.is_sent, true) {
            return;
        }
        let metrics = self.host.metrics();
        let label = result.as_ref().map_or_else(QueryError::result, |_| LookupResult::Ok);
        metrics.lookup(self.query, label, self.elapsed());
        if let Err(QueryError::Exhausted { resource, .. }) = &result {
            metrics.exhausted(*resource);
        }
        self.host.record(self.query, self.id, result);
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        self.end(Err(QueryError::Failed("the lookup ended without a result".to_owned())));
    }
}
