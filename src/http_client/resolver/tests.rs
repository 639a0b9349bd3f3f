//! Sharing, age and order of addresses, with delayed answers on a paused clock.

use std::{net::IpAddr, sync::Mutex, time::Duration};

use tokio::time::{advance, timeout};

use super::{query::ResolvedAddresses, *};
use crate::observe::telemetry::{
    logging::captured::CapturedLog,
    metrics::{
        LookupQuery::{self, AsConfigured, Ipv4, Ipv6},
        Metrics,
    },
};

/// Age up to which addresses are used without a new lookup.
const FRESH_FOR: Duration = Duration::from_secs(30);

const NAME: &str = "eu2.example";
const V4: &str = "192.0.2.1";
const V6: &str = "2001:db8::1";

/// Holds every query until the test answers it.
#[derive(Clone, Default)]
struct Held(Arc<Mutex<Vec<Reply>>>);

impl NameService for Held {
    fn ask(&self, reply: Reply) {
        self.0.lock().unwrap().push(reply);
    }
}

/// Answers every query with the same address, after a delay.
pub(super) struct Slow {
    pub(super) delay: Duration,
    pub(super) address: IpAddr,
}

impl NameService for Slow {
    fn ask(&self, reply: Reply) {
        let (delay, addresses) = (self.delay, vec![self.address]);
        tokio::spawn(async move {
            tokio::time::sleep(delay).await;
            reply.send(Ok(ResolvedAddresses { addresses, is_routable: true }));
        });
    }
}

impl Held {
    /// Returns the pending queries, in the order in which they were sent.
    fn queries(&self) -> Vec<LookupQuery> {
        self.0.lock().unwrap().iter().map(Reply::query).collect()
    }

    /// Removes the oldest query of that kind.
    fn take(&self, query: LookupQuery) -> Reply {
        let mut held = self.0.lock().unwrap();
        let index = held.iter().position(|reply| reply.query() == query);
        held.remove(index.unwrap_or_else(|| panic!("no query for {query:?}")))
    }

    fn answer(&self, query: LookupQuery, address: &str) {
        self.take(query).send(Ok(answer(address, true)));
    }

    fn fail(&self, query: LookupQuery, error: QueryError) {
        self.take(query).send(Err(error));
    }

    /// Fails all queries of a lookup, in both forms of the name.
    fn fail_lookup(&self, error: &QueryError) {
        for query in [Ipv4, Ipv6, AsConfigured] {
            self.fail(query, error.clone());
        }
    }
}

fn answer(address: &str, is_routable: bool) -> ResolvedAddresses {
    ResolvedAddresses { addresses: vec![address.parse().unwrap()], is_routable }
}

fn resolver() -> (Resolver, Held) {
    let held = Held::default();
    (Resolver::new(Box::new(held.clone()), OutgoingMetrics::default()), held)
}

/// Returns the result for a request if it is available without waiting.
async fn at_once(host: &Arc<Host>) -> Option<Result<Vec<String>, String>> {
    let now = clock_now();
    let result = timeout(Duration::ZERO, host.addresses()).await.ok()?;
    assert_eq!(clock_now(), now, "it waited");
    Some(texts(result))
}

fn texts(result: Result<Arc<[IpAddr]>, LookupError>) -> Result<Vec<String>, String> {
    let text = |addresses: Arc<[IpAddr]>| addresses.iter().map(ToString::to_string).collect();
    result.map(text).map_err(|error| error.to_string())
}

fn clock_now() -> crate::base::clock::Instant {
    crate::base::clock::now()
}

#[expect(clippy::unnecessary_wraps, reason = "compared with an optional result")]
fn found(addresses: &[&str]) -> Option<Result<Vec<String>, String>> {
    Some(Ok(addresses.iter().map(ToString::to_string).collect()))
}

/// Returns a host whose addresses of both families have just been confirmed.
fn known(resolver: &Resolver, held: &Held) -> Arc<Host> {
    let host = resolver.host(NAME);
    host.refresh_if_due();
    held.answer(Ipv4, V4);
    held.answer(Ipv6, V6);
    host
}

