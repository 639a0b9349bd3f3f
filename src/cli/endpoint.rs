//! The address of a gateway on the command line.
//!
//! Errors suggest the address that was probably intended. It contains only host and port, so that a
//! password in the URL is not printed.

use std::net::{IpAddr, Ipv6Addr};

use url::Url;

use crate::http_client::server_url;

/// Default port of a gateway.
const DEFAULT_PORT: u16 = 50051;
/// The form of an address, for errors without a specific suggestion.
const FORM: &str = "http://HOST:PORT, or https://HOST:PORT for TLS";
/// Schemes that other programs use for gRPC over TLS.
const TLS_SCHEMES: [&str; 6] = ["https", "grpcs", "grpc+tls", "tls", "h2", "wss"];
/// Name schemes of gRPC libraries, which need no `//`.
const GRPC_NAMES: [&str; 6] = ["dns", "ipv4", "ipv6", "passthrough", "xds", "unix"];

/// The address of a gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Address {
    url: Url,
    /// Whether the text contained a port.
    has_port: bool,
}

impl Address {
    /// Parses `http://HOST:PORT` or `https://HOST:PORT`.
    ///
    /// # Errors
    ///
    /// The problem and what to write instead, without user or password.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let stripped = text.trim_matches(is_around);
        if stripped.is_empty() {
            return Err(format!("is empty; write {FORM}"));
        }
        let slip = |what: &str| Err(format!("{what}; write {}", suggestion(stripped)));
        if stripped != text {
            return slip("begins or ends with whitespace or a quotation mark");
        }
        if text.contains(|character: char| character.is_whitespace() || character.is_control()) {
            return Err(format!("contains whitespace or a control character; write {FORM}"));
        }
        if text.contains('\\') {
            return slip("contains a backslash");
        }
        let Some((scheme, rest)) = text.split_once("://") else { return slip(without_scheme(text)) };
        if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
            return slip("has a scheme other than http:// or https://");
        }
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        if authority.contains('@') {
            return slip("contains a user or a password, which the gateway does not support");
        }
        if authority.is_empty() && path.trim_start_matches('/').is_empty() {
            return Err(format!("has no host; write {FORM}"));
        }
        if authority.is_empty() {
            return slip("has more than two slashes after the scheme");
        }
        if !matches!(path, "" | "/") {
            return slip("has a path, a query or a fragment after the port");
        }
        if authority.contains('%') {
            return Err(format!("has a % in its host, such as an IPv6 zone; write {FORM}"));
        }
        if authority.contains([',', ';']) {
            return Err(format!("contains several gateways; write {FORM}"));
        }
        let host = Host::of(authority);
        if host.lacks_brackets {
            return slip("has an IPv6 address without brackets");
        }
        if host.name.is_empty() {
            return slip("has no host");
        }
        if host.port.is_some_and(|port| valid_port(port).is_none()) {
            return slip("has a port that is not a number from 1 to 65535");
        }
        let url = server_url::parse(text).map_err(|why| format!("{why}; write {FORM}"))?;
        Ok(Self { url, has_port: host.port.is_some() })
    }

    pub(super) const fn url(&self) -> &Url {
        &self.url
    }

    pub(super) fn is_tls(&self) -> bool {
        self.url.scheme() == "https"
    }

    /// Returns the host and the port to connect to.
    pub(super) fn host_and_port(&self) -> (String, u16) {
        let host = self.url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        (host, self.url.port_or_known_default().unwrap_or(DEFAULT_PORT))
    }

    /// Returns the same address with the other scheme.
    pub(super) fn with_other_scheme(&self) -> String {
        let scheme = if self.is_tls() { "http" } else { "https" };
        self.shown(scheme, None)
    }

    /// Returns the address with the gateway's default port if it has no port.
    pub(super) fn with_default_port(&self) -> Option<String> {
        (!self.has_port).then(|| self.shown(self.url.scheme(), Some(DEFAULT_PORT)))
    }

    fn shown(&self, scheme: &str, port: Option<u16>) -> String {
        let host = self.url.host_str().unwrap_or_default();
        let given = self.has_port.then(|| self.host_and_port().1);
        match given.or(port) {
            Some(port) => format!("{scheme}://{host}:{port}"),
            None => format!("{scheme}://{host}"),
        }
    }
}

