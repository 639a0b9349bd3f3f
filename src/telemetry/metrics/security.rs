//! Labels of what a security team watches.

/// An event that may be an attack, as a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecurityEvent {
    /// A token was presented while another call was spending it.
    OttInUse,
    /// A token is unknown, used or expired.
    OttRejected,
    /// The platform answered a login with the account of another user.
    AccountMismatch,
    /// A caller spent the token of a user that its rules do not allow.
    AccountNotAllowed,
    /// A credential is missing or not valid.
    CallerUnauthenticated,
    /// Identity metadata was given twice.
    DuplicateIdentity,
    /// A TLS handshake was not completed in time.
    SlowHandshake,
    /// The HTTP/2 preface did not arrive in time.
    SlowPreface,
    /// The message of a call did not arrive in time.
    SlowBody,
}

impl SecurityEvent {
    /// All events, in order.
    pub const ALL: [Self; 9] = [
        Self::OttInUse,
        Self::OttRejected,
        Self::AccountMismatch,
        Self::AccountNotAllowed,
        Self::CallerUnauthenticated,
        Self::DuplicateIdentity,
        Self::SlowHandshake,
        Self::SlowPreface,
        Self::SlowBody,
    ];

    /// The name in metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::OttInUse => "ott_in_use",
            Self::OttRejected => "ott_rejected",
            Self::AccountMismatch => "account_mismatch",
            Self::AccountNotAllowed => "account_not_allowed",
            Self::CallerUnauthenticated => "caller_unauthenticated",
            Self::DuplicateIdentity => "duplicate_identity",
            Self::SlowHandshake => "slow_handshake",
            Self::SlowPreface => "slow_preface",
            Self::SlowBody => "slow_body",
        }
    }
}

/// The first part of a call that no access rule allows, as a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AccessDenial {
    /// The caller.
    Caller,
    /// The method.
    Method,
    /// The API client.
    ApiClient,
    /// The user.
    User,
}

impl AccessDenial {
    /// All parts, in the order in which they are compared.
    pub const ALL: [Self; 4] = [Self::Caller, Self::Method, Self::ApiClient, Self::User];

    /// The name in metrics and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Caller => "caller",
            Self::Method => "method",
            Self::ApiClient => "api_client",
            Self::User => "user",
        }
    }
}
