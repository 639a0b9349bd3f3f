//! Reloads of changed files by the real binary, and refused changes.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
};

use aws_lc_rs::digest::{SHA256, digest};
use base64::{Engine, engine::general_purpose::STANDARD};
use ott_gateway::proto::ott::v1::ott_service_client::OttServiceClient;
use tokio_util::sync::CancellationToken;

use crate::support::{
    admin::Admin,
    calling::{issue, issued, load, metric, result_of, until},
    gateway::{Gateway, Setup},
    upstream::{self, Answer, Upstream},
};

const NOT_ALLOWED: &str = "PermissionDenied CALLER_NOT_ALLOWED";
const FAILED: &str = r#"ott_gateway_reloads_total{result="failed",what="rules"}"#;
const OK: &str = r#"ott_gateway_reloads_total{result="ok",what="rules"}"#;

fn hash(token: &str) -> String {
    use std::fmt::Write as _;
    digest(&SHA256, format!("canary-{token}").as_bytes()).as_ref().iter().fold(
        "sha256:".to_owned(),
        |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        },
    )
}

/// The current configuration.
fn config(gateway: &Gateway) -> String {
    fs::read_to_string(gateway.folder().join("config.toml")).unwrap()
}

/// Replaces a file atomically.
fn put(gateway: &Gateway, name: &str, content: &str) {
    let new = gateway.folder().join(format!(".{name}.new"));
    fs::write(&new, content).unwrap();
    fs::set_permissions(&new, fs::Permissions::from_mode(0o600)).unwrap();
    fs::rename(new, gateway.folder().join(name)).unwrap();
}

