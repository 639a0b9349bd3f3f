//! `audit check` on the records of a real gateway.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    path::Path,
    process::{Command, Output, Stdio},
};

use flate2::{Compression, write::GzEncoder};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::Value;

use crate::support::{
    calling::{issue, login, result_of, until, wait_for_audit_file_check},
    gateway::{Gateway, Setup},
    upstream::Upstream,
};

/// Runs `audit check` with these arguments in a folder, with this standard input.
fn check_with(folder: &Path, arguments: &[&str], input: &[u8]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_ott-gateway"))
        .args(["audit", "check"])
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // It may exit without reading.
    let _ = stdin.write_all(input);
    drop(stdin);
    child.wait_with_output().unwrap()
}

/// Exit code and output, of which standard error comes last.
fn check(folder: &Path, arguments: &[&str]) -> (i32, String) {
    let done = check_with(folder, arguments, b"");
    let text = [done.stdout, done.stderr].concat();
    (done.status.code().unwrap(), String::from_utf8(text).unwrap())
}

async fn issue_and_log_in(gateway: &Gateway) {
    let mut client = gateway.client().await;
    let issued = client.issue_ott(issue("Anna@example.com")).await.unwrap().into_inner();
    assert_eq!(result_of(&client.login_with_ott(login(&issued.ott)).await), "OK");
}

