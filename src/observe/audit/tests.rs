//! Tests with real files, pipes and devices. Times are real, because the writer thread cannot use a
//! paused clock.

mod backlog;
mod handover;
mod numbers;
mod probes;
mod queue;
mod unfinished;

use std::{
    collections::HashSet,
    fs::{self, OpenOptions},
    io::{BufRead, BufReader, Read, Write},
    os::unix::fs::symlink,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use rustix::{
    fs::{CWD, FileType, Mode, OFlags, fcntl_setfl, mknodat},
    process::{Resource, Rlimit, getrlimit, setrlimit},
};
use serde_json::Value;
use tokio::{sync::watch, time::timeout};

use super::{
    availability::Standing,
    for_test::{fill, pipe, read_available},
    started::RECORD_LIMIT,
    *,
};
use crate::{
    base::clock,
    domain::call::{Deadline, Method},
};

const OK: Ending = Ending::Succeeded;
const MAX_IN_FLIGHT: usize = 3000;
/// Maximum time that a test waits for an event. Only a failing test waits this long.
const PATIENCE: Duration = Duration::from_mins(2);

fn started(path: &Path) -> Audit {
    started_with(&Metrics::new(), path)
}

fn started_with(metrics: &Metrics, path: &Path) -> Audit {
    started_off_worker(metrics, path).on_this_runtime()
}

fn started_off_worker(metrics: &Metrics, path: &Path) -> Audit {
    let settings = Settings { sink: Sink::File(path.to_owned()), hmac_key: None, fsync: false };
    // Each write detects a file that was moved just before.
    start_checking(&settings, metrics).expect("the sink opens")
}

fn start_checking(settings: &Settings, metrics: &Metrics) -> Result<Audit, AuditError> {
    Audit::start_checking(
        Duration::ZERO,
        settings,
        None,
        MAX_IN_FLIGHT,
        &Fingerprints::default(),
        metrics,
        WallClock::system(),
    )
}

/// Starts an audit log in a pipe that is filled once the first write was judged. Also returns the
/// number of bytes in it.
async fn started_then_full(metrics: &Metrics, path: &Path) -> (Audit, fs::File, usize) {
    let mut pipe = pipe(path);
    let audit = started_with(metrics, path);
    let filled = fill_once_proven(&audit, &mut pipe).await;
    (audit, pipe, filled)
}

/// Fills the pipe once the first write was judged. Returns the number of bytes in it.
async fn fill_once_proven(audit: &Audit, pipe: &mut fs::File) -> usize {
    recovery(audit).await;
    assert_eq!(started_records(&read_available(pipe)), [false]);
    fill(pipe)
}

fn call() -> Call {
    let call = Call::new(clock::now(), Deadline::after(Duration::from_secs(1)));
    call.set_method(Method::IssueOtt);
    call.work_begins();
    call
}

/// Returns all lines.
fn parsed_with_probes(text: &str) -> Vec<Value> {
    assert!(text.is_empty() || text.ends_with('\n'), "a partial line: {text:?}");
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
}

/// Returns all lines but probes and the first line of a process.
fn parsed(text: &str) -> Vec<Value> {
    let mut lines = parsed_with_probes(text);
    lines.retain(|line| line["event"] != "sink_probe" && line["event"] != "started");
    lines
}

/// Returns whether each first line of a process is marked as late.
fn started_records(text: &str) -> Vec<bool> {
    let lines = parsed_with_probes(text);
    lines.iter().filter(|line| line["event"] == "started").map(|line| line["late"] == true).collect()
}

/// Returns the cause of each probe, and whether it is marked as late.
fn probes(text: &str) -> Vec<(String, bool)> {
    let mut lines = parsed_with_probes(text);
    lines.retain(|line| line["event"] == "sink_probe");
    let probe = |line: &Value| (line["cause"].as_str().expect("a cause").to_owned(), line["late"] == true);
    lines.iter().map(probe).collect()
}

fn lines_of(path: &Path) -> Vec<Value> {
    parsed(&fs::read_to_string(path).expect("the file is there"))
}

fn ids(lines: &[Value], late: bool) -> Vec<&str> {
    lines
        .iter()
        .filter(|line| line["event"] == "call" && (line["late"] == true) == late)
        .map(|line| line["request_id"].as_str().expect("a string"))
        .collect()
}

/// Returns the class and count of each line about lost records.
fn lost(lines: &[Value]) -> Vec<(&str, u64)> {
    let lines = lines.iter().filter(|line| line["event"] == "records_lost");
    lines
        .map(|line| (line["class"].as_str().expect("a class"), line["count"].as_u64().expect("a count")))
        .collect()
}

fn standing(audit: &Audit) -> watch::Receiver<Standing> {
    audit.0.as_ref().expect("it is on").availability().subscribe()
}

async fn outage(audit: &Audit) {
    let mut standing = standing(audit);
    let failed = timeout(PATIENCE, standing.wait_for(|now| *now == Standing::Unavailable)).await;
    failed.expect("it fails").expect("the audit log runs");
}

async fn recovery(audit: &Audit) {
    let mut standing = standing(audit);
    let recovered = timeout(PATIENCE, standing.wait_for(|now| *now == Standing::Available)).await;
    recovered.expect("it recovers").expect("the audit log runs");
    assert!(!audit.is_unavailable());
}

#[tokio::test]
async fn disabled_audit_never_fails() {
    let settings = Settings { sink: Sink::Off, hmac_key: None, fsync: true };
    let audit = start_checking(&settings, &Metrics::new()).expect("nothing to open");
    assert_eq!(audit.record(&call(), OK).await, Ok(()));
    assert_eq!(audit.flush(PATIENCE).await, Ok(()));
    assert!(!audit.is_unavailable());
}

#[tokio::test]
async fn record_is_in_the_file_when_the_call_continues() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("audit.jsonl");
    for fsync in [false, true] {
        let settings = Settings { sink: Sink::File(path.clone()), hmac_key: None, fsync };
        let audit = start_checking(&settings, &Metrics::new()).expect("the sink opens");
        let call = call();
        audit.record(&call, OK).await.expect("it is written");
        let lines = lines_of(&path);
        assert_eq!(lines.last().expect("a line")["request_id"], call.request_id().to_string());
    }
    assert_eq!(lines_of(&path).len(), 2, "existing content is kept");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_calls_write_whole_lines_and_each_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("audit.jsonl");
    let audit = started(&path);
    let tasks: Vec<_> = (0..2000)
        .map(|_| {
            let (audit, call) = (audit.clone(), call());
            tokio::spawn(async move {
                audit.record(&call, OK).await.expect("it is written");
                call.request_id().to_string()
            })
        })
        .collect();
    let mut written = HashSet::new();
    for task in tasks {
        written.insert(task.await.expect("no panic"));
    }
    let lines = lines_of(&path);
    assert_eq!(lines.len(), 2000);
    let found: HashSet<String> = ids(&lines, false).into_iter().map(str::to_owned).collect();
    assert_eq!(found, written);
}

