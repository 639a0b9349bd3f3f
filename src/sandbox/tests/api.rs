use super::*;
use crate::sandbox::TOKEN_MARK;

#[tokio::test]
async fn a_login_sets_session_cookies_that_work_over_http() {
    let sandbox = sandbox().await;
    let ott = one_time_token(&sandbox, JOHN).await;
    let answer = log_in(&sandbox, &ott).await;
    let cookies = answer.all("set-cookie");
    assert_eq!(cookies.len(), 2);
    for cookie in cookies {
        let (pair, attributes) = cookie.split_once("; ").unwrap();
        assert!(pair.split_once('=').unwrap().1.starts_with(TOKEN_MARK), "{cookie}");
        assert_eq!(attributes, "Path=/; HttpOnly; SameSite=Lax");
    }
}

#[tokio::test]
async fn a_session_returns_its_user_until_logout() {
    let sandbox = sandbox().await;
    let (john, sales) = (session(&sandbox, JOHN).await, session(&sandbox, "sales@mysite.com").await);
    let me = |cookies: &str| Request::get("/api/2/users/me").header("Cookie", cookies);
    assert_eq!(me(&john).send(&sandbox).await.json()["login"], JOHN);
    assert_eq!(me(&sales).send(&sandbox).await.json()["login"], "sales@mysite.com");
    let with_more = format!("theme=dark; {john}; lang=en");
    assert_eq!(me(&with_more).send(&sandbox).await.status, 200);

    let logout = Request::get("/api/2/idp/logout").header("Cookie", &john);
    let answer = logout.send(&sandbox).await;
    assert_eq!((answer.status, answer.all("set-cookie").len()), (204, 2));
    assert!(answer.all("set-cookie").iter().all(|cookie| cookie.ends_with("; Max-Age=0")));
    assert_eq!(me(&john).send(&sandbox).await.error(), (401, 401));
    assert_eq!(logout.send(&sandbox).await.error(), (401, 401));
    assert_eq!(me(&sales).send(&sandbox).await.status, 200);
}

#[tokio::test]
async fn half_a_session_is_refused() {
    let sandbox = sandbox().await;
    let (one, other) = (session(&sandbox, JOHN).await, session(&sandbox, JOHN).await);
    let (id, key) = one.split_once("; ").unwrap();
    let foreign_key = other.split_once("; ").unwrap().1;
    let mixed = format!("{id}; {foreign_key}");
    for path in ["/api/2/users/me", "/api/2/idp/logout"] {
        assert_eq!(Request::get(path).send(&sandbox).await.error(), (401, 401));
        for cookies in ["", "nonsense", id, key, &mixed] {
            let answer = Request::get(path).header("Cookie", cookies).send(&sandbox).await;
            assert_eq!(answer.error(), (401, 401), "{path} {cookies}");
        }
    }
    let both = Request::get("/api/2/users/me").header("Cookie", id).header("Cookie", key);
    assert_eq!(both.send(&sandbox).await.status, 200);
}

#[tokio::test]
async fn an_api_client_can_look_itself_up() {
    let sandbox = sandbox().await;
    let bearer = access_token(&sandbox).await;
    let client = Request::get("/api/2/clients/sandbox").bearer(&bearer).send(&sandbox).await.json();
    assert_eq!(client["client_id"], "sandbox");
    assert_eq!(client["type"], "api_client");
    let tenant_id = client["tenant_id"].as_str().unwrap();
    let tenant =
        Request::get(&format!("/api/2/tenants/{tenant_id}")).bearer(&bearer).send(&sandbox).await.json();
    assert_eq!((&tenant["kind"], &tenant["version"]), (&"partner".into(), &1.into()));
    let me = Request::get("/api/2/users/me").bearer(&bearer).send(&sandbox).await.json();
    assert_eq!(me["tenant_id"], tenant_id);
    assert!(!client.to_string().contains("sandbox-secret"));
}

#[tokio::test]
async fn objects_outside_the_clients_tenants_are_refused() {
    let sandbox = sandbox().await;
    let bearer = access_token(&sandbox).await;
    let get = |path: &str| Request::get(path).bearer(&bearer);
    for (path, expected) in [
        ("/api/2/clients/nobody", (404, 404)),
        ("/api/2/users/nobody", (404, 404)),
        ("/api/2/users/%FF", (404, 404)),
        ("/api/2/tenants/nowhere", (404, 404)),
        ("/api/2/users/3b0e6c1a-52fd-4c1e-8f6b-0a1b2c3d4e10", (403, 1002)),
        ("/api/2/tenants/7d1a1d3e-6a52-4a39-9b7d-2f3c3fb0c001", (403, 1002)),
    ] {
        assert_eq!(get(path).send(&sandbox).await.error(), expected, "{path}");
        assert_eq!(Request::get(path).send(&sandbox).await.error(), (401, 401), "{path}");
    }
    let john = get("/api/2/users/2955b448-7df8-43uc-9c63-a21511dbe06d").send(&sandbox).await;
    assert_eq!(john.json()["login"], JOHN);
    let private = get("/api/2/tenants/7d1a1d3e-6a52-4a39-9b7d-2f3c3fb0c005").send(&sandbox).await;
    assert_eq!(private.json()["ancestral_access"], false);
}

#[tokio::test]
async fn discovered_urls_use_the_host_of_the_request() {
    let sandbox = sandbox().await;
    let base = sandbox.base_url();
    let found = Request::get("/.well-known/openid-configuration").send(&sandbox).await.json();
    assert_eq!(found["token_endpoint"], format!("{base}/api/2/idp/token"));
    let found = Request::get("/api/1/accounts?login=johncustomer@mysite.com").send(&sandbox).await.json();
    assert_eq!(found["server_url"], base);
}
