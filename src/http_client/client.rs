//! The HTTP client with all its limits.
//!
//! The sender decides what is sent, and over which of several clients.

use std::{
    fmt,
    net::IpAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
    time::Duration,
};

use http::{
    HeaderMap, HeaderValue, Version,
    header::{ACCEPT, ACCEPT_ENCODING, USER_AGENT},
};
use url::{Host, Url};

use super::{
    ClientTls, ClientTlsSet, LookupError, Proxy, ProxyUrl, Resolver, TlsConfigError, cause,
    connect::{KnownAddresses, failed_lookup},
    is_loopback,
    local_resource::{LocalResource, missing_resource_in},
    resolver,
};

const PRODUCT: &str = concat!("ott-gateway/", env!("CARGO_PKG_VERSION"));

/// Keep-alive of HTTP/2 connections with pending requests: a peer that disappeared without closing
/// the connection is detected within 8 s.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(3);
/// Maximum size of a response's header list, in bytes. Larger than the limit on the cookies of a
/// login, so that exceeding that limit has its own error. HTTP/2 enforces it; over HTTP/1.1,
/// senders check it ([`header_bytes`]).
pub const MAX_HEADER_LIST_BYTES: u32 = 64 * 1024;
/// HTTP/2 stream window, in bytes: a server can send responses of the usual size at once. Part of
/// the memory of a call ([`CALL_BYTES`](crate::base::memory)).
const STREAM_WINDOW: u32 = 32 * 1024;
/// HTTP/2 connection window, in bytes. Large enough that responses never block each other.
const CONNECTION_WINDOW: u32 = 1 << 30;
/// Overhead that HTTP/2 counts per header in addition to its name and value, in bytes.
const HEADER_OVERHEAD: usize = 32;
/// Maximum number of header lines over HTTP/1.1. The limit in bytes is always reached first.
const MAX_HEADER_LINES: usize = MAX_HEADER_LIST_BYTES as usize / HEADER_OVERHEAD;

/// Settings of the connections to a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionSettings {
    /// `ca_file`: the only authorities trusted for the server's certificate, in PEM. `None` means
    /// the system's.
    pub ca_file: Option<PathBuf>,
    /// `proxy_url`: the HTTP proxy to the server; none. The usual proxy variables are not read.
    pub proxy_url: Option<ProxyUrl>,
    /// `max_idle_connections`: maximum number of idle connections that are kept for reuse, per
    /// sender; 256, from 1 to 65,536.
    pub max_idle_connections: usize,
}

impl Default for ConnectionSettings {
    fn default() -> Self {
        Self { ca_file: None, proxy_url: None, max_idle_connections: 256 }
    }
}

/// Settings of an HTTP client.
#[derive(Clone)]
pub struct HttpSettings {
    /// URL of the server. Plain HTTP is accepted only for a loopback host.
    pub server: Url,
    /// Trusted authorities, shared by all clients and replaced when they change.
    pub tls: Arc<ClientTls>,
    /// The proxy, if any. Proxies set in the environment are ignored. Plain HTTP is only sent through a
    /// proxy on a loopback host.
    pub proxy: Option<Proxy>,
    /// Timeout for connecting once the addresses of the host are known: TCP, proxy, TLS. 2 s. The
    /// addresses of a family, at most four, share it equally for TCP.
    pub connect_timeout: Duration,
    /// Age at which pooled connections are replaced, to follow changes in DNS. 10 min.
    pub max_connection_age: Duration,
    /// Maximum number of idle pooled connections per sender. 256.
    pub max_idle_connections: usize,
    /// Looks up the names of the server and the proxy.
    resolver: Resolver,
    /// The server's protocol, shared by all clients made from these settings.
    protocol: Arc<LastProtocol>,
    /// Whether a response with more header lines than the parser's default limit may fail.
    expects_few_headers: bool,
    /// Set after such a response, for all clients made from these settings.
    needs_header_room: Arc<AtomicBool>,
}

impl HttpSettings {
    /// Creates settings without a proxy, with the default times and limits.
    #[must_use]
    pub fn new(server: Url, tls: Arc<ClientTls>, resolver: Resolver) -> Self {
        Self {
            server,
            tls,
            proxy: None,
            connect_timeout: Duration::from_secs(2),
            max_connection_age: Duration::from_mins(10),
            max_idle_connections: ConnectionSettings::default().max_idle_connections,
            resolver,
            protocol: Arc::default(),
            expects_few_headers: false,
            needs_header_room: Arc::default(),
        }
    }

