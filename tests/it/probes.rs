//! Probes: the admin pages, the gRPC health service, the `healthcheck` command, and the health port
//! beside mutual TLS.

use std::{
    fs,
    io::Write,
    net::TcpStream,
    process::{Command, Output},
    sync::Arc,
    time::Duration,
};

use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use ott_gateway::{
    base::clock,
    proto::ott::v1::{IssueOttRequest, issue_ott_request::Subject, ott_service_client::OttServiceClient},
};
use rustix::fs::{OFlags, fcntl_setfl};
use tokio::sync::Semaphore;
use tonic::{Code, Request, transport::Endpoint};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::support::{
    admin::Admin,
    authority::Authority,
    calling::until,
    collector::collector,
    gateway::{PATIENCE, Setup},
    upstream::{self, Behaviour, TOKEN, Upstream},
};

fn check_of(service: &str) -> HealthCheckRequest {
    HealthCheckRequest { service: service.to_owned() }
}

fn issue() -> IssueOttRequest {
    IssueOttRequest { subject: Some(Subject::Login("user".to_owned())), ..IssueOttRequest::default() }
}

async fn becomes_ready(admin: Admin) {
    let until = clock::now() + PATIENCE;
    while admin.page("/readyz") != (200, "ok\n".to_owned()) {
        assert!(clock::now() < until, "never ready: {:?}", admin.page("/readyz"));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Runs `ott-gateway healthcheck` against `endpoint`.
fn healthcheck(endpoint: &str, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ott-gateway"))
        .args(["healthcheck", "--endpoint", endpoint])
        .args(arguments)
        .output()
        .expect("it runs")
}

#[tokio::test(flavor = "multi_thread")]
async fn starting_gateway_reports_what_it_waits_for_and_then_serves() {
    let upstream = Upstream::http().await;
    let held = Arc::new(Semaphore::new(0));
    upstream.next(TOKEN, Behaviour::Held(Arc::clone(&held), Box::new(Behaviour::Healthy)));
    let gateway = Setup::for_platform(upstream.address()).start();
    let admin = Admin(gateway.admin());
    let waits = "not ready: the first token request of API client \"test\" has not ended\n";
    assert_eq!(admin.page("/readyz"), (503, waits.to_owned()));
    assert_eq!(admin.page("/livez"), (200, "ok\n".to_owned()));
    let mut health = HealthClient::new(gateway.channel().await);
    let mut seen = Vec::new();
    let mut watches = Vec::new();
    for service in ["", "ott.v1.OttService"] {
        let response = health.check(check_of(service)).await.expect("a response").into_inner();
        assert_eq!(response.status(), ServingStatus::NotServing, "{service:?}");
        watches.push(health.watch(check_of(service)).await.expect("a response").into_inner());
    }
    let unknown = health.check(check_of("no.such.Service")).await.expect_err("an unknown service");
    assert_eq!(unknown.code(), Code::NotFound);
    watches.push(health.watch(check_of("no.such.Service")).await.expect("a stream").into_inner());
    for watch in &mut watches {
        seen.push(watch.message().await.expect("an open stream").expect("a first message").status());
    }
    let starting = [ServingStatus::NotServing, ServingStatus::NotServing, ServingStatus::ServiceUnknown];
    assert_eq!(seen, starting);
    let endpoint = format!("http://{}", gateway.address());
    let done = healthcheck(&endpoint, &[]);
    assert_eq!(done.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&done.stderr).contains("NOT_SERVING"), "{done:?}");

    held.add_permits(1);
    becomes_ready(admin).await;
    for watch in &mut watches[..2] {
        let message = tokio::time::timeout(PATIENCE, watch.message()).await.expect("soon");
        assert_eq!(message.expect("an open stream").expect("a message").status(), ServingStatus::Serving);
    }
    let done = healthcheck(&endpoint, &["--service", "ott.v1.OttService"]);
    assert_eq!((done.status.code(), &done.stdout[..]), (Some(0), &b"SERVING\n"[..]));
    assert_eq!(healthcheck("http://127.0.0.1:1", &[]).status.code(), Some(1), "no server");
}

#[tokio::test(flavor = "multi_thread")]
async fn unavailable_audit_log_makes_the_replica_not_ready() {
    let upstream = Upstream::http().await;
    let setup = Setup::for_platform(upstream.address()).replacing("FOLDER/audit.jsonl", "/dev/full");
    let gateway = setup.start();
    let admin = Admin(gateway.admin());
    // It is not ready from the start.
    assert_eq!(admin.page("/readyz").0, 503);
    let why = (503, "not ready: audit records cannot be written\n".to_owned());
    until("the reason", async || admin.page("/readyz") == why).await;
    let failed = gateway.client().await.issue_ott(issue()).await.expect_err("no record, no token");
    assert_eq!(failed.code(), Code::Unavailable);
    assert_eq!(upstream.count(upstream::OTT), 0);
    assert_eq!(admin.page("/livez").0, 200, "a restart would not help");
}

#[tokio::test(flavor = "multi_thread")]
async fn platform_outage_does_not_affect_readiness() {
    let upstream = Upstream::http().await;
    upstream.always(TOKEN, upstream::Answer::empty(503));
    let gateway = Setup::for_platform(upstream.address()).start();
    becomes_ready(Admin(gateway.admin())).await;
    let failed = gateway.client().await.issue_ott(issue()).await.expect_err("no access token");
    assert_eq!(failed.code(), Code::Unavailable);
}

/// A rolling update with a wrong secret must stop at the first new replica.
#[tokio::test(flavor = "multi_thread")]
async fn new_replica_is_not_ready_until_its_credential_is_accepted() {
    let (good, wrong) = (Upstream::http().await, Upstream::http().await);
    wrong.always(TOKEN, upstream::Answer::json(401, r#"{"error":"invalid_client"}"#));
    let platforms = [("good", good.address()), ("wrong", wrong.address())];
    let gateway = Setup::for_platforms(&platforms).start();
    let admin = Admin(gateway.admin());
    let why = "not ready: API client \"wrong\" has never had an access token: \
               the platform refuses the API client's credential: HTTP status 401\n";
    let until = clock::now() + PATIENCE;
    while admin.page("/readyz") != (503, why.to_owned()) {
        assert!(clock::now() < until, "{:?}", admin.page("/readyz"));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mut health = HealthClient::new(gateway.channel().await);
    let response = health.check(check_of("")).await.expect("a response").into_inner();
    assert_eq!(response.status(), ServingStatus::NotServing);
    assert_eq!(admin.page("/livez").0, 200, "a restart would not help");

    // A later platform outage does not clear the refusal.
    let refusals = wrong.count(TOKEN);
    wrong.always(TOKEN, upstream::Answer::empty(503));
    wrong.wait_for(TOKEN, refusals + 2).await;
    assert_eq!(admin.page("/readyz"), (503, why.to_owned()));

    wrong.always(TOKEN, Behaviour::Healthy);
    becomes_ready(admin).await;
    // Once ready, a refused credential no longer affects readiness.
    let request = IssueOttRequest { api_client: "wrong".to_owned(), ..issue() };
    gateway.client().await.issue_ott(request).await.expect("a token");
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_gateway_reports_not_ready_before_it_closes() {
    let upstream = Upstream::http().await;
    let setup = Setup::for_platform(upstream.address()).replacing(
        "drain_lame_duck = \"100ms\"",
        "drain_lame_duck = \"15s\"\nhealth_listen = \"127.0.0.1:0\"",
    );
    let mut gateway = setup.start();
    let admin = Admin(gateway.admin());
    becomes_ready(admin).await;
    let probe = format!("http://{}", gateway.health_address());
    assert_eq!(healthcheck(&probe, &[]).status.code(), Some(0));
    let mut client = gateway.client().await;
    let mut watch = HealthClient::new(gateway.channel().await)
        .watch(check_of(""))
        .await
        .expect("a response")
        .into_inner();
    assert_eq!(
        watch.message().await.expect("an open stream").expect("a message").status(),
        ServingStatus::Serving
    );

    gateway.signal("TERM");
    assert_eq!(
        watch.message().await.expect("an open stream").expect("a message").status(),
        ServingStatus::NotServing
    );
    assert_eq!(admin.page("/readyz"), (503, "not ready: draining\n".to_owned()));
    assert_eq!(admin.page("/livez").0, 200);
    assert_eq!(healthcheck(&probe, &[]).status.code(), Some(1), "the health port reports it too");
    client.issue_ott(issue()).await.expect("calls are served while probes notice");
    let end = tokio::time::timeout(PATIENCE, watch.message()).await.expect("the end of the watch");
    assert!(end.expect("no error").is_none());
    assert_eq!(gateway.ended().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn probes_reach_a_gateway_that_requires_client_certificates() {
    let upstream = Upstream::http().await;
    let setup = Setup::for_platform(upstream.address()).replacing(
        "[admin]",
        r#"health_listen = "127.0.0.1:0"
        [server.tls]
        certificate_file = "FOLDER/tls.crt"
        private_key_file = "FOLDER/tls.key"
        client_ca_file = "FOLDER/ca.crt"
        client_auth = "require"
        [admin]"#,
    );
    let authority = Authority::new("probes");
    let path = |name: &str, content: &str| setup.file(name, content).display().to_string();
    authority.issue(&["gateway.example"]).write(setup.folder());
    let ca = path("ca.crt", &authority.certificate());
    let probe = authority.issue(&["probe.example"]);
    let (certificate, key) = (path("probe.crt", &probe.certificate), path("probe.key", &probe.private_key));
    let stranger = Authority::new("another").issue(&["probe.example"]);
    let other = path("other.crt", &stranger.certificate);
    let other_key = path("other.key", &stranger.private_key);
    let gateway = setup.start();
    becomes_ready(Admin(gateway.admin())).await;

    let secured = format!("https://{}", gateway.address());
    let name = ["--server-name", "gateway.example", "--ca-file", &ca];
    let with = |more: &[&str]| healthcheck(&secured, &[&name[..], more].concat());
    let done = with(&["--certificate-file", &certificate, "--private-key-file", &key]);
    assert_eq!((done.status.code(), &done.stdout[..]), (Some(0), &b"SERVING\n"[..]), "{done:?}");
    assert_eq!(with(&[]).status.code(), Some(1), "no certificate");
    let foreign = with(&["--certificate-file", &other, "--private-key-file", &other_key]);
    assert_eq!(foreign.status.code(), Some(1), "a certificate from another authority");
    let misnamed = healthcheck(
        &secured,
        &["--ca-file", &ca, "--certificate-file", &certificate, "--private-key-file", &key],
    );
    assert_eq!(misnamed.status.code(), Some(1), "the gateway's certificate is for another name");

    // Like a kubelet: plaintext, no certificate; the port serves nothing else.
    let plain = format!("http://{}", gateway.health_address());
    assert_eq!(healthcheck(&plain, &[]).status.code(), Some(0));
    assert_eq!(healthcheck(&plain, &["--service", "ott.v1.OttService"]).status.code(), Some(0));
    let channel = Endpoint::from_shared(plain).expect("a URL").connect().await.expect("it accepts");
    let refused = OttServiceClient::new(channel).issue_ott(issue()).await.expect_err("only health is served");
    assert_eq!(refused.code(), Code::Unimplemented);
    assert_eq!(upstream.count(upstream::OTT), 0);
}

/// Calls on the health port do not appear in audit, metrics, traces or log.
#[tokio::test(flavor = "multi_thread")]
async fn calls_on_the_health_port_are_not_recorded() {
    let upstream = Upstream::http().await;
    let (collector, received) = collector().await;
    let mut gateway = Setup::for_platform(upstream.address())
        .replacing("[admin]", "health_listen = \"127.0.0.1:0\"\n[admin]")
        .replacing(
            "[telemetry]",
            &format!("[telemetry]\nlog_level = \"debug\"\notlp_endpoint = \"http://{collector}\""),
        )
        .start();
    let admin = Admin(gateway.admin());
    becomes_ready(admin).await;
    let plain = Endpoint::from_shared(format!("http://{}", gateway.health_address())).expect("a URL");
    let stranger = plain.connect().await.expect("it accepts");
    for number in 0..50 {
        let mut request = Request::new(issue());
        let metadata = request.metadata_mut();
        metadata.insert("x-request-id", format!("stranger-{number}").parse().expect("a value"));
        let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        metadata.insert("traceparent", parent.parse().expect("a value"));
        let refused = OttServiceClient::new(stranger.clone()).issue_ott(request).await;
        let refused = refused.expect_err("only health is served");
        assert_eq!((refused.code(), refused.message()), (Code::Unimplemented, ""));
        HealthClient::new(stranger.clone()).check(check_of("")).await.expect("health is served");
    }

    let mut honest = Request::new(issue());
    honest.metadata_mut().insert("x-request-id", "honest".parse().expect("a value"));
    gateway.client().await.issue_ott(honest).await.expect("a token");
    let records: Vec<String> =
        gateway.audit().iter().map(|record| record["request_id"].to_string()).collect();
    assert_eq!(records, ["\"honest\""]);
    let metrics = admin.scrape();
    metrics.has(&[
        ("grpc_server_started_total", 1.0),
        ("grpc_server_handled_total", 1.0),
        ("grpc_server_handling_seconds_count", 1.0),
        ("ott_gateway_errors_total", 0.0),
        ("ott_gateway_caller_calls_total", 1.0),
    ]);
    gateway.signal("TERM");
    assert_eq!(gateway.ended().await.code(), Some(0));
    assert_eq!(received.of_kind(SpanKind::Server).len(), 1);
    let log = gateway.stderr().text();
    assert!(log.contains("\"honest\""), "the honest call is logged at debug");
    assert!(!log.contains("stranger-") && !log.contains("UNIMPLEMENTED"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn hanging_sink_fails_liveness_after_ten_seconds_and_recovers() {
    let upstream = Upstream::http().await;
    let (mut reader, mut writer) = std::io::pipe().expect("a pipe");
    let setup = Setup::for_platform(upstream.address()).replacing("FOLDER/audit.jsonl", "stdout");
    let gateway = setup.stdout(writer.try_clone().expect("a descriptor")).start();
    let admin = Admin(gateway.admin());
    becomes_ready(admin).await;
    assert_eq!(admin.page("/livez"), (200, "ok\n".to_owned()));

    fcntl_setfl(&writer, OFlags::NONBLOCK).expect("a flag");
    while writer.write(&[b'\n'; 1024]).is_ok() {}
    fcntl_setfl(&writer, OFlags::empty()).expect("a flag");
    // Only the gateway's descriptor stays open, so that the reader finds the end of the pipe.
    drop(writer);
    let began = clock::now();
    let failed = gateway.client().await.issue_ott(issue()).await.expect_err("no record, no token");
    assert_eq!(failed.code(), Code::Unavailable);
    // Another thread reports it shortly after the call.
    while admin.page("/readyz").0 != 503 {
        assert!(began.elapsed() < PATIENCE, "the gateway stays ready");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let until = began + 3 * PATIENCE;
    let body = loop {
        let (status, body) = admin.page("/livez");
        if status == 503 {
            break body;
        }
        assert!(clock::now() < until, "the gateway stays alive: {body}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert!(began.elapsed() >= Duration::from_secs(10), "{:?}", began.elapsed());
    assert!(body.starts_with("not alive: thread audit has been blocked for 1"), "{body}");
    assert_eq!(body.lines().count(), 1, "{body}");
    admin.scrape().has(&[(r#"ott_gateway_thread_up{thread="audit"}"#, 0.0)]);
    gateway
        .stderr()
        .wait_for("the blocked thread", |line| line.contains("thread does not respond").then_some(()));

    let drained = std::thread::spawn(move || std::io::copy(&mut reader, &mut std::io::sink()));
    becomes_ready(admin).await;
    assert_eq!(admin.page("/livez"), (200, "ok\n".to_owned()));
    gateway.client().await.issue_ott(issue()).await.expect("a token");
    drop(gateway);
    drained.join().expect("no panic").expect("no read error");
}

/// Number of times that threads with this name prefix have gone to sleep.
fn sleeps(process: u32, name: &str) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{process}/task")).expect("the process runs");
    let statuses = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("status")).ok());
    let matching = statuses.filter(|status| status.starts_with(&format!("Name:\t{name}")));
    let count = |status: String| {
        let line =
            status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:").map(str::trim));
        line.expect("a count").parse::<u64>().expect("a number")
    };
    matching.map(count).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_threads_rarely_wake_up_for_heartbeats() {
    let upstream = Upstream::http().await;
    let setup = Setup::for_platform(upstream.address()).replacing("[admin]", "worker_threads = 2\n[admin]");
    let gateway = setup.start();
    becomes_ready(Admin(gateway.admin())).await;
    gateway.client().await.issue_ott(issue()).await.expect("a token");
    // Until everything after the call is done, such as closing its connection.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let began = clock::now();
    let before = ["worker-", "audit"].map(|name| sleeps(gateway.id(), name));
    tokio::time::sleep(Duration::from_secs(8)).await;
    let after = ["worker-", "audit"].map(|name| sleeps(gateway.id(), name));
    assert!(before[0] > 0 && before[1] > 0, "{before:?}");
    let heartbeats = 2 * (began.elapsed().as_secs() + 1);
    assert!(after[0] - before[0] <= heartbeats, "at most one per second and worker: {before:?} {after:?}");
    assert_eq!(after[1], before[1], "the audit thread waits for records only");
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_threads_that_sleep_beyond_the_heartbeat_limit_are_alive() {
    let upstream = Upstream::http().await;
    let setup = Setup::for_platform(upstream.address()).replacing("[admin]", "worker_threads = 4\n[admin]");
    let gateway = setup.start();
    let admin = Admin(gateway.admin());
    becomes_ready(admin).await;
    let asleep = || ["worker-", "audit"].map(|name| sleeps(gateway.id(), name));
    let until = clock::now() + 4 * PATIENCE;
    loop {
        let before = asleep();
        tokio::time::sleep(Duration::from_secs(12)).await;
        let after = asleep();
        assert_eq!(admin.page("/livez"), (200, "ok\n".to_owned()));
        if before == after {
            break;
        }
        assert!(clock::now() < until, "threads keep waking up: {before:?} {after:?}");
    }
    for _ in 0..8 {
        gateway.client().await.issue_ott(issue()).await.expect("a token");
    }
    assert_eq!(admin.page("/livez"), (200, "ok\n".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn partial_requests_on_the_admin_port_do_not_block_probes() {
    let upstream = Upstream::http().await;
    let gateway = Setup::for_platform(upstream.address()).start();
    let admin = Admin(gateway.admin());
    becomes_ready(admin).await;
    let mut held = Vec::new();
    for _ in 0..200 {
        let mut stream = TcpStream::connect(gateway.admin()).expect("it accepts");
        stream.write_all(b"GET /metrics HT").expect("it is open");
        held.push(stream);
    }
    for _ in 0..3 {
        assert_eq!(admin.page("/livez"), (200, "ok\n".to_owned()));
    }
    let evicted = r#"ott_gateway_connections_ended_total{reason="evicted"}"#;
    assert!(admin.scrape().value(evicted) >= 200.0 - 64.0);
    assert!(gateway.client().await.issue_ott(issue()).await.is_ok());
}
