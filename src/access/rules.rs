//! Access rules: the methods, users, API clients and quotas of callers.
//!
//! A set of rules is immutable; `access` replaces it and takes from its quotas. An index finds the
//! rules that apply to each part of a call, so that a call costs about the same with any number of
//! rules.

use std::{
    collections::{BTreeSet, HashSet},
    num::NonZeroU32,
    sync::Arc,
};

use serde_json::value::RawValue;

use super::{
    claim_index::ClaimIndex,
    pattern::{is_literal, is_possible_caller},
    quota::{CallerQuota, MAX_BURST, Nanos, UserQuota},
    rate::Rate,
    rule_index::RuleIndex,
    rule_set::RuleSet,
    token_use::TokenUse,
};
use crate::{
    caller::{ClaimPath, ClaimRequirement, Claims, MAX_REQUESTED_CLAIMS, Principal},
    domain::{
        call::Method,
        ott::{Subject, Users},
    },
    observe::telemetry::metrics::AccessDenial,
};

/// Default quotas of a rule, as documented in `docs/configuration.md`.
const DEFAULT_RATE: Rate = Rate::per_second(at_least_one(50));
const DEFAULT_BURST: NonZeroU32 = at_least_one(100);
const DEFAULT_USER_RATE: Rate = Rate::per_minute(at_least_one(30));
const DEFAULT_USER_BURST: NonZeroU32 = at_least_one(10);

/// One rule as configured (`[[access.rules]]`). In globs, `*` matches any run of characters and `?`
/// one character.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleSettings {
    /// `name`: for people; unique among the rules.
    pub name: Option<Arc<str>>,
    /// `callers`: globs on callers' names, at least one. `["*"]` is every identified caller.
    /// `anonymous` must be named literally; no glob matches it.
    pub callers: Vec<String>,
    /// `claims`: required claims of the caller's JWT, each of another path. If there are any, the
    /// rule is only for callers that are identified by a JWT.
    pub claims: Vec<ClaimRequirement>,
    /// `methods`: by their names in the contract. `None` means all.
    pub methods: Option<Vec<Method>>,
    /// `api_clients`: globs on the names of API clients. `None` means all.
    pub api_clients: Option<Vec<String>>,
    /// `issued_by`: globs on the names of callers, at least one. `LoginWithOtt` is only allowed with
    /// a sealed token that was issued to such a caller. `None` means any token, sealed or not.
    pub issued_by: Option<Vec<String>>,
    /// `login_urls`: whether `IssueOtt` is also allowed with a `target_uri`; true.
    pub login_urls: bool,
    /// `users`, or `logins`, `external_ids` and `user_ids`. There is no default, so that omitting a
    /// key never allows all users.
    pub users: Users,
    /// `rate`: rate of calls per caller; 50 per second. All `anonymous` callers count as one.
    pub rate: Rate,
    /// `burst`: burst of calls per caller; 100, from 1 to 1,000,000.
    pub burst: NonZeroU32,
    /// `user_rate`: rate of calls per caller and user; 30 per minute.
    pub user_rate: Rate,
    /// `user_burst`: burst of calls per caller and user; 10, from 1 to 1,000,000.
    pub user_burst: NonZeroU32,
    /// `max_in_flight`: maximum number of calls of one caller in flight, from 1 to 1,000,000.
    /// `None` means half of the server's.
    pub max_in_flight: Option<NonZeroU32>,
}

impl RuleSettings {
    /// Returns a rule for all methods and API clients, with the default quotas.
    #[must_use]
    pub const fn new(callers: Vec<String>, users: Users) -> Self {
        Self {
            name: None,
            callers,
            claims: Vec::new(),
            methods: None,
            api_clients: None,
            issued_by: None,
            login_urls: true,
            users,
            rate: DEFAULT_RATE,
            burst: DEFAULT_BURST,
            user_rate: DEFAULT_USER_RATE,
            user_burst: DEFAULT_USER_BURST,
            max_in_flight: None,
        }
    }
}

