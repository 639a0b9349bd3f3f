//! Limits that all calls of an API client share: the retry budget and the breakers.

use std::{sync::Arc, time::Duration};

use futures_util::FutureExt;

use super::fixture::*;
use crate::{
    base::{
        clock::HeldClock,
        memory::{Consumer, ResponseMemory},
    },
    credential::Credential,
    domain::call::Method,
    observe::telemetry::metrics::{ApiClientMetrics, Metrics},
};

/// A port without a listener.
const CLOSED: &str = "http://127.0.0.1:9";

/// No breaker, and no delay before a retry, because the clock is held.
fn unbroken(max_attempts: u32) -> Limits {
    let retry_wait = (Duration::ZERO, Duration::ZERO);
    Limits { breaker: None, retry_wait, max_attempts, ..Limits::default() }
}

#[tokio::test(start_paused = true)]
async fn retries_of_minting_stop_at_ten_a_second_or_a_tenth_of_the_calls() {
    let upstream = Upstream::http().await;
    let client = client(&upstream, unbroken(2));
    let _clock = HeldClock::new();
    upstream.always(OTT, Answer::empty(503));
    for _ in 0..40 {
        issue(&client, &call()).await.unwrap_err();
    }
    assert_eq!(upstream.count(OTT), 40 + 10, "ten in a second");

    // Calls that succeed add to the budget: a tenth of 240 is 24.
    upstream.always(OTT, Behaviour::Healthy);
    for _ in 0..150 {
        issues(&client).await;
    }
    upstream.always(OTT, Answer::empty(503));
    for _ in 0..50 {
        issue(&client, &call()).await.unwrap_err();
    }
    assert_eq!(upstream.count(OTT), 240 + 24, "a tenth of the calls");

    tokio::time::advance(Duration::from_secs(1)).await;
    for _ in 0..40 {
        issue(&client, &call()).await.unwrap_err();
    }
    assert_eq!(upstream.count(OTT), 280 + 34, "ten in the next second");
    upstream.always(OTT, Behaviour::Healthy);
    issues(&client).await;
}

#[tokio::test(start_paused = true)]
async fn second_logins_stop_at_ten_a_second_or_a_tenth_of_the_calls() {
    let client = client_of(CLOSED, None, unbroken(1), Credential::for_test());
    let _clock = HeldClock::new();
    let mut attempts = 0;
    for _ in 0..40 {
        let call = call();
        log_in(&client, "OTT-1", &call).await.unwrap_err();
        attempts += call.attempts();
    }
    assert_eq!(attempts, 40 + 10, "ten in a second");
    for _ in 0..200 {
        let call = call();
        log_in(&client, "OTT-1", &call).await.unwrap_err();
        attempts += call.attempts();
    }
    assert_eq!(attempts, 240 + 24, "a tenth of the calls");
}

