//! The audit log of the real binary: each call's record is written before its response, and no
//! token is returned without a record.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{self, Write},
    os::unix::fs::symlink,
    path::Path,
    process::Command,
    sync::Arc,
    time::Duration,
};

use aws_lc_rs::hmac;
use ott_gateway::proto::ott::v1::{IssueOttRequest, ott_service_client::OttServiceClient};
use serde_json::Value;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, transport::Channel};

use crate::support::{
    admin::Admin,
    calling::{
        admin_get, by_hand, issue, load, login, metric, reason, result_of, until, wait_for_audit_file_check,
        with,
    },
    gateway::{Gateway, Setup},
    upstream::{Answer, Behaviour, LOGIN, LOGOUT, OTT, Upstream},
};

const UNAVAILABLE: &str = "Unavailable AUDIT_UNAVAILABLE";

/// The fields of a call's record in `docs/audit.md`, and their types.
fn documented() -> BTreeMap<String, String> {
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/audit.md")).unwrap();
    let section = page.lines().skip_while(|line| *line != "## The record of a call").skip(1);
    let section = section.take_while(|line| !line.starts_with("## "));
    let rows = section.filter_map(|line| line.strip_prefix("| `"));
    let cells = rows.map(|row| row.split(" | ").map(|cell| cell.trim_matches('`').to_owned()));
    cells.map(|mut cells| (cells.next().unwrap(), cells.next().unwrap())).collect()
}

/// Checks a record against the documentation.
fn check(record: &Value) {
    let documented = documented();
    let record = record.as_object().expect("an object");
    for (name, value) in record {
        let kind = documented.get(name).unwrap_or_else(|| panic!("{name} is not documented"));
        let fits = match kind.as_str() {
            "string" => value.is_string() || value.is_null(),
            "number" => value.is_number() || value.is_null(),
            "bool" => *value == true,
            "object" => value.is_object() || value.is_null(),
            other => panic!("{name} has the type {other}"),
        };
        assert!(fits, "{name} must be a {kind}: {value}");
    }
    let is_optional = |name: &str| ["late", "login_url", "issued_by", "token_refused"].contains(&name);
    let missing: Vec<&String> =
        documented.keys().filter(|name| !record.contains_key(*name) && !is_optional(name)).collect();
    assert!(missing.is_empty(), "{missing:?}");
    assert_eq!(record["event"], "call");
    let pages = [include_str!("../../docs/errors.md"), include_str!("../../docs/audit.md")].concat();
    for word in ["reason", "outcome", "method"] {
        let Some(word) = record[word].as_str() else { continue };
        assert!(pages.contains(&format!("`{word}`")) || pages.contains(&format!(" {word} ")), "{word}");
    }
    humantime::parse_rfc3339(record["time"].as_str().unwrap()).unwrap();
}

