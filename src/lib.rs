#![forbid(unsafe_code)]
//! `ott-gateway` logs people in to the Acronis Cyber Platform with one-time tokens, over gRPC.

pub mod app;
pub mod cli;
pub mod config;
pub mod proto;

pub mod server;

pub mod caller;

pub mod access;

pub mod service;

pub mod ott;
pub mod session;

pub mod platform;

pub mod credential;

pub mod status;

pub mod audit;
pub mod health;
pub mod telemetry;

pub mod backoff;
pub mod call;
pub mod clock;
pub mod secret;

#[cfg(feature = "sandbox")]
pub mod sandbox;
