//! Warns about probable mistakes in access rules and candidate rules: rules that never decide a
//! call, and globs of callers and logins that begin or end within a name.
//!
//! Ids have no parts, and the operator of the gateway names the API clients in the same file, so
//! their globs are not checked.

use super::{
    Config,
    finding::Findings,
    tree::{Node, Table, Value},
    warnings::{list_at, table_at},
};
use crate::{
    access::{RuleSettings, Settings},
    caller::{DNS_PREFIX, JWT_PREFIX, SPIFFE_PREFIX, TOKEN_PREFIX},
    rule_comparison::{self, CoveredRule, Side},
};

/// Maximum number of rules that one warning names.
const MAX_NAMED_RULES: usize = 5;

/// The names that a glob matches in part, and the advice for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Within {
    /// The glob begins within the name of a caller.
    CallerBegins(Kind),
    /// The glob ends within the name of a caller.
    CallerEnds(Kind),
    /// The glob begins within the domain of a login.
    DomainBegins,
    /// The glob ends within the domain of a login.
    DomainEnds,
    /// The glob ends before the domain of a login.
    LoginEnds,
}

/// The kind of a caller's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Spiffe,
    Dns,
    Jwt,
    Token,
    Any,
}

/// Returns what a glob matches in part, if it does.
type Check = fn(&str) -> Option<Within>;

/// Adds the warnings about the access rules of a valid configuration.
pub(super) fn check(tree: &Table, config: &Config, findings: &Findings) {
    let Some(access) = table_at(tree, "access") else { return };
    let settings = &config.access;
    let has_own_candidates = settings.candidate_rules != settings.rules;
    for (list, rules) in [("rules", &settings.rules), ("candidate_rules", &settings.candidate_rules)] {
        let Some(nodes) = list_at(access, list) else { continue };
        // The warnings about candidate rules that equal the rules in force are the same.
        if list == "rules" || has_own_candidates {
            check_globs(list, nodes, findings);
            check_covered(access, (list, nodes), rules, config, findings);
        }
    }
}

/// Warns about globs in `callers`, `issued_by` and `logins` that begin or end within a name.
fn check_globs(rules: &str, nodes: &[Node], findings: &Findings) {
    let lists: [(&str, Check); 3] =
        [("callers", within_caller), ("issued_by", within_caller), ("logins", within_login)];
    for (rule, number) in nodes.iter().zip(1..) {
        let Value::Table(rule) = &rule.value else { continue };
        for (list, within_name) in lists {
            for (entry, index) in list_at(rule, list).unwrap_or_default().iter().zip(1..) {
                let Value::Text(glob) = &entry.value else { continue };
                if let Some(within) = within_name(glob) {
                    let key = format!("access.{rules}[{number}].{list}[{index}]");
                    findings.warning(entry.place.clone(), key, within.advice());
                }
            }
        }
    }
}

/// Warns about rules whose calls are all allowed by earlier rules.
fn check_covered(
    access: &Table,
    (list, nodes): (&str, &[Node]),
    rules: &[RuleSettings],
    config: &Config,
    findings: &Findings,
) {
    let settings = Settings::new(rules.to_vec());
    let tokens: Vec<&str> = config.callers.tokens.keys().map(|name| &**name).collect();
    let api_clients: Vec<&str> = config.api_clients.by_name.keys().map(|name| &**name).collect();
    let issuers = config.jwt_issuers();
    let issuers: Option<Vec<&str>> = issuers.as_ref().map(|names| names.iter().map(String::as_str).collect());
    let side = Side {
        access: &settings,
        tokens: &tokens,
        jwt_issuers: issuers.as_deref(),
        api_clients: &api_clients,
        default_api_client: config.api_clients.default.as_deref(),
        has_token_binding: config.token_keys.is_some(),
    };
    let Some(covered) = rule_comparison::covered_rules(side) else {
        if let Some(node) = access.get(list) {
            findings.warning(
                node.place.clone(),
                format!("access.{list}"),
                "not checked for rules that never decide a call: the rules combine in too many ways",
            );
        }
        return;
    };
    for CoveredRule { rule, by } in covered {
        let Some(node) = nodes.get(rule - 1) else { continue };
        let text = format!(
            "never decides a call, because {} before it {} all of its calls, so its quotas have no effect; \
             move it up, or remove it",
            numbered(&by),
            if by.len() == 1 { "allows" } else { "allow" },
        );
        findings.warning(node.place.clone(), format!("access.{list}[{rule}]"), text);
    }
}

