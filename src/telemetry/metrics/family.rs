//! Families of metrics whose members are resolved at most once.
//!
//! After the first time, counting takes no lock and makes no allocation. The metrics
//! themselves are defined elsewhere.

use std::{collections::HashMap, sync::OnceLock};

use arc_swap::ArcSwap;
use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGaugeVec, Opts,
    Registry,
    core::{Collector, MetricVecBuilder},
};
use tonic::Code;

use super::Method;
use crate::telemetry::names;

/// Upper bounds in seconds, from a warm call to the longest deadline.
const BUCKETS: [f64; 13] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Makes the families of one registry. Names and labels are constants, and a test
/// registers all of them.
pub(super) struct Families<'a>(pub(super) &'a Registry);

impl Families<'_> {
    pub(super) fn counters(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        self.add(IntCounterVec::new(Opts::new(name, help), labels))
    }

    pub(super) fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.add(IntCounter::new(name, help))
    }

    pub(super) fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> GaugeVec {
        self.add(GaugeVec::new(Opts::new(name, help), labels))
    }

    pub(super) fn int_gauges(&self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        self.add(IntGaugeVec::new(Opts::new(name, help), labels))
    }

    pub(super) fn gauge(&self, name: &str, help: &str) -> Gauge {
        self.add(Gauge::new(name, help))
    }

    pub(super) fn histograms(&self, name: &str, help: &str, labels: &[&str]) -> HistogramVec {
        self.add(HistogramVec::new(HistogramOpts::new(name, help).buckets(BUCKETS.to_vec()), labels))
    }

    pub(super) fn histogram(&self, name: &str, help: &str) -> Histogram {
        self.add(Histogram::with_opts(HistogramOpts::new(name, help).buckets(BUCKETS.to_vec())))
    }

    #[expect(clippy::expect_used, reason = "at start-up, over constants that a test has tried")]
    fn add<C: Collector + Clone + 'static>(&self, family: prometheus::Result<C>) -> C {
        let family = family.expect("a valid name");
        self.0.register(Box::new(family.clone())).expect("registered once");
        family
    }
}

/// Counters keyed by a fixed set of labels.
#[derive(Debug)]
pub(super) struct ByWord<const N: usize> {
    family: IntCounterVec,
    resolved: ArcSwap<HashMap<[&'static str; N], IntCounter>>,
}

impl<const N: usize> ByWord<N> {
    pub(super) fn new(family: IntCounterVec) -> Self {
        Self { family, resolved: ArcSwap::default() }
    }

    /// Shows a counter before its first event, so that its rate has a beginning.
    pub(super) fn show(&self, words: [&'static str; N]) {
        self.increment_by(words, 0);
    }

    pub(super) fn increment(&self, words: [&'static str; N]) {
        self.increment_by(words, 1);
    }

    fn increment_by(&self, words: [&'static str; N], count: u64) {
        if let Some(counter) = self.resolved.load().get(&words) {
            return counter.inc_by(count);
        }
        let counter = self.family.with_label_values(&words);
        counter.inc_by(count);
        self.resolved.rcu(|resolved| {
            let mut more = HashMap::clone(resolved);
            more.insert(words, counter.clone());
            more
        });
    }
}

/// Counters by method and gRPC code.
#[derive(Debug)]
pub(super) struct ByCode {
    family: IntCounterVec,
    first_label: Option<String>,
    cells: [[OnceLock<IntCounter>; names::CODES]; Method::ALL.len()],
}

impl ByCode {
    /// For `grpc_server_handled_total`: type, service, method, code.
    pub(super) fn of_server(family: IntCounterVec) -> Self {
        Self { family, first_label: None, cells: no_cells() }
    }

    /// For one caller: caller, method, code.
    pub(super) fn of_caller(family: IntCounterVec, caller: &str) -> Self {
        Self { family, first_label: Some(caller.to_owned()), cells: no_cells() }
    }

    pub(super) fn counter(&self, method: Method, code: Code) -> &IntCounter {
        self.cells[method as usize][code as usize].get_or_init(|| {
            let code = names::metric_code(code);
            match &self.first_label {
                None => {
                    let [kind, service, method] = method.labels();
                    self.family.with_label_values(&[kind, service, method, code])
                }
                Some(first) => self.family.with_label_values(&[first, method.name(), code]),
            }
        })
    }
}

fn no_cells() -> [[OnceLock<IntCounter>; names::CODES]; Method::ALL.len()] {
    std::array::from_fn(|_| std::array::from_fn(|_| OnceLock::new()))
}

/// One member for each method.
pub(super) fn per_method<M: MetricVecBuilder>(
    family: &prometheus::core::MetricVec<M>,
) -> [M::M; Method::ALL.len()] {
    Method::ALL.map(|method| family.with_label_values(&method.labels()))
}

/// Members that the compiler must be able to name.
pub(super) type PerMethod<M> = [M; Method::ALL.len()];
/// Durations for each method.
pub(super) type Durations = PerMethod<Histogram>;
