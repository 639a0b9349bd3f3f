//! Content of the log, limits, and panics.

mod dropped;
mod lines;

use std::{
    fs::{File, OpenOptions},
    io::Read,
    sync::{Arc, Mutex},
};

use hyper::server::conn::http2;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    service::TowerToHyperService,
};
use rustix::fs::{CWD, FileType, Mode, OFlags, fcntl_setfl, mknodat};
use serde_json::Value;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tracing::subscriber::with_default;

use super::{captured::second_dispatcher, *};
use crate::{
    base::clock,
    observe::health::{Health, HealthService, WatchPeer, Watches},
};

/// An output in memory.
#[derive(Clone, Debug, Default)]
struct Memory(Arc<Mutex<Vec<u8>>>);

impl io::Write for Memory {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("no panic").write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Memory {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().expect("no panic").clone()).expect("text")
    }

    fn lines(&self) -> Vec<Value> {
        self.text().lines().map(|line| serde_json::from_str(line).expect("one JSON object")).collect()
    }
}

fn settings(format: Format, directives: &str) -> Settings {
    let directives = directives.parse().expect("directives");
    Settings { format, directives, has_colors: false, has_priorities: false }
}

fn logged(format: Format, directives: &str, work: impl FnOnce(&Limiter)) -> Memory {
    let (memory, limiter) = (Memory::default(), Limiter::default());
    let written = memory.clone();
    let subscriber = subscriber(&settings(format, directives), move || written.clone(), limiter.clone());
    let _second = second_dispatcher();
    with_default(subscriber, || work(&limiter));
    memory
}

#[test]
fn json_line_is_one_object_with_flat_dotted_fields() {
    let memory = logged(Format::Json, "info", |_| {
        tracing::warn!(caller.name = "a\n\u{1b}[31mb", duration_ms = 7, "nothing happened");
        tracing::debug!("not enabled");
    });
    let lines = memory.lines();
    assert_eq!(lines.len(), 1);
    assert_eq!(lines[0]["caller.name"], "a\n\u{1b}[31mb");
    assert_eq!(lines[0]["duration_ms"], 7);
    assert_eq!(lines[0]["message"], "nothing happened");
    assert_eq!(lines[0]["level"], "WARN");
    assert!(lines[0]["timestamp"].as_str().expect("a string").ends_with('Z'));
}

#[test]
fn text_line_has_no_escapes_off_a_terminal() {
    let hostile = "a\u{1b}[31mb\nforged";
    let memory = logged(Format::Text, "info", |_| tracing::warn!(caller.name = hostile, "nothing happened"));
    let text = memory.text();
    assert!(!text.contains('\u{1b}') && text.lines().count() == 1, "{text:?}");
    assert!(text.contains("WARN") && text.contains("nothing happened"), "{text}");
}

#[test]
fn directives_select_lines_and_invalid_ones_are_reported() {
    let memory = logged(Format::Json, "ott_gateway::observe::telemetry=debug", |_| {
        tracing::debug!("asked for");
        tracing::debug!(target: "ott_gateway::server", "not enabled");
        tracing::info!(target: "ott_gateway::server", "the rest is at info");
    });
    assert_eq!(memory.lines().len(), 2, "{}", memory.text());
    let fault = "ott_gateway=loud".parse::<Directives>().expect_err("no such level");
    assert!(fault.to_string().starts_with("not a list of log levels"), "{fault}");
}

/// Makes a call with a canary in its headers through a real HTTP/2 client and server.
fn call_with_a_canary() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.expect("a connection");
            let watches = Watches::new(1, Metrics::new().watches());
            let service = HealthService::new(Health::new(), watches);
            let service = service.for_connection(WatchPeer::Address(address));
            http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service))
                .await
        });
        let endpoint = tonic::transport::Endpoint::try_from(format!("http://{address}")).expect("an address");
        let mut client = HealthClient::new(endpoint.connect().await.expect("it connects"));
        let mut request = tonic::Request::new(HealthCheckRequest::default());
        request.metadata_mut().insert("authorization", "Bearer canary-token".parse().expect("a value"));
        client.check(request).await.expect("it answers");
    });
}

