//! Failure to open a connection to the platform.

use std::error::Error;

use crate::http_client::{ConnectError, cause::root_cause};

/// Connection error, as reported by the network stack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct ConnectFailure {
    pub(in super::super) error: ConnectError,
    /// Root cause, for the log.
    pub(in super::super) cause: String,
}

impl ConnectFailure {
    /// Creates the failure of a request that was not sent because of this error.
    pub(in super::super) fn from_error(error: &(dyn Error + 'static)) -> Self {
        Self { error: ConnectError::from_error(error), cause: root_cause(error) }
    }
}
