//! Verification of JSON web tokens (RFC 7519, RFC 8725).
//!
//! Keys come from `jwks`. A key verifies only the algorithms of its own type, and only public-key
//! signatures are accepted: this module supports neither `none` nor shared secrets.
//!
//! A token that has passed every check is remembered, and not verified again while its times are
//! valid, its issuer's keys are the same, and the rules require the same claims. Any other token is verified in full, and an invalid
//! one is not remembered. The settings of an issuer never change, and each issuer has its own
//! cache.

use std::{collections::HashSet, sync::Arc, time::Duration};

use jsonwebtoken::{Validation, dangerous::insecure_decode_claims, decode, decode_header, errors::ErrorKind};
use serde::Deserialize;
use serde_json::Value;

use super::{
    Caller, InvalidSettings, Proof,
    claims::{ClaimsError, MAX_CLAIM_VALUES, RequestedClaims},
    jwks::{Freshness, JwksRefresh, JwksSource, JwksUrl, KeyFetchError, KeyRing, KeyWaiters},
    key_set::{ALGORITHMS, Lookup},
    name::{self, JWT_PREFIX},
};
use crate::{
    base::clock::{self, WallClock},
    domain::call::PeerNetwork,
    http_client::UnpooledClient,
    observe::telemetry::metrics::{CallerMemory, Metrics},
};

mod verified;

pub(super) use self::verified::TokenDigest;
use self::verified::{Conditions, Validity, VerifiedToken, VerifiedTokens};

/// Metrics label of an issuer without a name.
const ONLY_ISSUER: &str = "default";

/// Maximum clock difference to the issuer, in seconds.
const LEEWAY_SECONDS: u64 = 30;
/// Maximum length of a key's id, in bytes.
const MAX_KEY_ID_BYTES: usize = 256;

/// Settings of an accepted issuer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JwtSettings {
    /// `name`: its name in callers' names; only in `[[callers.jwt]]`, and required there.
    pub name: Option<Arc<str>>,
    /// `issuer`: required `iss`, compared exactly.
    pub issuer: String,
    /// `audience`: required audience: `aud` must equal or contain it.
    pub audience: String,
    /// `typ`: required media type in `typ` (RFC 8725 section 3.11). `None` allows any, or none.
    pub typ: Option<String>,
    /// `max_lifetime`: maximum time between `iat` and `exp`, from 1 s to a year. `None` allows any,
    /// and `iat` may be missing.
    pub max_lifetime: Option<Duration>,
    /// `jwks_file` or `jwks_url`: source of the issuer's public keys.
    pub jwks: JwksSource,
}

/// Reason that a token is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JwtError {
    /// It is not a JWT, or has an unsupported critical header.
    #[error("it is malformed")]
    Malformed,
    /// It is not signed with RS, ES or `EdDSA`, or not with the algorithm of its key.
    #[error("its algorithm is not accepted")]
    Algorithm,
    /// Its key is unknown.
    #[error("the issuer has no such key")]
    UnknownKey,
    /// Its key is unknown, and newer keys could not be fetched in time.
    #[error("its key is unknown: {0}")]
    KeyNotFetched(KeyFetchError),
    /// Its signature is not valid.
    #[error("its signature is not valid")]
    Signature,
    /// It has expired.
    #[error("it has expired")]
    Expired,
    /// It is not valid yet.
    #[error("it is not valid yet")]
    NotYetValid,
    /// Its `typ` is not the configured one.
    #[error("its typ is not the configured one")]
    Type,
    /// It is valid for longer than allowed.
    #[error("it has no iat, or it is valid for longer than max_lifetime")]
    Lifetime,
    /// Its issuer is not a configured one.
    #[error("its issuer is not a configured one")]
    Issuer,
    /// It is for another audience.
    #[error("it is for another audience")]
    Audience,
    /// A required claim is missing or has the wrong type.
    #[error("it lacks one of the claims iss, aud, exp and sub, or one has the wrong type")]
    Claims,
    /// Its subject is not 1 to 255 bytes of visible ASCII.
    #[error("its subject is not 1 to 255 bytes of visible ASCII")]
    Subject,
    /// A claim that access rules require occurs more than once.
    #[error("a claim that access rules require occurs more than once in it")]
    DuplicateClaim,
    /// It has too many values that access rules accept.
    #[error("its claims have more than {MAX_CLAIM_VALUES} values that access rules accept")]
    TooManyClaims,
    /// A claim that access rules require cannot be read.
    #[error("a claim that access rules require contains invalid text, or a number that is out of range")]
    UnreadableClaim,
    /// The issuer's keys have not been fetched yet, so nothing can be verified.
    #[error("the issuer's keys have not been fetched yet")]
    NoKeysYet,
    /// The issuer's keys were fetched too long ago to be trusted.
    #[error("the issuer's keys are older than jwks_max_age, and could not be fetched again")]
    KeysTooOld,
}

