//! Account and session: what the platform sends and what the caller receives.

use std::time::Duration;

use futures_util::future::join_all;
use ott_gateway::proto::ott::v1::{
    Contact, IssueOttRequest, LoginWithOttResponse, UserAccount, issue_ott_request::Subject,
};
use prost_types::Timestamp;

use crate::support::{
    call::{self, Client},
    gateway::{Gateway, Setup},
    upstream::{self, Answer, LOGIN, LOGOUT, Upstream},
};

const DOCUMENTED: &str = include_str!("../data/platform-login-response.json");

async fn start() -> (Upstream, Gateway, Client) {
    let upstream = Upstream::http().await;
    let gateway = Setup::for_platform(upstream.address()).start();
    let client = gateway.client().await;
    (upstream, gateway, client)
}

/// Logs in; the platform responds with `answer`.
async fn log_in(upstream: &Upstream, client: &mut Client, answer: Answer) -> LoginWithOttResponse {
    upstream.next(LOGIN, answer);
    client.login_with_ott(call::login("OTT")).await.expect("a login").into_inner()
}

async fn account(upstream: &Upstream, client: &mut Client, json: &str) -> UserAccount {
    let answer = Answer::json(200, json).header("set-cookie", "sid=1");
    log_in(upstream, client, answer).await.user.expect("an account")
}

#[expect(clippy::unnecessary_wraps, reason = "fields of the account are optional")]
fn text(text: &str) -> Option<String> {
    Some(text.to_owned())
}

#[tokio::test]
async fn documented_account_is_returned_unchanged() {
    let (upstream, _gateway, mut client) = start().await;
    let user = account(&upstream, &mut client, DOCUMENTED).await;
    let expected = UserAccount {
        activated: Some(false),
        contact: Some(Contact {
            address1: text(""),
            address2: text(""),
            city: text(""),
            country: text(""),
            email: text("johncustomer@mysite.com"),
            firstname: text("John"),
            lastname: text("Customer"),
            phone: text(""),
            state: text(""),
            zipcode: text(""),
            ..Contact::default()
        }),
        created_at: Some(Timestamp { seconds: 1_565_424_000, nanos: 807_354_000 }),
        enabled: Some(true),
        id: text("2955b448-7df8-43uc-9c63-a21511dbe06d"),
        idp_id: text("11111111-1111-1111-1111-111111111111"),
        language: text("en"),
        login: text("johncustomer@mysite.com"),
        mfa_status: text("disabled"),
        notifications: ["quota", "reports", "backup_daily_report"].map(str::to_owned).to_vec(),
        personal_tenant_id: None,
        tenant_id: text("2de246a4-1t3e-937c-9e76-5a21bd6492b"),
        terms_accepted: Some(true),
        version: Some(1),
        ..UserAccount::default()
    };
    assert!(user == expected, "{user:?}");

    // The user id from a login is valid for the next token request.
    let id = user.id.expect("an id");
    let request =
        IssueOttRequest { subject: Some(Subject::UserId(id.clone())), ..IssueOttRequest::default() };
    client.issue_ott(request).await.expect("a token");
    let request = upstream.requests_to(upstream::OTT).pop().expect("a token request");
    assert_eq!(request.text(), format!(r#"{{"purpose":"user_login","user_id":"{id}"}}"#));
}

#[tokio::test]
async fn null_and_absent_differ_from_empty_except_in_lists() {
    let (upstream, _gateway, mut client) = start().await;
    let minimal = account(&upstream, &mut client, r#"{"id":"42","login":"someone"}"#).await;
    let expected = UserAccount { id: text("42"), login: text("someone"), ..UserAccount::default() };
    assert!(minimal == expected, "{minimal:?}");

    let nulls = r#"{"id":"42","login":"someone","language":null,"enabled":null,"version":null,"contact":null,
        "created_at":null,"business_types":null,"notifications":null,"external_id":null}"#;
    let nulls = account(&upstream, &mut client, nulls).await;
    assert!(nulls == expected, "{nulls:?}");

    let empties = r#"{"id":"42","login":"someone","language":"","enabled":false,"version":0,"contact":{},
        "business_types":[],"notifications":[],"external_id":""}"#;
    let empties = account(&upstream, &mut client, empties).await;
    let expected = UserAccount {
        language: text(""),
        enabled: Some(false),
        version: Some(0),
        contact: Some(Contact::default()),
        external_id: text(""),
        ..expected
    };
    assert!(empties == expected, "{empties:?}");
}

#[tokio::test]
async fn undocumented_fields_are_kept_verbatim() {
    let (upstream, _gateway, mut client) = start().await;
    let json = r#"{"login":"someone","access_policies" : [ {"role_id":"admin", "resource_id":null,
        "n":1.50e+2} ],"id":"42","a \"new\" one":"\u00e9\u0000","big":123456789012345678901234567890,
        "contact":{"email":"e@example.com","nested":{"a" :[1 , 2]},"email_confirmed":"yes"}}"#;
    let user = account(&upstream, &mut client, json).await;
    assert_eq!((user.id, user.login), (text("42"), text("someone")));
    let kept = concat!(
        "{\"access_policies\":[ {\"role_id\":\"admin\", \"resource_id\":null,\n        \"n\":1.50e+2} ],",
        r#""a \"new\" one":"\u00e9\u0000","big":123456789012345678901234567890}"#
    );
    assert_eq!(user.additional_fields_json, kept);
    let contact = user.contact.expect("a contact");
    assert_eq!(contact.email, text("e@example.com"));
    assert_eq!(contact.email_confirmed, None);
    assert_eq!(contact.additional_fields_json, r#"{"nested":{"a" :[1 , 2]},"email_confirmed":"yes"}"#);
}

