use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::config::{
    Config, Environment,
    finding::{Findings, Place},
    tree::Table,
};
use crate::observe::telemetry::tracing::QueueSettings;

const ENDPOINT: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4317");

/// The settings, the variables in effect, and the warnings.
struct Read {
    traces: Option<Settings>,
    in_effect: Vec<String>,
    warnings: Vec<String>,
}

impl Read {
    fn settings(&self) -> &Settings {
        self.traces.as_ref().expect("there is a collector")
    }

    fn endpoint(&self) -> Option<String> {
        self.traces.as_ref().map(|traces| traces.endpoint.to_string())
    }
}

fn environment(variables: &[(&str, &str)]) -> BTreeMap<String, String> {
    variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn read(in_file: InFile, variables: &[(&str, &str)]) -> Read {
    let (nothing, findings) = (Table::new(), Findings::default());
    let section = Section::root(&nothing, Place::File(None), &findings);
    let (traces, in_effect) = complete(in_file, &section, &environment(variables));
    drop(section);
    let (traces, warnings) = findings.conclude(Some(traces)).expect("variables never cause errors");
    Read {
        traces,
        in_effect: in_effect.iter().map(ToString::to_string).collect(),
        warnings: warnings.iter().map(ToString::to_string).collect(),
    }
}

/// Returns the settings if only the collector's variable is set.
fn default() -> Settings {
    Settings::new(ENDPOINT.1.parse().expect("a URL"))
}

fn of_environment(variables: &[(&str, &str)]) -> Read {
    read(InFile::default(), &[&[ENDPOINT], variables].concat())
}

fn of_file(variables: &[(&str, &str)]) -> Read {
    let endpoint = Some("https://file:4317".parse().expect("a URL"));
    read(InFile { endpoint, ..InFile::default() }, variables)
}

#[test]
fn variables_have_no_effect_without_a_collector() {
    let read = read(
        InFile::default(),
        &[("OTEL_SERVICE_NAME", "x"), ("OTEL_BSP_SCHEDULE_DELAY", "never"), ("OTEL_LOGS_EXPORTER", "otlp")],
    );
    assert!(read.traces.is_none() && read.in_effect.is_empty() && read.warnings.is_empty());
}

#[test]
fn collector_of_the_file_overrides_that_for_traces_and_the_general_one() {
    let endpoint = |read: Read| read.endpoint();
    let specific = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://traces:4317");
    assert_eq!(endpoint(of_environment(&[])).as_deref(), Some("http://collector:4317/"));
    assert_eq!(endpoint(of_environment(&[specific])).as_deref(), Some("https://traces:4317/"));
    let both = of_file(&[ENDPOINT, specific]);
    assert!(both.in_effect.is_empty(), "{:?}", both.in_effect);
    assert_eq!(endpoint(both).as_deref(), Some("https://file:4317/"));
}

#[test]
fn collector_without_a_scheme_uses_tls_unless_it_is_insecure() {
    let name = "OTEL_EXPORTER_OTLP_ENDPOINT";
    let insecure = ("OTEL_EXPORTER_OTLP_INSECURE", "TRUE");
    for (variables, expected) in [
        (&[(name, "collector:4317")][..], "https://collector:4317/"),
        (&[(name, "collector:4317"), insecure], "http://collector:4317/"),
        (&[(name, "https://collector:4317"), insecure], "https://collector:4317/"),
        (&[(name, " http://[::1]:4317 ")], "http://[::1]:4317/"),
    ] {
        let read = read(InFile::default(), variables);
        assert_eq!(read.endpoint().as_deref(), Some(expected));
        assert!(read.warnings.is_empty(), "{:?}", read.warnings);
    }
    for text in ["ftp://collector", "http://", "http://user:canary@collector", "http://c/?x", "::", "a b"] {
        let read = read(InFile::default(), &[(name, text)]);
        assert!(read.traces.is_none(), "{text}");
        assert_eq!(read.warnings.len(), 1, "{text}");
        assert!(!read.warnings[0].contains("canary"));
    }
    let http = read(InFile::default(), &[(name, "http://collector:4318")]);
    assert!(http.traces.is_some() && http.warnings[0].contains("4318"), "{:?}", http.warnings);
}

#[test]
fn traces_can_be_switched_off() {
    for off in [("OTEL_SDK_DISABLED", "True"), ("OTEL_TRACES_EXPORTER", "none")] {
        for read in [of_environment(&[off]), of_file(&[off])] {
            assert!(read.traces.is_none());
            let shown = format!("{}={}", off.0, off.1);
            assert!(read.in_effect.contains(&shown), "{:?}", read.in_effect);
        }
    }
    for on in [("OTEL_SDK_DISABLED", "false"), ("OTEL_TRACES_EXPORTER", "console, otlp")] {
        let read = of_file(&[on]);
        assert!(read.traces.is_some() && read.warnings.is_empty(), "{:?}", read.warnings);
    }
    for ignored in [("OTEL_SDK_DISABLED", "1"), ("OTEL_TRACES_EXPORTER", "zipkin")] {
        let read = of_file(&[ignored]);
        assert!(read.traces.is_some() && read.in_effect.is_empty());
        assert!(read.warnings[0].starts_with(ignored.0) && read.warnings[0].contains("ignored"));
    }
}

#[test]
fn unsupported_protocol_disables_only_a_collector_of_the_environment() {
    let http = ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf");
    let read = of_environment(&[http]);
    assert!(read.traces.is_none());
    assert!(read.warnings[0].contains("traces are off: only grpc is supported"), "{:?}", read.warnings);
    let read = of_file(&[http]);
    assert!(read.traces.is_some() && read.warnings[0].contains("ignored"), "{:?}", read.warnings);
    let read = of_environment(&[http, ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "grpc")]);
    assert!(read.traces.is_some() && read.warnings.is_empty());
}

