use aws_lc_rs::{
    encoding::AsDer,
    rand::SystemRandom,
    rsa::KeySize,
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair,
        RsaKeyPair,
    },
};
use base64::{Engine as _, engine::general_purpose::STANDARD, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode, jwk::Jwk};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::base::clock::{WallClock, unix_seconds};

mod claims;
mod remembered;
pub(super) use remembered::VERIFIED;

pub(in crate::caller) const ISSUER: &str = "https://issuer.example";
pub(in crate::caller) const AUDIENCE: &str = "ott-gateway";

/// A private key of a test's issuer, generated for each test.
pub(in crate::caller) struct SigningKey {
    id: String,
    algorithm: Algorithm,
    key: EncodingKey,
}

impl SigningKey {
    pub(in crate::caller) fn new(id: &str, algorithm: Algorithm) -> Self {
        let random = SystemRandom::new();
        let key = match algorithm {
            Algorithm::ES256 => EncodingKey::from_ec_der(
                EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap().as_ref(),
            ),
            Algorithm::ES384 => EncodingKey::from_ec_der(
                EcdsaKeyPair::generate_pkcs8(&ECDSA_P384_SHA384_FIXED_SIGNING, &random).unwrap().as_ref(),
            ),
            Algorithm::EdDSA => {
                EncodingKey::from_ed_der(Ed25519KeyPair::generate_pkcs8v1(&random).unwrap().as_ref())
            }
            Algorithm::HS256 => EncodingKey::from_secret(b"a secret that the public set should never have"),
            _ => {
                let der = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
                let der = AsDer::<aws_lc_rs::encoding::Pkcs8V1Der<'_>>::as_der(&der).unwrap();
                let pem = format!(
                    "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n",
                    STANDARD.encode(der.as_ref())
                );
                EncodingKey::from_rsa_pem(pem.as_bytes()).unwrap()
            }
        };
        Self { id: id.to_owned(), algorithm, key }
    }

    /// The public half, as the issuer publishes it.
    pub(in crate::caller) fn jwk(&self) -> Value {
        let mut jwk =
            serde_json::to_value(Jwk::from_encoding_key(&self.key, self.algorithm).unwrap()).unwrap();
        jwk["kid"] = json!(self.id);
        jwk
    }

    pub(in crate::caller) fn sign(&self, claims: &Value) -> String {
        encode(&self.header(), claims, &self.key).unwrap()
    }

    fn header(&self) -> Header {
        Header { kid: Some(self.id.clone()), ..Header::new(self.algorithm) }
    }

    /// A valid token for `subject`.
    pub(in crate::caller) fn token_for(&self, subject: &str) -> String {
        self.token_with(&json!({ "sub": subject }))
    }

    /// A valid token with these changes of its claims.
    pub(in crate::caller) fn token_with(&self, changes: &Value) -> String {
        self.sign(&claims(changes))
    }
}

pub(in crate::caller) fn jwks(keys: &[&SigningKey]) -> Vec<u8> {
    let keys: Vec<Value> = keys.iter().map(|key| key.jwk()).collect();
    json!({ "keys": keys }).to_string().into_bytes()
}

/// Valid claims, with changes. `null` removes a claim.
fn claims(changes: &Value) -> Value {
    let mut claims = json!({ "iss": ISSUER, "aud": AUDIENCE, "exp": in_seconds(300), "sub": "portal" });
    for (name, value) in changes.as_object().unwrap() {
        claims[name] = value.clone();
        if value.is_null() {
            claims.as_object_mut().unwrap().remove(name);
        }
    }
    claims
}

fn in_seconds(seconds: i64) -> i64 {
    i64::try_from(unix_seconds(WallClock::system().now())).unwrap() + seconds
}

fn verifier(jwks: &[u8]) -> JwtVerifier {
    verifier_of(settings(), jwks)
}

fn verifier_of(settings: JwtSettings, jwks: &[u8]) -> JwtVerifier {
    JwtVerifier::new(
        settings,
        KeyRing::fixed(jwks, None),
        VerifiedTokens::new(1, Metrics::new().caller_memory(CallerMemory::Jwt)),
    )
}

