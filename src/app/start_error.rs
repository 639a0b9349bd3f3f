//! Errors that prevent a gateway from starting.

use std::{convert::Infallible, io, net::SocketAddr, path::PathBuf};

use super::descriptors::TooFewFiles;
use crate::{
    access::InvalidRules,
    caller,
    http_client::{HttpClientError, TlsConfigError},
    observe::{audit::AuditError, telemetry::tracing::TracingError},
    server::{BindError, ServeError},
    service::ReflectionError,
    token_binding::UnusableKeys,
};

/// A listener of the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listener {
    /// Calls.
    Grpc,
    /// Probes over gRPC, without TLS.
    Health,
    /// Metrics and probes over HTTP.
    Admin,
}

impl Listener {
    /// Returns the configuration key of its address.
    #[must_use]
    pub const fn key(self) -> &'static str {
        match self {
            Self::Grpc => "[server] listen",
            Self::Health => "[server] health_listen",
            Self::Admin => "[admin] listen",
        }
    }
}

/// Error that prevents a gateway from starting.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A listener.
    #[error("{1}")]
    Bind(Listener, #[source] BindError),
    /// The audit log.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// The key of the fingerprints in the audit log cannot be read.
    #[error("cannot read the key of the audit fingerprints from {}", .0.display())]
    HmacKey(PathBuf, #[source] io::Error),
    /// The keys of sealed tokens cannot be read.
    #[error("cannot read the keys of sealed tokens from {}", .0.display())]
    TokenKeys(PathBuf, #[source] UnusableKeys),
    /// The access rules are not valid.
    #[error(transparent)]
    Rules(#[from] InvalidRules),
    /// The settings for identifying callers are not valid.
    #[error(transparent)]
    Callers(#[from] caller::InvalidSettings),
    /// The export of traces cannot be set up.
    #[error(transparent)]
    Tracing(#[from] TracingError),
    /// TLS to the platform cannot be set up.
    #[error(transparent)]
    Tls(#[from] TlsConfigError),
    /// An HTTP client cannot be created.
    #[error(transparent)]
    Http(#[from] HttpClientError),
    /// gRPC reflection cannot be set up.
    #[error("cannot set up gRPC reflection")]
    Reflection(#[source] ReflectionError),
    /// A port cannot be served.
    #[error(transparent)]
    Serve(#[from] ServeError<Infallible>),
    /// The limit of open files is too low.
    #[error(transparent)]
    OpenFiles(#[from] TooFewFiles),
}

impl StartError {
    /// Returns a conversion of the errors of this listener.
    pub(super) fn of(listener: Listener) -> impl Fn(BindError) -> Self {
        move |error| Self::Bind(listener, error)
    }

    /// Returns the listener whose address could not be bound, the address, and the system's error.
    #[must_use]
    pub const fn refused_address(&self) -> Option<(Listener, SocketAddr, &io::Error)> {
        match self {
            Self::Bind(listener, BindError::Address { address, source }) => {
                Some((*listener, *address, source))
            }
            _ => None,
        }
    }
}

impl From<ServeError<Self>> for StartError {
    fn from(error: ServeError<Self>) -> Self {
        error.into_routes().unwrap_or_else(Self::Serve)
    }
}
