//! What a port serves: the gateway's calls, or the health service alone.

use http::{Request, Response};
use tonic::body::Body;

use super::{health_stack::HealthStack, stack::CallStack};
use crate::{caller::Peer, clock::Instant};

/// The stack of a port; one for each worker.
#[derive(Debug)]
pub(super) enum Port {
    /// The main port: the service, reflection and health.
    Calls(CallStack),
    /// The health port: the health service and nothing else.
    Health(HealthStack),
}

impl Port {
    /// Answers a request that arrived at `arrived` from `peer`.
    pub(super) async fn answer<B>(&self, request: Request<B>, peer: &Peer, arrived: Instant) -> Response<Body>
    where
        B: http_body::Body<Data = bytes::Bytes> + Send + Unpin + 'static,
        B::Error: Into<tonic::codegen::StdError>,
    {
        match self {
            Self::Calls(stack) => stack.answer(request, peer, arrived).await,
            Self::Health(stack) => stack.answer(request).await,
        }
    }
}
