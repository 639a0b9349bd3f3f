use std::collections::BTreeSet;

use serde_json::json;

use super::*;
use crate::{
    access::{ReplayedDecisions, RuleSettings, Rules, Settings, UnknownPart},
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
    let old = Settings::new(vec![rule("*", Users::All)]);
    let new = Settings::new(vec![
        rule("jwt:a", Users::listed(SubjectKind::Login, &["*@x"])),
        RuleSettings {
            claims: vec![crate::caller::ClaimRequirement {
                path: ClaimPath::new("groups").unwrap(),
                values: vec![ClaimValue::Text("ops".into())],
            }],
            ..rule("jwt:b", Users::All)
        },
    ]);
    replay_of(&[file], &old, &new).unwrap()
}

fn replay_of(files: &[PathBuf], old: &Settings, new: &Settings) -> Result<AuditReplay, Failure> {
    let (none, clients) = (BTreeSet::new(), BTreeSet::from(["eu2"]));
    let [old_rules, new_rules] = [old, new].map(|settings| rules(settings.rules.clone()));
    let named = |rules| NamedRules {
        rules,
        tokens: &none,
        jwt_issuers: None,
        api_clients: &clients,
        default_api_client: Some("eu2"),
    };
    let rules = [&named(&old_rules), &named(&new_rules)];
    AuditReplay::of(files, &old.fingerprint(), rules, "command", &mut no_output())
}

/// Returns the decisions, all of which were made under the old rules.
fn only(calls: &Replay) -> &ReplayedDecisions {
    assert_eq!(calls.by_other_rules.count(), 0);
    &calls.by_old_rules
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
    let (calls, of_unknown_rules) = (only(&calls), calls.not_identified);
    assert_eq!(of_unknown_rules, 7, "records without numbers");
    let refused: Vec<_> = calls
        .refused
        .rows()
        .into_iter()
        .map(|(row, count, _)| (&*row.caller, row.denied.as_str(), count))
        .collect();
    assert_eq!(refused, [("jwt:a", "user", 1), ("jwt:c", "caller", 1)]);
    assert_eq!((calls.unchanged, calls.allowed.count()), (3, 0));
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
    let calls = only(&calls);
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
    let calls = only(&calls);
    assert_eq!(calls.undecided, [(UnknownPart::Spelling, 1)].into());
    assert_eq!((calls.refused.count(), calls.unchanged), (2, 0));
    let anyone = without(&json!({ "caller": "jwt:b", "claims": { "groups": "ops" } }));
    assert_eq!(only(&replay(&[anyone]).calls).unchanged, 1, "for all users");
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
    let calls = replay(&[record(&denied)]).calls;
    assert_eq!((calls.by_other_rules.count(), calls.by_old_rules.count()), (1, 0));
}

