//! Selection among several API clients of one gateway.

use ott_gateway::proto::ott::v1::{IssueOttRequest, LoginWithOttRequest};
use tonic::{Code, Status};

use crate::support::{
    call::{self, Client, refused},
    gateway::{Gateway, Setup},
    upstream::{Answer, LOGIN, OTT, TOKEN, Upstream},
};

/// A gateway with the API clients `eu2` and `us5`, and `further` settings of `eu2`.
async fn two(further: &str) -> (Upstream, Upstream, Gateway, Client) {
    let (eu2, us5) = (Upstream::http().await, Upstream::http().await);
    let gateway = Setup::for_platforms(&[("eu2", eu2.address()), ("us5", us5.address())])
        .replacing("[api_clients.eu2]", &format!("[api_clients.eu2]\n{further}"))
        .start();
    let client = gateway.client().await;
    (eu2, us5, gateway, client)
}

/// Issues a token and logs in with it, both through `api_client`.
async fn through(client: &mut Client, api_client: &str) -> Result<(), Status> {
    let request = IssueOttRequest { api_client: api_client.to_owned(), ..call::issue("someone") };
    let ott = client.issue_ott(request).await?.into_inner().ott;
    let request = LoginWithOttRequest { api_client: api_client.to_owned(), ..call::login(&ott) };
    client.login_with_ott(request).await?;
    Ok(())
}

fn counts(upstream: &Upstream) -> (usize, usize) {
    (upstream.count(OTT), upstream.count(LOGIN))
}

#[tokio::test]
async fn calls_use_the_named_or_else_the_default_api_client() {
    let (eu2, us5, _gateway, mut client) = two("default = true").await;
    through(&mut client, "us5").await.expect("the named one");
    assert_eq!((counts(&eu2), counts(&us5)), ((0, 0), (1, 1)));
    through(&mut client, "").await.expect("the default one");
    through(&mut client, "eu2").await.expect("the default one, by its name");
    assert_eq!((counts(&eu2), counts(&us5)), ((2, 2), (1, 1)));
    assert_eq!((eu2.count(TOKEN), us5.count(TOKEN)), (1, 1), "each has its own access token");

    // A one-time token of one API client is invalid at the other.
    let ott = eu2.token();
    (0..10).for_each(|_| drop(eu2.token()));
    let request = LoginWithOttRequest { api_client: "us5".to_owned(), ..call::login(&eu2.token()) };
    let status = client.login_with_ott(request).await.expect_err("a token of eu2");
    assert_eq!(refused(&status).reason, "OTT_REJECTED");
    assert_eq!(refused(&status).metadata["apiClient"], "us5");
    client.login_with_ott(call::login(&ott)).await.expect("eu2 did not see the token");
}

#[tokio::test]
async fn unknown_api_client_is_refused_without_a_platform_request() {
    let (eu2, us5, gateway, mut client) = two("default = true").await;
    for name in ["eu3", "EU2", "eu2 ", "*", &"x".repeat(1000)] {
        let issue = IssueOttRequest { api_client: name.to_owned(), ..call::issue("someone") };
        let login = LoginWithOttRequest { api_client: name.to_owned(), ..call::login("OTT") };
        let statuses = [
            client.issue_ott(issue).await.expect_err(name),
            client.login_with_ott(login).await.expect_err(name),
        ];
        for status in &statuses {
            let refused = refused(status);
            assert_eq!(
                (refused.code, refused.reason.as_str()),
                (Code::InvalidArgument, "API_CLIENT_UNKNOWN")
            );
            assert_eq!(refused.pushback.as_deref(), Some("-1"));
            assert_eq!(refused.metadata["outcome"], "not_sent");
            assert!(refused.size <= 4096);
        }
    }
    assert_eq!((counts(&eu2), counts(&us5)), ((0, 0), (0, 0)));
    through(&mut client, "").await.expect("a known one");
    assert_eq!(gateway.audit().len(), 12);
}

/// Rules apply to the API client that the call resolves to.
#[tokio::test]
async fn rule_for_another_api_client_does_not_allow_the_default() {
    for (allowed, method) in [("us5", ""), ("eu2", ""), ("us5", "IssueOtt"), ("us5", "LoginWithOtt")] {
        let (eu2, us5) = (Upstream::http().await, Upstream::http().await);
        let methods = if method.is_empty() { String::new() } else { format!("\nmethods = [\"{method}\"]") };
        let gateway = Setup::for_platforms(&[("eu2", eu2.address()), ("us5", us5.address())])
            .replacing("[api_clients.eu2]", "[api_clients.eu2]\ndefault = true")
            .replacing(
                "callers = [\"anonymous\"]",
                &format!("callers = [\"anonymous\"]\napi_clients = [\"{allowed}\"]{methods}"),
            )
            .start();
        let mut client = gateway.client().await;
        for name in ["", "eu2", "us5"] {
            let is_allowed = |called: &str| {
                let api_client = if name.is_empty() { "eu2" } else { name };
                api_client == allowed && (method.is_empty() || method == called)
            };
            let request = IssueOttRequest { api_client: name.to_owned(), ..call::issue("someone") };
            let issued = client.issue_ott(request).await;
            assert_eq!(issued.is_ok(), is_allowed("IssueOtt"), "{allowed} {method} {name}");
            let ott = if name == "us5" { us5.token() } else { eu2.token() };
            let request = LoginWithOttRequest { api_client: name.to_owned(), ..call::login(&ott) };
            let logged_in = client.login_with_ott(request).await;
            assert_eq!(logged_in.is_ok(), is_allowed("LoginWithOtt"), "{allowed} {method} {name}");
            for status in [issued.err(), logged_in.err()].into_iter().flatten() {
                assert_eq!(refused(&status).reason, "CALLER_NOT_ALLOWED", "{allowed} {method} {name}");
            }
        }
        let issued = usize::from(method.is_empty() || method == "IssueOtt");
        let spent = usize::from(method.is_empty() || method == "LoginWithOtt");
        let (eu2, us5) = (counts(&eu2), counts(&us5));
        // The default API client gets two calls: with its name and without.
        let expected =
            if allowed == "eu2" { ((2 * issued, 2 * spent), (0, 0)) } else { ((0, 0), (issued, spent)) };
        assert_eq!((eu2, us5), expected, "{allowed} {method}");
    }
}

#[tokio::test]
async fn without_a_default_calls_must_name_an_api_client() {
    let (_eu2, us5, _gateway, mut client) = two("default = false").await;
    let status = through(&mut client, "").await.expect_err("which one?");
    assert_eq!(refused(&status).reason, "API_CLIENT_UNKNOWN");
    let status = client.login_with_ott(call::login("OTT")).await.expect_err("which one?");
    assert_eq!(refused(&status).reason, "API_CLIENT_UNKNOWN");
    through(&mut client, "us5").await.expect("that one");
    assert_eq!(counts(&us5), (1, 1));
}

#[tokio::test]
async fn data_center_outage_does_not_affect_the_other() {
    let (eu2, us5, _gateway, mut client) = two("default = true").await;
    eu2.always(LOGIN, Answer::empty(503));
    for _ in 0..25 {
        let status = client.login_with_ott(call::login("OTT")).await.expect_err("eu2 is down");
        assert!(
            ["LOGIN_OUTCOME_UNKNOWN", "PLATFORM_UNAVAILABLE"].contains(&refused(&status).reason.as_str())
        );
        through(&mut client, "us5").await.expect("us5 is not");
    }
    assert_eq!(eu2.count(LOGIN), 20, "the breaker of eu2 has opened");
    assert_eq!(counts(&us5), (25, 25));
}