/// The issuer of these tests, whose keys are passed to the verifier directly.
fn settings() -> JwtSettings {
    JwtSettings {
        name: None,
        issuer: ISSUER.to_owned(),
        audience: AUDIENCE.to_owned(),
        typ: None,
        max_lifetime: None,
        jwks: JwksSource::File(std::path::PathBuf::new()),
    }
}

fn waiters() -> KeyWaiters {
    KeyWaiters::new(Metrics::new().jwt_key_waits())
}

async fn verified(verifier: &JwtVerifier, token: &str) -> Result<String, JwtError> {
    let requested = RequestedClaims::default();
    let seen = verifier.verify(token, TokenDigest::of(token), &requested, &waiters(), None).await;
    seen.map(|caller| caller.name().to_string())
}

/// Identifies the caller of a token, which the verifiers may remember.
async fn seen_by(verifiers: &JwtVerifiers, token: &str) -> Result<Caller, JwtError> {
    seen_with(verifiers, token, &RequestedClaims::default()).await
}

/// The same, with the requested claims.
async fn seen_with(
    verifiers: &JwtVerifiers,
    token: &str,
    requested: &RequestedClaims,
) -> Result<Caller, JwtError> {
    let digest = TokenDigest::of(token);
    match verifiers.remembered(digest, requested) {
        Some(caller) => Ok(caller),
        None => verifiers.verify(token, digest, requested, None).await,
    }
}

/// A token with `header` and without a valid signature.
fn unsigned(header: &Value, claims: &Value) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}.{}", part(header), part(claims), URL_SAFE_NO_PAD.encode("signature"))
}

#[tokio::test]
async fn token_signed_with_an_accepted_algorithm_identifies_its_subject() {
    for algorithm in ALGORITHMS {
        let key = SigningKey::new("k1", algorithm);
        let verifier = verifier(&jwks(&[&key]));
        assert_eq!(verified(&verifier, &key.token_for("portal")).await.as_deref(), Ok("jwt:portal"));

        let forger = SigningKey::new("k1", algorithm);
        assert_eq!(verified(&verifier, &forger.token_for("portal")).await, Err(JwtError::Signature));
        let mut tampered = key.token_for("portal");
        let dot = tampered.find('.').unwrap();
        tampered.replace_range(dot + 1..dot + 2, "f");
        assert!(verified(&verifier, &tampered).await.is_err());
    }
}

#[tokio::test]
async fn every_claim_is_checked_against_the_settings() {
    let key = SigningKey::new("k1", Algorithm::ES256);
    let verifier = verifier(&jwks(&[&key]));
    for (changes, outcome) in [
        (json!({}), Ok("jwt:portal")),
        (json!({ "aud": ["other", AUDIENCE] }), Ok("jwt:portal")),
        (json!({ "exp": in_seconds(-5) }), Ok("jwt:portal")),
        (json!({ "nbf": in_seconds(20) }), Ok("jwt:portal")),
        (json!({ "sub": "spiffe://td/a" }), Ok("jwt:spiffe://td/a")),
        (json!({ "exp": in_seconds(-60) }), Err(JwtError::Expired)),
        (json!({ "exp": 0 }), Err(JwtError::Expired)),
        (json!({ "nbf": in_seconds(120) }), Err(JwtError::NotYetValid)),
        (json!({ "iss": "https://issuer.example/" }), Err(JwtError::Issuer)),
        (json!({ "aud": "other" }), Err(JwtError::Audience)),
        (json!({ "aud": [] }), Err(JwtError::Audience)),
        (json!({ "iss": [ISSUER] }), Err(JwtError::Claims)),
        (json!({ "iss": null }), Err(JwtError::Claims)),
        (json!({ "aud": null }), Err(JwtError::Claims)),
        (json!({ "exp": null }), Err(JwtError::Claims)),
        (json!({ "exp": "soon" }), Err(JwtError::Claims)),
        (json!({ "exp": -1 }), Err(JwtError::Claims)),
        (json!({ "nbf": "now" }), Err(JwtError::Claims)),
        (json!({ "sub": null }), Err(JwtError::Claims)),
        (json!({ "sub": 7 }), Err(JwtError::Claims)),
        (json!({ "sub": "" }), Err(JwtError::Subject)),
        (json!({ "sub": "a b" }), Err(JwtError::Subject)),
        (json!({ "sub": "a\nb" }), Err(JwtError::Subject)),
        (json!({ "sub": "\u{e4}" }), Err(JwtError::Subject)),
        (json!({ "sub": "a".repeat(256) }), Err(JwtError::Subject)),
    ] {
        let token = key.sign(&claims(&changes));
        assert_eq!(verified(&verifier, &token).await, outcome.map(str::to_owned), "{changes}");
    }
}

