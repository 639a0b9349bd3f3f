//! The platform client against a server that misbehaves: every row of the fault matrix.

#[path = "../../tests/support/upstream.rs"]
mod upstream;

mod fixture;
mod http2;
mod issue;
mod login;
mod tls;
mod wire;
