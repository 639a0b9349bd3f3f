//! The rules: who may do what, for whom, with which API client, and how often.
//!
//! A set of rules is made whole and never changes; replacing it, and taking from its
//! quotas, is done in `access`. Which rules are for a part of a call is looked up in an index, so
//! that a call costs about the same with any number of rules.

use std::{collections::HashSet, fmt, num::NonZeroU32, sync::Arc};

use super::{
    pattern::{ANONYMOUS, is_possible_caller},
    quota::{CallerQuota, MAX_BURST, Nanos, Rate, UserQuota},
    rule_index::RuleIndex,
    rule_set::RuleSet,
};
use crate::{
    call::Operation,
    ott::{Subject, Users},
    telemetry::metrics::AccessDenial,
};

/// The quotas of a rule without its own, as documented in `docs/configuration.md`.
const DEFAULT_RATE: Rate = Rate::per_second(at_least_one(50));
const DEFAULT_BURST: u32 = 100;
const DEFAULT_USER_RATE: Rate = Rate::per_minute(at_least_one(30));
const DEFAULT_USER_BURST: u32 = 10;

/// One rule as configured (`[[access.rules]]`). Globs: `*` is any run of characters, `?` is
/// one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleSettings {
    /// Globs on callers' names. `anonymous` must be named literally; no glob matches it.
    pub callers: Vec<String>,
    /// The methods; `None`: all.
    pub methods: Option<Vec<Operation>>,
    /// Globs on the names of API clients; `None`: all.
    pub api_clients: Option<Vec<String>>,
    /// The users. There is no default, so that nobody gets all of them by leaving a key out.
    pub users: Users,
    /// How often one caller may call; 50 a second if absent. All who are `anonymous` are
    /// one caller.
    pub rate: Option<Rate>,
    /// How many calls one caller may save up, 1 to 1,000,000; 100 if absent.
    pub burst: Option<u32>,
    /// How often one caller may ask for one user; 30 a minute if absent.
    pub user_rate: Option<Rate>,
    /// How many calls for one user one caller may save up; 10 if absent.
    pub user_burst: Option<u32>,
    /// Maximum number of calls of one caller in flight, at least 1; half of the server's
    /// `max_in_flight` if absent.
    pub max_in_flight: Option<NonZeroU32>,
}

impl RuleSettings {
    /// A rule for all methods and API clients, within the default quotas.
    #[must_use]
    pub const fn new(callers: Vec<String>, users: Users) -> Self {
        Self {
            callers,
            methods: None,
            api_clients: None,
            users,
            rate: None,
            burst: None,
            user_rate: None,
            user_burst: None,
            max_in_flight: None,
        }
    }
}

/// Why rules cannot be used. Rules are counted from 1.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRules {
    /// There are none.
    #[error("at least one access rule is needed: without one, every call would be denied")]
    NoRules,
    /// A list is empty, so that the rule could never apply.
    #[error("access rule {rule}: `{list}` must not be empty")]
    EmptyList {
        /// Which rule.
        rule: usize,
        /// Which list.
        list: &'static str,
    },
    /// A list has an empty entry.
    #[error("access rule {rule}: `{list}` has an empty entry")]
    EmptyEntry {
        /// Which rule.
        rule: usize,
        /// Which list.
        list: &'static str,
    },
    /// An entry of `callers` matches no name that a caller can have.
    #[error(
        "access rule {rule}: no caller can be called `{entry}`: names begin with spiffe://, dns:, jwt: or token:, \
         or are `anonymous`"
    )]
    ImpossibleCaller {
        /// Which rule.
        rule: usize,
        /// The entry.
        entry: String,
    },
    /// A burst is out of bounds.
    #[error("access rule {rule}: `{key}` must be between 1 and 1000000")]
    Burst {
        /// Which rule.
        rule: usize,
        /// Which key.
        key: &'static str,
    },
}

/// A usable set of rules, with what has been used of their quotas.
#[derive(Debug)]
pub struct Rules {
    in_order: Vec<Rule>,
    index: RuleIndex,
    /// The callers that any of them names in full.
    literal_callers: HashSet<Box<str>>,
}

#[derive(Debug)]
pub(super) struct Rule {
    settings: RuleSettings,
    pub(super) per_caller: Arc<CallerQuota>,
    pub(super) per_user: Arc<UserQuota>,
}

/// A call as rules see it.
#[derive(Clone, Copy, Debug)]
struct Question<'a> {
    caller: &'a str,
    operation: Operation,
    api_client: &'a str,
    /// Only for issuing: the user of a login is known once the platform has named the account.
    user: Option<&'a Subject>,
}

