//! Metrics of calls whose JWT names a key that is not known.

use prometheus::IntCounter;

use super::family::{Families, Per};
use crate::telemetry::label::labels;

labels! {
    /// How a call that lacked a JWT key ended its wait for newer keys, as a label.
    pub enum KeyWait {
        /// The keys were fetched while the call waited.
        Fetched = "fetched",
        /// The fetch failed while the call waited.
        Failed = "failed",
        /// The fetch took longer than a call waits.
        TimedOut = "timed_out",
        /// The call did not wait, because the last fetch had failed.
        IssuerFailing = "issuer_failing",
        /// The call did not wait, because too many calls did.
        TotalLimit = "total_limit",
        /// The call did not wait, because too many calls from its network did.
        PeerLimit = "peer_limit",
    }
}

/// Metrics of calls that lack a JWT key. Cheap to clone.
#[derive(Clone, Debug)]
pub struct KeyWaitMetrics {
    waits: Per<KeyWait, IntCounter>,
}

impl KeyWaitMetrics {
    pub(super) fn register(families: &Families<'_>) -> Self {
        Self {
            waits: families.counter_per(
                "ott_gateway_jwt_key_waits_total",
                "Calls whose JWT names an unknown key, by the result of waiting for newer keys.",
                "result",
            ),
        }
    }

    /// Counts a call.
    pub fn count(&self, result: KeyWait) {
        self.waits.get(result).inc();
    }
}