/// Displays the address without a path.
impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.shown(self.url.scheme(), None))
    }
}

/// Returns the problem of a text without `://`.
fn without_scheme(text: &str) -> &'static str {
    let before = text.split(':').next().unwrap_or_default();
    if scheme_without_colon(text).is_some() {
        return "has no : after the scheme";
    }
    if before.eq_ignore_ascii_case("http") || before.eq_ignore_ascii_case("https") {
        "has no // after the scheme"
    } else if before.eq_ignore_ascii_case("unix") {
        "is a Unix socket, but the gateway only listens on TCP ports"
    } else if GRPC_NAMES.iter().any(|name| before.eq_ignore_ascii_case(name)) && text.contains(':') {
        "has a scheme other than http:// or https://"
    } else if Host::of(text).lacks_brackets {
        "has no scheme, and has an IPv6 address without brackets"
    } else {
        "has no scheme"
    }
}

/// Returns the address that was probably intended, or the general form.
pub(super) fn suggestion(text: &str) -> String {
    let (scheme, rest) = split_scheme(text);
    let rest = rest.trim_start_matches(['/', '\\']);
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#', '\\']).unwrap_or(rest.len()));
    // The part before a later "@" may be a password that contains a slash.
    if path.contains('@') || scheme.eq_ignore_ascii_case("unix") {
        return FORM.to_owned();
    }
    let authority = authority.rsplit('@').next().unwrap_or_default();
    let is_tls = TLS_SCHEMES.iter().any(|tls| scheme.eq_ignore_ascii_case(tls));
    let host = Host::of(authority);
    let name = match host.name {
        "" if host.port.is_some() => "127.0.0.1",
        name => name,
    };
    let is_name = |name: &str| {
        name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
            && name.bytes().any(|byte| byte.is_ascii_alphanumeric())
    };
    let shown = match name.parse::<IpAddr>() {
        Ok(IpAddr::V6(address)) => format!("[{address}]"),
        _ if is_name(name) => name.to_owned(),
        _ => return FORM.to_owned(),
    };
    let port = match host.port {
        None => DEFAULT_PORT,
        Some(port) => match valid_port(port) {
            Some(port) => port,
            None => return FORM.to_owned(),
        },
    };
    match (is_tls, scheme.is_empty()) {
        (true, _) => format!("https://{shown}:{port}"),
        (false, true) => format!("http://{shown}:{port}, or https://{shown}:{port} for TLS"),
        (false, false) => format!("http://{shown}:{port}"),
    }
}

/// Returns the scheme of a text such as `http//host` or `https;//host`, and the rest.
fn scheme_without_colon(text: &str) -> Option<(&str, &str)> {
    let end = text.find(|character: char| !character.is_ascii_alphabetic())?;
    let (scheme, rest) = text.split_at(end);
    let is_scheme = scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https");
    (is_scheme && rest.starts_with(['/', ';', '.', ','])).then_some(())?;
    let (separator, rest) = rest.split_once('/')?;
    (!separator.contains(char::is_alphanumeric)).then_some((scheme, rest))
}

/// Returns the scheme of a text, or an empty one, and the rest.
fn split_scheme(text: &str) -> (&str, &str) {
    if let Some(split) = text.split_once("://").or_else(|| scheme_without_colon(text)) {
        return split;
    }
    match text.split_once(':') {
        Some((scheme, rest))
            if ["http", "https"]
                .iter()
                .chain(&GRPC_NAMES)
                .any(|known| scheme.eq_ignore_ascii_case(known)) =>
        {
            (scheme, rest)
        }
        _ => ("", text),
    }
}

/// Host and port of an authority.
struct Host<'a> {
    /// Host without brackets.
    name: &'a str,
    port: Option<&'a str>,
    lacks_brackets: bool,
}

