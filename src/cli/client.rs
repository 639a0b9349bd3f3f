//! The gRPC client of the commands that talk to a running gateway.
//!
//! It connects, and shows a message as JSON; what is asked is in the
//! commands.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use prost_reflect::{DescriptorPool, DynamicMessage};
use tonic::{
    Code, Request, Response, Status,
    metadata::MetadataValue,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};
use url::Url;
use zeroize::Zeroizing;

use super::failure::{self, Failure};
use crate::{
    http_client::is_loopback,
    proto,
    text::{Notation, is_unprintable},
};

/// Establishing a connection takes no longer than this, however long the call may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Where the gateway is, and who is calling.
#[derive(Clone, Debug, Args)]
pub(super) struct ClientOptions {
    /// The gateway: http://HOST:PORT, or https://HOST:PORT for TLS
    #[arg(
        long,
        value_name = "URL",
        default_value = "http://127.0.0.1:50051",
        env = "OTT_GATEWAY_ENDPOINT",
        hide_env_values = true,
        help_heading = CONNECTION
    )]
    endpoint: Url,
    /// Authorities (PEM) to believe instead of the system's
    #[arg(long, value_name = "FILE", help_heading = CONNECTION)]
    ca_file: Option<PathBuf>,
    /// Our certificate chain (PEM), if the gateway asks for one
    #[arg(long, value_name = "FILE", requires = "private_key_file", help_heading = CONNECTION)]
    certificate_file: Option<PathBuf>,
    /// The key (PEM) of our certificate
    #[arg(long, value_name = "FILE", requires = "certificate_file", help_heading = CONNECTION)]
    private_key_file: Option<PathBuf>,
    /// The name that the gateway's certificate must have, if not the endpoint's
    #[arg(long, value_name = "NAME", help_heading = CONNECTION)]
    server_name: Option<String>,
    /// A file with the bearer token (or JWT) that proves who is calling
    #[arg(long, value_name = "FILE", help_heading = CONNECTION)]
    bearer_token_file: Option<PathBuf>,
}

const CONNECTION: &str = "Connection";

/// A connection to a gateway, and what every call on it carries.
#[derive(Debug)]
pub(super) struct Client {
    channel: Channel,
    authorization: Option<MetadataValue<tonic::metadata::Ascii>>,
    timeout: Duration,
    /// Whether it may be for want of a certificate of ours that a connection is closed.
    may_lack_certificate: bool,
}

impl ClientOptions {
    /// Connects; every call gets the deadline `timeout`.
    pub(super) async fn connect(&self, timeout: Duration) -> Result<Client, Failure> {
        let endpoint = self.endpoint()?.connect_timeout(timeout.min(CONNECT_TIMEOUT));
        let authorization = self.authorization()?;
        let channel = endpoint.connect().await.map_err(|error| Failure::Connect {
            endpoint: self.endpoint.to_string(),
            cause: failure::chain(&error),
        })?;
        let may_lack_certificate = self.endpoint.scheme() == "https" && self.certificate_file.is_none();
        Ok(Client { channel, authorization, timeout, may_lack_certificate })
    }

    fn endpoint(&self) -> Result<Endpoint, Failure> {
        let url = &self.endpoint;
        if !url.has_host() || !url.username().is_empty() || url.password().is_some() || url.path() != "/" {
            return Err(Failure::Usage(
                "--endpoint must be http://HOST:PORT or https://HOST:PORT".to_owned(),
            ));
        }
        let endpoint =
            Endpoint::from_shared(url.to_string()).map_err(|error| Failure::Usage(failure::chain(&error)))?;
        match url.scheme() {
            "https" => endpoint.tls_config(self.tls()?).map_err(|error| {
                Failure::Usage(format!("the TLS options do not fit together: {}", failure::chain(&error)))
            }),
            "http" if self.wants_tls() => Err(Failure::Usage(
                "TLS options are given, but --endpoint begins with http://; write https://".to_owned(),
            )),
            "http" => Ok(endpoint),
            _ => Err(Failure::Usage("--endpoint must begin with http:// or https://".to_owned())),
        }
    }

    const fn wants_tls(&self) -> bool {
        self.ca_file.is_some() || self.certificate_file.is_some() || self.server_name.is_some()
    }

    fn tls(&self) -> Result<ClientTlsConfig, Failure> {
        let mut tls = ClientTlsConfig::new();
        tls = match &self.ca_file {
            Some(path) => tls.ca_certificate(Certificate::from_pem(read("--ca-file", path)?)),
            None => tls.with_native_roots(),
        };
        if let Some(name) = &self.server_name {
            tls = tls.domain_name(name);
        }
        if let (Some(certificate), Some(key)) = (&self.certificate_file, &self.private_key_file) {
            let certificate = read("--certificate-file", certificate)?;
            tls = tls.identity(Identity::from_pem(certificate, read("--private-key-file", key)?));
        }
        Ok(tls)
    }

