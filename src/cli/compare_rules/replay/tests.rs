use serde_json::json;

use super::*;
use crate::{
    access::{RuleSettings, UnknownPart},
    domain::ott::{SubjectKind, Users},
};

fn rules(settings: Vec<RuleSettings>) -> Rules {
    Rules::try_new(settings).unwrap()
}

fn rule(caller: &str, users: Users) -> RuleSettings {
    RuleSettings::new(vec![caller.to_owned()], users)
}

/// A record of a call that was served, with these members.
fn record(members: &Value) -> String {
    let mut record = json!({
        "event": "call", "time": "2026-01-01T00:00:00Z", "request_id": "r", "peer": "192.0.2.1",
        "caller": "jwt:a", "caller_proof": "jwt", "claims": null, "method": "IssueOtt",
        "user": { "kind": "login", "value": "john@x" }, "user_spelling": null, "api_client": "eu2",
        "unvalidated": null,
        "code": "OK", "reason": null, "outcome": "done", "attempts": 1, "gateway_version": "0.1.0",
    });
    for (name, value) in members.as_object().unwrap() {
        record[name] = value.clone();
    }
    record.to_string()
}

fn no_output() -> Output {
    Output::into(std::io::sink(), std::io::sink(), false)
}

fn replay(lines: &[String]) -> AuditReplay {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("audit.jsonl");
    std::fs::write(&file, lines.join("\n")).unwrap();
    let old = rules(vec![rule("*", Users::All)]);
    let new = rules(vec![
        rule("jwt:a", Users::listed(SubjectKind::Login, &["*@x"])),
        RuleSettings {
            claims: vec![crate::caller::ClaimRequirement {
                path: ClaimPath::new("groups").unwrap(),
                values: vec![ClaimValue::Text("ops".into())],
            }],
            ..rule("jwt:b", Users::All)
        },
    ]);
    AuditReplay::of(&[file], [&old, &new], "command", &mut no_output()).unwrap()
}

#[test]
fn served_calls_are_replayed_with_what_their_records_contain() {
    let lines = [
        json!({}),
        json!({ "user": { "kind": "login", "value": "john@y" } }),
        json!({ "caller": "jwt:c" }),
        json!({ "caller": "jwt:b", "claims": { "groups": "ops" } }),
        json!({ "caller": "jwt:b" }),
        json!({ "method": "LoginWithOtt", "user": null }),
        json!({ "code": "NOT_FOUND", "reason": "USER_NOT_FOUND", "outcome": "refused" }),
    ]
    .map(|members| record(&members));
    let AuditReplay { calls, skipped, .. } = replay(&lines);
    assert_eq!(skipped, Skipped::default());
    let refused: Vec<_> = calls
        .refused
        .rows()
        .into_iter()
        .map(|(row, count, _)| (&*row.caller, row.denied.as_str(), count))
        .collect();
    assert_eq!(refused, [("jwt:a", "user", 1), ("jwt:c", "caller", 1)]);
    assert_eq!((calls.unchanged, calls.other_rules, calls.allowed.count()), (3, 0, 0));
    assert_eq!(calls.undecided, [(UnknownPart::Claims, 1), (UnknownPart::User, 1)].into());
}

#[test]
fn user_that_no_list_matches_is_replayed_by_its_spelling() {
    let without = |members: &Value| {
        let mut record: Value = serde_json::from_str(&record(members)).unwrap();
        record.as_object_mut().unwrap().remove("user_spelling");
        record.to_string()
    };
    let forms = record(&json!({ "user_spelling": "ascii_forms" }));
    let AuditReplay { calls, .. } = replay(&[forms]);
    let refused: Vec<_> = calls.refused.rows().into_iter().map(|(row, ..)| row.denied.as_str()).collect();
    assert_eq!((refused, calls.unchanged), (vec!["user"], 0));

    // Of an older version: only undecided where a list decides, and where the name may be that of
    // another user.
    let users = [
        json!({ "kind": "login", "value": "john@x" }),
        json!({ "kind": "login", "value": "john@y" }),
        json!({ "kind": "external_id", "value": "john@x" }),
    ];
    let lines: Vec<String> = users.iter().map(|user| without(&json!({ "user": user }))).collect();
    let AuditReplay { calls, .. } = replay(&lines);
    assert_eq!(calls.undecided, [(UnknownPart::Spelling, 1)].into());
    assert_eq!((calls.refused.count(), calls.unchanged), (2, 0));
    let anyone = without(&json!({ "caller": "jwt:b", "claims": { "groups": "ops" } }));
    assert_eq!(replay(&[anyone]).calls.unchanged, 1, "for all users");
}