impl<'a> Host<'a> {
    fn of(authority: &'a str) -> Self {
        if let Some((name, rest)) = authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            return Self { name, port: rest.strip_prefix(':'), lacks_brackets: false };
        }
        let split = authority.rsplit_once(':');
        let is_v6 = |text: &str| text.parse::<Ipv6Addr>().is_ok();
        match split {
            // `::1:50051` is also an address, but a last part of four or more digits is more likely a
            // port.
            Some((name, port)) if is_v6(name) && (port.len() >= 4 || !is_v6(authority)) => {
                Self { name, port: Some(port), lacks_brackets: true }
            }
            _ if is_v6(authority) => Self { name: authority, port: None, lacks_brackets: true },
            Some((name, port)) => Self { name, port: Some(port), lacks_brackets: false },
            None => Self { name: authority, port: None, lacks_brackets: false },
        }
    }
}

fn valid_port(text: &str) -> Option<u16> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|&port| digits && port != 0)
}

/// Returns whether a character often surrounds a value that was copied carelessly.
fn is_around(character: char) -> bool {
    character.is_whitespace()
        || character.is_control()
        || matches!(character, '"' | '\'' | '`' | '<' | '>' | '\u{feff}' | '\u{201c}'..='\u{201d}')
}

#[cfg(test)]
mod tests {
    use proptest::{prop_assert, proptest};

    use super::*;

    fn refused(text: &str) -> String {
        Address::parse(text).expect_err(text)
    }

    #[test]
    fn addresses_are_accepted_in_their_usual_forms() {
        for (text, shown) in [
            ("http://127.0.0.1:50051", "http://127.0.0.1:50051"),
            ("http://127.0.0.1:50051/", "http://127.0.0.1:50051"),
            ("HTTP://LocalHost:6000", "http://localhost:6000"),
            ("HTTPS://gateway.example", "https://gateway.example"),
            ("https://gateway.example:443", "https://gateway.example:443"),
            ("http://[::1]:50051", "http://[::1]:50051"),
            ("http://my_gateway:1", "http://my_gateway:1"),
        ] {
            assert_eq!(Address::parse(text).expect(text).to_string(), shown);
        }
        let without_port = Address::parse("https://gateway.example").unwrap();
        assert_eq!(without_port.host_and_port(), ("gateway.example".to_owned(), 443));
        assert_eq!(without_port.with_default_port().unwrap(), "https://gateway.example:50051");
        assert_eq!(without_port.with_other_scheme(), "http://gateway.example");
        let v6 = Address::parse("http://[::1]:50051").unwrap();
        assert_eq!(v6.host_and_port(), ("::1".to_owned(), 50051));
        assert_eq!(v6.with_other_scheme(), "https://[::1]:50051");
        assert_eq!(v6.with_default_port(), None);
    }

