//! What answers the calls of one worker, behind the middleware.
//!
//! The middleware has already found the method of a call and read its message, so the service is
//! called directly. A router and the library's unary handler would do both a second time.

use std::fmt;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, header::CONTENT_TYPE, request::Parts};
use tonic::{metadata::GRPC_CONTENT_TYPE, service::Routes};
use tower::Service;

use super::response_body::ResponseBody;
#[cfg(feature = "sandbox")]
use crate::service::RehearsedService;
use crate::{access::Admission, arrival::Arrival, service::OttService, status::Failure};

/// Headers of a response that are added by the gateway: its type and the id of its call.
const RESPONSE_HEADERS: usize = 2;

/// The gateway's own service, and the routes of everything else.
pub struct Handlers {
    calls: Calls,
    routes: Routes,
}

/// What answers the calls of the gateway's own service.
enum Calls {
    Service(OttService),
    /// That of a sandbox, which fails on demand.
    #[cfg(feature = "sandbox")]
    Rehearsed(Box<RehearsedService>),
    /// The routes, to test the middleware with handlers that do something else.
    #[cfg(test)]
    Routed,
}

/// The answer of one of them.
enum Answer<S, #[cfg(feature = "sandbox")] B, #[cfg(test)] R> {
    Service(S),
    #[cfg(feature = "sandbox")]
    Rehearsed(B),
    #[cfg(test)]
    Routed(std::pin::Pin<Box<R>>),
}

impl Handlers {
    /// `service` answers the calls of the gateway's own service, and `routes` all others.
    #[must_use]
    pub fn new(service: OttService, routes: Routes) -> Self {
        Self { calls: Calls::Service(service), routes: routes.prepare() }
    }

    /// As [`new`](Self::new), with a service that fails on demand. For the command `sandbox` only.
    #[cfg(feature = "sandbox")]
    #[must_use]
    pub fn rehearsed(service: RehearsedService, routes: Routes) -> Self {
        Self { calls: Calls::Rehearsed(Box::new(service)), routes: routes.prepare() }
    }

    /// Answers a call of the gateway's own service. `message` is its complete body. Neither is
    /// kept while the call waits.
    pub(super) fn call(
        &self,
        head: &Parts,
        message: &Bytes,
        arrival: Arrival,
        admission: Admission,
    ) -> impl Future<Output = Result<Response<ResponseBody>, Failure>> + use<'_> {
        let answer = match &self.calls {
            Calls::Service(service) => {
                Answer::Service(service.answer(arrival, admission, &head.headers, message))
            }
            #[cfg(feature = "sandbox")]
            Calls::Rehearsed(service) => {
                Answer::Rehearsed(service.answer(arrival, admission, &head.headers, message))
            }
            #[cfg(test)]
            Calls::Routed => {
                let mut request =
                    Request::from_parts(head.clone(), http_body_util::Full::new(message.clone()));
                request.extensions_mut().insert(arrival);
                Answer::Routed(Box::pin(self.route(request)))
            }
        };
        async move {
            match answer {
                Answer::Service(answer) => answer.await.map(succeeded),
                #[cfg(feature = "sandbox")]
                Answer::Rehearsed(answer) => answer.await.map(succeeded),
                #[cfg(test)]
                Answer::Routed(answer) => Ok(answer.await),
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
    /// Routes to all services, of which one is the gateway's own.
    fn from(routes: Routes) -> Self {
        Self { calls: Calls::Routed, routes: routes.prepare() }
    }
}

impl fmt::Debug for Handlers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handlers").finish_non_exhaustive()
    }
}
