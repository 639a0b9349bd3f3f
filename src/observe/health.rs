//! Readiness of this replica, and the reasons against it.
//!
//! Holds the conditions that other modules report. The admin listener and the gRPC health service
//! read them. An unavailable platform does not make a replica unready, because other replicas could
//! not reach it either.
//!
//! ```
//! use ott_gateway::observe::health::{CredentialState, Health, NotServing};
//!
//! let health = Health::new();
//! let credential = health.credential("eu2");
//! assert_eq!(health.why_not(), [NotServing::Starting("eu2".into())]);
//! credential.set(CredentialState::Accepted);
//! assert!(health.is_serving());
//! health.set_draining();
//! assert_eq!(health.why_not(), [NotServing::Draining]);
//! ```

mod service;
mod watches;

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::watch;

pub use self::{
    service::{ConnectionHealth, HealthService},
    watches::{MAX_WATCHES_PER_CONNECTION, WatchPeer, Watches},
};
use crate::base::clock::{self, Instant};

/// Time for which every credential must have been refused before the replica becomes unready. A
/// secret may be refused briefly during its rotation, which must not take all replicas out of
/// service.
const REFUSAL_PATIENCE: Duration = Duration::from_mins(1);

/// Readiness of this replica. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Health(Arc<Board>);

#[derive(Debug, Default)]
struct Board {
    conditions: Mutex<Conditions>,
    changes: watch::Sender<Phase>,
}

/// Wakes watchers on every change and ends their streams at shutdown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Open,
    Closed,
}

#[derive(Debug, Default)]
struct Conditions {
    credentials: Vec<(Arc<str>, CredentialState)>,
    /// Whether there was a time at which every credential worked.
    credentials_have_worked: bool,
    audit: AuditState,
    draining: bool,
}

/// State of an API client's credential.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CredentialState {
    /// The first token request has not completed.
    Starting,
    /// The first token request failed without a decision on the credential: the platform is
    /// unavailable.
    Unproven,
    /// The platform has accepted the credential, but may be unavailable now.
    Accepted,
    /// The platform refuses the API client's id and secret, or the secret cannot be read.
    Refused {
        /// Time since when it is refused.
        since: Instant,
        /// Whether the process has ever had an access token.
        had_token: bool,
        /// The cause, for operators.
        cause: Arc<str>,
    },
}

impl CredentialState {
    /// Returns the reason that the credential has never worked, if known.
    fn never_worked(&self) -> Option<&Arc<str>> {
        match self {
            Self::Refused { had_token: false, cause, .. } => Some(cause),
            Self::Starting | Self::Unproven | Self::Accepted | Self::Refused { .. } => None,
        }
    }
}

/// State of the audit log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AuditState {
    /// The first write has not completed.
    Starting,
    /// Records can be written, or there is no audit log.
    #[default]
    Available,
    /// Records cannot be written in time.
    Unavailable,
}

/// Reports the state of one API client's credential.
#[derive(Clone, Debug)]
pub struct CredentialCondition {
    health: Health,
    index: usize,
}

/// A reason not to take traffic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotServing {
    /// The first token request of this API client has not completed.
    Starting(Arc<str>),
    /// An API client has never had an access token, and its credential was refused or cannot be
    /// read. Reported only until the replica is ready for the first time, so that a rolling update
    /// with a wrong secret stops.
    CredentialNeverWorked {
        /// The API client.
        api_client: Arc<str>,
        /// The cause, for operators.
        cause: Arc<str>,
    },
    /// The credential of every API client has been refused for a minute.
    CredentialsRefused,
    /// The first write to the audit log has not completed.
    AuditStarting,
    /// Audit records cannot be written.
    AuditUnavailable,
    /// The process is shutting down.
    Draining,
}

impl fmt::Display for NotServing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Starting(name) => {
                write!(f, "the first token request of API client \"{name}\" has not ended")
            }
            Self::CredentialNeverWorked { api_client, cause } => {
                write!(f, "API client \"{api_client}\" has never had an access token: {cause}")
            }
            Self::CredentialsRefused => {
                f.write_str("the platform has been refusing the credential of every API client for a minute")
            }
            Self::AuditStarting => f.write_str("the first write to the audit log has not ended"),
            Self::AuditUnavailable => f.write_str("audit records cannot be written"),
            Self::Draining => f.write_str("draining"),
        }
    }
}

