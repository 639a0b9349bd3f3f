//! Families of metrics whose members are resolved at most once.
//!
//! After the first time, counting takes no lock and makes no allocation: it is one array access at the
//! index of a label, and one atomic addition. The metrics are defined elsewhere.
//!
//! Two other crates have label enums and were measured (one thread, release build, 13 buckets):
//!
//! | | a counter by two labels | an observation of a histogram |
//! |---|---|---|
//! | `prometheus` 0.14 with the arrays here | 13 ns | 52 ns |
//! | `prometheus` 0.14, by the texts of the labels | 83 ns | |
//! | `measured` 0.0.25, dense family | 13 ns | 55 ns |
//! | `prometheus-client` 0.26, `Family` | 60 ns | 33 ns |
//!
//! `prometheus-client` looks a member up in a hash map under a lock, and all workers would share the
//! mutex of each histogram. `measured` is as fast for enums, but looks up members by other labels (API
//! clients, callers) in a map under locks, takes a lock for each observation, and has no process
//! metrics. Either would replace only [`Per`] and [`LazyCounters`].

use std::{
    marker::PhantomData,
    sync::{Arc, OnceLock},
};

use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry,
    core::{Collector, MetricVec, MetricVecBuilder},
};
use tonic::Code;

use super::MethodLabel;
use crate::observe::telemetry::{label::Label, names};

/// Upper bounds of histogram buckets in seconds, from a fast call to the maximum deadline.
const BUCKETS: [f64; 13] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Labels of `grpc_server_*`, except the code.
pub(super) const METHOD_LABELS: [&str; 3] = ["grpc_type", "grpc_service", "grpc_method"];

/// Creates the families of one registry. Names and labels are constants, and a test registers all of
/// them.
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

    /// Registers a counter for each value of a label. All are exported before their first event, so that
    /// an alert on their increase does not miss it.
    pub(super) fn counter_per<L: Label>(&self, name: &str, help: &str, label: &str) -> Per<L, IntCounter> {
        Per::of(&self.counters(name, help, &[label]))
    }

    /// Registers a counter for each pair of values of two labels. All are exported before their first
    /// event.
    pub(super) fn counter_per_pair<A: Label, B: Label>(
        &self,
        name: &str,
        help: &str,
        labels: [&str; 2],
    ) -> Per<A, Per<B, IntCounter>> {
        let family = self.counters(name, help, &labels);
        Per::new(|one: A| Per::new(|other: B| family.with_label_values(&[one.as_str(), other.as_str()])))
    }

    /// Registers a gauge for each value of a label.
    pub(super) fn gauge_per<L: Label>(&self, name: &str, help: &str, label: &str) -> Per<L, Gauge> {
        Per::of(&self.gauges(name, help, &[label]))
    }

    /// Registers an integer gauge for each value of a label.
    pub(super) fn int_gauge_per<L: Label>(&self, name: &str, help: &str, label: &str) -> Per<L, IntGauge> {
        Per::of(&self.int_gauges(name, help, &[label]))
    }

    /// Registers a histogram for each value of a label.
    pub(super) fn histogram_per<L: Label>(&self, name: &str, help: &str, label: &str) -> Per<L, Histogram> {
        Per::of(&self.histograms(name, help, &[label]))
    }

    #[expect(clippy::expect_used, reason = "at start-up, for constants that a test covers")]
    fn add<C: Collector + Clone + 'static>(&self, family: prometheus::Result<C>) -> C {
        let family = family.expect("a valid name");
        self.0.register(Box::new(family.clone())).expect("registered once");
        family
    }
}

/// One member for each value of a label. Cheap to clone.
#[derive(Debug)]
pub(super) struct Per<L, M> {
    members: Arc<[M]>,
    label: PhantomData<fn(L)>,
}

impl<L, M> Clone for Per<L, M> {
    fn clone(&self) -> Self {
        Self { members: Arc::clone(&self.members), label: PhantomData }
    }
}

impl<L: Label, M> Per<L, M> {
    pub(super) fn new(member: impl FnMut(L) -> M) -> Self {
        Self { members: L::VALUES.iter().copied().map(member).collect(), label: PhantomData }
    }

    /// Resolves the members of a family with this single label.
    pub(super) fn of<B: MetricVecBuilder<M = M>>(family: &MetricVec<B>) -> Self
    where
        M: prometheus::core::Metric,
    {
        Self::new(|label| family.with_label_values(&[label.as_str()]))
    }

    pub(super) fn get(&self, label: L) -> &M {
        &self.members[label.index()]
    }
}

/// Counters for each pair of values of two labels, each exported from its first event.
#[derive(Debug)]
pub(super) struct LazyCounters<A, B> {
    family: IntCounterVec,
    members: Per<A, Per<B, OnceLock<IntCounter>>>,
}

impl<A: Label, B: Label> LazyCounters<A, B> {
    pub(super) fn new(family: IntCounterVec) -> Self {
        Self { family, members: Per::new(|_| Per::new(|_| OnceLock::new())) }
    }

    pub(super) fn get(&self, one: A, other: B) -> &IntCounter {
        let member = self.members.get(one).get(other);
        member.get_or_init(|| self.family.with_label_values(&[one.as_str(), other.as_str()]))
    }

    /// Exports the counters of one value before their first event, so that rates include it.
    pub(super) fn show(&self, one: A) {
        for other in B::VALUES {
            self.get(one, *other);
        }
    }
}

/// Counters by method and gRPC code.
#[derive(Debug)]
pub(super) struct ByCode {
    family: IntCounterVec,
    first_label: Option<String>,
    cells: Per<MethodLabel, [OnceLock<IntCounter>; names::CODES]>,
}

impl ByCode {
    /// Creates the counters of `grpc_server_handled_total`, by type, service, method and code.
    pub(super) fn for_server(family: IntCounterVec) -> Self {
        Self { family, first_label: None, cells: no_cells() }
    }

    /// Creates the counters of one caller, by caller, method and code.
    pub(super) fn for_caller(family: IntCounterVec, caller: &str) -> Self {
        Self { family, first_label: Some(caller.to_owned()), cells: no_cells() }
    }

    pub(super) fn counter(&self, method: MethodLabel, code: Code) -> &IntCounter {
        self.cells.get(method)[code as usize].get_or_init(|| {
            let code = names::metric_code(code);
            match &self.first_label {
                None => {
                    let [kind, service, method] = method.labels();
                    self.family.with_label_values(&[kind, service, method, code])
                }
                Some(first) => self.family.with_label_values(&[first, method.as_str(), code]),
            }
        })
    }
}

fn no_cells() -> Per<MethodLabel, [OnceLock<IntCounter>; names::CODES]> {
    Per::new(|_| std::array::from_fn(|_| OnceLock::new()))
}

/// Resolves a member for each method, by [`METHOD_LABELS`].
pub(super) fn per_method<B: MetricVecBuilder>(family: &MetricVec<B>) -> Per<MethodLabel, B::M> {
    Per::new(|method: MethodLabel| family.with_label_values(&method.labels()))
}
