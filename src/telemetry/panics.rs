//! Panics while a call is handled: counted, and logged without their text.

use super::metrics::Metrics;
use crate::call::{Call, Operation};

/// Counts a panic of a call and logs it. The panic's own text is left out, because it may
/// quote anything.
pub fn call_panicked(call: &Call, metrics: &Metrics) {
    metrics.panic();
    tracing::error!(
        request.id = %call.request_id(),
        rpc.method = call.operation().map_or("unknown", Operation::name),
        "call panicked"
    );
}
