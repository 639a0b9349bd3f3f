//! Background tasks of a gateway, and whether each of them runs.
//!
//! [`supervision`](crate::supervision) runs the tasks and records here when one starts and
//! ends; `admin` and the metrics read it.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use prometheus::IntCounter;

use super::label::labels;
use crate::base::clock::{self, Instant};

/// A duty that has been failing for this long fails `/livez`. Several restarts fit into it.
const DOWN_AFTER: Duration = Duration::from_secs(10);
/// A duty that has run for this long without a failure has recovered. Less than
/// [`DOWN_AFTER`], so that a single failure never fails `/livez`.
const SETTLED_AFTER: Duration = Duration::from_secs(5);

labels! {
    /// A kind of background task that runs until the gateway stops.
    pub enum Duty {
        /// Keeps the access token of one API client fresh.
        AccessToken = "access_token",
        /// Publishes the state of one API client's credential to health.
        CredentialHealth = "credential_health",
        /// Publishes the state of the audit sink to health.
        AuditHealth = "audit_health",
        /// Publishes the beginning of the drain to health.
        DrainHealth = "drain_health",
        /// Follows access rules and bearer tokens.
        AccessRules = "access_rules",
        /// Follows the keys of one JWT issuer.
        JwtKeys = "jwt_keys",
        /// Follows the TLS files of one listener.
        TlsFiles = "tls_files",
        /// Accepts the connections of one listener.
        Accept = "accept",
        /// Writes summaries of refused calls.
        RefusedCalls = "refused_calls",
        /// Keeps the addresses of names in use fresh.
        NameLookups = "name_lookups",
        /// Follows one source of the authorities that outgoing connections trust.
        Authorities = "authorities",
        /// Follows the keys of sealed tokens.
        TokenKeys = "token_keys",
        /// Watches the heartbeats of all threads.
        ThreadWatch = "thread_watch",
        /// Reports dropped and suppressed log lines.
        LogReport = "log_report",
    }
}

/// Duties of one gateway. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Duties(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    running: Mutex<Vec<Arc<State>>>,
    /// In the order of [`Duty::ALL`].
    restarts: [IntCounter; Duty::ALL.len()],
}

/// One duty, owned by the task that runs it. Dropping it removes the duty.
#[derive(Debug)]
#[must_use = "the duty is removed when this is dropped"]
pub struct Registration {
    duties: Duties,
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    duty: Duty,
    /// What the duty is for, if there are several: an API client, an issuer, a listener.
    subject: Option<Box<str>>,
    run: Mutex<Run>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Run {
    /// Set while the task runs.
    started: Option<Instant>,
    /// Time of the first failure since the duty last recovered.
    failing_since: Option<Instant>,
    /// Number of failures since the duty last recovered.
    failures: u32,
}

/// A duty that has been failing for 10 s or more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Down {
    /// The duty.
    pub duty: Duty,
    /// What it is for, if there are several: an API client, an issuer, a listener.
    pub subject: Option<Box<str>>,
    /// Time since its first failure.
    pub since: Duration,
}

impl Duties {
    pub(super) fn new(restarts: [IntCounter; Duty::ALL.len()]) -> Self {
        Self(Arc::new(Inner { running: Mutex::default(), restarts }))
    }

    /// Adds a duty that has not started yet.
    pub fn register(&self, duty: Duty, subject: Option<&str>) -> Registration {
        let state = Arc::new(State { duty, subject: subject.map(Box::from), run: Mutex::default() });
        lock(&self.0.running).push(Arc::clone(&state));
        Registration { duties: self.clone(), state }
    }

    /// Returns the duties that have been failing for 10 s or more.
    #[must_use]
    pub fn down(&self) -> Vec<Down> {
        let now = clock::now();
        let running = lock(&self.0.running);
        running.iter().filter_map(|state| state.down(now)).collect()
    }

    /// Returns whether no duty of this kind is down; `None` if there is no such duty.
    pub(super) fn is_up(&self, duty: Duty) -> Option<bool> {
        let now = clock::now();
        let running = lock(&self.0.running);
        running
            .iter()
            .filter(|state| state.duty == duty)
            .map(|state| state.down(now).is_none())
            .reduce(|all, up| all && up)
    }
}

impl Registration {
    /// Records that the task starts.
    pub fn started(&self) {
        lock(&self.state.run).started = Some(clock::now());
    }

    /// Records that the task has ended while the gateway keeps running, and counts a restart.
    /// Returns the number of failures since the duty last ran for 5 s.
    pub fn failed(&self) -> u32 {
        let now = clock::now();
        let failures = {
            let mut run = lock(&self.state.run);
            if run.has_recovered(now) {
                (run.failing_since, run.failures) = (None, 0);
            }
            run.started = None;
            run.failing_since.get_or_insert(now);
            run.failures = run.failures.saturating_add(1);
            run.failures
        };
        if let Some(counter) = self.duties.0.restarts.get(self.state.duty as usize) {
            counter.inc();
        }
        failures
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        lock(&self.duties.0.running).retain(|other| !Arc::ptr_eq(other, &self.state));
    }
}

impl State {
    fn down(&self, now: Instant) -> Option<Down> {
        let run = *lock(&self.run);
        let since = now.saturating_duration_since(run.failing_since?);
        let is_down = since >= DOWN_AFTER && !run.has_recovered(now);
        is_down.then(|| Down { duty: self.duty, subject: self.subject.clone(), since })
    }
}

impl Run {
    fn has_recovered(&self, now: Instant) -> bool {
        self.started.is_some_and(|at| now.saturating_duration_since(at) >= SETTLED_AFTER)
    }
}

/// No code panics while it holds one of these locks.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Display for Down {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "duty {}", self.duty.as_str())?;
        if let Some(subject) = &self.subject {
            write!(f, " of {subject:?}")?;
        }
        write!(f, " has been failing for {} s", self.since.as_secs())
    }
}
