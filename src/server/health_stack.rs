//! The stack of health calls: the health service or nothing.
//!
//! Nobody proves who they are here, so a request must not cost anything that identified
//! callers need. There is no audit record, metric, span or log line per request, no
//! identification and no place among the calls in flight, and this stack is not given the
//! means to create them.

use std::time::Duration;

use http::{HeaderValue, Request, Response, StatusCode};
use tokio::time::timeout;
use tonic::{Code, Status, body::Body, metadata::GRPC_CONTENT_TYPE};
use tonic_health::pb::health_server::HealthServer;
use tower::Service;

use super::stack::speaks_grpc;
use crate::health::ConnectionHealth;

/// Prefix of the paths of the health service.
const HEALTH_SERVICE: &str = "/grpc.health.v1.Health/";
/// Maximum time from the headers of a request to those of its response. The service never
/// waits by itself, so only a request message that does not arrive takes this long.
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

    /// Answers a request.
    pub(super) async fn answer<B>(&self, request: Request<B>) -> Response<Body>
    where
        B: http_body::Body<Data = bytes::Bytes> + Send + 'static,
        B::Error: Into<tonic::codegen::StdError>,
    {
        if let Err(status) = speaks_grpc(&request) {
            return not_grpc(status);
        }
        // The service itself answers a path that is not its own with UNIMPLEMENTED, without
        // reading the message.
        match timeout(REQUEST_LIMIT, self.0.clone().call(request.map(Body::new))).await {
            Ok(Ok(response)) => response,
            Ok(Err(never)) => match never {},
            Err(_elapsed) => bare(Code::DeadlineExceeded),
        }
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

/// Returns an HTTP status, so that a prober that does not use gRPC does not take the response
/// for success.
fn not_grpc(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}