    fn authorization(&self) -> Result<Option<MetadataValue<tonic::metadata::Ascii>>, Failure> {
        let Some(path) = &self.bearer_token_file else { return Ok(None) };
        if self.endpoint.scheme() == "http" && !is_loopback(&self.endpoint) {
            return Err(Failure::Usage(
                "--bearer-token-file needs an https:// endpoint: anybody on the way could read the token"
                    .to_owned(),
            ));
        }
        let content = read("--bearer-token-file", path)?;
        let token = std::str::from_utf8(&content).map(str::trim).unwrap_or_default();
        let header = Zeroizing::new(format!("Bearer {token}"));
        let mut value = MetadataValue::try_from(header.as_str())
            .ok()
            .filter(|_| !token.is_empty())
            .ok_or_else(|| Failure::Usage("--bearer-token-file must hold one token".to_owned()))?;
        value.set_sensitive(true);
        Ok(Some(value))
    }
}

impl Client {
    /// A client on a channel that is already connected. Calls carry no credential.
    pub(super) const fn on_channel(channel: Channel, timeout: Duration) -> Self {
        Self { channel, authorization: None, timeout, may_lack_certificate: false }
    }

    /// The connection itself.
    pub(super) fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// Waits for the answer to a request, no longer than the deadline that it carries.
    pub(super) async fn answer<T>(
        &self,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, Failure> {
        // The transport has a timer of its own for that deadline and calls it CANCELLED;
        // ours was started first and is asked first.
        tokio::select! {
            biased;
            () = tokio::time::sleep(self.timeout) => Err(Failure::NoAnswer { timeout: self.timeout }),
            answer = call => answer.map(Response::into_inner).map_err(|status| self.failure(status)),
        }
    }

    /// In TLS 1.3 a client notices only after its own handshake, from a closed connection,
    /// that it should have shown a certificate (RFC 8446, section 4.4.2.4). A status that
    /// was sent has no source; one about the connection has.
    fn failure(&self, status: Status) -> Failure {
        match std::error::Error::source(&status) {
            Some(cause)
                if self.may_lack_certificate
                    && matches!(status.code(), Code::Cancelled | Code::Unknown | Code::Unavailable) =>
            {
                Failure::Closed { cause: failure::chain(cause) }
            }
            _ => status.into(),
        }
    }

    /// A request with the deadline and the proof of who is calling.
    pub(super) fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(self.timeout);
        if let Some(authorization) = &self.authorization {
            request.metadata_mut().insert("authorization", authorization.clone());
        }
        request
    }
}

/// A message of the contract in the JSON mapping of Protocol Buffers.
pub(super) fn json(name: &str, message: &impl prost::Message) -> Result<String, Failure> {
    let failed = |what: &dyn std::error::Error| {
        Failure::Failed(format!("the answer cannot be shown as JSON: {}", failure::chain(what)))
    };
    let pool = DescriptorPool::decode(proto::FILE_DESCRIPTOR_SET).map_err(|error| failed(&error))?;
    let descriptor = pool.get_message_by_name(name).ok_or_else(|| {
        Failure::Failed(format!("the contract has no message {name}, which its own code uses"))
    })?;
    let mut dynamic = DynamicMessage::new(descriptor);
    dynamic.transcode_from(message).map_err(|error| failed(&error))?;
    let json = serde_json::to_string_pretty(&dynamic).map_err(|error| failed(&error))?;
    Ok(printable_json(&json))
}

/// The same JSON without an unprintable character. Those that are left by now are part of a
/// string, except for the line breaks between members.
fn printable_json(json: &str) -> String {
    let is_raw = |character| character != '\n' && is_unprintable(character);
    let mut printable = String::with_capacity(json.len());
    for character in json.chars() {
        if is_raw(character) {
            // Memory takes any text.
            let _ = Notation::Json.write_escape(character, &mut printable);
        } else {
            printable.push(character);
        }
    }
    printable
}

/// Runs a command that talks to a gateway.
pub(super) fn block_on<T>(command: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Failed(format!("cannot start: {}", error.kind())))?
        .block_on(command)
}

fn read(argument: &'static str, path: &Path) -> Result<Zeroizing<Vec<u8>>, Failure> {
    fs::read(path).map(Zeroizing::new).map_err(|error: io::Error| Failure::File {
        argument,
        path: path.to_path_buf(),
        kind: error.kind(),
    })
}
