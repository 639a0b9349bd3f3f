//! Endpoints of the platform's API: the differences between issuing a token and logging in with
//! one.
//!
//! Requests to all endpoints go through the same loop (`exchange`), which uses this data.

use std::time::Duration;

use url::Url;

use super::{Settings, breaker::Breaker, headers::RequestHeaders, retry::Repeat};
use crate::{
    base::memory::{ResponseMemory, USUAL_BYTES},
    domain::call::Method,
    observe::telemetry::metrics::ApiClientMetrics,
};

/// One endpoint, shared by all workers.
#[derive(Debug)]
pub(super) struct Endpoint {
    /// The gRPC method that it serves.
    pub(super) method: Method,
    /// The URL of requests.
    pub(super) url: Url,
    /// Headers of every request.
    pub(super) headers: RequestHeaders,
    /// Timeout of one attempt, from connecting to the end of the response body.
    pub(super) timeout: Duration,
    /// Maximum size of a 2xx response, in bytes.
    pub(super) max_response_bytes: usize,
    /// Minimum time before the deadline for sending a request.
    pub(super) min_time_left: Duration,
    /// Whether and when a failed attempt may be repeated.
    pub(super) repeat: Repeat,
    /// Circuit breaker of the endpoint.
    pub(super) breaker: Breaker,
    /// Memory for its responses, shared by the whole process.
    pub(super) memory: ResponseMemory,
}

impl Endpoint {
    /// `POST /idp/ott`, which issues a token. Repeating it is safe: an undelivered token expires.
    pub(super) fn ott(settings: &Settings, memory: &ResponseMemory, metrics: &ApiClientMetrics) -> Self {
        let Settings { data_center, limits, .. } = settings;
        Self {
            method: Method::IssueOtt,
            url: data_center.ott_url().clone(),
            headers: RequestHeaders::new(data_center.ott_url(), true),
            timeout: limits.attempt_timeout,
            max_response_bytes: limits.max_ott_bytes,
            min_time_left: limits.min_time_left,
            repeat: Repeat::Safe { max_attempts: limits.max_attempts },
            breaker: Breaker::new(Method::IssueOtt, limits.breaker, metrics.clone()),
            memory: memory.clone(),
        }
    }

    /// `POST /idp/ott/login`, which spends a token. It is repeated only if the token was
    /// not sent.
    pub(super) fn ott_login(
        settings: &Settings,
        memory: &ResponseMemory,
        metrics: &ApiClientMetrics,
    ) -> Self {
        let Settings { data_center, limits, .. } = settings;
        Self {
            method: Method::LoginWithOtt,
            url: data_center.ott_login_url().clone(),
            headers: RequestHeaders::new(data_center.ott_login_url(), false),
            timeout: limits.login_timeout,
            max_response_bytes: limits.max_login_bytes,
            min_time_left: limits.min_login_time_left,
            repeat: Repeat::IfNotSent { min_time_left: limits.min_time_left_for_second_login },
            breaker: Breaker::new(Method::LoginWithOtt, limits.breaker, metrics.clone()),
            memory: memory.clone(),
        }
    }

    /// Returns whether its responses may be larger than [`USUAL_BYTES`].
    pub(super) const fn has_large_responses(&self) -> bool {
        self.max_response_bytes > USUAL_BYTES
    }

    /// Returns whether a request that may have been processed has spent something that cannot be
    /// used again.
    pub(super) const fn spends(&self) -> bool {
        matches!(self.repeat, Repeat::IfNotSent { .. })
    }
}
