//! The variables that every OpenTelemetry SDK reads (OpenTelemetry specification, "Environment
//! Variable Specification" and "OTLP Exporter Configuration").
//!
//! The configuration file takes precedence. The variables are often set for a whole cluster, so an
//! invalid one does not prevent the gateway from starting: it is ignored with a warning, as the
//! specification requires. They are read only if a collector is configured.

use std::{path::PathBuf, str::FromStr, sync::Arc, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue};
use percent_encoding::percent_decode_str;
use url::Url;

use super::{
    environment::Environment,
    finding::Place,
    section::Section,
    tree::Value,
    value,
    variables::{KNOWN_VARIABLES, VariableInEffect, VariableKind},
};
use crate::{
    http_client::is_loopback,
    observe::telemetry::tracing::{SamplingSettings, Settings},
};

/// Maximum number of resource attributes, and of headers.
const MAX_PAIRS: usize = 64;
/// Maximum length of a resource attribute, in bytes.
const MAX_ATTRIBUTE_BYTES: usize = 1024;

/// The trace settings of the configuration file.
#[derive(Debug, Default)]
pub(super) struct InFile {
    /// Collector URL.
    pub(super) endpoint: Option<Url>,
    /// Authorities of the collector's certificate.
    pub(super) ca_file: Option<PathBuf>,
    /// Share of calls that are recorded.
    pub(super) ratio: Option<f64>,
}

/// Completes the file's settings with the variables, and returns the variables in effect. Without a
/// collector there are no traces.
pub(super) fn complete(
    in_file: InFile,
    section: &Section<'_>,
    environment: &dyn Environment,
) -> (Option<Settings>, Vec<VariableInEffect>) {
    let mut reader = Reader { section, environment, in_effect: Vec::new() };
    let traces = reader.traces(in_file);
    (traces, reader.in_effect)
}

struct Reader<'a, 'b> {
    section: &'a Section<'b>,
    environment: &'a dyn Environment,
    in_effect: Vec<VariableInEffect>,
}

/// The rule that an ignored value breaks, without the value.
type Rule = &'static str;

impl Reader<'_, '_> {
    fn traces(&mut self, in_file: InFile) -> Option<Settings> {
        let from_file = in_file.endpoint.is_some();
        let endpoint = in_file.endpoint.or_else(|| self.endpoint())?;
        if self.is_off() || !self.speaks_grpc(from_file) {
            return None;
        }
        let mut settings = Settings::new(endpoint);
        settings.ca_file = match in_file.ca_file {
            None if settings.endpoint.scheme() == "https" => {
                self.signal("CERTIFICATE", |text| Ok(PathBuf::from(text)))
            }
            in_file => in_file,
        };
        self.export(&mut settings);
        self.limits(&mut settings);
        let mut resource = self.read("OTEL_RESOURCE_ATTRIBUTES", attributes).unwrap_or_default();
        let named = resource.iter().position(|(name, _)| name == "service.name");
        let by_attribute = named.map(|index| resource.remove(index).1);
        settings.resource = resource;
        replace(&mut settings.service_name, by_attribute);
        replace(&mut settings.service_name, self.read("OTEL_SERVICE_NAME", |text| Ok(text.to_owned())));
        settings.propagate = self.propagates();
        self.warn_of_readable_headers(&settings);
        if let Some(ratio) = in_file.ratio {
            settings.sampling.ratio = ratio;
        } else if let Some((ratio, follow_callers)) = self.sampler() {
            settings.sampling = SamplingSettings { ratio, follow_callers };
        }
        self.warn_of_others();
        Some(settings)
    }

