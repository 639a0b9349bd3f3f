//! Logs, metrics, traces, and the state of threads and background tasks.
//!
//! Audit records are in `audit`, and do not depend on this module.

pub mod duties;
mod label;
pub mod logging;
pub mod metrics;
pub mod names;
pub mod panics;
pub mod threads;
pub mod tracing;