impl Health {
    /// Creates the readiness of a replica without conditions, which is ready.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an API client in the state `Starting`. Add all API clients before the first call is
    /// accepted.
    #[must_use]
    pub fn credential(&self, api_client: impl Into<Arc<str>>) -> CredentialCondition {
        let index = self.change(|conditions| {
            conditions.credentials.push((api_client.into(), CredentialState::Starting));
            conditions.credentials.len() - 1
        });
        CredentialCondition { health: self.clone(), index }
    }

    /// Records the state of the audit log.
    pub fn set_audit(&self, state: AuditState) {
        self.change(|conditions| conditions.audit = state);
    }

    /// Marks the replica as draining, permanently.
    pub fn set_draining(&self) {
        self.change(|conditions| conditions.draining = true);
    }

    /// Permanently ends all open `Watch` streams, and each new one after its first response, so
    /// that they keep no connection open. Call this when GOAWAY is sent, some time after
    /// [`set_draining`](Self::set_draining).
    pub fn end_watches(&self) {
        self.0.changes.send_replace(Phase::Closed);
    }

    /// Returns whether this replica is ready for traffic.
    #[must_use]
    pub fn is_serving(&self) -> bool {
        self.why_not().is_empty()
    }

    /// Returns the reasons that this replica is not ready for traffic. Empty if it is ready.
    #[must_use]
    pub fn why_not(&self) -> Vec<NotServing> {
        self.conditions().evaluate(clock::now()).0
    }

    fn conditions(&self) -> MutexGuard<'_, Conditions> {
        // No code panics while it holds the lock, and the values would be consistent even then.
        self.0.conditions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, change: impl FnOnce(&mut Conditions) -> T) -> T {
        let mut conditions = self.conditions();
        let result = change(&mut conditions);
        conditions.record_working_credentials();
        drop(conditions);
        self.0.changes.send_modify(|_| {});
        result
    }
}

impl CredentialCondition {
    /// Records the state of the credential.
    pub fn set(&self, state: CredentialState) {
        self.health.change(|conditions| {
            if let Some(credential) = conditions.credentials.get_mut(self.index) {
                credential.1 = state;
            }
        });
    }
}

impl Conditions {
    /// Returns the reasons that the replica is not ready, and the time at which they change by
    /// themselves, if any.
    fn evaluate(&self, now: Instant) -> (Vec<NotServing>, Option<Instant>) {
        let mut why_not: Vec<NotServing> = self
            .credentials
            .iter()
            .filter(|(_, state)| *state == CredentialState::Starting)
            .map(|(name, _)| NotServing::Starting(Arc::clone(name)))
            .collect();
        if !self.credentials_have_worked {
            why_not.extend(self.credentials.iter().filter_map(|(name, state)| {
                let cause = Arc::clone(state.never_worked()?);
                Some(NotServing::CredentialNeverWorked { api_client: Arc::clone(name), cause })
            }));
        }
        let refused_at = self.all_refused_since().map(|since| since + REFUSAL_PATIENCE);
        if refused_at.is_some_and(|at| at <= now) {
            why_not.push(NotServing::CredentialsRefused);
        }
        match self.audit {
            AuditState::Starting => why_not.push(NotServing::AuditStarting),
            AuditState::Available => {}
            AuditState::Unavailable => why_not.push(NotServing::AuditUnavailable),
        }
        if self.draining {
            why_not.push(NotServing::Draining);
        }
        (why_not, refused_at.filter(|at| *at > now))
    }

    /// Records whether all credentials work now. A replica whose platform is unavailable at startup
    /// serves, but may still turn out to be misconfigured.
    fn record_working_credentials(&mut self) {
        let works = |state: &CredentialState| {
            matches!(state, CredentialState::Accepted | CredentialState::Refused { had_token: true, .. })
        };
        if !self.credentials.is_empty() && self.credentials.iter().all(|(_, state)| works(state)) {
            self.credentials_have_worked = true;
        }
    }