    /// Reads how spans are batched and sent.
    fn export(&mut self, settings: &mut Settings) {
        settings.headers = self.signal("HEADERS", headers).unwrap_or_default();
        replace(&mut settings.attempt_timeout, self.signal("TIMEOUT", |text| milliseconds(text, 60_000)));
        let batch_timeout = self.read("OTEL_BSP_EXPORT_TIMEOUT", |text| milliseconds(text, 600_000));
        replace(&mut settings.batch_timeout, batch_timeout);
        let queue = &mut settings.queue;
        let delay = self.read("OTEL_BSP_SCHEDULE_DELAY", |text| milliseconds(text, 300_000));
        replace(&mut queue.delay, delay);
        let max_spans =
            self.read("OTEL_BSP_MAX_QUEUE_SIZE", |text| number(text, 1, 65_536, "must be from 1 to 65536"));
        replace(&mut queue.max_spans, max_spans);
        let batch = self
            .read("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", |text| number(text, 1, 8192, "must be from 1 to 8192"));
        replace(&mut queue.batch, batch);
        queue.batch = queue.batch.min(queue.max_spans);
    }

    /// Reads the limits of a span.
    fn limits(&mut self, settings: &mut Settings) {
        let max_attributes =
            self.of_spans("ATTRIBUTE_COUNT_LIMIT", |text| number(text, 0, 1024, "must be from 0 to 1024"));
        replace(&mut settings.max_attributes, max_attributes);
        let max_value_length = self.of_spans("ATTRIBUTE_VALUE_LENGTH_LIMIT", |text| {
            number(text, 0, 16_384, "must be from 0 to 16384")
        });
        replace(&mut settings.max_value_length, max_value_length);
    }

    fn warn_of_readable_headers(&self, settings: &Settings) {
        let endpoint = &settings.endpoint;
        if !settings.headers.is_empty() && endpoint.scheme() == "http" && !is_loopback(endpoint) {
            let name = if self.is_set("OTEL_EXPORTER_OTLP_TRACES_HEADERS") {
                "OTEL_EXPORTER_OTLP_TRACES_HEADERS"
            } else {
                "OTEL_EXPORTER_OTLP_HEADERS"
            };
            self.warn(name, "the headers are sent to the collector without encryption; use https");
        }
    }

    /// Returns the collector URL, if a variable sets one.
    fn endpoint(&mut self) -> Option<Url> {
        let insecure =
            self.signal_text("INSECURE").is_some_and(|(_, text)| text.eq_ignore_ascii_case("true"));
        let (name, text) = self.signal_text("ENDPOINT")?;
        let scheme = if insecure { "http" } else { "https" };
        let has_scheme = text.contains("://");
        let url = if has_scheme { text.clone() } else { format!("{scheme}://{text}") };
        let Ok(url) = value::plain_url(&Value::Variable(url)) else {
            self.warn(name, "is not a collector URL, such as http://collector:4317; ignored");
            return None;
        };
        if !has_scheme {
            self.signal("INSECURE", boolean);
        }
        if url.port() == Some(4318) {
            self.warn(
                name,
                "port 4318 is for OTLP over HTTP; traces are sent by OTLP over gRPC, usually to port 4317",
            );
        }
        self.note(name, &text);
        Some(url)
    }

    /// Returns whether traces are switched off. The file has no key for this, so these variables
    /// also apply to a collector set in the file.
    fn is_off(&mut self) -> bool {
        if self.read("OTEL_SDK_DISABLED", boolean) == Some(true) {
            return true;
        }
        let exporter = self.read("OTEL_TRACES_EXPORTER", |text| {
            let mut names = text.split(',').map(str::trim);
            match text.trim() {
                "none" => Ok(false),
                _ if names.any(|name| name == "otlp") => Ok(true),
                _ => Err("only otlp and none are supported; ignored"),
            }
        });
        exporter == Some(false)
    }

    /// Returns whether the collector uses gRPC. One set in the file always does.
    fn speaks_grpc(&mut self, from_file: bool) -> bool {
        let Some((name, text)) = self.signal_text("PROTOCOL") else { return true };
        if text == "grpc" {
            self.note(name, &text);
            return true;
        }
        if from_file {
            self.warn(name, "ignored: otlp_endpoint is always OTLP over gRPC");
        } else {
            self.warn(
                name,
                "traces are off: only grpc is supported; set it to grpc and the endpoint to the collector's \
                 gRPC port, or set otlp_endpoint",
            );
        }
        from_file
    }