/// Verifies tokens of all issuers, each with its own keys.
#[derive(Debug)]
pub(super) struct JwtVerifiers {
    issuers: Vec<JwtVerifier>,
    waiters: KeyWaiters,
}

/// Verifies tokens of one issuer.
#[derive(Debug)]
pub(super) struct JwtVerifier {
    issuer: String,
    /// Prefix of its callers' names.
    prefix: String,
    proof: Proof,
    typ: Option<String>,
    max_lifetime: Option<Duration>,
    keys: Arc<KeyRing>,
    /// One for each of [`ALGORITHMS`], in their order.
    validations: Vec<Validation>,
    verified: VerifiedTokens,
    clock: WallClock,
}

/// Claims of a token that has not been verified.
#[derive(Deserialize)]
struct Unverified {
    iss: String,
}

/// The registered claims, which are checked for every token.
#[derive(Deserialize)]
struct RegisteredClaims {
    sub: String,
    /// Deserialized as a string, so that a list of issuers is refused.
    #[serde(rename = "iss")]
    _issuer: String,
    #[serde(default)]
    exp: Value,
    #[serde(default)]
    nbf: Value,
    #[serde(default)]
    iat: Value,
}

impl JwtVerifiers {
    /// Returns `None` if there are no issuers, and the tasks that keep their keys fresh.
    pub(super) fn start<E: From<InvalidSettings>>(
        issuers: Vec<JwtSettings>,
        mut http: impl FnMut(&JwksUrl) -> Result<UnpooledClient, E>,
        metrics: &Metrics,
    ) -> Result<(Option<Self>, Vec<JwksRefresh>), E> {
        if issuers.iter().any(|issuer| issuer.issuer.is_empty() || issuer.audience.is_empty()) {
            return Err(InvalidSettings::EmptyIssuerOrAudience.into());
        }
        let is_named = |issuer: &JwtSettings| issuer.name.as_deref().is_some_and(name::is_issuer_name);
        let is_alone = matches!(issuers.as_slice(), [only] if only.name.is_none());
        let names: HashSet<_> = issuers.iter().map(|issuer| &issuer.name).collect();
        let claims: HashSet<_> = issuers.iter().map(|issuer| &issuer.issuer).collect();
        let are_distinct = names.len() == issuers.len() && claims.len() == issuers.len();
        let are_named_apart = are_distinct && issuers.iter().all(is_named);
        if !is_alone && !are_named_apart {
            return Err(InvalidSettings::Issuers.into());
        }
        let (mut verifiers, mut refreshes) = (Vec::new(), Vec::new());
        let number = issuers.len();
        let memory = metrics.caller_memory(CallerMemory::Jwt);
        for settings in issuers {
            let metrics = metrics.jwt_issuer(settings.name.as_deref().unwrap_or(ONLY_ISSUER));
            let (keys, refresh) = match &settings.jwks {
                JwksSource::File(path) => JwksRefresh::from_file(path.clone(), metrics)?,
                JwksSource::Url(source) => {
                    source.check()?;
                    JwksRefresh::from_url(source, http(source)?, metrics)
                }
            };
            verifiers.push(JwtVerifier::new(settings, keys, VerifiedTokens::new(number, memory.clone())));
            refreshes.push(refresh);
        }
        let waiters = KeyWaiters::new(metrics.jwt_key_waits());
        Ok(((!verifiers.is_empty()).then_some(Self { issuers: verifiers, waiters }), refreshes))
    }

    /// Returns the caller of a token that was verified before, if it is still valid and was read for
    /// these claims.
    pub(super) fn remembered(&self, digest: TokenDigest, requested: &RequestedClaims) -> Option<Caller> {
        self.issuers.iter().find_map(|verifier| verifier.remembered(digest, requested))
    }

