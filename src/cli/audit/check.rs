//! `ott-gateway audit check`: reports missing, torn and doubled records, and prints records.

use std::{
    io::BufRead,
    path::{Path, PathBuf},
    time::SystemTime,
};

use clap::Args;
use wildmatch::WildMatch;

use super::{
    completeness::{Completeness, MAX_INTERVALS},
    faults::LineFaults,
    files::{self, is_standard_input},
    filter::{self, Filter},
    report::{Format, Report, Writer},
    tokens::{MAX_TOKENS, Tokens},
};
use crate::{
    cli::{failure::Failure, output::Output},
    domain::ott::Subject,
    observe::audit::reader::{Content, Records},
};

/// Check audit files for missing, torn and doubled records, and print records.
///
/// Reads the files of any number of gateways, in any order: current and rotated ones, also if they
/// are compressed with gzip. Lines of other programs are skipped and counted.
///
/// With --caller, --user or --since, the matching records are printed, and when the tokens in them
/// were issued and spent, and by whom.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// Read these files; `-` is standard input
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Print the records of callers that match this pattern: `*` matches any text, `?` one character
    #[arg(long, value_name = "GLOB")]
    caller: Option<String>,
    /// Print the records of this user, such as login:NAME, `external_id:ID` or `user_id:ID`
    #[arg(long, value_name = "KIND:NAME", value_parser = filter::user)]
    user: Option<Subject>,
    /// Print the records since this time (RFC 3339), or of this duration until now, such as 24h
    #[arg(long, value_name = "TIME", value_parser = filter::since)]
    since: Option<SystemTime>,
    /// Print text, or one JSON object on each line
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// Accept a log without its beginning or end: older files are gone, or a gateway is running
    #[arg(long)]
    partial: bool,
}

pub(super) const EXAMPLES: &str = "\
Examples:
  ott-gateway audit check audit.jsonl*
  ott-gateway audit check --partial --since 24h --user login:anna@customer.example audit.jsonl
  zstd -dc audit.jsonl.1.zst | ott-gateway audit check --format json -

Exits with 3 if records are missing, torn or doubled, and with 2 if a file cannot be read.";

pub(super) fn run(arguments: &Arguments, output: &mut Output) -> Result<(), Failure> {
    let is_stdin = |file: &&PathBuf| is_standard_input(file);
    if arguments.files.iter().filter(is_stdin).count() > 1 {
        return Err(Failure::Usage("standard input can only be read once: name - once".to_owned()));
    }
    let files = in_order(&arguments.files, output)?;
    let filter = Filter {
        caller: arguments.caller.as_deref().map(WildMatch::new),
        user: arguments.user.clone(),
        since: arguments.since,
    };
    let mut check = Check::new(filter);
    let mut writer = Writer::new(arguments.format, output);
    for file in files {
        let mut records = files::open(&file, COMMAND, writer.output())?;
        check.read(&file, &mut records, &mut writer)?;
        check.faults.padding += records.input().padding();
    }
    let report = check.report(arguments.partial);
    writer.report(&report);
    if report.is_complete() { Ok(()) } else { Err(Failure::Incomplete(report.summary())) }
}

/// The beginning of the command, for advice.
const COMMAND: &str = "ott-gateway audit check";

/// State of a check.
pub(super) struct Check {
    filter: Filter,
    completeness: Completeness,
    tokens: Tokens,
    faults: LineFaults,
    records: u64,
}

impl Check {
    pub(super) fn new(filter: Filter) -> Self {
        Self {
            filter,
            completeness: Completeness::new(MAX_INTERVALS),
            tokens: Tokens::new(MAX_TOKENS),
            faults: LineFaults::default(),
            records: 0,
        }
    }

    /// Reads a file, and prints the records that are asked for.
    pub(super) fn read<R: BufRead>(
        &mut self,
        file: &Path,
        records: &mut Records<R>,
        writer: &mut Writer<'_>,
    ) -> Result<(), Failure> {
        let name = file.display().to_string();
        while let Some(item) =
            records.next_item().map_err(|error| files::unreadable(file, &error.into(), COMMAND))?
        {
            match item.content {
                Content::Record(record) => {
                    self.records += 1;
                    self.completeness.add(&record);
                    let is_wanted =
                        self.filter.is_set() && self.filter.matches(&record, self.tokens.issued_for(&record));
                    self.tokens.add(&record, is_wanted);
                    if is_wanted {
                        writer.record(&name, item.line, &record);
                    }
                }
                Content::Torn => self.faults.torn.add(&name, item.line),
                Content::Foreign => self.faults.foreign.add(&name, item.line),
                Content::TooLong => self.faults.too_long.add(&name, item.line),
                Content::Nuls => self.faults.nuls.add(&name, item.line),
            }
        }
        Ok(())
    }

    /// Returns the result.
    pub(super) fn report(self, is_partial: bool) -> Report {
        Report {
            verdicts: self.completeness.verdicts(is_partial).collect(),
            is_partial,
            records: self.records,
            unchecked: self.completeness.unchecked,
            unnumbered: self.completeness.unnumbered,
            faults: self.faults,
            has_filter: self.filter.is_set(),
            tokens: self.tokens,
        }
    }
}

/// Returns the files by the time of their first records, so that most tokens are issued before
/// they are spent. Standard input, pipes and devices come last, because their first record cannot be
/// read twice. They are opened only when they are read.
fn in_order(files: &[PathBuf], output: &mut Output) -> Result<Vec<PathBuf>, Failure> {
    let mut by_time = Vec::new();
    for file in files {
        let metadata = if is_standard_input(file) {
            None
        } else {
            let unreadable = |error: std::io::Error| files::unreadable(file, &error.into(), COMMAND);
            Some(file.metadata().map_err(unreadable)?)
        };
        let is_regular = metadata.is_some_and(|metadata| metadata.is_file());
        by_time.push((if is_regular { first_time(file, output)? } else { None }, file.clone()));
    }
    by_time.sort_by_key(|(time, _)| (time.is_none(), *time));
    Ok(by_time.into_iter().map(|(_, file)| file).collect())
}

/// Maximum number of parts of a file among which its first record is looked for.
const FIRST_ITEMS: usize = 100;

fn first_time(file: &Path, output: &mut Output) -> Result<Option<SystemTime>, Failure> {
    let mut records = files::open(file, COMMAND, output)?;
    for _ in 0..FIRST_ITEMS {
        match records.next_item().map_err(|error| files::unreadable(file, &error.into(), COMMAND))? {
            Some(item) => {
                if let Content::Record(record) = item.content {
                    return Ok(Some(record.time));
                }
            }
            None => break,
        }
    }
    Ok(None)
}
