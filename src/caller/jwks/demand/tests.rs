use futures_util::{FutureExt, future::join_all};

use super::*;
use crate::observe::telemetry::metrics::Metrics;

const WAITED: Result<Freshness, KeyFetchError> = Ok(Freshness::Fetched);
const CROWDED: Result<Freshness, KeyFetchError> = Err(KeyFetchError::Crowded);

struct Fixture {
    demand: Demand,
    waiters: KeyWaiters,
    metrics: Metrics,
}

impl Fixture {
    fn new() -> Self {
        let metrics = Metrics::new();
        Self { demand: Demand::new(), waiters: KeyWaiters::new(metrics.jwt_key_waits()), metrics }
    }

    async fn refreshed(&self, peer: Option<&str>) -> Result<Freshness, KeyFetchError> {
        let network = peer.map(|peer| PeerNetwork::of(peer.parse().expect("an address")));
        self.demand.refreshed(&self.waiters, network).await
    }

    /// Results of calls from `peers`, whose fetch ends once all of them wait or are refused.
    async fn flood(
        &self,
        peers: impl Iterator<Item = Option<&str>>,
    ) -> Vec<Result<Freshness, KeyFetchError>> {
        let calls = join_all(peers.map(|peer| self.refreshed(peer)));
        let fetch = async {
            self.demand.wanted().await;
            self.demand.begin();
            self.demand.end(false);
        };
        futures_util::future::join(calls, fetch).await.0
    }

    fn waits(&self, result: &str) -> usize {
        let series = format!("ott_gateway_jwt_key_waits_total{{result=\"{result}\"}} ");
        let text = self.metrics.render();
        let value = text.lines().find_map(|line| line.strip_prefix(&*series));
        value.expect("a series").parse().expect("a number")
    }
}

fn count(results: &[Result<Freshness, KeyFetchError>], expected: Result<Freshness, KeyFetchError>) -> usize {
    results.iter().filter(|result| **result == expected).count()
}

#[tokio::test(start_paused = true)]
async fn call_waits_at_most_a_second_for_a_fetch() {
    let fixture = Fixture::new();
    fixture.demand.begin();
    let started = clock::now();
    assert_eq!(fixture.refreshed(None).await, Err(KeyFetchError::Slow));
    assert_eq!(started.elapsed(), Duration::from_secs(1));
    assert_eq!((fixture.waits("timed_out"), fixture.waiters.count()), (1, 0));
    fixture.demand.end(false);
    assert_eq!(fixture.refreshed(None).await, Ok(Freshness::Recent), "the keys have arrived in the meantime");
}

#[tokio::test(start_paused = true)]
async fn no_call_waits_while_the_last_fetch_failed() {
    let fixture = Fixture::new();
    fixture.demand.begin();
    let (waited, ()) = futures_util::future::join(fixture.refreshed(None), async {
        fixture.demand.end(true);
    })
    .await;
    assert_eq!(waited, Err(KeyFetchError::Failed));
    let started = clock::now();
    for _ in 0..1000 {
        assert_eq!(fixture.refreshed(None).await, Err(KeyFetchError::Failed));
    }
    assert!(fixture.demand.wanted().now_or_never().is_none(), "no fetch is due");
    // A retry by the task, or a fetch that is due, is no reason to wait either.
    fixture.demand.begin();
    assert_eq!(fixture.refreshed(None).await, Err(KeyFetchError::Failed));
    fixture.demand.end(true);
    assert_eq!(started.elapsed(), Duration::ZERO);
    assert_eq!((fixture.waits("failed"), fixture.waits("issuer_failing")), (1, 1001));

    tokio::time::advance(UNKNOWN_KEY_FLOOR).await;
    assert_eq!(fixture.refreshed(None).await, Err(KeyFetchError::Failed));
    assert!(fixture.demand.wanted().now_or_never().is_some(), "a fetch is due");
    fixture.demand.begin();
    fixture.demand.end(false);
    assert_eq!(fixture.refreshed(None).await, Ok(Freshness::Recent));
    tokio::time::advance(UNKNOWN_KEY_FLOOR).await;
    assert_eq!(fixture.flood([None].into_iter()).await, [WAITED], "calls wait again");
}

#[tokio::test(start_paused = true)]
async fn waiting_calls_are_limited_in_total_and_per_network() {
    let fixture = Fixture::new();
    let one_network = ["2001:db8::1", "2001:db8::2"].into_iter().cycle().take(100).map(Some);
    let results = fixture.flood(one_network).await;
    assert_eq!((count(&results, WAITED), count(&results, CROWDED)), (8, 92));
    assert_eq!(fixture.waits("peer_limit"), 92);

    tokio::time::advance(UNKNOWN_KEY_FLOOR).await;
    let results = fixture.flood(std::iter::repeat_n(None, 100)).await;
    assert_eq!((count(&results, WAITED), count(&results, CROWDED)), (16, 84));

    tokio::time::advance(UNKNOWN_KEY_FLOOR).await;
    let networks: Vec<String> = (0..100).map(|number| format!("192.0.2.{number}")).collect();
    let results = fixture.flood(networks.iter().map(|peer| Some(peer.as_str()))).await;
    assert_eq!((count(&results, WAITED), count(&results, CROWDED)), (32, 68));
    assert_eq!((fixture.waits("total_limit"), fixture.waits("fetched")), (68, 8 + 16 + 32));
    assert_eq!(fixture.waiters.count(), 0);
}

#[tokio::test(start_paused = true)]
async fn cancelled_call_frees_its_place() {
    let fixture = Fixture::new();
    fixture.demand.begin();
    for _ in 0..10 {
        let calls = join_all((0..8).map(|_| fixture.refreshed(Some("192.0.2.1"))));
        assert!(calls.now_or_never().is_none(), "all of them wait");
        assert_eq!(fixture.waiters.count(), 0, "their places are free");
    }
}