/// Which rule decides on a call, and why; its `Display` is for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    deciding: Option<usize>,
    lines: Vec<String>,
}

impl Rules {
    /// Checks a set of rules as a whole.
    pub fn try_new(settings: Vec<RuleSettings>) -> Result<Self, InvalidRules> {
        if settings.is_empty() {
            return Err(InvalidRules::NoRules);
        }
        let callers = settings.iter().flat_map(|rule| &rule.callers);
        let literal_callers =
            callers.filter(|name| !name.contains(['*', '?'])).map(|name| name.as_str().into()).collect();
        let index = RuleIndex::new(&settings);
        let in_order = (1..)
            .zip(settings)
            .map(|(number, settings)| Rule::try_new(number, settings))
            .collect::<Result<_, _>>()?;
        Ok(Self { in_order, index, literal_callers })
    }

    /// Which rule would decide on such a call, and why, without taking from any quota.
    /// A call to issue is for a user; a login does not say whom its token is for.
    #[must_use]
    pub fn explain(
        &self,
        caller: &str,
        operation: Operation,
        api_client: &str,
        user: Option<&Subject>,
    ) -> Explanation {
        let question = Question { caller, operation, api_client, user };
        let (of_caller, of_method) = (self.index.of_caller(caller), self.index.of_method(operation));
        let of_api_client = self.index.of_api_client(api_client);
        let of_user = user.map(|user| self.index.of_user(user));
        // The first part of the call that a rule is not for.
        let mismatch = |rule| {
            if !of_caller.contains(rule) {
                Some(AccessDenial::Caller)
            } else if !of_method.contains(rule) {
                Some(AccessDenial::Method)
            } else if !of_api_client.contains(rule) {
                Some(AccessDenial::ApiClient)
            } else if of_user.as_ref().is_some_and(|of_user| !of_user.contains(rule)) {
                Some(AccessDenial::User)
            } else {
                None
            }
        };
        let mut deciding = None;
        let mut lines = Vec::with_capacity(self.in_order.len() + 1);
        for (position, rule) in self.in_order.iter().enumerate() {
            let number = position + 1;
            let verdict = match mismatch(position) {
                Some(denial) => sentence(denial, question),
                None if deciding.is_some() => "would allow it too, but an earlier rule decides".to_owned(),
                None => {
                    deciding = Some(number);
                    // Only a login asks without a user.
                    let users = if user.is_none() && rule.settings.users != Users::All {
                        " if the account in the platform's response is one of its users"
                    } else {
                        ""
                    };
                    format!(
                        "allows it{users}; per caller {}; per caller and user {}",
                        rule.per_caller, rule.per_user
                    )
                }
            };
            lines.push(format!("rule {number} {verdict}"));
        }
        lines.push(match deciding {
            Some(number) => format!("ALLOWED by rule {number}"),
            None => "DENIED: no rule allows it".to_owned(),
        });
        Explanation { deciding, lines }
    }

    /// Returns the rules that allow a caller a method, for some user and some API client; else
    /// the first part that no rule is for.
    pub(super) fn admitting(&self, caller: &str, operation: Operation) -> Result<RuleSet, AccessDenial> {
        let of_caller = narrowed(self.index.of_caller(caller), None, AccessDenial::Caller)?;
        narrowed(of_caller, Some(self.index.of_method(operation)), AccessDenial::Method)
    }

    /// Returns those of the rules that are also for an API client of that name, and for the user.
    /// The user of a login is not known yet (`None`), and stands in no rule's way.
    pub(super) fn allowing(
        &self,
        admitting: &RuleSet,
        api_client: &str,
        user: Option<&Subject>,
    ) -> Result<RuleSet, AccessDenial> {
        let of_api_client = self.index.of_api_client(api_client);
        let allowing = narrowed(of_api_client, Some(admitting), AccessDenial::ApiClient)?;
        match user {
            Some(user) => narrowed(self.index.of_user(user), Some(&allowing), AccessDenial::User),
            None => Ok(allowing),
        }
    }

    /// Returns whether one of the rules is for all users.
    pub(super) fn any_for_all_users(&self, rules: &RuleSet) -> bool {
        rules.intersects(self.index.of_all_users())
    }

    /// Returns whether one of the rules is for the user.
    pub(super) fn any_for_user(&self, rules: &RuleSet, user: &Subject) -> bool {
        rules.intersects(&self.index.of_user(user))
    }

    /// Returns the rule that decides: the first one.
    pub(super) fn first(&self, rules: &RuleSet) -> Option<&Rule> {
        self.deciding(rules).map(|(_, rule)| rule)
    }

