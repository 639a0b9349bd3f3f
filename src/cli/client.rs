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
pub(super) use self::wire::Wire;
use self::{diagnosis::Attempt, wire::Protocol};
use super::{
    endpoint::Address,
    failure::{self, Effect, Failure},
};
use crate::{
    base::{
        clock::{self, Instant},
        text::{Notation, is_unprintable},
    },
    config::{Environment, Process},
    http_client::is_loopback,
    proto,
};

/// Upper bound on establishing a connection, even if the call may take longer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The purpose of a command's call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// A person calls a method that changes something.
    Method,
    /// A probe reads the gateway's health. It must end within its timeout.
    Probe,
}

impl Purpose {
    /// Returns the time for finding the cause of a failure after the timeout.
    const fn grace(self) -> Duration {
        match self {
            Self::Method => Duration::from_millis(500),
            Self::Probe => Duration::ZERO,
        }
    }

    /// Returns the effect of a request that was sent.
    const fn effect(self) -> Effect {
        match self {
            Self::Method => Effect::Unknown,
            Self::Probe => Effect::Nothing,
        }
    }
}

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
    server: Server,
    authorization: Option<MetadataValue<Ascii>>,
    timeout: Duration,
    purpose: Purpose,
}

/// The server of a client.
#[derive(Debug)]
struct Server {
    address: Address,
    /// `None` if the address is from a configuration file.
    options: Option<Box<ClientOptions>>,
}

impl ClientOptions {
    /// Connects. Every call has the deadline `timeout`.
    pub(super) async fn connect(&self, timeout: Duration, purpose: Purpose) -> Result<Client, Failure> {
        let address = self.address()?;
        let limit = timeout.min(CONNECT_TIMEOUT);
        let endpoint = self.endpoint(&address)?.connect_timeout(limit);
        let authorization = self.authorization(&address)?;
        let wire = Wire::default();
        let connected = endpoint.connect_with_connector(wire.connector(limit));
        let server = Server { address, options: Some(Box::new(self.clone())) };
        let client = Client::connected(connected, server, wire, (limit, timeout), purpose).await?;
        Ok(Client { authorization, ..client })
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
    /// Connects a probe to an address from a configuration file. `connected` uses `wire`.
    pub(super) async fn for_probe(
        connected: impl Future<Output = Result<Channel, tonic::transport::Error>>,
        address: Address,
        wire: Wire,
        timeout: Duration,
    ) -> Result<Self, Failure> {
        let server = Server { address, options: None };
        Self::connected(connected, server, wire, (timeout, timeout), Purpose::Probe).await
    }

    /// Awaits the connection, and diagnoses a failure. `limit` ends the connection attempt, and
    /// `timeout` the diagnosis. Calls carry no credential.
    async fn connected(
        connected: impl Future<Output = Result<Channel, tonic::transport::Error>>,
        server: Server,
        wire: Wire,
        (limit, timeout): (Duration, Duration),
        purpose: Purpose,
    ) -> Result<Self, Failure> {
        let until = clock::now() + timeout;
        match connected.await {
            Ok(channel) => {
                let channel = GrpcChannel { channel, wire };
                Ok(Self { channel, server, authorization: None, timeout, purpose })
            }
            Err(error) => {
                let until = until.max(clock::now() + purpose.grace());
                let attempt = Attempt { waited: limit, until, effect: Effect::Nothing };
                Err(diagnosis::diagnose(&server, &wire, &error, attempt).await)
            }
        }
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
        let (timeout, effect) = (self.timeout, self.purpose.effect());
        match self.channel.wire.protocol() {
            Protocol::Silent => {
                Failure::Silent { endpoint: self.server.address.to_string(), timeout, effect }
            }
            _ => Failure::NoAnswer { timeout, effect },
        }
    }

    /// Returns the failure for a status. Only a status about the connection has a source.
    async fn failure(&self, status: Status, until: Instant) -> Failure {
        let wire = &self.channel.wire;
        if let Some(response) = wire.foreign_response() {
            return diagnosis::foreign(&self.server.address.to_string(), &response);
        }
        let Some(cause) = status.source() else { return status.into() };
        let until = until.max(clock::now() + self.purpose.grace());
        let attempt = Attempt { waited: self.timeout, until, effect: self.purpose.effect() };
        diagnosis::diagnose(&self.server, wire, cause, attempt).await
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
