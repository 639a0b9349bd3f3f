//! Decisions of rules on calls of which a part may be unknown.
//!
//! A decision is only given if it is the same for every value of the unknown parts.

use super::{rule_set::RuleSet, rules::Rules, token_use::TokenUse};
use crate::{
    caller::Claims,
    domain::{call::Method, ott::Subject},
    observe::telemetry::metrics::AccessDenial,
};

/// The known parts of a call that rules check.
#[derive(Clone, Copy, Debug)]
pub struct KnownParts<'a> {
    /// The name of the caller.
    pub caller: &'a str,
    /// The claims of the caller's JWT.
    pub claims: KnownClaims<'a>,
    /// The method.
    pub method: Method,
    /// The name of the API client. `None` if it is not known.
    pub api_client: Option<&'a str>,
    /// The caller that the token of a `LoginWithOtt` was issued to.
    pub issuer: KnownIssuer<'a>,
    /// Whether an `IssueOtt` requests a login URL. `None` if it is not known.
    pub login_url: Option<bool>,
    /// The user.
    pub user: KnownUser<'a>,
}

/// What is known of the claims of a caller's JWT.
#[derive(Clone, Copy, Debug)]
pub enum KnownClaims<'a> {
    /// These are all; none for a caller that is proven otherwise.
    All(&'a Claims),
    /// There are at least these.
    AtLeast(&'a Claims),
}

/// What is known of the caller that a token was issued to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KnownIssuer<'a> {
    /// Nothing, not even whether the token is sealed.
    Unknown,
    /// The token is not sealed, so no rule can check its issuer.
    NotSealed,
    /// The token is sealed, and was issued to the caller of this name.
    Named(&'a str),
}

/// What is known of the user of a call.
#[derive(Clone, Copy, Debug)]
pub enum KnownUser<'a> {
    /// Nothing.
    Unknown,
    /// The user that the request names.
    Named(&'a Subject),
    /// A user that no list of users matches, because of the [spelling](Subject::form) of its name.
    Unlisted,
    /// The canonical form of the user's name. Its spelling is not known, so lists may not match it.
    Canonical(&'a Subject),
    /// The account that a login opened, by all its names.
    Account(&'a [Subject]),
}

/// The decision of rules on a call. Rules are numbered from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PartialDecision {
    /// This rule allows the call. If a part of the call is unknown, an earlier rule may decide.
    Allowed(usize),
    /// No rule allows the call. Contains the first part that no rule allows.
    Denied(AccessDenial),
    /// The decision depends on an unknown part. This is the first rule that may allow the call.
    Undecided(usize),
}

/// A part of a call that is not known, although the decision depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum UnknownPart {
    /// The name of the caller.
    Caller,
    /// The claims of the caller.
    Claims,
    /// The API client.
    ApiClient,
    /// The caller that the token was issued to.
    Issuer,
    /// Whether a login URL is requested.
    LoginUrl,
    /// The user.
    User,
    /// The spelling of the user's name, of which the canonical form is known.
    Spelling,
}

/// The rules that apply to a call.
struct Applying {
    /// The rules that apply for some values of the unknown parts.
    possible: RuleSet,
    /// The rules that apply for all values of the unknown parts.
    certain: RuleSet,
}

impl Applying {
    /// Keeps the rules that are also in these sets. Returns whether any rule is left.
    fn retain(&mut self, possible: Option<&RuleSet>, certain: &RuleSet) -> bool {
        if let Some(possible) = possible {
            self.possible.retain(possible);
        }
        self.certain.retain(certain);
        self.possible.first().is_some()
    }
}

impl Rules {
    /// Decides a call as far as its known parts allow, without taking from any quota.
    #[must_use]
    pub fn partial_decision(&self, known: &KnownParts<'_>) -> PartialDecision {
        let applying = match self.applying(known) {
            Ok(applying) => applying,
            Err(part) => return PartialDecision::Denied(part),
        };
        match (applying.certain.first(), applying.possible.first()) {
            (Some(rule), _) => PartialDecision::Allowed(rule + 1),
            (None, Some(rule)) => PartialDecision::Undecided(rule + 1),
            (None, None) => PartialDecision::Denied(AccessDenial::User),
        }
    }

    /// Returns the first rule that may allow a call, by its number from 1.
    pub(super) fn first_possible(&self, known: &KnownParts<'_>) -> Option<usize> {
        self.applying(known).ok()?.possible.first().map(|rule| rule + 1)
    }

    fn applying(&self, known: &KnownParts<'_>) -> Result<Applying, AccessDenial> {
        let KnownParts { caller, claims, method, api_client, issuer: _, login_url: _, user } = *known;
        let index = self.index();
        let of_caller = index.for_caller(caller);
        let or = |any_left: bool, part| if any_left { Ok(()) } else { Err(part) };
        or(of_caller.first().is_some(), AccessDenial::Caller)?;
        let (KnownClaims::All(own) | KnownClaims::AtLeast(own)) = claims;
        let mut certain = of_caller.clone();
        self.retain_with_claims(&mut certain, own);
        let possible = match claims {
            KnownClaims::All(_) => certain.clone(),
            KnownClaims::AtLeast(_) => of_caller,
        };
        let mut applying = Applying { possible, certain };
        or(applying.possible.first().is_some(), AccessDenial::Claims)?;
        let of_method = index.for_method(method);
        or(applying.retain(Some(of_method), of_method), AccessDenial::Method)?;
        let any_left = match api_client {
            Some(name) => {
                let of_api_client = index.for_api_client(name);
                applying.retain(Some(&of_api_client), &of_api_client)
            }
            None => applying.retain(None, index.for_any_api_client()),
        };
        or(any_left, AccessDenial::ApiClient)?;
        // The rules for a use that is not known are certain, but others are possible.
        let token_use = known.token_use();
        if let Some(of_token) = index.for_token_use(token_use) {
            let is_known = !known.has_unknown_issuer() && !known.has_unknown_login_url();
            or(applying.retain(is_known.then_some(&of_token), &of_token), token_use.part())?;
        }
        let for_all = index.for_all_users();
        let of_user = match user {
            KnownUser::Unknown => None,
            KnownUser::Named(user) | KnownUser::Canonical(user) => Some(index.for_user(user)),
            KnownUser::Unlisted => Some(for_all.clone()),
            KnownUser::Account(names) => {
                let mut all = for_all.clone();
                for name in names {
                    all.add_all(&index.for_user(name));
                }
                Some(all)
            }
        };
        let certain = match user {
            KnownUser::Unknown | KnownUser::Canonical(_) => None,
            KnownUser::Named(_) | KnownUser::Unlisted | KnownUser::Account(_) => of_user.as_ref(),
        };
        or(applying.retain(of_user.as_ref(), certain.unwrap_or(for_all)), AccessDenial::User)?;
        Ok(applying)
    }

    /// Returns the first unknown part that decides whether a rule, by its number from 1, applies to a
    /// call. `None` if all parts that the rule checks are known.
    #[must_use]
    pub fn unknown_part(&self, rule: usize, known: &KnownParts<'_>) -> Option<UnknownPart> {
        let settings = self.settings(rule)?;
        let are_claims_unknown = match known.claims {
            KnownClaims::All(_) => false,
            KnownClaims::AtLeast(own) => !own.meet(&settings.claims),
        };
        let position = rule.checked_sub(1)?;
        let lists_users = !self.index().for_all_users().contains(position);
        if are_claims_unknown {
            Some(UnknownPart::Claims)
        } else if known.api_client.is_none() && !self.index().for_any_api_client().contains(position) {
            Some(UnknownPart::ApiClient)
        } else if known.has_unknown_issuer() && settings.issued_by.is_some() {
            Some(UnknownPart::Issuer)
        } else if known.has_unknown_login_url() && !settings.login_urls {
            Some(UnknownPart::LoginUrl)
        } else {
            match known.user {
                KnownUser::Unknown if lists_users => Some(UnknownPart::User),
                KnownUser::Canonical(_) if lists_users => Some(UnknownPart::Spelling),
                _ => None,
            }
        }
    }

    /// Returns the number of a rule, counted from 1, followed by its name in parentheses if it has
    /// one.
    #[must_use]
    pub fn label(&self, number: usize) -> String {
        match self.settings(number).and_then(|rule| rule.name.as_deref()) {
            Some(name) => format!("{number} ({name})"),
            None => number.to_string(),
        }
    }
}

impl<'a> KnownParts<'a> {
    fn has_unknown_issuer(&self) -> bool {
        self.method == Method::LoginWithOtt && self.issuer == KnownIssuer::Unknown
    }

    fn has_unknown_login_url(&self) -> bool {
        self.method == Method::IssueOtt && self.login_url.is_none()
    }

    /// Returns the use of the token. One that is not known is the use that the fewest rules allow.
    fn token_use(&self) -> TokenUse<'a> {
        match (self.method, self.issuer) {
            (Method::IssueOtt, _) => TokenUse::Issue { login_url: self.login_url.unwrap_or(true) },
            (Method::LoginWithOtt, KnownIssuer::Named(name)) => TokenUse::Login { issued_by: Some(name) },
            (Method::LoginWithOtt, KnownIssuer::Unknown | KnownIssuer::NotSealed) => {
                TokenUse::Login { issued_by: None }
            }
        }
    }
}
