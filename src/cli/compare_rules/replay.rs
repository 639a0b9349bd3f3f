//! `compare-rules --audit`: replays the calls of audit files under the old and the new rules.
//!
//! `access` decides and counts; this module reads the files. A record that cannot be replayed is
//! counted by the reason. `rules_in_force` finds the rules that decided a call.

mod rules_in_force;

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use serde_json::Value;

use self::rules_in_force::{RulesFingerprint, RulesInForce};
use super::super::{
    audit::{
        files,
        intervals::{Added, Intervals},
    },
    failure::Failure,
    output::Output,
};
use crate::{
    access::{
        DecidedBy, KnownClaims, KnownIssuer, KnownUser, NamedRules, RecordedCall, RecordedDecision,
        RecordedIssuer, Replay,
    },
    caller::{ClaimPath, ClaimValue, Claims},
    domain::{call::Method, ott::Subject, reason::Reason},
    observe::audit::reader::{
        CallEntry, Content, Event, Item, ProcessId, Record, RecordNumber,
        RecordedDecision as DecisionInForce, Records, Source, UserSpelling,
    },
};

/// Maximum number of intervals of record numbers that are remembered, to find repeated records.
/// Beyond that, which needs files with as many gaps or processes, a repeated record counts twice.
const MAX_INTERVALS: usize = 1_000_000;

/// The result of replaying audit files.
#[derive(Debug)]
pub(super) struct AuditReplay {
    /// The replayed calls.
    pub(super) calls: Replay,
    /// The calls and records that are not replayed.
    pub(super) skipped: Skipped,
    old_fingerprint: Option<RulesFingerprint>,
    rules_in_force: RulesInForce,
    seen: SeenNumbers,
}

/// The numbers of the records read so far, by process.
#[derive(Debug, Default)]
struct SeenNumbers {
    by_process: HashMap<ProcessId, Intervals>,
    intervals: usize,
}

impl SeenNumbers {
    /// Adds a number. Returns whether it was added before.
    fn is_repeated(&mut self, number: RecordNumber) -> bool {
        let has_room = self.intervals < MAX_INTERVALS;
        if !has_room && !self.by_process.contains_key(&number.process) {
            return false;
        }
        let process = self.by_process.entry(number.process).or_default();
        let before = process.count();
        let added = process.add(number.sequence, has_room);
        self.intervals = self.intervals + process.count() - before;
        added == Added::Known
    }
}

/// Numbers of calls and records that are not replayed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Skipped {
    /// Calls that failed for another reason than the rules, or before the rules had decided.
    pub(super) not_decided: u64,
    /// Calls over a quota.
    pub(super) over_quota: u64,
    /// Refused calls without a record of their own.
    pub(super) summarized: u64,
    /// Calls whose record was lost.
    pub(super) lost: u64,
    /// Late records: the caller received no response, or an earlier record of the call counts.
    pub(super) late: u64,
    /// Records that occur again, for example in a copy of a file.
    pub(super) repeated: u64,
    /// Records that are not calls.
    pub(super) other_records: u64,
    /// Lines that are not whole records.
    pub(super) not_records: u64,
}