fn gzip(path: &Path) {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(&fs::read(path).unwrap()).unwrap();
    fs::write(path.with_added_extension("gz"), encoder.finish().unwrap()).unwrap();
    fs::remove_file(path).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn log_of_a_process_is_complete_after_a_reload_and_an_orderly_stop() {
    let platform = Upstream::http().await;
    let mut gateway = Setup::for_platform(platform.address()).start();
    issue_and_log_in(&gateway).await;
    let config = gateway.folder().join("config.toml");
    // Comments and blanks are no change.
    let text = fs::read_to_string(&config).unwrap();
    let same = text.replace("[[access.rules]]", "# The same.\n[[access.rules]]\n");
    // Neither are tests.
    let same = format!(
        "{same}[[access.tests]]\ncaller = \"dns:nobody\"\nmethod = \"IssueOtt\"\nuser = \"x\"\nexpect = \"deny\"\n"
    );
    fs::write(&config, format!("{same}# end\n")).unwrap();
    gateway.signal("HUP");
    fs::write(&config, same.replace("users = \"all\"", "logins = [\"*@example.com\"]")).unwrap();
    gateway.signal("HUP");
    until("the rules have changed", async || !gateway.audit_lines("rules_changed").is_empty()).await;
    issue_and_log_in(&gateway).await;
    gateway.signal("TERM");
    assert!(gateway.ended().await.success());

    let path = gateway.folder().join("audit.jsonl");
    let log = fs::read_to_string(&path).unwrap();
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let (first, last) = (&lines[0], lines.last().unwrap());
    assert_eq!((&first["event"], &first["sequence"]), (&"started".into(), &1.into()));
    assert_eq!((&last["event"], &last["sequence"]), (&"stopped".into(), &lines.len().into()));
    assert_eq!((&last["cause"], &last["detail"]), (&"signal".into(), &"SIGTERM".into()));
    let changes: Vec<&Value> = lines.iter().filter(|line| line["event"] == "rules_changed").collect();
    assert_eq!(changes.len(), 1, "{log}");
    assert_eq!(changes[0]["old_rules"], first["rules"]);
    assert_ne!(changes[0]["new_rules"], first["rules"]);
    assert_eq!(
        changes[0]["summary"],
        serde_json::json!({
            "rules_before": 1, "rules_after": 1, "candidate_rules_before": 0, "candidate_rules_after": 0,
            "tokens_before": 0, "tokens_after": 0, "opened": 0, "closed": 2, "quotas_changed": 0,
            "settings_changed": 0,
        })
    );

    let folder = gateway.folder();
    let (code, output) = check(folder, &["audit.jsonl"]);
    assert_eq!(code, 0, "{output}");
    assert!(output.contains("stopped: signal SIGTERM") && output.ends_with(", complete\n"), "{output}");
    assert!(output.contains("tokens: 2 issued, 2 spent, 2 of them issued in these files"), "{output}");
    let (code, output) = check(folder, &["--user", "anna@EXAMPLE.com", "--since", "24h", "audit.jsonl"]);
    assert_eq!(code, 0, "{output}");
    assert_eq!(output.lines().filter(|line| line.contains("  LoginWithOtt  ")).count(), 2, "{output}");
    assert_eq!(output.lines().filter(|line| line.starts_with("token ")).count(), 2, "{output}");

    // Each line is needed.
    for removed in [1, 2, 4, lines.len()] {
        let others = log.lines().enumerate().filter(|(at, _)| at + 1 != removed).map(|(_, line)| line);
        fs::write(&path, others.collect::<Vec<_>>().join("\n") + "\n").unwrap();
        let (code, output) = check(folder, &["audit.jsonl"]);
        assert_eq!(code, 3, "{removed}: {output}");
        let sequence = &lines[removed - 1]["sequence"];
        let expected = if removed == lines.len() {
            "no record `stopped`".to_owned()
        } else {
            format!("missing records: 1 ({sequence})\n")
        };
        assert!(output.contains(&expected), "{removed}: {output}");
    }

    // A torn line, and a doubled one.
    fs::write(&path, &log[..log.len() - 30]).unwrap();
    let (code, output) = check(folder, &["audit.jsonl"]);
    assert!(
        code == 3 && output.contains(&format!("torn lines: 1 (audit.jsonl:{})", lines.len())),
        "{output}"
    );
    fs::write(&path, format!("{log}{}\n", log.lines().nth(2).unwrap())).unwrap();
    let (code, output) = check(folder, &["audit.jsonl"]);
    let sequence = &lines[2]["sequence"];
    assert!(code == 3 && output.contains(&format!("doubled lines: 1 ({sequence})\n")), "{output}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn log_of_a_killed_process_has_no_last_record() {
    let platform = Upstream::http().await;
    let mut gateway = Setup::for_platform(platform.address()).start();
    issue_and_log_in(&gateway).await;
    gateway.signal("KILL");
    gateway.ended().await;
    let (code, output) = check(gateway.folder(), &["audit.jsonl"]);
    assert_eq!(code, 3);
    assert!(output.contains("no record `stopped`"), "{output}");
    assert!(
        output.contains("error: the audit log is not complete: processes without a record `stopped`: 1\n")
    );
    let (code, output) = check(gateway.folder(), &["--partial", "audit.jsonl"]);
    assert!(code == 0 && output.contains("complete, as far as the files go"), "{output}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rotated_and_compressed_files_are_read_in_any_order() {
    let platform = Upstream::http().await;
    let mut gateway = Setup::for_platform(platform.address()).start();
    let folder = gateway.folder().to_owned();
    let path = folder.join("audit.jsonl");
    // By renaming.
    issue_and_log_in(&gateway).await;
    fs::rename(&path, folder.join("audit.1")).unwrap();
    gateway.signal("HUP");
    until("the file is reopened", async || path.exists()).await;
    issue_and_log_in(&gateway).await;
    // By copying and truncating, while nothing is written.
    gateway.audit();
    fs::copy(&path, folder.join("audit.2")).unwrap();
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(0).unwrap();
    wait_for_audit_file_check().await;
    issue_and_log_in(&gateway).await;
    gateway.signal("TERM");
    assert!(gateway.ended().await.success());
    gzip(&folder.join("audit.1"));

    for order in [["audit.jsonl", "audit.2", "audit.1.gz"], ["audit.1.gz", "audit.jsonl", "audit.2"]] {
        let (code, output) = check(&folder, &order);
        assert_eq!(code, 0, "{output}");
        assert!(output.contains("tokens: 3 issued, 3 spent, 3 of them issued in these files"), "{output}");
    }
    let first = fs::read(folder.join("audit.1.gz")).unwrap();
    let done = check_with(&folder, &["-", "audit.2", "audit.jsonl"], &first);
    assert!(done.status.success(), "{done:?}");
    let (code, output) = check(&folder, &["audit.2", "audit.jsonl"]);
    assert!(code == 3 && output.contains("no record `started`"), "{output}");
    let (code, output) = check(&folder, &["audit.jsonl", "audit.1.gz"]);
    assert!(code == 3 && output.contains("missing records: "), "{output}");

    // A file that cannot be read is not a gap.
    fs::write(folder.join("cut.gz"), &first[..first.len() / 2]).unwrap();
    fs::write(folder.join("audit.zst"), [0x28, 0xb5, 0x2f, 0xfd, 0, 0]).unwrap();
    for (arguments, words) in [
        (&["missing.jsonl"][..], "cannot read missing.jsonl: "),
        (&["cut.gz"], "cannot read cut.gz: "),
        (&["audit.zst"], "zstd -dc"),
        (&["."], "cannot read .: "),
        (&["-", "-"], "standard input can only be read once"),
        (&[], "<FILE>"),
        (&["--since", "yesterday", "audit.jsonl"], "--since"),
        (&["--user", "anna:x", "audit.jsonl"], "--user"),
    ] {
        let (code, output) = check(&folder, arguments);
        assert!(code == 2 && output.contains(words), "{arguments:?} {code}: {output}");
    }
}

/// The log of a whole process.
const LOG: &str = r#"{"event":"started","time":"2026-01-01T00:00:00Z","process":"00000000000000ff","sequence":1,"gateway_version":"0.1.0"}
{"event":"stopped","time":"2026-01-01T00:00:01Z","process":"00000000000000ff","sequence":2,"cause":"signal","detail":"SIGTERM","gateway_version":"0.1.0"}
"#;

#[test]
fn named_pipe_is_read_once_a_program_writes_to_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pipe");
    mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("a named pipe");
    let mut child = Command::new(env!("CARGO_BIN_EXE_ott-gateway"))
        .args(["audit", "check"])
        .arg(&path)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut notes = BufReader::new(child.stderr.take().unwrap());
    let mut note = String::new();
    notes.read_line(&mut note).unwrap();
    assert_eq!(note, format!("waiting for a program that writes to the pipe {}\n", path.display()));
    fs::write(&path, LOG).unwrap();
    let done = child.wait_with_output().unwrap();
    let output = String::from_utf8(done.stdout).unwrap();
    assert_eq!(done.status.code(), Some(0), "{output}");
    assert!(output.ends_with("records: 2, complete\n"), "{output}");
    notes.read_to_string(&mut note).unwrap();
    assert_eq!(note.lines().count(), 1, "{note}");
}

/// Two pipes that one program writes to, one after the other.
#[test]
fn pipes_are_opened_in_turn() {
    let folder = tempfile::tempdir().unwrap();
    let pipes = ["a", "b"].map(|name| {
        let path = folder.path().join(name);
        mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("a named pipe");
        path
    });
    let writers = pipes.clone();
    let writer = std::thread::spawn(move || {
        // More than a pipe contains.
        fs::write(&writers[0], format!("{}{LOG}", "not a record\n".repeat(100_000))).unwrap();
        fs::write(&writers[1], LOG.replace("00ff", "00fe")).unwrap();
    });
    let (code, output) = check(folder.path(), &["a", "b"]);
    writer.join().unwrap();
    assert_eq!(code, 0, "{output}");
    assert!(output.contains("records: 4, complete\n"), "{output}");
}

#[test]
fn input_without_an_end_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (code, output) = check(folder.path(), &["/dev/zero"]);
    assert_eq!(code, 2, "{output}");
    let error = "cannot read /dev/zero: no record in 1024 MiB, up to line 0: it is not an audit log, or it has no end\n";
    assert!(output.ends_with(error), "{output}");
    let zeros = fs::File::open("/dev/zero").unwrap();
    let done = Command::new(env!("CARGO_BIN_EXE_ott-gateway"))
        .args(["audit", "check", "-"])
        .stdin(zeros)
        .output()
        .unwrap();
    assert_eq!(done.status.code(), Some(2), "{done:?}");
    assert!(String::from_utf8(done.stderr).unwrap().contains("cannot read standard input: no record in "));
    // A file with an end is read: a truncated log that was not appended to.
    let path = folder.path().join("audit.jsonl");
    let mut file = fs::File::create(&path).unwrap();
    file.set_len((1 << 30) + 1).unwrap();
    std::io::Seek::seek(&mut file, std::io::SeekFrom::End(0)).unwrap();
    file.write_all(LOG.as_bytes()).unwrap();
    let (code, output) = check(folder.path(), &["audit.jsonl"]);
    assert_eq!(code, 0, "{output}");
    assert!(output.contains("runs of NUL bytes"), "{output}");
}

#[test]
fn padding_of_compressed_files_is_skipped_and_counted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    fs::write(&path, LOG).unwrap();
    gzip(&path);
    let path = path.with_added_extension("gz");
    let padded = [fs::read(&path).unwrap(), vec![0; 10_240]].concat();
    fs::write(&path, &padded).unwrap();
    let (code, output) = check(folder.path(), &["audit.jsonl.gz"]);
    assert_eq!(code, 0, "{output}");
    assert!(output.contains("NUL bytes after compressed data: 10240, "), "{output}");
    let done = check_with(folder.path(), &["--format", "json", "-"], &padded);
    let summary = String::from_utf8(done.stdout).unwrap();
    let summary: Value = serde_json::from_str(summary.lines().last().unwrap()).unwrap();
    assert_eq!((&summary["complete"], &summary["padding_bytes"]), (&true.into(), &10_240.into()));
}

#[test]
fn files_without_a_record_are_not_complete() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("audit.jsonl"), LOG).unwrap();
    for (name, text) in [("empty.jsonl", ""), ("passwd", "root:x:0:0:root:/root:/bin/bash\n")] {
        fs::write(folder.path().join(name), text).unwrap();
        let done = check_with(folder.path(), &[name], b"");
        assert_eq!(done.status.code(), Some(3), "{done:?}");
        let error = String::from_utf8(done.stderr).unwrap();
        assert!(error.ends_with("there are no audit records in these files\n"), "{error}");
        assert_eq!(check(folder.path(), &["audit.jsonl", name]).0, 0, "others have records");
    }
}
