//! The configuration: one TOML file, overridden by environment variables.
//!
//! [`Config::load`] fills the settings structs that the stages define; `app` passes them on. The
//! documentation of each field names its key. Values known only at run time (the share of file
//! descriptors, a resolver, the contents of secret files) are not settings; `app` adds them. Nothing
//! here starts, opens or connects anything. Every error is reported, with its place, key and rule,
//! and never with a value.

mod access;
mod access_tests;
mod admin;
mod api_clients;
mod audit;
mod callers;
mod common_tokens;
mod environment;
mod example;
mod file;
mod finding;
#[cfg(feature = "sandbox")]
mod for_sandbox;
mod health_endpoint;
mod log_level;
mod named_file;
mod near_miss;
mod order;
mod otel;
mod policy_file;
mod reloadable;
mod rule_warnings;
mod sandbox;
mod section;
mod server;
mod telemetry;
mod token_binding;
mod tree;
mod value;
mod variables;
mod warnings;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

pub(crate) use self::finding::{absolute, is_name_of_file, nearest, unreadable};
#[cfg(feature = "sandbox")]
pub use self::for_sandbox::Platform as SandboxPlatform;
use self::{
    access::{DefaultApiClient, KnownNames},
    access_tests::{read_access_and_tests, with_failures},
    finding::Findings,
    section::Section,
    token_binding::read_token_binding,
    tree::{Table, Value, keys_at},
};
pub use self::{
    access_tests::{AccessTest, AccessTestResult, Expected, TestFailure, TestOutcome, TestedRules},
    admin::Admin,
    api_clients::{ApiClient, ApiClients},
    callers::Callers,
    environment::{Environment, Process},
    example::EXAMPLE,
    file::Document,
    finding::{Errors, Finding, Place, Problem},
    health_endpoint::HealthEndpoint,
    policy_file::PolicyFile,
    reloadable::Reloadable,
    server::Server,
    telemetry::Telemetry,
    variables::{KNOWN_VARIABLES, VariableInEffect, VariableKind},
};
use crate::{
    access::Settings as AccessSettings, caller::JwksSource, observe::audit::Settings as AuditSettings,
    token_binding::KeySource,
};

/// The checked configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// The file it was read from; a reload reads it again.
    pub file: Option<PathBuf>,
    /// `[server]`.
    pub server: Server,
    /// `[admin]`.
    pub admin: Admin,
    /// `[api_clients]`.
    pub api_clients: ApiClients,
    /// `[callers]`.
    pub callers: Callers,
    /// `[access]`.
    pub access: AccessSettings,
    /// `[audit]`.
    pub audit: AuditSettings,
    /// `[token_binding]`. `None`: there are no keys, so that no token can be sealed or opened.
    pub token_keys: Option<KeySource>,
    /// `[telemetry]`.
    pub telemetry: Telemetry,
    /// Names of the environment variables that override the file.
    pub variables: Vec<String>,
    /// Other environment variables in effect, sorted by name.
    pub environment: Vec<VariableInEffect>,
    /// Problems that do not prevent the gateway from starting.
    pub warnings: Vec<Finding>,
    /// Hash of the file's contents, to compare with a later version.
    pub document: Document,
    /// Hash of the file with the environment variables that override it, without secrets. `None` if
    /// there is no file. For audit records.
    pub effective: Option<Document>,
}

/// A configuration and the results of its access tests.
#[derive(Debug)]
pub struct Checked {
    /// The configuration, or every error but failed tests.
    pub config: Result<Config, Errors>,
    /// The results of `[[access.tests]]`, in the order of the file. Tests that are not valid are
    /// errors of the configuration.
    pub tests: Vec<AccessTestResult>,
}

impl Config {
    /// Reads the file, if any, and applies environment variables over it. Relative paths in the
    /// file are resolved against the file's folder.
    ///
    /// # Errors
    ///
    /// Returns every error found.
    pub fn load(file: Option<&Path>, environment: &dyn Environment) -> Result<Self, Errors> {
        let Checked { config, tests } = Self::check(file, environment, TestedRules::InForce);
        with_failures(config, &tests)
    }

    /// Like [`load`](Self::load), but returns the results of access tests instead of reporting
    /// failed ones as errors. Without candidate rules, testing them is an error.
    #[must_use]
    pub fn check(file: Option<&Path>, environment: &dyn Environment, tested: TestedRules) -> Checked {
        let (findings, mut tests) = (Findings::default(), Vec::new());
        let tree = file.map_or_else(|| Some(Table::new()), |path| file::read(path, &findings));
        let config = tree.map(|mut tree| {
            let document = Document::of(&tree);
            let variables = environment::overlay(&mut tree, environment, &findings);
            near_miss::check(environment, &findings);
            let config = Self::read(&tree, file, environment, tested, &findings, &mut tests)?;
            warnings::check(&tree, &config, &tests, &findings);
            rule_warnings::check(&tree, &config, &findings);
            Some(Self { variables, document, ..config })
        });
        findings.suggest_variables(near_miss::intended);
        let concluded = findings.conclude(config.flatten());
        Checked { config: concluded.map(|(config, warnings)| Self { warnings, ..config }), tests }
    }

    /// Returns the part that takes effect without a restart.
    #[must_use]
    pub fn reloadable(&self) -> Reloadable {
        Reloadable { access: self.access.clone(), tokens: self.callers.tokens.clone() }
    }

