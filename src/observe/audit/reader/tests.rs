use std::{fmt::Write, io::Read, time::Duration};

use proptest::prelude::*;

use super::*;
use crate::{
    base::clock::{self, WallClock},
    domain::{
        call::{Call, Certainty, Deadline, Ending, Method},
        ott::{Subject, SubjectKind},
        reason::{FailureCode, Reason},
    },
    observe::{
        audit::{
            Fingerprints, RefusedCalls, RulesChange, StopCause, numbering::Numbering, places::Lost,
            probe::ProbeCause, record as writer,
        },
        telemetry::metrics::{AuditClass, CountedBy, Logout},
    },
};

fn read(text: &[u8]) -> Vec<Item> {
    let mut records = Records::new(text);
    let mut items = Vec::new();
    while let Some(item) = records.next_item().expect("memory") {
        items.push(item);
    }
    items
}

fn contents(text: &[u8]) -> Vec<Content> {
    read(text).into_iter().map(|item| item.content).collect()
}

fn only(text: &str) -> Record {
    match contents(text.as_bytes()).as_slice() {
        [Content::Record(record)] => (**record).clone(),
        other => panic!("{other:?}"),
    }
}

/// A record of a version without numbers.
const OLD: &str = r#"{"event":"sink_probe","time":"2026-01-01T00:00:00.000001Z","cause":"start","gateway_version":"0.1.0"}"#;

fn call() -> Call {
    let call = Call::new(clock::now(), Deadline::after(Duration::from_secs(1)));
    call.set_method(Method::IssueOtt);
    call.set_caller("token:a".into(), "token");
    call.set_api_client("eu2".into());
    call.set_subject(Subject::new(SubjectKind::Login, "Anna".to_owned()).expect("a name"));
    call
}

#[tokio::test(start_paused = true)]
async fn every_record_that_the_gateway_writes_is_read() {
    let (numbering, now) = (Numbering::for_test(), WallClock::following_monotonic().now());
    let next = || numbering.next();
    let change = RulesChange::for_test("00", "01");
    let fingerprints = Fingerprints { rules: Some("00".to_owned()), ..Fingerprints::default() };
    let lost = Lost { calls: 7, records: 3 };
    let texts = [
        writer::of_start(&fingerprints, next(), now),
        writer::for_call(&call(), Ending::Succeeded, next(), now),
        writer::of_refused_calls(&RefusedCalls::new(CountedBy::Peer, now), next(), now),
        writer::of_undelivered_session(&call(), Logout::Failed, None, next(), now),
        writer::for_lost(AuditClass::Refused, lost, next(), now),
        writer::for_probe(ProbeCause::Pause, next(), now),
        writer::of_rules_change(&change, next(), now),
        writer::of_stop(&StopCause::Signal("SIGTERM"), next(), now),
    ];
    let mut events = Vec::new();
    for (sequence, text) in (1..).zip(texts) {
        for (end, late) in [("}\n", false), (",\"late\":true}\n", true)] {
            let record = only(&format!("{text}{end}"));
            assert_eq!((record.late, record.time), (late, now));
            let number = record.number.expect("a number");
            assert_eq!(
                (number.process.to_string().as_str(), number.sequence),
                ("00000000000000ff", sequence)
            );
            assert_eq!(record.text, format!("{text}{}", end.trim_end()));
            events.push(record.event);
        }
    }
    let names: Vec<&str> = events.iter().step_by(2).map(Event::name).collect();
    assert_eq!(
        names,
        [
            "started",
            "call",
            "refused_calls",
            "undelivered_session",
            "records_lost",
            "sink_probe",
            "rules_changed",
            "stopped"
        ]
    );
    assert!(events.iter().all(|event| !matches!(event, Event::Other(_))));
    assert!(matches!(&events[8], Event::RecordsLost { records: 3, count: 7, .. }));
    assert!(matches!(&events[14], Event::Stopped { cause: Some(cause), .. } if cause == "signal"));
}

#[test]
fn old_record_has_no_number_and_record_of_a_later_version_keeps_its_name() {
    let record = only(OLD);
    assert_eq!((record.number, record.event), (None, Event::SinkProbe));
    assert_eq!(only(&OLD.replace("sink_probe", "new_kind")).event, Event::Other("new_kind".to_owned()));
    let numbered = |process: &str, sequence: &str| {
        let members = format!("{{\"process\":{process},\"sequence\":{sequence},");
        only(
            &OLD.replacen('{', &members, 1)
                .replace("{\"process", "{\"event\":\"sink_probe\",\"process")
                .replace(",\"event\":\"sink_probe\",\"time", ",\"time"),
        )
        .number
        .map(|number| number.sequence)
    };
    assert_eq!(numbered("\"00000000000000ff\"", "7"), Some(7));
    for (process, sequence) in [
        ("\"00000000000000FF\"", "7"),
        ("\"0ff\"", "7"),
        ("\"+0000000000000ff\"", "7"),
        ("\"00000000000000ff\"", "0"),
        ("null", "7"),
        ("\"00000000000000ff\"", "null"),
    ] {
        assert_eq!(numbered(process, sequence), None, "{process} {sequence}");
    }
}