    fn propagates(&mut self) -> bool {
        let names = self.read("OTEL_PROPAGATORS", |text| {
            let known = |name: &str| matches!(name, "tracecontext" | "baggage" | "none");
            let names: Vec<&str> = text.split(',').map(str::trim).collect();
            Ok((names.contains(&"tracecontext"), names.iter().all(|name| known(name))))
        });
        let Some((propagates, all_known)) = names else { return true };
        if !all_known {
            self.warn("OTEL_PROPAGATORS", "only tracecontext is supported, the others have no effect");
        }
        propagates
    }

    /// Returns the share of calls that are recorded, and whether callers may decide.
    fn sampler(&mut self) -> Option<(f64, bool)> {
        let (follows_callers, fixed) = self.read("OTEL_TRACES_SAMPLER", |text| match text {
            "always_on" => Ok((false, Some(1.0))),
            "always_off" => Ok((false, Some(0.0))),
            "traceidratio" => Ok((false, None)),
            "parentbased_always_on" => Ok((true, Some(1.0))),
            "parentbased_always_off" => Ok((true, Some(0.0))),
            "parentbased_traceidratio" => Ok((true, None)),
            _ => Err("is not a supported sampler (always_on, always_off, traceidratio, each also with \
                      parentbased_); ignored"),
        })?;
        let ratio = fixed.or_else(|| {
            self.read("OTEL_TRACES_SAMPLER_ARG", |text| {
                let ratio = text.parse().ok().filter(|ratio: &f64| (0.0..=1.0).contains(ratio));
                ratio.ok_or("must be a number from 0 to 1; ignored")
            })
        });
        Some((ratio.unwrap_or(1.0), follows_callers))
    }

    /// Warns about OpenTelemetry variables that are set and have no effect.
    fn warn_of_others(&self) {
        let mut names = self.environment.names();
        names.sort();
        for name in names.iter().filter(|name| name.starts_with("OTEL_")) {
            let is_known = KNOWN_VARIABLES.iter().any(|(known, _)| known == name);
            let Some(text) = self.text(name).filter(|_| !is_known) else { continue };
            // Metrics and logs are never exported, and nothing is compressed.
            let is_default = text == "none"
                && (name.ends_with("_COMPRESSION")
                    || matches!(name.as_str(), "OTEL_METRICS_EXPORTER" | "OTEL_LOGS_EXPORTER"));
            if !is_default {
                self.warn(name, "is not supported and has no effect");
            }
        }
    }

    /// Reads an exporter variable: the one for traces, or else the general one.
    fn signal<T>(&mut self, part: &str, parse: impl FnOnce(&str) -> Result<T, Rule>) -> Option<T> {
        let (name, text) = self.signal_text(part)?;
        self.parsed(name, &text, parse)
    }

    fn signal_text(&self, part: &str) -> Option<(&'static str, String)> {
        self.first(&[format!("OTEL_EXPORTER_OTLP_TRACES_{part}"), format!("OTEL_EXPORTER_OTLP_{part}")])
    }

    /// Reads a limit: the one for spans, or else the general one.
    fn of_spans<T>(&mut self, part: &str, parse: impl FnOnce(&str) -> Result<T, Rule>) -> Option<T> {
        let (name, text) = self.first(&[format!("OTEL_SPAN_{part}"), format!("OTEL_{part}")])?;
        self.parsed(name, &text, parse)
    }

    fn read<T>(&mut self, name: &str, parse: impl FnOnce(&str) -> Result<T, Rule>) -> Option<T> {
        let (name, text) = self.first(&[name.to_owned()])?;
        self.parsed(name, &text, parse)
    }

    /// Returns the first of these known variables that is set.
    fn first(&self, names: &[String]) -> Option<(&'static str, String)> {
        let known = |name: &String| KNOWN_VARIABLES.iter().find(|(known, _)| known == name);
        names.iter().filter_map(known).find_map(|(name, _)| Some((*name, self.text(name)?)))
    }

    fn parsed<T>(
        &mut self,
        name: &'static str,
        text: &str,
        parse: impl FnOnce(&str) -> Result<T, Rule>,
    ) -> Option<T> {
        match parse(text) {
            Ok(value) => {
                self.note(name, text);
                Some(value)
            }
            Err(rule) => {
                self.warn(name, rule);
                None
            }
        }
    }

