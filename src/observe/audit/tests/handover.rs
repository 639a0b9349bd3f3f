//! Workers that hand over lines in batches to a real writer thread.

use std::thread;

use futures_util::future::join_all;
use tokio::runtime;

use super::{
    queue::{is_blocked_on, until},
    *,
};
use crate::base::clock::HeldClock;

fn paused_runtime() -> runtime::Runtime {
    runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime")
}

fn writes(metrics: &Metrics) -> u64 {
    let text = metrics.render();
    let count = text.lines().find_map(|line| line.strip_prefix("ott_gateway_audit_write_seconds_count "));
    count.unwrap_or_else(|| panic!("{text}")).parse().expect("a number")
}

#[tokio::test]
async fn records_of_one_turn_are_written_together() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("audit.jsonl");
    let metrics = Metrics::new();
    let audit = started_with(&metrics, &path);
    audit.flush(PATIENCE).await.expect("it flushes");
    for turn in 1..=3 {
        let before = writes(&metrics);
        let calls: Vec<Call> = (0..64).map(|_| call()).collect();
        let refused = Call::new(clock::now(), Deadline::after(Duration::from_secs(1)));
        let records = calls.iter().chain([&refused]).map(|call| audit.record(call, OK));
        assert!(join_all(records).await.iter().all(Result::is_ok));
        audit.flush(PATIENCE).await.expect("it flushes");
        assert_eq!(writes(&metrics) - before, 1);
        assert_eq!(lines_of(&path).len(), turn * 65);
    }
}

/// The clocks of the workers do not advance: no call stops waiting because of its limit.
#[tokio::test]
async fn calls_of_all_workers_fail_at_once_when_the_thread_dies() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("pipe");
    let (audit, mut pipe, filled) = started_then_full(&Metrics::new(), &path).await;
    // No call waits for this line, so it blocks the thread until the pipe is read.
    audit.correct_record(&call(), OK);
    until("the thread is blocked in its write", || is_blocked_on(&path)).await;
    let workers: Vec<_> = (0..3)
        .map(|_| {
            let audit = audit.clone();
            thread::spawn(move || {
                paused_runtime().block_on(async {
                    let _clock = HeldClock::new();
                    let audit = audit.on_this_runtime();
                    let calls: Vec<Call> = (0..10).map(|_| call()).collect();
                    join_all(calls.iter().map(|call| audit.record(call, OK))).await
                })
            })
        })
        .collect();
    until("all calls wait", || {
        let shown = audit.0.as_ref().expect("it is on").metrics.render();
        shown.contains(r#"ott_gateway_audit_records_pending{class="allowed"} 31"#)
    })
    .await;
    audit.0.as_ref().expect("it is on").writer.panic();
    // Reading ends the write that blocks the thread.
    assert!(read_available(&mut pipe).len() >= filled);
    until("no call waits", || workers.iter().all(thread::JoinHandle::is_finished)).await;
    for worker in workers {
        assert_eq!(worker.join().expect("no panic"), [Err(AuditUnavailable); 10]);
    }
    assert!(audit.is_unavailable());
}

#[tokio::test]
async fn flush_covers_lines_that_workers_have_not_sent() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("audit.jsonl");
    let audit = started(&path);
    let (first, last) = (call(), call());
    let worker = thread::spawn({
        let (audit, first, last) = (audit.clone(), first.clone(), last.clone());
        move || {
            let runtime = paused_runtime();
            let audit = runtime.block_on(async {
                let audit = audit.on_this_runtime();
                audit.correct_record(&first, Ending::Cancelled);
                audit
            });
            // This runtime is not polled any more, but is not dropped either.
            audit.correct_record(&last, Ending::Cancelled);
            (runtime, audit)
        }
    });
    let (runtime, on_worker) = worker.join().expect("no panic");
    assert_eq!(lines_of(&path).len(), 0);
    audit.flush(PATIENCE).await.expect("it flushes");
    let expected = [&first, &last].map(|call| call.request_id().to_string());
    assert_eq!(ids(&lines_of(&path), true), expected);

    // The worker ends with unsent lines, and more lines are handed over afterwards.
    let after = [call(), call()];
    on_worker.correct_record(&after[0], Ending::Cancelled);
    runtime.shutdown_background();
    on_worker.correct_record(&after[1], Ending::Cancelled);
    audit.flush(PATIENCE).await.expect("it flushes");
    let lines = lines_of(&path);
    let expected = after.each_ref().map(|call| call.request_id().to_string());
    assert_eq!(ids(&lines, true)[2..], expected);
}

#[tokio::test]
async fn call_on_a_stopped_worker_still_gets_its_record() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("audit.jsonl");
    let audit = started(&path);
    let on_worker = thread::spawn({
        let audit = audit.clone();
        move || paused_runtime().block_on(async { audit.on_this_runtime() })
    });
    let on_worker = on_worker.join().expect("no panic");
    let call = call();
    on_worker.record(&call, OK).await.expect("it is written");
    assert_eq!(ids(&lines_of(&path), false), [call.request_id().to_string()]);
}

#[tokio::test]
async fn call_dropped_while_its_line_is_pending_has_one_late_record() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("audit.jsonl");
    let audit = started(&path);
    let (dropped, good) = (call(), call());
    let mut record = Box::pin(audit.record(&dropped, OK));
    assert!(futures_util::FutureExt::now_or_never(record.as_mut()).is_none());
    drop(record);
    audit.record(&good, OK).await.expect("it is written");
    let lines = lines_of(&path);
    assert_eq!(ids(&lines, true), [dropped.request_id().to_string()]);
    assert_eq!(ids(&lines, false), [good.request_id().to_string()]);
}

#[tokio::test]
async fn removed_file_is_detected_after_the_interval_and_replaced() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("audit.jsonl");
    let settings = Settings { sink: Sink::File(path.clone()), hmac_key: None, fsync: false };
    let audit = Audit::start(
        &settings,
        None,
        MAX_IN_FLIGHT,
        &Fingerprints::default(),
        &Metrics::new(),
        WallClock::system(),
    )
    .expect("the sink opens");
    for is_removed in [true, false] {
        audit.record(&call(), OK).await.expect("it is written");
        if is_removed {
            fs::remove_file(&path).expect("it is removed");
        } else {
            fs::rename(&path, folder.path().join("audit.1")).expect("it renames");
        }
        let is_back = async {
            while !path.exists() {
                audit.record(&call(), OK).await.expect("it is written, or the sink would be unavailable");
            }
        };
        timeout(PATIENCE, is_back).await.expect("a new file");
        let last = call();
        audit.record(&last, OK).await.expect("it is written");
        assert_eq!(ids(&lines_of(&path), false).last(), Some(&last.request_id().to_string().as_str()));
        // No record in the new file is late.
        assert_eq!(ids(&lines_of(&path), true).len(), 0);
    }
}
