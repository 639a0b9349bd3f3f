//! Checks the numbers of records: which are missing, doubled, or after the end of their process.
//!
//! Only intervals of numbers are kept, at most [`MAX_INTERVALS`] for all processes.

use std::{collections::BTreeMap, time::SystemTime};

use super::intervals::{Added, Intervals};
use crate::observe::audit::reader::{ChangeEntry, Event, ProcessId, Record};

/// Maximum number of intervals of all processes. One takes about 30 bytes.
pub(super) const MAX_INTERVALS: usize = 1_000_000;
/// Maximum number of reports of lost records that are kept for each process. Beyond that, two
/// neighbouring ones are added up, and may explain the loss of a record between them.
const MAX_REPORTS: usize = 256;
/// Maximum number of processes.
const MAX_PROCESSES: usize = 10_000;
/// Maximum length of a text that is kept, in bytes.
const MAX_TEXT: usize = 256;

/// Maximum length of a fingerprint of rules, in bytes: that of the records. There may be many.
const MAX_FINGERPRINT: usize = 32;

/// The numbers of all processes.
#[derive(Debug)]
pub(super) struct Completeness {
    processes: BTreeMap<ProcessId, Process>,
    /// Number of further intervals that may be kept.
    room: usize,
    /// Number of records that could not be checked, because there were too many gaps or processes.
    pub(super) unchecked: u64,
    /// Number of records without a number.
    pub(super) unnumbered: u64,
}

/// The numbers of one process.
#[derive(Debug)]
struct Process {
    /// Numbers of lines that are not marked as late.
    in_time: Intervals,
    /// Numbers of lines that are marked as late.
    late: Intervals,
    /// Numbers of lines that occur more often than a record and its late repetition.
    doubled: Intervals,
    doubled_lines: u64,
    lines: u64,
    first_time: SystemTime,
    last_time: SystemTime,
    version: String,
    started: Option<Started>,
    stopped: Option<(u64, String)>,
    /// Number of lost records, by the number of the record that reports them.
    lost: BTreeMap<u64, u64>,
    /// The last changes of the rules, by the number of the record.
    rule_changes: BTreeMap<u64, RuleChange>,
    has_earlier_rule_changes: bool,
}

/// A change of the access rules, the candidate rules, the bearer tokens or other settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RuleChange {
    pub(super) time: SystemTime,
    pub(super) change: ChangeEntry,
}

/// Contents of the first record of a process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Started {
    pub(super) host: Option<String>,
    pub(super) configuration: Option<String>,
    pub(super) rules: Option<String>,
    pub(super) candidate_rules: Option<String>,
}

/// The state of one process.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Verdict {
    pub(super) process: ProcessId,
    pub(super) version: String,
    pub(super) first_time: SystemTime,
    pub(super) last_time: SystemTime,
    /// Number of lines.
    pub(super) lines: u64,
    pub(super) started: Option<Started>,
    /// Why the process stopped.
    pub(super) stopped: Option<String>,
    /// The missing numbers: the first [`SHOWN`] ranges.
    pub(super) missing: Vec<(u64, u64)>,
    pub(super) missing_count: u64,
    /// Number of missing records whose loss the process reported.
    pub(super) explained: u64,
    /// The numbers of doubled lines: the first [`SHOWN`] ranges.
    pub(super) doubled: Vec<(u64, u64)>,
    /// Number of lines that are one too many.
    pub(super) doubled_count: u64,
    /// Number of records that were repeated, marked as late.
    pub(super) repeated: u64,
    /// Number of records after the last one of the process.
    pub(super) after_stop: u64,
    /// The last changes of the rules, by number.
    pub(super) rule_changes: Vec<RuleChange>,
    /// Whether the rules changed more often.
    pub(super) has_earlier_rule_changes: bool,
}

/// Maximum number of ranges, and of changes of the rules, in a [`Verdict`].
pub(super) const SHOWN: usize = 20;

impl Completeness {
    /// Creates a check that may keep this many intervals.
    pub(super) const fn new(room: usize) -> Self {
        Self { processes: BTreeMap::new(), room, unchecked: 0, unnumbered: 0 }
    }

    /// Adds a line.
    pub(super) fn add(&mut self, record: &Record) {
        let Some(number) = record.number else {
            self.unnumbered += 1;
            return;
        };
        let has_room = self.room > 0 && self.processes.len() < MAX_PROCESSES;
        if !has_room && !self.processes.contains_key(&number.process) {
            self.unchecked += 1;
            return;
        }
        let process = self.processes.entry(number.process).or_insert_with(|| Process::new(record));
        let before = process.intervals();
        if process.add(number.sequence, record, self.room) == Added::NoRoom {
            self.unchecked += 1;
        }
        // Adding a number also joins intervals.
        self.room = (self.room + before).saturating_sub(process.intervals());
    }

    /// Returns the state of each process. `is_partial`: numbers before the lowest one are not
    /// expected.
    pub(super) fn verdicts(&self, is_partial: bool) -> impl Iterator<Item = Verdict> {
        self.processes.iter().map(move |(id, process)| process.verdict(*id, is_partial))
    }
}

impl Process {
    fn new(record: &Record) -> Self {
        Self {
            in_time: Intervals::default(),
            late: Intervals::default(),
            doubled: Intervals::default(),
            doubled_lines: 0,
            lines: 0,
            first_time: record.time,
            last_time: record.time,
            version: bounded(&record.gateway_version).to_owned(),
            started: None,
            stopped: None,
            lost: BTreeMap::new(),
            rule_changes: BTreeMap::new(),
            has_earlier_rule_changes: false,
        }
    }

    fn intervals(&self) -> usize {
        self.in_time.count() + self.late.count() + self.doubled.count()
    }