    /// Returns the value of a variable. An empty one counts as unset (specification).
    fn text(&self, name: &str) -> Option<String> {
        let text = self.environment.value(name)?.to_string_lossy().trim().to_owned();
        (!text.is_empty()).then_some(text)
    }

    fn is_set(&self, name: &str) -> bool {
        self.text(name).is_some()
    }

    fn note(&mut self, name: &'static str, text: &str) {
        let kind = KNOWN_VARIABLES.iter().find(|(known, _)| *known == name).map(|(_, kind)| *kind);
        let kind = kind.unwrap_or(VariableKind::TracesSecret);
        self.in_effect.push(VariableInEffect::new(name, kind, text));
    }

    fn warn(&self, name: &str, rule: Rule) {
        self.section.warning_at(Place::Variable(Arc::from(name)), rule);
    }
}

/// Replaces a default by a value, if there is one.
fn replace<T>(default: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *default = value;
    }
}

fn boolean(text: &str) -> Result<bool, Rule> {
    if text.eq_ignore_ascii_case("true") {
        Ok(true)
    } else if text.eq_ignore_ascii_case("false") {
        Ok(false)
    } else {
        Err("must be true or false; ignored")
    }
}

fn milliseconds(text: &str, max: u64) -> Result<Duration, Rule> {
    let number = text.parse().ok().filter(|number| (1..=max).contains(number));
    number
        .map(Duration::from_millis)
        .ok_or("must be a number of milliseconds within the supported range; ignored")
}

fn number<T: Copy + FromStr + PartialOrd>(text: &str, min: T, max: T, rule: Rule) -> Result<T, Rule> {
    text.parse().ok().filter(|number| *number >= min && *number <= max).ok_or(rule)
}

/// Parses comma-separated `name=value` pairs with percent-encoded values.
fn pairs(text: &str) -> Option<Vec<(String, String)>> {
    let mut pairs = Vec::new();
    for pair in text.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=')?;
        let value = percent_decode_str(value.trim()).decode_utf8().ok()?;
        if name.trim().is_empty() || pairs.len() == MAX_PAIRS {
            return None;
        }
        pairs.push((name.trim().to_owned(), value.into_owned()));
    }
    Some(pairs)
}

fn attributes(text: &str) -> Result<Vec<(String, String)>, Rule> {
    let is_short = |pairs: &Vec<(String, String)>| {
        pairs.iter().all(|(name, value)| name.len() + value.len() <= MAX_ATTRIBUTE_BYTES)
    };
    pairs(text).filter(is_short).ok_or("must be a comma-separated list of NAME=VALUE; ignored")
}

/// Parses headers. The values are secrets: marked as sensitive, and not part of the rule.
fn headers(text: &str) -> Result<HeaderMap, Rule> {
    const RULE: Rule = "must be a comma-separated list of HEADER=VALUE; ignored";
    let mut headers = HeaderMap::new();
    for (name, value) in pairs(text).ok_or(RULE)? {
        let name = HeaderName::try_from(name).map_err(|_| RULE)?;
        let mut value = HeaderValue::try_from(value).map_err(|_| RULE)?;
        if value.to_str().is_err() || name.as_str().ends_with("-bin") {
            return Err(RULE);
        }
        if is_of_protocol(&name) {
            return Err("must not set a header that gRPC reserves; ignored");
        }
        value.set_sensitive(true);
        headers.append(name, value);
    }
    Ok(headers)
}

/// Returns whether gRPC or HTTP/2 reserves a header.
fn is_of_protocol(name: &HeaderName) -> bool {
    name.as_str().starts_with("grpc-")
        || matches!(
            name.as_str(),
            "te" | "content-type"
                | "content-length"
                | "user-agent"
                | "host"
                | "connection"
                | "transfer-encoding"
                | "upgrade"
                | "keep-alive"
                | "proxy-connection"
        )
}

#[cfg(test)]
mod tests;