#[test]
fn records_that_do_not_show_a_decision_are_counted_by_the_reason() {
    let refused =
        |reason: &str| json!({ "code": "X", "reason": reason, "outcome": "not_sent", "attempts": 0 });
    let mut late = json!({});
    late["late"] = true.into();
    let not_final = json!({
        "method": "LoginWithOtt", "user": null, "code": "UNAUTHENTICATED", "reason": "OTT_REJECTED",
        "outcome": "refused",
    });
    let mut invalid = refused("CALLER_NOT_ALLOWED");
    invalid["unvalidated"] = "user".into();
    let mut lines: Vec<String> =
        [refused("INVALID_REQUEST"), not_final, invalid, refused("CALLER_QUOTA_EXCEEDED"), late]
            .iter()
            .map(record)
            .collect();
    let base = json!({ "time": "2026-01-01T00:00:00Z", "gateway_version": "0.1.0" });
    for (event, count) in [("refused_calls", 7), ("records_lost", 3), ("sink_probe", 0)] {
        let mut line = base.clone();
        line["event"] = event.into();
        line["count"] = count.into();
        lines.push(line.to_string());
    }
    lines.push("another program".to_owned());
    let AuditReplay { calls, skipped, .. } = replay(&lines);
    assert_eq!(calls, Replay::default());
    let expected = Skipped {
        not_decided: 3,
        over_quota: 1,
        summarized: 7,
        lost: 3,
        late: 1,
        repeated: 0,
        other_records: 1,
        not_records: 1,
    };
    assert_eq!(skipped, expected);
}

#[test]
fn refused_call_that_the_old_rules_allow_was_decided_by_other_rules() {
    let denied = json!({ "code": "PERMISSION_DENIED", "reason": "CALLER_NOT_ALLOWED", "outcome": "not_sent", "attempts": 0 });
    assert_eq!(replay(&[record(&denied)]).calls.other_rules, 1);
}

#[test]
fn file_that_cannot_be_read_is_an_error() {
    let rules = rules(vec![rule("*", Users::All)]);
    let failure =
        AuditReplay::of(&["/nowhere/audit.jsonl".into()], [&rules, &rules], "command", &mut no_output())
            .unwrap_err();
    assert!(failure.to_string().contains("cannot read /nowhere/audit.jsonl"), "{failure}");
}

#[test]
fn numbered_record_counts_once() {
    let numbered = |process: &str, sequence: u64| {
        let mut line: Value = serde_json::from_str(&record(&json!({}))).unwrap();
        line["process"] = process.into();
        line["sequence"] = sequence.into();
        line.to_string()
    };
    let (one, other) = ("00000000000000aa", "00000000000000bb");
    let lines = [numbered(one, 1), numbered(one, 2), numbered(one, 1), numbered(other, 1), numbered(one, 2)];
    let whole = replay(&lines);
    assert_eq!(whole.skipped, Skipped { repeated: 2, ..Skipped::default() });
    let without_copies = replay(&[lines[0].clone(), lines[1].clone(), lines[3].clone()]);
    assert_eq!(whole.calls, without_copies.calls);
    // Records without numbers cannot be distinguished.
    assert_eq!(replay(&[record(&json!({})), record(&json!({}))]).skipped, Skipped::default());
}
