//! Metrics of the candidate access rules.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use prometheus::{IntCounter, IntCounterVec};

use super::{
    Metrics,
    family::{Families, Per},
};
use crate::{
    domain::call::{CandidateDifference, Method},
    observe::telemetry::label::Label,
};

impl Label for CandidateDifference {
    const VALUES: &'static [Self] = &Self::ALL;

    fn as_str(self) -> &'static str {
        Self::as_str(self)
    }

    fn index(self) -> usize {
        self as usize
    }
}

type Differences = Per<CandidateDifference, Per<Method, IntCounter>>;

/// The families of this module.
pub(super) struct CandidateFamilies {
    family: IntCounterVec,
    /// The counters; `None` without candidate rules.
    differences: ArcSwapOption<Differences>,
}

impl CandidateFamilies {
    pub(super) fn register(families: &Families<'_>) -> Self {
        let family = families.counters(
            "ott_gateway_access_candidate_differences_total",
            "Calls on which the candidate access rules decide differently.",
            &["difference", "method"],
        );
        Self { family, differences: ArcSwapOption::empty() }
    }
}

impl Metrics {
    /// Exports the differences of the candidate rules from zero, or stops exporting them if there
    /// are no candidate rules. Counts are kept while there are candidate rules.
    pub fn set_candidate_rules(&self, are_configured: bool) {
        let CandidateFamilies { family, differences } = &self.0.candidates;
        if !are_configured {
            differences.store(None);
            family.reset();
        } else if differences.load().is_none() {
            let counter = |difference: CandidateDifference, method: Method| {
                family.with_label_values(&[difference.as_str(), method.name()])
            };
            let counters = Per::new(|difference| Per::new(|method| counter(difference, method)));
            differences.store(Some(Arc::new(counters)));
        }
    }

    /// Counts a call on which the candidate rules decide differently. Calls that began before the
    /// candidate rules were removed are not counted afterwards.
    pub fn candidate_difference(&self, difference: CandidateDifference, method: Method) {
        if let Some(counters) = &*self.0.candidates.differences.load() {
            counters.get(difference).get(method).inc();
        }
    }
}
