//! What became of new versions of files: rules, certificates, secrets, keys.
//!
//! Files change rarely, so a lock is fine here. Who looks at the files is elsewhere.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use prometheus::{GaugeVec, IntGaugeVec};

use super::family::{ByWord, Families};
use crate::clock::{self, WallClock};

/// The metrics of reloads. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Reloads(Arc<Inner>);

/// The keys of one JWT issuer.
#[derive(Clone, Debug)]
pub struct JwksMetrics {
    pub(super) reloads: Reloads,
    pub(super) expired: IntGaugeVec,
    pub(super) issuer: Arc<str>,
}

/// What reloads call keys.
const JWKS: &str = "jwks";

impl JwksMetrics {
    /// The issuer, as metrics label it.
    #[must_use]
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// Keys are in use for the first time.
    pub fn loaded(&self) {
        self.reloads.loaded(JWKS, &self.issuer);
    }

    /// Other keys are in use, or what has been read cannot be used.
    pub fn reloaded(&self, ok: bool) {
        self.reloads.reloaded(JWKS, &self.issuer, ok);
    }

    /// What was refused is gone; the keys in use are there again.
    pub fn recovered(&self) {
        self.reloads.recovered(JWKS, &self.issuer);
    }

    /// Shows whether the keys are too old to prove anything.
    pub fn expired(&self, expired: bool) {
        self.expired.with_label_values(&[&*self.issuer]).set(i64::from(expired));
    }
}

#[derive(Debug)]
struct Inner {
    total: ByWord<2>,
    last_success: GaugeVec,
    failing: GaugeVec,
    /// What is failing, and whose it is where there are several.
    failing_now: Mutex<BTreeSet<(&'static str, String)>>,
}

impl Reloads {
    pub(super) fn register(families: &Families<'_>) -> Self {
        Self(Arc::new(Inner {
            total: ByWord::new(families.counters(
                "ott_gateway_reloads_total",
                "New versions of files that were taken over or refused.",
                &["what", "result"],
            )),
            last_success: families.gauges(
                "ott_gateway_reload_last_success_timestamp_seconds",
                "When a version was last taken over, in seconds since 1970.",
                &["what"],
            ),
            failing: families.gauges(
                "ott_gateway_reload_failing",
                "Files whose newest version was refused, so that the last good one is still in use.",
                &["what"],
            ),
            failing_now: Mutex::default(),
        }))
    }

    /// The version that the gateway began with: no reload, but a success.
    pub(super) fn loaded(&self, what: &'static str, whose: &str) {
        for result in ["ok", "failed"] {
            self.0.total.show([what, result]);
        }
        self.succeeded(what);
        self.set_failing(what, whose, false);
    }

    /// A new version was taken over, or refused.
    pub(super) fn reloaded(&self, what: &'static str, whose: &str, ok: bool) {
        self.0.total.increment([what, if ok { "ok" } else { "failed" }]);
        if ok {
            self.succeeded(what);
        }
        self.set_failing(what, whose, !ok);
    }

    /// The version that was refused is gone; what is in use is there again.
    pub(super) fn recovered(&self, what: &'static str, whose: &str) {
        self.set_failing(what, whose, false);
    }

    fn succeeded(&self, what: &'static str) {
        let now = clock::unix_seconds(WallClock::system().now());
        // Whole seconds of this era are exact in a float.
        self.0.last_success.with_label_values(&[what]).set(Duration::from_secs(now).as_secs_f64());
    }

    fn set_failing(&self, what: &'static str, whose: &str, failing: bool) {
        let mut failing_now = self.0.failing_now.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (what, whose.to_owned());
        if failing {
            failing_now.insert(key);
        } else {
            failing_now.remove(&key);
        }
        let count = failing_now.iter().filter(|(other, _)| *other == what).count();
        self.0.failing.with_label_values(&[what]).set(f64::from(u32::try_from(count).unwrap_or(u32::MAX)));
    }
}
