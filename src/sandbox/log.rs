//! One readable line for each request.
//!
//! It names the endpoint by its pattern, not by what was asked: no query, no header and
//! no body is ever in it. The only login it shows is that of a known account.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::MatchedPath;
use axum::http::Request;
use axum::middleware::Next;
use axum::response::Response;

use super::accounts::User;
use super::faults::Met;
use crate::clock;

/// Tells the log whom an answer concerns.
#[derive(Clone)]
pub(super) struct Concerns(pub(super) Arc<User>);

/// Writes the line once the answer is there.
pub(super) async fn requests(request: Request<Body>, next: Next) -> Response {
    let started = clock::now();
    let method = request.method().clone();
    let path = request.extensions().get::<MatchedPath>().cloned();
    let response = next.run(request).await;
    tracing::info!(
        http.method = %method,
        http.route = path.as_ref().map_or("unknown", MatchedPath::as_str),
        http.status = response.status().as_u16(),
        user.login = response.extensions().get::<Concerns>().map(|concerns| concerns.0.login.as_str()),
        fault = response.extensions().get::<Met>().map(|met| tracing::field::display(met.0)),
        duration_ms = started.elapsed().as_millis(),
        "the sandbox answered"
    );
    response
}
