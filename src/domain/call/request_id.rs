//! Id of one call: that of the caller if it is well formed, otherwise a generated one.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use uuid::Builder;

use crate::base::clock::WallClock;

/// Id of one call, for logs, records and the caller's `RequestInfo`.
///
/// Consists of 1 to 64 of the characters `A-Z a-z 0-9 . _ -`, so that it cannot forge a line, a
/// header or a path.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct RequestId {
    text: [u8; Self::MAX_LENGTH],
    length: u8,
}

impl RequestId {
    /// Maximum length of an id from a caller, in bytes.
    pub const MAX_LENGTH: usize = 64;

    /// The header that carries the id, from callers, to callers and to the platform.
    pub const HEADER: HeaderName = HeaderName::from_static("x-request-id");

    /// Returns a new id, a UUID version 7. Ids of different milliseconds are ordered by time.
    #[must_use]
    pub fn new() -> Self {
        Self::at(WallClock::system().now())
    }

    /// Returns a new id for this time. Ids do not depend on earlier ones: a temporarily wrong clock
    /// has no lasting effect, and workers share no state. (`Uuid::now_v7` keeps the latest time
    /// that it has seen, behind a lock.)
    fn at(now: SystemTime) -> Self {
        let since_1970 = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let milliseconds = u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX);
        let id = Builder::from_unix_timestamp_millis(milliseconds, &rand::random()).into_uuid();
        let mut text = [0; Self::MAX_LENGTH];
        let length = id.hyphenated().encode_lower(&mut text).len();
        Self { text, length: u8::try_from(length).unwrap_or_default() }
    }

    /// Parses an id from a caller. `None` if it is malformed.
    #[must_use]
    pub fn given(id: &[u8]) -> Option<Self> {
        let allowed = |byte: &u8| byte.is_ascii_alphanumeric() || b"._-".contains(byte);
        if id.is_empty() || id.len() > Self::MAX_LENGTH || !id.iter().all(allowed) {
            return None;
        }
        let mut text = [0; Self::MAX_LENGTH];
        text[..id.len()].copy_from_slice(id);
        Some(Self { text, length: u8::try_from(id.len()).ok()? })
    }

    /// Returns the id as a header value. Clones share its memory.
    #[must_use]
    pub fn to_header(self) -> HeaderValue {
        // Never fails: the characters of an id are allowed in headers.
        HeaderValue::from_maybe_shared(Bytes::from_owner(Text(self))).unwrap_or(HeaderValue::from_static(""))
    }

    /// Returns the id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.text[..usize::from(self.length)]).unwrap_or_default()
    }
}

/// Text of an id, in memory that headers share.
struct Text(RequestId);

impl AsRef<[u8]> for Text {
    fn as_ref(&self) -> &[u8] {
        self.0.as_str().as_bytes()
    }
}

impl Default for RequestId {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RequestId({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_id_of_a_caller_is_accepted_only_if_it_can_forge_nothing() {
        let longest = "a".repeat(64);
        for good in ["a", "0b-9_x.Y", longest.as_str()] {
            assert_eq!(RequestId::given(good.as_bytes()).unwrap().as_str(), good);
        }
        let too_long = "a".repeat(65);
        for bad in ["", "a b", "a\nb", "a/b", "ä", "a\"b", too_long.as_str()] {
            assert_eq!(RequestId::given(bad.as_bytes()), None, "{bad:?}");
        }
        assert_eq!(RequestId::new().to_string().len(), 36);
        assert_ne!(RequestId::new(), RequestId::new());
    }

    #[test]
    fn header_of_an_id_has_its_text() {
        for id in [RequestId::given(b"order-7.a_B").expect("well formed"), RequestId::new()] {
            assert_eq!(id.to_header(), id.as_str());
        }
    }

    #[test]
    fn new_id_has_the_current_time_even_after_the_clock_was_wrong() {
        let ids = [4_000_000_000_u64, 1_800_000_000, 1_800_000_001].map(|seconds| {
            let id = RequestId::at(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
            let uuid = uuid::Uuid::parse_str(id.as_str()).expect("a UUID");
            let (at, _) = uuid.get_timestamp().expect("a time").to_unix();
            assert_eq!((at, uuid.get_version_num()), (seconds, 7), "{id}");
            id
        });
        assert!(ids[1].as_str() < ids[2].as_str(), "ordered by time");
        RequestId::at(SystemTime::UNIX_EPOCH - Duration::from_secs(1));
        RequestId::at(SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 40));
    }

    #[test]
    fn new_id_has_the_current_time() {
        let now = crate::base::clock::unix_seconds(WallClock::system().now());
        let uuid = uuid::Uuid::parse_str(RequestId::new().as_str()).expect("a UUID");
        let (at, _) = uuid.get_timestamp().expect("a time").to_unix();
        assert!(at.abs_diff(now) <= 60, "{at} {now}");
    }
}
