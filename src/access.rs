//! Access control: rules, quotas, and permits as proof of a decision.
//!
//! A call reads [`Access::policy`] once, when it arrives, so that the bearer tokens and claims that
//! identify its caller and the rules that decide it belong to one version. [`Access::admits`] decides by
//! caller and method, before the message is read; [`Access::permit_issue`] and
//! [`Access::permit_login`] decide also by API client and user, and take from the quotas. `caller`
//! identifies callers. `rehearsal` compares each decision with that of the candidate rules.
//!
//! Every permit uses quota, regardless of the outcome of the call, so that guessing users costs as
//! much as logging them in. A call that the rules deny or whose message is not valid uses none,
//! because it does not reach the platform. A call that exceeds its user's quota has used one call
//! of its caller's quota.
//!
//! How a call gets its permit:
//!
//! ```
//! use std::time::Duration;
//!
//! use ott_gateway::{
//!     access::{Access, Policy, RuleSettings, Rules},
//!     base::clock,
//!     caller::Caller,
//!     domain::{
//!         call::{Call, Deadline, Method},
//!         ott::{Subject, SubjectKind, Users},
//!     },
//!     observe::telemetry::metrics::Metrics,
//! };
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut rule = RuleSettings::new(vec!["anonymous".to_owned()], Users::All);
//! rule.methods = Some(vec![Method::IssueOtt]);
//! let policy = Policy { rules: Rules::try_new(vec![rule])?, ..Policy::closed() };
//! let access = Access::new(policy, Metrics::new());
//!
//! let (policy, caller) = (access.policy().into_shared(), Caller::anonymous());
//! let call = Call::new(clock::now(), Deadline::after(Duration::from_secs(10)));
//! assert!(access.admits(policy.clone(), &call, &caller, Method::LoginWithOtt).is_err());
//!
//! let admission = access.admits(policy, &call, &caller, Method::IssueOtt)?;
//! let user = Subject::new(SubjectKind::Login, "anna@customer.example".to_owned())?;
//! let permit = access.permit_issue(admission, "eu2".into(), user)?;
//! assert_eq!(&**permit.api_client(), "eu2");
//! # Ok(())
//! # }
//! ```

use std::{fmt, ops::Deref, sync::Arc, time::Duration};

use arc_swap::{ArcSwap, Guard};
use serde_json::value::RawValue;

use crate::{
    caller::{BearerTokens, Caller, CallerPolicy, RequestedClaims},
    domain::{
        call::{Call, Method},
        ott::Subject,
    },
    observe::telemetry::{
        logging::LogThrottle,
        metrics::{AccessDenial, Metrics, QuotaBucket},
    },
};

mod answer;
mod claim_index;
mod fingerprint;
mod glob;
mod glob_index;
mod partial_decision;
mod pattern;
mod quota;
mod rate;
mod rehearsal;
mod replay;
mod rule_index;
mod rule_set;
mod rules;

pub use answer::{Answer, Candidate, Mismatch, RuleId, RuleInAnswer, Verdict};
pub use glob::{GlobToken, glob_tokens};
pub use partial_decision::{KnownClaims, KnownParts, KnownUser, PartialDecision, UnknownPart};
pub use pattern::is_possible_caller;
use quota::{CallerKey, Decision, Memory};
pub use quota::{Limit, MAX_BURST};
pub use rate::{InvalidRate, Rate};
use rehearsal::DifferenceLines;
pub use rehearsal::RefusedRehearsal;
pub use replay::{Allowance, RecordedCall, RecordedDecision, Refusal, Replay, ReplayedCalls};
use rule_set::RuleSet;
use rules::Rule;
pub use rules::{InvalidRules, Question, RuleSettings, Rules};

/// Minimum interval between warnings of one kind.
const WARNING_INTERVAL: Duration = Duration::from_secs(10);

/// Treatment of calls that exceed a quota. Rules have no dry run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quotas {
    /// The call is refused.
    Enforced,
    /// The call is counted, logged and accepted.
    DryRun,
}

