//! Formats audit lines as JSON.
//!
//! Unprintable characters are escaped, so that no data of a caller can end a line or forge another
//! one.

mod object;
mod process;
mod refused_calls;

pub use self::refused_calls::RefusedCalls;
pub(super) use self::{
    process::{of_rules_change, of_start, of_stop},
    refused_calls::of_refused_calls,
};

use std::{net::IpAddr, time::SystemTime};

use serde::Serialize;
use serde_json::ser::Serializer;

use self::object::{Object, name};
use super::{numbering::Number, places::Lost, probe::ProbeCause};
use crate::{
    base::{clock, text::PrintableJson},
    domain::{
        call::{Call, Certainty, Ending, Method, UnvalidatedText},
        reason::Reason,
    },
    observe::telemetry::{
        metrics::{AuditClass, Logout},
        names,
    },
};

/// Length of the record of a call without the names in it, in bytes. A longer record costs another
/// allocation.
const CALL_BYTES: usize = 576;

#[derive(Serialize)]
struct User<'a> {
    kind: &'static str,
    value: &'a str,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    unvalidated: bool,
}

/// Any record but that of a call.
#[derive(Serialize)]
struct Record<'a, T> {
    event: &'static str,
    time: String,
    process: &'a str,
    sequence: u64,
    #[serde(flatten)]
    body: &'a T,
    gateway_version: &'static str,
}

/// A session that the platform opened and no caller received.
#[derive(Serialize)]
struct UndeliveredSession<'a> {
    request_id: String,
    peer: Option<IpAddr>,
    caller: Option<&'a str>,
    caller_proof: Option<&'a str>,
    method: Option<&'static str>,
    api_client: Option<&'a str>,
    outcome: &'static str,
    platform_status: Option<u16>,
    ott_fingerprint: Option<&'a str>,
}

#[derive(Serialize)]
struct ProbeRecord {
    cause: &'static str,
}

/// Report of records that could not be kept until the sink was available again.
#[derive(Serialize)]
struct LostRecord {
    class: &'static str,
    count: u64,
    records: u64,
}

/// Returns the record of a call that ends at `now`, without the closing brace: the writer may
/// append the `late` member.
pub(super) fn for_call(call: &Call, ending: Ending, number: Number<'_>, now: SystemTime) -> String {
    let (caller, caller_proof) = call.caller().unzip();
    let api_client = call.api_client();
    let user = user_of(call);
    let unvalidated_api_client = call.unvalidated().and_then(|names| names.api_client.as_ref());
    let unvalidated =
        match (user.as_ref().is_some_and(|user| user.unvalidated), unvalidated_api_client.is_some()) {
            (false, false) => None,
            (true, false) => Some("user"),
            (false, true) => Some("api_client"),
            (true, true) => Some("user,api_client"),
        };
    let microseconds = clock::now().saturating_duration_since(call.arrived()).as_micros();
    let named = [
        caller.map(AsRef::as_ref),
        caller_proof,
        user.as_ref().map(|user| user.value),
        api_client.as_deref(),
        call.fingerprint(),
        call.issued_by(),
    ];
    let length = named.iter().flatten().map(|name| name.len()).sum::<usize>();
    let mut line = Object::of_event("call", CALL_BYTES + length);
    line.time(name!("time"), now);
    line.number_of_record(number);
    line.string(name!("request_id"), call.request_id().as_str());
    line.address(name!("peer"), peer(call));
    line.optional(name!("caller"), caller.map(AsRef::as_ref));
    line.optional(name!("caller_proof"), caller_proof);
    line.json(name!("claims"), call.deciding_claims().as_deref());
    line.optional(name!("method"), call.method().map(Method::name));
    match &user {
        Some(user) => line.object(name!("user"), ("kind", user.kind), ("value", user.value)),
        None => line.null(name!("user")),
    }
    line.optional(name!("user_spelling"), spelling(call));
    let named_api_client = unvalidated_api_client.map(UnvalidatedText::as_str);
    line.optional(name!("api_client"), api_client.as_deref().or(named_api_client));
    line.optional(name!("unvalidated"), unvalidated);
    // Omitted otherwise, so that the records of other calls stay the same.
    if call.login_url() == Some(true) {
        line.mark(name!("login_url"));
    }
    line.string(name!("code"), names::status_name(ending.code()));
    line.optional(name!("reason"), reason(call, ending));
    line.string(name!("outcome"), call.certainty().as_str());
    line.number(name!("attempts"), Some(call.attempts()));
    line.number(name!("platform_status"), call.http_status().map(u32::from));
    line.milliseconds(name!("duration_ms"), u32::try_from(microseconds).unwrap_or(u32::MAX));
    line.optional(name!("ott_fingerprint"), call.fingerprint());
    // Omitted without token binding, which few gateways use.
    if let Some(issued_by) = call.issued_by() {
        line.string(name!("issued_by"), issued_by);
    }
    if let Some(cause) = call.token_refusal() {
        line.string(name!("token_refused"), cause.as_str());
    }
    match call.candidate() {
        Some(decision) => line.object(
            name!("candidate"),
            ("difference", decision.difference.as_str()),
            ("cause", &decision.cause),
        ),
        None => line.null(name!("candidate")),
    }
    line.string(name!("gateway_version"), env!("CARGO_PKG_VERSION"));
    line.finish()
}

