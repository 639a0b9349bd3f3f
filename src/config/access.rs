//! `[access]`, `[[access.rules]]` and `[[access.candidate_rules]]`: the methods and users that each
//! caller may use, and quotas.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    sync::Arc,
};

use wildmatch::WildMatch;

use super::{
    finding::{self, DidYouMean, Place, Problem},
    section::Section,
    tree::Value,
    value,
    warnings::may_begin_with,
};
use crate::{
    access::{Quotas, RuleSettings, Settings, is_possible_caller},
    caller::{
        ANONYMOUS, ClaimPath, ClaimRequirement, ClaimValue, JWT_PREFIX, MAX_REQUESTED_CLAIMS, TOKEN_PREFIX,
    },
    domain::{
        call::Method,
        ott::{SubjectKind, SubjectPattern, Users},
    },
};

// A key that narrows a rule must come before its users in the file. A truncated file is therefore
// refused, or allows less than the whole file.

/// Keys that list the users of a rule.
pub(super) const USER_KEYS: [&str; 4] = ["users", "logins", "external_ids", "user_ids"];

/// Maximum number of claims that a rule can require.
const MAX_CLAIMS: usize = 16;
/// Maximum number of accepted values of a claim.
const MAX_CLAIM_VALUES: usize = 256;
/// Maximum length of an accepted value of a claim, in bytes.
const MAX_CLAIM_TEXT_BYTES: usize = 1024;
/// Maximum length of the name of a rule, in bytes.
const MAX_RULE_NAME_BYTES: usize = 64;

const METHODS: [Method; 2] = [Method::IssueOtt, Method::LoginWithOtt];

/// The names that rules may refer to. Names of invalid entries are included, so that an error there
/// does not cause another one here.
pub(super) struct KnownNames<'a> {
    /// Names of API clients; `None` to accept any. A rule for an API client that does not exist
    /// allows nothing.
    pub(super) api_clients: Option<Vec<&'a str>>,
    pub(super) tokens: Vec<&'a str>,
    /// Names of JWT issuers; `None` if the issuer has no name, or to accept any.
    pub(super) jwt_issuers: Option<Vec<&'a str>>,
    /// Whether there is a `[token_binding]` section, without which no token is sealed. `None` if the
    /// running gateway may have one that these settings do not contain.
    pub(super) has_token_binding: Option<bool>,
    /// The API client of tests that name none.
    pub(super) default_api_client: DefaultApiClient<'a>,
}

/// The default API client, for tests that name none.
#[derive(Clone, Copy, Debug)]
pub(super) enum DefaultApiClient<'a> {
    /// `None` if there is no default.
    Known(Option<&'a str>),
    /// `[api_clients]` has errors.
    Unknown,
}

/// `[access]` without its tests.
pub(super) struct ReadAccess {
    pub(super) settings: Settings,
    pub(super) in_force: ReadRules,
    pub(super) candidates: ReadRules,
}

/// How a list of rules was read.
pub(super) struct ReadRules {
    /// The place of each rule.
    pub(super) places: Vec<Place>,
    /// Whether the rules are those of the file; with errors, they are not complete.
    pub(super) is_valid: bool,
}

/// What a table of claims belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ClaimsOf {
    /// A rule, which requires them.
    Rule,
    /// A caller, whose JWT contains them, together with any others.
    Caller,
}

/// The named rules read so far, to find names that are used twice.
#[derive(Default)]
struct RuleNames(BTreeMap<Arc<str>, (String, Place)>);

