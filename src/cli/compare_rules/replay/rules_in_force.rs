//! The rules that were in force when a call arrived, by the records of its process.
//!
//! A process records the fingerprint of its rules at its start and at each change. A call is decided by
//! the rules that were in force when it arrived, also if its record follows that of a change.
//!
//! Whether a record of a change is missing is only known as far as the fingerprints do not fit
//! together; `audit check` finds missing records.

use std::{
    collections::{BTreeMap, HashMap},
    time::SystemTime,
};

use crate::observe::audit::reader::{Event, ProcessId, Record, RecordNumber};

/// Maximum number of changes of all processes. Beyond that, which needs a reload every second for a
/// day, no rules are known.
const MAX_CHANGES: usize = 100_000;

/// Number of hexadecimal digits of a fingerprint.
const DIGITS: usize = 32;

/// The fingerprint of rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RulesFingerprint(u128);

impl RulesFingerprint {
    /// Parses 32 hexadecimal digits in lower case.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        let is_valid = text.len() == DIGITS && text.bytes().all(is_digit);
        if is_valid { u128::from_str_radix(text, 16).ok().map(Self) } else { None }
    }
}

/// The rules of each process over time.
#[derive(Debug, Default)]
pub(super) struct RulesInForce {
    /// By the number of the record.
    by_process: HashMap<ProcessId, BTreeMap<u64, Change>>,
    changes: usize,
}

/// The start of a process, or a change of its rules.
#[derive(Debug)]
struct Change {
    time: SystemTime,
    before: Option<RulesFingerprint>,
    after: Option<RulesFingerprint>,
}

impl RulesInForce {
    /// Adds a record. May be called more than once with the same one.
    pub(super) fn add(&mut self, record: &Record) {
        let (before, after) = match &record.event {
            Event::Started { rules, .. } => (None, rules),
            Event::RulesChanged(change) => (change.old_rules.as_deref(), &change.new_rules),
            _ => return,
        };
        let Some(RecordNumber { process, sequence }) = record.number else { return };
        if self.changes > MAX_CHANGES {
            return;
        }
        self.by_process.entry(process).or_default().entry(sequence).or_insert_with(|| {
            self.changes += 1;
            Change {
                time: record.time,
                before: before.and_then(RulesFingerprint::parse),
                after: after.as_deref().and_then(RulesFingerprint::parse),
            }
        });
    }

    /// Returns the rules that decided a call with this record, which arrived at this time. `None` if
    /// they are not known.
    pub(super) fn at(&self, number: RecordNumber, arrived: SystemTime) -> Option<RulesFingerprint> {
        if self.changes > MAX_CHANGES {
            return None;
        }
        let changes = self.by_process.get(&number.process)?;
        let before = changes.range(..number.sequence).rev().find(|(_, change)| change.time <= arrived);
        let next = changes.range(before.map_or(0, |(sequence, _)| sequence + 1)..).next();
        match (before, next) {
            (Some((_, before)), Some((_, next))) => before.after.filter(|rules| next.before == Some(*rules)),
            (Some((_, before)), None) => before.after,
            (None, Some((_, next))) => next.before,
            (None, None) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;
    use crate::observe::audit::reader::{Content, Records};

    const A: &str = "00000000000000000000000000000001";
    const B: &str = "00000000000000000000000000000002";

    fn record(process: char, sequence: u64, second: u64, members: &serde_json::Value) -> Record {
        let mut line = json!({
            "time": humantime::format_rfc3339(time(second)).to_string(), "gateway_version": "0.1.0",
            "process": process.to_string().repeat(16), "sequence": sequence,
        });
        line.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
        let line = line.to_string();
        match Records::new(line.as_bytes()).next_item().unwrap().unwrap().content {
            Content::Record(record) => *record,
            other => panic!("{other:?}"),
        }
    }

    fn time(second: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(second)
    }

    fn started(sequence: u64, second: u64, rules: &str) -> Record {
        record('a', sequence, second, &json!({ "event": "started", "rules": rules }))
    }

    fn changed(sequence: u64, second: u64, old: &str, new: &str) -> Record {
        record(
            'a',
            sequence,
            second,
            &json!({ "event": "rules_changed", "old_rules": old, "new_rules": new }),
        )
    }

    /// Returns the rules of a call with this number that arrived at this second.
    fn rules_at(records: &[Record], sequence: u64, second: u64) -> Option<RulesFingerprint> {
        let mut rules = RulesInForce::default();
        for record in records.iter().chain(records) {
            rules.add(record);
        }
        let process = started(1, 1, A).number.unwrap().process;
        rules.at(RecordNumber { process, sequence }, time(second))
    }

    #[test]
    fn call_is_decided_by_the_rules_in_force_when_it_arrived() {
        let [a, b] = [A, B].map(RulesFingerprint::parse);
        let records = [changed(10, 100, A, B), started(1, 0, A), changed(20, 200, B, A)];
        for (sequence, second, expected) in [
            (5, 50, a),
            (11, 99, a),
            (11, 100, b),
            (19, 190, b),
            // The wall clock was set.
            (9, 300, a),
            (19, 300, b),
            (21, 199, b),
            (22, 201, a),
        ] {
            assert_eq!(rules_at(&records, sequence, second), expected, "{sequence} at {second}");
        }
    }

    #[test]
    fn rules_are_known_without_the_start_of_the_process_only_before_a_change_or_after_one() {
        let [a, b] = [A, B].map(RulesFingerprint::parse);
        assert_eq!(rules_at(&[changed(10, 100, A, B)], 5, 50), a);
        assert_eq!(rules_at(&[changed(10, 100, A, B)], 15, 150), b);
        assert_eq!(rules_at(&[], 5, 50), None);
        let other = record('b', 1, 0, &json!({ "event": "started", "rules": A }));
        assert_eq!(rules_at(&[other], 5, 50), None, "another process");
        assert_eq!(rules_at(&[started(1, 0, "not a fingerprint")], 5, 50), None);
        assert_eq!(rules_at(&[record('a', 1, 0, &json!({ "event": "started" }))], 5, 50), None);
    }

    #[test]
    fn number_of_changes_is_bounded() {
        let mut rules = RulesInForce::default();
        let mut record = started(1, 0, A);
        let process = record.number.unwrap().process;
        let at = |rules: &RulesInForce| rules.at(RecordNumber { process, sequence: 3 }, time(1));
        for sequence in 1..MAX_CHANGES as u64 + 10 {
            record.number = Some(RecordNumber { process, sequence });
            rules.add(&record);
            if sequence == 1 {
                assert!(at(&rules).is_some());
            }
        }
        assert_eq!((at(&rules), rules.changes), (None, MAX_CHANGES + 1));
    }

    #[test]
    fn rules_are_not_known_where_a_change_is_missing() {
        let records = [started(1, 0, A), changed(20, 200, B, A)];
        assert_eq!(rules_at(&records, 15, 150), None);
        assert_eq!(rules_at(&records, 25, 250), RulesFingerprint::parse(A));
    }
}
