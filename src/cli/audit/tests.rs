use std::{
    collections::BTreeSet,
    fmt::Write as _,
    path::Path,
    sync::{Arc, Mutex},
};

use proptest::prelude::*;
use serde_json::Value;
use wildmatch::WildMatch;

use super::{
    check::Check,
    completeness::{Completeness, Verdict},
    filter::{self, Filter},
    report::{Format, Report, Writer},
    tokens::Tokens,
};
use crate::{
    cli::output::Output,
    observe::audit::reader::{Content, Records},
};

/// Output of a command.
#[derive(Clone, Default)]
struct Captured(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("no panic").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A line of a log, with the members of a record between the number and the version.
fn line(event: &str, process: u64, sequence: u64, members: &str) -> String {
    format!(
        r#"{{"event":"{event}","time":"2026-01-01T00:{:02}:{:02}.000000Z","process":"{process:016x}","sequence":{sequence}{members},"gateway_version":"0.1.0"}}"#,
        sequence / 60 % 60,
        sequence % 60,
    )
}

fn late(line: &str) -> String {
    line.replacen("\"}", "\",\"late\":true}", 1)
}

fn call(sequence: u64, method: &str, caller: &str, user: &str, fingerprint: &str, outcome: &str) -> String {
    let members = format!(
        r#","request_id":"r{sequence}","caller":"{caller}","method":"{method}","user":{user},"code":"OK","outcome":"{outcome}","ott_fingerprint":"{fingerprint}""#
    );
    line("call", 1, sequence, &members)
}

fn checked(text: &str, filter: Filter, format: Format, is_partial: bool) -> (Report, String) {
    let captured = Captured::default();
    let mut output = Output::into(captured.clone(), std::io::sink(), false);
    let mut writer = Writer::new(format, &mut output);
    let mut check = Check::new(filter);
    let mut records = Records::new(text.as_bytes());
    check.read(Path::new("audit.jsonl"), &mut records, &mut writer).expect("memory");
    let report = check.report(is_partial);
    writer.report(&report);
    let bytes = captured.0.lock().expect("no panic").clone();
    (report, String::from_utf8(bytes).expect("text"))
}

fn report(text: &str) -> Report {
    checked(text, Filter::default(), Format::Text, false).0
}

fn verdict(text: &str) -> Verdict {
    report(text).verdicts.remove(0)
}

fn whole_log(calls: u64) -> Vec<String> {
    let mut lines = vec![line("started", 1, 1, "")];
    lines.extend((2..2 + calls).map(|sequence| line("call", 1, sequence, "")));
    lines.push(line("stopped", 1, 2 + calls, r#","cause":"signal","detail":"SIGTERM""#));
    lines
}

/// What happens to one line.
#[derive(Clone, Copy, Debug)]
enum Fault {
    Dropped,
    Doubled,
    RepeatedLate,
    /// Cut after this share of its bytes, in percent; the newline remains. The beginning remains too:
    /// less of it could not be counted if the line before it is torn without its newline.
    Torn(usize),
    /// Cut, and the next line follows directly.
    TornWithoutNewline(usize),
}

fn fault() -> impl Strategy<Value = Option<Fault>> {
    prop_oneof![
        6 => Just(None),
        1 => Just(Some(Fault::Dropped)),
        1 => Just(Some(Fault::Doubled)),
        1 => Just(Some(Fault::RepeatedLate)),
        1 => (20..100_usize).prop_map(|percent| Some(Fault::Torn(percent))),
        1 => (20..100_usize).prop_map(|percent| Some(Fault::TornWithoutNewline(percent))),
    ]
}

proptest! {
    #[test]
    fn exactly_the_faults_of_a_log_are_reported(
        faults in proptest::collection::vec(proptest::collection::vec(fault(), 3..30), 1..4),
        order in any::<proptest::sample::Index>(),
    ) {
        let mut written: Vec<String> = Vec::new();
        let mut expected = Vec::new();
        let mut torn = 0;
        for (process, faults) in (1..).zip(&faults) {
            let last = faults.len() as u64;
            let (mut present, mut doubled, mut repeated) = (BTreeSet::new(), BTreeSet::new(), 0);
            for (sequence, fault) in (1..).zip(faults) {
                let event = match sequence {
                    1 => "started",
                    _ if sequence == last => "stopped",
                    _ => "call",
                };
                let line = line(event, process, sequence, "");
                let cut = |percent: usize| line[..(line.len() * percent / 100).max(1)].to_owned();
                let is_present = match *fault {
                    None => {
                        written.push(line + "\n");
                        true
                    }
                    Some(Fault::Dropped) => false,
                    Some(Fault::Doubled) => {
                        written.push(format!("{line}\n{line}\n"));
                        doubled.insert(sequence);
                        true
                    }
                    Some(Fault::RepeatedLate) => {
                        written.push(format!("{line}\n{}\n", late(&line)));
                        repeated += 1;
                        true
                    }
                    Some(Fault::Torn(percent)) => {
                        written.push(cut(percent) + "\n");
                        torn += 1;
                        false
                    }
                    Some(Fault::TornWithoutNewline(percent)) => {
                        written.push(cut(percent));
                        torn += 1;
                        false
                    }
                };
                if is_present {
                    present.insert(sequence);
                }
            }
            let Some(&highest) = present.last() else { continue };
            let missing: Vec<u64> = (1..highest).filter(|number| !present.contains(number)).collect();
            expected.push((missing, doubled, repeated, present.contains(&1), present.contains(&last)));
        }
        // Any order of files, and processes that write at the same time.
        let middle = order.index(written.len().max(1));
        let mut text = written.split_off(middle.min(written.len())).concat();
        if !text.ends_with('\n') {
            text.push('\n');
        }
        text.push_str(&written.concat());

        let report = report(&text);
        let found: Vec<_> = report
            .verdicts
            .iter()
            .map(|it| {
                let all = |ranges: &[(u64, u64)]| ranges.iter().flat_map(|(first, last)| *first..=*last).collect();
                let missing: Vec<u64> = all(&it.missing);
                let doubled: BTreeSet<u64> = all(&it.doubled).into_iter().collect();
                assert_eq!((it.missing_count, it.doubled_count), (missing.len() as u64, doubled.len() as u64));
                (missing, doubled, it.repeated, it.started.is_some(), it.stopped.is_some())
            })
            .collect();
        prop_assert_eq!(&found, &expected, "{}", text);
        prop_assert_eq!(report.faults.torn.count, torn);
        prop_assert_eq!(report.faults.foreign.count, 0);
        let is_complete = |(missing, doubled, _, started, stopped): &(Vec<_>, BTreeSet<_>, u64, bool, bool)| {
            missing.is_empty() && doubled.is_empty() && *started && *stopped
        };
        prop_assert_eq!(report.is_complete(), torn == 0 && expected.iter().all(is_complete));
    }

    #[test]
    fn arbitrary_bytes_are_checked_and_printed_without_control_characters(
        bytes in proptest::collection::vec(any::<char>(), 0..200),
        caller in any::<String>(),
        is_json in any::<bool>(),
    ) {
        let garbage: String = bytes.into_iter().collect();
        let caller = serde_json::to_string(&caller).expect("a string");
        let record = line("call", 1, 2, &format!(r#","caller":{caller},"method":{caller},"code":"OK""#));
        let format = if is_json { Format::Json } else { Format::Text };
        let filter = Filter { caller: Some(WildMatch::new("*")), ..Filter::default() };
        let (_, output) = checked(&format!("{garbage}\n{record}\n"), filter, format, false);
        prop_assert!(!output.contains(|it: char| it.is_control() && it != '\n'), "{:?}", output);
        if is_json {
            for line in output.lines() {
                let object: Value = serde_json::from_str(line).expect("one object");
                prop_assert!(object["type"].is_string());
            }
        }
    }
}

#[test]
fn whole_log_is_complete_and_each_missing_number_is_named() {
    let lines = whole_log(10);
    assert!(report(&lines.join("\n")).is_complete());
    for missing in 1..=12 {
        let without: Vec<&str> = lines
            .iter()
            .enumerate()
            .filter(|(at, _)| at + 1 != missing)
            .map(|(_, line)| line.as_str())
            .collect();
        let (report, output) = checked(&without.join("\n"), Filter::default(), Format::Text, false);
        assert!(!report.is_complete(), "{missing}");
        let words = match missing {
            12 => "no record `stopped`".to_owned(),
            other => format!("missing records: 1 ({other})"),
        };
        assert!(output.contains(&words), "{output}");
        assert_eq!(output.contains("no record `started`"), missing == 1, "{output}");
    }
}

#[test]
fn part_of_a_log_is_complete_if_only_its_ends_are_missing() {
    let lines = whole_log(10);
    let partial =
        |lines: &[String]| checked(&lines.join("\n"), Filter::default(), Format::Text, true).0.is_complete();
    assert!(partial(&lines[3..8]) && partial(&lines));
    assert!(!report(&lines[3..8].join("\n")).is_complete());
    let mut gap = lines[3..8].to_vec();
    gap.remove(2);
    assert!(!partial(&gap));
}

#[test]
fn reported_losses_explain_as_many_gaps_below_them() {
    let lost = |sequence: u64, records: u64| {
        line("records_lost", 1, sequence, &format!(r#","class":"refused","count":9,"records":{records}"#))
    };
    let log = |numbers: &[u64], reports: &[(u64, u64)]| {
        let mut lines = vec![line("started", 1, 1, "")];
        lines.extend(numbers.iter().map(|sequence| line("call", 1, *sequence, "")));
        lines.extend(reports.iter().map(|(sequence, records)| late(&lost(*sequence, *records))));
        lines.push(line("stopped", 1, 20, ""));
        let verdict = verdict(&lines.join("\n"));
        (verdict.missing_count, verdict.explained, verdict.is_complete(false))
    };
    let all = |except: &[u64]| (2..20).filter(|number| !except.contains(number)).collect::<Vec<u64>>();
    assert_eq!(log(&all(&[3, 4, 10]), &[(10, 2)]), (2, 2, true));
    assert_eq!(log(&all(&[3, 4, 5, 10]), &[(10, 2)]), (3, 2, false), "one more than reported");
    assert_eq!(log(&all(&[10, 12]), &[(10, 1)]), (1, 0, false), "after the report");
    assert_eq!(log(&all(&[3, 10, 12, 15]), &[(10, 5), (15, 1)]), (2, 2, true));
    // The same report twice explains nothing more.
    assert_eq!(log(&all(&[3, 4, 10]), &[(10, 1), (10, 1)]).1, 1);
}

#[test]
fn last_changes_of_the_rules_are_reported_once_each() {
    let change = |number: u64| {
        let members = format!(r#","old_rules":"{}","new_rules":"{number}""#, number - 1);
        line("rules_changed", 1, number, &members)
    };
    let mut log = vec![line("started", 1, 1, r#","host":"h","configuration":"c","rules":"1""#)];
    log.extend((2..=21).map(change));
    let mut text = log.join("\n") + "\n";
    // Written again after a failure.
    text.push_str(&(late(&change(21)) + "\n"));
    let found = verdict(&text);
    assert_eq!((found.rule_changes.len(), found.has_earlier_rule_changes), (20, false));
    assert_eq!(found.rule_changes[0].change.old_rules.as_deref(), Some("1"));
    let shown = checked(&text, Filter::default(), Format::Text, true).1;
    assert!(shown.contains("  rules changed at 2026-01-01T00:00:21.000000Z: 20 -> 21\n"), "{shown}");

    text.push_str(&(change(22) + "\n"));
    let found = verdict(&text);
    assert_eq!((found.rule_changes.len(), found.has_earlier_rule_changes), (20, true));
    assert_eq!(found.rule_changes[0].change.old_rules.as_deref(), Some("2"), "the earliest is dropped");
    let json = checked(&text, Filter::default(), Format::Json, true).1;
    let last = r#"{"new_candidate_rules":null,"new_rules":"22","old_candidate_rules":null,"old_rules":"21","time":"2026-01-01T00:00:22.000000Z","tokens":{"added":0,"removed":0,"replaced":0}}"#;
    assert!(json.contains(last), "{json}");
}

#[test]
fn change_of_candidate_rules_and_tokens_is_reported_as_such() {
    let change = |number: u64, members: &str| {
        let members = format!(r#","old_rules":"1","new_rules":"1"{members}"#);
        line("rules_changed", 1, number, &members)
    };
    let tokens = r#","tokens":{"added":{"count":12,"names":["a"]},"removed":{"count":1,"names":["b"]},"replaced":{"count":0,"names":[]}}"#;
    let log = [
        line("started", 1, 1, r#","rules":"1","candidate_rules":"7""#),
        change(2, r#","old_candidate_rules":"7","new_candidate_rules":null"#),
        change(3, &format!(r#","old_candidate_rules":null,"new_candidate_rules":null{tokens}"#)),
        change(4, ""),
    ];
    let shown = checked(&log.join("\n"), Filter::default(), Format::Text, true).1;
    let expected = "  started with rules 1
  started with candidate rules 7
  candidate rules changed at 2026-01-01T00:00:02.000000Z: 7 -> -
  tokens changed at 2026-01-01T00:00:03.000000Z: 12 added, 1 removed, 0 replaced
  other access settings changed at 2026-01-01T00:00:04.000000Z
";
    assert!(shown.contains(expected), "{shown}");
    let all = Filter { since: Some(std::time::SystemTime::UNIX_EPOCH), ..Filter::default() };
    let rows = checked(&log.join("\n"), all, Format::Text, true).1;
    for what in
        ["rules_changed  candidate rules ", "rules_changed  tokens ", "rules_changed  other settings "]
    {
        assert_eq!(rows.matches(what).count(), 1, "{what}: {rows}");
    }
    let json = checked(&log.join("\n"), Filter::default(), Format::Json, true).1;
    let tokens = r#""tokens":{"added":12,"removed":1,"replaced":0}"#;
    assert!(json.contains(tokens) && json.contains(r#""candidate_rules":"7""#), "{json}");
}

#[test]
fn records_after_the_last_one_and_records_without_number_are_counted() {
    let mut lines = whole_log(2);
    lines.push(line("call", 1, 9, ""));
    lines.push(line("call", 1, 10, ""));
    let found = verdict(&lines.join("\n"));
    assert_eq!((found.after_stop, found.missing_count, found.is_complete(false)), (2, 0, false));

    let old =
        r#"{"event":"call","time":"2026-01-01T00:00:00Z","caller":"token:a","gateway_version":"0.0.9"}"#;
    let (report, output) = checked(old, Filter::default(), Format::Text, false);
    assert_eq!((report.unnumbered, report.verdicts.len(), report.is_complete()), (1, 0, true));
    assert!(output.contains("records without a number: 1."), "{output}");
}

#[test]
fn memory_of_a_check_is_bounded() {
    let add = |completeness: &mut Completeness, text: &str| {
        let mut records = Records::new(text.as_bytes());
        while let Some(item) = records.next_item().expect("memory") {
            let Content::Record(record) = item.content else { panic!("{item:?}") };
            completeness.add(&record);
        }
    };
    let mut completeness = Completeness::new(3);
    for sequence in [1, 3, 5, 7, 2] {
        add(&mut completeness, &line("call", 1, sequence, ""));
    }
    assert_eq!(completeness.unchecked, 1, "the fourth interval");
    // The second number joined two intervals.
    add(&mut completeness, &line("call", 1, 9, ""));
    add(&mut completeness, &line("call", 2, 1, ""));
    assert_eq!(completeness.unchecked, 2);

    let mut tokens = Tokens::new(2);
    let mut add = |text: String| {
        let mut records = Records::new(text.as_bytes());
        let Some(Content::Record(record)) = records.next_item().expect("memory").map(|item| item.content)
        else {
            panic!("{text}")
        };
        tokens.add(&record, true);
    };
    for number in 1..=5 {
        add(call(number, "IssueOtt", "token:a", "null", &format!("k:{number}"), "done"));
    }
    add(call(6, "LoginWithOtt", "token:b", "null", "k:5", "done"));
    assert_eq!((tokens.counts.issued, tokens.counts.joined, tokens.counts.dropped), (5, 1, 3));
    let kept: Vec<_> = tokens.wanted().filter_map(|(_, token)| token.issued.as_ref()).collect();
    assert_eq!(kept.len(), 2);
    assert!(Arc::ptr_eq(&kept[0].caller, &kept[1].caller), "names are kept once");
}

#[test]
fn issue_and_login_of_a_token_are_joined_and_found_by_caller_and_user() {
    let anna = r#"{"kind":"login","value":"anna@x"}"#;
    let bob = r#"{"kind":"login","value":"bob@x"}"#;
    let log = [
        line("started", 1, 1, ""),
        call(2, "IssueOtt", "token:issuer", anna, "k1:00", "done"),
        call(3, "IssueOtt", "token:issuer", bob, "k1:01", "done"),
        call(4, "LoginWithOtt", "token:portal", "null", "k1:00", "done"),
        call(5, "LoginWithOtt", "token:portal", "null", "k2:02", "unknown"),
        call(6, "LoginWithOtt", "token:portal", "null", "k2:03", "refused"),
        line("stopped", 1, 7, ""),
    ]
    .join("\n");
    let printed = |filter: Filter| {
        let (_, output) = checked(&log, filter, Format::Text, false);
        let ids: BTreeSet<String> = (2..7)
            .map(|number| format!("r{number}"))
            .filter(|id| output.lines().any(|it| it.ends_with(id)))
            .collect();
        (ids.into_iter().collect::<Vec<_>>().join(" "), output)
    };
    let by_user = Filter { user: filter::user("ANNA@x").ok(), ..Filter::default() };
    let (ids, output) = printed(by_user);
    assert_eq!(ids, "r2 r4", "the login is found through its token\n{output}");
    let token = "token k1:00: issued 2026-01-01T00:00:02.000000Z by token:issuer for login:anna@x; spent \
                 2026-01-01T00:00:04.000000Z by token:portal\n";
    assert!(output.contains(token), "{output}");
    assert!(output.contains("tokens: 2 issued, 2 spent, 1 of them issued in these files"), "{output}");
    let unknown =
        "not issued in these files: k2:02, spent 2026-01-01T00:00:05.000000Z by token:portal (perhaps";
    assert!(output.contains(unknown), "{output}");
    assert!(output.contains("key k2: 1 spent, and none issued"), "{output}");

    let caller = |glob: &str| Filter { caller: Some(WildMatch::new(glob)), ..Filter::default() };
    assert_eq!(printed(caller("token:p*")).0, "r4 r5 r6");
    assert_eq!(printed(caller("token:?")).0, "");
    let since = filter::since("2026-01-01T00:00:05Z").ok();
    assert_eq!(printed(Filter { since, ..Filter::default() }).0, "r5 r6");
    assert_eq!(printed(Filter { since, ..caller("token:i*") }).0, "");

    let (_, output) = checked(&log, caller("token:issuer"), Format::Json, false);
    let objects: Vec<Value> =
        output.lines().map(|line| serde_json::from_str(line).expect("one object")).collect();
    let of = |kind: &str| objects.iter().filter(|it| it["type"] == kind).collect::<Vec<_>>();
    assert_eq!(of("record").len(), 2);
    assert_eq!(of("record")[0]["record"]["request_id"], "r2");
    assert_eq!((&of("record")[0]["line"], &of("record")[0]["file"]), (&2.into(), &"audit.jsonl".into()));
    assert_eq!(of("token")[0]["spent"]["caller"], "token:portal");
    assert_eq!(of("process")[0]["complete"], true);
    assert_eq!(of("summary")[0]["complete"], true);
}

#[test]
fn hostile_text_does_not_reach_the_terminal() {
    // Written by another program, because the gateway escapes them.
    let hostile = "\u{9b}31m\u{202e}x\u{7f}";
    let mut record = line("call", 1, 2, "");
    let _ = write!(record, "");
    let record =
        record.replace("\"gateway_version\"", &format!("\"caller\":\"token:{hostile}\",\"gateway_version\""));
    for format in [Format::Text, Format::Json] {
        let filter = Filter { caller: Some(WildMatch::new("token:*")), ..Filter::default() };
        let (_, output) = checked(&record, filter, format, false);
        assert!(
            output.contains("token:") && !output.contains(['\u{9b}', '\u{202e}', '\u{7f}']),
            "{output:?}"
        );
        if format == Format::Json {
            let first: Value = serde_json::from_str(output.lines().next().expect("a record")).expect("JSON");
            assert_eq!(first["record"]["caller"], format!("token:{hostile}"), "the text is preserved");
        }
    }
}