    /// Returns the settings for a server whose connections are configured. The authorities are
    /// those of `tls`.
    ///
    /// # Errors
    ///
    /// The authorities cannot be read or used.
    pub fn configured(
        server: Url,
        configured: &ConnectionSettings,
        tls: &mut ClientTlsSet,
        resolver: Resolver,
    ) -> Result<Self, TlsConfigError> {
        let proxy = configured.proxy_url.as_ref().map(ProxyUrl::expose);
        let tls = tls.get(configured.ca_file.as_deref(), &server, proxy)?;
        let mut settings = Self::new(server, tls, resolver);
        settings.max_idle_connections = configured.max_idle_connections;
        settings.proxy = proxy.map(|proxy| Proxy::new(proxy.clone(), &settings.tls));
        Ok(settings)
    }

    /// Returns the settings for requests that can be repeated. Over HTTP/1.1 the parser has room
    /// for 100 header lines without an allocation; room for more is allocated for each response, 64
    /// bytes per line. The first response with more lines fails its request, and clients that are
    /// built later have room for it.
    #[must_use]
    pub fn expecting_few_headers(self) -> Self {
        Self { expects_few_headers: true, ..self }
    }

    /// Returns how many header lines a client built now has room for.
    #[must_use]
    pub fn header_room(&self) -> HeaderRoom {
        if self.expects_few_headers && !self.needs_header_room.load(Ordering::Relaxed) {
            HeaderRoom::Default
        } else {
            HeaderRoom::Full
        }
    }

    /// Records the failure of a request: a response with too many headers, or a resource that this
    /// machine or process lacked for the connection.
    pub fn record_failure(&self, error: &reqwest::Error) {
        // Resources that a name lookup lacked were counted by the lookup.
        if let Some(resource) = missing_resource_in(error) {
            self.count_exhaustion(resource);
        }
        if self.expects_few_headers
            && cause::is_too_large_head(error)
            && !self.needs_header_room.swap(true, Ordering::Relaxed)
        {
            tracing::info!(
                server.url = %self.server,
                "response headers exceeded default limit"
            );
        }
    }
}

impl HttpSettings {
    /// Records the protocol of a response. Warns once about an https server that does not support
    /// HTTP/2, and again after a change.
    pub fn record_protocol(&self, version: Version) {
        let protocol = HttpProtocol::from(version);
        let changed = self.protocol.replace(protocol) != Some(protocol);
        // Over HTTP/1.1 a stray response would be taken for the response to the next request.
        if changed && protocol == HttpProtocol::Http1 && self.server.scheme() == "https" {
            tracing::warn!(
                server.url = %self.server,
                "server does not support HTTP/2, not reusing connections"
            );
        }
    }

    /// Returns the protocol of the server's last response; `None` before the first one.
    #[must_use]
    pub fn protocol(&self) -> Option<HttpProtocol> {
        self.protocol.get()
    }

    /// Returns the root cause of a failed request as text for the operator. Names a proxy that cannot
    /// be reached. If a proxy refused the tunnel, finds out its HTTP status, which takes up to 2 s.
    pub async fn cause_of(&self, error: &reqwest::Error) -> String {
        let cause = cause::exchange_cause(error, self.tls.was_asked_for_certificate());
        match &self.proxy {
            // Boxed, because it is rare and would enlarge the future of every call.
            Some(proxy) => Box::pin(proxy.explain(error, cause, &self.server, &self.resolver)).await,
            None => cause,
        }
    }

    /// Waits until the addresses of the server are known, at most for 6 s.
    ///
    /// # Errors
    ///
    /// The name lookup failed, or did not complete in time. It continues in the second case.
    pub async fn addresses_known(&self) -> Result<(), LookupError> {
        match self.peer() {
            Some(host) => host.addresses().await.map(|_| ()),
            None => Ok(()),
        }
    }

