#![forbid(unsafe_code)]
//! `ott-gateway` logs people in to the Acronis Cyber Platform with one-time tokens, over
//! gRPC, so that the services that call it never hold the platform's credentials.
//!
//! The stages of a call, in order. Each documents what it does and what it leaves to others.
//!
//! 1. [`server`]: accepts connections, runs the middleware, drains.
//! 2. [`caller`]: identifies the caller by transport or credential.
//! 3. [`access`]: authorizes the call: rules, quotas, permits.
//! 4. [`service`]: the two RPCs, as typed handlers.
//! 5. [`platform`]: the platform's REST API as typed operations, each with its certainty.
//! 6. [`credential`]: an access token for each API client that does not expire during a request.
//! 7. [`status`]: maps every failure to exactly one gRPC status.
//!
//! Shared by the stages, from the top: [`http_client`] sends HTTP requests and [`supervision`] runs
//! background tasks; [`observe`] has the audit log, health and telemetry; [`domain`] has the state
//! of one call, tokens, sessions and reasons; [`base`] has secrets, files, certificates, memory,
//! text and time.
//!
//! Around them: [`cli`] has the commands, [`config`] reads the configuration, [`app`] builds
//! everything, [`admin`] has the pages of metrics and probes, and [`proto`] is the generated
//! contract. `sandbox` is a simulated platform that shares only the clock, the names of reasons and
//! the trait of [`fault_injection`] with the rest.
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
pub mod rule_comparison;

pub mod service;

pub mod platform;

pub mod credential;

pub mod status;

pub mod http_client;
pub mod supervision;
pub mod token_binding;

pub mod observe;

pub mod domain;

pub mod base;

#[cfg(feature = "sandbox")]
pub mod fault_injection;
#[cfg(feature = "sandbox")]
pub mod sandbox;
