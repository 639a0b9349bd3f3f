//! Access rules, the order of checks, and quotas, tested from outside.

use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use ott_gateway::proto::ott::v1::{
    IssueOttRequest, issue_ott_request::Subject, ott_service_client::OttServiceClient,
};
use serde_json::Value;
use tonic::{Code, Request, transport::Channel};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_types::StatusExt;

use crate::support::{
    calling::{by_hand, issue, login, metric, reason, result_of, with},
    gateway::{Gateway, Setup},
    raw,
    upstream::{self, Upstream},
};

const NOT_ALLOWED: &str = "PermissionDenied CALLER_NOT_ALLOWED";
const UNLIMITED: &str = "rate = \"unlimited\"\nuser_rate = \"unlimited\"\n";
const EVERYBODY: &str = "rate = \"unlimited\"\nuser_rate = \"unlimited\"\nusers = \"all\"\n";

/// Bearer tokens for the callers `token:a`, `token:b` and `token:c`: `token-a` and so on.
fn tokens() -> String {
    use std::fmt::Write as _;
    let mut table = "[callers.tokens]\n".to_owned();
    for name in ["a", "b", "c"] {
        let hash = digest(&SHA256, format!("token-{name}").as_bytes());
        let hash = hash.as_ref().iter().fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        });
        let _ = writeln!(table, "{name} = \"sha256:{hash}\"");
    }
    table
}

/// A gateway with the API clients `test` and `other`, `rules`, and callers with tokens.
pub(crate) fn setup(platform: &Upstream, rules: &str) -> Setup {
    let other = format!(
        "[api_clients.other]
        data_center_url = \"http://{}\"
        client_id = \"other-client\"
        client_secret_file = \"FOLDER/client-secret\"",
        platform.address()
    );
    Setup::for_platform(platform.address())
        .replacing("[[access.rules]]\n            callers = [\"anonymous\"]", rules)
        .replacing("            rate = \"unlimited\"\n            user_rate = \"unlimited\"\n            users = \"all\"\n", "")
        .replacing("client_id = \"test-client\"", "client_id = \"test-client\"\ndefault = true")
        .replacing("[audit]", &format!("{other}\n{}\n[audit]", tokens()))
}

/// A caller: a channel and the name of its credential.
pub(crate) struct Caller<'a> {
    pub(crate) channel: &'a Channel,
    pub(crate) name: &'a str,
}

impl Caller<'_> {
    fn sign<T>(&self, request: Request<T>) -> Request<T> {
        if self.name == "anonymous" {
            return request;
        }
        with(request, "authorization", &format!("Bearer token-{}", self.name))
    }

    async fn send(&self, message: IssueOttRequest) -> String {
        let mut request = Request::new(message);
        request.set_timeout(Duration::from_secs(10));
        result_of(&OttServiceClient::new(self.channel.clone()).issue_ott(self.sign(request)).await)
    }

    pub(crate) async fn issue(&self, user: &str) -> String {
        self.send(message(user, "")).await
    }

    pub(crate) async fn log_in(&self, ott: &str) -> String {
        result_of(&OttServiceClient::new(self.channel.clone()).login_with_ott(self.sign(login(ott))).await)
    }
}

/// Request for `login:NAME`, `external_id:ID` or `user_id:ID` with this API client.
fn message(user: &str, api_client: &str) -> IssueOttRequest {
    let (kind, name) = user.split_once(':').expect("KIND:NAME");
    let name = name.to_owned();
    let subject = Some(match kind {
        "login" => Subject::Login(name),
        "external_id" => Subject::ExternalId(name),
        _ => Subject::UserId(name),
    });
    IssueOttRequest { subject, api_client: api_client.to_owned(), ..IssueOttRequest::default() }
}

/// Number of token and login requests that the platform received.
fn sent_requests(platform: &Upstream) -> usize {
    platform.count(upstream::OTT) + platform.count(upstream::LOGIN)
}

