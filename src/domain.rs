//! Types that every stage of a call uses: the call itself, one-time tokens, sessions, and the
//! reasons of failed calls.
//!
//! Nothing here performs I/O or uses a stage.

pub mod call;
pub mod ott;
pub mod reason;
pub mod session;
