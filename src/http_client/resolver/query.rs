//! Results of the queries of a name lookup.

use std::{fmt, net::IpAddr, time::Duration};

use crate::observe::telemetry::metrics::{LocalResource, LookupResult};

/// Result of a successful query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ResolvedAddresses {
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
    pub(super) const fn result(&self) -> LookupResult {
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
