use aws_lc_rs::digest::{SHA256, digest};
use jsonwebtoken::Algorithm;
use rcgen::{CertificateParams, KeyPair, SanType};

use super::*;
use jwt::tests::{AUDIENCE, ISSUER, SigningKey, jwks};

const REMOTE: &str = "192.0.2.7:4321";
const LOOPBACK: &str = "127.0.0.1:4321";
const TOKEN: &str = "canary-token";

/// An identification with all kinds of proof, and the signing key of its trusted issuer.
struct Everything {
    identification: Identification,
    key: SigningKey,
}

impl Everything {
    fn new(header: ForwardedHeader) -> Self {
        let key = SigningKey::new("k1", Algorithm::ES256);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("jwks.json");
        std::fs::write(&path, jwks(&[&key])).unwrap();
        let settings = Settings {
            jwt: vec![JwtSettings {
                name: None,
                issuer: ISSUER.to_owned(),
                audience: AUDIENCE.to_owned(),
                typ: None,
                max_lifetime: None,
                jwks: JwksSource::File(path),
            }],
            forwarded: Some(ForwardedSettings {
                header,
                from: vec![ForwardedFrom::Loopback, ForwardedFrom::Spiffe("spiffe://mesh/edge".to_owned())],
            }),
        };
        Self { identification: identification(settings), key }
    }

