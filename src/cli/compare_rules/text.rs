//! The report of `compare-rules` for people.

use super::super::output::{Output, Style};
use crate::{
    base::text::Printable,
    domain::call::Method,
    rule_comparison::{Calls, Change, Comparison, Example, File, Names, Opening},
};

/// Maximum number of globs that are printed of one list.
const MAX_GLOBS: usize = 8;

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
        print_calls(&change.calls, &change.example, output);
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

fn heading(text: &str, number: usize, output: &mut Output) {
    let text = output.paint(Style::Name, text);
    if number == 0 {
        output.line(format_args!("{text}: none"));
    } else {
        output.line(format_args!("{text}: {number}"));
    }
}

fn print_openings(text: &str, openings: &[Opening], output: &mut Output) {
    heading(text, openings.len(), output);
    for opening in openings {
        output.line(format_args!("  by {}", Printable(&opening.rule)));
        print_calls(&opening.calls, &opening.example, output);
    }
}

fn print_change(change: &Change, output: &mut Output) {
    row(change.key, format_args!("{} -> {}", change.old, change.new), output);
}

fn print_calls(calls: &Calls, example: &Example, output: &mut Output) {
    row("callers", shortened(&calls.callers), output);
    for claim in &calls.claims {
        row("claim", claim, output);
    }
    for claims in &calls.without_claims {
        row("not with", claims.join(" and "), output);
    }
    row("method", calls.method.name(), output);
    row("users", shortened(&calls.users), output);
    let clients = calls.api_clients.as_ref();
    row("API client", clients.map_or_else(|| "all".to_owned(), |names| names.join(", ")), output);
    let user = example.user.as_deref().unwrap_or("-");
    let mut call = match calls.method {
        Method::IssueOtt => format!("{} {} {user}", example.caller, calls.method.name()),
        Method::LoginWithOtt => format!("{} {} -", example.caller, calls.method.name()),
    };
    if let Some(name) = &example.api_client {
        call.push_str(" --api-client ");
        call.push_str(name);
    }
    if let Some(account) = example.user.as_ref().filter(|_| calls.method == Method::LoginWithOtt) {
        call.push_str(", account ");
        call.push_str(account);
    }
    for (path, value) in example.claims.iter() {
        call.extend([", claim ", path.as_str(), " = ", &value.to_string()]);
    }
    row("example", call, output);
}

fn row(name: &str, value: impl std::fmt::Display, output: &mut Output) {
    output.line(format_args!("    {name:<13} {}", Printable(value)));
}

/// Returns a set of names with at most [`MAX_GLOBS`] of each list.
fn shortened(names: &Names) -> String {
    let list = |globs: &[String]| -> Vec<String> {
        let mut list: Vec<String> = globs.iter().take(MAX_GLOBS).cloned().collect();
        if globs.len() > MAX_GLOBS {
            list.push(format!("{} more", globs.len() - MAX_GLOBS));
        }
        list
    };
    let and = names.and.iter().map(|globs| list(globs)).collect();
    Names { any_of: list(&names.any_of), and, except: list(&names.except) }.to_string()
}
