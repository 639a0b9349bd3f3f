//! The platform client with a misbehaving server.

#[expect(dead_code, reason = "the tests of the whole program use the rest")]
#[path = "../../tests/it/support/upstream.rs"]
pub(crate) mod upstream;

mod connections;
mod fixture;
mod http2;
mod issue;
mod limits;
mod login;
mod names;
mod reading;
mod stray;
mod tls;
mod wire;
