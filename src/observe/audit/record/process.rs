//! Records of a process about itself.

use std::time::SystemTime;

use serde::Serialize;

use super::line;
use crate::observe::audit::{
    numbering::Number,
    process_records::{Fingerprints, RulesChange, RulesSummary, StopCause, TokenChanges},
};

#[derive(Serialize)]
struct StartedRecord<'a> {
    host: Option<String>,
    configuration: Option<&'a str>,
    rules: Option<&'a str>,
    candidate_rules: Option<&'a str>,
}

#[derive(Serialize)]
struct StoppedRecord<'a> {
    cause: &'static str,
    detail: Option<&'a str>,
}

#[derive(Serialize)]
struct RulesChangedRecord<'a> {
    old_rules: &'a str,
    new_rules: &'a str,
    old_candidate_rules: Option<&'a str>,
    new_candidate_rules: Option<&'a str>,
    tokens: &'a TokenChanges,
    summary: RulesSummary,
}

/// Returns the first line of a process, without the closing brace.
pub(in crate::observe::audit) fn of_start(
    fingerprints: &Fingerprints,
    number: Number<'_>,
    now: SystemTime,
) -> String {
    let body = StartedRecord {
        host: host(),
        configuration: fingerprints.configuration.as_deref(),
        rules: fingerprints.rules.as_deref(),
        candidate_rules: fingerprints.candidate_rules.as_deref(),
    };
    line("started", number, now, &body)
}

/// Returns the last line of a process, without the closing brace.
pub(in crate::observe::audit) fn of_stop(cause: &StopCause, number: Number<'_>, now: SystemTime) -> String {
    line("stopped", number, now, &StoppedRecord { cause: cause.as_str(), detail: cause.detail() })
}

/// Returns the line of a change of the rules, without the closing brace.
pub(in crate::observe::audit) fn of_rules_change(
    change: &RulesChange,
    number: Number<'_>,
    now: SystemTime,
) -> String {
    let RulesChange { old_rules, new_rules, old_candidate_rules, new_candidate_rules, tokens, summary } =
        change;
    let body = RulesChangedRecord {
        old_rules,
        new_rules,
        old_candidate_rules: old_candidate_rules.as_deref(),
        new_candidate_rules: new_candidate_rules.as_deref(),
        tokens,
        summary: *summary,
    };
    line("rules_changed", number, now, &body)
}

/// Returns the name of the machine (uname(2)). In a pod it is the name of the pod.
fn host() -> Option<String> {
    let uname = rustix::system::uname();
    let name = uname.nodename().to_string_lossy();
    (!name.is_empty()).then(|| name.into_owned())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::*;
    use crate::observe::audit::{NotCompared, RulesDifferences, numbering::Numbering};

    fn parsed(text: &str) -> Value {
        serde_json::from_str(&format!("{text}}}")).expect("one JSON object")
    }

    #[test]
    fn records_of_a_process_identify_its_settings_and_the_cause_of_its_stop() {
        let numbering = Numbering::for_test();
        let now = SystemTime::UNIX_EPOCH;
        let fingerprints = Fingerprints {
            configuration: None,
            rules: Some("00ff".to_owned()),
            candidate_rules: Some("02ff".to_owned()),
        };
        let started = parsed(&of_start(&fingerprints, numbering.next(), now));
        assert!(started["host"].as_str().is_some_and(|host| !host.is_empty()), "{started}");
        assert_eq!(
            started,
            json!({
                "event": "started",
                "time": "1970-01-01T00:00:00.000000Z",
                "process": "00000000000000ff",
                "sequence": 1,
                "host": started["host"],
                "configuration": null,
                "rules": "00ff",
                "candidate_rules": "02ff",
                "gateway_version": env!("CARGO_PKG_VERSION"),
            })
        );
        let counted =
            RulesDifferences::Counted { opened: 3, closed: 4, quotas_changed: 5, settings_changed: 6 };
        let counted_summary = json!({
            "rules_before": 1, "rules_after": 2, "candidate_rules_before": 3, "candidate_rules_after": 0,
            "tokens_before": 5, "tokens_after": 7, "opened": 3, "closed": 4, "quotas_changed": 5,
            "settings_changed": 6,
        });
        let added = (0..12).map(|number| Arc::from(format!("token-{number}")));
        let names: Vec<String> = (0..10).map(|number| format!("token-{number}")).collect();
        let tokens = TokenChanges {
            added: added.collect(),
            removed: [Arc::from("ci")].into_iter().collect(),
            ..TokenChanges::default()
        };
        let change = |differences| RulesChange {
            old_rules: "00ff".to_owned(),
            new_rules: "01ff".to_owned(),
            old_candidate_rules: Some("02ff".to_owned()),
            new_candidate_rules: None,
            tokens: tokens.clone(),
            summary: RulesSummary {
                rules_before: 1,
                rules_after: 2,
                candidate_rules_before: 3,
                candidate_rules_after: 0,
                tokens_before: 5,
                tokens_after: 7,
                differences,
            },
        };
        assert_eq!(
            parsed(&of_rules_change(&change(counted), numbering.next(), now)),
            json!({
                "event": "rules_changed",
                "time": "1970-01-01T00:00:00.000000Z",
                "process": "00000000000000ff",
                "sequence": 2,
                "old_rules": "00ff",
                "new_rules": "01ff",
                "old_candidate_rules": "02ff",
                "new_candidate_rules": null,
                "tokens": {
                    "added": { "count": 12, "names": names },
                    "removed": { "count": 1, "names": ["ci"] },
                    "replaced": { "count": 0, "names": [] },
                },
                "summary": counted_summary,
                "gateway_version": env!("CARGO_PKG_VERSION"),
            })
        );
        for reason in [NotCompared::TooComplex, NotCompared::NotFinished] {
            let change = change(RulesDifferences::NotCounted { not_compared: reason });
            let summary = &parsed(&of_rules_change(&change, numbering.next(), now))["summary"];
            assert_eq!(summary["not_compared"], reason.as_str());
            assert_eq!((&summary["rules_after"], summary.get("opened")), (&json!(2), None));
        }
        let stopped = |cause| parsed(&of_stop(&cause, numbering.next(), now));
        for (cause, name, detail) in [
            (StopCause::Signal("SIGTERM"), "signal", Some("SIGTERM")),
            (StopCause::ThreadLost("worker-0".into()), "thread_lost", Some("worker-0")),
            (StopCause::AuditClosed, "audit_closed", None),
            (StopCause::StartFailed, "start_failed", None),
            (StopCause::Finished, "finished", None),
        ] {
            let record = stopped(cause);
            assert_eq!((&record["cause"], &record["detail"]), (&json!(name), &json!(detail)));
            assert_eq!(record["event"], "stopped");
        }
    }
}
