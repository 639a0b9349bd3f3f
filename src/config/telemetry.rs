//! `[telemetry]`: logs and traces.

use std::path::PathBuf;

use url::Url;

use super::{
    environment::Environment, fault::Problem, log_level, named_file, otel, otel::TraceOptions,
    section::Section, value, variables::VariableInEffect,
};

/// Logs and traces. Logs go to standard error.
#[derive(Clone, Debug, PartialEq)]
pub struct Telemetry {
    /// `log_format`: "json" or "text"; none: text on a terminal, JSON elsewhere.
    pub log_format: Option<LogFormat>,
    /// `log_level`: "off", "error", "warn", "info", "debug" or "trace", and the same for
    /// single targets, such as `"info,ott_gateway::credential=debug"`; "info". With what the
    /// variable `RUST_LOG` changes of it.
    pub log_level: String,
    /// `otlp_endpoint`: the collector that traces are sent to by OTLP/gRPC, such as
    /// `http://collector:4317`, or that of the environment; none: no traces.
    pub otlp_endpoint: Option<Url>,
    /// `otlp_ca_file`: the only authorities that the certificate of `otlp_endpoint` may come from;
    /// the system's.
    pub otlp_ca_file: Option<PathBuf>,
    /// `trace_ratio`: the share of calls that are traced if the caller has not decided;
    /// 1.0, from 0.0 to 1.0.
    pub trace_ratio: f64,
    /// What only variables of the environment set (`OTEL_…`).
    pub traces: TraceOptions,
}

/// The form of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object.
    Json,
    /// For people.
    Text,
}

const FORMATS: &[(&str, LogFormat)] = &[("json", LogFormat::Json), ("text", LogFormat::Text)];

impl Default for Telemetry {
    fn default() -> Self {
        Self {
            log_format: None,
            log_level: "info".to_owned(),
            otlp_endpoint: None,
            otlp_ca_file: None,
            trace_ratio: 1.0,
            traces: TraceOptions::default(),
        }
    }
}

impl Telemetry {
    /// Also returns the variables of OpenTelemetry that are in effect.
    pub(super) fn read(
        mut section: Section<'_>,
        environment: &dyn Environment,
    ) -> (Self, Vec<VariableInEffect>) {
        let default = Self::default();
        let level = section.optional("log_level", log_level::key).unwrap_or(default.log_level);
        let configured = otel::Traces {
            endpoint: section.optional("otlp_endpoint", value::plain_url),
            ca_file: named_file::authorities(&mut section, "otlp_ca_file"),
            ratio: section.optional("trace_ratio", value::share),
            options: TraceOptions::default(),
        };
        if configured.ca_file.is_some()
            && configured.endpoint.as_ref().is_some_and(|endpoint| endpoint.scheme() == "http")
        {
            section.fault("otlp_ca_file", Problem::rule("needs an otlp_endpoint with https"));
        }
        let (traces, in_effect) = otel::complete(configured, &section, environment);
        let telemetry = Self {
            log_format: section.optional("log_format", value::word(FORMATS)),
            log_level: log_level::with_rust_log(level, environment, &section),
            otlp_endpoint: traces.endpoint,
            otlp_ca_file: traces.ca_file,
            trace_ratio: traces.ratio.unwrap_or(default.trace_ratio),
            traces: traces.options,
        };
        section.finish();
        (telemetry, in_effect)
    }
}
