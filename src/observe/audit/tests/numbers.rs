//! Numbers of records: dense, explained where a record is lost, and kept by a line that is repeated.

use futures_util::FutureExt;

use super::*;
use crate::observe::telemetry::metrics::CountedBy;

/// Returns the number of each line, in the order of the file.
fn sequences(lines: &[Value]) -> Vec<u64> {
    lines.iter().map(|line| line["sequence"].as_u64().expect("a number")).collect()
}

fn all_lines(path: &Path) -> Vec<Value> {
    parsed_with_probes(&fs::read_to_string(path).expect("the file is there"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn numbers_of_one_process_are_dense_and_the_last_record_has_the_last() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("audit.jsonl");
    let off_worker = started_off_worker(&Metrics::new(), &path);
    let audit = off_worker.on_this_runtime();
    for _ in 0..50 {
        let (one, other) = (call(), call());
        let (first, second) = tokio::join!(audit.record(&one, OK), off_worker.record(&other, OK));
        assert_eq!((first, second), (Ok(()), Ok(())));
        audit.correct_record(&one, Ending::Cancelled);
        let refused = Call::new(clock::now(), Deadline::after(Duration::from_secs(1)));
        audit.record(&refused, Ending::Cancelled).await.expect("it is handed over");
    }
    audit.rules_changed(&RulesChange::for_test("00", "01"));
    off_worker.stop(&StopCause::Signal("SIGTERM"), PATIENCE).await.expect("it is written");

    let lines = all_lines(&path);
    let mut numbers = sequences(&lines);
    assert_eq!(numbers.first(), Some(&1));
    assert_eq!(numbers.last(), Some(&203), "the start, four records in each round, a change, the stop");
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=203).collect::<Vec<u64>>());
    assert_eq!(lines[0]["event"], "started");
    assert_eq!((&lines[202]["event"], &lines[202]["detail"]), (&"stopped".into(), &"SIGTERM".into()));
    assert!(lines.iter().all(|line| line["process"] == lines[0]["process"]));
    let next = started(&folder.path().join("next.jsonl"));
    next.flush(PATIENCE).await.expect("it flushes");
    assert_ne!(all_lines(&folder.path().join("next.jsonl"))[0]["process"], lines[0]["process"]);
}

#[tokio::test]
async fn lost_records_leave_gaps_below_the_record_that_counts_them() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("pipe");
    let (audit, mut pipe, filled) = started_then_full(&Metrics::new(), &path).await;
    audit.correct_record(&call(), OK);
    let refused = || Call::new(clock::now(), Deadline::after(Duration::from_secs(1)));
    for _ in 0..places::REFUSED + 10 {
        let handed_over = audit.record(&refused(), Ending::Cancelled).now_or_never();
        assert_eq!(handed_over, Some(Ok(())));
    }
    let mut several = RefusedCalls::new(CountedBy::Peer, WallClock::system().now());
    (0..5).for_each(|_| several.add(&refused(), Ending::Cancelled, WallClock::system().now()));
    audit.refused_calls(&several);

    let mut text = String::new();
    let mut flush = std::pin::pin!(audit.flush(PATIENCE));
    while flush.as_mut().now_or_never().is_none() {
        text.push_str(&read_available(&mut pipe));
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    text.push_str(&read_available(&mut pipe));
    let lines = parsed_with_probes(&text[filled..]);
    let numbers: HashSet<u64> = sequences(&lines).into_iter().collect();
    let last = *numbers.iter().max().expect("lines");
    let missing: Vec<u64> = (2..last).filter(|number| !numbers.contains(number)).collect();
    let reports: Vec<&Value> = lines.iter().filter(|line| line["event"] == "records_lost").collect();
    let sum = |field: &str| reports.iter().filter_map(|report| report[field].as_u64()).sum::<u64>();
    assert_eq!((missing.len() as u64, sum("records"), sum("count")), (11, 11, 15));
    let report = reports.last().and_then(|report| report["sequence"].as_u64()).expect("a number");
    assert!(missing.iter().all(|number| *number < report), "{missing:?} {report}");
}

#[tokio::test]
async fn line_that_is_repeated_late_keeps_its_number() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("pipe");
    let (audit, mut pipe, filled) = started_then_full(&Metrics::new(), &path).await;
    let call = call();
    let result = audit.record(&call, OK).now_or_never();
    assert_eq!(result, None, "it waits for the pipe; dropping the call abandons the line");
    let mut text = String::new();
    let mut flush = std::pin::pin!(audit.flush(PATIENCE));
    while flush.as_mut().now_or_never().is_none() {
        text.push_str(&read_available(&mut pipe));
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    text.push_str(&read_available(&mut pipe));
    let lines = parsed(&text[filled..]);
    let of_call: Vec<&Value> =
        lines.iter().filter(|line| line["request_id"] == call.request_id().to_string()).collect();
    assert!(of_call.last().is_some_and(|line| line["late"] == true), "{lines:?}");
    assert!(of_call.iter().all(|line| line["sequence"] == of_call[0]["sequence"]), "{lines:?}");
}
