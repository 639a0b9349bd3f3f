//! The addresses of a sandbox, for clients on this machine and elsewhere.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use url::Url;

use crate::cli::walk::Addresses;

/// Parses `--public-url`: an http or https origin.
pub(super) fn parse(text: &str) -> Result<Url, String> {
    let rule = || "must be a URL without a path, such as http://localhost:8080".to_owned();
    let url = Url::parse(text).map_err(|_| rule())?;
    let is_origin = matches!(url.scheme(), "http" | "https")
        && url.has_host()
        && url.path() == "/"
        && url.query().is_none()
        && url.fragment().is_none()
        && url.username().is_empty()
        && url.password().is_none();
    if is_origin { Ok(url) } else { Err(rule()) }
}

/// Returns a URL as text without a trailing slash.
pub(super) fn without_slash(url: &Url) -> String {
    url.as_str().trim_end_matches('/').to_owned()
}

/// Returns an address that a client on this machine can connect to: loopback if it is unspecified.
pub(super) fn on_this_machine(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// Returns the addresses to print. A gateway that listens on every address is printed with the host
/// of the public URL, where it can be reached too, and its own port.
pub(super) fn shown(gateway: SocketAddr, platform: &str, public_url: Option<&Url>) -> Addresses {
    let host = public_url.and_then(Url::host_str).filter(|_| gateway.ip().is_unspecified());
    Addresses {
        gateway: match host {
            Some(host) => format!("{host}:{}", gateway.port()),
            None => on_this_machine(gateway).to_string(),
        },
        platform: public_url.map_or_else(|| platform.to_owned(), without_slash),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn public_url_must_be_an_origin() {
        for text in [
            "http://localhost:8080",
            "http://localhost:8080/",
            "https://sandbox.example.com",
            "http://[::1]:1",
        ] {
            assert!(parse(text).is_ok(), "{text}");
        }
        for text in [
            "",
            "localhost:8080",
            "http://",
            "ftp://host",
            "http://host/path",
            "http://host?query",
            "http://host#part",
            "http://user@host",
            "http://user:secret@host",
        ] {
            assert!(parse(text).unwrap_err().contains("http://localhost:8080"), "{text}");
        }
    }

    #[test]
    fn printed_addresses_can_be_connected_to() {
        let at = |gateway: &str, public: Option<&str>| {
            let public = public.map(|url| parse(url).unwrap());
            let shown = shown(gateway.parse().unwrap(), "http://127.0.0.1:8080", public.as_ref());
            (shown.gateway, shown.platform)
        };
        let pair = |gateway: &str, platform: &str| (gateway.to_owned(), platform.to_owned());
        assert_eq!(at("127.0.0.1:50051", None), pair("127.0.0.1:50051", "http://127.0.0.1:8080"));
        assert_eq!(at("0.0.0.0:50051", None), pair("127.0.0.1:50051", "http://127.0.0.1:8080"));
        assert_eq!(at("[::]:50051", None), pair("[::1]:50051", "http://127.0.0.1:8080"));
        assert_eq!(at("192.0.2.1:50051", None), pair("192.0.2.1:50051", "http://127.0.0.1:8080"));
        let public = Some("http://box.test:9000/");
        assert_eq!(at("0.0.0.0:50051", public), pair("box.test:50051", "http://box.test:9000"));
        assert_eq!(at("[::]:50051", Some("http://[::1]:9000")), pair("[::1]:50051", "http://[::1]:9000"));
        assert_eq!(at("192.0.2.1:50051", public), pair("192.0.2.1:50051", "http://box.test:9000"));
    }
}
