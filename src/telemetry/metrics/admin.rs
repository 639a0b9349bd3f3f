//! Metrics of requests of the admin port.

use prometheus::IntCounter;

use super::family::Families;

/// A page of the admin port, as a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdminPath {
    /// `/metrics`.
    Metrics,
    /// `/livez`.
    Livez,
    /// `/readyz`.
    Readyz,
    /// Any other path.
    Other,
}

/// How a request was answered, as a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdminResult {
    /// 200.
    Ok,
    /// 503: not alive, or not ready.
    Failing,
    /// 404 or 405: no such page, or no such method.
    Rejected,
}

impl AdminPath {
    const ALL: [Self; 4] = [Self::Metrics, Self::Livez, Self::Readyz, Self::Other];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Metrics => "metrics",
            Self::Livez => "livez",
            Self::Readyz => "readyz",
            Self::Other => "other",
        }
    }
}

impl AdminResult {
    const ALL: [Self; 3] = [Self::Ok, Self::Failing, Self::Rejected];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Failing => "failing",
            Self::Rejected => "rejected",
        }
    }
}

/// Metrics of the admin port. Cheap to clone.
#[derive(Clone, Debug)]
pub struct AdminMetrics {
    requests: [[IntCounter; AdminResult::ALL.len()]; AdminPath::ALL.len()],
}

impl AdminMetrics {
    pub(super) fn register(families: &Families<'_>) -> Self {
        let requests = families.counters(
            "ott_gateway_admin_requests_total",
            "Requests of the admin port that were answered.",
            &["path", "result"],
        );
        let of_path = |path: AdminPath| {
            AdminResult::ALL.map(|result| requests.with_label_values(&[path.as_str(), result.as_str()]))
        };
        Self { requests: AdminPath::ALL.map(of_path) }
    }

    /// Counts a request that was answered.
    pub fn answered(&self, path: AdminPath, result: AdminResult) {
        self.requests[path as usize][result as usize].inc();
    }
}
