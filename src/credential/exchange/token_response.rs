//! Interprets responses of the token endpoint. No I/O, and no clock is read.

#[cfg(test)]
mod tests;

use std::time::{Duration, SystemTime};

use http::{HeaderMap, StatusCode};
use zeroize::Zeroizing;

use super::lifetime::{self, Problem};
use crate::{
    base::secret::Secret,
    credential::{CredentialError, CredentialErrorKind, access_token::Fetched},
    http_client::{body::BodyError, json::Object, media_type::is_json, retry_after::retry_after},
};

/// `Retry-After` is clamped to these bounds.
const MIN_RETRY_AFTER: Duration = Duration::from_millis(100);
const MAX_RETRY_AFTER: Duration = Duration::from_secs(30);

/// Error codes of OAuth 2.0 (RFC 6749, 4.1.2.1 and 5.2). Only these appear in the log.
const OAUTH_ERRORS: [&str; 9] = [
    "invalid_client",
    "invalid_grant",
    "unauthorized_client",
    "invalid_request",
    "unsupported_grant_type",
    "invalid_scope",
    "access_denied",
    "server_error",
    "temporarily_unavailable",
];

/// OAuth codes that mean that the API client is refused.
const REFUSED_CLIENT: [&str; 3] = ["invalid_client", "invalid_grant", "unauthorized_client"];

/// Codes of the platform, and HTTP statuses used as codes, that mean that the API client is
/// refused.
const REFUSED_CLIENT_CODES: [i64; 6] = [401, 403, 1002, 1003, 1012, 1018];

/// Response of the token endpoint.
pub(super) struct TokenResponse<'a> {
    pub(super) status: StatusCode,
    pub(super) headers: &'a HeaderMap,
    pub(super) body: Result<Zeroizing<Vec<u8>>, BodyError>,
    /// When it was sent: its `Date`, or else our time.
    pub(super) now: SystemTime,
}

/// A token, and the problem with the lifetime in the response.
#[derive(Debug)]
pub(super) struct Granted {
    pub(super) token: Fetched,
    pub(super) lifetime_problem: Option<Problem>,
}

/// An error code in a response's body.
enum ErrorCode {
    OAuth(&'static str),
    Platform(i64),
}

impl ErrorCode {
    fn refuses_client(&self) -> bool {
        match self {
            Self::OAuth(code) => REFUSED_CLIENT.contains(code),
            Self::Platform(code) => REFUSED_CLIENT_CODES.contains(code),
        }
    }
}

impl TokenResponse<'_> {
    /// Returns whether the body can change the result. For other statuses, a body that never ends
    /// must not delay the result.
    pub(super) fn needs_body(status: StatusCode) -> bool {
        status.is_success() || status == StatusCode::BAD_REQUEST || status == StatusCode::FORBIDDEN
    }

    /// Returns the token, or why there is none.
    pub(super) fn interpret(self) -> Result<Granted, CredentialError> {
        if self.status.is_success() {
            return self.token();
        }
        let retry_after =
            retry_after(self.headers, self.now).map(|wait| wait.clamp(MIN_RETRY_AFTER, MAX_RETRY_AFTER));
        Err(self.error().with_retry_after(retry_after))
    }

    fn error(&self) -> CredentialError {
        use CredentialErrorKind::{Blocked, Failing, Protocol, Rejected};
        let status = self.status.as_u16();
        let cause = format!("HTTP status {status}");
        let refusal = match self.refusal() {
            Ok(refusal) => refusal,
            Err(error) => return CredentialError::failing(format!("{cause}, {error}")),
        };
        let code = refusal.as_ref().and_then(|object| error_code(object));
        let cause = match &code {
            Some(ErrorCode::OAuth(code)) => format!("{cause}, error {code}"),
            Some(ErrorCode::Platform(code)) => format!("{cause}, API code {code}"),
            None => cause,
        };
        let kind = match self.status {
            StatusCode::UNAUTHORIZED => Rejected,
            StatusCode::BAD_REQUEST if code.is_some_and(|code| code.refuses_client()) => Rejected,
            StatusCode::FORBIDDEN if refusal.is_some() => Rejected,
            StatusCode::FORBIDDEN => Blocked,
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS => Failing,
            other if other.is_server_error() => Failing,
            _ => Protocol { status },
        };
        CredentialError::new(kind, cause)
    }

    /// Returns the body of a refusal if it is a JSON object and declared as JSON.
    fn refusal(&self) -> Result<Option<Object<'_>>, BodyError> {
        let body = self.body.as_ref().map_err(Clone::clone)?;
        Ok(if is_json(self.headers) { Object::parse(body).ok() } else { None })
    }

    fn token(self) -> Result<Granted, CredentialError> {
        if !is_json(self.headers) {
            return Err(CredentialError::failing("the response is not application/json"));
        }
        let body = self.body.map_err(|error| CredentialError::failing(error.to_string()))?;
        let response = Object::parse(&body)
            .map_err(|error| CredentialError::failing(format!("the response is {error}")))?;
        let kind: Option<String> = response.get("token_type");
        let kind = kind.as_deref().map(str::trim).filter(|kind| !kind.is_empty());
        if kind.is_some_and(|kind| !kind.eq_ignore_ascii_case("bearer")) {
            return Err(CredentialError::failing("the token's type is not Bearer"));
        }
        let token: Option<String> = response.get("access_token");
        let token = Secret::new(
            token.ok_or_else(|| CredentialError::failing("the response contains no access_token"))?,
        );
        let lifetime = lifetime::read(&response, self.now);
        let token = Fetched::new(token.expose().trim(), lifetime.duration).ok_or_else(|| {
            CredentialError::failing("the access_token is empty, too long, or not visible ASCII")
        })?;
        Ok(Granted { token, lifetime_problem: lifetime.problem })
    }
}

/// Returns the error code of a refusal, in the format of OAuth or of the platform.
fn error_code(refusal: &Object<'_>) -> Option<ErrorCode> {
    if let Some(error) = refusal.object("error") {
        let number = error.get::<i64>("code");
        let code = number.or_else(|| error.get::<String>("code")?.trim().parse().ok());
        return code.map(ErrorCode::Platform);
    }
    let error: String = refusal.get("error")?;
    OAUTH_ERRORS.into_iter().find(|known| *known == error.trim()).map(ErrorCode::OAuth)
}
