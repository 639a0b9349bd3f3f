//! Checks whether a gateway would start with a configuration, without starting it.

use super::{StartError, settings};
use crate::{
    caller::Identification,
    config::Config,
    http_client::{ClientTlsSet, Resolver},
    memory::ResponseMemory,
    server,
    telemetry::metrics::Metrics,
};

/// Builds the same parts as a start, but opens no listener, audit log or connection. Files are read
/// like at a start.
///
/// # Errors
///
/// The errors of [`App::start`](super::App::start), except for addresses in use and an audit sink
/// that cannot be opened.
pub fn check(config: &Config) -> Result<(), StartError> {
    server::check(&settings::server(&config.server))?;
    if let Some(listen) = config.server.health_listen {
        server::check(&settings::health_server(&config.server, listen, settings::HEALTH_CONNECTIONS))?;
    }
    settings::audit(&config.audit, &config.server)?.check()?;
    settings::policy(&config.access, &config.callers.tokens)?;
    let metrics = Metrics::new();
    let resolver = Resolver::system(metrics.outgoing());
    let mut tls = ClientTlsSet::default();
    let callers = settings::callers(&config.callers, &mut tls, &resolver)?;
    Identification::new(callers, metrics)?;
    settings::traces(&config.telemetry, &mut tls)?;
    for (name, client) in &config.api_clients.by_name {
        let http = settings::http(client, &mut tls, &resolver)?;
        settings::credential(name, client, &http)?;
        settings::platform(name, client, ResponseMemory::default())?;
    }
    Ok(())
}
