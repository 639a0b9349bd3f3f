//! The two RPCs, as typed handlers.
//!
//! The middleware has already refused calls of methods that no rule allows. A handler checks the
//! message, then the user, and then calls the platform. `wire` decodes and encodes messages,
//! `convert` checks them, `detached` runs work that must outlive its caller, and `platform` sends
//! the requests.

mod api_clients;
pub mod arrival;
mod convert;
mod detached;
#[cfg(feature = "sandbox")]
mod fault_injection;
mod issue_ott;
mod known_tokens;
mod login_with_ott;
mod named_callers;
mod presented;
mod reflection;
mod refused_requests;
mod undelivered;
mod wire;

use std::sync::Arc;

use bytes::Bytes;
use http::HeaderMap;

#[cfg(feature = "sandbox")]
pub use self::fault_injection::FaultInjectingService;
pub use self::{
    api_clients::ApiClients,
    known_tokens::KnownTokens,
    named_callers::NamedCallers,
    reflection::{Reflection, ReflectionError},
    refused_requests::RefusedRequests,
};
use self::{convert::Issued, detached::Detachable, undelivered::Undelivered};
use crate::{
    access::{Access, Admission},
    domain::{
        call::{Call, Method},
        session::{Account, LoggedIn},
    },
    observe::{audit::Audit, telemetry::metrics::Metrics},
    platform::ApiClient,
    proto::ott::v1::{IssueOttResponse, LoginWithOttResponse},
    service::arrival::Arrival,
    status::{Case, Failure, Reason},
    token_binding::{Mode, TokenBinding},
};

/// The service of one worker. API clients and their connections are per worker; everything else is
/// shared and cheap to clone.
#[derive(Clone, Debug)]
pub struct OttService {
    /// The access rules and quotas.
    pub access: Access,
    /// The configured API clients.
    pub api_clients: ApiClients,
    /// The audit log.
    pub audit: Audit,
    /// Tokens that were issued or are being spent, on all workers.
    pub known_tokens: KnownTokens,
    /// Seals issued tokens, and opens presented ones.
    pub token_binding: TokenBinding,
    /// The metrics.
    pub metrics: Metrics,
}

impl OttService {
    /// Returns the API client `name`, or the default one, with its treatment of tokens, and records
    /// it in the call.
    ///
    /// A caller whose rules do not allow `name` gets the same error whether or not it is
    /// configured, so that API client names cannot be guessed.
    fn client_for(
        &self,
        call: &Call,
        admission: &Admission,
        name: Option<&str>,
    ) -> Result<(ApiClient, Mode), Failure> {
        let client = self.api_clients.named(name);
        if let Some((client, _)) = client {
            call.set_api_client(Arc::clone(client.name()));
        }
        if let Some(name) = name {
            self.access.admits_api_client(admission, name)?;
        }
        client.map(|(client, mode)| (client.clone(), mode)).ok_or_else(|| {
            Failure::of(if name.is_some() { Case::ApiClientUnknown } else { Case::NoDefaultApiClient })
        })
    }
}

/// A call in progress.
enum Working {
    Issue(Detachable<Issued>),
    LogIn(Detachable<(Account, Undelivered)>),
}

impl OttService {
    /// Answers a call that the middleware has admitted. `body` is its complete body: one message
    /// with its prefix. Returns the response in the same form. Checks that need no waiting run
    /// before the future is polled.
    ///
    /// # Errors
    ///
    /// The failure to report to the caller.
    pub fn answer(
        &self,
        arrival: Arrival,
        admission: Admission,
        headers: &HeaderMap,
        body: &[u8],
    ) -> impl Future<Output = Result<Bytes, Failure>> + use<> {
        let working = self.begin(arrival, admission, headers, body);
        async move {
            // Secrets stay in zeroizing types until delivery.
            match working {
                Err(failure) => Err(failure),
                Ok(Working::Issue(work)) => wire::encode(&IssueOttResponse::from(work.await?)),
                Ok(Working::LogIn(work)) => {
                    let (account, undelivered) = work.await?;
                    let session = undelivered.deliver();
                    wire::encode(&LoginWithOttResponse::from(LoggedIn { account, session }))
                }
            }
        }
    }

    fn begin(
        &self,
        arrival: Arrival,
        admission: Admission,
        headers: &HeaderMap,
        body: &[u8],
    ) -> Result<Working, Failure> {
        match arrival.call.method() {
            Some(Method::IssueOtt) => {
                self.issue(arrival, admission, wire::decode(headers, body)?).map(Working::Issue)
            }
            Some(Method::LoginWithOtt) => {
                self.log_in(arrival, admission, wire::decode(headers, body)?).map(Working::LogIn)
            }
            None => Err(Failure::new(Reason::MethodUnknown)),
        }
    }
}

#[cfg(test)]
mod tests;
