//! Sealed tokens of API clients that bind them.

use std::time::SystemTime;

use tokio::sync::Semaphore;

use super::*;
use crate::domain::ott::SubjectKind;

#[tokio::test]
async fn sealed_token_is_spent_on_another_replica_and_recorded_with_its_user() {
    let upstream = Upstream::http().await;
    let clients = [("eu2", &upstream, Mode::On)];
    let (one, other) = (Replica::new(&clients, &[KEY]), Replica::new(&clients, &[KEY]));
    let before = WallClock::system().now();
    let issued = one.issue("Anna@customer.example").await.expect("a token");
    assert!(issued.ott.starts_with("ottgw1.2026-10."), "{}", issued.ott);
    assert!(issued.login_url.is_empty());
    let expires = SystemTime::try_from(issued.expire_time.expect("an expiry")).expect("a time");
    assert!((before..before + PATIENCE).contains(&(expires - Duration::from_secs(30))), "{expires:?}");
    assert_eq!(account(other.log_in(&issued.ott).await.expect("a session")), "Anna@customer.example");

    let login = upstream.requests_to(LOGIN).remove(0);
    let raw = login.text().trim_start_matches(r#"{"ott":""#).trim_end_matches(r#""}"#);
    assert!(raw.starts_with("OTT-") && !issued.ott.contains(raw), "{raw}");
    let (issue, login) = (one.last_record().await, other.last_record().await);
    let user = serde_json::json!({ "kind": "login", "value": "anna@customer.example" });
    assert_eq!((&issue["user"], &login["user"]), (&user, &user));
    assert_eq!(login["issued_by"], PORTAL);
    assert_eq!(login["ott_fingerprint"], issue["ott_fingerprint"]);
    assert!(issue["ott_fingerprint"].is_string());
    assert!(issue.get("issued_by").is_none() && login.get("token_refused").is_none());
    assert_eq!(one.metric("ott_gateway_tokens_sealed_total"), 1);
    assert_eq!(other.metric("ott_gateway_tokens_opened_total"), 1);
    // The token is spent, and known to the platform only.
    assert_eq!(reason(&one.log_in(&issued.ott).await.expect_err("spent")), "OTT_REJECTED");
    assert_eq!(upstream.count(LOGIN), 2);
    let spent = one.last_record().await;
    assert_eq!([&spent["issued_by"], &spent["outcome"]], [PORTAL, "refused"]);
    assert!(spent.get("token_refused").is_none());
}

#[tokio::test]
async fn modes_decide_what_is_issued_and_accepted() {
    let upstream = Upstream::http().await;
    let replica = |mode| Replica::new(&[("eu2", &upstream, mode)], &[KEY]);
    let (off, accepting, on) = (replica(Mode::Off), replica(Mode::AcceptRaw), replica(Mode::On));
    for (issuing, is_sealed) in [(&off, false), (&accepting, true), (&on, true)] {
        for (spending, accepts_raw) in [(&off, true), (&accepting, true), (&on, false)] {
            let ott = issuing.issue("anna").await.expect("a token").ott;
            assert_eq!(ott.starts_with("ottgw1."), is_sealed);
            assert_eq!(spending.log_in(&ott).await.is_ok(), is_sealed || accepts_raw);
        }
    }
    assert_eq!(upstream.count(LOGIN), 8);
}

#[tokio::test]
async fn keys_are_rotated_across_two_replicas_without_a_gap() {
    let upstream = Upstream::http().await;
    let clients = [("eu2", &upstream, Mode::On)];
    let (one, other) = (Replica::new(&clients, &[KEY]), Replica::new(&clients, &[KEY]));
    let works = async |from: &Replica, to: &Replica| {
        let issued = from.issue("anna").await.expect("a token");
        to.log_in(&issued.ott).await.expect("a session");
    };
    for lines in [&[KEY, OTHER_KEY][..], &[OTHER_KEY, KEY], &[OTHER_KEY]] {
        for replica in [&one, &other] {
            replica.service.token_binding.replace_keys(keys(lines));
            works(&one, &other).await;
            works(&other, &one).await;
        }
    }
}

#[tokio::test]
async fn sealed_api_client_counts_if_the_request_names_none() {
    let (eu2, us1) = (Upstream::http().await, Upstream::http().await);
    let clients = [("eu2", &eu2, Mode::On), ("us1", &us1, Mode::On)];
    let replica = Replica::new(&clients, &[KEY]);
    for named in ["", "us1"] {
        let request = IssueOttRequest { api_client: "us1".to_owned(), ..IssueOttRequest::default() };
        let issued = replica.issue_with(request, "anna").await.expect("a token");
        replica.log_in_as(PORTAL, &issued.ott, named).await.expect("a session");
        assert_eq!(replica.last_record().await["api_client"], "us1");
    }
    assert_eq!((eu2.count(LOGIN), us1.count(LOGIN)), (0, 2));
    let without = Replica::new(&clients, &[KEY]).without_default(&clients);
    let request = IssueOttRequest { api_client: "eu2".to_owned(), ..IssueOttRequest::default() };
    let issued = without.issue_with(request, "anna").await.expect("a token");
    without.log_in(&issued.ott).await.expect("a session");
}

#[tokio::test]
async fn response_with_a_login_url_contains_no_other_token() {
    let upstream = Upstream::http().await;
    let request = || IssueOttRequest { target_uri: "/mc/".to_owned(), ..IssueOttRequest::default() };
    for mode in [Mode::On, Mode::AcceptRaw] {
        let replica = Replica::new(&[("eu2", &upstream, mode)], &[KEY]);
        let issued = replica.issue_with(request(), "anna").await.expect("a login URL");
        assert_eq!(issued.ott, "");
        assert!(issued.login_url.contains("#ott=OTT-"), "{}", issued.login_url);
        assert!(issued.expire_time.is_some());
        assert_eq!(replica.metric("ott_gateway_tokens_sealed_total"), 0);
    }
    let off = Replica::new(&[("eu2", &upstream, Mode::Off)], &[KEY]);
    let issued = off.issue_with(request(), "anna").await.expect("both");
    assert!(issued.login_url.contains(&issued.ott) && !issued.ott.is_empty());
}

#[tokio::test]
async fn token_that_cannot_be_sealed_is_not_returned() {
    let upstream = Upstream::http().await;
    let replica = Replica::new(&[("eu2", &upstream, Mode::On)], &[]);
    let refused = replica.issue("anna").await.expect_err("there is no key");
    assert_eq!(reason(&refused), "INTERNAL_ERROR");
    assert!(!format!("{refused:?}").contains("OTT-"));
    let record = replica.last_record().await;
    assert_eq!([&record["code"], &record["outcome"]], ["INTERNAL", "done"]);
    assert!(record["ott_fingerprint"].is_string(), "{record}");
}

/// A platform or a connection to it may mix up the responses of two logins. Only the token shows
/// which user it was issued for, and the replica that spends it did not issue it.
#[tokio::test]
async fn account_of_another_user_is_not_returned_by_any_replica() {
    let upstream = Upstream::http().await;
    let clients = [("eu2", &upstream, Mode::On)];
    let (one, other) = (Replica::new(&clients, &[KEY]), Replica::new(&clients, &[KEY]));
    let issued = one.issue("anna").await.expect("a token");
    let stray = Answer::json(200, r#"{"id":"43","login":"otto"}"#).header("set-cookie", "sid=otto; Path=/");
    upstream.next(LOGIN, stray);
    let refused = other.log_in(&issued.ott).await.expect_err("another account");
    assert_eq!(reason(&refused), "ACCOUNT_MISMATCH");
    upstream.wait_for(LOGOUT, 1).await;
    assert_eq!(other.metric(r#"ott_gateway_security_events_total{kind="account_mismatch"}"#), 1);
    let record = other.records().await.remove(0);
    assert_eq!([&record["user"]["value"], &record["issued_by"]], ["anna", PORTAL]);
    let issued = one.issue("anna").await.expect("a token");
    assert_eq!(account(other.log_in(&issued.ott).await.expect("a session")), "anna");
}

#[tokio::test]
async fn account_is_compared_by_the_name_that_the_token_was_issued_for() {
    use RequestedSubject::{ExternalId, Login, UserId};
    const UUID: &str = "11111111-2222-4333-8444-555555555555";
    let upstream = Upstream::http().await;
    let clients = [("eu2", &upstream, Mode::On)];
    let (one, other) = (Replica::new(&clients, &[KEY]), Replica::new(&clients, &[KEY]));
    for (subject, id, login, external_id, is_user) in [
        (UserId("opaque-1".to_owned()), "opaque-1", "anna", None, true),
        (UserId("opaque-1".to_owned()), "opaque-2", "anna", None, false),
        (UserId("opaque-1".to_owned()), UUID, "anna", None, false),
        (UserId(UUID.to_owned()), "opaque-1", "anna", None, false),
        (UserId(UUID.to_uppercase()), UUID, "anna", None, true),
        (ExternalId("ext-1".to_owned()), "1", "anna", Some("ext-1"), true),
        (ExternalId("ext-1".to_owned()), "1", "anna", Some("EXT-1"), false),
        // The response does not have to contain it.
        (ExternalId("ext-1".to_owned()), "1", "anna", None, true),
        (Login("a@mysite\u{3002}com".to_owned()), "1", "a@mysite\u{3002}com", None, true),
        (Login("a@mysite\u{3002}com".to_owned()), "1", "a@mysite.com", None, true),
        (Login("\u{ff21}nna@x".to_owned()), "1", "\u{ff21}nna@x", None, true),
        (Login("\u{ff21}nna@x".to_owned()), "1", "otto@x", None, false),
    ] {
        let case = format!("{subject:?} {id} {login} {external_id:?}");
        let issued = one.issue_for(subject).await.expect("a token");
        let mut found = serde_json::json!({ "id": id, "login": login });
        if let Some(external_id) = external_id {
            found["external_id"] = external_id.into();
        }
        upstream.next(LOGIN, Answer::json(200, found.to_string()).header("set-cookie", "sid=1; Path=/"));
        match other.log_in(&issued.ott).await {
            Ok(_) => assert!(is_user, "{case}"),
            Err(refused) => {
                assert!(!is_user, "{case}: {}", reason(&refused));
                assert_eq!(reason(&refused), "ACCOUNT_MISMATCH", "{case}");
            }
        }
    }
}

#[tokio::test]
async fn rules_limit_the_users_of_a_login_before_anything_is_sent() {
    let upstream = Upstream::http().await;
    let anna = RuleSettings { users: Users::listed(SubjectKind::Login, &["anna"]), ..rule(&["token:shop"]) };
    let replica = Replica::with_rules(&[("eu2", &upstream, Mode::On)], &[KEY], vec![rule(&[PORTAL]), anna]);
    let (anna, otto) = (replica.issue("anna").await, replica.issue("otto").await);
    let otto = otto.expect("a token").ott;
    let refused = replica.log_in_as("token:shop", &otto, "").await.expect_err("another user");
    assert_eq!(reason(&refused), "CALLER_NOT_ALLOWED");
    assert_eq!(upstream.count(LOGIN), 0);
    replica.log_in_as("token:shop", &anna.expect("a token").ott, "").await.expect("a session");
    replica.log_in(&otto).await.expect("the token is unspent");
}

/// Starts a login that the platform does not answer until the semaphore has a permit.
async fn held(
    replica: &Arc<Replica>,
    upstream: &Upstream,
    ott: &str,
) -> (tokio::task::JoinHandle<Received<LoginWithOttResponse>>, Arc<Semaphore>) {
    let go_on = Arc::new(Semaphore::new(0));
    upstream.next(LOGIN, Behaviour::Held(Arc::clone(&go_on), Box::new(Behaviour::Healthy)));
    let before = upstream.count(LOGIN);
    let (replica, ott) = (Arc::clone(replica), ott.to_owned());
    let login = tokio::spawn(async move { replica.log_in(&ott).await });
    upstream.wait_for(LOGIN, before + 1).await;
    (login, go_on)
}

#[tokio::test]
async fn token_sealed_twice_cannot_be_spent_by_two_calls_at_once() {
    let upstream = Upstream::http().await;
    let replica = Arc::new(Replica::new(&[("eu2", &upstream, Mode::AcceptRaw)], &[KEY]));
    let raw = upstream.token();
    upstream.always(OTT, Answer::json(200, format!(r#"{{"ott":"{raw}"}}"#)));
    let login = format!("user-of-{raw}");
    let seal = async || replica.issue(&login).await.expect("a token").ott;
    let (one, other) = (seal().await, seal().await);
    assert_ne!(one, other);
    let (login, go_on) = held(&replica, &upstream, &one).await;
    for again in [&one, &other, &raw] {
        let refused = replica.log_in(again).await.expect_err("another call is spending it");
        assert_eq!(reason(&refused), "OTT_IN_USE");
    }
    assert_eq!(replica.metric(r#"ott_gateway_security_events_total{kind="ott_in_use"}"#), 3);
    go_on.add_permits(1);
    login.await.expect("no panic").expect("a session");
}

#[tokio::test]
async fn record_of_an_abandoned_login_has_its_user() {
    let upstream = Upstream::http().await;
    let replica = Arc::new(Replica::new(&[("eu2", &upstream, Mode::On)], &[KEY]));
    let issued = replica.issue("anna").await.expect("a token");
    let (login, go_on) = held(&replica, &upstream, &issued.ott).await;
    login.abort();
    assert!(login.await.expect_err("aborted").is_cancelled());
    go_on.add_permits(1);
    upstream.wait_for(LOGOUT, 1).await;
    let record = replica.last_record().await;
    assert_eq!(record["code"], "CANCELLED");
    assert_eq!([&record["user"]["value"], &record["issued_by"]], ["anna", PORTAL]);
}
