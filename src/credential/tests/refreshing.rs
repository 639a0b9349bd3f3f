//! Renewal in time, one request for all waiting calls, and recovery from every failure.

use super::{
    access_token::AccessToken,
    refresh::{MAX_PAUSE, REQUEST_FLOOR, REQUEST_TIMEOUT},
    *,
};
use crate::base::backoff::assert_spread;

#[tokio::test(start_paused = true)]
async fn token_is_renewed_at_65_to_75_percent_of_its_lifetime_while_still_in_service() {
    let mut moments = Vec::new();
    for _ in 0..20 {
        let start = clock::now();
        let mut running = Running::start_with_token(LIFETIME).await;
        let first = running.generation();
        let renewal = running.request().await;
        let age = renewal.at - start;
        assert!(age >= LIFETIME.mul_f64(0.65) && age <= LIFETIME.mul_f64(0.75), "{age:?}");

        // The request is in flight, and no call waits for it.
        let (took, bearer) = timed(running.credential.bearer(soon())).await;
        assert_eq!(took, Duration::ZERO);
        assert_eq!(bearer.ok().map(|bearer| bearer.generation()), first);

        renewal.grant(LIFETIME);
        settle().await;
        assert!(running.generation() > first);
        moments.push(age);
    }
    moments.dedup();
    assert!(moments.len() > 10, "replicas must not renew in step");
}

/// Returns the times of 100 renewals, counted from the token request.
fn renewals(lifetime: Duration) -> Vec<Duration> {
    let wall = WallClock::following_monotonic();
    let renewal = |_| {
        let sent = clock::now();
        let fetched = Fetched::new("token", lifetime).expect("a token");
        AccessToken::new(fetched, Generation::ZERO, (sent, wall.now()), sent).refresh_at() - sent
    };
    (0..100).map(renewal).collect()
}

#[tokio::test(start_paused = true)]
async fn renewals_are_spread_over_a_tenth_of_the_time() {
    assert_spread(&renewals(LIFETIME), LIFETIME.mul_f64(0.65), LIFETIME.mul_f64(0.75));
    // With a minute left at the latest, but not before a quarter of the lifetime.
    for (lifetime, latest) in [(120, 60), (90, 30), (40, 10)] {
        assert_spread(&renewals(seconds(lifetime)), seconds(latest).mul_f64(0.9), seconds(latest));
    }
}

#[tokio::test(start_paused = true)]
async fn pauses_after_failures_are_spread_up_to_their_maximum() {
    const MAXIMA: [u64; 7] = [1, 2, 4, 8, 16, 29, 29];
    let mut waits: [Vec<Duration>; MAXIMA.len()] = Default::default();
    for _ in 0..100 {
        let mut running = Running::start();
        let mut failed_at = clock::now();
        running.request().await.fail(CredentialErrorKind::Failing);
        for waits in &mut waits {
            let request = running.request().await;
            waits.push(request.at - failed_at);
            failed_at = request.at;
            request.fail(CredentialErrorKind::Failing);
        }
    }
    for (waits, maximum) in waits.iter().zip(MAXIMA) {
        assert_spread(waits, REQUEST_FLOOR, REQUEST_FLOOR + seconds(maximum) + Duration::from_millis(1));
    }
}

