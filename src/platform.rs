//! The platform's REST API as typed operations.
//!
//! One way in: [`PlatformClient`].

pub mod error;
mod error_code;
