//! Test support: the gateway process, the platform, callers, a JWT issuer, a trace collector.

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
pub(crate) mod terminal;
#[expect(dead_code, reason = "some of it is used only by the unit tests of `platform`")]
pub(crate) mod upstream;
