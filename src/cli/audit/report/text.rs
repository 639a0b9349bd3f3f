//! Text for people.

use std::fmt::{self, Write as _};

use super::{
    Report, SHOWN_TOKENS, Writer,
    row::{self, HEADER, row_of},
    time,
};
use crate::{
    base::text::Printable,
    cli::{
        audit::{
            completeness::{RuleChange, Verdict},
            tokens::{Use, UserName},
        },
        output::Style,
    },
    observe::audit::reader::{Record, TokenCounts},
};

impl Writer<'_> {
    pub(super) fn text_record(&mut self, record: &Record) {
        if !self.has_header {
            self.has_header = true;
            let heading = self.output.paint(Style::Heading, row::row(HEADER));
            self.output.line(heading);
        }
        self.output.line(Printable(row_of(record)));
    }

    pub(super) fn text(&mut self, report: &Report) {
        if report.has_filter {
            self.tokens(report);
        }
        self.unjoined(report);
        for verdict in &report.verdicts {
            self.verdict(verdict, report.is_partial);
        }
        let faults = &report.faults;
        for (places, what) in [
            (&faults.torn, "torn lines"),
            (&faults.foreign, "lines that are not records"),
            (&faults.too_long, "lines that are too long for a record"),
            (&faults.nuls, "runs of NUL bytes, as after the truncation of a file that is not appended to"),
        ] {
            if places.count > 0 {
                let first = places.first.iter().map(|(file, line)| format!("{file}:{line}"));
                let more = if places.count > places.first.len() as u64 { ", …" } else { "" };
                let first = first.collect::<Vec<_>>().join(", ");
                self.output.line(Printable(format!("{what}: {} ({first}{more})", places.count)));
            }
        }
        if faults.padding > 0 {
            self.output.line(format_args!(
                "NUL bytes after compressed data: {}, as in copies that are padded to whole blocks",
                faults.padding
            ));
        }
        if report.unnumbered > 0 {
            self.output.line(format_args!(
                "records without a number: {}. An older version wrote them, and whether others are missing cannot \
                 be checked",
                report.unnumbered
            ));
        }
        if report.is_complete() {
            let complete = if report.is_partial { "complete, as far as the files go" } else { "complete" };
            let complete = self.output.paint(Style::Good, complete);
            self.output.line(format_args!("records: {}, {complete}", report.records));
        }
    }

    /// Prints the tokens of the records that were asked for.
    fn tokens(&mut self, report: &Report) {
        for (fingerprint, token) in report.tokens.wanted() {
            let mut line = format!("token {fingerprint}: ");
            match &token.issued {
                Some(issued) => {
                    let _ = write!(line, "issued {issued}");
                }
                None => line.push_str("not issued in these files"),
            }
            match &token.spent {
                Some(spent) => {
                    let _ = write!(line, "; spent {spent}");
                }
                None => line.push_str("; not spent in these files"),
            }
            self.output.line(Printable(line));
        }
    }

    /// Prints what could not be joined, and why.
    fn unjoined(&mut self, report: &Report) {
        let tokens = &report.tokens;
        let counts = tokens.counts;
        if counts.issued + counts.spent > 0 {
            self.output.line(format_args!(
                "tokens: {} issued, {} spent, {} of them issued in these files",
                counts.issued, counts.spent, counts.joined
            ));
        }
        for (fingerprint, spent) in tokens.never_issued().take(SHOWN_TOKENS) {
            self.output.line(Printable(format!("  not issued in these files: {fingerprint}, spent {spent}")));
        }
        if counts.dropped > 0 {
            self.output.line(format_args!(
                "  tokens that were not joined, because there are too many: {}. Some of those above may have been \
                 issued here",
                counts.dropped
            ));
        }
        for (key, of_key) in tokens.keys().filter(|(_, it)| it.spent > 0 && it.issued == 0) {
            self.output.line(Printable(format!(
                "  key {key}: {} spent, and none issued in these files. They were issued by a gateway whose files are \
                 missing here, or before its key changed",
                of_key.spent
            )));
        }
    }

    /// Prints what a reload changed.
    fn rule_change(&mut self, RuleChange { time: at, change }: &RuleChange) {
        let at = time(*at);
        let arrow = |old: &Option<String>, new: &Option<String>| {
            let text = |rules: &Option<String>| rules.clone().unwrap_or_else(|| "-".to_owned());
            format!("{} -> {}", text(old), text(new))
        };
        let mut lines = Vec::new();
        if change.changes_rules() {
            lines.push(format!("  rules changed at {at}: {}", arrow(&change.old_rules, &change.new_rules)));
        }
        if change.changes_candidate_rules() {
            let arrow = arrow(&change.old_candidate_rules, &change.new_candidate_rules);
            lines.push(format!("  candidate rules changed at {at}: {arrow}"));
        }
        if change.changes_tokens() {
            let TokenCounts { added, removed, replaced } = change.tokens;
            lines.push(format!(
                "  tokens changed at {at}: {} added, {} removed, {} replaced",
                added.count, removed.count, replaced.count
            ));
        }
        if lines.is_empty() {
            lines.push(format!("  other access settings changed at {at}"));
        }
        for line in lines {
            self.output.line(Printable(line));
        }
    }

    fn verdict(&mut self, verdict: &Verdict, is_partial: bool) {
        let host = verdict.started.as_ref().and_then(|started| started.host.as_deref());
        let on = host.map(|host| format!(" on {host}")).unwrap_or_default();
        self.output.line(Printable(format!(
            "process {}{on}, version {}: {} lines from {} to {}",
            verdict.process,
            verdict.version,
            verdict.lines,
            time(verdict.first_time),
            time(verdict.last_time),
        )));
        if let Some(rules) = verdict.started.as_ref().and_then(|started| started.rules.as_deref()) {
            self.output.line(Printable(format!("  started with rules {rules}")));
        }
        if let Some(rules) = verdict.started.as_ref().and_then(|started| started.candidate_rules.as_deref()) {
            self.output.line(Printable(format!("  started with candidate rules {rules}")));
        }
        if verdict.has_earlier_rule_changes {
            self.output.line("  rules changed more often; these are the last changes:");
        }
        verdict.rule_changes.iter().for_each(|change| self.rule_change(change));
        let mut problem = |text: String| {
            let text = self.output.paint(Style::Bad, text);
            self.output.line(format_args!("  {text}"));
        };
        if verdict.started.is_none() && !is_partial {
            problem("no record `started`: its first records are missing".to_owned());
        }
        if verdict.unexplained() > 0 {
            problem(format!(
                "missing records: {} ({}){}",
                verdict.missing_count,
                Ranges(&verdict.missing, verdict.missing_count),
                if verdict.explained > 0 {
                    format!(", of which `records_lost` explains {}", verdict.explained)
                } else {
                    String::new()
                }
            ));
        }
        if verdict.doubled_count > 0 {
            problem(format!(
                "doubled lines: {} ({})",
                verdict.doubled_count,
                Ranges(&verdict.doubled, verdict.doubled_count)
            ));
        }
        if verdict.after_stop > 0 {
            problem(format!("records after its record `stopped`: {}", verdict.after_stop));
        }
        if verdict.stopped.is_none() && !is_partial {
            problem(
                "no record `stopped`: it runs, was killed, or could not write its last records; some may be missing"
                    .to_owned(),
            );
        }
        if verdict.unexplained() == 0 && verdict.missing_count > 0 {
            self.output.line(format_args!(
                "  missing records, all explained by `records_lost`: {} ({})",
                verdict.missing_count,
                Ranges(&verdict.missing, verdict.missing_count)
            ));
        }
        if verdict.repeated > 0 {
            self.output
                .line(format_args!("  records that were repeated, marked as late: {}", verdict.repeated));
        }
        if let Some(cause) = &verdict.stopped {
            self.output.line(Printable(format!("  stopped: {cause}")));
        }
    }
}

/// Ranges of numbers, of which there are this many in total.
struct Ranges<'a>(&'a [(u64, u64)], u64);

impl fmt::Display for Ranges<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, &(first, last)) in self.0.iter().enumerate() {
            let separator = if position == 0 { "" } else { ", " };
            if first == last {
                write!(f, "{separator}{first}")?;
            } else {
                write!(f, "{separator}{first}-{last}")?;
            }
        }
        let shown = self.0.iter().map(|(first, last)| last - first + 1).fold(0, u64::saturating_add);
        f.write_str(if shown < self.1 { ", …" } else { "" })
    }
}

impl fmt::Display for Use {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} by {}", time(self.time), self.caller)?;
        if let Some(UserName { kind, value, .. }) = &self.user {
            write!(f, " for {kind}:{value}")?;
        }
        match (self.is_certain, self.was_delivered) {
            (true, true) => Ok(()),
            (true, false) => f.write_str(" (the caller did not receive the response)"),
            (false, _) => f.write_str(" (perhaps: the outcome is unknown)"),
        }
    }
}
