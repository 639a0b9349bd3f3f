//! The answer of a set of rules to a question, for people and for tests of the rules.
//!
//! [`Answer`] contains the decision that calls get: both come from [`Rules::decide`], and the
//! verdict of each rule from the same index. [`Rules::who`] reverses the question and returns the
//! callers. Neither takes from any quota. Layout and wording for a command belong to the command.

use std::{fmt, sync::Arc};

use super::{
    pattern,
    quota::Limit,
    rule_set::RuleSet,
    rules::{Question, Rule, RuleSettings, Rules},
    token_use::TokenUse,
};
use crate::{
    caller::{ANONYMOUS, ClaimPath, ClaimRequirement},
    domain::{
        call::Method,
        ott::{Subject, SubjectKind, Users},
    },
    observe::telemetry::metrics::AccessDenial,
};

/// A rule, for people. Displayed as its number, and its name if it has one: `2 (billing)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleId {
    /// The number of the rule in the file, from 1.
    pub number: usize,
    /// `name` of the rule.
    pub name: Option<Arc<str>>,
}

/// A rule with its limits, as part of an answer.
#[derive(Clone, Debug)]
pub struct RuleInAnswer<'a> {
    /// Number and name.
    pub id: RuleId,
    /// The rule as configured.
    pub settings: &'a RuleSettings,
    /// The quota on all calls of one caller.
    pub per_caller: Limit,
    /// The quota on the calls of one caller for one user.
    pub per_user: Limit,
}

/// What a rule contributes to a decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The rule is the first one that allows the call.
    Decides,
    /// The rule would allow the call, but an earlier rule decides.
    DecidedEarlier,
    /// The rule does not apply.
    Mismatch(Mismatch),
}

/// The first part of a call that a rule does not apply to, in the order in which parts are checked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch {
    /// The rule names other callers.
    #[error("is for other callers")]
    Caller,
    /// The caller is `anonymous`, and the rule does not name it.
    #[error("is not for anonymous callers: it does not name `anonymous`, and no glob matches it")]
    Anonymous,
    /// The caller has no accepted value of a claim.
    #[error("is not for a caller without an accepted value of the claim \"{0}\"")]
    Claim(ClaimPath),
    /// The rule is for the other method.
    #[error("is not for {}", .0.name())]
    Method(Method),
    /// The rule names other API clients.
    #[error("is for other API clients")]
    ApiClient,
    /// The rule is only for sealed tokens, and the token is not sealed.
    #[error("is only for sealed tokens issued to the callers in its `issued_by`")]
    NotSealed,
    /// The token was issued to another caller.
    #[error("is for tokens issued to other callers")]
    Issuer,
    /// The rule does not allow login URLs.
    #[error("does not allow login URLs")]
    LoginUrl,
    /// The rule lists other users.
    #[error("is for other users, none of them with this {}", .0.field())]
    User(SubjectKind),
}

/// The decision of a set of rules on a question, with the verdict of each rule.
#[derive(Debug)]
pub struct Answer<'a> {
    rules: &'a Rules,
    question: Question<'a>,
    decision: Result<RuleSet, AccessDenial>,
    /// The rule whose quotas a call takes from.
    charged: Option<usize>,
}

/// A rule that allows a method, an API client and a user to some callers.
#[derive(Clone, Debug)]
pub struct Candidate<'a> {
    /// The rule.
    pub rule: RuleInAnswer<'a>,
    /// The first earlier rule of the answer whose patterns match all callers of this rule. `None`
    /// also if only several earlier rules together do.
    pub covered_by: Option<RuleId>,
}

impl fmt::Display for RuleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => write!(f, "{} ({name})", self.number),
            None => self.number.fmt(f),
        }
    }
}

impl RuleInAnswer<'_> {
    /// Returns whether a login by this rule also depends on the account in the platform's response.
    #[must_use]
    pub fn lists_users(&self) -> bool {
        self.settings.users != Users::All
    }
}

