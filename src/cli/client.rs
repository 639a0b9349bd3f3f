//! The gRPC client of the commands that call a running gateway.
//!
//! It connects, and formats messages as JSON. The commands send the requests.

mod diagnosis;
mod files;
mod wire;

use std::{error::Error, path::PathBuf, time::Duration};

use clap::Args;
use prost_reflect::{DescriptorPool, DynamicMessage};
use tonic::{
    Request, Response, Status,
    metadata::{Ascii, MetadataValue},
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};

pub(super) use self::wire::GrpcChannel;
use self::{
    diagnosis::Budget,
    wire::{Protocol, Wire},
};
use super::{
    endpoint::Address,
    failure::{self, Failure},
};
use crate::{
    base::{
        clock::{self, Instant},
        text::{Notation, is_unprintable},
    },
    config::{Environment, Process},
    http_client::{cause::root_cause, is_loopback},
    proto,
};

/// Upper bound on establishing a connection, even if the call may take longer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Time for finding the cause of a failure after the timeout of a command for people. A probe has
/// none.
pub(super) const DIAGNOSIS_GRACE: Duration = Duration::from_millis(500);

/// The address of the gateway, and the caller's credential.
#[derive(Clone, Debug, Args)]
pub(super) struct ClientOptions {
    /// URL of the gateway: http://HOST:PORT, or https://HOST:PORT for TLS
    #[arg(
        long,
        value_name = "URL",
        default_value = "http://127.0.0.1:50051",
        env = ENDPOINT_VARIABLE,
        hide_env_values = true,
        help_heading = CONNECTION
    )]
    endpoint: String,
    /// Trust these authorities (PEM) instead of the system's
    #[arg(long, value_name = "FILE", help_heading = CONNECTION)]
    ca_file: Option<PathBuf>,
    /// Present this client certificate chain (PEM) if the gateway requests one
    #[arg(long, value_name = "FILE", requires = "private_key_file", help_heading = CONNECTION)]
    certificate_file: Option<PathBuf>,
    /// Private key (PEM) of the client certificate
    #[arg(long, value_name = "FILE", requires = "certificate_file", help_heading = CONNECTION)]
    private_key_file: Option<PathBuf>,
    /// Expect this name in the gateway's certificate instead of the endpoint's host
    #[arg(long, value_name = "NAME", help_heading = CONNECTION)]
    server_name: Option<String>,
    /// Authenticate with the bearer token (or JWT) in this file
    #[arg(long, value_name = "FILE", help_heading = CONNECTION)]
    bearer_token_file: Option<PathBuf>,
}

const CONNECTION: &str = "Connection";
const ENDPOINT_VARIABLE: &str = "OTT_GATEWAY_ENDPOINT";

/// A connection to a gateway, with the credential and the timeout of every call.
#[derive(Debug)]
pub(super) struct Client {
    channel: GrpcChannel,
    target: Target,
    authorization: Option<MetadataValue<Ascii>>,
    timeout: Duration,
    /// See [`ClientOptions::connect`].
    grace: Duration,
}

/// The server that a client is connected to.
#[derive(Debug)]
enum Target {
    /// The endpoint of the options.
    Endpoint(Address, Box<ClientOptions>),
    /// An address from elsewhere.
    Other(String),
}

impl ClientOptions {
    /// Connects. Every call has the deadline `timeout`. Once it has passed, the diagnosis of a failure
    /// takes at most `grace`.
    pub(super) async fn connect(&self, timeout: Duration, grace: Duration) -> Result<Client, Failure> {
        let until = clock::now() + timeout;
        let address = self.address()?;
        let limit = timeout.min(CONNECT_TIMEOUT);
        let endpoint = self.endpoint(&address)?.connect_timeout(limit);
        let authorization = self.authorization(&address)?;
        let wire = Wire::default();
        match endpoint.connect_with_connector(wire.connector(limit)).await {
            Ok(channel) => Ok(Client {
                channel: GrpcChannel { channel, wire },
                target: Target::Endpoint(address, Box::new(self.clone())),
                authorization,
                timeout,
                grace,
            }),
            Err(error) => {
                let budget = Budget { waited: limit, until: until.max(clock::now() + grace) };
                Err(diagnosis::diagnose(self, &address, &wire, &error, budget).await)
            }
        }
    }

    fn address(&self) -> Result<Address, Failure> {
        Address::parse(&self.endpoint).map_err(|rule| {
            let is_variable = Process.value(ENDPOINT_VARIABLE).is_some_and(|value| *value == *self.endpoint);
            let name = if is_variable { ENDPOINT_VARIABLE } else { "--endpoint" };
            Failure::Usage(format!("{name} {rule}"))
        })
    }

    fn endpoint(&self, address: &Address) -> Result<Endpoint, Failure> {
        let endpoint = Endpoint::from_shared(address.url().to_string())
            .map_err(|error| Failure::Usage(failure::chain(&error)))?;
        if address.is_tls() {
            return endpoint.tls_config(self.tls()?).map_err(|error| {
                Failure::Usage(format!("the TLS options are not valid: {}", failure::chain(&error)))
            });
        }
        match self.tls_option() {
            Some(option) => Err(Failure::Usage(format!(
                "{option} requires TLS, but the endpoint begins with http://; write {}",
                address.with_other_scheme()
            ))),
            None => Ok(endpoint),
        }
    }

