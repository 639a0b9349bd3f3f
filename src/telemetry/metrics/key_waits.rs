//! Metrics of calls whose JWT names a key that is not known.

use prometheus::IntCounter;

use super::family::Families;

/// How a call that lacked a JWT key ended its wait for newer keys, as a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyWait {
    /// The keys were fetched while the call waited.
    Fetched,
    /// The fetch failed while the call waited.
    Failed,
    /// The fetch took longer than a call waits.
    TimedOut,
    /// The call did not wait, because the last fetch had failed.
    IssuerFailing,
    /// The call did not wait, because too many calls did.
    TotalLimit,
    /// The call did not wait, because too many calls from its network did.
    PeerLimit,
}

impl KeyWait {
    const ALL: [Self; 6] =
        [Self::Fetched, Self::Failed, Self::TimedOut, Self::IssuerFailing, Self::TotalLimit, Self::PeerLimit];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Fetched => "fetched",
            Self::Failed => "failed",
            Self::TimedOut => "timed_out",
            Self::IssuerFailing => "issuer_failing",
            Self::TotalLimit => "total_limit",
            Self::PeerLimit => "peer_limit",
        }
    }
}

/// Metrics of calls that lack a JWT key. Cheap to clone.
#[derive(Clone, Debug)]
pub struct KeyWaitMetrics {
    waits: [IntCounter; KeyWait::ALL.len()],
}

impl KeyWaitMetrics {
    pub(super) fn register(families: &Families<'_>) -> Self {
        let waits = families.counters(
            "ott_gateway_jwt_key_waits_total",
            "Calls whose JWT names an unknown key, by the result of waiting for newer keys.",
            &["result"],
        );
        Self { waits: KeyWait::ALL.map(|result| waits.with_label_values(&[result.as_str()])) }
    }

    /// Counts a call.
    pub fn count(&self, result: KeyWait) {
        self.waits[result as usize].inc();
    }
}
