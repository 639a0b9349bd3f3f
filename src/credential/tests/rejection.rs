//! Handling of a 401 of the platform.

use std::{collections::HashMap, sync::Mutex};

use tokio::task::JoinSet;

use super::{
    tokens::{PROBE_INTERVAL, YOUNG},
    *,
};
use crate::base::backoff::assert_spread;

type Outcome = Result<Replay, CredentialError>;

impl Running {
    /// Starts with a token in service that was accepted once, and that every node has had time to
    /// accept.
    async fn start_with_old_token() -> Self {
        let running = Self::start_with_token(LIFETIME).await;
        sleep(YOUNG).await;
        running
    }

    async fn bearer(&self) -> Bearer {
        self.credential.bearer(soon()).await.expect("a token is in service")
    }

    /// Returns how a call for `subject` proceeds after a 401, and how long that decision took.
    async fn refused(&self, bearer: &Bearer, subject: &str) -> (Duration, Outcome) {
        timed(self.credential.after_rejection(bearer, subject, soon())).await
    }

    /// Starts `count` calls for one subject that were refused and wait.
    async fn all_refused(&self, count: usize, bearer: &Bearer, subject: &'static str) -> JoinSet<Outcome> {
        let mut calls = JoinSet::new();
        for _ in 0..count {
            let (credential, bearer) = (self.credential.clone(), bearer.clone());
            calls.spawn(async move { credential.after_rejection(&bearer, subject, soon()).await });
        }
        settle().await;
        calls
    }

    /// Makes a 401 lead to a token request, and answers it with a new token.
    async fn forced_refresh(&mut self, bearer: &Bearer, subject: &'static str) -> Bearer {
        let calls = self.all_refused(1, bearer, subject).await;
        self.request().await.grant(LIFETIME);
        let replay = calls.join_all().await.remove(0);
        now(replay)
    }
}

fn now(outcome: Outcome) -> Bearer {
    match outcome {
        Ok(Replay::Now(bearer)) => bearer,
        other => panic!("not sent again at once: {other:?}"),
    }
}

fn after(outcome: Outcome) -> (Duration, Bearer) {
    match outcome {
        Ok(Replay::After(wait, bearer)) => (wait, bearer),
        other => panic!("not sent again after a wait: {other:?}"),
    }
}

fn kind(outcome: Outcome) -> CredentialErrorKind {
    outcome.expect_err("an error").kind()
}

fn is_never(outcome: &Outcome) -> bool {
    matches!(outcome, Ok(Replay::Never))
}

#[tokio::test(start_paused = true)]
async fn delays_before_a_replay_with_the_same_token_are_spread_over_half_a_second() {
    let mut waits = Vec::new();
    for _ in 0..100 {
        let running = Running::start_with_token(LIFETIME).await;
        let bearer = running.bearer().await;
        waits.push(after(running.refused(&bearer, "someone").await.1).0);
    }
    assert_spread(&waits, Duration::from_millis(500), seconds(1));
}

#[tokio::test(start_paused = true)]
async fn thousand_refusals_of_one_token_lead_to_one_refresh_and_each_gets_the_new_one() {
    let mut running = Running::start_with_old_token().await;
    let refused = running.bearer().await;
    let calls = running.all_refused(1000, &refused, "someone").await;
    let request = running.request().await;
    running.is_quiet_for(seconds(5)).await;
    // Other calls do not wait: the refusal may be about one user.
    assert_eq!(running.bearer().await.generation(), refused.generation());
    request.grant(LIFETIME);
    for outcome in calls.join_all().await {
        assert!(now(outcome).generation() > refused.generation());
    }

    // A call whose 401 arrives late.
    let (took, outcome) = running.refused(&refused, "late").await;
    assert!(took.is_zero() && now(outcome).generation() > refused.generation());
    running.is_quiet_for(HOUR).await;
}

