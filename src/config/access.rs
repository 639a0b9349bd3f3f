//! `[access]` and `[[access.rules]]`: which caller may do what, for whom, how often.

use std::{num::NonZeroU32, time::Duration};

use wildmatch::WildMatch;

use super::{
    fault::{self, Problem},
    section::Section,
    tree::Value,
    value::{self, Rate},
};
use crate::{
    call::Operation,
    ott::{SubjectKind, SubjectPattern, Users},
};

/// The rules, in the order of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// `[[access.rules]]`: at least one.
    pub rules: Vec<Rule>,
    /// `quota_dry_run`: whether quotas only log and count; false.
    pub quota_dry_run: bool,
    /// `max_quota_users`: users of whom quotas remember something at one time, of the callers
    /// that rules name in full, and as many of all others; 262,144, from 1,024 to 16,777,216.
    pub max_quota_users: NonZeroU32,
}

/// One rule. It names its callers and its users; other keys may be absent.
///
/// A key that makes the rule narrower than its default must come before the users in the file.
/// A file that was cut off anywhere is therefore refused, or allows less than the whole file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// `callers`: globs over callers' names, at least one. `["*"]` is every identified caller;
    /// `anonymous` only if it is named.
    pub callers: Vec<String>,
    /// `methods`: by the name in the contract; `None`: all.
    pub methods: Option<Vec<Operation>>,
    /// `api_clients`: globs over the names in the configuration; `None`: all.
    pub api_clients: Option<Vec<String>>,
    /// `users`, or `logins`, `external_ids` and `user_ids`.
    pub users: Users,
    /// `rate`: calls of one caller; 50 in a second.
    pub rate: Rate,
    /// `burst`: calls of one caller at once; 100, from 1 to 1,000,000.
    pub burst: NonZeroU32,
    /// `user_rate`: calls of one caller for one user; 30 in a minute.
    pub user_rate: Rate,
    /// `user_burst`: calls of one caller for one user at once; 10, from 1 to 1,000,000.
    pub user_burst: NonZeroU32,
    /// `max_in_flight`: calls of one caller at one time, from 1 to 1,000,000; `None` for half
    /// of the server's.
    pub max_in_flight: Option<NonZeroU32>,
}

/// The keys that name the users of a rule.
pub(super) const USER_KEYS: [&str; 4] = ["users", "logins", "external_ids", "user_ids"];

const METHODS: [Operation; 2] = [Operation::IssueOtt, Operation::LoginWithOtt];

/// Prefixes of callers' names, which show how they were proven.
const PROOFS: [&str; 4] = ["spiffe://", "dns:", "jwt:", "token:"];

pub(super) const DEFAULT_MAX_QUOTA_USERS: NonZeroU32 = const { NonZeroU32::new(262_144).unwrap() };

const RATE: Rate =
    Rate::Limited { times: const { NonZeroU32::new(50).unwrap() }, period: Duration::from_secs(1) };
const BURST: NonZeroU32 = const { NonZeroU32::new(100).unwrap() };
const USER_RATE: Rate =
    Rate::Limited { times: const { NonZeroU32::new(30).unwrap() }, period: Duration::from_mins(1) };
const USER_BURST: NonZeroU32 = const { NonZeroU32::new(10).unwrap() };

impl Rule {
    /// A rule for all methods and API clients, within the default quotas.
    pub(super) const fn new(callers: Vec<String>, users: Users) -> Self {
        Self {
            callers,
            methods: None,
            api_clients: None,
            users,
            rate: RATE,
            burst: BURST,
            user_rate: USER_RATE,
            user_burst: USER_BURST,
            max_in_flight: None,
        }
    }
}

/// The names that rules may refer to, faulty ones included, so that a fault there does
/// not lead to a second one here.
pub(super) struct KnownNames<'a> {
    /// None if rules may refer to any: a rule for an API client that does not exist allows
    /// nothing.
    pub(super) api_clients: Option<Vec<&'a str>>,
    pub(super) tokens: Vec<&'a str>,
    /// The names of JWT issuers; none if issuers have no names, or rules may refer to any.
    pub(super) jwt_issuers: Option<Vec<&'a str>>,
}