/// Reason that rules cannot be used. Rules are numbered from 1.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRules {
    /// There are no rules.
    #[error("add an [[access.rules]] table; the gateway does not start without rules")]
    NoRules,
    /// A list is empty, so that the rule could never apply.
    #[error("access rule {rule}: `{list}` must not be empty")]
    EmptyList {
        /// The number of the rule.
        rule: usize,
        /// The name of the list.
        list: &'static str,
    },
    /// A list has an empty entry.
    #[error("access rule {rule}: `{list}` has an empty entry")]
    EmptyEntry {
        /// The number of the rule.
        rule: usize,
        /// The name of the list.
        list: &'static str,
    },
    /// An entry of `callers` or `issued_by` matches no name that a caller can have.
    #[error(
        "access rule {rule}: no caller can be called `{entry}`: names begin with spiffe://, dns:, jwt: or token:, \
         or are `anonymous`"
    )]
    ImpossibleCaller {
        /// The number of the rule.
        rule: usize,
        /// The entry.
        entry: String,
    },
    /// A burst is out of bounds.
    #[error("access rule {rule}: `{key}` must be between 1 and 1000000")]
    Burst {
        /// The number of the rule.
        rule: usize,
        /// The name of the key.
        key: &'static str,
    },
    /// The rules require too many different claims.
    #[error("the access rules must not require more than {MAX_REQUESTED_CLAIMS} different claims in total")]
    TooManyClaims,
}

/// A valid set of rules, with the state of their quotas.
#[derive(Debug)]
pub struct Rules {
    pub(super) in_order: Vec<Rule>,
    pub(super) index: RuleIndex,
    /// The callers that any rule names literally.
    literal_callers: HashSet<Box<str>>,
    pub(super) claims: ClaimIndex,
}

#[derive(Debug)]
pub(super) struct Rule {
    pub(super) settings: RuleSettings,
    pub(super) per_caller: Arc<CallerQuota>,
    pub(super) per_user: Arc<UserQuota>,
}

/// The parts of a call that rules check.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// The caller.
    pub caller: Principal<'a>,
    /// The method, and what it does with a token.
    pub token_use: TokenUse<'a>,
    /// The name of the API client.
    pub api_client: &'a str,
    /// The user of an issued or sealed token. A call of `LoginWithOtt` with a token that is not sealed
    /// is decided without a user, because it is only known once the platform has named the account;
    /// with one, the question is whether the caller receives the session of an account of this name.
    pub user: Option<&'a Subject>,
}

impl Rules {
    /// Checks a set of rules as a whole.
    pub fn try_new(settings: Vec<RuleSettings>) -> Result<Self, InvalidRules> {
        if settings.is_empty() {
            return Err(InvalidRules::NoRules);
        }
        let callers = settings.iter().flat_map(|rule| &rule.callers);
        let literal_callers =
            callers.filter(|name| is_literal(name)).map(|name| name.as_str().into()).collect();
        let required: BTreeSet<&ClaimPath> =
            settings.iter().flat_map(|rule| &rule.claims).map(|claim| &claim.path).collect();
        if required.len() > MAX_REQUESTED_CLAIMS {
            return Err(InvalidRules::TooManyClaims);
        }
        let index = RuleIndex::new(&settings);
        let claims = ClaimIndex::new(&settings);
        let in_order = (1..)
            .zip(settings)
            .map(|(number, settings)| Rule::try_new(number, settings))
            .collect::<Result<_, _>>()?;
        Ok(Self { in_order, index, literal_callers, claims })
    }

    /// Returns the rules that allow a call, or the first part that no rule allows. The first of the
    /// rules decides.
    pub(super) fn decide(&self, question: Question<'_>) -> Result<RuleSet, AccessDenial> {
        let admitting = self.admitting(question.caller, question.token_use.method())?;
        self.allowing(&admitting, question.token_use, question.api_client, question.user)
    }

    /// Returns the rules that allow a caller a method, for some user and some API client, or the
    /// first part that no rule allows.
    pub(super) fn admitting(&self, caller: Principal<'_>, method: Method) -> Result<RuleSet, AccessDenial> {
        narrowed(self.for_caller(caller)?, Some(self.index.for_method(method)), AccessDenial::Method)
    }

