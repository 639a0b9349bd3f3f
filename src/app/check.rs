//! Checks whether a gateway would start with a configuration, without starting it.

use super::{StartError, settings};
use crate::{
    caller::Identification, config::Config, memory::ResponseMemory, server, telemetry::metrics::Metrics,
};

/// Builds the same parts as a start, but opens no listener, no audit log and no connection.
/// Files are read as at a start.
///
/// # Errors
///
/// What [`App::start`](super::App::start) would fail with, apart from addresses that are in
/// use and a sink that cannot be written to.
pub fn check(config: &Config) -> Result<(), StartError> {
    server::check(&settings::server(&config.server))?;
    if let Some(listen) = config.server.health_listen {
        server::check(&settings::health_server(&config.server, listen))?;
    }
    settings::audit(&config.audit, &config.server)?;
    settings::policy(&config.access, &config.callers.tokens)?;
    Identification::new(settings::callers(&config.callers)?, Metrics::new())?;
    for (name, client) in &config.api_clients.by_name {
        let http = settings::http(client)?;
        settings::credential(name, client, &http)?;
        settings::platform(name, client, ResponseMemory::default())?;
    }
    Ok(())
}
