//! An endpoint of the platform's API: what is different between minting a token and
//! logging in with one.
//!
//! Requests to any endpoint go through the same loop (`exchange`); these are its data.

use std::time::Duration;

use url::Url;

use super::{Settings, breaker::Breaker, headers::RequestHeaders, retry::Repeat};
use crate::{
    call::Operation,
    memory::{ResponseMemory, USUAL_BYTES},
    telemetry::metrics::ApiClientMetrics,
};

/// One endpoint, shared by all workers.
#[derive(Debug)]
pub(super) struct Endpoint {
    /// The method of the contract that it serves.
    pub(super) operation: Operation,
    /// Where requests go.
    pub(super) url: Url,
    /// What every request to it carries.
    pub(super) headers: RequestHeaders,
    /// Limit for one attempt, from connecting to the end of the response body.
    pub(super) timeout: Duration,
    /// Maximum size of a 2xx response, in bytes.
    pub(super) max_response_bytes: usize,
    /// With less than this left of the deadline nothing is sent.
    pub(super) min_time_left: Duration,
    /// When a failed attempt may be followed by another.
    pub(super) repeat: Repeat,
    /// Whether the endpoint is asked at all.
    pub(super) breaker: Breaker,
    /// Memory for its responses, shared by the whole process.
    pub(super) memory: ResponseMemory,
}

impl Endpoint {
    /// `POST /idp/ott`, which mints a token. Repeating it is safe: a token that nobody
    /// received expires.
    pub(super) fn ott(settings: &Settings, memory: &ResponseMemory, metrics: &ApiClientMetrics) -> Self {
        let Settings { data_center, limits, .. } = settings;
        Self {
            operation: Operation::IssueOtt,
            url: data_center.ott_url().clone(),
            headers: RequestHeaders::new(data_center.ott_url(), true),
            timeout: limits.attempt_timeout,
            max_response_bytes: limits.max_ott_bytes,
            min_time_left: limits.min_time_left,
            repeat: Repeat::Safe { max_attempts: limits.max_attempts },
            breaker: Breaker::new(Operation::IssueOtt, limits.breaker, metrics.clone()),
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
            operation: Operation::LoginWithOtt,
            url: data_center.ott_login_url().clone(),
            headers: RequestHeaders::new(data_center.ott_login_url(), false),
            timeout: limits.login_timeout,
            max_response_bytes: limits.max_login_bytes,
            min_time_left: limits.min_login_time_left,
            repeat: Repeat::IfNotSent { min_time_left: limits.min_time_left_for_second_login },
            breaker: Breaker::new(Operation::LoginWithOtt, limits.breaker, metrics.clone()),
            memory: memory.clone(),
        }
    }

    /// Returns whether its responses may be larger than usual.
    pub(super) const fn has_large_responses(&self) -> bool {
        self.max_response_bytes > USUAL_BYTES
    }

    /// Returns whether a request that may have been processed has used up something that
    /// the caller cannot use again.
    pub(super) const fn spends(&self) -> bool {
        matches!(self.repeat, Repeat::IfNotSent { .. })
    }
}
