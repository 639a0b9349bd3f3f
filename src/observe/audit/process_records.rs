//! Records that a process writes about itself: its start, its stop, and changes of its policy.

use std::{sync::Arc, time::Duration};

use super::{Audit, AuditUnavailable, line::Line, record};
use crate::{base::clock, observe::telemetry::metrics::AuditClass};

/// Fingerprints of the settings that a process starts with, for its record `started`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fingerprints {
    /// Of the configuration in effect, without secrets. `None` if it was not read from a file.
    pub configuration: Option<String>,
    /// Of the access rules in force.
    pub rules: Option<String>,
    /// Of the candidate rules. `None` if there are none.
    pub candidate_rules: Option<String>,
}

/// Why a process stops.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StopCause {
    /// The name of the signal that it received.
    Signal(&'static str),
    /// The name of the thread that has died.
    ThreadLost(Arc<str>),
    /// The reader of the records on standard output is gone.
    AuditClosed,
    /// A part of the gateway could not be started.
    StartFailed,
    /// Everything that it was started for is done.
    Finished,
}

impl StopCause {
    /// Returns the name in records.
    pub(super) const fn as_str(&self) -> &'static str {
        match self {
            Self::Signal(_) => "signal",
            Self::ThreadLost(_) => "thread_lost",
            Self::AuditClosed => "audit_closed",
            Self::StartFailed => "start_failed",
            Self::Finished => "finished",
        }
    }

    /// Returns the name of the signal or thread.
    pub(super) fn detail(&self) -> Option<&str> {
        match self {
            Self::Signal(name) => Some(name),
            Self::ThreadLost(name) => Some(name),
            Self::AuditClosed | Self::StartFailed | Self::Finished => None,
        }
    }
}

/// A change of the access rules, the candidate rules, the bearer tokens or another setting of the
/// policy by a reload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RulesChange {
    /// Fingerprint of the rules that were in force.
    pub old_rules: String,
    /// Fingerprint of the rules that are in force now.
    pub new_rules: String,
    /// Fingerprint of the candidate rules until now. `None` if there were none.
    pub old_candidate_rules: Option<String>,
    /// Fingerprint of the candidate rules from now on. `None` if there are none.
    pub new_candidate_rules: Option<String>,
    /// The changed bearer tokens.
    pub tokens: TokenChanges,
    /// What the change does, in short.
    pub summary: RulesSummary,
}

/// Changed bearer tokens, by their names. Neither tokens nor their hashes are recorded.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct TokenChanges {
    /// Names that did not exist before.
    pub added: BoundedNames,
    /// Names that do not exist any more.
    pub removed: BoundedNames,
    /// Names with another token than before.
    pub replaced: BoundedNames,
}

/// Names, of which only the first ones are kept, because records are bounded.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct BoundedNames {
    /// Number of names.
    count: usize,
    /// The first of them.
    names: Vec<String>,
}

impl BoundedNames {
    /// Maximum number of names that are kept.
    pub const MAX: usize = 10;
}

impl FromIterator<Arc<str>> for BoundedNames {
    fn from_iter<I: IntoIterator<Item = Arc<str>>>(names: I) -> Self {
        let mut kept = Self::default();
        for name in names {
            kept.count += 1;
            if kept.names.len() < Self::MAX {
                kept.names.push(name.to_string());
            }
        }
        kept
    }
}

/// Summary of a change of the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct RulesSummary {
    /// Number of rules before the change.
    pub rules_before: usize,
    /// Number of rules after the change.
    pub rules_after: usize,
    /// Number of candidate rules before the change.
    pub candidate_rules_before: usize,
    /// Number of candidate rules after the change.
    pub candidate_rules_after: usize,
    /// Number of bearer tokens before the change, by their names.
    pub tokens_before: usize,
    /// Number of bearer tokens after the change, by their names.
    pub tokens_after: usize,
    /// The calls that the change affects.
    #[serde(flatten)]
    pub differences: RulesDifferences,
}

/// The calls that a change of the rules affects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(untagged)]
pub enum RulesDifferences {
    /// Numbers of differences, as `compare-rules` lists them.
    Counted {
        /// Number of kinds of calls that only the new rules allow.
        opened: usize,
        /// Number of kinds of calls that only the old rules allow.
        closed: usize,
        /// Number of kinds of calls that both allow with different quotas.
        quotas_changed: usize,
        /// Number of changed settings of all rules.
        settings_changed: usize,
    },
    /// The rules were not compared.
    NotCounted {
        /// The reason.
        not_compared: NotCompared,
    },
}

/// Reason that rules were not compared at a reload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum NotCompared {
    /// The rules combine in too many ways.
    TooComplex,
    /// The comparison did not finish in time.
    NotFinished,
}

#[cfg(test)]
impl RulesChange {
    /// A change of the rules only, with these fingerprints.
    pub(crate) fn for_test(old_rules: &str, new_rules: &str) -> Self {
        Self {
            old_rules: old_rules.to_owned(),
            new_rules: new_rules.to_owned(),
            old_candidate_rules: None,
            new_candidate_rules: None,
            tokens: TokenChanges::default(),
            summary: RulesSummary {
                rules_before: 1,
                rules_after: 2,
                candidate_rules_before: 0,
                candidate_rules_after: 0,
                tokens_before: 0,
                tokens_after: 0,
                differences: RulesDifferences::NONE,
            },
        }
    }
}

impl RulesDifferences {
    /// The differences between equal rules.
    pub const NONE: Self = Self::Counted { opened: 0, closed: 0, quotas_changed: 0, settings_changed: 0 };
}

impl NotCompared {
    /// Returns the label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::TooComplex => "too_complex",
            Self::NotFinished => "not_finished",
        }
    }
}

impl Audit {
    /// Writes the record of a change of the rules or tokens. Called before it takes effect: calls
    /// that the new rules decide have later numbers. Does not wait; the line is written as soon as the sink
    /// allows.
    pub fn rules_changed(&self, change: &RulesChange) {
        if let Some(started) = &self.0 {
            let text = record::of_rules_change(change, started.writer.next_number(), started.clock.now());
            // A line that is not accepted makes the sink unavailable, which reports it.
            let _ = started.submit(Line::unawaited(text, AuditClass::Allowed));
        }
    }

    /// Writes all records so far and then the last record of the process, at most for `limit`
    /// ([`FLUSH_LIMIT`](super::FLUSH_LIMIT) is enough for a sink that works). Nothing may be recorded
    /// afterwards.
    ///
    /// # Errors
    ///
    /// Records could not be written in time. The last one is then missing, which shows that others
    /// may be.
    pub async fn stop(&self, cause: &StopCause, limit: Duration) -> Result<(), AuditUnavailable> {
        let Some(started) = &self.0 else { return Ok(()) };
        let until = clock::now() + limit;
        self.flush(limit).await?;
        // Numbered after the flush, in which the writer may add a line about lost records.
        let text = record::of_stop(cause, started.writer.next_number(), started.clock.now());
        started.submit(Line::unawaited(text, AuditClass::Allowed)).map_err(|_| AuditUnavailable)?;
        self.flush(until.saturating_duration_since(clock::now())).await
    }
}
