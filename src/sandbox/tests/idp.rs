use super::*;
use crate::base::clock::{WallClock, unix_seconds};
use crate::sandbox::TOKEN_MARK;

/// From the platform's documentation.
const DOCUMENTED_ACCOUNT: &str = r#"{"activated": false,
 "business_types": [],
 "contact": {"address1": "",
             "address2": "",
             "city": "",
             "country": "",
             "email": "johncustomer@mysite.com",
             "firstname": "John",
             "lastname": "Customer",
             "phone": "",
             "state": "",
             "zipcode": ""},
 "created_at": "2019-08-10T08:00:00.807354+00:00",
 "enabled": true,
 "id": "2955b448-7df8-43uc-9c63-a21511dbe06d",
 "idp_id": "11111111-1111-1111-1111-111111111111",
 "language": "en",
 "login": "johncustomer@mysite.com",
 "mfa_status": "disabled",
 "notifications": ["quota", "reports", "backup_daily_report"],
 "personal_tenant_id": null,
 "tenant_id": "2de246a4-1t3e-937c-9e76-5a21bd6492b",
 "terms_accepted": true,
 "version": 1}"#;

fn token_request() -> Request {
    Request::post("/api/2/idp/token").basic("sandbox", "sandbox-secret")
}

#[tokio::test]
async fn the_documented_account_is_returned_byte_for_byte() {
    let sandbox = sandbox().await;
    let ott = one_time_token(&sandbox, JOHN).await;
    let answer = log_in(&sandbox, &ott).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.text(), DOCUMENTED_ACCOUNT);
    assert_eq!(answer.header("content-type"), Some("application/json; charset=utf-8"));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
}

#[tokio::test]
async fn a_token_response_has_the_documented_fields_and_lifetime() {
    let sandbox = sandbox().await;
    let before = unix_seconds(WallClock::system().now());
    let answer = token_request().form("grant_type=client_credentials").send(&sandbox).await;
    let after = unix_seconds(WallClock::system().now());
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    let token = answer.json();
    for name in ["access_token", "id_token"] {
        assert!(token[name].as_str().unwrap().starts_with(TOKEN_MARK), "{name}");
    }
    assert_eq!(token["token_type"], "bearer");
    assert_eq!(token["expires_in"], 7_200);
    let expires_on = token["expires_on"].as_u64().unwrap();
    assert!((before + 7_200..=after + 7_200).contains(&expires_on));
}

#[tokio::test]
async fn date_and_expires_on_use_the_same_clock() {
    let wall_clock = WallClock::following_monotonic();
    wall_clock.shift_by_ms(-3_600_000);
    let sandbox = start(Settings { wall_clock, ..settings() }).await.unwrap();
    let answer = token_request().form("grant_type=client_credentials").send(&sandbox).await;
    let date = unix_seconds(httpdate::parse_http_date(answer.header("date").unwrap()).unwrap());
    let expires_on = answer.json()["expires_on"].as_u64().unwrap();
    assert!((7_199..=7_200).contains(&(expires_on - date)));
    assert!(date < 490_896 * 3_600, "{date}");
}

#[tokio::test]
async fn a_client_may_authenticate_in_the_form_and_request_a_scope() {
    let sandbox = sandbox().await;
    let form = "grant_type=client_credentials&client_id=sandbox&client_secret=sandbox-secret&scope=openid";
    let answer = Request::post("/api/2/idp/token").form(form).send(&sandbox).await;
    assert_eq!(answer.status, 200);
}

#[tokio::test]
async fn wrong_client_credentials_are_an_oauth_error() {
    let sandbox = sandbox().await;
    let bare = Request::post("/api/2/idp/token");
    for request in [
        bare.clone(),
        bare.clone().basic("sandbox", "wrong"),
        bare.clone().basic("stranger", "sandbox-secret"),
        bare.clone().basic("", ""),
        bare.clone().header("Authorization", "Basic ???"),
        bare.clone().header("Authorization", "Basic"),
        bare.clone().bearer("sandbox:sandbox-secret"),
    ] {
        let answer = request.form("grant_type=client_credentials").send(&sandbox).await;
        assert_eq!((answer.status, &answer.json()["error"]), (401, &"invalid_client".into()));
        assert_eq!(answer.header("www-authenticate"), Some("Basic realm=\"sandbox\""));
        assert!(answer.json()["error_description"].is_string());
        assert!(!answer.text().contains("sandbox-secret"));
    }
}

#[tokio::test]
async fn a_grant_type_other_than_client_credentials_is_refused() {
    let sandbox = sandbox().await;
    for (form, error) in [("grant_type=password", "unsupported_grant_type"), ("scope=x", "invalid_request")] {
        let answer = token_request().form(form).send(&sandbox).await;
        assert_eq!((answer.status, &answer.json()["error"]), (400, &error.into()));
    }
}

