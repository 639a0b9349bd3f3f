use std::sync::{
    Mutex, OnceLock,
    atomic::{AtomicU32, Ordering},
};

use axum::{Router, http::StatusCode, response::IntoResponse, routing::get};
use jsonwebtoken::Algorithm;
use tokio::{
    net::TcpListener,
    sync::{Semaphore, watch},
};
use tokio_util::task::AbortOnDropHandle;

use super::{demand::UNKNOWN_KEY_FLOOR, *};
use crate::{
    base::backoff::assert_spread,
    caller::jwt::tests::{SigningKey, jwks},
    observe::telemetry::{logging::captured::CapturedLog, metrics::Metrics},
};

/// An issuer that serves a key set over HTTP, counts the fetches, and can delay them.
#[derive(Clone)]
struct Issuer(Arc<IssuerState>);

struct IssuerState {
    answer: Mutex<(StatusCode, Vec<u8>)>,
    fetches: AtomicU32,
    gate: Semaphore,
}

impl Issuer {
    async fn start(keys: &[&SigningKey]) -> (Self, Url) {
        let issuer = Self(Arc::new(IssuerState {
            answer: Mutex::new((StatusCode::OK, jwks(keys))),
            fetches: AtomicU32::new(0),
            gate: Semaphore::new(1),
        }));
        let served = issuer.clone();
        let router = Router::new().route("/jwks", get(move || served.clone().serve()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/jwks", listener.local_addr().unwrap()).parse().unwrap();
        tokio::spawn(async { axum::serve(listener, router).await.unwrap() });
        (issuer, url)
    }

    async fn serve(self) -> impl IntoResponse {
        self.0.fetches.fetch_add(1, Ordering::SeqCst);
        let _open = self.0.gate.acquire().await.unwrap();
        self.0.answer.lock().unwrap().clone()
    }

    fn answer(&self, status: StatusCode, body: impl Into<Vec<u8>>) {
        *self.0.answer.lock().unwrap() = (status, body.into());
    }

    fn fetches(&self) -> u32 {
        self.0.fetches.load(Ordering::SeqCst)
    }
}

const MAX_AGE: Duration = Duration::from_hours(24);

fn issuer_metrics(metrics: &Metrics) -> JwksMetrics {
    metrics.jwt_issuer("corp")
}

fn start(url: Url, metrics: JwksMetrics) -> (Arc<KeyRing>, JwksRefresh) {
    let source = JwksUrl { url, ca_file: None, max_age: MAX_AGE };
    JwksRefresh::from_url(&source, UnpooledClient::for_test(), metrics)
}

fn follow(url: Url) -> Arc<KeyRing> {
    let (ring, mut refresh) = start(url, issuer_metrics(&Metrics::new()));
    tokio::spawn(async move { refresh.run().await });
    ring
}

/// Waits for newer keys, and returns whether they were fetched. Calls do not wait long enough on a
/// busy machine, so this retries until the fetch has ended.
async fn fetched_again(ring: &KeyRing) -> bool {
    // Metrics are expensive to create, and floods call this often.
    static METRICS: OnceLock<Metrics> = OnceLock::new();
    let waiters = KeyWaiters::new(METRICS.get_or_init(Metrics::new).jwt_key_waits());
    let mut waited = false;
    loop {
        match ring.refreshed(&waiters, None).await {
            Ok(Freshness::Fetched) => return true,
            Ok(Freshness::Recent) => return waited,
            Err(KeyFetchError::Slow) => waited = true,
            Err(_) => return false,
        }
    }
}

/// Advances the clock between two waits for real sockets.
async fn later(by: Duration) {
    tokio::time::pause();
    tokio::time::advance(by).await;
    tokio::time::resume();
}

/// Waits for the fetch in progress, or the next one, to end.
async fn next_end(mut ended: watch::Receiver<u64>) {
    timeout(Duration::from_mins(2), ended.changed()).await.expect("a fetch ends").unwrap();
}

/// Waits for the end of a fetch that begins after the maximum delay between fetches.
async fn next_fetch_after_failures(ring: &KeyRing) {
    // The task sleeps only after it has reported the end of the last fetch.
    tokio::task::yield_now().await;
    let ended = ring.demand.as_ref().unwrap().ends();
    later(UNKNOWN_KEY_FLOOR.max(Duration::from_secs(31))).await;
    fetched_again(ring).await;
    next_end(ended).await;
}

fn has(ring: &KeyRing, id: &str) -> bool {
    matches!(ring.find(Algorithm::ES256, Some(id)).0, Lookup::Found(_))
}

fn key(id: &str) -> SigningKey {
    SigningKey::new(id, Algorithm::ES256)
}

#[tokio::test]
async fn first_callers_share_the_first_fetch() {
    let (issuer, url) = Issuer::start(&[&key("k1")]).await;
    let held = issuer.0.gate.acquire().await.unwrap();
    let ring = follow(url);
    let waiters: Vec<_> = (0..100)
        .map(|_| {
            let ring = Arc::clone(&ring);
            tokio::spawn(async move { fetched_again(&ring).await && has(&ring, "k1") })
        })
        .collect();
    while issuer.fetches() == 0 {
        tokio::task::yield_now().await;
    }
    assert!(matches!(ring.find(Algorithm::ES256, Some("k1")).0, Lookup::NoKeysYet));
    drop(held);
    for waiter in waiters {
        assert!(waiter.await.unwrap());
    }
    assert_eq!(issuer.fetches(), 1);
}

#[test]
fn fetches_after_failures_are_spread() {
    for (failures, maximum) in [(1, 1), (3, 4), (5, 16), (9, 30)] {
        let waits: Vec<Duration> = (0..100).map(|_| next_fetch(failures)).collect();
        assert_spread(&waits, MIN_RETRY_WAIT, Duration::from_secs(maximum));
    }
}

#[tokio::test]
async fn flood_of_unknown_keys_causes_one_fetch_per_ten_seconds() {
    let (issuer, url) = Issuer::start(&[&key("k1")]).await;
    let ring = follow(url);
    assert!(fetched_again(&ring).await);
    for _ in 0..1000 {
        assert!(!fetched_again(&ring).await, "refused at once");
    }
    assert_eq!(issuer.fetches(), 1);

    for fetches in 2..5 {
        later(UNKNOWN_KEY_FLOOR).await;
        let flood = (0..1000).map(|_| fetched_again(&ring));
        let waited = futures_util::future::join_all(flood).await;
        assert!(waited.into_iter().all(|waited| waited), "all of them wait for the same fetch");
        assert!(!fetched_again(&ring).await);
        assert_eq!(issuer.fetches(), fetches);
    }
}

#[tokio::test]
async fn new_key_is_fetched_for_the_first_token_that_needs_it() {
    let (old, new) = (key("old"), key("new"));
    let (issuer, url) = Issuer::start(&[&old]).await;
    let ring = follow(url);
    assert!(fetched_again(&ring).await);
    issuer.answer(StatusCode::OK, jwks(&[&old, &new]));
    assert!(!has(&ring, "new"));

    later(UNKNOWN_KEY_FLOOR).await;
    assert!(fetched_again(&ring).await && has(&ring, "new") && has(&ring, "old"));
    assert_eq!(issuer.fetches(), 2);
}

#[tokio::test]
async fn keys_are_refreshed_every_five_minutes() {
    let (issuer, url) = Issuer::start(&[&key("k1")]).await;
    let ring = follow(url);
    assert!(fetched_again(&ring).await);
    issuer.answer(StatusCode::OK, jwks(&[&key("k2")]));
    // Lets the task reach its sleep, because it reports the end of the fetch before.
    tokio::task::yield_now().await;
    let ended = ring.demand.as_ref().unwrap().ends();
    later(REFETCH_INTERVAL).await;
    next_end(ended).await;
    assert!(has(&ring, "k2") && !has(&ring, "k1"), "the withdrawn key is removed");
    assert_eq!(issuer.fetches(), 2);
}

#[tokio::test]
async fn last_valid_keys_stay_in_use_after_any_invalid_response() {
    let (issuer, url) = Issuer::start(&[&key("k1")]).await;
    let ring = follow(url);
    assert!(fetched_again(&ring).await);
    let mut large = jwks(&[&key("k2")]);
    large.resize(MAX_JWKS_BYTES + 1, b' ');
    for (status, body) in [
        (StatusCode::INTERNAL_SERVER_ERROR, jwks(&[&key("k2")])),
        (StatusCode::FOUND, jwks(&[&key("k2")])),
        (StatusCode::OK, b"<html>".to_vec()),
        (StatusCode::OK, b"{\"keys\": []}".to_vec()),
        (StatusCode::OK, large),
    ] {
        issuer.answer(status, body);
        next_fetch_after_failures(&ring).await;
        assert!(has(&ring, "k1") && !has(&ring, "k2"), "{status}");
    }
    issuer.answer(StatusCode::OK, jwks(&[&key("k2")]));
    next_fetch_after_failures(&ring).await;
    assert!(has(&ring, "k2"), "the ring recovers by itself");
}

#[test]
fn failed_fetches_are_logged_at_every_power_of_two_and_new_keys_once() {
    const NONE_YET: &str = "keys_in_use=false";
    const STALE: &str = "keys_in_use=true";
    const LOADED: &str = "JWT keys loaded";
    let url = "https://issuer.example/jwks".parse().unwrap();
    let (_ring, mut refresh) = start(url, issuer_metrics(&Metrics::new()));
    let log = CapturedLog::start();
    let count = |level: &str, words: &str| {
        log.text().lines().filter(|line| line.contains(level) && line.contains(words)).count()
    };
    let failed = || Err(FetchError::Status(500));
    (0..7).for_each(|_| refresh.take(failed()));
    assert_eq!(count("WARN", NONE_YET), 3, "{}", log.text());
    assert!(log.text().contains("failures=4") && log.text().contains("500"), "{}", log.text());
    let (one, two) = (jwks(&[&key("k1")]), jwks(&[&key("k1"), &key("k2")]));
    for keys in [&one, &one, &two, &two] {
        refresh.take(Ok(keys.clone()));
    }
    assert_eq!(count("INFO", LOADED), 2, "{}", log.text());
    assert_eq!(count("WARN", STALE), 0);
    (0..3).for_each(|_| refresh.take(failed()));
    assert_eq!((count("WARN", STALE), count("WARN", NONE_YET)), (2, 3), "{}", log.text());
    refresh.take(Ok(two));
    assert_eq!(count("INFO", LOADED), 3, "the recovery: {}", log.text());
}

#[tokio::test]
async fn endless_response_is_cut_off_at_the_size_limit() {
    let endless = || async {
        let chunks = futures_util::stream::repeat_with(|| Ok::<_, std::io::Error>(vec![b' '; 1024]));
        axum::body::Body::from_stream(chunks)
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap()).parse().unwrap();
    tokio::spawn(async move { axum::serve(listener, Router::new().route("/", get(endless))).await.unwrap() });
    let fetched = fetch(&UnpooledClient::for_test(), &url).await;
    assert!(matches!(fetched, Err(FetchError::Jwks(JwksError::TooLarge))), "{fetched:?}");
}

#[tokio::test]
async fn fetch_without_a_response_times_out_and_is_retried() {
    let (issuer, url) = Issuer::start(&[&key("k1")]).await;
    let held = issuer.0.gate.acquire().await.unwrap();
    let ring = follow(url);
    while issuer.fetches() == 0 {
        tokio::task::yield_now().await;
    }
    let ended = ring.demand.as_ref().unwrap().ends();
    later(FETCH_TIMEOUT).await;
    next_end(ended.clone()).await;
    assert!(matches!(ring.find(Algorithm::ES256, Some("k1")).0, Lookup::NoKeysYet));
    drop(held);
    let ended = ring.demand.as_ref().unwrap().ends();
    later(Duration::from_secs(1)).await;
    next_end(ended).await;
    assert!(has(&ring, "k1"));
}

/// A key file that is followed.
struct Followed {
    folder: tempfile::TempDir,
    ring: Arc<KeyRing>,
    metrics: Metrics,
    _task: AbortOnDropHandle<()>,
}

impl Followed {
    fn start(keys: &[u8]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("jwks.json");
        std::fs::write(&path, keys).unwrap();
        let metrics = Metrics::new();
        let (ring, mut refresh) = JwksRefresh::from_file(path, issuer_metrics(&metrics)).unwrap();
        let task = tokio::spawn(async move { refresh.run().await });
        Self { folder, ring, metrics, _task: AbortOnDropHandle::new(task) }
    }

    /// Replaces the file, or removes it, and waits until a change is in use.
    async fn put(&self, content: Option<&[u8]>) {
        let (path, new) = (self.folder.path().join("jwks.json"), self.folder.path().join("new.json"));
        match content {
            Some(content) => {
                std::fs::write(&new, content).unwrap();
                std::fs::rename(&new, &path).unwrap();
            }
            None => drop(std::fs::remove_file(&path)),
        }
        sleep(Duration::from_secs(10)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn changed_file_is_loaded_and_invalid_one_is_not() {
    let file = Followed::start(&jwks(&[&key("k1")]));
    assert!(has(&file.ring, "k1"), "read at start");
    for broken in [&b"{\"keys\": [{\"kty"[..], b"", b"{\"keys\": []}"] {
        file.put(Some(broken)).await;
        assert!(has(&file.ring, "k1"));
    }
    file.put(None).await;
    assert!(has(&file.ring, "k1"));
    file.put(Some(&jwks(&[&key("k2")]))).await;
    assert!(has(&file.ring, "k2") && !has(&file.ring, "k1"));
}

#[tokio::test(start_paused = true)]
async fn file_that_has_no_usable_keys_or_is_too_large_is_a_startup_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jwks.json");
    let mut large = jwks(&[&key("k1")]);
    large.resize(MAX_JWKS_BYTES + 1, b' ');
    for (content, expected) in [(&b"{}"[..], "not a JSON Web Key Set"), (&large, "larger than 256 KiB")] {
        std::fs::write(&path, content).unwrap();
        let refused = JwksRefresh::from_file(path.clone(), issuer_metrics(&Metrics::new())).unwrap_err();
        assert!(refused.to_string().contains("jwks.json"), "{refused}");
        assert!(refused.to_string().contains(expected), "{refused}");
    }
}

/// Number of reloads, number of failed reloads, and whether reloading fails now.
fn counted(metrics: &Metrics) -> [Option<u32>; 3] {
    let text = metrics.render();
    [
        r#"ott_gateway_reloads_total{result="ok",what="jwks"} "#,
        r#"ott_gateway_reloads_total{result="failed",what="jwks"} "#,
        r#"ott_gateway_reload_failing{what="jwks"} "#,
    ]
    .map(|series| text.lines().find_map(|line| line.strip_prefix(series)?.parse().ok()))
}

#[tokio::test(start_paused = true)]
async fn file_counts_as_reloaded_only_if_its_keys_changed() {
    let (one, two) = (jwks(&[&key("k1")]), jwks(&[&key("k2")]));
    let spaced = [&b"  "[..], &two].concat();
    let file = Followed::start(&one);
    assert_eq!(counted(&file.metrics), [Some(0), Some(0), Some(0)]);
    let versions = [
        (Some(&one[..]), [0, 0, 0]),
        (Some(&two), [1, 0, 0]),
        (Some(&spaced), [1, 0, 0]),
        (Some(b"{}"), [1, 1, 1]),
        (Some(b"{}"), [1, 1, 1]),
        (None, [1, 2, 1]),
        // Refused for the same reason as the first invalid content.
        (Some(b""), [1, 2, 1]),
        // The keys in use.
        (Some(&two), [1, 2, 0]),
        (None, [1, 3, 1]),
        (None, [1, 3, 1]),
        (Some(&one), [2, 3, 0]),
    ];
    for (step, (content, expected)) in versions.into_iter().enumerate() {
        file.put(content).await;
        assert_eq!(counted(&file.metrics), expected.map(Some), "{step}");
    }
}

#[tokio::test]
async fn fetch_counts_as_a_reload_only_if_it_returns_other_keys() {
    let (issuer, url) = Issuer::start(&[]).await;
    let (one, two) = (jwks(&[&key("k1")]), jwks(&[&key("k2")]));
    let metrics = Metrics::new();
    let (_ring, mut refresh) = start(url.clone(), issuer_metrics(&metrics));
    assert_eq!(counted(&metrics), [None; 3], "nothing has been fetched yet");
    let fetches = [
        (StatusCode::SERVICE_UNAVAILABLE, &one, [None, Some(1), Some(1)]),
        (StatusCode::SERVICE_UNAVAILABLE, &one, [None, Some(1), Some(1)]),
        // The first keys are loaded, not reloaded.
        (StatusCode::OK, &one, [Some(0), Some(1), Some(0)]),
        (StatusCode::OK, &one, [Some(0), Some(1), Some(0)]),
        (StatusCode::OK, &two, [Some(1), Some(1), Some(0)]),
        (StatusCode::BAD_GATEWAY, &one, [Some(1), Some(2), Some(1)]),
        (StatusCode::BAD_GATEWAY, &one, [Some(1), Some(2), Some(1)]),
        (StatusCode::OK, &two, [Some(1), Some(2), Some(0)]),
    ];
    for (step, (status, keys, expected)) in fetches.into_iter().enumerate() {
        issuer.answer(status, keys.clone());
        refresh.take(fetch(&UnpooledClient::for_test(), &url).await);
        assert_eq!(counted(&metrics), expected, "{step}");
    }
}

/// Whether the metrics show that the keys are too old.
fn expired(metrics: &Metrics) -> bool {
    metrics.render().contains(r#"ott_gateway_jwt_keys_expired{issuer="corp"} 1"#)
}

#[tokio::test(start_paused = true)]
async fn keys_are_not_accepted_beyond_their_maximum_age_if_they_cannot_be_refreshed() {
    let metrics = Metrics::new();
    let url = "https://issuer.example/jwks".parse().unwrap();
    let (ring, mut refresh) = start(url, issuer_metrics(&metrics));
    let good = || Ok(jwks(&[&key("k1")]));
    let find = || ring.find(Algorithm::ES256, Some("k1")).0;
    refresh.take(good());
    tokio::time::advance(MAX_AGE).await;
    refresh.take(Err(FetchError::Status(503)));
    assert!(matches!(find(), Lookup::Found(_)), "until the maximum age");
    assert!(!expired(&metrics));

    tokio::time::advance(Duration::from_millis(1)).await;
    assert!(matches!(find(), Lookup::TooOld), "even before the refresh task notices");
    for _ in 0..3 {
        refresh.take(Err(FetchError::Status(503)));
        assert!(expired(&metrics) && matches!(find(), Lookup::TooOld));
    }
    // An unusable set does not renew the old keys.
    refresh.take(Ok(b"{\"keys\": []}".to_vec()));
    assert!(matches!(find(), Lookup::TooOld));

    refresh.take(good());
    assert!(!expired(&metrics) && matches!(find(), Lookup::Found(_)), "the same keys, fetched again");
    tokio::time::advance(MAX_AGE / 2).await;
    refresh.take(good());
    tokio::time::advance(MAX_AGE / 4 * 3).await;
    assert!(matches!(find(), Lookup::Found(_)), "each fetch renews the age, even with the same keys");
}

#[tokio::test(start_paused = true)]
async fn age_is_the_larger_one_of_both_clocks() {
    let clock = WallClock::following_monotonic();
    let ring = KeyRing { clock: clock.clone(), ..KeyRing::new(Some(MAX_AGE), None) };
    ring.keep(KeySet::parse(&jwks(&[&key("k1")])).unwrap());
    assert!(!ring.is_too_old());
    clock.shift_by_ms(25 * 3_600_000);
    assert!(ring.is_too_old(), "the machine was suspended");
    clock.shift_by_ms(-50 * 3_600_000);
    assert!(!ring.is_too_old());
    tokio::time::advance(MAX_AGE + Duration::from_secs(1)).await;
    assert!(ring.is_too_old(), "the wall clock was set back");
}

#[tokio::test(start_paused = true)]
async fn generation_changes_with_the_keys_and_ends_at_their_maximum_age() {
    let (one, other) = (jwks(&[&key("k1")]), jwks(&[&key("k1")]));
    let ring = KeyRing::fixed(&one, Some(MAX_AGE));
    let first = ring.generation();
    assert!(first.is_some());
    assert_eq!(ring.find(Algorithm::ES256, Some("k1")).1, first);
    ring.replace(&one);
    assert_eq!(ring.generation(), first, "the same keys, fetched again");
    ring.replace(&other);
    let second = ring.generation();
    assert!(second.is_some() && second != first, "another key with the same id");
    ring.replace(&one);
    let third = ring.generation();
    assert!(third.is_some() && third != second && third != first, "earlier keys get a new generation");
    tokio::time::advance(MAX_AGE + Duration::from_secs(1)).await;
    assert_eq!(ring.generation(), None, "too old");
    ring.replace(&one);
    assert_eq!(ring.generation(), third);
    assert_eq!(KeyRing::new(None, None).generation(), None, "no keys yet");
}

#[tokio::test(start_paused = true)]
async fn keys_in_a_file_have_no_maximum_age() {
    let ring = KeyRing::fixed(&jwks(&[&key("k1")]), None);
    tokio::time::advance(Duration::from_hours(24 * 365)).await;
    assert!(has(&ring, "k1"));
}

#[tokio::test]
async fn failing_issuer_is_shown_beside_a_working_one() {
    let metrics = Metrics::new();
    let start = |issuer: &str| {
        let url = "https://issuer.example/jwks".parse().unwrap();
        start(url, metrics.jwt_issuer(issuer)).1
    };
    let (mut one, mut other) = (start("one"), start("other"));
    one.take(Err(FetchError::Status(503)));
    other.take(Ok(jwks(&[&key("k1")])));
    assert_eq!(counted(&metrics)[2], Some(1), "the success of the other does not hide it");
    one.take(Ok(jwks(&[&key("k1")])));
    assert_eq!(counted(&metrics)[2], Some(0));
}

#[test]
fn keys_are_fetched_only_over_https_or_from_this_machine() {
    for (url, safe) in [
        ("https://issuer.example/jwks", true),
        ("http://127.0.0.1:8080/jwks", true),
        ("http://localhost/jwks", true),
        ("http://[::1]/jwks", true),
        ("http://issuer.example/jwks", false),
        ("http://169.254.169.254/jwks", false),
        ("https://user@issuer.example/jwks", false),
        ("ftp://127.0.0.1/jwks", false),
        ("file:///etc/jwks", false),
    ] {
        assert_eq!(is_safe(&url.parse().unwrap()), safe, "{url}");
    }
}
