//! The services of a port: health, and on the main port the gateway's calls.

use http::{Request, Response};

use super::{health_stack::HealthStack, response_body::ResponseBody, stack::CallStack};
use crate::{
    base::clock::Instant,
    caller::Peer,
    observe::{
        health::{HealthService, WatchPeer},
        telemetry::metrics::HealthCallMetrics,
    },
};

/// The services of a port; one instance per worker.
#[derive(Debug)]
pub(super) struct Port {
    pub(super) health: HealthService,
    pub(super) health_calls: HealthCallMetrics,
    /// `None` on the health port.
    pub(super) calls: Option<CallStack>,
}

/// The context of a connection, shared by its requests.
#[derive(Debug)]
pub(super) struct Connection {
    peer: Peer,
    health: HealthStack,
}

impl Port {
    /// Returns the context of a new connection.
    pub(super) fn connection(&self, peer: Peer) -> Connection {
        let watch_peer = if self.calls.as_ref().is_some_and(|calls| calls.identification.trusts(&peer)) {
            WatchPeer::Proxy(peer.address())
        } else {
            WatchPeer::Address(peer.address())
        };
        Connection { peer, health: HealthStack::new(self.health.for_connection(watch_peer)) }
    }

    /// Answers a request that arrived on `connection` at `arrived`.
    pub(super) async fn answer<B>(
        &self,
        request: Request<B>,
        connection: &Connection,
        arrived: Instant,
    ) -> Response<ResponseBody>
    where
        B: http_body::Body<Data = bytes::Bytes> + Send + Unpin + 'static,
        B::Error: Into<tonic::codegen::StdError>,
    {
        match &self.calls {
            // Both are boxed: a task is as large as its largest state, even while the peer reads
            // the response. A health call, which needs no credential, must not take the space of a
            // gateway call.
            Some(calls) if !HealthStack::serves(&request) => {
                calls.answer(request, &connection.peer, arrived).await
            }
            // The health port, or a health call, which is answered even when other calls are
            // refused.
            Some(_) | None => {
                Box::pin(connection.health.answer(request, &self.health_calls)).await.map(ResponseBody::from)
            }
        }
    }
}

impl Connection {
    /// Returns the other end of the connection.
    pub(super) const fn peer(&self) -> &Peer {
        &self.peer
    }
}
