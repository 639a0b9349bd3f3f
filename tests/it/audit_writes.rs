//! Calls while writes to the audit file are slow or fail occasionally.
#![cfg(target_env = "gnu")]

use std::{fs, time::Duration};

use ott_gateway::base::clock;
use rustix::io::Errno;
use serde_json::Value;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::audit_durability::Observed;
use crate::support::{
    admin::Admin,
    calling::{admin_get, issued, login, metric, result_of, until},
    gateway::{Gateway, PATIENCE, Setup},
    upstream::{LOGIN, Upstream},
};

const UNAVAILABLE: &str = "Unavailable AUDIT_UNAVAILABLE";
const WRITE_SLOW: &str = r#"ott_gateway_audit_faults_total{kind="write_slow"}"#;
const CALLERS: usize = 8;
/// Duration of a write beyond the limit, in milliseconds.
const SLOW: u32 = 3000;
/// Time after which a successful write is no longer evidence for the sink.
const PROOF_LIFETIME: Duration = Duration::from_secs(10);

/// What callers and the orchestrator observed.
#[derive(Debug, Default)]
struct Seen {
    /// Logins that succeeded.
    succeeded: usize,
    /// Logins that were refused before anything was sent.
    refused: usize,
    /// Other results.
    others: Vec<String>,
    /// Logins that spent a token without a session for the caller.
    wasted: usize,
    /// Changes of `/readyz`.
    health_changes: usize,
}