#[tokio::test(start_paused = true)]
async fn user_who_is_always_refused_delays_no_other_and_is_limited_for_ten_seconds() {
    let mut running = Running::start_with_old_token().await;
    let first = running.bearer().await;
    let second = running.forced_refresh(&first, "bad").await;
    let forced_at = clock::now();

    // Others are served with the first token, and this user is refused with the new one as well:
    // after one delay, the 401 is final.
    running.credential.accepted(&first);
    let (wait, again) = after(running.refused(&second, "bad").await.1);
    assert!(wait >= Duration::from_millis(500) && wait <= seconds(1), "{wait:?}");
    assert_eq!(again.generation(), second.generation());
    assert!(is_never(&running.refused(&again, "bad").await.1));
    running.token_works().await;

    let mut last = None;
    for n in 1..=80 {
        sleep(Duration::from_millis(100)).await;
        running.token_works().await;
        // Like a call: with each token that it has not tried.
        let mut bearer = running.bearer().await;
        let error = loop {
            match running.refused(&bearer, "bad").await {
                (took, Ok(Replay::Now(next))) => {
                    assert!(took.is_zero());
                    bearer = next;
                }
                (took, Err(error)) => {
                    assert!(took.is_zero());
                    break error;
                }
                other => panic!("{n}: {other:?}"),
            }
        };
        assert_eq!(error.kind(), CredentialErrorKind::RefreshLimited);
        let rest = error.retry_after().expect("the rest of the floor");
        assert_eq!(clock::now() + rest, forced_at + YOUNG);
        assert!(last.is_none_or(|last| rest < last));
        last = Some(rest);
    }
    assert!(running.requests.try_recv().is_err());

    // The limit ends when the second token is no longer young.
    tokio::time::sleep_until(forced_at + YOUNG + seconds(2)).await;
    let current = running.bearer().await;
    let third = running.forced_refresh(&current, "bad").await;
    assert!(third.generation() > second.generation());
}

