//! Metrics of one API client: its calls to the platform and its access token.

use std::{
    array, fmt,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use prometheus::{Gauge, GaugeVec, Histogram, HistogramVec, IntCounter, IntCounterVec};

use super::{
    Metrics,
    family::{Families, Per},
    reloads::{ReloadMetrics, Reloaded, Reloads},
};
use crate::{
    base::clock::{self, Instant},
    domain::call::{Certainty, Method},
    observe::telemetry::label::{Label, labels},
};

impl Label for Method {
    const VALUES: &'static [Self] = &[Self::IssueOtt, Self::LoginWithOtt];

    fn as_str(self) -> &'static str {
        self.name()
    }

    fn index(self) -> usize {
        self as usize
    }
}

impl Label for Certainty {
    const VALUES: &'static [Self] = &[Self::NotSent, Self::Refused, Self::Unknown, Self::Done];

    fn as_str(self) -> &'static str {
        Self::as_str(self)
    }

    fn index(self) -> usize {
        self as usize
    }
}

/// HTTP statuses with their own label: those that the platform documents, and those of proxies. Others
/// have the label of their class.
const STATUSES: [(u16, &str); 28] = [
    (0, "none"),
    (200, "200"),
    (201, "201"),
    (204, "204"),
    (301, "301"),
    (302, "302"),
    (303, "303"),
    (307, "307"),
    (308, "308"),
    (400, "400"),
    (401, "401"),
    (403, "403"),
    (404, "404"),
    (405, "405"),
    (406, "406"),
    (408, "408"),
    (409, "409"),
    (410, "410"),
    (411, "411"),
    (415, "415"),
    (422, "422"),
    (425, "425"),
    (429, "429"),
    (499, "499"),
    (500, "500"),
    (502, "502"),
    (503, "503"),
    (504, "504"),
];
const CLASSES: [&str; 6] = ["other", "1xx", "2xx", "3xx", "4xx", "5xx"];
const STATUS_LABELS: usize = STATUSES.len() + CLASSES.len();

/// The state of a breaker, as a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakerState {
    /// All requests pass.
    Closed,
    /// Only a probe passes.
    HalfOpen,
    /// No request passes.
    Open,
}

labels! {
    /// Result of a token request, as a label.
    pub enum TokenRefresh {
        /// A token was fetched.
        Fetched = "ok",
        /// The platform refused the API client's id and secret.
        Rejected = "rejected",
        /// The request failed for another reason.
        Failed = "failed",
    }
}

/// The families of this module.
#[derive(Debug)]
pub(super) struct ApiClientFamilies {
    requests: IntCounterVec,
    seconds: HistogramVec,
    retries: IntCounterVec,
    breaker: GaugeVec,
    token_remaining: GaugeVec,
    token_refreshes: IntCounterVec,
    clock_skew: GaugeVec,
    texts_withheld: IntCounterVec,
}

/// The metrics of one API client. Cheap to clone.
#[derive(Clone)]
pub struct ApiClientMetrics(Arc<Resolved>);

struct Resolved {
    name: String,
    requests: IntCounterVec,
    request_cells: Per<Method, Per<Certainty, [OnceLock<IntCounter>; STATUS_LABELS]>>,
    seconds: Per<Method, Histogram>,
    retries: Per<Method, IntCounter>,
    breaker: Per<Method, Gauge>,
    token_remaining: Gauge,
    token_valid_until: Mutex<Option<Instant>>,
    token_refreshes: Per<TokenRefresh, IntCounter>,
    reloads: Reloads,
    clock_skew: Gauge,
    texts_withheld: IntCounter,
}

impl ApiClientFamilies {
    pub(super) fn register(families: &Families<'_>) -> Self {
        Self {
            requests: families.counters(
                "ott_gateway_platform_requests_total",
                "Finished attempts at the platform.",
                &["api_client", "operation", "outcome", "http_status"],
            ),
            seconds: families.histograms(
                "ott_gateway_platform_request_seconds",
                "Duration of attempts at the platform.",
                &["api_client", "operation"],
            ),
            retries: families.counters(
                "ott_gateway_platform_retries_total",
                "Attempts at the platform that repeated a failed one, except those with a new access token after a 401.",
                &["api_client", "operation"],
            ),
            breaker: families.gauges(
                "ott_gateway_breaker_state",
                "The circuit breaker of an endpoint: 0 closed, 1 half-open (a probe is in progress), 2 open.",
                &["api_client", "operation"],
            ),
            token_remaining: families.gauges(
                "ott_gateway_access_token_remaining_seconds",
                "Remaining lifetime of the access token in use; 0 if there is none.",
                &["api_client"],
            ),
            token_refreshes: families.counters(
                "ott_gateway_access_token_refreshes_total",
                "Finished requests for an access token.",
                &["api_client", "result"],
            ),
            clock_skew: families.gauges(
                "ott_gateway_clock_skew_seconds",
                "Seconds by which the platform's clock is ahead of the gateway's.",
                &["api_client"],
            ),
            texts_withheld: families.counters(
                "ott_gateway_platform_texts_withheld_total",
                "Error responses of the platform with a text that was withheld, because it contained a part of a secret.",
                &["api_client"],
            ),
        }
    }