/// Makes 8 callers log in repeatedly until `work` is done.
async fn observe(gateway: &Gateway, platform: &Upstream, work: impl Future<Output = ()>) -> Seen {
    let stop = CancellationToken::new();
    let sent_before = platform.count(LOGIN);
    let mut calls = JoinSet::new();
    for _ in 0..CALLERS {
        let (mut client, stop) = (gateway.client().await, stop.clone());
        // Valid tokens.
        let tokens: Vec<String> = (0..2000).map(|_| platform.token()).collect();
        calls.spawn(async move {
            let mut answers = Vec::new();
            for token in tokens {
                if stop.is_cancelled() {
                    break;
                }
                let answer = result_of(&client.login_with_ott(login(&token)).await);
                if answer != "OK" {
                    // Sooner than RetryInfo asks for.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                answers.push(answer);
            }
            answers
        });
    }
    let health = tokio::spawn({
        let (stop, admin) = (stop.clone(), gateway.admin());
        async move {
            let (mut changes, mut last) = (0, 200);
            while !stop.is_cancelled() {
                let (status, _) = admin_get(admin, "/readyz").await;
                changes += usize::from(status != last);
                last = status;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            changes
        }
    });
    work.await;
    stop.cancel();
    let mut seen = Seen { health_changes: health.await.unwrap(), ..Seen::default() };
    while let Some(answers) = calls.join_next().await {
        for answer in answers.unwrap() {
            match answer.as_str() {
                "OK" => seen.succeeded += 1,
                UNAVAILABLE => seen.refused += 1,
                _ => seen.others.push(answer),
            }
        }
    }
    seen.wasted = platform.count(LOGIN) - sent_before - seen.succeeded;
    seen
}

/// Like `observe`, but repeated until no write was slow: a busy machine can delay a write beyond
/// the limit, and calls are then correctly refused.
async fn observe_in_time(gateway: &Gateway, platform: &Upstream, work: impl AsyncFn()) -> Seen {
    let until = clock::now() + PATIENCE;
    loop {
        let before = metric(gateway.admin(), WRITE_SLOW).await;
        let seen = observe(gateway, platform, work()).await;
        if metric(gateway.admin(), WRITE_SLOW).await <= before {
            return seen;
        }
        assert!(clock::now() < until, "a write is always slow: {seen:?}");
        until_available(gateway).await;
    }
}

async fn until_available(gateway: &Gateway) {
    until("ready again", async || admin_get(gateway.admin(), "/readyz").await.0 == 200).await;
    Admin(gateway.admin()).wait_for("ott_gateway_audit_sink_up", 1.0).await;
}

/// A serving gateway with a disk that can become slow.
async fn serving(platform: &Upstream) -> (Observed, Gateway) {
    let (disk, setup) = Observed::setup(Setup::for_platform(platform.address()));
    let gateway = setup.start();
    serves(&gateway).await;
    (disk, gateway)
}

async fn serves(gateway: &Gateway) {
    until("it serves", async || admin_get(gateway.admin(), "/readyz").await.0 == 200).await;
}

/// Makes all callers log in concurrently and returns the results.
async fn log_in_at_once(gateway: &Gateway, platform: &Upstream) -> Vec<String> {
    let mut calls = JoinSet::new();
    for _ in 0..CALLERS {
        let (mut client, token) = (gateway.client().await, platform.token());
        calls.spawn(async move { result_of(&client.login_with_ott(login(&token)).await) });
    }
    calls.join_all().await
}

/// Checks that a slow sink refuses logins before they are sent, and that logins succeed once writes
/// are fast again.
async fn refuses_unsent_and_recovers(disk: &Observed, gateway: &Gateway, platform: &Upstream) {
    let sent = platform.count(LOGIN);
    assert_eq!(log_in_at_once(gateway, platform).await, [UNAVAILABLE; CALLERS]);
    assert_eq!(platform.count(LOGIN), sent, "no token is spent");
    disk.set_delay(0);
    let mut client = gateway.client().await;
    until("it recovers", async || result_of(&client.login_with_ott(login(&platform.token())).await) == "OK")
        .await;
    assert_eq!(log_in_at_once(gateway, platform).await, ["OK"; CALLERS]);
    assert_eq!(platform.count(LOGIN), sent + 1 + CALLERS);
    let withheld = r#"ott_gateway_audit_faults_total{kind="answer_withheld"}"#;
    assert_eq!(metric(gateway.admin(), withheld).await.to_string(), "0");
}

/// Causes of the probes so far.
fn probes(gateway: &Gateway) -> Vec<String> {
    let cause = |line: &Value| line["cause"].as_str().expect("a cause").to_owned();
    gateway.audit_lines("sink_probe").iter().map(cause).collect()
}

/// Checks that all records are whole lines and each sent login has one.
fn records(gateway: &Gateway, logins: usize) {
    let records = gateway.audit();
    let ids: std::collections::BTreeSet<&str> =
        records.iter().filter(|it| it["attempts"] != 0).filter_map(|it| it["request_id"].as_str()).collect();
    assert_eq!(ids.len(), logins);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_below_one_second_refuse_no_call() {
    let platform = Upstream::http().await;
    let (disk, gateway) = serving(&platform).await;
    for delay in [550, 900] {
        disk.set_delay(delay);
        let work = async || tokio::time::sleep(Duration::from_secs(6)).await;
        let seen = observe_in_time(&gateway, &platform, work).await;
        assert!(seen.succeeded >= 2 * CALLERS, "{delay}: {seen:?}");
        assert_eq!((seen.refused, seen.wasted, seen.health_changes), (0, 0, 0), "{delay}: {seen:?}");
        assert!(seen.others.is_empty(), "{delay}: {seen:?}");
    }
    disk.set_delay(0);
    let sent = platform.count(LOGIN);
    records(&gateway, sent);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_writes_refuse_calls_steadily_and_waste_no_login() {
    let platform = Upstream::http().await;
    let (disk, gateway) = serving(&platform).await;
    let admin = Admin(gateway.admin());
    disk.set_delay(1500);
    let outage = async {
        until("not ready", async || admin_get(gateway.admin(), "/readyz").await.0 == 503).await;
        tokio::time::sleep(Duration::from_secs(6)).await;
    };
    let seen = observe(&gateway, &platform, outage).await;
    // The calls sent before the first slow write waited for their records.
    assert!(seen.succeeded <= CALLERS && seen.refused > CALLERS, "{seen:?}");
    assert_eq!((seen.wasted, seen.health_changes), (0, 1), "{seen:?}");
    assert!(seen.others.is_empty(), "{seen:?}");
    assert!(metric(admin.0, WRITE_SLOW).await >= 2.0);
    admin.wait_for("ott_gateway_audit_sink_up", 0.0).await;

    // Without calls, a probe notices that writes are fast again.
    disk.set_delay(0);
    until("ready again", async || admin_get(gateway.admin(), "/readyz").await.0 == 200).await;
    assert_eq!(issued(&gateway.channel().await, &[]).await, "OK");
    admin.wait_for("ott_gateway_audit_sink_up", 1.0).await;
    gateway.stderr().wait_for("the recovery", |line| {
        (line.contains("audit sink available again") && line.contains("WARN")).then_some(())
    });
    records(&gateway, seen.succeeded + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stalled_write_wastes_no_later_login() {
    let platform = Upstream::http().await;
    let (disk, gateway) = serving(&platform).await;
    disk.set_delay(15_000);
    let channel = gateway.channel().await;
    let stalled = tokio::spawn(async move { issued(&channel, &[]).await });
    until("the write is in doubt", async || {
        metric(gateway.admin(), "ott_gateway_audit_records_pending{class=\"allowed\"}").await > 0.0
    })
    .await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let mut client = gateway.client().await;
    assert_eq!(result_of(&client.login_with_ott(login(&platform.token())).await), UNAVAILABLE);
    let pending = metric(gateway.admin(), "ott_gateway_audit_records_pending{class=\"allowed\"}").await;
    assert!(pending > 0.0, "the call was refused before the write ended");
    assert_eq!(platform.count(LOGIN), 0, "nothing was sent");
    disk.set_delay(0);
    assert_eq!(stalled.await.unwrap(), UNAVAILABLE, "the one call that was sent");
    let withheld = r#"ott_gateway_audit_faults_total{kind="answer_withheld"}"#;
    assert_eq!(metric(gateway.admin(), withheld).await.to_string(), "1");
    until("it recovers", async || result_of(&client.login_with_ott(login(&platform.token())).await) == "OK")
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sink_that_is_slow_at_start_costs_no_login() {
    let platform = Upstream::http().await;
    let (disk, setup) = Observed::setup(Setup::for_platform(platform.address()));
    disk.set_delay(SLOW);
    let gateway = setup.start();
    let (status, why) = admin_get(gateway.admin(), "/readyz").await;
    assert_eq!(status, 503);
    let no_result = "the first write to the audit log has not ended";
    assert!([no_result, "audit records cannot be written"].iter().any(|it| why.contains(it)), "{why}");
    refuses_unsent_and_recovers(&disk, &gateway, &platform).await;
    gateway.stderr().wait_for("the reason", |line| {
        (line.contains("audit sink unavailable, refusing calls") && line.contains("takes too long"))
            .then_some(())
    });
    assert_eq!(gateway.audit_lines("started").len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_wait_for_the_first_write_and_succeed_if_it_is_in_time() {
    let platform = Upstream::http().await;
    let (disk, setup) = Observed::setup(Setup::for_platform(platform.address()));
    disk.set_delay(500);
    let gateway = setup.start();
    assert_eq!(log_in_at_once(&gateway, &platform).await, ["OK"; CALLERS]);
    serves(&gateway).await;
    assert_eq!(gateway.audit_lines("started").len(), 1);
    assert_eq!(probes(&gateway), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_file_that_is_slow_costs_no_login() {
    let platform = Upstream::http().await;
    let (disk, gateway) = serving(&platform).await;
    assert_eq!(log_in_at_once(&gateway, &platform).await, ["OK"; CALLERS]);
    let file = gateway.folder().join("audit.jsonl");
    fs::rename(&file, gateway.folder().join("audit.1")).unwrap();
    disk.set_delay(SLOW);
    gateway.signal("HUP");
    until("the new file is opened", async || file.exists()).await;
    refuses_unsent_and_recovers(&disk, &gateway, &platform).await;
    assert_eq!(probes(&gateway)[0], "new_file");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sink_that_becomes_slow_in_a_pause_costs_no_login() {
    let platform = Upstream::http().await;
    let (disk, gateway) = serving(&platform).await;
    assert_eq!(log_in_at_once(&gateway, &platform).await, ["OK"; CALLERS]);
    tokio::time::sleep(PROOF_LIFETIME).await;
    assert_eq!(log_in_at_once(&gateway, &platform).await, ["OK"; CALLERS]);
    assert_eq!(probes(&gateway), ["pause"], "one probe for all calls");
    tokio::time::sleep(PROOF_LIFETIME).await;
    disk.set_delay(SLOW);
    refuses_unsent_and_recovers(&disk, &gateway, &platform).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_failed_write_in_ten_refuses_no_call_and_cuts_no_line() {
    let platform = Upstream::http().await;
    let (disk, gateway) = serving(&platform).await;
    for error in [Errno::IO, Errno::NOSPC, Errno::INTR, Errno::AGAIN] {
        disk.set_write_error(error);
        let work = async || platform.wait_for(LOGIN, platform.count(LOGIN) + 200).await;
        let seen = observe_in_time(&gateway, &platform, work).await;
        assert!(seen.succeeded > 100, "{error}: {seen:?}");
        assert_eq!((seen.refused, seen.wasted, seen.health_changes), (0, 0, 0), "{error}: {seen:?}");
        assert!(seen.others.is_empty(), "{error}: {seen:?}");
    }
    records(&gateway, platform.count(LOGIN));
    if metric(gateway.admin(), WRITE_SLOW).await < 0.5 {
        let records: Vec<Value> = gateway.audit();
        assert_eq!(records.len(), platform.count(LOGIN), "one whole record per login");
        assert!(records.iter().all(|record| record.get("late").is_none()));
    }
    assert!(metric(gateway.admin(), r#"ott_gateway_audit_faults_total{kind="write_repeated"}"#).await > 0.0);
    let failed = r#"ott_gateway_audit_faults_total{kind="write_failed"}"#;
    assert_eq!(metric(gateway.admin(), failed).await.to_string(), "0");
}
