//! URLs of one data center of the platform, and the allowed targets of a login.
//!
//! Nothing here does I/O. The text of a target is checked before a URL parser normalizes it:
//! anything that a lenient parser would drop, rewrite or guess is rejected, because a browser may
//! guess differently.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use url::Url;

use crate::{
    domain::ott::{LoginUrl, OneTimeToken},
    http_client::server_url::{self, InvalidServerUrl},
};

/// Maximum size of a `target_uri`, in bytes.
pub const MAX_TARGET_URI_BYTES: usize = 2048;

/// Only unreserved characters (RFC 3986, section 2.3) are kept as they are in the fragment, so that
/// no token or target can end its own value.
const KEEP_UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// One data center of the platform.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataCenter {
    base: Url,
    /// Base URL for browsers.
    public: Url,
    token: Url,
    ott: Url,
    ott_login: Url,
    logout: Url,
    external_login: Url,
}

/// A web origin, https only: scheme, host and port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin(url::Origin);

/// Target of a browser after the login: an absolute URL that has been checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetUri(Url);

/// Why a `target_uri` is rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTargetUri {
    /// It is empty.
    #[error("must not be empty")]
    Empty,
    /// It is longer than [`MAX_TARGET_URI_BYTES`].
    #[error("must be at most 2048 bytes long")]
    TooLong,
    /// It has a character that a browser would drop or rewrite.
    #[error("must be visible ASCII without backslashes; percent-encode everything else")]
    ForbiddenCharacter,
    /// It is neither a path nor an absolute https URL.
    #[error("must be a path on the data center, such as /mc/, or an absolute https URL")]
    NeitherPathNorHttps,
    /// Its path begins with two slashes, encoded or not.
    #[error("must not have a path that begins with two slashes")]
    DoubleSlash,
    /// It has a user name, a password or an encoded host.
    #[error("must not contain a user name, a password or a percent-encoded host")]
    UserInfo,
    /// Its origin is not allowed.
    #[error("must be on the data center or on one of the API client's target_origins")]
    ForeignOrigin,
}

impl DataCenter {
    /// Parses the URL of a data center, for example `https://eu2-cloud.acronis.com`.
    ///
    /// Accepts https only, except on loopback hosts, for a sandbox. The host is converted to lower
    /// case, and a default port and a trailing dot of the host are removed, so that all spellings
    /// of a data center are equal.
    pub fn parse(text: &str) -> Result<Self, InvalidServerUrl> {
        let base = server_url::parse_origin(text)?;
        let at = |path: &str| {
            let mut url = base.clone();
            url.set_path(path);
            url
        };
        Ok(Self {
            token: at("/api/2/idp/token"),
            ott: at("/api/2/idp/ott"),
            ott_login: at("/api/2/idp/ott/login"),
            logout: at("/api/2/idp/logout"),
            external_login: at("/api/2/idp/external-login"),
            public: base.clone(),
            base,
        })
    }

    /// Returns the base URL, which requests are sent to.
    #[must_use]
    pub const fn base_url(&self) -> &Url {
        &self.base
    }

    /// Returns the same data center with the origin of another URL for browsers: login URLs use it.
    #[must_use]
    pub fn seen_at(mut self, public: &Url) -> Self {
        let at = |path: &str| {
            let mut url = public.clone();
            url.set_path(path);
            url
        };
        self.external_login = at(self.external_login.path());
        self.public = at("/");
        self
    }

    /// Returns the endpoint for access tokens.
    #[must_use]
    pub const fn token_url(&self) -> &Url {
        &self.token
    }

    /// Returns the endpoint that issues one-time tokens.
    #[must_use]
    pub const fn ott_url(&self) -> &Url {
        &self.ott
    }

    /// Returns the endpoint that spends one-time tokens.
    #[must_use]
    pub const fn ott_login_url(&self) -> &Url {
        &self.ott_login
    }