/// Reads `[access]` without its tests.
pub(super) fn read_access(section: &mut Section<'_>, known: &KnownNames<'_>) -> ReadAccess {
    let quota_dry_run = section.optional("quota_dry_run", value::boolean).unwrap_or(false);
    if quota_dry_run {
        section.warning("quota_dry_run", "is true: calls over quota are logged and counted, but not refused");
    }
    let max_quota_users = section.optional("max_quota_users", value::count(1024..=16_777_216));
    let errors = section.errors();
    let (rules, places) = read_rules(section.list_of_tables("rules"), known);
    let in_force = ReadRules { places, is_valid: section.errors() == errors };
    let errors = section.errors();
    let (candidate_rules, places) = read_rules(section.list_of_tables("candidate_rules"), known);
    let candidates = ReadRules { places, is_valid: section.errors() == errors };
    if !candidate_rules.is_empty() && candidate_rules == rules {
        section.warning(
            "candidate_rules",
            "are the same as the rules in force, so no decision can differ; remove them",
        );
    }
    let is_list = section.node("rules").is_none_or(|node| matches!(node, Value::List(_)));
    if rules.is_empty() && is_list {
        section.error(
            "rules",
            Problem::Missing("add an [[access.rules]] table; the gateway does not start without rules"),
        );
    }
    for (key, rules) in [("rules", &rules), ("candidate_rules", &candidate_rules)] {
        let claims: BTreeSet<&ClaimPath> =
            rules.iter().flat_map(|rule| &rule.claims).map(|claim| &claim.path).collect();
        if claims.len() > MAX_REQUESTED_CLAIMS {
            let number = claims.len();
            section.error(
                key,
                Problem::rule(format!(
                    "require {number} different claims in total; the maximum is {MAX_REQUESTED_CLAIMS}"
                )),
            );
        }
    }
    let mut settings = Settings { candidate_rules, ..Settings::new(rules) };
    if quota_dry_run {
        settings.quotas = Quotas::DryRun;
    }
    if let Some(users) = max_quota_users {
        settings.max_quota_users = users.get() as usize;
    }
    ReadAccess { settings, in_force, candidates }
}

/// Reads a list of rules, which share no names. Also returns their places.
fn read_rules(tables: Vec<Section<'_>>, known: &KnownNames<'_>) -> (Vec<RuleSettings>, Vec<Place>) {
    let places = tables.iter().map(Section::own_place).collect();
    let mut names = RuleNames::default();
    (tables.into_iter().map(|table| read_rule(table, known, &mut names)).collect(), places)
}

fn read_rule(mut section: Section<'_>, known: &KnownNames<'_>, names: &mut RuleNames) -> RuleSettings {
    if !section.has("callers") {
        section.error(
                "callers",
                Problem::Missing(
                    "a rule must list its callers, such as [\"token:billing\"]; [\"*\"] is every identified caller",
                ),
            );
    }
    let name = section.optional("name", rule_name);
    if let Some(name) = &name {
        names.add(name, &section);
    }
    let has_table = matches!(section.node("claims"), Some(Value::Table(_)));
    let claims = section.optional_table("claims").filter(|_| has_table);
    let claims = claims.map(|table| read_claims(table, ClaimsOf::Rule)).unwrap_or_default();
    let bursts = || value::count(1..=1_000_000);
    let callers = section.list("callers", |value| caller_glob(value, known)).unwrap_or_default();
    let issued_by = section.list("issued_by", |value| caller_glob(value, known));
    let default = RuleSettings::new(callers, read_users(&mut section));
    let rule = RuleSettings {
        name,
        claims,
        methods: section.list("methods", method),
        api_clients: section.list("api_clients", |value| api_client_glob(value, known)),
        issued_by,
        login_urls: section.optional("login_urls", value::boolean).unwrap_or(default.login_urls),
        rate: section.optional("rate", value::rate).unwrap_or(default.rate),
        burst: section.optional("burst", bursts()).unwrap_or(default.burst),
        user_rate: section.optional("user_rate", value::rate).unwrap_or(default.user_rate),
        user_burst: section.optional("user_burst", bursts()).unwrap_or(default.user_burst),
        max_in_flight: section.optional("max_in_flight", value::count(1..=1_000_000)),
        ..default
    };
    check_order(&rule, &section);
    check_callers_of_claims(&rule, &section);
    check_token_uses(&rule, &section, known);
    if cannot_compare_logins(&rule) {
        section.warning(
            "external_ids",
            "cannot be compared with login responses, which contain no external id: LoginWithOtt is allowed only \
                 for tokens that the same replica issued; add logins or user_ids, or a rule for LoginWithOtt",
        );
    }
    section.finish();
    rule
}

