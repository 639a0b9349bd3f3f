//! Probes that show whether the sink is available.

use super::*;

fn probes_in(path: &Path) -> Vec<(String, bool)> {
    probes(&fs::read_to_string(path).expect("the file is there"))
}

fn started_in(path: &Path) -> Vec<bool> {
    started_records(&fs::read_to_string(path).expect("the file is there"))
}

fn probe(cause: &str, late: bool) -> (String, bool) {
    (cause.to_owned(), late)
}

/// Waits until the sink may be used, like a call before it sends anything.
async fn expect_record(audit: &Audit) {
    timeout(PATIENCE, audit.expect_record()).await.expect("it returns").expect("the sink is available");
}

#[tokio::test]
async fn calls_wait_for_the_first_record_and_a_probe_after_a_new_file_only() {
    let folder = tempfile::tempdir().expect("a folder");
    let (path, moved) = (folder.path().join("audit.jsonl"), folder.path().join("audit.1"));
    for fsync in [false, true] {
        let settings = Settings { sink: Sink::File(path.clone()), hmac_key: None, fsync };
        let metrics = Metrics::new();
        let audit = start_checking(&settings, &metrics).expect("the sink opens");
        expect_record(&audit).await;
        assert_eq!((started_in(&path), probes_in(&path)), (vec![false], vec![]));
        // The same file.
        audit.reopen();
        audit.flush(PATIENCE).await.expect("it flushes");
        audit.record(&call(), OK).await.expect("it is written");
        assert_eq!((started_in(&path), probes_in(&path)), (vec![false], vec![]));
        // Another file, opened without a call.
        fs::rename(&path, &moved).expect("it renames");
        audit.reopen();
        audit.flush(PATIENCE).await.expect("it flushes");
        assert_eq!(probes_in(&path), [probe("new_file", false)]);
        // The record of a call replaces the probe.
        fs::rename(&path, &moved).expect("it renames");
        audit.record(&call(), OK).await.expect("it is written");
        assert_eq!(probes_in(&path), []);
        let written = r#"ott_gateway_audit_records_total{result="ok",sink="file"} 2"#;
        assert!(metrics.render().contains(written), "probes are not counted: {}", metrics.render());
        fs::remove_file(&path).expect("it is removed");
    }
}

#[tokio::test]
async fn first_calls_after_a_pause_wait_for_one_probe() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("audit.jsonl");
    let audit = started(&path);
    expect_record(&audit).await;
    audit.0.as_ref().expect("it is on").availability().forget_proof();
    tokio::join!(expect_record(&audit), expect_record(&audit), expect_record(&audit));
    assert_eq!(probes_in(&path), [probe("pause", false)]);
    expect_record(&audit).await;
    assert_eq!(probes_in(&path).len(), 1);
}

/// Its line is not synced, so it does not show how long a sync takes.
#[tokio::test]
async fn record_of_a_refused_call_does_not_replace_a_probe() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("audit.jsonl");
    let audit = started(&path);
    expect_record(&audit).await;
    audit.0.as_ref().expect("it is on").availability().forget_proof();
    let refused = Call::new(clock::now(), Deadline::after(Duration::from_secs(1)));
    audit.record(&refused, Ending::Cancelled).await.expect("it is handed over");
    let is_written = async {
        while lines_of(&path).is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(PATIENCE, is_written).await.expect("it is written without a flush");
    expect_record(&audit).await;
    assert_eq!(probes_in(&path), [probe("pause", false)]);
}

#[tokio::test]
async fn failed_first_write_refuses_calls_before_anything_is_sent() {
    let folder = tempfile::tempdir().expect("a folder");
    let (path, good) = (folder.path().join("audit.jsonl"), folder.path().join("good.jsonl"));
    symlink("/dev/full", &path).expect("a link");
    let audit = started(&path);
    assert!(!audit.is_unavailable(), "not known yet");
    assert_eq!(audit.expect_record().await, Err(AuditUnavailable));
    assert_eq!(audit.expect_record().await, Err(AuditUnavailable));
    fs::remove_file(&path).expect("it is removed");
    symlink(&good, &path).expect("a link");
    recovery(&audit).await;
    expect_record(&audit).await;
    assert_eq!((started_in(&good), probes_in(&good)), (vec![true], vec![]));
}
