//! `[[access.tests]]`: calls, and what the access rules must decide about them.
//!
//! Tests are evaluated by the decision that calls get ([`Rules::answer`](crate::access::Rules::answer)),
//! whenever the rules are read. A failed test is an error like any other, so rules that break their
//! own tests are never in force.

mod outcome;

use std::sync::Arc;

pub(super) use self::outcome::with_failures;
pub use self::outcome::{AccessTestResult, TestFailure, TestOutcome};
use super::{
    access::{self, ClaimsOf, DefaultApiClient, KnownNames},
    finding::{self, Place, Problem},
    section::Section,
    tree::Value,
    value,
};
use crate::{
    access::{Settings, TokenUse},
    caller::Claims,
    domain::{
        call::Method,
        ott::{InvalidUser, Subject, SubjectKind},
    },
};

/// Maximum number of tests.
const MAX_TESTS: usize = 5000;

/// The rules that tests are run against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TestedRules {
    /// `[[access.rules]]`.
    InForce,
    /// `[[access.candidate_rules]]`, as if they were in force.
    Candidates,
}

/// A call and the expected decision (`[[access.tests]]`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessTest {
    /// Number of the test in the file, from 1.
    pub number: usize,
    /// Place of the test.
    pub place: Place,
    /// `caller`: name of the caller.
    pub caller: String,
    /// `claims`: claims of the caller's JWT.
    pub claims: Claims,
    /// `method`.
    pub method: Method,
    /// `login_url`: whether the call is an `IssueOtt` that requests a login URL.
    pub login_url: bool,
    /// `issued_by`: name of the caller that the sealed token of a `LoginWithOtt` was issued to.
    /// `None` for a token that is not sealed.
    pub issued_by: Option<String>,
    /// `user`. For a `LoginWithOtt` with a token that is not sealed, the only name of the account in the
    /// platform's response; `None` if the test is only about the request.
    pub user: Option<Subject>,
    /// `api_client`, or the default API client. `None` if the default is not known, because
    /// `[api_clients]` has errors.
    pub api_client: Option<Arc<str>>,
    /// `expect` and `rule`.
    pub expected: Expected,
}

impl AccessTest {
    /// Returns the method, and what it does with a token.
    #[must_use]
    pub fn token_use(&self) -> TokenUse<'_> {
        match self.method {
            Method::IssueOtt => TokenUse::Issue { login_url: self.login_url },
            Method::LoginWithOtt => TokenUse::Login { issued_by: self.issued_by.as_deref() },
        }
    }
}

/// The decision that a test expects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    /// No rule allows the call.
    Deny,
    /// A rule allows the call.
    Allow {
        /// `rule`: the name of the rule that must decide; `None` if any may.
        rule: Option<Arc<str>>,
    },
}

/// Reads `[access]`: the settings, and the results of the tests. Tests are evaluated unless the
/// tested rules have errors. Without candidate rules, testing them is an error.
pub(super) fn read_access_and_tests(
    mut section: Section<'_>,
    known: &KnownNames<'_>,
    tested: TestedRules,
) -> (Settings, Vec<AccessTestResult>) {
    let read = access::read_access(&mut section, known);
    let Settings { rules: in_force, candidate_rules: candidates, .. } = &read.settings;
    let mut names: Vec<&str> = in_force.iter().filter_map(|rule| rule.name.as_deref()).collect();
    let (key, rules, read_rules) = match tested {
        TestedRules::InForce => ("rules", in_force, &read.in_force),
        TestedRules::Candidates => {
            // A test of a rule that is not among the candidates fails, and is no error of the file.
            names.extend(candidates.iter().filter_map(|rule| rule.name.as_deref()));
            ("candidate_rules", candidates, &read.candidates)
        }
    };
    if tested == TestedRules::Candidates && rules.is_empty() && read_rules.is_valid {
        let hint = "there are no [[access.candidate_rules]] to check";
        section.error("candidate_rules", Problem::Missing(hint));
    }
    let tables = section.list_of_tables("tests");
    if tables.len() > MAX_TESTS {
        section.error("tests", Problem::rule(format!("must have at most {MAX_TESTS} tests")));
        section.finish();
        return (read.settings, Vec::new());
    }
    let tests = (1..).zip(tables).filter_map(|(number, table)| read_test(table, number, known, &names));
    let results = outcome::evaluate(tests.collect(), read_rules.is_valid.then_some(rules));
    outcome::warn_of_untested(&section, key, &results, &read_rules.places);
    section.finish();
    (read.settings, results)
}

