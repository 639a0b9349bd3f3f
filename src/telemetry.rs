//! What the gateway shows of itself: logs, metrics, traces, the admin listener.

pub mod metrics;
pub mod names;
