//! The ground that everything else stands on: secrets, files, certificates, memory, text and time.
//!
//! Nothing here knows of calls, tokens or the platform.

pub mod backoff;
pub mod clock;
pub mod files;
pub mod memory;
pub mod pki;
pub mod secret;
pub mod text;
pub mod validity;