fn last(gateway: &Gateway) -> Value {
    gateway.audit().pop().expect("a record")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn denied_callers_cannot_probe_api_client_names() {
    let platform = Upstream::http().await;
    let rules = "[[access.rules]]\ncallers = [\"token:a\"]\napi_clients = [\"test\"]\nusers = \"all\"\n\
                 [[access.rules]]\ncallers = [\"token:b\"]\nusers = \"all\"\n";
    let gateway = setup(&platform, rules).start();
    let channel = gateway.channel().await;
    let (a, b) = (Caller { channel: &channel, name: "a" }, Caller { channel: &channel, name: "b" });
    let refusal = async |api_client: &str, target_uri: &str| {
        let message = IssueOttRequest { target_uri: target_uri.to_owned(), ..message("login:x", api_client) };
        let mut request = Request::new(message);
        request.metadata_mut().insert("x-request-id", "same".parse().unwrap());
        let status = OttServiceClient::new(channel.clone()).issue_ott(a.sign(request)).await.unwrap_err();
        assert_eq!((status.code(), reason(&status).as_str()), (Code::PermissionDenied, "CALLER_NOT_ALLOWED"));
        (status.message().to_owned(), status.details().to_vec())
    };
    let configured = refusal("other", "").await;
    assert_eq!(
        configured.0,
        "The gateway's access rules do not allow this IssueOtt call to the caller \"token:a\". Ask the gateway's \
         operator for a rule that allows it."
    );
    assert_eq!(refusal("nosuch", "").await, configured);
    assert_eq!(refusal("other", "javascript:x").await, configured, "a check of the target URI reveals it");
    assert_eq!(a.send(message("login:x", "test")).await, "OK");
    assert_eq!(b.send(message("login:x", "nosuch")).await, "InvalidArgument API_CLIENT_UNKNOWN");
    assert_eq!(b.send(message("login:x", "other")).await, "OK");
}

#[tokio::test]
async fn rules_that_are_missing_or_match_no_caller_prevent_the_start() {
    let platform = Upstream::http().await;
    let faults: [(&str, &str); 6] = [
        ("", "access"),
        ("[access]\nrules = []", "access"),
        ("[[access.rules]]\ncallers = []", "callers"),
        ("[[access.rules]]\ncallers = [\"anon*\"]", "matches no caller"),
        ("[[access.rules]]\ncallers = [\"*\"]", "must list its users"),
        ("[[access.rules]]\ncallers = [\"*\"]\nlogin = [\"x\"]", "did you mean \\\"logins\\\"?"),
    ];
    for (rules, fault) in faults {
        let refused = setup(&platform, rules).refused();
        assert_eq!(refused.status.code(), Some(2), "{rules}");
        let text = String::from_utf8_lossy(&refused.stderr);
        assert!(text.contains(&fault.replace('\\', "")), "{rules}: {text}");
    }
    assert_eq!(platform.requests().len(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_no_rule_allows_are_denied_without_a_platform_request() {
    let platform = Upstream::http().await;
    let rules = format!(
        "[[access.rules]]
        callers = [\"token:a\"]
        methods = [\"IssueOtt\"]
        api_clients = [\"test\"]
        logins = [\"*@shop.example\", \"J?hn\"]
        {UNLIMITED}
        [[access.rules]]
        callers = [\"token:b\"]
        user_ids = [\"*\"]
        {UNLIMITED}
        [[access.rules]]
        callers = [\"token:?\"]
        methods = [\"LoginWithOtt\"]
        api_clients = [\"oth*\"]
        {EVERYBODY}"
    );
    let gateway = setup(&platform, &rules).start();
    let channel = gateway.channel().await;
    let by = |name| Caller { channel: &channel, name };
    let cases = [
        ("a", message("login:x@shop.example", ""), "OK"),
        ("a", message("login:X@SHOP.EXAMPLE", "test"), "OK"),
        ("a", message("login:john", ""), "OK"),
        ("a", message("login:joohn", ""), NOT_ALLOWED),
        ("a", message("login:x@shop.example.evil", ""), NOT_ALLOWED),
        ("a", message("login:x@shop.example", "other"), NOT_ALLOWED),
        ("a", message("external_id:x@shop.example", ""), NOT_ALLOWED),
        ("a", message("user_id:x@shop.example", ""), NOT_ALLOWED),
        ("b", message("user_id:17", ""), "OK"),
        ("b", message("user_id:17", "other"), "OK"),
        ("b", message("login:17", ""), NOT_ALLOWED),
        ("c", message("user_id:17", ""), NOT_ALLOWED),
        ("anonymous", message("user_id:17", ""), NOT_ALLOWED),
    ];
    let mut sent = 0;
    for (index, (caller, message, expected)) in cases.into_iter().enumerate() {
        let described = format!("{caller}: {message:?}");
        assert_eq!(by(caller).send(message).await, expected, "{described}");
        sent += usize::from(expected == "OK");
        assert_eq!(sent_requests(&platform), sent, "{described}");
        assert_eq!(gateway.audit().len(), index + 1, "denied calls have a record too");
        let record = last(&gateway);
        assert_eq!(record["attempts"], u32::from(expected == "OK"), "{record}");
        if expected == NOT_ALLOWED {
            assert_eq!(
                (&record["code"], &record["outcome"]),
                (&"PERMISSION_DENIED".into(), &"not_sent".into())
            );
        }
    }
    // A rule applies only to its methods, and for logins only to its API clients.
    let token = platform.token();
    assert_eq!(by("a").log_in(&token).await, NOT_ALLOWED, "the default API client is not other");
    assert_eq!(sent_requests(&platform), sent);
    let mut request = login(&token);
    request.get_mut().api_client = "other".to_owned();
    let answer = OttServiceClient::new(channel.clone()).login_with_ott(by("c").sign(request)).await;
    assert_eq!(result_of(&answer), "OK");
    assert_eq!(platform.count(upstream::LOGIN), 1);

    let admin = gateway.admin();
    let denied = async |reason: &str| {
        metric(admin, &format!("ott_gateway_access_denied_total{{reason=\"{reason}\"}}")).await
    };
    let counted =
        [denied("caller").await, denied("method").await, denied("api_client").await, denied("user").await];
    assert_eq!(counted.iter().sum::<f64>().to_string(), "9", "{counted:?}");
    gateway.stderr().wait_for("the reason of the denial", |line| {
        (line.contains("call failed") && line.contains("no access rule allows this call: user")).then_some(())
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wildcards_do_not_match_anonymous() {
    let platform = Upstream::http().await;
    for (callers, expected) in [("*", NOT_ALLOWED), ("?*", NOT_ALLOWED), ("anonymous", "OK")] {
        let rule = format!("[[access.rules]]\ncallers = [\"{callers}\"]\n{EVERYBODY}");
        let gateway = setup(&platform, &rule).start();
        let channel = gateway.channel().await;
        assert_eq!(
            Caller { channel: &channel, name: "anonymous" }.issue("login:x").await,
            expected,
            "{callers}"
        );
        let identified = if callers == "anonymous" { NOT_ALLOWED } else { "OK" };
        assert_eq!(Caller { channel: &channel, name: "a" }.issue("login:x").await, identified, "{callers}");
    }
    assert_eq!(sent_requests(&platform), 3);
}

const ISSUE: &str = "/ott.v1.OttService/IssueOtt";
const LOGIN: &str = "/ott.v1.OttService/LoginWithOtt";
/// Not a valid Protobuf message.
const GARBAGE: &[u8] = b"\xff\xff\xff\xff\xff";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn caller_is_checked_before_method_and_method_before_message() {
    let platform = Upstream::http().await;
    let rules = format!(
        "[[access.rules]]\ncallers = [\"token:a\"]\nmethods = [\"IssueOtt\"]\nlogins = [\"ok\"]\n{UNLIMITED}"
    );
    let gateway = setup(&platform, &rules).start();
    let answer = async |path: &'static str, token: &str, body: &[u8]| {
        let credential = format!("Bearer {token}");
        let headers: &[(&str, &str)] = if token.is_empty() { &[] } else { &[("authorization", &credential)] };
        let (code, reason) = by_hand(gateway.address(), path, headers, body).await;
        format!("{code:?} {reason}")
    };
    let unknown = "Unauthenticated CALLER_UNAUTHENTICATED";
    let invalid = "InvalidArgument INVALID_REQUEST";
    let too_long = vec![0x0a; 20_000];
    for body in [GARBAGE, b"", &too_long] {
        assert_eq!(answer(ISSUE, "wrong", body).await, unknown, "the caller is identified first");
        assert_eq!(answer(ISSUE, "token-b", body).await, NOT_ALLOWED, "then it needs a rule");
        assert_eq!(answer(ISSUE, "", body).await, NOT_ALLOWED, "the same for anonymous");
    }
    assert_eq!(answer(LOGIN, "token-a", b"").await, NOT_ALLOWED, "the method is checked before the message");
    assert_eq!(answer(ISSUE, "token-a", b"").await, invalid);
    assert_eq!(answer(ISSUE, "token-a", GARBAGE).await, invalid);
    // The message is validated before the rule is checked for its user.
    assert_eq!(answer(ISSUE, "token-a", b"\x0a\x01x").await, NOT_ALLOWED);
    assert_eq!(answer(ISSUE, "token-a", b"\x0a\x01\n").await, invalid);
    assert_eq!(sent_requests(&platform), 0);
    assert_eq!(answer(ISSUE, "token-a", b"\x0a\x02ok").await, "Ok ");
    assert_eq!(sent_requests(&platform), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_spelling_of_a_path_bypasses_the_rules() {
    let platform = Upstream::http().await;
    let rules = format!("[[access.rules]]\ncallers = [\"token:a\"]\n{EVERYBODY}");
    let gateway = setup(&platform, &rules).start();
    let spellings = [
        "/ott.v1.OttService//IssueOtt",
        "//ott.v1.OttService/IssueOtt",
        "/ott.v1.OttService/IssueOtt/",
        "/ott.v1.OttService/issueott",
        "/OTT.V1.OttService/IssueOtt",
        "/ott.v1.ottservice/IssueOtt",
        "/ott.v1.OttService/%49ssueOtt",
        "/ott.v1.OttService%2FIssueOtt",
        "/ott.v1.OttService/IssueOtt;x",
        "/ott.v1.OttService/./IssueOtt",
        "/ott.v1.OttService/../ott.v1.OttService/IssueOtt",
        "/grpc.health.v1.Health/../../ott.v1.OttService/IssueOtt",
        "/grpc.health.v1.Health/IssueOtt",
        "/ott.v2.OttService/IssueOtt",
        "/IssueOtt",
        "/metrics",
        "/grpc.channelz.v1.Channelz/GetServers",
        "/",
    ];
    let body = b"\x0a\x01x";
    for path in spellings {
        for headers in [&[][..], &[("authorization", "Bearer token-b")]] {
            let (code, _) = by_hand(gateway.address(), path, headers, body).await;
            assert!(matches!(code, Code::Unimplemented | Code::PermissionDenied), "{path}: {code:?}");
        }
        let (code, _) = by_hand(gateway.address(), path, &[("authorization", "Bearer token-a")], body).await;
        assert_eq!(code, Code::Unimplemented, "{path}");
    }
    for path in ["/ott.v1.OttService/IssueOtt?x=/grpc.health.v1.Health/", ISSUE] {
        let (code, _) = by_hand(gateway.address(), path, &[], body).await;
        assert_eq!(code, Code::PermissionDenied, "{path}");
    }
    let claims = [("x-original-path", ISSUE), (":authority", "x"), ("x-envoy-original-path", ISSUE)];
    for header in claims.into_iter().filter(|(name, _)| !name.starts_with(':')) {
        let (code, _) = by_hand(gateway.address(), "/grpc.health.v1.Health/Check", &[header], b"").await;
        assert_eq!(code, Code::Ok);
    }
    assert_eq!(sent_requests(&platform), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_needs_no_identity_and_reflection_follows_the_rules() {
    let platform = Upstream::http().await;
    let rules = format!("[[access.rules]]\ncallers = [\"token:a\"]\n{EVERYBODY}");
    let reflecting = setup(&platform, &rules).replacing("[admin]", "reflection = true\n[admin]").start();
    let silent = setup(&platform, &rules).start();
    for gateway in [&reflecting, &silent] {
        let channel = gateway.channel().await;
        for service in ["", "ott.v1.OttService"] {
            let check = HealthCheckRequest { service: service.to_owned() };
            let mut request = Request::new(check);
            // An invalid credential is ignored.
            request.metadata_mut().insert("authorization", "Bearer wrong".parse().unwrap());
            HealthClient::new(channel.clone()).check(request).await.expect("health needs no credential");
        }
    }
    // ListServices.
    let body = b"\x3a\x00";
    for version in ["v1", "v1alpha"] {
        let path = format!("/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo");
        let code = async |gateway: &Gateway, headers: &[(&str, &str)]| {
            by_hand(gateway.address(), &path, headers, body).await.0
        };
        assert_eq!(code(&reflecting, &[("authorization", "Bearer token-a")]).await, Code::Ok);
        assert_eq!(code(&reflecting, &[("authorization", "Bearer token-b")]).await, Code::PermissionDenied);
        assert_eq!(code(&reflecting, &[("authorization", "Bearer wrong")]).await, Code::Unauthenticated);
        assert_eq!(code(&reflecting, &[]).await, Code::PermissionDenied);
        assert_eq!(code(&silent, &[("authorization", "Bearer token-a")]).await, Code::Unimplemented);
        // An unknown symbol is an error message within the stream, which continues.
        let unknown_and_list = [&b"\0\0\0\0\x03\x22\x01x"[..], b"\0\0\0\0\x02\x3a\x00"].concat();
        let mut raw = raw::Connection::to(reflecting.address()).await;
        let answered = raw.post(&path, &[("authorization", "Bearer token-a")], &unknown_and_list).await;
        let text = String::from_utf8_lossy(&answered.body);
        assert_eq!(answered.status.code(), Code::Ok, "{text}");
        let unknown = text.find("symbol not found: x").expect("an error in the stream");
        assert!(text[unknown..].contains("ott.v1.OttService"), "{text}");
        // The deadline is parsed as for any call.
        let malformed = [("authorization", "Bearer token-a"), ("grpc-timeout", "soon")];
        assert_eq!(code(&reflecting, &malformed).await, Code::InvalidArgument);
    }
    // Neither health nor reflection counts as a call.
    for gateway in [&reflecting, &silent] {
        let page = gateway.admin_get("/metrics").await;
        let counted: Vec<&str> = page
            .lines()
            .filter(|line| {
                [
                    "grpc_server_",
                    "ott_gateway_errors",
                    "ott_gateway_caller_calls",
                    "ott_gateway_calls_without",
                ]
                .iter()
                .any(|name| line.starts_with(name))
            })
            .filter(|line| !line.ends_with(" 0"))
            .collect();
        assert_eq!(counted, [""; 0]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn quotas_allow_exactly_the_burst_and_report_the_wait() {
    let platform = Upstream::http().await;
    let rules = "[[access.rules]]
        callers = [\"token:?\"]
        rate = \"1/h\"
        burst = 7
        user_rate = \"1/min\"
        user_burst = 3
        users = \"all\"";
    let gateway = setup(&platform, rules).start();
    let channel = gateway.channel().await;
    let exceeded = "ResourceExhausted CALLER_QUOTA_EXCEEDED";
    let a = Caller { channel: &channel, name: "a" };
    // Concurrent calls: exactly the user's burst is allowed.
    let together = (0..5).map(|index| {
        let spelling = if index % 2 == 0 { "login:Same@example" } else { "login:same@EXAMPLE" };
        a.issue(spelling)
    });
    let answers = futures_util::future::join_all(together).await;
    let count = |wanted: &str| answers.iter().filter(|answer| *answer == wanted).count();
    assert_eq!((count("OK"), count(exceeded)), (3, 2), "both spellings are one user: {answers:?}");
    assert_eq!(sent_requests(&platform), 3);
    // The refused calls also counted: five of the caller's seven are used.
    assert_eq!(a.issue("login:other@example").await, "OK");
    assert_eq!(a.log_in(&platform.token()).await, "OK");
    for attempt in 0..3 {
        assert_eq!(a.issue(&format!("login:more-{attempt}")).await, exceeded);
    }
    assert_eq!(sent_requests(&platform), 5);
    let status = OttServiceClient::new(channel.clone()).issue_ott(a.sign(issue("x"))).await.unwrap_err();
    assert_eq!(reason(&status), "CALLER_QUOTA_EXCEEDED");
    let wait = status.get_details_retry_info().unwrap().retry_delay.unwrap();
    assert!(wait > Duration::from_secs(3500) && wait <= Duration::from_hours(1), "{wait:?}");
    let violations = status.get_details_quota_failure().unwrap().violations;
    assert_eq!(violations.len(), 1);
    assert_eq!(violations[0].subject, "calls of this caller");
    assert_eq!(violations[0].description, "1/h, burst 7");
    assert_eq!(
        status.message(),
        "The quota for calls of the caller \"token:a\" is used up: 1/h, burst 7. Wait for the time in RetryInfo, \
         then retry."
    );
    let cause = "the quota calls_per_caller of access rule 1 is used up (1/h, burst 7)";
    gateway.stderr().wait_for("the cause", |line| line.contains(cause).then_some(()));
    assert!(status.get_details_request_info().is_some());
    let record = last(&gateway);
    assert_eq!(
        (&record["reason"], &record["caller"], &record["outcome"]),
        (&"CALLER_QUOTA_EXCEEDED".into(), &"token:a".into(), &"not_sent".into())
    );
    // Each caller has a separate quota, and invalid messages do not count.
    let b = Caller { channel: &channel, name: "b" };
    for _ in 0..20 {
        assert_eq!(b.send(IssueOttRequest::default()).await, "InvalidArgument INVALID_REQUEST");
    }
    assert_eq!(b.issue("login:same@example").await, "OK");
    let counted = metric(gateway.admin(), "ott_gateway_quota_exceeded_total{caller=\"other\"}").await;
    assert_eq!(counted.to_string(), "6");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dry_run_counts_and_warns_but_refuses_no_call() {
    let platform = Upstream::http().await;
    let rules = "[access]
        quota_dry_run = true
        [[access.rules]]
        callers = [\"token:a\"]
        rate = \"1/h\"
        burst = 2
        user_rate = \"unlimited\"
        users = \"all\"";
    let gateway = setup(&platform, rules).start();
    let channel = gateway.channel().await;
    for _ in 0..6 {
        assert_eq!(Caller { channel: &channel, name: "a" }.issue("login:x").await, "OK");
    }
    let b = Caller { channel: &channel, name: "b" };
    assert_eq!(b.issue("login:x").await, NOT_ALLOWED, "dry run does not apply to rules");
    assert_eq!(sent_requests(&platform), 6);
    let counted = metric(gateway.admin(), "ott_gateway_quota_exceeded_total{caller=\"token:a\"}").await;
    assert_eq!(counted.to_string(), "4");
    gateway
        .stderr()
        .wait_for("the warning", |line| line.contains("accepting the call in dry run").then_some(()));

    // A reload ends the dry run and logs which changes require a restart.
    let file = gateway.folder().join("config.toml");
    let config = std::fs::read_to_string(&file).expect("the configuration");
    let config = config.replace("quota_dry_run = true", "quota_dry_run = false");
    let config = config.replace("[server]", "[server]\nmax_in_flight = 77");
    std::fs::write(&file, config).expect("a new configuration");
    gateway.signal("HUP");
    let find = |line: &str| line.contains("require a restart").then(|| line.to_owned());
    let line = gateway.stderr().wait_for("changes that require a restart", find);
    assert!(line.contains("\"config.sections\":\"server\""), "{line}");
    assert_eq!(
        Caller { channel: &channel, name: "a" }.issue("login:x").await,
        "ResourceExhausted CALLER_QUOTA_EXCEEDED"
    );
    assert_eq!(sent_requests(&platform), 6);
}

#[tokio::test]
async fn explain_reports_which_rule_decides() {
    let platform = Upstream::http().await;
    let rules = format!(
        "[[access.rules]]\ncallers = [\"token:a\"]\nlogins = [\"*@shop.example\"]\n\
         [[access.rules]]\ncallers = [\"*\"]\nmethods = [\"LoginWithOtt\"]\napi_clients = [\"test\"]\n{EVERYBODY}\
         [[access.rules]]\ncallers = [\"token:b\"]\napi_clients = [\"other\"]\n{EVERYBODY}"
    );
    let with_default = setup(&platform, &rules);
    with_default.write_config();
    let without_default = setup(&platform, &rules).replacing("default = true", "default = false");
    without_default.write_config();
    let explained = |setup: &Setup, api_client: &str, call: &str| {
        let mut arguments = vec!["check-config", "--explain"];
        arguments.extend(call.split(' '));
        if !api_client.is_empty() {
            arguments.extend(["--api-client", api_client]);
        }
        let output = setup.run(&arguments);
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let denied = "DENIED: no rule allows it";
    let cases = [
        ("", "token:a IssueOtt login:x@SHOP.example", "ALLOWED by rule 1"),
        ("", "token:a IssueOtt user_id:x@shop.example", denied),
        ("", "token:a LoginWithOtt -", "ALLOWED by rule 1"),
        ("other", "token:a LoginWithOtt -", "ALLOWED by rule 1"),
        ("", "token:c LoginWithOtt -", "ALLOWED by rule 2"),
        ("test", "token:c LoginWithOtt -", "ALLOWED by rule 2"),
        ("other", "token:c LoginWithOtt -", denied),
        ("", "spiffe://mesh/x LoginWithOtt -", "ALLOWED by rule 2"),
        ("other", "spiffe://mesh/x LoginWithOtt -", denied),
        ("", "token:b IssueOtt x@shop.example", denied),
        ("other", "token:b IssueOtt x@shop.example", "ALLOWED by rule 3"),
        ("", "token:b LoginWithOtt -", "ALLOWED by rule 2"),
        ("other", "token:b LoginWithOtt -", "ALLOWED by rule 3"),
        ("", "anonymous LoginWithOtt -", denied),
    ];
    for (api_client, call, verdict) in cases {
        let (code, output, stderr) = explained(&with_default, api_client, call);
        assert_eq!(code, Some(0), "{stderr}");
        assert_eq!(output.lines().last(), Some(verdict), "{call} --api-client {api_client}: {output}");
        let meant = if api_client.is_empty() {
            "with API client test (the default; select another with --api-client)".to_owned()
        } else {
            format!("with API client {api_client}")
        };
        assert_eq!(output.lines().next(), Some(meant.as_str()));
        let rules: Vec<&str> = output.lines().filter(|line| line.starts_with("rule ")).collect();
        assert_eq!(rules.len(), 3, "{output}");
        for (number, line) in (1..).zip(rules) {
            let decides = verdict == format!("ALLOWED by rule {number}");
            assert_eq!(line.starts_with(&format!("rule {number} allows it")), decides, "{output}");
        }
    }
    // Without a default, a call that names no API client is denied before the rules.
    let call = "token:a IssueOtt login:x@shop.example";
    let (code, output, _) = explained(&without_default, "", call);
    let none = "DENIED: the call names no API client (API_CLIENT_UNKNOWN)";
    assert_eq!((code, output.lines().last()), (Some(0), Some(none)), "{output}");
    assert!(output.contains("other, test") && !output.contains("rule 1"), "{output}");
    let (_, output, _) = explained(&without_default, "test", call);
    assert_eq!(output.lines().last(), Some("ALLOWED by rule 1"));
    // A call that the configuration cannot have is denied; the last line is the reason.
    for (api_client, call, why) in [
        (
            "ther",
            call,
            "DENIED: there is no API client \"ther\" (API_CLIENT_UNKNOWN); did you mean \"other\"?",
        ),
        ("", "token:d IssueOtt x", "DENIED: [callers.tokens] has no token \"d\""),
    ] {
        let (code, output, stderr) = explained(&with_default, api_client, call);
        assert_eq!((code, output.lines().last()), (Some(0), Some(why)), "{stderr}");
    }
    // Malformed questions are usage errors.
    for (call, why) in [
        ("billing IssueOtt x", "CALLER cannot be \"billing\""),
        ("token:a IssueOtt -", "USER is required"),
        ("token:a Issue x", "METHOD must be"),
    ] {
        let (code, output, stderr) = explained(&with_default, "", call);
        assert_eq!((code, output.as_str()), (Some(2), ""), "{call}");
        assert!(stderr.contains(why), "{stderr}");
    }
    assert_eq!(platform.requests().len(), 0);
}
