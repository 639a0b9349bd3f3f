//! The gateway process and its surroundings in a test: the platform, callers, a JWT issuer,
//! a trace collector.

pub(crate) mod admin;
pub(crate) mod authority;
pub(crate) mod call;
pub(crate) mod calling;
pub(crate) mod collector;
pub(crate) mod gateway;
pub(crate) mod issuer;
pub(crate) mod nameserver;
pub(crate) mod port;
pub(crate) mod raw;
#[cfg(feature = "sandbox")]
pub(crate) mod sandbox;
#[expect(dead_code, reason = "the unit tests of `platform` use the rest")]
pub(crate) mod upstream;