    /// Sends a request. If the addresses of its host are not known, waits for them first, at most
    /// for 6 s, which does not count against the connect timeout.
    ///
    /// # Errors
    ///
    /// There was no response.
    pub async fn send(&self, request: reqwest::RequestBuilder) -> reqwest::Result<reqwest::Response> {
        let retry = request.try_clone();
        let mut sent = request.send().await;
        let lookup = sent.as_ref().err().and_then(|error| failed_lookup(error));
        if let (Some(lookup), Some(retry)) = (lookup, retry) {
            // Kept until the request is sent, because unreferenced hosts are forgotten.
            let host = self.resolver.host(lookup.name());
            // If the lookup fails, so does the request, for the same reason.
            let _ = host.addresses().await;
            sent = retry.send().await;
        }
        sent.inspect_err(|error| self.record_failure(error))
    }

    /// Returns the error of a request that could not wait longer for the name lookup in
    /// progress; `None` if the addresses are known.
    #[must_use]
    pub fn unanswered_lookup(&self) -> Option<LookupError> {
        self.peer()?.unanswered()
    }

    /// Counts an exchange that failed because this machine or process lacked a resource.
    pub fn count_exhaustion(&self, resource: LocalResource) {
        self.resolver.metrics().exhausted(resource);
    }

    /// Returns the host that connections are opened to; `None` if the URL contains its address.
    fn peer(&self) -> Option<Arc<resolver::Host>> {
        let url = self.proxy.as_ref().map_or(&self.server, Proxy::url);
        match url.host()? {
            // For schemes that the URL standard does not define, an address is parsed as a name.
            Host::Domain(name) if name.parse::<IpAddr>().is_err() => Some(self.resolver.host(name)),
            Host::Domain(_) | Host::Ipv4(_) | Host::Ipv6(_) => None,
        }
    }
}

impl fmt::Debug for HttpSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpSettings")
            .field("server", &self.server.as_str())
            .field("has_proxy", &self.proxy.is_some())
            .field("connect_timeout", &self.connect_timeout)
            .field("max_connection_age", &self.max_connection_age)
            .field("max_idle_connections", &self.max_idle_connections)
            .finish_non_exhaustive()
    }
}

/// Number of header lines of an HTTP/1.1 response that the parser has room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderRoom {
    /// 100, without an allocation.
    Default,
    /// As many as [`MAX_HEADER_LIST_BYTES`] can contain.
    Full,
}

/// The protocol that a server speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HttpProtocol {
    /// HTTP/1.1 or older: a response belongs to a request only by its position.
    Http1,
    /// HTTP/2: each response identifies its request.
    Http2,
}

impl From<Version> for HttpProtocol {
    fn from(version: Version) -> Self {
        if version == Version::HTTP_2 { Self::Http2 } else { Self::Http1 }
    }
}

/// Protocol of a server's last response: 0 if there was none.
#[derive(Debug, Default)]
pub struct LastProtocol(AtomicU8);

impl LastProtocol {
    /// Returns the protocol; `None` before the first response.
    #[must_use]
    pub fn get(&self) -> Option<HttpProtocol> {
        Self::decode(self.0.load(Ordering::Relaxed))
    }

    /// Records the protocol of a response. Returns the one before.
    pub fn replace(&self, protocol: HttpProtocol) -> Option<HttpProtocol> {
        let code = match protocol {
            HttpProtocol::Http1 => 1,
            HttpProtocol::Http2 => 2,
        };
        // Read first: a write by each call would move the cache line between the workers.
        if self.0.load(Ordering::Relaxed) == code {
            return Some(protocol);
        }
        Self::decode(self.0.swap(code, Ordering::Relaxed))
    }

    const fn decode(code: u8) -> Option<HttpProtocol> {
        match code {
            1 => Some(HttpProtocol::Http1),
            2 => Some(HttpProtocol::Http2),
            _ => None,
        }
    }
}

/// Which connections a request may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionReuse {
    /// Each request gets a new connection: for rare requests, whose last connection would be stale.
    Never,
    /// A connection that has not been idle for longer than this.
    IdleFor(Duration),
}

/// Failure to build an HTTP client.
#[derive(Debug, thiserror::Error)]
pub enum HttpClientError {
    /// The server is not https, and it or the proxy in front of it is not on a loopback
    /// host.
    #[error("the URL must be https; http is only accepted for a loopback host, also through a proxy")]
    Plaintext,
    /// The proxy's URL cannot be used.
    #[error("the proxy URL cannot be used")]
    Proxy,
    /// The client cannot be built.
    #[error("the HTTP client cannot be built")]
    Build,
}

