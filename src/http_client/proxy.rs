//! Proxies, and the HTTP status with which they refuse a tunnel.
//!
//! The HTTP library drops this status, but operators need it: 403 means a rule, 502 a name that the
//! proxy cannot resolve, 503 an overload. The tunnel is therefore requested again here, on a
//! separate connection, and only the status line is read.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;
use url::{Position, Url};
use zeroize::Zeroizing;

use super::{
    ClientTls, Resolver,
    cause::{Causes, NO_CONNECTION},
    is_loopback,
};
use crate::base::clock::{self, Instant};

/// Text of the HTTP library for a tunnel that was refused with any status but 407.
const REFUSED: &str = "tunnel error: unsuccessful";
/// Text of the HTTP library for a tunnel that was refused with 407.
const UNAUTHENTICATED: &str = "tunnel error: proxy authorization required";
/// Text of the HTTP library for a connection to the proxy that was not opened.
const UNCONNECTED: &str = "tunnel error: failed to create underlying connection";
/// Text of the HTTP library for a connection that the proxy closed before it responded.
const CLOSED: &str = "tunnel error: unexpected end of file";
/// Text of the HTTP library for a connection that broke before the proxy responded.
const BROKEN: &str = "tunnel error: io error establishing tunnel";
/// Maximum duration of the request for the status.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Time for which a result is reused, so that requests to a proxy that refuses tunnels do not
/// double.
const REUSE: Duration = Duration::from_secs(1);
/// Maximum size of a status line, in bytes.
const MAX_STATUS_LINE: usize = 1024;

/// URL of a proxy. It may contain a user and a password, which `Debug` hides.
#[derive(Clone, PartialEq, Eq)]
pub struct ProxyUrl(Url);

impl ProxyUrl {
    /// Wraps the URL of a proxy.
    #[must_use]
    pub const fn new(url: Url) -> Self {
        Self(url)
    }

    /// Returns the URL, including user and password.
    #[must_use]
    pub const fn expose(&self) -> &Url {
        &self.0
    }

    /// Returns whether the proxy is on this machine.
    #[must_use]
    pub fn is_on_loopback(&self) -> bool {
        is_loopback(&self.0)
    }
}

impl fmt::Debug for ProxyUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (host, port) = (self.0.host_str().unwrap_or_default(), self.0.port_or_known_default());
        write!(f, "{}://{host}:{}", self.0.scheme(), port.unwrap_or_default())
    }
}

/// A proxy. Its URL may contain a password, which `Debug` does not show.
#[derive(Clone)]
pub struct Proxy {
    url: Url,
    tls: Arc<ClientConfig>,
    last: Arc<Mutex<Option<LastStatus>>>,
}

/// When the status was last requested, and the result.
#[derive(Clone, Copy)]
struct LastStatus {
    at: Instant,
    status: Option<u16>,
}

impl Proxy {
    /// Creates a proxy. `tls` is used if the URL is https.
    #[must_use]
    pub fn new(url: Url, tls: &ClientTls) -> Self {
        let mut tls = (**tls.config()).clone();
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        Self { url, tls: Arc::new(tls), last: Arc::default() }
    }

    /// Returns its URL, with user and password if there are any.
    #[must_use]
    pub const fn url(&self) -> &Url {
        &self.url
    }

    /// Explains the cause of a failed request to `server`: names the proxy if it could not be
    /// reached, and adds the status with which it refused the tunnel. Returns any other cause
    /// unchanged.
    pub(super) async fn explain(
        &self,
        error: &reqwest::Error,
        cause: String,
        server: &Url,
        resolver: &Resolver,
    ) -> String {
        let proxy = self.host_and_port();
        let has_cause = |text: &str| Causes::from_error(error).any(|cause| cause.to_string() == text);
        if cause == NO_CONNECTION {
            return format!("no connection through the proxy {proxy} in time");
        }
        // Without a tunnel, the only connection is that to the proxy.
        if has_cause(UNCONNECTED) || server.scheme() == "http" && error.is_connect() {
            return format!("cannot connect to the proxy {proxy}: {cause}");
        }
        if cause == CLOSED {
            return format!("the proxy {proxy} closed the connection before the tunnel was open");
        }
        if has_cause(BROKEN) {
            return format!("the connection to the proxy {proxy} was lost: {cause}");
        }
        if cause == UNAUTHENTICATED {
            return "the proxy refused the tunnel with HTTP status 407 (proxy authentication)".to_owned();
        }
        if cause != REFUSED {
            return cause;
        }
        match self.status(server, resolver).await {
            Some(status) => format!("the proxy refused the tunnel with HTTP status {status}"),
            None => "the proxy refused the tunnel".to_owned(),
        }
    }

