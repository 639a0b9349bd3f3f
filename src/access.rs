//! Whether this caller may do this: the rules, the quotas, and the proof.
//!
//! A call reads [`Access::policy`] once, when it arrives: the bearer tokens that identify its
//! caller and the rules that decide on it are of one version. [`Access::admits`] decides by
//! caller and method, before the message is read; [`Access::permit_issue`] and
//! [`Access::permit_login`] also by the API client and the user, and take from the quotas. Callers
//! are identified in `caller`.
//!
//! What costs quota: every permit, whatever comes of it, so that guessing users costs
//! as much as logging them in. What costs nothing: a call that the rules deny or whose
//! message is not valid; it reaches nobody. A call that exceeds the quota of its user
//! has used one of its caller's.

use std::{
    fmt,
    ops::Deref,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::{ArcSwap, Guard};

use crate::{
    call::Operation,
    caller::{BearerTokens, Caller},
    clock::{self, Instant},
    ott::Subject,
    telemetry::metrics::{AccessDenial, Metrics, QuotaBucket},
};

mod glob_index;
mod pattern;
mod quota;
mod rule_index;
mod rule_set;
mod rules;

use quota::{CallerKey, Decision, Memory};
pub use quota::{Limit, MAX_BURST, Rate};
use rule_set::RuleSet;
use rules::Rule;
pub use rules::{Explanation, InvalidRules, RuleSettings, Rules};

/// Time between two warnings of one kind.
const WARNING_INTERVAL: Duration = Duration::from_secs(10);

/// What happens to a call that exceeds a quota. Rules are never only tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quotas {
    /// It is refused.
    Enforced,
    /// It is counted and logged, and passes.
    DryRun,
}

/// The policy in force. Cheap to clone; all clones see a reload.
#[derive(Clone, Debug)]
pub struct Access(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    policy: ArcSwap<Policy>,
    metrics: Metrics,
    dry_run_warnings: Limited,
    sharing_warnings: Limited,
    memory: Memory,
}

/// One version of everything that a reload replaces.
#[derive(Debug)]
pub struct Policy {
    /// The rules.
    pub rules: Rules,
    /// What happens to a call that exceeds a quota.
    pub quotas: Quotas,
    /// Users of whom quotas remember something at one time: this many of the callers that
    /// rules name in full, and as many of all others.
    pub max_quota_users: usize,
    /// The bearer tokens that identify callers.
    pub tokens: BearerTokens,
}

/// The version of the policy that was in force when it was read. Reading it writes nothing that
/// another thread reads.
#[derive(Debug)]
pub struct PolicyInForce(Guard<Arc<Policy>>);

/// A caller that may use a method, for some user and some API client. It keeps the version of
/// the rules that allowed it.
#[must_use = "an admission is of no use unless a permit is asked for with it"]
#[derive(Debug)]
pub struct Admission {
    policy: Arc<Policy>,
    caller: Caller,
    operation: Operation,
    /// The rules that allow the caller the method.
    rules: RuleSet,
}

/// Proof that a caller may have a token for this user from this API client.
#[must_use = "a permit has been paid for from the caller's quota"]
#[derive(Debug)]
pub struct IssuePermit {
    caller: Caller,
    api_client: Arc<str>,
    subject: Subject,
}

/// Proof that a caller may spend a token with this API client. Which users it may log in is
/// checked once the platform has named the account: [`Access::check_account`].
#[must_use = "a permit has been paid for from the caller's quota"]
#[derive(Debug)]
pub struct LoginPermit {
    caller: Caller,
    api_client: Arc<str>,
    policy: Arc<Policy>,
    /// The rules that allow it, for some user.
    rules: RuleSet,
}

/// No rule allows a call; which part of it the closest rule did not fit. For logs and
/// records: the caller itself only gets that it is not allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no access rule allows this call: {}", self.0.as_str())]
pub struct Denied(AccessDenial);

/// Why a call gets no permit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// No rule allows it.
    #[error(transparent)]
    NotAllowed(#[from] Denied),
    /// It comes too soon.
    #[error("the quota {quota} of access rule {rule} is used up for {retry_after:?}")]
    QuotaExceeded {
        /// Which one.
        quota: ExceededQuota,
        /// Rate and burst of the quota.
        limit: Limit,
        /// The rule that the quota belongs to, counted from 1. For operators.
        rule: usize,
        /// How long until a call like this one gets through.
        retry_after: Duration,
    },
}

