//! Prints records and the result of a check, as text or as JSON.

mod json;
mod row;
mod text;

use std::time::SystemTime;

use clap::ValueEnum;

use super::{completeness::Verdict, faults::LineFaults, tokens::Tokens};
use crate::{cli::output::Output, observe::audit::reader::Record};

/// Maximum number of tokens that are listed because they were spent and not issued here.
const SHOWN_TOKENS: usize = 20;

/// The form of the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    Text,
    Json,
}

/// Prints to the output of a command.
pub(super) struct Writer<'a> {
    format: Format,
    output: &'a mut Output,
    has_header: bool,
}

/// The result of a check.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) verdicts: Vec<Verdict>,
    pub(super) is_partial: bool,
    pub(super) records: u64,
    pub(super) unchecked: u64,
    pub(super) unnumbered: u64,
    pub(super) faults: LineFaults,
    pub(super) has_filter: bool,
    pub(super) tokens: Tokens,
}

impl Report {
    /// Returns whether there are records, and nothing is missing, torn or doubled.
    pub(super) fn is_complete(&self) -> bool {
        self.records > 0
            && self.faults.torn.count == 0
            && self.unchecked == 0
            && self.verdicts.iter().all(|verdict| verdict.is_complete(self.is_partial))
    }

    /// Returns what is wrong, in one sentence.
    pub(super) fn summary(&self) -> String {
        if self.records == 0 {
            return "there are no audit records in these files".to_owned();
        }
        let sum = |count: fn(&Verdict) -> u64| self.verdicts.iter().map(count).fold(0, u64::saturating_add);
        let without = |is_without: fn(&Verdict) -> bool| {
            let count = self.verdicts.iter().filter(|verdict| is_without(verdict)).count();
            if self.is_partial { 0 } else { count as u64 }
        };
        let parts = [
            (sum(Verdict::unexplained), "missing records"),
            (self.faults.torn.count, "torn lines"),
            (sum(|verdict| verdict.doubled_count), "doubled lines"),
            (sum(|verdict| verdict.after_stop), "records after the last one of their process"),
            (without(|verdict| verdict.started.is_none()), "processes without a record `started`"),
            (without(|verdict| verdict.stopped.is_none()), "processes without a record `stopped`"),
            (
                self.unchecked,
                "records that could not be checked, because there are too many gaps or processes",
            ),
        ];
        let parts: Vec<String> = parts
            .into_iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, what)| format!("{what}: {count}"))
            .collect();
        format!("the audit log is not complete: {}", parts.join(", "))
    }
}

impl<'a> Writer<'a> {
    pub(super) const fn new(format: Format, output: &'a mut Output) -> Self {
        Self { format, output, has_header: false }
    }

    /// Returns the output of the command.
    pub(super) const fn output(&mut self) -> &mut Output {
        self.output
    }

    /// Prints a record.
    pub(super) fn record(&mut self, file: &str, line: u64, record: &Record) {
        match self.format {
            Format::Json => self.json_record(file, line, record),
            Format::Text => self.text_record(record),
        }
    }

    /// Prints the result.
    pub(super) fn report(&mut self, report: &Report) {
        match self.format {
            Format::Json => self.json(report),
            Format::Text => self.text(report),
        }
    }
}

fn time(time: SystemTime) -> String {
    humantime::format_rfc3339_micros(time).to_string()
}
