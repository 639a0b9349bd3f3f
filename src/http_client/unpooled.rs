//! HTTP client for rare requests: for access tokens, and for the keys of JWT issuers.

use std::sync::Arc;

use url::Url;

#[cfg(test)]
use super::Resolver;
use super::{ConnectionReuse, HttpClientError, HttpSettings, LookupError, build};

/// HTTP client for rare requests, each of which gets a new connection.
#[derive(Clone, Debug)]
pub struct UnpooledClient {
    client: reqwest::Client,
    settings: Arc<HttpSettings>,
}

impl UnpooledClient {
    /// Creates a client with these settings.
    pub fn new(settings: HttpSettings) -> Result<Self, HttpClientError> {
        Ok(Self { client: build(&settings, ConnectionReuse::Never)?, settings: Arc::new(settings) })
    }

    /// Creates a client of a server on this machine.
    #[cfg(test)]
    pub(crate) fn for_test() -> Self {
        let server = Url::parse("http://127.0.0.1").expect("a URL");
        let tls = super::tls_config(None).expect("the system has authorities");
        Self::new(HttpSettings::new(server, tls, Resolver::for_test())).expect("a client")
    }

    /// Returns the inner client.
    #[must_use]
    pub const fn client(&self) -> &reqwest::Client {
        &self.client
    }

    /// Sends a request that was built with [`client`](Self::client), and records the protocol of
    /// the response. Waits for a name lookup like [`HttpSettings::send`].
    ///
    /// # Errors
    ///
    /// There was no response.
    pub async fn send(&self, request: reqwest::RequestBuilder) -> reqwest::Result<reqwest::Response> {
        let response = self.settings.send(request).await?;
        self.settings.record_protocol(response.version());
        Ok(response)
    }

    /// Fetches a document. The server may use any version of HTTP.
    ///
    /// # Errors
    ///
    /// There was no response.
    pub async fn get(&self, url: Url) -> reqwest::Result<reqwest::Response> {
        self.settings.send(self.client.get(url)).await
    }

    /// Returns the error of a request that timed out because of the name lookup in progress,
    /// as [`HttpSettings::unanswered_lookup`] does.
    #[must_use]
    pub fn unanswered_lookup(&self) -> Option<LookupError> {
        self.settings.unanswered_lookup()
    }

    /// Returns the root cause of a failed request as text for the operator, as
    /// [`HttpSettings::cause_of`] does.
    pub async fn cause_of(&self, error: &reqwest::Error) -> String {
        self.settings.cause_of(error).await
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;
    use crate::http_client::{ClientTls, ConnectError, cause};

    /// Sends a request to a server whose address is found after the duration `lookup`.
    async fn send_by_name(
        url: &str,
        lookup: Duration,
        limit: Duration,
    ) -> reqwest::Result<reqwest::Response> {
        let resolver = Resolver::answering_after(lookup, [127, 0, 0, 1].into());
        let server = Url::parse(url).unwrap();
        let mut settings = HttpSettings::new(server.clone(), ClientTls::new(None).unwrap(), resolver);
        settings.connect_timeout = limit;
        UnpooledClient::new(settings).unwrap().get(server).await
    }

    #[tokio::test]
    async fn connect_timeout_starts_when_the_addresses_are_known() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://localhost:{}", listener.local_addr().unwrap().port());
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            // The client must not accept a response before its request.
            assert_ne!(stream.read(&mut [0; 1024]).await.unwrap(), 0);
            stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
        });
        let (lookup, limit) = (Duration::from_secs(4), Duration::from_secs(3));
        let response = send_by_name(&url, lookup, limit).await.unwrap();
        assert_eq!(response.status(), 204);
    }

    #[tokio::test]
    async fn connect_timeout_includes_the_tls_handshake() {
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://localhost:{}", silent.local_addr().unwrap().port());
        let limit = Duration::from_millis(300);
        let error = send_by_name(&url, Duration::ZERO, limit).await.unwrap_err();
        assert_eq!(ConnectError::from_error(&error), ConnectError::Unreachable);
        assert_eq!(cause::exchange_cause(&error, false), "no connection in time");
        assert!(error.is_connect());
    }
}
