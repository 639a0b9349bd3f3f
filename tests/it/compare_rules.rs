//! `compare-rules`, and the warnings of `check-config` about rules that never decide.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Command, Output},
};

use flate2::{Compression, write::GzEncoder};
use serde_json::{Value, json};

use crate::support::{
    calling::{issue, result_of, until},
    gateway::Setup,
    upstream::Upstream,
};

const HEAD: &str = "\
[api_clients.eu2]
default = true
data_center_url = \"https://eu2-cloud.acronis.com\"
client_id = \"x\"
client_secret_file = \"not-there\"
[api_clients.us4]
data_center_url = \"https://us4-cloud.acronis.com\"
client_id = \"x\"
client_secret_file = \"not-there\"
[callers.tokens]
billing = \"sha256:8c1d2b0f6a7e4d5c9b3a1f0e8d7c6b5a4f3e2d1c0b9a8f7e6d5c4b3a2f1e0d9c\"
";

const OLD: &str = "\
[[access.rules]]
name = \"portal\"
callers = [\"spiffe://example.org/ns/portal/sa/*\"]
logins = [\"*@Customer.example\"]
[[access.rules]]
callers = [\"token:billing\"]
api_clients = [\"us4\"]
users = \"all\"
";

/// Compares two files with these rules.
fn compare(old: &str, new: &str, arguments: &[&str]) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str, rules: &str| {
        let path = folder.path().join(name);
        fs::write(&path, format!("{HEAD}{rules}")).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (old, new) = (path("old.toml", old), path("new.toml", new));
    run(folder.path(), &[&["compare-rules", &old, &new], arguments].concat())
}

fn run(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ott-gateway"))
        .args(arguments)
        .current_dir(folder)
        .env_remove("OTT_GATEWAY_CONFIG")
        .output()
        .unwrap()
}

fn stderr(done: &Output) -> String {
    String::from_utf8(done.stderr.clone()).unwrap()
}

fn stdout(done: &Output) -> String {
    String::from_utf8(done.stdout.clone()).unwrap()
}

fn json(done: &Output) -> Value {
    serde_json::from_slice(&done.stdout).unwrap_or_else(|error| panic!("{error}: {done:?}"))
}

#[test]
fn exit_code_shows_whether_anything_is_opened() {
    let done = compare(OLD, OLD, &[]);
    assert_eq!(done.status.code(), Some(0), "{done:?}");
    assert!(stdout(&done).contains("Opened: calls that only the new file allows: none"), "{done:?}");

    let wider = OLD.replace("ns/portal/sa/*", "ns/*");
    let done = compare(OLD, &wider, &[]);
    assert_eq!(done.status.code(), Some(3), "{done:?}");
    let report = stdout(&done);
    for part in [
        "rule 1 (portal)",
        "spiffe://example.org/ns/* except spiffe://example.org/ns/portal/sa/*",
        "methods       IssueOtt, LoginWithOtt",
        "example       spiffe://example.org/ns/x IssueOtt login:x@customer.example\n",
        "example       spiffe://example.org/ns/x LoginWithOtt login:x@customer.example\n",
        "login:*@Customer.example is compared as login:*@customer.example",
    ] {
        assert!(report.contains(part), "{part}:\n{report}");
    }
    // The same change backwards closes calls.
    let done = compare(&wider, OLD, &[]);
    assert_eq!(done.status.code(), Some(0), "{done:?}");
    assert!(stdout(&done).contains("Closed: calls that only the old file allows: 1"), "{done:?}");
}

#[test]
fn invalid_file_exits_with_2_and_its_problems() {
    for (old, new) in [(OLD, "[[access.rules]]\ncaller = []"), ("[access", OLD), (OLD, "")] {
        for format in ["text", "json"] {
            let done = compare(old, new, &["--format", format]);
            assert_eq!(done.status.code(), Some(2), "{done:?}");
            assert!(done.stdout.is_empty(), "{done:?}");
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let done = run(folder.path(), &["compare-rules", "a.toml", "b.toml"]);
    assert_eq!(done.status.code(), Some(2), "{done:?}");
    let errors = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(errors.contains("a.toml: ") && errors.contains("b.toml: "), "{errors}");
    assert_eq!(run(folder.path(), &["compare-rules", "a.toml"]).status.code(), Some(2));
}

#[test]
fn examples_hold_in_check_config() {
    let new = OLD
        .replace("api_clients = [\"us4\"]\nusers", "burst = 5\nusers")
        .replace("*@Customer", "*@*.customer");
    let done = compare(OLD, &new, &["--format", "json"]);
    assert_eq!(done.status.code(), Some(3), "{done:?}");
    let report = json(&done);
    let opened = report["opened"].as_array().unwrap();
    let example =
        opened.iter().find(|opening| opening["rule"] == 2 && opening["method"] == "IssueOtt").unwrap();
    assert_eq!(example["callers"], "token:billing");
    assert_eq!(example["users"], "all");
    assert_eq!(example["api_client"], "eu2");
    assert_eq!(example["example"]["caller"], "token:billing");
    assert!(example["example"].get("api_client").is_none(), "eu2 is the default: {example}");
    let closed = report["closed"].as_array().unwrap();
    assert_eq!(closed[0]["rule_name"], "portal");
    let quotas = report["quotas"].as_array().unwrap();
    assert_eq!(quotas[0]["changes"]["burst"]["new"], "5");
    assert_eq!((&quotas[0]["old_rule"], &quotas[0]["rule"]), (&2.into(), &2.into()));

    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("secret"), "0f5e8a7c-secret-of-a-test-27c1").unwrap();
    for (name, rules) in [("old.toml", OLD), ("new.toml", &*new)] {
        let head = HEAD.replace("not-there", "secret");
        fs::write(folder.path().join(name), format!("{head}{rules}")).unwrap();
    }
    let explain = |file: &str, opening: &Value| {
        let example = &opening["example"];
        let text = |key: &str| example[key].as_str().unwrap().to_owned();
        let mut arguments = ["check-config", "--config", file, "--explain"].map(str::to_owned).to_vec();
        arguments.extend([text("caller"), opening["method"].as_str().unwrap().to_owned(), text("user")]);
        if example.get("api_client").is_some() {
            arguments.extend(["--api-client".to_owned(), text("api_client")]);
        }
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        stdout(&run(folder.path(), &arguments))
    };
    let mut asked = 0;
    for (openings, allowing, other) in [(opened, "new.toml", "old.toml"), (closed, "old.toml", "new.toml")] {
        for opening in openings.iter().filter(|opening| opening["method"] == "IssueOtt") {
            let allowed = format!("ALLOWED by rule {}", opening["rule"]);
            assert!(explain(allowing, opening).contains(&allowed), "{opening}");
            assert!(explain(other, opening).contains("DENIED"), "{opening}");
            asked += 1;
        }
    }
    assert_eq!(asked, 3);
}

#[test]
fn examples_of_claims_and_api_clients_are_arguments_of_explain() {
    let jwt = "[callers.jwt]\nissuer = \"i\"\naudience = \"a\"\njwks_file = \"not-there\"\n";
    let rule = "[[access.rules]]\ncallers = [\"jwt:*\"]\nclaims = { groups = [\"on call\"] }\n\
                api_clients = [\"us4\"]\nlogins = [\"anna@customer.example\"]\n";
    let done = compare(&format!("{jwt}{OLD}"), &format!("{jwt}{OLD}{rule}"), &[]);
    let example = "example       jwt:x IssueOtt login:anna@customer.example --api-client us4 \
                   --claim 'groups=\"on call\"'\n";
    assert!(stdout(&done).contains(example), "{done:?}");
}

#[test]
fn examples_of_any_claims_can_be_pasted_into_a_shell() {
    let jwt = "[callers.jwt]\nissuer = \"https://issuer.example\"\naudience = \"a\"\n\
               jwks_url = \"https://issuer.example/jwks\"\n";
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("secret"), "0f5e8a7c-secret-of-a-test-27c1").unwrap();
    let head = HEAD.replace("not-there", "secret");
    fs::write(folder.path().join("old.toml"), format!("{head}{jwt}{OLD}")).unwrap();
    // As in TOML.
    for (path, value) in [
        ("a=b", r#""c""#),
        ("=", r#""=""#),
        ("-", r#""-""#),
        ("--format=json", r#""text""#),
        ("-a=", "-7"),
        (r#"it's $(id) `id` \"quoted\" \\"#, r#""it's $(id) \"x\" \\""#),
        (r#"\"=\""#, r#""\"""#),
        ("a~1b/c~0d", "true"),
        (" ", r#"" ""#),
        (r"\u202e\n", r#""\u202e\u0001\n""#),
        ("groups", r#""7""#),
        ("\u{e4}", r#""true""#),
    ] {
        let new = format!(
            "{head}{jwt}{OLD}[[access.rules]]\ncallers = [\"jwt:*\"]\nclaims = {{ \"{path}\" = [{value}] }}\n\
             users = \"all\"\n"
        );
        fs::write(folder.path().join("new.toml"), new).unwrap();
        let done = run(folder.path(), &["compare-rules", "old.toml", "new.toml"]);
        assert_eq!(done.status.code(), Some(3), "{path}: {done:?}");
        let report = stdout(&done);
        let examples: Vec<&str> =
            report.lines().filter_map(|line| line.trim_start().strip_prefix("example ")).collect();
        assert!(!examples.is_empty() && examples.iter().all(|it| it.contains(" --claim")), "{report}");
        assert_eq!(check_examples(folder.path(), &report), examples.len());
    }
}

/// The record of a call of a service account.
fn record(account: &str, method: &str, login: Option<&str>, reason: Option<&str>) -> String {
    let line = json!({
        "event": "call", "time": "2026-01-01T00:00:00.000000Z", "request_id": format!("request-of-{account}"),
        "peer": "192.0.2.1", "caller": format!("spiffe://example.org/ns/{account}"),
        "caller_proof": "certificate", "claims": null, "method": method,
        "user": login.map(|login| json!({ "kind": "login", "value": login })), "api_client": "eu2",
        "user_spelling": null, "unvalidated": null, "code": reason.map_or("OK", |_| "PERMISSION_DENIED"), "reason": reason,
        "outcome": reason.map_or("done", |_| "not_sent"), "attempts": 1, "gateway_version": "0.1.0",
    });
    format!("{line}\n")
}

#[test]
fn calls_of_plain_and_compressed_audit_files_are_replayed() {
    let (web, anna, ben) = ("portal/sa/web", Some("anna@customer.example"), Some("ben@customer.example"));
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str, content: &[u8]| {
        let path = folder.path().join(name);
        fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let plain = [
        record(web, "IssueOtt", anna, None),
        record(web, "IssueOtt", ben, None),
        record(web, "LoginWithOtt", None, None),
        record("support/sa/desk", "IssueOtt", anna, Some("CALLER_NOT_ALLOWED")),
        record("support/sa/desk", "IssueOtt", ben, Some("CALLER_NOT_ALLOWED")),
        "{\"event\":\"call\",\n".to_owned(),
    ];
    let plain = path("audit.jsonl", plain.concat().as_bytes());
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    let rotated = [
        record(web, "IssueOtt", ben, None),
        record(web, "IssueOtt", anna, Some("CALLER_QUOTA_EXCEEDED")),
        // No rule of the old file is for this caller.
        record("ops/sa/cron", "IssueOtt", anna, None),
    ];
    encoder.write_all(rotated.concat().as_bytes()).unwrap();
    let compressed = path("audit.jsonl.1.gz", &encoder.finish().unwrap());

    let narrower = OLD.replace("*@Customer", "anna@customer");
    let audit = ["--audit", &plain, &compressed];
    let done = compare(OLD, &narrower, &audit);
    assert_eq!(done.status.code(), Some(0), "refused calls are not opened: {done:?}");
    let report = stdout(&done);
    let expected = "\
Recorded calls that the new file would refuse: 2
    2             spiffe://example.org/ns/portal/sa/web: allowed by rule 1 (portal), refused because of the user; \
for example request request-of-portal/sa/web
Recorded calls that the new file would allow: none
Recorded calls without a change: 3
Recorded calls that cannot be decided: 1
    1             because their records do not contain the user
note: the files do not contain the rules under which 6 of these calls were decided; the old file decides them as recorded
Recorded calls that were decided under other rules than those of the old file: 1
  would be refused by the new file: 1
    1             spiffe://example.org/ns/ops/sa/cron: refused because of the caller; for example request \
request-of-ops/sa/cron
  would be allowed by the new file: 0
  without a change: 0
  cannot be decided: 0
not compared, calls over a quota: 1
not compared, lines that are not whole records: 1
";
    assert!(report.ends_with(expected), "{report}");

    let wider = format!(
        "{narrower}[[access.rules]]\nname = \"support\"\ncallers = [\"spiffe://example.org/ns/support/*\"]\n\
         logins = [\"anna@customer.example\"]\n"
    );
    let done = compare(OLD, &wider, &[&audit[..], &["--format", "json"]].concat());
    assert_eq!(done.status.code(), Some(3), "{done:?}");
    let expected = json!({
        "refused": [{
            "caller": "spiffe://example.org/ns/portal/sa/web", "old_rule": "1 (portal)", "denied": "user",
            "calls": 2, "request_id": "request-of-portal/sa/web",
        }],
        "refused_others": 0,
        "allowed": [{
            "caller": "spiffe://example.org/ns/support/sa/desk", "rule": "3 (support)", "calls": 1,
            "request_id": "request-of-support/sa/desk",
        }],
        "allowed_others": 0,
        "unchanged": 2,
        "undecided": { "caller": 0, "claims": 0, "api_client": 0, "issuer": 0, "login_url": 0, "user": 1, "user_spelling": 0 },
        "rules_not_recorded": 6,
        "other_rules": {
            "calls": 1,
            "refused": [{
                "caller": "spiffe://example.org/ns/ops/sa/cron", "old_rule": null, "denied": "caller",
                "calls": 1, "request_id": "request-of-ops/sa/cron",
            }],
            "refused_others": 0, "allowed": [], "allowed_others": 0, "unchanged": 0,
            "undecided": { "caller": 0, "claims": 0, "api_client": 0, "issuer": 0, "login_url": 0, "user": 0, "user_spelling": 0 },
        },
        "not_compared": {
            "not_decided": 0, "over_quota": 1, "summarized": 0, "lost": 0, "late": 0,
            "repeated": 0, "other_records": 0, "not_records": 1,
        },
    });
    assert_eq!(json(&done)["audit"], expected);

    // A cut file is an error, although the rules can be compared.
    let bytes = fs::read(&compressed).unwrap();
    let cut = path("cut.gz", &bytes[..bytes.len() / 2]);
    let done = compare(OLD, &wider, &["--audit", &plain, &cut]);
    assert_eq!(done.status.code(), Some(2), "{done:?}");
    assert!(done.stdout.is_empty(), "{done:?}");
    assert!(String::from_utf8_lossy(&done.stderr).contains("cut.gz"), "{done:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replayed_decisions_are_those_of_a_gateway_with_the_new_rules() {
    let platform = Upstream::http().await;
    let mut gateway = Setup::for_platform(platform.address()).start();
    let mut client = gateway.client().await;
    let file = gateway.folder().join("config.toml");
    let old = fs::read_to_string(&file).unwrap();
    let new = old.replace("users = \"all\"", "logins = [\"*@customer.example\"]");
    let users = [
        "anna@customer.example",
        "\u{ff41}nna@customer.example",
        "Anna@CUSTOMER.example",
        "anna@other.example",
    ];
    let mut results = async || {
        let mut results = Vec::new();
        for user in users {
            results.push(result_of(&client.issue_ott(issue(user)).await) == "OK");
        }
        results
    };
    assert_eq!(results().await, [true; 4]);
    fs::write(&file, &new).unwrap();
    gateway.signal("HUP");
    until("the rules have changed", async || !gateway.audit_lines("rules_changed").is_empty()).await;
    assert_eq!(results().await, [true, false, true, false], "no list matches other forms of ASCII");
    gateway.signal("TERM");
    assert!(gateway.ended().await.success());

    fs::write(gateway.folder().join("old.toml"), old).unwrap();
    let replay = |old: &str, new: &str| {
        let arguments = ["compare-rules", old, new, "--format", "json", "--audit", "audit.jsonl"];
        json(&run(gateway.folder(), &arguments))["audit"].clone()
    };
    let counts = |audit: &Value| {
        let sum = |list: &str| {
            audit[list].as_array().unwrap().iter().map(|row| row["calls"].as_u64().unwrap()).sum::<u64>()
        };
        (audit["unchanged"].as_u64().unwrap(), sum("refused"), sum("allowed"))
    };
    let forwards = replay("old.toml", "config.toml");
    assert_eq!(counts(&forwards), (2, 2, 0), "{forwards}");
    assert_eq!(counts(&forwards["other_rules"]), (4, 0, 0), "as they were decided: {forwards}");
    assert_eq!(forwards["rules_not_recorded"], 0);
    let backwards = replay("config.toml", "old.toml");
    assert_eq!(counts(&backwards), (2, 0, 2), "{backwards}");
    assert_eq!(counts(&backwards["other_rules"]), (4, 0, 0), "{backwards}");
}

#[test]
fn check_config_warns_of_rules_that_never_decide_and_of_open_globs() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("secret"), "0f5e8a7c-secret-of-a-test-27c1").unwrap();
    let warnings = |rules: &str| {
        let file = folder.path().join("gateway.toml");
        fs::write(&file, format!("{}{rules}", HEAD.replace("not-there", "secret"))).unwrap();
        let done = run(folder.path(), &["check-config", "--config", file.to_str().unwrap()]);
        assert_eq!(done.status.code(), Some(0), "{done:?}");
        let lines = String::from_utf8(done.stderr).unwrap();
        lines
            .lines()
            .filter(|line| line.contains("_rules") || line.contains("access.rules"))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let fine = "[[access.rules]]\ncallers = [\"token:*\"]\nlogins = [\"*@customer.example\", \"*@*.customer.example\"]\n\
                [[access.rules]]\ncallers = [\"token:billing\"]\nexternal_ids = [\"a*\"]\nuser_ids = [\"*1\"]\n";
    assert_eq!(warnings(fine), [""; 0]);
    let covered = "[[access.rules]]\ncallers = [\"token:billing\"]\nrate = \"1/s\"\nlogins = [\"anna@customer.example\"]\n";
    let found = warnings(&format!("{fine}{covered}"));
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(
        found[0].contains("access.rules[3]: never decides a call, because rule 1 before it"),
        "{found:?}"
    );
    assert!(found[0].contains("gateway.toml:19: "), "{found:?}");
    let open = fine.replace("*@customer.example", "*customer.example");
    let found = warnings(&open);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].contains("access.rules[1].logins[1]: begins within a name"), "{found:?}");
    let found = warnings(&fine.replace("*@customer.example", "a*"));
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(
        found[0].ends_with("write the domain, as in anna*@customer.example, or the login in full"),
        "{found:?}"
    );

    // Candidate rules are checked in the same way, and only against each other.
    let candidates = format!("{open}{covered}").replace("access.rules", "access.candidate_rules");
    let found = warnings(&format!("{fine}{candidates}"));
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].contains("access.candidate_rules[1].logins[1]: begins within a name"), "{found:?}");
    assert!(
        found[1].contains("access.candidate_rules[3]: never decides a call, because rule 1 before"),
        "{found:?}"
    );
    let same = format!("{open}{}", open.replace("access.rules", "access.candidate_rules"));
    let found = warnings(&same);
    assert_eq!(found.iter().filter(|line| line.contains("begins within a name")).count(), 1, "{found:?}");
}

#[test]
fn changed_tokens_and_platforms_are_noted() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, head: &str| fs::write(folder.path().join(name), format!("{head}{OLD}")).unwrap();
    write("old.toml", HEAD);
    write("token.toml", &HEAD.replace("sha256:8c", "sha256:9c"));
    write("platform.toml", &HEAD.replace("us4-cloud", "us5-cloud"));
    for (new, noted) in [
        ("old.toml", None),
        ("token.toml", Some("callers.tokens.billing")),
        ("platform.toml", Some("api_clients.us4.data_center_url")),
    ] {
        let done = run(folder.path(), &["compare-rules", "old.toml", new]);
        assert_eq!(done.status.code(), Some(0), "{done:?}");
        let text = String::from_utf8_lossy(&done.stdout).into_owned();
        let notes: Vec<&str> = text.lines().filter(|line| line.contains(" differs; ")).collect();
        let expected =
            noted.map(|key| format!("note: {key} differs; what the name stands for is not compared"));
        assert_eq!(notes, Vec::from_iter(expected.as_deref()));
        let done = run(folder.path(), &["compare-rules", "old.toml", new, "--format", "json"]);
        let report: Value = serde_json::from_slice(&done.stdout).unwrap();
        let notes = report.get("notes").and_then(Value::as_array).map_or(0, Vec::len);
        assert_eq!(notes, usize::from(noted.is_some()), "{report}");
    }
    write("binding.toml", &format!("[token_binding]\nkeys_file = \"not-there\"\n{HEAD}"));
    for (old, new) in [("old.toml", "binding.toml"), ("binding.toml", "old.toml")] {
        let done = run(folder.path(), &["compare-rules", old, new]);
        assert_eq!(done.status.code(), Some(0), "{done:?}");
        let expected = "note: only one of the files has [token_binding], ";
        assert!(String::from_utf8_lossy(&done.stdout).starts_with(expected), "{done:?}");
        assert_eq!(stderr(&done), "");
    }
    let same = run(folder.path(), &["compare-rules", "binding.toml", "binding.toml"]);
    assert!(String::from_utf8_lossy(&same.stdout).starts_with("Opened"), "{same:?}");
}

#[test]
fn issuer_without_a_name_to_distinguish_it_opens_calls() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, jwt: &str, callers: &str| {
        let rule = format!("[[access.rules]]\ncallers = [\"{callers}\"]\nusers = \"all\"\n");
        fs::write(folder.path().join(name), format!("{HEAD}{jwt}{rule}")).unwrap();
    };
    let keys = "audience = \"a\"\njwks_file = \"keys\"\n";
    let unnamed = format!("[callers.jwt]\nissuer = \"https://p.example\"\n{keys}");
    let named = |name: &str| {
        format!("[[callers.jwt]]\nname = \"{name}\"\nissuer = \"https://{name}.example\"\n{keys}")
    };
    for (callers, code) in [("jwt:*", 3), ("*", 3), ("jwt?*", 3), ("spiffe://example.org/*", 0), ("dns:*", 0)]
    {
        write("old.toml", &unnamed, callers);
        write("new.toml", &(named("p") + &named("q")), callers);
        let done = run(folder.path(), &["compare-rules", "old.toml", "new.toml"]);
        assert_eq!(done.status.code(), Some(code), "{callers}: {done:?}");
        let opened = "opened: only the new file accepts JWTs of https://q.example, ";
        assert_eq!(String::from_utf8_lossy(&done.stdout).contains(opened), code == 3, "{callers}");
        let done = run(folder.path(), &["compare-rules", "old.toml", "new.toml", "--format", "json"]);
        let report: Value = serde_json::from_slice(&done.stdout).unwrap();
        let issuers = report.get("opened_issuers").cloned().unwrap_or_default();
        let expected = if code == 3 { serde_json::json!(["https://q.example"]) } else { Value::Null };
        assert_eq!(issuers, expected, "{callers}");
    }
    write("none.toml", "", "jwt:*");
    write("old.toml", &unnamed, "jwt:*");
    for (old, new, code) in
        [("none.toml", "old.toml", 3), ("old.toml", "none.toml", 0), ("old.toml", "old.toml", 0)]
    {
        let done = run(folder.path(), &["compare-rules", old, new]);
        assert_eq!(done.status.code(), Some(code), "{old} {new}: {done:?}");
    }
}

#[test]
fn rules_that_fail_their_own_tests_are_refused() {
    let failing = format!(
        "{OLD}[[access.tests]]\ncaller = \"token:billing\"\nmethod = \"IssueOtt\"\nuser = \"login:a\"\napi_client = \
         \"us4\"\nexpect = \"deny\"\n"
    );
    let done = compare(OLD, &failing, &[]);
    assert_eq!(done.status.code(), Some(2), "{done:?}");
    assert!(done.stdout.is_empty(), "{done:?}");
    let errors = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(errors.contains("new.toml:") && errors.contains("access.tests[1]"), "{errors}");
}

#[test]
fn file_in_another_compression_is_refused_with_the_command_that_reads_it() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("old.toml"), format!("{HEAD}{OLD}")).unwrap();
    fs::write(folder.path().join("a b.zst"), b"\x28\xb5\x2f\xfd...").unwrap();
    for (arguments, advice) in [
        (&["audit", "check", "a b.zst"][..], "zstd -dc 'a b.zst' | ott-gateway audit check -\n"),
        (
            &["compare-rules", "old.toml", "old.toml", "--audit", "a b.zst"],
            "zstd -dc 'a b.zst' | ott-gateway compare-rules old.toml old.toml --audit -\n",
        ),
    ] {
        let done = run(folder.path(), arguments);
        assert_eq!(done.status.code(), Some(2), "{done:?}");
        let error = String::from_utf8(done.stderr).unwrap();
        assert!(error.ends_with(&format!("; decompress it first: {advice}")), "{error}");
    }
}

/// Asks `check-config` about every example of a report, and returns their number.
fn check_examples(folder: &Path, report: &str) -> usize {
    let (mut asked, mut files) = (0, ["new.toml", "old.toml"]);
    for line in report.lines() {
        if line.starts_with("Closed: ") {
            files.reverse();
        }
        let Some(example) = line.trim_start().strip_prefix("example ") else { continue };
        for (file, conclusion) in files.iter().zip(["ALLOWED", "DENIED"]) {
            let program = env!("CARGO_BIN_EXE_ott-gateway");
            let command = format!("{program} check-config --config {file} --explain {example}");
            let done = Command::new("sh").args(["-c", &command]).current_dir(folder).output().unwrap();
            assert_eq!(done.status.code(), Some(0), "{command}: {done:?}");
            let answer = stdout(&done);
            assert!(answer.lines().last().unwrap().starts_with(conclusion), "{command}: {answer}");
        }
        asked += 1;
    }
    asked
}

const PORTAL: &str = "callers = [\"spiffe://example.org/ns/portal/sa/*\"]";

/// Compares two files with rules that limit tokens, whose examples must hold, forwards and backwards.
fn compare_token_limits(old: &str, new: &str) -> [String; 2] {
    let folder = tempfile::tempdir().unwrap();
    let private = |name: &str, content: &str| {
        let path = folder.path().join(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    };
    private("secret", "0f5e8a7c-secret-of-a-test-27c1");
    private("token.keys", "2026-11 AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n");
    let head = HEAD.replace("not-there", "secret");
    let head = format!("[token_binding]\nkeys_file = \"token.keys\"\n{head}");
    [(old, new), (new, old)].map(|(old, new)| {
        for (name, rules) in [("old.toml", old), ("new.toml", new)] {
            fs::write(folder.path().join(name), format!("{head}{rules}")).unwrap();
        }
        let done = run(folder.path(), &["compare-rules", "old.toml", "new.toml"]);
        let report = stdout(&done);
        let opens = !report.contains("new file allows: none");
        assert_eq!(done.status.code(), Some(if opens { 3 } else { 0 }), "{}", stderr(&done));
        assert!(check_examples(folder.path(), &report) > 0, "{report}");
        report
    })
}

#[test]
fn login_urls_are_compared() {
    let limited = OLD.replacen(PORTAL, &format!("{PORTAL}\nlogin_urls = false"), 1);
    let [opened, closed] = compare_token_limits(&limited, OLD);
    for (report, heading) in [(&opened, "Opened: "), (&closed, "Closed: ")] {
        let found = report.split(heading).nth(1).unwrap();
        let expected = "1
  by rule 1 (portal)
    callers       spiffe://example.org/ns/portal/sa/*
    method        IssueOtt with a login URL
    users         login:*@customer.example
    API client    all
    example       spiffe://example.org/ns/portal/sa/x IssueOtt login:x@customer.example --login-url
";
        assert!(found.split_once("allows: ").unwrap().1.starts_with(expected), "{report}");
    }
    let done = compare(&limited, OLD, &["--format", "json"]);
    let opened = &json(&done)["opened"];
    let expected = json!([{
        "callers": "spiffe://example.org/ns/portal/sa/*", "method": "IssueOtt", "login_url": true,
        "users": "login:*@customer.example", "api_client": "all", "rule": 1, "rule_name": "portal",
        "example": {
            "caller": "spiffe://example.org/ns/portal/sa/x", "user": "login:x@customer.example",
            "login_url": true,
        },
    }]);
    assert_eq!((opened, done.status.code()), (&expected, Some(3)));
    // Calls for which it makes no difference.
    let wider = limited.replace("[\"us4\"]", "[\"*\"]");
    let opened = json(&compare(&limited, &wider, &["--format", "json"]))["opened"].clone();
    let opened = opened.as_array().unwrap();
    assert_eq!(opened.len(), 2, "one of each method: {opened:?}");
    assert!(opened.iter().all(|opening| opening.get("login_url").is_none()), "{opened:?}");
    assert_eq!(compare(&limited, &limited, &[]).status.code(), Some(0));
}

#[test]
fn issuers_of_sealed_tokens_are_compared() {
    let by = |globs: &str| OLD.replacen(PORTAL, &format!("{PORTAL}\nissued_by = {globs}"), 1);
    let (narrow, wide) = (by("[\"spiffe://example.org/ns/a/*\"]"), by("[\"spiffe://*\", \"anonymous\"]"));
    let [opened, _] = compare_token_limits(&narrow, &wide);
    let expected = "    method        LoginWithOtt with a sealed token
    issued by     anonymous, spiffe://* except spiffe://example.org/ns/a/*
    users         login:*@customer.example
    API client    all
    example       spiffe://example.org/ns/portal/sa/x LoginWithOtt login:x@customer.example --issued-by \
                  spiffe://x/x
";
    assert!(opened.contains(&expected.replace("\\\n                  ", "")), "{opened}");
    let [opened, closed] = compare_token_limits(&wide, OLD);
    for report in [opened, closed] {
        for part in [
            "    method        LoginWithOtt with a token that is not sealed\n    users ",
            "    issued by     * except spiffe://*\n",
            "LoginWithOtt login:x@customer.example\n",
            "LoginWithOtt login:x@customer.example --issued-by dns:x\n",
        ] {
            assert!(report.contains(part), "{part}: {report}");
        }
    }
    let binding = "[token_binding]\nkeys_file = \"not-there\"\n";
    let [wide, all] = [&*wide, OLD].map(|rules| format!("{binding}{rules}"));
    let done = compare(&wide, &all, &["--format", "json"]);
    let opened = json(&done)["opened"].clone();
    let part = |at: usize, keys: [&str; 2]| keys.map(|key| opened[at].get(key).cloned());
    assert_eq!((done.status.code(), opened.as_array().unwrap().len()), (Some(3), 2), "{opened}");
    assert_eq!(part(0, ["sealed", "issued_by"]), [Some(false.into()), None]);
    assert_eq!(part(1, ["sealed", "issued_by"]), [Some(true.into()), Some("* except spiffe://*".into())]);
    assert_eq!(opened[0]["example"].get("issued_by"), None);
    assert_eq!(opened[1]["example"]["issued_by"], "dns:x");
}
