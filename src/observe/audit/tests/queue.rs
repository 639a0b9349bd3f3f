//! Effect of refused calls on records of allowed calls, and records beyond the bounds.

use std::time::SystemTime;

use futures_util::{FutureExt, future::join_all};
use rustix::io::ioctl_fionread;

use super::*;
use crate::{
    domain::reason::FailureCode,
    observe::{
        audit::{RefusedCalls, inbox::NotAccepted, numbering::Numbering, places::REFUSED},
        telemetry::{metrics::CountedBy, threads::Condition},
    },
};

const DENIED: Ending = Ending::Failed(FailureCode::PermissionDenied, Reason::CallerNotAllowed);

/// A call whose work has not begun.
fn refused_call() -> Call {
    Call::new(clock::now(), Deadline::after(Duration::from_secs(1)))
}

fn refuse(audit: &Audit, count: usize) {
    for _ in 0..count {
        let handed_over = audit.record(&refused_call(), DENIED).now_or_never();
        assert_eq!(handed_over, Some(Ok(())), "a refused call never waits");
    }
}

fn value(metrics: &Metrics, name: &str) -> u64 {
    let text = metrics.render();
    let line =
        text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{name}: {text}"));
    line.trim().parse().expect("a whole number")
}

/// Returns whether a thread of this process is inside a system call on that file.
pub(super) fn is_blocked_on(path: &Path) -> bool {
    let threads = fs::read_dir("/proc/self/task").expect("the threads of this process");
    threads.flatten().any(|thread| {
        let Ok(call) = fs::read_to_string(thread.path().join("syscall")) else { return false };
        let descriptor = call.split(' ').nth(1).and_then(|word| word.strip_prefix("0x"));
        let Some(Ok(descriptor)) = descriptor.map(|word| u64::from_str_radix(word, 16)) else { return false };
        fs::read_link(format!("/proc/self/fd/{descriptor}")).is_ok_and(|file| file == path)
    })
}