/// Settings of access control (`[access]`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// `[[access.rules]]`, in the order of the file: at least one.
    pub rules: Vec<RuleSettings>,
    /// `[[access.candidate_rules]]`, in the order of the file: rules that are rehearsed and have no
    /// effect.
    pub candidate_rules: Vec<RuleSettings>,
    /// `quota_dry_run`: treatment of calls that exceed a quota.
    pub quotas: Quotas,
    /// `max_quota_users`: maximum number of users that quotas remember: this many of callers that
    /// rules name literally, and as many of all other callers; 262,144, from 1,024 to 16,777,216.
    pub max_quota_users: usize,
}

impl Settings {
    /// Returns settings with these rules and enforced quotas.
    #[must_use]
    pub const fn new(rules: Vec<RuleSettings>) -> Self {
        Self {
            rules,
            candidate_rules: Vec::new(),
            quotas: Quotas::Enforced,
            max_quota_users: quota::DEFAULT_MAX_USERS,
        }
    }

    /// Returns the callers that the rules name literally, in their order. Only these have metrics
    /// of their own.
    pub fn literal_callers(&self) -> impl Iterator<Item = &str> {
        let names = self.rules.iter().flat_map(|rule| rule.callers.iter().map(String::as_str));
        names.filter(|name| pattern::is_literal(name))
    }
}

/// The policy in force. Cheap to clone; a reload takes effect in all clones.
#[derive(Clone, Debug)]
pub struct Access(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    policy: ArcSwap<Policy>,
    metrics: Metrics,
    dry_run_warnings: LogThrottle,
    sharing_warnings: LogThrottle,
    difference_lines: DifferenceLines,
    memory: Memory,
}

/// One version of the state that a reload replaces.
#[derive(Debug)]
pub struct Policy {
    /// The rules.
    pub rules: Rules,
    /// The candidate rules, which are rehearsed; `None` if there are none.
    pub candidates: Option<Rules>,
    /// Treatment of calls that exceed a quota.
    pub quotas: Quotas,
    /// Maximum number of users that quotas remember: this many of callers that rules name
    /// literally, and as many of all other callers.
    pub max_quota_users: usize,
    /// The bearer tokens that identify callers.
    pub tokens: BearerTokens,
    /// The claims that the rules require. Others are not read from JWTs, and no rule can match them.
    pub claims: RequestedClaims,
}

/// The version of the policy that was in force when it was read. Reading it writes no memory that
/// another thread reads.
#[derive(Debug)]
pub struct PolicyInForce(Guard<Arc<Policy>>);

/// Proof that a caller may use a method, for some user and some API client. Keeps the version of
/// the rules that allowed it.
#[must_use = "an admission is only useful to request a permit"]
#[derive(Debug)]
pub struct Admission {
    policy: Arc<Policy>,
    caller: Caller,
    method: Method,
    /// The rules that allow the method to the caller.
    rules: RuleSet,
    /// The call, if there are candidate rules.
    rehearsed: Option<Call>,
}

/// Proof that a caller may have a token issued for this user by this API client.
#[must_use = "a permit has used the caller's quota"]
#[derive(Debug)]
pub struct IssuePermit {
    caller: Caller,
    api_client: Arc<str>,
    subject: Subject,
    claims: Option<Box<RawValue>>,
}

/// Proof that a caller may use a token with this API client. [`Access::check_account`] checks the
/// user once the platform has named the account.
#[must_use = "a permit has used the caller's quota"]
#[derive(Debug)]
pub struct LoginPermit {
    caller: Caller,
    api_client: Arc<str>,
    claims: Option<Box<RawValue>>,
    policy: Arc<Policy>,
    /// The rules that allow the login, for some user.
    rules: RuleSet,
    /// The call, if there are candidate rules.
    rehearsed: Option<Call>,
}

/// No rule allows a call. Contains the first part of the call that the closest rule does not allow,
/// for logs and records; the caller only receives that it is not allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no access rule allows this call: {}", self.0.as_str())]
pub struct Denied(AccessDenial);