#[test]
fn http_and_tls_crates_are_never_logged_below_info() {
    let everything = "trace,h2=trace,hyper=trace,hyper_util=trace,tonic=trace,tower=trace,rustls=trace";
    // Without the cap the crates do log: otherwise this test could not fail.
    let memory = Memory::default();
    let written = memory.clone();
    let uncapped = tracing_subscriber::fmt()
        .json()
        .with_max_level(LevelFilter::TRACE)
        .with_writer(move || written.clone())
        .finish();
    let _second = second_dispatcher();
    with_default(uncapped, call_with_a_canary);
    assert!(memory.text().contains("\"target\":\"h2::"), "the HTTP crates log");

    let memory = logged(Format::Json, everything, |_| {
        call_with_a_canary();
        for_every_foreign_target();
        tracing::trace!("our own");
    });
    let lines = memory.lines();
    assert!(!memory.text().contains("canary"), "{}", memory.text());
    assert!(lines.iter().any(|line| line["message"] == "our own"));
    for line in lines {
        let target = line["target"].as_str().expect("a string");
        let level = line["level"].as_str().expect("a string");
        assert!(target.starts_with("ott_gateway") || !["TRACE", "DEBUG"].contains(&level), "{line}");
    }
}

fn for_every_foreign_target() {
    tracing::trace!(target: "h2::codec", "canary");
    tracing::debug!(target: "hyper::proto", "canary");
    tracing::debug!(target: "hyper_util::client", "canary");
    tracing::debug!(target: "reqwest::connect", "canary");
    tracing::trace!(target: "rustls::client", "canary");
    tracing::debug!(target: "tower::buffer", "canary");
    tracing::debug!(target: "a_crate_nobody_thought_of", "canary");
}

#[tokio::test(start_paused = true)]
async fn repeated_warnings_are_limited_and_reported() {
    let (memory, limiter) = (Memory::default(), Limiter::default());
    let written = memory.clone();
    let subscriber = subscriber(&settings(Format::Json, "info"), move || written.clone(), limiter.clone());
    let _second = second_dispatcher();
    let _guard = tracing::subscriber::set_default(subscriber);
    let count = |message: &str| memory.lines().iter().filter(|line| line["message"] == message).count();
    let storm = || {
        for number in 0..25 {
            tracing::warn!(number, "the same place");
        }
    };
    storm();
    tracing::warn!("another place");
    for _ in 0..25 {
        tracing::info!("not a warning");
        tracing::warn!(target: CALL_TARGET, "a failed call");
    }
    assert_eq!(count("the same place"), 10);
    assert_eq!(count("another place"), 1);
    assert_eq!(count("not a warning"), 25);
    assert_eq!(count("a failed call"), 25);

    tokio::time::advance(WINDOW_AND_MORE).await;
    storm();
    assert_eq!(count("the same place"), 20, "a new window");
    assert_eq!(limiter.suppressed(), 30);

    limiter.report_suppressed();
    limiter.report_suppressed();
    let lines = memory.lines();
    let reports: Vec<&Value> = lines.iter().filter(|line| line["log.suppressed"].is_u64()).collect();
    assert_eq!(reports.len(), 1, "reported once");
    assert_eq!(reports[0]["log.suppressed"], 30);
}

#[tokio::test(start_paused = true)]
async fn lines_about_peers_are_limited_per_peer_and_in_total() {
    let (memory, limiter) = (Memory::default(), Limiter::default());
    let written = memory.clone();
    let subscriber = subscriber(&settings(Format::Json, "info"), move || written.clone(), limiter.clone());
    let _guard = tracing::subscriber::set_default(subscriber);
    let event = |peer: &str| tracing::info!(peer.address = %peer, "handshake failed");
    let lines_of = |peer: &str| memory.lines().iter().filter(|line| line["peer.address"] == peer).count();
    for _ in 0..25 {
        event("192.0.2.1:4000");
        event("[::ffff:192.0.2.1]:4001");
        event("[2001:db8::1]:4000");
        event("[2001:db8::2]:4000");
        event("192.0.2.2:4000");
    }
    assert_eq!([lines_of("192.0.2.1:4000"), lines_of("[::ffff:192.0.2.1]:4001")], [5, 5], "one peer");
    assert_eq!([lines_of("[2001:db8::1]:4000"), lines_of("[2001:db8::2]:4000")], [5, 5], "one /64");
    assert_eq!(lines_of("192.0.2.2:4000"), 10);

    // A flood from many addresses: 97 get a separate limit, the rest share one.
    let before = memory.lines().len();
    for number in 0..10_000_u32 {
        let peer = std::net::Ipv4Addr::from(0x0a00_0000 + number).to_string();
        (0..11).for_each(|_| event(&peer));
    }
    assert_eq!(memory.lines().len() - before, 97 * 10 + 10);

    limiter.report_suppressed();
    let lines = memory.lines();
    let suppressed = |peer: &str| {
        let mut reports = lines.iter().filter(|line| line["log.peer"] == peer);
        let report = reports.next().unwrap_or_else(|| panic!("no report for {peer}"));
        assert_eq!(reports.next(), None, "reported once");
        report["log.suppressed"].as_u64().expect("a count")
    };
    assert_eq!(suppressed("192.0.2.1"), 40);
    assert_eq!(suppressed("2001:db8::/64"), 40);
    assert_eq!(suppressed("192.0.2.2"), 15);
    assert_eq!(suppressed("others"), 11 * (10_000 - 97) - 10);

    tokio::time::advance(WINDOW_AND_MORE).await;
    event("192.0.2.1:4000");
    assert_eq!(lines_of("192.0.2.1:4000"), 6, "a new window");
}