#[tokio::test]
async fn second_attempts_of_both_operations_are_counted_as_retries() {
    let upstream = Upstream::http().await;
    let metrics = Metrics::new();
    let client = |url: &str| {
        let settings = settings(url, quick());
        let http = http_settings(&settings, shared_tls());
        counted_client(settings, http, Credential::for_test(), metrics.api_client("eu2"))
    };
    let retries = |method: Method| {
        let name = method.name();
        let start = format!(r#"ott_gateway_platform_retries_total{{api_client="eu2",operation="{name}"}} "#);
        metrics.render().lines().find_map(|line| line.strip_prefix(&start)?.parse::<u32>().ok())
    };
    upstream.next(OTT, Answer::empty(503)).next(OTT, Answer::html(502));
    issues(&client(&upstream.url())).await;
    assert_eq!((retries(Method::IssueOtt), retries(Method::LoginWithOtt)), (Some(2), Some(0)));
    log_in(&client(CLOSED), "OTT-1", &call()).await.unwrap_err();
    assert_eq!((retries(Method::IssueOtt), retries(Method::LoginWithOtt)), (Some(2), Some(1)));
}

/// Runs all tasks that are ready.
async fn settle() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn attempt_at_minting_times_out_after_3_s_and_at_a_login_after_8_s() {
    let _clock = HeldClock::new();
    for (path, limit_s) in [(OTT, 3), (LOGIN, 8)] {
        let upstream = Upstream::http().await;
        upstream.always(path, Behaviour::Stall);
        let client = client(&upstream, unbroken(1));
        let calling = tokio::spawn(async move {
            match path {
                OTT => issue(&client, &call()).await.err(),
                _ => log_in(&client, "OTT", &call()).await.err(),
            }
        });
        upstream.wait_for(path, 1).await;
        tokio::time::advance(Duration::from_millis(limit_s * 1000 - 1)).await;
        settle().await;
        assert!(!calling.is_finished(), "{path}: too early");
        tokio::time::advance(Duration::from_millis(2)).await;
        let error = calling.await.unwrap().expect("a failure");
        assert!(matches!(error.kind, PlatformError::Interrupted(_)), "{path}: {error:?}");
        assert_eq!((error.certainty, upstream.count(path)), (Certainty::Unknown, 1), "{path}");
    }
}

/// Logs in until the breaker opens. Returns the number of attempts until then; `None` if it stays
/// closed.
async fn attempts_until_open(client: &ApiClient) -> Option<u32> {
    let mut attempts = 0;
    for _ in 0..40 {
        let call = call();
        let error = log_in(client, "OTT", &call).await.err().map(|error| error.kind);
        if matches!(error, Some(PlatformError::BreakerOpen { .. })) {
            return Some(attempts);
        }
        attempts += call.attempts();
    }
    None
}

#[tokio::test(start_paused = true)]
async fn every_failure_of_the_platform_counts_for_the_breaker() {
    let _clock = HeldClock::new();
    let no_waits = Limits { breaker: Limits::default().breaker, ..unbroken(1) };
    for behaviour in [
        Behaviour::from(Answer::empty(500)),
        Answer::html(502).into(),
        Answer::empty(503).into(),
        Answer::json(599, r#"{"error":{"code":1000}}"#).into(),
        Behaviour::Reset,
        Behaviour::Close,
        Behaviour::ShortAfter(3, Answer::html(401)),
    ] {
        let upstream = Upstream::http().await;
        upstream.always(LOGIN, behaviour.clone());
        let client = client(&upstream, no_waits);
        assert_eq!(attempts_until_open(&client).await, Some(20), "{behaviour:?}");
    }
    let unreachable = client_of(CLOSED, None, no_waits, Credential::for_test());
    assert_eq!(attempts_until_open(&unreachable).await, Some(20));
    let impostor = Upstream::https(Tls::new("localhost", true, &["http/1.1"])).await;
    assert_eq!(attempts_until_open(&client(&impostor, no_waits)).await, Some(20));
}

#[tokio::test(start_paused = true)]
async fn responses_of_a_working_platform_never_open_the_breaker() {
    let _clock = HeldClock::new();
    let statuses = [301, 400, 401, 403, 404, 408, 409, 410, 413, 425, 429, 431, 451, 499];
    for answer in statuses.map(Answer::html).into_iter().chain([Answer::json(200, "{}")]) {
        let upstream = Upstream::http().await;
        upstream.always(LOGIN, answer.clone());
        assert_eq!(attempts_until_open(&client(&upstream, quick())).await, None, "{answer:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn open_breaker_refuses_at_once_even_without_memory_for_the_response() {
    let _clock = HeldClock::new();
    let upstream = Upstream::http().await;
    upstream.always(LOGIN, Answer::empty(503));
    let memory = ResponseMemory::new(0, 1);
    let settings = settings(&upstream.url(), quick());
    let http = http_settings(&settings, shared_tls());
    let metrics = ApiClientMetrics::default();
    let api_client =
        ApiClientState::new(Arc::from("eu2"), settings, &memory, Credential::for_test(), metrics);
    let client = ApiClient::new(api_client, http).unwrap();
    assert_eq!(attempts_until_open(&client).await, Some(20));

    let held: Vec<_> = std::iter::from_fn(|| memory.try_reserve(Consumer::default())).collect();
    assert!(!held.is_empty());
    let call = call();
    let error = log_in(&client, "OTT", &call).now_or_never().expect("it does not wait").unwrap_err();
    assert!(matches!(error.kind, PlatformError::BreakerOpen { .. }), "{error:?}");

    drop(held);
    upstream.always(LOGIN, Behaviour::Healthy);
    tokio::time::advance(Duration::from_secs(1)).await;
    logs_in(&client, &upstream).await;
}

/// Starts a login whose caller disconnects before anything is sent.
async fn cancelled_login(client: &ApiClient) -> Failed {
    let call = call();
    // The login is polled first, and has to wait for its connection.
    let (result, ()) = tokio::join!(log_in(client, "OTT", &call), async { call.abandon() });
    result.unwrap_err()
}

#[tokio::test]
async fn callers_that_disconnect_before_anything_is_sent_do_not_open_the_breaker() {
    let upstream = Upstream::http().await;
    let client = client(&upstream, quick());
    for _ in 0..40 {
        let error = cancelled_login(&client).await;
        assert!(matches!(error.kind, PlatformError::DeadlinePassed), "{error:?}");
        assert_eq!(error.certainty, Certainty::NotSent);
    }
    assert_eq!(upstream.count(LOGIN), 0);
    logs_in(&client, &upstream).await;
}

#[tokio::test(start_paused = true)]
async fn unsent_probe_does_not_close_the_breaker() {
    let upstream = Upstream::http().await;
    let client = client(&upstream, quick());
    let _clock = HeldClock::new();
    upstream.always(LOGIN, Answer::empty(503));
    for _ in 0..20 {
        log_in(&client, &upstream.token(), &call()).await.unwrap_err();
    }
    upstream.always(LOGIN, Behaviour::Healthy);
    for _ in 0..2 {
        tokio::time::advance(Duration::from_secs(1)).await;
        let error = cancelled_login(&client).await;
        assert!(matches!(error.kind, PlatformError::DeadlinePassed), "{error:?}");
        let error = log_in(&client, &upstream.token(), &call()).await.unwrap_err();
        assert!(matches!(error.kind, PlatformError::BreakerOpen { .. }), "{error:?}");
    }
    assert_eq!(upstream.count(LOGIN), 20);
    tokio::time::advance(Duration::from_secs(1)).await;
    logs_in(&client, &upstream).await;
}
