//! Metrics of reloads of files: rules, certificates, secrets and keys.
//!
//! Files change rarely, so a lock is cheap enough. `files` watches them.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use prometheus::{GaugeVec, IntGaugeVec};

use super::{
    Metrics,
    family::{Families, LazyCounters},
};
use crate::{
    base::{
        clock::{self, WallClock},
        files::Outcomes,
    },
    observe::telemetry::label::labels,
};

/// The metrics of reloads. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Reloads(Arc<Inner>);

labels! {
    /// Kind of reloaded files, as the label `what`.
    pub enum Reloaded {
        /// Access rules and bearer tokens, from the configuration file.
        Rules = "rules",
        /// The server's certificate and its private key.
        Certificate = "certificate",
        /// The authorities of client certificates.
        ClientCa = "client_ca",
        /// The authorities of the servers that the gateway connects to.
        Authorities = "authorities",
        /// The client secret of an API client.
        ClientSecret = "client_secret",
        /// The keys of a JWT issuer.
        Jwks = "jwks",
        /// The keys of sealed tokens.
        TokenKeys = "token_keys",
    }
}

labels! {
    /// Result of a reload, as a label.
    enum ReloadResult {
        /// The new version is in use.
        Ok = "ok",
        /// The new version was refused.
        Failed = "failed",
    }
}

/// Metrics of the reloads of one file, or of files that are read together. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ReloadMetrics {
    reloads: Reloads,
    what: Reloaded,
    /// API client or issuer that the file belongs to; empty if there is only one file of this kind.
    owner: Arc<str>,
}

impl ReloadMetrics {
    pub(super) fn new(reloads: &Reloads, what: Reloaded, owner: &str) -> Self {
        Self { reloads: reloads.clone(), what, owner: owner.into() }
    }
}

impl Outcomes for ReloadMetrics {
    fn loaded(&self) {
        self.reloads.0.total.show(self.what);
        self.reloads.succeeded(self.what);
        self.reloads.set_failing(self.what, &self.owner, false);
    }

    fn reloaded(&self, ok: bool) {
        let result = if ok { ReloadResult::Ok } else { ReloadResult::Failed };
        self.reloads.0.total.get(self.what, result).inc();
        if ok {
            self.reloads.succeeded(self.what);
        }
        self.reloads.set_failing(self.what, &self.owner, !ok);
    }

    fn recovered(&self) {
        self.reloads.set_failing(self.what, &self.owner, false);
    }
}

/// Metrics of the keys of one JWT issuer.
#[derive(Clone, Debug)]
pub struct JwksMetrics {
    /// Reloads of the keys.
    pub reloads: ReloadMetrics,
    pub(super) expired: IntGaugeVec,
    pub(super) issuer: Arc<str>,
}

impl JwksMetrics {
    /// Returns the label of the issuer.
    #[must_use]
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// Sets whether the keys are too old to be accepted.
    pub fn expired(&self, expired: bool) {
        self.expired.with_label_values(&[&*self.issuer]).set(i64::from(expired));
    }
}

#[derive(Debug)]
struct Inner {
    total: LazyCounters<Reloaded, ReloadResult>,
    last_success: GaugeVec,
    failing: GaugeVec,
    /// Kind and owner of each failing file.
    failing_now: Mutex<BTreeSet<(Reloaded, Arc<str>)>>,
}

impl Reloads {
    pub(super) fn register(families: &Families<'_>) -> Self {
        Self(Arc::new(Inner {
            total: LazyCounters::new(families.counters(
                "ott_gateway_reloads_total",
                "New versions of files, by result.",
                &["what", "result"],
            )),
            last_success: families.gauges(
                "ott_gateway_reload_last_success_timestamp_seconds",
                "Time of the last successful load, in seconds since 1970.",
                &["what"],
            ),
            failing: families.gauges(
                "ott_gateway_reload_failing",
                "Files whose newest version was refused or cannot be read; the last valid one is still in use.",
                &["what"],
            ),
            failing_now: Mutex::default(),
        }))
    }

    fn succeeded(&self, what: Reloaded) {
        let now = clock::unix_seconds(WallClock::system().now());
        // A float represents whole seconds since 1970 exactly.
        self.0.last_success.with_label_values(&[what.as_str()]).set(Duration::from_secs(now).as_secs_f64());
    }

    fn set_failing(&self, what: Reloaded, owner: &Arc<str>, failing: bool) {
        let mut failing_now = self.0.failing_now.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (what, Arc::clone(owner));
        if failing {
            failing_now.insert(key);
        } else {
            failing_now.remove(&key);
        }
        let count = failing_now.iter().filter(|(other, _)| *other == what).count();
        self.0
            .failing
            .with_label_values(&[what.as_str()])
            .set(f64::from(u32::try_from(count).unwrap_or(u32::MAX)));
    }
}

impl Metrics {
    /// Returns the metrics of a reloaded file. `owner` is the API client or issuer that it belongs to,
    /// or empty if there is only one file of this kind.
    #[must_use]
    pub fn reloads(&self, what: Reloaded, owner: &str) -> ReloadMetrics {
        ReloadMetrics::new(&self.0.reloads, what, owner)
    }

    /// Returns the metrics of the keys of one JWT issuer.
    #[must_use]
    pub fn jwt_issuer(&self, name: &str) -> JwksMetrics {
        JwksMetrics {
            reloads: self.reloads(Reloaded::Jwks, name),
            expired: self.0.jwt_keys_expired.clone(),
            issuer: Arc::from(name),
        }
    }
}