const WINDOW_AND_MORE: Duration = Duration::from_secs(11);

#[test]
fn logging_never_waits_for_the_reader() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("pipe");
    mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("a pipe");
    let mut reader: File = OpenOptions::new().read(true).write(true).open(&path).expect("it opens");
    fcntl_setfl(&reader, OFlags::NONBLOCK).expect("a flag");
    let writer =
        LogWriter::start(OpenOptions::new().write(true).open(&path).expect("it opens")).expect("a thread");

    let started = clock::now();
    let subscriber = subscriber(&settings(Format::Json, "info"), writer.clone(), Limiter::default());
    let _second = second_dispatcher();
    with_default(subscriber, || (0..20_000).for_each(|number| tracing::info!(number, "a line")));
    writer.flush(Duration::from_millis(100));
    assert!(started.elapsed() < Duration::from_mins(2), "{:?}", started.elapsed());
    assert!(writer.dropped() > 0);

    // A reader that returns gets whole lines, and new ones.
    let mut text = String::new();
    let deadline = clock::now() + Duration::from_mins(2);
    let expected = 20_000 - usize::try_from(writer.dropped()).expect("a count");
    while text.matches('\n').count() < expected {
        assert!(clock::now() < deadline, "the remaining lines do not arrive");
        let _ = reader.read_to_string(&mut text);
    }
    for line in text.lines() {
        serde_json::from_str::<Value>(line).expect("one JSON object");
    }
}

const PANICKING: &str = "observe::telemetry::logging::tests::panicking_process";

#[test]
#[ignore = "run by the next test, in a separate process"]
fn panicking_process() {
    let logging = init(&settings(Format::Json, "trace")).expect("the only log of this process");
    let canary = "canary-in-a-panic";
    let panics: [fn(&str); 4] = [
        |canary| panic!("formatted with {canary}"),
        |canary| std::panic::panic_any(canary.to_owned()),
        |canary| canary.parse::<u8>().map_err(|_| canary.to_owned()).map(drop).expect("a number"),
        |_| panic!("a constant sentence"),
    ];
    for panic in panics {
        std::thread::spawn(move || panic(canary)).join().expect_err("it panics");
    }
    logging.flush(Duration::from_secs(5));
}

#[test]
fn panic_is_logged_with_its_location_and_only_constant_messages() {
    let program = std::env::current_exe().expect("this program");
    let done = std::process::Command::new(program)
        .args(["--exact", PANICKING, "--ignored", "--nocapture"])
        .output()
        .expect("it starts");
    assert!(done.status.success(), "{done:?}");
    let stderr = String::from_utf8(done.stderr).expect("text");
    let printed = format!("{stderr}{}", String::from_utf8_lossy(&done.stdout));
    assert!(!printed.contains("canary"), "{printed}");
    let is_panic = |line: &Value| line["message"] == "panicked, please report this bug";
    let lines: Vec<Value> = stderr.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let panics: Vec<&Value> = lines.iter().filter(|line| is_panic(line)).collect();
    assert_eq!(panics.len(), 4, "{printed}");
    for panic in &panics {
        let location = panic["panic.location"].as_str().expect("a location");
        assert!(location.contains("logging/tests.rs:"), "{location}");
    }
    let messages: Vec<Option<&str>> = panics.iter().map(|panic| panic["panic.message"].as_str()).collect();
    assert_eq!(messages, [None, None, None, Some("a constant sentence")]);
}
