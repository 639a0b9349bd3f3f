//! A response of the platform whose body has been read.

use std::time::SystemTime;

use http::{HeaderMap, StatusCode};
use zeroize::Zeroizing;

use super::error::Malformation;

/// A response of the platform. Not `Debug`, because headers may contain cookies.
pub(super) struct PlatformResponse {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Result<ResponseBody, Malformation>,
    /// When the request was sent.
    pub(super) sent_at: SystemTime,
}

/// A complete response body, which may contain a token or personal data.
pub(super) struct ResponseBody(pub(super) Zeroizing<Vec<u8>>);
