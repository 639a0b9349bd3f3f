//! The stack of health calls: the health service and UNIMPLEMENTED for everything else.
//!
//! Health callers are not identified, so a request must not use resources that identified callers
//! need. A request has no audit record, span, log line, identification or place among the calls in
//! flight, and this stack does not hold the means to create them. It only has its own counters.

use std::time::Duration;

use http::{HeaderValue, Request, Response, StatusCode, Uri, Version};
use tokio::time::timeout;
use tonic::{Code, Status, body::Body, metadata::GRPC_CONTENT_TYPE};
use tonic_health::pb::health_server::HealthServer;
use tower::Service;

use super::stack::speaks_grpc;
use crate::observe::{
    health::ConnectionHealth,
    telemetry::metrics::{HealthCallMetrics, HealthRefusal},
};

/// The methods of the health service.
const METHODS: [&str; 2] = ["/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"];
/// The only header that the service reads: the compression of the request's message.
const ENCODING: &str = "grpc-encoding";
/// Prefix of the paths of the health service.
const HEALTH_SERVICE: &str = "/grpc.health.v1.Health/";
/// Maximum time from the headers of a request to the headers of its response. The service itself
/// never waits, so only a request message that does not arrive takes this long.
const REQUEST_LIMIT: Duration = Duration::from_secs(1);

/// The health service of one connection, and UNIMPLEMENTED for everything else.
#[derive(Clone, Debug)]
pub(super) struct HealthStack(HealthServer<ConnectionHealth>);

impl HealthStack {
    pub(super) const fn new(health: HealthServer<ConnectionHealth>) -> Self {
        Self(health)
    }

    /// Returns whether a request is for the health service.
    pub(super) fn serves<B>(request: &Request<B>) -> bool {
        request.uri().path().starts_with(HEALTH_SERVICE)
    }

    /// Answers a request and counts it.
    pub(super) async fn answer<B>(&self, request: Request<B>, metrics: &HealthCallMetrics) -> Response<Body>
    where
        B: http_body::Body<Data = bytes::Bytes> + Send + 'static,
        B::Error: Into<tonic::codegen::StdError>,
    {
        let mut outcome = Outcome { metrics, refusal: Some(HealthRefusal::NoMessage) };
        if let Err(status) = speaks_grpc(&request) {
            outcome.refusal = Some(HealthRefusal::NotGrpc);
            return not_grpc(status);
        }
        // The service answers an unknown path with UNIMPLEMENTED, without reading the message.
        match timeout(REQUEST_LIMIT, self.0.clone().call(reduced(request))).await {
            Ok(Ok(response)) => {
                outcome.refusal = refusal(&response);
                response
            }
            Ok(Err(never)) => match never {},
            Err(_elapsed) => bare(Code::DeadlineExceeded),
        }
    }
}

/// Returns a request without the peer's headers, so that it does not hold them while it waits for
/// its message.
fn reduced<B>(request: Request<B>) -> Request<Body>
where
    B: http_body::Body<Data = bytes::Bytes> + Send + 'static,
    B::Error: Into<tonic::codegen::StdError>,
{
    let (head, body) = request.into_parts();
    let mut reduced = Request::new(Body::new(body));
    *reduced.version_mut() = Version::HTTP_2;
    // An unknown path is answered at once.
    let path = METHODS.into_iter().find(|path| *path == head.uri.path()).unwrap_or("/");
    *reduced.uri_mut() = Uri::from_static(path);
    // Copied, because a header value may share a buffer with all other headers.
    let encoding =
        head.headers.get(ENCODING).and_then(|value| HeaderValue::from_bytes(value.as_bytes()).ok());
    if let Some(encoding) = encoding {
        reduced.headers_mut().insert(ENCODING, encoding);
    }
    reduced
}

/// The outcome of one request, counted on drop. A request whose connection ends is dropped before
/// it is answered.
struct Outcome<'a> {
    metrics: &'a HealthCallMetrics,
    /// `None` if the request is answered with a health status.
    refusal: Option<HealthRefusal>,
}

impl Drop for Outcome<'_> {
    fn drop(&mut self) {
        match self.refusal {
            None => self.metrics.answered(),
            Some(refusal) => self.metrics.refused(refusal),
        }
    }
}

/// Returns why the health service refused a request, if it did.
fn refusal(response: &Response<Body>) -> Option<HealthRefusal> {
    // Only an error response has its status in the headers.
    let code = Code::from_bytes(response.headers().get(Status::GRPC_STATUS)?.as_bytes());
    match code {
        // NOT_FOUND is the health status of an unknown service.
        Code::Ok | Code::NotFound => None,
        Code::Unimplemented => Some(HealthRefusal::Unimplemented),
        _ => Some(HealthRefusal::NoMessage),
    }
}

/// Returns a gRPC status without a message.
fn bare(code: Code) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    let headers = response.headers_mut();
    headers.insert(http::header::CONTENT_TYPE, GRPC_CONTENT_TYPE);
    headers.insert(Status::GRPC_STATUS, HeaderValue::from(i32::from(code)));
    response
}

/// Returns an HTTP status, so that a prober without gRPC does not mistake the response for success.
fn not_grpc(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_keeps_nothing_of_a_size_that_the_peer_chooses() {
        let large = "x".repeat(8000);
        for (path, kept) in [(METHODS[0], METHODS[0]), (METHODS[1], METHODS[1]), (&*format!("/{large}"), "/")]
        {
            let request = Request::post(format!("http://{large}{path}?{large}"))
                .header("x-large", &large)
                .header(ENCODING, "gzip")
                .header("cookie", &large)
                .extension(large.clone())
                .body(Body::empty())
                .unwrap();
            let reduced = reduced(request);
            assert_eq!(*reduced.uri(), *kept);
            assert_eq!(reduced.headers().len(), 1);
            assert_eq!(reduced.headers()[ENCODING], "gzip");
            assert!(reduced.extensions().is_empty());
        }
    }
}
