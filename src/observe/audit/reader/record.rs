//! One line as a typed record.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use serde::Deserialize;
use serde_json::{Deserializer, Value};

use super::call::{CallEntry, User, UserSpelling};
use crate::observe::audit::numbering::PROCESS_LENGTH;

/// The identity of a process, random for each start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProcessId(u64);

/// The number of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordNumber {
    /// The process that wrote it.
    pub process: ProcessId,
    /// Its number in this process, from 1.
    pub sequence: u64,
}

/// A record.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// The event, with its fields.
    pub event: Event,
    /// When it was made.
    pub time: SystemTime,
    /// Its number. `None` if it was written by a version without numbers.
    pub number: Option<RecordNumber>,
    /// Whether it corrects an earlier line, or was written late.
    pub late: bool,
    /// The version of the gateway.
    pub gateway_version: String,
    /// The record as it was written: a JSON object.
    pub text: String,
}

/// The event of a record. Fields that it does not contain are `None`.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// `call`.
    Call(CallEntry),
    /// `refused_calls`: calls without a record of their own.
    RefusedCalls {
        /// Number of calls.
        count: u64,
        /// Some of their callers.
        callers: Vec<String>,
        /// Some of their users.
        users: Vec<User>,
    },
    /// `undelivered_session`.
    UndeliveredSession(CallEntry),
    /// `records_lost`.
    RecordsLost {
        /// `allowed` or `refused`.
        class: Option<String>,
        /// Number of calls.
        count: u64,
        /// Number of records, each with a number of its own. 0 in records of old versions.
        records: u64,
    },
    /// `sink_probe`.
    SinkProbe,
    /// `started`: the first record of a process.
    Started {
        /// The name of the machine or pod.
        host: Option<String>,
        /// Fingerprint of the configuration.
        configuration: Option<String>,
        /// Fingerprint of the rules.
        rules: Option<String>,
        /// Fingerprint of the candidate rules.
        candidate_rules: Option<String>,
    },
    /// `stopped`: the last record of a process.
    Stopped {
        /// The kind of cause.
        cause: Option<String>,
        /// The name of the signal or thread.
        detail: Option<String>,
    },
    /// `rules_changed`.
    RulesChanged(Box<ChangeEntry>),
    /// An event of another version.
    Other(String),
}

/// A change of the rules, the candidate rules, the bearer tokens or other settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangeEntry {
    /// Fingerprint of the rules before.
    pub old_rules: Option<String>,
    /// Fingerprint of the rules after.
    pub new_rules: Option<String>,
    /// Fingerprint of the candidate rules before.
    pub old_candidate_rules: Option<String>,
    /// Fingerprint of the candidate rules after.
    pub new_candidate_rules: Option<String>,
    /// The changed bearer tokens.
    pub tokens: TokenCounts,
}

/// Numbers of changed bearer tokens. 0 in records of older versions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct TokenCounts {
    /// Names that did not exist before.
    pub added: NameCount,
    /// Names that do not exist any more.
    pub removed: NameCount,
    /// Names with another token than before.
    pub replaced: NameCount,
}

/// A number of names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct NameCount {
    /// The number.
    pub count: u64,
}

impl ChangeEntry {
    /// Returns whether the rules in force changed, as far as the record contains it.
    #[must_use]
    pub fn changes_rules(&self) -> bool {
        self.old_rules.is_none() || self.old_rules != self.new_rules
    }

    /// Returns whether the candidate rules changed.
    #[must_use]
    pub fn changes_candidate_rules(&self) -> bool {
        self.old_candidate_rules != self.new_candidate_rules
    }

    /// Returns whether bearer tokens changed.
    #[must_use]
    pub fn changes_tokens(&self) -> bool {
        self.tokens != TokenCounts::default()
    }
}

/// The members of all records.
#[derive(Deserialize)]
struct Members {
    event: String,
    time: String,
    gateway_version: String,
    process: Option<String>,
    sequence: Option<u64>,
    #[serde(default)]
    late: bool,
    request_id: Option<String>,
    peer: Option<String>,
    caller: Option<String>,
    caller_proof: Option<String>,
    claims: Option<Value>,
    method: Option<String>,
    user: Option<User>,
    #[serde(default)]
    user_spelling: UserSpelling,
    api_client: Option<String>,
    login_url: Option<bool>,
    unvalidated: Option<String>,
    code: Option<String>,
    reason: Option<String>,
    outcome: Option<String>,
    attempts: Option<u64>,
    duration_ms: Option<f64>,
    ott_fingerprint: Option<String>,
    issued_by: Option<String>,
    token_refused: Option<String>,
    #[serde(default)]
    count: u64,
    #[serde(default)]
    records: u64,
    #[serde(default)]
    callers: Vec<String>,
    #[serde(default)]
    users: Vec<User>,
    class: Option<String>,
    cause: Option<String>,
    detail: Option<String>,
    host: Option<String>,
    configuration: Option<String>,
    rules: Option<String>,
    candidate_rules: Option<String>,
    old_rules: Option<String>,
    new_rules: Option<String>,
    old_candidate_rules: Option<String>,
    new_candidate_rules: Option<String>,
    #[serde(default)]
    tokens: TokenCounts,
}

