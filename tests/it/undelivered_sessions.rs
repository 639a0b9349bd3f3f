//! Sessions that the platform opened and no caller received: each is logged out and reported once
//! in log, metrics and audit, with the id of its call.

use std::{
    fs::{File, OpenOptions},
    io::{Read, Write},
    path::Path,
    sync::Arc,
    time::Duration,
};

use rustix::fs::{CWD, FileType, Mode, OFlags, fcntl_setfl, mknodat};
use serde_json::Value;
use tokio::sync::Semaphore;
use tonic::{Code, Request};

use crate::support::{
    admin::Admin,
    calling::{admin_get, issue, login, result_of, until, with},
    gateway::{Gateway, Setup},
    upstream::{Answer, Behaviour, LOGIN, LOGOUT, Upstream},
};

fn identified<T>(id: &str, request: Request<T>) -> Request<T> {
    with(request, "x-request-id", id)
}

fn counter(outcome: &str) -> String {
    format!(r#"ott_gateway_undelivered_sessions_total{{api_client="test",outcome="{outcome}"}}"#)
}

/// Waits for the log line of an undelivered session.
fn line_of(gateway: &Gateway, id: &str) -> Value {
    gateway.stderr().wait_for(id, |line| {
        let line: Value = serde_json::from_str(line).ok()?;
        let message = line["message"].as_str()?;
        (message.contains("undelivered session") && line["request.id"] == id).then_some(line)
    })
}

/// Waits for the audit line of an undelivered session, which must be the only one.
async fn event_of(gateway: &Gateway, id: &str) -> Value {
    let mut events = Vec::new();
    until(id, async || {
        events = gateway.undelivered_sessions();
        events.retain(|event| event["request_id"] == id);
        !events.is_empty()
    })
    .await;
    assert_eq!(events.len(), 1, "one event per session: {events:?}");
    events.remove(0)
}

/// Waits until the audit log is available.
async fn ready(gateway: &Gateway) {
    until("ready", async || admin_get(gateway.admin(), "/readyz").await.0 == 200).await;
}

/// Checks that the same process still serves a login with another token.
async fn still_serves(gateway: &Gateway) {
    let mut client = gateway.client().await;
    let token = client.issue_ott(issue("x@example.com")).await.expect("a token").into_inner().ott;
    assert_eq!(result_of(&client.login_with_ott(login(&token)).await), "OK");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn session_of_a_cancelled_call_is_logged_out_and_reported_with_its_call() {
    let platform = Upstream::http().await;
    let gateway = Setup::for_platform(platform.address()).start();
    let admin = Admin(gateway.admin());
    admin.scrape().has(&[(&counter("logged_out"), 0.0), (&counter("logout_failed"), 0.0)]);
    let go_on = Arc::new(Semaphore::new(0));
    let cases: [(&str, Behaviour, &str, Value); 5] = [
        ("ended", Behaviour::Healthy, "logged_out", Value::Null),
        ("redirected", Answer::empty(302).into(), "logged_out", Value::Null),
        ("refused", Answer::empty(503).into(), "logout_failed", 503.into()),
        ("forbidden", Answer::html(403).into(), "logout_failed", 403.into()),
        ("reset", Behaviour::Reset, "logout_failed", Value::Null),
    ];
    for (number, (id, logout, outcome, status)) in (1..).zip(cases) {
        platform.next(LOGIN, Behaviour::Held(Arc::clone(&go_on), Box::new(Behaviour::Healthy)));
        platform.next(LOGOUT, logout);
        let token = platform.token();
        let mut client = gateway.client().await;
        let request = identified(id, login(&token));
        let call = tokio::spawn(async move { client.login_with_ott(request).await });
        platform.wait_for(LOGIN, number).await;
        call.abort();
        assert!(call.await.expect_err("aborted").is_cancelled());
        let cancelled = r#"grpc_server_handled_total{grpc_code="Canceled",grpc_method="LoginWithOtt"}"#;
        admin.wait_for(cancelled, f64::from(u32::try_from(number).expect("few cases"))).await;
        go_on.add_permits(1);

        let event = event_of(&gateway, id).await;
        assert_eq!((&event["outcome"], &event["platform_status"]), (&outcome.into(), &status), "{id}");
        assert_eq!((&event["caller"], &event["api_client"]), (&"anonymous".into(), &"test".into()));
        let records = gateway.audit();
        let records: Vec<&Value> = records.iter().filter(|record| record["request_id"] == id).collect();
        assert_eq!(records.len(), 1, "{records:?}");
        assert_eq!(records[0]["reason"], "cancelled");
        assert!(event["ott_fingerprint"].is_string());
        assert_eq!(records[0]["ott_fingerprint"], event["ott_fingerprint"]);

        let line = line_of(&gateway, id);
        let level = if outcome == "logged_out" { "INFO" } else { "WARN" };
        assert_eq!(line["level"], level, "{line}");
        assert_eq!(line["rpc.method"], "LoginWithOtt");
        assert_eq!((&line["api_client.name"], &line["http.status"]), (&"test".into(), &status));

        let logout = platform.requests_to(LOGOUT).pop().expect("a logout");
        assert_eq!(logout.header("x-request-id"), Some(id));
        assert_eq!(logout.header("cookie"), Some(format!("sid=SESSION-OF-{token}").as_str()));
    }
    still_serves(&gateway).await;
    admin.scrape().has(&[(&counter("logged_out"), 2.0), (&counter("logout_failed"), 3.0)]);
    assert_eq!((gateway.undelivered_sessions().len(), platform.count(LOGOUT)), (5, 5));
    let audit = std::fs::read_to_string(gateway.folder().join("audit.jsonl")).expect("the audit log");
    assert!(!audit.contains("SESSION-OF") && !gateway.stderr().text().contains("SESSION-OF"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn session_of_an_unusable_login_is_reported_too() {
    let platform = Upstream::http().await;
    let gateway = Setup::for_platform(platform.address()).start();
    platform.next(LOGIN, Answer::html(200).header("set-cookie", "sid=CANARY; Path=/"));
    let mut client = gateway.client().await;
    let status = client.login_with_ott(identified("unusable", login("OTT"))).await.expect_err("no account");
    assert_eq!(status.code(), Code::Internal);
    assert_eq!(event_of(&gateway, "unusable").await["outcome"], "logged_out");
    assert_eq!(line_of(&gateway, "unusable")["level"], "INFO");

    // Deleted cookies are not a session.
    let deletes = Answer::html(200).header("set-cookie", "sid=; Max-Age=0");
    platform.next(LOGIN, deletes);
    client.login_with_ott(identified("deleted", login("OTT"))).await.expect_err("no account");
    still_serves(&gateway).await;
    assert_eq!((gateway.undelivered_sessions().len(), platform.count(LOGOUT)), (1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn session_that_cannot_be_logged_out_before_shutdown_is_reported() {
    let platform = Upstream::http().await;
    let mut gateway = Setup::for_platform(platform.address())
        .replacing("drain_lame_duck = \"100ms\"", "drain_lame_duck = \"0s\"\ndrain_timeout = \"1s\"")
        .start();
    let go_on = Arc::new(Semaphore::new(0));
    platform.next(LOGIN, Behaviour::Held(Arc::clone(&go_on), Box::new(Behaviour::Healthy)));
    platform.next(LOGOUT, Behaviour::Stall);
    let mut client = gateway.client().await;
    let request = identified("stopped", login(&platform.token()));
    let call = tokio::spawn(async move { client.login_with_ott(request).await });
    platform.wait_for(LOGIN, 1).await;
    gateway.signal("TERM");
    call.await.expect("no panic").expect_err("cut off by the drain");
    go_on.add_permits(1);
    platform.wait_for(LOGOUT, 1).await;
    assert_eq!(gateway.ended().await.code(), Some(0));
    let event = event_of(&gateway, "stopped").await;
    assert_eq!((&event["outcome"], &event["platform_status"]), (&"logout_failed".into(), &Value::Null));
    assert_eq!(line_of(&gateway, "stopped")["level"], "WARN");
}

/// The audit log as a full named pipe, which is read only on request.
struct FullPipe {
    pipe: File,
    text: String,
}

impl FullPipe {
    fn new(path: &Path) -> Self {
        mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("a named pipe");
        let pipe = OpenOptions::new().read(true).write(true).open(path).expect("it opens");
        fcntl_setfl(&pipe, OFlags::NONBLOCK).expect("a flag");
        Self { pipe, text: String::new() }
    }

    fn fill(&mut self) {
        // Finally byte by byte, so that not a single byte fits.
        for step in [4096, 1] {
            while self.pipe.write(&vec![b'\n'; step]).is_ok() {}
        }
    }

    /// Reads until there are `count` lines of a call, and returns them.
    async fn lines_of(&mut self, id: &str, count: usize) -> Vec<Value> {
        let mut lines: Vec<Value> = Vec::new();
        until(id, async || {
            let mut bytes = Vec::new();
            // Fails with `WouldBlock` once the pipe is empty.
            let _ = self.pipe.read_to_end(&mut bytes);
            self.text.push_str(&String::from_utf8(bytes).expect("text"));
            let whole = self.text.rfind('\n').map_or("", |end| &self.text[..end]);
            let records = whole.lines().filter(|line| !line.is_empty());
            lines = records.map(|line| serde_json::from_str(line).expect("a record is JSON")).collect();
            lines.retain(|line| line["request_id"] == id);
            lines.len() >= count
        })
        .await;
        lines
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancellation_during_the_audit_write_is_corrected_in_the_audit() {
    let platform = Upstream::http().await;
    let setup = Setup::for_platform(platform.address()).replacing("audit.jsonl", "audit.pipe");
    let mut pipe = FullPipe::new(&setup.folder().join("audit.pipe"));
    let gateway = setup.start();
    let admin = Admin(gateway.admin());
    let token = platform.token();
    pipe.fill();
    let mut client = gateway.client().await;
    let request = identified("cancelled", login(&token));
    let call = tokio::spawn(async move { client.login_with_ott(request).await });
    // The audit write starts once the platform's response is read.
    let done = r#"ott_gateway_platform_requests_total{operation="LoginWithOtt",outcome="done"}"#;
    admin.wait_for(done, 1.0).await;
    call.abort();
    assert!(call.await.expect_err("aborted").is_cancelled());
    let cancelled = r#"grpc_server_handled_total{grpc_code="Canceled",grpc_method="LoginWithOtt"}"#;
    admin.wait_for(cancelled, 1.0).await;

    // The record, its correction, and the session.
    let lines = pipe.lines_of("cancelled", 3).await;
    let records: Vec<&Value> = lines.iter().filter(|line| line["event"] == "call").collect();
    assert_eq!(records.len(), 2, "{lines:?}");
    assert_eq!((&records[0]["code"], records[0].get("late")), (&"OK".into(), None));
    assert_eq!((&records[1]["outcome"], &records[1]["late"]), (&"done".into(), &true.into()));
    assert_eq!(records[0]["ott_fingerprint"], records[1]["ott_fingerprint"]);
    let session = lines.iter().find(|line| line["event"] == "undelivered_session").expect("an event");
    assert_eq!(session["outcome"], "logged_out");
    let logout = platform.requests_to(LOGOUT).pop().expect("a logout");
    assert_eq!(logout.header("cookie"), Some(format!("sid=SESSION-OF-{token}").as_str()));
    assert_eq!(platform.count(LOGOUT), 1);

    ready(&gateway).await;
    let (_, served) = tokio::join!(pipe.lines_of("after", 1), async {
        let mut client = gateway.client().await;
        result_of(&client.login_with_ott(identified("after", login(&platform.token()))).await)
    });
    assert_eq!(served, "OK");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deadline_during_the_audit_write_is_corrected_in_the_audit() {
    let platform = Upstream::http().await;
    let setup = Setup::for_platform(platform.address()).replacing("audit.jsonl", "audit.pipe");
    let mut pipe = FullPipe::new(&setup.folder().join("audit.pipe"));
    let gateway = setup.start();
    let mut client = gateway.client().await;
    let mut sessions = 0;
    // On a slow machine the deadline passes before the platform's response is read. Then the only
    // record is correct.
    for attempt in 0.. {
        assert!(attempt < 20, "the deadline always passes before the audit write starts");
        ready(&gateway).await;
        pipe.fill();
        let id = format!("attempt-{attempt}");
        let mut request = identified(&id, login(&platform.token()));
        request.set_timeout(Duration::from_secs(2));
        let status = client.login_with_ott(request).await.expect_err("the record hangs");
        assert_eq!(status.code(), Code::DeadlineExceeded);
        sessions += 1;
        let in_time = pipe.lines_of(&id, 1).await[0]["code"] == "OK";
        let lines = pipe.lines_of(&id, if in_time { 3 } else { 2 }).await;
        let records: Vec<&Value> = lines.iter().filter(|line| line["event"] == "call").collect();
        assert_eq!(records[0].get("late"), None);
        assert_eq!(platform.count(LOGOUT), sessions, "the session is logged out");
        if in_time {
            assert_eq!((records.len(), &records[1]["late"]), (2, &true.into()), "{records:?}");
            break;
        }
        assert_eq!((records.len(), &records[0]["code"]), (1, &"DEADLINE_EXCEEDED".into()), "{records:?}");
    }
    ready(&gateway).await;
    let (_, served) = tokio::join!(pipe.lines_of("after", 1), async {
        let mut client = gateway.client().await;
        result_of(&client.login_with_ott(identified("after", login(&platform.token()))).await)
    });
    assert_eq!(served, "OK");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shutdown_without_the_last_records_logs_out_sessions_and_reports_the_loss() {
    let platform = Upstream::http().await;
    for is_read in [false, true] {
        let setup = Setup::for_platform(platform.address()).replacing("audit.jsonl", "audit.pipe");
        let mut pipe = FullPipe::new(&setup.folder().join("audit.pipe"));
        let mut gateway = setup.start();
        ready(&gateway).await;
        pipe.fill();
        let mut client = gateway.client().await;
        let request = identified("last", login(&platform.token()));
        let call = tokio::spawn(async move { client.login_with_ott(request).await });
        let done = r#"ott_gateway_platform_requests_total{operation="LoginWithOtt",outcome="done"}"#;
        Admin(gateway.admin()).wait_for(done, 1.0).await;
        gateway.signal("TERM");
        let refused = call.await.expect("no panic").expect_err("the record hangs");
        assert_eq!(refused.code(), Code::Aborted, "{refused:?}");
        if is_read {
            pipe.lines_of("last", 2).await;
        }
        let log = "cannot write last audit records";
        assert_eq!(gateway.ended().await.code(), Some(i32::from(!is_read)), "{}", gateway.stderr().text());
        assert_eq!(gateway.stderr().text().contains(log), !is_read);
        assert_eq!(platform.count(LOGOUT), if is_read { 2 } else { 1 });
    }
}