/// Returns `rule 1`, `rules 1 and 2`, or `rules 1, 2 and 3`.
fn numbered(rules: &[usize]) -> String {
    let mut names: Vec<String> = rules.iter().take(MAX_NAMED_RULES).map(ToString::to_string).collect();
    if rules.len() > MAX_NAMED_RULES {
        names.push(format!("{} others", rules.len() - MAX_NAMED_RULES));
    }
    match names.split_last() {
        Some((last, [])) => format!("rule {last}"),
        Some((last, first)) => format!("rules {} and {last}", first.join(", ")),
        None => String::new(),
    }
}

/// Returns whether a glob begins or ends within the name of a caller.
fn within_caller(glob: &str) -> Option<Within> {
    let kinds = [
        (SPIFFE_PREFIX, Kind::Spiffe),
        (DNS_PREFIX, Kind::Dns),
        (JWT_PREFIX, Kind::Jwt),
        (TOKEN_PREFIX, Kind::Token),
    ];
    let kind =
        kinds.into_iter().find(|(prefix, _)| glob.starts_with(prefix)).map_or(Kind::Any, |(_, kind)| kind);
    runs(glob).find_map(|(before, after)| {
        // The prefix is not a part of the name: `jwt*` is `jwt:*`.
        if before.contains(':') && ends_with_name(before) {
            Some(Within::CallerEnds(kind))
        } else {
            begins_with_name(after).then_some(Within::CallerBegins(kind))
        }
    })
}

/// Returns whether a glob begins or ends within the domain of a login, or ends without one. More
/// logins of one domain are probably intended.
fn within_login(glob: &str) -> Option<Within> {
    runs(glob).find_map(|(before, after)| {
        if after.contains('@') {
            None
        } else if begins_with_name(after) {
            Some(Within::DomainBegins)
        } else {
            let within = if before.contains('@') { Within::DomainEnds } else { Within::LoginEnds };
            ends_with_name(before).then_some(within)
        }
    })
}

impl Within {
    /// Returns the text of the warning.
    const fn advice(self) -> &'static str {
        match self {
            Self::CallerBegins(Kind::Spiffe) => {
                "begins within a name, so it matches more names than probably intended: \
                 spiffe://example.org/ns/*billing/sa/api also matches spiffe://example.org/ns/evil-billing/sa/api; \
                 put a / before the name, or write the SPIFFE ID in full"
            }
            Self::CallerBegins(Kind::Dns) => {
                "begins within a name, so it matches more names than probably intended: dns:*customer.example \
                 also matches dns:evilcustomer.example; put a dot before the name, as in dns:*.customer.example"
            }
            Self::CallerBegins(Kind::Jwt) => {
                "begins within a name, so it matches more names than probably intended: jwt:*portal also matches \
                 jwt:system:serviceaccount:evil:evil-portal; put a separator before the name, as in jwt:*:portal, or \
                 write the subject in full"
            }
            Self::CallerBegins(Kind::Token | Kind::Any) => {
                "begins within a name, so it matches more names than probably intended: token:*billing also \
                 matches token:evil-billing; write the name in full"
            }
            Self::CallerEnds(Kind::Spiffe) => {
                "ends within a name, so it matches more names than probably intended: \
                 spiffe://example.org/ns/billing* also matches spiffe://example.org/ns/billing-evil/sa/api; put a / \
                 before the *, as in spiffe://example.org/ns/billing/*, or write the SPIFFE ID in full"
            }
            Self::CallerEnds(Kind::Dns) => {
                "ends within a name, so it matches more names than probably intended: dns:billing* also matches \
                 dns:billing.evil.example; write the name in full, or only its domain after the *, as in \
                 dns:*.customer.example"
            }
            Self::CallerEnds(Kind::Jwt) => {
                "ends within a name, so it matches more names than probably intended: \
                 jwt:system:serviceaccount:billing* also matches jwt:system:serviceaccount:billing-evil:api; put a \
                 separator before the *, as in jwt:system:serviceaccount:billing:*, or write the subject in full"
            }
            Self::CallerEnds(Kind::Token | Kind::Any) => {
                "ends within a name, so it matches more names than probably intended: token:billing* also \
                 matches token:billing2; put a separator before the *, as in token:billing-*, or write the name in full"
            }
            Self::DomainBegins => {
                "begins within a name, so it matches more names than probably intended: *customer.example also \
                 matches a@evilcustomer.example; put a separator before the name, as in *@customer.example"
            }
            Self::DomainEnds => {
                "ends within the domain, so it matches more logins than probably intended: *@customer* also \
                 matches a@customer.evil.example; write the domain in full, as in *@customer.example"
            }
            Self::LoginEnds => {
                "ends before the domain, so it matches more logins than probably intended: anna* also matches \
                 annabel@evil.example; write the domain, as in anna*@customer.example, or the login in full"
            }
        }
    }
}

/// Returns the texts before and after each run of `*`.
fn runs(glob: &str) -> impl Iterator<Item = (&str, &str)> {
    let positions = glob.match_indices('*').map(|(at, _)| at);
    positions.map(|at| (glob.get(..at).unwrap_or_default(), glob.get(at + 1..).unwrap_or_default()))
}

