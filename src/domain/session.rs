//! Domain types for a login: the user account and the session.
//!
//! The account is kept as the platform sent it, member by member; `service` converts it to the
//! contract's typed message. `platform` parses cookies.
//!
//! ```
//! use ott_gateway::domain::session::{Session, SessionCookie};
//!
//! let cookie = |name: &str, is_deletion| SessionCookie {
//!     name: name.to_owned(),
//!     value: "1".to_owned().into(),
//!     domain: String::new(),
//!     path: "/".to_owned(),
//!     expires_at: None,
//!     is_deletion,
//!     secure: true,
//!     http_only: true,
//!     same_site: String::new(),
//! };
//! let session = Session::new(vec![cookie("sid", false), cookie("old", true)]);
//! assert_eq!(session.cookies().len(), 2);
//! assert_eq!(session.cookie_header().expose(), "sid=1");
//! assert!(Session::new(vec![cookie("old", true)]).is_empty());
//! ```

use std::{fmt, time::SystemTime};

use http::HeaderValue;
use secrecy::{ExposeSecret, SecretSlice};
use serde_json::value::RawValue;
use zeroize::Zeroizing;

use crate::{
    base::secret::Secret,
    domain::ott::{Subject, SubjectKind},
};

/// Result of a successful login.
#[derive(Debug)]
pub struct LoggedIn {
    /// Account of the logged-in user.
    pub account: Account,
    /// Session that the login started.
    pub session: Session,
}

/// The user account as the platform sent it: the members of a JSON object, unchanged and in order.
/// `id` and `login` have been checked to be strings.
pub struct Account(Vec<(String, Box<RawValue>)>);

impl Account {
    /// Wraps the members of a checked object.
    pub(crate) fn new(members: Vec<(String, Box<RawValue>)>) -> Self {
        Self(members)
    }

    /// Returns a member that is a string, or `None` if it is absent or not a string.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<String> {
        let (_, value) = self.0.iter().find(|(member, _)| member == name)?;
        serde_json::from_str(value.get()).ok()
    }

    /// Returns whether this is the account of `subject`. `None` if the response does not contain
    /// the user's name of that kind in a comparable form.
    ///
    /// Spellings that the platform may normalize do not count as a difference, because that would
    /// fail a valid login.
    #[must_use]
    pub fn is_of(&self, subject: &Subject) -> Option<bool> {
        subject.is_named(&self.name(subject.kind())?)
    }

    /// Like [`is_of`](Self::is_of), but with the [exact comparison](Subject::is_exactly_named). `None` if
    /// the response does not contain the user's name of that kind.
    #[must_use]
    pub fn is_exactly_of(&self, subject: &Subject) -> Option<bool> {
        Some(subject.is_exactly_named(&self.name(subject.kind())?))
    }

    /// Returns the account's login, id and external id as subjects. Names that are not valid in a
    /// request are omitted.
    #[must_use]
    pub fn subjects(&self) -> Vec<Subject> {
        let kinds = [SubjectKind::Login, SubjectKind::UserId, SubjectKind::ExternalId];
        kinds.into_iter().filter_map(|kind| Subject::new(kind, self.name(kind)?).ok()).collect()
    }

    /// Returns the name of a kind, if the response contains one.
    fn name(&self, kind: SubjectKind) -> Option<String> {
        let member = match kind {
            SubjectKind::UserId => "id",
            SubjectKind::Login | SubjectKind::ExternalId => kind.field(),
        };
        self.text(member).filter(|name| !name.is_empty())
    }

    /// Returns the members in the platform's order.
    #[must_use]
    pub fn into_members(self) -> Vec<(String, Box<RawValue>)> {
        self.0
    }
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Account").field("members", &self.0.len()).finish_non_exhaustive()
    }
}

/// The cookies of one login, in the platform's order.
#[derive(Debug, Default)]
pub struct Session {
    cookies: Vec<SessionCookie>,
    untransferable: Vec<SecretSlice<u8>>,
}

impl Session {
    /// Creates a session from cookies.
    #[must_use]
    pub const fn new(cookies: Vec<SessionCookie>) -> Self {
        Self { cookies, untransferable: Vec::new() }
    }

    /// Adds live cookies that cannot be passed to a caller, each as the bytes of
    /// `name=value`. They are sent only to log the session out.
    #[must_use]
    pub(crate) fn with_untransferable(mut self, pairs: Vec<SecretSlice<u8>>) -> Self {
        self.untransferable = pairs;
        self
    }

    /// Returns the cookies that can be passed to a caller, including those that only delete an
    /// earlier cookie.
    #[must_use]
    pub fn cookies(&self) -> &[SessionCookie] {
        &self.cookies
    }

