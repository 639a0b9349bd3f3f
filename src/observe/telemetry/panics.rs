//! Counts and logs panics of calls, without their text.

use super::metrics::Metrics;
use crate::domain::call::{Call, Operation};

/// Counts a panic of a call and logs it. The message of the panic is omitted, because it may
/// contain secrets.
pub fn call_panicked(call: &Call, metrics: &Metrics) {
    metrics.panic();
    tracing::error!(
        request.id = %call.request_id(),
        rpc.method = call.operation().map_or("unknown", Operation::name),
        "call panicked"
    );
}