    /// Returns host and port for display, without user and password.
    fn host_and_port(&self) -> String {
        let (host, port) = (self.url.host_str().unwrap_or_default(), self.url.port_or_known_default());
        format!("{host}:{}", port.unwrap_or_default())
    }

    async fn status(&self, server: &Url, resolver: &Resolver) -> Option<u16> {
        let now = clock::now();
        let last = *self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(last) = last.filter(|last| now < last.at + REUSE) {
            return last.status;
        }
        let status = timeout(TIMEOUT, self.request_status(server, resolver)).await.ok().flatten();
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(LastStatus { at: now, status });
        status
    }

    async fn request_status(&self, server: &Url, resolver: &Resolver) -> Option<u16> {
        let host = self.url.host_str()?;
        let port = self.url.port_or_known_default()?;
        let addresses = match host.trim_matches(['[', ']']).parse::<IpAddr>() {
            Ok(address) => [address].into(),
            Err(_) => resolver.host(host).addresses().await.ok()?,
        };
        let addresses: Vec<_> = addresses.iter().map(|ip| SocketAddr::new(*ip, port)).collect();
        let stream = TcpStream::connect(&*addresses).await.ok()?;
        if self.url.scheme() == "https" {
            let name = ServerName::try_from(host.to_owned()).ok()?;
            let connector = TlsConnector::from(Arc::clone(&self.tls));
            return self.request_status_over(connector.connect(name, stream).await.ok()?, server).await;
        }
        self.request_status_over(stream, server).await
    }

    async fn request_status_over(
        &self,
        mut stream: impl AsyncRead + AsyncWrite + Unpin,
        server: &Url,
    ) -> Option<u16> {
        stream.write_all(&self.request(server)?).await.ok()?;
        let mut line = Vec::new();
        while !line.contains(&b'\n') && line.len() < MAX_STATUS_LINE {
            if stream.read_buf(&mut line).await.ok()? == 0 {
                break;
            }
        }
        status_of(&line)
    }

    fn request(&self, server: &Url) -> Option<Zeroizing<Vec<u8>>> {
        let port = server.port_or_known_default()?;
        let authority = format!("{}:{port}", &server[Position::BeforeHost..Position::AfterHost]);
        let mut request = Zeroizing::new(format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n"));
        if !self.url.username().is_empty() || self.url.password().is_some() {
            let decode = |text: &str| percent_encoding::percent_decode_str(text).collect::<Vec<u8>>();
            let mut pair = Zeroizing::new(decode(self.url.username()));
            pair.push(b':');
            pair.extend(decode(self.url.password().unwrap_or_default()));
            let encoded = Zeroizing::new(STANDARD.encode(&*pair));
            request.push_str("Proxy-Authorization: Basic ");
            request.push_str(&encoded);
            request.push_str("\r\n");
        }
        request.push_str("\r\n");
        Some(Zeroizing::new(request.as_bytes().to_vec()))
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy").field("host", &self.url.host_str()).finish_non_exhaustive()
    }
}

/// Returns the status in a line such as `HTTP/1.1 403 Forbidden`.
fn status_of(line: &[u8]) -> Option<u16> {
    let text = std::str::from_utf8(line.get(..12)?).ok()?;
    let status = text.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..))?;
    status.parse().ok().filter(|status| (100..600).contains(status))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_status_line_has_a_status() {
        assert_eq!(status_of(b"HTTP/1.1 403 Forbidden\r\n"), Some(403));
        assert_eq!(status_of(b"HTTP/1.0 502\r\n"), Some(502));
        for line in
            [&b""[..], b"HTTP/1.1 ", b"HTTP/2 403 Forbidden", b"SSH-2.0-OpenSSH", b"HTTP/1.1 999 x\r\n"]
        {
            assert_eq!(status_of(line), None, "{line:?}");
        }
    }

    #[test]
    fn tunnel_request_carries_the_proxy_credentials() {
        let tls = crate::http_client::tls_config(None).unwrap();
        let proxy = Proxy::new("http://us%40er:p%3Ass@[::1]:3128".parse().unwrap(), &tls);
        let request = proxy.request(&"https://eu2.example/api/2".parse().unwrap()).unwrap();
        assert_eq!(
            std::str::from_utf8(&request).unwrap(),
            "CONNECT eu2.example:443 HTTP/1.1\r\nHost: eu2.example:443\r\n\
             Proxy-Authorization: Basic dXNAZXI6cDpzcw==\r\n\r\n"
        );
    }
}
