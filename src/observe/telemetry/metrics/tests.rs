//! Counts, and their documentation.

use std::{
    collections::BTreeMap,
    process::Command,
    thread,
    time::{Duration, SystemTime},
};

use prometheus::{
    IntCounterVec, Opts,
    proto::{MetricFamily, MetricType},
};

use tonic::Code;

use super::{callers::MAX_CALLERS, family::LazyCounters, *};
use crate::{
    base::{clock, files::Outcomes, validity::Validity},
    domain::{
        call::{Certainty, Holder, InFlightLimit, Method},
        reason::Reason,
    },
    observe::telemetry::duties::Duty,
};

const MILLISECOND: Duration = Duration::from_millis(1);

/// Returns metrics with at least one event of every kind.
fn busy() -> Metrics {
    let metrics = Metrics::new();
    metrics.set_callers(["spiffe://mesh/shop", "anonymous"]);
    metrics.set_candidate_rules(true);
    for method in MethodLabel::ALL {
        metrics.call_started(method);
        metrics.call_handled(method, Code::NotFound, MILLISECOND);
        metrics.caller_call("spiffe://mesh/shop", method, Code::NotFound);
    }
    metrics.error(MethodLabel::IssueOtt, Reason::UserNotFound);
    metrics.without_deadline("anonymous");
    metrics.quota_exceeded("anonymous");
    metrics.connection_refused(ConnectionRefusal::PeerLimit);
    metrics.connection_ended(ConnectionEnd::Idle);
    metrics.tls_handshake_completed();
    metrics.spoofed_identity_header();
    metrics.security_event(SecurityEvent::OttInUse);
    metrics.access_denied(AccessDenial::Caller);
    metrics.audit_record(AuditSink::File, RecordResult::Ok);
    let rules = metrics.reloads(Reloaded::Rules, "");
    rules.loaded();
    rules.reloaded(true);
    rules.reloaded(false);
    let validity = Validity { not_before: SystemTime::UNIX_EPOCH, not_after: SystemTime::UNIX_EPOCH };
    metrics.certificate(Certificate::Server, validity);
    metrics.jwt_issuer("default").expired(false);
    metrics.panic();
    metrics.event_loop_lag(MILLISECOND);
    metrics.set_log_lines(2, 3);
    let client = metrics.api_client("eu2");
    client.request(Method::IssueOtt, Certainty::Done, Some(200), MILLISECOND);
    metrics.undelivered_session("eu2", Logout::Failed);
    client.retry(Method::IssueOtt);
    client.breaker(Method::IssueOtt, BreakerState::Open);
    client.token_refresh(TokenRefresh::Fetched);
    client.clock_skew(-1.5);
    metrics.outgoing().addresses_confirmed("eu2.example");
    client.text_withheld();
    metrics.threads().register("worker-0").pulse().beat();
    let duty = metrics.duties().register(Duty::AccessToken, Some("eu2"));
    duty.started();
    metrics.limit(EffectiveLimit::Connections, 1024);
    // Exports the metrics that are computed on reading.
    let _ = metrics.render();
    metrics
}

fn has(metrics: &Metrics, line: &str) -> bool {
    metrics.render().lines().any(|other| other == line)
}