    #[test]
    fn errors_suggest_the_intended_address() {
        for (text, what, suggestion) in [
            (
                "127.0.0.1:50051",
                "has no scheme",
                "http://127.0.0.1:50051, or https://127.0.0.1:50051 for TLS",
            ),
            ("localhost:50051", "has no scheme", "http://localhost:50051,"),
            ("gateway.example", "has no scheme", "http://gateway.example:50051,"),
            (":50051", "has no scheme", "http://127.0.0.1:50051,"),
            ("//gateway.example:1", "has no scheme", "http://gateway.example:1,"),
            ("[::1]:50051", "has no scheme", "http://[::1]:50051,"),
            ("::1:50051", "without brackets", "http://[::1]:50051,"),
            ("::1", "without brackets", "http://[::1]:50051,"),
            ("http://::1:50051", "without brackets", "http://[::1]:50051"),
            ("https://fe80::1", "without brackets", "https://[fe80::1]:50051"),
            ("grpc://gateway.example:50051", "a scheme other than", "http://gateway.example:50051"),
            ("grpcs://gateway.example:50051", "a scheme other than", "https://gateway.example:50051"),
            ("dns:///gateway.example:50051", "a scheme other than", "http://gateway.example:50051"),
            ("dns:gateway.example:50051", "a scheme other than", "http://gateway.example:50051"),
            ("ipv4:127.0.0.1:50051", "a scheme other than", "http://127.0.0.1:50051"),
            ("unix:///run/gateway.sock", "a scheme other than", "http://"),
            ("unix:/run/gateway.sock", "Unix socket", "http://"),
            ("htps://gateway.example:1", "a scheme other than", "http://gateway.example:1"),
            ("http:gateway.example:1", "has no //", "http://gateway.example:1"),
            ("https:/gateway.example:1", "has no //", "https://gateway.example:1"),
            ("http//gateway.example:1", "has no : after", "http://gateway.example:1"),
            ("https//gateway.example:1", "has no : after", "https://gateway.example:1"),
            ("HTTP;//127.0.0.1:1", "has no : after", "http://127.0.0.1:1"),
            ("http/127.0.0.1:1", "has no : after", "http://127.0.0.1:1"),
            ("http.//127.0.0.1:1", "has no : after", "http://127.0.0.1:1"),
            ("http.example:1", "has no scheme", "http://http.example:1,"),
            ("http.example:1/path", "has no scheme", "http://http.example:1,"),
            ("http:///gateway.example:1", "more than two slashes", "http://gateway.example:1"),
            ("http://gateway.example:1/ott.v1.OttService", "has a path", "http://gateway.example:1"),
            ("http://gateway.example:1?x=1", "has a path", "http://gateway.example:1"),
            ("http://gateway.example:1#x", "has a path", "http://gateway.example:1"),
            (" http://gateway.example:1", "whitespace or a quotation mark", "http://gateway.example:1"),
            ("http://gateway.example:1\n", "whitespace or a quotation mark", "http://gateway.example:1"),
            ("\"https://gateway.example:1\"", "quotation mark", "https://gateway.example:1"),
            ("http://gateway .example:1", "contains whitespace", "http://HOST:PORT"),
            ("http:\\\\gateway.example:1", "backslash", "http://gateway.example:1"),
            ("http://", "has no host", "http://HOST:PORT"),
            ("http:///", "has no host", "http://HOST:PORT"),
            ("http://:50051", "has no host", "http://127.0.0.1:50051"),
            ("http://gateway.example:", "port", "http://HOST:PORT"),
            ("http://gateway.example:0", "port", "http://HOST:PORT"),
            ("http://gateway.example:65536", "port", "http://HOST:PORT"),
            ("http://gateway.example:+1", "port", "http://HOST:PORT"),
            ("http://gateway.example:grpc", "port", "http://HOST:PORT"),
            ("http://a:1,http://b:2", "has a path", "http://HOST:PORT"),
            ("http://a:1,b:2", "several gateways", "http://HOST:PORT"),
            ("http://127.1:50051", "plain form", "http://HOST:PORT"),
            ("http://*:50051", "wildcard", "http://HOST:PORT"),
            ("", "is empty", "http://HOST:PORT"),
            ("  ", "is empty", "http://HOST:PORT"),
        ] {
            let answer = refused(text);
            let suggestion = format!("; write {suggestion}");
            assert!(answer.contains(what) && answer.contains(&suggestion), "{text}: {answer}");
        }
    }

    #[test]
    fn errors_contain_no_password() {
        for text in [
            "http://me:hunter2@gateway.example:1",
            "me:hunter2@gateway.example:1",
            "grpc://me:hunter2@gateway.example:1",
            "\"http://me:hunter2@gateway.example:1\"",
            "http:/me:hunter2@gateway.example:1",
        ] {
            let answer = refused(text);
            assert!(!answer.contains("hunter2") && answer.contains("http://gateway.example:1"), "{answer}");
        }
        for text in ["http://me:1234/5678@gateway.example:1", "me:1234?5678@gateway.example:1"] {
            let answer = refused(text);
            assert!(!answer.contains("1234") && answer.contains(FORM), "{answer}");
        }
    }

    proptest! {
        #[test]
        fn any_invalid_text_gets_a_suggestion(text in "(http(s)?:(//)?)?[\\[\\]:@/a-z0-9. -]{0,24}|\\PC{0,16}") {
            match Address::parse(&text) {
                Ok(address) => prop_assert!(!address.host_and_port().0.is_empty()),
                Err(answer) => prop_assert!(answer.contains("; write "), "{text}: {answer}"),
            }
        }
    }
}
