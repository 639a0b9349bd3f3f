//! The platform's REST API as typed operations.
//!
//! One way in: [`PlatformClient`].

pub mod endpoint;
pub mod error;
mod error_code;