#[tokio::test(start_paused = true)]
async fn connections_share_one_lookup_that_none_of_them_cancels() {
    let (resolver, held) = resolver();
    let waiting: Vec<_> = (0..50)
        .map(|_| {
            let host = resolver.host("EU2.example");
            tokio::spawn(async move { texts(host.addresses().await) })
        })
        .collect();
    // An attempt that times out does not cancel the lookup.
    let host = resolver.host(NAME);
    assert!(timeout(Duration::from_secs(3), host.addresses()).await.is_err());
    assert_eq!(held.queries(), [Ipv4, Ipv6]);
    assert_eq!(
        host.unanswered().map(|error| error.to_string()).as_deref(),
        Some("name lookup of eu2.example: no answer for 3 s")
    );
    held.answer(Ipv4, V4);
    held.answer(Ipv6, V6);
    for waiting in waiting {
        assert_eq!(waiting.await.unwrap(), Ok(vec![V6.to_owned(), V4.to_owned()]));
    }
    assert_eq!(host.unanswered(), None);
    assert_eq!(at_once(&host).await, found(&[V6, V4]));
    assert!(held.queries().is_empty());
}

#[tokio::test(start_paused = true)]
async fn connection_waits_six_seconds_for_addresses_and_the_next_one_gets_them() {
    let (resolver, held) = resolver();
    let host = resolver.host(NAME);
    let started = clock_now();
    let error = texts(host.addresses().await).unwrap_err();
    assert_eq!(error, "name lookup of eu2.example: no answer for 6 s");
    assert_eq!(started.elapsed(), Duration::from_secs(6));
    held.answer(Ipv4, V4);
    held.answer(Ipv6, V6);
    assert_eq!(at_once(&host).await, found(&[V6, V4]));
}

#[tokio::test(start_paused = true)]
async fn unanswered_family_delays_only_the_first_connection_by_50_ms() {
    let (resolver, held) = resolver();
    let host = resolver.host(NAME);
    host.refresh_if_due();
    held.answer(Ipv4, V4);
    let started = clock_now();
    assert_eq!(texts(host.addresses().await), Ok(vec![V4.to_owned()]));
    assert_eq!(started.elapsed(), Duration::from_millis(50));
    for _ in 0..20 {
        advance(FRESH_FOR).await;
        assert_eq!(at_once(&host).await, found(&[V4]), "while {:?} are unanswered", held.queries());
        held.answer(Ipv4, V4);
        assert_eq!(at_once(&host).await, found(&[V4]));
    }
    // A query is abandoned after a minute, so that at most one is pending.
    let unanswered = held.queries();
    assert!(unanswered.iter().all(|query| *query == Ipv6) && unanswered.len() <= 11, "{unanswered:?}");
    held.take(Ipv6).send(Ok(answer("2001:db8::dead", true)));
    assert_eq!(at_once(&host).await, found(&[V4]), "an answer to an abandoned query");
    advance(Duration::from_mins(1)).await;
    host.refresh_if_due();
    while held.queries().contains(&Ipv6) {
        held.answer(Ipv6, V6);
    }
    assert_eq!(at_once(&host).await, found(&[V6, V4]), "the second family is answered");
}

#[tokio::test(start_paused = true)]
async fn known_addresses_does_not_wait_and_reports_the_last_failure() {
    let (resolver, held) = resolver();
    let host = resolver.host(NAME);
    let started = clock_now();
    let known = async || texts(host.known_addresses().await);
    assert_eq!(known().await, Err("name lookup of eu2.example: no answer for 0 s".to_owned()));
    assert_eq!(held.queries(), [Ipv4, Ipv6], "it starts a lookup");
    held.fail_lookup(&QueryError::NoAddress);
    let failed = Err("name lookup of eu2.example: the name has no address".to_owned());
    assert_eq!(known().await, failed);
    assert_eq!(started.elapsed(), Duration::ZERO);
    advance(Duration::from_secs(2)).await;
    assert_eq!(known().await, failed, "while {:?} are in progress", held.queries());
    assert_eq!(held.queries(), [Ipv4, Ipv6]);
    held.answer(Ipv4, V4);
    assert_eq!(started.elapsed(), Duration::from_secs(2));
    assert_eq!(known().await, Ok(vec![V4.to_owned()]));
    assert_eq!(started.elapsed(), Duration::from_millis(2050), "for the other family");
    held.answer(Ipv6, V6);
    assert_eq!(known().await, Ok(vec![V6.to_owned(), V4.to_owned()]));
}