    /// Returns the rules of `admitting` that also apply to the API client, regardless of the other
    /// parts of the call.
    pub(super) fn for_api_client(
        &self,
        admitting: &RuleSet,
        api_client: &str,
    ) -> Result<RuleSet, AccessDenial> {
        narrowed(self.index.for_api_client(api_client), Some(admitting), AccessDenial::ApiClient)
    }

    /// Returns the rules of `admitting` that also apply to the use of the token, the API client and the
    /// user. The user of a token that is not sealed is not known yet at a login (`None`), and is not
    /// checked.
    pub(super) fn allowing(
        &self,
        admitting: &RuleSet,
        token_use: TokenUse<'_>,
        api_client: &str,
        user: Option<&Subject>,
    ) -> Result<RuleSet, AccessDenial> {
        let mut allowing = self.for_api_client(admitting, api_client)?;
        if let Some(of_token) = self.index.for_token_use(token_use) {
            allowing = narrowed(allowing, Some(&of_token), token_use.part())?;
        }
        match user {
            Some(user) => narrowed(self.index.for_user(user), Some(&allowing), AccessDenial::User),
            None => Ok(allowing),
        }
    }

    /// Returns those of the rules that apply to a login with a token that is not sealed. `None` if there
    /// are none.
    pub(super) fn for_token_that_is_not_sealed(&self, rules: &RuleSet) -> Option<RuleSet> {
        let mut found = rules.clone();
        if let Some(of_token) = self.index.for_token_use(TokenUse::plain(Method::LoginWithOtt)) {
            found.retain(&of_token);
        }
        found.first().is_some().then_some(found)
    }

    /// Returns those of the rules that apply to an account with any of these names. `names` is only
    /// called if the first of the rules lists its users.
    pub(super) fn for_account(&self, rules: &RuleSet, names: impl FnOnce() -> Vec<Subject>) -> RuleSet {
        let mut of_account = self.index.for_all_users().clone();
        if rules.first().is_some_and(|first| !of_account.contains(first)) {
            for name in names() {
                of_account.add_all(&self.index.for_user(&name));
            }
        }
        of_account.retain(rules);
        of_account
    }

    /// Returns the deciding rule, which is the first one.
    pub(super) fn first(&self, rules: &RuleSet) -> Option<&Rule> {
        self.deciding(rules).map(|(_, rule)| rule)
    }

    /// Returns the rule that decides, and its position.
    pub(super) fn deciding(&self, rules: &RuleSet) -> Option<(usize, &Rule)> {
        let position = rules.first()?;
        Some((position, self.in_order.get(position)?))
    }

    /// Returns the first rule that names this caller and whose claims it has.
    pub(super) fn first_for(&self, caller: Principal<'_>) -> Option<&Rule> {
        self.first(&self.for_caller(caller).ok()?)
    }

    /// Returns the claims that the deciding rule requires, with the caller's values, for the audit
    /// record. `None` if it requires none.
    pub(super) fn deciding_claims(&self, rules: &RuleSet, claims: &Claims) -> Option<Box<RawValue>> {
        claims.evidence(&self.first(rules)?.settings.claims)
    }

    /// Returns the rules that name this caller and whose claims it has.
    fn for_caller(&self, caller: Principal<'_>) -> Result<RuleSet, AccessDenial> {
        let mut rules = narrowed(self.index.for_caller(caller.name), None, AccessDenial::Caller)?;
        self.retain_with_claims(&mut rules, caller.claims);
        narrowed(rules, None, AccessDenial::Claims)
    }

    /// Keeps only the rules whose required claims the caller has.
    pub(super) fn retain_with_claims(&self, rules: &mut RuleSet, claims: &Claims) {
        self.claims.narrow(rules, claims);
    }

    /// Returns an empty set, which allows nothing.
    pub(super) fn none() -> Self {
        Self {
            in_order: Vec::new(),
            index: RuleIndex::new(&[]),
            literal_callers: HashSet::new(),
            claims: ClaimIndex::default(),
        }
    }

    /// Returns the index of the rules by the parts of a call.
    pub(super) const fn index(&self) -> &RuleIndex {
        &self.index
    }

    /// Returns the settings of a rule, by its number from 1.
    pub(super) fn settings(&self, number: usize) -> Option<&RuleSettings> {
        Some(&self.in_order.get(number.checked_sub(1)?)?.settings)
    }