impl RuleNames {
    /// Adds the name of a rule. Reports an error if another rule has it, because tests refer to
    /// rules by name.
    fn add(&mut self, name: &Arc<str>, section: &Section<'_>) {
        match self.0.entry(Arc::clone(name)) {
            Entry::Vacant(entry) => {
                entry.insert((section.name_of("name"), section.place_of("name")));
            }
            Entry::Occupied(entry) => {
                let (key, place) = entry.get();
                let rule = format!("must be unique, but {key} ({place}) is the same");
                section.error("name", Problem::rule(rule));
            }
        }
    }
}

/// Reads a table of claims.
pub(super) fn read_claims(section: Section<'_>, of: ClaimsOf) -> Vec<ClaimRequirement> {
    let paths: Vec<&str> = section.keys().collect();
    if paths.is_empty() {
        section.own_error(Problem::rule("must not be empty; remove the key if there is nothing to require"));
    }
    let max_claims = match of {
        ClaimsOf::Rule => MAX_CLAIMS,
        ClaimsOf::Caller => MAX_REQUESTED_CLAIMS,
    };
    if paths.len() > max_claims {
        section.own_error(Problem::rule(format!("must have at most {max_claims} claims")));
    }
    let mut required = Vec::with_capacity(paths.len());
    for text in &paths {
        let path =
            ClaimPath::new(text).map_err(|error| section.error(text, Problem::rule(error.to_string())));
        let values = section.one_or_more(text, |value| claim_value(&path, value, of));
        if values.as_ref().is_some_and(|values| values.len() > MAX_CLAIM_VALUES) {
            section.error(text, Problem::rule(format!("must have at most {MAX_CLAIM_VALUES} values")));
        }
        if let (Ok(path), Some(values)) = (path, values) {
            required.push(ClaimRequirement { path, values });
        }
    }
    section.finish_part(&paths);
    required
}

/// Reports a rule that requires claims, but names callers without JWTs, who have none.
fn check_callers_of_claims(rule: &RuleSettings, section: &Section<'_>) {
    if rule.claims.is_empty() || rule.callers.is_empty() {
        return;
    }
    let has_none = rule.callers.iter().map(|glob| !may_begin_with(glob, JWT_PREFIX));
    if has_none.clone().all(|has_none| has_none) {
        section.error(
            "claims",
            Problem::rule(
                "can never match: only callers with a JWT have claims, and none of the rule's callers can match a \
                 name that begins with \"jwt:\"",
            ),
        );
    } else if let Some((number, _)) = (1..).zip(has_none).find(|(_, has_none)| *has_none) {
        section.warning(
            "callers",
            format!(
                "entry {number} can never match, because the rule requires claims: only callers with a JWT have \
                 claims, and their names begin with \"jwt:\""
            ),
        );
    }
}

/// Reports limits on the use of tokens that have no effect, or that no token can meet.
fn check_token_uses(rule: &RuleSettings, section: &Section<'_>, known: &KnownNames<'_>) {
    let is_for = |method| rule.methods.as_ref().is_none_or(|named| named.contains(&method));
    if section.has("issued_by") && !is_for(Method::LoginWithOtt) {
        section.error(
            "issued_by",
            Problem::rule(
                "limits only LoginWithOtt, which this rule does not allow: add \"LoginWithOtt\" to methods, or remove \
                 issued_by; callers limits who may issue tokens",
            ),
        );
    } else if section.has("issued_by") {
        const NO_SEALED_TOKENS: &str = "allows no login without [token_binding], because only sealed tokens contain the caller that they were \
             issued to: add [token_binding], or remove issued_by";
        match known.has_token_binding {
            Some(true) => {}
            Some(false) => section.error("issued_by", Problem::rule(NO_SEALED_TOKENS)),
            None => section.warning("issued_by", NO_SEALED_TOKENS),
        }
    }
    if !rule.login_urls && !is_for(Method::IssueOtt) {
        section.warning(
            "login_urls",
            "has no effect: only IssueOtt returns login URLs, and this rule does not allow it",
        );
    }
}

