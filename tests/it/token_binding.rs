//! Sealed tokens end to end: no answer shows why a token is refused, replicas share only a file of
//! keys, and the token of the platform stays between gateway and platform.

use std::net::SocketAddr;

use http::{HeaderMap, StatusCode};
use ott_gateway::proto::ott::v1::{IssueOttResponse, LoginWithOttRequest};
use prost::Message;
use serde_json::Value;
use tonic::Code;

use crate::support::{
    admin::Admin,
    calling::{issue, login, reason, result_of},
    collector::collector,
    gateway::{Gateway, Setup},
    raw::{self, Connection},
    upstream::{Answer, LOGIN, LOGOUT, Upstream},
};

const KEY: &str = "2026-10 AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n";
const OTHER_KEY: &str = "2026-11 ICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8=\n";
const LOGIN_PATH: &str = "/ott.v1.OttService/LoginWithOtt";

/// A gateway that seals the tokens of these API clients.
fn binding(platforms: &[(&str, SocketAddr)], keys: &str) -> Setup {
    let client_id = "client_id = \"test-client\"";
    let setup = Setup::for_platforms(platforms)
        .replacing(client_id, &format!("bind_tokens = \"on\"\n{client_id}"))
        .replacing("[telemetry]", "[token_binding]\nkeys_file = \"FOLDER/token.keys\"\n[telemetry]");
    setup.file("token.keys", keys);
    setup
}

async fn issued(gateway: &Gateway, api_client: &str) -> IssueOttResponse {
    let mut request = issue("anna@example.com");
    api_client.clone_into(&mut request.get_mut().api_client);
    gateway.client().await.issue_ott(request).await.expect("a token").into_inner()
}

/// Everything that a caller receives of a failed login, except for the date. The id of the call is
/// always the same.
#[derive(Debug, PartialEq)]
struct CompleteAnswer {
    http: StatusCode,
    head: HeaderMap,
    body: Vec<u8>,
    code: Code,
    trailers: HeaderMap,
}