#[tokio::test]
async fn algorithms_are_not_confused() {
    let rsa = SigningKey::new("rsa", Algorithm::RS256);
    let ec = SigningKey::new("ec", Algorithm::ES256);
    let verifier = verifier(&jwks(&[&rsa, &ec]));
    for header in [
        json!({ "alg": "none", "kid": "rsa" }),
        json!({ "alg": "None" }),
        json!({ "alg": "" }),
        json!({ "alg": ["RS256"] }),
        json!({ "kid": "rsa" }),
        json!({ "alg": "RS256", "kid": 7 }),
        json!({ "alg": "RS256", "kid": "rsa", "crit": ["exp"] }),
        json!({ "alg": "RS256", "kid": "x".repeat(257) }),
    ] {
        let token = unsigned(&header, &claims(&json!({})));
        assert_eq!(verified(&verifier, &token).await, Err(JwtError::Malformed), "{header}");
    }
    for (algorithm, id) in [
        ("HS256", "rsa"),
        ("HS512", "ec"),
        ("PS256", "rsa"),
        ("ES256", "rsa"),
        ("RS256", "ec"),
        ("RS512", "rsa"),
    ] {
        let token = unsigned(&json!({ "alg": algorithm, "kid": id }), &claims(&json!({})));
        assert_eq!(verified(&verifier, &token).await, Err(JwtError::Algorithm), "{algorithm} {id}");
    }

    // The classic attack: an HMAC signature with the public key as the secret.
    let public = rsa.jwk()["n"].as_str().unwrap().to_owned();
    let header = Header { kid: Some("rsa".to_owned()), ..Header::new(Algorithm::HS256) };
    let secret = EncodingKey::from_secret(&URL_SAFE_NO_PAD.decode(public).unwrap());
    let forged = encode(&header, &claims(&json!({})), &secret).unwrap();
    assert_eq!(verified(&verifier, &forged).await, Err(JwtError::Algorithm));

    // A key that is embedded in the token is ignored.
    let own = SigningKey::new("ec", Algorithm::ES256);
    let header = Header {
        kid: Some("ec".to_owned()),
        jwk: Some(Jwk::from_encoding_key(&own.key, Algorithm::ES256).unwrap()),
        jku: Some("https://evil.example/jwks".to_owned()),
        ..Header::new(Algorithm::ES256)
    };
    let forged = encode(&header, &claims(&json!({})), &own.key).unwrap();
    assert_eq!(verified(&verifier, &forged).await, Err(JwtError::Signature));
    assert_eq!(verified(&verifier, &ec.token_for("portal")).await.as_deref(), Ok("jwt:portal"));
}

#[tokio::test]
async fn token_without_a_key_id_uses_the_only_key_for_its_algorithm() {
    let (first, second) = (SigningKey::new("k1", Algorithm::ES256), SigningKey::new("k2", Algorithm::ES256));
    let ed = SigningKey::new("k3", Algorithm::EdDSA);
    let token = encode(&Header::new(Algorithm::ES256), &claims(&json!({})), &first.key).unwrap();
    let one = verifier(&jwks(&[&first, &ed]));
    assert_eq!(verified(&one, &token).await.as_deref(), Ok("jwt:portal"));
    let two = verifier(&jwks(&[&first, &second]));
    assert_eq!(verified(&two, &token).await, Err(JwtError::UnknownKey));
}

#[tokio::test]
async fn text_that_is_not_a_jwt_is_malformed() {
    let verifier = verifier(&jwks(&[&SigningKey::new("k1", Algorithm::EdDSA)]));
    for token in ["", ".", "..", "a.b.c", "e30.e30.e30", "bnVsbA.e30.e30", "e30.e30", "e30.e30.e30.e30"] {
        assert_eq!(verified(&verifier, token).await, Err(JwtError::Malformed), "{token}");
    }
}