    /// Returns whether there is no live cookie, so that there is no session to use or to log out.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.untransferable.is_empty() && self.cookies.iter().all(|cookie| cookie.is_deletion)
    }

    /// Returns the value of a `Cookie` request header for the caller (RFC 6265, section 4.2.1),
    /// without cookies that only delete an earlier one. Empty if there are no others.
    #[must_use]
    pub fn cookie_header(&self) -> Secret {
        // Allocated at full size, because growing would leave copies of the values in memory.
        let lengths = self.cookies.iter().map(|cookie| cookie.name.len() + cookie.value.expose().len() + 3);
        let mut header = String::with_capacity(lengths.sum());
        for cookie in self.cookies.iter().filter(|cookie| !cookie.is_deletion) {
            if !header.is_empty() {
                header.push_str("; ");
            }
            header.push_str(&cookie.name);
            header.push('=');
            header.push_str(cookie.value.expose());
        }
        Secret::new(header)
    }

    /// Returns the value of the `Cookie` request header that logs the session out: all live
    /// cookies, including those that cannot be passed to a caller. `None` if there is no live
    /// cookie. The value is marked as sensitive.
    #[must_use]
    pub fn logout_header(&self) -> Option<HeaderValue> {
        let header = self.cookie_header();
        let first = Some(header.expose().as_bytes()).filter(|header| !header.is_empty());
        let others = self.untransferable.iter().map(ExposeSecret::expose_secret);
        let pairs: Vec<&[u8]> = first.into_iter().chain(others).collect();
        if pairs.is_empty() {
            return None;
        }
        let mut header = HeaderValue::from_bytes(&Zeroizing::new(pairs.join(b"; ".as_slice()))).ok()?;
        header.set_sensitive(true);
        Some(header)
    }
}

/// A cookie of a session, with the attributes that the platform sent.
#[derive(Clone)]
pub struct SessionCookie {
    /// Name. Not empty, and without control characters (except HTAB), `;` and `=`.
    pub name: String,
    /// Value exactly as sent, without control characters (except HTAB) and `;`.
    pub value: Secret,
    /// `Domain` attribute without a leading dot; empty if there was none.
    pub domain: String,
    /// `Path` attribute. Empty if there was none, or if it does not start with `/` and therefore
    /// means the default path (RFC 6265, section 5.2.4).
    pub path: String,
    /// Expiry time from `Max-Age`, or else from `Expires`; `None` for a session cookie.
    pub expires_at: Option<SystemTime>,
    /// Whether the cookie had expired on arrival, which deletes an earlier cookie.
    pub is_deletion: bool,
    /// `Secure` attribute.
    pub secure: bool,
    /// `HttpOnly` attribute.
    pub http_only: bool,
    /// `SameSite` attribute in lower case; empty if there was none.
    pub same_site: String,
}

/// Omits the name too, because a server may put session data there.
impl fmt::Debug for SessionCookie {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionCookie")
            .field("expires_at", &self.expires_at)
            .field("is_deletion", &self.is_deletion)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cookie(name: &str, is_deletion: bool) -> SessionCookie {
        SessionCookie {
            name: name.to_owned(),
            value: Secret::new(format!("value-of-{name}")),
            domain: String::new(),
            path: "/".to_owned(),
            expires_at: None,
            is_deletion,
            secure: false,
            http_only: false,
            same_site: String::new(),
        }
    }

    fn untransferable() -> Vec<SecretSlice<u8>> {
        vec![b"sid=\xff-canary".to_vec().into()]
    }

    #[test]
    fn session_without_live_cookies_is_empty_and_has_no_header() {
        for session in [Session::default(), Session::new(vec![cookie("old", true)])] {
            assert!(session.is_empty());
            assert!(session.cookie_header().is_empty());
            assert_eq!(session.logout_header(), None);
        }
    }

    #[test]
    fn both_headers_contain_live_cookies_and_no_deletions() {
        let session = Session::new(vec![cookie("a", false), cookie("old", true), cookie("b", false)]);
        assert!(!session.is_empty());
        assert_eq!(session.cookies().len(), 3);
        assert_eq!(session.cookie_header().expose(), "a=value-of-a; b=value-of-b");
        let header = session.logout_header().unwrap();
        assert_eq!(header, "a=value-of-a; b=value-of-b");
        assert!(header.is_sensitive());
    }

    #[test]
    fn untransferable_cookies_are_sent_only_to_log_out() {
        let session = Session::new(vec![cookie("a", false)]).with_untransferable(untransferable());
        assert_eq!(session.cookie_header().expose(), "a=value-of-a");
        assert_eq!(session.logout_header().unwrap().as_bytes(), b"a=value-of-a; sid=\xff-canary");
        let session = Session::default().with_untransferable(untransferable());
        assert!(!session.is_empty());
        assert!(session.cookie_header().is_empty());
        assert_eq!(session.logout_header().unwrap().as_bytes(), b"sid=\xff-canary");
    }

    #[test]
    fn debug_output_contains_neither_names_nor_values() {
        let session = Session::new(vec![cookie("canary", false)]).with_untransferable(untransferable());
        let shown = format!("{session:?} {session:#?} {:?}", session.logout_header());
        assert!(!shown.contains("canary") && !shown.contains("255"), "{shown}");
    }
}
