//! Calls while writes to the audit file are slow, or fail now and then.
#![cfg(target_env = "gnu")]

use std::time::Duration;

use ott_gateway::clock;
use rustix::io::Errno;
use serde_json::Value;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::audit_durability::Observed;
use crate::support::{
    admin::Admin,
    calling::{asked, issued, login, metric, told, until},
    gateway::{Gateway, PATIENCE, Setup},
    upstream::{LOGIN, Upstream},
};

const UNAVAILABLE: &str = "Unavailable AUDIT_UNAVAILABLE";
const WRITE_SLOW: &str = r#"ott_gateway_audit_faults_total{kind="write_slow"}"#;
const CALLERS: usize = 8;

/// What callers and the orchestrator saw of a gateway.
#[derive(Debug, Default)]
struct Seen {
    /// Logins that succeeded.
    good: usize,
    /// Logins that were refused before anything was sent.
    refused: usize,
    /// Answers that are neither.
    others: Vec<String>,
    /// Logins that the platform spent although their callers got no session.
    wasted: usize,
    /// Changes of `/readyz`.
    health_changes: usize,
}

impl Seen {
    fn summary(&self) -> String {
        let Self { good, refused, others, wasted, health_changes } = self;
        let others = others.len();
        format!(
            "{good} good, {refused} refused, {others} others, {wasted} wasted, {health_changes} health changes"
        )
    }
}

