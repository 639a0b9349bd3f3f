//! Certainty of the effect of a call at the platform.

/// How certain it is what a call did at the platform (ARCHITECTURE.md, "Certainty").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Certainty {
    /// The request was never sent: nothing happened.
    NotSent,
    /// A response proves that nothing happened.
    Refused,
    /// The request may have been sent, and there is no usable response.
    Unknown,
    /// The platform processed the request.
    Done,
}

impl Certainty {
    /// Returns the label in metadata and records.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotSent => "not_sent",
            Self::Refused => "refused",
            Self::Unknown => "unknown",
            Self::Done => "done",
        }
    }

    /// Combines the certainty of two attempts of one call: `Done` outweighs `Unknown`, which
    /// outweighs `Refused`.
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
