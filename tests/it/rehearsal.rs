//! Candidate rules: they report where they differ from the rules in force, and change no call.

use std::fs;

use serde_json::{Value, json};

use crate::{
    access::{Caller, setup},
    support::{
        calling::{admin_get, metric, until},
        gateway::Gateway,
        upstream::Upstream,
    },
};

const NOT_ALLOWED: &str = "PermissionDenied CALLER_NOT_ALLOWED";
const LINE: &str = "candidate access rules decide differently";
const RULES: &str = "[[access.rules]]
    callers = [\"token:a\"]
    users = \"all\"
    ";
const CANDIDATES: &str = "[[access.candidate_rules]]
    callers = [\"token:a\"]
    logins = [\"*@old.example\"]
    [[access.candidate_rules]]
    name = \"new\"
    callers = [\"token:b\"]
    logins = [\"*@new.example\"]
    ";

async fn differences(gateway: &Gateway, difference: &str, method: &str) -> f64 {
    let labels = format!("difference=\"{difference}\",method=\"{method}\"");
    let name = format!("ott_gateway_access_candidate_differences_total{{{labels}}}");
    metric(gateway.admin(), &name).await
}

/// The field `candidate` of the last audit record.
fn candidate(gateway: &Gateway) -> Value {
    let record = gateway.audit().pop().expect("a record");
    record.get("candidate").expect("a field of every record").clone()
}

fn line(gateway: &Gateway, difference: &str) -> Value {
    let find = |line: &str| (line.contains(LINE) && line.contains(difference)).then(|| line.to_owned());
    let line = gateway.stderr().wait_for(difference, find);
    serde_json::from_str(&line).expect("JSON")
}

async fn reload(gateway: &Gateway, change: impl FnOnce(String) -> String, result: &str) {
    let name = format!("ott_gateway_reloads_total{{result=\"{result}\",what=\"rules\"}}");
    let before = metric(gateway.admin(), &name).await;
    let file = gateway.folder().join("config.toml");
    let config = fs::read_to_string(&file).expect("the configuration");
    fs::write(&file, change(config)).expect("a new configuration");
    gateway.signal("HUP");
    until("the file is reloaded", async || metric(gateway.admin(), &name).await > before).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn candidate_rules_report_differences_and_change_no_call() {
    let platform = Upstream::http().await;
    let gateway = setup(&platform, &format!("{RULES}{CANDIDATES}")).start();
    let channel = gateway.channel().await;
    let [a, b] = ["a", "b"].map(|name| Caller { channel: &channel, name });
    assert_eq!(differences(&gateway, "would_deny", "IssueOtt").await.to_string(), "0");
    let (_, text) = admin_get(gateway.admin(), "/metrics").await;
    assert_eq!(text.matches("\nott_gateway_access_candidate_differences_total{").count(), 6, "{text}");

    assert_eq!(a.issue("login:john@old.example").await, "OK");
    assert_eq!(candidate(&gateway), Value::Null, "both allow the call");
    assert_eq!(a.issue("login:john@new.example").await, "OK", "the call is served");
    assert_eq!(candidate(&gateway), json!({ "difference": "would_deny", "cause": "user" }));
    assert_eq!(differences(&gateway, "would_deny", "IssueOtt").await.to_string(), "1");
    let logged = line(&gateway, "would_deny");
    let record = gateway.audit().pop().expect("a record");
    assert_eq!(logged["request.id"], record["request_id"]);
    assert_eq!((&logged["caller.name"], &logged["rpc.method"]), (&json!("token:a"), &json!("IssueOtt")));
    assert_eq!((&logged["access.rule"], &logged["candidate.denied"]), (&json!("1"), &json!("user")));
    assert!(logged.get("candidate.rule").is_none() && logged.get("access.denied").is_none(), "{logged}");

    assert_eq!(a.log_in(&platform.token()).await, "OK");
    assert_eq!(candidate(&gateway), json!({ "difference": "would_deny", "cause": "user" }));
    assert_eq!(differences(&gateway, "would_deny", "LoginWithOtt").await.to_string(), "1");

    // Refused before the message is read; the user is read for the record.
    assert_eq!(b.issue("login:john@old.example").await, NOT_ALLOWED);
    assert_eq!(candidate(&gateway)["difference"], Value::Null, "both deny the call");
    assert_eq!(b.issue("login:john@new.example").await, NOT_ALLOWED);
    assert_eq!(candidate(&gateway), json!({ "difference": "would_allow", "cause": "2 (new)" }));
    assert_eq!(differences(&gateway, "would_allow", "IssueOtt").await.to_string(), "1");
    let logged = line(&gateway, "would_allow");
    assert_eq!((&logged["access.denied"], &logged["candidate.rule"]), (&json!("caller"), &json!("2 (new)")));
    assert_eq!(b.log_in("some-token").await, NOT_ALLOWED);
    assert_eq!(candidate(&gateway), json!({ "difference": "undecided", "cause": "2 (new)" }));
    assert_eq!(differences(&gateway, "undecided", "LoginWithOtt").await.to_string(), "1");

    let denied = metric(gateway.admin(), "ott_gateway_access_denied_total{reason=\"caller\"}").await;
    assert_eq!(denied.to_string(), "3", "denials of candidate rules are not counted");
    let text = gateway.stderr().text();
    let lines: Vec<&str> = text.lines().filter(|line| line.contains(LINE)).collect();
    assert_eq!(lines.iter().filter(|line| line.contains("would_allow")).count(), 1, "{lines:?}");
    assert!(!lines.iter().any(|line| line.contains("undecided")), "{lines:?}");
    assert!(!lines.iter().any(|line| line.contains(".example")), "no users: {lines:?}");

    // The candidates are promoted.
    let promoted =
        |config: String| config.replace(RULES, "").replace("access.candidate_rules", "access.rules");
    let [rehearsed, in_force] = {
        let started = gateway.audit_lines("started").pop().expect("the first record");
        ["candidate_rules", "rules"].map(|name| started[name].clone())
    };
    assert!(rehearsed.is_string() && rehearsed != in_force, "{rehearsed} {in_force}");
    reload(&gateway, promoted, "ok").await;
    let change = gateway.audit_lines("rules_changed").pop().expect("a record of the change");
    assert_eq!((&change["old_rules"], &change["old_candidate_rules"]), (&in_force, &rehearsed));
    assert_eq!((&change["new_rules"], &change["new_candidate_rules"]), (&rehearsed, &Value::Null));
    assert_eq!(a.issue("login:john@new.example").await, NOT_ALLOWED);
    assert_eq!(candidate(&gateway), Value::Null);
    assert_eq!(b.issue("login:john@new.example").await, "OK");
    let (_, text) = admin_get(gateway.admin(), "/metrics").await;
    assert!(!text.contains("candidate"), "no series without candidate rules");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invalid_candidate_rules_are_refused_and_the_last_valid_ones_stay() {
    let platform = Upstream::http().await;
    let broken = CANDIDATES.replace("token:b", "token:bb");
    let output = setup(&platform, &format!("{RULES}{broken}")).refused();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    let fault = "access.candidate_rules[2].callers[1]: is not the name of a token in [callers.tokens]";
    assert!(stderr.contains(fault), "{stderr}");

    let gateway = setup(&platform, &format!("{RULES}{CANDIDATES}")).start();
    let channel = gateway.channel().await;
    let [a, b] = ["a", "b"].map(|name| Caller { channel: &channel, name });
    let broken = |config: String| config.replace("[\"token:a\"]", "[\"*\"]").replace("token:b", "token:bb");
    reload(&gateway, broken, "failed").await;
    assert_eq!(b.issue("login:john@old.example").await, NOT_ALLOWED, "the rules have not changed");
    assert_eq!(a.issue("login:john@new.example").await, "OK");
    assert_eq!(candidate(&gateway)["difference"], "would_deny", "and neither have the candidate rules");

    let started = gateway.audit_lines("started").pop().expect("the first record");
    assert_eq!(gateway.audit_lines("rules_changed").len(), 0, "nothing has changed");
    reload(&gateway, |config| config.replace("token:bb", "token:b"), "ok").await;
    let rehearsing = |config: String| config.replace("*@new.example", "*@newer.example");
    let changes = gateway.audit_lines("rules_changed").len();
    reload(&gateway, rehearsing, "ok").await;
    let records = gateway.audit_lines("rules_changed");
    assert_eq!(records.len(), changes + 1, "a change of only the candidate rules");
    let change = records.last().expect("a record");
    assert_eq!(change["old_rules"], change["new_rules"]);
    assert_ne!(change["old_candidate_rules"], change["new_candidate_rules"]);
    assert_ne!(change["new_candidate_rules"], started["candidate_rules"]);
    assert_eq!(b.issue("login:john@third.example").await, "OK");
    assert_eq!(candidate(&gateway), json!({ "difference": "would_deny", "cause": "user" }));
}
