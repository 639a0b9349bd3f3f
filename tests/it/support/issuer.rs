//! An issuer of JWTs, and forged tokens.

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode, jwk::Jwk};
use ott_gateway::base::clock::{WallClock, unix_seconds};
use serde_json::{Value, json};

/// An issuer of JWTs.
pub(crate) struct Issuer {
    id: &'static str,
    key: EncodingKey,
}

impl Issuer {
    pub(crate) fn new(id: &'static str) -> Self {
        let pair = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new());
        Self { id, key: EncodingKey::from_ec_der(pair.expect("a key").as_ref()) }
    }

    pub(crate) fn jwk(&self) -> Value {
        let jwk = Jwk::from_encoding_key(&self.key, Algorithm::ES256).expect("valid input");
        let mut jwk = serde_json::to_value(jwk).expect("valid input");
        jwk["kid"] = json!(self.id);
        jwk
    }

    /// The published key set.
    pub(crate) fn jwks(&self) -> String {
        json!({ "keys": [self.jwk()] }).to_string()
    }

    /// An `authorization` header with valid claims and these changes; null removes a claim.
    pub(crate) fn bearer(&self, changes: Value) -> String {
        let header = Header { kid: Some(self.id.to_owned()), ..Header::new(Algorithm::ES256) };
        format!("Bearer {}", encode(&header, &claims(changes), &self.key).expect("valid input"))
    }
}

/// Valid claims with these changes.
pub(crate) fn claims(changes: Value) -> Value {
    let mut claims = json!({
        "iss": "https://issuer.example", "aud": "ott-gateway", "sub": "portal", "exp": in_seconds(300),
    });
    let Value::Object(changes) = changes else { panic!("claims are an object") };
    for (name, value) in changes {
        claims[&name] = value;
    }
    claims.as_object_mut().expect("valid input").retain(|_, value| !value.is_null());
    claims
}

/// A `NumericDate`, `seconds` from now.
pub(crate) fn in_seconds(seconds: i64) -> i64 {
    i64::try_from(unix_seconds(WallClock::system().now())).expect("valid input") + seconds
}

/// An `authorization` header with a forged token: this header and signature, valid claims.
pub(crate) fn forged(header: &Value, signature: &[u8]) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signature = URL_SAFE_NO_PAD.encode(signature);
    format!("Bearer {}.{}.{signature}", part(header), part(&claims(json!({}))))
}
