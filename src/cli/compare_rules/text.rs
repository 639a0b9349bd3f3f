//! The report of `compare-rules` for people.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    super::{
        explain_command,
        output::{Output, Style},
    },
    replay::AuditReplay,
};
use crate::{
    access::{Allowance, Refusal, ReplayedCalls, ReplayedDecisions, Rules, UnknownPart},
    base::text::Printable,
    observe::telemetry::metrics::AccessDenial,
    rule_comparison::{Calls, Change, Comparison, Example, File, Names, Opening},
};

/// Maximum number of globs, or of combinations of claims, that are printed of one list.
const MAX_GLOBS: usize = 8;

/// Maximum number of callers that are printed of one list.
const MAX_CALLERS: usize = 50;

pub(super) fn print_notes(notes: &[String], new_issuers: &[&str], output: &mut Output) {
    for note in notes {
        output.line(format_args!("note: {}", Printable(note)));
    }
    for issuer in new_issuers {
        output.line(format_args!(
            "opened: only the new file accepts JWTs of {}, and not both files give their issuers names, so its \
             callers are not compared",
            Printable(issuer)
        ));
    }
}

pub(super) fn print(compared: &Comparison, output: &mut Output) {
    print_openings("Opened: calls that only the new file allows", &compared.opened, output);
    print_openings("Closed: calls that only the old file allows", &compared.closed, output);
    heading("Changed quotas of calls that both files allow", compared.quotas.len(), output);
    for change in &compared.quotas {
        output.line(format_args!(
            "  {} (old file: {})",
            Printable(&change.new_rule),
            Printable(&change.old_rule)
        ));
        for change in &change.changes {
            print_change(change, output);
        }
        print_calls(&[(&change.calls, &change.example)], output);
    }
    if !compared.settings.is_empty() {
        heading("Changed settings of all rules", compared.settings.len(), output);
        for change in &compared.settings {
            print_change(change, output);
        }
    }
    for pattern in &compared.respelled {
        let file = match pattern.file {
            File::Old => "old",
            File::New => "new",
        };
        output.line(format_args!(
            "note: rule {} of the {file} file: {} is compared as {}",
            pattern.rule,
            Printable(&pattern.written),
            Printable(&pattern.compared)
        ));
    }
}

/// Prints the result of replaying audit files.
pub(super) fn print_replay(replay: &AuditReplay, [old, new]: &[Rules; 2], output: &mut Output) {
    let AuditReplay { calls, skipped, .. } = replay;
    let decisions = &calls.by_old_rules;
    count("Recorded calls that the new file would refuse", decisions.refused.count(), output);
    print_refused(&decisions.refused, old, output);
    count("Recorded calls that the new file would allow", decisions.allowed.count(), output);
    print_allowed(&decisions.allowed, new, output);
    count("Recorded calls without a change", decisions.unchanged, output);
    count("Recorded calls that cannot be decided", decisions.undecided.values().sum(), output);
    print_undecided(&decisions.undecided, output);
    if calls.not_identified > 0 {
        output.line(format_args!(
            "note: the files do not contain the rules under which {} of these calls were decided; the old file \
             decides them as recorded",
            calls.not_identified
        ));
    }
    if calls.by_other_rules.count() > 0 {
        print_of_other_rules(&calls.by_other_rules, [old, new], output);
    }
    let not_compared = [
        (skipped.not_decided, "calls that failed for another reason than the rules"),
        (skipped.over_quota, "calls over a quota"),
        (skipped.summarized, "refused calls without a record of their own"),
        (skipped.lost, "calls whose record was lost"),
        (skipped.late, "late records"),
        (skipped.repeated, "records that occur again"),
        (skipped.other_records, "records of other events"),
        (skipped.not_records, "lines that are not whole records"),
    ];
    for (number, what) in not_compared.iter().filter(|(number, _)| *number > 0) {
        output.line(format_args!("not compared, {what}: {number}"));
    }
}

/// Prints calls that were decided under other rules than those of the old file.
fn print_of_other_rules(decisions: &ReplayedDecisions, [old, new]: [&Rules; 2], output: &mut Output) {
    count(
        "Recorded calls that were decided under other rules than those of the old file",
        decisions.count(),
        output,
    );
    output.line(format_args!("  would be refused by the new file: {}", decisions.refused.count()));
    print_refused(&decisions.refused, old, output);
    output.line(format_args!("  would be allowed by the new file: {}", decisions.allowed.count()));
    print_allowed(&decisions.allowed, new, output);
    output.line(format_args!("  without a change: {}", decisions.unchanged));
    output.line(format_args!("  cannot be decided: {}", decisions.undecided.values().sum::<u64>()));
    print_undecided(&decisions.undecided, output);
}

fn print_refused(calls: &ReplayedCalls<Refusal>, old: &Rules, output: &mut Output) {
    let rows = calls.rows();
    for (refusal, number, example) in rows.iter().take(MAX_CALLERS) {
        let so_far = refusal
            .old_rule
            .map_or_else(String::new, |rule| format!("allowed by rule {}, ", old.label(rule)));
        let part = match refusal.denied {
            AccessDenial::Caller => "the caller",
            AccessDenial::Claims => "the caller's claims",
            AccessDenial::Method => "the method",
            AccessDenial::ApiClient => "the API client",
            AccessDenial::Issuer => "the caller that the token was issued to",
            AccessDenial::LoginUrl => "the login URL",
            AccessDenial::User => "the user",
        };
        row(
            &number.to_string(),
            format_args!(
                "{}: {so_far}refused because of {part}; for example request {example}",
                refusal.caller
            ),
            output,
        );
    }
    print_rest(rows.len(), output);
}

