//! Nothing that is secret gets out, but where the contract hands it to its caller.
//!
//! Everything secret carries a mark of its own, everything is logged that can be, and
//! then every byte that the gateway has put out anywhere is searched for the marks.

#![expect(clippy::expect_used, clippy::panic, reason = "a test that cannot go on has failed")]

#[path = "support/call.rs"]
mod call;
#[path = "support/gateway.rs"]
mod gateway;
#[path = "support/upstream.rs"]
mod upstream;

use std::{fmt::Write as _, fs, time::Duration};

use gateway::{Gateway, Setup};
use ott_gateway::proto::ott::v1::IssueOttRequest;
use tonic::{Request, Status};
use upstream::{Answer, Behaviour, LOGIN, LOGOUT, OTT, TOKEN, Upstream};

/// What must be found nowhere. `mark` is in all of them, so that no part of one gets out
/// either; base64 of the first and of the client's id with it is another.
const SECRET: &str = "mark-client-secret";
const SECRET_BASE64: &str = "bWFyay1jbGllbnQtc2VjcmV0";
const BASIC: &str = "dGVzdC1jbGllbnQ6bWFyay1jbGllbnQtc2VjcmV0";
const ACCESS: &str = "mark-access-token";
const OTTS: [&str; 3] = ["mark-one-time-token", "mark-refused-token", "mark-lost-token"];
const COOKIE: &str = "mark-cookie-value";
const JWT: &str = "mark-bearer-of-the-caller";
const BODY: &str = "mark-in-a-body";

fn leaks(place: &str, text: &str, found: &mut Vec<String>) {
    for mark in ["mark-", SECRET_BASE64, BASIC, "external-login"] {
        for line in text.lines().filter(|line| line.contains(mark)) {
            found.push(format!("{place}: {line}"));
        }
    }
}

fn with_bearer<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    let bearer = format!("Bearer {JWT}").parse().expect("visible ASCII");
    request.metadata_mut().insert("authorization", bearer);
    request.metadata_mut().insert("cookie", COOKIE.parse().expect("visible ASCII"));
    request
}

/// Everything that a failed call told, beside what stands in its details.
fn told(status: &Status) -> String {
    let mut text = format!("{status:?}\n{status}\n");
    for (name, value) in status.metadata().clone().into_headers() {
        let _ = writeln!(text, "{name:?}: {}", String::from_utf8_lossy(value.as_bytes()));
    }
    let _ = write!(text, "{}", String::from_utf8_lossy(status.details()));
    text
}

