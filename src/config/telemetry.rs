//! `[telemetry]`: logs and traces.

use url::Url;

use super::{environment::Environment, log_level, section::Section, value};

/// How the gateway tells what it does. Logs go to stderr.
#[derive(Clone, Debug, PartialEq)]
pub struct Telemetry {
    /// `log_format`: "json" or "text"; "json".
    pub log_format: LogFormat,
    /// `log_level`: "off", "error", "warn", "info", "debug" or "trace", and the same for
    /// single targets, such as `"info,ott_gateway::credential=debug"`; "info". With what the
    /// variable `RUST_LOG` changes of it.
    pub log_level: String,
    /// `otlp_endpoint`: the collector that traces are sent to by OTLP/gRPC, such as
    /// `http://collector:4317`; none: no traces.
    pub otlp_endpoint: Option<Url>,
    /// `trace_ratio`: the share of calls that are traced if the caller has not decided;
    /// 1.0, from 0.0 to 1.0.
    pub trace_ratio: f64,
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
            log_format: LogFormat::Json,
            log_level: "info".to_owned(),
            otlp_endpoint: None,
            trace_ratio: 1.0,
        }
    }
}

impl Telemetry {
    pub(super) fn read(mut section: Section<'_>, environment: &dyn Environment) -> Self {
        let default = Self::default();
        let level = section.optional("log_level", log_level::key).unwrap_or(default.log_level);
        let telemetry = Self {
            log_format: section.optional("log_format", value::word(FORMATS)).unwrap_or(default.log_format),
            log_level: log_level::with_rust_log(level, environment, &section),
            otlp_endpoint: section.optional("otlp_endpoint", value::plain_url),
            trace_ratio: section.optional("trace_ratio", value::share).unwrap_or(default.trace_ratio),
        };
        section.finish();
        telemetry
    }
}
