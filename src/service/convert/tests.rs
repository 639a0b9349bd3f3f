use std::time::Duration;

use serde_json::value::RawValue;

use super::*;
use crate::{
    base::secret::Secret,
    domain::session::Account,
    proto::ott::v1::issue_ott_request::Subject::{ExternalId, Login, UserId},
};

fn request(subject: Option<issue_ott_request::Subject>) -> v1::IssueOttRequest {
    v1::IssueOttRequest { subject, ..Default::default() }
}

fn violations(refused: &Failure) -> Vec<(&'static str, &str)> {
    assert_eq!(refused.reason(), Reason::InvalidRequest);
    refused.violations().iter().map(|violation| (violation.field, violation.description.as_str())).collect()
}

#[test]
fn each_subject_keeps_its_kind() {
    for (given, field) in [
        (Login("a".into()), "login"),
        (ExternalId("a".into()), "external_id"),
        (UserId("a".into()), "user_id"),
    ] {
        let issue = IssueOtt::try_from(request(Some(given))).expect("it is valid");
        assert_eq!((issue.subject.field(), issue.subject.as_sent()), (field, "a"));
        assert_eq!((issue.api_client, issue.target_uri), (None, None));
    }
}

#[test]
fn api_client_and_target_uri_are_passed_on() {
    let issue = IssueOtt::try_from(v1::IssueOttRequest {
        purpose: v1::Purpose::UserLogin.into(),
        api_client: "eu2".into(),
        target_uri: "/mc/".into(),
        ..request(Some(Login("a".into())))
    })
    .expect("it is valid");
    assert_eq!((issue.api_client.as_deref(), issue.target_uri.as_deref()), (Some("eu2"), Some("/mc/")));
}

#[test]
fn all_invalid_fields_are_reported_without_their_values() {
    let refused =
        IssueOtt::try_from(v1::IssueOttRequest { purpose: 77, ..request(None) }).expect_err("invalid");
    assert_eq!(
        violations(&refused),
        [
            ("purpose", "must be PURPOSE_USER_LOGIN or left out"),
            ("subject", "exactly one of login, external_id and user_id must be set"),
        ]
    );

    let long = "canary".repeat(50);
    for (given, field, rule) in [
        (Login(String::new()), "login", "must not be empty"),
        (ExternalId(long), "external_id", "must be at most 254 bytes long"),
        (UserId("canary\n".into()), "user_id", "must not contain control characters"),
    ] {
        let refused = IssueOtt::try_from(request(Some(given))).expect_err("invalid");
        assert_eq!(violations(&refused), [(field, rule)]);
        assert!(!format!("{refused:?}").contains("canary"));
    }
    let refused = IssueOtt::try_from(v1::IssueOttRequest { purpose: -1, ..request(Some(Login("a".into()))) })
        .expect_err("invalid");
    assert_eq!(violations(&refused).len(), 1);
}

#[test]
fn names_have_at_most_254_bytes() {
    assert!(IssueOtt::try_from(request(Some(Login("ä".repeat(127))))).is_ok());
    assert!(IssueOtt::try_from(request(Some(Login("ä".repeat(127) + "a")))).is_err());
}

#[test]
fn a_token_is_visible_ascii_of_at_most_4096_bytes() {
    let login =
        |ott: String| LoginWithOtt::try_from(v1::LoginWithOttRequest { ott, api_client: "eu2".into() });
    let valid = login("x".repeat(4096)).expect("it is valid");
    assert!(matches!(&valid.token, PresentedToken::Raw(ott) if ott.expose().len() == 4096));
    assert_eq!(valid.api_client.as_deref(), Some("eu2"));
    let sealed = |length: usize| format!("ottgw1.{}", "x".repeat(length - "ottgw1.".len()));
    let valid = login(sealed(9216)).expect("it is valid");
    assert!(matches!(&valid.token, PresentedToken::Sealed(sealed) if sealed.expose().len() == 9216));
    for (ott, rule) in [
        (String::new(), "must not be empty"),
        ("x".repeat(4097), "must be at most 4096 bytes long"),
        (sealed(9217), "must be at most 9216 bytes long"),
        ("ottgw1.canary x".into(), "must be visible ASCII"),
        ("canary x".into(), "must be visible ASCII"),
        ("canaryä".into(), "must be visible ASCII"),
    ] {
        let refused = login(ott).expect_err("invalid");
        assert_eq!(violations(&refused), [("ott", rule)]);
        assert!(!format!("{refused:?}").contains("canary"));
    }
}

