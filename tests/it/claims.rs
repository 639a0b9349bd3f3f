//! Claims that access rules require: which tokens the real binary accepts, and the examples of the
//! documentation.

use std::fs;

use http::{HeaderMap, HeaderValue, header::AUTHORIZATION};
use ott_gateway::{
    access::{Question, Rules, TokenUse},
    caller::{
        BearerTokens, CallerPolicy, Identification, InvalidSettings, JwksSource, Peer, RequestedClaims,
        Settings,
    },
    config::Config,
    domain::{
        call::Method,
        ott::{Subject, SubjectKind},
    },
    observe::telemetry::metrics::Metrics,
    proto::ott::v1::ott_service_client::OttServiceClient,
};
use serde_json::{Value, json};
use tonic::transport::Channel;

use crate::{
    docs::{Place, completed, root},
    support::{
        authority::{Authority, write},
        calling::{issued, login, metric, result_of, until, with},
        gateway::{Gateway, Setup},
        issuer::{Issuer, in_seconds},
        upstream::{Answer, LOGIN, Upstream},
    },
};

const NOT_ALLOWED: &str = "PermissionDenied CALLER_NOT_ALLOWED";
const DENIED: &str = r#"ott_gateway_access_denied_total{reason="claims"}"#;
const MISSES: &str = r#"ott_gateway_caller_memory_lookups_total{memory="jwt",result="miss"}"#;

const RULES: &str = r#"
    [[access.rules]]
    callers = ["jwt:portal"]
    claims = { groups = ["auditors", "ott-issuers"], "realm_access/level" = 3 }
    users = "all"
    [[access.rules]]
    callers = ["*"]
    claims.scope = "write"
    users = "all"
"#;

/// A gateway with TLS, an issuer of JWTs, and these rules.
fn setup(platform: &Upstream, authority: &Authority, issuer: &Issuer) -> Setup {
    let setup = Setup::for_platform(platform.address());
    setup.file("jwks.json", &issuer.jwks());
    authority.issue(&["localhost"]).write(setup.folder());
    write(setup.folder(), "ca.crt", &authority.certificate());
    let rule = r#"[[access.rules]]
            callers = ["anonymous"]
            rate = "unlimited"
            user_rate = "unlimited"
            users = "all""#;
    setup.replacing(rule, RULES).replacing(
        "[admin]",
        r#"[server.tls]
            certificate_file = "FOLDER/tls.crt"
            private_key_file = "FOLDER/tls.key"
            client_ca_file = "FOLDER/ca.crt"
            client_auth = "optional"
            [callers.jwt]
            issuer = "https://issuer.example"
            audience = "ott-gateway"
            jwks_file = "FOLDER/jwks.json"
            [admin]"#,
    )
}

async fn issues(channel: &Channel, token: &str) -> String {
    issued(channel, &[("authorization", token)]).await
}

