//! What an answer of the token endpoint means.
//!
//! Nothing is sent or read here, not even a clock.

#[cfg(test)]
mod tests;

use std::time::{Duration, SystemTime};

use http::{HeaderMap, StatusCode};
use serde::Deserialize;
use serde_json::Value;
use zeroize::Zeroizing;

use super::Failure;
use crate::{
    clock::unix_seconds,
    credential::{CredentialError, access_token::Fetched},
    http_client::{body::BodyError, media_type::is_json, retry_after::retry_after},
    secret::Secret,
};

/// A token of which the platform tells no lifetime is believed to live so long.
const UNTOLD_LIFE: Duration = Duration::from_mins(5);

/// A longer lifetime is no lifetime, but a slip of units.
const LONGEST_LIFE_SECONDS: i64 = 30 * 24 * 60 * 60;

/// `Retry-After` is kept within these bounds.
const MIN_RETRY_AFTER: Duration = Duration::from_millis(100);
const MAX_RETRY_AFTER: Duration = Duration::from_secs(30);

/// Error codes of RFC 6749, section 5.2, that speak of the API client.
const REFUSED_CLIENT: [&str; 3] = ["invalid_client", "invalid_grant", "unauthorized_client"];

/// The platform's own codes (and HTTP statuses in their place) that do.
const REFUSED_CLIENT_CODES: [i64; 6] = [401, 403, 1002, 1003, 1012, 1018];

/// An answer of the token endpoint.
pub(super) struct Answer<'a> {
    pub(super) status: StatusCode,
    pub(super) headers: &'a HeaderMap,
    pub(super) body: Result<Zeroizing<Vec<u8>>, BodyError>,
    /// The time at which it was made: its `Date`, else ours.
    pub(super) now: SystemTime,
}

impl Answer<'_> {
    /// Whether the body is worth reading: the other statuses speak for themselves, and a
    /// body that never ends cannot hold them up.
    pub(super) fn needs_body(status: StatusCode) -> bool {
        status.is_success() || status == StatusCode::BAD_REQUEST || status == StatusCode::FORBIDDEN
    }

    /// The token, or why there is none.
    pub(super) fn judge(self) -> Result<Fetched, Failure> {
        if self.status.is_success() {
            return self.token();
        }
        let retry_after = self.retry_after();
        let cause = format!("HTTP status {}", self.status.as_u16());
        let failure = match self.error() {
            Ok(error) => Failure::new(error, cause),
            Err(error) => Failure::failing(format!("{cause}, and {error}")),
        };
        Err(Failure { retry_after, ..failure })
    }

    fn error(&self) -> Result<CredentialError, BodyError> {
        let status = self.status.as_u16();
        Ok(match self.status {
            StatusCode::UNAUTHORIZED => CredentialError::Rejected,
            StatusCode::BAD_REQUEST if self.json()?.is_some_and(|body| refuses_client(&body)) => {
                CredentialError::Rejected
            }
            StatusCode::FORBIDDEN if self.json()?.is_some() => CredentialError::Rejected,
            StatusCode::FORBIDDEN => CredentialError::Blocked,
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS => {
                CredentialError::Failing { retry_after: Duration::ZERO }
            }
            other if other.is_server_error() => CredentialError::Failing { retry_after: Duration::ZERO },
            _ => CredentialError::Protocol { status },
        })
    }

    /// The body of a refusal, if it is a JSON object and says that it is.
    fn json(&self) -> Result<Option<Value>, BodyError> {
        let body = self.body.as_ref().map_err(Clone::clone)?;
        let value = if is_json(self.headers) { serde_json::from_slice::<Value>(body).ok() } else { None };
        Ok(value.filter(Value::is_object))
    }

    fn token(self) -> Result<Fetched, Failure> {
        if !is_json(self.headers) {
            return Err(Failure::failing("the answer is not application/json"));
        }
        let body = self.body.map_err(|error| Failure::failing(error.to_string()))?;
        let body: Granted =
            serde_json::from_slice(&body).map_err(|_| Failure::failing("the answer is malformed"))?;
        if body.token_type.as_ref().is_some_and(|kind| !kind.eq_ignore_ascii_case("bearer")) {
            return Err(Failure::failing("the token is no bearer token"));
        }
        let lifetime = lifetime(&body, self.now)?;
        Fetched::new(body.access_token.expose(), lifetime)
            .ok_or_else(|| Failure::failing("the token is empty, too long, or not visible ASCII"))
    }

    fn retry_after(&self) -> Option<Duration> {
        retry_after(self.headers, self.now).map(|wait| wait.clamp(MIN_RETRY_AFTER, MAX_RETRY_AFTER))
    }
}

/// The answer that grants a token, as far as it matters.
#[derive(Deserialize)]
struct Granted {
    #[serde(deserialize_with = "secret")]
    access_token: Secret,
    token_type: Option<String>,
    expires_in: Option<Value>,
    expires_on: Option<Value>,
}

fn secret<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Secret, D::Error> {
    String::deserialize(deserializer).map(Secret::new)
}

/// The token's lifetime: as told in seconds; else up to the moment told, by the answer's
/// own clock; else a few minutes.
fn lifetime(granted: &Granted, now: SystemTime) -> Result<Duration, Failure> {
    let seconds = match (&granted.expires_in, &granted.expires_on) {
        (Some(told), _) => integer(told),
        (None, Some(told)) => {
            let now = i64::try_from(unix_seconds(now)).unwrap_or(i64::MAX);
            integer(told).and_then(|moment| moment.checked_sub(now))
        }
        (None, None) => {
            tracing::warn!("the platform does not say how long its access token lives: taking 5 minutes");
            return Ok(UNTOLD_LIFE);
        }
    };
    match seconds {
        Some(seconds) if seconds <= LONGEST_LIFE_SECONDS => match u64::try_from(seconds) {
            Ok(seconds) if seconds > 0 => Ok(Duration::from_secs(seconds)),
            _ => Err(Failure::failing("the token had expired before it was sent")),
        },
        _ => Err(Failure::failing("the token's lifetime is absurd")),
    }
}

/// An integer, or text that is one.
fn integer(value: &Value) -> Option<i64> {
    match value {
        Value::Number(number) => number.as_i64(),
        Value::String(text) => text.parse().ok(),
        _ => None,
    }
}

/// Whether a 400 speaks of the API client, in OAuth's words or in the platform's.
fn refuses_client(body: &Value) -> bool {
    match &body["error"] {
        Value::String(error) => REFUSED_CLIENT.contains(&error.as_str()),
        error => integer(&error["code"]).is_some_and(|code| REFUSED_CLIENT_CODES.contains(&code)),
    }
}