/// Parses a value of a claim. A caller may have texts that no rule accepts, and a list of words in
/// one text.
fn claim_value(path: &Result<ClaimPath, ()>, value: &Value, of: ClaimsOf) -> Result<ClaimValue, Problem> {
    match value {
        Value::Integer(number) => Ok(ClaimValue::Integer(*number)),
        Value::Boolean(boolean) => Ok(ClaimValue::Boolean(*boolean)),
        Value::Text(text) if of == ClaimsOf::Caller => Ok(ClaimValue::Text(Arc::from(text.as_str()))),
        Value::Text(text) if text.contains(' ') && path.as_ref().is_ok_and(ClaimPath::is_word_list) => {
            Err(Problem::rule(
                "must not contain a space: the words of this claim are separate values; list each word",
            ))
        }
        Value::Text(text) if (1..=MAX_CLAIM_TEXT_BYTES).contains(&text.len()) => {
            Ok(ClaimValue::Text(Arc::from(text.as_str())))
        }
        Value::Text(_) => Err(Problem::rule(format!("must have 1 to {MAX_CLAIM_TEXT_BYTES} bytes"))),
        Value::Table(_) => Err(Problem::rule(
            "must be a string, an integer or a boolean, not a table; write nested claims as one key, such as \
             \"realm_access/roles\"",
        )),
        other => Err(Problem::WrongType {
            expected: "a string, an integer or a boolean",
            found: other.type_name(),
        }),
    }
}

/// Parses the name of a rule.
fn rule_name(value: &Value) -> Result<Arc<str>, Problem> {
    let name = value::text(value)?;
    let is_valid = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if (1..=MAX_RULE_NAME_BYTES).contains(&name.len()) && name.bytes().all(is_valid) {
        Ok(Arc::from(name))
    } else {
        Err(Problem::rule(format!(
            "must be 1 to {MAX_RULE_NAME_BYTES} letters, digits, \"-\", \"_\" and \".\""
        )))
    }
}

