//! Warns about probable mistakes in access rules: rules that never decide a call, and globs that
//! begin or end within a name.

use super::{
    Config,
    finding::Findings,
    tree::{Node, Table, Value},
    warnings::{list_at, table_at},
};
use crate::rule_comparison::{self, CoveredRule, Side};

/// Maximum number of rules that one warning names.
const MAX_NAMED_RULES: usize = 5;

const BEGINS_WITHIN_NAME: &str = "begins within a name, so it matches more names than probably intended: \
     *customer.example also matches a@evilcustomer.example; put a separator before the name, as in \
     *@customer.example";
const ENDS_WITHIN_NAME: &str = "ends within a name, so it matches more names than probably intended: \
     billing* also matches billing-evil; put a separator before the *, as in billing/*, or write the name in full";

/// Returns why a glob begins or ends within a name, if it does.
type Check = fn(&str) -> Option<&'static str>;

/// Adds the warnings about the access rules of a valid configuration.
pub(super) fn check(tree: &Table, config: &Config, findings: &Findings) {
    let Some(access) = table_at(tree, "access") else { return };
    let Some(rules) = list_at(access, "rules") else { return };
    check_globs(rules, findings);
    check_covered(access, rules, config, findings);
}

/// Warns about globs in `callers` and `logins` that begin or end within a name. Ids have no parts.
fn check_globs(rules: &[Node], findings: &Findings) {
    let lists: [(&str, Check); 2] = [("callers", within_caller), ("logins", within_login)];
    for (rule, number) in rules.iter().zip(1..) {
        let Value::Table(rule) = &rule.value else { continue };
        for (list, within_name) in lists {
            for (entry, index) in list_at(rule, list).unwrap_or_default().iter().zip(1..) {
                let Value::Text(glob) = &entry.value else { continue };
                if let Some(why) = within_name(glob) {
                    findings.warning(
                        entry.place.clone(),
                        format!("access.rules[{number}].{list}[{index}]"),
                        why,
                    );
                }
            }
        }
    }
}

/// Warns about rules whose calls are all allowed by earlier rules.
fn check_covered(access: &Table, rules: &[Node], config: &Config, findings: &Findings) {
    let tokens: Vec<&str> = config.callers.tokens.keys().map(|name| &**name).collect();
    let api_clients: Vec<&str> = config.api_clients.by_name.keys().map(|name| &**name).collect();
    let issuers = config.jwt_issuers();
    let issuers: Option<Vec<&str>> = issuers.as_ref().map(|names| names.iter().map(String::as_str).collect());
    let side = Side {
        access: &config.access,
        tokens: &tokens,
        jwt_issuers: issuers.as_deref(),
        api_clients: &api_clients,
        default_api_client: config.api_clients.default.as_deref(),
    };
    let Some(covered) = rule_comparison::covered_rules(side) else {
        if let Some(node) = access.get("rules") {
            findings.warning(
                node.place.clone(),
                "access.rules",
                "not checked for rules that never decide a call: the rules combine in too many ways",
            );
        }
        return;
    };
    for CoveredRule { rule, by } in covered {
        let Some(node) = rules.get(rule - 1) else { continue };
        let text = format!(
            "never decides a call, because {} before it {} all of its calls, so its quotas have no effect; \
             move it up, or remove it",
            numbered(&by),
            if by.len() == 1 { "allows" } else { "allow" },
        );
        findings.warning(node.place.clone(), format!("access.rules[{rule}]"), text);
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

/// Returns why a glob begins or ends within the name of a caller, if it does.
fn within_caller(glob: &str) -> Option<&'static str> {
    runs(glob).find_map(|(before, after)| {
        // The prefix is not a part of the name: `jwt*` is `jwt:*`.
        if before.contains(':') && ends_with_name(before) {
            Some(ENDS_WITHIN_NAME)
        } else {
            begins_with_name(after).then_some(BEGINS_WITHIN_NAME)
        }
    })
}

/// Returns why a glob begins or ends within the domain of a login, if it does. More logins of one
/// domain are probably intended.
fn within_login(glob: &str) -> Option<&'static str> {
    runs(glob).find_map(|(before, after)| {
        if after.contains('@') {
            None
        } else if begins_with_name(after) {
            Some(BEGINS_WITHIN_NAME)
        } else {
            ends_with_name(before).then_some(ENDS_WITHIN_NAME)
        }
    })
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

    #[test]
    fn globs_that_begin_or_end_within_a_name_are_found() {
        for glob in
            ["*customer.example", "*@*customer.example", "anna@*customer.example", "**customer.example"]
        {
            assert_eq!(within_login(glob), Some(BEGINS_WITHIN_NAME), "{glob}");
        }
        for glob in ["*@customer*", "*@customer.ex*", "anna*", "anna@customer*.example"] {
            assert_eq!(within_login(glob), Some(ENDS_WITHIN_NAME), "{glob}");
        }
        for glob in [
            "spiffe://example.org/ns/billing*",
            "spiffe://example.org/ns/billing*/sa/api",
            "spiffe://example.org*",
            "dns:web*",
            "jwt:corp:svc*",
            "token:b*",
        ] {
            assert_eq!(within_caller(glob), Some(ENDS_WITHIN_NAME), "{glob}");
        }
        for glob in
            ["spiffe://*example.org/ns/a", "dns:*customer.example", "*api", "spiffe://td/ns/*billing/sa/a"]
        {
            assert_eq!(within_caller(glob), Some(BEGINS_WITHIN_NAME), "{glob}");
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