/// Reads a test. Reports the errors of an invalid one.
fn read_test(
    mut section: Section<'_>,
    number: usize,
    known: &KnownNames<'_>,
    rules: &[&str],
) -> Option<AccessTest> {
    let place = section.own_place();
    let hint = "the name of a caller, such as \"token:billing\"";
    let caller = section.required("caller", hint, |value| caller(value, known));
    let has_table = matches!(section.node("claims"), Some(Value::Table(_)));
    let claims = match section.optional_table("claims") {
        // Reported as a wrong type.
        Some(_) if !has_table => None,
        None => Some(Claims::none()),
        Some(table) => {
            let is_jwt = caller.as_ref().is_none_or(|caller| caller.starts_with("jwt:"));
            if !is_jwt {
                section.error("claims", Problem::rule("are only for a caller with a JWT, jwt:SUBJECT"));
            }
            let claims = access::read_claims(table, ClaimsOf::Caller);
            let values = claims
                .into_iter()
                .flat_map(|claim| claim.values.into_iter().map(move |value| (claim.path.clone(), value)));
            is_jwt.then(|| Claims::new(values.collect()))
        }
    };
    let method = section.required("method", "\"IssueOtt\" or \"LoginWithOtt\"", access::method);
    let login_url = section.optional("login_url", value::boolean);
    let issued_by = section.optional("issued_by", |value| self::caller(value, known));
    let is_missing = |key, is_read: bool| section.has(key) && !is_read;
    let mut is_use_valid =
        !is_missing("login_url", login_url.is_some()) && !is_missing("issued_by", issued_by.is_some());
    if login_url == Some(true) && method == Some(Method::LoginWithOtt) {
        is_use_valid = false;
        section.error("login_url", Problem::rule("is only for IssueOtt, which returns login URLs"));
    }
    if section.has("issued_by") && method == Some(Method::IssueOtt) {
        is_use_valid = false;
        section.error("issued_by", Problem::rule("is only for LoginWithOtt, which spends sealed tokens"));
    }
    let has_user = section.has("user");
    let user = section.optional("user", user);
    if !has_user && method == Some(Method::IssueOtt) {
        section.error("user", Problem::Missing("the decision on IssueOtt depends on it"));
    } else if !has_user && issued_by.is_some() {
        section.error(
            "user",
            Problem::Missing("a sealed token contains its user, and the decision depends on it"),
        );
    }
    let api_client = if section.has("api_client") {
        section.optional("api_client", |value| api_client(value, known)).map(Some)
    } else {
        match known.default_api_client {
            DefaultApiClient::Known(Some(default)) => Some(Some(Arc::from(default))),
            DefaultApiClient::Unknown => Some(None),
            DefaultApiClient::Known(None) => {
                let hint = "no API client is the default, so a call that names none is refused";
                section.error("api_client", Problem::Missing(hint));
                None
            }
        }
    };
    let expect = section.required(
        "expect",
        "\"allow\" or \"deny\"",
        value::one_of(&[("allow", true), ("deny", false)]),
    );
    let has_rule = section.has("rule");
    if has_rule && expect == Some(false) {
        section.error("rule", Problem::rule("cannot be combined with expect = \"deny\": no rule decides it"));
    }
    let rule = section.optional("rule", |value| rule(value, rules));
    section.finish();
    let expected = match (expect?, has_rule, rule) {
        (true, true, None) => return None,
        (true, _, rule) => Expected::Allow { rule },
        (false, has_rule, _) => (!has_rule).then_some(Expected::Deny)?,
    };
    let (method, user) = match (method?, has_user, user) {
        // The user is invalid or missing.
        (_, true, None) | (Method::IssueOtt, false, _) => return None,
        (_, false, _) if issued_by.is_some() => return None,
        (method, _, user) => (method, user),
    };
    if !is_use_valid {
        return None;
    }
    let (caller, claims, api_client) = (caller?, claims?, api_client?);
    let login_url = login_url.unwrap_or(false);
    Some(AccessTest {
        number,
        place,
        caller,
        claims,
        method,
        login_url,
        issued_by,
        user,
        api_client,
        expected,
    })
}

/// Parses the name of a caller that the configuration can identify.
fn caller(value: &Value, known: &KnownNames<'_>) -> Result<String, Problem> {
    let name = value::text(value)?;
    if !crate::caller::is_caller_name(&name) {
        return Err(Problem::rule(
            "must be the name of one caller: spiffe://DOMAIN/PATH, dns:NAME in lower case, jwt:SUBJECT, token:NAME \
             or \"anonymous\"",
        ));
    }
    access::check_known_caller(&name, true, known)?;
    Ok(name)
}

/// Parses a user in the notation of `check-config --explain`.
fn user(value: &Value) -> Result<Subject, Problem> {
    let text = value::text(value)?;
    if text == "-" {
        return Err(Problem::rule("must be a user; remove the key for a login of any user"));
    }
    Subject::parse(&text).map_err(|error| match &error {
        InvalidUser::Kind { prefix } => {
            let kinds = SubjectKind::ALL.iter().map(|kind| kind.field());
            let nearest = finding::nearest(prefix, kinds).map(|kind| format!("{kind}:"));
            Problem::UnknownName { what: "login:NAME, external_id:ID or user_id:ID", nearest }
        }
        InvalidUser::Name(_) => Problem::rule(error.to_string()),
    })
}

fn api_client(value: &Value, known: &KnownNames<'_>) -> Result<Arc<str>, Problem> {
    let name = value::text(value)?;
    if let Some(names) = &known.api_clients
        && !names.contains(&name.as_str())
    {
        let nearest = finding::nearest(&name, names.iter().copied());
        return Err(Problem::UnknownName { what: "the name of an API client in [api_clients]", nearest });
    }
    Ok(Arc::from(name))
}

/// Parses the name of a rule. Numbers are not accepted, because they change when a rule is added.
fn rule(value: &Value, names: &[&str]) -> Result<Arc<str>, Problem> {
    if matches!(value, Value::Integer(_)) {
        let rule = "must be the name of a rule, because numbers change when rules are added";
        return Err(Problem::rule(rule));
    }
    let name = value::text(value)?;
    if names.contains(&name.as_str()) {
        return Ok(Arc::from(name));
    }
    let nearest = finding::nearest(&name, names.iter().copied());
    Err(Problem::UnknownName { what: "the name of an access rule", nearest })
}
