//! Lines in a file whose writes are short, fail, or are lost afterwards.

use futures_util::FutureExt;
use proptest::prelude::*;

use super::*;
use crate::observe::{
    audit::{acknowledgement::acknowledgement, backlog::Backlog, signal::Wakes},
    telemetry::metrics::AuditClass,
};

/// One step of a test case.
#[derive(Clone, Debug)]
enum Step {
    /// A line of an allowed call, which waits for it, or of a refused one.
    Line(AuditClass),
    /// A write of this part of the batch, in per cent. `synced`: whether the data is known to be on
    /// the disk.
    Write { part: usize, synced: bool },
    /// The write is not repeated.
    GiveUp,
    /// Another process appends a line, or a partial line if ours is partial.
    Foreign,
    /// The file is renamed, and opened again.
    Rotate,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => Just(Step::Line(AuditClass::Allowed)),
        1 => Just(Step::Line(AuditClass::Refused)),
        2 => (0..=100_usize, any::<bool>()).prop_map(|(part, synced)| Step::Write { part, synced }),
        1 => Just(Step::Write { part: 100, synced: true }),
        1 => Just(Step::GiveUp),
        1 => Just(Step::Foreign),
        1 => Just(Step::Rotate),
    ];
    proptest::collection::vec(step, 1..60)
}

/// Does the part of a write that the thread does.
fn write(backlog: &mut Backlog, output: &mut sink::Output, part: usize, synced: bool) {
    output.ready().expect("it opens");
    backlog.resume(output, false);
    backlog.fill(output, true);
    let mut bytes = Vec::new();
    backlog.append_unwritten(&mut bytes);
    let mut written = 0;
    while written < bytes.len() * part / 100 {
        written += output.write(&bytes[written..bytes.len() * part / 100]).expect("it writes");
    }
    backlog.credit(written, synced, output, |line| match line.finish(&mut Wakes::default()) {
        line::Fate::Repeat(line) => Some(line),
        line::Fate::Awaited | line::Fate::Unawaited | line::Fate::Late => None,
    });
}

#[test]
fn line_that_was_not_synced_is_written_again_before_it_is_confirmed() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("audit.jsonl");
    let output = Sink::File(path.clone()).open(true, &Metrics::new());
    let mut output = output.expect("it opens").expect("it is on");
    let mut backlog = Backlog::default();
    let (ack, mut written, _waiter) = acknowledgement(&Arc::default());
    backlog.push(Line::awaited("{\"event\":\"call\"".to_owned(), ack));
    write(&mut backlog, &mut output, 100, false);
    assert_eq!((&mut written).now_or_never(), None, "its call keeps waiting");
    write(&mut backlog, &mut output, 100, true);
    assert_eq!(written.now_or_never(), Some(Ok(())));
    assert!(backlog.is_empty());
    assert_eq!(fs::read_to_string(&path).expect("text"), "{\"event\":\"call\"}\n".repeat(2));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn each_line_is_whole_and_confirmed_only_when_written(steps in steps()) {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("audit.jsonl");
        let sink = Sink::File(path.clone());
        let output = sink.open(false, &Metrics::new()).expect("it opens").expect("it is on");
        let mut output = output.checked_every(Duration::ZERO);
        let mut backlog = Backlog::default();
        let (mut waiting, mut files) = (Vec::new(), 0);
        for step in steps {
            match step {
                Step::Line(class) => {
                    let text = format!("{{\"event\":\"call\",\"request_id\":\"{}\"", waiting.len());
                    let (ack, written, _waiter) = acknowledgement(&Arc::default());
                    backlog.push(match class {
                        AuditClass::Allowed => Line::awaited(text, ack),
                        AuditClass::Refused => Line::unawaited(text, class),
                    });
                    waiting.push((class, written));
                }
                Step::Write { part, synced } => write(&mut backlog, &mut output, part, synced),
                Step::GiveUp => backlog.give_up(&mut Wakes::default()),
                Step::Foreign => {
                    let mut other = OpenOptions::new().append(true).open(&path).expect("it opens");
                    let line = b"\"of another process\"\n";
                    // The partial line may be in a file that was rotated away.
                    let is_torn = backlog.is_torn()
                        && fs::read(&path).expect("bytes").last().is_some_and(|last| *last != b'\n');
                    let length = if is_torn { line.len() / 2 } else { line.len() };
                    other.write_all(&line[..length]).expect("it writes");
                }
                Step::Rotate => {
                    files += 1;
                    fs::rename(&path, folder.path().join(files.to_string())).expect("it renames");
                    output.ready().expect("it opens again");
                }
            }
        }
        // A line may have to be written once more, marked as late.
        while !backlog.is_empty() {
            write(&mut backlog, &mut output, 100, true);
        }

        let mut whole: Vec<(String, bool)> = Vec::new();
        for file in fs::read_dir(folder.path()).expect("a folder") {
            let text = fs::read_to_string(file.expect("a file").path()).expect("text");
            for line in text.lines() {
                let starts = line.matches("{\"event\"").count();
                match serde_json::from_str::<Value>(line) {
                    Ok(record) if starts == 1 => {
                        let id = record["request_id"].as_str().expect("an id").to_owned();
                        whole.push((id, record["late"] == true));
                    }
                    // A partial line is alone, or before a line of the other process.
                    _ => prop_assert!(starts <= 1 && !line.ends_with('}'), "{}", line),
                }
            }
        }
        for (id, (class, written)) in waiting.into_iter().enumerate() {
            let copies: Vec<bool> =
                whole.iter().filter(|(other, _)| *other == id.to_string()).map(|(_, late)| *late).collect();
            prop_assert!(!copies.is_empty(), "{} is lost", id);
            // The call continued without its line, so there must be a late line.
            if class == AuditClass::Allowed && written.now_or_never() != Some(Ok(())) {
                prop_assert!(copies.contains(&true), "{} was not delivered", id);
            }
        }
    }
}
