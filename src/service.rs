//! The two RPCs, as typed handlers.
//!
//! Calls that no rule allows this caller have been refused before. A handler checks the caller and the
//! method, then the message, then the user, and then calls the platform. `convert` checks
//! messages, `wire` decodes and encodes them, `detached` runs work that must outlive its caller, and `platform` sends the
//! requests.

mod api_clients;
mod convert;
mod detached;
mod issue_ott;
mod known_tokens;
mod login_with_ott;
mod named_callers;
mod reflection;
mod refused_requests;
mod undelivered;
mod wire;

use std::sync::Arc;

use bytes::Bytes;
use http::HeaderMap;

pub use self::{
    api_clients::ApiClients,
    known_tokens::KnownTokens,
    named_callers::NamedCallers,
    reflection::{Reflection, ReflectionError},
    refused_requests::RefusedRequests,
};
use crate::{
    access::{Access, Admission},
    arrival::Arrival,
    audit::Audit,
    call::{Call, Operation},
    platform::PlatformClient,
    status::{Failure, Reason},
    telemetry::metrics::Metrics,
};

/// The service of one worker. Parts that all workers share are cheap to clone; the API
/// clients are the worker's own, each with its own connections.
#[derive(Clone, Debug)]
pub struct OttService {
    /// The access rules and quotas.
    pub access: Access,
    /// The configured API clients.
    pub api_clients: ApiClients,
    /// The audit log.
    pub audit: Audit,
    /// The tokens that were issued or are being spent, on all workers.
    pub known_tokens: KnownTokens,
    /// The metrics.
    pub metrics: Metrics,
}

impl OttService {
    /// Returns the API client that a request names, or the default one, and records it in
    /// the call.
    ///
    /// A caller whose rules do not allow a name gets the same answer for a configured one
    /// as for any other, so that the names of API clients cannot be guessed.
    fn client_for(
        &self,
        call: &Call,
        admission: &Admission,
        name: Option<&str>,
    ) -> Result<PlatformClient, Failure> {
        let client = self.api_clients.named(name);
        if let Some(client) = client {
            call.set_api_client(Arc::clone(client.name()));
        }
        if let Some(name) = name {
            self.access.admits_api_client(admission, name)?;
        }
        client.cloned().ok_or_else(|| Failure::new(Reason::ApiClientUnknown))
    }
}

impl OttService {
    /// Answers a call that the middleware has admitted. `body` is its complete body: one message
    /// with its prefix. Returns the response in the same form.
    ///
    /// # Errors
    ///
    /// The failure that the call is answered with.
    pub async fn answer(&self, arrival: Arrival, headers: HeaderMap, body: Bytes) -> Result<Bytes, Failure> {
        match arrival.call.operation() {
            Some(Operation::IssueOtt) => {
                let message = wire::decode(&headers, &body)?;
                drop((headers, body));
                wire::encode(&self.issue(arrival, message).await?)
            }
            Some(Operation::LoginWithOtt) => {
                let message = wire::decode(&headers, &body)?;
                drop((headers, body));
                wire::encode(&self.log_in(arrival, message).await?)
            }
            None => Err(Failure::new(Reason::MethodUnknown)),
        }
    }
}
