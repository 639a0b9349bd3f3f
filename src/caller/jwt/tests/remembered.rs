//! Tokens that are not verified again, and the conditions that invalidate them.

use std::cell::Cell;

use super::*;

thread_local! {
    /// Number of tokens whose signature was checked on this thread.
    pub(in crate::caller::jwt) static VERIFIED: Cell<u32> = const { Cell::new(0) };
}

/// An issuer with keys and a clock that the test controls.
pub(super) struct Issuer {
    pub(super) verifiers: JwtVerifiers,
    keys: Arc<KeyRing>,
    clock: WallClock,
}

impl Issuer {
    fn new(settings: JwtSettings, keys: Arc<KeyRing>) -> Self {
        let clock = WallClock::following_monotonic();
        let behind = WallClock::system().now().duration_since(clock.now()).unwrap();
        clock.shift_by_ms(i64::try_from(behind.as_millis()).unwrap());
        let verifier = JwtVerifier::new(
            settings,
            Arc::clone(&keys),
            VerifiedTokens::new(1, Metrics::new().caller_memory(CallerMemory::Jwt)),
        );
        let verifier = JwtVerifier { clock: clock.clone(), ..verifier };
        Self { verifiers: JwtVerifiers { issuers: vec![verifier], waiters: waiters() }, keys, clock }
    }

    pub(super) fn of(keys: &[&SigningKey]) -> Self {
        Self::new(settings(), KeyRing::fixed(&jwks(keys), None))
    }

    /// Returns the caller of a token, and whether its signature was checked.
    async fn sees(&self, token: &str) -> (Result<String, JwtError>, bool) {
        let before = VERIFIED.get();
        let seen = seen_by(&self.verifiers, token).await;
        (seen.map(|caller| caller.name().to_string()), VERIFIED.get() > before)
    }

    pub(super) fn remembered(&self) -> usize {
        self.verifiers.issuers.iter().map(|verifier| verifier.verified.len()).sum()
    }
}

fn checked(name: &str) -> (Result<String, JwtError>, bool) {
    (Ok(name.to_owned()), true)
}

fn recognized(name: &str) -> (Result<String, JwtError>, bool) {
    (Ok(name.to_owned()), false)
}

fn refused(error: JwtError) -> (Result<String, JwtError>, bool) {
    (Err(error), true)
}

#[tokio::test]
async fn signature_of_a_repeated_token_is_checked_once() {
    for algorithm in ALGORITHMS {
        let key = SigningKey::new("k1", algorithm);
        let issuer = Issuer::of(&[&key]);
        let (one, other) = (key.token_for("portal"), key.token_for("billing"));
        assert_eq!(issuer.sees(&one).await, checked("jwt:portal"));
        assert_eq!(issuer.sees(&other).await, checked("jwt:billing"));
        for _ in 0..10 {
            assert_eq!(issuer.sees(&one).await, recognized("jwt:portal"));
            assert_eq!(issuer.sees(&other).await, recognized("jwt:billing"));
        }
        assert_eq!(issuer.remembered(), 2);
    }
}

#[tokio::test]
async fn refused_tokens_are_never_remembered() {
    let key = SigningKey::new("k1", Algorithm::ES256);
    let forger = SigningKey::new("k1", Algorithm::ES256);
    let unknown_key = SigningKey::new("k2", Algorithm::ES256);
    let settings = JwtSettings { max_lifetime: Some(Duration::from_mins(10)), ..settings() };
    let issuer = Issuer::new(settings, KeyRing::fixed(&jwks(&[&key]), None));
    let iat = in_seconds(0);
    for _ in 0..3 {
        for (token, error) in [
            (forger.sign(&claims(&json!({ "iat": iat }))), JwtError::Signature),
            (key.sign(&claims(&json!({ "iat": iat, "exp": in_seconds(-60) }))), JwtError::Expired),
            (key.sign(&claims(&json!({ "iat": iat, "nbf": in_seconds(60) }))), JwtError::NotYetValid),
            (key.sign(&claims(&json!({ "iat": iat, "aud": "other" }))), JwtError::Audience),
            (key.sign(&claims(&json!({ "iat": iat, "sub": "a b" }))), JwtError::Subject),
            (key.sign(&claims(&json!({ "iat": in_seconds(-3600) }))), JwtError::Lifetime),
            (key.sign(&claims(&json!({}))), JwtError::Lifetime),
        ] {
            assert_eq!(issuer.sees(&token).await, refused(error));
        }
        let unknown = issuer.sees(&unknown_key.sign(&claims(&json!({ "iat": iat })))).await;
        assert_eq!(unknown.0, Err(JwtError::UnknownKey));
        assert!(issuer.sees("a.b.c").await.0.is_err());
        assert_eq!(issuer.remembered(), 0);
    }
    let token = key.sign(&claims(&json!({ "iat": iat })));
    assert_eq!(issuer.sees(&token).await, checked("jwt:portal"));
    assert_eq!(issuer.remembered(), 1);
}

