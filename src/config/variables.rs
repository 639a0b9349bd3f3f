//! Environment variables that have an effect and do not set a configuration key.
//!
//! [`KNOWN_VARIABLES`] lists them all, including those that libraries read. `docs/configuration.md`
//! describes exactly these (a test compares), and `check-config` and the log at start list those in
//! effect. Not in the list: `OTT_GATEWAY__` variables (`environment`), and OpenTelemetry variables
//! without an effect (`otel` warns about them).

use std::{
    fmt,
    path::{Path, PathBuf},
};

use super::environment::Environment;

/// What a known variable affects, and how it may be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VariableKind {
    /// The running gateway. The log shows its value.
    Service,
    /// The authorities of connections without a `ca_file`. The log shows its value.
    Authorities,
    /// Traces, if they are on. The log shows its value.
    Traces,
    /// Traces, if they are on. Its value is a secret.
    TracesSecret,
    /// Only commands: their output, or the gateway that they call.
    Commands,
}

/// The known variables.
pub const KNOWN_VARIABLES: &[(&str, VariableKind)] = &[
    ("OTT_GATEWAY_CONFIG", VariableKind::Service),
    ("RUST_LOG", VariableKind::Service),
    ("JOURNAL_STREAM", VariableKind::Service),
    ("CREDENTIALS_DIRECTORY", VariableKind::Service),
    ("SSL_CERT_FILE", VariableKind::Authorities),
    ("SSL_CERT_DIR", VariableKind::Authorities),
    // Rust's standard library
    ("RUST_BACKTRACE", VariableKind::Service),
    ("RUST_LIB_BACKTRACE", VariableKind::Service),
    ("RUST_MIN_STACK", VariableKind::Service),
    // The C library and its loader
    ("RES_OPTIONS", VariableKind::Service),
    ("LOCALDOMAIN", VariableKind::Service),
    ("GLIBC_TUNABLES", VariableKind::Service),
    ("MALLOC_ARENA_MAX", VariableKind::Service),
    ("LD_PRELOAD", VariableKind::Service),
    ("LD_LIBRARY_PATH", VariableKind::Service),
    // OpenTelemetry
    ("OTEL_SDK_DISABLED", VariableKind::Traces),
    ("OTEL_TRACES_EXPORTER", VariableKind::Traces),
    ("OTEL_SERVICE_NAME", VariableKind::Traces),
    ("OTEL_RESOURCE_ATTRIBUTES", VariableKind::Traces),
    ("OTEL_PROPAGATORS", VariableKind::Traces),
    ("OTEL_TRACES_SAMPLER", VariableKind::Traces),
    ("OTEL_TRACES_SAMPLER_ARG", VariableKind::Traces),
    ("OTEL_EXPORTER_OTLP_ENDPOINT", VariableKind::Traces),
    ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", VariableKind::Traces),
    ("OTEL_EXPORTER_OTLP_INSECURE", VariableKind::Traces),
    ("OTEL_EXPORTER_OTLP_TRACES_INSECURE", VariableKind::Traces),
    ("OTEL_EXPORTER_OTLP_PROTOCOL", VariableKind::Traces),
    ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", VariableKind::Traces),
    ("OTEL_EXPORTER_OTLP_HEADERS", VariableKind::TracesSecret),
    ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", VariableKind::TracesSecret),
    ("OTEL_EXPORTER_OTLP_TIMEOUT", VariableKind::Traces),
    ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", VariableKind::Traces),
    ("OTEL_EXPORTER_OTLP_CERTIFICATE", VariableKind::Traces),
    ("OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE", VariableKind::Traces),
    ("OTEL_BSP_SCHEDULE_DELAY", VariableKind::Traces),
    ("OTEL_BSP_EXPORT_TIMEOUT", VariableKind::Traces),
    ("OTEL_BSP_MAX_QUEUE_SIZE", VariableKind::Traces),
    ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", VariableKind::Traces),
    ("OTEL_ATTRIBUTE_COUNT_LIMIT", VariableKind::Traces),
    ("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", VariableKind::Traces),
    ("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", VariableKind::Traces),
    ("OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT", VariableKind::Traces),
    // Commands
    ("OTT_GATEWAY_ENDPOINT", VariableKind::Commands),
    ("NO_COLOR", VariableKind::Commands),
    ("CLICOLOR", VariableKind::Commands),
    ("CLICOLOR_FORCE", VariableKind::Commands),
    ("TERM", VariableKind::Commands),
    ("CI", VariableKind::Commands),
    ("COLUMNS", VariableKind::Commands),
    ("LINES", VariableKind::Commands),
];

