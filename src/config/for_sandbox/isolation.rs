//! Keeps a sandbox away from the audit log and the trace collector of a production configuration.
//! The keys of JWT issuers are still fetched, because callers could not be identified otherwise; a
//! warning contains their hosts.

use std::{ffi::OsString, fs, os::unix::fs::FileTypeExt as _, path::Path, sync::Arc};

use crate::{
    caller::JwksSource,
    config::{
        Config, Environment, Place, Problem,
        finding::Findings,
        tree::{Table, Value},
    },
    observe::audit::Sink,
};

/// Prefix of the variables of OpenTelemetry.
const OTEL: &str = "OTEL_";

/// The environment without the variables of OpenTelemetry.
pub(super) struct WithoutTraces<'a>(pub(super) &'a dyn Environment);

impl Environment for WithoutTraces<'_> {
    fn value(&self, name: &str) -> Option<OsString> {
        if name.starts_with(OTEL) { None } else { self.0.value(name) }
    }

    fn names(&self) -> Vec<String> {
        let mut names = self.0.names();
        names.retain(|name| !name.starts_with(OTEL));
        names
    }
}

/// Removes the trace collector, and warns about each key and variable that has no effect.
pub(super) fn remove_traces(tree: &mut Table, environment: &dyn Environment, findings: &Findings) {
    const RULE: &str = "is ignored: a sandbox sends no traces";
    if let Some(Value::Table(telemetry)) = tree.get_mut("telemetry").map(|node| &mut node.value) {
        for key in ["otlp_endpoint", "otlp_ca_file"] {
            if let Some(node) = telemetry.remove(key) {
                findings.warning(node.place, format!("telemetry.{key}"), RULE);
            }
        }
    }
    for name in environment.names().into_iter().filter(|name| name.starts_with(OTEL)) {
        // An empty variable is one that is not set (OpenTelemetry specification).
        if environment.value(&name).is_some_and(|value| !value.is_empty()) {
            findings.warning(Place::Variable(Arc::from(name)), "", RULE);
        }
    }
}

/// Refuses an audit file with records, because records of a sandbox look like those of production.
/// Also refuses a pipe, because its reader may collect production records.
pub(super) fn check_audit_file(tree: &Table, config: &Config, findings: &Findings) {
    const REMEDY: &str = "records of a sandbox look like those of production; set the variable \
                          OTT_GATEWAY__AUDIT__SINK to \"stdout\" or to a new file, or delete this one if only a \
                          sandbox has written to it";
    let Sink::File(path) = &config.audit.sink else { return };
    // A path without metadata cannot be opened either, or the file is created.
    let Ok(file) = fs::metadata(path) else { return };
    let what = if file.file_type().is_fifo() {
        "is a pipe"
    } else if file.is_file() && file.len() > 0 {
        "the file has records already"
    } else {
        return;
    };
    findings.error(place_of_sink(tree), "audit.sink", Problem::rule(format!("{what}: {REMEDY}")));
}

fn place_of_sink(tree: &Table) -> Place {
    let sink = tree.get("audit").and_then(|node| match &node.value {
        Value::Table(audit) => audit.get("sink"),
        _ => None,
    });
    sink.map_or(Place::File(None), |node| node.place.clone())
}

/// Warns about the hosts that the keys of JWT issuers are fetched from.
pub(super) fn warn_of_key_issuers(file: &Path, config: &Config, findings: &Findings) {
    for issuer in &config.callers.jwt {
        if let JwksSource::Url(jwks) = &issuer.jwks {
            let host = jwks.url.host_str().unwrap_or_default();
            findings.warning(
                Place::File(Some(Arc::from(file))),
                "callers.jwt.jwks_url",
                format!("the sandbox fetches the issuer's keys from {host}, to verify the JWTs of callers"),
            );
        }
    }
}

