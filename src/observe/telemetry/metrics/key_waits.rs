//! Metrics of calls whose JWT has an unknown key id.

use prometheus::IntCounter;

use super::family::{Families, Per};
use crate::observe::telemetry::label::labels;

labels! {
    /// Result of a call's wait for a missing JWT key, as a label.
    pub enum KeyWait {
        /// The keys were fetched while the call waited.
        Fetched = "fetched",
        /// The fetch failed while the call waited.
        Failed = "failed",
        /// The fetch took longer than the maximum wait.
        TimedOut = "timed_out",
        /// The call did not wait, because the last fetch failed.
        IssuerFailing = "issuer_failing",
        /// The call did not wait, because too many calls were waiting.
        TotalLimit = "total_limit",
        /// The call did not wait, because too many calls from its network were waiting.
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
                "Calls whose JWT has an unknown key id, by the result of waiting for the key.",
                "result",
            ),
        }
    }

    /// Counts a call.
    pub fn count(&self, result: KeyWait) {
        self.waits.get(result).inc();
    }
}
