//! Questions about the rules, with the real binary: `check-config --explain` and `--who`.

use serde_json::{Value, json};

use crate::access_tests::{CANDIDATES, GOOD, setup, stderr, stdout};

#[test]
fn candidate_rules_are_asked_as_if_they_were_in_force() {
    let setup = setup(&format!("{CANDIDATES}{GOOD}"));
    let ask = |arguments: &[&str]| {
        let done = setup.run(&[&["check-config", "--candidates", "--format", "json"], arguments].concat());
        assert_eq!(done.status.code(), Some(0), "{done:?}");
        serde_json::from_str::<Value>(&stdout(&done)).unwrap()
    };
    let found = ask(&["--explain", "token:support", "LoginWithOtt", "ceo@other.example"]);
    assert_eq!((&found["decision"], found.get("candidate_rules")), (&json!("deny"), None), "{found}");
    let found = ask(&["--who", "IssueOtt", "anna@customer.example"]);
    let names: Vec<&Value> = found["rules"].as_array().unwrap().iter().map(|rule| &rule["name"]).collect();
    assert_eq!((names, found.get("candidate_rules")), (vec![&json!("billing")], None), "{found}");

    let none = self::setup(GOOD);
    for arguments in [&[][..], &["--who", "IssueOtt", "a"], &["--explain", "anonymous", "IssueOtt", "a"]] {
        let done = none.run(&[&["check-config", "--candidates"], arguments].concat());
        assert_eq!(done.status.code(), Some(2), "{done:?}");
        let error = "access.candidate_rules: is missing: there are no [[access.candidate_rules]] to check";
        assert!(stderr(&done).contains(error), "{}", stderr(&done));
    }
}

#[test]
fn who_prints_the_callers_by_rule() {
    let setup = setup("");
    let who = |arguments: &[&str]| {
        let done = setup.run(&[&["check-config", "--who"], arguments].concat());
        assert_eq!(done.status.code(), Some(0), "{}", stderr(&done));
        stdout(&done)
    };
    let quotas = "per caller 50/s, burst 100; per caller and user 30/min, burst 10";
    let default = "with API client test (the default; select another with --api-client)";
    assert_eq!(
        who(&["IssueOtt", "login:CEO@Customer.example"]),
        format!(
            "{default}\nasked as login:CEO@Customer.example, decided as login:ceo@customer.example\n\
             rule 1 (billing): token:billing\n  {quotas}\n\
             rule 3 (ops): jwt:*\n  only with a JWT with groups = \"ops\" and level = 7\n  {quotas}\n\
             2 rules allow it\n"
        )
    );
    assert_eq!(
        who(&["LoginWithOtt", "login:a@other.example", "--api-client", "test"]),
        format!(
            "with API client test\nrule 2 (support): token:*, anonymous\n  {quotas}\n\
             rule 3 (ops): jwt:*\n  only with a JWT with groups = \"ops\" and level = 7\n  {quotas}\n2 rules allow it\n"
        )
    );
    let of_account = "if the account in the platform's response is one of its users";
    assert!(
        who(&["LoginWithOtt", "-"]).contains(&format!("rule 1 (billing): token:billing\n  {of_account}\n"))
    );
    assert!(
        who(&["IssueOtt", "a", "--api-client", "tes"])
            .contains("DENIED: there is no API client \"tes\" (API_CLIENT_UNKNOWN); did you mean \"test\"?")
    );

    let found: Value =
        serde_json::from_str(&who(&["IssueOtt", "A@customer.example", "--format", "json"])).unwrap();
    assert_eq!(found["user"], "login:A@customer.example");
    assert_eq!(found["decided_as"], "login:a@customer.example");
    assert_eq!(found["rules"][0]["callers"], json!(["token:billing"]));
    assert_eq!(found["rules"][1]["claims"], json!({"groups": ["ops"], "level": [7]}));
    assert_eq!(found["rules"][1]["name"], "ops");
    assert_eq!(found["rules"].as_array().unwrap().len(), 2);

    let covered = self::setup("[[access.rules]]\ncallers = [\"token:support\"]\nusers = \"all\"\n");
    let done = covered.run(&["check-config", "--who", "LoginWithOtt", "external_id:7"]);
    let marked =
        "rule 4: token:support\n  never decides here: rule 2 (support) is also for all these callers\n";
    assert!(stdout(&done).contains(marked), "{}", stdout(&done));
}

