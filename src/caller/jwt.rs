//! JSON web tokens: which ones prove a caller (RFC 7519, RFC 8725).
//!
//! Where the keys come from is in `jwks`. A key verifies only the algorithms of its own
//! type, and only signatures with a public key are known here: neither `none` nor a
//! shared secret has a name in this module.

use std::sync::Arc;

use jsonwebtoken::{Validation, decode, decode_header, errors::ErrorKind};
use serde::Deserialize;

use super::{
    Caller, Proof,
    jwks::{JwksSource, KeyRing},
    key_set::{ALGORITHMS, Lookup},
    name,
};

/// How far the issuer's clock may be off, in seconds.
const LEEWAY_SECONDS: u64 = 30;
/// The most bytes of a key's id.
const MAX_KEY_ID_BYTES: usize = 256;

/// Whose tokens are accepted.
#[derive(Clone, Debug)]
pub struct JwtSettings {
    /// The issuer: `iss` must be exactly this.
    pub issuer: String,
    /// The audience: `aud` must be this, or have it among others.
    pub audience: String,
    /// Where the issuer's public keys are.
    pub jwks: JwksSource,
}

/// Why a token proves nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JwtFault {
    /// It is no JWT, or has a critical header that we do not know.
    #[error("it is malformed")]
    Malformed,
    /// It is not signed with RS, ES or `EdDSA`, or not with the algorithm of its key.
    #[error("its algorithm is not accepted")]
    Algorithm,
    /// Its key is unknown.
    #[error("the issuer has no such key")]
    UnknownKey,
    /// Its signature is wrong.
    #[error("its signature is not valid")]
    Signature,
    /// It has expired.
    #[error("it has expired")]
    Expired,
    /// It is not valid yet.
    #[error("it is not valid yet")]
    NotYetValid,
    /// Another issuer made it.
    #[error("another issuer made it")]
    Issuer,
    /// It is for another audience.
    #[error("it is for another audience")]
    Audience,
    /// A claim that we need is missing or has the wrong type.
    #[error("it lacks one of the claims iss, aud, exp and sub, or one has the wrong type")]
    Claims,
    /// Its subject is no name of 1 to 255 bytes of visible ASCII.
    #[error("its subject is not 1 to 255 bytes of visible ASCII")]
    Subject,
    /// No key of the issuer has been fetched yet, so that nothing can be verified.
    #[error("the issuer's keys have not been fetched yet")]
    NoKeysYet,
}

/// Verifies tokens of one issuer.
#[derive(Debug)]
pub(super) struct JwtVerifier {
    keys: Arc<KeyRing>,
    /// One for each of [`ALGORITHMS`], in their order.
    validations: Vec<Validation>,
}

#[derive(Deserialize)]
struct Claims {
    sub: String,
    /// Read as text, so that a list of issuers is refused.
    #[serde(rename = "iss")]
    _issuer: String,
}

impl JwtVerifier {
    pub(super) fn new(issuer: &str, audience: &str, keys: Arc<KeyRing>) -> Self {
        let validation = |algorithm| {
            let mut validation = Validation::new(algorithm);
            validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
            validation.set_issuer(&[issuer]);
            validation.set_audience(&[audience]);
            validation.validate_nbf = true;
            validation.leeway = LEEWAY_SECONDS;
            validation
        };
        Self { keys, validations: ALGORITHMS.into_iter().map(validation).collect() }
    }

    /// The caller that a token proves. May wait for the issuer's keys to be fetched
    /// again if the token's key is unknown.
    pub(super) async fn verify(&self, token: &str) -> Result<Caller, JwtFault> {
        let header = decode_header(token).map_err(|_| JwtFault::Malformed)?;
        // RFC 7515 section 4.1.11: what is critical and not understood must be refused.
        if header.crit.is_some() || header.kid.as_ref().is_some_and(|kid| kid.len() > MAX_KEY_ID_BYTES) {
            return Err(JwtFault::Malformed);
        }
        let position = ALGORITHMS.iter().position(|algorithm| *algorithm == header.alg);
        let validation = position.and_then(|index| self.validations.get(index)).ok_or(JwtFault::Algorithm)?;

        let mut found = self.keys.find(header.alg, header.kid.as_deref());
        if matches!(found, Lookup::Unknown | Lookup::NoKeysYet) && self.keys.fetched_again().await {
            found = self.keys.find(header.alg, header.kid.as_deref());
        }
        let key = match found {
            Lookup::Found(key) => key,
            Lookup::OtherAlgorithm => return Err(JwtFault::Algorithm),
            Lookup::Unknown => return Err(JwtFault::UnknownKey),
            Lookup::NoKeysYet => return Err(JwtFault::NoKeysYet),
        };
        let claims = decode::<Claims>(token, &key, validation).map_err(|error| fault(error.kind()))?.claims;
        if !name::is_plain_name(&claims.sub) {
            return Err(JwtFault::Subject);
        }
        Ok(Caller { name: Arc::from(format!("jwt:{}", claims.sub)), proof: Proof::Jwt })
    }
}

fn fault(kind: &ErrorKind) -> JwtFault {
    match kind {
        ErrorKind::InvalidSignature => JwtFault::Signature,
        ErrorKind::ExpiredSignature => JwtFault::Expired,
        ErrorKind::ImmatureSignature => JwtFault::NotYetValid,
        ErrorKind::InvalidIssuer => JwtFault::Issuer,
        ErrorKind::InvalidAudience => JwtFault::Audience,
        ErrorKind::MissingRequiredClaim(_) | ErrorKind::InvalidClaimFormat(_) | ErrorKind::Json(_) => {
            JwtFault::Claims
        }
        ErrorKind::InvalidAlgorithm | ErrorKind::UnsupportedAlgorithm | ErrorKind::InvalidKeyFormat => {
            JwtFault::Algorithm
        }
        _ => JwtFault::Malformed,
    }
}

#[cfg(test)]
pub(super) mod tests;