#[tokio::test]
async fn text_that_differs_from_the_remembered_token_is_verified_in_full() {
    let key = SigningKey::new("k1", Algorithm::ES256);
    let issuer = Issuer::of(&[&key]);
    let token = key.token_for("portal");
    assert_eq!(issuer.sees(&token).await, checked("jwt:portal"));
    for position in 0..token.len() {
        let mut changed = token.clone().into_bytes();
        changed[position] = if changed[position] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(changed).unwrap();
        assert!(issuer.sees(&changed).await.0.is_err(), "{position}");
    }
    for changed in [&token[1..], &token[..token.len() - 1], &format!("{token}A"), &token.to_uppercase()] {
        assert!(issuer.sees(changed).await.0.is_err(), "{changed}");
    }
    assert_eq!(issuer.remembered(), 1);
    assert_eq!(issuer.sees(&token).await, recognized("jwt:portal"));
}

#[tokio::test]
async fn remembered_token_is_refused_as_soon_as_its_key_is_withdrawn() {
    let (key, next) = (SigningKey::new("k1", Algorithm::ES256), SigningKey::new("k2", Algorithm::ES256));
    let other = SigningKey::new("k1", Algorithm::ES256);
    let issuer = Issuer::of(&[&key]);
    let token = key.token_for("portal");
    assert_eq!(issuer.sees(&token).await, checked("jwt:portal"));

    issuer.keys.replace(&jwks(&[&key]));
    assert_eq!(issuer.sees(&token).await, recognized("jwt:portal"), "the same keys, fetched again");
    issuer.keys.replace(&jwks(&[&key, &next]));
    assert_eq!(issuer.sees(&token).await, checked("jwt:portal"), "other keys, so checked again");
    assert_eq!(issuer.sees(&token).await, recognized("jwt:portal"));

    issuer.keys.replace(&jwks(&[&next]));
    assert_eq!(issuer.sees(&token).await.0, Err(JwtError::UnknownKey));
    issuer.keys.replace(&jwks(&[&other, &next]));
    assert_eq!(issuer.sees(&token).await, refused(JwtError::Signature), "another key with the same id");
    issuer.keys.replace(&jwks(&[&key, &next]));
    assert_eq!(issuer.sees(&token).await, checked("jwt:portal"));
    assert_eq!(issuer.remembered(), 1);
}

#[tokio::test(start_paused = true)]
async fn remembered_token_is_refused_once_the_keys_are_too_old() {
    let key = SigningKey::new("k1", Algorithm::ES256);
    let issuer = Issuer::new(settings(), KeyRing::fixed(&jwks(&[&key]), Some(Duration::from_hours(1))));
    let token = key.sign(&claims(&json!({ "exp": in_seconds(100_000) })));
    assert_eq!(issuer.sees(&token).await, checked("jwt:portal"));
    tokio::time::advance(Duration::from_secs(3599)).await;
    assert_eq!(issuer.sees(&token).await, recognized("jwt:portal"));
    tokio::time::advance(Duration::from_secs(2)).await;
    assert_eq!(issuer.sees(&token).await.0, Err(JwtError::KeysTooOld));
    issuer.keys.replace(&jwks(&[&key]));
    assert_eq!(issuer.sees(&token).await, recognized("jwt:portal"));
}

