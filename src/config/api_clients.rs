//! `[api_clients.NAME]`: the platform's data centers and the gateway's credential at each.

use std::{collections::BTreeMap, os::unix::ffi::OsStrExt, path::PathBuf, sync::Arc, time::Duration};

use super::{environment::Environment, finding::Problem, named_file, section::Section, tree::Value, value};
use crate::{
    base::secret::client_secret::ClientSecret,
    credential::{self, ClientId, SecretSource},
    http_client::ConnectionSettings,
    platform,
    token_binding::Mode,
};

/// All API clients by name, and the default for calls that do not name one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiClients {
    /// Name of the default: the API client with `default = true`, or the only one, unless it sets
    /// `default = false`. Without a default, a call that does not name an API client is refused
    /// (`API_CLIENT_UNKNOWN`).
    pub default: Option<Arc<str>>,
    /// At least one API client. A name is 1 to 64 lower-case letters, digits, `-` and `_`.
    pub by_name: BTreeMap<Arc<str>, ApiClient>,
}

/// The settings of one API client of the platform.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiClient {
    /// Data center and limits.
    pub platform: platform::Settings,
    /// Client id and secret.
    pub credential: credential::Settings,
    /// Authorities, proxy and connection pool.
    pub connections: ConnectionSettings,
    /// `bind_tokens`: whether tokens are sealed; `"off"`.
    pub bind_tokens: Mode,
}

/// The values of `bind_tokens`.
const MODES: &[(&str, Mode)] = &[("on", Mode::On), ("off", Mode::Off), ("accept_raw", Mode::AcceptRaw)];

/// Keys of the secret, of which one is set.
pub(super) const SOURCES: [&str; 3] = ["client_secret_file", "client_secret_env", "client_secret_credential"];

impl ApiClients {
    /// `has_token_keys`: whether there is a table `[token_binding]`.
    pub(super) fn read(
        section: &Section<'_>,
        has_token_keys: bool,
        environment: &dyn Environment,
    ) -> Option<Self> {
        let mut by_name = BTreeMap::new();
        let mut default: Option<Arc<str>> = None;
        let tables = section.tables();
        if tables.is_empty() {
            section.own_error(Problem::Missing("add at least one [api_clients.NAME]"));
        }
        let only = tables.len() == 1;
        for (name, mut table) in tables {
            if !is_name(name) {
                table.own_error(Problem::rule(
                    "the name must be 1 to 64 lower-case letters, digits, \"-\" and \"_\", without \"__\"",
                ));
            }
            let name: Arc<str> = Arc::from(name);
            if table.optional("default", value::boolean).unwrap_or(only) {
                if let Some(first) = &default {
                    let rule = format!("only one API client can be the default, and \"{first}\" already is");
                    table.error("default", Problem::rule(rule));
                } else {
                    default = Some(Arc::clone(&name));
                }
            }
            if let Some(client) = ApiClient::read(table, has_token_keys, environment) {
                by_name.insert(name, client);
            }
        }
        (!by_name.is_empty()).then_some(Self { default, by_name })
    }
}

/// Returns whether a name can be used in a file, in a variable and in a request.
pub(super) fn is_name(name: &str) -> bool {
    let allowed =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_');
    (1..=64).contains(&name.len()) && name.bytes().all(allowed) && !name.contains("__")
}

