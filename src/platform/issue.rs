//! Issuing a one-time token.

use std::time::Duration;

use super::{ApiClient, error::PlatformError, exchange::Exchange, messages};
use crate::{
    access::IssuePermit,
    domain::{call::Call, ott::IssuedToken},
    observe::telemetry::tracing::CallSpan,
};

/// Lifetime of a one-time token, counted from its creation.
const TOKEN_LIFETIME: Duration = Duration::from_secs(30);

impl ApiClient {
    /// Requests a one-time token from the platform. Each attempt is a child span of the
    /// call's span.
    pub async fn issue_ott(
        &self,
        permit: &IssuePermit,
        call: &Call,
        span: &CallSpan,
    ) -> Result<IssuedToken, PlatformError> {
        debug_assert_eq!(permit.api_client(), self.name(), "a permit for another API client");
        let exchange = Exchange {
            endpoint: &self.state.ott,
            connections: &self.ott_connections,
            body: messages::issue_request(permit.subject()),
            echoes: &[permit.subject().as_sent()],
            secrets: &[],
            subject: Some(permit.subject().as_sent()),
            call,
            span,
        };
        let issued = self.exchange(&exchange, |answer| {
            let ott = messages::issued(answer)?;
            Ok(IssuedToken { ott, expires_at: answer.sent_at + TOKEN_LIFETIME })
        });
        issued.await.map_err(|failed| failed.error)
    }
}
