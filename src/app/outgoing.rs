//! Builds the clients of other servers, which share trusted authorities and the resolver.

use std::sync::Arc;

use super::StartError;
use crate::{
    caller::{self, Identification, JwksRefresh},
    config::{ApiClient, Callers},
    credential::TokenEndpoint,
    http_client::{ClientTlsSet, HttpSettings, Resolver, UnpooledClient},
    observe::telemetry::{
        metrics::Metrics,
        tracing::{self, CollectorTls, Tracer},
    },
};

/// The trusted authorities and the resolver of all connections to other servers.
pub(super) struct Outgoing {
    pub(super) tls: ClientTlsSet,
    pub(super) resolver: Resolver,
}

impl Outgoing {
    /// Uses the system's resolver. Authorities are read on first use.
    pub(super) fn new(metrics: &Metrics) -> Self {
        Self { tls: ClientTlsSet::default(), resolver: Resolver::system(metrics.outgoing()) }
    }

    /// Builds the identification of callers, and the clients that fetch the keys of JWT issuers.
    pub(super) fn identification(
        &mut self,
        callers: &Callers,
        metrics: &Metrics,
    ) -> Result<(Identification, Vec<JwksRefresh>), StartError> {
        let settings = caller::Settings { jwt: callers.jwt.clone(), forwarded: callers.forwarded.clone() };
        let http = |source: &caller::JwksUrl| {
            let tls = self.tls.get(source.ca_file.as_deref(), &source.url, None)?;
            let settings = HttpSettings::new(source.url.clone(), tls, self.resolver.clone());
            Ok::<_, StartError>(UnpooledClient::new(settings)?)
        };
        Identification::new(settings, http, metrics.clone())
    }

    /// Returns the TLS settings for the trace collector, or `None` if it does not use TLS.
    pub(super) fn collector_tls(
        &mut self,
        traces: &tracing::Settings,
    ) -> Result<Option<CollectorTls>, StartError> {
        if traces.endpoint.scheme() != "https" {
            return Ok(None);
        }
        // Its authorities are reloaded when their file changes.
        let tls = self.tls.get(traces.ca_file.as_deref(), &traces.endpoint, None)?;
        let config = Arc::clone(tls.config());
        Ok(Some(CollectorTls { config, generation: Arc::new(move || tls.generation()) }))
    }

    /// Starts the tracer. It is off if traces are not configured.
    pub(super) fn tracer(
        &mut self,
        traces: Option<&tracing::Settings>,
        metrics: &Metrics,
    ) -> Result<Tracer, StartError> {
        let Some(traces) = traces else { return Ok(Tracer::off()) };
        let tls = self.collector_tls(traces)?;
        Ok(Tracer::start(traces, tls.as_ref(), metrics)?)
    }

    /// Returns the HTTP settings for an API client's platform.
    pub(super) fn http(&mut self, client: &ApiClient) -> Result<HttpSettings, StartError> {
        let server = client.platform.data_center.base_url().clone();
        Ok(HttpSettings::configured(server, &client.connections, &mut self.tls, self.resolver.clone())?)
    }
}

/// Returns the token endpoint of an API client, with its own HTTP client.
pub(super) fn token_endpoint(
    name: &Arc<str>,
    client: &ApiClient,
    http: &HttpSettings,
) -> Result<TokenEndpoint, StartError> {
    Ok(TokenEndpoint {
        api_client: Arc::clone(name),
        url: client.platform.data_center.token_url().clone(),
        http: UnpooledClient::new(http.clone())?,
    })
}
