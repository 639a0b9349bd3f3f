//! `[telemetry]`: logs and traces.

use tracing::level_filters::LevelFilter;
use url::Url;

use super::{section::Section, value};

/// How the gateway tells what it does. Logs go to stderr.
#[derive(Clone, Debug, PartialEq)]
pub struct Telemetry {
    /// `log_format`: "json" or "text"; "json".
    pub log_format: LogFormat,
    /// `log_level`: "error", "warn", "info", "debug" or "trace"; "info".
    pub log_level: LevelFilter,
    /// `otlp_endpoint`: the collector that traces are sent to by OTLP/gRPC, such as
    /// `http://collector:4317`; none: no traces.
    pub otlp_endpoint: Option<Url>,
    /// `trace_ratio`: the share of calls that are traced if the caller has not decided;
    /// 1.0, from 0.0 to 1.0.
    pub trace_ratio: f64,
    /// `service_name`: under which traces appear; "ott-gateway".
    pub service_name: String,
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

const LEVELS: &[(&str, LevelFilter)] = &[
    ("error", LevelFilter::ERROR),
    ("warn", LevelFilter::WARN),
    ("info", LevelFilter::INFO),
    ("debug", LevelFilter::DEBUG),
    ("trace", LevelFilter::TRACE),
];

impl Default for Telemetry {
    fn default() -> Self {
        Self {
            log_format: LogFormat::Json,
            log_level: LevelFilter::INFO,
            otlp_endpoint: None,
            trace_ratio: 1.0,
            service_name: "ott-gateway".to_owned(),
        }
    }
}

impl Telemetry {
    pub(super) fn read(mut section: Section<'_>) -> Self {
        let default = Self::default();
        let telemetry = Self {
            log_format: section.optional("log_format", value::word(FORMATS)).unwrap_or(default.log_format),
            log_level: section.optional("log_level", value::word(LEVELS)).unwrap_or(default.log_level),
            otlp_endpoint: section.optional("otlp_endpoint", value::plain_url),
            trace_ratio: section.optional("trace_ratio", value::share).unwrap_or(default.trace_ratio),
            service_name: section.optional("service_name", value::text).unwrap_or(default.service_name),
        };
        section.finish();
        telemetry
    }
}
