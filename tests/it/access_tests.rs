//! Tests beside the access rules (`[[access.tests]]`), with the real binary.

use std::{fmt::Write, fs, os::unix::fs::PermissionsExt, process::Output};

use ott_gateway::config::{Config, TestOutcome, TestedRules};

use crate::support::{
    calling::{issue, metric, result_of, until},
    gateway::{Gateway, Setup},
    upstream::Upstream,
};

const NOT_ALLOWED: &str = "PermissionDenied CALLER_NOT_ALLOWED";
const FAILED: &str = r#"ott_gateway_reloads_total{result="failed",what="rules"}"#;
const RULES: &str = "[callers.tokens]
billing = \"sha256:7bb5d9c1d6ab2d1ae4f1a5b4b2f35a2cb9ab1f3d6f1d1e3d8f3d1c2b5a697887\"
support = \"sha256:8bb5d9c1d6ab2d1ae4f1a5b4b2f35a2cb9ab1f3d6f1d1e3d8f3d1c2b5a697887\"
[callers.jwt]
issuer = \"https://issuer.example\"
audience = \"a\"
jwks_url = \"https://issuer.example/jwks\"
[[access.rules]]
name = \"billing\"
callers = [\"token:billing\"]
logins = [\"*@customer.example\"]
[[access.rules]]
name = \"support\"
callers = [\"token:*\", \"anonymous\"]
methods = [\"LoginWithOtt\"]
users = \"all\"
[[access.rules]]
name = \"ops\"
callers = [\"jwt:*\"]
claims = { groups = [\"ops\"], level = 7 }
users = \"all\"
";
/// One test for each rule.
pub(crate) const GOOD: &str = "[[access.tests]]
caller = \"token:billing\"
method = \"IssueOtt\"
user = \"login:Anna@Customer.example\"
expect = \"allow\"
rule = \"billing\"
[[access.tests]]
caller = \"token:support\"
method = \"LoginWithOtt\"
user = \"login:ceo@other.example\"
api_client = \"test\"
expect = \"allow\"
rule = \"support\"
[[access.tests]]
caller = \"jwt:a\"
claims = { groups = [\"dev\", \"ops\"], level = 7 }
method = \"IssueOtt\"
user = \"user_id:7\"
expect = \"allow\"
[[access.tests]]
caller = \"anonymous\"
method = \"IssueOtt\"
user = \"ceo@customer.example\"
expect = \"deny\"
";

/// A configuration with `RULES` and these tests, which is written.
pub(crate) fn setup(tests: &str) -> Setup {
    let rule = "            [[access.rules]]
            callers = [\"anonymous\"]
            rate = \"unlimited\"
            user_rate = \"unlimited\"
            users = \"all\"
";
    let setup =
        Setup::for_platform("127.0.0.1:1".parse().unwrap()).replacing(rule, &format!("{RULES}{tests}"));
    setup.write_config();
    setup
}

pub(crate) fn stdout(done: &Output) -> String {
    String::from_utf8(done.stdout.clone()).unwrap()
}

pub(crate) fn stderr(done: &Output) -> String {
    String::from_utf8(done.stderr.clone()).unwrap()
}

/// The line of the n-th test, from 1.
fn line_of_test(setup: &Setup, number: usize) -> usize {
    let text = fs::read_to_string(setup.folder().join("config.toml")).unwrap();
    let mut lines = text.lines().enumerate().filter(|(_, line)| line.trim() == "[[access.tests]]");
    lines.nth(number - 1).unwrap().0 + 1
}

#[test]
fn configuration_whose_tests_pass_is_valid() {
    let setup = setup(GOOD);
    let done = setup.run(&["check-config"]);
    assert_eq!((done.status.code(), stderr(&done).as_str()), (Some(0), ""));
    assert!(stdout(&done).contains("tests       4 passed"), "{}", stdout(&done));
}

#[test]
fn failed_test_is_an_error_with_its_place_the_reason_and_a_command() {
    let folder = |setup: &Setup| setup.folder().join("config.toml").display().to_string();
    for (tests, failure, question) in [
        (
            GOOD.replace("\"deny\"", "\"allow\""),
            (4, "expects allow, but no rule allows it: rule 2 (support) is not for IssueOtt"),
            "anonymous IssueOtt login:ceo@customer.example --api-client test",
        ),
        (
            GOOD.replace("\"allow\"\nrule = \"billing\"", "\"deny\""),
            (1, "expects deny, but rule 1 (billing) allows it"),
            "token:billing IssueOtt login:Anna@Customer.example --api-client test",
        ),
        (
            GOOD.replace("rule = \"support\"", "rule = \"billing\""),
            (
                2,
                "expects rule 1 (billing), but rule 2 (support) decides: rule 1 (billing) is for other callers",
            ),
            "token:support LoginWithOtt login:ceo@other.example --api-client test",
        ),
        (
            GOOD.replace("user = \"login:ceo@other.example\"", "user = \"login:a@customer.example\"")
                .replace("token:support", "token:billing"),
            (2, "expects rule 2 (support), but rule 1 (billing) decides, because it comes first"),
            "token:billing LoginWithOtt login:a@customer.example --api-client test",
        ),
        (
            GOOD.replace("[\"dev\", \"ops\"], level", "[\"d v\"], level"),
            (
                3,
                "expects allow, but no rule allows it: rule 3 (ops) is not for a caller without an accepted value of \
                 the claim \"groups\"",
            ),
            "jwt:a IssueOtt user_id:7 --api-client test --claim 'groups=\"d v\"' --claim level=7",
        ),
    ] {
        let setup = setup(&tests);
        let (number, failure) = failure;
        let place = format!("{}:{}", folder(&setup), line_of_test(&setup, number));
        let done = setup.run(&["check-config"]);
        assert_eq!(done.status.code(), Some(2));
        let command = format!("ott-gateway check-config --config {} --explain {question}", folder(&setup));
        assert_eq!(
            stderr(&done).lines().filter(|line| !line.starts_with("warning")).collect::<Vec<_>>(),
            [
                "error: the configuration is not valid:",
                &format!("{place}: access.tests[{number}]: {failure}; explain it with: {command}")
            ]
        );
        // The log must contain neither users nor claims. A gateway that starts is stopped.
        let setup = setup.launched_by(&["timeout", "120"]);
        let serve = setup.run(&["serve"]);
        assert_eq!(serve.status.code(), Some(2));
        let hint = "`check-config` prints a command that explains the decision";
        assert_eq!(
            stderr(&serve),
            format!(
                "error: the configuration is not valid:\n{place}: access.tests[{number}]: {failure}; {hint}\n"
            )
        );
        // The command explains the decision, although the test fails.
        let shell = command.replacen("ott-gateway", env!("CARGO_BIN_EXE_ott-gateway"), 1);
        let explained = std::process::Command::new("sh").args(["-c", &shell]).output().unwrap();
        assert_eq!(explained.status.code(), Some(0), "{}", stderr(&explained));
        let conclusion = stdout(&explained).lines().last().unwrap().to_owned();
        assert_eq!(conclusion.starts_with("DENIED"), failure.contains("no rule allows it"), "{conclusion}");
    }
}

#[test]
fn invalid_tests_are_errors() {
    let one = |change: &str, by: &str| {
        let test = GOOD.split("[[access.tests]]").nth(1).unwrap();
        assert!(test.contains(change), "{change}");
        format!("[[access.tests]]{}", test.replace(change, by))
    };
    for (tests, error) in [
        (
            one("token:billing", "token:biling"),
            ".caller: is not the name of a token in [callers.tokens]; did you mean \"token:billing\"?",
        ),
        (one("token:billing", "billing"), ".caller: must be the name of one caller"),
        (one("token:billing", "token:*"), ".caller: is not the name of a token"),
        (one("caller = ", "caler = "), ".caler: unknown key; did you mean \"caller\"?"),
        (one("\"IssueOtt\"", "\"IssueOt\""), ".method: is not a method; did you mean \"IssueOtt\"?"),
        (
            one("login:Anna", "logn:Anna"),
            ".user: is not login:NAME, external_id:ID or user_id:ID; did you mean \"login:\"?",
        ),
        (one("login:Anna@Customer.example", "-"), ".user: must be a user"),
        (
            one("user = \"login:Anna@Customer.example\"\n", ""),
            ".user: is missing: the decision on IssueOtt depends on it",
        ),
        (
            one("rule =", "api_client = \"tst\"\nrule ="),
            ".api_client: is not the name of an API client in [api_clients]; did you mean \"test\"?",
        ),
        (one("\"allow\"", "\"alow\""), ".expect: must be \"allow\" or \"deny\"; did you mean \"allow\"?"),
        (one("expect = \"allow\"\n", ""), ".expect: is missing"),
        (one("\"allow\"", "\"deny\""), ".rule: cannot be combined with expect = \"deny\""),
        (
            one("\"billing\"\n", "\"biling\"\n"),
            ".rule: is not the name of an access rule; did you mean \"billing\"?",
        ),
        (one("\"billing\"\n", "1\n"), ".rule: must be the name of a rule, because numbers change"),
        (
            one("method =", "claims = { groups = \"ops\" }\nmethod ="),
            ".claims: are only for a caller with a JWT",
        ),
        (
            GOOD.replace("level = 7 }", "level = 1.5 }"),
            ".claims.level: must be a string, an integer or a boolean",
        ),
    ] {
        let setup = setup(&tests);
        let done = setup.run(&["check-config"]);
        assert_eq!(done.status.code(), Some(2), "{tests}");
        let errors: Vec<String> = stderr(&done).lines().map(str::to_owned).collect();
        assert!(
            errors.iter().any(|line| line.contains("access.tests[") && line.contains(error)),
            "{error}: {errors:#?}"
        );
        assert!(!errors.iter().any(|line| line.contains("Anna")), "errors contain no values: {errors:#?}");
    }
    let without_default =
        setup(GOOD).replacing("client_id = \"test-client\"", "client_id = \"x\"\ndefault = false");
    without_default.write_config();
    let errors = stderr(&without_default.run(&["check-config"]));
    assert!(
        errors.contains("access.tests[1].api_client: is missing: no API client is the default"),
        "{errors}"
    );
    assert!(!errors.contains("access.tests[2]"), "{errors}");
}

#[test]
fn tests_can_have_every_claim_of_a_token() {
    let many: String = (0..40).fold(String::new(), |mut text, number| {
        let _ = write!(text, "claim-{number} = {number}, ");
        text
    });
    let long = "x".repeat(2000);
    let tests = format!(
        "[[access.tests]]\ncaller = \"jwt:a\"\n\
         claims = {{ {many}\"a=b\" = \"\", \"-\" = \"{long}\", scope = \"read write\", groups = [\"dev\", \"ops\"], \
         level = 7 }}\n\
         method = \"IssueOtt\"\nuser = \"a\"\nexpect = \"deny\"\n"
    );
    let setup = setup(&tests);
    let done = setup.run(&["check-config"]);
    let error = stderr(&done);
    assert!(
        error.contains("access.tests[1]: expects deny, but rule 3 (ops) allows it; explain it with: "),
        "{error}"
    );
    // The command has all claims.
    let (_, command) = error.split_once("explain it with: ").unwrap();
    for claim in
        ["claim-39=39", "'\"a=b\"=\"\"'", "--claim='-=\"xxx", "'scope=\"read\"'", "'scope=\"write\"'"]
    {
        assert!(command.contains(claim), "{claim}: {command}");
    }
    let shell = command.replacen("ott-gateway", env!("CARGO_BIN_EXE_ott-gateway"), 1);
    let explained = std::process::Command::new("sh").args(["-c", &shell]).output().unwrap();
    assert!(stdout(&explained).ends_with("ALLOWED by rule 3 (ops)\n"), "{explained:?}");
}

/// Candidate rules that allow the support less, and ops nothing.
pub(crate) const CANDIDATES: &str = "[[access.candidate_rules]]
name = \"support\"
callers = [\"token:support\"]
methods = [\"LoginWithOtt\"]
logins = [\"*@customer.example\"]
[[access.candidate_rules]]
name = \"billing\"
callers = [\"token:billing\"]
logins = [\"*@customer.example\"]
[[access.candidate_rules]]
name = \"new\"
callers = [\"token:billing\"]
methods = [\"LoginWithOtt\"]
user_ids = [\"1\"]
";

#[test]
fn tests_are_run_against_the_candidate_rules() {
    let setup = setup(&format!("{CANDIDATES}{GOOD}"));
    assert_eq!(setup.run(&["check-config"]).status.code(), Some(0), "they have no effect");
    let xml = setup.folder().join("report.xml");
    let config = setup.folder().join("config.toml").display().to_string();
    let done = setup.run(&["check-config", "--candidates", "--junit", xml.to_str().unwrap()]);
    assert_eq!(done.status.code(), Some(2), "{done:?}");
    let errors: Vec<String> = stderr(&done).lines().map(str::to_owned).collect();
    let errors: Vec<&str> =
        errors.iter().filter_map(|line| line.split_once(": access.tests").map(|it| it.1)).collect();
    let explain =
        format!("explain it with: ott-gateway check-config --config {config} --candidates --explain");
    assert_eq!(
        errors,
        [
            format!(
                "[2]: under the candidate rules: expects allow, but no rule allows it: rule 1 (support) is for other \
                 users, none of them with this login; {explain} token:support LoginWithOtt login:ceo@other.example \
                 --api-client test"
            ),
            format!(
                "[3]: under the candidate rules: expects allow, but no rule allows it: rule 1 (support) is for other \
                 callers; {explain} jwt:a IssueOtt user_id:7 --api-client test --claim 'groups=\"dev\"' \
                 --claim 'groups=\"ops\"' --claim level=7"
            ),
        ]
    );
    // The command explains the decision of the candidate rules.
    let command = errors[0].split_once("explain it with: ott-gateway").unwrap().1;
    let shell = format!("{}{command}", env!("CARGO_BIN_EXE_ott-gateway"));
    let explained = std::process::Command::new("sh").args(["-c", &shell]).output().unwrap();
    let answer = stdout(&explained);
    assert!(answer.contains("\ncandidate rules:\nrule 1 (support) is for other users"), "{answer}");
    assert!(
        answer.ends_with("\nDENIED: no rule allows this account (ACCOUNT_NOT_ALLOWED); its token is spent\n"),
        "{answer}"
    );
    assert!(!answer.contains("rules in force"), "{answer}");
    let found = elements(&fs::read_to_string(&xml).expect("a report"));
    let cases: Vec<_> = found
        .iter()
        .filter(|(_, name, attributes)| {
            name == "testcase" && attribute(attributes, "classname") != "configuration"
        })
        .collect();
    assert_eq!(cases.len(), 4);
    assert!(cases.iter().all(|(_, _, it)| attribute(it, "classname") == "access.tests.candidate_rules"));
    assert_eq!(found.iter().filter(|(_, name, _)| name == "failure").count(), 2);

    // Tests that hold under the candidate rules, one of which names a rule that only they have.
    let new = "[[access.tests]]\ncaller = \"token:billing\"\nmethod = \"LoginWithOtt\"\nuser = \"user_id:1\"\n\
               expect = \"allow\"\nrule = \"new\"\n";
    let first = GOOD.split("[[access.tests]]").nth(1).unwrap();
    let adapted = self::setup(&format!("{CANDIDATES}[[access.tests]]{first}{new}"));
    let done = adapted.run(&["check-config", "--candidates"]);
    assert_eq!(done.status.code(), Some(0), "{done:?}");
    assert!(stdout(&done).contains("tests       2 passed by the candidate rules\n"), "{}", stdout(&done));
    let warnings = stderr(&done);
    assert!(
        warnings.contains("access.candidate_rules[1]: decides none of the [[access.tests]]"),
        "{warnings}"
    );
    assert!(!warnings.contains("access.rules["), "{warnings}");
    let in_force = adapted.run(&["check-config"]);
    assert!(
        stderr(&in_force).contains("access.tests[2].rule: is not the name of an access rule"),
        "{in_force:?}"
    );
    // A test of a rule that the candidates do not have fails.
    let removed =
        self::setup(&format!("{}{GOOD}", CANDIDATES.replace("name = \"support\"", "name = \"desk\"")));
    let done = removed.run(&["check-config", "--candidates"]);
    let failure = "[2]: under the candidate rules: expects rule \"support\", but no rule has this name; ";
    assert!(stderr(&done).contains(failure), "{}", stderr(&done));
}

#[test]
fn name_of_a_rule_is_unique() {
    let setup = setup("").replacing("\"ops\"\ncallers", "\"billing\"\ncallers");
    setup.write_config();
    let file = setup.folder().join("config.toml");
    let text = fs::read_to_string(&file).unwrap();
    let lines: Vec<usize> = text
        .lines()
        .zip(1..)
        .filter(|(line, _)| line.trim() == "name = \"billing\"")
        .map(|(_, line)| line)
        .collect();
    let file = file.display();
    assert_eq!(
        stderr(&setup.run(&["check-config"])),
        format!(
            "error: the configuration is not valid:\n{file}:{}: access.rules[3].name: must be unique, but \
             access.rules[1].name ({file}:{}) is the same\n",
            lines[1], lines[0]
        )
    );
}

#[test]
fn rules_that_decide_no_test_are_reported_if_there_are_tests() {
    assert_eq!(stderr(&setup("").run(&["check-config"])), "", "no tests: no warning");
    let denied = GOOD.rfind("[[access.tests]]").unwrap();
    let setup = setup(&GOOD[denied..]);
    let warnings = stderr(&setup.run(&["check-config"]));
    assert_eq!(warnings.lines().count(), 3, "{warnings}");
    for number in 1..=3 {
        let key = format!("access.rules[{number}]: decides none of the [[access.tests]]");
        assert!(warnings.contains(&key), "{warnings}");
    }
    let many: String =
        (0..30).map(|_| "[[access.rules]]\ncallers = [\"dns:a\"]\nusers = \"all\"\n").collect();
    let setup = self::setup(&format!("{many}{GOOD}"));
    let warnings = stderr(&setup.run(&["check-config"]));
    let untested = warnings.lines().filter(|line| line.contains("decides none of")).count();
    assert!(
        warnings.contains("access.rules: 20 more rules decide none of the [[access.tests]]"),
        "{warnings}"
    );
    assert_eq!(untested, 10, "{warnings}");
}

#[test]
fn number_of_tests_is_limited() {
    let test =
        "[[access.tests]]\ncaller = \"anonymous\"\nmethod = \"IssueOtt\"\nuser = \"a\"\nexpect = \"deny\"\n";
    let done = setup(&test.repeat(5000)).run(&["check-config"]);
    assert_eq!(done.status.code(), Some(0), "{}", stderr(&done));
    let done = setup(&test.repeat(5001)).run(&["check-config"]);
    assert!(stderr(&done).contains("access.tests: must have at most 5000 tests"), "{}", stderr(&done));
}

/// An element of XML: its depth, name and attributes.
type Element = (usize, String, Vec<(String, String)>);

/// Checks that a text is well-formed XML (of the forms that the report uses), and returns its
/// elements.
fn elements(xml: &str) -> Vec<Element> {
    let text = |escaped: &str| {
        assert!(!escaped.contains(['<', '>', '"']), "{escaped}");
        let plain = [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&#10;", "\n"), ("&amp;", "&")];
        plain.iter().fold(escaped.to_owned(), |text, (reference, by)| text.replace(reference, by))
    };
    let (declaration, mut rest) = xml.split_once("?>").expect("a declaration");
    assert_eq!(declaration, "<?xml version=\"1.0\" encoding=\"UTF-8\"");
    let (mut open, mut found) = (Vec::<String>::new(), Vec::new());
    while let Some((before, tag)) = rest.split_once('<') {
        text(before.trim());
        let (tag, after) = tag.split_once('>').expect("the end of a tag");
        rest = after;
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop().as_deref(), Some(name));
            continue;
        }
        let is_empty = tag.ends_with('/');
        let (name, attributes) = tag.trim_end_matches('/').split_once(' ').expect("attributes");
        let parts: Vec<&str> = attributes.split('"').collect();
        let attributes = parts
            .chunks_exact(2)
            .map(|pair| (pair[0].trim().strip_suffix('=').expect("a name").to_owned(), text(pair[1])));
        found.push((open.len(), name.to_owned(), attributes.collect()));
        if !is_empty {
            open.push(name.to_owned());
        }
    }
    assert!(open.is_empty() && rest.trim().is_empty(), "{open:?} {rest}");
    found
}

fn attribute<'a>(attributes: &'a [(String, String)], name: &str) -> &'a str {
    attributes.iter().find(|(other, _)| other == name).map_or("", |(_, value)| value)
}

#[test]
fn results_are_written_as_junit_xml() {
    let hostile = "[[access.tests]]\ncaller = \"jwt:<a>&\\\"]]>\"\nmethod = \"IssueOtt\"\nuser = \"login:<b> & \\\"c\\\"\"\nexpect = \"allow\"\n";
    let setup = setup(&format!("{GOOD}{hostile}"));
    let xml = setup.folder().join("report.xml");
    let report = |setup: &Setup, code: i32| {
        let done = setup.run(&["check-config", "--junit", xml.to_str().unwrap()]);
        assert_eq!(done.status.code(), Some(code), "{}", stderr(&done));
        elements(&fs::read_to_string(&xml).expect("a report"))
    };
    let found = report(&setup, 2);
    let suites: Vec<_> = found.iter().filter(|(_, name, _)| name == "testsuite").collect();
    let counts = |attributes: &[(String, String)]| {
        ["name", "tests", "failures", "errors", "skipped"].map(|name| attribute(attributes, name).to_owned())
    };
    assert_eq!(counts(&suites[0].2), ["configuration", "1", "0", "0", "0"]);
    assert_eq!(counts(&suites[1].2), ["access.tests", "5", "1", "0", "0"]);
    assert_eq!(counts(&found[0].2), ["ott-gateway check-config", "6", "1", "0", "0"]);
    let cases: Vec<_> = found.iter().filter(|(_, name, _)| name == "testcase").collect();
    assert_eq!(cases.len(), 6);
    let config = setup.folder().join("config.toml").display().to_string();
    assert_eq!(attribute(&cases[2].2, "file"), config);
    assert_eq!(attribute(&cases[2].2, "line"), line_of_test(&setup, 2).to_string());
    assert_eq!(
        attribute(&cases[2].2, "name"),
        "2: token:support LoginWithOtt login:ceo@other.example: allow by rule support"
    );
    assert_eq!(attribute(&cases[5].2, "name"), "5: jwt:<a>&\"]]> IssueOtt login:<b> & \"c\": allow");
    let failures: Vec<_> = found.iter().filter(|(_, name, _)| name == "failure").collect();
    assert_eq!(failures.len(), 1);
    assert!(
        attribute(&failures[0].2, "message")
            .starts_with("expects allow, but no rule allows it: rule 3 (ops)")
    );

    // Another problem is reported beside the tests.
    let broken = setup.replacing("audience = \"a\"", "audience = 7");
    broken.write_config();
    let found = report(&broken, 2);
    assert_eq!(counts(&found[0].2), ["ott-gateway check-config", "6", "1", "1", "0"]);
    assert!(found.iter().any(|(_, name, _)| name == "error"));
    assert!(fs::read_to_string(&xml).unwrap().contains("callers.jwt.audience: must be"));
    // Without rules, no test can run.
    let broken = broken.replacing("methods = [\"LoginWithOtt\"]", "methods = [\"Login\"]");
    broken.write_config();
    assert_eq!(counts(&report(&broken, 2)[0].2), ["ott-gateway check-config", "6", "0", "1", "5"]);

    let good = self::setup(GOOD);
    assert_eq!(counts(&report(&good, 0)[0].2), ["ott-gateway check-config", "5", "0", "0", "0"]);
    let done = good.run(&["check-config", "--junit", "/nowhere/report.xml"]);
    assert_eq!(done.status.code(), Some(1));
    assert!(stderr(&done).contains("--junit: cannot write /nowhere/report.xml"), "{}", stderr(&done));
}

async fn issues(gateway: &Gateway, login: &str) -> String {
    result_of(&gateway.client().await.issue_ott(issue(login)).await)
}

/// Replaces the configuration atomically, and asks for a reload.
fn replace_config(gateway: &Gateway, text: &str) {
    let (new, file) = (gateway.folder().join(".new"), gateway.folder().join("config.toml"));
    fs::write(&new, text).unwrap();
    fs::set_permissions(&new, fs::Permissions::from_mode(0o600)).unwrap();
    fs::rename(new, file).unwrap();
    gateway.signal("HUP");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reloaded_rules_that_break_their_tests_are_refused_and_the_current_ones_stay() {
    let platform = Upstream::http().await;
    let test = "[[access.tests]]\ncaller = \"anonymous\"\nmethod = \"IssueOtt\"\nuser = \"canary-old@x\"\nexpect = \"allow\"\n";
    let gateway = Setup::for_platform(platform.address())
        .replacing("users = \"all\"", "logins = [\"canary-old@*\"]")
        .replacing("[audit]", &format!("{test}[audit]"))
        .start();
    let file = gateway.folder().join("config.toml");
    let good = fs::read_to_string(&file).unwrap();
    let widened = good.replace("logins = [\"canary-old@*\"]", "logins = [\"new@*\"]");
    replace_config(&gateway, &widened);
    until("the new version is refused", async || metric(gateway.admin(), FAILED).await >= 1.0).await;
    assert_eq!(issues(&gateway, "canary-old@x").await, "OK");
    assert_eq!(issues(&gateway, "new@x").await, NOT_ALLOWED);
    let line = good.lines().position(|line| line.trim() == "[[access.tests]]").unwrap() + 1;
    let refused = gateway.stderr().wait_for("the failed test", |line| {
        line.contains("new access rules refused").then(|| line.to_owned())
    });
    let reason = format!(
        "{}:{line}: access.tests[1]: expects allow, but no rule allows it: rule 1 is for other users, none of them \
         with this login",
        file.display()
    );
    assert!(refused.contains(&reason), "{refused}");
    assert!(!refused.contains("canary-old"), "{refused}");

    // A version that keeps its tests takes effect.
    replace_config(&gateway, &widened.replace("canary-old@x", "new@x"));
    until("the valid version", async || issues(&gateway, "new@x").await == "OK").await;
    assert_eq!(issues(&gateway, "canary-old@x").await, NOT_ALLOWED);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exceeded_quota_is_logged_with_the_name_of_its_rule() {
    let platform = Upstream::http().await;
    let gateway = Setup::for_platform(platform.address())
        .replacing(
            "rate = \"unlimited\"\n            user_rate = \"unlimited\"",
            "name = \"batch\"\nrate = \"1/h\"\nburst = 1",
        )
        .start();
    assert_eq!(issues(&gateway, "a@x").await, "OK");
    assert_eq!(issues(&gateway, "a@x").await, "ResourceExhausted CALLER_QUOTA_EXCEEDED");
    gateway
        .stderr()
        .wait_for("the rule", |line| line.contains("of access rule 1 (batch) is used up").then_some(()));
}

/// `check-config` and the library evaluate the same tests.
#[test]
fn many_rules_and_tests_are_evaluated() {
    let mut text = String::new();
    for number in 0..1000 {
        let _ = write!(
            text,
            "[[access.rules]]\nname = \"r{number}\"\ncallers = [\"dns:*-{number}.example\"]\nlogins = [\"*@t{number}\"]\n"
        );
    }
    for number in 0..1000 {
        let _ = write!(
            text,
            "[[access.tests]]\ncaller = \"dns:a-{number}.example\"\nmethod = \"IssueOtt\"\nuser = \"a@t{number}\"\n\
             expect = \"allow\"\nrule = \"r{number}\"\n"
        );
    }
    let setup = setup(&text);
    let checked = Config::check(
        Some(&setup.folder().join("config.toml")),
        &std::collections::BTreeMap::<String, String>::new(),
        TestedRules::InForce,
    );
    assert!(checked.config.is_ok(), "{:?}", checked.config.err());
    assert_eq!(checked.tests.len(), 1000);
    for result in checked.tests {
        assert!(matches!(result.outcome, TestOutcome::Passed { by: Some(_) }), "{result:?}");
    }
}
