//! Sinks that are rotated, closed or discard records.

use std::{
    fs::{self, OpenOptions},
    io::{Read, Write},
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use rustix::fs::{OFlags, fcntl_setfl};
use serde_json::Value;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::support::{
    admin::Admin,
    calling::{admin_get, issued, load, login, metric, result_of, until, wait_for_audit_file_check},
    gateway::{Gateway, Setup},
    upstream::{LOGIN, OTT, Upstream},
};

async fn issue_one(gateway: &Gateway) -> String {
    issued(&gateway.channel().await, &[]).await
}

/// Records of calls in a text of whole lines.
fn records(text: &str) -> Vec<Value> {
    let lines = text.lines().map(|line| serde_json::from_str(line).expect("a whole record"));
    lines.filter(|line: &Value| line["event"] == "call").collect()
}

fn records_in(path: &Path) -> Vec<Value> {
    records(&fs::read_to_string(path).expect("the file is there"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closed_standard_output_stops_the_process() {
    let platform = Upstream::http().await;
    let (reader, writer) = std::io::pipe().unwrap();
    let mut gateway = Setup::for_platform(platform.address())
        .replacing("FOLDER/audit.jsonl", "stdout")
        .stdout(writer)
        .start();
    assert_eq!(issue_one(&gateway).await, "OK");
    drop(reader);
    // The probe notices it without another call.
    let status = gateway.ended().await;
    assert_eq!(status.code(), Some(1));
    gateway.stderr().wait_for("the reason", |line| {
        (line.contains("audit sink closed by its reader, stopping") && line.contains("ERROR")).then_some(())
    });
    gateway
        .stderr()
        .wait_for("what to do", |line| line.contains("restart the gateway with a reader").then_some(()));
    assert_eq!(platform.count(OTT), 1, "no token was lost");
}

/// The pipe is full at the start and read later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn standard_output_without_a_reader_at_first_costs_no_login() {
    const CALLS: usize = 10;
    let platform = Upstream::http().await;
    let (mut reader, mut writer) = std::io::pipe().unwrap();
    fcntl_setfl(&writer, OFlags::NONBLOCK).unwrap();
    for step in [4096, 1] {
        while writer.write(&vec![b'\n'; step]).is_ok() {}
    }
    fcntl_setfl(&writer, OFlags::empty()).unwrap();
    let gateway = Setup::for_platform(platform.address())
        .replacing("FOLDER/audit.jsonl", "stdout")
        .stdout(writer)
        .start();
    let mut calls = JoinSet::new();
    for _ in 0..CALLS {
        let (mut client, token) = (gateway.client().await, platform.token());
        calls.spawn(async move { result_of(&client.login_with_ott(login(&token)).await) });
    }
    while let Some(answer) = calls.join_next().await {
        assert_eq!(answer.unwrap(), "Unavailable AUDIT_UNAVAILABLE");
    }
    assert_eq!(platform.count(LOGIN), 0);
    let reading = std::thread::spawn(move || std::io::copy(&mut reader, &mut std::io::sink()));
    until("it serves", async || admin_get(gateway.admin(), "/readyz").await.0 == 200).await;
    let mut client = gateway.client().await;
    assert_eq!(result_of(&client.login_with_ott(login(&platform.token())).await), "OK");
    drop(gateway);
    reading.join().unwrap().unwrap();
}

/// Another program that shares standard output may have made it non-blocking.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_reader_of_a_non_blocking_pipe_gets_whole_lines() {
    const CALLS: usize = 60;
    let platform = Upstream::http().await;
    let (mut reader, writer) = std::io::pipe().unwrap();
    rustix::pipe::fcntl_setpipe_size(&writer, 4096).unwrap();
    fcntl_setfl(&writer, OFlags::NONBLOCK).unwrap();
    let mut gateway = Setup::for_platform(platform.address())
        .replacing("FOLDER/audit.jsonl", "stdout")
        .stdout(writer)
        .start();
    let reading = std::thread::spawn(move || {
        let (mut text, mut part) = (Vec::new(), [0; 700]);
        while let Ok(bytes @ 1..) = reader.read(&mut part) {
            text.extend_from_slice(&part[..bytes]);
            std::thread::sleep(Duration::from_millis(5));
        }
        String::from_utf8(text).unwrap()
    });
    let mut calls = JoinSet::new();
    for _ in 0..CALLS {
        let channel = gateway.channel().await;
        calls.spawn(async move { issued(&channel, &[]).await });
    }
    while let Some(answer) = calls.join_next().await {
        assert_eq!(answer.unwrap(), "OK");
    }
    gateway.signal("TERM");
    assert!(gateway.ended().await.success());
    let text = reading.join().unwrap();
    assert_eq!(records(&text).len(), CALLS);
}

#[test]
fn sink_that_discards_records_is_refused_at_start_and_by_check_config() {
    const HINT: &str = "set sink = \"off\"";
    // `timeout` stops a gateway that starts despite the sink.
    let run = |setup: &Setup, command: &str, redirection: &str| {
        setup.write_config();
        let script = format!("exec timeout 20 \"$0\" {command} --config \"$1\" {redirection}");
        let output = Command::new("sh")
            .args(["-c", &script, env!("CARGO_BIN_EXE_ott-gateway")])
            .arg(setup.folder().join("config.toml"))
            .stdin(Stdio::null())
            .output()
            .expect("a shell");
        (output.status.code(), String::from_utf8(output.stderr).expect("text"))
    };
    for sink in ["/dev/null", "FOLDER/audit.jsonl"] {
        for command in ["serve", "check-config"] {
            let setup = Setup::for_platform("127.0.0.1:9".parse().unwrap());
            let setup = setup.replacing("FOLDER/audit.jsonl", sink);
            symlink("/dev/null", setup.folder().join("audit.jsonl")).unwrap();
            let (code, text) = run(&setup, command, "");
            assert!(matches!(code, Some(1 | 2)) && text.contains(HINT), "{sink} {command}: {code:?} {text}");
        }
    }
    // Standard output of `serve`: redirected, and closed before the program starts.
    for redirection in [">/dev/null", ">&-"] {
        let setup = Setup::for_platform("127.0.0.1:9".parse().unwrap());
        let setup = setup.replacing("FOLDER/audit.jsonl", "stdout");
        let (code, text) = run(&setup, "serve", redirection);
        assert!(code == Some(1) && text.contains(HINT), "{redirection}: {code:?} {text}");
        // Not the serving process, so its own output is no evidence.
        let (code, text) = run(&setup, "check-config", redirection);
        assert_eq!(code, Some(0), "{redirection}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn previous_file_is_used_until_the_new_one_can_be_opened() {
    let platform = Upstream::http().await;
    let setup = Setup::for_platform(platform.address()).replacing("FOLDER/audit", "FOLDER/log/audit");
    let (log, moved) = (setup.folder().join("log"), setup.folder().join("moved"));
    fs::create_dir(&log).unwrap();
    let gateway = setup.start();
    let admin = Admin(gateway.admin());
    let failed = r#"ott_gateway_audit_faults_total{kind="reopen_failed"}"#;
    assert_eq!(issue_one(&gateway).await, "OK");

    // A folder has the name of the file.
    fs::rename(log.join("audit.jsonl"), log.join("audit.1")).unwrap();
    fs::create_dir(log.join("audit.jsonl")).unwrap();
    gateway.signal("HUP");
    gateway.stderr().wait_for("a warning", |line| {
        (line.contains("cannot open new audit file") && line.contains("WARN")).then_some(())
    });
    assert_eq!(issue_one(&gateway).await, "OK");
    assert!(metric(admin.0, failed).await >= 1.0);
    fs::remove_dir(log.join("audit.jsonl")).unwrap();
    until("the file is opened without a call", async || log.join("audit.jsonl").exists()).await;
    gateway.stderr().wait_for("the new file", |line| line.contains("new audit file opened").then_some(()));
    assert_eq!(issue_one(&gateway).await, "OK");
    assert_eq!((records_in(&log.join("audit.1")).len(), records_in(&log.join("audit.jsonl")).len()), (2, 1));

    // The folder is moved away with the file.
    fs::rename(&log, &moved).unwrap();
    wait_for_audit_file_check().await;
    assert_eq!(issue_one(&gateway).await, "OK");
    fs::create_dir(&log).unwrap();
    until("the file is reopened", async || log.join("audit.jsonl").exists()).await;
    assert_eq!(issue_one(&gateway).await, "OK");
    assert_eq!(
        (records_in(&moved.join("audit.jsonl")).len(), records_in(&log.join("audit.jsonl")).len()),
        (2, 1)
    );
    assert_eq!(admin_get(admin.0, "/readyz").await.0, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rotation_by_copytruncate_or_removal_cuts_no_line_and_refuses_no_call() {
    let platform = Upstream::http().await;
    let gateway = Setup::for_platform(platform.address()).start();
    let file = gateway.folder().join("audit.jsonl");
    let grown = async || {
        until("some records", async || fs::metadata(&file).is_ok_and(|file| file.len() > 2000)).await;
    };
    // `load` fails when a call fails.
    let stop = CancellationToken::new();
    let calls = tokio::spawn(load(gateway.client().await, stop.clone()));
    for _ in 0..5 {
        grown().await;
        OpenOptions::new().write(true).truncate(true).open(&file).unwrap();
        grown().await;
        fs::remove_file(&file).unwrap();
    }
    grown().await;
    stop.cancel();
    assert!(calls.await.unwrap() > 10);
    assert!(records_in(&file).iter().all(|record| record.get("late").is_none()));
    assert_eq!(issue_one(&gateway).await, "OK");
}

#[test]
fn audit_file_accessible_to_others_causes_a_warning() {
    let mode = |path: &Path, mode: u32| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    let warnings = |setup: &Setup| {
        setup.write_config();
        let output = setup.run(&["check-config"]);
        [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap()).concat()
    };
    let setup = || {
        let setup =
            Setup::for_platform("127.0.0.1:9".parse().unwrap()).replacing("FOLDER/audit", "FOLDER/log/audit");
        fs::create_dir(setup.folder().join("log")).unwrap();
        mode(&setup.folder().join("log"), 0o750);
        setup
    };
    let fine = setup();
    assert!(!warnings(&fine).contains("audit.sink"));
    fs::write(fine.folder().join("log/audit.jsonl"), "").unwrap();
    mode(&fine.folder().join("log/audit.jsonl"), 0o640);
    assert!(!warnings(&fine).contains("audit.sink"));
    for bits in [0o644, 0o666, 0o660] {
        mode(&fine.folder().join("log/audit.jsonl"), bits);
        assert!(warnings(&fine).contains("audit.sink: the file is open to other users"), "{bits:o}");
    }
    mode(&fine.folder().join("log/audit.jsonl"), 0o640);
    // Only root can give a file away.
    if std::os::unix::fs::chown(fine.folder().join("log/audit.jsonl"), Some(12_345), None).is_ok() {
        assert!(warnings(&fine).contains("audit.sink: another user owns the file"));
    }
    for bits in [0o777, 0o752, 0o770] {
        let open = setup();
        mode(&open.folder().join("log"), bits);
        assert!(warnings(&open).contains("audit.sink: other users can replace the file"), "{bits:o}");
    }
    let linked = setup();
    symlink("elsewhere.jsonl", linked.folder().join("log/audit.jsonl")).unwrap();
    assert!(warnings(&linked).contains("audit.sink: is a symbolic link"));
}
