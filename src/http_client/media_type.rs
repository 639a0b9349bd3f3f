//! Media types of responses.

use http::{HeaderMap, header::CONTENT_TYPE};

/// Returns whether the first `Content-Type` is `application/json`, with or without parameters. The
/// content is not sniffed: an error page of a proxy must not count as a response of the server.
#[must_use]
pub fn is_json(headers: &HeaderMap) -> bool {
    headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.as_bytes().split(|byte| *byte == b';').next())
        .is_some_and(|kind| kind.trim_ascii().eq_ignore_ascii_case(b"application/json"))
}
