//! Dashboard, alerts and runbook refer only to real metrics and log messages.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use ott_gateway::proto::ott::v1::{IssueOttRequest, issue_ott_request::Subject};
use serde_json::Value;

use crate::support::{
    admin::Admin, authority::Authority, calling::until, gateway::Setup, upstream::Upstream,
};

fn file(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).expect(path)
}

/// Every label of every metric with its values, after one successful call.
async fn shown() -> BTreeMap<String, BTreeMap<String, BTreeSet<String>>> {
    let upstream = Upstream::http().await;
    let gateway = Setup::for_platform(upstream.address()).start();
    let subject = Some(Subject::Login("user".to_owned()));
    let request = IssueOttRequest { subject, ..IssueOttRequest::default() };
    gateway.client().await.issue_ott(request).await.expect("a token");
    // Metrics of certificates need TLS, the age of keys a JWKS URL, and the age of addresses a host
    // name.
    let pair = Authority::new("server").issue(&["localhost"]);
    let setup = Setup::for_platform(upstream.address());
    pair.write(setup.folder());
    let files = "certificate_file = \"FOLDER/tls.crt\"\nprivate_key_file = \"FOLDER/tls.key\"";
    let jwt = "[callers.jwt]\nissuer = \"i\"\naudience = \"a\"\njwks_url = \"http://localhost:1/\"";
    let with_tls = setup.replacing("[admin]", &format!("[server.tls]\n{files}\n{jwt}\n[admin]")).start();
    let has_files_and_names = async || {
        let text = Admin(with_tls.admin()).scrape().text().to_owned();
        ["ott_gateway_certificate_not_after", "ott_gateway_name_addresses_age_seconds{"]
            .iter()
            .all(|metric| text.contains(metric))
    };
    until("certificates and addresses are reported", has_files_and_names).await;
    let mut shown: BTreeMap<String, BTreeMap<String, BTreeSet<String>>> = BTreeMap::new();
    let pages = [gateway.admin(), with_tls.admin()].map(|admin| Admin(admin).scrape().text().to_owned());
    for line in pages.iter().flat_map(|page| page.lines()).filter(|line| !line.starts_with('#')) {
        let series = line.rsplit_once(' ').expect("a value").0;
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        let metric = shown.entry(name.to_owned()).or_default();
        for (label, value) in matchers(labels.trim_end_matches('}')) {
            metric.entry(label).or_default().insert(value);
        }
    }
    shown
}

/// The names and values of `name="value",…`, regardless of the operator.
fn matchers(text: &str) -> Vec<(String, String)> {
    let parts: Vec<&str> = text.split('"').collect();
    let pair = |pair: &[&str]| {
        let name = pair[0].trim_matches(|c: char| !c.is_alphanumeric() && c != '_').to_owned();
        (name, pair[1].to_owned())
    };
    parts.chunks_exact(2).map(pair).collect()
}

/// Every metric that an expression of `PromQL` reads, with the text of its matchers.
fn selectors(expression: &str) -> Vec<(&str, &str)> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut selectors = Vec::new();
    let mut rest = expression;
    while let Some(start) =
        ["ott_gateway_", "grpc_server_", "process_"].iter().filter_map(|prefix| rest.find(prefix)).min()
    {
        let name = &rest[start..];
        let end = name.find(|c| !is_word(c)).unwrap_or(name.len());
        let (name, after) = name.split_at(end);
        let matchers =
            after.strip_prefix('{').map_or("", |it| it.split_once('}').expect("a closing brace").0);
        selectors.push((name, matchers));
        rest = after;
    }
    selectors
}

/// Labels that Prometheus adds.
const SCRAPE_LABELS: [&str; 2] = ["job", "instance"];
/// Labels whose values are all reported from the start.
const CLOSED: [&str; 6] = ["reason", "kind", "grpc_code", "grpc_service", "result", "state"];

