//! Checks whether an API client's credential works, without a gateway.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use super::{
    StartError,
    outgoing::{Outgoing, token_endpoint},
};
use crate::{
    base::clock::WallClock,
    config::ApiClient,
    credential::{self, CredentialError},
    domain::call::Deadline,
    observe::telemetry::metrics::Metrics,
};

/// Maximum duration of the check.
const LIMIT: Duration = Duration::from_secs(12);

/// Why no access token could be fetched.
#[derive(Debug, thiserror::Error)]
pub enum OnlineCheckError {
    /// The configuration cannot be used.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The platform returned none.
    #[error(transparent)]
    Credential(#[from] CredentialError),
}

/// Fetches one access token, like a running gateway.
pub async fn fetch_access_token(name: &Arc<str>, client: &ApiClient) -> Result<(), OnlineCheckError> {
    let metrics = Metrics::new();
    let http = Outgoing::new(&metrics).http(client)?;
    let (settings, endpoint) = (client.credential.clone(), token_endpoint(name, client, &http)?);
    let (credential, refresh) =
        credential::new(settings, endpoint, metrics.api_client(name), WallClock::system());
    let stop = CancellationToken::new();
    let running = tokio::spawn(refresh.run(stop.clone()));
    let fetched = credential.bearer(Deadline::after(LIMIT)).await;
    stop.cancel();
    let _ = running.await;
    fetched?;
    Ok(())
}