#[tokio::test]
async fn full_disk_refuses_calls_and_their_records_are_written_late() {
    let folder = tempfile::tempdir().expect("a folder");
    let (path, good) = (folder.path().join("audit.jsonl"), folder.path().join("good.jsonl"));
    symlink("/dev/full", &path).expect("a link");
    let audit = started(&path);
    let (first, second, third) = (call(), call(), call());
    assert_eq!(audit.record(&first, OK).await, Err(AuditUnavailable));
    assert!(audit.is_unavailable());
    let asked = clock::now();
    assert_eq!(audit.record(&second, OK).await, Err(AuditUnavailable));
    assert!(asked.elapsed() < RECORD_LIMIT, "a sink known to be unavailable makes no call wait");
    assert_eq!(audit.flush(Duration::from_millis(50)).await, Err(AuditUnavailable));

    fs::remove_file(&path).expect("it is removed");
    symlink(&good, &path).expect("a link");
    recovery(&audit).await;
    audit.record(&third, OK).await.expect("it is written");
    let lines = lines_of(&good);
    assert_eq!(ids(&lines, true), [first.request_id().to_string(), second.request_id().to_string()]);
    assert_eq!(ids(&lines, false), [third.request_id().to_string()]);
}

#[tokio::test]
async fn unawaited_lines_are_written_once_and_late_only_if_the_sink_fails() {
    let folder = tempfile::tempdir().expect("a folder");
    let (path, good) = (folder.path().join("audit.jsonl"), folder.path().join("good.jsonl"));
    symlink(&good, &path).expect("a link");
    let metrics = Metrics::new();
    let settings = Settings { sink: Sink::File(path.clone()), hmac_key: None, fsync: true };
    let audit = start_checking(&settings, &metrics);
    let audit = audit.expect("the sink opens");
    let (delivered, stranded) = (call(), call());
    audit.undelivered_session(&delivered, Logout::Succeeded, None);
    audit.correct_record(&delivered, Ending::Cancelled);
    audit.flush(PATIENCE).await.expect("it flushes");

    fs::remove_file(&path).expect("it is removed");
    symlink("/dev/full", &path).expect("a link");
    audit.undelivered_session(&stranded, Logout::Failed, Some(503));
    outage(&audit).await;
    assert_eq!(audit.flush(Duration::from_millis(50)).await, Err(AuditUnavailable));
    fs::remove_file(&path).expect("it is removed");
    symlink(&good, &path).expect("a link");
    recovery(&audit).await;

    let lines = lines_of(&good);
    let essence = |line: &Value| {
        let late = line.get("late").is_some();
        format!("{} {late}", line["event"].as_str().expect("a string"))
    };
    let lines: Vec<String> = lines.iter().map(essence).collect();
    assert_eq!(lines, ["undelivered_session false", "call true", "undelivered_session true"]);
    for (result, count) in [("ok", 1), ("late", 2)] {
        let line = format!(r#"ott_gateway_audit_records_total{{result="{result}",sink="file"}} {count}"#);
        assert!(metrics.render().contains(&line), "{line}\n{}", metrics.render());
    }
}

/// As at shutdown: pending records are written if the sink recovers in time.
#[tokio::test]
async fn flush_repeats_writes_until_its_limit() {
    let folder = tempfile::tempdir().expect("a folder");
    let (path, good) = (folder.path().join("audit.jsonl"), folder.path().join("good.jsonl"));
    symlink("/dev/full", &path).expect("a link");
    let audit = started(&path);
    let calls = [call(), call(), call()];
    for call in &calls {
        audit.correct_record(call, Ending::Cancelled);
    }
    outage(&audit).await;
    let mut flush = Box::pin(audit.flush(PATIENCE));
    assert!(timeout(Duration::from_millis(20), flush.as_mut()).await.is_err());
    let link = folder.path().join("link");
    symlink(&good, &link).expect("a link");
    fs::rename(&link, &path).expect("it is replaced");
    flush.await.expect("it is written in time");
    let expected = calls.each_ref().map(|call| call.request_id().to_string());
    assert_eq!(ids(&lines_of(&good), true), expected);

    // Records that were handed over just before.
    let last = call();
    audit.correct_record(&last, Ending::Cancelled);
    audit.flush(FLUSH_LIMIT).await.expect("it is written");
    assert_eq!(ids(&lines_of(&good), true).last(), Some(&last.request_id().to_string().as_str()));
}

#[tokio::test]
async fn removed_folder_refuses_calls_until_it_exists_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("log").join("audit.jsonl");
    fs::create_dir(folder.path().join("log")).expect("a folder");
    let audit = started(&path);
    audit.record(&call(), OK).await.expect("it is written");
    fs::remove_dir_all(folder.path().join("log")).expect("it is removed");
    let refused = call();
    assert_eq!(audit.record(&refused, OK).await, Err(AuditUnavailable));
    assert!(audit.is_unavailable());

    fs::create_dir(folder.path().join("log")).expect("a folder");
    recovery(&audit).await;
    audit.record(&call(), OK).await.expect("it is written");
    let lines = lines_of(&path);
    assert_eq!(ids(&lines, true), [refused.request_id().to_string()]);
    assert_eq!(lines.len(), 2);
}

