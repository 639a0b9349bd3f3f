//! Claims that rules require.

use super::*;
use crate::caller::{ClaimPath, ClaimRequirement, ClaimValue};

const JWT: &str = "[callers.jwt]
issuer = \"https://issuer.example\"
audience = \"ott-gateway\"
jwks_file = \"jwks.json\"
";

/// A configuration whose second rule, which starts at line 8, has this line in front of its users.
fn with_rule(line: &str) -> String {
    working_and(&format!("[[access.rules]]\ncallers = [\"jwt:*\"]\n{line}\nusers = \"all\"\n{JWT}"))
}

/// The warnings about rules.
fn warnings(folder: &Folder, text: &str) -> Vec<String> {
    let warnings = folder.load(text).unwrap().warnings;
    let of_rules = warnings.iter().filter(|warning| warning.key.starts_with("access."));
    of_rules.map(|warning| format!("{}: {}", warning.key, warning.problem)).collect()
}

fn claims_of(line: &str) -> Vec<ClaimRequirement> {
    let folder = Folder::new();
    assert_eq!(warnings(&folder, &with_rule(line)), Vec::<String>::new(), "{line}");
    folder.load(&with_rule(line)).unwrap().access.rules[1].claims.clone()
}

fn required(path: &str, values: &[ClaimValue]) -> ClaimRequirement {
    ClaimRequirement { path: ClaimPath::new(path).unwrap(), values: values.to_vec() }
}

fn text(text: &str) -> ClaimValue {
    ClaimValue::Text(text.into())
}

