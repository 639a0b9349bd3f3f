//! Whether this replica may take traffic, and why not.
//!
//! Holds the conditions that other parts report. The admin listener and the gRPC health
//! service read them. A platform that is down does not make a replica unready, because
//! another replica could not reach it either.

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
use crate::clock::{self, Instant};

/// Time for which every credential must have been refused. A secret is refused briefly while
/// it is rotated; that must not take all replicas out of service.
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
    /// Whether every credential has worked, all at the same time.
    credentials_have_worked: bool,
    audit: AuditState,
    draining: bool,
}

/// State of an API client's credential.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CredentialState {
    /// The first token request has not ended.
    Starting,
    /// The first token request has failed without a verdict: the platform is down.
    Unproven,
    /// The platform has accepted it, but may be down now.
    Accepted,
    /// The platform refuses the API client's id and secret, or the secret cannot be read.
    Refused {
        /// Since when.
        since: Instant,
        /// Whether there was ever an access token since the process started.
        had_token: bool,
        /// Why, for operators.
        cause: Arc<str>,
    },
}

impl CredentialState {
    /// Returns why the credential has never worked, if that is known.
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
    /// The first write to it has not ended.
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

/// One reason not to take traffic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WhyNot {
    /// The first token request of this API client has not ended.
    Starting(Arc<str>),
    /// An API client has never had an access token, and its credential was refused or cannot
    /// be read. Only before the replica was first ready, so that a rolling update with a
    /// wrong secret stops here.
    CredentialNeverWorked {
        /// The API client.
        api_client: Arc<str>,
        /// Why, for operators.
        cause: Arc<str>,
    },
    /// The credential of every API client has been refused for a minute.
    CredentialsRefused,
    /// It is not known yet whether audit records can be written in time.
    AuditStarting,
    /// Audit records cannot be written.
    AuditUnavailable,
    /// The process is shutting down.
    Draining,
}

impl fmt::Display for WhyNot {
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
    /// Creates a health without conditions, so that the replica is ready.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an API client, whose first token request has not ended. Add all of them
    /// before the first call is accepted.
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

    /// Permanently ends all open `Watch` streams, and each new one after its first answer, so
    /// that they keep no connection open. Call it when GOAWAY is sent, some time after
    /// [`set_draining`](Self::set_draining).
    pub fn end_watches(&self) {
        self.0.changes.send_replace(Phase::Closed);
    }

    /// Returns whether this replica is ready for traffic.
    #[must_use]
    pub fn is_serving(&self) -> bool {
        self.why_not().is_empty()
    }

    /// Returns why this replica is not ready for traffic; empty if it is.
    #[must_use]
    pub fn why_not(&self) -> Vec<WhyNot> {
        self.conditions().judge(clock::now()).0
    }