impl Mismatch {
    /// Returns the part of the call, as in the denial of a call.
    #[must_use]
    pub const fn part(&self) -> AccessDenial {
        match self {
            Self::Caller | Self::Anonymous => AccessDenial::Caller,
            Self::Claim(_) => AccessDenial::Claims,
            Self::Method(_) => AccessDenial::Method,
            Self::ApiClient => AccessDenial::ApiClient,
            Self::NotSealed | Self::Issuer => AccessDenial::Issuer,
            Self::LoginUrl => AccessDenial::LoginUrl,
            Self::User(_) => AccessDenial::User,
        }
    }
}

impl Rules {
    /// Answers a question. For a login with a user and a token that is not sealed, the answer is
    /// whether the caller receives the session of an account with only this name.
    #[must_use]
    pub fn answer<'a>(&'a self, question: Question<'a>) -> Answer<'a> {
        let decision = self.decide(question);
        let charged = match question.token_use {
            // The user is checked after the quota.
            TokenUse::Login { issued_by: None } => {
                self.decide(Question { user: None, ..question }).ok().as_ref().and_then(RuleSet::first)
            }
            TokenUse::Issue { .. } | TokenUse::Login { issued_by: Some(_) } => {
                decision.as_ref().ok().and_then(RuleSet::first)
            }
        };
        Answer { rules: self, question, decision, charged }
    }

    /// Returns the rules that allow the use of a token, the API client and the user to some callers,
    /// in their order. For a login without a user: to some users. Without an issuer or a login URL:
    /// for any token, and with a login URL or not.
    #[must_use]
    pub fn who(
        &self,
        token_use: TokenUse<'_>,
        api_client: &str,
        user: Option<&Subject>,
    ) -> Vec<Candidate<'_>> {
        let mut rules = self.index.for_method(token_use.method()).clone();
        rules.retain(&self.index.for_api_client(api_client));
        let is_any = token_use == TokenUse::plain(token_use.method());
        if let Some(of_token) = self.index.for_token_use(token_use).filter(|_| !is_any) {
            rules.retain(&of_token);
        }
        if let Some(user) = user {
            rules.retain(&self.index.for_user(user));
        }
        let mut candidates: Vec<Candidate<'_>> = Vec::new();
        for (position, rule) in
            self.in_order.iter().enumerate().filter(|(position, _)| rules.contains(*position))
        {
            let covers = |earlier: &&Candidate<'_>| {
                let (outer, inner) = (earlier.rule.settings, &rule.settings);
                covers(outer, inner) && (!is_any || covers_token_uses(outer, inner, token_use.method()))
            };
            let covering = candidates.iter().find(covers);
            let covered_by = covering.map(|earlier| earlier.rule.id.clone());
            candidates.push(Candidate { rule: rule.in_answer(position), covered_by });
        }
        candidates
    }

    /// Returns number and name of the rule at a position.
    pub(super) fn id(&self, position: usize) -> RuleId {
        let name = self.in_order.get(position).and_then(|rule| rule.settings.name.clone());
        RuleId { number: position + 1, name }
    }
}

impl Rule {
    fn in_answer(&self, position: usize) -> RuleInAnswer<'_> {
        RuleInAnswer {
            id: RuleId { number: position + 1, name: self.settings.name.clone() },
            settings: &self.settings,
            per_caller: self.per_caller.limit(),
            per_user: self.per_user.limit(),
        }
    }
}

impl<'a> Answer<'a> {
    /// Returns whether the call is allowed.
    #[must_use]
    pub const fn is_allowed(&self) -> bool {
        self.decision.is_ok()
    }

    /// Returns the rule that decides: the first one that allows the call. `None` if the call is
    /// denied.
    #[must_use]
    pub fn deciding(&self) -> Option<RuleId> {
        Some(self.rules.id(self.decision.as_ref().ok()?.first()?))
    }

    /// Returns the first part of the call that no rule allows, or `None` if it is allowed.
    #[must_use]
    pub fn denial(&self) -> Option<AccessDenial> {
        self.decision.as_ref().err().copied()
    }

    /// Returns the rule whose quotas the call takes from. For a login with a token that is not sealed,
    /// this is the first rule that allows it for some user, because the user is checked later; the
    /// login may still be denied.
    #[must_use]
    pub fn charged(&self) -> Option<RuleId> {
        self.charged.map(|position| self.rules.id(position))
    }

