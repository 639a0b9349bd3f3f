//! Output of the real program for text that others control.

use std::{
    fs::{self, File},
    os::unix::fs::MetadataExt,
    process::{Command, Output, Stdio},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use ott_gateway::base::text::is_unprintable;
use serde_json::Value;
use tonic_types::StatusExt;

use crate::support::{
    call,
    gateway::Setup,
    upstream::{Answer, OTT, Upstream},
};

/// A TOML key with terminal escapes, line breaks and invisible characters.
const KEY: &str = r#""x\u001b[2J\nforged\u0085\u009b31m\u202e\u200b\U000E0041""#;
const ESCAPED: &str = r"x\u{1b}[2J\nforged\u{85}\u{9b}31m\u{202e}\u{200b}\u{e0041}";

fn assert_printable(text: &str) {
    let found = text.chars().find(|&character| character != '\n' && is_unprintable(character));
    assert_eq!(found, None, "{text:?}");
}

fn printed(done: &Output) -> String {
    let printed = [&done.stderr[..], &done.stdout[..]].concat();
    String::from_utf8(printed).expect("text")
}

#[test]
fn commands_escape_keys_and_arguments() {
    let platform = "127.0.0.1:1".parse().expect("an address");
    let setup =
        Setup::for_platforms(&[(KEY, platform)]).replacing("[server]", &format!("[server]\n{KEY} = 1"));
    setup.write_config();
    for command in ["check-config", "serve"] {
        let done = setup.run(&[command]);
        let text = printed(&done);
        assert_eq!(done.status.code(), Some(2), "{text}");
        assert_printable(&text);
        assert!(text.contains(&format!("server.{ESCAPED}: unknown key")), "{text}");
    }
    let setup = Setup::for_platforms(&[(KEY, platform)]).environment("CLICOLOR_FORCE", "0");
    setup.write_config();
    let done =
        setup.run(&["check-config", "--explain", "anonymous", "IssueOtt", "a", "--api-client", "b\u{1b}[2J"]);
    assert_printable(&printed(&done));
    let text = printed(&setup.run(&["check-config"]));
    assert_printable(&text);
    assert!(text.contains(ESCAPED), "{text}");
    let text = printed(&setup.run(&["serve", "--\u{1b}[2J\u{202e}"]));
    assert_printable(&text);
    assert!(text.contains(r"\u{202e}"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn log_escapes_keys_in_both_formats() {
    let upstream = Upstream::http().await;
    for format in ["json", "text"] {
        let gateway = Setup::for_platform(upstream.address())
            .replacing("log_format = \"json\"", &format!("log_format = \"{format}\""))
            .start();
        let config = gateway.folder().join("config.toml");
        let good = fs::read_to_string(&config).expect("the configuration");
        fs::write(&config, format!("{good}\n[access.{KEY}]\n")).expect("a writable folder");
        gateway.signal("HUP");
        let refused = |line: &str| line.contains("keeping the current ones").then(|| line.to_owned());
        let line = gateway.stderr().wait_for("the refusal", refused);
        assert_printable(&gateway.stderr().text());
        let errors = if format == "json" {
            let line: Value = serde_json::from_str(&line).expect("one JSON object");
            line["config.errors"].as_str().expect("a text").to_owned()
        } else {
            // A quoted string, in which backslashes are escaped again.
            line.replace("\\\\", "\\")
        };
        assert!(errors.contains(&format!("access.{ESCAPED}: unknown key")), "{errors}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_reload_with_many_problems_logs_a_short_line() {
    let upstream = Upstream::http().await;
    let gateway = Setup::for_platform(upstream.address()).start();
    let config = gateway.folder().join("config.toml");
    let good = fs::read_to_string(&config).expect("the configuration");
    let rules = (0..400).map(|number| format!("[[access.rules]]\nunknown_{number} = 1\n"));
    let rules = rules.collect::<Vec<_>>().concat();
    fs::write(&config, format!("{good}\n{rules}")).expect("a writable folder");
    gateway.signal("HUP");
    let refused = |line: &str| {
        line.contains("keeping the current ones").then(|| {
            assert!(line.len() < 16 * 1024, "{} bytes", line.len());
            serde_json::from_str::<Value>(line).expect("one JSON object")
        })
    };
    let line = gateway.stderr().wait_for("the refusal", refused);
    let errors = line["config.errors"].as_str().expect("a text");
    let number: usize = errors.split(' ').next().and_then(|number| number.parse().ok()).expect("a number");
    assert!(number >= 400 && errors.contains("problems; the first 10 are"), "{errors}");
    // The same process loads a valid file.
    fs::write(&config, format!("{good}\n")).expect("a writable folder");
    gateway.signal("HUP");
    gateway.stderr().wait_for("the reload", |line| line.contains("access rules reloaded").then_some(()));
}

/// The log of a sandbox whose standard error is a file.
fn log_of_sandbox(variables: &[(&str, &str)], is_journal: bool) -> String {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("log");
    let file = File::create(&path).expect("a file");
    let of = file.metadata().expect("the metadata of the file");
    let inode = of.ino() + u64::from(!is_journal);
    let done = Command::new(env!("CARGO_BIN_EXE_ott-gateway"))
        .args(["sandbox", "--once", "--listen", "127.0.0.1:0", "--platform-listen", "127.0.0.1:0"])
        .env_remove("NO_COLOR")
        .env("RUST_LOG", "info")
        .env("JOURNAL_STREAM", format!("{}:{inode}", of.dev()))
        .envs(variables.iter().copied())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(file)
        .status()
        .expect("a running sandbox");
    assert!(done.success());
    fs::read_to_string(&path).expect("the log")
}

#[test]
fn journal_lines_start_with_their_priority() {
    let log = log_of_sandbox(&[], true);
    assert!(log.lines().count() > 2, "{log}");
    for line in log.lines() {
        assert!(line.starts_with("<6>2") || line.starts_with("<4>2"), "{line}");
    }
    let elsewhere = log_of_sandbox(&[], false);
    assert!(elsewhere.lines().count() > 2 && !elsewhere.contains('<'), "{elsewhere}");
}

#[test]
fn log_colors_follow_the_usual_variables() {
    assert!(!log_of_sandbox(&[], false).contains('\u{1b}'), "not a terminal");
    assert!(log_of_sandbox(&[("CLICOLOR_FORCE", "1")], false).contains("\u{1b}[32m INFO\u{1b}[0m"));
    assert!(!log_of_sandbox(&[("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1")], false).contains('\u{1b}'));
}

#[tokio::test(flavor = "multi_thread")]
async fn rust_log_for_other_programs_is_ignored() {
    let upstream = Upstream::http().await;
    for (value, warning) in
        [("my_app=debug,h2=off", None), ("1", Some("1 of 1")), ("info,[x", Some("1 of 2"))]
    {
        let gateway = Setup::for_platform(upstream.address()).environment("RUST_LOG", value).start();
        let mut client = gateway.client().await;
        client.issue_ott(call::issue("someone")).await.expect("a token");
        let log = gateway.stderr().text();
        let begins = warning.map(|warning| format!("RUST_LOG: {warning} parts are not valid"));
        let is_warned = log.contains("RUST_LOG: ");
        assert_eq!(is_warned, warning.is_some(), "{log}");
        assert!(begins.is_none_or(|begins| log.contains(&begins)), "{log}");
        assert!(!log.contains("DEBUG"), "{log}");
    }
    let setup = Setup::for_platform(upstream.address()).environment("RUST_LOG", "off,h2");
    setup.write_config();
    let text = printed(&setup.run(&["check-config"]));
    assert!(text.contains("warning: RUST_LOG: 1 of 2 parts") && text.contains("RUST_LOG=off,h2"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_part_of_the_client_secret_is_returned() {
    let upstream = Upstream::http().await;
    let gateway = Setup::for_platform(upstream.address()).start();
    let mut client = gateway.client().await;
    // The secret is `canary-client-secret`.
    let basic = STANDARD.encode("test-client:canary-client-secret");
    for (leak, is_returned) in [
        ("client-secret", false),
        ("CLIENT%2dSECRET", false),
        (&basic, false),
        (&basic[6..20], false),
        (&STANDARD.encode("ary-client-sec"), false),
        ("no such user", true),
    ] {
        let body = format!(r#"{{"error":{{"code":1002,"domain":"{leak}","message":"{leak}"}}}}"#);
        upstream.next(OTT, Answer::json(400, body));
        let status = client.issue_ott(call::issue("someone")).await.expect_err("a refusal");
        let metadata = status.get_details_error_info().expect("a reason").metadata;
        let passed = ["apiMessage", "apiDomain"].map(|key| metadata.contains_key(key));
        assert_eq!(passed[0], is_returned, "{leak}: {metadata:?}");
        assert!(is_returned || !metadata.values().any(|value| value.contains(leak)), "{leak}: {metadata:?}");
    }
    let metrics = gateway.admin_get("/metrics").await;
    let withheld = r#"ott_gateway_platform_texts_withheld_total{api_client="test"} 5"#;
    assert!(metrics.lines().any(|line| line == withheld), "{metrics}");
    let log = gateway.stderr().text();
    assert_eq!(log.matches("platform error contains part of a secret").count(), 5, "{log}");
    client.issue_ott(call::issue("someone")).await.expect("a token");
}
