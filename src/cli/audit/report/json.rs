//! One JSON object on each line.

use serde::Serialize;
use serde_json::{Value, json, ser::Serializer};

use super::{Report, SHOWN_TOKENS, Writer, time};
use crate::{
    base::text::{Notation, PrintableJson, is_unprintable},
    cli::audit::{completeness::RuleChange, faults::Places, tokens::Use},
    observe::audit::reader::{Record, TokenCounts},
};

impl Writer<'_> {
    pub(super) fn json_record(&mut self, file: &str, line: u64, record: &Record) {
        let file = to_json(&json!(file));
        let text = printable_json(&record.text);
        self.output.line(format_args!(r#"{{"type":"record","file":{file},"line":{line},"record":{text}}}"#));
    }

    pub(super) fn json(&mut self, report: &Report) {
        if report.has_filter {
            for (fingerprint, token) in report.tokens.wanted() {
                let issued = token.issued.as_ref().map(json_of_use);
                let spent = token.spent.as_ref().map(json_of_use);
                self.object(&json!({
                    "type": "token", "ott_fingerprint": fingerprint, "issued": issued, "spent": spent,
                }));
            }
        }
        for (fingerprint, spent) in report.tokens.never_issued().take(SHOWN_TOKENS) {
            self.object(&json!({
                "type": "not_issued_here", "ott_fingerprint": fingerprint, "spent": json_of_use(spent),
            }));
        }
        for (key, counts) in report.tokens.keys() {
            self.object(&json!({
                "type": "key", "key": key,
                "issued": counts.issued, "spent": counts.spent, "joined": counts.joined,
            }));
        }
        for verdict in &report.verdicts {
            let started = verdict.started.clone().unwrap_or_default();
            let rule_changes = verdict.rule_changes.iter().map(|RuleChange { time: at, change }| {
                let TokenCounts { added, removed, replaced } = change.tokens;
                json!({
                    "time": time(*at),
                    "old_rules": change.old_rules,
                    "new_rules": change.new_rules,
                    "old_candidate_rules": change.old_candidate_rules,
                    "new_candidate_rules": change.new_candidate_rules,
                    "tokens": {
                        "added": added.count, "removed": removed.count, "replaced": replaced.count,
                    },
                })
            });
            self.object(&json!({
                "type": "process",
                "process": verdict.process.to_string(),
                "host": started.host,
                "gateway_version": verdict.version,
                "configuration": started.configuration,
                "rules": started.rules,
                "candidate_rules": started.candidate_rules,
                "rule_changes": rule_changes.collect::<Vec<_>>(),
                "has_earlier_rule_changes": verdict.has_earlier_rule_changes,
                "first_time": time(verdict.first_time),
                "last_time": time(verdict.last_time),
                "lines": verdict.lines,
                "has_started": verdict.started.is_some(),
                "stopped": verdict.stopped,
                "missing": verdict.missing,
                "missing_count": verdict.missing_count,
                "explained_count": verdict.explained,
                "doubled": verdict.doubled,
                "doubled_count": verdict.doubled_count,
                "repeated_late_count": verdict.repeated,
                "after_stop_count": verdict.after_stop,
                "complete": verdict.is_complete(report.is_partial),
            }));
        }
        let places = |places: &Places| {
            let first: Vec<Value> =
                places.first.iter().map(|(file, line)| json!({ "file": file, "line": line })).collect();
            json!({ "count": places.count, "first": first })
        };
        let counts = report.tokens.counts;
        self.object(&json!({
            "type": "summary",
            "complete": report.is_complete(),
            "records": report.records,
            "without_number": report.unnumbered,
            "not_checked": report.unchecked,
            "torn": places(&report.faults.torn),
            "foreign": places(&report.faults.foreign),
            "too_long": places(&report.faults.too_long),
            "nul_bytes": places(&report.faults.nuls),
            "padding_bytes": report.faults.padding,
            "tokens": {
                "issued": counts.issued,
                "spent": counts.spent,
                "joined": counts.joined,
                "dropped": counts.dropped,
            },
        }));
    }

    fn object(&mut self, value: &Value) {
        self.output.line(to_json(value));
    }
}

fn json_of_use(it: &Use) -> Value {
    json!({
        "time": time(it.time),
        "caller": &*it.caller,
        "api_client": &*it.api_client,
        "user": it.user.as_ref().map(|user| json!({ "kind": &*user.kind, "value": &*user.value })),
        "delivered": it.was_delivered,
        "outcome": if it.is_certain { "done" } else { "unknown" },
    })
}

/// Returns a value as JSON on one line, without characters that a terminal interprets.
fn to_json(value: &Value) -> String {
    let mut text = Vec::new();
    // Written to memory: this cannot fail.
    let _ = value.serialize(&mut Serializer::with_formatter(&mut text, PrintableJson));
    String::from_utf8(text).unwrap_or_default()
}

/// Escapes the characters of valid JSON that a terminal interprets. Between its tokens there are
/// only blanks; inside of strings they are replaced by their escapes.
fn printable_json(text: &str) -> String {
    let mut printable = String::with_capacity(text.len());
    for character in text.chars() {
        if matches!(character, '\t' | '\r' | '\n') {
            printable.push(' ');
        } else if is_unprintable(character) {
            // Writing to a string cannot fail.
            let _ = Notation::Json.write_escape(character, &mut printable);
        } else {
            printable.push(character);
        }
    }
    printable
}
