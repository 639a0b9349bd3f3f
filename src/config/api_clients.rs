//! `[api_clients.NAME]`: the platform's data centers and our credential at each.

use std::{
    collections::BTreeMap, num::NonZeroU32, os::unix::ffi::OsStrExt, path::PathBuf, sync::Arc, time::Duration,
};

use url::Url;

use super::{
    environment::Environment,
    fault::Problem,
    named_file,
    section::Section,
    value::{self, ProxyUrl},
};
use crate::secret::client_secret::ClientSecret;

/// Every API client by its name, and which of them is meant when a call names none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiClients {
    /// The name of the default one: the one with `default = true`, or an only one that
    /// does not say `default = false`. Without a default, a call that names no API client
    /// is refused (`API_CLIENT_UNKNOWN`).
    pub default: Option<Arc<str>>,
    /// At least one. A name is 1 to 64 lower-case letters, digits, `-` and `_`.
    pub by_name: BTreeMap<Arc<str>, ApiClient>,
}

/// Default of `max_idle_connections`.
pub(super) const DEFAULT_MAX_IDLE_CONNECTIONS: NonZeroU32 = NonZeroU32::new(256).unwrap();

/// Default of `min_login_time`.
pub(super) const DEFAULT_MIN_LOGIN_TIME: Duration = Duration::from_millis(400);

/// One API client of the platform.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiClient {
    /// `data_center_url`: scheme, host and port of the data center, https (http on
    /// loopback only).
    pub data_center_url: Url,
    /// `client_id`: 1 to 255 visible ASCII characters without a colon, which separates
    /// it from the secret (RFC 7617, section 2).
    pub client_id: String,
    /// Where its secret is: exactly one of `client_secret_file`, `client_secret_env` and
    /// `client_secret_credential`.
    pub client_secret: SecretSource,
    /// `target_origins`: where else than at the data center a login URL may land; none.
    pub target_origins: Vec<Url>,
    /// `ca_file`: the only authorities that the data center's certificate may come from,
    /// in PEM; none: the system's.
    pub ca_file: Option<PathBuf>,
    /// `proxy_url`: the HTTP proxy on the way there; none. The usual proxy variables are
    /// not heeded.
    pub proxy_url: Option<ProxyUrl>,
    /// `propagate_trace`: whether the W3C trace context is passed on to the platform;
    /// false.
    pub propagate_trace: bool,
    /// `max_idle_connections`: connections to each endpoint that a worker keeps for reuse;
    /// 256, from 1 to 65,536.
    pub max_idle_connections: NonZeroU32,
    /// `min_login_time`: with less than this left of a login's deadline its token is not
    /// spent, since its session could not be delivered; 400 ms, from 20 ms to 5 s.
    pub min_login_time: Duration,
    /// Whether a failing platform is left alone for a while. No key: on, but in the
    /// sandbox.
    pub breaker: bool,
    /// Where browsers reach the data center, if not at `data_center_url`. No key: only a
    /// sandbox sets it.
    pub public_url: Option<Url>,
}

/// Where a client secret comes from.
#[derive(Clone, Debug)]
pub enum SecretSource {
    /// `client_secret_file`: a file, read again when it changes.
    File(PathBuf),
    /// `client_secret_env`: the environment variable of that name, as it was at start.
    Environment(ClientSecret),
    /// `client_secret_credential`: the file of that name in `$CREDENTIALS_DIRECTORY`,
    /// where systemd puts credentials.
    Credential(PathBuf),
}

impl PartialEq for SecretSource {
    /// Whether it is the same place. A variable is: it cannot change while the process runs.
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::File(path), Self::File(other)) | (Self::Credential(path), Self::Credential(other)) => {
                path == other
            }
            (Self::Environment(_), Self::Environment(_)) => true,
            _ => false,
        }
    }
}

impl Eq for SecretSource {}

const SOURCES: [&str; 3] = ["client_secret_file", "client_secret_env", "client_secret_credential"];

impl ApiClients {
    pub(super) fn read(section: &Section<'_>, environment: &dyn Environment) -> Option<Self> {
        let mut by_name = BTreeMap::new();
        let mut default: Option<Arc<str>> = None;
        let tables = section.tables();
        if tables.is_empty() {
            section.own_fault(Problem::Missing("at least one [api_clients.NAME] is needed"));
        }
        let only = tables.len() == 1;
        for (name, mut table) in tables {
            if !is_name(name) {
                table.own_fault(Problem::rule(
                    "the name must be 1 to 64 lower-case letters, digits, \"-\" and \"_\", without \"__\"",
                ));
            }
            let name: Arc<str> = Arc::from(name);
            if table.optional("default", value::boolean).unwrap_or(only) {
                if let Some(first) = &default {
                    let rule = format!("only one API client can be the default, and \"{first}\" already is");
                    table.fault("default", Problem::rule(rule));
                } else {
                    default = Some(Arc::clone(&name));
                }
            }
            if let Some(client) = ApiClient::read(table, environment) {
                by_name.insert(name, client);
            }
        }
        (!by_name.is_empty()).then_some(Self { default, by_name })
    }
}