/// Returns the user that a call is about, or that its request named.
fn user_of(call: &Call) -> Option<User<'_>> {
    if let Some(subject) = call.subject() {
        return Some(User { kind: subject.field(), value: subject.canonical(), unvalidated: false });
    }
    let (kind, text) = call.unvalidated()?.user.as_ref()?;
    Some(User { kind, value: text.as_str(), unvalidated: true })
}

/// Spelling of a user whose canonical form contains ASCII characters that were sent as forms of them,
/// such as full-width letters. Access rules that list users do not match this user.
pub(super) const ASCII_FORMS: &str = "ascii_forms";

/// Returns what the canonical form of the user does not show: a spelling by which access rules decide
/// differently. `None` for all others.
fn spelling(call: &Call) -> Option<&'static str> {
    call.subject().is_some_and(|subject| subject.form().is_none()).then_some(ASCII_FORMS)
}

/// Returns why the call failed. Cancelled calls have no reason in the API, because no caller
/// receives it; here they are distinguished by whether anything was sent.
fn reason(call: &Call, ending: Ending) -> Option<&'static str> {
    match (ending, call.certainty()) {
        (Ending::Cancelled, Certainty::NotSent) => Some("cancelled_before_send"),
        (Ending::Cancelled, _) => Some("cancelled"),
        (Ending::Succeeded | Ending::Failed(..), _) => ending.reason().map(Reason::as_str),
    }
}

/// Returns the line of a session that no caller received, without the closing brace.
pub(super) fn of_undelivered_session(
    call: &Call,
    logout: Logout,
    status: Option<u16>,
    number: Number<'_>,
    now: SystemTime,
) -> String {
    let (caller, caller_proof) = call.caller().unzip();
    let api_client = call.api_client();
    let body = UndeliveredSession {
        request_id: call.request_id().to_string(),
        peer: peer(call),
        caller: caller.map(AsRef::as_ref),
        caller_proof,
        method: call.method().map(Method::name),
        api_client: api_client.as_deref(),
        outcome: logout.as_str(),
        platform_status: status,
        ott_fingerprint: call.fingerprint(),
    };
    line("undelivered_session", number, now, &body)
}

fn peer(call: &Call) -> Option<IpAddr> {
    call.peer().map(|address| address.ip().to_canonical())
}

/// Returns the line that reports lost records of this class, without the closing brace.
pub(super) fn for_lost(class: AuditClass, lost: Lost, number: Number<'_>, now: SystemTime) -> String {
    let body = LostRecord { class: class.as_str(), count: lost.calls, records: lost.records };
    line("records_lost", number, now, &body)
}

/// Returns the line that probes whether the sink is available, without the closing brace.
pub(super) fn for_probe(cause: ProbeCause, number: Number<'_>, now: SystemTime) -> String {
    line("sink_probe", number, now, &ProbeRecord { cause: cause.as_str() })
}

/// Returns a line with this body, without the closing brace.
fn line(event: &'static str, number: Number<'_>, now: SystemTime, body: &impl Serialize) -> String {
    open_object(&Record {
        event,
        time: rfc_3339(now),
        process: number.process,
        sequence: number.sequence,
        body,
        gateway_version: env!("CARGO_PKG_VERSION"),
    })
}

fn rfc_3339(time: SystemTime) -> String {
    timestamp(time).to_string()
}

fn timestamp(time: SystemTime) -> humantime::Rfc3339Timestamp {
    // A time before 1970 is wrong anyway, and must not prevent the record.
    humantime::format_rfc3339_micros(time.max(SystemTime::UNIX_EPOCH))
}

fn open_object(record: &impl Serialize) -> String {
    let mut line = Vec::with_capacity(512);
    // Only strings and numbers, written to memory: this cannot fail.
    let _ = record.serialize(&mut Serializer::with_formatter(&mut line, PrintableJson));
    line.pop();
    String::from_utf8(line).unwrap_or_default()
}

#[cfg(test)]
mod tests;