    /// Returns the verdict of each rule, in the order of the rules.
    pub fn verdicts(&self) -> impl Iterator<Item = (RuleInAnswer<'a>, Verdict)> {
        let Question { caller, token_use, api_client, user } = self.question;
        let method = token_use.method();
        let index = &self.rules.index;
        let (of_caller, of_method) = (index.for_caller(caller.name), index.for_method(method));
        let of_api_client = index.for_api_client(api_client);
        let of_token = index.for_token_use(token_use);
        let of_user = user.map(|user| (user.kind(), index.for_user(user)));
        let mut of_claims = of_caller.clone();
        self.rules.claims.narrow(&mut of_claims, caller.claims);
        let mismatch = move |position: usize, rule: &RuleSettings| {
            let is_missing = |required: &&ClaimRequirement| caller.claims.find(required).is_none();
            if !of_caller.contains(position) {
                Some(if caller.name == ANONYMOUS { Mismatch::Anonymous } else { Mismatch::Caller })
            } else if !of_claims.contains(position) {
                // The index and the rule agree; without a missing claim, the first one is reported.
                let missing = rule.claims.iter().find(is_missing).or_else(|| rule.claims.first())?;
                Some(Mismatch::Claim(missing.path.clone()))
            } else if !of_method.contains(position) {
                Some(Mismatch::Method(method))
            } else if !of_api_client.contains(position) {
                Some(Mismatch::ApiClient)
            } else if of_token.as_ref().is_some_and(|rules| !rules.contains(position)) {
                Some(match token_use {
                    TokenUse::Issue { .. } => Mismatch::LoginUrl,
                    TokenUse::Login { issued_by: None } => Mismatch::NotSealed,
                    TokenUse::Login { issued_by: Some(_) } => Mismatch::Issuer,
                })
            } else {
                let (kind, of_user) = of_user.as_ref()?;
                (!of_user.contains(position)).then_some(Mismatch::User(*kind))
            }
        };
        let deciding = self.decision.as_ref().ok().and_then(RuleSet::first);
        self.rules.in_order.iter().enumerate().map(move |(position, rule)| {
            let verdict = match mismatch(position, &rule.settings) {
                Some(mismatch) => Verdict::Mismatch(mismatch),
                None if deciding == Some(position) => Verdict::Decides,
                None => Verdict::DecidedEarlier,
            };
            (rule.in_answer(position), verdict)
        })
    }

    /// Returns the rule that came closest to allowing a denied call, and its mismatch: the first
    /// one with the last mismatch.
    #[must_use]
    pub fn closest(&self) -> Option<(RuleId, Mismatch)> {
        let mut closest: Option<(RuleId, Mismatch)> = None;
        for (rule, verdict) in self.verdicts() {
            let Verdict::Mismatch(mismatch) = verdict else { continue };
            if closest.as_ref().is_none_or(|(_, best)| best.part() < mismatch.part()) {
                closest = Some((rule.id, mismatch));
            }
        }
        closest
    }
}

/// Returns whether each caller of a rule is certainly also one of the outer rule.
fn covers(outer: &RuleSettings, inner: &RuleSettings) -> bool {
    let implies = |required: &ClaimRequirement| {
        let own = inner.claims.iter().find(|own| own.path == required.path);
        own.is_some_and(|own| own.values.iter().all(|value| required.values.contains(value)))
    };
    let has_caller = |caller: &String| outer.callers.iter().any(|glob| pattern::covers(glob, caller));
    inner.callers.iter().all(has_caller) && outer.claims.iter().all(implies)
}

/// Returns whether each use of a token by a method that a rule allows is certainly also allowed by the
/// outer rule.
fn covers_token_uses(outer: &RuleSettings, inner: &RuleSettings, method: Method) -> bool {
    match (method, &outer.issued_by, &inner.issued_by) {
        (Method::IssueOtt, ..) => outer.login_urls || !inner.login_urls,
        (Method::LoginWithOtt, None, _) => true,
        (Method::LoginWithOtt, Some(_), None) => false,
        (Method::LoginWithOtt, Some(outer), Some(inner)) => {
            inner.iter().all(|entry| outer.iter().any(|glob| pattern::covers(glob, entry)))
        }
    }
}

#[cfg(test)]
mod tests;
