//! Rehearsal of the candidate rules: what they would decide of each call, without any effect on it.
//!
//! The decision on the whole call is compared, once, when the rules in force have decided: a call
//! that they deny when they do, an `IssueOtt` when it gets its permit, and a login when the platform
//! has named the account. A call that fails for another reason before is not compared, because its
//! caller gets the same answer under both. Nothing is taken from the quotas of candidate rules.
//!
//! A call that is denied before its message is read is compared after its message has been decoded
//! for the audit record. If it never is, the user and the API client are not known, and the decision
//! of the candidate rules may depend on them.

mod difference_lines;

use std::sync::Arc;

pub(super) use self::difference_lines::DifferenceLines;
use super::{
    Access, Policy, WARNING_INTERVAL,
    partial_decision::{KnownClaims, KnownIssuer, KnownParts, KnownUser, PartialDecision},
    rules::Rules,
};
use crate::{
    caller::Caller,
    domain::call::{Call, CandidateDecision, CandidateDifference, Method},
    observe::telemetry::metrics::AccessDenial,
};

/// A call that the rules in force denied before its message was read. It is compared with the
/// decision of the candidate rules when this is dropped: drop it before the call's record is
/// written, and after its message is decoded.
#[must_use = "dropping it compares the call with what is known of it now"]
#[derive(Debug)]
pub struct RefusedRehearsal {
    access: Access,
    policy: Arc<Policy>,
    caller: Caller,
    method: Method,
    call: Call,
}

impl Drop for RefusedRehearsal {
    fn drop(&mut self) {
        if self.call.unvalidated().is_some() {
            // The request is invalid, and fails under all rules.
            return;
        }
        let api_client = self.call.api_client();
        let known = KnownParts {
            caller: self.caller.name(),
            claims: KnownClaims::All(self.caller.principal().claims),
            method: self.method,
            api_client: api_client.as_deref(),
            issuer: KnownIssuer::Unknown,
            login_url: self.call.login_url(),
            user: self.call.subject().map_or(KnownUser::Unknown, KnownUser::Named),
        };
        self.access.rehearse(&self.policy, &self.call, &known, false);
    }
}

impl Access {
    /// Returns the rehearsal of a call that the rules did not [admit](Access::admits). `None` if
    /// there are no candidate rules.
    pub fn rehearse_refusal(
        &self,
        policy: &Arc<Policy>,
        call: &Call,
        caller: &Caller,
        method: Method,
    ) -> Option<RefusedRehearsal> {
        policy.candidates.is_some().then(|| RefusedRehearsal {
            access: self.clone(),
            policy: Arc::clone(policy),
            caller: caller.clone(),
            method,
            call: call.clone(),
        })
    }

    /// Compares the final decision of the rules in force on a call with that of the candidate rules,
    /// and reports a difference in the call, the metrics and the log.
    pub(super) fn rehearse(&self, policy: &Policy, call: &Call, known: &KnownParts<'_>, is_allowed: bool) {
        let Some(candidates) = &policy.candidates else { return };
        let decision = candidates.partial_decision(known);
        let (difference, cause) = match (is_allowed, decision) {
            (true, PartialDecision::Allowed(_)) | (false, PartialDecision::Denied(_)) => return,
            (true, PartialDecision::Denied(part)) => {
                (CandidateDifference::WouldDeny, part.as_str().to_owned())
            }
            (false, PartialDecision::Allowed(rule)) => {
                (CandidateDifference::WouldAllow, candidates.label(rule))
            }
            (_, PartialDecision::Undecided(rule)) => (CandidateDifference::Undecided, candidates.label(rule)),
        };
        self.0.metrics.candidate_difference(difference, known.method);
        self.log(policy, call, known, decision, difference);
        call.set_candidate(CandidateDecision { difference, cause: cause.into() });
    }

    fn log(
        &self,
        policy: &Policy,
        call: &Call,
        known: &KnownParts<'_>,
        candidate: PartialDecision,
        difference: CandidateDifference,
    ) {
        let Some(suppressed) = self.0.difference_lines.due(difference, known.caller) else { return };
        let (rule, denied) = described(&policy.rules, policy.rules.partial_decision(known));
        let (candidate_rule, candidate_denied) = match &policy.candidates {
            Some(candidates) => described(candidates, candidate),
            None => (None, None),
        };
        tracing::warn!(
            request.id = %call.request_id(),
            caller.name = %known.caller,
            rpc.method = known.method.name(),
            access.rule = rule,
            access.denied = denied,
            candidate.difference = difference.as_str(),
            candidate.rule = candidate_rule,
            candidate.denied = candidate_denied,
            log.suppressed = suppressed,
            "candidate access rules decide differently"
        );
    }
}

/// Returns the label of the deciding rule, or the first part of the call that no rule allows.
fn described(rules: &Rules, decision: PartialDecision) -> (Option<String>, Option<&'static str>) {
    match decision {
        PartialDecision::Allowed(rule) | PartialDecision::Undecided(rule) => (Some(rules.label(rule)), None),
        PartialDecision::Denied(part) => (None, Some(AccessDenial::as_str(part))),
    }
}

#[cfg(test)]
mod tests;
