//! Reads request bodies, with limits on type, size and time. The endpoints check the fields.

use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use serde_json::{Map, Value};

use super::error::ApiError;

/// Maximum size of a body, in bytes: far more than any documented request needs.
const MAX_BYTES: usize = 64 * 1024;
/// Maximum number of bytes read from an oversized body. If the connection were closed at once, the
/// client would see a reset instead of the response.
const MAX_DRAINED: usize = 1024 * 1024;
/// Maximum time for reading a body.
const MAX_TIME: Duration = Duration::from_secs(10);

/// Passes a request on once its whole body has arrived.
pub(super) async fn take_whole(request: Request, next: Next) -> Response {
    let (head, body) = request.into_parts();
    let whole = match tokio::time::timeout(MAX_TIME, read(body)).await {
        Ok(Ok(whole)) => whole,
        Ok(Err(error)) => return error.into_response(),
        Err(_) => {
            let info = "The body took longer than 10 seconds.";
            return ApiError::plain(StatusCode::REQUEST_TIMEOUT, info).into_response();
        }
    };
    next.run(Request::from_parts(head, Body::from(whole))).await
}

async fn read(mut body: Body) -> Result<Bytes, ApiError> {
    let (mut whole, mut length) = (BytesMut::new(), 0);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| bad_request("The body ended early.".to_owned()))?;
        let Ok(data) = frame.into_data() else { continue };
        length += data.len();
        if length > MAX_DRAINED {
            break;
        }
        if length <= MAX_BYTES {
            whole.extend_from_slice(&data);
        }
    }
    if length > MAX_BYTES {
        return Err(ApiError::plain(StatusCode::PAYLOAD_TOO_LARGE, "The body is longer than 64 KiB."));
    }
    Ok(whole.freeze())
}

/// Parses a JSON object.
pub(super) fn json_object(headers: &HeaderMap, body: &[u8]) -> Result<Map<String, Value>, ApiError> {
    require_type(headers, "application/json")?;
    match serde_json::from_slice(body) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(_) => Err(bad_request("The body must be a JSON object.".to_owned())),
        Err(error) => {
            // The parser's message can contain a part of the body.
            let (line, column) = (error.line(), error.column());
            Err(bad_request(format!("The body is not valid JSON (line {line}, column {column}).")))
        }
    }
}

/// Parses the fields of an HTML form, in order.
pub(super) fn form(headers: &HeaderMap, body: &[u8]) -> Result<Vec<(String, String)>, ApiError> {
    require_type(headers, "application/x-www-form-urlencoded")?;
    Ok(url::form_urlencoded::parse(body).into_owned().collect())
}

/// Refuses a body of another type.
pub(super) fn require_type(headers: &HeaderMap, wanted: &'static str) -> Result<(), ApiError> {
    let sent = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media_type = sent.split(';').next().unwrap_or_default().trim();
    if media_type.eq_ignore_ascii_case(wanted) {
        return Ok(());
    }
    let info = format!("Send the body as {wanted}, with that Content-Type.");
    Err(ApiError::plain(StatusCode::UNSUPPORTED_MEDIA_TYPE, info))
}

fn bad_request(info: String) -> ApiError {
    ApiError::plain(StatusCode::BAD_REQUEST, info)
}