/// Lets 8 callers log in one after another until the work is done.
async fn observe(gateway: &Gateway, platform: &Upstream, work: impl Future<Output = ()>) -> Seen {
    let stop = CancellationToken::new();
    let sent_before = platform.count(LOGIN);
    let mut calls = JoinSet::new();
    for _ in 0..CALLERS {
        let (mut client, stop) = (gateway.client().await, stop.clone());
        // The platform knows these tokens.
        let tokens: Vec<String> = (0..2000).map(|_| platform.token()).collect();
        calls.spawn(async move {
            let mut answers = Vec::new();
            for token in tokens {
                if stop.is_cancelled() {
                    break;
                }
                let answer = told(&client.login_with_ott(login(&token)).await);
                if answer != "OK" {
                    // As RetryInfo asks for, but more eagerly.
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
                let (status, _) = asked(admin, "/readyz").await;
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
                "OK" => seen.good += 1,
                UNAVAILABLE => seen.refused += 1,
                _ => seen.others.push(answer),
            }
        }
    }
    seen.wasted = platform.count(LOGIN) - sent_before - seen.good;
    seen
}

/// The same, repeated until the gateway has measured no slow write: a busy machine can delay a
/// write beyond the limit, and calls are rightly refused then.
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
    until("ready again", async || asked(gateway.admin(), "/readyz").await.0 == 200).await;
    Admin(gateway.admin()).comes_to("ott_gateway_audit_sink_up", 1.0).await;
}

fn slow(platform: &Upstream) -> (Observed, Gateway) {
    let (disk, setup) = Observed::setup(Setup::for_platform(platform.address()));
    (disk, setup.start())
}

/// All records of the gateway are whole lines, and each login that was sent has one.
fn records(gateway: &Gateway, logins: usize) {
    let records = gateway.audit();
    let ids: std::collections::BTreeSet<&str> =
        records.iter().filter(|it| it["attempts"] != 0).filter_map(|it| it["request_id"].as_str()).collect();
    assert_eq!(ids.len(), logins);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_of_less_than_a_second_serve_everybody() {
    let platform = Upstream::http().await;
    let (disk, gateway) = slow(&platform);
    for delay in [550, 900] {
        disk.set_delay(delay);
        let work = async || tokio::time::sleep(Duration::from_secs(6)).await;
        let seen = observe_in_time(&gateway, &platform, work).await;
        assert!(seen.good >= 2 * CALLERS, "{delay}: {seen:?}");
        assert_eq!((seen.refused, seen.wasted, seen.health_changes), (0, 0, 0), "{delay}: {seen:?}");
        assert!(seen.others.is_empty(), "{delay}: {seen:?}");
    }
    disk.set_delay(0);
    let sent = platform.count(LOGIN);
    records(&gateway, sent);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slower_writes_refuse_steadily_and_waste_no_login() {
    let platform = Upstream::http().await;
    let (disk, gateway) = slow(&platform);
    let admin = Admin(gateway.admin());
    disk.set_delay(1500);
    let outage = async {
        until("not ready", async || asked(gateway.admin(), "/readyz").await.0 == 503).await;
        tokio::time::sleep(Duration::from_secs(6)).await;
    };
    let seen = observe(&gateway, &platform, outage).await;
    // Those that were sent before it was known; they waited for their records.
    assert!(seen.good <= CALLERS && seen.refused > CALLERS, "{seen:?}");
    assert_eq!((seen.wasted, seen.health_changes), (0, 1), "{seen:?}");
    assert!(seen.others.is_empty(), "{seen:?}");
    assert!(metric(admin.0, WRITE_SLOW).await >= 2.0);
    admin.comes_to("ott_gateway_audit_sink_up", 0.0).await;

    // Nobody calls, and a probe finds out that writes are fast again.
    disk.set_delay(0);
    until("ready again", async || asked(gateway.admin(), "/readyz").await.0 == 200).await;
    assert_eq!(issued(&gateway.channel().await, &[]).await, "OK");
    admin.comes_to("ott_gateway_audit_sink_up", 1.0).await;
    gateway.stderr().wait_for("its recovery", |line| {
        (line.contains("audit sink available again") && line.contains("WARN")).then_some(())
    });
    records(&gateway, seen.good + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn write_that_stalls_wastes_no_login_that_begins_after_it() {
    let platform = Upstream::http().await;
    let (disk, gateway) = slow(&platform);
    disk.set_delay(15_000);
    let channel = gateway.channel().await;
    let stalled = tokio::spawn(async move { issued(&channel, &[]).await });
    until("the write is in doubt", async || {
        metric(gateway.admin(), "ott_gateway_audit_records_pending{class=\"allowed\"}").await > 0.0
    })
    .await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let mut client = gateway.client().await;
    assert_eq!(told(&client.login_with_ott(login(&platform.token())).await), UNAVAILABLE);
    let pending = metric(gateway.admin(), "ott_gateway_audit_records_pending{class=\"allowed\"}").await;
    assert!(pending > 0.0, "decided by the time that a write may take, not by its end");
    assert_eq!(platform.count(LOGIN), 0, "nothing was sent");
    disk.set_delay(0);
    assert_eq!(stalled.await.unwrap(), UNAVAILABLE, "the one call that was at the platform");
    let withheld = r#"ott_gateway_audit_faults_total{kind="answer_withheld"}"#;
    assert_eq!(metric(gateway.admin(), withheld).await.to_string(), "1");
    until("it recovers", async || told(&client.login_with_ott(login(&platform.token())).await) == "OK").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_failed_write_in_ten_refuses_nobody_and_tears_no_line() {
    let platform = Upstream::http().await;
    let (disk, gateway) = slow(&platform);
    for error in [Errno::IO, Errno::NOSPC, Errno::INTR, Errno::AGAIN] {
        disk.set_write_error(error);
        let work = async || platform.asked(LOGIN, platform.count(LOGIN) + 200).await;
        let seen = observe_in_time(&gateway, &platform, work).await;
        assert!(seen.good > 100, "{error}: {seen:?}");
        assert_eq!((seen.refused, seen.wasted, seen.health_changes), (0, 0, 0), "{error}: {seen:?}");
        assert!(seen.others.is_empty(), "{error}: {seen:?}");
    }
    records(&gateway, platform.count(LOGIN));
    if metric(gateway.admin(), WRITE_SLOW).await < 0.5 {
        let records: Vec<Value> = gateway.audit();
        assert_eq!(records.len(), platform.count(LOGIN), "each whole, and once");
        assert!(records.iter().all(|record| record.get("late").is_none()));
    }
    assert!(metric(gateway.admin(), r#"ott_gateway_audit_faults_total{kind="write_repeated"}"#).await > 0.0);
    let failed = r#"ott_gateway_audit_faults_total{kind="write_failed"}"#;
    assert_eq!(metric(gateway.admin(), failed).await.to_string(), "0");
}

/// Prints what callers see at each latency, for comparisons.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
#[expect(clippy::print_stdout, reason = "the figures are its result")]
async fn figures() {
    for delay in [450, 550, 900, 1500] {
        let platform = Upstream::http().await;
        let (disk, gateway) = slow(&platform);
        disk.set_delay(delay);
        let seen = observe(&gateway, &platform, tokio::time::sleep(Duration::from_secs(10))).await;
        println!("writes of {delay} ms: {}", seen.summary());
    }
    let platform = Upstream::http().await;
    let (disk, gateway) = slow(&platform);
    disk.set_write_error(Errno::IO);
    let seen = observe(&gateway, &platform, tokio::time::sleep(Duration::from_secs(6))).await;
    println!("one write in ten fails: {}", seen.summary());
}