fn read_users(section: &mut Section<'_>) -> Users {
    let has_list = USER_KEYS[1..].iter().any(|list| section.has(list));
    if section.has("users") && has_list {
        section.error(
            "users",
            Problem::rule(
                "cannot be combined with logins, external_ids or user_ids: remove users to allow only the listed \
                     users, or remove the lists to allow all",
            ),
        );
    }
    if !section.has("users") && !has_list {
        section.error(
            "users",
            Problem::Missing(
                "a rule must list its users in logins, external_ids or user_ids, or allow all of them with \
                     users = \"all\"",
            ),
        );
    }
    let all = section.optional("users", value::one_of(&[("all", ())]));
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

/// Returns whether a rule allows logins, but lists users only by external id, which the platform's
/// login response does not contain.
fn cannot_compare_logins(rule: &RuleSettings) -> bool {
    let Users::Listed(patterns) = &rule.users else { return false };
    rule.methods.as_ref().is_none_or(|named| named.contains(&Method::LoginWithOtt))
        // A sealed token contains its user.
        && rule.issued_by.is_none()
        && !patterns.is_empty()
        && patterns.iter().all(|pattern| pattern.kind() == SubjectKind::ExternalId)
}

/// Refuses keys after the users that narrow the rule. A file truncated between the two would be valid
/// and allow more.
fn check_order(rule: &RuleSettings, section: &Section<'_>) {
    let users = USER_KEYS.into_iter().filter_map(|key| Some((section.line_of(key)?, key)));
    let Some((users_line, users_key)) = users.min() else { return };
    let default = RuleSettings::new(Vec::new(), Users::All);
    let narrowing = [
        ("claims", !rule.claims.is_empty()),
        (
            "methods",
            rule.methods.as_ref().is_some_and(|named| !METHODS.iter().all(|one| named.contains(one))),
        ),
        ("api_clients", rule.api_clients.as_ref().is_some_and(|globs| !globs.iter().any(|glob| glob == "*"))),
        ("issued_by", rule.issued_by.is_some()),
        ("login_urls", !rule.login_urls),
        ("rate", rule.rate.is_below(default.rate)),
        ("burst", rule.burst < default.burst),
        ("user_rate", rule.user_rate.is_below(default.user_rate)),
        ("user_burst", rule.user_burst < default.user_burst),
        ("max_in_flight", rule.max_in_flight.is_some()),
    ];
    for (key, narrows) in narrowing {
        let Some(line) = section.last_line_of(key).filter(|_| narrows) else { continue };
        if line > users_line {
            let form = if key == "claims" { " (as claims = { … }, not as a table of its own)" } else { "" };
            section.error(
                key,
                Problem::rule(format!(
                    "must come before \"{users_key}\"{form}: this key narrows the rule, and a file truncated \
                         between the two would allow more"
                )),
            );
        }
    }
}

/// Parses a pattern of callers or issuers. One that can never match is an error.
fn caller_glob(value: &Value, known: &KnownNames<'_>) -> Result<String, Problem> {
    let glob = value::text(value)?;
    if glob == ANONYMOUS {
        return Ok(glob);
    }
    let literal = glob.split(['*', '?']).next().unwrap_or_default();
    if !is_possible_caller(&glob) {
        return Err(Problem::rule(
            "matches no caller: names begin with \"spiffe://\", \"dns:\", \"jwt:\" or \"token:\", or are \
             \"anonymous\"",
        ));
    }
    check_known_caller(literal, literal.len() == glob.len(), known)?;
    Ok(glob)
}

/// Checks the beginning of a caller's name, or the whole of it, against the names of tokens and of
/// JWT issuers.
pub(super) fn check_known_caller(name: &str, is_whole: bool, known: &KnownNames<'_>) -> Result<(), Problem> {
    if is_whole
        && let Some(name) = name.strip_prefix(TOKEN_PREFIX)
        && !known.tokens.contains(&name)
    {
        let nearest =
            finding::nearest(name, known.tokens.iter().copied()).map(|name| format!("{TOKEN_PREFIX}{name}"));
        return Err(Problem::UnknownName { what: "the name of a token in [callers.tokens]", nearest });
    }
    if let Some(names) = &known.jwt_issuers
        && let Some(rest) = name.strip_prefix(JWT_PREFIX)
    {
        let (issuer, is_whole) = rest.split_once(':').map_or((rest, is_whole), |(it, _)| (it, true));
        let is_known = |name: &&str| if is_whole { *name == issuer } else { name.starts_with(issuer) };
        if !names.iter().any(is_known) {
            let nearest = finding::nearest(issuer, names.iter().copied()).map(|name| format!("jwt:{name}:"));
            return Err(Problem::rule(format!(
                "no issuer in [[callers.jwt]] has this name: write jwt:NAME:SUBJECT{}",
                DidYouMean(nearest.as_deref())
            )));
        }
        if is_whole && !rest.contains(':') {
            return Err(Problem::rule(format!("has no subject: write jwt:{issuer}:SUBJECT")));
        }
    }
    Ok(())
}

/// Parses a pattern of users.
fn user_pattern(kind: SubjectKind) -> impl Fn(&Value) -> Result<SubjectPattern, Problem> {
    move |value| {
        SubjectPattern::new(kind, &value::text(value)?).map_err(|error| Problem::rule(error.to_string()))
    }
}

pub(super) fn method(value: &Value) -> Result<Method, Problem> {
    let name = value::text(value)?;
    METHODS.into_iter().find(|method| method.name() == name).ok_or_else(|| {
        let nearest = finding::nearest(&name, METHODS.iter().map(|method| method.name()));
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
    let nearest = finding::nearest(&glob, names.iter().copied());
    if glob.contains(['*', '?']) {
        let text = format!("matches no API client in [api_clients]{}", DidYouMean(nearest.as_deref()));
        return Err(Problem::rule(text));
    }
    Err(Problem::UnknownName { what: "the name of an API client in [api_clients]", nearest })
}
