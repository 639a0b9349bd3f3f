//! What can be asked for, and how sure we are of what became of it.

/// The two things that a caller can ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Minting a token: safe to repeat.
    IssueOtt,
    /// Spending a token: never sent twice.
    LoginWithOtt,
}

impl Operation {
    /// The name of the method in the contract.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::IssueOtt => "IssueOtt",
            Self::LoginWithOtt => "LoginWithOtt",
        }
    }
}

/// How sure we are of what the platform did (ARCHITECTURE.md, "Certainty").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Certainty {
    /// The request never left: nothing happened.
    NotSent,
    /// The platform said definitely that nothing happened.
    Refused,
    /// The request may have left and no usable answer came.
    Unknown,
    /// The platform did it.
    Done,
}

impl Certainty {
    /// The word for metadata and records.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotSent => "not_sent",
            Self::Refused => "refused",
            Self::Unknown => "unknown",
            Self::Done => "done",
        }
    }

    /// What is known after two attempts at the same thing: "done" outweighs
    /// "unknown", which outweighs a definite refusal.
    #[must_use]
    pub const fn and(self, later: Self) -> Self {
        if self.weight() > later.weight() { self } else { later }
    }

    pub(super) const fn weight(self) -> u8 {
        match self {
            Self::NotSent => 0,
            Self::Refused => 1,
            Self::Unknown => 2,
            Self::Done => 3,
        }
    }

    pub(super) const fn from_weight(weight: u8) -> Self {
        match weight {
            0 => Self::NotSent,
            1 => Self::Refused,
            2 => Self::Unknown,
            _ => Self::Done,
        }
    }
}
