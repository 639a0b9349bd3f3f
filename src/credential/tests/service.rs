//! The token in service.

use std::{sync::mpsc, thread};

use super::*;

/// Fails every token request from now on.
fn fails_from_now_on(mut running: Running) -> (Credential, WallClock) {
    let (credential, wall) = (running.credential.clone(), running.wall.clone());
    tokio::spawn(async move {
        loop {
            running.request().await.fail(CredentialErrorKind::Unreachable);
        }
    });
    (credential, wall)
}

#[tokio::test(start_paused = true)]
async fn token_is_handed_out_until_thirty_seconds_before_its_expiry() {
    let start = clock::now();
    let (credential, _) = fails_from_now_on(Running::start_with_token(LIFETIME).await);
    tokio::time::sleep_until(start + LIFETIME - seconds(30) - Duration::from_millis(2)).await;
    assert!(credential.current().is_some());
    sleep(Duration::from_millis(4)).await;
    assert!(credential.current().is_none());
    let error = credential.bearer(soon()).await.expect_err("no token is left");
    assert_eq!(error.kind(), CredentialErrorKind::Unreachable);
}

#[tokio::test(start_paused = true)]
async fn short_lived_token_is_handed_out_until_a_quarter_of_its_lifetime_is_left() {
    let start = clock::now();
    let (credential, _) = fails_from_now_on(Running::start_with_token(seconds(40)).await);
    tokio::time::sleep_until(start + seconds(30) - Duration::from_millis(2)).await;
    assert!(credential.current().is_some());
    sleep(Duration::from_millis(4)).await;
    assert!(credential.current().is_none());
}

#[tokio::test(start_paused = true)]
async fn lifetime_counts_from_the_sending_of_the_request() {
    let start = clock::now();
    let mut running = Running::start();
    let request = running.request().await;
    sleep(seconds(8)).await;
    request.grant(seconds(40));
    let (credential, _) = fails_from_now_on(running);
    credential.bearer(soon()).await.expect("a token was granted");
    tokio::time::sleep_until(start + seconds(30) + Duration::from_millis(2)).await;
    assert!(credential.current().is_none());
}

#[tokio::test(start_paused = true)]
async fn token_that_expired_during_suspend_is_not_handed_out() {
    let mut running = Running::start_with_token(LIFETIME).await;
    // The monotonic clock does not advance during suspend.
    running.wall.shift_by_ms(7_200_000);
    assert!(running.credential.current().is_none());
    let credential = running.credential.clone();
    let call = tokio::spawn(async move { credential.bearer(soon()).await });
    running.request().await.grant(LIFETIME);
    call.await.expect("no panic").expect("the new token");
}

#[tokio::test(start_paused = true)]
async fn setting_the_wall_clock_back_does_not_extend_the_lifetime_of_a_token() {
    let start = clock::now();
    let running = Running::start_with_token(LIFETIME).await;
    running.wall.shift_by_ms(-3_600_000);
    let (credential, _) = fails_from_now_on(running);
    tokio::time::sleep_until(start + LIFETIME - seconds(30)).await;
    assert!(credential.current().is_none());
}

#[tokio::test(start_paused = true)]
async fn divergence_of_the_clocks_causes_exactly_one_refresh() {
    for shift in [31_000, 3_600_000, -31_000, -3_600_000] {
        let mut running = Running::start_with_token(LIFETIME).await;
        sleep(seconds(100)).await;
        running.wall.shift_by_ms(shift);
        let set = clock::now();
        let request = running.request().await;
        assert!(request.at - set <= refresh::CLOCK_CHECK_INTERVAL, "{shift}");
        request.grant(LIFETIME);
        running.is_quiet_for(HOUR).await;
    }
}

#[tokio::test(start_paused = true)]
async fn small_drift_of_the_wall_clock_causes_no_refresh() {
    let mut running = Running::start_with_token(LIFETIME).await;
    running.wall.shift_by_ms(29_000);
    running.is_quiet_for(HOUR).await;
}

#[tokio::test(start_paused = true)]
async fn wall_clock_that_jumps_back_and_forth_causes_no_request_storm() {
    let mut running = Running::start_with_token(LIFETIME).await;
    let start = clock::now();
    let mut requests: u32 = 0;
    for n in 0..600_i64 {
        running.wall.shift_by_ms(if n % 2 == 0 { 3_600_000 } else { -3_600_000 });
        while let Ok(Some(request)) = timeout(seconds(1), running.requests.recv()).await {
            requests += 1;
            request.grant(LIFETIME);
        }
    }
    let elapsed = clock::now() - start;
    assert!(Duration::from_secs(10) * requests <= elapsed + seconds(10), "{requests} in {elapsed:?}");
}

#[tokio::test(start_paused = true)]
async fn token_that_expired_on_arrival_is_a_failure_for_all_waiters() {
    let mut running = Running::start();
    let waiting = running.waiters(3).await;
    let request = running.request().await;
    sleep(seconds(4)).await;
    request.grant(seconds(4));
    for (_, answer) in waiting.join_all().await {
        assert!(is_failing(&answer), "{answer:?}");
    }
    assert!(matches!(running.credential.health().current(), CredentialHealth::Failing { .. }));
    running.request().await.grant(LIFETIME);
    assert!(running.credential.bearer(soon()).await.is_ok());
}

/// Fails (and does not hang) if the hot path takes the lock that calls and the refresh task share.
#[tokio::test(start_paused = true)]
async fn reading_the_token_takes_no_lock() {
    let running = Running::start_with_token(LIFETIME).await;
    let credential = running.credential.clone();
    let read = running.credential.0.locked(|_| {
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || sender.send(credential.current().is_some()));
        receiver.recv_timeout(seconds(5))
    });
    assert_eq!(read, Some(Ok(true)));
}

#[tokio::test(start_paused = true)]
async fn header_is_the_bearer_token_and_is_marked_sensitive() {
    let mut running = Running::start();
    running.request().await.answer(Ok(Fetched::new("xyz.UVW-987", LIFETIME).expect("a valid token")));
    let bearer = running.credential.bearer(soon()).await.expect("a token was granted");
    assert_eq!(bearer.header_value(), "Bearer xyz.UVW-987");
    assert!(bearer.header_value().is_sensitive());
    let debug = format!("{bearer:?} {:?}", running.credential);
    // Letters that cannot occur in a hexadecimal address of a field.
    assert!(!debug.contains("xyz") && !debug.contains("UVW"), "{debug}");
}

#[test]
fn token_that_a_header_cannot_carry_is_rejected() {
    let long = "a".repeat(16 * 1024);
    assert!(Fetched::new(&long, LIFETIME).is_some());
    for token in ["", " ", "a b", "a\r\nb", "a\tb", "ä", "\u{7f}", &format!("{long}a")] {
        assert!(Fetched::new(token, LIFETIME).is_none(), "{token:.20}");
    }
}

#[test]
fn client_id_must_be_valid_in_basic_authentication() {
    assert!(ClientId::parse("6bc0d2f1-5a3b-4a7e-9d21-0a4a2f5d1c11").is_ok());
    let long = "a".repeat(256);
    assert!(ClientId::parse(&long[1..]).is_ok());
    for wrong in ["", "a:b", "a\n", "a b", "\u{e4}", &long] {
        assert_eq!(ClientId::parse(wrong), Err(InvalidClientId), "{wrong:?}");
    }
}