#[tokio::test(start_paused = true)]
async fn fresh_addresses_are_used_without_a_lookup_and_stale_ones_while_one_is_in_progress() {
    let (resolver, held) = resolver();
    let host = known(&resolver, &held);
    advance(Duration::from_millis(29_999)).await;
    assert_eq!(at_once(&host).await, found(&[V6, V4]));
    assert!(held.queries().is_empty());
    advance(Duration::from_millis(1)).await;
    assert_eq!(at_once(&host).await, found(&[V6, V4]));
    assert_eq!(held.queries(), [Ipv4, Ipv6]);
    assert_eq!(at_once(&host).await, found(&[V6, V4]));
    assert_eq!(held.queries(), [Ipv4, Ipv6], "in progress already");
    held.answer(Ipv4, "192.0.2.9");
    held.answer(Ipv6, "2001:db8::9");
    assert_eq!(at_once(&host).await, found(&["2001:db8::9", "192.0.2.9"]), "a change is followed");
}

#[tokio::test(start_paused = true)]
async fn last_addresses_are_used_for_ten_minutes_without_a_successful_lookup() {
    for error in [None, Some(QueryError::ServerFailure), Some(QueryError::NoSuchName)] {
        let (resolver, held) = resolver();
        let host = known(&resolver, &held);
        let last = clock_now();
        while last.elapsed() + Duration::from_secs(1) < Duration::from_mins(10) {
            advance(Duration::from_secs(1)).await;
            assert_eq!(at_once(&host).await, found(&[V6, V4]), "{error:?} after {:?}", last.elapsed());
            if let Some(error) = &error {
                while let Some(query) = held.queries().first() {
                    held.fail(*query, error.clone());
                }
            }
        }
        advance(Duration::from_secs(1)).await;
        let after = at_once(&host).await;
        assert!(after.as_ref().is_none_or(Result::is_err), "{error:?}: {after:?}");
        while held.queries().contains(&Ipv4) {
            held.answer(Ipv4, V4);
        }
        assert_eq!(texts(host.addresses().await).map(|found| found.contains(&V4.to_owned())), Ok(true));
    }
}

#[tokio::test(start_paused = true)]
async fn failed_lookup_is_reported_at_once_and_repeated_after_a_second() {
    let (resolver, held) = resolver();
    let host = resolver.host(NAME);
    let log = CapturedLog::start();
    assert_eq!(at_once(&host).await, None);
    held.fail_lookup(&QueryError::ServerFailure);
    let failed =
        Some(Err("name lookup of eu2.example: the name servers failed (SERVFAIL, REFUSED) or cannot \
                           be reached"
            .to_owned()));
    for _ in 0..100 {
        assert_eq!(at_once(&host).await, failed);
    }
    assert!(held.queries().is_empty(), "no lookup for each connection");
    for _ in 0..3 {
        advance(Duration::from_secs(1)).await;
        assert_eq!(at_once(&host).await, None, "a new lookup");
        held.fail_lookup(&QueryError::ServerFailure);
        assert_eq!(at_once(&host).await, failed);
    }
    advance(Duration::from_secs(1)).await;
    assert_eq!(at_once(&host).await, None);
    held.answer(Ipv4, V4);
    held.fail(Ipv6, QueryError::NoAddress);
    assert_eq!(at_once(&host).await, found(&[V4]));
    let text = log.text();
    assert_eq!(text.matches("name lookup failed").count(), 1, "{text}");
    assert_eq!(text.matches("name lookup succeeds again").count(), 1, "{text}");
}

