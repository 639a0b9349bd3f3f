//! The platform's error bodies, written from its documentation.
//!
//! `{"error": {"code", "message", "domain", "details", "context"}}`; the token
//! endpoint's OAuth 2.0 errors are in `idp`. No message repeats a secret.

use axum::Json;
use axum::http::{HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::{Value, json};

use super::accounts::Inaccessible;

/// Error domain of the platform's account server.
const DOMAIN: &str = "PlatformAccountServer";

/// An error response.
#[derive(Debug)]
pub(super) struct ApiError {
    status: StatusCode,
    code: u32,
    message: &'static str,
    info: String,
    addition: Vec<Value>,
    context: Value,
    challenge: Option<&'static str>,
}

#[derive(Serialize)]
struct Envelope {
    error: Body,
}

/// Keys in the documented order.
#[derive(Serialize)]
struct Body {
    code: u32,
    message: &'static str,
    domain: &'static str,
    details: Value,
    context: Value,
}

impl ApiError {
    /// Creates an error whose code is the HTTP status.
    pub(super) fn plain(status: StatusCode, info: impl Into<String>) -> Self {
        let message = status.canonical_reason().unwrap_or("Error");
        Self::coded(status, u32::from(status.as_u16()), message, info)
    }

    pub(super) fn coded(
        status: StatusCode,
        code: u32,
        message: &'static str,
        info: impl Into<String>,
    ) -> Self {
        let (addition, context) = (Vec::new(), json!({}));
        Self { status, code, message, info: info.into(), addition, context, challenge: None }
    }

    /// 400, for a field of the request.
    pub(super) fn field(field: &'static str, info: impl Into<String>) -> Self {
        let mut error = Self::plain(StatusCode::BAD_REQUEST, info);
        error.addition.push(json!({ "field": field }));
        error
    }

    /// 401: the access token is missing or not valid.
    pub(super) fn access_token() -> Self {
        let info = "The access token is missing, expired or invalid.";
        let error = Self::plain(StatusCode::UNAUTHORIZED, info);
        Self { challenge: Some("Bearer"), ..error }
    }

    /// 401: nobody is logged in.
    pub(super) fn session() -> Self {
        Self::plain(StatusCode::UNAUTHORIZED, "There is no session, or it has ended.")
    }

    /// 404 for an object.
    pub(super) fn no_such(what: &'static str) -> Self {
        Self::plain(StatusCode::NOT_FOUND, format!("The {what} was not found."))
    }

    /// Refusal of a user or tenant, with the platform's code. The documentation pairs 1002 with 403,
    /// and specifies no HTTP status for the others.
    pub(super) fn inaccessible(inaccessible: &Inaccessible, id: &str) -> Self {
        let (status, code, message, info) = match inaccessible {
            Inaccessible::OutsideSubtree => (
                StatusCode::FORBIDDEN,
                1002,
                "Access denied.",
                "It does not belong to the tenant of this API client or to one below it.",
            ),
            Inaccessible::SupportAccessOff => (
                StatusCode::FORBIDDEN,
                1002,
                "Access denied.",
                "The user belongs to a tenant whose support access is off.",
            ),
            Inaccessible::TenantDisabled => {
                (StatusCode::BAD_REQUEST, 1003, "Parent tenant is disabled.", "Enable the tenant first.")
            }
            Inaccessible::TenantLocked => {
                (StatusCode::BAD_REQUEST, 1012, "Tenant is locked.", "Unlock the tenant first.")
            }
            Inaccessible::UserDisabled => {
                (StatusCode::BAD_REQUEST, 1018, "The user is disabled.", "Enable the user first.")
            }
        };
        Self { context: json!({ "id": id }), ..Self::coded(status, code, message, info) }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = Body {
            code: self.code,
            message: self.message,
            domain: DOMAIN,
            details: json!({ "info": self.info, "addition": self.addition }),
            context: self.context,
        };
        let mut response = (self.status, Json(Envelope { error: body })).into_response();
        if let Some(scheme) = self.challenge {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(scheme));
        }
        response
    }
}

/// 404 for an unknown path.
pub(super) async fn no_such_endpoint(_: Uri) -> ApiError {
    ApiError::plain(StatusCode::NOT_FOUND, "There is no such endpoint in the sandbox.")
}

/// 405 for a method that the endpoint does not support.
pub(super) async fn no_such_method(_: Method) -> ApiError {
    ApiError::plain(StatusCode::METHOD_NOT_ALLOWED, "The endpoint does not support this method.")
}
