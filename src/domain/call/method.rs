//! Methods of the gRPC API.

/// A method of the gRPC API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Method {
    /// Issues a token. Safe to repeat.
    IssueOtt,
    /// Spends a token. Never sent twice.
    LoginWithOtt,
}

impl Method {
    /// Returns the name of the method in the gRPC API.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::IssueOtt => "IssueOtt",
            Self::LoginWithOtt => "LoginWithOtt",
        }
    }
}
