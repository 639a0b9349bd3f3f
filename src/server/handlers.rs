//! The services that answer the calls of one worker, behind the middleware.
//!
//! The middleware has already determined the method of a call and read its message, so the service
//! is called directly. A router and the library's unary handler would do both again.

use std::fmt;

use bytes::Bytes;
use futures_util::FutureExt as _;
use http::{HeaderMap, Request, Response, header::CONTENT_TYPE, request::Parts};
use tonic::{metadata::GRPC_CONTENT_TYPE, service::Routes};
use tower::Service;

use super::response_body::ResponseBody;
#[cfg(feature = "sandbox")]
use crate::service::FaultInjectingService;
use crate::{
    access::Admission,
    service::{OttService, arrival::Arrival},
    status::Failure,
};

/// Number of response headers that the gateway adds: the content type and the request id.
const RESPONSE_HEADERS: usize = 2;

/// The gateway's own service, and the routes of all other services.
pub struct Handlers {
    calls: Calls,
    routes: Routes,
}

/// The service that answers the gateway's own calls.
enum Calls {
    Service(OttService),
    /// The service of a sandbox, with fault injection.
    #[cfg(feature = "sandbox")]
    FaultInjecting(Box<FaultInjectingService>),
    /// The routes, so that tests can run the middleware with their own handlers.
    #[cfg(test)]
    Routed,
}

impl Handlers {
    /// `service` answers the calls of the gateway's own service, and `routes` all others.
    #[must_use]
    pub fn new(service: OttService, routes: Routes) -> Self {
        Self { calls: Calls::Service(service), routes: routes.prepare() }
    }

    /// Like [`new`](Self::new), with fault injection. For the command `sandbox` only.
    #[cfg(feature = "sandbox")]
    #[must_use]
    pub fn with_faults(service: FaultInjectingService, routes: Routes) -> Self {
        Self { calls: Calls::FaultInjecting(Box::new(service)), routes: routes.prepare() }
    }

    /// Answers a call of the gateway's own service. `message` is its complete body. The future
    /// borrows neither `head` nor `message`, so they need not be kept while the call waits.
    pub(super) fn call(
        &self,
        head: &Parts,
        message: &Bytes,
        arrival: Arrival,
        admission: Admission,
    ) -> impl Future<Output = Result<Response<ResponseBody>, Failure>> + use<'_> {
        match &self.calls {
            Calls::Service(service) => {
                let answer = service.answer(arrival, admission, &head.headers, message);
                let answer = answer.map(|message| message.map(succeeded));
                #[cfg(any(test, feature = "sandbox"))]
                let answer = answer.left_future();
                answer
            }
            #[cfg(feature = "sandbox")]
            Calls::FaultInjecting(service) => {
                let answer = service.answer(arrival, admission, &head.headers, message);
                answer.map(|message| message.map(succeeded)).boxed().right_future()
            }
            #[cfg(test)]
            Calls::Routed => {
                let mut request =
                    Request::from_parts(head.clone(), http_body_util::Full::new(message.clone()));
                request.extensions_mut().insert(arrival);
                self.route(request).map(Ok).boxed().right_future()
            }
        }
    }

    /// Answers any other request.
    pub(super) async fn route<B>(&self, request: Request<B>) -> Response<ResponseBody>
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<tonic::codegen::StdError>,
    {
        // The router is always ready and never fails.
        match self.routes.clone().call(request).await {
            Ok(response) => response.map(ResponseBody::from),
            Err(never) => match never {},
        }
    }
}

/// Returns the response of a call that succeeded.
fn succeeded(message: Bytes) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::succeeded(message));
    let mut headers = HeaderMap::with_capacity(RESPONSE_HEADERS);
    headers.insert(CONTENT_TYPE, GRPC_CONTENT_TYPE);
    *response.headers_mut() = headers;
    response
}

#[cfg(test)]
impl From<Routes> for Handlers {
    /// Routes to all services, including the gateway's own.
    fn from(routes: Routes) -> Self {
        Self { calls: Calls::Routed, routes: routes.prepare() }
    }
}

impl fmt::Debug for Handlers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handlers").finish_non_exhaustive()
    }
}