    /// Returns the first option that requires TLS.
    fn tls_option(&self) -> Option<&'static str> {
        [
            ("--ca-file", self.ca_file.is_some()),
            ("--certificate-file", self.certificate_file.is_some()),
            ("--server-name", self.server_name.is_some()),
        ]
        .into_iter()
        .find_map(|(option, is_given)| is_given.then_some(option))
    }

    fn tls(&self) -> Result<ClientTlsConfig, Failure> {
        let mut tls = ClientTlsConfig::new();
        tls = match &self.ca_file {
            Some(path) => tls.ca_certificate(Certificate::from_pem(files::authorities("--ca-file", path)?)),
            None => tls.with_native_roots(),
        };
        if let Some(name) = &self.server_name {
            if rustls::pki_types::ServerName::try_from(name.as_str()).is_err() {
                return Err(Failure::Usage(
                    "--server-name must be a host name or an IP address, without scheme or port".to_owned(),
                ));
            }
            tls = tls.domain_name(name);
        }
        if let (Some(certificate), Some(key)) = (&self.certificate_file, &self.private_key_file) {
            let [certificate, key] = files::identity(certificate, key)?;
            tls = tls.identity(Identity::from_pem(certificate, key));
        }
        Ok(tls)
    }

    fn authorization(&self, address: &Address) -> Result<Option<MetadataValue<Ascii>>, Failure> {
        let Some(path) = &self.bearer_token_file else { return Ok(None) };
        if !address.is_tls() && !is_loopback(address.url()) {
            return Err(Failure::Usage(format!(
                "--bearer-token-file needs TLS, because anyone on the network could read the token; write {}",
                address.with_other_scheme()
            )));
        }
        files::authorization(path).map(Some)
    }
}

impl Client {
    /// Creates a client on a channel that is connected to `endpoint`. Calls carry no credential.
    pub(super) fn on_channel(channel: Channel, endpoint: String, timeout: Duration) -> Self {
        let channel = GrpcChannel { channel, wire: Wire::default() };
        let target = Target::Other(endpoint);
        Self { channel, target, authorization: None, timeout, grace: Duration::ZERO }
    }

    /// Returns the connection.
    pub(super) fn channel(&self) -> GrpcChannel {
        self.channel.clone()
    }

    /// Waits for the response to a request until its deadline.
    pub(super) async fn answer<T>(
        &self,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, Failure> {
        let until = clock::now() + self.timeout;
        // The transport has its own timer for the deadline and reports CANCELLED. Ours is polled first.
        tokio::select! {
            biased;
            () = tokio::time::sleep(self.timeout) => Err(self.no_answer()),
            answer = call => match answer {
                Ok(answer) => Ok(answer.into_inner()),
                Err(status) => Err(self.failure(status, until).await),
            },
        }
    }

    fn no_answer(&self) -> Failure {
        match &self.target {
            Target::Endpoint(address, _) if self.channel.wire.protocol() == Protocol::Silent => {
                Failure::Silent { endpoint: address.to_string(), timeout: self.timeout }
            }
            _ => Failure::NoAnswer { timeout: self.timeout },
        }
    }

    /// Returns the failure for a status. Only a status about the connection has a source.
    async fn failure(&self, status: Status, until: Instant) -> Failure {
        let wire = &self.channel.wire;
        if let Some(response) = wire.foreign_response() {
            return diagnosis::foreign(&self.target.to_string(), &response);
        }
        match (status.source(), &self.target) {
            (Some(cause), Target::Endpoint(address, options)) => {
                let budget = Budget { waited: self.timeout, until: until.max(clock::now() + self.grace) };
                diagnosis::diagnose(options, address, wire, cause, budget).await
            }
            (Some(cause), Target::Other(endpoint)) => {
                Failure::Connect { endpoint: endpoint.clone(), cause: root_cause(cause) }
            }
            (None, _) => status.into(),
        }
    }

    /// Creates a request with the deadline and the caller's credential.
    pub(super) fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(self.timeout);
        if let Some(authorization) = &self.authorization {
            request.metadata_mut().insert("authorization", authorization.clone());
        }
        request
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Endpoint(address, _) => address.fmt(f),
            Self::Other(endpoint) => endpoint.fmt(f),
        }
    }
}

/// A message of the contract in the JSON mapping of Protocol Buffers.
pub(super) fn json(name: &str, message: &impl prost::Message) -> Result<String, Failure> {
    let failed = |what: &dyn Error| {
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

/// Escapes unprintable characters of JSON. All of them are within strings, except the line breaks
/// between members.
fn printable_json(json: &str) -> String {
    let is_raw = |character| character != '\n' && is_unprintable(character);
    let mut printable = String::with_capacity(json.len());
    for character in json.chars() {
        if is_raw(character) {
            // Writing to a string cannot fail.
            let _ = Notation::Json.write_escape(character, &mut printable);
        } else {
            printable.push(character);
        }
    }
    printable
}

/// Runs a command that calls a gateway.
pub(super) fn block_on<T>(command: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Failed(format!("cannot start: {}", error.kind())))?;
    let done = runtime.block_on(command);
    // A name lookup cannot be cancelled. Dropping the runtime would wait for its end.
    runtime.shutdown_background();
    done
}
