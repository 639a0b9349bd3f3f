use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::{
    caller::{
        ClaimPath, ClaimValue, Claims, Proof,
        jwks::KeyRing,
        jwt::tests::{SigningKey, jwks},
    },
    observe::telemetry::metrics::{CallerMemory, Metrics},
};

const NOW: u64 = 1_000_000;

/// Key generations before and after a change.
fn generations() -> [KeyGeneration; 2] {
    let key = || SigningKey::new("k1", jsonwebtoken::Algorithm::EdDSA);
    let ring = KeyRing::fixed(&jwks(&[&key()]), None);
    let first = ring.generation().unwrap();
    ring.replace(&jwks(&[&key()]));
    [first, ring.generation().unwrap()]
}

fn memory(issuers: usize) -> VerifiedTokens {
    VerifiedTokens::new(issuers, Metrics::new().caller_memory(CallerMemory::Jwt))
}

fn caller(number: usize) -> Caller {
    Caller::for_test(&format!("jwt:{number}"), Proof::Jwt { issuer: None })
}

fn token(number: usize, owner: usize, keys: KeyGeneration) -> VerifiedToken {
    VerifiedToken {
        digest: TokenDigest::of(&number.to_string()),
        caller: caller(owner),
        keys,
        validity: Validity { from: NOW - 100, until: NOW + 100 },
    }
}

#[test]
fn token_is_found_only_while_its_keys_are_in_use_and_its_times_are_valid() {
    let [keys, other_keys] = generations();
    let tokens = memory(1);
    let now = Conditions { keys, now: NOW, request: None };
    let shown = token(1, 7, keys);
    assert_eq!(tokens.caller(shown.digest, now), None);
    tokens.remember(shown.clone(), now);
    assert_eq!(tokens.caller(shown.digest, now), Some(caller(7)));
    assert_eq!(tokens.caller(TokenDigest::of("2"), now), None);
    assert_eq!(tokens.caller(shown.digest, Conditions { keys: other_keys, ..now }), None);
    for (now, is_valid) in [(NOW - 101, false), (NOW - 100, true), (NOW + 100, true), (NOW + 101, false)] {
        let found = tokens.caller(shown.digest, Conditions { keys, now, request: None });
        assert_eq!(found.is_some(), is_valid, "{now}");
    }
    // Tokens are not removed, so a clock that is set and set back causes no further check.
    assert_eq!(tokens.caller(shown.digest, now), Some(caller(7)));
    tokens.remember(shown.clone(), now);
    assert_eq!(tokens.len(), 1, "a token that is stored twice takes one place");
}

