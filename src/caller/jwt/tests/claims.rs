//! Claims that access rules require, read from verified tokens.

use super::{remembered::Issuer, *};
use crate::caller::{ClaimPath, ClaimRequirement, ClaimValue};

fn required(path: &str, value: &str) -> ClaimRequirement {
    ClaimRequirement { path: ClaimPath::new(path).unwrap(), values: vec![ClaimValue::Text(value.into())] }
}

fn requested(path: &str, value: &str) -> RequestedClaims {
    RequestedClaims::new(&[required(path, value)])
}

/// Whether the caller of a token has a claim, and whether the token's signature was checked.
async fn sees(issuer: &Issuer, token: &str, path: &str, requested: &RequestedClaims) -> (bool, bool) {
    let before = VERIFIED.get();
    let caller = seen_with(&issuer.verifiers, token, requested).await.unwrap();
    (caller.claims.meet(&[required(path, "issuers")]), VERIFIED.get() > before)
}

#[tokio::test]
async fn remembered_token_is_not_parsed_again_and_keeps_its_claims() {
    let key = SigningKey::new("k1", Algorithm::ES256);
    let issuer = Issuer::of(&[&key]);
    let token = key.sign(&claims(&json!({ "groups": ["staff", "issuers"] })));
    let groups = requested("groups", "issuers");
    assert_eq!(sees(&issuer, &token, "groups", &groups).await, (true, true));
    for _ in 0..3 {
        assert_eq!(sees(&issuer, &token, "groups", &groups).await, (true, false));
    }
    let other = key.sign(&claims(&json!({ "groups": ["staff"] })));
    assert_eq!(sees(&issuer, &other, "groups", &groups).await, (false, true));
    assert_eq!(sees(&issuer, &other, "groups", &groups).await, (false, false));
}

#[tokio::test]
async fn token_is_verified_again_once_other_claims_are_required() {
    let key = SigningKey::new("k1", Algorithm::ES256);
    let issuer = Issuer::of(&[&key]);
    let token = key.sign(&claims(&json!({ "groups": "issuers", "roles": ["issuers"] })));
    let (groups, roles) = (requested("groups", "issuers"), requested("roles", "issuers"));
    assert_eq!(sees(&issuer, &token, "groups", &RequestedClaims::default()).await, (false, true));
    assert_eq!(sees(&issuer, &token, "groups", &groups).await, (true, true), "required now");
    assert_eq!(sees(&issuer, &token, "groups", &groups).await, (true, false));
    assert_eq!(sees(&issuer, &token, "roles", &roles).await, (true, true), "another claim");
    assert_eq!(sees(&issuer, &token, "groups", &roles).await, (false, false), "no longer read");
    let another_value = requested("groups", "auditors");
    assert_eq!(sees(&issuer, &token, "groups", &another_value).await, (false, true), "another value");
    assert_eq!(sees(&issuer, &token, "groups", &RequestedClaims::default()).await, (false, true));
    assert_eq!(sees(&issuer, &token, "groups", &RequestedClaims::default()).await, (false, false));
    assert_eq!(issuer.remembered(), 1);
}

#[tokio::test]
async fn token_whose_required_claims_cannot_be_used_is_refused() {
    let key = SigningKey::new("k1", Algorithm::ES256);
    let encoded = |claims: &str| {
        let payload = format!(
            r#"{{"iss":"{ISSUER}","aud":"{AUDIENCE}","sub":"portal","exp":{},{claims}}}"#,
            in_seconds(300)
        );
        let header = json!({ "alg": "ES256", "kid": "k1" }).to_string();
        let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload));
        let signature = jsonwebtoken::crypto::sign(signed.as_bytes(), &key.key, Algorithm::ES256).unwrap();
        format!("{signed}.{signature}")
    };
    let words: Vec<String> = (0..200).map(|number| format!("w{number}")).collect();
    let accepted = words.iter().map(|word| ClaimValue::Text(word.as_str().into())).collect();
    let scope = ClaimRequirement { path: ClaimPath::new("scope").unwrap(), values: accepted };
    let requested = RequestedClaims::new(&[required("groups", "issuers"), scope]);
    for (claims, error) in [
        (r#""groups":"issuers","groups":"staff""#.to_owned(), JwtError::DuplicateClaim),
        (r#""groups":"\ud800""#.to_owned(), JwtError::UnreadableClaim),
        (format!(r#""scope":"{}""#, words.join(" ")), JwtError::TooManyClaims),
    ] {
        let issuer = Issuer::of(&[&key]);
        let token = encoded(&claims);
        let seen = seen_with(&issuer.verifiers, &token, &requested).await;
        assert_eq!(seen.unwrap_err(), error, "{claims}");
        assert_eq!(issuer.remembered(), 0);
        assert!(seen_by(&issuer.verifiers, &token).await.is_ok(), "no rule requires the claim");
    }
}

#[tokio::test]
async fn claims_of_a_token_that_is_not_valid_are_not_read() {
    let (key, forger) = (SigningKey::new("k1", Algorithm::ES256), SigningKey::new("k1", Algorithm::ES256));
    let issuer = Issuer::of(&[&key]);
    let token = forger.sign(&claims(&json!({ "groups": "issuers" })));
    let refused = seen_with(&issuer.verifiers, &token, &requested("groups", "issuers")).await;
    assert_eq!(refused.unwrap_err(), JwtError::Signature);
}
