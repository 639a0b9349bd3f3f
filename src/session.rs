//! The words around a login: the account that logged in, and the session.
//!
//! The account is kept as the platform sent it, field by field; the contract's
//! typed view of it is made in `service`.

use std::{fmt, time::SystemTime};

use serde_json::value::RawValue;

use crate::secret::Secret;

/// What a login yields.
#[derive(Debug)]
pub struct LoggedIn {
    /// Who logged in.
    pub account: Account,
    /// What acts for them from now on.
    pub session: Session,
}

/// The user account, as the platform sent it: a JSON object whose members are kept
/// to the letter and in order. Its `id` and `login` have been found to be texts.
pub struct Account(Vec<(String, Box<RawValue>)>);

impl Account {
    /// Wraps the members of a checked object.
    pub(crate) fn new(members: Vec<(String, Box<RawValue>)>) -> Self {
        Self(members)
    }

    /// The members, in the platform's order.
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
    received_at: Option<SystemTime>,
}

impl Session {
    /// A session of these cookies, which came at that time.
    #[must_use]
    pub const fn new(cookies: Vec<SessionCookie>, received_at: SystemTime) -> Self {
        Self { cookies, received_at: Some(received_at) }
    }

    /// The cookies.
    #[must_use]
    pub fn cookies(&self) -> &[SessionCookie] {
        &self.cookies
    }

    /// Whether the platform set no cookie at all.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.cookies.is_empty()
    }

    /// The value of a `Cookie` request header (RFC 6265, 4.2.1). Without the cookies that
    /// were expired as they came: they only tell a browser to delete what it has.
    #[must_use]
    pub fn cookie_header(&self) -> Secret {
        // Measured first: a string that grew would leave copies of the values behind.
        let longest = self.cookies.iter().map(|cookie| cookie.name.len() + cookie.value.expose().len() + 3);
        let mut header = String::with_capacity(longest.sum());
        for cookie in self.cookies.iter().filter(|cookie| !self.deletes(cookie)) {
            if !header.is_empty() {
                header.push_str("; ");
            }
            header.push_str(&cookie.name);
            header.push('=');
            header.push_str(cookie.value.expose());
        }
        Secret::new(header)
    }

    fn deletes(&self, cookie: &SessionCookie) -> bool {
        matches!((cookie.expires_at, self.received_at), (Some(end), Some(came)) if end <= came)
    }
}

/// One cookie of a session, with the attributes that the platform sent.
#[derive(Debug)]
pub struct SessionCookie {
    /// Its name.
    pub name: String,
    /// Its value, exactly as sent.
    pub value: Secret,
    /// The `Domain` attribute; empty if there was none.
    pub domain: String,
    /// The `Path` attribute; empty if there was none.
    pub path: String,
    /// When it ends, from `Max-Age` or else `Expires`; none for a session cookie.
    pub expires_at: Option<SystemTime>,
    /// The `Secure` attribute.
    pub secure: bool,
    /// The `HttpOnly` attribute.
    pub http_only: bool,
    /// The `SameSite` attribute in lower case; empty if there was none.
    pub same_site: String,
}
