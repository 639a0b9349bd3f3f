//! Comparisons agree with trying every call over few names.

use std::sync::Arc;

use super::*;

const CALLERS: [&str; 17] = [
    "anonymous",
    "token:a",
    "token:b",
    "dns:a",
    "dns:b",
    "dns:x",
    "dns:a.b",
    "jwt:a",
    "jwt:b",
    "jwt:x",
    "jwt:a:a",
    "jwt:a:x",
    "jwt:b:a",
    "spiffe://a/a",
    "spiffe://a/b",
    "spiffe://b/a",
    "spiffe://x/x",
];
const CALLER_GLOBS: [&str; 23] = [
    "*",
    "anonymous",
    "token:a",
    "token:b",
    "token:*",
    "token:?",
    "dns:*",
    "dns:a",
    "dns:?",
    "dns:a*",
    "jwt:*",
    "jwt:a",
    "jwt:?",
    "jwt:a:*",
    "jwt:a:a",
    "jwt:*:a",
    "*a",
    "*:?",
    "spiffe://a/*",
    "spiffe://*/a",
    "spiffe://a/a",
    "?*:*b",
    "*/*",
];
const USERS: [&str; 19] = [
    "login:a",
    "login:b",
    "login:x",
    "login:a@a",
    "login:b@a",
    "login:x@x",
    "login:\u{ff41}",
    // With combining marks: only `e` with an acute has a character of its own.
    "login:\u{e9}",
    "login:x\u{301}",
    "login:x\u{323}\u{301}",
    "login:\u{1eb9}\u{301}",
    "login:\u{301}",
    "external_id:a",
    "external_id:A",
    "external_id:x",
    "user_id:a",
    "user_id:x",
    "user_id:3f2504e0-4f89-11d3-9a0c-0305e82c3301",
    "user_id:00000000-4f89-11d3-9a0c-0305e82c3301",
];
const USER_PATTERNS: [&str; 28] = [
    "login:*",
    "login:a",
    "login:A",
    "login:?",
    "login:*@a",
    "login:a*",
    "login:*@*",
    "login:?@*",
    "login:?\u{301}",
    "login:*\u{301}",
    "login:e*",
    "login:e\u{301}*",
    "login:?\u{323}*",
    "login:*\u{323}\u{301}",
    "login:a?*\u{301}",
    "login:e?",
    "external_id:*",
    "external_id:A",
    "external_id:?",
    "user_id:*",
    "user_id:a",
    "user_id:?",
    "user_id:??*",
    "user_id:3f*",
    "user_id:3F*",
    "user_id:3F2504E04F8911D39A0C0305E82C3301",
    "user_id:*-*",
    "user_id:*3301",
];
const API_CLIENTS: [&str; 3] = ["eu", "us", "eu2"];
/// Including tokens that neither file has, and issuers of JWTs.
const ISSUERS: [&str; 8] =
    ["anonymous", "token:a", "token:c", "dns:a", "dns:x", "jwt:a:a", "spiffe://a/a", "spiffe://x/x"];
const ISSUER_GLOBS: [&str; 14] = [
    "*",
    "anonymous",
    "token:*",
    "token:a",
    "token:?",
    "dns:*",
    "dns:a",
    "dns:?",
    "jwt:*",
    "jwt:*:a",
    "*a",
    "spiffe://*/a",
    "spiffe://a/*",
    "?*:*x",
];

/// A call, or the login of an account with one name.
#[derive(Clone, Debug)]
struct Call {
    caller: &'static str,
    claims: Claims,
    token_use: TokenUse<'static>,
    user: Subject,
    api_client: &'static str,
}

impl Call {
    /// Returns whether the user is known before the platform is called.
    fn is_user_known(&self) -> bool {
        !matches!(self.token_use, TokenUse::Login { issued_by: None })
    }
}

fn claim_sets() -> Vec<Claims> {
    let pairs = [("g", "a"), ("g", "b"), ("n", "a"), ("n", "b")];
    let pair =
        |(path, value): (&str, &str)| (ClaimPath::new(path).expect("a path"), ClaimValue::Text(value.into()));
    let chosen = |set: usize| (0..pairs.len()).filter(move |at| set >> at & 1 == 1).map(|at| pair(pairs[at]));
    (0..1 << pairs.len()).map(|set| Claims::new(chosen(set).collect())).collect()
}