#[tokio::test]
async fn bodies_of_another_type_are_415_everywhere() {
    let sandbox = sandbox().await;
    let bearer = access_token(&sandbox).await;
    let json = for_login(JOHN);
    for content_type in ["text/plain", "application/xml", "application/jsonx", ""] {
        let token = token_request().body(content_type, "grant_type=client_credentials");
        let ott = Request::post("/api/2/idp/ott").bearer(&bearer).body(content_type, json.clone());
        let login = Request::post("/api/2/idp/ott/login").body(content_type, r#"{"ott": "x"}"#);
        for request in [token, ott, login] {
            assert_eq!(request.send(&sandbox).await.error(), (415, 415), "{content_type}");
        }
    }
    // JSON at the token endpoint, and a form at the login.
    assert_eq!(token_request().json("{}").send(&sandbox).await.error(), (415, 415));
    let login = Request::post("/api/2/idp/ott/login").form("ott=x");
    assert_eq!(login.send(&sandbox).await.error(), (415, 415));
    // Parameters and case are ignored.
    let answer = Request::post("/api/2/idp/ott")
        .bearer(&bearer)
        .body("Application/JSON; charset=utf-8", json)
        .send(&sandbox)
        .await;
    assert_eq!(answer.status, 200);
}

#[tokio::test]
async fn an_unsupported_method_is_405_and_an_unknown_path_404() {
    let sandbox = sandbox().await;
    for (method, path, allowed) in [
        ("GET", "/api/2/idp/token", "POST"),
        ("GET", "/api/2/idp/ott", "POST"),
        ("PUT", "/api/2/idp/ott/login", "POST"),
        ("POST", "/api/2/idp/logout", "GET,HEAD"),
        ("DELETE", "/api/2/users/me", "GET,HEAD"),
    ] {
        let answer = Request::new(method, path).send(&sandbox).await;
        assert_eq!(answer.error(), (405, 405), "{method} {path}");
        assert_eq!(answer.header("allow"), Some(allowed), "{method} {path}");
    }
    for path in ["/api/2/nothing", "/api/2/idp", "/api/2/idp/ott/", "/nothing?x=y"] {
        assert_eq!(Request::get(path).send(&sandbox).await.error(), (404, 404), "{path}");
    }
}

#[tokio::test]
async fn issuing_requires_a_valid_access_token() {
    let sandbox = sandbox().await;
    let request = Request::post("/api/2/idp/ott").json(&for_login(JOHN));
    let good = access_token(&sandbox).await;
    for request in [
        request.clone(),
        request.clone().bearer("SANDBOX-made-up"),
        request.clone().bearer(""),
        request.clone().basic("sandbox", "sandbox-secret"),
        request.clone().header("Authorization", &good),
        request.clone().header("Cookie", &session(&sandbox, JOHN).await),
    ] {
        let answer = request.send(&sandbox).await;
        assert_eq!(answer.error(), (401, 401));
        assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
    }
    let answer = request.header("Authorization", &format!("bearer {good}")).send(&sandbox).await;
    assert_eq!(answer.status, 200);
}

#[tokio::test]
async fn requests_for_a_token_are_checked_field_by_field() {
    let sandbox = sandbox().await;
    for body in [
        "",
        "nonsense",
        "[]",
        "\"text\"",
        r#"{"purpose": "user_login", "login": "a""#,
        r#"{"purpose": "user_login"}"#,
        r#"{"login": "johncustomer@mysite.com"}"#,
        r#"{"purpose": null, "login": "johncustomer@mysite.com"}"#,
        r#"{"purpose": "", "login": "johncustomer@mysite.com"}"#,
        r#"{"purpose": "USER_LOGIN", "login": "johncustomer@mysite.com"}"#,
        r#"{"purpose": 1, "login": "johncustomer@mysite.com"}"#,
        r#"{"purpose": "user_login", "login": 5}"#,
        r#"{"purpose": "user_login", "login": null}"#,
        r#"{"purpose": "user_login", "login": "a", "user_id": "b"}"#,
        r#"{"purpose": "user_login", "external_id": "a", "user_id": "b"}"#,
        r#"{"purpose": "user_login", "login": "a", "external_id": "b", "user_id": "c"}"#,
    ] {
        assert_eq!(issue(&sandbox, body).await.error(), (400, 400), "{body}");
    }
    let answer = issue(&sandbox, r#"{"login": "johncustomer@mysite.com"}"#).await;
    assert_eq!(answer.json()["error"]["details"]["addition"][0]["field"], "purpose");
    let padded = format!("{{\"purpose\": \"user_login\",{}\"login\": \"{JOHN}\"}}", " ".repeat(64 * 1024));
    assert_eq!(issue(&sandbox, &padded).await.error(), (413, 413));
    let with_null = format!(r#"{{"purpose": "user_login", "login": "{JOHN}", "user_id": null, "more": 1}}"#);
    assert_eq!(issue(&sandbox, &with_null).await.status, 200);
}

#[tokio::test]
async fn an_error_body_has_its_keys_in_the_documented_order() {
    let sandbox = sandbox().await;
    let text = issue(&sandbox, &for_login("disabled@mysite.com")).await.text();
    let start = r#"{"error":{"code":1018,"message":"The user is disabled.","domain":"PlatformAccountServer","details":{"#;
    assert!(text.starts_with(start), "{text}");
    assert!(text.ends_with(r#""context":{"id":"3b0e6c1a-52fd-4c1e-8f6b-0a1b2c3d4e05"}}}"#), "{text}");
}

#[tokio::test]
async fn a_user_is_found_by_login_user_id_and_external_id() {
    let sandbox = sandbox().await;
    for (subject, id) in [
        (r#""login": "JohnCustomer@MySite.com""#, "2955b448-7df8-43uc-9c63-a21511dbe06d"),
        (r#""user_id": "2955b448-7df8-43uc-9c63-a21511dbe06d""#, "2955b448-7df8-43uc-9c63-a21511dbe06d"),
        (r#""external_id": "jane@idp.mysite.com""#, "3b0e6c1a-52fd-4c1e-8f6b-0a1b2c3d4e04"),
    ] {
        let issued = issue(&sandbox, &format!(r#"{{"purpose": "user_login", {subject}}}"#)).await;
        let account = log_in(&sandbox, issued.json()["ott"].as_str().unwrap()).await.json();
        assert_eq!(account["id"], id);
    }
}

#[tokio::test]
async fn refusals_have_the_codes_of_the_platform() {
    let sandbox = sandbox().await;
    for (login, expected) in [
        ("nobody@mysite.com", (404, 404)),
        ("disabled@mysite.com", (400, 1018)),
        ("private@keepstoitself.com", (403, 1002)),
        ("private.sales@keepstoitself.com", (403, 1002)),
        ("closed@closeddown.com", (400, 1003)),
        ("locked@underlock.com", (400, 1012)),
        ("stranger@elsewhere.com", (403, 1002)),
    ] {
        assert_eq!(issue(&sandbox, &for_login(login)).await.error(), expected, "{login}");
    }
    assert_eq!(issue(&sandbox, &for_login("sales@mysite.com")).await.status, 200);
}

#[tokio::test]
async fn a_one_time_token_is_marked_and_must_be_escaped_in_a_url() {
    let sandbox = sandbox().await;
    let first = one_time_token(&sandbox, JOHN).await;
    let second = one_time_token(&sandbox, JOHN).await;
    assert_ne!(first, second);
    for ott in [first, second] {
        assert!(ott.starts_with(TOKEN_MARK) && ott.ends_with("=="), "{ott}");
    }
}

#[tokio::test]
async fn a_one_time_token_works_once() {
    let sandbox = sandbox().await;
    let ott = one_time_token(&sandbox, JOHN).await;
    assert_eq!(log_in(&sandbox, &ott).await.status, 200);
    let used = log_in(&sandbox, &ott).await;
    let unknown = log_in(&sandbox, "SANDBOX-never-issued==").await;
    assert_eq!(used.error(), (401, 401));
    assert_eq!(used.text(), unknown.text());
    assert!(used.all("set-cookie").is_empty());
}

#[tokio::test]
async fn only_one_of_many_logins_with_one_token_succeeds() {
    let sandbox = sandbox().await;
    let ott = one_time_token(&sandbox, JOHN).await;
    let logins = futures_util::future::join_all((0..20).map(|_| log_in(&sandbox, &ott))).await;
    assert_eq!(logins.iter().filter(|answer| answer.status == 200).count(), 1);
    assert_eq!(logins.iter().filter(|answer| answer.status == 401).count(), 19);
}

#[tokio::test]
async fn a_one_time_token_lasts_thirty_seconds_and_an_access_token_two_hours() {
    let sandbox = sandbox().await;
    let bearer = access_token(&sandbox).await;
    let (timely, late) = (one_time_token(&sandbox, JOHN).await, one_time_token(&sandbox, JOHN).await);
    pass(Duration::from_secs(29)).await;
    assert_eq!(log_in(&sandbox, &timely).await.status, 200);
    pass(Duration::from_secs(1)).await;
    assert_eq!(log_in(&sandbox, &late).await.error(), (401, 401));

    let request = Request::post("/api/2/idp/ott").bearer(&bearer).json(&for_login(JOHN));
    pass(Duration::from_secs(7_200 - 30 - 10)).await;
    assert_eq!(request.send(&sandbox).await.status, 200);
    pass(Duration::from_secs(10)).await;
    assert_eq!(request.send(&sandbox).await.error(), (401, 401));
    assert_eq!(issue(&sandbox, &for_login(JOHN)).await.status, 200);
}

#[tokio::test]
async fn a_login_requires_a_json_token_and_ignores_authorization() {
    let sandbox = sandbox().await;
    let login = Request::post("/api/2/idp/ott/login");
    for body in ["", "{}", "[]", r#"{"ott": null}"#, r#"{"ott": 5}"#, "ott"] {
        assert_eq!(login.clone().json(body).send(&sandbox).await.error(), (400, 400), "{body}");
    }
    for authorization in ["Bearer wrong", "Basic ???", "nonsense"] {
        let body = issue(&sandbox, &for_login(JOHN)).await.text();
        let request = login.clone().header("Authorization", authorization).json(&body);
        assert_eq!(request.send(&sandbox).await.status, 200, "{authorization}");
    }
}
