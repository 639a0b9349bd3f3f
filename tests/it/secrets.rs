//! No secret leaves the gateway, except where the contract returns it to the caller.
//!
//! Each secret contains a mark, logging is at its most verbose level, and all output of the gateway
//! is searched for the marks.

use std::{fmt::Write as _, fs, time::Duration};

use aws_lc_rs::digest::{SHA256, digest};
use base64::{Engine, engine::general_purpose::STANDARD};
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use ott_gateway::proto::ott::v1::IssueOttRequest;
use serde_json::json;
use tonic::{Code, Request, Status};

use crate::support::{
    call,
    collector::collector,
    gateway::{Gateway, Setup},
    issuer::{Issuer, forged, in_seconds},
    upstream::{Answer, Behaviour, LOGIN, LOGOUT, OTT, TOKEN, Upstream},
};

/// Text that must not be found. All secrets contain `mark`; the client secret is also searched in
/// base64, alone and with the client id.
const SECRET: &str = "mark-client-secret";
const SECRET_BASE64: &str = "bWFyay1jbGllbnQtc2VjcmV0";
const BASIC: &str = "dGVzdC1jbGllbnQ6bWFyay1jbGllbnQtc2VjcmV0";
const ACCESS: &str = "mark-access-token";
const OTTS: [&str; 3] = ["mark-one-time-token", "mark-refused-token", "mark-lost-token"];
const COOKIE: &str = "mark-cookie-value";
const BEARER: &str = "mark-bearer-of-the-caller";
const PROXY: &str = "mark-user:mark-password-of-the-proxy";
const BODY: &str = "mark-in-a-body";

fn leaks(place: &str, text: &str, more: &[String], found: &mut Vec<String>) {
    let marks = ["mark-", SECRET_BASE64, BASIC, "external-login"];
    for mark in marks.into_iter().chain(more.iter().map(String::as_str)) {
        for line in text.lines().filter(|line| line.contains(mark)) {
            found.push(format!("{place}: {line}"));
        }
    }
}

fn with_bearer<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    let bearer = format!("Bearer {BEARER}").parse().expect("visible ASCII");
    request.metadata_mut().insert("authorization", bearer);
    request.metadata_mut().insert("cookie", COOKIE.parse().expect("visible ASCII"));
    request
}

/// Everything that a failed call returns to its caller.
fn shown_to_caller(status: &Status) -> String {
    let mut text = format!("{status:?}\n{status}\n");
    for (name, value) in status.metadata().clone().into_headers() {
        let _ = writeln!(text, "{name:?}: {}", String::from_utf8_lossy(value.as_bytes()));
    }
    let _ = write!(text, "{}", String::from_utf8_lossy(status.details()));
    text
}