impl Access {
    pub(super) fn read(mut section: Section<'_>, known: &KnownNames<'_>) -> Self {
        let quota_dry_run = section.optional("quota_dry_run", value::boolean).unwrap_or(false);
        if quota_dry_run {
            section.warning("quota_dry_run", "is true: quotas only log and count, and refuse nobody");
        }
        let max_quota_users = section
            .optional("max_quota_users", value::count(1024..=16_777_216))
            .unwrap_or(DEFAULT_MAX_QUOTA_USERS);
        let rules: Vec<Rule> =
            section.list_of_tables("rules").into_iter().map(|table| Rule::read(table, known)).collect();
        let is_list = section.node("rules").is_none_or(|node| matches!(node, Value::List(_)));
        if rules.is_empty() && is_list {
            section.fault(
                "rules",
                Problem::Missing("without an [[access.rules]] nobody could call; name who may"),
            );
        }
        section.finish();
        Self { rules, quota_dry_run, max_quota_users }
    }
}

impl Rule {
    fn read(mut section: Section<'_>, known: &KnownNames<'_>) -> Self {
        if !section.has("callers") {
            section.fault(
                "callers",
                Problem::Missing(
                    "a rule must name its callers, such as [\"token:billing\"]; [\"*\"] is every identified caller",
                ),
            );
        }
        let bursts = || value::count(1..=1_000_000);
        let rule = Self {
            callers: section.list("callers", |value| caller_glob(value, known)).unwrap_or_default(),
            methods: section.list("methods", method),
            api_clients: section.list("api_clients", |value| api_client_glob(value, known)),
            users: Self::users(&mut section),
            rate: section.optional("rate", value::rate).unwrap_or(RATE),
            burst: section.optional("burst", bursts()).unwrap_or(BURST),
            user_rate: section.optional("user_rate", value::rate).unwrap_or(USER_RATE),
            user_burst: section.optional("user_burst", bursts()).unwrap_or(USER_BURST),
            max_in_flight: section.optional("max_in_flight", value::count(1..=1_000_000)),
        };
        rule.check_order(&section);
        if rule.cannot_compare_logins() {
            section.warning(
                "external_ids",
                "does not fit accounts in responses, which have no external id: LoginWithOtt is allowed only for \
                 tokens that the same replica issued; add logins or user_ids, or a rule for LoginWithOtt",
            );
        }
        section.finish();
        rule
    }

    fn users(section: &mut Section<'_>) -> Users {
        let has_list = USER_KEYS[1..].iter().any(|list| section.has(list));
        if section.has("users") && has_list {
            section.fault(
                "users",
                Problem::rule(
                    "cannot be combined with logins, external_ids or user_ids: remove users to allow the listed \
                     users only, or remove the lists to allow all",
                ),
            );
        }
        if !section.has("users") && !has_list {
            section.fault(
                "users",
                Problem::Missing(
                    "a rule must name its users: list them in logins, external_ids or user_ids, or allow all \
                     of them with users = \"all\"",
                ),
            );
        }
        let all = section.optional("users", value::word(&[("all", ())]));
        let patterns = [
            section.list("logins", user_pattern(SubjectKind::Login)),
            section.list("external_ids", user_pattern(SubjectKind::ExternalId)),
            section.list("user_ids", user_pattern(SubjectKind::UserId)),
        ];
        match all {
            Some(()) => Users::All,
            None => Users::Listed(patterns.into_iter().flatten().flatten().collect()),
        }
    }

    /// Whether it allows logins, but names users only in a way that the platform's response to a
    /// login does not.
    fn cannot_compare_logins(&self) -> bool {
        let Users::Listed(patterns) = &self.users else { return false };
        self.methods.as_ref().is_none_or(|named| named.contains(&Operation::LoginWithOtt))
            && !patterns.is_empty()
            && patterns.iter().all(|pattern| pattern.kind() == SubjectKind::ExternalId)
    }