/// Reason that a call gets no permit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// No rule allows the call.
    #[error(transparent)]
    NotAllowed(#[from] Denied),
    /// The call exceeds a quota.
    #[error("the quota {quota} of access rule {rule} is used up for {retry_after:?}")]
    QuotaExceeded {
        /// The exceeded quota.
        quota: ExceededQuota,
        /// The rate and burst of the quota.
        limit: Limit,
        /// The quota's rule. For operators.
        rule: RuleId,
        /// Time until such a call is within the quota.
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
    /// Returns a policy without rules and tokens, which allows no calls.
    #[must_use]
    pub fn closed() -> Self {
        Self {
            rules: Rules::none(),
            candidates: None,
            quotas: Quotas::Enforced,
            max_quota_users: quota::DEFAULT_MAX_USERS,
            tokens: BearerTokens::default(),
            claims: RequestedClaims::default(),
        }
    }

    /// Returns the part that identifies callers.
    #[must_use]
    pub const fn for_callers(&self) -> CallerPolicy<'_> {
        CallerPolicy { tokens: &self.tokens, claims: &self.claims }
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
    /// Creates access control with a policy.
    #[must_use]
    pub fn new(policy: Policy, metrics: Metrics) -> Self {
        metrics.set_candidate_rules(policy.candidates.is_some());
        Self(Arc::new(Inner {
            memory: Memory::new(policy.max_quota_users, &metrics),
            policy: ArcSwap::from_pointee(policy),
            metrics,
            dry_run_warnings: LogThrottle::every(WARNING_INTERVAL),
            sharing_warnings: LogThrottle::every(WARNING_INTERVAL),
            difference_lines: DifferenceLines::default(),
        }))
    }

    /// Creates access control that allows nothing.
    #[must_use]
    pub fn closed(metrics: Metrics) -> Self {
        Self::new(Policy::closed(), metrics)
    }

    /// Returns the policy in force. A call reads it once and uses it until its end, so that no call
    /// is decided by two versions.
    #[must_use]
    pub fn policy(&self) -> PolicyInForce {
        PolicyInForce(self.0.policy.load())
    }

    /// Replaces the policy as a whole. An unchanged rule keeps the state of its quotas. Calls that
    /// have already read the policy are decided by the old one.
    pub fn replace(&self, mut policy: Policy) {
        let earlier = self.0.policy.load();
        policy.rules.inherit(&earlier.rules);
        policy.claims.inherit(&earlier.claims);
        self.0.memory.set_max_users(policy.max_quota_users);
        let has_candidates = policy.candidates.is_some();
        if has_candidates {
            // Before any call can count a difference.
            self.0.metrics.set_candidate_rules(true);
        }
        self.0.policy.store(Arc::new(policy));
        if !has_candidates {
            self.0.metrics.set_candidate_rules(false);
        }
    }

    /// Refills every quota, except for buckets that several callers share. For the reset of a
    /// sandbox.
    #[cfg(feature = "sandbox")]
    pub fn refill_quotas(&self) {
        // Every bucket is full again at that time.
        self.policy().rules.forget_full(u64::MAX);
    }

    /// Admits the caller of a call to a method. Called before the message is read; takes nothing from
    /// any quota. A denied call is [rehearsed](Self::rehearse_refusal) separately.
    pub fn admits(
        &self,
        policy: Arc<Policy>,
        call: &Call,
        caller: &Caller,
        method: Method,
    ) -> Result<Admission, Denied> {
        let admitting = policy.rules.admitting(caller.principal(), method);
        let rules = admitting.map_err(|mismatch| self.denied(mismatch))?;
        let rehearsed = policy.candidates.is_some().then(|| call.clone());
        Ok(Admission { policy, caller: caller.clone(), method, rules, rehearsed })
    }

    /// Returns the maximum number of calls in flight of a caller, from the first rule that names
    /// it. For requests that are not methods of the rules. `None` if the rule does not set it.
    #[must_use]
    pub fn max_in_flight(&self, policy: &Policy, caller: &Caller) -> Option<usize> {
        policy.rules.first_for(caller.principal())?.max_in_flight()
    }

    /// Checks that any rule allows an admitted caller an API client of this name, regardless of the
    /// user. Takes nothing from any quota.
    pub fn admits_api_client(&self, admission: &Admission, api_client: &str) -> Result<(), Denied> {
        let allowing = self.allowing(admission, admission.method, api_client, None);
        // A call for an API client that does not exist fails under all rules.
        if allowing.is_err()
            && let Some(call) = &admission.rehearsed
            && call.api_client().is_some()
        {
            let user = call.subject().map_or(KnownUser::Unknown, KnownUser::Named);
            self.rehearse_admitted(admission, api_client, user, false);
        }
        allowing.map(|_| ())
    }

    /// Permits an admitted caller to have a token issued, and takes from the quotas.
    pub fn permit_issue(
        &self,
        admission: Admission,
        api_client: Arc<str>,
        subject: Subject,
    ) -> Result<IssuePermit, Refused> {
        let allowing = self.allowing(&admission, Method::IssueOtt, &api_client, Some(&subject));
        let user = KnownUser::Named(&subject);
        let rules = allowing.inspect_err(|_| self.rehearse_admitted(&admission, &api_client, user, false))?;
        self.take(&rules, &admission, Some(&subject))?;
        self.rehearse_admitted(&admission, &api_client, user, true);
        let claims = admission.deciding_claims(&rules);
        Ok(IssuePermit { caller: admission.caller, api_client, subject, claims })
    }

    /// Permits an admitted caller to use a token, and takes from the quota. The token's user is not
    /// known yet: check the account afterwards with [`check_account`](Self::check_account).
    pub fn permit_login(&self, admission: Admission, api_client: Arc<str>) -> Result<LoginPermit, Refused> {
        let allowing = self.allowing(&admission, Method::LoginWithOtt, &api_client, None);
        let rules = allowing.inspect_err(|_| {
            self.rehearse_admitted(&admission, &api_client, KnownUser::Unknown, false);
        })?;
        self.take(&rules, &admission, None)?;
        let claims = admission.deciding_claims(&rules);
        let Admission { policy, caller, rehearsed, .. } = admission;
        Ok(LoginPermit { caller, api_client, claims, policy, rules, rehearsed })
    }

    /// Checks that a rule allows the caller to log in an account with any of these names. `names`
    /// is only called if the first rule that allows the call lists its users, or if there are
    /// candidate rules. Returns the claims of the first rule that allows the account, for the audit
    /// record.
    ///
    /// # Errors
    ///
    /// No rule allows it. The session must not be returned to the caller.
    pub fn check_account(
        &self,
        permit: &LoginPermit,
        names: impl FnOnce() -> Vec<Subject>,
    ) -> Result<Option<Box<RawValue>>, Denied> {
        let Some(call) = &permit.rehearsed else { return self.account_decision(permit, names) };
        let names = names();
        let known = KnownParts {
            caller: permit.caller.name(),
            claims: KnownClaims::All(permit.caller.principal().claims),
            method: Method::LoginWithOtt,
            api_client: Some(&permit.api_client),
            user: KnownUser::Account(&names),
        };
        let decision = self.account_decision(permit, || names.clone());
        self.rehearse(&permit.policy, call, &known, decision.is_ok());
        decision
    }

    fn account_decision(
        &self,
        permit: &LoginPermit,
        names: impl FnOnce() -> Vec<Subject>,
    ) -> Result<Option<Box<RawValue>>, Denied> {
        let rules = &permit.policy.rules;
        let allowing = rules.for_account(&permit.rules, names);
        if allowing.first().is_none() {
            return Err(self.denied(AccessDenial::User));
        }
        Ok(rules.deciding_claims(&allowing, permit.caller.principal().claims))
    }

    /// Compares the decision on an admitted call with that of the candidate rules, if there are any.
    fn rehearse_admitted(
        &self,
        admission: &Admission,
        api_client: &str,
        user: KnownUser<'_>,
        is_allowed: bool,
    ) {
        let Some(call) = &admission.rehearsed else { return };
        let known = KnownParts {
            caller: admission.caller.name(),
            claims: KnownClaims::All(admission.caller.principal().claims),
            method: admission.method,
            api_client: Some(api_client),
            user,
        };
        self.rehearse(&admission.policy, call, &known, is_allowed);
    }

    /// Checks that any rule names the caller, who has its claims, regardless of what the rule allows. Sufficient for
    pub fn mentions(&self, policy: &Policy, caller: &Caller) -> Result<(), Denied> {
        policy.rules.mentions(caller.principal()).map_err(|mismatch| self.denied(mismatch))
    }

    /// Returns the rules that allow the call. An admission for one method is not valid for the
    /// other.
    fn allowing(
        &self,
        admission: &Admission,
        method: Method,
        api_client: &str,
        user: Option<&Subject>,
    ) -> Result<RuleSet, Denied> {
        if admission.method != method {
            return Err(self.denied(AccessDenial::Method));
        }
        let allowing = admission.policy.rules.allowing(&admission.rules, api_client, user);
        allowing.map_err(|mismatch| self.denied(mismatch))
    }

    fn denied(&self, reason: AccessDenial) -> Denied {
        self.0.metrics.access_denied(reason);
        Denied(reason)
    }

    /// Takes from the quotas of the deciding rule, which is the first one.
    fn take(&self, allowing: &RuleSet, admission: &Admission, user: Option<&Subject>) -> Result<(), Refused> {
        let (memory, rules) = (&self.0.memory, &admission.policy.rules);
        let Some((position, rule)) = rules.deciding(allowing) else {
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
        let exceeded = |quota, limit, retry_after| Refused::QuotaExceeded {
            quota,
            limit,
            rule: rules.id(position),
            retry_after,
        };
        self.obey(decision, ExceededQuota::Caller, admission)
            .map_err(|wait| exceeded(ExceededQuota::Caller, rule.per_caller.limit(), wait))?;
        if let Some(user) = user {
            let decision = rule.per_user.take(caller, &user.quota_key(), memory, now, make_room);
            self.obey(decision, ExceededQuota::User, admission)
                .map_err(|wait| exceeded(ExceededQuota::User, rule.per_user.limit(), wait))?;
        }
        Ok(())
    }

    /// Applies a decision. The error is the time that the caller has to wait.
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
                if let Some(suppressed) = self.0.dry_run_warnings.due() {
                    tracing::warn!(
                        caller.name = %name,
                        quota = quota.as_str(),
                        log.suppressed = suppressed,
                        "quota exceeded, accepting the call in dry run"
                    );
                }
                Ok(())
            }
        }
    }
}