/// Caller, method, code, reason, outcome and attempts of a record.
fn essence(record: &Value) -> String {
    let word = |name: &str| match &record[name] {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    ["caller", "method", "code", "reason", "outcome", "attempts"].map(word).join(" ")
}

/// Waits for the record of the call with this id.
async fn record_of(gateway: &Gateway, id: &str) -> Value {
    let mut found = None;
    until(id, async || {
        found = gateway.audit().into_iter().find(|record| record["request_id"] == id);
        found.is_some()
    })
    .await;
    found.unwrap()
}

fn client(channel: &Channel) -> OttServiceClient<Channel> {
    OttServiceClient::new(channel.clone())
}

fn identified<T>(id: &str, request: Request<T>) -> Request<T> {
    with(request, "x-request-id", id)
}

/// Output of the command in `docs/audit.md` for `token`.
fn recomputed(key_file: &Path, token: &str) -> String {
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/audit.md")).unwrap();
    let command = page.lines().find(|line| line.contains("| openssl dgst ")).expect("a documented command");
    let command = command.replace("hmac-key", &key_file.display().to_string());
    let output = Command::new("sh").args(["-c", &command]).env("TOKEN", token).output().expect("a shell");
    assert!(output.status.success() && output.stderr.is_empty(), "openssl is required: {output:?}");
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[expect(clippy::too_many_lines, reason = "one gateway for all kinds of calls")]
async fn every_call_of_every_kind_has_exactly_one_record() {
    let platform = Upstream::http().await;
    let token = "sha256:4ececb2d8ec1f9c6dbdf7cc0e409fa66eb0c1b49bd91b92508af8c1b89643364";
    let setup = Setup::for_platform(platform.address())
        .replacing(
            "[[access.rules]]",
            "[[access.rules]]
            callers = [\"token:limited\"]
            rate = \"1/h\"
            burst = 1
            users = \"all\"
            [[access.rules]]",
        )
        .replacing(
            "user_rate = \"unlimited\"\n            users = \"all\"",
            "user_rate = \"unlimited\"\n            logins = [\"*@example.com\"]",
        )
        .replacing("[audit]", &format!("[callers.tokens]\nlimited = \"{token}\"\n[audit]"))
        .replacing("drain_lame_duck", "max_in_flight = 1\ndrain_lame_duck")
        .replacing("sink =", "hmac_key_file = \"FOLDER/2026-07.key\"\nsink =");
    let key_file = setup.file("2026-07.key", "a key of at least thirty-two bytes, known to the test");
    let gateway = setup.start();
    let channel = gateway.channel().await;
    let mut expected = Vec::new();
    let mut expect = |essence: &str| expected.push(essence.to_owned());

    // Successful calls, with the fingerprint that the key holder can compute.
    let issued = client(&channel).issue_ott(issue("x@example.com")).await.unwrap().into_inner();
    expect("anonymous IssueOtt OK null done 1");
    client(&channel).login_with_ott(login(&issued.ott)).await.unwrap();
    expect("anonymous LoginWithOtt OK null done 1");
    let key = hmac::Key::new(hmac::HMAC_SHA256, b"a key of at least thirty-two bytes, known to the test");
    let tag = hmac::sign(&key, issued.ott.as_bytes());
    let mut fingerprint = "2026-07:".to_owned();
    for byte in &tag.as_ref()[..16] {
        use std::fmt::Write as _;
        let _ = write!(fingerprint, "{byte:02x}");
    }
    assert_eq!(format!("2026-07:{}", recomputed(&key_file, &issued.ott)), fingerprint);
    for record in gateway.audit() {
        assert_eq!(record["ott_fingerprint"], fingerprint.as_str());
        assert_eq!(record["platform_status"], 200);
    }

    let refused =
        |answer: Result<_, _>| result_of::<()>(&answer.map(|_: tonic::Response<_>| tonic::Response::new(())));
    assert_eq!(
        refused(client(&channel).issue_ott(issue("x@other.com")).await),
        "PermissionDenied CALLER_NOT_ALLOWED"
    );
    expect("anonymous IssueOtt PERMISSION_DENIED CALLER_NOT_ALLOWED not_sent 0");
    let wrong = with(issue("x@example.com"), "authorization", "Bearer wrong");
    assert_eq!(refused(client(&channel).issue_ott(wrong).await), "Unauthenticated CALLER_UNAUTHENTICATED");
    expect("null IssueOtt UNAUTHENTICATED CALLER_UNAUTHENTICATED not_sent 0");
    let empty = Request::new(IssueOttRequest::default());
    assert_eq!(refused(client(&channel).issue_ott(empty).await), "InvalidArgument INVALID_REQUEST");
    expect("anonymous IssueOtt INVALID_ARGUMENT INVALID_REQUEST not_sent 0");
    for body in [&b"\xff\xff"[..], &vec![0; 20_000]] {
        by_hand(gateway.address(), "/ott.v1.OttService/LoginWithOtt", &[], body).await;
    }
    expect("anonymous LoginWithOtt INVALID_ARGUMENT INVALID_REQUEST not_sent 0");
    expect("anonymous LoginWithOtt RESOURCE_EXHAUSTED REQUEST_TOO_LARGE not_sent 0");
    let (code, _) = by_hand(gateway.address(), "/ott.v1.OttService/Mint", &[], b"").await;
    assert_eq!(code, Code::Unimplemented);
    expect("anonymous null UNIMPLEMENTED METHOD_UNKNOWN not_sent 0");
    for _ in 0..2 {
        let request = with(login("no-such-token"), "authorization", "Bearer canary-limited");
        assert!(client(&channel).login_with_ott(request).await.is_err());
    }
    expect("token:limited LoginWithOtt UNAUTHENTICATED OTT_REJECTED refused 1");
    expect("token:limited LoginWithOtt RESOURCE_EXHAUSTED CALLER_QUOTA_EXCEEDED not_sent 0");
    platform.next(OTT, Answer::json(404, r#"{"error":{"code":404,"message":"no such user"}}"#));
    assert_eq!(
        refused(client(&channel).issue_ott(issue("gone@example.com")).await),
        "NotFound USER_NOT_FOUND"
    );
    expect("anonymous IssueOtt NOT_FOUND USER_NOT_FOUND refused 1");
    platform.next(LOGIN, Behaviour::Reset);
    let lost = client(&channel).login_with_ott(login(&platform.token())).await;
    assert_eq!(result_of(&lost), "Aborted LOGIN_OUTCOME_UNKNOWN");
    expect("anonymous LoginWithOtt ABORTED LOGIN_OUTCOME_UNKNOWN unknown 1");

    // The deadline passes before the platform responds: the record has the outcome.
    let go_on = Arc::new(Semaphore::new(0));
    platform.next(LOGIN, Behaviour::Held(Arc::clone(&go_on), Box::new(Behaviour::Healthy)));
    let mut short = identified("deadline", login(&platform.token()));
    short.set_timeout(Duration::from_secs(4));
    let (mut waiting, asking) = (client(&channel), platform.count(LOGIN));
    let call = tokio::spawn(async move { waiting.login_with_ott(short).await });
    platform.wait_for(LOGIN, asking + 1).await;
    // Meanwhile the replica is full.
    assert_eq!(refused(client(&channel).issue_ott(issue("x@example.com")).await), "Unavailable OVERLOADED");
    expect("anonymous IssueOtt UNAVAILABLE OVERLOADED not_sent 0");
    // On a busy machine the client's own timer may be the first.
    let code = call.await.unwrap().unwrap_err().code();
    assert!(matches!(code, Code::DeadlineExceeded | Code::Cancelled), "{code:?}");
    go_on.add_permits(1);
    let record = record_of(&gateway, "deadline").await;
    assert_eq!(essence(&record), "anonymous LoginWithOtt DEADLINE_EXCEEDED DEADLINE_EXCEEDED done 1");
    expect("anonymous LoginWithOtt DEADLINE_EXCEEDED DEADLINE_EXCEEDED done 1");
    until("the undelivered session is logged out", async || platform.count(LOGOUT) == 1).await;

    // A caller that disconnects.
    platform.next(LOGIN, Behaviour::Held(Arc::clone(&go_on), Box::new(Behaviour::Healthy)));
    let cancelled = r#"grpc_server_handled_total{grpc_code="Canceled",grpc_method="LoginWithOtt"}"#;
    let before = Admin(gateway.admin()).scrape().find(cancelled).unwrap_or(0.0);
    let (mut waiting, asking) = (client(&channel), platform.count(LOGIN));
    let gone = identified("gone", login(&platform.token()));
    let call = tokio::spawn(async move { waiting.login_with_ott(gone).await });
    platform.wait_for(LOGIN, asking + 1).await;
    call.abort();
    assert!(call.await.unwrap_err().is_cancelled());
    Admin(gateway.admin()).wait_for(cancelled, before + 1.0).await;
    go_on.add_permits(1);
    let record = record_of(&gateway, "gone").await;
    assert_eq!(essence(&record), "anonymous LoginWithOtt CANCELLED cancelled done 1");
    expect("anonymous LoginWithOtt CANCELLED cancelled done 1");
    until("the undelivered session is logged out", async || platform.count(LOGOUT) == 2).await;

    // Finally a successful call.
    until("room for a call", async || {
        let answer = refused(client(&channel).issue_ott(issue("x@example.com")).await);
        if answer != "OK" {
            expect("null IssueOtt UNAVAILABLE OVERLOADED not_sent 0");
        }
        answer == "OK"
    })
    .await;
    expect("anonymous IssueOtt OK null done 1");
    let records = gateway.audit();
    records.iter().for_each(check);
    assert_eq!(records.iter().map(essence).collect::<Vec<_>>(), expected);
    let text = fs::read_to_string(gateway.folder().join("audit.jsonl")).unwrap();
    for secret in [issued.ott.as_str(), "SESSION-OF", "canary", "ACCESS"] {
        assert!(!text.contains(secret), "{secret} is in the audit log");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn record_is_in_the_file_before_the_response() {
    let platform = Upstream::http().await;
    let gateway = Setup::for_platform(platform.address()).start();
    let channel = gateway.channel().await;
    let file = gateway.folder().join("audit.jsonl");
    let mut calls = tokio::task::JoinSet::new();
    for caller in 0..8 {
        let (mut client, file) = (client(&channel), file.clone());
        calls.spawn(async move {
            for number in 0..25 {
                let id = format!("call-{caller}-{number}");
                client.issue_ott(identified(&id, issue("x@example.com"))).await.unwrap();
                let text = fs::read_to_string(&file).unwrap();
                assert_eq!(text.matches(&format!("\"request_id\":\"{id}\"")).count(), 1, "{id}");
            }
        });
    }
    while let Some(done) = calls.join_next().await {
        done.unwrap();
    }
    assert_eq!(gateway.audit().len(), 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logins_and_request_ids_cannot_forge_a_line() {
    let platform = Upstream::http().await;
    let gateway = Setup::for_platform(platform.address()).start();
    let channel = gateway.channel().await;
    let forged = r#"x"},"code":"OK"}{"event":"call","caller":"token:admin"}"#;
    let written = [forged, "\\", "\\\"", "ä😀"];
    for name in written {
        client(&channel).issue_ott(issue(name)).await.unwrap();
    }
    let deceptive = ["a\u{2028}b\u{2029}c", "\u{202e}txet", "\u{feff}\u{200b}"];
    for name in deceptive {
        let answer = client(&channel).issue_ott(issue(name)).await;
        assert_eq!(result_of(&answer), "InvalidArgument INVALID_REQUEST", "{name:?}");
    }
    for name in ["a\nb", "a\r\nb", "\0", "\u{7f}", "\u{85}", "\u{1b}[31m", &"x".repeat(255)] {
        let answer = client(&channel).issue_ott(issue(name)).await;
        assert_eq!(result_of(&answer), "InvalidArgument INVALID_REQUEST", "{name:?}");
    }
    let id = "x\",\"caller\":\"admin";
    client(&channel).issue_ott(identified(id, issue("last"))).await.unwrap();

    let records = gateway.audit();
    let text = fs::read_to_string(gateway.folder().join("audit.jsonl")).unwrap();
    let probes = gateway.audit_lines("sink_probe").len();
    assert_eq!(text.lines().count(), 1 + 15 + probes, "one line each");
    assert!(!text.contains(['\u{2028}', '\u{2029}', '\u{202e}', '\u{feff}', '\u{200b}', '\u{1b}']), "{text}");
    records.iter().for_each(check);
    assert!(records.iter().all(|record| record["caller"] == "anonymous" && record["peer"] == "127.0.0.1"));
    for (record, name) in records.iter().zip(written) {
        assert_eq!(record["user"]["value"], name.to_lowercase(), "the canonical form, otherwise unchanged");
    }
    assert_eq!(platform.requests_to(OTT).len(), 5, "refused calls were not sent");
}

/// Points the sink's symbolic link to another file, atomically, and waits until the next record
/// goes there.
async fn retarget(link: &Path, to: &Path) {
    let new = link.with_extension("new");
    symlink(to, &new).unwrap();
    fs::rename(new, link).unwrap();
    wait_for_audit_file_check().await;
}

/// A gateway whose sink is a symbolic link to a regular file; changing the link makes the sink
/// unavailable.
fn behind_link(platform: &Upstream) -> Gateway {
    let setup = Setup::for_platform(platform.address()).replacing("FOLDER/audit.jsonl", "FOLDER/link.jsonl");
    symlink(setup.folder().join("audit.jsonl"), setup.folder().join("link.jsonl")).unwrap();
    setup.start()
}

/// Checks that calls are refused without platform requests while the sink is unavailable.
async fn refuses_all_calls(gateway: &Gateway, channel: &Channel, platform: &Upstream) {
    let admin = gateway.admin();
    until("not ready", async || admin_get(admin, "/readyz").await.0 == 503).await;
    assert_eq!(admin_get(admin, "/livez").await.0, 200, "a restart would not help");
    let before = platform.requests().len();
    for _ in 0..20 {
        let status = client(channel).issue_ott(issue("x@example.com")).await.unwrap_err();
        assert_eq!(result_of::<()>(&Err(status)), UNAVAILABLE);
        let status = client(channel).login_with_ott(login("some-token")).await.unwrap_err();
        assert!(
            status.metadata().get("grpc-retry-pushback-ms").is_none(),
            "it was not sent, so other replicas may retry it"
        );
        assert_eq!(result_of::<()>(&Err(status)), UNAVAILABLE);
    }
    assert_eq!(platform.requests().len(), before, "refused before anything is sent");
}

/// Waits until the gateway is ready again and a call succeeds.
async fn recovers(gateway: &Gateway, channel: &Channel) {
    let admin = gateway.admin();
    until("ready again", async || admin_get(admin, "/readyz").await.0 == 200).await;
    let answer = client(channel).issue_ott(identified("after", issue("x@example.com"))).await;
    assert_eq!(result_of(&answer), "OK");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_disk_withholds_tokens_and_recovers_by_itself() {
    let platform = Upstream::http().await;
    let gateway = behind_link(&platform);
    let channel = gateway.channel().await;
    client(&channel).issue_ott(issue("x@example.com")).await.unwrap();
    retarget(&gateway.folder().join("link.jsonl"), Path::new("/dev/full")).await;
    let status = client(&channel).issue_ott(identified("lost", issue("x@example.com"))).await.unwrap_err();
    assert_eq!(result_of::<()>(&Err(status.clone())), UNAVAILABLE);
    assert!(!format!("{status:?}").contains("OTT-"), "{status:?}");
    assert_eq!(platform.count(OTT), 2, "the first failed write comes after its request");
    refuses_all_calls(&gateway, &channel, &platform).await;

    retarget(&gateway.folder().join("link.jsonl"), &gateway.folder().join("audit.jsonl")).await;
    recovers(&gateway, &channel).await;
    // Records of this time are written late and marked.
    let records = gateway.audit();
    records.iter().for_each(check);
    let lost: Vec<&Value> = records.iter().filter(|record| record["request_id"] == "lost").collect();
    assert_eq!(lost.len(), 1);
    assert_eq!(lost[0]["late"], true);
    assert_eq!(lost[0]["outcome"], "done", "a token was issued and dropped");
    assert_eq!(records.len(), 1 + 1 + 40 + 1, "including the refused calls");
    assert!(records.last().unwrap().get("late").is_none());
    let counted =
        metric(gateway.admin(), r#"ott_gateway_audit_records_total{result="late",sink="file"}"#).await;
    assert_eq!(counted.to_string(), "41");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn session_of_a_login_that_cannot_be_recorded_is_logged_out() {
    let platform = Upstream::http().await;
    let gateway = behind_link(&platform);
    let channel = gateway.channel().await;
    let token = client(&channel).issue_ott(issue("x@example.com")).await.unwrap().into_inner().ott;
    retarget(&gateway.folder().join("link.jsonl"), Path::new("/dev/full")).await;
    let status = client(&channel).login_with_ott(login(&token)).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::Aborted, "AUDIT_UNAVAILABLE"));
    assert_eq!(status.metadata().get("grpc-retry-pushback-ms").unwrap(), "-1");
    assert_eq!(status.metadata().get("x-envoy-ratelimited").unwrap(), "true");
    assert!(!format!("{status:?}").contains("SESSION"), "{status:?}");
    until("the session is logged out", async || platform.count(LOGOUT) == 1).await;
    let logout = platform.requests_to(LOGOUT).remove(0);
    assert_eq!(logout.header("cookie"), Some(format!("sid=SESSION-OF-{token}").as_str()));
    refuses_all_calls(&gateway, &channel, &platform).await;
    retarget(&gateway.folder().join("link.jsonl"), &gateway.folder().join("audit.jsonl")).await;
    recovers(&gateway, &channel).await;
    let records = gateway.audit();
    assert_eq!(records.iter().filter(|record| record["method"] == "LoginWithOtt").count(), 21);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn removed_folder_withholds_tokens_until_it_is_back() {
    let platform = Upstream::http().await;
    let setup = Setup::for_platform(platform.address()).replacing("FOLDER/audit", "FOLDER/log/audit");
    let log = setup.folder().join("log");
    fs::create_dir(&log).unwrap();
    let gateway = setup.start();
    let channel = gateway.channel().await;
    client(&channel).issue_ott(issue("x@example.com")).await.unwrap();
    fs::remove_dir_all(&log).unwrap();
    wait_for_audit_file_check().await;
    let answer = client(&channel).issue_ott(issue("x@example.com")).await;
    assert_eq!(result_of(&answer), UNAVAILABLE);
    refuses_all_calls(&gateway, &channel, &platform).await;
    fs::create_dir(&log).unwrap();
    recovers(&gateway, &channel).await;
    let text = fs::read_to_string(log.join("audit.jsonl")).unwrap();
    assert_eq!(text.matches(r#""event":"call""#).count(), 1 + 40 + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn standard_output_contains_only_records() {
    let platform = Upstream::http().await;
    let gateway = Setup::for_platform(platform.address())
        .replacing("FOLDER/audit.jsonl", "stdout")
        .environment("RUST_LOG", "trace")
        .start();
    let channel = gateway.channel().await;
    for _ in 0..3 {
        client(&channel).issue_ott(issue("x@example.com")).await.unwrap();
    }
    gateway.stdout().wait_for("three records", {
        let mut lines = 0;
        move |line| {
            lines += usize::from(line.contains(r#""event":"call""#));
            (lines == 3).then_some(())
        }
    });
    for line in gateway.stdout().text().lines() {
        let record: Value = serde_json::from_str(line).unwrap();
        if record["event"] == "call" {
            check(&record);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn log_levels_do_not_affect_the_audit() {
    let platform = Upstream::http().await;
    // Except for the line with the gateway's address, which the test needs.
    let gateway =
        Setup::for_platform(platform.address()).environment("RUST_LOG", "off,ott_gateway::app=info").start();
    let channel = gateway.channel().await;
    client(&channel).issue_ott(issue("x@example.com")).await.unwrap();
    assert!(client(&channel).login_with_ott(login("wrong")).await.is_err());
    assert_eq!(gateway.audit().len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rotation_by_rename_and_signal_loses_no_record() {
    let platform = Upstream::http().await;
    let gateway = Setup::for_platform(platform.address()).start();
    let stop = CancellationToken::new();
    let calls = tokio::spawn(load(gateway.client().await, stop.clone()));
    let file = gateway.folder().join("audit.jsonl");
    let mut rotated = Vec::new();
    for number in 1..=5 {
        until("some records", async || fs::metadata(&file).is_ok_and(|file| file.len() > 2000)).await;
        let old = gateway.folder().join(format!("audit.{number}"));
        fs::rename(&file, &old).unwrap();
        gateway.signal("HUP");
        until("the file is reopened", async || file.exists()).await;
        rotated.push(old);
    }
    stop.cancel();
    let calls = calls.await.unwrap();
    rotated.push(file);
    let mut ids = BTreeSet::new();
    let mut lines = 0;
    for part in rotated {
        for line in fs::read_to_string(part).unwrap().lines() {
            let record: Value = serde_json::from_str(line).expect("a whole record");
            if record["event"] != "call" {
                continue;
            }
            check(&record);
            ids.insert(record["request_id"].as_str().unwrap().to_owned());
            lines += 1;
        }
    }
    assert_eq!((ids.len(), lines), (calls as usize, calls as usize), "one record per call");
}

/// Runs the next test in its own mount namespace with a small file system.
#[test]
fn small_disk_fills_up_and_is_emptied() {
    let disk = tempfile::tempdir().unwrap();
    let with_small_disk = || {
        let script = "mount -t tmpfs -o size=64k none \"$OTT_GATEWAY_TEST_SMALL_DISK\" && exec \"$@\"";
        let mut command = Command::new("unshare");
        command.args(["--map-root-user", "--mount", "sh", "-c", script, "sh"]);
        command.env("OTT_GATEWAY_TEST_SMALL_DISK", disk.path());
        command
    };
    if !with_small_disk().arg("true").output().is_ok_and(|output| output.status.success()) {
        let _ = writeln!(io::stderr(), "NOT TESTED: needs util-linux and a mount namespace; run as root");
        return;
    }
    let output = with_small_disk()
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "audit::child_on_a_small_disk", "--ignored", "--nocapture"])
        .output()
        .expect("unshare");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "run by another test, where a small file system is mounted"]
async fn child_on_a_small_disk() {
    #[expect(clippy::disallowed_methods, reason = "a test's own parameter, not a setting of the gateway")]
    let disk = std::env::var("OTT_GATEWAY_TEST_SMALL_DISK").expect("a small file system");
    let disk = Path::new(&disk);
    let platform = Upstream::http().await;
    let gateway = Setup::for_platform(platform.address())
        .replacing("FOLDER/audit.jsonl", &disk.join("audit.jsonl").display().to_string())
        .start();
    let channel = gateway.channel().await;
    fs::write(disk.join("ballast"), vec![b'x'; 32 * 1024]).unwrap();
    let mut tokens = 0;
    let status = loop {
        match client(&channel).issue_ott(issue(&"x".repeat(254))).await {
            Ok(_) => tokens += 1,
            Err(status) => break status,
        }
        assert!(tokens < 10_000, "the disk never fills up");
    };
    assert_eq!(result_of::<()>(&Err(status)), UNAVAILABLE);
    assert_eq!(platform.count(OTT), tokens + 1);
    refuses_all_calls(&gateway, &channel, &platform).await;
    fs::remove_file(disk.join("ballast")).unwrap();
    recovers(&gateway, &channel).await;
    let text = fs::read_to_string(disk.join("audit.jsonl")).unwrap();
    let mut records: Vec<Value> =
        text.lines().map(|line| serde_json::from_str(line).expect("partial lines are completed")).collect();
    records.retain(|record| record["event"] == "call");
    records.iter().for_each(check);
    let delivered = records.iter().filter(|record| record["code"] == "OK" && record.get("late").is_none());
    // The token whose line the full disk cut was not delivered, although its line starts as that of
    // a successful call.
    assert!((tokens + 1..=tokens + 2).contains(&delivered.count()));
    let ids: BTreeSet<&str> = records.iter().filter_map(|record| record["request_id"].as_str()).collect();
    assert_eq!(ids.len(), tokens + 1 + 40 + 1, "one record per call");
}
