//! Rules that limit the use of tokens: `issued_by` and `login_urls`.

use super::*;

const TOKENS: &str = "[callers.tokens]
ci = \"sha256:0123456789abcdef0123456789abcdef0123456789ABCDEF0123456789abcdef\"
";

/// A second rule, which starts at line 8, with these lines in front of its users.
fn with_rule(lines: &str) -> String {
    working_and(&format!("[[access.rules]]\ncallers = [\"*\"]\n{lines}\nusers = \"all\"\n{TOKENS}"))
}

/// The second rule when it is reloaded, and the errors and warnings about it, without its name.
fn reloaded(lines: &str) -> (Option<RuleSettings>, Vec<String>) {
    reloaded_text(&with_rule(lines))
}

fn reloaded_text(text: &str) -> (Option<RuleSettings>, Vec<String>) {
    let read = Reloadable::parse(Path::new("gateway.toml"), text.as_bytes(), &BTreeMap::new(), Some("eu2"));
    let own = |found: &Finding| {
        let key = found.key.strip_prefix("access.rules[2].")?;
        Some(format!("{key}: {}", found.problem))
    };
    match read {
        Ok((read, warnings)) => {
            (read.access.rules.get(1).cloned(), warnings.iter().filter_map(own).collect())
        }
        Err(errors) => (None, errors.iter().filter_map(own).collect()),
    }
}

#[test]
fn limits_on_tokens_are_read() {
    let (rule, warnings) = reloaded("");
    let rule = rule.unwrap();
    assert_eq!((rule.issued_by, rule.login_urls, warnings), (None, true, vec![]));
    let (rule, _) =
        reloaded("issued_by = [\"token:ci\", \"spiffe://td/*\", \"anonymous\"]\nlogin_urls = false");
    let rule = rule.unwrap();
    let issuers = ["token:ci", "spiffe://td/*", "anonymous"].map(str::to_owned);
    assert_eq!((rule.issued_by, rule.login_urls), (Some(issuers.to_vec()), false));
}

#[test]
fn issuers_are_checked_like_callers() {
    for (lines, error) in [
        ("issued_by = []", "issued_by: must contain at least one item"),
        ("issued_by = \"token:ci\"", "issued_by: must be a list"),
        ("issued_by = [\"*\", \"portal\"]", "issued_by[2]: matches no caller: names begin with"),
        ("issued_by = [\"token:cii\"]", "issued_by[1]: is not the name of a token"),
        ("login_urls = \"no\"", "login_urls: must be a boolean"),
    ] {
        let (rule, errors) = reloaded(lines);
        assert!(rule.is_none() && errors.iter().any(|found| found.starts_with(error)), "{lines}: {errors:?}");
    }
    let folder = Folder::new();
    let found = folder.errors(&with_rule("issued_by = [\"token:cii\"]"));
    assert!(found.iter().any(|error| error.contains("did you mean \"token:ci\"?")), "{found:?}");
}

#[test]
fn limits_without_effect_are_reported() {
    let (rule, errors) = reloaded("methods = [\"IssueOtt\"]\nissued_by = [\"token:ci\"]");
    assert!(rule.is_none() && errors[0].starts_with("issued_by: limits only LoginWithOtt"), "{errors:?}");
    let (rule, warnings) = reloaded("methods = [\"LoginWithOtt\"]\nlogin_urls = false");
    assert!(rule.is_some() && warnings[0].starts_with("login_urls: has no effect"), "{warnings:?}");
    for lines in [
        "methods = [\"LoginWithOtt\"]\nlogin_urls = true",
        "methods = [\"IssueOtt\"]\nlogin_urls = false",
        "login_urls = false",
    ] {
        assert_eq!(reloaded(lines).1, Vec::<String>::new(), "{lines}");
    }
}

/// A truncated file must not allow more than the whole.
#[test]
fn limits_must_come_before_the_users() {
    for (line, key) in [("issued_by = [\"*\"]", "issued_by"), ("login_urls = false", "login_urls")] {
        let text =
            with_rule("").replace("users = \"all\"\n[callers", &format!("users = \"all\"\n{line}\n[callers"));
        let errors = Folder::new().errors(&text);
        let expected = format!("access.rules[2].{key}: must come before \"users\"");
        assert!(errors.iter().any(|error| error.contains(&expected)), "{errors:?}");
    }
    let wide =
        with_rule("").replace("users = \"all\"\n[callers", "users = \"all\"\nlogin_urls = true\n[callers");
    assert!(Folder::new().load(&wide).is_ok());
}

