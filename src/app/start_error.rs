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
    /// The key of the fingerprints in the audit log.
    #[error("cannot read the key of the audit fingerprints from {}", .0.display())]
    HmacKey(PathBuf, #[source] io::Error),
    /// The access rules.
    #[error(transparent)]
    Rules(#[from] InvalidRules),
    /// How callers are identified.
    #[error(transparent)]
    Callers(#[from] caller::InvalidSettings),
    /// Traces.
    #[error(transparent)]
    Tracing(#[from] TracingError),
    /// TLS towards the platform.
    #[error(transparent)]
    Tls(#[from] TlsConfigError),
    /// The HTTP client.
    #[error(transparent)]
    Http(#[from] HttpClientError),
    /// Reflection.
    #[error("cannot set up gRPC reflection")]
    Reflection(#[source] ReflectionError),
    /// The system cannot start another thread.
    #[error(
        "cannot start a thread; raise the limit of threads and processes (TasksMax=, pids.max, ulimit -u) \
         or lower worker_threads"
    )]
    Thread(#[source] io::Error),
    /// The runtime of a thread cannot be built.
    #[error("cannot build the runtime of a thread")]
    Runtime(#[source] io::Error),
    /// A listening socket cannot be used.
    #[error("cannot use a listening socket")]
    Socket(#[source] io::Error),
    /// The limit of open files.
    #[error(transparent)]
    OpenFiles(#[from] TooFewFiles),
    /// A worker ended while it was starting.
    #[error("a worker ended while it was starting")]
    WorkerStopped,
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
        match error {
            ServeError::Thread(error) => Self::Thread(error),
            ServeError::Runtime(error) => Self::Runtime(error),
            ServeError::Socket(error) => Self::Socket(error),
            ServeError::Routes(error) => error,
            ServeError::WorkerStopped => Self::WorkerStopped,
        }
    }
}

impl From<ServeError<Infallible>> for StartError {
    fn from(error: ServeError<Infallible>) -> Self {
        match error {
            ServeError::Thread(error) => Self::Thread(error),
            ServeError::Runtime(error) => Self::Runtime(error),
            ServeError::Socket(error) => Self::Socket(error),
            ServeError::Routes(never) => match never {},
            ServeError::WorkerStopped => Self::WorkerStopped,
        }
    }
}