fn begins_with_name(text: &str) -> bool {
    text.starts_with(char::is_alphanumeric)
}

fn ends_with_name(text: &str) -> bool {
    text.ends_with(char::is_alphanumeric)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::caller::CALLER_PREFIXES;

    #[test]
    fn globs_that_begin_or_end_within_a_name_are_found() {
        for glob in
            ["*customer.example", "*@*customer.example", "anna@*customer.example", "**customer.example"]
        {
            assert_eq!(within_login(glob), Some(Within::DomainBegins), "{glob}");
        }
        for glob in ["*@customer*", "*@customer.ex*", "anna@customer*.example"] {
            assert_eq!(within_login(glob), Some(Within::DomainEnds), "{glob}");
        }
        for glob in ["anna*", "a*", "anna*.doe"] {
            assert_eq!(within_login(glob), Some(Within::LoginEnds), "{glob}");
        }
        for (glob, kind) in [
            ("spiffe://example.org/ns/billing*", Kind::Spiffe),
            ("spiffe://example.org/ns/billing*/sa/api", Kind::Spiffe),
            ("spiffe://example.org*", Kind::Spiffe),
            ("dns:web*", Kind::Dns),
            ("jwt:corp:svc*", Kind::Jwt),
            ("token:b*", Kind::Token),
            ("*:b*", Kind::Any),
        ] {
            assert_eq!(within_caller(glob), Some(Within::CallerEnds(kind)), "{glob}");
        }
        for (glob, kind) in [
            ("spiffe://*example.org/ns/a", Kind::Spiffe),
            ("spiffe://td/ns/*billing/sa/a", Kind::Spiffe),
            ("dns:*customer.example", Kind::Dns),
            ("jwt:*portal", Kind::Jwt),
            ("token:*a", Kind::Token),
            ("*api", Kind::Any),
        ] {
            assert_eq!(within_caller(glob), Some(Within::CallerBegins(kind)), "{glob}");
        }
    }

    /// The advice is about names of the kind that the glob matches, and its remedy is not reported.
    #[test]
    fn advice_is_about_the_names_that_the_glob_matches() {
        let logins = ["anna*", "*@customer*", "*customer.example"];
        let callers = [
            "spiffe://td/ns/a*",
            "spiffe://td/ns/*a/b",
            "dns:a*",
            "dns:*a",
            "jwt:a*",
            "jwt:*a",
            "token:a*",
            "token:*a",
        ];
        let checks: [(&[&str], Check); 2] = [(&logins, within_login), (&callers, within_caller)];
        for (globs, check) in checks {
            for glob in globs {
                let advice = check(glob).expect(glob).advice();
                let (_, examples) = advice.split_once(": ").expect(advice);
                let own = if globs.contains(&"anna*") {
                    ""
                } else {
                    glob.split_inclusive(':').next().expect("text")
                };
                let mut globs_in_advice =
                    examples.split([' ', ';', ',']).filter(|word| word.contains('*') && word.len() > 1);
                let reported = globs_in_advice.next().expect(advice);
                assert_eq!(check(reported), check(glob), "{advice}");
                for remedy in globs_in_advice {
                    assert!(remedy.starts_with(own) && check(remedy).is_none(), "{remedy}: {advice}");
                }
                let has_caller = CALLER_PREFIXES.iter().any(|prefix| advice.contains(prefix));
                assert_eq!(has_caller, !own.is_empty(), "{advice}");
            }
        }
    }

    #[test]
    fn globs_at_boundaries_are_not_reported() {
        for glob in [
            "*",
            "*@customer.example",
            "*@*.customer.example",
            "*.customer.example",
            "kept@*",
            "svc-*@customer.example",
            "anna*@customer.example",
            "a?na@customer.example",
        ] {
            assert_eq!(within_login(glob), None, "{glob}");
        }
        for glob in [
            "*",
            "j*",
            "spiffe*",
            "spiffe://*",
            "spiffe://td/ns/x/*",
            "spiffe://td/ns/*/sa/api",
            "dns:*.customer.example",
            "jwt:cluster:*",
            "jwt:*",
            "token:*",
            "token:ci-*",
            "token:?",
            "anonymous",
        ] {
            assert_eq!(within_caller(glob), None, "{glob}");
        }
    }

    #[test]
    fn long_lists_of_rules_are_shortened() {
        assert_eq!(numbered(&[1]), "rule 1");
        assert_eq!(numbered(&[1, 3]), "rules 1 and 3");
        assert_eq!(numbered(&[1, 2, 3, 4, 5, 6, 7]), "rules 1, 2, 3, 4, 5 and 2 others");
    }
}
