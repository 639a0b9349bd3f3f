//! Log line and journal entry of each request.
//!
//! The line contains the route, no query, header or body of the request, and only logins of known
//! accounts.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{MatchedPath, State};
use axum::http::{HeaderMap, Request};
use axum::middleware::Next;
use axum::response::Response;

use super::World;
use super::accounts::{ApiClient, User};
use super::faults::LoggedFault;
use super::journal::{Entry, shortened};
use crate::base::clock;

/// The user of a response.
#[derive(Clone)]
pub(super) struct LoggedUser(pub(super) Arc<User>);

/// The API client that authenticated with its secret.
#[derive(Clone)]
pub(super) struct LoggedApiClient(pub(super) Arc<ApiClient>);

/// Fingerprint of the one-time token of a response.
#[derive(Clone)]
pub(super) struct LoggedToken(pub(super) String);

/// Paths that are not part of the platform, and not in the journal.
const OWN: [&str; 2] = ["/sandbox/", "/favicon.ico"];

/// Logs the request and adds it to the journal, after the response.
pub(super) async fn requests(
    State(world): State<Arc<World>>,
    request: Request<Body>,
    next: Next,
) -> Response {
    let started = clock::now();
    let entry =
        (!OWN.iter().any(|own| request.uri().path().starts_with(own))).then(|| begun(&world, &request));
    let method = request.method().clone();
    let path = request.extensions().get::<MatchedPath>().cloned();
    let response = next.run(request).await;
    tracing::info!(
        http.method = %method,
        http.route = path.as_ref().map_or("unknown", MatchedPath::as_str),
        http.status = response.status().as_u16(),
        user.login = response.extensions().get::<LoggedUser>().map(|user| user.0.login.as_str()),
        fault = response.extensions().get::<LoggedFault>().map(|fault| tracing::field::display(fault.0)),
        duration_ms = started.elapsed().as_millis(),
        "sandbox request completed"
    );
    if let Some(entry) = entry {
        let found = response.extensions();
        world.journal.add(Entry {
            time: humantime::format_rfc3339_millis(world.wall_clock.now()).to_string(),
            status: response.status().as_u16(),
            duration_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
            api_client: found.get::<LoggedApiClient>().map(|client| client.0.id.clone()).or(entry.api_client),
            login: found.get::<LoggedUser>().map(|user| user.0.login.clone()),
            fault: found.get::<LoggedFault>().map(|fault| fault.0.to_string()),
            ott_sha256: found.get::<Option<LoggedToken>>().and_then(|token| Some(token.as_ref()?.0.clone())),
            ..entry
        });
    }
    response
}

/// Creates the journal entry of a request before its response.
fn begun(world: &World, request: &Request<Body>) -> Entry {
    let id = |headers: &HeaderMap| headers.get("x-request-id")?.to_str().ok().map(shortened);
    Entry {
        time: String::new(),
        method: shortened(request.method().as_str()),
        path: shortened(request.uri().path()),
        status: 0,
        duration_ms: 0,
        api_client: world.api_client(request.headers()).ok().map(|client| client.id.clone()),
        login: None,
        fault: None,
        ott_sha256: None,
        request_id: id(request.headers()),
    }
}