fn print_allowed(calls: &ReplayedCalls<Allowance>, new: &Rules, output: &mut Output) {
    let rows = calls.rows();
    for (allowance, number, example) in rows.iter().take(MAX_CALLERS) {
        let rule = new.label(allowance.new_rule);
        row(
            &number.to_string(),
            format_args!("{}: allowed by rule {rule}; for example request {example}", allowance.caller),
            output,
        );
    }
    print_rest(rows.len(), output);
}

fn print_undecided(undecided: &BTreeMap<UnknownPart, u64>, output: &mut Output) {
    for (part, number) in undecided {
        let part = match part {
            UnknownPart::Caller => "the name that the new file gives the issuer of the caller's JWT",
            UnknownPart::Claims => "all claims of the caller",
            UnknownPart::ApiClient => "the API client",
            UnknownPart::Issuer => "the caller that the token was issued to",
            UnknownPart::LoginUrl => "whether a login URL was requested",
            UnknownPart::User => "the user",
            UnknownPart::Spelling => "whether the user was spelled with forms of ASCII characters",
        };
        row(&number.to_string(), format_args!("because their records do not contain {part}"), output);
    }
}

fn count(text: &str, number: u64, output: &mut Output) {
    heading(text, usize::try_from(number).unwrap_or(usize::MAX), output);
}

fn print_rest(rows: usize, output: &mut Output) {
    if rows > MAX_CALLERS {
        row(
            "",
            format_args!("and {} more callers or rules; --format json lists all", rows - MAX_CALLERS),
            output,
        );
    }
}

fn heading(text: &str, number: usize, output: &mut Output) {
    let text = output.paint(Style::Name, text);
    if number == 0 {
        output.line(format_args!("{text}: none"));
    } else {
        output.line(format_args!("{text}: {number}"));
    }
}

/// Prints openings. Those that differ only in the kind of calls are printed as one.
fn print_openings(text: &str, openings: &[Opening], output: &mut Output) {
    let mut merged: Vec<Vec<&Opening>> = Vec::new();
    for opening in openings {
        // The openings of one rule follow each other.
        let mut of_rule = merged.iter_mut().rev().take_while(|others| others[0].rule == opening.rule);
        match of_rule.find(|others| others[0].calls.differ_only_in_kind(&opening.calls)) {
            Some(others) => others.push(opening),
            None => merged.push(vec![opening]),
        }
    }
    heading(text, merged.len(), output);
    for openings in merged {
        output.line(format_args!("  by {}", Printable(&openings[0].rule)));
        let calls = openings.iter().map(|opening| (&opening.calls, &opening.example));
        print_calls(&calls.collect::<Vec<_>>(), output);
    }
}

fn print_change(change: &Change, output: &mut Output) {
    row(change.key, format_args!("{} -> {}", change.old, change.new), output);
}

/// Prints calls that differ only in their kind, with an example of each kind.
fn print_calls(of_kinds: &[(&Calls, &Example)], output: &mut Output) {
    let [(calls, _), ..] = of_kinds else { return };
    row("callers", shortened(&calls.callers), output);
    for claim in &calls.claims {
        row("claim", claim, output);
    }
    for claims in calls.without_claims.iter().take(MAX_GLOBS) {
        row("not with", claims.join(" and "), output);
    }
    if calls.without_claims.len() > MAX_GLOBS {
        let more = calls.without_claims.len() - MAX_GLOBS;
        row("not with", format_args!("{more} more combinations; --format json lists all"), output);
    }
    let kinds: Vec<String> = of_kinds.iter().map(|(calls, _)| calls.kind.to_string()).collect();
    row(if kinds.len() == 1 { "method" } else { "methods" }, kinds.join(", "), output);
    if let Some(issuers) = &calls.issuers {
        row("issued by", shortened(issuers), output);
    }
    row("users", shortened(&calls.users), output);
    let clients = calls.api_clients.as_ref();
    row("API client", clients.map_or_else(|| "all".to_owned(), |names| names.join(", ")), output);
    for (calls, example) in of_kinds {
        let Example { caller, user, api_client, claims, issued_by: _ } = example;
        let arguments = explain_command::arguments(
            caller,
            example.token_use(calls.kind),
            user.as_deref(),
            api_client.as_deref(),
            claims,
        );
        row("example", arguments, output);
    }
}

fn row(name: &str, value: impl std::fmt::Display, output: &mut Output) {
    output.line(format_args!("    {name:<13} {}", Printable(value)));
}

/// Returns a set of names with at most [`MAX_GLOBS`] of each list.
fn shortened(names: &Names) -> String {
    let list = |globs: &[Arc<str>]| -> Arc<[Arc<str>]> {
        let mut list: Vec<Arc<str>> = globs.iter().take(MAX_GLOBS).cloned().collect();
        if globs.len() > MAX_GLOBS {
            list.push(format!("{} more", globs.len() - MAX_GLOBS).into());
        }
        list.into()
    };
    let and = names.and.iter().map(|globs| list(globs)).collect();
    Names { any_of: list(&names.any_of), and, except: list(&names.except) }.to_string()
}