#[tokio::test]
async fn file_is_rotated_by_renaming_with_and_without_a_signal() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("audit.jsonl");
    let audit = started(&path);
    for (generation, signal) in [("1", true), ("2", false)] {
        audit.record(&call(), OK).await.expect("it is written");
        fs::rename(&path, folder.path().join(generation)).expect("it renames");
        if signal {
            audit.reopen();
            audit.flush(PATIENCE).await.expect("it flushes");
            assert!(path.exists(), "opened again without a call");
        }
    }
    audit.record(&call(), OK).await.expect("it is written");
    assert_eq!(lines_of(&folder.path().join("1")).len(), 1);
    assert_eq!(lines_of(&folder.path().join("2")).len(), 1);
    assert_eq!(lines_of(&path).len(), 1);
}

#[tokio::test]
async fn blocked_pipe_fails_calls_in_time_and_recovers_by_itself() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("pipe");
    let (audit, mut pipe, filled) = started_then_full(&Metrics::new(), &path).await;
    let (hung, dropped, queued) = (call(), call(), call());
    let asked = clock::now();
    let ((), hung_result) = tokio::join!(
        async {
            // A call whose future is dropped while it waits.
            let _ = timeout(Duration::from_millis(100), audit.record(&dropped, OK)).await;
        },
        audit.record(&hung, OK),
    );
    assert_eq!(hung_result, Err(AuditUnavailable));
    assert!(asked.elapsed() >= RECORD_LIMIT, "{:?}", asked.elapsed());
    assert!(audit.is_unavailable());
    assert_eq!(audit.record(&queued, OK).await, Err(AuditUnavailable));
    assert_eq!(audit.flush(Duration::from_millis(50)).await, Err(AuditUnavailable), "bounded as well");

    let drained = read_available(&mut pipe);
    assert!(drained.len() >= filled);
    recovery(&audit).await;
    let good = call();
    audit.record(&good, OK).await.expect("it is written");
    let text = drained[filled..].to_owned() + &read_available(&mut pipe);
    let lines = parsed(&text);
    let late: HashSet<&str> = ids(&lines, true).into_iter().collect();
    let expected = [&hung, &dropped, &queued].map(|call| call.request_id().to_string());
    assert_eq!(late, expected.iter().map(String::as_str).collect(), "each is marked as late");
    assert_eq!(ids(&lines, false).last(), Some(&good.request_id().to_string().as_str()));
}

