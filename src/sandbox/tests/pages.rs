use std::path::Path;

use super::*;
use crate::sandbox::accounts::file::parse;

fn assert_has_policy(answer: &Answer) {
    let policy = answer.header("content-security-policy").unwrap();
    let nonce = policy.split_once("script-src 'nonce-").unwrap().1.split_once('\'').unwrap().0;
    assert!(policy.starts_with("default-src 'none'; ") && !policy.contains("unsafe"), "{policy}");
    assert_eq!(answer.text().matches(&format!("<style nonce=\"{nonce}\">")).count(), 1);
    assert!(!answer.text().contains("{{") && !answer.text().contains("style=\""));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    assert_eq!(answer.header("x-frame-options"), Some("DENY"));
    assert_eq!(answer.header("referrer-policy"), Some("no-referrer"));
    assert_eq!(answer.header("content-type"), Some("text/html; charset=utf-8"));
}

#[tokio::test]
async fn the_external_login_page_has_a_policy_with_a_new_nonce() {
    let sandbox = sandbox().await;
    let get = Request::get("/api/2/idp/external-login");
    let (first, second) = (get.send(&sandbox).await, get.send(&sandbox).await);
    assert_eq!(first.status, 200);
    assert_has_policy(&first);
    assert!(first.text().contains("/api/2/idp/ott/login"));
    assert_ne!(first.header("content-security-policy"), second.header("content-security-policy"));
}

#[tokio::test]
async fn the_console_shows_the_logged_in_user() {
    let sandbox = sandbox().await;
    let nobody = Request::get("/mc/").send(&sandbox).await;
    assert!(nobody.text().contains("<h1>Not logged in</h1>"));
    assert_has_policy(&nobody);

    let cookies = session(&sandbox, JOHN).await;
    let john = Request::get("/mc/").header("Cookie", &cookies).send(&sandbox).await;
    assert!(john.text().contains("<h1 id=\"name\">John Customer</h1>"));
    assert!(john.text().contains("<dd id=\"login\">johncustomer@mysite.com</dd>"));
    assert!(john.text().contains("<dd id=\"tenant\">My Site</dd>"));
    assert_has_policy(&john);
}

#[tokio::test]
async fn account_values_are_escaped() {
    let text = r#"{"tenants": [{"id": "t", "name": "{{nonce}}"}], "users": [{"id": "'\"&", "tenant_id": "t",
        "login": "<script>alert(1)</script>", "contact": {"firstname": "<b>", "lastname": "{{login}}"}}]}"#;
    let accounts = parse(Path::new("accounts.json"), text).unwrap();
    let sandbox = start(Settings { accounts, ..settings() }).await.unwrap();
    let cookies = session(&sandbox, "<script>alert(1)</script>").await;
    let page = Request::get("/mc/").header("Cookie", &cookies).send(&sandbox).await.text();
    assert!(page.contains("<h1 id=\"name\">&lt;b&gt; {{login}}</h1>"), "{page}");
    assert!(page.contains("&lt;script&gt;alert(1)&lt;/script&gt;") && !page.contains("<script>alert"));
    assert!(page.contains("&#39;&quot;&amp;"));
    assert!(page.contains("<dd id=\"tenant\">{{nonce}}</dd>"));
}

#[tokio::test]
async fn the_root_redirects_to_the_console() {
    let sandbox = sandbox().await;
    for path in ["/", "/mc"] {
        let answer = Request::get(path).send(&sandbox).await;
        assert_eq!((answer.status, answer.header("location")), (307, Some("/mc/")));
    }
}
