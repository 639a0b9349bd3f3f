//! A JSON Web Key Set (RFC 7517), and the selection of its usable keys.
//!
//! `jwks` fetches and replaces key sets.

use std::sync::Arc;

use jsonwebtoken::{
    Algorithm, DecodingKey,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, KeyOperations, PublicKeyUse},
};
use serde::Deserialize;

/// The accepted algorithms. RSA-PSS is not among them (`docs/run-with-jwts.md`), because an issuer
/// that signs with PSS can also use one of these.
pub(super) const ALGORITHMS: [Algorithm; 6] = [
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::EdDSA,
];

/// Maximum size of a key set, in bytes. Typical ones have a few KiB.
pub(super) const MAX_JWKS_BYTES: usize = 256 * 1024;
/// Maximum number of keys in a set, which keeps lookups cheap.
const MAX_KEYS: usize = 100;
/// Reason that a key set cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JwksError {
    /// It is longer than 256 KiB.
    #[error("the key set is larger than 256 KiB")]
    TooLarge,
    /// It is not a JSON object with a list `keys`.
    #[error("it is not a JSON Web Key Set")]
    Malformed,
    /// None of its keys can verify a signature with an accepted algorithm.
    #[error("none of its keys can verify RS, ES or EdDSA signatures")]
    NoUsableKey,
}

/// Checks the contents of a key file as the gateway parses them.
///
/// # Errors
///
/// The contents are not a key set, or contain no usable key.
pub fn check_jwks(json: &[u8]) -> Result<(), JwksError> {
    KeySet::parse(json).map(|_| ())
}

/// The usable keys of a set. Cheap to clone. Two sets are equal if they have the same usable keys
/// in the same order.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct KeySet(Arc<[Key]>);

#[derive(Debug)]
struct Key {
    jwk: Jwk,
    id: Option<String>,
    algorithms: Vec<Algorithm>,
    verifies_with: Arc<DecodingKey>,
}

/// The other fields follow from the JWK.
impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.jwk == other.jwk
    }
}

/// The result of looking up the key of a token.
#[derive(Debug)]
pub(super) enum Lookup {
    Found(Arc<DecodingKey>),
    /// The key exists, but is for another algorithm.
    OtherAlgorithm,
    Unknown,
    NoKeysYet,
    /// The keys were fetched too long ago.
    TooOld,
}

impl KeySet {
    /// Parses a set. Keys that cannot be used (of other types, or for encryption) are ignored, as
    /// RFC 7517 section 5 requires.
    pub(super) fn parse(json: &[u8]) -> Result<Self, JwksError> {
        #[derive(Deserialize)]
        struct Document {
            keys: Vec<serde_json::Value>,
        }
        if json.len() > MAX_JWKS_BYTES {
            return Err(JwksError::TooLarge);
        }
        let document: Document = serde_json::from_slice(json).map_err(|_| JwksError::Malformed)?;
        let usable = document.keys.into_iter().filter_map(Key::read).take(MAX_KEYS);
        let keys: Arc<[Key]> = usable.collect();
        if keys.is_empty() { Err(JwksError::NoUsableKey) } else { Ok(Self(keys)) }
    }

    /// Returns the number of keys.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns the key with that id or, without an id, the only key for that algorithm.
    pub(super) fn find(&self, algorithm: Algorithm, id: Option<&str>) -> Lookup {
        let fits = |key: &&Key| key.algorithms.contains(&algorithm);
        if let Some(id) = id {
            let mut named = self.0.iter().filter(|key| key.id.as_deref() == Some(id)).peekable();
            if named.peek().is_none() {
                return Lookup::Unknown;
            }
            return named
                .find(fits)
                .map_or(Lookup::OtherAlgorithm, |key| Lookup::Found(Arc::clone(&key.verifies_with)));
        }
        let mut fitting = self.0.iter().filter(fits);
        match (fitting.next(), fitting.next()) {
            (Some(key), None) => Lookup::Found(Arc::clone(&key.verifies_with)),
            _ => Lookup::Unknown,
        }
    }
}

impl Key {
    fn read(value: serde_json::Value) -> Option<Self> {
        let jwk: Jwk = serde_json::from_value(value).ok()?;
        let by_type: &[Algorithm] = match &jwk.algorithm {
            AlgorithmParameters::RSA(_) => &[Algorithm::RS256, Algorithm::RS384, Algorithm::RS512],
            AlgorithmParameters::EllipticCurve(key) => match key.curve {
                EllipticCurve::P256 => &[Algorithm::ES256],
                EllipticCurve::P384 => &[Algorithm::ES384],
                _ => return None,
            },
            AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => {
                &[Algorithm::EdDSA]
            }
            // With a shared secret in a public set, anyone could sign tokens.
            _ => return None,
        };
        let common = &jwk.common;
        let is_for_signatures = !matches!(&common.public_key_use, Some(other) if *other != PublicKeyUse::Signature)
            && common.key_operations.as_ref().is_none_or(|all| all.contains(&KeyOperations::Verify));
        if !is_for_signatures {
            return None;
        }
        let algorithms: Vec<Algorithm> = by_type
            .iter()
            .filter(|algorithm| ALGORITHMS.contains(algorithm))
            .filter(|algorithm| {
                common.key_algorithm.is_none_or(|only| only == KeyAlgorithm::from(**algorithm))
            })
            .copied()
            .collect();
        let key = DecodingKey::from_jwk(&jwk).ok().filter(|_| !algorithms.is_empty())?;
        Some(Self { id: common.key_id.clone(), algorithms, verifies_with: Arc::new(key), jwk })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::caller::jwt::tests::SigningKey;

    #[test]
    fn only_keys_for_accepted_algorithms_are_used() {
        let good = SigningKey::new("good", Algorithm::EdDSA);
        let secret = SigningKey::new("secret", Algorithm::HS256);
        let with = |name: &str, value: serde_json::Value| {
            let mut jwk = SigningKey::new("k", Algorithm::ES256).jwk();
            jwk[name] = value;
            jwk
        };
        let document = json!({ "keys": [
            good.jwk(),
            secret.jwk(),
            with("use", json!("enc")),
            with("key_ops", json!(["sign"])),
            with("alg", json!("ES384")),
            with("alg", json!("RSA-OAEP")),
            with("crv", json!("P-521")),
            with("kty", json!("new")),
            with("x", json!("!")),
            {"kty": "RSA"},
            7,
        ], "extra": 1 });
        let keys = KeySet::parse(document.to_string().as_bytes()).unwrap();
        assert_eq!(keys.0.len(), 1);
        assert!(matches!(keys.find(Algorithm::EdDSA, Some("good")), Lookup::Found(_)));
        assert!(matches!(keys.find(Algorithm::ES256, Some("good")), Lookup::OtherAlgorithm));
        assert!(matches!(keys.find(Algorithm::ES256, Some("k")), Lookup::Unknown));

        let only_secret = json!({ "keys": [secret.jwk()] }).to_string();
        assert_eq!(KeySet::parse(only_secret.as_bytes()).unwrap_err(), JwksError::NoUsableKey);
        for text in ["", "{}", "[]", "{\"keys\": 7}"] {
            assert_eq!(KeySet::parse(text.as_bytes()).unwrap_err(), JwksError::Malformed, "{text}");
        }
    }
}
