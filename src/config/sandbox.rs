//! The built-in configuration of the sandbox.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use url::Url;

use super::{
    Admin, ApiClient, ApiClients, Callers, Config, Document, Environment, Errors, Place, Problem, Server,
    Telemetry, finding::Findings, log_level, section::Section, tree::Table,
};
use crate::{
    access::{Rate, RuleSettings, Settings as AccessSettings},
    base::secret::client_secret::ClientSecret,
    caller::ANONYMOUS,
    credential::{self, ClientId, SecretSource},
    domain::ott::Users,
    http_client::ConnectionSettings,
    observe::{
        audit::{Settings as AuditSettings, Sink},
        telemetry::logging::Format,
    },
    platform::{self, data_center::DataCenter},
    server::{self, DrainTimes, Transport},
    token_binding::{KeySource, Keys, Mode, NoRandomness},
};

/// Name and client id of its API client.
const NAME: &str = "sandbox";

impl Config {
    /// Returns the configuration of the sandbox: the simulated platform at `platform_url`, the API
    /// client `sandbox` with this secret, all callers allowed, reflection on; admin, audit, quotas and
    /// the breaker off. `RUST_LOG` is the only environment variable read.
    ///
    /// # Errors
    ///
    /// The URL is not valid for a data center.
    pub fn sandbox(
        platform_url: &Url,
        listen: SocketAddr,
        client_secret: ClientSecret,
        environment: &dyn Environment,
    ) -> Result<Self, Errors> {
        let (nothing, findings) = (Table::new(), Findings::default());
        let section = Section::root(&nothing, Place::File(None), &findings);
        // The log must not hide the sandbox's output.
        let log_level = log_level::with_rust_log("warn".to_owned(), environment, &section);
        drop(section);
        let refused = |problem| findings.error(Place::File(None), "", problem);
        let data_center = DataCenter::parse(platform_url.as_str()).map_err(|error| refused(error.into()));
        let client_id = ClientId::parse(NAME).map_err(|error| refused(Problem::rule(error.to_string())));
        let config = data_center.ok().zip(client_id.ok()).map(|(data_center, client_id)| {
            let mut platform = platform::Settings::new(data_center);
            platform.limits.breaker = None;
            let credential = credential::Settings { client_id, secret: SecretSource::Fixed(client_secret) };
            let connections = ConnectionSettings::default();
            Self {
                file: None,
                server: server(listen),
                admin: Admin { listen: None },
                api_clients: ApiClients {
                    default: Some(Arc::from(NAME)),
                    by_name: BTreeMap::from([(
                        Arc::from(NAME),
                        ApiClient { platform, credential, connections, bind_tokens: Mode::Off },
                    )]),
                },
                callers: Callers::default(),
                access: AccessSettings::new(vec![RuleSettings {
                    rate: Rate::Unlimited,
                    user_rate: Rate::Unlimited,
                    ..RuleSettings::new(vec![ANONYMOUS.to_owned()], Users::All)
                }]),
                audit: AuditSettings::new(Sink::Off),
                token_keys: None,
                telemetry: Telemetry { log_format: Some(Format::Text), log_level, ..Telemetry::default() },
                variables: Vec::new(),
                environment: Vec::new(),
                warnings: Vec::new(),
                document: Document::default(),
                effective: None,
            }
        });
        findings.conclude(config).map(|(config, warnings)| Self { warnings, ..config })
    }

    /// Seals the tokens of every API client with a random key.
    ///
    /// # Errors
    ///
    /// The operating system returned no random bytes.
    pub fn seal_with_random_key(&mut self) -> Result<(), NoRandomness> {
        self.token_keys = Some(KeySource::Fixed(Arc::new(Keys::random(NAME)?)));
        for client in self.api_clients.by_name.values_mut() {
            client.bind_tokens = Mode::On;
        }
        Ok(())
    }
}

fn server(listen: SocketAddr) -> Server {
    // A non-loopback address was requested explicitly, and a sandbox has nothing to protect.
    let mut grpc = server::Settings::new(listen, Transport::Plaintext);
    // There is no load balancer that has to notice the shutdown.
    grpc.drain = DrainTimes { lame_duck: Duration::ZERO, ..grpc.drain };
    Server { grpc, reflection: true, ..Server::default() }
}
