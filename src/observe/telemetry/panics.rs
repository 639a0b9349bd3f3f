//! Counts and logs panics of calls, without their text.

use super::metrics::Metrics;
use crate::domain::call::{Call, Method};

/// Counts a panic of a call and logs it. The message of the panic is omitted, because it may
/// contain secrets.
pub fn call_panicked(call: &Call, metrics: &Metrics) {
    metrics.panic();
    tracing::error!(
        request.id = %call.request_id(),
        rpc.method = call.method().map_or("unknown", Method::name),
        "call panicked"
    );
}