/// The two quotas of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExceededQuota {
    /// All calls of one caller.
    Caller,
    /// The calls of one caller for one user.
    User,
}

impl Policy {
    /// No rule and no token: nobody may call.
    #[must_use]
    pub fn closed() -> Self {
        Self {
            rules: Rules::none(),
            quotas: Quotas::Enforced,
            max_quota_users: quota::DEFAULT_MAX_USERS,
            tokens: BearerTokens::default(),
        }
    }

    /// The bearer tokens that identify callers.
    #[must_use]
    pub const fn tokens(&self) -> &BearerTokens {
        &self.tokens
    }
}

impl PolicyInForce {
    /// Returns the policy in a form that can be kept and cloned.
    #[must_use]
    pub fn into_shared(self) -> Arc<Policy> {
        Guard::into_inner(self.0)
    }
}

impl Deref for PolicyInForce {
    type Target = Policy;

    fn deref(&self) -> &Policy {
        &self.0
    }
}

impl Access {
    /// Puts a policy into force.
    #[must_use]
    pub fn new(policy: Policy, metrics: Metrics) -> Self {
        Self(Arc::new(Inner {
            memory: Memory::new(policy.max_quota_users, &metrics),
            policy: ArcSwap::from_pointee(policy),
            metrics,
            dry_run_warnings: Limited::new(WARNING_INTERVAL),
            sharing_warnings: Limited::new(WARNING_INTERVAL),
        }))
    }

    /// Allows nothing.
    #[must_use]
    pub fn closed(metrics: Metrics) -> Self {
        Self::new(Policy::closed(), metrics)
    }

    /// The policy in force at this moment. A call reads it once and uses it to its end, so that
    /// no call is decided by two versions.
    #[must_use]
    pub fn policy(&self) -> PolicyInForce {
        PolicyInForce(self.0.policy.load())
    }

    /// Replaces the policy as a whole. A rule that stays the same keeps what has been used of
    /// its quotas; calls that have read the policy before are decided by the old one.
    pub fn replace(&self, mut policy: Policy) {
        policy.rules.inherit(&self.0.policy.load().rules);
        self.0.memory.set_max_users(policy.max_quota_users);
        self.0.policy.store(Arc::new(policy));
    }

    /// Forgets what has been used of every quota, except for buckets that several callers share.
    /// For the reset of a sandbox.
    #[cfg(feature = "sandbox")]
    pub fn forget_used_quotas(&self) {
        // By then every bucket is full again.
        self.policy().rules.forget_full(u64::MAX);
    }

    /// Admits a caller to a method. Asked before the message is read; takes nothing from any
    /// quota.
    pub fn admits(
        &self,
        policy: Arc<Policy>,
        caller: &Caller,
        operation: Operation,
    ) -> Result<Admission, Denied> {
        let admitting = policy.rules.admitting(caller.name(), operation);
        let rules = admitting.map_err(|mismatch| self.denied(mismatch))?;
        Ok(Admission { policy, caller: caller.clone(), operation, rules })
    }

    /// Returns how many calls of a caller may be in flight, from the first rule that names it:
    /// for what is not a method of the rules. `None` if no rule limits it.
    #[must_use]
    pub fn max_in_flight(&self, policy: &Policy, caller: &Caller) -> Option<usize> {
        policy.rules.first_for(caller.name())?.max_in_flight()
    }

    /// Returns whether any rule allows an admitted caller an API client of this name,
    /// regardless of the user. Takes nothing from any quota.
    pub fn admits_api_client(&self, admission: &Admission, api_client: &str) -> Result<(), Denied> {
        self.allowing(admission, admission.operation, api_client, None).map(|_| ())
    }

    /// Permits an admitted caller to have a token issued, and counts it.
    pub fn permit_issue(
        &self,
        admission: Admission,
        api_client: Arc<str>,
        subject: Subject,
    ) -> Result<IssuePermit, Refused> {
        let rules = self.allowing(&admission, Operation::IssueOtt, &api_client, Some(&subject))?;
        self.take(&rules, &admission, Some(&subject))?;
        Ok(IssuePermit { caller: admission.caller, api_client, subject })
    }