#[test]
fn explain_answers_about_accounts_claims_and_unknown_names() {
    let setup = setup("");
    let explain = |arguments: &[&str]| {
        let done = setup.run(&[&["check-config", "--explain"], arguments].concat());
        assert_eq!(done.status.code(), Some(0), "{}", stderr(&done));
        stdout(&done)
    };
    let last = |arguments: &[&str]| explain(arguments).lines().last().unwrap().to_owned();
    assert_eq!(last(&["token:billing", "LoginWithOtt", "-"]), "ALLOWED by rule 1 (billing)");
    assert_eq!(
        last(&["token:billing", "LoginWithOtt", "ceo@other.example"]),
        "ALLOWED by rule 2 (support); the quotas are those of rule 1 (billing), the first for such a login"
    );
    let claims = ["--claim", "groups=ops", "--claim", "level=7"];
    assert_eq!(last(&[&["jwt:a", "IssueOtt", "a"], &claims[..]].concat()), "ALLOWED by rule 3 (ops)");
    assert_eq!(last(&[&["jwt:a", "IssueOtt", "a"], &claims[..2]].concat()), "DENIED: no rule allows it");
    let folded = explain(&["token:billing", "IssueOtt", "user_id:{3F2504E0-4F89-11D3-9A0C-0305E82C3301}"]);
    let canonical = "decided as user_id:3f2504e0-4f89-11d3-9a0c-0305e82c3301\n";
    assert!(folded.contains(canonical), "{folded}");
    assert!(!explain(&["token:billing", "IssueOtt", "user_id:7"]).contains("decided as"));
    assert_eq!(
        explain(&["token:biling", "IssueOtt", "a"]),
        "DENIED: [callers.tokens] has no token \"biling\"; did you mean \"billing\"?\n"
    );
    let issuers = self::setup("").replacing("[callers.jwt]", "[[callers.jwt]]\nname = \"cluster\"");
    issuers.write_config();
    for (caller, answer) in [
        ("jwt:clutser:a", "DENIED: [[callers.jwt]] has no issuer \"clutser\"; did you mean \"cluster\"?"),
        ("jwt:cluster:a", "DENIED: no rule allows it"),
    ] {
        let done = issuers.run(&["check-config", "--explain", caller, "IssueOtt", "a"]);
        assert_eq!(stdout(&done).lines().last(), Some(answer), "{}", stderr(&done));
    }
    let json = |arguments: &[&str]| -> Value {
        serde_json::from_str(&explain(&[arguments, &["--format", "json"]].concat())).unwrap()
    };
    let found = json(&["token:billing", "IssueOtt", "a@other.example"]);
    assert_eq!((&found["decision"], &found["rule"]), (&json!("deny"), &Value::Null));
    assert_eq!(
        found["rules"][0],
        json!({"number": 1, "name": "billing", "verdict": "mismatch", "mismatch": "user"})
    );
    assert_eq!(json(&["token:billing", "IssueOtt", "a@customer.example"])["rule"]["name"], "billing");
    let unknown = json(&["token:new", "IssueOtt", "a"]);
    assert_eq!(
        (&unknown["decision"], &unknown["reason"]),
        (&json!("deny"), &json!("[callers.tokens] has no token \"new\""))
    );
    for (arguments, why) in [
        (&["token:billing", "IssueOtt", "a", "--claim", "groups=ops"][..], "only a caller with a JWT"),
        (&["jwt:a", "IssueOtt", "a", "--claim", "groups"][..], "--claim"),
    ] {
        let done = setup.run(&[&["check-config", "--explain"], arguments].concat());
        assert_eq!(done.status.code(), Some(2), "{}", stdout(&done));
        assert!(stderr(&done).contains(why), "{}", stderr(&done));
    }
}

