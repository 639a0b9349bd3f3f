//! What happens when the platform refuses a token with a 401.

use tokio::task::JoinSet;

use super::{progress::FORCED_REFRESH_FLOOR, *};

impl Running {
    async fn refused(&self, rejected: Generation) -> (Duration, Result<Bearer, CredentialError>) {
        timed(self.credential.bearer_after_rejection(rejected, soon())).await
    }

    /// Many calls that saw the refusal, all of them waiting.
    async fn all_refused(
        &self,
        count: usize,
        rejected: Generation,
    ) -> JoinSet<Result<Bearer, CredentialError>> {
        let mut calls = JoinSet::new();
        for _ in 0..count {
            let credential = self.credential.clone();
            calls.spawn(async move { credential.bearer_after_rejection(rejected, soon()).await });
        }
        settle().await;
        calls
    }
}

#[tokio::test(start_paused = true)]
async fn thousand_refusals_of_one_token_lead_to_one_refresh_and_each_gets_the_new_one() {
    let mut running = Running::start_with_token(LIFETIME).await;
    let rejected = running.generation().expect("a token is in service");
    let calls = running.all_refused(1000, rejected).await;
    let request = running.request().await;
    running.is_quiet_for(seconds(5)).await;
    // Others are not held up: the refusal may be about one user.
    assert_eq!(running.generation(), Some(rejected));
    request.grant(LIFETIME);
    for answer in calls.join_all().await {
        assert!(answer.expect("the new token").generation() > rejected);
    }
    assert!(running.generation() > Some(rejected));

    // One that hears of the refusal late.
    let (took, answer) = running.refused(rejected).await;
    assert!(took.is_zero() && answer.expect("the new token").generation() > rejected);
    running.is_quiet_for(HOUR).await;
}

#[tokio::test(start_paused = true)]
async fn refusal_of_the_new_token_stalls_nobody_and_forces_no_second_refresh_in_ten_seconds() {
    let mut running = Running::start_with_token(LIFETIME).await;
    let first = running.generation().expect("a token is in service");
    let forced_at = clock::now();
    let calls = running.all_refused(1, first).await;
    running.request().await.grant(LIFETIME);
    calls.join_all().await;
    let second = running.generation().expect("a token is in service");

    for _ in 0..100 {
        let (took, answer) = running.refused(second).await;
        assert_eq!((took, answer.err()), (Duration::ZERO, Some(CredentialError::Rejected)));
        assert_eq!(running.generation(), Some(second));
    }
    let floor = forced_at + FORCED_REFRESH_FLOOR;
    running.is_quiet_for(floor - Duration::from_millis(2) - clock::now()).await;
    assert_eq!(running.refused(second).await.1.err(), Some(CredentialError::Rejected));

    sleep(Duration::from_millis(4)).await;
    let calls = running.all_refused(100, second).await;
    running.request().await.grant(LIFETIME);
    for answer in calls.join_all().await {
        assert!(answer.expect("the new token").generation() > second);
    }
}

#[tokio::test(start_paused = true)]
async fn user_whose_refusal_persists_costs_one_token_request_in_ten_seconds() {
    let mut running = Running::start_with_token(LIFETIME).await;
    let credential = running.credential.clone();
    let start = clock::now();
    let user = tokio::spawn(async move {
        while clock::now() < start + seconds(100) {
            let current = credential.current().expect("others are always served");
            let _ = credential.bearer_after_rejection(current.generation(), soon()).await;
            sleep(Duration::from_millis(50)).await;
        }
    });
    let mut requests = 0;
    while let Ok(Some(request)) = timeout(seconds(30), running.requests.recv()).await {
        requests += 1;
        request.grant(LIFETIME);
    }
    user.await.expect("others are always served");
    assert_eq!(requests, 10);
}

#[tokio::test(start_paused = true)]
async fn forced_refresh_that_fails_is_shared_leaves_the_token_in_service_and_is_made_up_for() {
    let mut running = Running::start_with_token(LIFETIME).await;
    let rejected = running.generation().expect("a token is in service");
    let calls = running.all_refused(100, rejected).await;
    running.request().await.fail(CredentialError::Unreachable);
    for answer in calls.join_all().await {
        assert_eq!(answer.err(), Some(CredentialError::Unreachable));
    }
    assert_eq!(running.generation(), Some(rejected));
    let (took, answer) = running.refused(rejected).await;
    assert_eq!((took, answer.err()), (Duration::ZERO, Some(CredentialError::Unreachable)));

    running.request().await.grant(LIFETIME);
    settle().await;
    let (_, answer) = running.refused(rejected).await;
    assert!(answer.expect("the new token").generation() > rejected);
}

#[tokio::test(start_paused = true)]
async fn refusal_during_a_renewal_joins_it() {
    let mut running = Running::start_with_token(LIFETIME).await;
    let rejected = running.generation().expect("a token is in service");
    let renewal = running.request().await;
    let calls = running.all_refused(10, rejected).await;
    renewal.grant(LIFETIME);
    for answer in calls.join_all().await {
        assert!(answer.expect("the new token").generation() > rejected);
    }
    running.is_quiet_for(HOUR).await;
}

#[tokio::test(start_paused = true)]
async fn refused_call_leaves_at_its_deadline_and_the_refresh_goes_on() {
    let mut running = Running::start_with_token(LIFETIME).await;
    let rejected = running.generation().expect("a token is in service");
    let answer = running.credential.bearer_after_rejection(rejected, Deadline::after(seconds(1))).await;
    assert_eq!(answer.err(), Some(CredentialError::DeadlinePassed));
    running.request().await.grant(LIFETIME);
    settle().await;
    assert!(running.generation() > Some(rejected));
}