    async fn sees(&self, peer: &Peer, headers: &[(&'static str, &str)]) -> Result<String, CallerError> {
        sees_with(&self.identification, &tokens(), peer, headers).await
    }
}

/// The token of the caller `ci`.
fn tokens() -> BearerTokens {
    let known = digest(&SHA256, TOKEN.as_bytes()).as_ref().try_into().unwrap();
    BearerTokens::for_test([("ci", known)]).unwrap()
}

fn identification(settings: Settings) -> Identification {
    Identification::new(settings, no_url, Metrics::new()).unwrap().0
}

/// The proof and the name of the caller, without bearer tokens.
async fn sees(
    identification: &Identification,
    peer: &Peer,
    headers: &[(&'static str, &str)],
) -> Result<String, CallerError> {
    sees_with(identification, &BearerTokens::default(), peer, headers).await
}

async fn sees_with(
    identification: &Identification,
    tokens: &BearerTokens,
    peer: &Peer,
    headers: &[(&'static str, &str)],
) -> Result<String, CallerError> {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.append(*name, HeaderValue::from_str(value).unwrap());
    }
    let policy = CallerPolicy { tokens, claims: &RequestedClaims::default() };
    let caller = identification.identify(&map, peer, policy).await?;
    Ok(format!("{} {}", caller.proof().label(), caller.name()))
}

fn plaintext(address: &str) -> Peer {
    Peer::plaintext(address.parse().unwrap())
}

/// A peer with a certificate that contains `uris`.
fn certified(uris: &[&str]) -> Peer {
    Peer::tls(REMOTE.parse().unwrap(), &[certificate_for(uris)])
}

fn certificate_for(uris: &[&str]) -> CertificateDer<'static> {
    let mut params = CertificateParams::default();
    params.subject_alt_names = uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())).collect();
    params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
}

fn bearer(credential: &str) -> String {
    format!("Bearer {credential}")
}

#[expect(clippy::unnecessary_wraps, reason = "reads like the outcome that it is compared with")]
fn saw(text: &str) -> Result<String, CallerError> {
    Ok(text.to_owned())
}

#[tokio::test]
async fn caller_without_any_proof_is_anonymous() {
    assert_eq!(sees(&Identification::none(), &plaintext(REMOTE), &[]).await, saw("none anonymous"));
    let all = Everything::new(ForwardedHeader::Xfcc);
    assert_eq!(all.sees(&plaintext(REMOTE), &[]).await, saw("none anonymous"));
    assert_eq!(all.sees(&Peer::tls(REMOTE.parse().unwrap(), &[]), &[]).await, saw("none anonymous"));
}

#[tokio::test]
async fn each_kind_of_proof_identifies_its_caller() {
    let all = Everything::new(ForwardedHeader::Xfcc);
    assert_eq!(all.sees(&certified(&["spiffe://td/a"]), &[]).await, saw("certificate spiffe://td/a"));
    let jwt = bearer(&all.key.token_for("portal"));
    assert_eq!(all.sees(&plaintext(REMOTE), &[("authorization", &jwt)]).await, saw("jwt jwt:portal"));
    let token = bearer(TOKEN);
    assert_eq!(all.sees(&plaintext(REMOTE), &[("authorization", &token)]).await, saw("token token:ci"));
    let asserted = [("x-forwarded-client-cert", "Hash=ab;URI=spiffe://td/behind")];
    assert_eq!(all.sees(&plaintext(LOOPBACK), &asserted).await, saw("forwarded spiffe://td/behind"));
    let linkerd = Everything::new(ForwardedHeader::L5dClientId);
    let asserted = [("l5d-client-id", "portal.ns.serviceaccount.identity.linkerd.cluster.local")];
    assert_eq!(
        linkerd.sees(&plaintext("[::ffff:127.0.0.1]:1"), &asserted).await,
        saw("forwarded dns:portal.ns.serviceaccount.identity.linkerd.cluster.local")
    );
}

#[tokio::test]
async fn certificate_takes_precedence_over_headers() {
    let all = Everything::new(ForwardedHeader::Xfcc);
    let jwt = bearer(&all.key.token_for("portal"));
    let headers = [("authorization", jwt.as_str()), ("x-forwarded-client-cert", "URI=spiffe://mesh/admin")];
    assert_eq!(all.sees(&certified(&["spiffe://td/a"]), &headers).await, saw("certificate spiffe://td/a"));
}

#[tokio::test]
async fn proxy_is_never_the_caller() {
    let all = Everything::new(ForwardedHeader::Xfcc);
    let edge = certified(&["spiffe://mesh/edge"]);
    let jwt = bearer(&all.key.token_for("portal"));
    let asserted = ("x-forwarded-client-cert", "By=spiffe://mesh/edge;URI=spiffe://td/behind");
    assert_eq!(all.sees(&edge, &[asserted]).await, saw("forwarded spiffe://td/behind"));
    assert_eq!(all.sees(&edge, &[asserted, ("authorization", &jwt)]).await, saw("jwt jwt:portal"));
    assert_eq!(all.sees(&edge, &[("authorization", &jwt)]).await, saw("jwt jwt:portal"));
    assert_eq!(
        all.sees(&edge, &[]).await,
        saw("none anonymous"),
        "an unidentified client behind a proxy must not be taken for the proxy"
    );
}

#[tokio::test]
async fn header_from_an_untrusted_peer_is_not_used() {
    let all = Everything::new(ForwardedHeader::Xfcc);
    let asserted = ("x-forwarded-client-cert", "URI=spiffe://td/admin");
    let unread = Err(CallerError::Unread(Unread::Forwarded));
    assert_eq!(all.sees(&plaintext(REMOTE), &[asserted]).await, unread);
    for almost in ["spiffe://mesh/edge2", "spiffe://mesh2/edge", "spiffe://mesh/edge/x"] {
        assert_eq!(all.sees(&certified(&[almost]), &[asserted]).await, saw(&format!("certificate {almost}")));
    }
    let other_kind = ("l5d-client-id", "admin");
    assert_eq!(all.sees(&plaintext(LOOPBACK), &[other_kind]).await, unread);
    assert_eq!(
        all.sees(&plaintext(LOOPBACK), &[asserted, other_kind]).await,
        saw("forwarded spiffe://td/admin")
    );
}

#[tokio::test]
async fn each_call_on_a_proxy_connection_has_the_caller_of_its_own_header() {
    let all = Everything::new(ForwardedHeader::Xfcc);
    let connection = plaintext(LOOPBACK);
    for _ in 0..3 {
        for number in 0..20 {
            let asserted = [("x-forwarded-client-cert", &*format!("URI=spiffe://td/{number}"))];
            let expected = saw(&format!("forwarded spiffe://td/{number}"));
            assert_eq!(all.sees(&connection, &asserted).await, expected);
            assert_eq!(all.sees(&connection, &asserted).await, expected);
        }
        // Earlier assertions do not apply to a call without a valid one.
        assert_eq!(all.sees(&connection, &[]).await, saw("none anonymous"));
        let malformed = [("x-forwarded-client-cert", "URI=spiffe://td/19;")];
        let error = CallerError::InvalidForwarded(ForwardedError::Malformed);
        assert_eq!(all.sees(&connection, &malformed).await, Err(error));
    }
}

#[tokio::test]
async fn trusted_address_matches_exactly() {
    let from = vec![ForwardedFrom::Address("192.0.2.7".parse().unwrap())];
    let forwarded = Some(ForwardedSettings { header: ForwardedHeader::L5dClientId, from });
    let linkerd = identification(Settings { forwarded, ..Settings::default() });
    let asserted = [("l5d-client-id", "portal.example")];
    for own in [REMOTE, "[::ffff:192.0.2.7]:1"] {
        assert_eq!(sees(&linkerd, &plaintext(own), &asserted).await, saw("forwarded dns:portal.example"));
    }
    for other in ["192.0.2.8:4321", LOOPBACK, "[2001:db8::c000:207]:1", "[::1]:1"] {
        let seen = sees(&linkerd, &plaintext(other), &asserted).await;
        assert_eq!(seen, Err(CallerError::Unread(Unread::Forwarded)), "{other}");
    }
}

#[test]
fn only_identity_headers_other_than_the_accepted_one_are_claims() {
    let headers = |names: &[&'static str]| -> HeaderMap {
        names.iter().map(|name| (HeaderName::from_static(name), HeaderValue::from_static("x"))).collect()
    };
    let (xfcc, linkerd) = ("x-forwarded-client-cert", "l5d-client-id");
    for (names, accepted, claims) in [
        (&[][..], None, false),
        (&["x-request-id"], None, false),
        (&[xfcc], None, true),
        (&[linkerd], None, true),
        (&[xfcc], Some(ForwardedHeader::Xfcc), false),
        (&[xfcc], Some(ForwardedHeader::L5dClientId), true),
        (&[xfcc, linkerd], Some(ForwardedHeader::Xfcc), true),
    ] {
        assert_eq!(forwarded::claims_identity(&headers(names), accepted), claims, "{names:?}");
    }
}

#[tokio::test]
async fn duplicate_identity_headers_are_refused() {
    let all = Everything::new(ForwardedHeader::Xfcc);
    let jwt = bearer(&all.key.token_for("portal"));
    let twice = [("authorization", jwt.as_str()), ("authorization", jwt.as_str())];
    for peer in [plaintext(REMOTE), plaintext(LOOPBACK), certified(&["spiffe://td/a"])] {
        assert_eq!(all.sees(&peer, &twice).await, Err(CallerError::DuplicateIdentity));
    }
    assert_eq!(
        sees(&Identification::none(), &plaintext(REMOTE), &twice).await,
        Err(CallerError::DuplicateIdentity)
    );
    let asserted = ("x-forwarded-client-cert", "URI=spiffe://td/a");
    let linkerd = ("l5d-client-id", "td.a");
    for peer in [plaintext(REMOTE), plaintext(LOOPBACK), certified(&["spiffe://td/a"])] {
        for header in [asserted, linkerd] {
            let twice = [header, header, ("authorization", &*jwt)];
            assert_eq!(all.sees(&peer, &twice).await, Err(CallerError::DuplicateIdentity));
            let seen = sees(&Identification::none(), &peer, &twice[..2]).await;
            assert_eq!(seen, Err(CallerError::DuplicateIdentity));
        }
    }
    assert_eq!(all.sees(&plaintext(LOOPBACK), &[asserted]).await, saw("forwarded spiffe://td/a"));
}

#[tokio::test]
async fn invalid_proof_is_refused_instead_of_becoming_anonymous() {
    let all = Everything::new(ForwardedHeader::Xfcc);
    let forger = SigningKey::new("k1", Algorithm::ES256);
    let wrong_key = bearer(&forger.token_for("portal"));
    let asserted = ("x-forwarded-client-cert", "URI=spiffe://td/behind");
    for peer in [plaintext(REMOTE), plaintext(LOOPBACK)] {
        assert_eq!(
            all.sees(&peer, &[("authorization", &wrong_key), asserted]).await,
            Err(CallerError::InvalidJwt(JwtError::Signature))
        );
        for wrong in
            ["Bearer wrong", "Basic Y2k6eA==", "canary-token", "Bearer canary-token, Bearer canary-token"]
        {
            assert_eq!(
                all.sees(&peer, &[("authorization", wrong), asserted]).await,
                Err(CallerError::InvalidCredential),
                "{wrong}"
            );
        }
    }
    assert_eq!(
        all.sees(&certified(&["spiffe://td/a", "spiffe://td/b"]), &[("authorization", &bearer(TOKEN))]).await,
        Err(CallerError::InvalidCertificate(NameError::SeveralUris))
    );
    assert_eq!(
        all.sees(&plaintext(LOOPBACK), &[("x-forwarded-client-cert", "URI=\"")]).await,
        Err(CallerError::InvalidForwarded(ForwardedError::Malformed))
    );
    assert_eq!(all.sees(&plaintext(LOOPBACK), &[asserted]).await, saw("forwarded spiffe://td/behind"));
}

#[tokio::test]
async fn unread_credential_is_refused_instead_of_becoming_anonymous() {
    let none = Identification::none();
    let unread = |what| Err(CallerError::Unread(what));
    for (peer, header, error) in [
        (&plaintext(REMOTE), ("authorization", "Bearer x"), Unread::Authorization),
        (&plaintext(REMOTE), ("authorization", "Basic x"), Unread::Authorization),
        (&plaintext(REMOTE), ("authorization", ""), Unread::Authorization),
        (&plaintext(LOOPBACK), ("x-forwarded-client-cert", ""), Unread::Forwarded),
        (&plaintext(REMOTE), ("l5d-client-id", "a.b"), Unread::Forwarded),
    ] {
        assert_eq!(sees(&none, peer, &[header]).await, unread(error));
    }
    // The holder of the only bearer token, after a reload has removed the token.
    let holder = bearer(TOKEN);
    let credential = [("authorization", &*holder)];
    assert_eq!(sees_with(&none, &tokens(), &plaintext(REMOTE), &credential).await, saw("token token:ci"));
    assert_eq!(sees(&none, &plaintext(REMOTE), &credential).await, unread(Unread::Authorization));
    // The assertion of a trusted proxy is enough, regardless of the credential that its client
    // sends.
    let forwarded =
        Some(ForwardedSettings { header: ForwardedHeader::Xfcc, from: vec![ForwardedFrom::Loopback] });
    let behind_proxy = identification(Settings { forwarded, ..Settings::default() });
    let asserted = ("x-forwarded-client-cert", "URI=spiffe://td/behind");
    let seen = sees(&behind_proxy, &plaintext(LOOPBACK), &[asserted, credential[0]]).await;
    assert_eq!(seen, saw("forwarded spiffe://td/behind"));
    let seen = sees(&behind_proxy, &plaintext(LOOPBACK), &credential).await;
    assert_eq!(seen, unread(Unread::Authorization));
}

#[tokio::test]
async fn kinds_of_proof_that_are_not_configured_are_not_read() {
    let only_tokens = identification(Settings::default());
    let peer = plaintext(REMOTE);
    assert_eq!(
        sees_with(&only_tokens, &tokens(), &peer, &[("authorization", &bearer(TOKEN))]).await,
        saw("token token:ci")
    );
    let jwt = bearer(&SigningKey::new("k1", Algorithm::ES256).token_for("portal"));
    assert_eq!(
        sees_with(&only_tokens, &tokens(), &peer, &[("authorization", &jwt)]).await,
        Err(CallerError::InvalidCredential),
        "without a JWT issuer, a JWT is an unknown token"
    );
    let only_certificates = identification(Settings::default());
    let named = certified(&["spiffe://td/a"]);
    assert_eq!(
        sees(&only_certificates, &named, &[("authorization", "Basic x")]).await,
        saw("certificate spiffe://td/a")
    );
}

#[test]
fn unsafe_settings_are_refused() {
    let http = |_: &JwksUrl| Ok::<_, InvalidSettings>(UnpooledClient::for_test());
    let refused = |settings| Identification::new(settings, http, Metrics::new()).unwrap_err();
    let forwarded = |from| Settings {
        forwarded: Some(ForwardedSettings { header: ForwardedHeader::Xfcc, from }),
        ..Settings::default()
    };
    let jwt = |issuer: &str, audience: &str, url: &str| Settings {
        jwt: vec![JwtSettings {
            name: None,
            issuer: issuer.to_owned(),
            audience: audience.to_owned(),
            typ: None,
            max_lifetime: None,
            jwks: JwksSource::Url(JwksUrl {
                url: url.parse().unwrap(),
                ca_file: None,
                max_age: std::time::Duration::from_hours(24),
            }),
        }],
        ..Settings::default()
    };
    assert!(matches!(refused(forwarded(vec![])), InvalidSettings::ForwardedFrom));
    for wrong in [
        ForwardedFrom::Spiffe("spiffe://mesh/*".to_owned()),
        ForwardedFrom::Spiffe("spiffe://mesh".to_owned()),
        ForwardedFrom::Dns("*.example".to_owned()),
        ForwardedFrom::Dns(String::new()),
        ForwardedFrom::Address("0.0.0.0".parse().unwrap()),
        ForwardedFrom::Address("::".parse().unwrap()),
        ForwardedFrom::Address("224.0.0.1".parse().unwrap()),
    ] {
        assert!(matches!(refused(forwarded(vec![wrong])), InvalidSettings::ForwardedFrom));
    }
    assert!(matches!(refused(jwt("", "b", "https://c")), InvalidSettings::EmptyIssuerOrAudience));
    assert!(matches!(refused(jwt("a", "", "https://c")), InvalidSettings::EmptyIssuerOrAudience));
    assert!(matches!(refused(jwt("a", "b", "http://c")), InvalidSettings::JwksUrl));
}

#[tokio::test]
async fn only_the_leaf_of_a_certificate_chain_names_the_caller() {
    let identification = identification(Settings::default());
    let peer = |chain: &[&str]| {
        let chain: Vec<_> = chain.iter().map(|uri| certificate_for(&[uri])).collect();
        Peer::tls(REMOTE.parse().unwrap(), &chain)
    };
    let (leaf, issuer, root) = ("spiffe://mesh/leaf", "spiffe://mesh/issuer", "spiffe://mesh/root");
    for chain in [&[leaf][..], &[leaf, issuer], &[leaf, issuer, root], &[leaf, root]] {
        let seen = sees(&identification, &peer(chain), &[]).await;
        assert_eq!(seen.as_deref(), Ok("certificate spiffe://mesh/leaf"), "{chain:?}");
    }
}

#[tokio::test]
async fn debug_output_and_errors_do_not_contain_credentials() {
    let all = Everything::new(ForwardedHeader::Xfcc);
    let jwt = SigningKey::new("canary", Algorithm::ES256).token_for("canary");
    let mut shown = vec![format!("{:?} {:?}", all.identification, tokens())];
    for credential in ["canary-wrong", TOKEN, &jwt] {
        let outcome = all.sees(&plaintext(REMOTE), &[("authorization", &bearer(credential))]).await;
        shown.push(format!("{outcome:?}"));
        shown.extend(outcome.err().map(|error| error.to_string()));
    }
    assert_eq!(shown.len(), 6);
    let shown = shown.concat();
    assert!(!shown.contains("canary"), "{shown}");
}

#[tokio::test]
async fn only_jwts_have_claims() {
    let all = Everything::new(ForwardedHeader::Xfcc);
    let path = ClaimPath::new("groups").unwrap();
    let required = ClaimRequirement { path, values: vec![ClaimValue::Text("issuers".into())] };
    let (claims, tokens) = (RequestedClaims::new([&required]), tokens());
    let policy = CallerPolicy { tokens: &tokens, claims: &claims };
    let jwt = bearer(&all.key.token_with(&serde_json::json!({ "groups": ["issuers"] })));
    let xfcc = "URI=spiffe://mesh/portal";
    for (peer, headers, expected) in [
        (plaintext(REMOTE), &[("authorization", jwt.as_str())][..], ("jwt:portal", true)),
        (
            plaintext(LOOPBACK),
            &[("authorization", &jwt), ("x-forwarded-client-cert", xfcc)],
            ("jwt:portal", true),
        ),
        (certified(&["spiffe://mesh/a"]), &[("authorization", &jwt)], ("spiffe://mesh/a", false)),
        (plaintext(REMOTE), &[("authorization", &bearer(TOKEN))], ("token:ci", false)),
        (plaintext(LOOPBACK), &[("x-forwarded-client-cert", xfcc)], ("spiffe://mesh/portal", false)),
        (plaintext(REMOTE), &[], (ANONYMOUS, false)),
    ] {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_str(value).unwrap());
        }
        let caller = all.identification.identify(&map, &peer, policy).await.unwrap();
        let has_claim = caller.principal().claims.meet(std::slice::from_ref(&required));
        assert_eq!((&**caller.name(), has_claim), expected);
    }
    // A proxy cannot name the caller of a JWT.
    for forged in ["URI=jwt:portal", "DNS=jwt:portal"] {
        let refused = all.sees(&plaintext(LOOPBACK), &[("x-forwarded-client-cert", forged)]).await;
        assert!(matches!(refused, Err(CallerError::InvalidForwarded(_))), "{refused:?}");
    }
}
