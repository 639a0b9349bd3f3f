use serde_json::{Value, json};

use super::*;

const PARTNER: &str = "7d1a1d3e-6a52-4a39-9b7d-2f3c3fb0c002";
const MY_SITE: &str = "2de246a4-1t3e-937c-9e76-5a21bd6492b";
const SALES: &str = "7d1a1d3e-6a52-4a39-9b7d-2f3c3fb0c004";
const JOHNS_ID: &str = "2955b448-7df8-43uc-9c63-a21511dbe06d";

/// Returns the items of a list.
async fn items(sandbox: &Sandbox, bearer: &str, path: &str) -> Vec<Value> {
    let answer = Request::get(path).bearer(bearer).send(sandbox).await;
    assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    answer.json()["items"].as_array().unwrap().clone()
}

#[tokio::test]
async fn the_tenant_tree_leads_to_every_user() {
    let sandbox = sandbox().await;
    let bearer = access_token(&sandbox).await;
    let mut tenants = vec![json!(PARTNER)];
    let mut users = Vec::new();
    while let Some(tenant) = tenants.pop() {
        let at = format!("/api/2/tenants/{}", tenant.as_str().unwrap());
        tenants.extend(items(&sandbox, &bearer, &format!("{at}/children")).await);
        for user in items(&sandbox, &bearer, &format!("{at}/users")).await {
            let path = format!("/api/2/users/{}", user.as_str().unwrap());
            let user = Request::get(&path).bearer(&bearer).send(&sandbox).await.json();
            assert_eq!(user["tenant_id"], tenant);
            users.push(user["login"].as_str().unwrap().to_owned());
        }
    }
    assert!(users.contains(&JOHN.to_owned()) && users.contains(&"sales@mysite.com".to_owned()), "{users:?}");
}

#[tokio::test]
async fn a_search_returns_users_and_tenants_with_their_paths() {
    let sandbox = sandbox().await;
    let bearer = access_token(&sandbox).await;
    let search = |tenant: &str, text: &str| format!("/api/2/search?tenant={tenant}&text={text}");
    let found = items(&sandbox, &bearer, &search(PARTNER, "JohnCustomer%40mysite.com")).await;
    assert_eq!(
        found,
        [json!({
            "first_name": "John", "id": JOHNS_ID, "last_name": "Customer", "login": JOHN, "obj_type": "user",
            "parent_id": MY_SITE, "path": ["Sandbox Partner", "My Site"],
        })]
    );
    let found = items(&sandbox, &bearer, &search(MY_SITE, "my+site%2C+sales")).await;
    assert_eq!(
        found,
        [json!({
            "first_name": "", "id": SALES, "kind": "unit", "last_name": "", "name": "My Site, Sales",
            "obj_type": "tenant", "parent_id": MY_SITE, "path": ["My Site", "My Site, Sales"],
        })]
    );
    assert_eq!(items(&sandbox, &bearer, &search(SALES, "johncustomer")).await, [] as [Value; 0]);
    assert!(items(&sandbox, &bearer, &search(PARTNER, "mysite")).await.len() > 1);
    let first = format!("{}&limit=1", search(PARTNER, "mysite"));
    assert_eq!(items(&sandbox, &bearer, &first).await.len(), 1);
}

#[tokio::test]
async fn users_and_tenants_are_listed_by_id_and_by_tenant() {
    let sandbox = sandbox().await;
    let bearer = access_token(&sandbox).await;
    let logins = |users: &[Value]| users.iter().map(|user| user["login"].clone()).collect::<Vec<_>>();

    let users = items(&sandbox, &bearer, &format!("/api/2/users?uuids={JOHNS_ID},nobody")).await;
    assert_eq!(logins(&users), [JOHN]);
    let single = Request::get(&format!("/api/2/users/{JOHNS_ID}")).bearer(&bearer).send(&sandbox).await;
    assert_eq!(users[0], single.json());
    let mine = logins(&items(&sandbox, &bearer, &format!("/api/2/users?tenant_id={MY_SITE}")).await);
    assert!(mine.contains(&json!(JOHN)) && !mine.contains(&json!("sales@mysite.com")), "{mine:?}");
    let below = format!("/api/2/users?subtree_root_tenant_id={MY_SITE}&limit=1000&lod=full");
    let below = logins(&items(&sandbox, &bearer, &below).await);
    assert!(below.contains(&json!(JOHN)) && below.contains(&json!("sales@mysite.com")), "{below:?}");

    let ids = |tenants: &[Value]| tenants.iter().map(|tenant| tenant["id"].clone()).collect::<Vec<_>>();
    let two = items(&sandbox, &bearer, &format!("/api/2/tenants?uuids={SALES},{MY_SITE}")).await;
    assert_eq!(ids(&two), [MY_SITE, SALES]);
    let children = items(&sandbox, &bearer, &format!("/api/2/tenants?parent_id={MY_SITE}")).await;
    assert_eq!(ids(&children), [SALES]);
    let below = items(&sandbox, &bearer, &format!("/api/2/tenants?subtree_root_id={MY_SITE}")).await;
    assert_eq!(ids(&below), [MY_SITE, SALES]);
}

#[tokio::test]
async fn check_login_reports_whether_a_login_is_taken() {
    let sandbox = sandbox().await;
    let bearer = access_token(&sandbox).await;
    let check =
        |login: &str| Request::get(&format!("/api/2/users/check_login?username={login}")).bearer(&bearer);
    assert_eq!(check("new%40mysite.com").send(&sandbox).await.status, 204);
    assert_eq!(check("johncustomer%40mysite.com").send(&sandbox).await.error(), (409, 409));
    assert_eq!(check("").send(&sandbox).await.error(), (400, 400));
}

#[tokio::test]
async fn lists_show_nothing_from_outside_the_clients_tenants() {
    let sandbox = sandbox().await;
    let bearer = access_token(&sandbox).await;
    let foreign_user = "3b0e6c1a-52fd-4c1e-8f6b-0a1b2c3d4e10";
    let foreign_tenant = "7d1a1d3e-6a52-4a39-9b7d-2f3c3fb0c009";
    let users = items(&sandbox, &bearer, &format!("/api/2/users?uuids={foreign_user}")).await;
    assert_eq!(users, [] as [Value; 0]);
    let tenants = items(&sandbox, &bearer, &format!("/api/2/tenants?uuids={foreign_tenant}")).await;
    assert_eq!(tenants, [] as [Value; 0]);
    for (path, expected) in [
        (format!("/api/2/tenants/{foreign_tenant}/users"), (403, 1002)),
        (format!("/api/2/tenants/{foreign_tenant}/children"), (403, 1002)),
        (format!("/api/2/tenants?parent_id={foreign_tenant}"), (403, 1002)),
        (format!("/api/2/users?tenant_id={foreign_tenant}"), (403, 1002)),
        (format!("/api/2/search?tenant={foreign_tenant}&text=a"), (403, 1002)),
        ("/api/2/search?tenant=nowhere&text=a".to_owned(), (404, 404)),
        (format!("/api/2/search?tenant={PARTNER}"), (400, 400)),
        (format!("/api/2/search?tenant={PARTNER}&text=a&limit=no"), (400, 400)),
        ("/api/2/users".to_owned(), (400, 400)),
        ("/api/2/tenants".to_owned(), (400, 400)),
    ] {
        assert_eq!(Request::get(&path).bearer(&bearer).send(&sandbox).await.error(), expected, "{path}");
        assert_eq!(Request::get(&path).send(&sandbox).await.error(), (401, 401), "{path}");
    }
}