#[tokio::test(start_paused = true)]
async fn short_lived_token_is_renewed_with_a_minute_left() {
    for lifetime in [seconds(200), seconds(120), seconds(80)] {
        let start = clock::now();
        let mut running = Running::start_with_token(lifetime).await;
        let age = running.request().await.at - start;
        assert!(age + seconds(60) <= lifetime, "{lifetime:?}: {age:?}");
        assert!(age >= lifetime.saturating_sub(seconds(60)).mul_f64(0.89), "{lifetime:?}: {age:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn token_valid_for_seconds_is_renewed_in_time_without_a_hot_loop() {
    let start = clock::now();
    let mut running = Running::start();
    for n in 0..20 {
        let request = running.request().await;
        assert!(request.at - start >= seconds(n), "more than one request a second");
        request.grant(seconds(4));
        settle().await;
        assert!(running.credential.current().is_some());
    }
}

#[tokio::test(start_paused = true)]
async fn thousand_calls_waiting_for_the_first_token_cause_one_request() {
    let mut running = Running::start();
    let waiting = running.waiters(1000).await;
    let request = running.request().await;
    running.is_quiet_for(seconds(5)).await;
    request.grant(LIFETIME);
    let answers = waiting.join_all().await;
    let first = running.generation();
    assert_eq!(answers.len(), 1000);
    for (_, answer) in answers {
        assert_eq!(answer.ok().map(|bearer| bearer.generation()), first);
    }
    running.is_quiet_for(HOUR).await;
    assert_eq!(running.max_in_flight.load(Ordering::SeqCst), 1);
}

/// They do not send one request each, one after the other.
#[tokio::test(start_paused = true)]
async fn thousand_calls_share_the_failure_of_one_request() {
    let mut running = Running::start();
    let waiting = running.waiters(1000).await;
    let request = running.request().await;
    sleep(Duration::from_millis(200)).await;
    request.fail(CredentialErrorKind::Blocked);
    for (took, answer) in waiting.join_all().await {
        assert!(
            answer.as_ref().is_err_and(|error| error.kind() == CredentialErrorKind::Blocked),
            "{answer:?}"
        );
        assert!(took <= Duration::from_millis(210), "{took:?}");
    }
    running.request().await.grant(LIFETIME);
    assert!(running.credential.bearer(soon()).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn cancelled_call_does_not_cancel_the_request_that_others_wait_for() {
    let mut running = Running::start();
    let first = running.credential.clone();
    // The call that caused the request leaves first.
    let impatient = tokio::spawn(async move { first.bearer(Deadline::after(seconds(1))).await });
    settle().await;
    let dropped = running.waiters(1).await;
    let patient = running.waiters(1).await;
    drop(dropped);
    let request = running.request().await;
    let error = impatient.await.expect("no panic").expect_err("the deadline has passed");
    assert_eq!(error.kind(), CredentialErrorKind::DeadlinePassed);
    assert!(!request.is_cancelled());
    request.grant(LIFETIME);
    for (_, answer) in patient.join_all().await {
        assert!(answer.is_ok());
    }
    running.is_quiet_for(HOUR).await;
}

#[tokio::test(start_paused = true)]
async fn request_without_a_response_ends_after_ten_seconds_and_the_next_succeeds() {
    let mut running = Running::start();
    let waiting = running.waiters(1).await;
    let (hung, start) = (running.request().await, clock::now());
    for (_, answer) in waiting.join_all().await {
        assert!(is_failing(&answer), "{answer:?}");
    }
    let took = clock::now() - start;
    assert!(took <= REQUEST_TIMEOUT && took + Duration::from_millis(5) >= REQUEST_TIMEOUT, "{took:?}");
    assert!(hung.is_cancelled());
    running.request().await.grant(LIFETIME);
    assert!(running.credential.bearer(soon()).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn pauses_after_failures_grow_from_one_second_to_thirty_with_jitter() {
    let (mut early, mut late) = (Vec::new(), Vec::new());
    for _ in 0..20 {
        let mut running = Running::start();
        let mut before = None;
        for ceiling in [0, 2, 3, 5, 9, 17, 30, 30, 30] {
            let request = running.request().await;
            if let Some(before) = before {
                let pause = request.at - before;
                let slack = Duration::from_millis(2);
                assert!(pause >= seconds(1), "{pause:?}");
                assert!(pause <= seconds(ceiling) + slack, "{pause:?} over {ceiling} s");
                match ceiling {
                    2 => early.push(pause),
                    30 => late.push(pause),
                    _ => {}
                }
            }
            before = Some(request.at);
            request.fail(CredentialErrorKind::Rejected);
        }
    }
    early.sort_unstable();
    early.dedup();
    assert!(early.len() > 10, "replicas that failed together retry together");
    assert!(late.iter().any(|pause| *pause > seconds(20)), "the pause does not grow");
    assert!(late.iter().any(|pause| *pause < seconds(10)), "the pause has no full jitter");
}

#[tokio::test(start_paused = true)]
async fn success_resets_the_backoff() {
    let mut running = Running::start();
    for _ in 0..10 {
        running.request().await.fail(CredentialErrorKind::Unreachable);
    }
    running.request().await.grant(LIFETIME);
    let failed = running.request().await;
    let at = failed.at;
    failed.fail(CredentialErrorKind::Unreachable);
    assert!(running.request().await.at - at <= seconds(2) + Duration::from_millis(2));
}

#[tokio::test(start_paused = true)]
async fn retry_after_of_the_platform_is_respected_within_bounds() {
    for (retry_after, expected) in [(seconds(20), seconds(20)), (MAX_PAUSE, MAX_PAUSE)] {
        let mut running = Running::start();
        let request = running.request().await;
        let at = request.at;
        request.answer(Err(CredentialError::failing("429").with_retry_after(Some(retry_after))));
        let pause = running.request().await.at - at;
        assert!(pause >= expected && pause <= expected + Duration::from_millis(2), "{pause:?}");
    }
}

/// Otherwise a platform that recovers just after such a request was sent would be retried only
/// after 40 seconds.
#[tokio::test(start_paused = true)]
async fn duration_of_a_failed_request_is_part_of_the_pause() {
    let mut running = Running::start();
    let mut before = running.request().await.at;
    for n in 0..30 {
        // Never answered.
        let request = running.request().await;
        let pause = (request.at - before).saturating_sub(REQUEST_TIMEOUT);
        assert!(request.at - before <= MAX_PAUSE + Duration::from_millis(2), "{pause:?}");
        if n == 0 {
            assert!(pause <= seconds(1) + Duration::from_millis(2), "{pause:?}");
        }
        before = request.at;
    }

    let request = running.request().await;
    let at = request.at;
    sleep(seconds(9)).await;
    request.answer(Err(CredentialError::failing("429").with_retry_after(Some(MAX_PAUSE))));
    let pause = running.request().await.at - at;
    assert!(pause <= MAX_PAUSE + Duration::from_millis(2), "{pause:?}");
}

#[tokio::test(start_paused = true)]
async fn call_during_a_pause_fails_at_once_with_the_rest_of_the_pause() {
    let mut running = Running::start();
    running.request().await.answer(Err(CredentialError::failing("429").with_retry_after(Some(seconds(20)))));
    sleep(seconds(5)).await;
    let (took, answer) = timed(running.credential.bearer(soon())).await;
    assert_eq!(took, Duration::ZERO);
    let error = answer.expect_err("the task pauses");
    assert_eq!((error.kind(), error.cause()), (CredentialErrorKind::Failing, "429"));
    let retry_after = error.retry_after().expect("the rest of the pause");
    assert!(retry_after <= seconds(15) && retry_after > seconds(14), "{retry_after:?}");
    // A call that retries then does not get the old failure.
    tokio::time::advance(retry_after).await;
    let waiting = running.waiters(1).await;
    running.request().await.grant(LIFETIME);
    for (_, answer) in waiting.join_all().await {
        assert!(answer.is_ok(), "{answer:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn failed_renewal_does_not_displace_the_token_in_service() {
    let mut running = Running::start_with_token(LIFETIME).await;
    let first = running.generation();
    for error in
        [CredentialErrorKind::Rejected, CredentialErrorKind::Blocked, CredentialErrorKind::Unreachable]
    {
        running.request().await.fail(error);
        settle().await;
        assert_eq!(running.generation(), first);
        assert_eq!(running.credential.health().current(), CredentialHealth::Usable);
    }
    running.request().await.grant(LIFETIME);
    settle().await;
    assert!(running.generation() > first);
}

#[tokio::test(start_paused = true)]
async fn calls_succeed_again_after_every_kind_of_failure() {
    let mut running = Running::start();
    for error in [
        CredentialErrorKind::Rejected,
        CredentialErrorKind::CertificateInvalid,
        CredentialErrorKind::Protocol { status: 404 },
        CredentialErrorKind::Failing,
        CredentialErrorKind::Blocked,
        CredentialErrorKind::Unreachable,
        CredentialErrorKind::SecretUnreadable,
    ] {
        for _ in 0..20 {
            running.request().await.fail(error);
        }
        settle().await;
        let recovered = clock::now();
        running.request().await.grant(seconds(4));
        let bearer = running.credential.bearer(soon()).await;
        assert!(bearer.is_ok(), "{error:?}");
        assert!(clock::now() - recovered <= seconds(31), "{error:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn health_follows_the_credential() {
    let mut running = Running::start();
    let mut health = running.credential.health();
    assert_eq!(health.current(), CredentialHealth::Starting);

    running.request().await.fail(CredentialErrorKind::Unreachable);
    settle().await;
    let CredentialHealth::Failing { since, had_token: false } = health.current() else {
        panic!("{:?}", health.current())
    };
    running.request().await.fail(CredentialErrorKind::Blocked);
    settle().await;
    assert_eq!(health.current(), CredentialHealth::Failing { since, had_token: false });

    running.request().await.fail(CredentialErrorKind::Rejected);
    settle().await;
    let refused = health.current();
    let CredentialHealth::Refused { had_token: false, error, .. } = &refused else { panic!("{refused:?}") };
    assert_eq!(error.kind(), CredentialErrorKind::Rejected);
    // It stays refused if the platform then stops responding.
    running.request().await.fail(CredentialErrorKind::Unreachable);
    settle().await;
    assert_eq!(health.current(), refused);

    running.request().await.grant(seconds(40));
    settle().await;
    assert_eq!(health.current(), CredentialHealth::Usable);
    for _ in 0..10 {
        running.request().await.fail(CredentialErrorKind::Rejected);
    }
    settle().await;
    let refused = health.current();
    assert!(matches!(refused, CredentialHealth::Refused { had_token: true, .. }), "{refused:?}");
}

/// Otherwise a second request would follow immediately.
#[tokio::test(start_paused = true)]
async fn order_is_void_if_the_timer_has_sent_the_request() {
    let running = Running::start_with_token(LIFETIME).await;
    let shared = CredentialState::new(running.wall.clone());
    let token = || {
        let fetched = Fetched::new("token", LIFETIME).expect("a valid token");
        let now = shared.now();
        AccessToken::new(fetched, Generation::ZERO.next(), (now.instant, now.wall), now.instant)
    };
    shared.succeeded(token());
    let bearer = shared.current().expect("a token is in service");
    shared.accepted(&bearer);
    sleep(tokens::YOUNG).await;
    let ordered = timeout(seconds(1), shared.after_rejection(&bearer, "someone", soon()));
    assert!(ordered.await.is_err(), "the call waits for the request that it ordered");
    shared.succeeded(token());
    assert!(timeout(HOUR, shared.ordered()).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn no_call_waits_for_a_stopped_task() {
    let mut running = Running::start();
    let waiting = running.waiters(10).await;
    let request = running.request().await;
    running.stop.cancel();
    for (_, answer) in waiting.join_all().await {
        assert!(is_failing(&answer), "{answer:?}");
    }
    running.task.await.expect("no panic");
    assert!(request.is_cancelled());
    let (took, answer) = timed(running.credential.bearer(soon())).await;
    assert!(took.is_zero() && answer.is_err());
}

/// The refresh task runs on one runtime, calls on others.
#[test]
fn calls_on_other_runtimes_wait_for_the_same_request() {
    let runtime = || {
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be built")
    };
    let control = runtime();
    let _entered = control.enter();
    let mut running = Running::start();
    let workers: Vec<_> = (0..4)
        .map(|_| {
            let credential = running.credential.clone();
            std::thread::spawn(move || runtime().block_on(credential.bearer(soon())).is_ok())
        })
        .collect();
    control.block_on(async {
        running.request().await.grant(LIFETIME);
        running.credential.bearer(soon()).await.expect("a token was granted");
        assert!(running.requests.try_recv().is_err());
    });
    for worker in workers {
        assert!(worker.join().expect("no panic"));
    }
}
