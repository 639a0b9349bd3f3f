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
};

/// Error that prevents a gateway from starting.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The gRPC listener.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The admin listener.
    #[error("cannot listen on {0} for metrics and probes: {1}")]
    Admin(SocketAddr, #[source] io::Error),
    /// The audit log.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// The key of the fingerprints in the audit log cannot be read.
    #[error("cannot read the key of the audit fingerprints from {}", .0.display())]
    HmacKey(PathBuf, #[source] io::Error),
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
    /// Converts an error of binding the admin port.
    pub(super) fn from_admin(error: BindError) -> Self {
        match error {
            BindError::Address { address, source } => Self::Admin(address, source),
            error => Self::Bind(error),
        }
    }

    /// Returns the address that could not be bound, the system's error, and the setting with the
    /// address: `listen` for gRPC, or `[admin] listen`.
    #[must_use]
    pub fn refused_address(&self, listen: &'static str) -> Option<(SocketAddr, &io::Error, &'static str)> {
        match self {
            Self::Bind(BindError::Address { address, source }) => Some((*address, source, listen)),
            Self::Admin(address, source) => Some((*address, source, "[admin] listen")),
            _ => None,
        }
    }
}

impl From<ServeError<Self>> for StartError {
    fn from(error: ServeError<Self>) -> Self {
        error.into_routes().unwrap_or_else(Self::Serve)
    }
}
