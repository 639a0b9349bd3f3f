//! Opening a connection: the name first, then everything else within a limit of its own.

use std::{
    error::Error,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::timeout;
use tower::{BoxError, Layer, Service, ServiceExt as _};

use super::{
    cause::{Causes, is_invalid_certificate},
    local_resource::{LocalResource, missing_resource_in},
    resolver::{Host, LookupError},
};
use crate::telemetry::metrics::OutgoingMetrics;

/// Why no connection could be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectFault {
    /// The server or the network.
    Unreachable,
    /// The server's certificate is not valid.
    CertificateInvalid,
    /// There are no addresses for the name. Shows nothing about the server.
    NameLookup,
    /// This machine or process lacks a resource. Shows nothing about the server.
    Exhausted(LocalResource),
}

impl ConnectFault {
    /// Returns the fault of a request that was not sent.
    #[must_use]
    pub fn of(error: &(dyn Error + 'static)) -> Self {
        let lookup = Causes::of(error).find_map(<dyn Error>::downcast_ref::<LookupError>);
        if let Some(lookup) = lookup {
            return lookup.missing_resource().map_or(Self::NameLookup, Self::Exhausted);
        }
        match missing_resource_in(error) {
            Some(resource) => Self::Exhausted(resource),
            None if is_invalid_certificate(error) => Self::CertificateInvalid,
            None => Self::Unreachable,
        }
    }

    /// Returns the resource that this machine or process lacked, if that was why.
    #[must_use]
    pub const fn missing_resource(self) -> Option<LocalResource> {
        match self {
            Self::Exhausted(resource) => Some(resource),
            Self::Unreachable | Self::CertificateInvalid | Self::NameLookup => None,
        }
    }
}

/// No connection in time.
#[derive(Debug, thiserror::Error)]
#[error("no connection within {0:?}")]
struct ConnectTimeout(Duration);

/// Makes a connector wait for the addresses of a name before it starts, and limits the time
/// that it takes from then on.
#[derive(Clone, Debug)]
pub(super) struct ConnectLayer {
    /// The host that is connected to; `None` if the URL contains its address.
    pub(super) host: Option<Arc<Host>>,
    pub(super) limit: Duration,
    pub(super) metrics: OutgoingMetrics,
}

impl<S> Layer<S> for ConnectLayer {
    type Service = Connect<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Connect(Arc::new(Connector { inner, layer: self.clone() }))
    }
}

/// The connector that [`ConnectLayer`] makes. Shared, because the HTTP client copies it several
/// times for each request, and seldom connects.
#[derive(Debug)]
pub(super) struct Connect<S>(Arc<Connector<S>>);

#[derive(Debug)]
struct Connector<S> {
    inner: S,
    layer: ConnectLayer,
}

impl<S> Clone for Connect<S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<S, T> Service<T> for Connect<S>
where
    S: Service<T, Error = BoxError> + Clone + Send + Sync + 'static,
    S::Future: Send,
    T: Send + 'static,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        // The connector that a request uses is copied, and polled, when it connects.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, target: T) -> Self::Future {
        let Self(connector) = self.clone();
        Box::pin(async move {
            let Connector { inner, layer: ConnectLayer { host, limit, metrics } } = &*connector;
            if let Some(host) = host {
                host.addresses().await?;
            }
            let connected = timeout(*limit, inner.clone().oneshot(target))
                .await
                .unwrap_or_else(|_| Err(ConnectTimeout(*limit).into()));
            if let Err(error) = &connected
                && let Some(resource) = missing_resource_in(&**error)
            {
                metrics.exhausted(resource);
            }
            connected
        })
    }
}