#[test]
fn every_supported_variable_takes_effect_and_is_listed() {
    let read = of_environment(&[
        ("OTEL_SERVICE_NAME", "login"),
        ("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=prod, team=a%2Cb ,service.name=other"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "api-key=canary%20key,x-tenant=canary"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "1500"),
        ("OTEL_BSP_EXPORT_TIMEOUT", "20000"),
        ("OTEL_BSP_SCHEDULE_DELAY", "100"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "1000"),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "100"),
        ("OTEL_ATTRIBUTE_COUNT_LIMIT", "9"),
        ("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "10"),
        ("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "99"),
        ("OTEL_TRACES_SAMPLER", "traceidratio"),
        ("OTEL_TRACES_SAMPLER_ARG", "0.25"),
        ("OTEL_PROPAGATORS", "tracecontext,baggage"),
        ("OTEL_METRICS_EXPORTER", "none"),
    ]);
    let settings = read.settings();
    assert_eq!(settings.service_name, "login");
    let resource = [("deployment.environment", "prod"), ("team", "a,b")];
    assert_eq!(settings.resource, resource.map(|(name, value)| (name.to_owned(), value.to_owned())));
    assert_eq!(
        (&settings.headers["api-key"], &settings.headers["x-tenant"]),
        (&"canary key".parse().unwrap(), &"canary".parse().unwrap())
    );
    assert_eq!(settings.attempt_timeout, Duration::from_millis(1500));
    assert_eq!(settings.batch_timeout, Duration::from_secs(20));
    let queue = QueueSettings { max_spans: 1000, batch: 100, delay: Duration::from_millis(100) };
    assert_eq!(settings.queue, queue);
    assert_eq!((settings.max_attributes, settings.max_value_length), (10, 99));
    assert_eq!(settings.sampling, SamplingSettings { ratio: 0.25, follow_callers: false });
    assert!(settings.propagate);
    assert!(read.in_effect.contains(&"OTEL_EXPORTER_OTLP_HEADERS".to_owned()));
    assert!(read.in_effect.contains(&"OTEL_SERVICE_NAME=login".to_owned()));
    assert!(!read.in_effect.iter().any(|shown| shown.starts_with("OTEL_ATTRIBUTE_COUNT_LIMIT")), "replaced");
    let all = format!("{settings:?} {:?} {:?}", read.in_effect, read.warnings);
    assert!(!all.contains("canary"), "{all}");
    let [warning] = &read.warnings[..] else { panic!("{:?}", read.warnings) };
    assert!(warning.contains("without encryption"), "{warning}");
}

#[test]
fn invalid_values_are_ignored_with_a_warning_that_does_not_contain_them() {
    for name in [
        "OTEL_RESOURCE_ATTRIBUTES",
        "OTEL_EXPORTER_OTLP_HEADERS",
        "OTEL_EXPORTER_OTLP_TRACES_HEADERS",
        "OTEL_EXPORTER_OTLP_TIMEOUT",
        "OTEL_BSP_EXPORT_TIMEOUT",
        "OTEL_BSP_SCHEDULE_DELAY",
        "OTEL_BSP_MAX_QUEUE_SIZE",
        "OTEL_BSP_MAX_EXPORT_BATCH_SIZE",
        "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT",
        "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT",
        "OTEL_TRACES_SAMPLER",
    ] {
        for value in ["canary", "-1", "99999999999999999999"] {
            let read = of_environment(&[(name, value)]);
            assert_eq!(*read.settings(), default(), "{name}={value}");
            let [warning] = &read.warnings[..] else { panic!("{name}={value}: {:?}", read.warnings) };
            assert!(warning.starts_with(name) && !warning.contains(value), "{warning}");
        }
    }
    for value in ["te=x", "grpc-timeout=1S", "a\u{e4}=x", "a=\u{1}", "a-bin=x", "=x", "a=%ff"] {
        let read = of_environment(&[("OTEL_EXPORTER_OTLP_HEADERS", value)]);
        assert!(read.settings().headers.is_empty() && read.warnings.len() == 1, "{value}");
    }
    let zero = of_environment(&[("OTEL_BSP_SCHEDULE_DELAY", "0")]);
    assert_eq!(zero.settings().queue, default().queue, "it would be a busy loop");
}

#[test]
fn sampler_sets_the_ratio_and_whether_callers_decide() {
    for (name, argument, expected) in [
        ("always_on", "0.5", (1.0, false)),
        ("always_off", "", (0.0, false)),
        ("traceidratio", "", (1.0, false)),
        ("parentbased_always_on", "", (1.0, true)),
        ("parentbased_always_off", "", (0.0, true)),
        ("parentbased_traceidratio", "0.125", (0.125, true)),
    ] {
        let read = of_environment(&[("OTEL_TRACES_SAMPLER", name), ("OTEL_TRACES_SAMPLER_ARG", argument)]);
        let expected = SamplingSettings { ratio: expected.0, follow_callers: expected.1 };
        assert_eq!(read.settings().sampling, expected, "{name}");
    }
    let configured = InFile { endpoint: ENDPOINT.1.parse().ok(), ratio: Some(0.75), ..InFile::default() };
    let by_file = read(configured, &[("OTEL_TRACES_SAMPLER", "always_off")]);
    let expected = SamplingSettings { ratio: 0.75, follow_callers: true };
    assert_eq!(by_file.settings().sampling, expected);
    assert!(by_file.in_effect.is_empty());
}

#[test]
fn propagators_other_than_trace_context_cause_a_warning() {
    for (value, propagates, warnings) in [
        ("tracecontext", true, 0),
        ("none", false, 0),
        ("baggage", false, 0),
        ("b3,tracecontext", true, 1),
        ("b3", false, 1),
    ] {
        let read = of_environment(&[("OTEL_PROPAGATORS", value)]);
        assert_eq!(read.settings().propagate, propagates, "{value}");
        assert_eq!(read.warnings.len(), warnings, "{value}");
    }
}

#[test]
fn unsupported_variables_cause_a_warning_unless_they_are_none_or_empty() {
    let read = of_environment(&[
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
        ("OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", "none"),
        ("OTEL_METRICS_EXPORTER", "otlp"),
        ("OTEL_LOGS_EXPORTER", "none"),
        ("OTEL_SPAN_EVENT_COUNT_LIMIT", "5"),
        ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "/canary"),
        ("OTEL_EMPTY", ""),
    ]);
    let named: Vec<&str> = read.warnings.iter().map(|text| text.split(':').next().expect("a name")).collect();
    assert_eq!(
        named,
        [
            "OTEL_EXPORTER_OTLP_CLIENT_KEY",
            "OTEL_EXPORTER_OTLP_COMPRESSION",
            "OTEL_METRICS_EXPORTER",
            "OTEL_SPAN_EVENT_COUNT_LIMIT"
        ]
    );
}