/// Whether a name can be written in a file, in a variable and in a request.
pub(super) fn is_name(name: &str) -> bool {
    let allowed =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_');
    (1..=64).contains(&name.len()) && name.bytes().all(allowed) && !name.contains("__")
}

impl ApiClient {
    fn read(mut section: Section<'_>, environment: &dyn Environment) -> Option<Self> {
        let data_center_url = section.required(
            "data_center_url",
            "the data center's URL, such as \"https://eu2-cloud.acronis.com\"",
            value::origin,
        );
        let client_id = section.required("client_id", "the API client's id", client_id);
        let client_secret = SecretSource::read(&mut section, environment);
        let target_origins = section.list("target_origins", value::https_origin).unwrap_or_default();
        let ca_file = named_file::authorities(&mut section, "ca_file");
        let proxy_url = section.optional("proxy_url", value::proxy_url);
        let is_plaintext = data_center_url.as_ref().is_some_and(|url| url.scheme() == "http");
        if is_plaintext && proxy_url.as_ref().is_some_and(|proxy| !proxy.is_on_loopback()) {
            section.fault(
                "proxy_url",
                Problem::rule("needs a data center with https: over http the proxy would read every secret"),
            );
        }
        let propagate_trace = section.optional("propagate_trace", value::boolean).unwrap_or(false);
        let max_idle_connections = section
            .optional("max_idle_connections", value::count(1..=65_536))
            .unwrap_or(DEFAULT_MAX_IDLE_CONNECTIONS);
        let min_login_time = section
            .optional("min_login_time", value::duration(Duration::from_millis(20)..=Duration::from_secs(5)))
            .unwrap_or(DEFAULT_MIN_LOGIN_TIME);
        section.finish();
        Some(Self {
            data_center_url: data_center_url?,
            client_id: client_id?,
            client_secret: client_secret?,
            target_origins,
            ca_file,
            proxy_url,
            propagate_trace,
            max_idle_connections,
            min_login_time,
            breaker: true,
            public_url: None,
        })
    }
}

fn client_id(value: &super::file::Value) -> Result<String, Problem> {
    let id = value::text(value)?;
    if id.len() <= 255 && id.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':') {
        Ok(id)
    } else {
        Err(Problem::rule("must be at most 255 visible ASCII characters without a colon"))
    }
}

impl SecretSource {
    fn read(section: &mut Section<'_>, environment: &dyn Environment) -> Option<Self> {
        if section.has("client_secret") {
            let rule = "a secret must not be in the configuration; write it to a file, and name \
                        the file with client_secret_file";
            // Asked for, so that it is not an unknown key on top.
            let _ = section.optional("client_secret", |_| Err::<(), _>(Problem::rule(rule)));
        }
        let given: Vec<&str> = SOURCES.into_iter().filter(|key| section.has(key)).collect();
        match given.as_slice() {
            [] if !section.has("client_secret") => section.fault(
                "client_secret_file",
                Problem::Missing(
                    "name the file of the secret, or set client_secret_env or client_secret_credential",
                ),
            ),
            [first, rest @ ..] => {
                for key in rest {
                    let rule = format!(
                        "only one source of the secret is allowed, and {first} is set as well; remove one of them"
                    );
                    section.fault(key, Problem::rule(rule));
                }
            }
            [] => {}
        }
        let file = section
            .path(SOURCES[0])
            .and_then(|path| named_file::client_secret(section, SOURCES[0], path))
            .map(Self::File);
        let variable = section.optional(SOURCES[1], |value| from_variable(value, environment));
        if let Some(secret) = &variable {
            section.warning(SOURCES[1], "a secret in the environment cannot be rotated without a restart, and other programs may see it; prefer client_secret_file");
            named_file::warn_of_doubts(section, SOURCES[1], secret);
        }
        let credential = section
            .optional(SOURCES[2], |value| credential_path(value, environment))
            .and_then(|path| named_file::client_secret(section, SOURCES[2], path))
            .map(Self::Credential);
        file.or(variable.map(Self::Environment)).or(credential)
    }
}

fn from_variable(value: &super::file::Value, environment: &dyn Environment) -> Result<ClientSecret, Problem> {
    let name = value::text(value)?;
    let secret =
        environment.value(&name).ok_or_else(|| Problem::rule("no such environment variable is set"))?;
    Ok(ClientSecret::parse(secret.as_bytes())?)
}

fn credential_path(value: &super::file::Value, environment: &dyn Environment) -> Result<PathBuf, Problem> {
    let name = value::text(value)?;
    if name.contains('/') || name == "." || name == ".." {
        return Err(Problem::rule("must be the name of a credential, without a path"));
    }
    let folder = environment
        .value("CREDENTIALS_DIRECTORY")
        .ok_or_else(|| Problem::rule("needs $CREDENTIALS_DIRECTORY, which systemd sets (LoadCredential=)"))?;
    Ok(PathBuf::from(folder).join(name))
}