#[test]
fn calls_are_counted_under_the_usual_names_of_grpc_metrics() {
    let metrics = busy();
    let labels = r#"grpc_method="IssueOtt",grpc_service="ott.v1.OttService",grpc_type="unary""#;
    for line in [
        format!("grpc_server_started_total{{{labels}}} 1"),
        format!(r#"grpc_server_handled_total{{grpc_code="NotFound",{labels}}} 1"#),
        format!(r#"grpc_server_handled_total{{grpc_code="OK",{labels}}} 0"#),
        format!("grpc_server_handling_seconds_count{{{labels}}} 1"),
        format!(r#"grpc_server_handling_seconds_bucket{{{labels},le="0.001"}} 1"#),
        r#"grpc_server_started_total{grpc_method="unknown",grpc_service="unknown",grpc_type="unary"} 1"#
            .into(),
        r#"ott_gateway_errors_total{method="IssueOtt",reason="USER_NOT_FOUND"} 1"#.into(),
        r#"ott_gateway_errors_total{method="IssueOtt",reason="OTT_REJECTED"} 0"#.into(),
    ] {
        assert!(has(&metrics, &line), "{line}\n{}", metrics.render());
    }
}

#[test]
fn undelivered_sessions_are_exported_from_the_start() {
    let metrics = Metrics::new();
    let line = |outcome: &str, count: u32| {
        format!(r#"ott_gateway_undelivered_sessions_total{{api_client="eu2",outcome="{outcome}"}} {count}"#)
    };
    let _client = metrics.api_client("eu2");
    assert!(has(&metrics, &line("logged_out", 0)) && has(&metrics, &line("logout_failed", 0)));
    metrics.undelivered_session("eu2", Logout::Failed);
    assert!(has(&metrics, &line("logged_out", 0)) && has(&metrics, &line("logout_failed", 1)));
}

#[test]
fn callers_that_no_rule_names_are_counted_together() {
    let metrics = busy();
    for number in 0..5000 {
        metrics.caller_call(&format!("jwt:{number}"), MethodLabel::IssueOtt, Code::Ok);
    }
    let line = r#"ott_gateway_caller_calls_total{caller="other",code="OK",method="IssueOtt"} 5000"#;
    assert!(has(&metrics, line));
    assert!(!metrics.render().contains("jwt:"));
    metrics.set_callers(["jwt:1", "spiffe://mesh/shop"]);
    metrics.caller_call("jwt:1", MethodLabel::IssueOtt, Code::Ok);
    metrics.caller_call("spiffe://mesh/shop", MethodLabel::IssueOtt, Code::NotFound);
    assert!(has(&metrics, r#"ott_gateway_caller_calls_total{caller="jwt:1",code="OK",method="IssueOtt"} 1"#));
    let stays =
        r#"ott_gateway_caller_calls_total{caller="spiffe://mesh/shop",code="NotFound",method="IssueOtt"} 2"#;
    assert!(has(&metrics, stays));
}

#[test]
fn number_of_callers_with_their_own_metrics_is_bounded() {
    let metrics = Metrics::new();
    let names: Vec<String> = (0..MAX_CALLERS + 500).map(|number| format!("jwt:{number}")).collect();
    metrics.set_callers(names.iter().map(String::as_str));
    let quotas =
        metrics.render().lines().filter(|line| line.starts_with("ott_gateway_quota_exceeded_total{")).count();
    assert_eq!(quotas, MAX_CALLERS + 1);
}

#[test]
fn number_of_labels_for_http_statuses_is_bounded() {
    let metrics = Metrics::new();
    let client = metrics.api_client("eu2");
    for status in (0..=u16::MAX).map(Some).chain([None]) {
        client.request(Method::LoginWithOtt, Certainty::Unknown, status, MILLISECOND);
    }
    let shown = metrics.render();
    let statuses: Vec<&str> =
        shown.lines().filter(|line| line.starts_with("ott_gateway_platform_requests_total")).collect();
    assert_eq!(statuses.len(), 34, "{statuses:#?}");
    for (status, count) in [("none", 2), ("503", 1), ("5xx", 96), ("4xx", 85)] {
        let line = format!(
            r#"ott_gateway_platform_requests_total{{api_client="eu2",http_status="{status}",operation="LoginWithOtt",outcome="unknown"}} {count}"#
        );
        assert!(statuses.contains(&line.as_str()), "{line}: {statuses:#?}");
    }
}

#[tokio::test(start_paused = true)]
async fn remaining_lifetime_of_the_token_is_computed_on_reading() {
    let metrics = Metrics::new();
    let client = metrics.api_client("eu2");
    let line =
        |seconds: u32| format!(r#"ott_gateway_access_token_remaining_seconds{{api_client="eu2"}} {seconds}"#);
    assert!(has(&metrics, &line(0)));
    client.token_valid_until(Some(clock::now() + Duration::from_hours(2)));
    assert!(has(&metrics, &line(7200)));
    tokio::time::advance(Duration::from_hours(1)).await;
    assert!(has(&metrics, &line(3600)));
    tokio::time::advance(Duration::from_hours(9)).await;
    assert!(has(&metrics, &line(0)));
}

#[test]
fn gauges_decrease_when_calls_and_connections_end() {
    let metrics = Metrics::new();
    let (calls, health) = (InFlightLimit::new(2), InFlightLimit::new(1));
    metrics.follow_in_flight(calls.clone());
    metrics.follow_in_flight(health);
    let (call, connection) =
        (calls.admit(&Holder::default(), None), metrics.connection(ConnectionState::Draining));
    let clone = call.clone();
    assert!(has(&metrics, "ott_gateway_calls_in_flight 1"));
    assert!(has(&metrics, r#"ott_gateway_connections{state="draining"} 1"#));
    drop((call, connection));
    assert!(has(&metrics, "ott_gateway_calls_in_flight 1"), "the call is still in flight");
    drop(clone);
    assert!(has(&metrics, "ott_gateway_calls_in_flight 0"));
    assert!(has(&metrics, r#"ott_gateway_connections{state="draining"} 0"#));
}

#[test]
fn concurrently_resolved_counters_lose_no_count() {
    let name = "records_total";
    let family = IntCounterVec::new(Opts::new(name, "Records."), &["sink", "result"]).expect("a valid name");
    let counters = LazyCounters::<AuditSink, RecordResult>::new(family.clone());
    let pairs: Vec<_> =
        AuditSink::ALL.iter().flat_map(|sink| RecordResult::ALL.map(|result| (*sink, result))).collect();
    thread::scope(|scope| {
        for _ in 0..4 {
            let pairs = pairs.iter().cycle().take(1000 * pairs.len());
            scope.spawn(|| pairs.for_each(|(sink, result)| counters.get(*sink, *result).inc()));
        }
    });
    for (sink, result) in pairs {
        assert_eq!(
            family.with_label_values(&[sink.as_str(), result.as_str()]).get(),
            4000,
            "{sink:?} {result:?}"
        );
    }
}

/// Unused counters are exported, so that an alert on their increase does not miss the first event.
#[test]
fn each_value_of_a_label_has_its_own_counter_from_the_start() {
    let metrics = Metrics::new();
    for event in SecurityEvent::ALL {
        let line =
            |count: u64| format!("ott_gateway_security_events_total{{kind=\"{}\"}} {count}", event.as_str());
        assert!(has(&metrics, &line(0)), "{event:?}");
        metrics.security_event(event);
        assert!(has(&metrics, &line(1)), "{event:?}");
    }
}

#[test]
fn two_gateways_in_one_process_have_separate_counts() {
    let (one, other) = (Metrics::new(), Metrics::new());
    one.connection_refused(ConnectionRefusal::TotalLimit);
    assert!(has(&one, r#"ott_gateway_connections_refused_total{reason="total_limit"} 1"#));
    assert!(has(&other, r#"ott_gateway_connections_refused_total{reason="total_limit"} 0"#));
}

/// Returns name, type and labels of each metric, as in the table of the documentation.
fn exposed(families: &[MetricFamily]) -> BTreeMap<String, String> {
    families
        .iter()
        .map(|family| {
            let kind = match family.get_field_type() {
                MetricType::COUNTER => "counter",
                MetricType::GAUGE => "gauge",
                MetricType::HISTOGRAM => "histogram",
                other => panic!("{other:?}"),
            };
            let labels: Vec<String> = family.get_metric()[0]
                .get_label()
                .iter()
                .map(|label| format!("`{}`", label.name()))
                .collect();
            (family.name().to_owned(), format!("{kind} | {}", labels.join(", ")))
        })
        .collect()
}

#[test]
fn documentation_lists_exactly_the_exported_metrics() {
    let documentation = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md"))
        .expect("docs/metrics.md");
    let documented: BTreeMap<String, String> = documentation
        .lines()
        .filter_map(|line| {
            let mut cells = line.strip_prefix("| `")?.split(" | ");
            let name = cells.next()?.trim_end_matches('`').to_owned();
            Some((name, format!("{} | {}", cells.next()?, cells.next()?.trim())))
        })
        .collect();
    assert_eq!(documented, exposed(&busy().0.registry.gather()));
}

#[test]
fn promtool_reports_no_problem_if_it_is_installed() {
    use std::{io::Write, process::Stdio};
    let Ok(mut promtool) = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
    else {
        return;
    };
    promtool.stdin.take().expect("a pipe").write_all(busy().render().as_bytes()).expect("it reads");
    let output = promtool.wait_with_output().expect("it ends");
    assert!(output.status.success() && output.stdout.is_empty() && output.stderr.is_empty(), "{output:?}");
}
