//! `POST /sandbox/reset`: clears the state between tests.
//!
//! Clears one-time tokens, sessions, the journal, the count of `--fault`, and the quota usage of the
//! gateway. Accounts never change. Access tokens stay: the gateway would need seconds to replace its
//! own.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::World;
use super::body;
use super::error::ApiError;

/// Callbacks that reset the state of others.
#[derive(Default)]
pub(super) struct Forget(Mutex<Vec<Box<dyn Fn() + Send + Sync>>>);

impl Forget {
    pub(super) fn add(&self, forget: Box<dyn Fn() + Send + Sync>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(forget);
    }

    fn all(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().for_each(|forget| forget());
    }
}

impl fmt::Debug for Forget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Forget").finish_non_exhaustive()
    }
}

/// The endpoint. Requires a JSON content type, which pages of other sites cannot send without a CORS
/// preflight request. Preflight requests always fail.
pub(super) async fn reset(
    State(world): State<Arc<World>>,
    headers: HeaderMap,
) -> Result<StatusCode, ApiError> {
    body::require_type(&headers, "application/json")?;
    world.tokens.forget();
    world.journal.clear();
    world.planned.restart();
    world.forget.all();
    Ok(StatusCode::NO_CONTENT)
}

/// Refuses requests from scripts of web pages: those with an `Origin`, or from another site (Fetch
/// Metadata).
pub(super) async fn refuse_pages(request: Request, next: Next) -> Response {
    let headers = request.headers();
    let site = headers.get("sec-fetch-site").map(HeaderValue::as_bytes);
    if headers.contains_key(header::ORIGIN)
        || site.is_some_and(|site| site != b"none" && site != b"same-origin")
    {
        let info = "Requests from web pages are refused.";
        return ApiError::plain(StatusCode::FORBIDDEN, info).into_response();
    }
    next.run(request).await
}