#[test]
fn file_overrides_the_collectors_authorities_of_the_environment() {
    let variable = ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/etc/collector/ca.crt");
    assert_eq!(of_file(&[variable]).settings().ca_file, Some(PathBuf::from(variable.1)));
    assert!(of_environment(&[variable]).settings().ca_file.is_none(), "there is no certificate without TLS");
    let configured = InFile {
        endpoint: "https://collector:4317".parse().ok(),
        ca_file: Some(PathBuf::from("/file.crt")),
        ..InFile::default()
    };
    let of_both = read(configured, &[variable]);
    assert_eq!(of_both.settings().ca_file, Some(PathBuf::from("/file.crt")));
    assert!(of_both.in_effect.is_empty());
}

#[test]
fn variables_that_replace_the_systems_authorities_cause_a_warning() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let load = |client: &str, variables: &[(&str, &str)]| {
        let text = format!(
            "[api_clients.eu2]\n{client}\nclient_id = \"a\"\nclient_secret_env = \"SECRET\"\n\
             [[access.rules]]\ncallers = [\"anonymous\"]\nusers = \"all\"\n[audit]\nsink = \"stdout\"\n"
        );
        let path = write("gateway.toml", &text);
        let variables = environment(&[variables, &[("SECRET", "canary-of-this-test")]].concat());
        let config = Config::load(Some(&path), &variables as &dyn Environment).unwrap();
        let of = |warning: &crate::config::Finding| matches!(&warning.place, Place::Variable(name) if name.starts_with("SSL_"));
        let warnings: Vec<String> =
            config.warnings.iter().filter(|it| of(it)).map(ToString::to_string).collect();
        (config.environment.iter().map(ToString::to_string).collect::<Vec<_>>(), warnings)
    };
    let https = "data_center_url = \"https://eu2.example\"";
    let (in_effect, warnings) = load(https, &[("SSL_CERT_FILE", "/tmp/own.crt"), ("SSL_CERT_DIR", "/tmp")]);
    assert_eq!(in_effect, ["SSL_CERT_DIR=/tmp", "SSL_CERT_FILE=/tmp/own.crt"]);
    assert_eq!(warnings.len(), 2);
    assert!(warnings[0].contains("API client \"eu2\""), "{warnings:?}");

    let (in_effect, warnings) = load(https, &[("SSL_CERT_FILE", "/etc/ssl/certs/ca-certificates.crt")]);
    assert_eq!((in_effect.len(), warnings.len()), (1, 0), "the system's own");

    let certificate = rcgen::generate_simple_self_signed(vec!["ca".to_owned()]).unwrap().cert.pem();
    let path = write("ca.crt", &certificate);
    for client in [
        format!("{https}\nca_file = {:?}", path.display()),
        "data_center_url = \"http://127.0.0.1:1\"".to_owned(),
    ] {
        let (in_effect, warnings) = load(&client, &[("SSL_CERT_FILE", "/tmp/own.crt")]);
        assert_eq!((in_effect.len(), warnings.len()), (0, 0), "{client}");
    }
}

proptest! {
    #[test]
    fn no_value_causes_an_error_or_appears_in_a_warning(
        index in 0..KNOWN_VARIABLES.len(),
        value in "(canary|\\PC{0,30}|[a-z0-9=,%.:/-]{0,60})",
    ) {
        let (name, kind) = KNOWN_VARIABLES[index];
        let value = format!("{value}zq7");
        let read = of_environment(&[(name, &value)]);
        prop_assert!(read.warnings.iter().all(|warning| !warning.contains("zq7")));
        let is_secret = kind == VariableKind::TracesSecret;
        prop_assert!(!is_secret || read.in_effect.iter().all(|shown| !shown.contains("zq7")));
    }
}