/// Calls of every kind, good and bad; gives what the failed ones told.
async fn all_kinds_of_calls(upstream: &Upstream, gateway: &Gateway) -> Vec<String> {
    let mut client = gateway.client().await;
    let mut statuses = Vec::new();
    let session =
        |body: &str| Answer::json(200, body).header("set-cookie", format!("sid={COOKIE}; Path=/; HttpOnly"));
    let account =
        r#"{"id":"42","login":"someone","odd":"mark-odd-field","contact":{"mobile":"mark-odd-phone"}}"#;

    // What is asked for is handed out.
    upstream.next(OTT, Answer::json(200, format!(r#"{{"ott":"{}"}}"#, OTTS[0])));
    let request = IssueOttRequest { target_uri: "/mc/".to_owned(), ..call::issue("someone@example.com") };
    let issued = client.issue_ott(with_bearer(request)).await.expect("a token").into_inner();
    assert_eq!(issued.ott, OTTS[0]);
    assert!(issued.login_url.contains(OTTS[0]));
    upstream.next(LOGIN, session(account));
    let login = client.login_with_ott(with_bearer(call::login(OTTS[0]))).await.expect("a session");
    let login = login.into_inner();
    assert_eq!(login.session.as_ref().expect("a session").cookie_header, format!("sid={COOKIE}"));
    statuses.push(format!("{issued:?}\n{login:?}\n{:?}", call::login(OTTS[0])));

    // Every fault, with answers that quote what they were sent.
    let quoting = |status: u16, quoted: &str| {
        let error = r#"{"error":{"code":1018,"message":"QUOTED","domain":"QUOTED","details":{"info":"QUOTED mark-in-a-body"}}}"#;
        Answer::json(status, error.replace("QUOTED", quoted)).header("x-trace", BODY)
    };
    let page = |status| Answer::html(status).body(format!("<html>{BODY} {ACCESS}</html>"));
    for behaviour in [
        quoting(400, ACCESS).into(),
        quoting(401, ACCESS).into(),
        quoting(403, ACCESS).into(),
        page(403).into(),
        page(404).into(),
        page(200).into(),
        Answer::json(200, format!(r#"{{"ott":"{BODY} with a space"}}"#)).into(),
        Answer::json(200, format!(r#"{{"{BODY}":1"#)).into(),
        Answer::empty(307).header("location", format!("http://127.0.0.1:1/#ott={BODY}")).into(),
        Behaviour::CutAfter(20, Answer::json(200, format!(r#"{{"ott":"{}"}}"#, OTTS[2]))),
        Behaviour::HeaderFlood,
    ] {
        for _ in 0..3 {
            upstream.next(OTT, behaviour.clone());
        }
        if let Err(status) = client.issue_ott(with_bearer(call::issue("someone"))).await {
            statuses.push(told(&status));
        }
        upstream.forget_next(OTT);
    }
    for behaviour in [
        quoting(400, OTTS[1]).into(),
        quoting(401, OTTS[1]).into(),
        quoting(403, OTTS[1]).into(),
        quoting(503, OTTS[1]).into(),
        page(400).into(),
        page(200).into(),
        session(&format!(r#"{{"id":7,"login":"{BODY}"}}"#)).into(),
        session(r#"{"id":"42""#).into(),
        Behaviour::CutAfter(5, session(account)),
        Behaviour::Reset,
        Answer::json(200, account).header("set-cookie", format!("{COOKIE}; =bad; \u{1}")).into(),
        (0..40)
            .fold(session(account), |answer, n| answer.header("set-cookie", format!("c{n}={COOKIE}")))
            .into(),
    ] {
        upstream.next(LOGIN, behaviour);
        if let Err(status) = client.login_with_ott(with_bearer(call::login(OTTS[1]))).await {
            statuses.push(told(&status));
        }
    }

    // Requests that are wrong, with a token in every place.
    for request in [
        IssueOttRequest { target_uri: format!("https://mark-host.example/#{}", OTTS[0]), ..call::issue("a") },
        IssueOttRequest { api_client: OTTS[0].to_owned(), ..call::issue("a") },
        call::issue(&format!("{}\n", OTTS[0])),
    ] {
        statuses.push(told(&client.issue_ott(request).await.expect_err("it is wrong")));
    }
    for token in [format!("{} ", OTTS[0]), OTTS[0].repeat(400)] {
        statuses.push(told(&client.login_with_ott(call::login(&token)).await.expect_err("it is wrong")));
    }

    // A caller that goes away, and a session that is ended for it.
    upstream.next(LOGIN, Behaviour::Drip(Duration::from_millis(2), session(account)));
    upstream.next(LOGOUT, Answer::empty(500).body(BODY));
    let before = upstream.count(LOGIN);
    let mut leaving = client.clone();
    let call = tokio::spawn(async move { leaving.login_with_ott(call::login(OTTS[2])).await });
    upstream.asked(LOGIN, before + 1).await;
    call.abort();
    upstream.asked(LOGOUT, 1).await;
    statuses
}

async fn nothing_gets_out(format: &str) {
    let upstream = Upstream::http().await;
    let access = format!(r#"{{"access_token":"{ACCESS}","id_token":"{BODY}","expires_in":7200}}"#);
    // First the token request fails, with an answer that quotes the secret.
    upstream
        .next(
            TOKEN,
            Answer::json(401, format!(r#"{{"error":"invalid_client","error_description":"{SECRET}"}}"#)),
        )
        .next(TOKEN, Answer::json(200, format!(r#"{{"access_token":"{ACCESS} ","expires_in":1}}"#)))
        .always(TOKEN, Answer::json(200, access).header("set-cookie", format!("t={COOKIE}")));
    let setup = Setup::for_platform(upstream.address())
        .replacing("log_format = \"json\"", &format!("log_format = \"{format}\"\nlog_level = \"trace\""))
        .replacing("[audit]", "[audit]\nhmac_key_file = \"FOLDER/audit-key\"")
        .environment("RUST_LOG", "trace,hyper=trace,h2=trace,reqwest=trace,rustls=trace,tower=trace");
    setup.file("client-secret", &format!("{SECRET}\n"));
    setup.file("audit-key", "mark-audit-key-0123456789-0123456789-0123456789");
    let mut gateway = setup.start();
    upstream.asked(TOKEN, 3).await;
    // Until the access token is there.
    let mut client = gateway.client().await;
    while client.issue_ott(call::issue("someone")).await.is_err() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let statuses = all_kinds_of_calls(&upstream, &gateway).await;
    assert!(statuses.len() > 25, "{}", statuses.len());
    let metrics = gateway.admin_get("/metrics").await;
    let ready = gateway.admin_get("/readyz").await;
    gateway.signal("TERM");
    assert!(gateway.ended(Duration::from_secs(20)).await.success());
    // What was printed last is still being read.
    tokio::time::sleep(Duration::from_millis(200)).await;

    let log = gateway.stderr().text();
    assert!(log.contains("TRACE") || log.contains("DEBUG"), "everything is logged that can be");
    let audit = fs::read_to_string(gateway.folder().join("audit.jsonl")).expect("an audit log");
    assert!(audit.lines().count() > 25);
    let mut found = Vec::new();
    for request in upstream.requests() {
        leaks("the platform", &String::from_utf8_lossy(&request.raw), &mut found);
    }
    assert!(found.len() > 25, "what is there is found");
    found.clear();
    leaks("stderr", &log, &mut found);
    leaks("stdout", &gateway.stdout().text(), &mut found);
    leaks("audit", &audit, &mut found);
    leaks("metrics", &metrics, &mut found);
    leaks("readyz", &ready, &mut found);
    for status in &statuses {
        leaks("status", status, &mut found);
    }
    assert!(found.is_empty(), "{} leaks:\n{}", found.len(), found.join("\n"));
}

#[tokio::test]
async fn nothing_secret_gets_out_in_a_log_of_json() {
    nothing_gets_out("json").await;
}

#[tokio::test]
async fn nothing_secret_gets_out_in_a_log_of_text() {
    nothing_gets_out("text").await;
}