/// Maximum length of a displayed value, in characters.
const MAX_SHOWN: usize = 200;

/// A variable in effect. Displayed as `NAME=value`, or as `NAME` if the value is a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VariableInEffect {
    /// Name of the variable.
    pub name: &'static str,
    /// First 200 characters of its value; `None` for a secret.
    pub value: Option<String>,
}

impl VariableInEffect {
    pub(super) fn new(name: &'static str, kind: VariableKind, value: &str) -> Self {
        let shown = || value.chars().take(MAX_SHOWN).collect();
        Self { name, value: (kind != VariableKind::TracesSecret).then(shown) }
    }
}

impl fmt::Display for VariableInEffect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            Some(value) => write!(f, "{}={value}", self.name),
            None => f.write_str(self.name),
        }
    }
}

/// Returns the set variables of one kind.
pub(super) fn set(environment: &dyn Environment, kind: VariableKind) -> Vec<VariableInEffect> {
    let of_kind = KNOWN_VARIABLES.iter().filter(|(_, other)| *other == kind);
    of_kind
        .filter_map(|(name, kind)| {
            let value = environment.value(name)?;
            Some(VariableInEffect::new(name, *kind, &value.to_string_lossy()))
        })
        .collect()
}

/// Files and folders where distributions keep the system's authorities.
const SYSTEM_AUTHORITIES: [&str; 13] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/ssl/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/ca-bundle.crt",
    "/etc/ssl/cert.pem",
    "/etc/ssl/certs/cacert.pem",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/pki/tls/cacert.pem",
    "/etc/pki/tls/cert.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/certs",
    "/etc/pki/tls/certs",
    "/usr/share/ca-certificates",
];

/// Returns whether a value of `SSL_CERT_FILE` or `SSL_CERT_DIR` contains only default locations of the
/// system's authorities. Distroless images set these variables that way.
pub(super) fn names_system_authorities(value: &str) -> bool {
    let is_system = |path: PathBuf| {
        let same = |known: &str| {
            let known = Path::new(known);
            path == known
                || matches!((path.canonicalize(), known.canonicalize()), (Ok(one), Ok(other)) if one == other)
        };
        SYSTEM_AUTHORITIES.into_iter().any(same)
    };
    !value.is_empty() && std::env::split_paths(value).all(is_system)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    #[test]
    fn each_variable_is_listed_once() {
        let names: BTreeSet<_> = KNOWN_VARIABLES.iter().map(|(name, _)| name).collect();
        assert_eq!(names.len(), KNOWN_VARIABLES.len());
    }

    #[test]
    fn shown_value_is_truncated_and_secret_is_hidden() {
        let shown = |kind| VariableInEffect::new("NAME", kind, &"ä".repeat(500)).to_string();
        assert_eq!(shown(VariableKind::Traces), format!("NAME={}", "ä".repeat(200)));
        assert_eq!(shown(VariableKind::TracesSecret), "NAME");
    }

    #[test]
    fn default_locations_of_authorities_are_recognized() {
        for value in
            ["/etc/ssl/certs/ca-certificates.crt", "/etc/ssl/certs", "/etc/ssl/certs:/etc/pki/tls/certs"]
        {
            assert!(names_system_authorities(value), "{value}");
        }
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("link.crt");
        std::fs::write(folder.path().join("own.crt"), "").unwrap();
        std::os::unix::fs::symlink(folder.path().join("own.crt"), &link).unwrap();
        for value in
            ["", "own.crt", "/etc/ssl/certs:/tmp", "/etc/ssl/certs/../../../tmp/x", link.to_str().unwrap()]
        {
            assert!(!names_system_authorities(value), "{value}");
        }
    }

    #[test]
    fn only_set_variables_of_a_kind_are_returned() {
        let environment: BTreeMap<String, String> =
            [("RUST_BACKTRACE", "1"), ("TERM", "xterm"), ("OTEL_SERVICE_NAME", "x"), ("HOME", "/")]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into();
        let set = set(&environment, VariableKind::Service);
        assert_eq!(set.iter().map(ToString::to_string).collect::<Vec<_>>(), ["RUST_BACKTRACE=1"]);
    }
}
