//! Different decisions of the candidate access rules.

/// How the decision of the candidate rules on a call differs from that of the rules in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CandidateDifference {
    /// The rules in force allow the call, and the candidate rules would not.
    WouldDeny,
    /// The rules in force do not allow the call, and the candidate rules would.
    WouldAllow,
    /// The rules in force do not allow the call. Whether the candidate rules would depends on a
    /// part of the call that is not known.
    Undecided,
}

/// A decision of the candidate rules that differs from that of the rules in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CandidateDecision {
    /// The difference.
    pub difference: CandidateDifference,
    /// The first part of the call that no candidate rule allows ([`WouldDeny`]), or the candidate
    /// rule that allows the call ([`WouldAllow`]) or may allow it ([`Undecided`]): its number,
    /// followed by its name in parentheses if it has one.
    ///
    /// [`WouldDeny`]: CandidateDifference::WouldDeny
    /// [`WouldAllow`]: CandidateDifference::WouldAllow
    /// [`Undecided`]: CandidateDifference::Undecided
    pub cause: Box<str>,
}

impl CandidateDifference {
    /// All values, in order.
    pub const ALL: [Self; 3] = [Self::WouldDeny, Self::WouldAllow, Self::Undecided];

    /// Returns the value in metrics, log lines and records.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::WouldDeny => "would_deny",
            Self::WouldAllow => "would_allow",
            Self::Undecided => "undecided",
        }
    }
}
