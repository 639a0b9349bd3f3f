//! One line for every call: who got which token, and how it ended.

use crate::{call::Call, ott::OneTimeToken};

/// Where audit records go. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Audit {}

/// The audit record could not be handed to the kernel in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the audit record cannot be written")]
pub struct AuditUnavailable;

/// How a call ended, for its record.
#[derive(Clone, Copy, Debug)]
pub struct Ending {
    /// The gRPC status code.
    pub code: tonic::Code,
    /// The reason, unless all went well: a value of the contract's `ErrorReason`, or
    /// `cancelled_before_send`.
    pub reason: Option<&'static str>,
}

impl Audit {
    /// No audit at all.
    #[must_use]
    pub fn off() -> Self {
        Self::default()
    }

    /// Whether the sink is known to be broken, so that nothing should be started.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        false
    }

    /// Writes the record of a call and waits until the kernel has it (bounded: 1 s).
    /// What is known of the call (caller, subject, fingerprint, outcome …) is read
    /// from it.
    #[expect(clippy::unused_async, reason = "the signature that the rooms are built against")]
    pub async fn record(&self, _call: &Call, _ending: Ending) -> Result<(), AuditUnavailable> {
        Ok(())
    }

    /// The fingerprint of a token: joins the issue and the login of the same token.
    #[must_use]
    pub fn fingerprint(&self, _ott: &OneTimeToken) -> Option<String> {
        None
    }
}
