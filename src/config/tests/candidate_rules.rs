//! `[[access.candidate_rules]]`.

use super::*;

const CANDIDATE: &str = "[[access.candidate_rules]]
callers = [\"anonymous\"]
logins = [\"*@x\"]
";

#[test]
fn candidate_rules_are_read_like_rules_and_numbered_separately() {
    let folder = Folder::new();
    let config = folder.load(&working_and(CANDIDATE)).unwrap();
    let expected = RuleSettings::new(
        vec!["anonymous".to_owned()],
        Users::listed(crate::domain::ott::SubjectKind::Login, &["*@x"]),
    );
    assert_eq!(config.access.candidate_rules, [expected]);
    assert_eq!(config.access.rules.len(), 1);
    assert_eq!(config.reloadable().access, config.access, "reloaded with the rules");

    let second = |part: &str| folder.errors(&working_and(&format!("{CANDIDATE}{part}")));
    let header = "[[access.candidate_rules]]\n";
    for (part, error) in [
        ("", "gateway.toml:11: access.candidate_rules[2].callers: "),
        (
            "callers = [\"token:b\"]\nusers = \"all\"",
            "gateway.toml:12: access.candidate_rules[2].callers[1]: ",
        ),
        ("callers = [\"*\"]", "gateway.toml:11: access.candidate_rules[2].users: "),
        (
            "callers = [\"*\"]\nusers = \"all\"\nburst = 1",
            "gateway.toml:14: access.candidate_rules[2].burst: must come before",
        ),
        (
            "callers = [\"*\"]\nusers = \"all\"\nburts = 1",
            "gateway.toml:14: access.candidate_rules[2].burts: unknown key",
        ),
    ] {
        let errors = second(&format!("{header}{part}"));
        assert!(errors.iter().any(|found| found.starts_with(error)), "{part}: {errors:?}");
    }
    let misspelled = CANDIDATE.replace("candidate_rules", "candidate_rule");
    let errors = folder.errors(&working_and(&misspelled));
    assert!(errors[0].contains("did you mean \"candidate_rules\"?"), "{errors:?}");
}

#[test]
fn candidate_rules_do_not_replace_rules() {
    let errors = Folder::new().errors(&format!("{CLIENT}{CANDIDATE}"));
    assert!(errors.iter().any(|error| error.contains("access.rules: is missing: add an")), "{errors:?}");
}

#[test]
fn candidate_rules_cannot_be_set_by_a_variable() {
    let folder = Folder::new().with("OTT_GATEWAY__ACCESS__CANDIDATE_RULES", "x");
    for part in ["", CANDIDATE] {
        let errors = folder.errors(&working_and(part));
        let expected = "is a list of tables, which can only be set in the file";
        assert!(errors.iter().any(|error| error.contains(expected)), "{errors:?}");
    }
}

#[test]
fn candidate_rules_that_cannot_differ_or_match_cause_a_warning() {
    let folder = Folder::new();
    let warnings = |part: &str| {
        let config = folder.load(&working_and(part)).unwrap();
        let warnings = config.warnings.iter().filter(|it| it.key.starts_with("access.candidate_rules"));
        warnings.map(|it| (it.key.clone(), it.to_string())).collect::<Vec<_>>()
    };
    assert_eq!(warnings(CANDIDATE), []);
    let same = RULE.replace("access.rules", "access.candidate_rules");
    let found = warnings(&same);
    assert!(found.len() == 1 && found[0].1.contains("are the same as the rules in force"), "{found:?}");
    let unmatched = warnings(&CANDIDATE.replace("anonymous", "dns:a"));
    assert!(unmatched.len() == 1 && unmatched[0].1.contains("matches no caller"), "{unmatched:?}");
    assert_eq!(unmatched[0].0, "access.candidate_rules[1].callers[1]");
}
