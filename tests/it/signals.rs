//! Signals, including masks and dispositions inherited from a parent process.

use std::fs;

use tonic::Code;

use crate::support::{
    call::{self, Client, refused},
    calling::{issue, result_of},
    gateway::{Gateway, Setup},
    upstream::{Behaviour, LOGIN, TOKEN, Upstream},
};

async fn start(change: impl FnOnce(Setup) -> Setup) -> (Upstream, Gateway, Client) {
    let upstream = Upstream::http().await;
    let setup = Setup::for_platform(upstream.address());
    let gateway = change(setup.replacing("\"100ms\"", "\"0s\"")).start();
    upstream.wait_for(TOKEN, 1).await;
    let client = gateway.client().await;
    (upstream, gateway, client)
}

fn logged(gateway: &Gateway, words: &str) {
    gateway.stderr().wait_for(words, |line| line.contains(words).then_some(()));
}

async fn drains(gateway: &mut Gateway, signal: &str) {
    gateway.signal(signal);
    assert_eq!(gateway.ended().await.code(), Some(0), "{signal}\n{}", gateway.stderr().text());
}

#[tokio::test]
async fn unused_signals_are_ignored() {
    let (_upstream, mut gateway, mut client) = start(|setup| setup).await;
    for signal in [
        "USR2", "ALRM", "VTALRM", "PROF", "XFSZ", "XCPU", "TTIN", "TTOU", "PIPE", "IO", "PWR", "STKFLT",
        "WINCH", "URG", "CHLD", "CONT", "34", "40", "64",
    ] {
        gateway.signal(signal);
        call::issue_and_log_in(&mut client).await;
        assert!(gateway.is_running(), "{signal}");
    }
    logged(&gateway, "signal ignored");
    drains(&mut gateway, "TERM").await;
}

#[tokio::test]
async fn stop_signals_drain_even_if_blocked_or_ignored_by_the_parent() {
    let signals = "TERM,INT,QUIT,HUP,USR1,USR2";
    for how in ["--block-signal", "--ignore-signal"] {
        for stop in ["TERM", "INT", "QUIT"] {
            let launcher = format!("{how}={signals}");
            let (_upstream, mut gateway, mut client) =
                start(|setup| setup.launched_by(&["env", &launcher])).await;
            call::issue_and_log_in(&mut client).await;
            drains(&mut gateway, stop).await;
        }
    }
}

#[tokio::test]
async fn reload_signals_work_even_if_blocked_or_ignored_by_the_parent() {
    for launcher in ["--default-signal", "--block-signal=HUP,USR1", "--ignore-signal=HUP,USR1"] {
        let (_upstream, mut gateway, mut client) = start(|setup| setup.launched_by(&["env", launcher])).await;
        for (before, signal) in ["HUP", "USR1"].into_iter().enumerate() {
            gateway.signal(signal);
            let mut reloads = 0;
            gateway.stderr().wait_for(signal, |line| {
                reloads += usize::from(line.contains("access rules reloaded"));
                (reloads > before).then_some(())
            });
            call::issue_and_log_in(&mut client).await;
        }
        drains(&mut gateway, "TERM").await;
    }
}

#[tokio::test]
async fn audit_log_beyond_the_file_size_limit_refuses_calls_and_recovers_with_a_new_file() {
    let limited = ["sh", "-c", "ulimit -f 8; exec \"$0\" \"$@\""];
    let (_upstream, mut gateway, mut client) = start(|setup| setup.launched_by(&limited)).await;
    let mut answers = Vec::new();
    while answers.last().is_none_or(|answer| answer == "OK") {
        assert!(answers.len() < 100, "4 KiB hold fewer records");
        answers.push(result_of(&client.issue_ott(issue("someone@example.com")).await));
    }
    assert_eq!(answers.last().map(String::as_str), Some("Unavailable AUDIT_UNAVAILABLE"));
    assert!(answers.len() > 2, "some records fit: {answers:?}");
    logged(&gateway, "File too large");
    let log = gateway.folder().join("audit.jsonl");
    fs::rename(&log, gateway.folder().join("full")).expect("a log file");
    gateway.signal("USR1");
    logged(&gateway, "audit sink available again");
    call::issue_and_log_in(&mut client).await;
    drains(&mut gateway, "TERM").await;
}

#[tokio::test]
async fn second_signal_still_writes_the_records_of_calls_in_flight() {
    const LOGINS: usize = 20;
    let (upstream, mut gateway, client) = start(|setup| setup).await;
    upstream.always(LOGIN, Behaviour::Stall);
    let mut calls = Vec::new();
    for number in 0..LOGINS {
        let mut client = client.clone();
        let login = call::login(&format!("OTT-{number}"));
        calls.push(tokio::spawn(async move { client.login_with_ott(login).await }));
    }
    upstream.wait_for(LOGIN, LOGINS).await;
    gateway.signal("TERM");
    logged(&gateway, "sending GOAWAY to all connections");
    gateway.signal("INT");
    assert_eq!(gateway.ended().await.code(), Some(1), "{}", gateway.stderr().text());
    let records = gateway.audit();
    assert_eq!(records.len(), LOGINS, "{}", gateway.stderr().text());
    for record in &records {
        assert_eq!(
            (&record["reason"], &record["outcome"]),
            (&"LOGIN_OUTCOME_UNKNOWN".into(), &"unknown".into())
        );
    }
    for call in calls {
        let status = call.await.expect("no panic").expect_err("it stalls");
        // Either the gateway's response or a closed connection.
        assert!(status.details().is_empty() || refused(&status).code == Code::Aborted, "{status:?}");
    }
}