    /// Permits an admitted caller to spend a token, and counts it. The token's user is not known
    /// yet: check the account afterwards with [`check_account`](Self::check_account).
    pub fn permit_login(&self, admission: Admission, api_client: Arc<str>) -> Result<LoginPermit, Refused> {
        let rules = self.allowing(&admission, Operation::LoginWithOtt, &api_client, None)?;
        self.take(&rules, &admission, None)?;
        Ok(LoginPermit { caller: admission.caller, api_client, policy: admission.policy, rules })
    }

    /// Checks that a rule allows the caller to log in the account, which has any of these names.
    /// The names are only needed if all rules that allow the call list their users.
    ///
    /// # Errors
    ///
    /// No rule allows it: the session must not be handed out.
    pub fn check_account(
        &self,
        permit: &LoginPermit,
        names: impl FnOnce() -> Vec<Subject>,
    ) -> Result<(), Denied> {
        let rules = &permit.policy.rules;
        let is_allowed = rules.any_for_all_users(&permit.rules)
            || names().iter().any(|name| rules.any_for_user(&permit.rules, name));
        if is_allowed { Ok(()) } else { Err(self.denied(AccessDenial::User)) }
    }

    /// Returns whether any rule is for the caller, regardless of what it allows. Enough to see
    /// the contract by reflection.
    pub fn mentions(&self, policy: &Policy, caller: &Caller) -> Result<(), Denied> {
        if policy.rules.mention(caller.name()) { Ok(()) } else { Err(self.denied(AccessDenial::Caller)) }
    }

    /// An admission for one method opens no door for the other.
    fn allowing(
        &self,
        admission: &Admission,
        operation: Operation,
        api_client: &str,
        user: Option<&Subject>,
    ) -> Result<RuleSet, Denied> {
        if admission.operation != operation {
            return Err(self.denied(AccessDenial::Method));
        }
        let allowing = admission.policy.rules.allowing(&admission.rules, api_client, user);
        allowing.map_err(|mismatch| self.denied(mismatch))
    }

    fn denied(&self, reason: AccessDenial) -> Denied {
        self.0.metrics.access_denied(reason);
        Denied(reason)
    }

    /// Takes from the quotas of the first of the rules, which decides.
    fn take(&self, allowing: &RuleSet, admission: &Admission, user: Option<&Subject>) -> Result<(), Refused> {
        let (memory, rules) = (&self.0.memory, &admission.policy.rules);
        let Some((number, rule)) = rules.deciding(allowing) else {
            return Err(self.denied(AccessDenial::Caller).into());
        };
        let now = memory.now();
        let make_room = || {
            if memory.should_forget(now, true) {
                rules.forget_full(now);
            }
        };
        if memory.should_forget(now, false) {
            rules.forget_full(now);
        }
        let caller = CallerKey { name: admission.caller.name(), literal_names: rules.literal_callers() };
        let decision = rule.per_caller.take(caller, memory, now, make_room);
        let exceeded =
            |quota, limit, retry_after| Refused::QuotaExceeded { quota, limit, rule: number, retry_after };
        self.obey(decision, ExceededQuota::Caller, admission)
            .map_err(|wait| exceeded(ExceededQuota::Caller, rule.per_caller.limit(), wait))?;
        if let Some(user) = user {
            let decision = rule.per_user.take(caller, &user.quota_key(), memory, now, make_room);
            self.obey(decision, ExceededQuota::User, admission)
                .map_err(|wait| exceeded(ExceededQuota::User, rule.per_user.limit(), wait))?;
        }
        Ok(())
    }

    /// Fails with how long the caller has to wait.
    fn obey(&self, decision: Decision, quota: ExceededQuota, admission: &Admission) -> Result<(), Duration> {
        if decision.shared {
            self.0.metrics.quota_shared(quota.bucket());
            if let Some(suppressed) = self.0.sharing_warnings.due() {
                tracing::warn!(
                    caller.name = %admission.caller.name(),
                    quota = quota.as_str(),
                    log.suppressed = suppressed,
                    "no room for another quota bucket, sharing one"
                );
            }
        }
        match decision.outcome {
            Ok(()) => Ok(()),
            Err(wait) => self.exceeded(quota, admission, wait),
        }
    }