    fn conditions(&self) -> MutexGuard<'_, Conditions> {
        // No code panics while it holds the lock, and each value would still be consistent.
        self.0.conditions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, change: impl FnOnce(&mut Conditions) -> T) -> T {
        let mut conditions = self.conditions();
        let result = change(&mut conditions);
        conditions.note_working_credentials();
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
    /// Returns why the replica is not ready, and when the passing of time will change that.
    fn judge(&self, now: Instant) -> (Vec<WhyNot>, Option<Instant>) {
        let mut why_not: Vec<WhyNot> = self
            .credentials
            .iter()
            .filter(|(_, state)| *state == CredentialState::Starting)
            .map(|(name, _)| WhyNot::Starting(Arc::clone(name)))
            .collect();
        if !self.credentials_have_worked {
            why_not.extend(self.credentials.iter().filter_map(|(name, state)| {
                let cause = Arc::clone(state.never_worked()?);
                Some(WhyNot::CredentialNeverWorked { api_client: Arc::clone(name), cause })
            }));
        }
        let refused_at = self.all_refused_since().map(|since| since + REFUSAL_PATIENCE);
        if refused_at.is_some_and(|at| at <= now) {
            why_not.push(WhyNot::CredentialsRefused);
        }
        match self.audit {
            AuditState::Starting => why_not.push(WhyNot::AuditStarting),
            AuditState::Available => {}
            AuditState::Unavailable => why_not.push(WhyNot::AuditUnavailable),
        }
        if self.draining {
            why_not.push(WhyNot::Draining);
        }
        (why_not, refused_at.filter(|at| *at > now))
    }

    /// A replica whose platform is down at the start serves, but is not known to be
    /// configured correctly yet.
    fn note_working_credentials(&mut self) {
        let works = |state: &CredentialState| {
            matches!(state, CredentialState::Accepted | CredentialState::Refused { had_token: true, .. })
        };
        if !self.credentials.is_empty() && self.credentials.iter().all(|(_, state)| works(state)) {
            self.credentials_have_worked = true;
        }
    }

    /// Returns since when every credential has been refused, if all of them are.
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
    async fn a_new_replica_whose_platform_was_down_first_still_stops_at_a_wrong_secret() {
        let health = Health::new();
        let eu = health.credential("eu2");
        eu.set(CredentialState::Unproven);
        assert!(health.is_serving(), "another replica would fare no better");
        eu.set(refused(false));
        assert_eq!(health.why_not(), [never_worked("eu2")]);
        eu.set(CredentialState::Accepted);
        eu.set(refused(true));
        assert!(health.is_serving(), "it has worked");
    }

    /// A credential that is refused from now on.
    fn refused(had_token: bool) -> CredentialState {
        CredentialState::Refused { since: clock::now(), had_token, cause: Arc::from("HTTP status 401") }
    }

    fn never_worked(api_client: &str) -> WhyNot {
        let cause = Arc::from("HTTP status 401");
        WhyNot::CredentialNeverWorked { api_client: api_client.into(), cause }
    }

    #[tokio::test(start_paused = true)]
    async fn replica_serves_once_every_first_token_request_has_ended() {
        let health = Health::new();
        let (eu, us) = (health.credential("eu2"), health.credential("us5"));
        assert_eq!(health.why_not(), [WhyNot::Starting("eu2".into()), WhyNot::Starting("us5".into())]);
        eu.set(CredentialState::Accepted);
        assert_eq!(health.why_not(), [WhyNot::Starting("us5".into())]);
        // A platform that is down is no reason: another replica would not do better.
        us.set(CredentialState::Accepted);
        assert!(health.is_serving());
    }

    /// A rolling update in which one secret is wrong has to stop.
    #[tokio::test(start_paused = true)]
    async fn any_credential_that_never_worked_keeps_a_new_replica_from_serving() {
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
    async fn replica_that_was_ready_stays_so_when_one_credential_turns_out_to_be_wrong() {
        let health = Health::new();
        let (eu, us) = (health.credential("eu2"), health.credential("us5"));
        eu.set(CredentialState::Accepted);
        // Its platform is down at first, and refuses it later.
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
    async fn only_a_minute_of_refusal_of_every_credential_counts() {
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
        assert_eq!(health.why_not(), [WhyNot::CredentialsRefused]);

        eu.set(CredentialState::Accepted);
        assert!(health.is_serving(), "one works again");
    }

    #[tokio::test(start_paused = true)]
    async fn audit_and_drain_take_the_replica_out() {
        let health = Health::new();
        assert!(health.is_serving());
        for (state, why) in [
            (AuditState::Starting, WhyNot::AuditStarting),
            (AuditState::Unavailable, WhyNot::AuditUnavailable),
        ] {
            health.set_audit(state);
            assert_eq!(health.why_not(), [why]);
        }
        health.set_audit(AuditState::Available);
        assert!(health.is_serving());
        health.set_draining();
        assert_eq!(health.why_not(), [WhyNot::Draining]);
    }
}
