//! Conversions between the contract's messages and the domain types.
//!
//! Conversion validates: the domain types satisfy the contract's rules. Access, existence of the
//! API client and `target_uri` are checked later.

mod account;

use std::time::SystemTime;

use prost_types::Timestamp;

use super::presented::PresentedToken;
use crate::{
    base::clock::MAX_TIMESTAMP,
    domain::{
        ott::{LoginUrl, OneTimeToken, SealedToken, Subject, SubjectKind},
        session::{LoggedIn, Session, SessionCookie},
    },
    proto::ott::v1::{self, issue_ott_request},
    status::{Failure, Reason},
};

/// A valid request for a token.
#[derive(Debug)]
pub(super) struct IssueOtt {
    /// The user that the token is for.
    pub(super) subject: Subject,
    /// The API client to use; `None` for the default one.
    pub(super) api_client: Option<String>,
    /// Target of the login URL, not validated yet; `None` if no login URL is requested.
    pub(super) target_uri: Option<String>,
}

impl TryFrom<v1::IssueOttRequest> for IssueOtt {
    type Error = Failure;

    /// Reports all invalid fields at once.
    fn try_from(request: v1::IssueOttRequest) -> Result<Self, Failure> {
        let mut refusal = Failure::new(Reason::InvalidRequest);
        if v1::Purpose::try_from(request.purpose).is_err() {
            refusal = refusal.violation("purpose", "must be PURPOSE_USER_LOGIN or left out");
        }
        match subject(request.subject) {
            Ok(subject) if refusal.violations().is_empty() => Ok(Self {
                subject,
                api_client: unless_empty(request.api_client),
                target_uri: unless_empty(request.target_uri),
            }),
            Ok(_) => Err(refusal),
            Err((field, rule)) => Err(refusal.violation(field, rule)),
        }
    }
}

fn subject(subject: Option<issue_ott_request::Subject>) -> Result<Subject, (&'static str, String)> {
    let Some(subject) = subject else {
        let rule = "exactly one of login, external_id and user_id must be set";
        return Err(("subject", rule.to_owned()));
    };
    let (kind, text) = kind_and_text(subject);
    Subject::new(kind, text).map_err(|rule| (kind.field(), rule.to_string()))
}

/// Returns the kind and the value of a subject.
pub(super) fn kind_and_text(subject: issue_ott_request::Subject) -> (SubjectKind, String) {
    use issue_ott_request::Subject::{ExternalId, Login, UserId};
    match subject {
        Login(text) => (SubjectKind::Login, text),
        ExternalId(text) => (SubjectKind::ExternalId, text),
        UserId(text) => (SubjectKind::UserId, text),
    }
}

/// A valid request to spend a token.
#[derive(Debug)]
pub(super) struct LoginWithOtt {
    /// The token.
    pub(super) token: PresentedToken,
    /// The API client to use; `None` for the default one.
    pub(super) api_client: Option<String>,
}

impl TryFrom<v1::LoginWithOttRequest> for LoginWithOtt {
    type Error = Failure;

    fn try_from(request: v1::LoginWithOttRequest) -> Result<Self, Failure> {
        let token = PresentedToken::try_new(request.ott)
            .map_err(|rule| Failure::new(Reason::InvalidRequest).violation("ott", rule.to_string()))?;
        Ok(Self { token, api_client: unless_empty(request.api_client) })
    }
}

fn unless_empty(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

/// The result of an `IssueOtt` call.
#[derive(Debug)]
pub(super) struct Issued {
    pub(super) form: IssuedForm,
    /// Expiry of the token.
    pub(super) expires_at: SystemTime,
}

/// What the caller of `IssueOtt` receives of the token.
#[derive(Debug)]
pub(super) enum IssuedForm {
    /// The token of the platform, and a login URL if requested.
    Raw(OneTimeToken, Option<LoginUrl>),
    /// The sealed token.
    Sealed(SealedToken),
    /// Only a login URL, which has to contain the token of the platform. Sealing the same token as
    /// well would protect nothing.
    LoginUrl(LoginUrl),
}

impl From<Issued> for v1::IssueOttResponse {
    fn from(Issued { form, expires_at }: Issued) -> Self {
        let (ott, login_url) = match &form {
            IssuedForm::Raw(ott, login_url) => (ott.expose(), login_url.as_ref()),
            IssuedForm::Sealed(sealed) => (sealed.expose(), None),
            IssuedForm::LoginUrl(login_url) => ("", Some(login_url)),
        };
        Self {
            ott: ott.to_owned(),
            expire_time: Some(timestamp(expires_at)),
            login_url: login_url.map(|url| url.expose().to_owned()).unwrap_or_default(),
        }
    }
}

impl From<LoggedIn> for v1::LoginWithOttResponse {
    fn from(logged_in: LoggedIn) -> Self {
        Self { user: Some(logged_in.account.into()), session: Some((&logged_in.session).into()) }
    }
}

impl From<&Session> for v1::Session {
    fn from(session: &Session) -> Self {
        Self {
            cookies: session.cookies().iter().map(v1::Cookie::from).collect(),
            cookie_header: session.cookie_header().expose().to_owned(),
        }
    }
}

impl From<&SessionCookie> for v1::Cookie {
    fn from(cookie: &SessionCookie) -> Self {
        Self {
            name: cookie.name.clone(),
            value: cookie.value.expose().to_owned(),
            domain: cookie.domain.clone(),
            path: cookie.path.clone(),
            expire_time: cookie.expires_at.map(timestamp),
            secure: cookie.secure,
            http_only: cookie.http_only,
            same_site: cookie.same_site.clone(),
        }
    }
}

/// Converts a time, clamped to the years 1970 to 9999: a cookie may expire later than a `Timestamp`
/// can represent.
fn timestamp(time: SystemTime) -> Timestamp {
    Timestamp::from(time.clamp(SystemTime::UNIX_EPOCH, SystemTime::UNIX_EPOCH + MAX_TIMESTAMP))
}

#[cfg(test)]
mod tests;