pub(super) async fn until(what: &str, reached: impl Fn() -> bool) {
    let reaching = async {
        while !reached() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(PATIENCE, reaching).await.unwrap_or_else(|_| panic!("timed out: {what}"));
}

/// Reads the pipe until the work is done, and then the rest.
async fn reading<T>(pipe: &mut fs::File, text: &mut String, work: impl Future<Output = T>) -> T {
    let mut work = std::pin::pin!(work);
    let result = loop {
        text.push_str(&read_available(pipe));
        tokio::select! {
            biased;
            result = &mut work => break result,
            () = tokio::time::sleep(Duration::from_millis(1)) => {}
        }
    };
    text.push_str(&read_available(pipe));
    result
}

#[tokio::test]
async fn flood_of_refused_calls_during_a_blocked_write_loses_no_record_of_an_allowed_call() {
    let until = clock::now() + PATIENCE;
    // On a busy machine the write may be blocked for longer than the limit.
    while !flood_during_a_blocked_write().await {
        assert!(clock::now() < until, "the machine is too slow for this test");
    }
}

/// Returns false if it took longer than a write may take, because calls are then refused correctly.
async fn flood_during_a_blocked_write() -> bool {
    const FLOOD: usize = REFUSED + 100;
    const ALLOWED: usize = 500;
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("pipe");
    let metrics = Metrics::new();
    let (audit, mut pipe, filled) = started_then_full(&metrics, &path).await;
    let standing = standing(&audit);
    let now = SystemTime::UNIX_EPOCH;
    let mut flood: Vec<String> = (0..FLOOD)
        .map(|_| record::for_call(&refused_call(), DENIED, Numbering::for_test().next(), now))
        .collect();
    let started = audit.0.as_ref().expect("it is on");
    // No call waits for this line, so it blocks the thread until the pipe is read.
    let first = call();
    let began = clock::now();
    audit.correct_record(&first, OK);
    until("the thread is blocked in its write", || is_blocked_on(&path)).await;

    flood.drain(..).for_each(|text| started.submit_refused(1, |_| text));
    assert_eq!(value(&metrics, r#"ott_gateway_audit_records_pending{class="refused"}"#), REFUSED as u64);
    let allowed: Vec<Call> = (0..ALLOWED).map(|_| call()).collect();
    let mut records: Vec<_> = allowed.iter().map(|call| Box::pin(audit.record(call, OK))).collect();
    for record in &mut records {
        assert!(record.as_mut().now_or_never().is_none(), "nothing is written yet");
    }
    assert_eq!(value(&metrics, r#"ott_gateway_audit_records_pending{class="allowed"}"#), 1 + ALLOWED as u64);

    let mut text = String::new();
    let results = reading(&mut pipe, &mut text, join_all(records)).await;
    let flushed = reading(&mut pipe, &mut text, audit.flush(PATIENCE)).await;
    if began.elapsed() >= MAX_WRITE {
        return false;
    }
    assert!(results.iter().all(Result::is_ok), "no allowed call fails");
    flushed.expect("it flushes");
    assert!(!standing.has_changed().expect("the audit lives"), "the sink stayed available");

    let lines = parsed(&text[filled..]);
    assert_eq!(ids(&lines, true), [first.request_id().to_string()]);
    let written: Vec<&str> = ids(&lines, false);
    let expected: Vec<String> = allowed.iter().map(|call| call.request_id().to_string()).collect();
    assert_eq!(written[..ALLOWED], expected, "allowed calls first, each once, in order");
    assert_eq!(written.len(), ALLOWED + REFUSED);
    let dropped = (FLOOD - REFUSED) as u64;
    assert_eq!(lost(&lines), [("refused", dropped)]);
    assert_eq!(value(&metrics, r#"ott_gateway_audit_records_lost_total{class="refused"}"#), dropped);
    for name in [
        r#"ott_gateway_audit_records_lost_total{class="allowed"}"#,
        r#"ott_gateway_audit_records_pending{class="allowed"}"#,
        r#"ott_gateway_audit_records_pending{class="refused"}"#,
    ] {
        assert_eq!(value(&metrics, name), 0, "{name}");
    }
    true
}

#[tokio::test]
async fn refused_calls_leave_room_in_an_unread_pipe() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("pipe");
    let mut pipe = pipe(&path);
    let metrics = Metrics::new();
    let audit = started_with(&metrics, &path);
    refuse(&audit, 2 * REFUSED);
    until("some are written", || ioctl_fionread(&pipe).is_ok_and(|bytes| bytes > 8192)).await;
    for _ in 0..20 {
        audit.record(&call(), OK).await.expect("there is room for it");
        refuse(&audit, 100);
    }

    let mut text = String::new();
    reading(&mut pipe, &mut text, audit.flush(PATIENCE)).await.expect("it flushes");
    let lines = parsed(&text);
    let refused = lines.iter().filter(|line| line["code"] == "PERMISSION_DENIED").count();
    let dropped: u64 = lost(&lines).iter().map(|(_, count)| count).sum();
    assert_eq!(refused as u64 + dropped, 2 * REFUSED as u64 + 2000, "each is written or counted");
    assert_eq!(ids(&lines, false).len() - refused, 20);
    assert!(refused >= REFUSED);
}

#[tokio::test]
async fn record_longer_than_the_room_for_refused_calls_is_written_to_an_empty_pipe() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("pipe");
    let mut pipe = pipe(&path);
    rustix::pipe::fcntl_setpipe_size(&pipe, 4096).expect("one page");
    let audit = started(&path);
    let long = refused_call();
    long.set_caller("x".repeat(2000).into(), "jwt");
    let _ = audit.record(&long, DENIED).await;
    let mut text = String::new();
    let is_whole = async {
        while !(text.contains(r#""event":"call""#) && text.ends_with('\n')) {
            text.push_str(&read_available(&mut pipe));
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(PATIENCE, is_whole).await.expect("it is written without a flush");
    assert_eq!(ids(&parsed(&text), false), [long.request_id().to_string()]);
}

#[tokio::test]
async fn records_of_refused_calls_are_kept_during_an_outage_and_written_late() {
    let folder = tempfile::tempdir().expect("a folder");
    let (path, good) = (folder.path().join("audit.jsonl"), folder.path().join("good.jsonl"));
    symlink("/dev/full", &path).expect("a link");
    let metrics = Metrics::new();
    let audit = started_with(&metrics, &path);
    let allowed = call();
    assert_eq!(audit.record(&allowed, OK).await, Err(AuditUnavailable));
    refuse(&audit, REFUSED - 1);
    let refused_by_audit = Ending::Failed(FailureCode::Unavailable, Reason::AuditUnavailable);
    assert_eq!(audit.record(&refused_call(), refused_by_audit).await, Err(AuditUnavailable));
    refuse(&audit, 10);
    let failed = r#"ott_gateway_audit_records_total{result="failed",sink="file"}"#;
    assert_eq!(value(&metrics, failed), 2, "calls that failed because of the audit, and no others");

    fs::remove_file(&path).expect("it is removed");
    symlink(&good, &path).expect("a link");
    recovery(&audit).await;
    audit.flush(PATIENCE).await.expect("it flushes");
    let lines = lines_of(&good);
    assert_eq!(ids(&lines, true).first(), Some(&allowed.request_id().to_string().as_str()));
    assert_eq!((ids(&lines, true).len(), ids(&lines, false).len()), (1 + REFUSED, 0));
    assert_eq!(lost(&lines), [("refused", 10)]);
}

#[tokio::test]
async fn lost_records_are_reported_without_another_call() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("pipe");
    let (audit, mut pipe, filled) = started_then_full(&Metrics::new(), &path).await;
    audit.correct_record(&call(), OK);
    until("the thread is blocked in its write", || is_blocked_on(&path)).await;
    refuse(&audit, REFUSED + 7);
    // One line that represents three calls.
    let mut summary = RefusedCalls::new(CountedBy::Others, SystemTime::UNIX_EPOCH);
    for _ in 0..3 {
        summary.add(&refused_call(), DENIED, SystemTime::UNIX_EPOCH);
    }
    audit.refused_calls(&summary);
    let mut text = String::new();
    let reported = async {
        while !text.contains("records_lost") || !text.ends_with('\n') {
            text.push_str(&read_available(&mut pipe));
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(PATIENCE, reported).await.expect("a line about them");
    assert_eq!(lost(&parsed(&text[filled..])), [("refused", 7 + 3)]);
}

#[tokio::test]
async fn panic_of_the_thread_is_reported_at_once_with_its_name() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("pipe");
    let mut pipe = pipe(&path);
    let audit = started_off_worker(&Metrics::new(), &path);
    let filled = fill_once_proven(&audit, &mut pipe).await;
    let mut standing = standing(&audit);
    let started = audit.0.as_ref().expect("it is on");
    audit.correct_record(&call(), OK);
    until("the thread is blocked in its write", || is_blocked_on(&path)).await;
    let waiting = call();
    let mut record = Box::pin(audit.record(&waiting, OK));
    assert!(record.as_mut().now_or_never().is_none());
    started.writer.panic();
    assert!(read_available(&mut pipe).len() >= filled);
    timeout(PATIENCE, standing.wait_for(|now| *now == Standing::Unavailable))
        .await
        .expect("no call is needed")
        .expect("the audit log runs");
    assert_eq!(record.await, Err(AuditUnavailable));

    // The sink is unavailable before the thread has dropped all lines.
    let submit = || started.submit(Line::unawaited("{".to_owned(), AuditClass::Allowed));
    until("it is known that the thread has stopped", || submit() == Err(NotAccepted::Stopped)).await;
    assert_eq!(audit.record(&call(), OK).await, Err(AuditUnavailable));
    assert_eq!(audit.record(&refused_call(), DENIED).now_or_never(), Some(Ok(())));
    assert_eq!(audit.flush(PATIENCE).await, Err(AuditUnavailable));
    assert!(audit.is_unavailable());
    let threads = started.metrics.threads();
    until("the thread counts as dead", || {
        threads.unresponsive().iter().any(|it| it.condition == Condition::Dead)
    })
    .await;
}