    /// Refuses keys after the users that make the rule narrower. If the file were cut off between
    /// the two, it would be a valid file that allows more.
    fn check_order(&self, section: &Section<'_>) {
        let users = USER_KEYS.into_iter().filter_map(|key| Some((section.line_of(key)?, key)));
        let Some((users_line, users_key)) = users.min() else { return };
        let default = Self::new(Vec::new(), Users::All);
        let narrowing = [
            (
                "methods",
                self.methods.as_ref().is_some_and(|named| !METHODS.iter().all(|one| named.contains(one))),
            ),
            (
                "api_clients",
                self.api_clients.as_ref().is_some_and(|globs| !globs.iter().any(|glob| glob == "*")),
            ),
            ("rate", self.rate.is_below(default.rate)),
            ("burst", self.burst < default.burst),
            ("user_rate", self.user_rate.is_below(default.user_rate)),
            ("user_burst", self.user_burst < default.user_burst),
            ("max_in_flight", self.max_in_flight.is_some()),
        ];
        for (key, narrows) in narrowing {
            if narrows && section.line_of(key).is_some_and(|line| line > users_line) {
                section.fault(
                    key,
                    Problem::rule(format!(
                        "must come before \"{users_key}\": this key narrows the rule, and a file that was cut off \
                         between the two would allow more"
                    )),
                );
            }
        }
    }
}

/// A pattern that could match some caller; one that never can is a mistake.
fn caller_glob(value: &Value, known: &KnownNames<'_>) -> Result<String, Problem> {
    let glob = value::text(value)?;
    if glob == "anonymous" {
        return Ok(glob);
    }
    let literal = glob.split(['*', '?']).next().unwrap_or_default();
    if !PROOFS.iter().any(|proof| literal.starts_with(proof) || proof.starts_with(literal)) {
        return Err(Problem::rule(
            "matches no caller: names begin with \"spiffe://\", \"dns:\", \"jwt:\" or \"token:\", or are \
             \"anonymous\" in full",
        ));
    }
    if literal.len() == glob.len()
        && let Some(name) = glob.strip_prefix("token:")
        && !known.tokens.contains(&name)
    {
        let nearest = fault::nearest(name, known.tokens.iter().copied()).map(|name| format!("token:{name}"));
        return Err(Problem::UnknownName { what: "the name of a token in [callers.tokens]", nearest });
    }
    if let Some(names) = &known.jwt_issuers
        && let Some(rest) = literal.strip_prefix("jwt:")
    {
        let (issuer, is_whole) =
            rest.split_once(':').map_or((rest, literal.len() == glob.len()), |(it, _)| (it, true));
        let is_known = |name: &&str| if is_whole { *name == issuer } else { name.starts_with(issuer) };
        // Without the colon, nobody is called that.
        if !names.iter().any(is_known) || (is_whole && !rest.contains(':')) {
            let nearest = fault::nearest(issuer, names.iter().copied()).map(|name| format!("jwt:{name}:"));
            return Err(Problem::UnknownName { what: "a caller of an issuer in [[callers.jwt]]", nearest });
        }
    }
    Ok(glob)
}

/// A pattern that could match some user.
fn user_pattern(kind: SubjectKind) -> impl Fn(&Value) -> Result<SubjectPattern, Problem> {
    move |value| {
        SubjectPattern::new(kind, &value::text(value)?).map_err(|fault| Problem::rule(fault.to_string()))
    }
}

fn method(value: &Value) -> Result<Operation, Problem> {
    let name = value::text(value)?;
    METHODS.into_iter().find(|method| method.name() == name).ok_or_else(|| {
        let nearest = fault::nearest(&name, METHODS.iter().map(|method| method.name()));
        Problem::UnknownName { what: "a method", nearest }
    })
}

fn api_client_glob(value: &Value, known: &KnownNames<'_>) -> Result<String, Problem> {
    let glob = value::text(value)?;
    let Some(names) = &known.api_clients else { return Ok(glob) };
    let pattern = WildMatch::new(&glob);
    if names.iter().any(|name| pattern.matches(name)) {
        return Ok(glob);
    }
    let nearest = fault::nearest(&glob, names.iter().copied());
    Err(Problem::UnknownName { what: "the name of an API client in [api_clients]", nearest })
}
