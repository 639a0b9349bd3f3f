//! Minting a one-time token: safe to repeat, so it is tried again where that helps.
//!
//! Whether it helps is decided in `retry`.

use std::time::Duration;

use http::HeaderMap;
use tokio::time::sleep;

use super::{
    PlatformClient,
    attempt::{Answer, Ended, Request},
    breaker::Admission,
    error::{ErrorKind, PlatformError},
    failed, messages,
    retry::Retries,
};
use crate::{
    access::IssuePermit,
    call::{Call, Operation},
    credential::Bearer,
    ott::IssuedToken,
    telemetry::tracing::CallSpan,
};

/// The life of a one-time token, from the moment it was made.
const TOKEN_LIFE: Duration = Duration::from_secs(30);

impl PlatformClient {
    /// Asks the platform for a one-time token.
    ///
    /// Each attempt is a span below that of the call. Begins no attempt past the call's deadline or once nobody waits for the answer,
    /// but follows the one that is under way to its end.
    pub async fn issue_ott(
        &self,
        permit: &IssuePermit,
        call: &Call,
        span: &CallSpan,
    ) -> Result<IssuedToken, PlatformError> {
        debug_assert_eq!(permit.api_client(), self.api_client().name(), "a permit for another API client");
        self.api_client.retry_budget.count_call();
        let body = messages::issue_request(permit.subject());
        let mut retries = Retries::new(self.limits().retry_policy());
        let mut replayed = false;
        let mut renewed = None;
        let mut last = None;
        loop {
            let (admission, bearer) = match self.ready_to_issue(renewed.take(), call).await {
                Ok(ready) => ready,
                // What the platform said before tells more than why it is not asked again.
                Err(kind) => return Err(failed(last.unwrap_or(kind), call)),
            };
            let request = Request {
                url: self.api_client.data_center().ott_url().clone(),
                authorization: Some(bearer.header_value().clone()),
                trace: HeaderMap::new(),
                body: body.clone(),
                timeout: self.limits().attempt_timeout,
                max_answer_bytes: self.limits().max_ott_bytes,
            };
            let kind = match self.attempt(Operation::IssueOtt, admission, request, call, span).await {
                Ended::Answered(answer) if answer.status.is_success() => match messages::issued(&answer) {
                    Ok(ott) => return Ok(IssuedToken { ott, expires_at: answer.sent_at + TOKEN_LIFE }),
                    Err(malformation) => ErrorKind::Malformed(malformation),
                },
                Ended::Answered(answer) => self.refusal(&answer, permit, &bearer),
                Ended::Interrupted { .. } => ErrorKind::Interrupted,
                Ended::NotSent { cause, .. } => cause.into(),
            };
            if !replayed && is_unauthorized(&kind) {
                // The platform knows this token no more; with the next one the call is
                // made once again, whatever the retry budget says.
                replayed = true;
                let credential = &self.api_client.credential;
                match credential.bearer_after_rejection(bearer.generation(), call.deadline()).await {
                    Ok(bearer) => renewed = Some(bearer),
                    Err(error) => return Err(failed(error.into(), call)),
                }
                continue;
            }
            match retries.wait_after(&kind) {
                Some(wait) if self.in_time(wait, call).is_ok() && self.api_client.retry_budget.take() => {
                    self.api_client.metrics.retry(Operation::IssueOtt);
                    sleep(wait).await;
                    last = Some(kind);
                }
                _ => return Err(failed(kind, call)),
            }
        }
    }

    /// Everything that an attempt needs: time, leave, and an access token.
    async fn ready_to_issue(
        &self,
        renewed: Option<Bearer>,
        call: &Call,
    ) -> Result<(Admission, Bearer), ErrorKind> {
        self.in_time(Duration::ZERO, call)?;
        let admission = self.admit(Operation::IssueOtt)?;
        let bearer = match renewed {
            Some(bearer) => bearer,
            None => self.api_client.credential.bearer(call.deadline()).await?,
        };
        self.in_time(Duration::ZERO, call)?;
        Ok((admission, bearer))
    }

    fn refusal(&self, answer: &Answer, permit: &IssuePermit, bearer: &Bearer) -> ErrorKind {
        let authorization = bearer.header_value().to_str().unwrap_or_default();
        let token = authorization.split_once(' ').map_or(authorization, |(_, token)| token);
        let echoes = [token, permit.subject().name().as_str()];
        ErrorKind::Answer(messages::error(answer, &echoes, self.api_client.wall.now()))
    }
}

fn is_unauthorized(kind: &ErrorKind) -> bool {
    matches!(kind, ErrorKind::Answer(answer) if answer.status == 401)
}
