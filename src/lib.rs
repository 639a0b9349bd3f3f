#![forbid(unsafe_code)]
//! `ott-gateway` logs people in to the Acronis Cyber Platform with one-time tokens, over
//! gRPC, so that the services that call it never hold the platform's credentials.
//!
//! The stages of a call, in order. Each documents what it does and what it leaves to others.
//!
//! 1. [`server`]: accepts connections, runs the middleware, drains.
//! 2. [`caller`]: identifies the caller by transport or credential.
//! 3. [`access`]: authorizes the call: rules, quotas, permits.
//! 4. [`service`]: the two RPCs, as typed handlers; their domain types are in [`ott`] and
//!    [`session`].
//! 5. [`platform`]: the platform's REST API as typed operations, each with its certainty.
//! 6. [`credential`]: an access token for each API client that does not expire during a request.
//! 7. [`status`]: maps every failure to exactly one gRPC status.
//!
//! Shared by the stages: [`call`] holds the state of one call; [`audit`], [`health`] and
//! [`telemetry`] report it; [`http_client`] sends HTTP requests; [`supervision`] runs background
//! tasks; [`secret`], [`text`], [`files`], [`pki`], [`validity`], [`clock`] and [`backoff`] are
//! utilities. [`cli`] has the commands, [`config`] reads the configuration, [`app`] builds
//! everything, and [`proto`] is the generated contract. `sandbox` is a simulated platform that
//! shares only the clock and the names of reasons with the rest.
//!
//! The crate is a program; its modules are public only for its own tests.

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
pub mod fault_injection;
#[cfg(feature = "sandbox")]
pub mod sandbox;