/// Makes calls of every kind. Returns everything that the failed ones return to the caller.
async fn all_kinds_of_calls(upstream: &Upstream, gateway: &Gateway) -> Vec<String> {
    let mut client = gateway.client().await;
    let mut statuses = Vec::new();
    let session =
        |body: &str| Answer::json(200, body).header("set-cookie", format!("sid={COOKIE}; Path=/; HttpOnly"));
    let account =
        r#"{"id":"42","login":"someone","odd":"mark-odd-field","contact":{"mobile":"mark-odd-phone"}}"#;

    // The caller receives what it requested.
    upstream.next(OTT, Answer::json(200, format!(r#"{{"ott":"{}"}}"#, OTTS[0])));
    let request = IssueOttRequest { target_uri: "/mc/".to_owned(), ..call::issue("someone") };
    let issued = client.issue_ott(with_bearer(request)).await.expect("a token").into_inner();
    assert_eq!(issued.ott, OTTS[0]);
    assert!(issued.login_url.contains(OTTS[0]));
    upstream.next(LOGIN, session(account));
    let login = client.login_with_ott(with_bearer(call::login(OTTS[0]))).await.expect("a session");
    let login = login.into_inner();
    assert_eq!(login.session.as_ref().expect("a session").cookie_header, format!("sid={COOKIE}"));
    statuses.push(format!("{issued:?}\n{login:?}\n{:?}", call::login(OTTS[0])));

    // Every error, with responses that quote the request.
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
            statuses.push(shown_to_caller(&status));
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
            statuses.push(shown_to_caller(&status));
        }
    }

    // Invalid requests, with a token in every field.
    for request in [
        IssueOttRequest { target_uri: format!("https://mark-host.example/#{}", OTTS[0]), ..call::issue("a") },
        IssueOttRequest { api_client: OTTS[0].to_owned(), ..call::issue("a") },
        call::issue(&format!("{}\n", OTTS[0])),
    ] {
        statuses.push(shown_to_caller(&client.issue_ott(request).await.expect_err("an invalid request")));
    }
    for token in [format!("{} ", OTTS[0]), OTTS[0].repeat(400)] {
        statuses.push(shown_to_caller(
            &client.login_with_ott(call::login(&token)).await.expect_err("an invalid request"),
        ));
    }

    // A caller that disconnects, and the logout of its session.
    upstream.next(LOGIN, Behaviour::Drip(Duration::from_millis(2), session(account)));
    upstream.next(LOGOUT, Answer::empty(500).body(BODY));
    let before = upstream.count(LOGIN);
    let mut leaving = client.clone();
    let call = tokio::spawn(async move { leaving.login_with_ott(call::login(OTTS[2])).await });
    upstream.wait_for(LOGIN, before + 1).await;
    call.abort();
    upstream.wait_for(LOGOUT, 1).await;
    statuses
}

/// SHA-256 of a bearer token for the configuration.
fn hash(token: &str) -> String {
    digest(&SHA256, token.as_bytes()).as_ref().iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Makes calls with every kind of credential. Returns everything that the refused calls return, and
/// the parts of the credentials that must not be found.
async fn all_kinds_of_callers(gateway: &Gateway, issuer: &Issuer) -> (Vec<String>, Vec<String>) {
    const XFCC: &str = "x-forwarded-client-cert";
    let mut client = gateway.client().await;
    let (mut statuses, mut marks) = (Vec::new(), Vec::new());
    let claims = json!({ "email": "mark-in-a-claim", "jti": "mark-id-of-a-jwt" });
    let with = |more: serde_json::Value| {
        let mut changed = claims.clone();
        changed.as_object_mut().expect("an object").extend(more.as_object().cloned().unwrap_or_default());
        issuer.bearer(changed)
    };
    let good = with(json!({}));
    let signature_cut = good[..good.len() - 4].to_owned();
    let jwts = [
        (Code::Ok, good.clone()),
        (Code::Ok, with(json!({ "aud": ["mark-other-audience", "ott-gateway"] }))),
        (Code::Unauthenticated, with(json!({ "exp": in_seconds(-600) }))),
        (Code::Unauthenticated, with(json!({ "nbf": in_seconds(600) }))),
        (Code::Unauthenticated, with(json!({ "iss": "mark-issuer" }))),
        (Code::Unauthenticated, with(json!({ "aud": "mark-audience" }))),
        (Code::Unauthenticated, with(json!({ "sub": "mark-subject\n" }))),
        (Code::Unauthenticated, with(json!({ "sub": { "mark-key": "mark-value" } }))),
        (Code::Unauthenticated, with(json!({ "exp": "mark-end" }))),
        (Code::Unauthenticated, Issuer::new("k1").bearer(claims.clone())),
        (Code::Unauthenticated, Issuer::new("mark-key-id").bearer(claims.clone())),
        (Code::Unauthenticated, signature_cut),
        (Code::Unauthenticated, forged(&json!({ "alg": "none", "kid": "mark-kid" }), b"mark-signature")),
        (Code::Unauthenticated, forged(&json!({ "alg": "ES256", "kid": "k1" }), &[b'm'; 64])),
        (Code::Unauthenticated, forged(&json!({ "alg": "mark-algorithm" }), b"mark-signature")),
    ];
    for (_, jwt) in &jwts {
        let parts = jwt.trim_start_matches("Bearer ").split('.').skip(1);
        marks.extend(parts.map(|part| part[..part.len().min(24)].to_owned()).filter(|part| part.len() > 12));
    }
    marks.extend([hash(BEARER), STANDARD.encode(PROXY), STANDARD.encode("mark-user:")]);
    let jwts = jwts.into_iter().map(|(code, jwt)| (code, vec![("authorization", jwt)]));
    let good_token = || ("authorization", format!("Bearer {BEARER}"));
    let element = "Hash=mark-hash;Cert=\"mark-certificate\";Subject=\"CN=mark-name\";URI=";
    let others = [
        (Code::Ok, vec![good_token()]),
        (Code::Unauthenticated, vec![("authorization", "Bearer mark-wrong-token".to_owned())]),
        (Code::Unauthenticated, vec![("authorization", format!("Bearer {BEARER}x"))]),
        (Code::Unauthenticated, vec![("authorization", format!("Basic {BEARER}"))]),
        (Code::Unauthenticated, vec![("authorization", BEARER.to_owned())]),
        (Code::Unauthenticated, vec![("authorization", format!("Bearer mark-long{}", "x".repeat(10_000)))]),
        (Code::Unauthenticated, vec![good_token(), good_token()]),
        (Code::Unauthenticated, vec![good_token(), ("authorization", good)]),
        (Code::Ok, vec![(XFCC, format!("{element}spiffe://mesh/ns/web/sa/portal"))]),
        (Code::Unauthenticated, vec![(XFCC, format!("{element}spiffe://MARK/mark-path"))]),
        (Code::Unauthenticated, vec![(XFCC, format!("{element}\"mark-open"))]),
        (Code::Unauthenticated, vec![(XFCC, "mark-nothing".to_owned()), (XFCC, element.to_owned())]),
        (Code::Unauthenticated, vec![("l5d-client-id", "mark-other-proxy".to_owned())]),
    ];
    for (code, headers) in jwts.chain(others) {
        let mut request = Request::new(call::issue("someone"));
        for (name, value) in &headers {
            request.metadata_mut().append(*name, value.parse().expect("visible ASCII"));
        }
        match client.issue_ott(request).await {
            Ok(_) => assert_eq!(code, Code::Ok, "{headers:?}"),
            Err(status) => {
                assert_eq!(code, status.code(), "{headers:?}: {status:?}");
                statuses.push(shown_to_caller(&status));
            }
        }
    }
    // Through an unreachable proxy.
    let request = IssueOttRequest { api_client: "other".to_owned(), ..call::issue("someone") };
    statuses.push(shown_to_caller(&client.issue_ott(with_bearer(request)).await.expect_err("no platform")));
    (statuses, marks)
}

async fn assert_no_leaks(format: &str) {
    let upstream = Upstream::http().await;
    let access = format!(r#"{{"access_token":"{ACCESS}","id_token":"{BODY}","expires_in":7200}}"#);
    // The first token request fails with a response that quotes the secret.
    upstream
        .next(
            TOKEN,
            Answer::json(401, format!(r#"{{"error":"invalid_client","error_description":"{SECRET}"}}"#)),
        )
        .next(TOKEN, Answer::json(200, format!(r#"{{"access_token":"{ACCESS} ","expires_in":1}}"#)))
        .always(TOKEN, Answer::json(200, access).header("set-cookie", format!("t={COOKIE}")));
    let (collector, received) = collector().await;
    let issuer = Issuer::new("k1");
    let callers = format!(
        "[callers.jwt]
        issuer = \"https://issuer.example\"
        audience = \"ott-gateway\"
        jwks_file = \"FOLDER/jwks.json\"
        [callers.tokens]
        ci = \"sha256:{}\"
        [callers.forwarded]
        header = \"x-forwarded-client-cert\"
        from = [\"loopback\"]",
        hash(BEARER)
    );
    let proxied = format!(
        "[api_clients.other]
        data_center_url = \"https://platform.example\"
        client_id = \"other-client\"
        client_secret_file = \"FOLDER/client-secret\"
        proxy_url = \"http://{PROXY}@127.0.0.1:1\""
    );
    let setup = Setup::for_platform(upstream.address())
        .replacing(r#"callers = ["anonymous"]"#, r#"callers = ["anonymous", "*"]"#)
        .replacing("client_id = \"test-client\"", "client_id = \"test-client\"\ndefault = true")
        .replacing("[audit]", &format!("{callers}\n{proxied}\n[audit]"))
        .replacing("[telemetry]", &format!("[telemetry]\notlp_endpoint = \"http://{collector}\""))
        .replacing("log_format = \"json\"", &format!("log_format = \"{format}\"\nlog_level = \"trace\""))
        .replacing("[audit]", "[audit]\nhmac_key_file = \"FOLDER/audit-key\"")
        .environment("RUST_LOG", "trace,hyper=trace,h2=trace,reqwest=trace,rustls=trace,tower=trace");
    setup.file("client-secret", &format!("{SECRET}\n"));
    setup.file("jwks.json", &issuer.jwks());
    setup.file("audit-key", "mark-audit-key-0123456789-0123456789-0123456789");
    let mut gateway = setup.start();
    upstream.wait_for(TOKEN, 3).await;
    // Until there is an access token.
    let mut client = gateway.client().await;
    while client.issue_ott(call::issue("someone")).await.is_err() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let (refused, marks) = all_kinds_of_callers(&gateway, &issuer).await;
    assert!(refused.len() > 20 && marks.len() > 30, "{} {}", refused.len(), marks.len());
    let mut statuses = all_kinds_of_calls(&upstream, &gateway).await;
    statuses.extend(refused);
    assert!(statuses.len() > 25, "{}", statuses.len());
    let metrics = gateway.admin_get("/metrics").await;
    let ready = gateway.admin_get("/readyz").await;
    gateway.signal("TERM");
    assert!(gateway.ended().await.success());
    // Until the last output is read.
    tokio::time::sleep(Duration::from_millis(200)).await;

    let log = gateway.stderr().text();
    assert!(log.contains("TRACE") || log.contains("DEBUG"), "the log level is not trace");
    let audit = fs::read_to_string(gateway.folder().join("audit.jsonl")).expect("an audit log");
    assert!(audit.lines().count() > 25);
    let mut found = Vec::new();
    for request in upstream.requests() {
        leaks("the platform", &String::from_utf8_lossy(&request.raw), &marks, &mut found);
    }
    assert!(found.len() > 25, "the marks are not found in the requests");
    found.clear();
    leaks("stderr", &log, &marks, &mut found);
    leaks("stdout", &gateway.stdout().text(), &marks, &mut found);
    leaks("audit", &audit, &marks, &mut found);
    leaks("metrics", &metrics, &marks, &mut found);
    leaks("readyz", &ready, &marks, &mut found);
    for status in &statuses {
        leaks("status", status, &marks, &mut found);
    }
    let spans = received.spans();
    let attempts = received.of_kind(SpanKind::Client).len();
    assert!(attempts > 25 && spans.len() > 2 * attempts, "{} spans, {attempts} attempts", spans.len());
    leaks("spans", &format!("{spans:#?}"), &marks, &mut found);
    assert!(found.is_empty(), "{} leaks:\n{}", found.len(), found.join("\n"));
}

#[tokio::test]
async fn no_secret_leaks_with_a_json_log() {
    assert_no_leaks("json").await;
}

#[tokio::test]
async fn no_secret_leaks_with_a_text_log() {
    assert_no_leaks("text").await;
}