#[test]
fn metrics_show_evictions() {
    const ROOM: usize = 16;
    let [keys, other_keys] = generations();
    let metrics = Metrics::new();
    let tokens = VerifiedTokens::new(MAX_TOKENS / ROOM, metrics.caller_memory(CallerMemory::Jwt));
    let now = Conditions { keys, now: NOW, request: None };
    let shows = |entries: usize, hits: usize, misses: usize, displaced: usize| {
        let shown = metrics.render();
        for line in [
            format!(r#"ott_gateway_caller_memory_entries{{memory="jwt"}} {entries}"#),
            format!(r#"ott_gateway_caller_memory_lookups_total{{memory="jwt",result="hit"}} {hits}"#),
            format!(r#"ott_gateway_caller_memory_lookups_total{{memory="jwt",result="miss"}} {misses}"#),
            format!(r#"ott_gateway_caller_memory_displaced_total{{memory="jwt"}} {displaced}"#),
        ] {
            assert!(shown.lines().any(|other| other == line), "{line}\n{shown}");
        }
    };
    shows(0, 0, 0, 0);
    let first = token(0, 0, keys);
    assert_eq!(tokens.caller(first.digest, now), None);
    tokens.remember(first.clone(), now);
    assert!(tokens.caller(first.digest, now).is_some());
    shows(1, 1, 1, 0);
    for number in 0..1000 {
        tokens.remember(token(number, number, keys), now);
    }
    assert_eq!(tokens.len(), ROOM);
    shows(ROOM, 1, 1001, 1000 - ROOM);
    // Tokens of keys that are no longer in use are replaced, which does not count as an eviction.
    let later = Conditions { keys: other_keys, ..now };
    for number in 0..WAYS {
        tokens.remember(token(number, number, other_keys), later);
    }
    shows(ROOM, 1, 1001 + WAYS, 1000 - ROOM);
}

#[test]
fn number_of_tokens_is_bounded_per_issuer_and_in_total() {
    let [keys, _] = generations();
    let now = Conditions { keys, now: NOW, request: None };
    for issuers in [1, 2, 3, 7, 100, 512, 513, 10_000] {
        let places = memory(issuers).sets.len() * WAYS;
        assert!(places * issuers <= MAX_TOKENS.max(WAYS * issuers), "{issuers}");
        assert!(places >= WAYS, "{issuers}");
    }
    let tokens = memory(16);
    for number in 0..20_000 {
        tokens.remember(token(number, number, keys), now);
    }
    assert_eq!(tokens.len(), MAX_TOKENS / 16, "all places are in use");
}

#[test]
fn caller_with_any_number_of_tokens_displaces_only_its_own() {
    const OTHERS: usize = 64;
    const FLOODER: usize = usize::MAX;
    let [keys, _] = generations();
    let now = Conditions { keys, now: NOW, request: None };
    let tokens = memory(1);
    let number_of_others = || {
        let is_known = |number: &usize| tokens.caller(TokenDigest::of(&number.to_string()), now).is_some();
        (0..OTHERS).filter(is_known).count()
    };
    for number in OTHERS..50_000 {
        tokens.remember(token(number, FLOODER, keys), now);
    }
    for number in 0..OTHERS {
        tokens.remember(token(number, number, keys), now);
    }
    assert_eq!(number_of_others(), OTHERS, "a full cache makes room for them");
    for number in 50_000..100_000 {
        tokens.remember(token(number, FLOODER, keys), now);
    }
    assert_eq!(number_of_others(), OTHERS, "and they are not evicted");
    assert_eq!(tokens.len(), MAX_TOKENS);
}

#[test]
fn caller_whose_tokens_have_different_claims_displaces_only_its_own() {
    const OTHERS: usize = 64;
    let [keys, _] = generations();
    let now = Conditions { keys, now: NOW, request: None };
    let tokens = memory(1);
    for number in 0..OTHERS {
        tokens.remember(token(number, number, keys), now);
    }
    let path = ClaimPath::new("jti").unwrap();
    for number in OTHERS..50_000 {
        let id = ClaimValue::Integer(i64::try_from(number).unwrap());
        let caller = Caller::with_claims("jwt:flooder", Claims::new(vec![(path.clone(), id)]));
        tokens.remember(VerifiedToken { caller, ..token(number, usize::MAX, keys) }, now);
    }
    let is_known = |number: &usize| tokens.caller(TokenDigest::of(&number.to_string()), now).is_some();
    assert_eq!((0..OTHERS).filter(is_known).count(), OTHERS);
}

#[test]
fn invalid_tokens_are_replaced_first() {
    let [keys, other_keys] = generations();
    let now = Conditions { keys, now: NOW, request: None };
    let expired = |number| VerifiedToken {
        validity: Validity { from: NOW - 100, until: NOW - 1 },
        ..token(number, 1, keys)
    };
    for invalid in [expired(99), token(99, 1, other_keys)] {
        // There is only one set, so all tokens compete.
        let tokens = memory(MAX_TOKENS);
        for number in 0..WAYS - 1 {
            tokens.remember(token(number, 0, keys), now);
        }
        tokens.remember(invalid, now);
        tokens.remember(token(50, 1, keys), now);
        for number in (0..WAYS - 1).chain([50]) {
            assert!(tokens.caller(TokenDigest::of(&number.to_string()), now).is_some(), "{number}");
        }
    }
}

#[test]
fn concurrent_reads_and_writes_never_return_another_caller() {
    let [keys, _] = generations();
    let now = Conditions { keys, now: NOW, request: None };
    let tokens = memory(64);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let tokens = &tokens;
            scope.spawn(move || {
                for number in (0..5000).map(|step| (step * 7 + thread * 13) % 500) {
                    if let Some(found) = tokens.caller(TokenDigest::of(&number.to_string()), now) {
                        assert_eq!(found, caller(number));
                    } else {
                        tokens.remember(token(number, number, keys), now);
                    }
                }
            });
        }
    });
    assert_eq!(tokens.len(), MAX_TOKENS / 64);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// A full set evicts the oldest token of a caller with the most tokens.
    #[test]
    fn only_the_caller_with_the_most_tokens_loses_one(
        stored in prop::collection::vec((0..30_usize, 0..4_usize), 1..60),
    ) {
        let [keys, _] = generations();
        let now = Conditions { keys, now: NOW, request: None };
        let tokens = memory(MAX_TOKENS);
        // The owner of a token never changes.
        let mut known: Vec<(usize, usize)> = Vec::new();
        for (number, owner) in stored {
            let number = 4 * number + owner;
            tokens.remember(token(number, owner, keys), now);
            let is_known = |number: usize| tokens.caller(TokenDigest::of(&number.to_string()), now).is_some();
            prop_assert!(is_known(number), "the last stored token is found");
            if let Some(at) = known.iter().position(|(other, _)| *other == number) {
                let again = known.remove(at);
                known.push(again);
            } else {
                if known.len() == WAYS {
                    let mut counts: HashMap<usize, usize> = HashMap::new();
                    for (_, owner) in &known {
                        *counts.entry(*owner).or_default() += 1;
                    }
                    let most = counts.values().max().copied();
                    let at = known.iter().position(|(_, owner)| counts.get(owner).copied() == most).unwrap();
                    known.remove(at);
                }
                known.push((number, owner));
            }
            for (number, _) in &known {
                prop_assert!(is_known(*number), "{number}");
            }
            prop_assert_eq!(tokens.len(), known.len());
        }
    }
}
