#![forbid(unsafe_code)]
//! `ott-gateway` logs people in to the Acronis Cyber Platform with one-time tokens, over gRPC.

pub mod backoff;
pub mod call;
pub mod clock;
pub mod secret;