    /// Verifies a token in full, and returns its caller with the requested claims. If its key is
    /// unknown, waits up to a second for newer keys. `network` limits the waiting calls of one peer network; it is `None`
    /// if the peer's address does not identify a client.
    ///
    /// The unverified `iss` only selects the issuer's keys. It is compared again during
    /// verification.
    pub(super) async fn verify(
        &self,
        token: &str,
        digest: TokenDigest,
        requested: &RequestedClaims,
        network: Option<PeerNetwork>,
    ) -> Result<Caller, JwtError> {
        let verifier = match self.issuers.as_slice() {
            [only] => only,
            several => {
                let Unverified { iss } =
                    insecure_decode_claims(token).map_err(|error| jwt_error(error.kind()))?;
                several.iter().find(|verifier| verifier.issuer == iss).ok_or(JwtError::Issuer)?
            }
        };
        verifier.verify(token, digest, requested, &self.waiters, network).await
    }
}

impl JwtVerifier {
    fn new(settings: JwtSettings, keys: Arc<KeyRing>, verified: VerifiedTokens) -> Self {
        let JwtSettings { name, issuer, audience, typ, max_lifetime, jwks: _ } = settings;
        let validation = |algorithm| {
            let mut validation = Validation::new(algorithm);
            validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
            validation.set_issuer(&[&issuer]);
            validation.set_audience(&[&audience]);
            validation.validate_nbf = true;
            validation.leeway = LEEWAY_SECONDS;
            validation
        };
        Self {
            prefix: names_prefix(name.as_deref()),
            validations: ALGORITHMS.into_iter().map(validation).collect(),
            proof: Proof::Jwt { issuer: name },
            issuer,
            typ,
            max_lifetime,
            keys,
            verified,
            clock: WallClock::system(),
        }
    }

    /// Returns the caller of a token that was verified with the keys in use, and is valid now.
    fn remembered(&self, digest: TokenDigest, requested: &RequestedClaims) -> Option<Caller> {
        let conditions =
            Conditions { keys: self.keys.generation()?, now: self.now(), request: requested.id() };
        self.verified.caller(digest, conditions)
    }

    /// Returns the seconds since 1970.
    fn now(&self) -> u64 {
        clock::unix_seconds(self.clock.now())
    }

    /// Verifies a token that is not remembered.
    async fn verify(
        &self,
        token: &str,
        digest: TokenDigest,
        requested: &RequestedClaims,
        waiters: &KeyWaiters,
        network: Option<PeerNetwork>,
    ) -> Result<Caller, JwtError> {
        let header = decode_header(token).map_err(|_| JwtError::Malformed)?;
        // RFC 7515 section 4.1.11: a critical header that is not supported must be refused.
        if header.crit.is_some() || header.kid.as_ref().is_some_and(|kid| kid.len() > MAX_KEY_ID_BYTES) {
            return Err(JwtError::Malformed);
        }
        if let Some(typ) = &self.typ
            && !header.typ.is_some_and(|own| is_same_media_type(&own, typ))
        {
            return Err(JwtError::Type);
        }
        let position = ALGORITHMS.iter().position(|algorithm| *algorithm == header.alg);
        let validation = position.and_then(|index| self.validations.get(index)).ok_or(JwtError::Algorithm)?;

        let (mut found, mut generation) = self.keys.find(header.alg, header.kid.as_deref());
        let may_be_fetched = matches!(found, Lookup::Unknown | Lookup::NoKeysYet | Lookup::TooOld);
        if may_be_fetched {
            let refreshed = self.keys.refreshed(waiters, network).await;
            if refreshed == Ok(Freshness::Fetched) {
                (found, generation) = self.keys.find(header.alg, header.kid.as_deref());
            } else if let (Lookup::Unknown, Err(error)) = (&found, refreshed) {
                return Err(JwtError::KeyNotFetched(error));
            }
        }
        let key = match found {
            Lookup::Found(key) => key,
            Lookup::OtherAlgorithm => return Err(JwtError::Algorithm),
            Lookup::Unknown => return Err(JwtError::UnknownKey),
            Lookup::NoKeysYet => return Err(JwtError::NoKeysYet),
            Lookup::TooOld => return Err(JwtError::KeysTooOld),
        };
        #[cfg(test)]
        tests::VERIFIED.set(tests::VERIFIED.get() + 1);
        let claims = decode::<RegisteredClaims>(token, &key, validation)
            .map_err(|error| jwt_error(error.kind()))?
            .claims;
        let now = self.now();
        if let Some(max_lifetime) = self.max_lifetime {
            check_lifetime(&claims, max_lifetime, now)?;
        }
        if !name::is_plain_name(&claims.sub) {
            return Err(JwtError::Subject);
        }
        let name = Arc::from(format!("{}{}", self.prefix, claims.sub));
        let caller = Caller { claims: requested.read(token)?, ..Caller::new(name, self.proof.clone()) };
        if let Some(keys) = generation {
            let validity = claims.validity(self.max_lifetime.is_some());
            let token = VerifiedToken { digest, caller: caller.clone(), keys, validity };
            self.verified.remember(token, Conditions { keys, now, request: requested.id() });
        }
        Ok(caller)
    }
}