fn all_calls() -> Vec<Call> {
    let mut calls = Vec::new();
    let users: Vec<Subject> = USERS.iter().map(|text| subject(text)).collect();
    for caller in CALLERS {
        let claims = if caller.starts_with("jwt:") { claim_sets() } else { vec![Claims::none()] };
        for claims in claims {
            for (number, token_use) in token_uses().into_iter().enumerate() {
                for api_client in API_CLIENTS {
                    // Not all users for each issuer, but each user for some of them.
                    let few = if matches!(token_use, TokenUse::Login { issued_by: Some(_) }) { 4 } else { 1 };
                    calls.extend(users.iter().skip(number % few).step_by(few).map(|user| Call {
                        caller,
                        claims: claims.clone(),
                        token_use,
                        user: user.clone(),
                        api_client,
                    }));
                }
            }
        }
    }
    calls
}

fn token_uses() -> Vec<TokenUse<'static>> {
    let sealed = ISSUERS.map(|issuer| TokenUse::Login { issued_by: Some(issuer) });
    let others = [
        TokenUse::Issue { login_url: false },
        TokenUse::Issue { login_url: true },
        TokenUse::Login { issued_by: None },
    ];
    [&others[..], &sealed].concat()
}

fn glob_matches_caller(glob: &str, caller: &str) -> bool {
    if caller == ANONYMOUS { glob == ANONYMOUS } else { WildMatch::new(glob).matches(caller) }
}

impl Config {
    /// Returns whether the caller and the API client exist.
    fn knows(&self, call: &Call) -> bool {
        self.api_clients.contains(&call.api_client) && self.knows_caller(call.caller)
    }

    fn knows_caller(&self, caller: &str) -> bool {
        let is_of_known_issuer = |name: &str| {
            let issuers = self.jwt_issuers.as_ref();
            issuers.is_none_or(|issuers| {
                name.split_once(':').is_some_and(|(issuer, _)| issuers.contains(&issuer))
            })
        };
        caller.strip_prefix("token:").is_none_or(|name| self.tokens.contains(&name))
            && caller.strip_prefix("jwt:").is_none_or(is_of_known_issuer)
    }

    /// Returns the number of the first rule with the caller, the method, and, if asked for, the message
    /// (the API client and the use of the token) and the user of a call.
    fn first(&self, call: &Call, with_message: bool, with_user: bool) -> Option<usize> {
        let is_for_token = |rule: &RuleSettings| match (call.token_use, &rule.issued_by) {
            (TokenUse::Issue { login_url }, _) => rule.login_urls || !login_url,
            (TokenUse::Login { .. }, None) => true,
            (TokenUse::Login { issued_by: None }, Some(_)) => false,
            (TokenUse::Login { issued_by: Some(issuer) }, Some(globs)) => {
                globs.iter().any(|glob| glob_matches_caller(glob, issuer))
            }
        };
        let applies = |rule: &RuleSettings| {
            rule.callers.iter().any(|glob| glob_matches_caller(glob, call.caller))
                && call.claims.meet(&rule.claims)
                && rule.methods.as_ref().is_none_or(|methods| methods.contains(&call.token_use.method()))
                && (!with_message || is_for_token(rule))
                && (!with_message
                    || rule.api_clients.as_ref().is_none_or(|globs| {
                        globs.iter().any(|glob| WildMatch::new(glob).matches(call.api_client))
                    }))
                && (!with_user || rule.users.contain(&call.user))
        };
        self.access.rules.iter().position(applies).map(|position| position + 1)
    }

    fn allowing(&self, call: &Call) -> Option<usize> {
        self.first(call, true, true).filter(|_| self.knows(call))
    }
}

fn matches_user(entry: &str, user: &Subject) -> bool {
    match entry {
        "all" => true,
        entry if entry.contains(' ') => user.form().is_none(),
        entry => Users::Listed(vec![pattern(entry)]).contain(user),
    }
}

fn is_in(names: &Names, matches: impl Fn(&str) -> bool) -> bool {
    let any = |list: &[Arc<str>]| list.iter().any(|entry| matches(entry));
    any(&names.any_of) && names.and.iter().all(|list| any(list)) && !any(&names.except)
}

/// Reads a requirement as the report writes it.
fn is_met(text: &str, claims: &Claims) -> bool {
    let (path, values) = text.split_once(" = ").expect("a claim");
    let values: Vec<&str> = values.split(" or ").map(|value| value.trim_matches('"')).collect();
    claims.meet(&[requirement(path, &values)])
}