    /// Returns the rule that decides, and its number, counted from 1.
    pub(super) fn deciding(&self, rules: &RuleSet) -> Option<(usize, &Rule)> {
        let position = rules.first()?;
        Some((position + 1, self.in_order.get(position)?))
    }

    /// Returns the first rule that names this caller.
    pub(super) fn first_for(&self, caller: &str) -> Option<&Rule> {
        self.first(&self.index.of_caller(caller))
    }

    /// No rules: nothing is allowed.
    pub(super) fn none() -> Self {
        Self { in_order: Vec::new(), index: RuleIndex::new(&[]), literal_callers: HashSet::new() }
    }

    /// The callers that any rule names in full.
    pub(super) const fn literal_callers(&self) -> &HashSet<Box<str>> {
        &self.literal_callers
    }

    /// Forgets what is as good as unused of all quotas.
    pub(super) fn forget_full(&self, now: Nanos) {
        for rule in &self.in_order {
            rule.per_caller.forget_full(now);
            rule.per_user.forget_full(now);
        }
    }

    /// Returns whether any rule is for this caller.
    pub(super) fn mention(&self, caller: &str) -> bool {
        self.index.of_caller(caller).first().is_some()
    }

    /// Takes over what has been used of the quotas of those earlier rules that are
    /// also here, so that a reload gives nobody a full bucket.
    pub(super) fn inherit(&mut self, earlier: &Self) {
        let mut left: Vec<&Rule> = earlier.in_order.iter().collect();
        for rule in &mut self.in_order {
            let Some(at) = left.iter().position(|old| old.covers_the_same_as(rule)) else { continue };
            let old = left.swap_remove(at);
            if rule.per_caller.is_like(&old.per_caller) {
                rule.per_caller = Arc::clone(&old.per_caller);
            }
            if rule.per_user.is_like(&old.per_user) {
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
        settings.api_clients.as_deref().map_or(Ok(()), |entries| check("api_clients", entries))?;
        let burst = |key, value: Option<u32>, default: u32| {
            NonZeroU32::new(value.unwrap_or(default))
                .filter(|burst| burst.get() <= MAX_BURST)
                .ok_or(InvalidRules::Burst { rule, key })
        };
        let per_caller = CallerQuota::new(
            settings.rate.unwrap_or(DEFAULT_RATE),
            burst("burst", settings.burst, DEFAULT_BURST)?,
        );
        let per_user = UserQuota::new(
            settings.user_rate.unwrap_or(DEFAULT_USER_RATE),
            burst("user_burst", settings.user_burst, DEFAULT_USER_BURST)?,
        );
        if let Some(entry) = settings.callers.iter().find(|entry| !is_possible_caller(entry)) {
            return Err(InvalidRules::ImpossibleCaller { rule, entry: entry.clone() });
        }
        Ok(Self { per_caller: Arc::new(per_caller), per_user: Arc::new(per_user), settings })
    }

    pub(super) fn max_in_flight(&self) -> Option<usize> {
        self.settings.max_in_flight.map(|calls| usize::try_from(calls.get()).unwrap_or(usize::MAX))
    }

    fn covers_the_same_as(&self, other: &Self) -> bool {
        let (ours, theirs) = (&self.settings, &other.settings);
        ours.callers == theirs.callers
            && ours.methods == theirs.methods
            && ours.api_clients == theirs.api_clients
            && ours.users == theirs.users
    }
}

/// Returns the rules that are in both sets, or a denial if there are none.
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

/// Why a rule does not allow a call, for people.
fn sentence(denial: AccessDenial, question: Question<'_>) -> String {
    match denial {
        AccessDenial::Caller if question.caller == ANONYMOUS => {
            "is not for anonymous callers: it does not name `anonymous`, and no glob matches it".to_owned()
        }
        AccessDenial::Caller => format!("is for other callers than {:?}", question.caller),
        AccessDenial::Method => format!("is not for {}", question.operation.name()),
        AccessDenial::ApiClient => format!("is for other API clients than {:?}", question.api_client),
        AccessDenial::User => match question.user {
            Some(user) => format!("is for other users, none of them with this {}", user.field()),
            None => "is for other users".to_owned(),
        },
    }
}

impl Explanation {
    /// The rule that allows the call, counted from 1; none if it is denied.
    #[must_use]
    pub const fn deciding_rule(&self) -> Option<usize> {
        self.deciding
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.lines.join("\n"))
    }
}

const fn at_least_one(number: u32) -> NonZeroU32 {
    match NonZeroU32::new(number) {
        Some(number) => number,
        None => NonZeroU32::MIN,
    }
}

#[cfg(test)]
mod tests;