impl AuditReplay {
    /// Reads audit files, and replays their calls. `old_fingerprint` is the fingerprint of the old
    /// rules, and `command` the beginning of a command that reads files, for advice.
    ///
    /// # Errors
    ///
    /// A file cannot be read.
    pub(super) fn of(
        audit_files: &[PathBuf],
        old_fingerprint: &str,
        [old, new]: [&NamedRules<'_>; 2],
        command: &str,
        output: &mut Output,
    ) -> Result<Self, Failure> {
        let mut replay = Self {
            calls: Replay::default(),
            skipped: Skipped::default(),
            old_fingerprint: RulesFingerprint::parse(old_fingerprint),
            rules_in_force: RulesInForce::default(),
            seen: SeenNumbers::default(),
        };
        let mut read =
            |file: &Path, select: fn(Records<Source>) -> Records<Source>, act: &mut dyn FnMut(Item)| {
                let mut records = select(files::open(file, command, output)?);
                let unreadable = |error: std::io::Error| files::unreadable(file, &error.into(), command);
                while let Some(item) = records.next_item().map_err(unreadable)? {
                    act(item);
                }
                Ok::<_, Failure>(())
            };
        // Standard input and pipes can be read only once. They come first, because the rules in other
        // files are known by then.
        let (twice, once): (Vec<_>, Vec<_>) = audit_files.iter().partition(|file| is_regular(file));
        for file in &twice {
            read(file, Records::only_of_rules, &mut |item| {
                if let Content::Record(record) = item.content {
                    replay.rules_in_force.add(&record);
                }
            })?;
        }
        for file in once.into_iter().chain(twice) {
            read(file, |records| records, &mut |item| match item.content {
                Content::Record(record) => replay.add(&record, old, new),
                Content::Torn | Content::Foreign | Content::TooLong | Content::Nuls => {
                    replay.skipped.not_records += 1;
                }
            })?;
        }
        Ok(replay)
    }

    /// Adds a record.
    fn add(&mut self, record: &Record, old: &NamedRules<'_>, new: &NamedRules<'_>) {
        self.rules_in_force.add(record);
        let skipped = &mut self.skipped;
        if record.late && matches!(record.event, Event::Call(_)) {
            return skipped.late += 1;
        }
        if record.number.is_some_and(|number| self.seen.is_repeated(number)) {
            return skipped.repeated += 1;
        }
        let call = match &record.event {
            Event::Call(call) => call,
            Event::RefusedCalls { count, .. } => {
                return skipped.summarized = skipped.summarized.saturating_add(*count);
            }
            Event::RecordsLost { count, .. } => return skipped.lost = skipped.lost.saturating_add(*count),
            _ => return skipped.other_records += 1,
        };
        let decision = match decision(call) {
            Ok(decision) => decision,
            Err(Undecided::OverQuota) => return skipped.over_quota += 1,
            Err(Undecided::OtherReason) => return skipped.not_decided += 1,
        };
        let (Some(caller), Some(method), Ok(user)) = (&call.caller, call.method(), user(call)) else {
            return skipped.not_decided += 1;
        };
        let claims = claims(call);
        let recorded = RecordedCall {
            caller,
            issuer: issuer(call),
            claims: if has_jwt(call) { KnownClaims::AtLeast(&claims) } else { KnownClaims::All(&claims) },
            method,
            api_client: call.api_client.as_deref(),
            login_url: login_url(call),
            token_issuer: token_issuer(call),
            user: known_user(user.as_ref(), call.user_spelling),
            decision,
            decided_by: self.decided_by(record, call),
            request_id: call.request_id.as_deref().unwrap_or_default(),
        };
        self.calls.add(old, new, &recorded);
    }

    fn decided_by(&self, record: &Record, call: &CallEntry) -> DecidedBy {
        let arrived = record.time.checked_sub(call.duration.unwrap_or_default()).unwrap_or(record.time);
        match record.number.and_then(|number| self.rules_in_force.at(number, arrived)) {
            None => DecidedBy::NotRecorded,
            rules if rules == self.old_fingerprint => DecidedBy::OldRules,
            Some(_) => DecidedBy::OtherRules,
        }
    }
}

/// Returns whether a file can be read twice. One that does not exist is reported when it is read.
fn is_regular(file: &Path) -> bool {
    !files::is_standard_input(file) && file.metadata().is_ok_and(|metadata| metadata.is_file())
}

/// Reason that the rules did not decide a call.
enum Undecided {
    OverQuota,
    OtherReason,
}

/// Returns the final decision of the rules that were in force. A login with a token that is not sealed
/// is only decided once the platform has returned the account.
fn decision(call: &CallEntry) -> Result<RecordedDecision, Undecided> {
    // A request with invalid values fails under all rules, and so does one with a refused token.
    if call.unvalidated.is_some() || call.token_refused.is_some() {
        return Err(Undecided::OtherReason);
    }
    match call.decision() {
        DecisionInForce::Denied => Ok(RecordedDecision::Denied),
        DecisionInForce::OverQuota => Err(Undecided::OverQuota),
        DecisionInForce::Allowed
            if call.method() != Some(Method::LoginWithOtt)
                || call.issued_by.is_some()
                || call.code.as_deref() == Some("OK") =>
        {
            Ok(RecordedDecision::Allowed)
        }
        DecisionInForce::Allowed | DecisionInForce::NotDecided => Err(Undecided::OtherReason),
    }
}

/// Returns the user, if it is recorded. The error is a name that is not valid.
fn user(call: &CallEntry) -> Result<Option<Subject>, ()> {
    let Some(user) = &call.user else { return Ok(None) };
    let kind = user.subject_kind().ok_or(())?;
    Subject::new(kind, user.value.clone()).map(Some).map_err(|_| ())
}

/// Returns what is known of the user, as rules match it.
fn known_user(user: Option<&Subject>, spelling: UserSpelling) -> KnownUser<'_> {
    match (user, spelling) {
        (None, _) => KnownUser::Unknown,
        (Some(_), UserSpelling::AsciiForms) => KnownUser::Unlisted,
        (Some(user), UserSpelling::NotRecorded) if user.has_spellings_without_form() => {
            KnownUser::Canonical(user)
        }
        (Some(user), UserSpelling::Plain | UserSpelling::NotRecorded) => KnownUser::Named(user),
    }
}