    fn add(&mut self, sequence: u64, record: &Record, room: usize) -> Added {
        self.lines += 1;
        self.first_time = self.first_time.min(record.time);
        self.last_time = self.last_time.max(record.time);
        let has_room = room > 0;
        let numbers = if record.late { &mut self.late } else { &mut self.in_time };
        let added = numbers.add(sequence, has_room);
        match added {
            Added::New => self.note(sequence, record),
            Added::Known => {
                self.doubled_lines += 1;
                // Without room, it is counted and not named.
                self.doubled.add(sequence, has_room);
            }
            Added::NoRoom => {}
        }
        added
    }

    fn note(&mut self, sequence: u64, record: &Record) {
        let bounded_or_none = |text: &Option<String>| text.as_deref().map(|text| bounded(text).to_owned());
        match &record.event {
            Event::Started { host, configuration, rules, candidate_rules } => {
                self.started = Some(Started {
                    host: bounded_or_none(host),
                    configuration: bounded_or_none(configuration),
                    rules: bounded_or_none(rules),
                    candidate_rules: bounded_or_none(candidate_rules),
                });
            }
            Event::Stopped { cause, detail } => {
                let parts: Vec<&str> = [cause, detail].into_iter().filter_map(Option::as_deref).collect();
                self.stopped = Some((sequence, bounded(&parts.join(" ")).to_owned()));
            }
            Event::RulesChanged(change) => {
                let fingerprint =
                    |text: &Option<String>| text.as_deref().map(|text| cut(text, MAX_FINGERPRINT).to_owned());
                let change = ChangeEntry {
                    old_rules: fingerprint(&change.old_rules),
                    new_rules: fingerprint(&change.new_rules),
                    old_candidate_rules: fingerprint(&change.old_candidate_rules),
                    new_candidate_rules: fingerprint(&change.new_candidate_rules),
                    tokens: change.tokens,
                };
                self.rule_changes.insert(sequence, RuleChange { time: record.time, change });
                if self.rule_changes.len() > SHOWN {
                    self.rule_changes.pop_first();
                    self.has_earlier_rule_changes = true;
                }
            }
            Event::RecordsLost { records, .. } if *records > 0 => {
                // The same report may also be in the other set.
                self.lost.insert(sequence, *records);
                if self.lost.len() > MAX_REPORTS
                    && let Some((_, records)) = self.lost.pop_first()
                    && let Some(mut next) = self.lost.first_entry()
                {
                    let sum = next.get().saturating_add(records);
                    *next.get_mut() = sum;
                }
            }
            _ => {}
        }
    }

    fn verdict(&self, process: ProcessId, is_partial: bool) -> Verdict {
        let lowest = [self.in_time.first(), self.late.first()].into_iter().flatten().min();
        let highest = [self.in_time.last(), self.late.last()].into_iter().flatten().max().unwrap_or(0);
        let first = if is_partial { lowest.unwrap_or(1) } else { 1 };
        let last = self.stopped.as_ref().map_or(highest, |(sequence, _)| *sequence);
        let missing = || self.in_time.missing(&self.late, first, last);
        let present = |from: u64, to: u64| {
            let absent = self.in_time.missing(&self.late, from, to);
            (to - from + 1).saturating_sub(absent.map(length).fold(0, u64::saturating_add))
        };
        Verdict {
            process,
            version: self.version.clone(),
            first_time: self.first_time,
            last_time: self.last_time,
            lines: self.lines,
            started: self.started.clone(),
            stopped: self.stopped.as_ref().map(|(_, cause)| cause.clone()),
            missing: missing().take(SHOWN).collect(),
            missing_count: missing().map(length).fold(0, u64::saturating_add),
            explained: explained(missing(), &self.lost),
            doubled: self.doubled.ranges().take(SHOWN).collect(),
            doubled_count: self.doubled_lines,
            repeated: self.in_time.numbers_in_both(&self.late),
            after_stop: if highest > last { present(last + 1, highest) } else { 0 },
            rule_changes: self.rule_changes.values().cloned().collect(),
            has_earlier_rule_changes: self.has_earlier_rule_changes,
        }
    }
}

/// Returns how many missing numbers the reports of lost records explain at most. A report explains
/// only numbers below its own.
fn explained(missing: impl Iterator<Item = (u64, u64)>, lost: &BTreeMap<u64, u64>) -> u64 {
    let mut missing = missing.peekable();
    let (mut below, mut explained) = (0_u64, 0_u64);
    for (&report, &records) in lost {
        while let Some(range) = missing.next_if(|(start, _)| *start < report) {
            // The number of the report exists, so that no range contains it.
            below = below.saturating_add(length(range));
        }
        explained = explained.saturating_add(records).min(below);
    }
    explained
}

fn length((start, end): (u64, u64)) -> u64 {
    (end - start).saturating_add(1)
}

/// Returns the beginning of a text, of bounded length.
pub(super) fn bounded(text: &str) -> &str {
    cut(text, MAX_TEXT)
}

fn cut(text: &str, length: usize) -> &str {
    text.get(..text.floor_char_boundary(length)).unwrap_or_default()
}

impl Verdict {
    /// Returns the number of missing records whose loss the process did not report.
    pub(super) const fn unexplained(&self) -> u64 {
        self.missing_count.saturating_sub(self.explained)
    }

    /// Returns whether nothing is missing, doubled or out of place. `is_partial`: the first and the
    /// last record are not required.
    pub(super) const fn is_complete(&self, is_partial: bool) -> bool {
        self.unexplained() == 0
            && self.doubled_count == 0
            && self.after_stop == 0
            && (is_partial || (self.started.is_some() && self.stopped.is_some()))
    }
}
