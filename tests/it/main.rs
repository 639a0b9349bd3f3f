//! Integration tests: the real binary on real sockets, and the repository's other files.
//!
//! All are in one test binary, so that the crate is linked once and the helpers in [`support`] are
//! compiled once. Tests share its process and run in parallel; tests/README.md lists the
//! consequences.

#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking, and its helpers are not marked as tests"
)]

mod support;

mod access;
mod access_questions;
mod access_tests;
mod accounts;
mod api_clients;
mod audit;
mod audit_check;
mod audit_durability;
mod audit_flood;
mod audit_sinks;
mod audit_writes;
mod broken_requests;
mod certificates;
mod change_rules;
mod claims;
mod cli;
mod cli_diagnosis;
mod cli_slips;
mod cli_terminal;
mod clients;
mod compare_rules;
mod connections;
mod credentials;
mod cut_files;
mod deadlines;
mod deployment;
mod descriptors;
mod docs;
mod draining;
mod egress;
mod example_config;
mod exhaustion;
mod file_faults;
mod fuzzing;
mod healthcheck;
mod identity;
mod login_url;
mod logs;
mod memory;
mod metrics;
mod name_lookups;
mod operations;
mod output;
mod pki;
mod probes;
mod reflection;
mod refused_calls;
mod rehearsal;
mod reload;
#[cfg(feature = "sandbox")]
mod sandbox;
#[cfg(feature = "sandbox")]
mod sandbox_isolation;
#[cfg(feature = "sandbox")]
mod sandbox_tools;
mod secrets;
mod signals;
mod statuses;
mod strangers;
mod structure;
mod threads;
mod tls;
mod token_binding;
mod token_binding_config;
mod traces;
mod undelivered_sessions;
mod upstream_requests;
mod warnings;
mod workers;
