//! Metrics of sealed tokens.

use prometheus::IntCounter;

use super::{
    Metrics,
    family::{Families, Per},
};
pub use crate::domain::ott::SealRefusal;
use crate::observe::telemetry::label::Label;

impl Label for SealRefusal {
    const VALUES: &'static [Self] = &Self::ALL;

    fn as_str(self) -> &'static str {
        Self::as_str(self)
    }

    fn index(self) -> usize {
        self as usize
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