#[test]
fn parts_of_a_line_are_distinguished() {
    let text = format!(
        "{OLD}\n\n  \nnot a record\n{{\"event\":\"x\"}}\n{torn}\n{torn}{OLD}\n{tail}\n2026-01-01 stdout F {OLD}\n\
         {OLD} and more\n{{\"ev\n\0\0\0{OLD}\n",
        torn = &OLD[..40],
        tail = &OLD[40..],
    );
    let kinds: Vec<(u64, &str)> = read(text.as_bytes())
        .into_iter()
        .map(|item| {
            let kind = match item.content {
                Content::Record(_) => "record",
                Content::Torn => "torn",
                Content::Foreign => "foreign",
                Content::TooLong => "too long",
                Content::Nuls => "NUL",
            };
            (item.line, kind)
        })
        .collect();
    assert_eq!(
        kinds,
        [
            (1, "record"),
            (4, "foreign"),
            (5, "torn"),
            (6, "torn"),
            (7, "torn"),
            (7, "record"),
            (8, "torn"),
            (9, "foreign"),
            (9, "record"),
            (10, "record"),
            (10, "foreign"),
            (11, "torn"),
            (12, "NUL"),
            (12, "record"),
        ]
    );
}

#[test]
fn long_lines_are_bounded_and_the_next_line_is_read() {
    let limit = MAX_LINE_BYTES as u64;
    for (length, expected) in
        [(limit, Content::Foreign), (limit + 1, Content::TooLong), (3 * limit, Content::TooLong)]
    {
        let text = io::repeat(b'x').take(length).chain(&b"\n"[..]).chain(OLD.as_bytes());
        let mut records = Records::new(io::BufReader::new(text));
        let mut next = || records.next_item().expect("memory").map(|item| (item.line, item.content));
        assert_eq!(next(), Some((1, expected)), "{length}");
        assert!(matches!(next(), Some((2, Content::Record(_)))));
        assert_eq!(next(), None);
    }
    // Any number of NUL bytes, as in a sparse file.
    let text = io::repeat(0).take(3 * limit).chain(OLD.as_bytes());
    let mut records = Records::new(io::BufReader::new(text));
    let mut next = || records.next_item().expect("memory").map(|item| item.content);
    assert_eq!(next(), Some(Content::Nuls));
    assert!(matches!(next(), Some(Content::Record(_))));
}

#[test]
fn input_without_an_end_is_an_error_and_records_in_it_are_read() {
    let endless: [(&str, Box<dyn Read>); 3] = [
        ("NUL bytes", Box::new(io::repeat(0))),
        ("one line", Box::new(io::repeat(b'x'))),
        ("blank lines", Box::new(io::repeat(b'\n'))),
    ];
    for (kind, rest) in endless {
        let limit = 8 * MAX_LINE_BYTES as u64;
        // The limit begins anew after each record.
        let filler = || {
            io::repeat(0)
                .take(limit - 2 * OLD.len() as u64)
                .chain(&b"\n"[..])
                .chain(OLD.as_bytes())
                .chain(&b"\n"[..])
        };
        let text = filler().chain(filler()).chain(rest);
        let input = io::BufReader::new(text);
        let mut records = Records::within(limit, input);
        let mut found = 0;
        let error = loop {
            match records.next_item() {
                Ok(item) => {
                    let item = item.expect("it has no end");
                    found += usize::from(matches!(item.content, Content::Record(_)));
                }
                Err(error) => break error,
            }
        };
        assert_eq!(found, 2, "{kind}");
        assert!(error.to_string().starts_with("no record in 8 MiB, up to line "), "{kind}: {error}");
    }
}