#[tokio::test]
async fn times_of_a_remembered_token_are_compared_with_the_clock_each_time() {
    let key = SigningKey::new("k1", Algorithm::ES256);
    let issuer = Issuer::of(&[&key]);
    let times = json!({ "exp": in_seconds(3600), "nbf": in_seconds(-3600), "iat": in_seconds(-60) });
    let token = key.sign(&claims(&times));
    assert_eq!(issuer.sees(&token).await, checked("jwt:portal"));
    // The library has its own clock, so a full check always succeeds. It happens if and only if the
    // token is not valid by the cache's clock.
    for (offset, is_valid) in [(3000, true), (4000, false), (-3000, true), (-4000, false), (0, true)] {
        issuer.clock.shift_by_ms(offset * 1000);
        let (seen, was_checked) = issuer.sees(&token).await;
        assert_eq!((seen.as_deref(), was_checked), (Ok("jwt:portal"), !is_valid), "{offset}");
        issuer.clock.shift_by_ms(-offset * 1000);
    }
}

#[tokio::test]
async fn remembered_token_of_a_limited_lifetime_is_not_valid_before_it_was_issued() {
    let key = SigningKey::new("k1", Algorithm::ES256);
    let settings = JwtSettings { max_lifetime: Some(Duration::from_mins(10)), ..settings() };
    let issuer = Issuer::new(settings, KeyRing::fixed(&jwks(&[&key]), None));
    let token = key.sign(&claims(&json!({ "iat": in_seconds(0) })));
    assert_eq!(issuer.sees(&token).await, checked("jwt:portal"));
    issuer.clock.shift_by_ms(-3_600_000);
    assert_eq!(issuer.sees(&token).await, refused(JwtError::NotYetValid));
    issuer.clock.shift_by_ms(3_600_000);
    assert_eq!(issuer.sees(&token).await, recognized("jwt:portal"));
}

#[tokio::test]
async fn tokens_of_several_issuers_are_remembered_separately() {
    let two = Two::new();
    let [corp, k8s] = &two.keys;
    let token = |key: &SigningKey, issuer| key.sign(&claims(&json!({ "iss": issuer })));
    let (of_corp, of_k8s) = (token(corp, ISSUER), token(k8s, OTHER_ISSUER));
    let name =
        async |token: &str| seen_by(&two.verifiers, token).await.map(|caller| caller.name().to_string());
    VERIFIED.set(0);
    for _ in 0..3 {
        assert_eq!(name(&of_corp).await.as_deref(), Ok("jwt:corp:portal"));
        assert_eq!(name(&of_k8s).await.as_deref(), Ok("jwt:k8s:portal"));
    }
    assert_eq!(VERIFIED.get(), 2);
    two.verifiers.issuers[0].keys.replace(&jwks(&[&SigningKey::new("k1", Algorithm::ES256)]));
    assert_eq!(name(&of_corp).await, Err(JwtError::Signature));
    assert_eq!(name(&of_k8s).await.as_deref(), Ok("jwt:k8s:portal"));
    assert_eq!(VERIFIED.get(), 3, "keys of one issuer do not affect another");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Times may have fractions (RFC 7519). A remembered token is valid at most as long as a full
    /// check would accept it.
    #[test]
    fn remembered_validity_is_within_the_claimed_one(
        exp in -1e13..1e13_f64,
        nbf in prop::option::of(-1e13..1e13_f64),
        iat in prop::option::of(-1e13..1e13_f64),
        is_iat_checked: bool,
    ) {
        let claims: RegisteredClaims = serde_json::from_value(
            json!({ "iss": ISSUER, "sub": "portal", "exp": exp, "nbf": nbf, "iat": iat }),
        ).unwrap();
        let Validity { from, until } = claims.validity(is_iat_checked);
        let (from, until) = (Duration::from_secs(from).as_secs_f64(), Duration::from_secs(until).as_secs_f64());
        let latest = clock::MAX_TIMESTAMP.as_secs_f64();
        prop_assert!(until <= exp.clamp(0.0, latest) + 30.0);
        for start in [nbf, iat.filter(|_| is_iat_checked)].into_iter().flatten() {
            prop_assert!(from + 30.0 >= start.min(latest), "{from} {start}");
        }
    }
}
