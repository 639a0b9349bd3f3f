#![forbid(unsafe_code)]
//! `ott-gateway` logs people in to the Acronis Cyber Platform with one-time tokens, over
//! gRPC, so that the services that call it never hold the platform's credentials.
//!
//! This page is the way of a call: each stage in the order in which a call meets it.
//! Each stage documents what it does and what it leaves to others.
//!
//! 1. [`server`]: connections in, calls through the middleware, drain.
//! 2. [`caller`]: who is calling, proven by the transport or by a credential.
//! 3. [`access`]: whether this caller may do this: rules, quotas, permits.
//! 4. [`service`]: the two RPCs, as typed handlers; their words are in [`ott`] and
//!    [`session`].
//! 5. [`platform`]: the platform's REST API as typed operations, each with its certainty.
//! 6. [`credential`]: a token that outlives the exchange, for each API client.
//! 7. [`status`]: every failure, as exactly one gRPC status.
//!
//! Aside: [`call`] is what is known of one call so far; [`audit`], [`health`] and
//! [`telemetry`] report to the outside; [`http_client`] is shared by all senders of HTTP requests;
//! [`supervision`] runs background tasks; [`secret`], [`text`], [`files`], [`pki`], [`validity`],
//! [`clock`] and [`backoff`] are used by all of them. Around them: [`cli`] has the commands, [`config`] reads the configuration,
//! [`app`] builds everything, [`proto`] is the generated contract. Apart stands `sandbox`,
//! a copy of the platform that shares nothing with the rest but the clock.
//!
//! The crate is a program; its parts are public for its own tests.

pub mod app;
pub mod cli;
pub mod config;
pub mod proto;

pub mod admin;
pub mod server;

pub mod caller;

pub mod access;

pub mod arrival;
pub mod service;

pub mod ott;
pub mod session;

pub mod platform;

pub mod credential;

pub mod status;

pub mod http_client;

pub mod audit;
pub mod call;
pub mod health;
pub mod telemetry;

pub mod backoff;
pub mod clock;
pub mod files;
pub mod memory;
pub mod pki;
pub mod reason;
pub mod secret;
pub mod supervision;
pub mod text;
pub mod validity;

#[cfg(feature = "sandbox")]
pub mod rehearsal;
#[cfg(feature = "sandbox")]
pub mod sandbox;
