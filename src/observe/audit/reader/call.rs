//! A recorded call, and how the access rules decided it.

use serde::Deserialize;
use serde_json::Value;

use crate::domain::{call::Method, ott::SubjectKind, reason::Reason};

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
    /// `api_client`.
    pub api_client: Option<String>,
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
    /// `ott_fingerprint`.
    pub ott_fingerprint: Option<String>,
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

/// The parts of a recorded call that the access rules check.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RecordedQuestion<'a> {
    /// The name of the caller.
    pub caller: &'a str,
    /// How the caller was proven.
    pub caller_proof: &'a str,
    /// The recorded claims of the caller's JWT: only those that the rule in force required. The JWT
    /// may have contained others, so that another rule cannot be decided without doubt.
    pub claims: Option<&'a Value>,
    /// The method.
    pub method: Method,
    /// The name of the API client.
    pub api_client: &'a str,
    /// The user of an issued token in canonical form. `None` for a login.
    pub user: Option<(SubjectKind, &'a str)>,
}

/// Why the rules cannot be asked about a recorded call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotEnough {
    /// It has no identified caller.
    #[error("the caller was not identified")]
    Caller,
    /// It has no method that the rules know.
    #[error("the method is not recorded")]
    Method,
    /// It has no API client, or only the beginning of an invalid name.
    #[error("the API client is not recorded, or was not valid")]
    ApiClient,
    /// It has no user, or only the beginning of an invalid name.
    #[error("the user is not recorded, or was not valid")]
    User,
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

    /// Returns what the rules can be asked about the call.
    ///
    /// # Errors
    ///
    /// The record does not contain enough.
    pub fn question(&self) -> Result<RecordedQuestion<'_>, NotEnough> {
        let caller = self.caller.as_deref().ok_or(NotEnough::Caller)?;
        let caller_proof = self.caller_proof.as_deref().ok_or(NotEnough::Caller)?;
        let method = self.method().ok_or(NotEnough::Method)?;
        let is_cut = self.is_unvalidated("api_client");
        let api_client = self.api_client.as_deref().filter(|_| !is_cut).ok_or(NotEnough::ApiClient)?;
        let user = match method {
            Method::LoginWithOtt => None,
            Method::IssueOtt => {
                let user = self.user.as_ref().filter(|user| !user.unvalidated).ok_or(NotEnough::User)?;
                Some((user.subject_kind().ok_or(NotEnough::User)?, user.value.as_str()))
            }
        };
        Ok(RecordedQuestion { caller, caller_proof, claims: self.claims.as_ref(), method, api_client, user })
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