async fn assert_real(expressions: &[(String, String)]) {
    let shown = shown().await;
    let mut wrong = Vec::new();
    for (place, expression) in expressions {
        let selectors = selectors(expression);
        assert!(!selectors.is_empty(), "{place} reads no metric: {expression}");
        for (name, with) in selectors {
            // The runbook names a histogram by the common prefix of its series.
            let counted = format!("{name}_count");
            let of_histogram = || shown.get(&counted).filter(|_| place == "runbook");
            let Some(labels) = shown.get(name).or_else(of_histogram) else {
                wrong.push(format!("{place}: there is no metric {name}"));
                continue;
            };
            for (label, value) in matchers(with) {
                let known = labels.get(&label);
                if known.is_none() && !SCRAPE_LABELS.contains(&label.as_str()) {
                    wrong.push(format!("{place}: {name} has no label {label}"));
                }
                if !CLOSED.contains(&label.as_str()) {
                    continue;
                }
                for alternative in value.split('|') {
                    if known.is_some_and(|known| !known.contains(alternative)) {
                        wrong.push(format!("{place}: {name} never has {label}=\"{alternative}\""));
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// All members with this name, at any depth.
fn members<'a>(value: &'a Value, name: &str, found: &mut Vec<&'a str>) {
    match value {
        Value::Object(object) => {
            for (key, value) in object {
                match value {
                    Value::String(text) if key == name => found.push(text),
                    value => members(value, name, found),
                }
            }
        }
        Value::Array(array) => array.iter().for_each(|value| members(value, name, found)),
        _ => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dashboard_uses_existing_metrics() {
    let dashboard: Value =
        serde_json::from_str(&file("deploy/grafana/ott-gateway.json")).expect("the dashboard is JSON");
    let mut found = Vec::new();
    members(&dashboard, "expr", &mut found);
    assert!(found.len() > 30, "{}", found.len());
    members(&dashboard, "definition", &mut found);
    let expressions: Vec<_> =
        found.iter().map(|expression| ("dashboard".to_owned(), (*expression).to_owned())).collect();
    assert_real(&expressions).await;
}

/// Each alert: its name, its expression, and the rest.
fn alerts() -> Vec<(String, String, String)> {
    let rules = file("deploy/prometheus/alerts.yaml");
    rules
        .split("- alert: ")
        .skip(1)
        .map(|alert| {
            let (name, rest) = alert.split_once('\n').expect("a name");
            let (expression, rest) =
                rest.split_once("expr: |").and_then(|it| it.1.split_once("labels:")).expect("an expression");
            (name.to_owned(), expression.to_owned(), rest.to_owned())
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn alerts_use_existing_metrics() {
    let alerts: Vec<_> = alerts().into_iter().map(|(name, expression, _)| (name, expression)).collect();
    assert!(alerts.len() >= 8);
    assert_real(&alerts).await;
}

#[test]
fn each_alert_has_a_runbook_section_and_tests() {
    let runbook = file("docs/runbook.md");
    let tests = file("deploy/prometheus/alerts.test.yaml");
    let headings: BTreeSet<&str> = runbook.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    let alerts = alerts();
    let names: BTreeSet<&str> = alerts.iter().map(|(name, ..)| name.as_str()).collect();
    assert_eq!(headings, names);
    for (name, _, rest) in &alerts {
        let link = format!("runbook_url: docs/runbook.md#{}", name.to_lowercase());
        assert!(rest.contains(&link), "{name} does not link to its section");
        assert!(tests.contains(&format!("alertname: {name}\n        exp_alerts:\n          - ")), "{name}");
        let section = runbook.split(&format!("## {name}\n")).nth(1).expect("a section");
        let section = section.split("\n## ").next().expect("a section");
        for part in ["**Means:**", "**Check:**", "**Do:**"] {
            assert!(section.contains(part), "{name} has no {part}");
        }
    }
}

/// Appends all source files under a folder.
fn sources(folder: &Path, text: &mut String) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, text);
        } else {
            text.push_str(&fs::read_to_string(&path).expect("a source file"));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn runbook_quotes_existing_metrics_and_log_messages() {
    let runbook = file("docs/runbook.md");
    let mut source = String::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut source);
    let mut expressions = Vec::new();
    let mut log_lines = 0;
    for quoted in runbook.split('`').skip(1).step_by(2) {
        let is_metric = ["ott_gateway_", "grpc_server_", "process_"].iter().any(|it| quoted.contains(it));
        if is_metric {
            expressions.push(("runbook".to_owned(), quoted.to_owned()));
        } else if quoted.split(' ').count() >= 4 && !quoted.contains('-') {
            log_lines += 1;
            assert!(source.contains(quoted), "`{quoted}` is not in the source code");
        }
    }
    assert!(log_lines >= 8, "{log_lines}");
    assert_real(&expressions).await;
}