    /// Returns the parts that differ from the running configuration and require a restart. Access
    /// rules, tokens, and the contents of watched files do not.
    #[must_use]
    pub fn waiting_for_a_restart(&self, running: &Self) -> Vec<&'static str> {
        // Secrets are not compared, and not shown.
        let shown = |clients: &ApiClients| format!("{clients:?}");
        [
            ("server", self.server != running.server),
            ("admin", self.admin != running.admin),
            ("api_clients", shown(&self.api_clients) != shown(&running.api_clients)),
            ("callers.jwt", self.callers.jwt != running.callers.jwt),
            ("callers.forwarded", self.callers.forwarded != running.callers.forwarded),
            ("token_binding", self.token_keys != running.token_keys),
            ("audit", self.audit != running.audit),
            ("telemetry", self.telemetry != running.telemetry),
        ]
        .into_iter()
        .filter_map(|(part, differs)| differs.then_some(part))
        .collect()
    }

    fn read(
        tree: &Table,
        file: Option<&Path>,
        environment: &dyn Environment,
        tested: TestedRules,
        findings: &Findings,
        tests: &mut Vec<AccessTestResult>,
    ) -> Option<Self> {
        let mut root = Section::root(tree, Place::File(file.map(Arc::from)), findings);
        let server = Server::read(root.table("server"));
        let admin = Admin::read(root.table("admin"), &server);
        let token_binding = root.optional_table("token_binding");
        let has_token_keys = token_binding.is_some();
        let token_keys = token_binding.and_then(read_token_binding);
        let api_clients = ApiClients::read(&root.table("api_clients"), has_token_keys, environment);
        let callers = Callers::read(root.table("callers"), &server);
        let known = KnownNames {
            api_clients: Some(keys_at(tree, &["api_clients"])),
            tokens: keys_at(tree, &["callers", "tokens"]),
            jwt_issuers: jwt_issuers(tree),
            has_token_binding: Some(tree.contains_key("token_binding")),
            default_api_client: match &api_clients {
                Some(clients) => DefaultApiClient::Known(clients.default.as_deref()),
                None => DefaultApiClient::Unknown,
            },
        };
        let access;
        (access, *tests) = read_access_and_tests(root.table("access"), &known, tested);
        let audit = audit::read_audit(root.table("audit"));
        let (telemetry, mut in_effect) = Telemetry::read(root.table("telemetry"), environment);
        order::check(tree, findings);
        root.finish();
        let mut of_service = variables::set(environment, VariableKind::Service);
        of_service
            .retain(|variable| variable.name != log_level::RUST_LOG || log_level::has_rust_log(environment));
        in_effect.extend(of_service);
        let mut config = Self {
            file: file.map(Path::to_path_buf),
            server,
            admin,
            api_clients: api_clients?,
            callers,
            access,
            audit,
            token_keys,
            telemetry,
            variables: Vec::new(),
            environment: in_effect,
            warnings: Vec::new(),
            document: Document::default(),
            effective: file.map(|_| Document::without_secrets(tree)),
        };
        config.note_system_authorities(environment, findings);
        config.environment.sort_by_key(|variable| variable.name);
        Some(config)
    }

    /// Adds the variables that replace the system's authorities, with a warning each, if any
    /// connection uses those authorities.
    fn note_system_authorities(&mut self, environment: &dyn Environment, findings: &Findings) {
        let connections = self.with_system_authorities();
        if connections.is_empty() {
            return;
        }
        for variable in variables::set(environment, VariableKind::Authorities) {
            let value = environment.value(variable.name).unwrap_or_default();
            if !variables::names_system_authorities(&value.to_string_lossy()) {
                let rule = format!(
                    "replaces the system's trusted authorities for {}: anyone who controls them can impersonate \
                     these servers and gets what is sent to them; unset it, or set a ca_file for each",
                    connections.join(", ")
                );
                findings.warning(Place::Variable(Arc::from(variable.name)), "", rule);
            }
            self.environment.push(variable);
        }
    }

    /// Returns the names of the JWT issuers. `None` if there are none, or the only one has no name.
    #[must_use]
    pub fn jwt_issuers(&self) -> Option<Vec<String>> {
        let names = self.callers.jwt.iter().map(|issuer| issuer.name.as_deref().map(str::to_owned));
        names.collect::<Option<Vec<String>>>().filter(|names| !names.is_empty())
    }

    /// Returns the https connections without a `ca_file`.
    fn with_system_authorities(&self) -> Vec<String> {
        let clients = self.api_clients.by_name.iter().filter(|(_, client)| {
            client.connections.ca_file.is_none() && client.platform.data_center.base_url().scheme() == "https"
        });
        let mut connections: Vec<String> =
            clients.map(|(name, _)| format!("API client \"{name}\"")).collect();
        for jwt in &self.callers.jwt {
            if let JwksSource::Url(source) = &jwt.jwks
                && source.ca_file.is_none()
                && source.url.scheme() == "https"
            {
                connections
                    .push(format!("the keys of JWT issuer \"{}\"", jwt.name.as_deref().unwrap_or("default")));
            }
        }
        let traces = self.telemetry.traces.as_ref();
        if traces.is_some_and(|traces| traces.ca_file.is_none() && traces.endpoint.scheme() == "https") {
            connections.push("the trace collector".to_owned());
        }
        connections
    }
}

/// Returns the names of the issuers in `[[callers.jwt]]`, or `None` if it is not a list.
fn jwt_issuers(tree: &Table) -> Option<Vec<&str>> {
    let Value::Table(callers) = &tree.get("callers")?.value else { return None };
    let Value::List(issuers) = &callers.get("jwt")?.value else { return None };
    let tables = issuers.iter().filter_map(|issuer| match &issuer.value {
        Value::Table(table) => Some(table),
        _ => None,
    });
    let names = tables.filter_map(|table| match &table.get("name")?.value {
        Value::Text(name) => Some(name.as_str()),
        _ => None,
    });
    Some(names.collect())
}

#[cfg(test)]
mod tests;