#[tokio::test]
async fn fields_of_unexpected_type_do_not_fail_the_login() {
    let (upstream, _gateway, mut client) = start().await;
    for member in [
        r#""enabled":"true""#,
        r#""version":1.5"#,
        r#""version":9223372036854775808"#,
        r#""version":"1""#,
        r#""language":7"#,
        r#""created_at":"yesterday""#,
        r#""created_at":1565424000"#,
        r#""contact":[]"#,
        r#""contact":"none""#,
        r#""notifications":"quota""#,
        r#""notifications":["quota",7]"#,
        r#""business_types":{}"#,
        r#""brand_id":4711"#,
    ] {
        let json = format!(r#"{{"id":"42","login":"someone",{member}}}"#);
        let user = account(&upstream, &mut client, &json).await;
        let expected = UserAccount {
            id: text("42"),
            login: text("someone"),
            additional_fields_json: format!("{{{member}}}"),
            ..UserAccount::default()
        };
        assert!(user == expected, "{member}: {}", user.additional_fields_json);
    }
    assert_eq!(upstream.count(LOGOUT), 0);
}

#[tokio::test]
async fn all_documented_fields_are_typed() {
    let (upstream, _gateway, mut client) = start().await;
    let texts = [
        "external_id",
        "origin_id",
        "origin_external_id",
        "session_mfa_status",
        "delivery_channel",
        "external_operation_status",
        "tenant_kind",
        "tenant_pricing_model",
        "brand_id",
    ];
    let times = ["updated_at", "deleted_at", "disable_after", "login_totp_time"];
    let contact_texts = [
        "id",
        "tenant_id",
        "user_id",
        "title",
        "website",
        "industry",
        "organization_size",
        "email_domain_type",
        "aan",
        "fax",
        "language",
    ];
    let mut user = serde_json::json!({"id": "42", "login": "someone"});
    let mut contact = serde_json::json!({"types": ["billing"], "email_confirmed": true});
    for name in texts {
        user[name] = name.into();
    }
    for name in contact_texts {
        contact[name] = name.into();
    }
    for name in times {
        user[name] = "2020-01-01T00:00:00+00:00".into();
    }
    for name in ["created_at", "updated_at", "deleted_at"] {
        contact[name] = "2020-01-01T00:00:00Z".into();
    }
    user["contact"] = contact;
    let user = account(&upstream, &mut client, &user.to_string()).await;
    let new_year = Some(Timestamp { seconds: 1_577_836_800, nanos: 0 });
    assert_eq!(user.additional_fields_json, "");
    assert_eq!((user.brand_id, user.tenant_kind), (text("brand_id"), text("tenant_kind")));
    assert_eq!((user.login_totp_time, user.disable_after), (new_year, new_year));
    let contact = user.contact.expect("a contact");
    assert_eq!(contact.additional_fields_json, "");
    assert_eq!((contact.aan, contact.deleted_at), (text("aan"), new_year));
    assert_eq!((contact.types, contact.email_confirmed), (vec!["billing".to_owned()], Some(true)));
}

#[tokio::test]
async fn cookies_are_returned_parsed_and_as_one_header() {
    let (upstream, _gateway, mut client) = start().await;
    let before = ott_gateway::base::clock::WallClock::system().now();
    let answer = Answer::json(200, DOCUMENTED)
        .header("set-cookie", "sid=abc==; Path=/; Domain=.example.com; Secure; HttpOnly; SameSite=Lax")
        .header("Set-Cookie", "csrf=\"a b\"; Max-Age=3600; Expires=Thu, 01 Jan 1970 00:00:01 GMT")
        .header("set-cookie", "until=1; Expires=Wed, 01 Jan 2031 00:00:00 GMT; SameSite=None")
        .header("set-cookie", "empty=");
    let session = log_in(&upstream, &mut client, answer).await.session.expect("a session");
    assert_eq!(session.cookie_header, "sid=abc==; csrf=\"a b\"; until=1; empty=");
    let [sid, csrf, until, empty] = session.cookies.as_slice() else { panic!("four cookies") };
    assert_eq!((sid.name.as_str(), sid.value.as_str()), ("sid", "abc=="));
    assert_eq!((sid.path.as_str(), sid.same_site.as_str(), sid.expire_time), ("/", "lax", None));
    assert_eq!(sid.domain.trim_start_matches('.'), "example.com");
    assert!(sid.secure && sid.http_only);
    assert_eq!(csrf.value, "\"a b\"");
    assert!(!csrf.secure && !csrf.http_only && csrf.path.is_empty() && csrf.domain.is_empty());
    let ends = csrf.expire_time.expect("Max-Age wins").seconds;
    let hour = before + Duration::from_hours(1);
    let expected = hour.duration_since(std::time::SystemTime::UNIX_EPOCH).expect("after 1970").as_secs();
    assert!((0..30).contains(&(ends - i64::try_from(expected).expect("in time"))), "{ends}");
    assert_eq!(until.expire_time, Some(Timestamp { seconds: 1_924_992_000, nanos: 0 }));
    assert_eq!(until.same_site, "none");
    assert_eq!((empty.name.as_str(), empty.value.as_str()), ("empty", ""));
}

#[tokio::test]
async fn login_without_cookie_succeeds_with_a_warning() {
    let (upstream, gateway, mut client) = start().await;
    let answer = log_in(&upstream, &mut client, Answer::json(200, DOCUMENTED)).await;
    let session = answer.session.expect("an empty session");
    assert!(session.cookies.is_empty() && session.cookie_header.is_empty());
    assert_eq!(answer.user.expect("an account").login, text("johncustomer@mysite.com"));
    gateway.stderr().wait_for("a warning of an empty session", |line| {
        (line.to_lowercase().contains("cookie") && line.to_lowercase().contains("\"warn\"")).then_some(())
    });
    tokio::time::sleep(Duration::from_millis(200)).await;
    let log = gateway.stderr().text();
    let warnings = log.lines().filter(|line| line.to_lowercase().contains("cookie")).count();
    assert_eq!(warnings, 1, "one warning for one login:\n{log}");
}

#[tokio::test]
async fn concurrent_logins_do_not_share_cookies() {
    let (upstream, _gateway, client) = start().await;
    join_all((0..200).map(async |number| {
        let mut client = client.clone();
        let user = format!("user-{number}");
        let ott = client.issue_ott(call::issue(&user)).await.expect("a token").into_inner().ott;
        let answer = client.login_with_ott(call::login(&ott)).await.expect("a session").into_inner();
        assert_eq!(answer.user.expect("an account").login, Some(user));
        let session = answer.session.expect("a session");
        assert_eq!(session.cookie_header, format!("sid=SESSION-OF-{ott}"));
        assert_eq!(session.cookies.len(), 1);
        assert!(session.cookies[0].http_only);
    }))
    .await;
    assert_eq!((upstream.count(LOGIN), upstream.count(LOGOUT)), (200, 0));
    assert!(upstream.requests().iter().all(|request| request.header("cookie").is_none()));
}

#[tokio::test]
async fn session_of_another_user_is_logged_out_and_not_returned() {
    let (upstream, gateway, mut client) = start().await;
    let ott = client.issue_ott(call::issue("anna@example.com")).await.expect("a token").into_inner().ott;
    let foreign = Answer::json(200, r#"{"id":"43","login":"otto@example.com"}"#);
    upstream.next(LOGIN, foreign.header("set-cookie", "sid=SESSION-OF-OTTO"));
    let status = client.login_with_ott(call::login(&ott)).await.expect_err("not Anna");
    let refused = call::refused(&status);
    assert_eq!((status.code(), refused.reason.as_str()), (tonic::Code::Aborted, "ACCOUNT_MISMATCH"));
    assert_eq!(refused.metadata["outcome"], "done");
    assert!(!format!("{status:?}").contains("otto"), "{status:?}");
    upstream.wait_for(LOGOUT, 1).await;
    assert_eq!(upstream.requests_to(LOGOUT)[0].header("cookie"), Some("sid=SESSION-OF-OTTO"));
    gateway.stderr().wait_for("the cause", |line| {
        let cause = "the account in the response is not the user that the token was issued for";
        (line.contains("ACCOUNT_MISMATCH") && line.contains(cause)).then_some(())
    });
    call::issue_and_log_in(&mut client).await;
}

/// A gateway whose only rule allows `users`.
async fn start_for(upstream: &Upstream, users: &str) -> (Gateway, Client) {
    let gateway = Setup::for_platform(upstream.address()).replacing("users = \"all\"", users).start();
    let client = gateway.client().await;
    (gateway, client)
}

#[tokio::test]
async fn session_of_a_user_that_no_rule_allows_is_logged_out_and_not_returned() {
    let upstream = Upstream::http().await;
    let (_issuer, mut issuer) = start_for(&upstream, "users = \"all\"").await;
    let (gateway, mut limited) = start_for(&upstream, "logins = [\"anna@*\"]\nuser_ids = [\"43\"]").await;

    let otto = issuer.issue_ott(call::issue("otto@example.com")).await.expect("a token").into_inner().ott;
    let status = limited.login_with_ott(call::login(&otto)).await.expect_err("not allowed");
    let refused = call::refused(&status);
    assert_eq!(
        (status.code(), refused.reason.as_str()),
        (tonic::Code::PermissionDenied, "ACCOUNT_NOT_ALLOWED")
    );
    assert_eq!(refused.metadata["outcome"], "done");
    assert!(!format!("{status:?}").contains("otto"), "{status:?}");
    upstream.wait_for(LOGOUT, 1).await;
    let cookie = format!("sid=SESSION-OF-{otto}");
    assert_eq!(upstream.requests_to(LOGOUT)[0].header("cookie"), Some(&*cookie));
    let [record] = &gateway.audit()[..] else { panic!("one record") };
    assert_eq!(
        (record["reason"].as_str(), record["outcome"].as_str()),
        (Some("ACCOUNT_NOT_ALLOWED"), Some("done")),
        "the token was spent: {record}"
    );
    for sample in [
        "ott_gateway_security_events_total{kind=\"account_not_allowed\"} 1",
        "ott_gateway_access_denied_total{reason=\"user\"} 1",
    ] {
        let page = gateway.admin_get("/metrics").await;
        assert!(page.lines().any(|line| line == sample), "{sample}\n{page}");
    }

    // One allowed name of the account is enough, compared in canonical form.
    for account in [r#"{"id":"1","login":"Anna@Example.COM"}"#, r#"{"id":"43","login":"otto"}"#] {
        upstream.next(LOGIN, Answer::json(200, account).header("set-cookie", "sid=1"));
        limited.login_with_ott(call::login("OTT")).await.expect(account);
    }
    // Names without a canonical form match no rule.
    for account in [
        r#"{"id":"1","login":" anna@x"}"#,
        r#"{"id":"","login":""}"#,
        "{\"id\":\"1\",\"login\":\"\u{ff41}nna@x\"}",
    ] {
        upstream.next(LOGIN, Answer::json(200, account).header("set-cookie", "sid=1"));
        limited.login_with_ott(call::login("OTT")).await.expect_err(account);
    }
    let anna = limited.issue_ott(call::issue("anna@example.com")).await.expect("a token").into_inner().ott;
    limited.login_with_ott(call::login(&anna)).await.expect("the same process serves the allowed user");
}

#[tokio::test]
async fn rule_by_external_id_allows_tokens_issued_by_the_same_replica() {
    let upstream = Upstream::http().await;
    let (gateway, mut client) = start_for(&upstream, "external_ids = [\"E-1\"]").await;
    let account = || Answer::json(200, r#"{"id":"1","login":"anna"}"#).header("set-cookie", "sid=1");
    upstream.next(LOGIN, account());
    let request = IssueOttRequest {
        subject: Some(Subject::ExternalId("E-1".to_owned())),
        ..IssueOttRequest::default()
    };
    let ott = client.issue_ott(request).await.expect("a token").into_inner().ott;
    client.login_with_ott(call::login(&ott)).await.expect("this replica issued the token for E-1");

    upstream.next(LOGIN, account());
    let status = client.login_with_ott(call::login("OTT-OF-ANOTHER-REPLICA")).await.expect_err("unknown");
    assert_eq!(call::refused(&status).reason, "ACCOUNT_NOT_ALLOWED");
    let named = r#"{"id":"1","login":"anna","external_id":"E-1"}"#;
    upstream.next(LOGIN, Answer::json(200, named).header("set-cookie", "sid=1"));
    client.login_with_ott(call::login("OTT-OF-ANOTHER-REPLICA")).await.expect("the response names E-1");
    gateway.stderr().wait_for("the warning", |line| {
        (line.contains("configuration warning") && line.contains("external_ids")).then_some(())
    });
}

#[tokio::test]
async fn spellings_of_one_user_are_not_a_mismatch() {
    let (upstream, _gateway, mut client) = start().await;
    let id = "5af4b95b-ffc8-4d76-9a2e-21bdbac3d81c";
    let login = |login: &str| Some(Subject::Login(login.to_owned()));
    for (subject, account, is_same) in [
        (login("Anna@Example.com"), r#"{"id":"1","login":"anna@example.COM"}"#, true),
        (login("anna"), "{\"id\":\"1\",\"login\":\" anna\u{200b}\"}", true),
        // Composed and decomposed.
        (login("zo\u{eb}"), "{\"id\":\"1\",\"login\":\"zoe\u{308}\"}", true),
        (login("anna"), r#"{"id":"1","login":"anna2"}"#, false),
        (Some(Subject::UserId(id.to_uppercase())), &format!(r#"{{"id":"{id}","login":"anna"}}"#), true),
        // Ids in responses are opaque: an id that cannot be compared is not a mismatch.
        (Some(Subject::UserId(id.to_owned())), r#"{"id":"1","login":"anna"}"#, true),
        (
            Some(Subject::UserId(id.to_owned())),
            r#"{"id":"5af4b95b-ffc8-4d76-9a2e-21bdbac3d81d","login":"anna"}"#,
            false,
        ),
        (Some(Subject::ExternalId("E-1".to_owned())), r#"{"id":"1","login":"anna"}"#, true),
        (
            Some(Subject::ExternalId("E-1".to_owned())),
            r#"{"id":"1","login":"anna","external_id":null}"#,
            true,
        ),
        (
            Some(Subject::ExternalId("E-1".to_owned())),
            r#"{"id":"1","login":"anna","external_id":"e-1"}"#,
            true,
        ),
        (
            Some(Subject::ExternalId("E-1".to_owned())),
            r#"{"id":"1","login":"anna","external_id":"E-2"}"#,
            false,
        ),
    ] {
        let request = IssueOttRequest { subject: subject.clone(), ..IssueOttRequest::default() };
        let ott = client.issue_ott(request).await.expect("a token").into_inner().ott;
        upstream.next(LOGIN, Answer::json(200, account).header("set-cookie", "sid=1"));
        let answer = client.login_with_ott(call::login(&ott)).await;
        assert_eq!(answer.is_ok(), is_same, "{subject:?} {account}");
    }
}