#[test]
fn an_issue_response_has_the_expiry_and_the_login_url() {
    let issued = |form| Issued { form, expires_at: SystemTime::UNIX_EPOCH + Duration::from_millis(1_500) };
    let ott = || OneTimeToken::try_new("canary".into()).expect("it is valid");
    let login_url = || LoginUrl::new("https://canary".into());
    let answer = v1::IssueOttResponse::from(issued(IssuedForm::Raw(ott(), None)));
    assert_eq!((answer.ott.as_str(), answer.login_url.as_str()), ("canary", ""));
    assert_eq!(answer.expire_time, Some(Timestamp { seconds: 1, nanos: 500_000_000 }));
    let answer = v1::IssueOttResponse::from(issued(IssuedForm::Raw(ott(), Some(login_url()))));
    assert_eq!((answer.ott.as_str(), answer.login_url.as_str()), ("canary", "https://canary"));
    let answer = v1::IssueOttResponse::from(issued(IssuedForm::LoginUrl(login_url())));
    assert_eq!((answer.ott.as_str(), answer.login_url.as_str()), ("", "https://canary"));
    assert!(!format!("{answer:?}").contains("canary"));
}

fn cookie(name: &str, expires_at: Option<SystemTime>) -> SessionCookie {
    SessionCookie {
        name: name.into(),
        value: Secret::new(format!("canary-{name}")),
        domain: "example.com".into(),
        path: "/".into(),
        expires_at,
        is_deletion: false,
        secure: true,
        http_only: true,
        same_site: "lax".into(),
    }
}

fn account() -> Account {
    let text = |text: &str| RawValue::from_string(text.to_owned()).expect("it is JSON");
    Account::new(vec![("id".into(), text(r#""1""#)), ("login".into(), text(r#""a""#))])
}

#[test]
fn a_session_has_its_cookies_and_a_cookie_header() {
    let expiry = SystemTime::UNIX_EPOCH + Duration::from_secs(61);
    let session = Session::new(vec![cookie("a", Some(expiry)), cookie("b", None)]);
    let answer = v1::LoginWithOttResponse::from(LoggedIn { account: account(), session });
    let session = answer.session.clone().expect("always set");
    assert_eq!(session.cookie_header, "a=canary-a; b=canary-b");
    let expected = v1::Cookie {
        name: "a".into(),
        value: "canary-a".into(),
        domain: "example.com".into(),
        path: "/".into(),
        expire_time: Some(Timestamp { seconds: 61, nanos: 0 }),
        secure: true,
        http_only: true,
        same_site: "lax".into(),
    };
    assert_eq!(session.cookies[0], expected);
    assert_eq!(session.cookies[1].expire_time, None);
    assert_eq!(answer.user.clone().expect("always set").id.as_deref(), Some("1"));
    assert!(!format!("{answer:?}").contains("canary"));
}

#[test]
fn a_login_without_cookies_has_an_empty_session() {
    let answer = v1::LoginWithOttResponse::from(LoggedIn { account: account(), session: Session::default() });
    assert_eq!(answer.session, Some(v1::Session::default()));
}

#[test]
fn cookie_expiry_is_clamped_to_the_year_9999() {
    let far = SystemTime::UNIX_EPOCH + MAX_TIMESTAMP + Duration::from_secs(1_000);
    assert_eq!(timestamp(far).to_string(), "9999-12-31T23:59:59Z");
    let before = SystemTime::UNIX_EPOCH - Duration::from_secs(1);
    assert_eq!(timestamp(before).seconds, 0);
}