/// Returns whether the words of a report are about calls with this use of a token.
fn is_of_kind(calls: &Calls, token_use: TokenUse<'_>) -> bool {
    let is_issuer = |issuer| {
        calls.issuers.as_ref().is_none_or(|issuers| is_in(issuers, |glob| glob_matches_caller(glob, issuer)))
    };
    calls.kind.method() == token_use.method()
        && match token_use {
            TokenUse::Issue { login_url } => {
                calls.kind.login_url().is_none_or(|with_url| with_url == login_url)
            }
            TokenUse::Login { issued_by: None } => calls.kind.sealed() != Some(true),
            TokenUse::Login { issued_by: Some(issuer) } => {
                calls.kind.sealed() != Some(false) && is_issuer(issuer)
            }
        }
}

/// Returns whether the words of a report describe a call.
fn describes(calls: &Calls, call: &Call, configured: &Config, is_user_known: bool) -> bool {
    is_of_kind(calls, call.token_use)
        && is_in(&calls.callers, |entry| glob_matches_caller(entry, call.caller))
        && (calls.claims.is_empty() || call.caller.starts_with("jwt:"))
        && calls.claims.iter().all(|claim| is_met(claim, &call.claims))
        && !calls.without_claims.iter().any(|rule| rule.iter().all(|claim| is_met(claim, &call.claims)))
        && match &calls.api_clients {
            Some(names) => names.iter().any(|name| name == call.api_client),
            None => configured.api_clients.contains(&call.api_client) || !is_user_known,
        }
        && (!is_user_known || is_in(&calls.users, |entry| matches_user(entry, &call.user)))
}

const GROUPS: &[&[&str]] = &[&["a"], &["b"], &["a", "b"]];

fn rules() -> impl Strategy<Value = Vec<RuleSettings>> {
    let callers = prop::collection::vec(prop::sample::select(&CALLER_GLOBS[..]), 1..4);
    let patterns = prop_oneof![
        1 => Just(vec!["all"]),
        3 => prop::collection::vec(prop::sample::select(&USER_PATTERNS[..]), 1..4),
    ];
    let methods = prop_oneof![
        2 => Just(None),
        1 => Just(Some(vec![Method::IssueOtt])),
        1 => Just(Some(vec![Method::LoginWithOtt])),
    ];
    let api_clients = prop_oneof![
        3 => Just(None),
        2 => prop::collection::vec(prop::sample::select(&["eu", "us", "eu*", "*", "e?"][..]), 1..3).prop_map(Some),
    ];
    let group = prop::sample::select(GROUPS);
    let claims = prop_oneof![
        4 => Just(Vec::new()),
        1 => group.clone().prop_map(|values| vec![requirement("g", values)]),
        3 => (group.clone(), group.clone()).prop_map(|(g, n)| vec![requirement("g", g), requirement("n", n)]),
        1 => group.prop_map(|values| vec![requirement("n", values)]),
    ];
    // In most files, no rule limits tokens.
    let token_limits = prop_oneof![
        4 => Just((None, true)),
        1 => Just((None, false)),
        2 => (prop::collection::vec(prop::sample::select(&ISSUER_GLOBS[..]), 1..3), any::<bool>())
            .prop_map(|(globs, login_urls)| (Some(globs), login_urls)),
    ];
    let limits = (1..3_u32, 1..3_u32, prop::option::of(1..2_u32));
    let rule = (callers, patterns, methods, api_clients, claims, limits, token_limits).prop_map(
        |(
            callers,
            patterns,
            methods,
            api_clients,
            claims,
            (burst, user_burst, in_flight),
            (issued_by, login_urls),
        )| RuleSettings {
            methods,
            api_clients: api_clients.map(|globs| texts(&globs)),
            claims,
            issued_by: issued_by.map(|globs| texts(&globs)),
            login_urls,
            burst: number(burst),
            user_burst: number(user_burst),
            max_in_flight: in_flight.map(number),
            ..rule(&callers, &patterns)
        },
    );
    (prop::collection::vec(rule, 1..5), any::<bool>()).prop_map(|(mut rules, limit_tokens)| {
        for rule in rules.iter_mut().filter(|_| !limit_tokens) {
            (rule.issued_by, rule.login_urls) = (None, true);
        }
        rules
    })
}