    /// Returns the endpoint that ends a session.
    #[must_use]
    pub const fn logout_url(&self) -> &Url {
        &self.logout
    }

    /// Checks the target of a login: a path on this data center, or an absolute https URL whose
    /// origin is the data center's or an allowed one.
    ///
    /// The origin of the data center may be http where [`parse`](Self::parse) allows it, on
    /// loopback. Nothing is decoded, so that the target has the same meaning for every parser.
    pub fn target_uri(&self, target_uri: &str, allowed: &[Origin]) -> Result<TargetUri, InvalidTargetUri> {
        if target_uri.is_empty() {
            return Err(InvalidTargetUri::Empty);
        }
        if target_uri.len() > MAX_TARGET_URI_BYTES {
            return Err(InvalidTargetUri::TooLong);
        }
        if !server_url::is_plain(target_uri) {
            return Err(InvalidTargetUri::ForbiddenCharacter);
        }
        let url = if target_uri.starts_with('/') {
            if target_uri.starts_with("//") {
                return Err(InvalidTargetUri::DoubleSlash);
            }
            self.public.join(target_uri).map_err(|_| InvalidTargetUri::NeitherPathNorHttps)?
        } else {
            let (scheme, authority) =
                server_url::split(target_uri).ok_or(InvalidTargetUri::NeitherPathNorHttps)?;
            if !scheme.eq_ignore_ascii_case("https") && !scheme.eq_ignore_ascii_case(self.public.scheme()) {
                return Err(InvalidTargetUri::NeitherPathNorHttps);
            }
            if authority.contains(['@', '%']) {
                return Err(InvalidTargetUri::UserInfo);
            }
            Url::parse(target_uri).map_err(|_| InvalidTargetUri::NeitherPathNorHttps)?
        };
        let origin = url.origin();
        if origin != self.public.origin() && !allowed.iter().any(|one| one.0 == origin) {
            return Err(InvalidTargetUri::ForeignOrigin);
        }
        if begins_with_two_slashes(url.path()) {
            return Err(InvalidTargetUri::DoubleSlash);
        }
        Ok(TargetUri(url))
    }

    /// Returns the URL that logs a browser in and redirects it to the target. Token and target are
    /// in the fragment, which no server receives.
    #[must_use]
    pub fn browser_login_url(&self, ott: &OneTimeToken, target_uri: &TargetUri) -> LoginUrl {
        let encoded = |text| utf8_percent_encode(text, KEEP_UNRESERVED);
        let (before, between) = ("#ott=", "&targetURI=");
        let (token, target) = (ott.expose(), target_uri.0.as_str());
        let pieces = || {
            [self.external_login.as_str(), before]
                .into_iter()
                .chain(encoded(token))
                .chain([between])
                .chain(encoded(target))
        };
        // The size is computed first, because a string that grows would leave copies of the token
        // behind.
        let mut url = String::with_capacity(pieces().map(str::len).sum());
        url.extend(pieces());
        LoginUrl::new(url)
    }
}

impl Origin {
    /// Parses an https origin, for example `https://portal.example.com:8443`.
    pub fn parse(text: &str) -> Result<Self, InvalidServerUrl> {
        let url = server_url::parse_origin(text).map_err(|error| match error {
            InvalidServerUrl::NotHttps => InvalidServerUrl::NotHttpsOrigin,
            other => other,
        })?;
        if url.scheme() == "https" { Ok(Self(url.origin())) } else { Err(InvalidServerUrl::NotHttpsOrigin) }
    }
}

impl TargetUri {
    /// Returns the absolute URL.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

/// Returns whether a path would refer to another host when resolved as a relative reference, even
/// after decoding it once.
fn begins_with_two_slashes(path: &str) -> bool {
    percent_decode_str(path)
        .skip(1)
        .find(|byte| !byte.is_ascii_control() && *byte != b' ')
        .is_some_and(|byte| matches!(byte, b'/' | b'\\'))
}

#[cfg(test)]
mod tests;
