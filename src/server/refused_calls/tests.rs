use std::{collections::BTreeMap, num::NonZeroU32};

use super::*;
use crate::domain::{
    call::Deadline,
    reason::{FailureCode, Reason},
};

const UNAUTHENTICATED: Ending = Ending::Failed(FailureCode::Unauthenticated, Reason::CallerUnauthenticated);

fn refused_calls() -> RefusedCalls {
    let settings =
        BucketSettings { interval: Duration::from_millis(10), burst: NonZeroU32::new(5).expect("five") };
    let (audit, metrics, clock) = (Audit::off(), Metrics::new(), WallClock::following_monotonic());
    RefusedCalls::new(settings, RefusedRequests::default(), audit, metrics, clock)
}

fn call(address: &str, caller: Option<&str>) -> Call {
    let call = Call::new(clock::now(), Deadline::after(Duration::from_secs(1)));
    call.set_peer(format!("{address}:40000").parse().expect("an address"));
    match caller {
        Some("anonymous") => call.set_caller("anonymous".into(), Proof::None.label()),
        Some(name) => call.set_caller(name.into(), Proof::Token.label()),
        None => {}
    }
    call
}

/// Refuses `count` calls and returns how many of them had their own record.
fn refuse(refused: &RefusedCalls, count: usize, call: impl Fn(usize) -> Call) -> usize {
    let mut own = 0;
    for number in 0..count {
        let call = call(number);
        if refused.has_own_record(&call) {
            own += 1;
        } else {
            refused.summarize(&call, UNAUTHENTICATED);
        }
    }
    own
}

/// Numbers of summarized calls, grouped by `counted_by`.
fn summarized(refused: &RefusedCalls) -> BTreeMap<&'static str, Vec<u64>> {
    let mut counts = BTreeMap::<_, Vec<u64>>::new();
    for summary in refused.0.peers.take().into_iter().chain(refused.0.callers.take()) {
        counts.entry(summary.counted_by().as_str()).or_default().push(summary.count());
    }
    counts
}

#[tokio::test(start_paused = true)]
async fn peer_has_a_burst_and_a_rate_and_every_call_is_counted() {
    let refused = refused_calls();
    assert_eq!(refuse(&refused, 100, |_| call("192.0.2.1", None)), 5);
    assert_eq!(refuse(&refused, 2, |_| call("192.0.2.2", None)), 2, "another peer");
    tokio::time::advance(Duration::from_millis(20)).await;
    assert_eq!(refuse(&refused, 100, |_| call("192.0.2.1", Some("anonymous"))), 2);
    assert_eq!(summarized(&refused), BTreeMap::from([("peer", vec![95 + 98])]));
    assert_eq!(summarized(&refused), BTreeMap::new(), "each call is counted once");
    assert!(
        refused
            .0
            .metrics
            .render()
            .contains(r#"ott_gateway_refused_calls_summarized_total{counted_by="peer"} 193"#)
    );
}

#[tokio::test(start_paused = true)]
async fn ipv6_peers_are_counted_by_network() {
    let refused = refused_calls();
    assert_eq!(refuse(&refused, 50, |number| call(&format!("[2001:db8::{number:x}]"), None)), 5);
}

#[tokio::test(start_paused = true)]
async fn identified_callers_are_counted_by_name_from_any_address() {
    let refused = refused_calls();
    let proxy = "192.0.2.1";
    assert_eq!(refuse(&refused, 10, |_| call(proxy, None)), 5, "unidentified callers behind the proxy");
    assert_eq!(refuse(&refused, 10, |_| call(proxy, Some("token:a"))), 5);
    assert_eq!(refuse(&refused, 10, |number| call(&format!("192.0.2.{number}"), Some("token:a"))), 0);
    assert_eq!(refuse(&refused, 3, |_| call(proxy, Some("token:b"))), 3);
    assert_eq!(summarized(&refused), BTreeMap::from([("caller", vec![15]), ("peer", vec![5])]));
}

#[tokio::test(start_paused = true)]
async fn all_peers_together_are_limited_and_do_not_affect_callers() {
    let refused = refused_calls();
    let address = |number: usize| format!("10.{}.{}.{}", number >> 16, (number >> 8) & 255, number & 255);
    let peers = 100_000;
    let own = refuse(&refused, peers, |number| call(&address(number), None));
    assert_eq!(own, 50, "ten times the burst of one");
    let counts = summarized(&refused);
    assert_eq!(counts.values().flatten().sum::<u64>(), peers as u64 - 50);
    assert!(counts["peer"].len() <= 1024, "{}", counts["peer"].len());
    assert_eq!(counts["others"].len(), 1);
    assert_eq!(refuse(&refused, 5, |_| call("10.0.0.1", Some("token:a"))), 5);

    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(refuse(&refused, 5, |_| call("192.0.2.1", None)), 5, "entries make room again");
}

#[tokio::test(start_paused = true)]
async fn no_call_is_lost_between_threads() {
    let refused = refused_calls();
    let own: usize = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let refused = refused.clone();
                let call = call("192.0.2.1", None);
                scope.spawn(move || refuse(&refused, 10_000, |_| call.clone()))
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).sum()
    });
    let counted: u64 = summarized(&refused).values().flatten().sum();
    assert_eq!(own as u64 + counted, 40_000);
}

#[tokio::test(start_paused = true)]
async fn counts_are_written_within_a_second_and_idle_tables_cause_no_wake_ups() {
    let refused = refused_calls();
    let mut polls = 0;
    let mut flushing = std::pin::pin!(refused.clone().flush_regularly());
    let mut counted = std::future::poll_fn(|cx| {
        polls += 1;
        flushing.as_mut().poll(cx)
    });
    for _ in 0..3 {
        assert!(tokio::time::timeout(Duration::from_hours(1), &mut counted).await.is_err());
        refuse(&refused, 100, |_| call("192.0.2.1", None));
        assert!(tokio::time::timeout(Duration::from_secs(1), &mut counted).await.is_err());
        assert!(tokio::time::timeout(Duration::from_millis(1), &mut counted).await.is_err());
        assert_eq!(summarized(&refused), BTreeMap::new(), "the counts are written");
    }
    // One poll at the end of each of the nine waits, and one per notification and per elapsed
    // second.
    assert!(polls <= 30, "{polls} polls in three hours");
}