#[tokio::test(start_paused = true)]
async fn configured_name_is_looked_up_if_the_absolute_name_does_not_exist() {
    for error in [QueryError::NoSuchName, QueryError::InHostsFile] {
        let (resolver, held) = resolver();
        let host = resolver.host(NAME);
        host.refresh_if_due();
        held.fail(Ipv4, error);
        assert_eq!(held.queries(), [Ipv6, AsConfigured], "without waiting for the other family");
        held.answer(AsConfigured, "10.0.0.1");
        assert_eq!(at_once(&host).await, found(&["10.0.0.1"]));
        held.answer(Ipv6, V6);
        assert_eq!(at_once(&host).await, found(&["10.0.0.1"]), "the lookup has moved on");
        advance(FRESH_FOR).await;
        assert_eq!(at_once(&host).await, found(&["10.0.0.1"]));
        assert_eq!(held.queries(), [Ipv4, Ipv6], "the absolute name may exist by now");
        held.answer(Ipv4, V4);
        assert_eq!(at_once(&host).await, found(&[V4]));
    }
}

#[tokio::test(start_paused = true)]
async fn absolute_name_with_addresses_of_one_family_is_final() {
    for (answered, failed) in [(Ipv4, Ipv6), (Ipv6, Ipv4)] {
        for error in [QueryError::NoAddress, QueryError::NoSuchName, QueryError::ServerFailure] {
            let (resolver, held) = resolver();
            let host = resolver.host(NAME);
            host.refresh_if_due();
            held.answer(answered, V4);
            held.fail(failed, error);
            assert!(held.queries().is_empty());
            assert_eq!(at_once(&host).await, found(&[V4]));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn addresses_of_a_removed_family_are_not_used() {
    let (resolver, held) = resolver();
    let host = known(&resolver, &held);
    advance(FRESH_FOR).await;
    host.refresh_if_due();
    held.fail(Ipv6, QueryError::ServerFailure);
    held.answer(Ipv4, V4);
    assert_eq!(at_once(&host).await, found(&[V6, V4]), "a failure does not remove addresses");
    advance(FRESH_FOR).await;
    host.refresh_if_due();
    held.fail(Ipv6, QueryError::NoAddress);
    held.answer(Ipv4, V4);
    assert_eq!(at_once(&host).await, found(&[V4]));
}

#[tokio::test(start_paused = true)]
async fn names_without_a_dot_are_looked_up_only_as_configured() {
    let (resolver, held) = resolver();
    let host = resolver.host("platform");
    assert_eq!(at_once(&host).await, None);
    assert_eq!(held.queries(), [AsConfigured]);
    held.fail(AsConfigured, QueryError::NoSuchName);
    assert_eq!(at_once(&host).await, Some(Err("name lookup of platform: no such name".to_owned())));
}

#[tokio::test(start_paused = true)]
async fn addresses_without_a_route_are_used_only_if_there_are_no_others() {
    let (resolver, held) = resolver();
    let host = resolver.host(NAME);
    host.refresh_if_due();
    held.take(Ipv6).send(Ok(answer(V6, false)));
    let only = texts(host.addresses().await);
    assert_eq!(only, Ok(vec![V6.to_owned()]));
    held.answer(Ipv4, V4);
    assert_eq!(at_once(&host).await, found(&[V4]));
}

#[tokio::test(start_paused = true)]
async fn names_in_use_are_looked_up_at_the_start_and_stay_fresh() {
    let (resolver, held) = resolver();
    let early = resolver.host(NAME);
    let refreshing = tokio::spawn({
        let resolver = resolver.clone();
        async move { resolver.keep_fresh().await }
    });
    tokio::task::yield_now().await;
    assert_eq!(held.queries(), [Ipv4, Ipv6], "before the first connection");
    let late = resolver.host("eu3.example");
    tokio::task::yield_now().await;
    assert_eq!(held.queries(), [Ipv4, Ipv6, Ipv4, Ipv6]);
    for _ in 0..2 {
        held.answer(Ipv4, V4);
        held.answer(Ipv6, V6);
    }
    let mut lookups = 0;
    for _ in 0..600 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        while let Some(query) = held.queries().first() {
            lookups += 1;
            held.answer(*query, V4);
        }
    }
    // Both names, both families, every 30 s to 35 s.
    assert!((68..=80).contains(&lookups), "{lookups}");
    drop((early, late));
    tokio::time::sleep(Duration::from_mins(5)).await;
    assert!(held.queries().is_empty(), "unused names are not looked up");
    refreshing.abort();
}

#[tokio::test(start_paused = true)]
async fn dropped_query_fails() {
    let (resolver, held) = resolver();
    let host = resolver.host(NAME);
    for _ in 0..10 {
        assert_eq!(at_once(&host).await, None);
        for query in [Ipv4, Ipv6, AsConfigured] {
            drop(held.take(query));
        }
        let error = at_once(&host).await.unwrap().unwrap_err();
        assert_eq!(error, "name lookup of eu2.example: the lookup ended without a result");
        advance(Duration::from_secs(1)).await;
    }
    assert_eq!(at_once(&host).await, None);
    held.answer(Ipv4, V4);
    held.answer(Ipv6, V6);
    assert_eq!(at_once(&host).await, found(&[V6, V4]));
}

/// Uses the system's threads, so the clock is not paused.
#[tokio::test]
async fn failure_to_create_a_thread_fails_the_lookup_and_loses_no_query() {
    let metrics = Metrics::new();
    let resolver = Resolver::new(Box::new(SystemNames::without_threads()), metrics.outgoing());
    // More names than the maximum number of threads.
    for number in 0..100 {
        let host = resolver.host(&format!("eu{number}.example"));
        let error = host.addresses().await.unwrap_err();
        assert_eq!(error.missing_resource(), Some(LocalResource::Threads));
        let text = error.to_string();
        assert!(
            text.starts_with(&format!("name lookup of eu{number}.example: cannot start a thread: ")),
            "{text}"
        );
    }
    let rendered = metrics.render();
    // Two families, then the name as configured.
    assert!(
        rendered.contains("ott_gateway_local_exhaustion_total{resource=\"threads\"} 300\n"),
        "{rendered}"
    );
    for query in ["ipv4", "ipv6", "as_configured"] {
        let line = format!("ott_gateway_name_lookups_total{{query=\"{query}\",result=\"exhausted\"}} 100\n");
        assert!(rendered.contains(&line), "{rendered}");
    }
}

#[tokio::test]
async fn queries_beyond_the_thread_limit_are_queued() {
    let resolver = Resolver::new(Box::new(SystemNames::with_one_thread()), OutgoingMetrics::default());
    let waiting: Vec<_> = (0..100)
        .map(|number| {
            // A label of more than 63 bytes: no resolver sends a query for it.
            let host = resolver.host(&format!("{number:064}.invalid"));
            tokio::spawn(async move { host.addresses().await })
        })
        .collect();
    for waiting in waiting {
        let error = waiting.await.unwrap().unwrap_err().to_string();
        assert!(error.ends_with(".invalid: no such name"), "{error}");
    }
    let found = resolver.host("localhost").addresses().await.unwrap();
    assert!(found.iter().all(IpAddr::is_loopback), "{found:?}");
}

#[tokio::test]
async fn system_names_are_resolved_and_their_age_is_exported() {
    let metrics = Metrics::new();
    let resolver = Resolver::system(metrics.outgoing());
    let host = resolver.host("localhost");
    let found = host.addresses().await.unwrap();
    assert!(!found.is_empty() && found.iter().all(IpAddr::is_loopback), "{found:?}");
    let age = "ott_gateway_name_addresses_age_seconds{host=\"localhost\"}";
    assert!(metrics.render().contains(age));
    drop(host);
    // The thread that found the addresses may hold the host for a moment longer.
    let forgotten = async {
        while metrics.render().contains(age) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(Duration::from_mins(1), forgotten).await.expect("the unused name is forgotten");
}
