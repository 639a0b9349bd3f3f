//! The HTTP client, made with all its limits.
//!
//! What is sent is decided elsewhere.

use std::{
    fmt,
    net::{SocketAddr, ToSocketAddrs},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use http::{HeaderMap, HeaderValue, header::ACCEPT};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use rustls::ClientConfig;
use tokio::sync::Semaphore;
use url::Url;

use super::is_loopback;
use crate::clock::{self, Instant};

const USER_AGENT: &str = concat!("ott-gateway/", env!("CARGO_PKG_VERSION"));

/// Idle connections end before a server's usual minute does.
const POOL_IDLE: Duration = Duration::from_secs(30);
const POOL_MAX_IDLE: usize = 32;
/// A peer that vanished without a word is noticed while requests wait for it.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// More than the cookies of a login may take, so that too many get their own error.
const MAX_HEADER_LIST_BYTES: u32 = 64 * 1024;
/// Name lookups block a thread each, for as long as the resolver likes.
const MAX_LOOKUPS: usize = 8;

/// What an HTTP client is made from.
#[derive(Clone)]
pub struct HttpSettings {
    /// The server that it talks to: plain http only if that is the loopback.
    pub server: Url,
    /// Whom it trusts; made once, shared by all clients ([`tls_config`](super::tls_config)).
    pub tls: Arc<ClientConfig>,
    /// A proxy; the environment is never asked for one. May have a password in it. Plain
    /// http goes only through one that is on the loopback.
    pub proxy_url: Option<Url>,
    /// For the whole of connecting: the name, TCP, TLS. 2 s.
    pub connect_timeout: Duration,
    /// After this a new client, with new connections, follows changes in DNS. 10 min.
    pub rebuild_after: Duration,
}

impl HttpSettings {
    /// Settings without a proxy, with the usual times.
    #[must_use]
    pub const fn new(server: Url, tls: Arc<ClientConfig>) -> Self {
        Self {
            server,
            tls,
            proxy_url: None,
            connect_timeout: Duration::from_secs(2),
            rebuild_after: Duration::from_mins(10),
        }
    }
}

impl fmt::Debug for HttpSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpSettings")
            .field("server", &self.server.as_str())
            .field("has_proxy", &self.proxy_url.is_some())
            .field("connect_timeout", &self.connect_timeout)
            .field("rebuild_after", &self.rebuild_after)
            .finish_non_exhaustive()
    }
}

/// Why there is no HTTP client.
#[derive(Debug, thiserror::Error)]
pub enum HttpClientError {
    /// The server is not https, and it or the proxy on the way there is not on the
    /// loopback.
    #[error("the URL must be https; http is only for the loopback, also on the way through a proxy")]
    Plaintext,
    /// The proxy's URL cannot be used.
    #[error("the proxy URL cannot be used")]
    Proxy,
    /// The client cannot be built.
    #[error("the HTTP client cannot be built")]
    Build,
}

/// One HTTP client with its own pool of connections.
pub struct HttpClient {
    settings: HttpSettings,
    current: Mutex<(reqwest::Client, Instant)>,
}

impl HttpClient {
    /// A client with an empty pool.
    pub fn new(settings: HttpSettings) -> Result<Self, HttpClientError> {
        let client = build(&settings)?;
        Ok(Self { settings, current: Mutex::new((client, clock::now())) })
    }

    /// The client to use now; rebuilt when it has become old. What is under way on the
    /// old one runs to its end.
    #[must_use]
    pub fn current(&self) -> reqwest::Client {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let (client, built) = &mut *current;
        if built.elapsed() >= self.settings.rebuild_after {
            match build(&self.settings) {
                Ok(rebuilt) => *client = rebuilt,
                Err(error) => tracing::warn!(%error, "the HTTP client could not be renewed"),
            }
            *built = clock::now();
        }
        client.clone()
    }
}

impl fmt::Debug for HttpClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpClient").finish_non_exhaustive()
    }
}

#[expect(clippy::disallowed_methods, reason = "the one place that makes HTTP clients")]
fn build(settings: &HttpSettings) -> Result<reqwest::Client, HttpClientError> {
    let base = &settings.server;
    let https_only = base.scheme() == "https";
    let leaves = |url: &Url| !is_loopback(url);
    if !https_only && (leaves(base) || settings.proxy_url.as_ref().is_some_and(leaves)) {
        return Err(HttpClientError::Plaintext);
    }
    let mut headers = HeaderMap::new();
    headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
    let mut builder = reqwest::Client::builder()
        .tls_backend_preconfigured((*settings.tls).clone())
        .https_only(https_only)
        .redirect(reqwest::redirect::Policy::none())
        .referer(false)
        .retry(reqwest::retry::never())
        .no_proxy()
        .user_agent(USER_AGENT)
        .default_headers(headers)
        .dns_resolver(Lookups::new())
        .connect_timeout(settings.connect_timeout)
        .pool_idle_timeout(POOL_IDLE)
        .pool_max_idle_per_host(POOL_MAX_IDLE)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .http2_keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .http2_keep_alive_while_idle(false)
        .http2_max_header_list_size(MAX_HEADER_LIST_BYTES);
    if let Some(url) = &settings.proxy_url {
        builder = builder.proxy(reqwest::Proxy::all(url.clone()).map_err(|_| HttpClientError::Proxy)?);
    }
    builder.build().map_err(|_| HttpClientError::Build)
}

/// The system's name lookup, a few at a time: one that hangs holds a thread of the
/// runtime, whether or not anyone still waits for it.
struct Lookups(Arc<Semaphore>);

impl Lookups {
    fn new() -> Self {
        Self(Arc::new(Semaphore::new(MAX_LOOKUPS)))
    }
}

impl Resolve for Lookups {
    fn resolve(&self, name: Name) -> Resolving {
        let permits = Arc::clone(&self.0);
        Box::pin(async move {
            let permit = permits.acquire_owned().await?;
            let addresses = tokio::task::spawn_blocking(move || {
                let _until_the_lookup_ends = permit;
                // Port 0 stands for the one of the URL.
                (name.as_str(), 0).to_socket_addrs().map(Iterator::collect::<Vec<SocketAddr>>)
            })
            .await??;
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use rustls::{RootCertStore, crypto::aws_lc_rs};

    use super::*;

    fn with_proxy(server: &str) -> HttpSettings {
        let tls = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        let mut settings = HttpSettings::new(Url::parse(server).unwrap(), Arc::new(tls));
        settings.proxy_url = Some(Url::parse("http://user:canary@proxy.example:3128").unwrap());
        settings
    }

    #[test]
    fn the_password_of_a_proxy_is_not_shown() {
        let shown = format!("{:?} {0:#?}", with_proxy("https://eu2.example"));
        assert!(!shown.contains("canary"), "{shown}");
    }

    #[test]
    fn plaintext_does_not_leave_the_machine_through_a_proxy() {
        assert!(HttpClient::new(with_proxy("https://eu2.example")).is_ok());
        let plaintext = HttpClient::new(with_proxy("http://127.0.0.1:8080"));
        assert!(matches!(plaintext, Err(HttpClientError::Plaintext)));
    }
}