impl Admission {
    /// Returns the admitted caller.
    #[must_use]
    pub const fn caller(&self) -> &Caller {
        &self.caller
    }

    /// Returns the maximum number of calls in flight of the caller, if the first admitting rule
    /// sets it.
    #[must_use]
    pub fn max_in_flight(&self) -> Option<usize> {
        self.policy.rules.first(&self.rules).and_then(Rule::max_in_flight)
    }

    /// Returns the claims of the first of these rules, for the audit record.
    fn deciding_claims(&self, rules: &RuleSet) -> Option<Box<RawValue>> {
        self.policy.rules.deciding_claims(rules, self.caller.principal().claims)
    }
}

impl IssuePermit {
    /// Returns the caller.
    #[must_use]
    pub const fn caller(&self) -> &Caller {
        &self.caller
    }

    /// Returns the API client to use.
    #[must_use]
    pub const fn api_client(&self) -> &Arc<str> {
        &self.api_client
    }

    /// Takes the claims that the deciding rule requires, for the audit record.
    pub fn take_claims(&mut self) -> Option<Box<RawValue>> {
        self.claims.take()
    }

    /// Returns the user of the token.
    #[must_use]
    pub const fn subject(&self) -> &Subject {
        &self.subject
    }

    /// Creates a permit without a check, for tests of later stages.
    #[cfg(test)]
    pub(crate) fn for_test(api_client: &str, subject: Subject) -> Self {
        Self { caller: Caller::anonymous(), api_client: Arc::from(api_client), subject, claims: None }
    }
}

impl LoginPermit {
    /// Returns the caller.
    #[must_use]
    pub const fn caller(&self) -> &Caller {
        &self.caller
    }

    /// Returns the API client to use.
    #[must_use]
    pub const fn api_client(&self) -> &Arc<str> {
        &self.api_client
    }

    /// Takes the claims that the deciding rule requires, for the audit record.
    pub fn take_claims(&mut self) -> Option<Box<RawValue>> {
        self.claims.take()
    }

    /// Creates a permit without a check, for tests of later stages.
    #[cfg(test)]
    pub(crate) fn for_test(api_client: &str) -> Self {
        let policy = Arc::new(Policy::closed());
        let rules = RuleSet::none(0);
        let (caller, api_client) = (Caller::anonymous(), Arc::from(api_client));
        Self { caller, api_client, claims: None, policy, rules, rehearsed: None }
    }
}

impl Denied {
    /// Returns whether a rule is for the caller, who has its claims, although none allows the call.
    #[must_use]
    pub const fn names_caller(&self) -> bool {
        !matches!(self.0, AccessDenial::Caller | AccessDenial::Claims)
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

    /// Returns the label for `QuotaFailure`, logs and records.
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

#[cfg(test)]
mod tests;
