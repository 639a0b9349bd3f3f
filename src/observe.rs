//! The outputs for operators: audit records, health, and telemetry.
//!
//! Every stage reports here; nothing here uses a stage.

pub mod audit;
pub mod health;
pub mod telemetry;
