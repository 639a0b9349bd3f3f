//! Protects the journal and the reset of a sandbox from DNS rebinding.
//!
//! A web page can resolve its own name to the sandbox's address; for the browser, both are then the
//! same site. But its requests still carry its own name in `Host`.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::uri::Authority;
use axum::http::{HeaderValue, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

use super::World;
use super::error::ApiError;

/// Refuses requests whose host may belong to another site: any host except IP addresses, names
/// without a dot, and the host of the public URL.
pub(super) async fn refuse_other_names(
    State(world): State<Arc<World>>,
    request: Request,
    next: Next,
) -> Response {
    let public = world.public_url.parse::<Uri>().ok();
    let public = public.as_ref().and_then(Uri::host);
    let mut hosts = request.headers().get_all(header::HOST).iter().map(HeaderValue::to_str).peekable();
    let is_own = hosts.peek().is_some()
        && hosts.all(|host| host.is_ok_and(|host| is_own(host, public)))
        // The host of a URI overrides `Host` (RFC 9112 section 3.2.2).
        && request.uri().authority().is_none_or(|authority| is_own(authority.as_str(), public));
    if is_own {
        return next.run(request).await;
    }
    let info = "The host of this request may belong to a web page. Use an IP address or localhost, or start the \
                sandbox with --public-url and this name.";
    ApiError::plain(StatusCode::FORBIDDEN, info).into_response()
}

/// Returns whether a host, with or without a port, cannot be that of a web page of another site.
fn is_own(host: &str, public: Option<&str>) -> bool {
    let Ok(authority) = host.parse::<Authority>() else { return false };
    let name = authority.host();
    if name.is_empty() || host.contains('@') {
        return false;
    }
    let in_brackets = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
    in_brackets.is_some_and(|ip| ip.parse::<Ipv6Addr>().is_ok())
        || name.parse::<Ipv4Addr>().is_ok()
        || name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
        || public.is_some_and(|public| name.eq_ignore_ascii_case(public))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_no_page_can_have_are_its_own() {
        for host in [
            "127.0.0.1",
            "127.0.0.1:8080",
            "[::1]:8080",
            "[::1]",
            "192.0.2.1:1",
            "localhost",
            "LOCALHOST:8080",
            "sandbox:8080",
            "box.test",
            "Box.Test:9000",
        ] {
            assert!(is_own(host, Some("box.test")), "{host}");
        }
        for host in [
            "",
            ":8080",
            "evil.example",
            "evil.example:8080",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "localhost.",
            "box.test.evil.example",
            "x@localhost",
            "evil.example@127.0.0.1",
            "[evil.example]",
            "evil\u{3002}example",
            "xbox.test",
        ] {
            assert!(!is_own(host, Some("box.test")), "{host}");
        }
        assert!(!is_own("box.test", None));
    }
}
