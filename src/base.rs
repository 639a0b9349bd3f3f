//! Modules that any other may use: secrets, files, certificates, memory, text and time.
//!
//! Nothing here is about calls, one-time tokens or the platform.

pub mod backoff;
pub mod clock;
pub mod files;
pub mod memory;
pub mod pki;
pub mod secret;
pub mod text;
pub mod validity;