#[test]
fn issued_by_needs_token_binding() {
    const EXPECTED: &str = "issued_by: allows no login without [token_binding]";
    let lines = "issued_by = [\"token:ci\"]";
    let errors = Folder::new().errors(&with_rule(lines));
    assert!(errors.iter().any(|error| error.contains(EXPECTED)), "{errors:?}");
    let candidate = with_rule(lines).replacen(
        "[[access.rules]]\ncallers = [\"*\"]",
        "[[access.candidate_rules]]\ncallers = [\"*\"]",
        1,
    );
    let errors = Folder::new().errors(&candidate);
    assert!(errors.iter().any(|error| error.contains(EXPECTED)), "{errors:?}");

    // The section may also come from variables, which a reload does not read.
    let (rule, warnings) = reloaded(lines);
    assert!(rule.is_some() && warnings[0].starts_with(EXPECTED), "{warnings:?}");
    let with_section = format!("{}[token_binding]\nkeys_file = \"keys\"\n", with_rule(lines));
    assert_eq!(reloaded_text(&with_section).1, Vec::<String>::new());
}

#[test]
fn rule_for_sealed_tokens_can_list_external_ids() {
    let ids = |lines: &str| {
        let text = with_rule(lines).replace("users = \"all\"\n[callers", "external_ids = [\"x*\"]\n[callers");
        let read =
            Reloadable::parse(Path::new("gateway.toml"), text.as_bytes(), &BTreeMap::new(), Some("eu2"));
        let (_, warnings) = read.unwrap();
        warnings.iter().any(|warning| warning.key.ends_with(".external_ids"))
    };
    assert!(ids("") && !ids("issued_by = [\"token:ci\"]"), "a sealed token contains its user");
}

#[test]
fn tests_of_rules_can_be_about_tokens() {
    let outcomes = |tests: &str| {
        let text = with_rule("issued_by = [\"token:ci\"]\nlogin_urls = false").replace(RULE, "") + tests;
        let text = text.replacen(CLIENT, "", 1);
        Reloadable::parse(Path::new("gateway.toml"), text.as_bytes(), &BTreeMap::new(), Some("eu2"))
            .map(|_| ())
            .map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>())
    };
    let test = |lines: &str| format!("[[access.tests]]\ncaller = \"dns:a\"\n{lines}\n");
    let (issue, log_in) = ("method = \"IssueOtt\"", "method = \"LoginWithOtt\"");
    let user = "user = \"login:a\"";
    for (lines, expected) in [
        (format!("{issue}\n{user}"), "allow"),
        (format!("{issue}\n{user}\nlogin_url = false"), "allow"),
        (format!("{issue}\n{user}\nlogin_url = true"), "deny"),
        (log_in.to_owned(), "deny"),
        (format!("{log_in}\n{user}"), "deny"),
        (format!("{log_in}\n{user}\nissued_by = \"token:ci\""), "allow"),
        (format!("{log_in}\n{user}\nissued_by = \"dns:a\""), "deny"),
        (format!("{log_in}\n{user}\nissued_by = \"anonymous\""), "deny"),
    ] {
        assert_eq!(outcomes(&test(&format!("{lines}\nexpect = \"{expected}\""))), Ok(()), "{lines}");
        let other = if expected == "allow" { "deny" } else { "allow" };
        let failed = outcomes(&test(&format!("{lines}\nexpect = \"{other}\""))).unwrap_err();
        assert!(failed.len() == 1 && failed[0].contains("access.tests[1]: expects"), "{failed:?}");
    }
    for (lines, error) in [
        (format!("{log_in}\nlogin_url = true"), "login_url: is only for IssueOtt"),
        (format!("{issue}\n{user}\nissued_by = \"token:ci\""), "issued_by: is only for LoginWithOtt"),
        (format!("{log_in}\nissued_by = \"token:ci\""), "user: is missing: a sealed token contains its user"),
        (format!("{log_in}\n{user}\nissued_by = \"dns:*\""), "issued_by: must be the name of one caller"),
        (format!("{log_in}\n{user}\nissued_by = \"token:cii\""), "issued_by: is not the name of a token"),
        (format!("{issue}\n{user}\nlogin_url = 1"), "login_url: must be a boolean"),
    ] {
        // The expectation is not met either, but only errors of the test are reported.
        let errors = outcomes(&test(&format!("{lines}\nexpect = \"allow\""))).unwrap_err();
        assert!(
            errors.len() == 1 && errors[0].contains(&format!("access.tests[1].{error}")),
            "{lines}: {errors:?}"
        );
    }
}