impl ProcessId {
    /// Parses 16 hexadecimal digits in lower case.
    fn parse(text: &str) -> Option<Self> {
        let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        let is_valid = text.len() == PROCESS_LENGTH && text.bytes().all(is_digit);
        if is_valid { u64::from_str_radix(text, 16).ok().map(Self) } else { None }
    }
}

impl fmt::Display for ProcessId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl Record {
    /// Parses a whole line. `None` if it is not a record.
    pub(super) fn parse(line: &[u8]) -> Option<Self> {
        let members = serde_json::from_slice(line).ok()?;
        Self::new(members, line)
    }

    /// Parses a record at the beginning of a text. Also returns its length.
    pub(super) fn parse_first(text: &[u8]) -> Option<(Self, usize)> {
        let mut values = Deserializer::from_slice(text).into_iter::<Members>();
        let members = values.next()?.ok()?;
        let length = values.byte_offset();
        Some((Self::new(members, text.get(..length)?)?, length))
    }

    fn new(members: Members, text: &[u8]) -> Option<Self> {
        let time = humantime::parse_rfc3339(&members.time).ok()?;
        let process = members.process.as_deref().and_then(ProcessId::parse);
        let number = process
            .zip(members.sequence.filter(|sequence| *sequence > 0))
            .map(|(process, sequence)| RecordNumber { process, sequence });
        let late = members.late;
        let gateway_version = members.gateway_version.clone();
        let text = String::from_utf8(text.to_vec()).ok()?;
        Some(Self { event: Event::new(members), time, number, late, gateway_version, text })
    }
}

impl Event {
    fn new(members: Members) -> Self {
        let Members { count, records, callers, users, class, cause, detail, .. } = &members;
        match members.event.as_str() {
            "call" => Self::Call(members.into_call()),
            "undelivered_session" => Self::UndeliveredSession(members.into_call()),
            "refused_calls" => {
                Self::RefusedCalls { count: *count, callers: callers.clone(), users: users.clone() }
            }
            "records_lost" => Self::RecordsLost { class: class.clone(), count: *count, records: *records },
            "sink_probe" => Self::SinkProbe,
            "started" => Self::Started {
                host: members.host,
                configuration: members.configuration,
                rules: members.rules,
                candidate_rules: members.candidate_rules,
            },
            "stopped" => Self::Stopped { cause: cause.clone(), detail: detail.clone() },
            "rules_changed" => Self::RulesChanged(Box::new(ChangeEntry {
                old_rules: members.old_rules,
                new_rules: members.new_rules,
                old_candidate_rules: members.old_candidate_rules,
                new_candidate_rules: members.new_candidate_rules,
                tokens: members.tokens,
            })),
            _ => Self::Other(members.event),
        }
    }

    /// Returns the name of the event.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Call(_) => "call",
            Self::RefusedCalls { .. } => "refused_calls",
            Self::UndeliveredSession(_) => "undelivered_session",
            Self::RecordsLost { .. } => "records_lost",
            Self::SinkProbe => "sink_probe",
            Self::Started { .. } => "started",
            Self::Stopped { .. } => "stopped",
            Self::RulesChanged(_) => "rules_changed",
            Self::Other(name) => name,
        }
    }
}

fn milliseconds(number: f64) -> Option<Duration> {
    Duration::try_from_secs_f64(number / 1000.0).ok()
}

impl Members {
    fn into_call(self) -> CallEntry {
        let mut call = CallEntry {
            request_id: self.request_id,
            peer: self.peer,
            caller: self.caller,
            caller_proof: self.caller_proof,
            claims: self.claims,
            method: self.method,
            user: self.user,
            user_spelling: self.user_spelling,
            api_client: self.api_client,
            login_url: self.login_url,
            unvalidated: self.unvalidated,
            code: self.code,
            reason: self.reason,
            outcome: self.outcome,
            attempts: self.attempts,
            duration: self.duration_ms.and_then(milliseconds),
            ott_fingerprint: self.ott_fingerprint,
            issued_by: self.issued_by,
            token_refused: self.token_refused,
        };
        let is_unvalidated = call.is_unvalidated("user");
        if let Some(user) = &mut call.user {
            user.unvalidated |= is_unvalidated;
        }
        call
    }
}
