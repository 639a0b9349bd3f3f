//! Reads a configuration file for a sandbox: rules, quotas, callers, TLS and audit as in `serve`,
//! but with every API client connected to the simulated platform.
//!
//! API clients keep their names, so that rules match as in production. Their data centers,
//! credentials, authorities and proxies are replaced without being read.

mod isolation;

use std::{ffi::OsString, path::Path};

use url::Url;

use super::{
    Config, Document, Environment, Place,
    access_tests::{TestedRules, with_failures},
    api_clients::SOURCES,
    environment, file,
    finding::{Errors, Findings},
    tree::{Node, Table, Value},
};

/// The simulated platform that replaces every data center of a file.
#[derive(Clone, Copy, Debug)]
pub struct Platform<'a> {
    /// Base URL.
    pub url: &'a Url,
    /// Id of its API client.
    pub client_id: &'a str,
    /// Secret of its API client. It is public.
    pub client_secret: &'a str,
}

/// Defaults that differ from those of `serve`: the log must not hide the sandbox's output, and
/// Ctrl-C must not wait for a load balancer.
const DEFAULTS: [(&str, &str, &str); 3] = [
    ("telemetry", "log_format", "text"),
    ("telemetry", "log_level", "warn"),
    ("server", "drain_lame_duck", "0s"),
];

/// Keys of an API client that define its data center, credential and connection. They are not read.
const REPLACED: [&str; 7] = [
    "data_center_url",
    "client_id",
    "client_secret_file",
    "client_secret_env",
    "client_secret_credential",
    "ca_file",
    "proxy_url",
];

/// Name of a virtual variable that contains the secret of the sandbox's API clients.
const SECRET: &str = "the secret of the sandbox";
/// Key that names the variable with a secret.
const SECRET_KEY: &str = "client_secret_env";

/// The environment plus the variable with the secret of the sandbox.
struct WithSecret<'a> {
    environment: &'a dyn Environment,
    secret: &'a str,
}

impl Environment for WithSecret<'_> {
    fn value(&self, name: &str) -> Option<OsString> {
        if name == SECRET { Some(self.secret.into()) } else { self.environment.value(name) }
    }

    fn names(&self) -> Vec<String> {
        self.environment.names()
    }
}

impl Config {
    /// Reads the file and the environment variables that override it, for a sandbox. The file is read
    /// once: changed rules require a restart.
    ///
    /// # Errors
    ///
    /// Returns every error found.
    pub fn load_for_sandbox(
        file: &Path,
        platform: Platform<'_>,
        environment: &dyn Environment,
    ) -> Result<Self, Errors> {
        let (findings, mut tests) = (Findings::default(), Vec::new());
        let own_environment = isolation::WithoutTraces(environment);
        let own_environment = WithSecret { environment: &own_environment, secret: platform.client_secret };
        let config = file::read(file, &findings).and_then(|mut tree| {
            let variables = environment::overlay(&mut tree, &own_environment, &findings);
            isolation::remove_traces(&mut tree, environment, &findings);
            for (table, key, value) in DEFAULTS {
                set_default(&mut tree, table, key, value);
            }
            platform.replace_data_centers(&mut tree);
            let tested = TestedRules::InForce;
            let config = Self::read(&tree, Some(file), &own_environment, tested, &findings, &mut tests)?;
            isolation::check_audit_file(&tree, &config, &findings);
            isolation::warn_of_key_issuers(file, &config, &findings);
            Some(Self { file: None, variables, document: Document::default(), ..config })
        });
        // The secret is not in the real environment, so the warning does not apply.
        findings.remove_warnings(|warning| warning.key.ends_with(SECRET_KEY));
        let (mut config, warnings) = with_failures(findings.conclude(config), &tests)?;
        for client in config.api_clients.by_name.values_mut() {
            client.platform.limits.breaker = None;
        }
        Ok(Self { warnings, ..config })
    }
}

impl Platform<'_> {
    /// Replaces the data center of every API client.
    fn replace_data_centers(self, tree: &mut Table) {
        let Some(Value::Table(clients)) = tree.get_mut("api_clients").map(|node| &mut node.value) else {
            return;
        };
        for client in clients.values_mut() {
            let table = client.place.clone();
            // Other types are reported when the table is read.
            let Value::Table(client) = &mut client.value else { continue };
            // The order of keys matters, so each replacement is at the place of a replaced key.
            let place = |replaced: &[&str]| {
                let node = replaced.iter().find_map(|key| client.get(*key));
                node.map_or_else(|| table.clone(), |node| node.place.clone())
            };
            let replacements = [
                ("data_center_url", self.url.as_str(), place(&["data_center_url"])),
                ("client_id", self.client_id, place(&["client_id"])),
                (SECRET_KEY, SECRET, place(&SOURCES)),
            ];
            client.retain(|key, _| !REPLACED.contains(&key.as_str()));
            for (key, value, place) in replacements {
                client.insert(key.to_owned(), Node { value: Value::Text(value.to_owned()), place });
            }
        }
    }
}