#[test]
fn file_that_cannot_be_read_is_an_error() {
    let rules = Settings::new(vec![rule("*", Users::All)]);
    let failure = replay_of(&["/nowhere/audit.jsonl".into()], &rules, &rules).unwrap_err();
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

#[test]
fn repeated_records_of_all_events_count_once() {
    let numbered = |event: &str, sequence: u64| {
        json!({
            "event": event, "time": "2026-01-01T00:00:00Z", "process": "00000000000000aa",
            "sequence": sequence, "count": 7, "gateway_version": "0.1.0",
        })
        .to_string()
    };
    let lines = [numbered("refused_calls", 1), numbered("records_lost", 2), numbered("sink_probe", 3)];
    let once = replay(&lines).skipped;
    assert_eq!((once.summarized, once.lost, once.other_records), (7, 7, 1));
    let twice = replay(&[lines.clone(), lines].concat()).skipped;
    assert_eq!(twice, Skipped { repeated: 3, ..once });
}

#[test]
fn calls_of_other_rules_are_counted_separately() {
    let old = Settings::new(vec![rule("*", Users::All)]);
    let other = "00000000000000000000000000000001".to_owned();
    let line = |sequence: u64, second: u64, members: Value| {
        let mut line: Value = serde_json::from_str(&record(&members)).unwrap();
        line["process"] = "00000000000000aa".into();
        line["sequence"] = sequence.into();
        line["time"] = format!("2026-01-01T00:00:{second:02}Z").into();
        line.to_string()
    };
    let change = |sequence, second, from: &str, to: &str| {
        line(sequence, second, json!({ "event": "rules_changed", "old_rules": from, "new_rules": to }))
    };
    let denied = json!({ "code": "X", "reason": "CALLER_NOT_ALLOWED", "outcome": "not_sent", "attempts": 0 });
    let lines = [
        line(1, 0, json!({ "event": "started", "rules": other })),
        line(2, 10, denied.clone()),
        line(3, 11, json!({ "caller": "jwt:c" })),
        change(4, 20, &other, &old.fingerprint()),
        // Arrived before the change.
        line(5, 21, json!({ "caller": "jwt:c", "duration_ms": 1500.0 })),
        line(6, 22, json!({ "caller": "jwt:c", "duration_ms": 1.0 })),
        // Decided under the old rules, but not as they do.
        line(7, 23, denied),
        change(8, 30, &old.fingerprint(), &other),
        line(9, 31, json!({ "caller": "jwt:c" })),
    ];
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, lines: &[String]| {
        let file = folder.path().join(name);
        std::fs::write(&file, lines.join("\n")).unwrap();
        file
    };
    // The rules are found regardless of the order of the files.
    let files = [file("2", &lines[5..]), file("1", &lines[..5])];
    let new = Settings::new(vec![rule("jwt:a", Users::All)]);
    let calls = replay_of(&files, &old, &new).unwrap().calls;
    assert_eq!(calls.not_identified, 0);
    let refused = |decisions: &ReplayedDecisions| decisions.refused.count();
    assert_eq!((calls.by_old_rules.count(), refused(&calls.by_old_rules)), (1, 1));
    assert_eq!((calls.by_other_rules.count(), refused(&calls.by_other_rules)), (5, 3));
    assert_eq!(calls.by_other_rules.allowed.count(), 2);
}

#[test]
fn login_url_is_unknown_only_if_the_record_does_not_show_it() {
    let settings = |login_urls| Settings::new(vec![RuleSettings { login_urls, ..rule("jwt:a", Users::All) }]);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("audit.jsonl");
    let counts = |line: String| {
        std::fs::write(&file, line).unwrap();
        let replay = replay_of(std::slice::from_ref(&file), &settings(true), &settings(false)).unwrap();
        let decisions = &replay.calls.by_old_rules;
        let undecided = decisions.undecided.get(&UnknownPart::LoginUrl).copied().unwrap_or_default();
        (decisions.unchanged, decisions.refused.count(), undecided)
    };
    assert_eq!(counts(record(&json!({ "login_url": true }))), (0, 1, 0));
    assert_eq!(counts(record(&json!({}))), (1, 0, 0));
    let mut older: Value = serde_json::from_str(&record(&json!({}))).unwrap();
    older.as_object_mut().unwrap().remove("user_spelling");
    let older = older.to_string();
    assert_eq!(counts(older), (0, 0, 1));
    assert_eq!(counts(record(&json!({ "user": null }))), (0, 0, 1));
}

#[test]
fn issuer_of_a_token_is_unknown_only_if_the_record_does_not_show_it() {
    let settings = |issued_by: Option<&str>| {
        let issued_by = issued_by.map(|glob| vec![glob.to_owned()]);
        Settings::new(vec![RuleSettings { issued_by, ..rule("jwt:a", Users::All) }])
    };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("audit.jsonl");
    let counts = |old: Option<&str>, new: Option<&str>, line: String| {
        std::fs::write(&file, line).unwrap();
        let replay = replay_of(std::slice::from_ref(&file), &settings(old), &settings(new)).unwrap();
        let decisions = &replay.calls.by_old_rules;
        assert_eq!(decisions.count() + replay.skipped.not_decided, 1, "{replay:?}");
        let undecided = decisions.undecided.get(&UnknownPart::Issuer).copied().unwrap_or_default();
        let denied = decisions.refused.rows().first().map(|(row, ..)| row.denied.as_str());
        (decisions.unchanged, denied, decisions.allowed.count(), undecided)
    };
    let login = |members: Value| {
        let mut record: Value = serde_json::from_str(&record(&members)).unwrap();
        record["method"] = "LoginWithOtt".into();
        record
    };
    let older = |mut record: Value| {
        record.as_object_mut().unwrap().remove("user_spelling");
        record.to_string()
    };
    let raw = login(json!({ "user": null }));
    assert_eq!(counts(None, Some("*"), raw.to_string()), (0, Some("issuer"), 0, 0));
    assert_eq!(counts(None, Some("*"), older(raw)), (0, Some("issuer"), 0, 0));
    let sealed = |issuer: &str| login(json!({ "issued_by": issuer })).to_string();
    assert_eq!(counts(None, Some("dns:*"), sealed("dns:web")), (1, None, 0, 0));
    assert_eq!(counts(None, Some("dns:*"), sealed("jwt:web")), (0, Some("issuer"), 0, 0));
    assert_eq!(counts(Some("*"), None, sealed("jwt:web")), (1, None, 0, 0));

    let denied = |reason: &str, members: Value| {
        let mut record = login(members);
        for (name, value) in [("code", "PERMISSION_DENIED"), ("reason", reason), ("outcome", "not_sent")] {
            record[name] = value.into();
        }
        record["attempts"] = 0.into();
        record
    };
    // Refused because of the issuer, or before the message was read.
    let refused = denied("CALLER_NOT_ALLOWED", json!({ "user": null }));
    assert_eq!(counts(Some("dns:*"), Some("*"), refused.to_string()), (0, None, 0, 1));
    assert_eq!(counts(Some("dns:*"), Some("*"), older(refused)), (1, None, 0, 0));
    let refused = denied("CALLER_NOT_ALLOWED", json!({ "issued_by": "jwt:web" }));
    assert_eq!(counts(Some("dns:*"), Some("*"), refused.to_string()), (0, None, 1, 0));
    // The gateway refused the token itself.
    let expired = denied("OTT_REJECTED", json!({ "issued_by": "jwt:web", "token_refused": "expired" }));
    assert_eq!(counts(None, Some("dns:*"), expired.to_string()), (0, None, 0, 0));
}

/// The rules decide it before anything is sent.
#[test]
fn sealed_login_that_failed_at_the_platform_is_replayed() {
    let mut failed = json!({
        "method": "LoginWithOtt", "code": "UNAUTHENTICATED", "reason": "OTT_REJECTED", "outcome": "refused",
        "issued_by": "dns:web", "user": { "kind": "login", "value": "john@y" },
    });
    let AuditReplay { calls, .. } = replay(&[record(&failed)]);
    let refused: Vec<_> =
        only(&calls).refused.rows().into_iter().map(|(row, ..)| row.denied.as_str()).collect();
    assert_eq!(refused, ["user"]);
    failed.as_object_mut().unwrap().remove("issued_by");
    assert_eq!(replay(&[record(&failed)]).skipped.not_decided, 1);
}

/// It would be refused under all rules.
#[test]
fn call_whose_token_was_refused_is_not_replayed() {
    let mut denied = json!({
        "method": "LoginWithOtt", "code": "PERMISSION_DENIED", "reason": "CALLER_NOT_ALLOWED",
        "outcome": "not_sent", "caller": "token:nobody",
    });
    assert_eq!(replay(&[record(&denied)]).skipped.not_decided, 0);
    denied["token_refused"] = "expired".into();
    assert_eq!(replay(&[record(&denied)]).skipped.not_decided, 1);
}
