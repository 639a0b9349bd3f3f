//! Caller identity: which credentials the real binary accepts, and from which peers.

use std::{
    fs,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use aws_lc_rs::digest::{SHA256, digest};
use axum::{Router, http::StatusCode, routing::get};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use ott_gateway::proto::ott::v1::ott_service_client::OttServiceClient;
use serde_json::{Value, json};
use tonic::transport::Channel;
use tonic_types::StatusExt;

use crate::support::{
    authority::{Authority, write},
    calling::{issue, issued, metric, result_of, until, with},
    gateway::{Gateway, Setup},
    issuer::{Issuer, claims, forged, in_seconds},
    upstream::{Answer, Tls, Upstream},
};

const UNKNOWN: &str = "Unauthenticated CALLER_UNAUTHENTICATED";
const SPOOFED: &str = "ott_gateway_spoofed_identity_headers_total";
const XFCC: &str = "x-forwarded-client-cert";

/// A gateway that allows every identified caller and no other, with `more` configuration.
fn setup(platform: &Upstream, more: &str) -> Setup {
    Setup::for_platform(platform.address())
        .replacing(r#"callers = ["anonymous"]"#, r#"callers = ["*"]"#)
        .replacing("[[access.rules]]", &format!("{more}\n[[access.rules]]"))
}

/// The same, with TLS and `client_auth`.
fn with_tls(setup: Setup, authority: &Authority, client_auth: &str) -> Setup {
    let folder = setup.folder().join("tls");
    fs::create_dir(&folder).unwrap();
    authority.issue(&["localhost"]).write(&folder);
    write(&folder, "ca.crt", &authority.certificate());
    setup.replacing(
        "[admin]",
        &format!(
            "[server.tls]
            certificate_file = \"FOLDER/tls/tls.crt\"
            private_key_file = \"FOLDER/tls/tls.key\"
            client_ca_file = \"FOLDER/tls/ca.crt\"
            client_auth = \"{client_auth}\"
            [admin]"
        ),
    )
}

/// Caller and proof in the last audit record.
fn last_caller(gateway: &Gateway) -> (Value, Value) {
    let record = gateway.audit().pop().unwrap();
    (record["caller"].clone(), record["caller_proof"].clone())
}

fn proven(name: &str, proof: &str) -> (Value, Value) {
    (json!(name), json!(proof))
}

fn hash(token: &str) -> String {
    use std::fmt::Write as _;
    digest(&SHA256, token.as_bytes()).as_ref().iter().fold("sha256:".to_owned(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificate_identifies_its_caller_if_it_has_exactly_one_name() {
    let platform = Upstream::http().await;
    let authority = Authority::new("mesh");
    let gateway = with_tls(setup(&platform, ""), &authority, "optional").start();
    let good = [
        (&["spiffe://mesh/ns/web/sa/portal"][..], "spiffe://mesh/ns/web/sa/portal"),
        (&["spiffe://mesh/ns/web/sa/portal", "one.example", "two.example"], "spiffe://mesh/ns/web/sa/portal"),
        (&["Portal.Example"], "dns:portal.example"),
        (&["https://portal.example/", "portal.example"], "dns:portal.example"),
    ];
    for (names, caller) in good {
        let channel = authority.channel(gateway.address(), Some(&authority.issue(names))).await.unwrap();
        assert_eq!(issued(&channel, &[]).await, "OK", "{names:?}");
        assert_eq!(last_caller(&gateway), proven(caller, "certificate"));
    }
    let before = platform.requests().len();
    let bad = [
        &["spiffe://mesh/ns/web/sa/portal", "spiffe://mesh/ns/root/sa/admin"][..],
        &["spiffe://mesh/ns/web/sa/portal", "https://portal.example/"],
        &["spiffe://MESH/ns/web"],
        &["spiffe://mesh/a/../b"],
        &["one.example", "two.example"],
        &["*.example"],
        &[],
    ];
    for names in bad {
        let channel = authority.channel(gateway.address(), Some(&authority.issue(names))).await.unwrap();
        assert_eq!(issued(&channel, &[]).await, UNKNOWN, "{names:?}");
        assert_eq!(last_caller(&gateway), (Value::Null, Value::Null), "a common name identifies no caller");
    }
    // Without a certificate, the caller is anonymous, which no rule allows.
    let channel = authority.channel(gateway.address(), None).await.unwrap();
    assert_eq!(issued(&channel, &[]).await, "PermissionDenied CALLER_NOT_ALLOWED");
    assert_eq!(last_caller(&gateway), proven("anonymous", "none"));
    assert_eq!(platform.requests().len(), before, "nothing was sent to the platform");
    gateway.stderr().wait_for("why", |line| {
        (line.contains("call failed") && line.contains("it has more than one URI")).then_some(())
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_exact_bearer_token_proves_its_name() {
    let platform = Upstream::http().await;
    let tokens = format!(
        "[callers.tokens]\nci = \"{}\"\nreports = [\"{}\", \"{}\"]",
        hash("canary-ci"),
        hash("canary-old"),
        hash("canary-new")
    );
    let gateway = setup(&platform, &tokens).start();
    let channel = gateway.channel().await;
    for (token, name) in [
        ("Bearer canary-ci", "token:ci"),
        ("bearer canary-ci", "token:ci"),
        ("Bearer canary-old", "token:reports"),
        ("Bearer canary-new", "token:reports"),
    ] {
        assert_eq!(issued(&channel, &[("authorization", token)]).await, "OK", "{token}");
        assert_eq!(last_caller(&gateway), proven(name, "token"));
    }
    let sent = platform.requests().len();
    let stored = format!("Bearer {}", hash("canary-ci"));
    let hexadecimal = stored.replace("sha256:", "");
    for wrong in [
        "Bearer canary-c",
        "Bearer canary-ci2",
        "Bearer CANARY-CI",
        "Bearer",
        "canary-ci",
        "Basic Y2k6Y2FuYXJ5LWNp",
        &stored,
        &hexadecimal,
    ] {
        assert_eq!(issued(&channel, &[("authorization", wrong)]).await, UNKNOWN, "{wrong}");
    }
    let twice = [("authorization", "Bearer canary-ci"), ("authorization", "Bearer canary-ci")];
    assert_eq!(issued(&channel, &twice).await, UNKNOWN, "duplicates prove nothing, even if equal");
    assert_eq!(issued(&channel, &[]).await, "PermissionDenied CALLER_NOT_ALLOWED", "anonymous");
    assert_eq!(platform.requests().len(), sent);
    let admin = gateway.admin();
    let counted = async |kind: &str| {
        metric(admin, &format!("ott_gateway_security_events_total{{kind=\"{kind}\"}}")).await
    };
    assert_eq!((counted("duplicate_identity").await, counted("caller_unauthenticated").await), (1.0, 9.0));
    let shown = gateway.stderr().text() + &fs::read_to_string(gateway.folder().join("audit.jsonl")).unwrap();
    assert!(!shown.contains("canary-"), "no token in log or audit: {shown}");
}

const JWT: &str = "[callers.jwt]\nissuer = \"https://issuer.example\"\naudience = \"ott-gateway\"\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_a_fully_valid_jwt_proves_its_subject() {
    let platform = Upstream::http().await;
    let issuer = Issuer::new("k1");
    let setup = setup(&platform, &format!("{JWT}jwks_file = \"FOLDER/jwks.json\""));
    setup.file("jwks.json", &issuer.jwks());
    let gateway = setup.start();
    let channel = gateway.channel().await;
    for good in [json!({}), json!({ "aud": ["other", "ott-gateway"] }), json!({ "nbf": in_seconds(-60) })] {
        assert_eq!(issued(&channel, &[("authorization", &issuer.bearer(good))]).await, "OK");
        assert_eq!(last_caller(&gateway), proven("jwt:portal", "jwt"));
    }
    // A subject that looks like another kind of name is still a JWT subject.
    let posing = issuer.bearer(json!({ "sub": "spiffe://mesh/ns/root/sa/admin" }));
    assert_eq!(issued(&channel, &[("authorization", &posing)]).await, "OK");
    assert_eq!(last_caller(&gateway), proven("jwt:spiffe://mesh/ns/root/sa/admin", "jwt"));

    let sent = platform.requests().len();
    let hs256 = {
        // Key confusion: the public key used as a shared secret.
        let header = Header { kid: Some("k1".to_owned()), ..Header::new(Algorithm::HS256) };
        let key = EncodingKey::from_secret(issuer.jwks().as_bytes());
        format!("Bearer {}", encode(&header, &claims(json!({})), &key).unwrap())
    };
    let impostor = Issuer::new("k1");
    let embedded = json!({ "alg": "ES256", "jwk": impostor.jwk() });
    let wrong = [
        ("expired", issuer.bearer(json!({ "exp": in_seconds(-60) }))),
        ("no expiry", issuer.bearer(json!({ "exp": null }))),
        ("not valid yet", issuer.bearer(json!({ "nbf": in_seconds(120) }))),
        ("another audience", issuer.bearer(json!({ "aud": "other" }))),
        ("no audience", issuer.bearer(json!({ "aud": null }))),
        ("another issuer", issuer.bearer(json!({ "iss": "https://issuer.example/" }))),
        ("no subject", issuer.bearer(json!({ "sub": null }))),
        ("an empty subject", issuer.bearer(json!({ "sub": "" }))),
        ("a subject with a line break", issuer.bearer(json!({ "sub": "portal\nadmin" }))),
        ("another's signature", impostor.bearer(json!({}))),
        ("an unknown key", Issuer::new("k2").bearer(json!({}))),
        ("a shared secret", hs256),
        ("no algorithm", forged(&json!({ "alg": "none" }), b"")),
        ("no algorithm, in capitals", forged(&json!({ "alg": "NONE", "kid": "k1" }), b"")),
        ("an embedded key", forged(&embedded, &[0; 64])),
        ("a zero signature", forged(&json!({ "alg": "ES256", "kid": "k1" }), &[0; 64])),
    ];
    for (what, token) in &wrong {
        assert_eq!(issued(&channel, &[("authorization", token)]).await, UNKNOWN, "{what}");
    }
    assert_eq!(platform.requests().len(), sent);
    gateway.stderr().wait_for("why", |line| {
        (line.contains("call failed") && line.contains("the JWT is not valid: it has expired")).then_some(())
    });

    // Within 10 s, a new key in the file is accepted and the old one is not, even for tokens used
    // before.
    let new = Issuer::new("k2");
    let (used, old) = (issuer.bearer(json!({})), issuer.bearer(json!({ "sub": "other" })));
    for _ in 0..3 {
        assert_eq!(issued(&channel, &[("authorization", &used)]).await, "OK");
        assert_eq!(last_caller(&gateway), proven("jwt:portal", "jwt"));
    }
    write(gateway.folder(), "jwks.json", &new.jwks());
    let new = new.bearer(json!({}));
    let is_accepted = async || issued(&channel, &[("authorization", &new)]).await == "OK";
    until("the new key is accepted", is_accepted).await;
    for withdrawn in [used, old] {
        assert_eq!(issued(&channel, &[("authorization", &withdrawn)]).await, UNKNOWN);
    }
}

/// The response of an issuer's HTTP server, and its number of requests.
#[derive(Clone)]
struct KeyServer(Arc<(Mutex<(StatusCode, String)>, AtomicU32)>);

impl KeyServer {
    async fn start() -> (Self, String) {
        let answer = (StatusCode::SERVICE_UNAVAILABLE, String::new());
        let published = Self(Arc::new((Mutex::new(answer), AtomicU32::new(0))));
        let served = published.clone();
        let keys = move || {
            served.0.1.fetch_add(1, Ordering::SeqCst);
            let answer = served.0.0.lock().unwrap().clone();
            async move { answer }
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/jwks", listener.local_addr().unwrap());
        tokio::spawn(async { axum::serve(listener, Router::new().route("/jwks", get(keys))).await.unwrap() });
        (published, url)
    }

    fn set_response(&self, status: StatusCode, body: String) {
        *self.0.0.lock().unwrap() = (status, body);
    }

    fn requests(&self) -> u32 {
        self.0.1.load(Ordering::SeqCst)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn issuers_cannot_impersonate_each_other() {
    let platform = Upstream::http().await;
    // Both use the same key id, and both have a subject `portal`.
    let (corp, k8s) = (Issuer::new("k1"), Issuer::new("k1"));
    let issuers = "[[callers.jwt]]\nname = \"corp\"\nissuer = \"https://corp.example\"\naudience = \"ott-gateway\"\n\
                   jwks_file = \"FOLDER/corp.json\"\nmax_lifetime = \"10min\"\n\
                   [[callers.jwt]]\nname = \"k8s\"\nissuer = \"https://k8s.example\"\naudience = \"ott-gateway\"\n\
                   jwks_file = \"FOLDER/k8s.json\"";
    let setup = setup(&platform, issuers).replacing(r#"["*"]"#, r#"["jwt:corp:portal", "jwt:k8s:*"]"#);
    setup.file("corp.json", &corp.jwks());
    setup.file("k8s.json", &k8s.jwks());
    let gateway = setup.start();
    let channel = gateway.channel().await;
    let with_bearer = async |bearer: String| issued(&channel, &[("authorization", &bearer)]).await;
    let claims = |issuer: &str, subject: &str| json!({ "iss": issuer, "sub": subject, "iat": in_seconds(0), "exp": in_seconds(300) });
    let (at_corp, at_k8s) = ("https://corp.example", "https://k8s.example");
    assert_eq!(with_bearer(corp.bearer(claims(at_corp, "portal"))).await, "OK");
    assert_eq!(last_caller(&gateway), proven("jwt:corp:portal", "jwt:corp"));
    assert_eq!(with_bearer(k8s.bearer(claims(at_k8s, "portal"))).await, "OK");
    assert_eq!(last_caller(&gateway), proven("jwt:k8s:portal", "jwt:k8s"));

    let not_allowed = "PermissionDenied CALLER_NOT_ALLOWED";
    for subject in ["other", "k8s:portal", "jwt:k8s:portal"] {
        assert_eq!(with_bearer(corp.bearer(claims(at_corp, subject))).await, not_allowed, "{subject}");
        assert_eq!(last_caller(&gateway), proven(&format!("jwt:corp:{subject}"), "jwt:corp"));
    }
    for (what, bearer) in [
        ("signed by the other issuer", corp.bearer(claims(at_k8s, "portal"))),
        ("signed by the other issuer", k8s.bearer(claims(at_corp, "portal"))),
        ("an unknown issuer", corp.bearer(claims("https://issuer.example", "portal"))),
        (
            "a lifetime above the limit",
            corp.bearer(json!({ "iss": at_corp, "iat": in_seconds(0), "exp": in_seconds(3600) })),
        ),
        ("no issue time", corp.bearer(json!({ "iss": at_corp }))),
    ] {
        assert_eq!(with_bearer(bearer).await, UNKNOWN, "{what}");
    }
    assert_eq!(
        with_bearer(k8s.bearer(json!({ "iss": at_k8s }))).await,
        "OK",
        "each issuer has its own checks"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_from_a_url_are_fetched_kept_and_rate_limited() {
    let platform = Upstream::http().await;
    let (published, url) = KeyServer::start().await;
    let (first, second) = (Issuer::new("k1"), Issuer::new("k2"));
    let gateway = setup(&platform, &format!("{JWT}jwks_url = \"{url}\"")).start();
    let channel = gateway.channel().await;
    let bearer = first.bearer(json!({}));

    // Without keys, no caller can be identified, which is not the caller's error.
    let request = with(issue("someone@example.com"), "authorization", &bearer);
    let status = OttServiceClient::new(channel.clone()).issue_ott(request).await.unwrap_err();
    assert_eq!(result_of::<()>(&Err(status.clone())), "Unavailable CALLER_UNAUTHENTICATED");
    let wait = status.get_details_retry_info().unwrap().retry_delay.unwrap();
    assert_eq!(wait, Duration::from_secs(2));
    assert!(status.metadata().get("grpc-retry-pushback-ms").is_none());
    published.set_response(StatusCode::OK, first.jwks());
    let is_accepted = async || issued(&channel, &[("authorization", &bearer)]).await == "OK";
    until("the first keys are fetched", is_accepted).await;

    // Unknown key ids cause at most one fetch in 10 s, regardless of their number.
    let before = published.requests();
    published.set_response(StatusCode::OK, second.jwks());
    let flood = (0..60).map(|_| {
        let (channel, made_up) = (channel.clone(), Issuer::new("made-up").bearer(json!({})));
        async move { issued(&channel, &[("authorization", &made_up)]).await }
    });
    for answer in futures_util::future::join_all(flood).await {
        assert_eq!(answer, UNKNOWN);
    }
    assert!(published.requests() - before <= 1, "{} fetches", published.requests() - before);

    // A new key is fetched because of its id, and a failing issuer removes no key.
    let new = second.bearer(json!({}));
    let is_accepted = async || issued(&channel, &[("authorization", &new)]).await == "OK";
    until("the new key is fetched", is_accepted).await;
    published.set_response(StatusCode::INTERNAL_SERVER_ERROR, String::new());
    assert_eq!(issued(&channel, &[("authorization", &new)]).await, "OK");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_are_fetched_only_from_servers_of_the_configured_authority() {
    let platform = Upstream::http().await;
    let issuer = Issuer::new("k1");
    let bearer = issuer.bearer(json!({}));
    let publishing = async |name: &str| {
        let server = Upstream::https(Tls::new(name, false, &["http/1.1"])).await;
        server.always("/jwks", Answer::json(200, issuer.jwks()));
        server
    };
    let trusting = |server: &Upstream, ca_file: &str| {
        let keys = format!("{JWT}jwks_url = \"{}/jwks\"\njwks_ca_file = \"{ca_file}\"", server.url());
        setup(&platform, &keys).start()
    };
    let (good, misnamed) = (publishing("localhost").await, publishing("other.example").await);
    let authority = |server: &Upstream| server.ca_file().unwrap().display().to_string();
    for (what, server, ca_file) in [
        ("another authority", &good, authority(&misnamed)),
        ("another name", &misnamed, authority(&misnamed)),
    ] {
        let gateway = trusting(server, &ca_file);
        let why = gateway
            .stderr()
            .wait_for(what, |line| line.contains("cannot refresh JWT keys").then(|| line.to_owned()));
        assert!(why.contains("certificate"), "{what}: {why}");
        let channel = gateway.channel().await;
        let result = issued(&channel, &[("authorization", &bearer)]).await;
        assert_eq!(result, "Unavailable CALLER_UNAUTHENTICATED", "{what}");
        assert_eq!(server.count("/jwks"), 0, "{what}: no request is sent");
    }
    let gateway = trusting(&good, &authority(&good));
    let channel = gateway.channel().await;
    let is_accepted = async || issued(&channel, &[("authorization", &bearer)]).await == "OK";
    until("the keys are fetched", is_accepted).await;
    assert_eq!(last_caller(&gateway), proven("jwt:portal", "jwt"));
    assert_eq!(good.count("/jwks"), 1);
    let stranger = Issuer::new("k1").bearer(json!({}));
    assert_eq!(issued(&channel, &[("authorization", &stranger)]).await, UNKNOWN);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_configured_proxy_forwards_identities() {
    let platform = Upstream::http().await;
    let authority = Authority::new("mesh");
    let forwarded = "[callers.forwarded]
        header = \"x-forwarded-client-cert\"
        from = [\"spiffe://mesh/ns/edge/sa/envoy\"]";
    let gateway = with_tls(setup(&platform, forwarded), &authority, "optional").start();
    let admin = gateway.admin();
    let connect = async |names: &[&str]| {
        authority.channel(gateway.address(), Some(&authority.issue(names))).await.unwrap()
    };
    let envoy = connect(&["spiffe://mesh/ns/edge/sa/envoy"]).await;
    let portal = connect(&["spiffe://mesh/ns/web/sa/portal"]).await;

    let header = "By=spiffe://mesh/ns/edge/sa/envoy;Hash=00ff;Subject=\"CN=a\\\",URI=spiffe://mesh/forged;b\";\
                URI=spiffe://mesh/ns/web/sa/portal";
    assert_eq!(issued(&envoy, &[(XFCC, header)]).await, "OK");
    assert_eq!(last_caller(&gateway), proven("spiffe://mesh/ns/web/sa/portal", "forwarded"));
    let forwarded_twice = "URI=spiffe://mesh/ns/root/sa/admin,URI=spiffe://mesh/ns/web/sa/portal";
    assert_eq!(issued(&envoy, &[(XFCC, forwarded_twice)]).await, "OK");
    assert_eq!(last_caller(&gateway), proven("spiffe://mesh/ns/web/sa/portal", "forwarded"), "the last one");
    assert_eq!(issued(&envoy, &[]).await, "PermissionDenied CALLER_NOT_ALLOWED");
    assert_eq!(last_caller(&gateway), proven("anonymous", "none"), "the proxy's identity is not used");
    assert!(metric(admin, SPOOFED).await < 0.5);

    let sent = platform.requests().len();
    for malformed in
        ["URI", "URI=\"spiffe://mesh/a", "Hash=00", "URI=spiffe://mesh/a;URI=spiffe://mesh/b", ""]
    {
        assert_eq!(issued(&envoy, &[(XFCC, malformed)]).await, UNKNOWN, "{malformed}");
    }
    let duplicate = [(XFCC, "URI=spiffe://mesh/a"), (XFCC, "URI=spiffe://mesh/b")];
    assert_eq!(issued(&envoy, &duplicate).await, UNKNOWN);
    assert_eq!(platform.requests().len(), sent);

    // For other peers, the certificate counts, and the header is a security event.
    let admin_header = [(XFCC, "URI=spiffe://mesh/ns/root/sa/admin")];
    assert_eq!(issued(&portal, &admin_header).await, "OK");
    assert_eq!(last_caller(&gateway), proven("spiffe://mesh/ns/web/sa/portal", "certificate"));
    let nobody = authority.channel(gateway.address(), None).await.unwrap();
    assert_eq!(issued(&nobody, &admin_header).await, UNKNOWN, "loopback is not configured");
    assert_eq!(last_caller(&gateway), (Value::Null, Value::Null));
    // A duplicate is refused although the header is not used.
    assert_eq!(issued(&portal, &duplicate).await, UNKNOWN);
    // Names are compared as a whole.
    let nearly = connect(&["spiffe://mesh/ns/edge/sa/envoy2"]).await;
    assert_eq!(issued(&nearly, &admin_header).await, "OK");
    assert_eq!(last_caller(&gateway), proven("spiffe://mesh/ns/edge/sa/envoy2", "certificate"));
    // Linkerd's header is not configured and is refused even from the proxy.
    let linkerd = [("l5d-client-id", "spiffe://mesh/ns/root/sa/admin")];
    assert_eq!(issued(&envoy, &linkerd).await, UNKNOWN);
    assert!((metric(admin, SPOOFED).await - 4.0).abs() < 0.5, "{}", metric(admin, SPOOFED).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn loopback_sidecar_forwards_identities_only_if_configured() {
    let platform = Upstream::http().await;
    let trusting_loopback = |header: &str| {
        setup(&platform, &format!("[callers.forwarded]\nheader = \"{header}\"\nfrom = [\"loopback\"]"))
            .start()
    };
    let sees = async |gateway: &Gateway, channel: &Channel, header: &'static str, value: &str| {
        assert_eq!(issued(channel, &[(header, value)]).await, "OK", "{header}: {value}");
        last_caller(gateway)
    };
    let gateway = trusting_loopback(XFCC);
    let channel = gateway.channel().await;
    let portal = proven("spiffe://mesh/ns/web/sa/portal", "forwarded");
    assert_eq!(sees(&gateway, &channel, XFCC, "URI=spiffe://mesh/ns/web/sa/portal").await, portal);
    let dns = proven("dns:portal.web", "forwarded");
    assert_eq!(sees(&gateway, &channel, XFCC, "URI=;DNS=portal.web").await, dns);

    let gateway = trusting_loopback("l5d-client-id");
    let channel = gateway.channel().await;
    let linkerd = proven("dns:portal.web.serviceaccount.identity.linkerd.cluster.local", "forwarded");
    let value = "portal.web.serviceaccount.identity.linkerd.cluster.local";
    assert_eq!(sees(&gateway, &channel, "l5d-client-id", value).await, linkerd);

    let gateway = setup(&platform, "").start();
    let channel = gateway.channel().await;
    for header in
        [(XFCC, "URI=spiffe://mesh/ns/web/sa/portal"), ("l5d-client-id", "spiffe://mesh/ns/web/sa/portal")]
    {
        assert_eq!(issued(&channel, &[header]).await, UNKNOWN, "{header:?}");
    }
    for header in [("x-forwarded-for", "127.0.0.1"), ("caller", "spiffe://mesh/ns/web/sa/portal")] {
        assert_eq!(issued(&channel, &[header]).await, "PermissionDenied CALLER_NOT_ALLOWED", "{header:?}");
        assert_eq!(last_caller(&gateway), proven("anonymous", "none"));
    }
    assert!((metric(gateway.admin(), SPOOFED).await - 2.0).abs() < 0.5);
}

/// A header, and the caller and proof that it results in.
type Identifying<'a> = (&'static str, &'a str, (&'a str, &'a str));

/// Every kind of credential at gateways that accept it and at gateways that do not. All rules allow
/// `anonymous`, so that an ignored credential would be noticed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unsupported_credentials_are_refused_not_ignored() {
    let platform = Upstream::http().await;
    let authority = Authority::new("mesh");
    let issuer = Issuer::new("k1");
    let (jwt, forged) = (issuer.bearer(json!({})), Issuer::new("k1").bearer(json!({})));
    let tokens = format!("[callers.tokens]\nci = \"{}\"", hash("canary-ci"));
    let keys = format!("{JWT}jwks_file = \"FOLDER/jwks.json\"");
    let forwarded = format!("[callers.forwarded]\nheader = \"{XFCC}\"\nfrom = [\"loopback\"]");
    let (token, jwt_name) = (("token:ci", "token"), ("jwt:portal", "jwt"));
    let named = (XFCC, "URI=spiffe://mesh/portal");
    let behind = ("spiffe://mesh/portal", "forwarded");
    // The headers that identify a caller for each configuration; others are refused.
    let gateways: [(&str, &str, Vec<Identifying<'_>>); 5] = [
        ("nothing", "", vec![]),
        ("tokens", &tokens, vec![("authorization", "Bearer canary-ci", token)]),
        ("JWTs", &keys, vec![("authorization", &jwt, jwt_name)]),
        ("a proxy", &forwarded, vec![(named.0, named.1, behind)]),
        ("certificates", "TLS", vec![]),
    ];
    let shown: Vec<Vec<(&'static str, &str)>> = vec![
        vec![("authorization", "Bearer canary-ci")],
        vec![("authorization", "Bearer wrong")],
        vec![("authorization", "Bearer ")],
        vec![("authorization", "")],
        vec![("authorization", "Basic Y2k6Y2FuYXJ5LWNp")],
        vec![("authorization", "Negotiate abc")],
        vec![("authorization", "canary-ci")],
        vec![("authorization", &jwt)],
        vec![("authorization", &forged)],
        vec![("authorization", "Bearer canary-ci"), ("authorization", "Bearer canary-ci")],
        vec![named],
        vec![(XFCC, "URI=\"")],
        vec![(XFCC, "")],
        vec![named, named],
        vec![("l5d-client-id", "portal.web")],
        vec![("l5d-client-id", "")],
    ];
    for (what, more, identifying) in gateways {
        let (more, has_tls) = if more == "TLS" { ("", true) } else { (more, false) };
        let mut setup =
            setup(&platform, more).replacing(r#"callers = ["*"]"#, r#"callers = ["*", "anonymous"]"#);
        setup.file("jwks.json", &issuer.jwks());
        if has_tls {
            setup = with_tls(setup, &authority, "optional");
        }
        let gateway = setup.start();
        let channel = if has_tls {
            authority.channel(gateway.address(), None).await.unwrap()
        } else {
            gateway.channel().await
        };
        assert_eq!(issued(&channel, &[]).await, "OK", "{what}: no credential");
        assert_eq!(last_caller(&gateway), proven("anonymous", "none"));
        for headers in &shown {
            let identified = identifying.iter().find(|(name, value, _)| headers[..] == [(*name, *value)]);
            let expected = if identified.is_some() { "OK" } else { UNKNOWN };
            assert_eq!(issued(&channel, headers).await, expected, "{what}: {headers:?}");
            let caller =
                identified.map_or((Value::Null, Value::Null), |(_, _, (name, proof))| proven(name, proof));
            assert_eq!(last_caller(&gateway), caller, "{what}: {headers:?}");
        }
        if has_tls {
            let nameless = authority.channel(gateway.address(), Some(&authority.issue(&[]))).await.unwrap();
            assert_eq!(issued(&nameless, &[]).await, UNKNOWN);
            let portal = authority.issue(&["spiffe://mesh/portal"]);
            let named = authority.channel(gateway.address(), Some(&portal)).await.unwrap();
            assert_eq!(issued(&named, &[]).await, "OK");
            assert_eq!(last_caller(&gateway), proven("spiffe://mesh/portal", "certificate"));
        }
        assert_eq!(issued(&channel, &[]).await, "OK", "{what}: the process still serves");
    }
}

/// After a reload removes the last bearer token, its holder is refused, not anonymous.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn holder_of_a_removed_last_token_is_refused() {
    let platform = Upstream::http().await;
    let tokens = format!("[callers.tokens]\nci = \"{}\"\n", hash("canary-ci"));
    let gateway =
        setup(&platform, &tokens).replacing(r#"callers = ["*"]"#, r#"callers = ["*", "anonymous"]"#).start();
    let channel = gateway.channel().await;
    let holder = [("authorization", "Bearer canary-ci")];
    assert_eq!(issued(&channel, &holder).await, "OK");
    let config = gateway.folder().join("config.toml");
    let text = fs::read_to_string(&config).unwrap().replace(&tokens, "");
    write(gateway.folder(), "config.toml", &text);
    gateway.signal("HUP");
    gateway.stderr().wait_for("the reload", |line| line.contains("access rules reloaded").then_some(()));
    assert_eq!(issued(&channel, &holder).await, UNKNOWN);
    gateway.stderr().wait_for("why", |line| {
        (line.contains("call failed") && line.contains("no [callers.jwt] and no [callers.tokens]"))
            .then_some(())
    });
    assert_eq!(issued(&channel, &[]).await, "OK", "callers without a credential are anonymous");
}
