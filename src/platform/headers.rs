//! Headers of requests to one endpoint. Most are the same for every request, so each request gets a
//! copy with the exact capacity instead of inserting them one by one.

use http::{
    HeaderMap, HeaderValue,
    header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HOST},
};
use url::Url;

use crate::{
    domain::call::RequestId,
    http_client::{HttpProtocol, default_headers},
};

/// Headers of requests to one endpoint.
#[derive(Debug)]
pub(super) struct RequestHeaders {
    /// Without `Host`, for which HTTP/2 has a pseudo-header.
    common: HeaderMap,
    /// With `Host`. The HTTP client would otherwise derive it from the URL for each request.
    http1: HeaderMap,
}

impl RequestHeaders {
    /// Creates the headers of requests to this URL. With `authorizes`, requests usually carry an
    /// access token.
    pub(super) fn new(url: &Url, authorizes: bool) -> Self {
        // Room for headers that the HTTP client adds, so that the copy does not allocate again.
        let mut common = HeaderMap::with_capacity(8);
        common.extend(default_headers());
        common.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        // Replaced in each request. Adding a header to a copy would make it allocate again.
        common.insert(RequestId::HEADER, HeaderValue::from_static(""));
        common.insert(CONTENT_LENGTH, HeaderValue::from_static(""));
        if authorizes {
            common.insert(AUTHORIZATION, HeaderValue::from_static(""));
        }
        let mut http1 = HeaderMap::with_capacity(common.len() + 1);
        if let Some(host) = host(url) {
            http1.insert(HOST, host);
        }
        http1.extend(common.clone());
        Self { common, http1 }
    }

    /// Returns the headers of one request with a body of `length` bytes. `protocol` is that of the
    /// server, if known.
    pub(super) fn for_request(
        &self,
        protocol: Option<HttpProtocol>,
        request_id: HeaderValue,
        authorization: Option<HeaderValue>,
        length: usize,
    ) -> HeaderMap {
        let mut headers = match protocol {
            Some(HttpProtocol::Http1) => self.http1.clone(),
            Some(HttpProtocol::Http2) | None => self.common.clone(),
        };
        headers.insert(RequestId::HEADER, request_id);
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
        match authorization {
            Some(authorization) => headers.insert(AUTHORIZATION, authorization),
            None => headers.remove(AUTHORIZATION),
        };
        headers
    }
}

/// Returns the value of `Host` (RFC 9110, 7.2): without the default port, which [`Url`] leaves
/// out.
fn host(url: &Url) -> Option<HeaderValue> {
    let host = url.host_str()?;
    let host = url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
    HeaderValue::try_from(host).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(url: &str) -> RequestHeaders {
        RequestHeaders::new(&Url::parse(url).unwrap(), true)
    }

    #[test]
    fn host_has_the_port_unless_it_is_the_default() {
        for (url, host) in [
            ("https://eu2.example/bc", "eu2.example"),
            ("https://eu2.example:443/bc", "eu2.example"),
            ("https://eu2.example:8443/bc", "eu2.example:8443"),
            ("http://127.0.0.1:8080/", "127.0.0.1:8080"),
            ("http://[::1]:8080/", "[::1]:8080"),
            ("http://[::1]/", "[::1]"),
        ] {
            let http1 = Some(HttpProtocol::Http1);
            let sent = headers(url).for_request(http1, HeaderValue::from_static("id"), None, 7);
            assert_eq!(sent.get_all(HOST).iter().collect::<Vec<_>>(), [host], "{url}");
        }
    }

    #[test]
    fn only_http1_requests_have_a_host_and_none_has_an_empty_header() {
        let headers = headers("https://eu2.example");
        let id = || HeaderValue::from_static("id");
        for protocol in [None, Some(HttpProtocol::Http2), Some(HttpProtocol::Http1)] {
            let sent = headers.for_request(protocol, id(), None, 7);
            assert_eq!(sent.contains_key(HOST), protocol == Some(HttpProtocol::Http1), "{protocol:?}");
            assert!(!sent.contains_key(AUTHORIZATION), "{protocol:?}");
            let sent = headers.for_request(protocol, id(), Some(HeaderValue::from_static("Bearer x")), 7);
            assert_eq!(sent[AUTHORIZATION], "Bearer x");
            assert_eq!(sent[RequestId::HEADER], "id");
            assert_eq!(sent[CONTENT_LENGTH], "7");
            assert!(sent.values().all(|value| !value.is_empty()), "{sent:?}");
        }
    }
}
