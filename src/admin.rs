//! The pages of the admin port: `/metrics`, `/livez` and `/readyz`.
//!
//! All pages are read-only. `server/http1.rs` handles connections and their limits.
//!
//! ```
//! use http::{Request, StatusCode};
//! use ott_gateway::{
//!     admin::Admin,
//!     observe::{health::Health, telemetry::metrics::Metrics},
//! };
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), http::Error> {
//! let health = Health::new();
//! let admin = Admin::new(Metrics::new(), health.clone());
//! assert_eq!(admin.answer(&Request::get("/readyz").body(())?).await.status(), StatusCode::OK);
//! health.set_draining();
//! let response = admin.answer(&Request::get("/readyz").body(())?).await;
//! assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
//! # Ok(())
//! # }
//! ```

mod page;

use std::fmt::Display;

use bytes::Bytes;
use http::{
    HeaderValue, Method, Request, Response, StatusCode,
    header::{ALLOW, CONTENT_TYPE},
};
use http_body_util::Full;

use self::page::MetricsPage;
use crate::observe::{
    health::Health,
    telemetry::metrics::{AdminMetrics, AdminPath, AdminResult, Metrics},
};

const PLAIN_TEXT: &str = "text/plain; charset=utf-8";
const PROMETHEUS_TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Answers the requests of the admin port.
#[derive(Debug)]
pub struct Admin {
    metrics: Metrics,
    health: Health,
    requests: AdminMetrics,
    page: MetricsPage,
}

impl Admin {
    /// Creates the pages of a gateway.
    #[must_use]
    pub fn new(metrics: Metrics, health: Health) -> Self {
        Self { requests: metrics.admin(), page: MetricsPage::new(metrics.clone()), metrics, health }
    }

    /// Answers a request.
    pub async fn answer<B>(&self, request: &Request<B>) -> Response<Full<Bytes>> {
        let path = match request.uri().path() {
            "/metrics" => AdminPath::Metrics,
            "/livez" => AdminPath::Livez,
            "/readyz" => AdminPath::Readyz,
            _ => AdminPath::Other,
        };
        let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
        let (result, response) = match path {
            AdminPath::Other => {
                (AdminResult::Rejected, text(StatusCode::NOT_FOUND, PLAIN_TEXT, Bytes::new()))
            }
            _ if !is_read => (AdminResult::Rejected, method_not_allowed()),
            AdminPath::Metrics => {
                (AdminResult::Ok, text(StatusCode::OK, PROMETHEUS_TEXT, self.page.current().await))
            }
            AdminPath::Livez => {
                let threads = self.metrics.threads().unresponsive();
                let duties = self.metrics.duties().down();
                let reasons = threads.iter().map(ToString::to_string);
                let reasons: Vec<_> = reasons.chain(duties.iter().map(ToString::to_string)).collect();
                probe("not alive", &reasons)
            }
            AdminPath::Readyz => probe("not ready", &self.health.why_not()),
        };
        self.requests.answered(path, result);
        response
    }
}

/// Returns `ok`, or one line per reason.
fn probe<T: Display>(failure: &str, reasons: &[T]) -> (AdminResult, Response<Full<Bytes>>) {
    if reasons.is_empty() {
        return (AdminResult::Ok, text(StatusCode::OK, PLAIN_TEXT, Bytes::from_static(b"ok\n")));
    }
    let lines: Vec<String> = reasons.iter().map(|reason| format!("{failure}: {reason}\n")).collect();
    (AdminResult::Failing, text(StatusCode::SERVICE_UNAVAILABLE, PLAIN_TEXT, Bytes::from(lines.concat())))
}

fn method_not_allowed() -> Response<Full<Bytes>> {
    let mut response = text(StatusCode::METHOD_NOT_ALLOWED, PLAIN_TEXT, Bytes::new());
    response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    response
}

fn text(status: StatusCode, kind: &'static str, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http_body_util::BodyExt;

    use super::*;
    use crate::observe::{health::AuditState, telemetry::duties::Duty};

    fn admin() -> Admin {
        // With this limit, a thread counts as blocked at once, unless it waits.
        Admin::new(Metrics::with_blocked_after(Duration::ZERO), Health::new())
    }

    async fn asked(admin: &Admin, method: Method, path: &str) -> (u16, String) {
        let request = Request::builder().method(method).uri(path).body(()).unwrap();
        let (head, body) = admin.answer(&request).await.into_parts();
        (head.status.as_u16(), String::from_utf8(body.collect().await.unwrap().to_bytes().into()).unwrap())
    }

    async fn page(admin: &Admin, path: &str) -> (u16, String) {
        asked(admin, Method::GET, path).await
    }

    fn ok() -> (u16, String) {
        (200, "ok\n".to_owned())
    }

    #[tokio::test]
    async fn only_the_three_pages_are_served() {
        let admin = admin();
        let request = Request::get("/metrics").body(()).unwrap();
        let metrics = admin.answer(&request).await;
        assert_eq!(metrics.headers()[CONTENT_TYPE], "text/plain; version=0.0.4; charset=utf-8");
        let (status, text) = page(&admin, "/metrics").await;
        assert!(status == 200 && text.contains("\nott_gateway_build_info{version="), "{status} {text}");
        assert_eq!(page(&admin, "/livez").await, ok());
        assert_eq!(page(&admin, "/readyz?verbose").await, ok());
        assert_eq!(asked(&admin, Method::HEAD, "/livez").await.0, 200);
        for path in ["/", "/metrics/", "/debug/pprof", "/readyz/x", "//livez", "/%6cive"] {
            assert_eq!(page(&admin, path).await.0, 404, "{path}");
        }
        for method in [Method::POST, Method::PUT, Method::OPTIONS] {
            assert_eq!(asked(&admin, method.clone(), "/readyz").await.0, 405, "{method}");
        }
    }

    #[tokio::test]
    async fn requests_are_counted_by_page_and_result() {
        let admin = admin();
        for path in ["/metrics", "/livez", "/livez", "/readyz", "/", "/favicon.ico"] {
            page(&admin, path).await;
        }
        admin.health.set_audit(AuditState::Unavailable);
        page(&admin, "/readyz").await;
        asked(&admin, Method::POST, "/metrics").await;
        let (_, text) = page(&admin, "/metrics").await;
        let counted: Vec<&str> = text
            .lines()
            .filter_map(|line| line.strip_prefix("ott_gateway_admin_requests_total{"))
            .filter(|line| !line.ends_with(" 0"))
            .collect();
        assert_eq!(
            counted,
            [
                "path=\"livez\",result=\"ok\"} 2",
                "path=\"metrics\",result=\"ok\"} 1",
                "path=\"metrics\",result=\"rejected\"} 1",
                "path=\"other\",result=\"rejected\"} 2",
                "path=\"readyz\",result=\"failing\"} 1",
                "path=\"readyz\",result=\"ok\"} 1",
            ]
        );
    }

    #[tokio::test]
    async fn readiness_lists_each_reason_and_does_not_affect_liveness() {
        let admin = admin();
        let _starting = admin.health.credential("eu2");
        admin.health.set_audit(AuditState::Unavailable);
        let reasons = "not ready: the first token request of API client \"eu2\" has not ended\n\
                       not ready: audit records cannot be written\n";
        assert_eq!(page(&admin, "/readyz").await, (503, reasons.to_owned()));
        assert_eq!(page(&admin, "/livez").await, ok());
    }

    #[tokio::test(start_paused = true)]
    async fn liveness_lists_each_duty_that_has_been_failing_for_ten_seconds() {
        let admin = admin();
        let duty = admin.metrics.duties().register(Duty::AccessToken, Some("eu2"));
        duty.failed();
        tokio::time::advance(Duration::from_millis(9_999)).await;
        assert_eq!(page(&admin, "/livez").await, ok());
        tokio::time::advance(Duration::from_millis(1)).await;
        let reason = "not alive: duty access_token of \"eu2\" has been failing for 10 s\n";
        assert_eq!(page(&admin, "/livez").await, (503, reason.to_owned()));
        duty.started();
        tokio::time::advance(Duration::from_secs(5)).await;
        assert_eq!(page(&admin, "/livez").await, ok(), "the duty has recovered");
    }

    #[tokio::test]
    async fn liveness_lists_each_blocked_or_dead_thread() {
        let admin = admin();
        let threads = admin.metrics.threads();
        let (blocked, waiting) = (threads.register("worker-0"), threads.register("audit"));
        waiting.pulse().wait();
        drop(threads.register("worker-1"));
        let reasons = "not alive: thread worker-0 has been blocked for 0 s\n\
                       not alive: thread worker-1 has panicked\n";
        assert_eq!(page(&admin, "/livez").await, (503, reasons.to_owned()));
        blocked.pulse().wait();
        assert_eq!(
            page(&admin, "/livez").await,
            (503, "not alive: thread worker-1 has panicked\n".to_owned())
        );
        assert_eq!(page(&admin, "/readyz").await, ok(), "readiness does not depend on liveness");
    }
}
