//! URLs of servers in the configuration.
//!
//! The text is checked before a URL parser normalizes it. Anything that a lenient parser would
//! drop, rewrite or guess (`https:/host`, `https://127.1`, an encoded host) is rejected, because
//! another parser may guess differently.

use url::{Host, Url};

use super::is_loopback;

/// Maximum length of a host name, in characters (RFC 1035, 2.3.4).
const MAX_NAME: usize = 253;

/// Why a text is not a valid URL of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidServerUrl {
    /// It has no scheme, no `://` or no host, or cannot be parsed.
    #[error("must be a URL with a scheme, \"://\" and a host, such as \"https://host.example:443\"")]
    NotAbsolute,
    /// It has a character that URL parsers drop or rewrite.
    #[error("must be visible ASCII without backslashes; write an international host name in its xn-- form")]
    ForbiddenCharacter,
    /// Its scheme is neither https nor http.
    #[error("must begin with https:// or http://")]
    Scheme,
    /// It is http, and not on a loopback host.
    #[error("must be https (plain http is for loopback addresses only)")]
    NotHttps,
    /// It is not https.
    #[error("must be https")]
    NotHttpsOrigin,
    /// It has a user name or a password.
    #[error("must not contain a user or a password")]
    UserInfo,
    /// It has a path.
    #[error("must end after the host and the port, without a path")]
    Path,
    /// It has a query or a fragment.
    #[error("must not contain a query or a fragment")]
    QueryOrFragment,
    /// Its host is ambiguous: an address in an unusual form.
    #[error("must have its host in plain form, for example 127.0.0.1 instead of 127.1")]
    AmbiguousHost,
    /// Its host has a wildcard.
    #[error("must name one host exactly, without wildcards")]
    Wildcard,
    /// Its host is not a valid name: it has an empty label or a misplaced hyphen, or is too long.
    #[error("must have a valid host name: letters, digits, hyphens and underscores between single dots")]
    HostName,
    /// Its port is 0 or empty.
    #[error("must have a port from 1 to 65535, or none after the host")]
    Port,
}

/// Parses a URL with a host, https or http. User, path and query are allowed. A trailing dot of the
/// host name is removed: names are looked up as absolute names anyway, and certificates and `Host`
/// headers have no trailing dot.
pub fn parse(text: &str) -> Result<Url, InvalidServerUrl> {
    if !is_plain(text) {
        return Err(InvalidServerUrl::ForbiddenCharacter);
    }
    let (scheme, authority) = split(text).ok_or(InvalidServerUrl::NotAbsolute)?;
    if !scheme.eq_ignore_ascii_case("https") && !scheme.eq_ignore_ascii_case("http") {
        return Err(InvalidServerUrl::Scheme);
    }
    let host_and_port = authority.rsplit_once('@').map_or(authority, |(_, rest)| rest);
    let (host, port) = match host_and_port.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (host_and_port, None),
    };
    if port.is_some_and(|port| port.is_empty() || port.bytes().all(|digit| digit == b'0')) {
        return Err(InvalidServerUrl::Port);
    }
    if host.contains('*') {
        return Err(InvalidServerUrl::Wildcard);
    }
    if host.contains('%') {
        return Err(InvalidServerUrl::ForbiddenCharacter);
    }
    let mut url = Url::parse(text).map_err(|_| InvalidServerUrl::NotAbsolute)?;
    if !url.host_str().is_some_and(|parsed| parsed.eq_ignore_ascii_case(host)) {
        return Err(InvalidServerUrl::AmbiguousHost);
    }
    if let Some(Host::Domain(name)) = url.host() {
        let without_dot = name.strip_suffix('.').unwrap_or(name).to_owned();
        if !is_host_name(&without_dot) {
            return Err(InvalidServerUrl::HostName);
        }
        if without_dot.len() < name.len() {
            url.set_host(Some(&without_dot)).map_err(|_| InvalidServerUrl::HostName)?;
        }
    }
    Ok(url)
}

/// Like [`parse`], but accepts only https, or http on a loopback host.
pub fn parse_secure(text: &str) -> Result<Url, InvalidServerUrl> {
    let url = parse(text).map_err(|why| match why {
        InvalidServerUrl::Scheme => InvalidServerUrl::NotHttps,
        other => other,
    })?;
    if url.scheme() == "https" || is_loopback(&url) { Ok(url) } else { Err(InvalidServerUrl::NotHttps) }
}

/// Like [`parse_secure`], but accepts only scheme, host and port.
pub fn parse_origin(text: &str) -> Result<Url, InvalidServerUrl> {
    let url = parse_secure(text)?;
    check_no_credentials(text)?;
    check_no_path(text)?;
    Ok(url)
}

/// Rejects a URL with a user, a password, a query or a fragment.
pub fn check_no_credentials(text: &str) -> Result<(), InvalidServerUrl> {
    if split(text).is_some_and(|(_, authority)| authority.contains('@')) {
        Err(InvalidServerUrl::UserInfo)
    } else if text.contains(['?', '#']) {
        Err(InvalidServerUrl::QueryOrFragment)
    } else {
        Ok(())
    }
}

/// Rejects a URL with anything but one slash after the authority.
pub fn check_no_path(text: &str) -> Result<(), InvalidServerUrl> {
    // Parsers normalize "/." and "/x/.." to "/", so the text itself is checked.
    let rest = split(text).and_then(|(scheme, authority)| text.get(scheme.len() + 3 + authority.len()..));
    if text.contains(['?', '#']) {
        Err(InvalidServerUrl::QueryOrFragment)
    } else if matches!(rest, Some("" | "/")) {
        Ok(())
    } else {
        Err(InvalidServerUrl::Path)
    }
}

