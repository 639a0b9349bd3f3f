//! `[telemetry]`: logs and traces.

use super::{
    environment::Environment, finding::Problem, log_level, named_file, otel, section::Section, value,
    variables::VariableInEffect,
};
use crate::observe::telemetry::{logging::Format, tracing};

/// Logs and traces. Logs go to standard error.
#[derive(Clone, Debug, PartialEq)]
pub struct Telemetry {
    /// `log_format`: "json" or "text"; by default text on a terminal, JSON elsewhere.
    pub log_format: Option<Format>,
    /// `log_level`: "off", "error", "warn", "info", "debug" or "trace", and the same for single
    /// targets, such as `"info,ott_gateway::credential=debug"`; "info" by default. Includes the
    /// changes that `RUST_LOG` makes.
    pub log_level: String,
    /// `otlp_endpoint`, `otlp_ca_file`, `trace_ratio` and the environment variables `OTEL_…`: how
    /// traces are sent; `None` if traces are off.
    pub traces: Option<tracing::Settings>,
}

const FORMATS: &[(&str, Format)] = &[("json", Format::Json), ("text", Format::Text)];

impl Default for Telemetry {
    fn default() -> Self {
        Self { log_format: None, log_level: "info".to_owned(), traces: None }
    }
}

impl Telemetry {
    /// Reads the section. Also returns the OpenTelemetry variables in effect.
    pub(super) fn read(
        mut section: Section<'_>,
        environment: &dyn Environment,
    ) -> (Self, Vec<VariableInEffect>) {
        let default = Self::default();
        let level = section.optional("log_level", log_level::key).unwrap_or(default.log_level);
        let configured = otel::InFile {
            endpoint: section.optional("otlp_endpoint", value::plain_url),
            ca_file: named_file::authorities(&mut section, "otlp_ca_file"),
            ratio: section.optional("trace_ratio", value::share),
        };
        if configured.ca_file.is_some()
            && configured.endpoint.as_ref().is_some_and(|endpoint| endpoint.scheme() == "http")
        {
            section.error("otlp_ca_file", Problem::rule("needs an otlp_endpoint with https"));
        }
        let (traces, in_effect) = otel::complete(configured, &section, environment);
        let telemetry = Self {
            log_format: section.optional("log_format", value::one_of(FORMATS)),
            log_level: log_level::with_rust_log(level, environment, &section),
            traces,
        };
        section.finish();
        (telemetry, in_effect)
    }
}