/// Two configurations; the second often has the rules of the first, changed.
fn configs() -> impl Strategy<Value = (Config, Config)> {
    let names = (
        prop::sample::subsequence(vec!["a", "b"], 0..=2),
        prop::option::of(prop::sample::subsequence(vec!["a", "b"], 1..=2)),
        prop::sample::subsequence(API_CLIENTS.to_vec(), 1..=3),
        any::<bool>(),
    );
    let changed =
        (rules(), rules(), prop::collection::vec(any::<bool>(), 4)).prop_map(|(old, other, kept)| {
            let both = old.iter().zip(&kept).filter(|(_, kept)| **kept).map(|(rule, _)| rule.clone());
            let new: Vec<RuleSettings> = both.chain(other).collect();
            (old, new)
        });
    (changed, names.clone(), names).prop_map(|((old, new), old_names, new_names)| {
        let config = |rules, (tokens, jwt_issuers, api_clients, has_token_binding)| Config {
            access: Settings::new(rules),
            tokens,
            jwt_issuers,
            api_clients,
            has_token_binding,
        };
        (config(old, old_names), config(new, new_names))
    })
}

fn check_openings(
    openings: &[Opening],
    allowing: &Config,
    other: &Config,
    calls: &[Call],
) -> Result<(), TestCaseError> {
    for call in calls {
        let rule = allowing.allowing(call).filter(|_| other.allowing(call).is_none());
        let found: Vec<usize> = openings
            .iter()
            .filter(|opening| allowing.knows(call) && describes(&opening.calls, call, allowing, true))
            .map(|opening| opening.rule.number)
            .collect();
        let is_reported = found.first() == rule.as_ref() && found.iter().all(|number| Some(*number) == rule);
        prop_assert!(is_reported, "{:?}: expected {:?}, found {:?} in {:#?}", call, rule, found, openings);
    }
    for opening in openings {
        let call = example(&opening.example, opening.calls.kind, allowing, other);
        let description = format!("{call:?} of {opening:#?}");
        prop_assert_eq!(allowing.allowing(&call), Some(opening.rule.number), "{}", description);
        prop_assert_eq!(other.allowing(&call), None, "{}", description);
        prop_assert!(describes(&opening.calls, &call, allowing, true), "{}", description);
        let decides = |config: &Config| {
            let rules = Rules::try_new(config.access.rules.clone()).expect("valid rules");
            let principal = Principal { name: call.caller, claims: &call.claims };
            let user = Some(&call.user).filter(|_| call.is_user_known());
            let question =
                Question { caller: principal, token_use: call.token_use, api_client: call.api_client, user };
            rules.answer(question).deciding().map(|rule| rule.number)
        };
        prop_assert!(decides(allowing).is_some(), "{}", description);
        if call.is_user_known() {
            prop_assert_eq!(decides(allowing), Some(opening.rule.number), "{}", description);
            prop_assert_eq!(decides(other).filter(|_| other.knows(&call)), None, "{}", description);
        }
    }
    Ok(())
}

/// Returns the call of an example.
fn example(example: &Example, kind: CallKind, allowing: &Config, other: &Config) -> Call {
    let defaults = [allowing, other].map(|config| config.api_clients[0]);
    let api_client = example.api_client.as_deref().unwrap_or(defaults[0]);
    assert!(example.api_client.is_some() || defaults[0] == defaults[1], "{example:?}");
    Call {
        // Leaked: the calls of the tests have static names.
        caller: String::leak(example.caller.clone()),
        claims: example.claims.clone(),
        token_use: match example.token_use(kind) {
            TokenUse::Login { issued_by: Some(issuer) } => {
                TokenUse::Login { issued_by: Some(String::leak(issuer.to_owned())) }
            }
            TokenUse::Login { issued_by: None } => TokenUse::Login { issued_by: None },
            TokenUse::Issue { login_url } => TokenUse::Issue { login_url },
        },
        user: subject(example.user.as_deref().unwrap_or("login:x")),
        api_client: API_CLIENTS.into_iter().find(|name| *name == api_client).expect("an API client"),
    }
}

/// Returns the rules that set a group of quotas of a call in two files, if both allow it.
fn deciding(old: &Config, new: &Config, call: &Call, in_flight: bool) -> Option<(usize, usize)> {
    let exists =
        |config: &Config| if in_flight { config.knows_caller(call.caller) } else { config.knows(call) };
    let rule = |config: &Config| {
        let with_user = !in_flight && call.is_user_known();
        config.first(call, !in_flight, with_user).filter(|_| exists(config))
    };
    Some((rule(old)?, rule(new)?))
}

fn limits(config: &Config, number: usize, method: Method, in_flight: bool) -> Vec<String> {
    let rule = &config.access.rules[number - 1];
    match (in_flight, method) {
        (true, _) => vec![format!("{:?}", rule.max_in_flight)],
        (false, Method::LoginWithOtt) => vec![rule.burst.to_string()],
        (false, Method::IssueOtt) => vec![rule.burst.to_string(), rule.user_burst.to_string()],
    }
}