/// Returns whether a login URL was requested. The records of this version omit it if none was; those
/// of older ones, and of calls whose message did not arrive, always do.
fn login_url(call: &CallEntry) -> Option<bool> {
    let is_written = call.user.is_some() && call.user_spelling != UserSpelling::NotRecorded;
    call.login_url.or_else(|| is_written.then_some(false))
}

/// Returns the caller that the token of a login was issued to. Every record of a sealed token that was
/// opened contains it; older versions, which do not record spellings, sealed no tokens. Nothing is
/// known about the token if the call may have been refused before its message was read.
fn token_issuer(call: &CallEntry) -> KnownIssuer<'_> {
    let is_read = call.reason.as_deref() != Some(Reason::CallerNotAllowed.as_str());
    match &call.issued_by {
        Some(name) => KnownIssuer::Named(name),
        None if is_read || call.user_spelling == UserSpelling::NotRecorded => KnownIssuer::NotSealed,
        None => KnownIssuer::Unknown,
    }
}

/// Returns the issuer of the caller's JWT.
fn issuer(call: &CallEntry) -> RecordedIssuer<'_> {
    match call.caller_proof.as_deref() {
        Some("jwt") => RecordedIssuer::Unnamed,
        Some(proof) => proof.strip_prefix("jwt:").map_or(RecordedIssuer::None, RecordedIssuer::Named),
        None => RecordedIssuer::None,
    }
}

/// Returns whether the caller may have had claims that are not recorded.
fn has_jwt(call: &CallEntry) -> bool {
    let proof = call.caller_proof.as_deref();
    proof.is_none_or(|proof| proof == "jwt" || proof.starts_with("jwt:"))
}

/// Returns the recorded claims, which are those that the deciding rule required.
fn claims(call: &CallEntry) -> Claims {
    let Some(Value::Object(members)) = &call.claims else { return Claims::none() };
    let claim = |(path, value): (&String, &Value)| {
        let value = match value {
            Value::String(text) => ClaimValue::Text(text.as_str().into()),
            Value::Bool(flag) => ClaimValue::Boolean(*flag),
            Value::Number(number) => ClaimValue::Integer(number.as_i64()?),
            Value::Null | Value::Array(_) | Value::Object(_) => return None,
        };
        Some((ClaimPath::new(path).ok()?, value))
    };
    Claims::new(members.iter().filter_map(claim).collect())
}

#[cfg(test)]
mod tests;
