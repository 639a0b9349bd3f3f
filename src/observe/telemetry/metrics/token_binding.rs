//! Metrics of sealed tokens.

use prometheus::IntCounter;

use super::{
    Metrics,
    family::{Families, Per},
};
use crate::observe::telemetry::label::labels;

labels! {
    /// Reason that the gateway refuses a token itself, as a label. Callers receive the same answer for
    /// all of them, and for a token that the platform does not know.
    pub enum SealRefusal {
        /// The token is not sealed, and its API client requires it.
        NotSealed = "not_sealed",
        /// The gateway has no keys.
        NoKeys = "no_keys",
        /// The version of the sealed token is not known.
        UnknownVersion = "unknown_version",
        /// The text is not a sealed token.
        Malformed = "malformed",
        /// The gateway does not have the key.
        UnknownKey = "unknown_key",
        /// The token was altered, or sealed with another key of the same id.
        NotAuthentic = "not_authentic",
        /// The token has expired.
        Expired = "expired",
        /// The request names another API client.
        OtherApiClient = "other_api_client",
        /// The gateway does not have the API client.
        UnknownApiClient = "unknown_api_client",
    }
}

/// The families of this module.
pub(super) struct TokenBindingFamilies {
    sealed: IntCounter,
    opened: IntCounter,
    refused: Per<SealRefusal, IntCounter>,
}

impl TokenBindingFamilies {
    pub(super) fn register(families: &Families<'_>) -> Self {
        Self {
            sealed: families.counter("ott_gateway_tokens_sealed_total", "Tokens that were sealed."),
            opened: families.counter(
                "ott_gateway_tokens_opened_total",
                "Sealed tokens that were opened and had not expired.",
            ),
            refused: families.counter_per(
                "ott_gateway_tokens_refused_total",
                "Tokens that the gateway refused itself, without asking the platform.",
                "cause",
            ),
        }
    }
}

impl Metrics {
    /// Counts a token that was sealed.
    pub fn token_sealed(&self) {
        self.0.token_binding.sealed.inc();
    }

    /// Counts a sealed token that was opened and may be spent.
    pub fn token_opened(&self) {
        self.0.token_binding.opened.inc();
    }

    /// Counts a token that was refused without asking the platform.
    pub fn token_refused(&self, cause: SealRefusal) {
        self.0.token_binding.refused.get(cause).inc();
    }
}