#[tokio::test]
async fn configured_type_is_compared_as_a_media_type() {
    let key = SigningKey::new("k1", Algorithm::ES256);
    let signed = |typ: Option<&str>| {
        let header = Header { typ: typ.map(str::to_owned), ..key.header() };
        encode(&header, &claims(&json!({})), &key.key).unwrap()
    };
    for configured in ["at+jwt", "application/at+jwt", "AT+JWT"] {
        let settings = JwtSettings { typ: Some(configured.to_owned()), ..settings() };
        let verifier = verifier_of(settings, &jwks(&[&key]));
        for typ in ["at+jwt", "AT+jwt", "application/at+jwt", "Application/AT+JWT"] {
            let name = verified(&verifier, &signed(Some(typ))).await;
            assert_eq!(name.as_deref(), Ok("jwt:portal"), "{configured} {typ}");
        }
        let wrong =
            ["JWT", "", "at+jwt ", "at+jwt;v=1", "text/at+jwt", "application/", "application/x/at+jwt"];
        for typ in wrong.map(Some).into_iter().chain([None]) {
            let refused = verified(&verifier, &signed(typ)).await;
            assert_eq!(refused, Err(JwtError::Type), "{configured} {typ:?}");
        }
    }
    let any = verifier(&jwks(&[&key]));
    for typ in [Some("anything"), None] {
        assert_eq!(verified(&any, &signed(typ)).await.as_deref(), Ok("jwt:portal"), "not configured");
    }
}

#[tokio::test]
async fn configured_lifetime_requires_iat_and_bounds_exp() {
    let key = SigningKey::new("k1", Algorithm::ES256);
    let settings = JwtSettings { max_lifetime: Some(Duration::from_mins(10)), ..settings() };
    let verifier = verifier_of(settings, &jwks(&[&key]));
    // Read once, because the next second may begin between two readings.
    let now = in_seconds(0);
    for (changes, outcome) in [
        (json!({ "iat": now }), Ok("jwt:portal")),
        (json!({ "iat": now - 300, "exp": now + 300 }), Ok("jwt:portal")),
        (json!({ "iat": now - 299, "exp": now + 301 }), Ok("jwt:portal")),
        (json!({ "iat": now + 20, "exp": now + 620 }), Ok("jwt:portal")),
        (json!({ "iat": now - 300, "exp": now + 301 }), Err(JwtError::Lifetime)),
        (json!({ "iat": in_seconds(-310) }), Err(JwtError::Lifetime)),
        (json!({}), Err(JwtError::Lifetime)),
        (json!({ "iat": null }), Err(JwtError::Lifetime)),
        (json!({ "iat": "now" }), Err(JwtError::Lifetime)),
        (json!({ "iat": 0 }), Err(JwtError::Lifetime)),
        (json!({ "iat": -1e300 }), Err(JwtError::Lifetime)),
        // A short-lived token issued next year would be valid until then.
        (json!({ "iat": in_seconds(31_000_000), "exp": in_seconds(31_000_060) }), Err(JwtError::NotYetValid)),
        (json!({ "iat": 1e300, "exp": in_seconds(300) }), Err(JwtError::NotYetValid)),
    ] {
        let token = key.sign(&claims(&changes));
        assert_eq!(verified(&verifier, &token).await, outcome.map(str::to_owned), "{changes}");
    }
}

/// Two named issuers and their keys.
struct Two {
    verifiers: JwtVerifiers,
    keys: [SigningKey; 2],
}

const OTHER_ISSUER: &str = "https://other.example";

impl Two {
    fn new() -> Self {
        // Both have the same key id, which does not identify an issuer.
        let keys = [(); 2].map(|()| SigningKey::new("k1", Algorithm::ES256));
        let named = |name: &str, issuer: &str, key| {
            let settings =
                JwtSettings { name: Some(Arc::from(name)), issuer: issuer.to_owned(), ..settings() };
            verifier_of(settings, &jwks(&[key]))
        };
        let [one, other] = &keys;
        let verifiers = JwtVerifiers {
            issuers: vec![named("corp", ISSUER, one), named("k8s", OTHER_ISSUER, other)],
            waiters: waiters(),
        };
        Self { verifiers, keys }
    }

