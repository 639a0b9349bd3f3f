//! A recorded call, and how the access rules decided it.

use std::{borrow::Cow, time::Duration};

use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::{
    domain::{call::Method, ott::SubjectKind, reason::Reason},
    observe::audit::record::ASCII_FORMS,
};

/// A call, or the session of a call. Fields that the record does not contain are `None`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CallEntry {
    /// `request_id`.
    pub request_id: Option<String>,
    /// `peer`: an IP address.
    pub peer: Option<String>,
    /// `caller`.
    pub caller: Option<String>,
    /// `caller_proof`.
    pub caller_proof: Option<String>,
    /// `claims`: those of the caller's JWT that the deciding rule required.
    pub claims: Option<Value>,
    /// `method`.
    pub method: Option<String>,
    /// `user`.
    pub user: Option<User>,
    /// `user_spelling`.
    pub user_spelling: UserSpelling,
    /// `api_client`.
    pub api_client: Option<String>,
    /// `login_url`: whether an `IssueOtt` requested a login URL. Written since `user_spelling` is.
    pub login_url: Option<bool>,
    /// `unvalidated`: the fields that contain only the beginning of a value.
    pub unvalidated: Option<String>,
    /// `code`.
    pub code: Option<String>,
    /// `reason`.
    pub reason: Option<String>,
    /// `outcome`.
    pub outcome: Option<String>,
    /// `attempts`.
    pub attempts: Option<u64>,
    /// `duration_ms`: from the arrival of the call to its record.
    pub duration: Option<Duration>,
    /// `ott_fingerprint`.
    pub ott_fingerprint: Option<String>,
    /// `issued_by`: the caller that the sealed token of a `LoginWithOtt` was issued to.
    pub issued_by: Option<String>,
    /// `token_refused`: why the gateway refused the token of a `LoginWithOtt` itself.
    pub token_refused: Option<String>,
}

/// A user.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct User {
    /// `login`, `external_id` or `user_id`.
    pub kind: String,
    /// The name in canonical form, unless it is not valid.
    pub value: String,
    /// Whether it is the beginning of a text that is not a valid user.
    #[serde(default)]
    pub unvalidated: bool,
}

/// What a record contains of the spelling of its user, whose name it contains in canonical form.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UserSpelling {
    /// Nothing: another version wrote the record.
    #[default]
    NotRecorded,
    /// Lists of users match it like the canonical form.
    Plain,
    /// No list of users matches it, because it has characters such as full-width letters.
    AsciiForms,
}

impl<'de> Deserialize<'de> for UserSpelling {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(match Option::<Cow<'_, str>>::deserialize(deserializer)?.as_deref() {
            None => Self::Plain,
            Some(ASCII_FORMS) => Self::AsciiForms,
            // The effect on lists is not known.
            Some(_) => Self::NotRecorded,
        })
    }
}

/// How the access rules in force decided a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordedDecision {
    /// A rule allowed it.
    Allowed,
    /// A rule allowed it, but its quota was used up.
    OverQuota,
    /// No rule allowed it.
    Denied,
    /// The record does not contain the decision: the call ended for another reason, perhaps before
    /// the rules were asked.
    NotDecided,
}

impl CallEntry {
    /// Returns the method.
    #[must_use]
    pub fn method(&self) -> Option<Method> {
        let name = self.method.as_deref()?;
        [Method::IssueOtt, Method::LoginWithOtt].into_iter().find(|method| method.name() == name)
    }

    /// Returns how the rules decided.
    #[must_use]
    pub fn decision(&self) -> RecordedDecision {
        let reason = self.reason.as_deref();
        let is = |known: Reason| reason == Some(known.as_str());
        if is(Reason::CallerNotAllowed) || is(Reason::AccountNotAllowed) {
            RecordedDecision::Denied
        } else if is(Reason::CallerQuotaExceeded) {
            RecordedDecision::OverQuota
        } else if self.was_sent() {
            RecordedDecision::Allowed
        } else {
            RecordedDecision::NotDecided
        }
    }

    /// Returns whether the platform may have received a request of the call.
    #[must_use]
    pub fn was_sent(&self) -> bool {
        let is_sent = |outcome: &str| matches!(outcome, "refused" | "unknown" | "done");
        self.outcome.as_deref().is_some_and(is_sent) || self.attempts.is_some_and(|attempts| attempts > 0)
    }

    /// Returns whether a field contains only the beginning of a value that is not valid.
    #[must_use]
    pub fn is_unvalidated(&self, field: &str) -> bool {
        self.unvalidated.as_deref().is_some_and(|fields| fields.split(',').any(|it| it == field))
    }
}

impl User {
    /// Returns the kind of the name. `None` for an unknown one.
    #[must_use]
    pub fn subject_kind(&self) -> Option<SubjectKind> {
        let kinds = [SubjectKind::Login, SubjectKind::ExternalId, SubjectKind::UserId];
        kinds.into_iter().find(|kind| kind.field() == self.kind)
    }
}
