//! Crash safety of audit records: `fsync`, and files that end in a partial line.

use std::{
    fs::{self, OpenOptions},
    path::{Path, PathBuf},
    process::Command,
};

use ott_gateway::proto::ott::v1::IssueOttRequest;
use rustix::io::Errno;
use serde_json::Value;

use crate::support::{
    calling::{issue, issued, login, result_of, until, wait_for_audit_file_check, with},
    gateway::{Gateway, Setup},
    upstream::Upstream,
};

/// A preloaded library that observes the gateway's disk and can make it slow or fail.
pub(crate) struct Observed {
    folder: PathBuf,
}

impl Observed {
    /// Builds the library and adds it to the setup.
    pub(crate) fn setup(setup: Setup) -> (Self, Setup) {
        let folder = fs::canonicalize(setup.folder()).expect("the test's folder");
        let library = folder.join("sync.so");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/support/sync.c");
        let compiled = Command::new("cc")
            .args(["-shared", "-fPIC", "-o"])
            .arg(&library)
            .arg(source)
            .output()
            .expect("cc");
        assert!(compiled.status.success(), "{compiled:?}");
        let path = |name: &str| folder.join(name).display().to_string();
        let setup = setup
            .replacing("[audit]", "[audit]\nfsync = true")
            .environment("LD_PRELOAD", &path("sync.so"))
            .environment("OTT_TEST_SYNC_LOG", &path("sync.log"))
            .environment("OTT_TEST_SYNC_FAILS", &path("sync.fails"))
            .environment("OTT_TEST_SYNC_DELAY", &path("sync.delay"))
            .environment("OTT_TEST_WRITE_FAILS", &path("write.fails"));
        (Self { folder }, setup)
    }

    /// All sync calls so far, with paths relative to the test's folder.
    fn calls(&self) -> Vec<String> {
        let log = fs::read_to_string(self.folder.join("sync.log")).unwrap_or_default();
        let folder = self.folder.display().to_string();
        log.lines().map(|line| line.replace(&folder, "FOLDER")).collect()
    }

    /// The call that syncs the whole file at its current length.
    fn all_of(&self, name: &str) -> String {
        let length = fs::metadata(self.folder.join(name)).expect("the file is there").len();
        format!("fdatasync FOLDER/{name} {length}")
    }

    /// Sets the duration of each write of a record, with its sync.
    pub(crate) fn set_delay(&self, milliseconds: u32) {
        self.put("sync.delay", &milliseconds.to_string());
    }

    /// Makes one in ten writes to the audit file fail with `error`.
    pub(crate) fn set_write_error(&self, error: Errno) {
        self.put("write.fails", &format!("10 {}", error.raw_os_error()));
    }

    /// Replaces a file atomically, because the gateway may read it at any time.
    fn put(&self, name: &str, text: &str) {
        let new = self.folder.join("new");
        fs::write(&new, text).expect("a writable folder");
        fs::rename(new, self.folder.join(name)).expect("a renamed file");
    }

    fn set_failing(&self, failing: bool) {
        let switch = self.folder.join("sync.fails");
        if failing {
            fs::write(switch, "").expect("a writable folder");
        } else {
            fs::remove_file(switch).expect("a removable file");
        }
    }
}

async fn issue_one(gateway: &Gateway) -> String {
    issued(&gateway.channel().await, &[]).await
}

#[cfg(target_env = "gnu")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn record_and_file_name_are_synced_before_the_response() {
    let platform = Upstream::http().await;
    let (observed, setup) = Observed::setup(Setup::for_platform(platform.address()));
    let gateway = setup.start();
    let made = async |calls: usize| {
        until("a probe is synced", async || observed.calls().len() >= calls).await;
    };
    made(2).await;
    let mut expected = vec!["fsync FOLDER 0".to_owned(), observed.all_of("audit.jsonl")];
    assert_eq!(observed.calls(), expected, "the name of the new file, and the first line");
    for _ in 0..3 {
        assert_eq!(issue_one(&gateway).await, "OK");
        expected.push(observed.all_of("audit.jsonl"));
        assert_eq!(observed.calls(), expected, "one sync after each record");
    }

    // Rotation with a signal and without.
    let rename =
        |to: &str| fs::rename(gateway.folder().join("audit.jsonl"), gateway.folder().join(to)).unwrap();
    rename("audit.1");
    gateway.signal("HUP");
    made(expected.len() + 2).await;
    expected.extend(["fsync FOLDER 0".to_owned(), observed.all_of("audit.jsonl")]);
    assert_eq!(issue_one(&gateway).await, "OK");
    expected.push(observed.all_of("audit.jsonl"));
    rename("audit.2");
    wait_for_audit_file_check().await;
    assert_eq!(issue_one(&gateway).await, "OK");
    expected.extend(["fsync FOLDER 0".to_owned(), observed.all_of("audit.jsonl")]);
    assert_eq!(observed.calls(), expected);

    // Refused calls cause no sync.
    let mut client = gateway.client().await;
    for _ in 0..3 {
        let refused = client.issue_ott(IssueOttRequest::default()).await;
        assert_eq!(result_of(&refused), "InvalidArgument INVALID_REQUEST");
    }
    assert_eq!(gateway.audit().len(), 1 + 3);
    assert_eq!(observed.calls(), expected);

    // A result without a synced record is not returned.
    observed.set_failing(true);
    let ott = platform.token();
    let lost = client.login_with_ott(with(login(&ott), "x-request-id", "lost")).await;
    assert_eq!(result_of(&lost), "Aborted AUDIT_UNAVAILABLE");
    observed.set_failing(false);
    until("it recovers", async || result_of(&client.issue_ott(issue("x@example.com")).await) == "OK").await;
    assert_eq!(observed.calls().last(), Some(&observed.all_of("audit.jsonl")));
    let records: Vec<Value> =
        gateway.audit().into_iter().filter(|record| record["request_id"] == "lost").collect();
    assert_eq!(records.last().expect("a record")["late"], true);
}