/// The claims in the last audit record of a call.
fn recorded(gateway: &Gateway) -> Value {
    gateway.audit().pop().unwrap()["claims"].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claims_decide_and_follow_a_reload() {
    let (platform, authority, issuer) = (Upstream::http().await, Authority::new("mesh"), Issuer::new("k1"));
    let gateway = setup(&platform, &authority, &issuer).start();
    let channel = authority.channel(gateway.address(), None).await.unwrap();
    let level = |level: i64| json!({ "level": level });
    let member = issuer.bearer(json!({ "groups": ["staff", "ott-issuers"], "realm_access": level(3) }));
    assert_eq!(issues(&channel, &member).await, "OK");
    assert_eq!(recorded(&gateway), json!({ "groups": "ott-issuers", "realm_access/level": 3 }));
    let writer = issuer.bearer(json!({ "sub": "batch", "scope": "read write" }));
    assert_eq!(issues(&channel, &writer).await, "OK");
    assert_eq!(recorded(&gateway), json!({ "scope": "write" }));

    // Both claims are required, with their types.
    let others = [
        json!({}),
        json!({ "groups": ["staff"], "realm_access": level(3) }),
        json!({ "groups": ["ott-issuers"] }),
        json!({ "groups": ["ott-issuers"], "realm_access": level(4) }),
        json!({ "groups": ["ott-issuers"], "realm_access": { "level": "3" } }),
        json!({ "groups": [["ott-issuers"]], "realm_access": level(3) }),
        json!({ "sub": "batch", "groups": ["ott-issuers"], "realm_access": level(3) }),
    ];
    let sent = platform.requests().len();
    for (number, claims) in (1_u32..).zip(others) {
        let token = issuer.bearer(claims.clone());
        assert_eq!(issues(&channel, &token).await, NOT_ALLOWED, "{claims}");
        assert_eq!(recorded(&gateway), Value::Null);
        assert!((metric(gateway.admin(), DENIED).await - f64::from(number)).abs() < f64::EPSILON, "{claims}");
    }
    gateway.stderr().wait_for("why", |line| {
        (line.contains("call failed") && line.contains("no access rule allows this call: claims"))
            .then_some(())
    });
    // No other proof has claims, regardless of the JWT that comes with it.
    let certificate = authority.issue(&["portal.example"]);
    let certified = authority.channel(gateway.address(), Some(&certificate)).await.unwrap();
    assert_eq!(issues(&certified, &member).await, NOT_ALLOWED);
    assert_eq!(gateway.audit().pop().unwrap()["caller"], "dns:portal.example");
    assert_eq!(issued(&channel, &[]).await, NOT_ALLOWED);
    assert_eq!(platform.requests().len(), sent);

    // Other claims: the same tokens are verified again, once, and decided by the new rules.
    for _ in 0..3 {
        assert_eq!(issues(&channel, &member).await, "OK");
    }
    let config = fs::read_to_string(gateway.folder().join("config.toml")).unwrap();
    let config = config.replace(r#"groups = ["auditors", "ott-issuers"], "#, "");
    let new = gateway.folder().join("new.toml");
    fs::write(&new, config.replace("claims.scope = \"write\"", "claims.groups = \"nobody\"")).unwrap();
    fs::rename(new, gateway.folder().join("config.toml")).unwrap();
    gateway.signal("HUP");
    until("the new rules are in use", async || issues(&channel, &writer).await == NOT_ALLOWED).await;
    let before = metric(gateway.admin(), MISSES).await;
    for _ in 0..3 {
        assert_eq!(issues(&channel, &member).await, "OK");
        assert_eq!(recorded(&gateway), json!({ "realm_access/level": 3 }));
    }
    assert!((metric(gateway.admin(), MISSES).await - before - 1.0).abs() < f64::EPSILON);
    assert_eq!(issues(&channel, &issuer.bearer(json!({ "realm_access": level(3) }))).await, "OK");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn record_of_a_login_names_the_claims_of_the_rule_that_allows_the_account() {
    let (platform, authority, issuer) = (Upstream::http().await, Authority::new("mesh"), Issuer::new("k1"));
    let rules = r#"
        [[access.rules]]
        callers = ["jwt:portal"]
        claims = { groups = "guests" }
        logins = ["nobody@mysite.com"]
        [[access.rules]]
        callers = ["jwt:portal"]
        claims = { groups = "support" }
        logins = ["johncustomer@mysite.com"]
        [[access.rules]]
        callers = ["jwt:portal"]
        users = "all"
    "#;
    let gateway = setup(&platform, &authority, &issuer).replacing(RULES, rules).start();
    let channel = authority.channel(gateway.address(), None).await.unwrap();
    let mut client = OttServiceClient::new(channel);
    let account = || Answer::json(200, include_str!("../data/platform-login-response.json"));
    for (groups, expected) in [
        (json!(["guests", "support"]), json!({ "groups": "support" })),
        (json!(["guests"]), Value::Null),
        (json!([]), Value::Null),
    ] {
        platform.next(LOGIN, account().header("set-cookie", "sid=1"));
        let token = issuer.bearer(json!({ "groups": groups }));
        let answer = client.login_with_ott(with(login("OTT"), "authorization", &token)).await;
        assert_eq!(result_of(&answer), "OK");
        assert_eq!(recorded(&gateway), expected, "{groups}");
    }
    // Without an account, it is the rule whose quota the call has used.
    platform.next(LOGIN, Answer::json(500, "{}"));
    let token = issuer.bearer(json!({ "groups": ["guests", "support"] }));
    assert!(client.login_with_ott(with(login("OTT"), "authorization", &token)).await.is_err());
    assert_eq!(recorded(&gateway), json!({ "groups": "guests" }));
}

/// A configuration in the documentation, the token that its rule allows, and tokens that it denies.
struct Example {
    config: String,
    allowed: Value,
    denied: Vec<Value>,
}

/// The examples of docs/run-with-jwts.md: the payload of a token, then the configuration.
fn examples() -> Vec<Example> {
    let page = fs::read_to_string(root().join("docs/run-with-jwts.md")).unwrap();
    let (_, section) = page.split_once("\n## Claims\n").unwrap();
    let section = section.split("\n## ").next().unwrap();
    let mut examples: Vec<Example> = Vec::new();
    let mut payload = None;
    for block in section.split("```").skip(1).step_by(2) {
        let (kind, text) = block.split_once('\n').unwrap();
        match kind {
            "json" => payload = Some(serde_json::from_str(text).unwrap()),
            "json denied" => {
                examples.last_mut().unwrap().denied.push(serde_json::from_str(text).unwrap());
            }
            "toml part" => {
                let allowed = payload.take().expect("a payload comes first");
                examples.push(Example { config: text.to_owned(), allowed, denied: Vec::new() });
            }
            other => panic!("unexpected block: {other}"),
        }
    }
    examples
}

/// Whether the rules of a configuration allow a token that its issuer signs.
async fn allows(config: &Config, issuer: &Issuer, mut payload: Value) -> bool {
    payload["exp"] = json!(in_seconds(300));
    payload["iat"] = json!(in_seconds(-1));
    let folder = tempfile::tempdir().unwrap();
    let keys = folder.path().join("jwks.json");
    fs::write(&keys, issuer.jwks()).unwrap();
    let jwt = config.callers.jwt.iter().map(|settings| {
        let mut settings = settings.clone();
        settings.jwks = JwksSource::File(keys.clone());
        settings
    });
    let settings = Settings { jwt: jwt.collect(), forwarded: None };
    let (identification, _refreshes) =
        Identification::new(settings, |_| Err(InvalidSettings::JwksUrl), Metrics::new()).unwrap();
    let rules = config.access.rules.clone();
    let claims = RequestedClaims::new(rules.iter().flat_map(|rule| &rule.claims));
    let policy = CallerPolicy { tokens: &BearerTokens::default(), claims: &claims };
    let bearer = HeaderValue::try_from(issuer.bearer(payload)).unwrap();
    let headers = HeaderMap::from_iter([(AUTHORIZATION, bearer)]);
    let peer = Peer::plaintext("192.0.2.7:1".parse().unwrap());
    let caller = identification.identify(&headers, &peer, policy).await.unwrap();
    let user = rules[0].users.clone();
    let ott_gateway::domain::ott::Users::Listed(patterns) = user else { panic!("a list of logins") };
    let user = Subject::new(SubjectKind::Login, patterns[0].text().replace('*', "anna")).unwrap();
    let question = Question {
        caller: caller.principal(),
        token_use: TokenUse::plain(Method::IssueOtt),
        api_client: config.api_clients.default.as_deref().unwrap_or_default(),
        user: Some(&user),
    };
    Rules::try_new(rules).unwrap().answer(question).is_allowed()
}

/// Removes a claim from a payload.
fn without(payload: &Value, path: &[String]) -> Value {
    let mut payload = payload.clone();
    let (name, outer) = path.split_last().unwrap();
    let inner = outer.iter().fold(&mut payload, |value, name| &mut value[name]);
    inner.as_object_mut().unwrap().remove(name).expect("the payload has the claim");
    payload
}

#[tokio::test]
async fn documented_tokens_are_allowed_by_the_configuration_after_them() {
    let examples = examples();
    assert_eq!(examples.len(), 4);
    assert_eq!(examples.iter().map(|example| example.denied.len()).sum::<usize>(), 1);
    let issuer = Issuer::new("k1");
    for Example { config, allowed, denied } in examples {
        let loaded =
            Place::new().load(&completed(&config)).unwrap_or_else(|errors| panic!("{errors}\n{config}"));
        assert!(allows(&loaded, &issuer, allowed.clone()).await, "{config}\n{allowed}");
        let required = &loaded.access.rules[0].claims;
        assert!(!required.is_empty(), "{config}");
        for claim in required {
            let payload = without(&allowed, &claim.path.names().collect::<Vec<_>>());
            assert!(!allows(&loaded, &issuer, payload).await, "without {}\n{config}", claim.path);
        }
        for payload in denied {
            assert!(!allows(&loaded, &issuer, payload.clone()).await, "{config}\n{payload}");
        }
    }
}