impl Config {
    /// Returns whether keys of JWT issuers are fetched from a URL.
    #[must_use]
    pub fn fetches_keys(&self) -> bool {
        self.callers.jwt.iter().any(|issuer| matches!(issuer.jwks, JwksSource::Url(_)))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::config::{Errors, SandboxPlatform};

    /// A configuration for a sandbox, from a file in `folder` and these variables.
    fn load(folder: &Path, more: &str, variables: &[(&str, &str)]) -> Result<Config, Errors> {
        let file = folder.join("gateway.toml");
        let text = format!(
            "[api_clients.eu2]\ndata_center_url = \"https://eu2-cloud.acronis.com\"\nclient_id = \"real\"\n\
             [[access.rules]]\ncallers = [\"anonymous\"]\nuser_rate = \"1/min\"\nusers = \"all\"\n{more}"
        );
        fs::write(&file, text).unwrap();
        let url = "http://127.0.0.1:8080".parse().unwrap();
        let platform = SandboxPlatform { url: &url, client_id: "sandbox", client_secret: "sandbox-secret" };
        let variables: BTreeMap<_, _> =
            variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Config::load_for_sandbox(&file, platform, &variables)
    }

    fn warnings(config: &Config) -> Vec<String> {
        config.warnings.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn an_audit_file_with_records_is_refused_and_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let audit = folder.path().join("audit.jsonl");
        let sink = format!("[audit]\nsink = \"{}\"\n", audit.display());
        load(folder.path(), &sink, &[]).expect("there is no file");
        fs::write(&audit, "").unwrap();
        load(folder.path(), &sink, &[]).expect("it is empty");
        fs::write(&audit, "{}\n").unwrap();
        let link = folder.path().join("link.jsonl");
        std::os::unix::fs::symlink(&audit, &link).unwrap();
        for path in [&audit, &link] {
            let sink = format!("[audit]\nsink = \"{}\"\n", path.display());
            let text = load(folder.path(), &sink, &[]).unwrap_err().to_string();
            assert!(text.contains("gateway.toml:9: audit.sink: the file has records already"), "{text}");
            assert!(text.contains("OTT_GATEWAY__AUDIT__SINK"), "{text}");
        }
        assert_eq!(fs::read_to_string(&audit).unwrap(), "{}\n");
        load(folder.path(), &sink, &[("OTT_GATEWAY__AUDIT__SINK", "stdout")]).expect("the remedy");
    }

    #[test]
    fn an_audit_pipe_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("audit.fifo");
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::from_raw_mode(0o600)).unwrap();
        let sink = format!("[audit]\nsink = \"{}\"\n", pipe.display());
        let text = load(folder.path(), &sink, &[]).unwrap_err().to_string();
        assert!(text.contains("audit.sink: is a pipe"), "{text}");
    }

    #[test]
    fn a_sandbox_sends_no_traces_and_names_what_it_ignores() {
        let folder = tempfile::tempdir().unwrap();
        let in_file = "[telemetry]\notlp_endpoint = \"https://collector.example:4317\"\n\
                       otlp_ca_file = \"/nowhere/ca.pem\"\n";
        let variables = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector.example:4317"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=canary-header"),
            ("OTEL_SERVICE_NAME", ""),
        ];
        for (more, variables) in [(in_file, &variables[..]), ("", &variables), (in_file, &[])] {
            let config = load(folder.path(), more, variables).unwrap();
            assert_eq!(config.telemetry.traces, None);
            assert!(config.environment.is_empty(), "{:?}", config.environment);
            let warnings = warnings(&config);
            let has = |what: &str| {
                warnings
                    .iter()
                    .any(|line| line.ends_with(&format!("{what}: is ignored: a sandbox sends no traces")))
            };
            assert_eq!(has("telemetry.otlp_endpoint"), !more.is_empty(), "{warnings:?}");
            assert_eq!(has("telemetry.otlp_ca_file"), !more.is_empty(), "{warnings:?}");
            assert_eq!(has("OTEL_EXPORTER_OTLP_ENDPOINT"), !variables.is_empty(), "{warnings:?}");
            assert_eq!(has("OTEL_EXPORTER_OTLP_HEADERS"), !variables.is_empty(), "{warnings:?}");
            assert!(!has("OTEL_SERVICE_NAME") && !format!("{warnings:?}").contains("canary"), "{warnings:?}");
        }
    }

    #[test]
    fn the_host_of_every_jwks_url_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let issuer = |name: &str| {
            format!(
                "[[callers.jwt]]\nname = \"{name}\"\nissuer = \"{name}\"\naudience = \"a\"\n\
                 jwks_url = \"https://{name}.example/canary-path\"\n"
            )
        };
        let config = load(folder.path(), &(issuer("one") + &issuer("two")), &[]).unwrap();
        let warnings = warnings(&config);
        for host in ["one.example", "two.example"] {
            let text = format!("callers.jwt.jwks_url: the sandbox fetches the issuer's keys from {host}");
            assert_eq!(warnings.iter().filter(|line| line.contains(&text)).count(), 1, "{warnings:?}");
        }
        assert!(!format!("{warnings:?}").contains("canary"), "{warnings:?}");
        assert!(config.fetches_keys());
        let config = load(folder.path(), "", &[]).unwrap();
        assert!(!config.fetches_keys());
        assert!(!format!("{:?}", config.warnings).contains("jwks_url"), "{:?}", config.warnings);
    }
}
