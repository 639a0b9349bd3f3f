//! Reading a request's body: its form, its size, its pace.
//!
//! What the fields mean is judged by the endpoint.

use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode, header};
use bytes::Bytes;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde_json::{Map, Value};

use super::error::ApiError;

/// Far more than any documented request needs.
const MAX_BYTES: usize = 64 * 1024;
/// A client that is slower than this has gone.
const MAX_TIME: Duration = Duration::from_secs(10);

/// The JSON object that a request carries.
pub(super) async fn json_object(request: Request<Body>) -> Result<Map<String, Value>, ApiError> {
    require_type(request.headers(), "application/json")?;
    let body = read(request).await?;
    match serde_json::from_slice(&body) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(_) => Err(bad_request("The body must be a JSON object.".to_owned())),
        Err(error) => {
            // The parser's own sentence may repeat a part of the body.
            let (line, column) = (error.line(), error.column());
            Err(bad_request(format!("The body is not valid JSON (line {line}, column {column}).")))
        }
    }
}

/// The fields of the HTML form that a request carries, in their order.
pub(super) async fn form(request: Request<Body>) -> Result<Vec<(String, String)>, ApiError> {
    require_type(request.headers(), "application/x-www-form-urlencoded")?;
    let body = read(request).await?;
    Ok(url::form_urlencoded::parse(&body).into_owned().collect())
}

fn require_type(headers: &HeaderMap, wanted: &'static str) -> Result<(), ApiError> {
    let sent = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media_type = sent.split(';').next().unwrap_or_default().trim();
    if media_type.eq_ignore_ascii_case(wanted) {
        return Ok(());
    }
    let info = format!("Send the body as {wanted} and say so in Content-Type.");
    Err(ApiError::plain(StatusCode::UNSUPPORTED_MEDIA_TYPE, info))
}

async fn read(request: Request<Body>) -> Result<Bytes, ApiError> {
    let body = Limited::new(request.into_body(), MAX_BYTES).collect();
    match tokio::time::timeout(MAX_TIME, body).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            Err(ApiError::plain(StatusCode::PAYLOAD_TOO_LARGE, "The body is longer than 64 KiB."))
        }
        Ok(Err(_)) => Err(bad_request("The body ended early.".to_owned())),
        Err(_) => Err(ApiError::plain(StatusCode::REQUEST_TIMEOUT, "The body took longer than 10 seconds.")),
    }
}

fn bad_request(info: String) -> ApiError {
    ApiError::plain(StatusCode::BAD_REQUEST, info)
}
