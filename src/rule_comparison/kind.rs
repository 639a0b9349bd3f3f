//! The kinds of calls that rules distinguish: methods, and what a call does with a token.
//!
//! Rules are compared for each kind separately. Two kinds of one method are only distinguished if
//! a rule of either file does: the comparison of all other rules costs what it costs with methods.

use std::fmt;

use super::Side;
use crate::{access::RuleSettings, domain::call::Method};

/// A kind of calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CallKind {
    /// `IssueOtt`, with and without a login URL.
    Issue,
    /// `IssueOtt` without a login URL.
    IssueWithoutUrl,
    /// `IssueOtt` with a login URL.
    IssueWithUrl,
    /// `LoginWithOtt` with any token.
    Login,
    /// `LoginWithOtt` with a token that is not sealed.
    LoginUnsealed,
    /// `LoginWithOtt` with a sealed token.
    LoginSealed,
}

impl CallKind {
    /// Returns the method.
    #[must_use]
    pub const fn method(self) -> Method {
        match self {
            Self::Issue | Self::IssueWithoutUrl | Self::IssueWithUrl => Method::IssueOtt,
            Self::Login | Self::LoginUnsealed | Self::LoginSealed => Method::LoginWithOtt,
        }
    }

    /// Returns whether the calls request a login URL. `None` if it makes no difference.
    #[must_use]
    pub const fn login_url(self) -> Option<bool> {
        match self {
            Self::IssueWithoutUrl => Some(false),
            Self::IssueWithUrl => Some(true),
            Self::Issue | Self::Login | Self::LoginUnsealed | Self::LoginSealed => None,
        }
    }

    /// Returns whether the tokens of the calls are sealed. `None` if it makes no difference.
    #[must_use]
    pub const fn sealed(self) -> Option<bool> {
        match self {
            Self::LoginUnsealed => Some(false),
            Self::LoginSealed => Some(true),
            Self::Issue | Self::IssueWithoutUrl | Self::IssueWithUrl | Self::Login => None,
        }
    }

    /// Returns the kind of all calls of the method.
    pub(super) const fn whole(self) -> Self {
        match self.method() {
            Method::IssueOtt => Self::Issue,
            Method::LoginWithOtt => Self::Login,
        }
    }

    /// Returns whether a rule allows calls of this kind. Those of a kind that is not distinguished
    /// must be all alike to the rule.
    pub(super) fn is_of(self, rule: &RuleSettings) -> bool {
        let is_of_method = rule.methods.as_ref().is_none_or(|methods| methods.contains(&self.method()));
        is_of_method
            && match self {
                Self::IssueWithUrl => rule.login_urls,
                Self::LoginUnsealed => rule.issued_by.is_none(),
                Self::Issue | Self::IssueWithoutUrl | Self::Login | Self::LoginSealed => true,
            }
    }
}

impl fmt::Display for CallKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.method().name())?;
        f.write_str(match self {
            Self::Issue | Self::Login => "",
            Self::IssueWithoutUrl => " without a login URL",
            Self::IssueWithUrl => " with a login URL",
            Self::LoginUnsealed => " with a token that is not sealed",
            Self::LoginSealed => " with a sealed token",
        })
    }
}

/// The kinds that the rules of a comparison distinguish.
#[derive(Clone, Debug)]
pub(super) struct Kinds {
    /// Kinds of calls that rules allow.
    pub(super) of_calls: Vec<CallKind>,
    /// Kinds of calls that take from quotas.
    pub(super) of_quotas: Vec<CallKind>,
}

impl Kinds {
    pub(super) fn of(sides: &[Side<'_>]) -> Self {
        let any_rule = |is_limit: fn(&RuleSettings) -> bool| {
            sides.iter().flat_map(|side| &side.access.rules).any(is_limit)
        };
        let checks_issuers = any_rule(|rule| rule.issued_by.is_some());
        let issues: &[CallKind] = if any_rule(|rule| !rule.login_urls) {
            &[CallKind::IssueWithoutUrl, CallKind::IssueWithUrl]
        } else {
            &[CallKind::Issue]
        };
        let logins = |are_different: bool| -> &[CallKind] {
            if are_different { &[CallKind::LoginUnsealed, CallKind::LoginSealed] } else { &[CallKind::Login] }
        };
        // Only a sealed token contains its user, on which the deciding rule then depends.
        let takes_by_user = checks_issuers || sides.iter().all(|side| side.has_token_binding);
        Self {
            of_calls: [issues, logins(checks_issuers)].concat(),
            of_quotas: [issues, logins(takes_by_user)].concat(),
        }
    }

    /// Returns whether sealed tokens are a kind of their own.
    pub(super) fn have_sealed_tokens(&self) -> bool {
        self.of_quotas.contains(&CallKind::LoginSealed)
    }
}
