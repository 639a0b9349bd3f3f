//! Logs, metrics, traces, and the state of threads and background tasks.
//!
//! Audit records are not part of it: `audit` writes them, regardless of log levels and sampling.
//!
//! ```
//! use std::time::Duration;
//!
//! use ott_gateway::{
//!     domain::call::Method,
//!     observe::telemetry::{logging::LogThrottle, metrics::Metrics},
//! };
//!
//! // Handles are resolved once; counting then takes no lock.
//! let metrics = Metrics::new();
//! let api_client = metrics.api_client("eu2");
//! api_client.retry(Method::IssueOtt);
//! assert!(metrics.render().contains("ott_gateway_platform_retries_total"));
//!
//! // A warning that any number of calls can cause, at most once per hour.
//! let warnings = LogThrottle::every(Duration::from_secs(3600));
//! assert_eq!((warnings.due(), warnings.due()), (Some(0), None));
//! ```

pub mod duties;
mod label;
pub mod logging;
pub mod metrics;
pub mod names;
pub mod panics;
pub mod threads;
pub mod tracing;