    /// Returns the callers that any rule names literally.
    pub(super) const fn literal_callers(&self) -> &HashSet<Box<str>> {
        &self.literal_callers
    }

    /// Forgets the full buckets of all quotas.
    pub(super) fn forget_full(&self, now: Nanos) {
        for rule in &self.in_order {
            rule.per_caller.forget_full(now);
            rule.per_user.forget_full(now);
        }
    }

    /// Checks that any rule names this caller and requires no claims that it does not have.
    pub(super) fn mentions(&self, caller: Principal<'_>) -> Result<(), AccessDenial> {
        self.for_caller(caller).map(|_| ())
    }

    /// Keeps the quota state of earlier rules that are unchanged, so that a reload does not
    /// refill buckets.
    pub(super) fn inherit(&mut self, earlier: &Self) {
        let mut left: Vec<&Rule> = earlier.in_order.iter().collect();
        for rule in &mut self.in_order {
            let Some(at) = left.iter().position(|old| old.has_same_scope(rule)) else { continue };
            let old = left.swap_remove(at);
            if rule.per_caller.has_same_limit(&old.per_caller) {
                rule.per_caller = Arc::clone(&old.per_caller);
            }
            if rule.per_user.has_same_limit(&old.per_user) {
                rule.per_user = Arc::clone(&old.per_user);
            }
        }
    }
}

impl Rule {
    fn try_new(rule: usize, settings: RuleSettings) -> Result<Self, InvalidRules> {
        let check = |list: &'static str, entries: &[String]| {
            if entries.is_empty() {
                Err(InvalidRules::EmptyList { rule, list })
            } else if entries.iter().any(String::is_empty) {
                Err(InvalidRules::EmptyEntry { rule, list })
            } else {
                Ok(())
            }
        };
        check("callers", &settings.callers)?;
        if settings.methods.as_ref().is_some_and(Vec::is_empty) {
            return Err(InvalidRules::EmptyList { rule, list: "methods" });
        }
        for (list, entries) in [("api_clients", &settings.api_clients), ("issued_by", &settings.issued_by)] {
            entries.as_deref().map_or(Ok(()), |entries| check(list, entries))?;
        }
        for (key, burst) in [("burst", settings.burst), ("user_burst", settings.user_burst)] {
            if burst.get() > MAX_BURST {
                return Err(InvalidRules::Burst { rule, key });
            }
        }
        let per_caller = CallerQuota::new(settings.rate, settings.burst);
        let per_user = UserQuota::new(settings.user_rate, settings.user_burst);
        let mut callers = settings.callers.iter().chain(settings.issued_by.iter().flatten());
        if let Some(entry) = callers.find(|entry| !is_possible_caller(entry)) {
            return Err(InvalidRules::ImpossibleCaller { rule, entry: entry.clone() });
        }
        Ok(Self { per_caller: Arc::new(per_caller), per_user: Arc::new(per_user), settings })
    }

    pub(super) fn max_in_flight(&self) -> Option<usize> {
        self.settings.max_in_flight.map(|calls| usize::try_from(calls.get()).unwrap_or(usize::MAX))
    }

    fn has_same_scope(&self, other: &Self) -> bool {
        let (ours, theirs) = (&self.settings, &other.settings);
        ours.callers == theirs.callers
            && ours.claims == theirs.claims
            && ours.methods == theirs.methods
            && ours.api_clients == theirs.api_clients
            && ours.issued_by == theirs.issued_by
            && ours.login_urls == theirs.login_urls
            && ours.users == theirs.users
    }
}

/// Returns the intersection of two sets, or a denial if it is empty.
fn narrowed(
    mut rules: RuleSet,
    others: Option<&RuleSet>,
    denial: AccessDenial,
) -> Result<RuleSet, AccessDenial> {
    if let Some(others) = others {
        rules.retain(others);
    }
    if rules.first().is_some() { Ok(rules) } else { Err(denial) }
}

const fn at_least_one(number: u32) -> NonZeroU32 {
    match NonZeroU32::new(number) {
        Some(number) => number,
        None => NonZeroU32::MIN,
    }
}

#[cfg(test)]
mod tests;
