//! What answers the calls of one worker, behind the middleware.
//!
//! The middleware has already found the service of a call by its path, so it calls that service
//! directly. A router would look for it a second time, at the cost of ten allocations.

use std::{convert::Infallible, fmt};

use bytes::Bytes;
use futures_util::FutureExt as _;
use http::{Request, Response};
use http_body_util::Full;
use tonic::{body::Body, codegen::BoxFuture, service::Routes};
use tower::Service;

type Answering = BoxFuture<Response<Body>, Infallible>;

/// The gateway's own service, and the routes of everything else.
pub struct Handlers {
    calls: Box<dyn Fn(Request<Full<Bytes>>) -> Answering + Send + Sync>,
    routes: Routes,
}

impl Handlers {
    /// `service` answers the calls of the gateway's own service, and `routes` all others. Like
    /// all services of tonic, it is always ready and cheap to clone.
    pub fn new<S>(service: S, routes: Routes) -> Self
    where
        S: Service<Request<Full<Bytes>>, Response = Response<Body>, Error = Infallible, Future = Answering>,
        S: Clone + Send + Sync + 'static,
    {
        Self { calls: Box::new(move |request| service.clone().call(request)), routes: routes.prepare() }
    }

    /// Answers a call of the gateway's own service.
    pub(super) async fn call(&self, request: Request<Full<Bytes>>) -> Response<Body> {
        match (self.calls)(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }

    /// Answers any other request.
    pub(super) async fn route<B>(&self, request: Request<B>) -> Response<Body>
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<tonic::codegen::StdError>,
    {
        // The router is always ready and never fails.
        match self.routes.clone().call(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }
}

impl From<Routes> for Handlers {
    /// Routes to all services, of which one is the gateway's own.
    fn from(routes: Routes) -> Self {
        let routes = routes.prepare();
        let calls = routes.clone();
        Self { calls: Box::new(move |request| calls.clone().call(request).boxed()), routes }
    }
}

impl fmt::Debug for Handlers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handlers").finish_non_exhaustive()
    }
}
