//! What the gateway shows of itself: logs, metrics, traces, the admin listener.
//!
//! Audit records are another matter: they are in `audit`, and depend on none of this.

pub mod duties;
mod label;
pub mod logging;
pub mod metrics;
pub mod names;
pub mod panics;
pub mod threads;
pub mod tracing;