/// Returns scheme and authority of `scheme://authority…`, and `None` for other forms that
/// lenient parsers accept, such as `https:host` and `https:///host`.
#[must_use]
pub fn split(text: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = text.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next().filter(|authority| !authority.is_empty())?;
    scheme.bytes().all(|byte| byte.is_ascii_alphanumeric()).then_some((scheme, authority))
}

/// Returns whether a text is free of characters that URL parsers drop or rewrite.
#[must_use]
pub fn is_plain(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\')
}

/// RFC 1123 does not allow underscores, but some service names have them.
fn is_host_name(name: &str) -> bool {
    let is_label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    // The resolver checks the length of labels.
    name.len() <= MAX_NAME && name.split('.').all(is_label)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{InvalidServerUrl as Invalid, *};

    #[test]
    fn unambiguous_url_is_accepted_and_normalized() {
        for (text, expected) in [
            ("https://dc.example", "https://dc.example/"),
            ("HTTPS://DC.example:443/", "https://dc.example/"),
            ("https://dc.example.", "https://dc.example/"),
            ("https://dc.example.:8443/keys?x=1", "https://dc.example:8443/keys?x=1"),
            ("http://user:p%40ss@proxy_1.example:3128", "http://user:p%40ss@proxy_1.example:3128/"),
            ("http://[::1]:8080", "http://[::1]:8080/"),
            ("https://10.0.0.1", "https://10.0.0.1/"),
            ("https://xn--bcher-kva.example", "https://xn--bcher-kva.example/"),
        ] {
            assert_eq!(parse(text).as_ref().map(Url::as_str), Ok(expected), "{text}");
        }
    }

    #[test]
    fn ambiguous_url_is_rejected() {
        for (text, why) in [
            ("", Invalid::NotAbsolute),
            ("dc.example", Invalid::NotAbsolute),
            ("https:dc.example", Invalid::NotAbsolute),
            ("https:/dc.example", Invalid::NotAbsolute),
            ("https:///dc.example", Invalid::NotAbsolute),
            ("https://?x", Invalid::NotAbsolute),
            ("https://dc.example:99999", Invalid::NotAbsolute),
            ("https://dc.example:+1", Invalid::NotAbsolute),
            ("https://[::1", Invalid::NotAbsolute),
            ("ftp://dc.example", Invalid::Scheme),
            ("https://dc.example:0", Invalid::Port),
            ("https://dc.example:", Invalid::Port),
            ("https://dc.example:000/", Invalid::Port),
            ("https://[::1]:0", Invalid::Port),
            ("https://127.1", Invalid::AmbiguousHost),
            ("https://0x7f.0.0.1", Invalid::AmbiguousHost),
            ("https://2130706433", Invalid::AmbiguousHost),
            ("https://127.0.0.1.", Invalid::AmbiguousHost),
            ("https://[0:0::1]", Invalid::AmbiguousHost),
            ("https://*.example", Invalid::Wildcard),
            ("https://dc%2eexample", Invalid::ForbiddenCharacter),
            ("https://dc.example\t", Invalid::ForbiddenCharacter),
            ("https:\\\\dc.example", Invalid::ForbiddenCharacter),
            ("https://b\u{fc}cher.example", Invalid::ForbiddenCharacter),
            ("https://dc..example", Invalid::HostName),
            ("https://.dc.example", Invalid::HostName),
            ("https://dc.example..", Invalid::HostName),
            ("https://-dc.example", Invalid::HostName),
            ("https://dc-.example", Invalid::HostName),
            ("https://dc$.example", Invalid::HostName),
        ] {
            assert_eq!(parse(text), Err(why), "{text:?}");
        }
        let long = "a.".repeat(127);
        assert_eq!(parse(&format!("https://{long}example")), Err(Invalid::HostName));
    }

    #[test]
    fn origin_has_scheme_host_and_port_only() {
        for (text, why) in [
            ("https://dc.example/api", Invalid::Path),
            ("https://dc.example//", Invalid::Path),
            ("https://dc.example/.", Invalid::Path),
            ("https://dc.example/x/..", Invalid::Path),
            ("https://dc.example?x", Invalid::QueryOrFragment),
            ("https://dc.example/#", Invalid::QueryOrFragment),
            ("https://user@dc.example", Invalid::UserInfo),
            ("https://:secret@dc.example", Invalid::UserInfo),
            ("http://dc.example", Invalid::NotHttps),
        ] {
            assert_eq!(parse_origin(text), Err(why), "{text:?}");
        }
        assert!(parse_origin("http://localhost:8080/").is_ok());
    }

    proptest! {
        /// The host of an accepted URL is in the text, where every parser expects it.
        #[test]
        fn accepted_host_is_in_the_text(text in "https?:[/\\\\]{0,3}[a-z0-9.:@*%\\[\\]\\\\/?#_-]{0,30}") {
            if let Ok(url) = parse(&text) {
                let host = url.host_str().unwrap_or_default();
                let rest = text.split_once("://").map_or("", |(_, rest)| rest);
                let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
                let after_user = authority.rsplit('@').next().unwrap_or_default();
                prop_assert!(after_user.starts_with(host), "{text} became {url}");
                prop_assert_ne!(url.port(), Some(0));
            }
        }
    }
}
