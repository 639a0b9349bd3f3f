//! Files that end in a partial line, because of a crash or a full disk.

use proptest::prelude::*;

use super::*;

/// Writes one record to the file, like a new process, and returns its request id.
async fn append(path: &Path) -> String {
    let (audit, call) = (started(path), call());
    audit.record(&call, OK).await.expect("it is written");
    call.request_id().to_string()
}

/// Asserts that the file has its previous content, followed by one separate line.
fn assert_appended(path: &Path, before: &[u8], id: &str) {
    let after = fs::read(path).expect("the file is there");
    let added = after.strip_prefix(before).expect("nothing that was there is changed");
    let is_torn = before.last().is_some_and(|last| *last != b'\n');
    let record = if is_torn { added.strip_prefix(b"\n").expect("the line ends first") } else { added };
    let record = std::str::from_utf8(record).expect("text");
    assert_eq!(ids(&parsed(record), false), [id]);
}

fn contents() -> impl Strategy<Value = Vec<u8>> {
    let long = (1..200_000_usize, any::<u8>()).prop_map(|(length, last)| {
        let mut content = vec![b'x'; length];
        content.push(last);
        content
    });
    prop_oneof![
        4 => proptest::collection::vec(any::<u8>(), 0..4),
        2 => proptest::collection::vec(any::<u8>(), 0..10_000),
        1 => long,
        1 => Just(vec![0; 4096]),
        1 => Just(b"{\"event\":\"call\"}\n{\"event\":\"ca".to_vec()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn no_record_is_joined_to_existing_content(content in contents(), rotated in any::<bool>()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("audit.jsonl");
        if rotated {
            // Another file replaces it while the gateway runs.
            runtime.block_on(async {
                let (audit, first, second) = (started(&path), call(), call());
                audit.record(&first, OK).await.expect("it is written");
                let other = folder.path().join("other.jsonl");
                fs::write(&other, &content).expect("it is written");
                fs::rename(&other, &path).expect("it renames");
                audit.record(&second, OK).await.expect("it is written");
                assert_appended(&path, &content, second.request_id().as_str());
            });
        } else {
            fs::write(&path, &content).expect("it is written");
            let id = runtime.block_on(append(&path));
            assert_appended(&path, &content, &id);
        }
    }
}

#[tokio::test]
async fn only_the_first_record_ends_the_partial_line() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("audit.jsonl");
    fs::write(&path, "half a li").expect("it is written");
    let audit = started(&path);
    audit.reopen();
    for _ in 0..3 {
        audit.record(&call(), OK).await.expect("it is written");
        audit.reopen();
    }
    let text = fs::read_to_string(&path).expect("the file is there");
    let records = text.strip_prefix("half a li\n").expect("the line ends first");
    assert_eq!(parsed(records).len(), 3);
    assert!(!records.contains("\n\n"), "{records}");
}

#[tokio::test]
async fn record_of_a_refused_call_also_ends_the_partial_line() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("audit.jsonl");
    fs::write(&path, "half a li").expect("it is written");
    let audit = started(&path);
    let refused = Call::new(clock::now(), Deadline::after(Duration::from_secs(1)));
    audit.record(&refused, Ending::Cancelled).await.expect("it is handed over");
    audit.flush(PATIENCE).await.expect("it flushes");
    assert_appended(&path, b"half a li", refused.request_id().as_str());
}