async fn issues(gateway: &Gateway, login: &str) -> String {
    result_of(&gateway.client().await.issue_ott(issue(login)).await)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_rules_are_in_use_within_10_seconds_without_losing_a_call() {
    let platform = Upstream::http().await;
    let gateway = Setup::for_platform(platform.address())
        .replacing("users = \"all\"", "logins = [\"load@*\", \"old@*\"]")
        .start();
    let stop = CancellationToken::new();
    let calls = tokio::spawn(load(gateway.client().await, stop.clone()));
    assert_eq!(issues(&gateway, "old@x").await, "OK");
    assert_eq!(issues(&gateway, "new@x").await, NOT_ALLOWED);

    put(&gateway, "config.toml", &config(&gateway).replace("old@*", "new@*"));
    until("the new rules are in use", async || issues(&gateway, "new@x").await == "OK").await;
    assert_eq!(issues(&gateway, "old@x").await, NOT_ALLOWED, "both at once");
    gateway.stderr().wait_for("what changed", |line| {
        (line.contains("access rules reloaded") && line.contains("\"access.rules_changed\":true"))
            .then_some(())
    });

    // SIGHUP: at once.
    put(&gateway, "config.toml", &config(&gateway).replace("new@*", "newest@*"));
    gateway.signal("HUP");
    let is_in_use = async || issues(&gateway, "newest@x").await == "OK";
    until("the newest rules are in use", is_in_use).await;
    // Only a signal reloads an unchanged file.
    let loaded = metric(gateway.admin(), OK).await;
    gateway.signal("HUP");
    until("the file is reloaded", async || metric(gateway.admin(), OK).await > loaded).await;
    stop.cancel();
    assert!(calls.await.expect("no call is lost") > 50);
    assert_eq!(metric(gateway.admin(), FAILED).await.to_string(), "0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_of_new_rules_get_metrics() {
    let platform = Upstream::http().await;
    let tokens = format!("[callers.tokens]\none = \"{}\"\ntwo = \"{}\"\n[audit]", hash("one"), hash("two"));
    let gateway = Setup::for_platform(platform.address())
        .replacing("[audit]", &tokens)
        .replacing("[\"anonymous\"]", "[\"token:one\"]")
        .start();
    let calls = async |caller: &str| {
        let labels = format!("caller=\"{caller}\",method=\"IssueOtt\",code=\"OK\"");
        let admin = Admin(gateway.admin());
        admin.scrape().find(&format!("ott_gateway_caller_calls_total{{{labels}}}"))
    };
    let channel = gateway.channel().await;
    assert_eq!(issued(&channel, &[("authorization", "Bearer canary-one")]).await, "OK");
    assert_eq!((calls("token:one").await, calls("token:two").await), (Some(1.0), None));

    put(&gateway, "config.toml", &config(&gateway).replace("[\"token:one\"]", "[\"token:two\"]"));
    gateway.signal("HUP");
    until("the new rules are in use", async || {
        issued(&channel, &[("authorization", "Bearer canary-two")]).await == "OK"
    })
    .await;
    assert_eq!(calls("token:two").await, Some(1.0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invalid_new_version_is_refused_and_the_current_one_stays() {
    let platform = Upstream::http().await;
    let gateway = Setup::for_platform(platform.address())
        .replacing("users = \"all\"", "logins = [\"old@*\"]")
        .replacing("[audit]", &format!("[callers.tokens]\nci = \"{}\"\n[audit]", hash("first")))
        .start();
    let admin = gateway.admin();
    let good = config(&gateway);
    let widened = good.replace("old@*", "*").replace(&hash("first"), &hash("second"));
    let half = &widened[..widened.find("[audit]").unwrap() + 4];
    let broken = [
        ("a partial file", half.to_owned()),
        ("an unknown key", widened.replace("logins =", "login =")),
        ("no rules", widened.split("[[access.rules]]").next().unwrap().to_owned()),
        ("a misspelled section", widened.replace("[callers.tokens]", "[callers.token]")),
        ("a rule without callers", widened.replace("\"anonymous\"", "\"annonymous\"")),
        ("not text", "\u{0}\u{1}".to_owned()),
    ];
    for (number, (what, content)) in (1_u32..).zip(broken) {
        put(&gateway, "config.toml", &content);
        gateway.signal("HUP");
        let refused = async || metric(admin, FAILED).await >= f64::from(number);
        until(what, refused).await;
        assert_eq!(issues(&gateway, "old@x").await, "OK", "{what}");
        assert_eq!(issues(&gateway, "new@x").await, NOT_ALLOWED, "{what}");
        let channel = gateway.channel().await;
        let second = issued(&channel, &[("authorization", "Bearer canary-second")]).await;
        assert_eq!(second, "Unauthenticated CALLER_UNAUTHENTICATED", "{what}: no part of it is used");
    }
    gateway.stderr().wait_for("the error with its line", |line| {
        (line.contains("new access rules refused") && line.contains("did you mean")).then_some(())
    });
    fs::remove_file(gateway.folder().join("config.toml")).unwrap();
    gateway.signal("HUP");
    until("a missing file", async || metric(admin, FAILED).await >= 7.0).await;
    assert_eq!(issues(&gateway, "old@x").await, "OK");

    put(&gateway, "config.toml", &widened);
    until("the valid version", async || issues(&gateway, "new@x").await == "OK").await;
    assert!(metric(admin, OK).await >= 1.0);
    let log = gateway.stderr().text();
    for secret in [hash("first"), hash("second")] {
        assert!(!log.contains(secret.trim_start_matches("sha256:")), "{log}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bearer_tokens_are_replaced_at_run_time() {
    let platform = Upstream::http().await;
    let gateway = Setup::for_platform(platform.address())
        .replacing("\"anonymous\"", "\"anonymous\", \"token:ci\"")
        .replacing("[audit]", &format!("[callers.tokens]\nci = \"{}\"\n[audit]", hash("first")))
        .start();
    let channel = gateway.channel().await;
    let with_token = async |token: &str| {
        let bearer = format!("Bearer canary-{token}");
        issued(&channel, &[("authorization", bearer.as_str())]).await
    };
    let both = format!("[\"{}\", \"{}\"]", hash("first"), hash("second"));
    let with_first = config(&gateway);
    put(&gateway, "config.toml", &with_first.replace(&format!("\"{}\"", hash("first")), &both));
    until("the second token is accepted", async || with_token("second").await == "OK").await;
    assert_eq!(with_token("first").await, "OK", "both during the replacement");
    put(&gateway, "config.toml", &with_first.replace(&hash("first"), &hash("second")));
    let gone = async || with_token("first").await == "Unauthenticated CALLER_UNAUTHENTICATED";
    until("the first token is refused", gone).await;
    assert_eq!(with_token("second").await, "OK");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_are_logged_by_name_and_number_without_values() {
    let platform = Upstream::http().await;
    let tokens = |names: &[(&str, &str)]| {
        let lines = names.iter().map(|(name, token)| format!("{name} = \"{}\"\n", hash(token)));
        lines.fold("[callers.tokens]\n".to_owned(), |table, line| table + &line)
    };
    let before = tokens(&[("ci", "first"), ("nightly", "second"), ("reports", "third")]);
    let rules = "[[access.rules]]\ncallers = [\"token:*\"]\nlogins = [\"kept@*\"]\n\
                 [[access.rules]]\ncallers = [\"dns:*\"]\nusers = \"all\"\n\
                 [[access.rules]]";
    let gateway = Setup::for_platform(platform.address())
        .replacing("users = \"all\"", "logins = [\"old@*\"]")
        .replacing("[[access.rules]]", rules)
        .replacing("[audit]", &format!("{before}[audit]"))
        .start();
    // One token is added, one removed, one replaced; one rule is added first, one edited.
    let after = tokens(&[("ci", "fourth"), ("portal", "fifth"), ("reports", "third")]);
    let added = "[[access.rules]]\ncallers = [\"jwt:*\"]\nlogins = [\"kept@*\"]\n";
    let good = config(&gateway);
    let changed = good.replace("old@*", "new@*").replace(&before, &after);
    let first = changed.find("[[access.rules]]").unwrap();
    let changed = format!("{}{added}{}", &changed[..first], &changed[first..]);
    put(&gateway, "config.toml", &changed);
    gateway.signal("HUP");
    until("the new rules", async || issues(&gateway, "new@x").await == "OK").await;
    let line = gateway.stderr().wait_for("what changed", |line| {
        (line.contains("access rules reloaded") && line.contains("rules_changed\":true"))
            .then(|| line.to_owned())
    });
    let line: serde_json::Value = serde_json::from_str(&line).unwrap();
    for (field, value) in [
        ("access.rules_added", "1, 4"),
        ("access.rules_removed", "3"),
        ("callers.tokens_added", "portal"),
        ("callers.tokens_removed", "nightly"),
        ("callers.tokens_replaced", "ci"),
    ] {
        assert_eq!(line[field], value, "{field}: {line}");
    }
    assert!(line["access.opened"].as_u64() > Some(0) && line["access.closed"].as_u64() > Some(0), "{line}");
    assert_eq!((&line["access.quotas_changed"], &line["access.settings_changed"]), (&0.into(), &0.into()));
    // The line contains only changes.
    put(&gateway, "config.toml", &changed.replace(&after, &before));
    gateway.signal("HUP");
    let line = gateway.stderr().wait_for("what changed back", |line| {
        (line.contains("\"callers.tokens_removed\":\"portal\"")).then(|| line.to_owned())
    });
    assert!(line.contains("\"callers.tokens_added\":\"nightly\""), "{line}");
    assert!(!line.contains("rules_added") && !line.contains("rules_removed"), "{line}");
    assert!(line.contains("\"access.rules_changed\":false"), "{line}");
    let reloads = gateway.audit_lines("rules_changed");
    let [of_all, of_tokens] = reloads.as_slice() else { panic!("{reloads:?}") };
    assert_ne!(of_all["old_rules"], of_all["new_rules"]);
    assert_eq!(of_tokens["old_rules"], of_tokens["new_rules"], "only tokens changed");
    let one = |name: &str| serde_json::json!({ "count": 1, "names": [name] });
    let expected = serde_json::json!({
        "added": one("nightly"), "removed": one("portal"), "replaced": one("ci"),
    });
    assert_eq!(of_tokens["tokens"], expected);
    let log = gateway.stderr().text();
    let records = fs::read_to_string(gateway.folder().join("audit.jsonl")).unwrap();
    for value in ["first", "second", "third", "fourth", "fifth"].map(hash) {
        let digits = value.trim_start_matches("sha256:");
        assert!(!log.contains(digits) && !records.contains(digits), "{log}\n{records}");
    }
    assert!(!log.contains("kept@") && !log.contains("new@"), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn symlink_swap_rotates_the_client_secret_and_keeps_the_old_token_until_the_new_secret_works() {
    let platform = Upstream::http().await;
    let setup = Setup::for_platform(platform.address())
        .replacing("FOLDER/client-secret", "FOLDER/mounted/client-secret");
    let mounted = setup.folder().join("mounted");
    fs::create_dir_all(mounted.join("..1")).unwrap();
    fs::create_dir_all(mounted.join("..2")).unwrap();
    for (version, secret) in [("..1", "first"), ("..2", "second")] {
        let file = mounted.join(version).join("client-secret");
        fs::write(&file, secret).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    }
    symlink("..1", mounted.join("..data")).unwrap();
    symlink("..data/client-secret", mounted.join("client-secret")).unwrap();
    let gateway = setup.start();
    let stop = CancellationToken::new();
    let calls = tokio::spawn(load(gateway.client().await, stop.clone()));
    assert_eq!(issues(&gateway, "x").await, "OK");
    let shown = |request: &upstream::Recorded| request.header("authorization").unwrap().to_owned();
    let basic = |secret: &str| format!("Basic {}", STANDARD.encode(format!("test-client:{secret}")));
    assert_eq!(platform.requests_to(upstream::TOKEN).iter().map(shown).collect::<Vec<_>>(), [basic("first")]);

    // The platform does not accept the new secret yet.
    platform.next(upstream::TOKEN, Answer::json(401, r#"{"error":"invalid_client"}"#));
    symlink("..2", mounted.join("..new")).unwrap();
    fs::rename(mounted.join("..new"), mounted.join("..data")).unwrap();
    let tried = async || {
        platform.requests_to(upstream::TOKEN).iter().any(|request| shown(request) == basic("second"))
    };
    until("the new secret is tried", tried).await;
    assert_eq!(issues(&gateway, "x").await, "OK", "with the old token");
    let worked = async || platform.count(upstream::TOKEN) >= 3;
    until("the new secret works", worked).await;
    assert_eq!(issues(&gateway, "x").await, "OK");
    stop.cancel();
    assert!(calls.await.expect("no call is lost") > 50);
    let log = gateway.stderr().text();
    assert!(!log.contains("second") && !log.contains("first"), "no secret is logged: {log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unrelated_errors_do_not_block_a_revocation() {
    let platform = Upstream::http().await;
    let gateway = Setup::for_platform(platform.address())
        .replacing("users = \"all\"", "logins = [\"kept@*\", \"revoked@*\"]")
        .start();
    assert_eq!(issues(&gateway, "revoked@x").await, "OK");
    // A key file that arrives later, a data center without an id, and an unknown section.
    let changed = config(&gateway)
        .replace(", \"revoked@*\"", "")
        .replace("[audit]", "[audit]\nhmac_key_file = \"hmac-2026-12\"")
        .replace("client_id = \"test-client\"", "client_id = \"\"");
    put(&gateway, "config.toml", &(changed + "\n[next.version]\nkey = 1\n"));
    let revoked = async || issues(&gateway, "revoked@x").await == NOT_ALLOWED;
    until("the revocation is in use", revoked).await;
    assert_eq!(issues(&gateway, "kept@x").await, "OK");
    let line = gateway.stderr().wait_for("the other errors", |line| {
        line.contains("configuration invalid, restart would fail").then(|| line.to_owned())
    });
    for fault in ["audit.hmac_key_file", "client_id: must not be empty", "next: unknown key"] {
        assert!(line.contains(fault), "{fault}: {line}");
    }
    assert_eq!(metric(gateway.admin(), FAILED).await.to_string(), "0");
    assert_eq!(metric(gateway.admin(), r#"ott_gateway_reload_failing{what="rules"}"#).await.to_string(), "0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_that_require_a_restart_do_not_block_other_changes() {
    let platform = Upstream::http().await;
    let gateway =
        Setup::for_platform(platform.address()).replacing("users = \"all\"", "logins = [\"old@*\"]").start();
    let changed = config(&gateway)
        .replace("old@*", "new@*")
        .replace("100ms", "200ms")
        .replace("audit.jsonl", "other.jsonl");
    put(&gateway, "config.toml", &changed);
    gateway.signal("HUP");
    until("the new rules", async || issues(&gateway, "new@x").await == "OK").await;
    gateway.stderr().wait_for("the sections that require a restart", |line| {
        (line.contains("require a restart") && line.contains("\"server, audit\"")).then_some(())
    });
    let mut client = OttServiceClient::new(gateway.channel().await);
    assert_eq!(result_of(&client.issue_ott(issue("old@x")).await), NOT_ALLOWED);
    // Records of refused calls are written after the response.
    let records = || fs::read_to_string(gateway.folder().join("audit.jsonl")).unwrap();
    let last = async || records().lines().last().unwrap().contains("CALLER_NOT_ALLOWED");
    until("the record of the last call", last).await;
    assert!(!gateway.folder().join("other.jsonl").exists(), "the audit log has not moved");
}
