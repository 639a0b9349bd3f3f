//! Checks whether a gateway would start with a configuration, without starting it.

use super::{
    Listener, StartError,
    descriptors::HEALTH_CONNECTIONS,
    hmac_key,
    outgoing::{Outgoing, token_endpoint},
    policy::policy,
    ports, token_keys,
};
use crate::{config::Config, observe::telemetry::metrics::Metrics, server};

/// Builds and reads the same parts and files as a start, but opens no listener, audit log or
/// connection.
///
/// # Errors
///
/// The errors of [`App::start`](super::App::start), except those of opening listeners and the audit
/// sink.
pub fn check(config: &Config) -> Result<(), StartError> {
    let grpc = &config.server.grpc;
    server::check(grpc).map_err(StartError::of(Listener::Grpc))?;
    if let Some(listen) = config.server.health_listen {
        server::check(&ports::health(listen, grpc.drain.clone(), HEALTH_CONNECTIONS))
            .map_err(StartError::of(Listener::Health))?;
    }
    config.audit.check()?;
    hmac_key::read(&config.audit)?;
    token_keys::check(config.token_keys.as_ref())?;
    policy(&config.access, &config.callers.tokens)?;
    let metrics = Metrics::new();
    let mut outgoing = Outgoing::new(&metrics);
    outgoing.identification(&config.callers, &metrics)?;
    if let Some(traces) = &config.telemetry.traces {
        outgoing.collector_tls(traces)?;
    }
    for (name, client) in &config.api_clients.by_name {
        let http = outgoing.http(client)?;
        token_endpoint(name, client, &http)?;
    }
    Ok(())
}
