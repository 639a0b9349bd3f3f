//! Metrics of callers: calls, access rules and quotas.
//!
//! Only callers that the access rules name in full have their own metrics.

use std::{collections::HashMap, sync::Arc};

use arc_swap::ArcSwap;
use prometheus::{IntCounter, IntCounterVec, IntGauge};
use tonic::Code;

use super::{
    MethodLabel, Metrics,
    family::{ByCode, Families, Per},
};
use crate::observe::telemetry::label::labels;

/// Maximum number of callers with their own metrics. All others share one.
pub(super) const MAX_CALLERS: usize = 1000;
/// Label of all other callers.
const OTHER: &str = "other";

labels! {
    /// The first part of a call that no access rule allows, as a label.
    pub enum AccessDenial {
        /// The caller.
        Caller = "caller",
        /// The claims of the caller's JWT.
        Claims = "claims",
        /// The method.
        Method = "method",
        /// The API client.
        ApiClient = "api_client",
        /// The caller that the token of a login was issued to.
        Issuer = "issuer",
        /// The login URL.
        LoginUrl = "login_url",
        /// The user.
        User = "user",
    }
}

labels! {
    /// Scope of a quota bucket, as a label.
    pub enum QuotaBucket {
        /// All calls of one caller.
        Caller = "caller",
        /// The calls of one caller for one user.
        User = "user",
    }
}

/// The families of this module.
pub(super) struct CallerFamilies {
    calls: IntCounterVec,
    quota_exceeded: IntCounterVec,
    without_deadline: IntCounterVec,
    quota_buckets: Per<QuotaBucket, IntGauge>,
    quota_shared: Per<QuotaBucket, IntCounter>,
    access_denied: Per<AccessDenial, IntCounter>,
    named: ArcSwap<HashMap<Box<str>, Arc<CallerCounters>>>,
    others: CallerCounters,
}

/// The counters of one caller.
#[derive(Debug)]
struct CallerCounters {
    calls: ByCode,
    quota_exceeded: IntCounter,
    without_deadline: IntCounter,
}

impl CallerFamilies {
    pub(super) fn register(families: &Families<'_>) -> Self {
        let calls = families.counters(
            "ott_gateway_caller_calls_total",
            "Calls that ended, by the callers that the access rules name; `other` is everyone else.",
            &["caller", "method", "code"],
        );
        let quota_exceeded = families.counters(
            "ott_gateway_quota_exceeded_total",
            "Calls over the caller's quota: refused, or allowed in a dry run.",
            &["caller"],
        );
        let without_deadline = families.counters(
            "ott_gateway_calls_without_deadline_total",
            "Calls that set no deadline.",
            &["caller"],
        );
        Self {
            others: CallerCounters::new(&calls, &quota_exceeded, &without_deadline, OTHER),
            calls,
            quota_exceeded,
            without_deadline,
            quota_buckets: families.int_gauge_per(
                "ott_gateway_quota_buckets",
                "Callers, and users of callers, with quota state.",
                "per",
            ),
            quota_shared: families.counter_per(
                "ott_gateway_quota_shared_decisions_total",
                "Decisions of quotas by a bucket that several callers or users share.",
                "per",
            ),
            access_denied: families.counter_per(
                "ott_gateway_access_denied_total",
                "Calls that the access rules refused.",
                "reason",
            ),
            named: ArcSwap::default(),
        }
    }

    fn counters(&self, caller: &str) -> CallerCounters {
        CallerCounters::new(&self.calls, &self.quota_exceeded, &self.without_deadline, caller)
    }
}

impl CallerCounters {
    fn new(
        calls: &IntCounterVec,
        quota_exceeded: &IntCounterVec,
        without_deadline: &IntCounterVec,
        caller: &str,
    ) -> Self {
        let calls = ByCode::for_caller(calls.clone(), caller);
        // Other codes are added on their first use, because there may be many callers.
        for method in [MethodLabel::IssueOtt, MethodLabel::LoginWithOtt] {
            calls.counter(method, Code::Ok);
        }
        Self {
            calls,
            quota_exceeded: quota_exceeded.with_label_values(&[caller]),
            without_deadline: without_deadline.with_label_values(&[caller]),
        }
    }
}

impl Metrics {
    /// Sets the callers that the rules name in full, which have their own metrics. Existing counts are
    /// kept.
    pub fn set_callers(&self, callers: impl IntoIterator<Item = impl AsRef<str>>) {
        let callers = callers
            .into_iter()
            .take(MAX_CALLERS)
            .map(|caller| (Box::from(caller.as_ref()), Arc::new(self.0.callers.counters(caller.as_ref()))))
            .collect();
        self.0.callers.named.store(Arc::new(callers));
    }

    /// Counts a call of a caller that was answered.
    pub fn caller_call(&self, caller: &str, method: MethodLabel, code: Code) {
        self.with_caller(caller, |counters| counters.calls.counter(method, code).inc());
    }

    /// Counts a call without a deadline.
    pub fn without_deadline(&self, caller: &str) {
        self.with_caller(caller, |counters| counters.without_deadline.inc());
    }

    /// Counts a call that the access rules refused.
    pub fn access_denied(&self, reason: AccessDenial) {
        self.0.callers.access_denied.get(reason).inc();
    }

    /// Counts a call over the caller's quota, which is allowed in a dry run.
    pub fn quota_exceeded(&self, caller: &str) {
        self.with_caller(caller, |counters| counters.quota_exceeded.inc());
    }

    /// Changes the number of quota buckets.
    pub fn quota_buckets(&self, bucket: QuotaBucket, change: i64) {
        self.0.callers.quota_buckets.get(bucket).add(change);
    }

    /// Counts a decision of a quota by a bucket that several callers or users share.
    pub fn quota_shared(&self, bucket: QuotaBucket) {
        self.0.callers.quota_shared.get(bucket).inc();
    }

    fn with_caller(&self, caller: &str, count: impl FnOnce(&CallerCounters)) {
        match self.0.callers.named.load().get(caller) {
            Some(counters) => count(counters),
            None => count(&self.0.callers.others),
        }
    }
}