/// Sets a key if it is absent.
fn set_default(tree: &mut Table, table: &str, key: &str, value: &str) {
    let node = |value| Node { value, place: Place::File(None) };
    let entry = tree.entry(table.to_owned()).or_insert_with(|| node(Value::Table(Table::new())));
    // Other types are reported when the table is read.
    if let Value::Table(table) = &mut entry.value {
        table.entry(key.to_owned()).or_insert_with(|| node(Value::Text(value.to_owned())));
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, fs, time::Duration};

    use super::*;
    use crate::{
        credential::ClientId,
        observe::telemetry::logging::Format,
        token_binding::{KeySource, Mode},
    };

    fn load(text: &str) -> Result<Config, Errors> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("gateway.toml");
        fs::write(&file, text).unwrap();
        let url = "http://127.0.0.1:8080".parse().unwrap();
        let platform = Platform { url: &url, client_id: "sandbox", client_secret: "sandbox-secret" };
        Config::load_for_sandbox(&file, platform, &BTreeMap::<String, String>::new())
    }

    const FILE: &str = r#"
        [api_clients.eu2]
        data_center_url = "https://eu2-cloud.acronis.com"
        client_id = "real"
        client_secret_file = "/nowhere/secret"
        ca_file = "/nowhere/ca.pem"
        proxy_url = "http://user:canary-password@proxy:3128"
        min_login_time = "1s"
        [api_clients.us5]
        data_center_url = "https://us5-cloud.acronis.com"
        client_id = "real"
        client_secret_credential = "us5"
        default = true
        [[access.rules]]
        callers = ["anonymous"]
        api_clients = ["eu2"]
        user_rate = "1/min"
        users = "all"
        [[access.candidate_rules]]
        callers = ["anonymous"]
        logins = ["*@x"]
    "#;

    #[test]
    fn secret_of_the_sandbox_causes_no_warning() {
        let errors = load(&FILE.replace("min_login_time", "min_login_tyme")).unwrap_err();
        assert_eq!(errors.iter().count(), 1, "{errors}");
        for warnings in [&*load(FILE).unwrap().warnings, errors.warnings()] {
            assert!(!warnings.iter().any(|warning| warning.key.ends_with(SECRET_KEY)), "{warnings:?}");
        }
    }

    #[test]
    fn api_clients_keep_their_names_and_use_the_copy_of_the_platform() {
        let config = load(FILE).unwrap();
        assert_eq!(config.api_clients.default.as_deref(), Some("us5"));
        assert_eq!(config.api_clients.by_name.keys().map(|name| &**name).collect::<Vec<_>>(), ["eu2", "us5"]);
        for client in config.api_clients.by_name.values() {
            assert_eq!(client.platform.data_center.base_url().as_str(), "http://127.0.0.1:8080/");
            assert_eq!(client.credential.client_id, ClientId::parse("sandbox").unwrap());
            assert!(client.platform.limits.breaker.is_none());
            assert!(client.connections.ca_file.is_none() && client.connections.proxy_url.is_none());
        }
        assert_eq!(
            config.api_clients.by_name["eu2"].platform.limits.min_login_time_left,
            Duration::from_secs(1)
        );
        assert_eq!((config.access.rules.len(), config.access.candidate_rules.len()), (1, 1));
        assert!(
            config.warnings.iter().all(|warning| !warning.key.contains("secret")),
            "{:?}",
            config.warnings
        );
        let shown = format!("{config:?}");
        assert!(!shown.contains("canary-password") && !shown.contains("sandbox-secret"), "{shown}");
    }

    #[test]
    fn file_overrides_defaults_of_the_sandbox() {
        let config = load(FILE).unwrap();
        assert_eq!(config.telemetry.log_format, Some(Format::Text));
        assert_eq!(config.telemetry.log_level, "warn");
        assert_eq!(config.server.grpc.drain.lame_duck, Duration::ZERO);
        let with_own =
            format!("{FILE}\n[telemetry]\nlog_level = \"debug\"\n[server]\ndrain_lame_duck = \"1s\"");
        let config = load(&with_own).unwrap();
        assert_eq!(config.telemetry.log_level, "debug");
        assert_eq!(config.server.grpc.drain.lame_duck, Duration::from_secs(1));
    }

    #[test]
    fn keys_of_sealed_tokens_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let keys = folder.path().join("token.keys");
        fs::write(&keys, "2026-11 AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n").unwrap();
        let table = format!("[token_binding]\nkeys_file = \"{}\"\n", keys.display());
        // In this order, `serve` accepts the file because of the replaced key after bind_tokens.
        let (clients, rules) = FILE.split_at(FILE.find("[[access.rules]]").unwrap());
        let clients = clients.replacen("client_secret_file", "bind_tokens = \"on\"\nclient_secret_file", 1);
        let config = load(&format!("{rules}{table}{clients}")).unwrap();
        assert_eq!(config.token_keys, Some(KeySource::File(keys.clone())));
        let modes: Vec<Mode> = config.api_clients.by_name.values().map(|client| client.bind_tokens).collect();
        assert_eq!(modes, [Mode::On, Mode::Off]);
        fs::remove_file(&keys).unwrap();
        let errors = load(&format!("{rules}{table}{clients}")).unwrap_err();
        assert!(errors.to_string().contains("token_binding.keys_file"), "{errors}");
    }

    #[test]
    fn failed_access_test_is_an_error() {
        let test = "[[access.tests]]\ncaller = \"anonymous\"\nmethod = \"LoginWithOtt\"\nexpect = \"allow\"";
        // The default API client is us5, which no rule allows.
        let errors = load(&format!("{FILE}\n{test}")).unwrap_err();
        let expected = "expects allow, but no rule allows it: rule 1 is for other API clients";
        assert!(errors.to_string().contains(expected), "{errors}");
        load(&format!("{FILE}\n{test}\napi_client = \"eu2\"")).unwrap();
    }

    #[test]
    fn misspelled_keys_are_reported_also_in_api_clients() {
        let errors = load(&FILE.replace("min_login_time", "min_login_tme")).unwrap_err();
        assert!(errors.to_string().contains("did you mean \"min_login_time\""), "{errors}");
        let errors = load(&FILE.replace("users = \"all\"", "users = \"some\"")).unwrap_err();
        assert!(errors.to_string().contains("users"), "{errors}");
    }
}