/// Returns the headers that every client adds to a request without them. Setting them in advance is
/// cheaper.
#[must_use]
pub fn default_headers() -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
    // Without it the server may use any content coding (RFC 9110, 12.5.3), and the client decodes
    // none.
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    headers.insert(USER_AGENT, HeaderValue::from_static(PRODUCT));
    headers
}

/// Builds a client with an empty pool of connections. It follows no redirects, keeps no
/// cookies, decompresses nothing and never repeats a request that may have been sent.
#[expect(clippy::disallowed_methods, reason = "the only place that builds HTTP clients")]
pub fn build(settings: &HttpSettings, reuse: ConnectionReuse) -> Result<reqwest::Client, HttpClientError> {
    let server = &settings.server;
    let https_only = server.scheme() == "https";
    let leaves = |url: &Url| !is_loopback(url);
    if !https_only && (leaves(server) || settings.proxy.as_ref().is_some_and(|proxy| leaves(proxy.url()))) {
        return Err(HttpClientError::Plaintext);
    }
    let (idle_timeout, max_idle) = match reuse {
        ConnectionReuse::Never => (None, 0),
        ConnectionReuse::IdleFor(timeout) => (Some(timeout), settings.max_idle_connections),
    };
    let mut builder = reqwest::Client::builder()
        .tls_backend_preconfigured((**settings.tls.config()).clone())
        .https_only(https_only)
        .redirect(reqwest::redirect::Policy::none())
        .referer(false)
        .retry(reqwest::retry::never())
        .no_proxy()
        .default_headers(default_headers())
        .dns_resolver(KnownAddresses { resolver: settings.resolver.clone(), peer: settings.peer() })
        .connect_timeout(settings.connect_timeout)
        .pool_idle_timeout(idle_timeout)
        .pool_max_idle_per_host(max_idle)
        .tcp_nodelay(true)
        // Like browsers: a malformed header that is not read must not fail the response.
        .http1_allow_obsolete_multiline_headers_in_responses(true)
        .http1_allow_spaces_after_header_name_in_responses(true)
        .http1_ignore_invalid_headers_in_responses(true)
        .http2_initial_stream_window_size(STREAM_WINDOW)
        .http2_initial_connection_window_size(CONNECTION_WINDOW)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .http2_keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .http2_keep_alive_while_idle(false)
        .http2_max_header_list_size(MAX_HEADER_LIST_BYTES);
    if settings.header_room() == HeaderRoom::Full {
        builder = builder.http1_max_headers(MAX_HEADER_LINES);
    }
    if let Some(proxy) = &settings.proxy {
        builder =
            builder.proxy(reqwest::Proxy::all(proxy.url().clone()).map_err(|_| HttpClientError::Proxy)?);
    }
    builder.build().map_err(|_| HttpClientError::Build)
}

/// Returns the size of a header list as HTTP/2 counts it (RFC 9113, 6.5.2), in bytes.
#[must_use]
pub fn header_bytes(headers: &HeaderMap) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len() + HEADER_OVERHEAD).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_proxy(server: &str) -> HttpSettings {
        let (server, tls) = (Url::parse(server).unwrap(), ClientTls::new(None).unwrap());
        let mut settings = HttpSettings::new(server, tls, Resolver::for_test());
        let proxy = Url::parse("http://user:canary@proxy.example:3128").unwrap();
        settings.proxy = Some(Proxy::new(proxy, &settings.tls));
        settings
    }

    #[test]
    fn debug_output_contains_no_proxy_password() {
        let shown = format!("{:?} {0:#?}", with_proxy("https://eu2.example"));
        assert!(!shown.contains("canary"), "{shown}");
    }

    #[test]
    fn plaintext_does_not_leave_the_machine_through_a_proxy() {
        assert!(build(&with_proxy("https://eu2.example"), ConnectionReuse::Never).is_ok());
        let plaintext = build(&with_proxy("http://127.0.0.1:8080"), ConnectionReuse::Never);
        assert!(matches!(plaintext, Err(HttpClientError::Plaintext)));
    }
}