    fn exceeded(
        &self,
        quota: ExceededQuota,
        admission: &Admission,
        retry_after: Duration,
    ) -> Result<(), Duration> {
        let name = admission.caller.name();
        self.0.metrics.quota_exceeded(name);
        match admission.policy.quotas {
            Quotas::Enforced => Err(retry_after),
            Quotas::DryRun => {
                if let Some(unsaid) = self.0.dry_run_warnings.due() {
                    tracing::warn!(
                        caller.name = %name,
                        quota = quota.as_str(),
                        log.unsaid = unsaid,
                        "quota exceeded, accepting the call in dry run"
                    );
                }
                Ok(())
            }
        }
    }
}

impl Admission {
    /// Who was admitted.
    #[must_use]
    pub const fn caller(&self) -> &Caller {
        &self.caller
    }

    /// How many calls of the caller may be in flight, if the first rule that admits it sets it.
    #[must_use]
    pub fn max_in_flight(&self) -> Option<usize> {
        self.policy.rules.first(&self.rules).and_then(Rule::max_in_flight)
    }
}

impl IssuePermit {
    /// Who asks.
    #[must_use]
    pub const fn caller(&self) -> &Caller {
        &self.caller
    }

    /// The API client to use.
    #[must_use]
    pub const fn api_client(&self) -> &Arc<str> {
        &self.api_client
    }

    /// Whom the token is for.
    #[must_use]
    pub const fn subject(&self) -> &Subject {
        &self.subject
    }

    /// A permit that nobody has checked, to test what comes after.
    #[cfg(test)]
    pub(crate) fn for_test(api_client: &str, subject: Subject) -> Self {
        Self { caller: Caller::anonymous(), api_client: Arc::from(api_client), subject }
    }
}

impl LoginPermit {
    /// Who asks.
    #[must_use]
    pub const fn caller(&self) -> &Caller {
        &self.caller
    }

    /// The API client to use.
    #[must_use]
    pub const fn api_client(&self) -> &Arc<str> {
        &self.api_client
    }

    /// A permit that nobody has checked, to test what comes after.
    #[cfg(test)]
    pub(crate) fn for_test(api_client: &str) -> Self {
        let policy = Arc::new(Policy::closed());
        let rules = RuleSet::none(0);
        Self { caller: Caller::anonymous(), api_client: Arc::from(api_client), policy, rules }
    }
}

impl Denied {
    /// Whether a rule names the caller, although none allows the call.
    #[must_use]
    pub const fn names_caller(&self) -> bool {
        !matches!(self.0, AccessDenial::Caller)
    }

    /// Returns the first part of the call that no rule allows.
    #[must_use]
    pub const fn reason(self) -> AccessDenial {
        self.0
    }
}

impl ExceededQuota {
    const fn bucket(self) -> QuotaBucket {
        match self {
            Self::Caller => QuotaBucket::Caller,
            Self::User => QuotaBucket::User,
        }
    }

    /// The word for `QuotaFailure`, logs and records.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Caller => "calls_per_caller",
            Self::User => "calls_per_caller_and_user",
        }
    }
}

impl fmt::Display for ExceededQuota {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Lets one in an interval through, and counts the others.
#[derive(Debug)]
struct Limited {
    started: Instant,
    interval: Duration,
    /// The intervals that have begun, counted from 1, when the last one got through.
    last: AtomicU64,
    unsaid: AtomicU64,
}

impl Limited {
    fn new(interval: Duration) -> Self {
        Self { started: clock::now(), interval, last: AtomicU64::new(0), unsaid: AtomicU64::new(0) }
    }

    /// How many were held back since the last one, if this one may pass.
    fn due(&self) -> Option<u64> {
        let intervals = self.started.elapsed().as_nanos() / self.interval.as_nanos().max(1);
        let now = u64::try_from(intervals).unwrap_or(u64::MAX).saturating_add(1);
        if self.last.fetch_max(now, Ordering::Relaxed) < now {
            Some(self.unsaid.swap(0, Ordering::Relaxed))
        } else {
            self.unsaid.fetch_add(1, Ordering::Relaxed);
            None
        }
    }
}

#[cfg(test)]
mod tests;
