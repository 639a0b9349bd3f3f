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
//! let permit = access.permit_issue(admission, "eu2".into(), user, false)?;
//! assert_eq!(&**permit.api_client(), "eu2");
//! # Ok(())
//! # }
//! ```

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use serde_json::value::RawValue;

use crate::{
    caller::Caller,
    domain::{
        call::{Call, Method},
        ott::Subject,
    },
    observe::telemetry::{
        logging::LogThrottle,
        metrics::{AccessDenial, Metrics},
    },
};

mod answer;
mod claim_index;
mod fingerprint;
mod glob;
mod glob_index;
mod partial_decision;
mod pattern;
mod permit;
mod policy;
mod quota;
mod rate;
mod rehearsal;
mod replay;
mod rule_index;
mod rule_set;
mod rules;
mod token_use;

pub use answer::{Answer, Candidate, Mismatch, RuleId, RuleInAnswer, Verdict};
pub use glob::{GlobToken, glob_tokens};
pub use partial_decision::{KnownClaims, KnownIssuer, KnownParts, KnownUser, PartialDecision, UnknownPart};
pub use pattern::is_possible_caller;
pub use permit::{Admission, Denied, ExceededQuota, IssuePermit, LoginPermit, Refused};
pub use policy::{Policy, PolicyInForce, Quotas, Settings};
use quota::{CallerKey, Decision, Memory};
pub use quota::{Limit, MAX_BURST};
pub use rate::{InvalidRate, Rate};
use rehearsal::DifferenceLines;
pub use rehearsal::RefusedRehearsal;
pub use replay::{
    Allowance, DecidedBy, NamedRules, RecordedCall, RecordedDecision, RecordedIssuer, Refusal, Replay,
    ReplayedCalls, ReplayedDecisions,
};
use rule_set::RuleSet;
pub use rules::{InvalidRules, Question, RuleSettings, Rules};
pub use token_use::TokenUse;