fn check_quotas(
    changes: &[QuotaChange],
    old: &Config,
    new: &Config,
    calls: &[Call],
) -> Result<(), TestCaseError> {
    // Without keys in both files, no sealed token can be spent under both.
    let has_issuers = |config: &Config| config.access.rules.iter().any(|rule| rule.issued_by.is_some());
    let has_sealed = (old.has_token_binding && new.has_token_binding) || has_issuers(old) || has_issuers(new);
    let is_possible =
        |call: &&Call| has_sealed || !matches!(call.token_use, TokenUse::Login { issued_by: Some(_) });
    let calls: Vec<&Call> = calls.iter().filter(is_possible).collect();
    let is_in_flight = |change: &&QuotaChange| change.changes.iter().any(|it| it.key == "max_in_flight");
    for (call, in_flight) in calls.into_iter().flat_map(|call| [(call, false), (call, true)]) {
        let expected = deciding(old, new, call, in_flight).filter(|(before, after)| {
            let method = call.token_use.method();
            limits(old, *before, method, in_flight) != limits(new, *after, method, in_flight)
        });
        let is_user_known = !in_flight && call.is_user_known();
        let exists =
            |config: &Config| if in_flight { config.knows_caller(call.caller) } else { config.knows(call) };
        let found: Vec<(usize, usize)> = changes
            .iter()
            .filter(|change| is_in_flight(change) == in_flight && exists(old) && exists(new))
            .filter(|change| {
                let clients = change.calls.api_clients.as_ref();
                let is_for_client =
                    in_flight || clients.is_none_or(|names| names.iter().any(|name| name == call.api_client));
                is_for_client
                    && describes(
                        &Calls { api_clients: None, ..change.calls.clone() },
                        call,
                        old,
                        is_user_known,
                    )
            })
            .map(|change| (change.old_rule.number, change.new_rule.number))
            .collect();
        let is_reported =
            found.first() == expected.as_ref() && found.iter().all(|rules| Some(*rules) == expected);
        prop_assert!(is_reported, "{:?}: expected {:?}, found {:?} in {:#?}", call, expected, found, changes);
    }
    for change in changes {
        let call = example(&change.example, change.calls.kind, new, old);
        prop_assert!(is_of_kind(&change.calls, call.token_use), "{:#?}", change);
        let expected = deciding(old, new, &call, is_in_flight(&change));
        prop_assert_eq!(expected, Some((change.old_rule.number, change.new_rule.number)), "{:#?}", change);
    }
    Ok(())
}

/// Each case is a few thousand calls. `PROPTEST_CASES` overrides the number.
fn cases() -> ProptestConfig {
    const USUAL: u32 = 256;
    const FEWER: u32 = 64;
    let default = ProptestConfig::default();
    ProptestConfig { cases: if default.cases == USUAL { FEWER } else { default.cases }, ..default }
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn comparison_agrees_with_all_calls_over_few_names((old, new) in configs()) {
        let calls = all_calls();
        let compared = compare(old.side(), new.side()).expect("small rules");
        check_openings(&compared.opened, &new, &old, &calls)?;
        check_openings(&compared.closed, &old, &new, &calls)?;
        check_quotas(&compared.quotas, &old, &new, &calls)?;
    }

    #[test]
    fn rules_that_never_decide_agree_with_all_calls((config, _) in configs()) {
        let calls = all_calls();
        let covered = covered_rules(config.side()).expect("small rules");
        for call in &calls {
            let decides = config.allowing(call);
            let is_covered = covered.iter().find(|covered| Some(covered.rule) == decides);
            prop_assert!(is_covered.is_none(), "{:?} {:?}", call, is_covered);
        }
        for CoveredRule { rule, by } in covered {
            prop_assert!(!by.is_empty() && by.iter().all(|other| *other < rule), "{:?}", by);
            // The calls that the rule allows are allowed by the named rules.
            let only = |numbers: &[usize]| {
                let mut only = config.clone();
                only.access.rules = numbers.iter().map(|number| config.access.rules[number - 1].clone()).collect();
                only
            };
            let (own, others) = (only(&[rule]), only(&by));
            for call in &calls {
                prop_assert!(own.allowing(call).is_none() || others.allowing(call).is_some(), "{:?}", call);
            }
        }
    }
}