    pub(super) fn resolve(&self, name: &str, reloads: Reloads) -> ApiClientMetrics {
        ApiClientMetrics(Arc::new(Resolved {
            name: name.to_owned(),
            requests: self.requests.clone(),
            request_cells: Per::new(|_| Per::new(|_| array::from_fn(|_| OnceLock::new()))),
            seconds: Per::new(|method: Method| self.seconds.with_label_values(&[name, method.name()])),
            retries: Per::new(|method: Method| self.retries.with_label_values(&[name, method.name()])),
            breaker: Per::new(|method: Method| self.breaker.with_label_values(&[name, method.name()])),
            token_remaining: self.token_remaining.with_label_values(&[name]),
            token_valid_until: Mutex::new(None),
            token_refreshes: Per::new(|result: TokenRefresh| {
                self.token_refreshes.with_label_values(&[name, result.as_str()])
            }),
            reloads,
            clock_skew: self.clock_skew.with_label_values(&[name]),
            texts_withheld: self.texts_withheld.with_label_values(&[name]),
        }))
    }
}

impl ApiClientMetrics {
    /// Counts a finished attempt at the platform, and its duration.
    pub fn request(&self, method: Method, certainty: Certainty, http_status: Option<u16>, took: Duration) {
        let status = status_index(http_status);
        self.0.request_cells.get(method).get(certainty)[status]
            .get_or_init(|| {
                let status =
                    STATUSES.get(status).map_or_else(|| CLASSES[status - STATUSES.len()], |(_, label)| label);
                self.0.requests.with_label_values(&[&self.0.name, method.name(), certainty.as_str(), status])
            })
            .inc();
        self.0.seconds.get(method).observe(took.as_secs_f64());
    }

    /// Counts an attempt that repeats a failed one.
    pub fn retry(&self, method: Method) {
        self.0.retries.get(method).inc();
    }

    /// Sets the state of an endpoint's circuit breaker.
    pub fn breaker(&self, method: Method, state: BreakerState) {
        self.0.breaker.get(method).set(match state {
            BreakerState::Closed => 0.0,
            BreakerState::HalfOpen => 1.0,
            BreakerState::Open => 2.0,
        });
    }

    /// Counts a finished token request.
    pub fn token_refresh(&self, result: TokenRefresh) {
        self.0.token_refreshes.get(result).inc();
    }

    /// Returns the metrics of the client secret's file.
    #[must_use]
    pub fn client_secret(&self) -> ReloadMetrics {
        ReloadMetrics::new(&self.0.reloads, Reloaded::ClientSecret, &self.0.name)
    }

    /// Sets the end of validity of the access token in use; `None` if there is no token.
    pub fn token_valid_until(&self, until: Option<Instant>) {
        *self.0.token_valid_until.lock().unwrap_or_else(PoisonError::into_inner) = until;
    }

    /// Sets the number of seconds by which the platform's clock is ahead of ours.
    pub fn clock_skew(&self, seconds: f64) {
        self.0.clock_skew.set(seconds);
    }

    /// Counts an error response with a text that was withheld, because it contains a part of a secret.
    pub fn text_withheld(&self) {
        self.0.texts_withheld.inc();
    }

    /// Returns the name of the API client.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Sets the gauges to their current values.
    pub(super) fn refresh(&self) {
        let until = *self.0.token_valid_until.lock().unwrap_or_else(PoisonError::into_inner);
        let left = until.map_or(Duration::ZERO, |until| until.saturating_duration_since(clock::now()));
        self.0.token_remaining.set(left.as_secs_f64());
    }
}

impl Default for ApiClientMetrics {
    /// Returns metrics that are not exported.
    fn default() -> Self {
        Metrics::new().api_client("default")
    }
}

impl fmt::Debug for ApiClientMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ApiClientMetrics").field(&self.0.name).finish()
    }
}

fn status_index(http_status: Option<u16>) -> usize {
    let status = http_status.unwrap_or(0);
    STATUSES.binary_search_by_key(&status, |(number, _)| *number).unwrap_or_else(|_| {
        let class = usize::from(status / 100);
        STATUSES.len() + if class < CLASSES.len() { class } else { 0 }
    })
}