async fn complete_answer(gateway: &Gateway, ott: &str, api_client: &str) -> CompleteAnswer {
    let request = LoginWithOttRequest { ott: ott.to_owned(), api_client: api_client.to_owned() };
    let body = raw::framed(false, &request.encode_to_vec());
    let mut connection = Connection::to(gateway.address()).await;
    let mut answer = connection.post(LOGIN_PATH, &[("x-request-id", "the-same")], &body).await;
    answer.head.remove("date");
    let raw::Answered { http, head, status, body } = answer;
    let mut trailers = HeaderMap::new();
    status.add_header(&mut trailers).expect("a status that was sent");
    CompleteAnswer { http, head, body, code: status.code(), trailers }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_tokens_get_the_complete_answer_of_a_token_that_the_platform_rejects() {
    let platform = Upstream::http().await;
    let clients = [("eu2", platform.address()), ("us1", platform.address())];
    let only_eu2 =
        |setup: Setup| setup.replacing("users = \"all\"", "api_clients = [\"eu2\"]\nusers = \"all\"");
    let with_default =
        |setup: Setup| setup.replacing("[api_clients.eu2]", "[api_clients.eu2]\ndefault = true");
    let setups: [(&dyn Fn(Setup) -> Setup, &str); 3] =
        [(&|setup| setup, "none"), (&with_default, "eu2"), (&|setup| with_default(only_eu2(setup)), "eu2")];

    let elsewhere = binding(&[("ap3", platform.address())], KEY).start();
    let stranger = binding(&clients, OTHER_KEY).start();
    for (change, default) in setups {
        let rejecting = change(Setup::for_platforms(&clients)).start();
        let gateway = change(binding(&clients, KEY)).start();
        let valid = issued(&gateway, "eu2").await.ott;
        let body = valid.rsplit_once('.').expect("a body").1;
        let other_start = if body.starts_with('A') { 'B' } else { 'A' };
        let tokens = [
            ("not_sealed", platform.token()),
            ("unknown_version", format!("ottgw2.2026-10.{body}")),
            ("malformed", format!("{valid}=")),
            ("unknown_key", issued(&stranger, "eu2").await.ott),
            ("not_authentic", format!("ottgw1.2026-10.{other_start}{}", &body[1..])),
        ];
        let foreign = issued(&elsewhere, "").await.ott;
        let used = issued(&gateway, "eu2").await.ott;
        gateway.client().await.login_with_ott(login(&used)).await.expect("a session");
        let (mut recorded, mut logged) = (Vec::new(), Vec::new());
        for api_client in ["", "eu2", "us1", "elsewhere"] {
            let expected = complete_answer(&rejecting, "OTT-unknown", api_client).await;
            let rejected_by_platform = complete_answer(&gateway, &used, "").await;
            let sent = platform.count(LOGIN);
            let cause = if api_client.is_empty() { "unknown_api_client" } else { "other_api_client" };
            for (cause, token) in tokens.iter().chain([&(cause, foreign.clone())]) {
                let answer = complete_answer(&gateway, token, api_client).await;
                // A sealed token names its API client, so its answer does not depend on a default.
                let needs_no_default = api_client.is_empty() && *cause != "not_sealed";
                let expected = if needs_no_default { &rejected_by_platform } else { &expected };
                assert_eq!(answer, *expected, "{cause} {api_client:?} default {default}");
                let is_rejected = answer.code == Code::Unauthenticated;
                if is_rejected || *cause != "not_sealed" {
                    recorded.push(*cause);
                }
                if is_rejected {
                    logged.push(*cause);
                }
            }
            assert_eq!(platform.count(LOGIN), sent, "nothing is sent");
        }
        let records = gateway.audit();
        let refused: Vec<&str> =
            records.iter().filter_map(|record| record.get("token_refused")?.as_str()).collect();
        assert_eq!(refused, recorded);
        assert!(logged.len() >= 6, "{logged:?}");
        let log = gateway.stderr().text();
        for cause in &logged {
            assert!(log.contains(&format!("the gateway refused the token: {cause}")), "{cause}");
        }
        let mut request = login(&valid);
        "eu2".clone_into(&mut request.get_mut().api_client);
        gateway.client().await.login_with_ott(request).await.expect("the token itself is unspent");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn altered_tokens_of_every_kind_get_one_answer() {
    let platform = Upstream::http().await;
    let gateway = binding(&[("eu2", platform.address())], KEY).start();
    let rejecting = Setup::for_platforms(&[("eu2", platform.address())]).start();
    let expected = complete_answer(&rejecting, "OTT-unknown", "").await;
    let valid = issued(&gateway, "").await.ott;
    for position in (0..valid.len()).step_by(23) {
        let mut flipped = valid.clone().into_bytes();
        flipped[position] ^= 1;
        let flipped = String::from_utf8(flipped).expect("ASCII");
        for altered in [flipped, valid[..position.max(1)].to_owned(), format!("{valid}{position}")] {
            assert_eq!(complete_answer(&gateway, &altered, "").await, expected, "{altered}");
        }
    }
    assert_eq!(platform.count(LOGIN), 1, "only the token that the platform rejected");
    assert_eq!(result_of(&gateway.client().await.login_with_ott(login(&valid)).await), "OK");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_gateways_with_one_file_of_keys_compare_the_account_and_rotate_keys() {
    let platform = Upstream::http().await;
    let start = |keys: &str| binding(&[("eu2", platform.address())], keys).start();
    let one = start(KEY);
    // The next step of a rotation: the new key already opens.
    let other = start(&format!("{KEY}{OTHER_KEY}"));
    let last = start(&format!("{OTHER_KEY}{KEY}"));
    for (from, to) in [(&one, &other), (&other, &one), (&other, &last), (&last, &other)] {
        let issued = issued(from, "").await;
        let session = to.client().await.login_with_ott(login(&issued.ott)).await.expect("a session");
        let account = session.into_inner().user.expect("an account");
        assert_eq!(account.login.as_deref(), Some("anna@example.com"));
    }
    let ott = issued(&one, "").await.ott;
    let stray = Answer::json(200, r#"{"id":"43","login":"otto"}"#).header("set-cookie", "sid=OTTO; Path=/");
    platform.next(LOGIN, stray);
    let refused = other.client().await.login_with_ott(login(&ott)).await.expect_err("another account");
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::Aborted, "ACCOUNT_MISMATCH"));
    platform.wait_for(LOGOUT, 1).await;
    let record = other.audit().pop().expect("a record");
    assert_eq!([&record["user"]["value"], &record["issued_by"]], ["anna@example.com", "anonymous"]);
    assert_eq!(record["reason"], "ACCOUNT_MISMATCH");
}

/// The raw token is the only secret of the platform that a gateway with sealed tokens gets to know
/// and must not pass on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn token_of_the_platform_is_in_no_answer_log_trace_record_or_metric() {
    let platform = Upstream::http().await;
    let (address, received) = collector().await;
    let mut gateway = binding(&[("eu2", platform.address())], KEY)
        .replacing(
            "[telemetry]",
            &format!("[telemetry]\ntrace_ratio = 1.0\notlp_endpoint = \"http://{address}\""),
        )
        .environment("RUST_LOG", "trace")
        .start();
    let mut client = gateway.client().await;
    let mut answers = Vec::new();

    let first = issued(&gateway, "").await;
    answers.push(format!("{first:?}{}", first.ott));
    for _ in 0..2 {
        let answer = client.login_with_ott(login(&first.ott)).await;
        // Its session is the platform's own.
        answers.extend(answer.err().map(|status| format!("{status:?}")));
    }
    // The platform repeats the token in its error.
    let echoed = issued(&gateway, "").await.ott;
    let echo = r#"{"error":{"code":1018,"message":"OTT-2 of a disabled user","domain":"OTT-2"}}"#;
    platform.next(LOGIN, Answer::json(403, echo));
    let status = client.login_with_ott(login(&echoed)).await.expect_err("a failure");
    answers.push(format!("{status:?}{:?}", String::from_utf8_lossy(status.details())));
    platform.next(LOGIN, Answer::json(200, r#"{"ott":"OTT-3","login":"#));
    let cut = issued(&gateway, "").await.ott;
    let status = client.login_with_ott(login(&cut)).await.expect_err("no account");
    answers.push(format!("{status:?}{:?}", String::from_utf8_lossy(status.details())));
    let raw = platform.token();
    let status = client.login_with_ott(login(&raw)).await.expect_err("it is not sealed");
    answers.push(format!("{status:?}{:?}", String::from_utf8_lossy(status.details())));
    // Only here, because a browser has to have it.
    let mut request = issue("anna@example.com");
    "/mc/".clone_into(&mut request.get_mut().target_uri);
    let with_url = client.issue_ott(request).await.expect("a login URL").into_inner();
    assert!(with_url.ott.is_empty() && with_url.login_url.contains("#ott=OTT-"), "it has the token");

    let sent = platform.requests_to(LOGIN);
    assert!(sent.len() == 4 && sent.iter().all(|request| request.text().contains("OTT-")), "{sent:?}");
    let metrics = gateway.admin_get("/metrics").await;
    let sealed = Admin(gateway.admin()).scrape().find("ott_gateway_tokens_sealed_total");
    assert_eq!(sealed, Some(3.0));
    let records: Vec<Value> = gateway.audit();
    let audit = std::fs::read_to_string(gateway.folder().join("audit.jsonl")).expect("records");
    assert_eq!(records.len(), 9);
    gateway.signal("TERM");
    assert_eq!(gateway.ended().await.code(), Some(0));
    let spans = format!("{:?}", received.spans());
    assert!(spans.contains("LoginWithOtt"));
    let printed = format!("{}{}", gateway.stderr().text(), gateway.stdout().text());
    for (place, text) in [
        ("answer", answers.join("\n")),
        ("metrics", metrics),
        ("audit", audit),
        ("span", spans),
        ("output", printed),
    ] {
        assert_eq!(text.lines().find(|line| line.contains("OTT-")), None, "{place}");
        // The sealed token is for its caller only.
        let is_sealed = |line: &&str| place != "answer" && line.contains("ottgw1.2026-10.");
        assert_eq!(text.lines().find(is_sealed), None, "{place}");
    }
}

#[cfg(feature = "sandbox")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn faults_of_a_sandbox_are_injected_into_calls_with_sealed_tokens() {
    let sandbox = crate::support::sandbox::Sandbox::start(&["--bind-tokens"]);
    let mut client = sandbox.client().await;
    for (user, expected) in [
        ("johncustomer@mysite.com", "OK"),
        ("login-fault+OTT_IN_USE@sandbox", "Aborted OTT_IN_USE"),
        ("login-fault+ACCOUNT_NOT_ALLOWED@sandbox", "PermissionDenied ACCOUNT_NOT_ALLOWED"),
        ("login-fault+ACCOUNT_MISMATCH@sandbox", "Aborted ACCOUNT_MISMATCH"),
        ("login-fault+OTT_REJECTED@sandbox", "Unauthenticated OTT_REJECTED"),
    ] {
        let ott = client.issue_ott(issue(user)).await.expect("a token").into_inner().ott;
        assert!(ott.starts_with("ottgw1."), "{ott}");
        assert_eq!(result_of(&client.login_with_ott(login(&ott)).await), expected, "{user}");
    }
}
