//! The sandbox over real sockets, with a minimal HTTP/1.1 client.

mod client;

mod accounts;
mod api;
mod directory;
mod faults;
mod idp;
mod lifecycle;
mod pages;

use std::net::SocketAddr;
use std::time::Duration;

use self::client::{Answer, Request};
use super::{Sandbox, Settings, start};

const JOHN: &str = "johncustomer@mysite.com";

fn settings() -> Settings {
    Settings::new(SocketAddr::from(([127, 0, 0, 1], 0)))
}

async fn sandbox() -> Sandbox {
    start(settings()).await.unwrap()
}

/// Returns an access token of the built-in API client.
async fn access_token(sandbox: &Sandbox) -> String {
    let answer = Request::post("/api/2/idp/token")
        .basic("sandbox", "sandbox-secret")
        .form("grant_type=client_credentials")
        .send(sandbox)
        .await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["access_token"].as_str().unwrap().to_owned()
}

/// Sends this body to `/idp/ott`.
async fn issue(sandbox: &Sandbox, body: &str) -> Answer {
    let bearer = access_token(sandbox).await;
    Request::post("/api/2/idp/ott").bearer(&bearer).json(body).send(sandbox).await
}

/// Returns the body of a request for a one-time token.
fn for_login(login: &str) -> String {
    serde_json::json!({ "purpose": "user_login", "login": login }).to_string()
}

/// Returns a one-time token for this login.
async fn one_time_token(sandbox: &Sandbox, login: &str) -> String {
    let answer = issue(sandbox, &for_login(login)).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["ott"].as_str().unwrap().to_owned()
}

/// Sends this token to `/idp/ott/login`.
async fn log_in(sandbox: &Sandbox, ott: &str) -> Answer {
    let body = serde_json::json!({ "ott": ott }).to_string();
    Request::post("/api/2/idp/ott/login").json(&body).send(sandbox).await
}

/// Returns the `Cookie` header of a new session of this login.
async fn session(sandbox: &Sandbox, login: &str) -> String {
    let ott = one_time_token(sandbox, login).await;
    log_in(sandbox, &ott).await.cookie_header()
}

/// Advances the clock. It runs between calls, because sockets take real time.
async fn pass(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}
