//! Parses the session from the `Set-Cookie` headers of a login response.
//!
//! Cookies are parsed like browsers parse them (RFC 6265, sections 5.2 and 5.3), because rejecting
//! the cookies of a login wastes its token:
//!
//! - A string without `=` or without a name is not a cookie. It is ignored with a warning.
//! - An invalid attribute is ignored; the cookie is kept.
//! - A later cookie with the same name, domain and path replaces an earlier one.
//!
//! Strings of the gRPC API are UTF-8, and callers send them in their own headers. A live cookie
//! that is not UTF-8 or has control characters cannot be returned, so the login fails
//! ([`CookieProblem::NotTransferable`]); its bytes are kept for the logout. HTAB does not count as
//! a control character here, because it is valid inside a header value.
//!
//! Neither names nor values of cookies are logged.

mod fold;
mod received;

#[cfg(test)]
mod tests;

use std::time::SystemTime;

use http::{
    HeaderMap,
    header::{DATE, SET_COOKIE},
};

use self::{fold::unfold, received::ReceivedCookie};
use crate::{
    domain::{
        call::Call,
        session::{Session, SessionCookie},
    },
    http_client::date::parse_date,
};

/// Maximum number of cookies of one session.
const MAX_COOKIES: usize = 32;
/// Maximum total size of the `Set-Cookie` headers of one response, in bytes.
const MAX_BYTES: usize = 16 * 1024;

/// Result of parsing the `Set-Cookie` headers of a response.
#[derive(Debug)]
pub(super) struct SetCookies {
    /// The session. If there is a problem, the known part of it, to be logged out.
    pub(super) session: Session,
    /// Why the session cannot be returned to the caller; `None` if it can.
    pub(super) problem: Option<CookieProblem>,
    /// Irregular headers, for the operator.
    pub(super) irregularities: Irregularities,
}

/// Number of irregularities in the `Set-Cookie` headers of a response.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Irregularities {
    ignored: u32,
    ignored_attributes: u32,
    split_headers: u32,
    suspect_headers: u32,
}

/// Why the session of a login cannot be returned to the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CookieProblem {
    /// More than 32 cookies.
    #[error("the response sets more than {MAX_COOKIES} cookies")]
    TooMany,
    /// More than 16 KiB.
    #[error("the response has more than {MAX_BYTES} bytes of Set-Cookie headers")]
    TooLong,
    /// A live cookie is not UTF-8 or has control characters.
    #[error("the response sets a cookie that is not valid UTF-8 or contains control characters")]
    NotTransferable,
    /// At least one header is not a cookie, and none sets a live one.
    #[error("the response has Set-Cookie headers, but none of them sets a usable cookie")]
    NoneUsable,
}

/// Parses all `Set-Cookie` headers in order.
///
/// `now` is our time. A cookie counts as a deletion if it has expired both by our clock and by the
/// `Date` of the response, so that a wrong clock does not lose a live session.
pub(super) fn read(headers: &HeaderMap, now: SystemTime) -> SetCookies {
    let sent = headers.get(DATE).and_then(|date| parse_date(date.as_bytes()));
    let earliest_now = sent.map_or(now, |sent| sent.min(now));
    let mut jar = Jar::default();
    let mut problem = None;
    let mut bytes = 0;
    for header in headers.get_all(SET_COOKIE) {
        bytes += header.len();
        if bytes > MAX_BYTES {
            problem = Some(CookieProblem::TooLong);
            break;
        }
        if let Err(too_many) = jar.add_header(header.as_bytes(), earliest_now) {
            problem = Some(too_many);
            break;
        }
    }
    let problem = problem.or_else(|| jar.problem(earliest_now));
    let irregularities = jar.irregularities;
    SetCookies { session: jar.into_session(now, earliest_now), problem, irregularities }
}

impl Irregularities {
    /// Logs warnings with the request id and the API client of the call.
    pub(super) fn warn(self, call: &Call) {
        let request_id = call.request_id();
        let api_client = call.api_client();
        if self.ignored > 0 {
            tracing::warn!(
                request.id = %request_id,
                api_client.name = api_client.as_deref(),
                cookies.ignored = self.ignored,
                "ignored invalid cookies in login response"
            );
        }
        if self.ignored_attributes > 0 {
            tracing::warn!(
                request.id = %request_id,
                api_client.name = api_client.as_deref(),
                attributes.ignored = self.ignored_attributes,
                "ignored invalid cookie attributes in login response"
            );
        }
        if self.split_headers > 0 || self.suspect_headers > 0 {
            tracing::warn!(
                request.id = %request_id,
                api_client.name = api_client.as_deref(),
                headers.split = self.split_headers,
                headers.ambiguous = self.suspect_headers,
                "set-cookie header looks folded"
            );
        }
    }
}

/// Cookies of one response while it is being parsed.
#[derive(Default)]
struct Jar<'h> {
    cookies: Vec<ReceivedCookie<'h>>,
    irregularities: Irregularities,
}

impl<'h> Jar<'h> {
    fn add_header(&mut self, line: &'h [u8], now: SystemTime) -> Result<(), CookieProblem> {
        let unfolded = unfold(line);
        self.irregularities.split_headers += u32::from(unfolded.cookies.len() > 1);
        self.irregularities.suspect_headers += u32::from(unfolded.looks_folded);
        unfolded.cookies.into_iter().try_for_each(|text| self.add(text, now))
    }

    fn add(&mut self, text: &'h [u8], now: SystemTime) -> Result<(), CookieProblem> {
        let Some(cookie) = ReceivedCookie::parse(text) else {
            self.irregularities.ignored += 1;
            return Ok(());
        };
        self.irregularities.ignored_attributes += cookie.ignored_attributes;
        self.cookies.retain(|earlier| !earlier.is_replaced_by(&cookie));
        if cookie.has_expired(now) && cookie.as_text().is_none() {
            // It has already deleted the earlier cookie, and need not be returned.
            return Ok(());
        }
        if self.cookies.len() == MAX_COOKIES {
            return Err(CookieProblem::TooMany);
        }
        self.cookies.push(cookie);
        Ok(())
    }

    fn problem(&self, now: SystemTime) -> Option<CookieProblem> {
        if self.cookies.iter().any(|cookie| cookie.as_text().is_none()) {
            return Some(CookieProblem::NotTransferable);
        }
        let is_any_live = self.cookies.iter().any(|cookie| !cookie.has_expired(now));
        // Deletions alone are not a problem: like a missing header, they lose nothing.
        (self.irregularities.ignored > 0 && !is_any_live).then_some(CookieProblem::NoneUsable)
    }

    fn into_session(self, now: SystemTime, earliest_now: SystemTime) -> Session {
        let mut cookies = Vec::with_capacity(self.cookies.len());
        let mut untransferable = Vec::new();
        for cookie in self.cookies {
            let Some((name, value)) = cookie.as_text() else {
                untransferable.push([cookie.name, cookie.value].join(&b'=').into());
                continue;
            };
            cookies.push(SessionCookie {
                name: name.to_owned(),
                value: value.to_owned().into(),
                domain: cookie.domain.to_owned(),
                path: cookie.path.to_owned(),
                expires_at: cookie.expires_at(now),
                is_deletion: cookie.has_expired(earliest_now),
                secure: cookie.secure,
                http_only: cookie.http_only,
                same_site: cookie.same_site.to_ascii_lowercase(),
            });
        }
        Session::new(cookies).with_untransferable(untransferable)
    }
}
