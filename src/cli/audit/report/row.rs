//! Columns of a record.

use super::time;
use crate::observe::audit::reader::{Event, Record, User};

/// The names of the columns.
pub(super) const HEADER: [&str; 7] = ["TIME", "EVENT", "RESULT", "CALLER", "USER", "API CLIENT", "REQUEST"];

/// Returns the row of a record.
pub(super) fn row_of(record: &Record) -> String {
    let text = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    let name_of = |user: &User| format!("{}:{}", user.kind, user.value);
    let at = time(record.time);
    match &record.event {
        Event::Call(call) | Event::UndeliveredSession(call) => {
            let is_call = matches!(record.event, Event::Call(_));
            let event = if is_call { text(&call.method) } else { record.event.name().to_owned() };
            let mut result = if is_call {
                call.reason.clone().unwrap_or_else(|| text(&call.code))
            } else {
                text(&call.outcome)
            };
            if record.late {
                result.push_str(" (late)");
            }
            let user = call.user.as_ref().map_or_else(|| "-".to_owned(), name_of);
            let columns =
                [at, event, result, text(&call.caller), user, text(&call.api_client), text(&call.request_id)];
            row(columns.each_ref().map(String::as_str))
        }
        Event::RefusedCalls { count, callers, users } => {
            let users: Vec<String> = users.iter().map(name_of).collect();
            row([
                &at,
                "refused_calls",
                &format!("{count} calls"),
                &callers.join(","),
                &users.join(","),
                "-",
                "-",
            ])
        }
        Event::Stopped { cause, detail } => {
            let cause =
                [cause, detail].into_iter().filter_map(Option::as_deref).collect::<Vec<_>>().join(" ");
            row([&at, "stopped", &cause, "-", "-", "-", "-"])
        }
        Event::RecordsLost { class, count, .. } => {
            let result = format!("{count} {}", class.as_deref().unwrap_or("-"));
            row([&at, "records_lost", &result, "-", "-", "-", "-"])
        }
        Event::RulesChanged(change) if change.changes_rules() => {
            row([&at, "rules_changed", &text(&change.new_rules), "-", "-", "-", "-"])
        }
        Event::RulesChanged(change) => {
            let changed =
                [(change.changes_candidate_rules(), "candidate rules"), (change.changes_tokens(), "tokens")];
            let changed = changed.iter().filter(|(is_changed, _)| *is_changed).map(|(_, what)| *what);
            let changed: Vec<&str> = changed.collect();
            let what = if changed.is_empty() { "other settings".to_owned() } else { changed.join(", ") };
            row([&at, "rules_changed", &what, "-", "-", "-", "-"])
        }
        other => row([&at, other.name(), "-", "-", "-", "-", "-"]),
    }
}

/// Returns the columns with at least these widths.
pub(super) fn row([time, event, result, caller, user, api_client, request]: [&str; 7]) -> String {
    format!("{time:<27}  {event:<12}  {result:<24}  {caller:<40}  {user:<32}  {api_client:<10}  {request}")
}
