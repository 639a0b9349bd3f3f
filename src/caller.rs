//! Who is calling, proven by the transport or by a credential, never by the message.

use std::sync::Arc;

/// A caller, and how its name was proven.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    name: Arc<str>,
    proof: Proof,
}

/// How a caller's name was proven.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Proof {
    /// Not at all.
    None,
    /// By a client certificate.
    Certificate,
    /// By a JSON web token.
    Jwt,
    /// By a bearer token.
    Token,
    /// By a proxy that is trusted to tell.
    Forwarded,
}

impl Proof {
    /// The word for records.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Certificate => "certificate",
            Self::Jwt => "jwt",
            Self::Token => "token",
            Self::Forwarded => "forwarded",
        }
    }
}

impl Caller {
    /// The caller that nothing is known of.
    #[must_use]
    pub fn anonymous() -> Self {
        Self { name: Arc::from("anonymous"), proof: Proof::None }
    }

    /// The caller's name, which says how it was proven: `spiffe://…`, `dns:NAME`,
    /// `jwt:SUBJECT`, `token:NAME` or `anonymous`.
    #[must_use]
    pub const fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// How the name was proven.
    #[must_use]
    pub const fn proof(&self) -> Proof {
        self.proof
    }
}