    /// Returns the time since when every credential has been refused, if all of them are.
    fn all_refused_since(&self) -> Option<Instant> {
        let since: Option<Vec<Instant>> = self
            .credentials
            .iter()
            .map(|(_, state)| match state {
                CredentialState::Refused { since, .. } => Some(*since),
                CredentialState::Starting | CredentialState::Unproven | CredentialState::Accepted => None,
            })
            .collect();
        since?.into_iter().max()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn new_replica_is_unready_with_a_wrong_secret_even_if_the_platform_was_unavailable_first() {
        let health = Health::new();
        let eu = health.credential("eu2");
        eu.set(CredentialState::Unproven);
        assert!(health.is_serving(), "other replicas cannot reach the platform either");
        eu.set(refused(false));
        assert_eq!(health.why_not(), [never_worked("eu2")]);
        eu.set(CredentialState::Accepted);
        eu.set(refused(true));
        assert!(health.is_serving(), "the credential has worked before");
    }

    /// The state of a credential that is refused from now on.
    fn refused(had_token: bool) -> CredentialState {
        CredentialState::Refused { since: clock::now(), had_token, cause: Arc::from("HTTP status 401") }
    }

    fn never_worked(api_client: &str) -> NotServing {
        let cause = Arc::from("HTTP status 401");
        NotServing::CredentialNeverWorked { api_client: api_client.into(), cause }
    }

    #[tokio::test(start_paused = true)]
    async fn replica_serves_once_every_first_token_request_has_completed() {
        let health = Health::new();
        let (eu, us) = (health.credential("eu2"), health.credential("us5"));
        assert_eq!(
            health.why_not(),
            [NotServing::Starting("eu2".into()), NotServing::Starting("us5".into())]
        );
        eu.set(CredentialState::Accepted);
        assert_eq!(health.why_not(), [NotServing::Starting("us5".into())]);
        us.set(CredentialState::Accepted);
        assert!(health.is_serving());
    }

    /// A rolling update with one wrong secret has to stop.
    #[tokio::test(start_paused = true)]
    async fn new_replica_does_not_serve_while_any_credential_has_never_worked() {
        let health = Health::new();
        let (eu, us) = (health.credential("eu2"), health.credential("us5"));
        eu.set(CredentialState::Accepted);
        us.set(refused(false));
        assert_eq!(health.why_not(), [never_worked("us5")]);
        assert_eq!(
            health.why_not()[0].to_string(),
            "API client \"us5\" has never had an access token: HTTP status 401"
        );
        eu.set(refused(false));
        assert_eq!(health.why_not(), [never_worked("eu2"), never_worked("us5")]);
        tokio::time::advance(Duration::from_mins(10)).await;
        assert!(!health.is_serving());
        us.set(CredentialState::Accepted);
        assert_eq!(health.why_not(), [never_worked("eu2")]);
        eu.set(CredentialState::Accepted);
        assert!(health.is_serving());
    }

    #[tokio::test(start_paused = true)]
    async fn replica_that_was_ready_stays_ready_when_one_credential_is_refused() {
        let health = Health::new();
        let (eu, us) = (health.credential("eu2"), health.credential("us5"));
        eu.set(CredentialState::Accepted);
        // Accepted at first, refused later.
        us.set(CredentialState::Accepted);
        assert!(health.is_serving());
        us.set(refused(false));
        tokio::time::advance(Duration::from_mins(10)).await;
        assert!(health.is_serving(), "calls for the other API client still work");
        eu.set(refused(true));
        assert!(health.is_serving());
        tokio::time::advance(Duration::from_mins(1)).await;
        assert!(!health.is_serving());
    }

    #[tokio::test(start_paused = true)]
    async fn replica_is_unready_after_a_minute_of_refusal_of_every_credential() {
        let health = Health::new();
        let (eu, us) = (health.credential("eu2"), health.credential("us5"));
        eu.set(refused(true));
        us.set(CredentialState::Accepted);
        tokio::time::advance(Duration::from_mins(10)).await;
        assert!(health.is_serving(), "one still works");

        us.set(refused(true));
        tokio::time::advance(Duration::from_millis(59_999)).await;
        assert!(health.is_serving());
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(health.why_not(), [NotServing::CredentialsRefused]);

        eu.set(CredentialState::Accepted);
        assert!(health.is_serving(), "one works again");
    }

    #[tokio::test(start_paused = true)]
    async fn unavailable_audit_and_drain_make_the_replica_unready() {
        let health = Health::new();
        assert!(health.is_serving());
        for (state, why) in [
            (AuditState::Starting, NotServing::AuditStarting),
            (AuditState::Unavailable, NotServing::AuditUnavailable),
        ] {
            health.set_audit(state);
            assert_eq!(health.why_not(), [why]);
        }
        health.set_audit(AuditState::Available);
        assert!(health.is_serving());
        health.set_draining();
        assert_eq!(health.why_not(), [NotServing::Draining]);
    }
}