    async fn sees(&self, key: &SigningKey, issuer: &str, subject: &str) -> Result<String, JwtError> {
        let token = key.sign(&claims(&json!({ "iss": issuer, "sub": subject })));
        let caller = seen_by(&self.verifiers, &token).await?;
        Ok(format!("{} {}", caller.proof().label(), caller.name()))
    }
}

#[tokio::test]
async fn each_of_several_issuers_identifies_only_its_own_callers() {
    let two = Two::new();
    let [corp, k8s] = &two.keys;
    assert_eq!(two.sees(corp, ISSUER, "portal").await.as_deref(), Ok("jwt:corp jwt:corp:portal"));
    assert_eq!(two.sees(k8s, OTHER_ISSUER, "portal").await.as_deref(), Ok("jwt:k8s jwt:k8s:portal"));
    // A subject that looks like another issuer's caller stays a subject.
    for subject in ["k8s:portal", "jwt:k8s:portal", ":k8s:portal", "*"] {
        let expected = format!("jwt:corp jwt:corp:{subject}");
        assert_eq!(two.sees(corp, ISSUER, subject).await, Ok(expected));
    }
    assert_eq!(
        two.sees(corp, OTHER_ISSUER, "portal").await,
        Err(JwtError::Signature),
        "another issuer's keys"
    );
    assert_eq!(two.sees(k8s, ISSUER, "portal").await, Err(JwtError::Signature));
    assert_eq!(two.sees(corp, "https://third.example", "portal").await, Err(JwtError::Issuer));
    assert_eq!(two.sees(corp, "", "portal").await, Err(JwtError::Issuer));
    let [none, list] = [json!({ "iss": null }), json!({ "iss": [ISSUER, OTHER_ISSUER] })];
    for changes in [none, list] {
        let refused = seen_by(&two.verifiers, &corp.sign(&claims(&changes))).await.unwrap_err();
        assert_eq!(refused, JwtError::Claims, "{changes}");
    }
}

#[test]
fn issuers_that_could_be_confused_are_refused() {
    let issuer = |name: Option<&str>, issuer: &str| JwtSettings {
        name: name.map(Arc::from),
        issuer: issuer.to_owned(),
        jwks: JwksSource::Url(JwksUrl {
            url: "https://keys.example".parse().unwrap(),
            ca_file: None,
            max_age: Duration::from_hours(24),
        }),
        ..settings()
    };
    let http = |_: &JwksUrl| Ok::<_, InvalidSettings>(UnpooledClient::for_test());
    let start = |issuers| JwtVerifiers::start(issuers, http, &Metrics::new());
    for good in [
        vec![],
        vec![issuer(None, "a")],
        vec![issuer(Some("x"), "a")],
        vec![issuer(Some("x"), "a"), issuer(Some("x-1"), "b")],
    ] {
        let number = good.len();
        assert_eq!(start(good).unwrap().1.len(), number, "one refresh per issuer");
    }
    for wrong in [
        vec![issuer(None, "a"), issuer(None, "b")],
        vec![issuer(None, "a"), issuer(Some("x"), "b")],
        vec![issuer(Some("x"), "a"), issuer(Some("x"), "b")],
        vec![issuer(Some("x"), "a"), issuer(Some("y"), "a")],
        vec![issuer(Some(""), "a")],
        vec![issuer(Some("x:y"), "a")],
        vec![issuer(Some("X"), "a")],
        vec![issuer(Some("x*"), "a")],
    ] {
        assert!(matches!(start(wrong), Err(InvalidSettings::Issuers)));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn arbitrary_text_is_not_accepted_as_a_token(text in "\\PC{0,40}(\\.\\PC{0,40}){0,4}") {
        let two = Two::new();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        prop_assert!(runtime.block_on(seen_by(&two.verifiers, &text)).is_err());
    }

    /// RFC 7515 section 4.1.9: `application/` is prepended to types without a `/`.
    #[test]
    fn media_types_are_equal_if_their_full_forms_are(
        one in "([aA]pplication/|text/)?[a-bA-B+/]{0,3}",
        other in "([aA]pplication/|text/)?[a-bA-B+/]{0,3}",
    ) {
        let full = |text: &str| {
            let prefix = if text.contains('/') { "" } else { "application/" };
            format!("{prefix}{text}").to_lowercase()
        };
        prop_assert_eq!(is_same_media_type(&one, &other), full(&one) == full(&other));
    }
}