impl ApiClient {
    fn read(mut section: Section<'_>, has_token_keys: bool, environment: &dyn Environment) -> Option<Self> {
        let data_center = section.required(
            "data_center_url",
            "the data center's URL, such as \"https://eu2-cloud.acronis.com\"",
            value::data_center,
        );
        let client_id = section.required("client_id", "the API client's id", client_id);
        let client_secret = read_secret(&mut section, environment);
        let target_origins = section.list("target_origins", value::https_origin).unwrap_or_default();
        let ca_file = named_file::authorities(&mut section, "ca_file");
        let proxy_url = section.optional("proxy_url", value::proxy_url);
        let is_plaintext = data_center.as_ref().is_some_and(|it| it.base_url().scheme() == "http");
        if is_plaintext && proxy_url.as_ref().is_some_and(|proxy| !proxy.is_on_loopback()) {
            section.error(
                "proxy_url",
                Problem::rule(
                    "needs a data_center_url with https: over http the proxy could read every secret",
                ),
            );
        }
        let propagate_trace = section.optional("propagate_trace", value::boolean).unwrap_or(false);
        let max_idle_connections = section.optional("max_idle_connections", value::count(1..=65_536));
        let min_login_time = section
            .optional("min_login_time", value::duration(Duration::from_millis(20)..=Duration::from_secs(5)));
        let bind_tokens = section.optional("bind_tokens", value::one_of(MODES)).unwrap_or_default();
        if bind_tokens.seals() && !has_token_keys {
            let rule = "needs [token_binding] with a keys_file: there is no key to seal tokens with";
            section.error("bind_tokens", Problem::rule(rule));
        }
        section.finish();
        let mut platform = platform::Settings::new(data_center?);
        platform.target_origins = target_origins;
        platform.propagate_trace = propagate_trace;
        if let Some(time) = min_login_time {
            platform.limits.min_login_time_left = time;
        }
        let mut connections = ConnectionSettings { ca_file, proxy_url, ..ConnectionSettings::default() };
        if let Some(number) = max_idle_connections {
            connections.max_idle_connections = number.get() as usize;
        }
        let credential = credential::Settings { client_id: client_id?, secret: client_secret? };
        Some(Self { platform, credential, connections, bind_tokens })
    }
}

fn client_id(value: &Value) -> Result<ClientId, Problem> {
    ClientId::parse(&value::text(value)?).map_err(|error| Problem::rule(error.to_string()))
}

fn read_secret(section: &mut Section<'_>, environment: &dyn Environment) -> Option<SecretSource> {
    if section.has("client_secret") {
        let rule = "a secret must not be in the configuration; write it to a file, and name the \
                    file with client_secret_file";
        // Requested, so that it is not also reported as an unknown key.
        let _ = section.optional("client_secret", |_| Err::<(), _>(Problem::rule(rule)));
    }
    let given: Vec<&str> = SOURCES.into_iter().filter(|key| section.has(key)).collect();
    match given.as_slice() {
        [] if !section.has("client_secret") => section.error(
            "client_secret_file",
            Problem::Missing(
                "set it to the file of the secret, or set client_secret_env or client_secret_credential",
            ),
        ),
        [first, rest @ ..] => {
            for key in rest {
                let rule = format!("cannot be combined with {first}; remove one of them");
                section.error(key, Problem::rule(rule));
            }
        }
        [] => {}
    }
    let file = section
        .path(SOURCES[0])
        .and_then(|path| named_file::client_secret(section, SOURCES[0], path))
        .map(SecretSource::File);
    let variable = section.optional(SOURCES[1], |value| from_variable(value, environment));
    if let Some(secret) = &variable {
        section.warning(SOURCES[1], "a secret in the environment cannot be rotated without a restart, and other programs may read it; prefer client_secret_file");
        named_file::warn_of_doubts(section, SOURCES[1], secret);
    }
    let credential = section
        .optional(SOURCES[2], |value| credential_path(value, environment))
        .and_then(|path| named_file::client_secret(section, SOURCES[2], path))
        .map(SecretSource::Credential);
    file.or(variable.map(SecretSource::Fixed)).or(credential)
}

fn from_variable(value: &Value, environment: &dyn Environment) -> Result<ClientSecret, Problem> {
    let name = value::text(value)?;
    let secret =
        environment.value(&name).ok_or_else(|| Problem::rule("this environment variable is not set"))?;
    Ok(ClientSecret::parse(secret.as_bytes())?)
}

fn credential_path(value: &Value, environment: &dyn Environment) -> Result<PathBuf, Problem> {
    let name = value::text(value)?;
    if name.contains('/') || name == "." || name == ".." {
        return Err(Problem::rule("must be the name of a credential, without a path"));
    }
    let folder = environment
        .value("CREDENTIALS_DIRECTORY")
        .ok_or_else(|| Problem::rule("needs $CREDENTIALS_DIRECTORY, which systemd sets (LoadCredential=)"))?;
    Ok(PathBuf::from(folder).join(name))
}