impl RegisteredClaims {
    /// Returns the validity period of the token, rounded inwards to whole seconds.
    fn validity(&self, is_iat_checked: bool) -> Validity {
        let time = |claim: &Value| claim.as_f64().unwrap_or_default();
        let nbf = time(&self.nbf);
        let earliest = if is_iat_checked { nbf.max(time(&self.iat)) } else { nbf };
        Validity {
            from: whole_seconds(earliest.ceil()).saturating_sub(LEEWAY_SECONDS),
            until: whole_seconds(time(&self.exp).floor()).saturating_add(LEEWAY_SECONDS),
        }
    }
}

/// Returns the prefix of the names of an issuer's callers. `issuer` is its name, if issuers have
/// names.
#[must_use]
pub fn names_prefix(issuer: Option<&str>) -> String {
    issuer.map_or_else(|| JWT_PREFIX.to_owned(), |issuer| format!("{JWT_PREFIX}{issuer}:"))
}

/// Checks `iat` and the lifetime. Times are seconds, possibly with a fraction (RFC 7519).
fn check_lifetime(claims: &RegisteredClaims, max: Duration, now: u64) -> Result<(), JwtError> {
    let (Some(iat), Some(exp)) = (claims.iat.as_f64(), claims.exp.as_f64()) else {
        return Err(JwtError::Lifetime);
    };
    // A token issued in the future would be valid for longer than its lifetime.
    if iat > Duration::from_secs(now.saturating_add(LEEWAY_SECONDS)).as_secs_f64() {
        return Err(JwtError::NotYetValid);
    }
    if exp - iat <= max.as_secs_f64() { Ok(()) } else { Err(JwtError::Lifetime) }
}

/// Converts seconds since 1970, clamped to the years that a timestamp can represent.
fn whole_seconds(seconds: f64) -> u64 {
    let within = seconds.clamp(0.0, clock::MAX_TIMESTAMP.as_secs_f64());
    Duration::try_from_secs_f64(within).unwrap_or_default().as_secs()
}

/// Compares media types, ignoring case. `application/` may be omitted from types without another
/// `/` (RFC 7515 section 4.1.9).
fn is_same_media_type(one: &str, other: &str) -> bool {
    const PREFIX: &str = "application/";
    let short = |text: &'_ str| -> usize {
        let prefix = text.get(..PREFIX.len()).filter(|prefix| prefix.eq_ignore_ascii_case(PREFIX));
        prefix.filter(|prefix| !text[prefix.len()..].contains('/')).map_or(0, str::len)
    };
    one[short(one)..].eq_ignore_ascii_case(&other[short(other)..])
}

impl From<ClaimsError> for JwtError {
    fn from(error: ClaimsError) -> Self {
        match error {
            ClaimsError::Duplicate => Self::DuplicateClaim,
            ClaimsError::TooMany => Self::TooManyClaims,
            ClaimsError::Unreadable => Self::UnreadableClaim,
        }
    }
}

fn jwt_error(kind: &ErrorKind) -> JwtError {
    match kind {
        ErrorKind::InvalidSignature => JwtError::Signature,
        ErrorKind::ExpiredSignature => JwtError::Expired,
        ErrorKind::ImmatureSignature => JwtError::NotYetValid,
        ErrorKind::InvalidIssuer => JwtError::Issuer,
        ErrorKind::InvalidAudience => JwtError::Audience,
        ErrorKind::MissingRequiredClaim(_) | ErrorKind::InvalidClaimFormat(_) | ErrorKind::Json(_) => {
            JwtError::Claims
        }
        ErrorKind::InvalidAlgorithm | ErrorKind::UnsupportedAlgorithm | ErrorKind::InvalidKeyFormat => {
            JwtError::Algorithm
        }
        _ => JwtError::Malformed,
    }
}

#[cfg(test)]
pub(super) mod tests;