#[test]
fn required_claims_are_read() {
    assert_eq!(claims_of(""), []);
    assert_eq!(
        claims_of(r#"claims = { groups = ["a", "b"], "kubernetes.io/namespace" = "billing" }"#),
        [
            required("groups", &[text("a"), text("b")]),
            required("kubernetes.io/namespace", &[text("billing")])
        ]
    );
    assert_eq!(
        claims_of("claims.level = [1, -9223372036854775808]\nclaims.email_verified = true"),
        [
            required("email_verified", &[ClaimValue::Boolean(true)]),
            required("level", &[ClaimValue::Integer(1), ClaimValue::Integer(i64::MIN)]),
        ]
    );
    assert_eq!(claims_of(r#"claims = { scope = ["a", "b"] }"#), [required("scope", &[text("a"), text("b")])]);
    assert_eq!(claims_of(r#"claims = { roles = "a b" }"#), [required("roles", &[text("a b")])]);
}

#[test]
fn every_error_in_required_claims_is_reported() {
    let folder = Folder::new();
    let many =
        |number: usize, item: &dyn Fn(usize) -> String| (0..number).map(item).collect::<Vec<_>>().join(", ");
    let claims = many(17, &|number| format!("c{number} = 1"));
    let values = many(257, &|number| number.to_string());
    for (line, expected) in [
        ("claims = {}", "claims: must not be empty; remove the key if there is nothing to require"),
        ("claims = [\"groups\"]", "claims: must be a table, not a list"),
        ("claims = \"groups\"", "claims: must be a table, not a string"),
        ("claims = { groups = [] }", "claims.groups: must contain at least one item"),
        ("claims = { groups = \"\" }", "claims.groups: must have 1 to 1024 bytes"),
        (
            "claims = { groups = 1.5 }",
            "claims.groups: must be a string, an integer or a boolean, not a float",
        ),
        (
            "claims = { groups = [\"a\", { b = 1 }] }",
            "claims.groups[2]: must be a string, an integer or a boolean, not a table; write nested claims as one key, \
             such as \"realm_access/roles\"",
        ),
        (
            "claims = { realm_access = { roles = \"a\" } }",
            "claims.realm_access: must be a string, an integer or a boolean, not a table; write nested claims as one \
             key, such as \"realm_access/roles\"",
        ),
        (
            "claims.realm_access.roles = \"a\"",
            "claims.realm_access: must be a string, an integer or a boolean, not a table; write nested claims as one \
             key, such as \"realm_access/roles\"",
        ),
        (
            "claims = { \"/groups\" = 1 }",
            "claims./groups: must be the names of nested claims, separated by \"/\", such as \"realm_access/roles\"",
        ),
        (
            "claims = { \"a~2\" = 1 }",
            "claims.a~2: must use \"~\" only as \"~1\" for \"/\" in a name, or \"~0\" for \"~\"",
        ),
        (
            "claims = { \"a/a/a/a/a/a/a/a/a\" = 1 }",
            "claims.a/a/a/a/a/a/a/a/a: must have at most 255 bytes and 8 names",
        ),
        (
            "claims = { scope = [\"read\", \"read write\"] }",
            "claims.scope[2]: must not contain a space: the words of this claim are separate values; list each word",
        ),
        (&format!("claims = {{ {claims} }}"), "claims: must have at most 16 claims"),
        (&format!("claims = {{ groups = [{values}] }}"), "claims.groups: must have at most 256 values"),
    ] {
        let expected = format!("gateway.toml:10: access.rules[2].{expected}");
        assert_eq!(folder.errors(&with_rule(line)), [expected], "{line}");
    }
}

#[test]
fn claims_after_the_users_are_refused() {
    let folder = Folder::new();
    let rule = "[[access.rules]]\ncallers = [\"jwt:*\"]\n";
    let expected = "access.rules[2].claims: must come before \"users\" (as claims = { … }, not as a table of its \
                    own): this key narrows the rule, and a file truncated between the two would allow more";
    for (keys, line) in [
        ("users = \"all\"\nclaims = { groups = \"a\" }", 10),
        ("users = \"all\"\n[access.rules.claims]\ngroups = \"a\"", 11),
        ("users = \"all\"\nclaims.groups = \"a\"", 11),
        ("claims.groups = \"a\"\nusers = \"all\"\nclaims.roles = \"a\"", 10),
    ] {
        let errors = folder.errors(&working_and(&format!("{rule}{keys}\n{JWT}")));
        assert_eq!(errors.len(), 1, "{errors:?}");
        assert!(errors[0].ends_with(expected), "{line} {keys}: {errors:?}");
    }
}

#[test]
fn claims_of_callers_without_jwts_are_refused() {
    let folder = Folder::new();
    let rule = |callers: &str, jwt: &str| {
        working_and(&format!(
            "[[access.rules]]\ncallers = {callers}\nclaims = {{ groups = \"a\" }}\nusers = \"all\"\n{jwt}"
        ))
    };
    for callers in ["[\"spiffe://*\"]", "[\"anonymous\", \"dns:*.example\"]"] {
        assert_eq!(
            folder.errors(&rule(callers, JWT)),
            [
                "gateway.toml:10: access.rules[2].claims: can never match: only callers with a JWT have claims, and \
                 none of the rule's callers can match a name that begins with \"jwt:\""
            ]
        );
    }
    for callers in ["[\"*\"]", "[\"jwt:portal\", \"?wt:*\", \"j*\"]"] {
        assert_eq!(warnings(&folder, &rule(callers, JWT)), Vec::<String>::new(), "{callers}");
    }
    let reported = warnings(&folder, &rule("[\"jwt:portal\", \"anonymous\"]", JWT));
    assert_eq!(
        reported,
        [
            "access.rules[2].callers: entry 2 can never match, because the rule requires claims: only callers with a \
             JWT have claims, and their names begin with \"jwt:\""
        ]
    );
    let reported = warnings(&folder, &rule("[\"jwt:portal\"]", ""));
    assert_eq!(
        reported,
        [
            "access.rules[2].callers[1]: matches no caller: configure the issuer of the JWTs in [callers.jwt]",
            "access.rules[2].claims: match no caller: only callers with a JWT have claims; configure the issuer of \
             the JWTs in [callers.jwt]",
        ]
    );
}

#[test]
fn number_of_different_claims_of_all_rules_is_limited() {
    use std::fmt::Write as _;

    let folder = Folder::new();
    let with = |rules: usize| {
        let mut text = String::new();
        for rule in 0..rules {
            let claims: Vec<String> = (0..13).map(|claim| format!("c{rule}-{claim} = 1")).collect();
            let claims = claims.join(", ");
            write!(
                text,
                "[[access.rules]]\ncallers = [\"jwt:*\"]\nclaims = {{ {claims} }}\nusers = \"all\"\n"
            )
            .unwrap();
        }
        working_and(&format!("{text}{JWT}"))
    };
    folder.load(&with(4)).expect("52 claims");
    let errors = folder.errors(&with(5));
    assert_eq!(errors.len(), 1, "{errors:?}");
    let expected = "access.rules: require 65 different claims in total; the maximum is 64";
    assert!(errors[0].ends_with(expected), "{errors:?}");
}