#[tokio::test]
async fn pipe_without_a_reader_refuses_calls_until_there_is_a_new_reader() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("pipe");
    let pipe = pipe(&path);
    let audit = started(&path);
    recovery(&audit).await;
    drop(pipe);
    assert_eq!(audit.record(&call(), OK).await, Err(AuditUnavailable));
    assert!(audit.is_unavailable());

    let mut pipe = OpenOptions::new().read(true).write(true).open(&path).expect("it opens");
    fcntl_setfl(&pipe, OFlags::NONBLOCK).expect("a flag");
    recovery(&audit).await;
    audit.record(&call(), OK).await.expect("it is written");
    let lines = parsed(read_available(&mut pipe).trim_start_matches('\n'));
    assert_eq!((ids(&lines, true).len(), ids(&lines, false).len()), (1, 1));
}

#[tokio::test]
async fn pipe_without_a_reader_cannot_be_the_sink() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("pipe");
    mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("a pipe");
    let settings = Settings { sink: Sink::File(path), hmac_key: None, fsync: false };
    let error = start_checking(&settings, &Metrics::new()).expect_err("there is no reader");
    assert!(error.to_string().starts_with("cannot open the audit sink /"), "{error}");
}

#[tokio::test]
async fn records_beyond_the_bound_are_counted() {
    let folder = tempfile::tempdir().expect("a folder");
    let (path, good) = (folder.path().join("audit.jsonl"), folder.path().join("good.jsonl"));
    symlink("/dev/full", &path).expect("a link");
    let metrics = Metrics::new();
    let audit = started_with(&metrics, &path);
    for _ in 0..3 * MAX_IN_FLIGHT + 500 {
        assert_eq!(audit.record(&call(), OK).await, Err(AuditUnavailable));
    }
    let pending = metrics.render();
    let pending = pending.lines().find(|line| line.contains(r#"records_pending{class="allowed"}"#));
    let bound = 3 * MAX_IN_FLIGHT;
    assert_eq!(
        pending,
        Some(format!(r#"ott_gateway_audit_records_pending{{class="allowed"}} {bound}"#).as_str()),
        "late records are bounded"
    );
    fs::remove_file(&path).expect("it is removed");
    symlink(&good, &path).expect("a link");
    recovery(&audit).await;
    audit.flush(PATIENCE).await.expect("it flushes");
    let lines = lines_of(&good);
    assert_eq!(ids(&lines, true).len(), 3 * MAX_IN_FLIGHT);
    assert_eq!(lost(&lines), [("allowed", 500)]);
}

#[tokio::test]
async fn issue_and_login_of_one_token_are_joined_across_replicas() {
    let folder = tempfile::tempdir().expect("a folder");
    let replica = |name: &str| {
        let key = HmacKey::new("k1", b"canary-key".to_vec());
        let sink = Sink::File(folder.path().join(name));
        let settings = Settings { sink, hmac_key: None, fsync: false };
        assert!(!format!("{key:?}").contains("canary"));
        Audit::start(
            &settings,
            Some(&key),
            MAX_IN_FLIGHT,
            &Fingerprints::default(),
            &Metrics::new(),
            WallClock::system(),
        )
        .expect("the sink opens")
    };
    let ott = OneTimeToken::try_new("canary-token".to_owned()).expect("visible ASCII");
    let mut seen = Vec::new();
    for (name, method) in [("one", Method::IssueOtt), ("other", Method::LoginWithOtt)] {
        let audit = replica(name);
        let call = Call::new(clock::now(), Deadline::after(Duration::from_secs(1)));
        call.set_method(method);
        call.work_begins();
        call.set_fingerprint(audit.fingerprint(&audit.token_hash(&ott)).expect("it is on"));
        audit.record(&call, OK).await.expect("it is written");
        let text = fs::read_to_string(folder.path().join(name)).expect("the file is there");
        assert!(!text.contains("canary"), "{text}");
        seen.push(parsed(&text)[0]["ott_fingerprint"].clone());
    }
    assert_eq!(seen[0], seen[1]);
    assert!(seen[0].as_str().expect("a string").starts_with("k1:"));
}

/// Child process of the next test.
#[tokio::test]
#[ignore = "run by another test, with a separate standard output"]
async fn child_whose_standard_output_is_closed() {
    let settings = Settings { sink: Sink::Stdout, hmac_key: None, fsync: true };
    let audit = start_checking(&settings, &Metrics::new()).expect("it opens");
    let first = audit.record(&call(), OK).await;
    writeln!(io::stderr(), "first: {first:?}").expect("it is read");
    io::stdin().read_to_end(&mut Vec::new()).expect("it ends");
    let second = audit.record(&call(), OK).await;
    writeln!(io::stderr(), "second: {second:?} unavailable: {}", audit.is_unavailable()).expect("it is read");
}

#[test]
fn closed_standard_output_refuses_calls() {
    let mut child = Command::new(std::env::current_exe().expect("this program"))
        .args([
            "--exact",
            "observe::audit::tests::child_whose_standard_output_is_closed",
            "--ignored",
            "--nocapture",
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let output = BufReader::new(child.stdout.take().expect("a pipe"));
    // The test harness writes there too.
    let record = output.lines().map_while(Result::ok).find(|line| line.contains("\"event\":\"call\""));
    let record = record.expect("a record");
    let object = &record[record.find('{').expect("an object")..];
    assert_eq!(parsed(&format!("{object}\n"))[0]["method"], "IssueOtt");
    // The reader is gone now. The child continues when its standard input ends.
    drop(child.stdin.take());
    let output = child.wait_with_output().expect("it ends").stderr;
    let output = String::from_utf8(output).expect("text");
    assert!(output.contains("first: Ok(())"), "{output}");
    assert!(output.contains("second: Err(AuditUnavailable) unavailable: true"), "{output}");
}

/// Child process of the next test.
#[tokio::test]
#[ignore = "run by another test, with a limit on the size of its files"]
async fn child_whose_files_may_not_grow() {
    let mut path = String::new();
    io::stdin().read_line(&mut path).expect("a path");
    let audit = started(Path::new(path.trim_end()));
    while audit.record(&call(), OK).await.is_ok() {}
    assert!(audit.is_unavailable());
    let Rlimit { maximum, .. } = getrlimit(Resource::Fsize);
    setrlimit(Resource::Fsize, Rlimit { current: maximum, maximum }).expect("the limit can be raised");
    recovery(&audit).await;
    audit.record(&call(), OK).await.expect("it is written");
}

#[test]
fn line_torn_by_a_full_disk_is_finished() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("audit.jsonl");
    let program = std::env::current_exe().expect("this program");
    // 4096 bytes: a write beyond them is short, and the next one fails.
    let mut child = Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -S -f 8; exec \"$0\" \"$@\""])
        .arg(program)
        .args([
            "--exact",
            "observe::audit::tests::child_whose_files_may_not_grow",
            "--ignored",
            "--nocapture",
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    writeln!(child.stdin.take().expect("a pipe"), "{}", path.display()).expect("the child reads");
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{output:?}");

    let lines = lines_of(&path);
    let (written, late) = (ids(&lines, false), ids(&lines, true));
    assert_eq!(late.len(), 1);
    // The partial line was finished as it was begun, corrected by the late one, and followed by the
    // record of the next successful call.
    assert_eq!(written.iter().rev().nth(1), late.first());
    assert!(fs::metadata(&path).expect("it is there").len() > 4096);
}
