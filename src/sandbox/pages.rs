//! Pages for browsers: the external login, and the console that it redirects to.
//!
//! Script and style are inline, allowed by a nonce; nothing else is loaded. Account values are
//! escaped.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{Html, IntoResponse, Redirect, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::World;

const STYLE: &str = include_str!("pages/style.css");
const EXTERNAL_LOGIN: &str = include_str!("pages/external_login.html");
const LOGGED_IN: &str = include_str!("pages/logged_in.html");
const NOT_LOGGED_IN: &str = include_str!("pages/not_logged_in.html");

/// `GET /api/2/idp/external-login`: spends the token in the URL's fragment and redirects to the target
/// in the fragment.
pub(super) async fn external_login() -> Response {
    page(EXTERNAL_LOGIN, &[])
}

/// `GET /mc/`: the management console, which only shows the logged-in user.
pub(super) async fn console(State(world): State<Arc<World>>, headers: HeaderMap) -> Response {
    let Some(user) = world.logged_in(&headers) else { return page(NOT_LOGGED_IN, &[]) };
    let account: Value = serde_json::from_str(user.account.get()).unwrap_or_default();
    let text = |pointer| account.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let name = format!("{} {}", text("/contact/firstname"), text("/contact/lastname"));
    let name = match name.trim() {
        "" => user.login.as_str(),
        name => name,
    };
    let tenant =
        world.accounts.tenant(&user.tenant_id).map_or(user.tenant_id.as_str(), |tenant| &tenant.name);
    page(LOGGED_IN, &[("name", name), ("login", &user.login), ("id", &user.id), ("tenant", tenant)])
}

/// Redirects to the console.
pub(super) async fn to_console() -> Redirect {
    Redirect::temporary("/mc/")
}

/// Answers 204: there is no icon.
pub(super) async fn no_icon() -> StatusCode {
    StatusCode::NO_CONTENT
}

/// Fills a template in one pass, so that values are not expanded.
fn page(template: &str, values: &[(&str, &str)]) -> Response {
    let nonce = STANDARD.encode(rand::random::<[u8; 18]>());
    let mut html = String::with_capacity(template.len() + STYLE.len());
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("{{") {
        html.push_str(before);
        let Some((place, after)) = after.split_once("}}") else { break };
        match place {
            "nonce" => html.push_str(&nonce),
            "style" => html.push_str(STYLE),
            place => {
                let value = values.iter().find(|(name, _)| *name == place);
                html.push_str(&escaped(value.map_or("", |(_, value)| value)));
            }
        }
        rest = after;
    }
    html.push_str(rest);

    let policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    let mut response = Html(html).into_response();
    let headers = response.headers_mut();
    // Base64 and fixed text are always a valid header value.
    if let Ok(policy) = HeaderValue::try_from(policy) {
        headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    headers.insert(header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(
        HeaderName::from_static("cross-origin-opener-policy"),
        HeaderValue::from_static("same-origin"),
    );
    response
}

/// Escapes a text for HTML content and quoted attributes.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            letter => escaped.push(letter),
        }
    }
    escaped
}