#[test]
fn questions_about_login_urls_and_sealed_tokens_are_answered() {
    const WITHOUT_URLS: &str = "[[access.rules]]
name = \"no-urls\"
callers = [\"token:support\"]
methods = [\"IssueOtt\"]
login_urls = false
users = \"all\"
";
    let setup = setup(WITHOUT_URLS);
    let ask = |arguments: &[&str]| {
        let done = setup.run(&[&["check-config"], arguments].concat());
        assert_eq!(done.status.code(), Some(0), "{}", stderr(&done));
        stdout(&done)
    };
    let issue = ["--explain", "token:support", "IssueOtt", "a"];
    assert!(ask(&issue).ends_with("\nALLOWED by rule 4 (no-urls)\n"));
    let denied = ask(&[&issue[..], &["--login-url"]].concat());
    assert!(
        denied.ends_with("\nrule 4 (no-urls) does not allow login URLs\nDENIED: no rule allows it\n"),
        "{denied}"
    );
    let found: Value =
        serde_json::from_str(&ask(&[&issue[..], &["--login-url", "--format", "json"]].concat())).unwrap();
    assert_eq!((&found["login_url"], &found["decision"]), (&json!(true), &json!("deny")));
    assert_eq!(found["rules"][3]["mismatch"], "login_url");
    let quotas = "per caller 50/s, burst 100; per caller and user 30/min, burst 10";
    let rule = format!("rule 4 (no-urls): token:support\n  only without a login URL\n  {quotas}\n");
    assert!(ask(&["--who", "IssueOtt", "a"]).contains(&rule));
    let with_url = ask(&["--who", "IssueOtt", "a", "--login-url"]);
    assert!(!with_url.contains("rule 4") && with_url.contains("rule 3 (ops)"), "{with_url}");

    let log_in = ["--explain", "token:support", "LoginWithOtt", "a", "--issued-by", "token:billing"];
    assert!(ask(&log_in).ends_with("\nALLOWED by rule 2 (support)\n"));
    let found: Value = serde_json::from_str(&ask(&[&log_in[..], &["--format", "json"]].concat())).unwrap();
    assert_eq!((&found["issued_by"], &found["rule"]["number"]), (&json!("token:billing"), &json!(2)));
    for (arguments, why) in [
        (
            &["--explain", "token:support", "LoginWithOtt", "-", "--login-url"][..],
            "--login-url is only for IssueOtt",
        ),
        (
            &["--explain", "token:support", "IssueOtt", "a", "--issued-by", "dns:a"],
            "--issued-by is only for LoginWithOtt",
        ),
        (
            &["--explain", "token:support", "LoginWithOtt", "-", "--issued-by", "dns:a"],
            "USER is required with --issued-by",
        ),
        (&["--who", "LoginWithOtt", "a", "--issued-by", "dns:*"], "--issued-by cannot be \"dns:*\""),
        (&["--login-url"], "required"),
        (&["--issued-by", "dns:a"], "required"),
    ] {
        let done = setup.run(&[&["check-config"], arguments].concat());
        assert_eq!(done.status.code(), Some(2), "{}", stdout(&done));
        assert!(stderr(&done).contains(why), "{}", stderr(&done));
    }

    // The command of a failed test asks the same question.
    let test = "[[access.tests]]\ncaller = \"token:support\"\nmethod = \"IssueOtt\"\nuser = \"a\"\nlogin_url = true\n\
                expect = \"allow\"\n";
    let failing = self::setup(&format!("{WITHOUT_URLS}{test}"));
    let done = failing.run(&["check-config"]);
    let command = "--explain token:support IssueOtt login:a --login-url --api-client test";
    assert!(done.status.code() == Some(2) && stderr(&done).contains(command), "{}", stderr(&done));
}

#[test]
fn questions_are_answered_by_the_rules_in_force_and_by_the_candidate_rules() {
    let setup = setup(
        "[[access.candidate_rules]]\nname = \"billing\"\ncallers = [\"token:billing\"]\nlogins = [\"anna@*\"]\n",
    );
    let ask = |arguments: &[&str]| {
        let done = setup.run(&[&["check-config"], arguments].concat());
        assert_eq!(done.status.code(), Some(0), "{}", stderr(&done));
        stdout(&done)
    };
    let json = |arguments: &[&str]| -> Value {
        serde_json::from_str(&ask(&[arguments, &["--format", "json"]].concat())).unwrap()
    };
    let quotas = "per caller 50/s, burst 100; per caller and user 30/min, burst 10";
    let explain = ["--explain", "token:billing", "IssueOtt", "ceo@customer.example"];
    let (in_force, candidates) =
        ask(&explain).split_once("candidate rules:\n").map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    assert!(
        in_force.starts_with("with API client test") && in_force.contains("\nrules in force:\nrule 1"),
        "{in_force}"
    );
    assert!(in_force.ends_with("\nALLOWED by rule 1 (billing)\n"), "{in_force}");
    assert!(
        candidates.starts_with("rule 1 (billing) ") && candidates.ends_with("\nDENIED: no rule allows it\n"),
        "{candidates}"
    );
    let found = json(&explain);
    assert_eq!((&found["decision"], &found["rule"]["number"]), (&json!("allow"), &json!(1)));
    assert_eq!(
        found["candidate_rules"],
        json!({
            "decision": "deny", "rule": null, "quotas_of": null,
            "rules": [{"number": 1, "name": "billing", "verdict": "mismatch", "mismatch": "user"}],
        })
    );

    let who = ["--who", "IssueOtt", "anna@other.example"];
    let answer = ask(&who);
    let both = format!(
        "\nrules in force:\nrule 3 (ops): jwt:*\n  only with a JWT with groups = \"ops\" and level = 7\n  {quotas}\n\
         1 rule allows it\ncandidate rules:\nrule 1 (billing): token:billing\n  {quotas}\n1 rule allows it\n"
    );
    assert!(answer.ends_with(&both), "{answer}");
    let found = json(&who);
    assert_eq!(
        (&found["rules"][0]["name"], &found["candidate_rules"][0]["name"]),
        (&json!("ops"), &json!("billing"))
    );

    // A call that does not reach the rules is denied once.
    let unknown = ask(&["--explain", "token:new", "IssueOtt", "a"]);
    assert_eq!(unknown, "DENIED: [callers.tokens] has no token \"new\"\n");
    let without = self::setup("").run(&[
        "check-config",
        "--explain",
        "token:billing",
        "IssueOtt",
        "a",
        "--format",
        "json",
    ]);
    assert!(!stdout(&without).contains("candidate"), "{}", stdout(&without));
}