/// No call was accepted since the first token was refused: it may have been revoked, and the API
/// may not know the second one yet.
#[tokio::test(start_paused = true)]
async fn refusal_of_a_young_token_can_always_be_retried() {
    let mut running = Running::start_with_old_token().await;
    let first = running.bearer().await;
    let mut bearer = running.forced_refresh(&first, "someone").await;
    let second = bearer.generation();
    let deadline = Deadline::after(seconds(5));
    let error = loop {
        match running.credential.after_rejection(&bearer, "someone", deadline).await {
            Ok(Replay::After(wait, next)) => {
                assert_eq!(next.generation(), second);
                sleep(wait).await;
                bearer = next;
            }
            Err(error) => break error,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(error.kind(), CredentialErrorKind::NotAcceptedYet);
    assert_eq!(error.retry_after(), Some(seconds(1)));
    assert!(running.requests.try_recv().is_err(), "a refresh would restart the delay");
}

#[tokio::test(start_paused = true)]
async fn subject_that_was_refused_before_does_not_delay_the_refresh_for_another() {
    let mut running = Running::start_with_old_token().await;
    let first = running.bearer().await;
    running.forced_refresh(&first, "bad").await;
    running.token_works().await;
    sleep(YOUNG / 2).await;
    let revoked = running.bearer().await;

    // A young token is not replaced, even if several subjects are refused with it.
    let before = now(running.refused(&revoked, "bad").await.1);
    assert_eq!(before.generation(), first.generation());
    assert_eq!(kind(running.refused(&before, "bad").await.1), CredentialErrorKind::RefreshLimited);
    let before = now(running.refused(&revoked, "good").await.1);
    assert_eq!(after(running.refused(&before, "good").await.1).1.generation(), revoked.generation());
    assert!(running.requests.try_recv().is_err());

    // Once it is 10 s old, it is replaced at once.
    sleep(YOUNG / 2).await;
    let third = running.forced_refresh(&revoked, "good").await;
    assert!(third.generation() > revoked.generation());
    assert!(now(running.refused(&revoked, "bad").await.1).is(third.token()), "both get the same one");
}

/// The fallback is the last token that is no longer young.
#[tokio::test(start_paused = true)]
async fn young_token_does_not_replace_the_proven_fallback() {
    let running = Running::start_with_token(LIFETIME).await;
    let shared = &running.credential.0;
    let mut generation = Generation::ZERO;
    let mut renew = |lifetime| {
        generation = generation.next();
        let fetched = Fetched::new("token", lifetime).expect("a valid token");
        let now = shared.now();
        let token = access_token::AccessToken::new(fetched, generation, (now.instant, now.wall), now.instant);
        shared.succeeded(token);
        let token = Arc::clone(shared.tokens().expect("in service").newest());
        token.accept();
        token
    };
    let previous = || shared.tokens().and_then(|tokens| tokens.previous(shared.now()).cloned());
    let is_previous = |token| previous().is_some_and(|previous| Arc::ptr_eq(&previous, token));

    let proven = renew(LIFETIME);
    sleep(YOUNG).await;
    let young = renew(LIFETIME);
    assert!(is_previous(&proven));
    sleep(YOUNG / 2).await;
    let newest = renew(LIFETIME);
    assert!(is_previous(&proven), "the one in between was young");
    sleep(YOUNG).await;
    renew(LIFETIME);
    assert!(is_previous(&newest) && !is_previous(&young), "it is no longer young");

    // A young one does if the older one is revoked or expires first.
    newest.refuse(1, clock::now());
    newest.refuse(2, clock::now());
    let young = Arc::clone(shared.tokens().expect("in service").newest());
    let short = renew(seconds(20));
    assert!(is_previous(&young), "the older one is revoked");
    sleep(YOUNG).await;
    let young = renew(LIFETIME);
    assert!(is_previous(&short));
    renew(LIFETIME);
    assert!(is_previous(&young), "the older one is about to expire");
}

#[tokio::test(start_paused = true)]
async fn refusals_between_accepted_calls_are_attributed_to_their_users() {
    let mut running = Running::start_with_old_token().await;
    let first = running.bearer().await;
    running.forced_refresh(&first, "bad").await;
    sleep(YOUNG / 2).await;
    for _ in 0..20 {
        running.token_works().await;
        let bearer = running.bearer().await;
        let mut outcome = running.refused(&bearer, "bad").await.1;
        if let Ok(Replay::Now(older)) = outcome {
            outcome = running.refused(&older, "bad").await.1;
        }
        assert_eq!(kind(outcome), CredentialErrorKind::RefreshLimited);
        running.token_works().await;
        sleep(Duration::from_millis(20)).await;
    }
    assert!(running.requests.try_recv().is_err());
}

#[tokio::test(start_paused = true)]
async fn failed_forced_refresh_is_shared_keeps_the_token_in_service_and_is_retried() {
    let mut running = Running::start_with_old_token().await;
    let refused = running.bearer().await;
    let calls = running.all_refused(100, &refused, "someone").await;
    running.request().await.fail(CredentialErrorKind::Unreachable);
    for outcome in calls.join_all().await {
        assert_eq!(kind(outcome), CredentialErrorKind::Unreachable);
    }
    assert_eq!(running.bearer().await.generation(), refused.generation());
    let (took, outcome) = running.refused(&refused, "someone").await;
    assert_eq!((took, kind(outcome)), (Duration::ZERO, CredentialErrorKind::Unreachable));

    running.request().await.grant(LIFETIME);
    settle().await;
    let (_, outcome) = running.refused(&refused, "someone").await;
    assert!(now(outcome).generation() > refused.generation());
}

#[tokio::test(start_paused = true)]
async fn refusal_during_a_renewal_joins_it() {
    let mut running = Running::start_with_old_token().await;
    let refused = running.bearer().await;
    let renewal = running.request().await;
    let calls = running.all_refused(10, &refused, "someone").await;
    renewal.grant(LIFETIME);
    for outcome in calls.join_all().await {
        assert!(now(outcome).generation() > refused.generation());
    }
    running.is_quiet_for(HOUR).await;
}

#[tokio::test(start_paused = true)]
async fn refused_call_ends_at_its_deadline_and_the_refresh_continues() {
    let mut running = Running::start_with_old_token().await;
    let refused = running.bearer().await;
    let deadline = Deadline::after(seconds(1));
    let outcome = running.credential.after_rejection(&refused, "someone", deadline).await;
    assert_eq!(kind(outcome), CredentialErrorKind::DeadlinePassed);
    running.request().await.grant(LIFETIME);
    settle().await;
    assert!(running.generation() > Some(refused.generation()));
}

#[tokio::test(start_paused = true)]
async fn new_token_is_tried_by_one_call_a_second_until_it_is_accepted() {
    let mut running = Running::start_with_old_token().await;
    let old = running.bearer().await.generation();
    running.request().await.grant(LIFETIME);
    settle().await;
    for _ in 0..3 {
        let probe = running.bearer().await;
        assert!(probe.generation() > old);
        for _ in 0..100 {
            assert_eq!(running.bearer().await.generation(), old);
        }
        // A refusal costs this call one replay with the old token, and no refresh.
        assert_eq!(now(running.refused(&probe, "someone").await.1).generation(), old);
        tokio::time::advance(PROBE_INTERVAL).await;
    }
    assert!(running.requests.try_recv().is_err());
    let probe = running.bearer().await;
    running.credential.accepted(&probe);
    for _ in 0..100 {
        assert!(running.bearer().await.generation() > old);
    }
}

#[tokio::test(start_paused = true)]
async fn call_is_repeated_with_the_same_token_only_if_its_deadline_allows() {
    let mut running = Running::start();
    running.request().await.grant(LIFETIME);
    let bearer = running.bearer().await;
    let (wait, same) = after(running.refused(&bearer, "someone").await.1);
    assert!(wait >= Duration::from_millis(500) && wait <= seconds(1), "{wait:?}");
    assert_eq!(same.generation(), bearer.generation());

    let deadline = Deadline::after(Duration::from_millis(400));
    let error = running.credential.after_rejection(&same, "someone", deadline).await.expect_err("no time");
    assert_eq!(error.kind(), CredentialErrorKind::NotAcceptedYet);
    assert_eq!(error.retry_after(), Some(seconds(1)));
    assert!(running.requests.try_recv().is_err(), "a refresh would restart the delay");
}

/// A token that is never accepted is not merely delayed. Its replacements get more and more time.
#[tokio::test(start_paused = true)]
async fn token_that_is_never_accepted_is_replaced_at_growing_intervals() {
    let mut running = Running::start();
    running.request().await.grant(LIFETIME);
    let start = clock::now();
    let mut granted = Vec::new();
    while clock::now() - start < seconds(200) {
        let mut bearer = running.bearer().await;
        let began = clock::now();
        let credential = running.credential.clone();
        let call = tokio::spawn(async move {
            let deadline = Deadline::after(seconds(10));
            loop {
                match credential.after_rejection(&bearer, "someone", deadline).await {
                    Ok(Replay::Now(next)) => bearer = next,
                    Ok(Replay::After(wait, next)) => {
                        sleep(wait).await;
                        bearer = next;
                    }
                    Ok(Replay::Never) | Err(_) => return,
                }
            }
        });
        while !call.is_finished() {
            if let Ok(Some(request)) = timeout(Duration::from_millis(100), running.requests.recv()).await {
                granted.push((clock::now() - start).as_secs());
                request.grant(LIFETIME);
            }
        }
        assert!(clock::now() - began <= seconds(11), "a call outlives its deadline");
        sleep(seconds(1)).await;
    }
    // After 10 s, after 40 s more, and then every minute.
    assert_eq!(granted.len(), 4, "{granted:?}");
    assert!((10..=13).contains(&granted[0]) && (50..=56).contains(&granted[1]), "{granted:?}");

    // Once a token is accepted, the interval is back to normal.
    sleep(YOUNG).await;
    running.token_works().await;
    let bearer = running.bearer().await;
    running.forced_refresh(&bearer, "someone").await;
}

/// A platform that keeps track of the tokens that it has issued and revoked.
#[derive(Clone)]
struct Platform {
    /// Time until each of its nodes accepts a new token. The nodes respond in turn.
    lags: Arc<[Duration]>,
    calls: Arc<AtomicUsize>,
    issued: Arc<Mutex<HashMap<String, Instant>>>,
    refusals: Arc<AtomicUsize>,
    requests: Arc<AtomicUsize>,
}

/// Result of a call.
#[derive(Debug, PartialEq, Eq)]
enum Call {
    Works,
    Refused,
    Failed(CredentialErrorKind),
}

impl Platform {
    /// Answers every token request with a token of that lifetime, which the API accepts after
    /// `lag`.
    fn start(running: Running, lifetime: Duration, lag: Duration) -> (Self, Credential) {
        Self::start_with_nodes(running, lifetime, &[lag])
    }

    fn start_with_nodes(running: Running, lifetime: Duration, lags: &[Duration]) -> (Self, Credential) {
        let Running { credential, mut requests, stop, .. } = running;
        let platform = Self {
            lags: Arc::from(lags),
            calls: Arc::default(),
            issued: Arc::default(),
            refusals: Arc::default(),
            requests: Arc::default(),
        };
        let served = platform.clone();
        tokio::spawn(async move {
            // Dropping it would stop the refresh task.
            let _stop = stop;
            while let Some(request) = requests.recv().await {
                let number = served.requests.fetch_add(1, Ordering::SeqCst);
                let token = format!("token-{number}");
                served.issued.lock().expect("no panic").insert(format!("Bearer {token}"), clock::now());
                request.answer(Ok(Fetched::new(&token, lifetime).expect("a valid token")));
            }
        });
        (platform, credential)
    }

    fn revoke_all(&self) {
        self.issued.lock().expect("no panic").clear();
    }

    fn accepts(&self, bearer: &Bearer, subject: &str) -> bool {
        let header = bearer.header_value().to_str().expect("visible ASCII");
        let issued = self.issued.lock().expect("no panic").get(header).copied();
        let lag = self.lags[self.calls.fetch_add(1, Ordering::SeqCst) % self.lags.len()];
        issued.is_some_and(|at| clock::now() >= at + lag) && subject != "bad"
    }

    /// Makes a call like the platform client does, with a deadline of 10 s.
    async fn call(&self, credential: &Credential, subject: &str) -> Call {
        let deadline = Deadline::after(seconds(10));
        let mut bearer = match credential.bearer(deadline).await {
            Ok(bearer) => bearer,
            Err(error) => return Call::Failed(error.kind()),
        };
        loop {
            if self.accepts(&bearer, subject) {
                credential.accepted(&bearer);
                return Call::Works;
            }
            self.refusals.fetch_add(1, Ordering::SeqCst);
            match credential.after_rejection(&bearer, subject, deadline).await {
                Ok(Replay::Now(next)) => bearer = next,
                Ok(Replay::After(wait, next)) => {
                    sleep(wait).await;
                    bearer = next;
                }
                Ok(Replay::Never) => return Call::Refused,
                Err(error) => return Call::Failed(error.kind()),
            }
        }
    }

    /// Makes calls of many users at `interval`, for `time`. Returns those that failed.
    async fn calls(&self, credential: &Credential, interval: Duration, time: Duration) -> Vec<Call> {
        let end = clock::now() + time;
        let mut calls = JoinSet::new();
        for n in 0_u32.. {
            if clock::now() >= end {
                break;
            }
            let (platform, credential) = (self.clone(), credential.clone());
            calls.spawn(async move { platform.call(&credential, &format!("user-{n}")).await });
            sleep(interval).await;
        }
        calls.join_all().await.into_iter().filter(|call| *call != Call::Works).collect()
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

const OFTEN: Duration = Duration::from_millis(50);

#[tokio::test(start_paused = true)]
async fn no_call_fails_at_a_renewal_if_the_api_learns_of_the_new_token_late() {
    for lag in [Duration::ZERO, seconds(2), seconds(8)] {
        let (platform, credential) = Platform::start(Running::start(), seconds(70), lag);
        assert_eq!(platform.calls(&credential, OFTEN, seconds(9)).await, []);
        let before = platform.refusals.load(Ordering::SeqCst);
        assert_eq!(platform.requests(), 1, "no refresh while the first token is not known yet");
        assert_eq!(platform.calls(&credential, OFTEN, seconds(60)).await, []);
        let renewals = platform.requests() - 1;
        assert!((3..=5).contains(&renewals), "{renewals}");
        let refusals = platform.refusals.load(Ordering::SeqCst) - before;
        let probes = usize::try_from(lag.as_secs()).expect("few") * renewals;
        assert!(refusals <= probes + renewals, "{refusals} refusals in {renewals} renewals, lag {lag:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn nodes_that_learn_of_a_token_at_different_times_cause_no_failure_and_no_token_request() {
    let lags = [Duration::ZERO, seconds(2), seconds(4)];
    let (platform, credential) = Platform::start_with_nodes(Running::start(), LIFETIME, &lags);
    let (interval, time) = (Duration::from_millis(100), seconds(45));
    assert_eq!(platform.calls(&credential, interval, time).await, []);
    assert!(platform.refusals.load(Ordering::SeqCst) > 0, "the lag causes refusals");
    assert_eq!(platform.requests(), 1);
    for renewal in 1..=3 {
        while platform.requests() == renewal {
            sleep(Duration::from_millis(100)).await;
        }
        assert_eq!(platform.calls(&credential, interval, time).await, []);
        assert_eq!(platform.requests(), renewal + 1);
    }

    // No earlier token works.
    platform.revoke_all();
    assert_eq!(platform.calls(&credential, interval, time).await, []);
    assert_eq!(platform.requests(), 5);
}

#[tokio::test(start_paused = true)]
async fn revoked_token_is_replaced_at_once_even_if_a_user_is_always_refused() {
    for lag in [Duration::ZERO, seconds(2)] {
        let (platform, credential) = Platform::start(Running::start(), LIFETIME, lag);
        assert_eq!(platform.calls(&credential, OFTEN, seconds(30)).await, []);
        // This user uses up the forced refresh.
        assert_ne!(platform.call(&credential, "bad").await, Call::Works);
        assert_eq!(platform.calls(&credential, OFTEN, YOUNG).await, []);
        let requests = platform.requests();
        platform.revoke_all();
        let bad = platform.call(&credential, "bad");
        let good = platform.calls(&credential, OFTEN, seconds(30));
        let (bad, good) = tokio::join!(bad, good);
        assert_ne!(bad, Call::Works);
        assert_eq!(good, [], "lag {lag:?}");
        assert!(platform.requests() - requests <= 4, "{}", platform.requests() - requests);
    }
}

/// The previous token is revoked as well. A user who is always refused keeps the newest token
/// young; the revocation must be detected regardless.
#[tokio::test(start_paused = true)]
async fn young_token_that_is_revoked_is_replaced_even_if_a_user_is_always_refused() {
    let (platform, credential) = Platform::start(Running::start(), LIFETIME, Duration::ZERO);
    assert_eq!(platform.calls(&credential, OFTEN, seconds(30)).await, []);
    // Causes a token request.
    let bad = (platform.clone(), credential.clone());
    tokio::spawn(async move { bad.0.call(&bad.1, "bad").await });
    assert_eq!(platform.calls(&credential, OFTEN, seconds(3)).await, []);
    let requests = platform.requests();
    assert_eq!(requests, 2);
    platform.revoke_all();
    let revoked = clock::now();
    // The first refusal alone may be about the user.
    let failed = platform.calls(&credential, OFTEN, seconds(2)).await;
    assert!(failed.len() <= 1, "{failed:?}");
    assert!(revoked.elapsed() < seconds(5), "{:?}", revoked.elapsed());
    assert_eq!(platform.requests(), requests + 1);
}

#[tokio::test(start_paused = true)]
async fn token_that_is_revoked_before_its_first_use_is_replaced() {
    let (platform, credential) = Platform::start(Running::start(), LIFETIME, Duration::ZERO);
    assert_eq!(platform.calls(&credential, OFTEN, seconds(1)).await, []);
    assert_ne!(platform.call(&credential, "bad").await, Call::Works);
    sleep(YOUNG).await;
    platform.revoke_all();
    assert_eq!(platform.calls(&credential, OFTEN, seconds(30)).await, []);
    assert!(platform.requests() <= 5, "{}", platform.requests());
}

/// Some servers revoke a token when they issue the next one.
#[tokio::test(start_paused = true)]
async fn no_call_fails_if_issuing_a_token_revokes_the_previous_one() {
    let (platform, credential) = Platform::start(Running::start(), seconds(70), Duration::ZERO);
    for _ in 0..100 {
        let before = platform.requests();
        assert_eq!(platform.calls(&credential, OFTEN, seconds(1)).await, []);
        if platform.requests() > before {
            let newest = format!("Bearer token-{}", platform.requests() - 1);
            platform.issued.lock().expect("no panic").retain(|token, _| *token == newest);
        }
    }
    assert!(platform.requests() < 10, "{}", platform.requests());
}

#[tokio::test(start_paused = true)]
async fn user_who_is_always_refused_causes_one_token_request_in_ten_seconds() {
    let (platform, credential) = Platform::start(Running::start(), LIFETIME, Duration::ZERO);
    assert_eq!(platform.calls(&credential, OFTEN, seconds(20)).await, []);
    let requests = platform.requests();
    let bad = async {
        let end = clock::now() + seconds(100);
        while clock::now() < end {
            assert_ne!(platform.call(&credential, "bad").await, Call::Works);
            sleep(OFTEN).await;
        }
    };
    let (good, ()) = tokio::join!(platform.calls(&credential, OFTEN, seconds(100)), bad);
    assert_eq!(good, [], "others are always served");
    let requests = platform.requests() - requests;
    assert!((9..=11).contains(&requests), "{requests}");
}