#[cfg(target_env = "gnu")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn folder_that_cannot_be_synced_prevents_the_start_or_refuses_calls() {
    let platform = Upstream::http().await;
    let (observed, setup) = Observed::setup(Setup::for_platform(platform.address()));
    observed.set_failing(true);
    let output = setup.refused();
    assert!(!output.status.success());
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("cannot sync the folder"), "{text}");

    let (observed, setup) = Observed::setup(Setup::for_platform(platform.address()));
    let gateway = setup.start();
    observed.set_failing(true);
    fs::rename(gateway.folder().join("audit.jsonl"), gateway.folder().join("audit.1")).unwrap();
    wait_for_audit_file_check().await;
    assert_eq!(issue_one(&gateway).await, "Unavailable AUDIT_UNAVAILABLE");
    observed.set_failing(false);
    until("it recovers", async || issue_one(&gateway).await == "OK").await;
    // The previous file stays in use until the name of the new one is synced.
    let synced_names = || observed.calls().iter().filter(|call| **call == "fsync FOLDER 0").count();
    until("the new file is in use", async || synced_names() == 2).await;
    assert_eq!(issue_one(&gateway).await, "OK");
    assert_eq!(observed.calls().last(), Some(&observed.all_of("audit.jsonl")));
}

/// Records of calls after a partial line, which must be kept and completed.
fn after_partial_line(path: &Path, partial: &str) -> Vec<Value> {
    let text = fs::read_to_string(path).expect("the file is there");
    let rest = text.strip_prefix(partial).and_then(|rest| rest.strip_prefix('\n'));
    let rest = rest.unwrap_or_else(|| panic!("the partial line is not completed: {text}"));
    let lines = rest.lines().map(|line| serde_json::from_str(line).expect("a whole record"));
    lines.filter(|line: &Value| line["event"] == "call").collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn file_cut_by_a_crash_continues_on_a_new_line_with_a_warning() {
    const PARTIAL: &str = r#"{"event":"call","time":"2026-0"#;
    let platform = Upstream::http().await;
    let setup = Setup::for_platform(platform.address());
    let path = setup.file("audit.jsonl", PARTIAL);
    let gateway = setup.start();
    assert_eq!(issue_one(&gateway).await, "OK");
    assert_eq!(issue_one(&gateway).await, "OK");
    assert_eq!(after_partial_line(&path, PARTIAL).len(), 2);
    gateway.stderr().wait_for("a warning", |line| {
        (line.contains("audit sink ended in partial line") && line.contains("WARN")).then_some(())
    });

    // A file that replaces it at run time.
    for (partial, signal) in [("x", true), ("a line\nand half a l", false)] {
        let other = gateway.folder().join("other.jsonl");
        fs::write(&other, partial).unwrap();
        fs::rename(&other, &path).unwrap();
        if signal {
            gateway.signal("HUP");
        } else {
            wait_for_audit_file_check().await;
        }
        assert_eq!(issue_one(&gateway).await, "OK");
        assert_eq!(after_partial_line(&path, partial).len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn standard_output_continues_a_partial_file_on_a_new_line() {
    let platform = Upstream::http().await;
    for append in [true, false] {
        let setup = Setup::for_platform(platform.address()).replacing("FOLDER/audit.jsonl", "stdout");
        let path = setup.file("records.jsonl", "half a li");
        // Without `append`, as in a shell where another program has written first.
        let mut file = OpenOptions::new().write(true).append(append).open(&path).unwrap();
        std::io::Seek::seek(&mut file, std::io::SeekFrom::End(0)).unwrap();
        let gateway = setup.stdout(file).start();
        assert_eq!(issue_one(&gateway).await, "OK");
        assert_eq!(after_partial_line(&path, "half a li").len(), 1);
    }
}