/// Minimum interval between warnings of one kind.
const WARNING_INTERVAL: Duration = Duration::from_secs(10);

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
    /// other parts of the call. Takes nothing from any quota.
    pub fn admits_api_client(&self, admission: &Admission, api_client: &str) -> Result<(), Denied> {
        let allowing = admission.policy.rules.for_api_client(&admission.rules, api_client);
        let allowing = allowing.map_err(|mismatch| self.denied(mismatch));
        // A call for an API client that does not exist fails under all rules.
        if allowing.is_err()
            && let Some(call) = &admission.rehearsed
            && call.api_client().is_some()
        {
            let user = call.subject().map_or(KnownUser::Unknown, KnownUser::Named);
            let known = KnownParts { user, login_url: call.login_url(), ..admission.known(api_client) };
            self.rehearse(&admission.policy, call, &known, false);
        }
        allowing.map(|_| ())
    }

    /// Permits an admitted caller to have a token issued, as part of a login URL or not, and takes from
    /// the quotas.
    pub fn permit_issue(
        &self,
        admission: Admission,
        api_client: Arc<str>,
        subject: Subject,
        login_url: bool,
    ) -> Result<IssuePermit, Refused> {
        let token_use = TokenUse::Issue { login_url };
        let user = KnownUser::Named(&subject);
        let known = KnownParts { user, login_url: Some(login_url), ..admission.known(&api_client) };
        let allowing = self.allowing(&admission, token_use, &api_client, Some(&subject));
        let rules = allowing.inspect_err(|_| self.rehearse_admitted(&admission, &known, false))?;
        self.take(&rules, &admission, Some(&subject))?;
        self.rehearse_admitted(&admission, &known, true);
        let claims = admission.deciding_claims(&rules);
        Ok(IssuePermit { caller: admission.caller, api_client, subject, claims })
    }

    /// Permits an admitted caller to use a token that is not sealed, and takes from the quota. Only rules without `issued_by` allow it. The token's user is not known yet:
    /// check the account afterwards with [`check_account`](Self::check_account).
    pub fn permit_login(&self, admission: Admission, api_client: Arc<str>) -> Result<LoginPermit, Refused> {
        self.login_permit(admission, api_client, None)
    }

    /// Permits an admitted caller to spend a sealed token of this user that was issued to the caller
    /// `issued_by`, and takes from the quota. The decision is final.
    pub fn permit_sealed_login(
        &self,
        admission: Admission,
        api_client: Arc<str>,
        user: &Subject,
        issued_by: &str,
    ) -> Result<LoginPermit, Refused> {
        self.login_permit(admission, api_client, Some((user, issued_by)))
    }

    /// Takes from the quota of an admitted caller for a token that the gateway refuses itself. Returns
    /// the claims of the deciding rule, for the audit record.
    ///
    /// The token's user and issuer are not checked, even if they are known: otherwise the answer would
    /// depend on what is wrong with the token. The quota is that of a token that is not sealed, or that
    /// of the first rule if all rules have `issued_by`. Without an API client, any will do.
    ///
    /// # Errors
    ///
    /// No rule allows the caller a login with this API client, or the quota is used up.
    pub fn charge_refused_token(
        &self,
        admission: &Admission,
        api_client: Option<&str>,
    ) -> Result<Option<Box<RawValue>>, Refused> {
        if admission.method != Method::LoginWithOtt {
            return Err(self.denied(AccessDenial::Method).into());
        }
        let rules = &admission.policy.rules;
        let allowing = match api_client {
            Some(name) => rules.for_api_client(&admission.rules, name),
            None => Ok(admission.rules.clone()),
        };
        let allowing = allowing.map_err(|mismatch| self.denied(mismatch)).inspect_err(|_| {
            self.rehearse_admitted(admission, &admission.known(api_client.unwrap_or_default()), false);
        })?;
        let not_sealed = rules.for_token_that_is_not_sealed(&allowing);
        let rules = not_sealed.as_ref().unwrap_or(&allowing);
        self.take(rules, admission, None)?;
        Ok(admission.deciding_claims(rules))
    }

    /// `sealed` contains the user and the issuer of a sealed token.
    fn login_permit(
        &self,
        admission: Admission,
        api_client: Arc<str>,
        sealed: Option<(&Subject, &str)>,
    ) -> Result<LoginPermit, Refused> {
        let (user, issued_by) = sealed.unzip();
        let known = KnownParts {
            issuer: issued_by.map_or(KnownIssuer::NotSealed, KnownIssuer::Named),
            user: user.map_or(KnownUser::Unknown, KnownUser::Named),
            ..admission.known(&api_client)
        };
        let allowing = self.allowing(&admission, TokenUse::Login { issued_by }, &api_client, user);
        let rules = allowing.inspect_err(|_| self.rehearse_admitted(&admission, &known, false))?;
        self.take(&rules, &admission, None)?;
        if sealed.is_some() {
            self.rehearse_admitted(&admission, &known, true);
        }
        let claims = admission.deciding_claims(&rules);
        let Admission { policy, caller, rehearsed, .. } = admission;
        // The decision on any other token is compared once its account is known.
        let rehearsed = rehearsed.filter(|_| sealed.is_none());
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
            issuer: KnownIssuer::NotSealed,
            login_url: None,
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
    fn rehearse_admitted(&self, admission: &Admission, known: &KnownParts<'_>, is_allowed: bool) {
        if let Some(call) = &admission.rehearsed {
            self.rehearse(&admission.policy, call, known, is_allowed);
        }
    }

    /// Checks that any rule names the caller, who has its claims, regardless of what the rule
    /// allows. Sufficient for access to reflection.
    pub fn mentions(&self, policy: &Policy, caller: &Caller) -> Result<(), Denied> {
        policy.rules.mentions(caller.principal()).map_err(|mismatch| self.denied(mismatch))
    }

    /// Returns the rules that allow the call. An admission for one method is not valid for the
    /// other.
    fn allowing(
        &self,
        admission: &Admission,
        token_use: TokenUse<'_>,
        api_client: &str,
        user: Option<&Subject>,
    ) -> Result<RuleSet, Denied> {
        if admission.method != token_use.method() {
            return Err(self.denied(AccessDenial::Method));
        }
        let rules = &admission.policy.rules;
        let allowing = rules.allowing(&admission.rules, token_use, api_client, user);
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

#[cfg(test)]
mod tests;
