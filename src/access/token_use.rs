//! What a call does with a token: the parts of a call that rules check only for one method.

use crate::{domain::call::Method, observe::telemetry::metrics::AccessDenial};

/// The method of a call, with the parts of the call that rules check only for this method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenUse<'a> {
    /// `IssueOtt`.
    Issue {
        /// Whether a login URL is requested, which contains the token.
        login_url: bool,
    },
    /// `LoginWithOtt`.
    Login {
        /// The name of the caller that the sealed token was issued to. `None` for a token that is not
        /// sealed.
        issued_by: Option<&'a str>,
    },
}

impl TokenUse<'_> {
    /// Returns the use of a token by a method without a login URL and without a sealed token.
    #[must_use]
    pub const fn plain(method: Method) -> Self {
        match method {
            Method::IssueOtt => Self::Issue { login_url: false },
            Method::LoginWithOtt => Self::Login { issued_by: None },
        }
    }

    /// Returns the method.
    #[must_use]
    pub const fn method(self) -> Method {
        match self {
            Self::Issue { .. } => Method::IssueOtt,
            Self::Login { .. } => Method::LoginWithOtt,
        }
    }

    /// Returns the part of the call that rules check only for this method.
    pub(super) const fn part(self) -> AccessDenial {
        match self {
            Self::Issue { .. } => AccessDenial::LoginUrl,
            Self::Login { .. } => AccessDenial::Issuer,
        }
    }
}