#[test]
fn records_that_identify_the_rules_are_read_without_the_others() {
    let record = |event: &str, members: &str| {
        format!(r#"{{"event":"{event}","time":"2026-01-01T00:00:00Z"{members},"gateway_version":"0.1.0"}}"#)
    };
    let text = [
        record("started", r#","rules":"1""#),
        record("call", r#","caller":"jwt:started""#),
        "another program has \"started\"".to_owned(),
        // As other programs write it.
        record("rules_changed", r#","old_rules":"1","new_rules":"2""#)
            .replace(':', " : ")
            .replace("00 : 00 : 00", "00:00:00"),
        // After a torn record.
        format!(r#"{{"event":"call","ti{}"#, record("rules_changed", r#","old_rules":"2","new_rules":"3""#)),
        record("stopped", ""),
    ]
    .join("\n");
    let mut records = Records::new(text.as_bytes()).only_of_rules();
    let mut found = Vec::new();
    while let Some(item) = records.next_item().expect("memory") {
        if let Content::Record(record) = item.content {
            found.push((item.line, record.event.name().to_owned()));
        }
    }
    let expected = [(1, "started"), (4, "rules_changed"), (5, "rules_changed")];
    assert_eq!(found, expected.map(|(line, event)| (line, event.to_owned())));
}

#[tokio::test(start_paused = true)]
async fn recorded_decision_is_never_guessed() {
    let numbering = Numbering::for_test();
    let entry = |call: &Call, ending: Ending| {
        let text = writer::for_call(call, ending, numbering.next(), WallClock::system().now());
        match only(&(text + "}")).event {
            Event::Call(entry) => entry,
            other => panic!("{other:?}"),
        }
    };
    let failed = |reason: Reason| Ending::Failed(FailureCode::PermissionDenied, reason);
    let decision = |ending| entry(&call(), ending).decision();
    assert_eq!(decision(failed(Reason::CallerNotAllowed)), RecordedDecision::Denied);
    assert_eq!(decision(failed(Reason::AccountNotAllowed)), RecordedDecision::Denied);
    assert_eq!(decision(failed(Reason::CallerQuotaExceeded)), RecordedDecision::OverQuota);
    for ending in [failed(Reason::Overloaded), failed(Reason::InvalidRequest), Ending::Cancelled] {
        assert_eq!(decision(ending), RecordedDecision::NotDecided, "{ending:?}");
    }
    let sent = call();
    sent.attempt_begins();
    sent.attempt_ended(Certainty::NotSent);
    let unreachable = failed(Reason::PlatformUnreachable);
    assert_eq!(entry(&sent, unreachable).decision(), RecordedDecision::Allowed, "the rules came first");
}

#[tokio::test(start_paused = true)]
async fn spelling_of_a_user_is_read_from_records_that_contain_it() {
    let now = WallClock::system().now();
    let record = |login: &str| {
        let call = Call::new(clock::now(), Deadline::after(Duration::from_secs(1)));
        call.set_subject(Subject::new(SubjectKind::Login, login.to_owned()).expect("a name"));
        writer::for_call(&call, Ending::Succeeded, Numbering::for_test().next(), now) + "}"
    };
    let spelling = |text: &str| match only(text).event {
        Event::Call(entry) => entry.user_spelling,
        other => panic!("{other:?}"),
    };
    assert_eq!(spelling(&record("Bert")), UserSpelling::Plain);
    assert_eq!(spelling(&record("\u{ff22}ert")), UserSpelling::AsciiForms);
    let member = r#""user_spelling":null,"#;
    assert_eq!(spelling(&record("bert").replacen(member, "", 1)), UserSpelling::NotRecorded);
    let of_later_version = record("bert").replacen(member, r#""user_spelling":"new","#, 1);
    assert_eq!(spelling(&of_later_version), UserSpelling::NotRecorded);
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(
        pieces in proptest::collection::vec(
            prop_oneof![
                proptest::collection::vec(any::<u8>(), 0..60),
                Just(OLD.as_bytes().to_vec()),
                Just(b"\n".to_vec()),
                Just(BEGINNING.to_vec()),
                (0..OLD.len()).prop_map(|end| OLD.as_bytes()[..end].to_vec()),
                (0..OLD.len()).prop_map(|start| OLD.as_bytes()[start..].to_vec()),
                "[{}\\[\\]\":,a-z0-9]{0,40}".prop_map(String::into_bytes),
            ],
            0..12,
        ),
    ) {
        let text = pieces.concat();
        let items = read(&text);
        let lines = text.split(|byte| *byte == b'\n').count() as u64;
        prop_assert!(items.iter().all(|item| (1..=lines).contains(&item.line)));
        prop_assert!(items.is_sorted_by_key(|item| item.line));
    }

    #[test]
    fn every_whole_line_among_others_is_read(
        lines in proptest::collection::vec("[^\n\0]{0,40}", 0..8),
        position in 0..8_usize,
    ) {
        let mut text = String::new();
        for (number, line) in lines.iter().enumerate() {
            if number == position {
                let _ = writeln!(text, "{OLD}");
            }
            let _ = writeln!(text, "{line}");
        }
        let records = contents(text.as_bytes()).iter().filter(|it| matches!(it, Content::Record(_))).count();
        prop_assert_eq!(records, usize::from(position < lines.len()));
    }
}
