//! The loop of attempts that serves one call.
//!
//! Issuing and logging in go through the same loop; their differences are the data of an
//! [`Endpoint`].

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::HeaderMap;
use tokio::time::{sleep, timeout};

use super::{
    ApiClient,
    attempt::{self, AttemptOutcome, Request, UnsentReason},
    breaker::{BreakerPermit, Open},
    connections::Connections,
    endpoint::Endpoint,
    error::{Malformation, PlatformError},
    messages::Confidential,
    response::PlatformResponse,
    retry::Retries,
};
use crate::{
    base::{
        clock::{self, Instant},
        memory::{Http1Place, Reservation},
    },
    credential::{Bearer, Replay},
    domain::call::Call,
    observe::telemetry::tracing::{Attempt, AttemptSpan, CallSpan},
};

/// Request of one call to an endpoint.
pub(super) struct Exchange<'a> {
    pub(super) endpoint: &'a Endpoint,
    pub(super) connections: &'a Arc<Connections>,
    /// The JSON of the request.
    pub(super) body: Bytes,
    /// Values of the request that must not be returned if an error message repeats them.
    pub(super) echoes: &'a [&'a str],
    /// Secrets in the request. No part of them may be returned.
    pub(super) secrets: &'a [&'a str],
    /// The user that it is for, if the endpoint needs an access token.
    pub(super) subject: Option<&'a str>,
    pub(super) call: &'a Call,
    pub(super) span: &'a CallSpan,
}

/// Resources of an attempt.
struct Ready {
    /// Memory for its response, if that may be large.
    memory: Option<Arc<Reservation>>,
    /// Place among the exchanges over HTTP/1.1, if it may be one.
    place: Option<Http1Place>,
    permit: BreakerPermit,
    /// Access token, if the endpoint needs one.
    bearer: Option<Bearer>,
    /// When all of them had been acquired, and there was still time for an attempt.
    at: Instant,
}

/// An exchange without a usable response. Not `Debug`, because headers may contain cookies.
pub(super) struct FailedExchange {
    /// The last failure.
    pub(super) error: PlatformError,
    /// The head of the last response, if there was one.
    pub(super) headers: Option<HeaderMap>,
}

impl FailedExchange {
    fn boxed(error: PlatformError, headers: Option<HeaderMap>) -> Box<Self> {
        Box::new(Self { error, headers })
    }
}

impl From<PlatformError> for FailedExchange {
    fn from(error: PlatformError) -> Self {
        Self { error, headers: None }
    }
}

impl ApiClient {
    /// Makes attempts until one succeeds or another would not help. `read` extracts the result from
    /// a 2xx response.
    ///
    /// Starts no attempt after the call's deadline or after the caller has disconnected, but
    /// completes the one in progress.
    pub(super) async fn exchange<T>(
        &self,
        exchange: &Exchange<'_>,
        read: impl Fn(&PlatformResponse) -> Result<T, Malformation>,
    ) -> Result<T, FailedExchange> {
        let Exchange { endpoint, call, .. } = *exchange;
        let shared = &*self.state;
        shared.retry_budget.count_call();
        let mut retries = Retries::new(endpoint.repeat, self.limits().retry_policy());
        let mut renewed = None;
        // Boxed, because the future of every call would have room for it otherwise.
        let mut last: Option<Box<FailedExchange>> = None;
        loop {
            let Ready { memory, place, permit, bearer, at } = match self.ready(exchange, renewed.take()).await
            {
                Ok(ready) => ready,
                // The platform's last response is more useful than the reason for not retrying.
                Err(error) => return Err(last.map_or_else(|| error.into(), |last| *last)),
            };
            let failed = match self.attempt(exchange, memory, permit, bearer.as_ref(), at).await {
                AttemptOutcome::Succeeded(answer) => match read(&answer) {
                    Ok(value) => {
                        if let Some(bearer) = &bearer {
                            shared.credential.accepted(bearer);
                        }
                        return Ok(value);
                    }
                    Err(malformation) => {
                        FailedExchange::boxed(PlatformError::Malformed(malformation), Some(answer.headers))
                    }
                },
                AttemptOutcome::Failed(answer, headers) => {
                    FailedExchange::boxed(PlatformError::Response(answer), Some(headers))
                }
                AttemptOutcome::Interrupted { cause, headers, .. } => {
                    FailedExchange::boxed(PlatformError::Interrupted(cause), headers)
                }
                AttemptOutcome::NotSent(cause) => FailedExchange::boxed(PlatformError::from(cause), None),
            };
            // The response has been processed.
            drop(place);
            match (&bearer, exchange.subject) {
                (Some(bearer), Some(subject)) if is_unauthorized(&failed.error) => {
                    // Not a retry: the credential bounds the number of replays.
                    let replay = shared.credential.after_rejection(bearer, subject, call.deadline());
                    renewed = Some(match replay.await.map_err(PlatformError::from)? {
                        Replay::Now(bearer) => bearer,
                        Replay::After(wait, bearer) => {
                            sleep(wait).await;
                            bearer
                        }
                        Replay::Never => return Err(*failed),
                    });
                    continue;
                }
                (Some(bearer), _) if is_from_api(&failed.error) => shared.credential.accepted(bearer),
                _ => {}
            }
            let remaining = call.deadline().remaining();
            match retries.wait_after(&failed.error, remaining) {
                Some(wait)
                    if is_in_time(endpoint, wait, call, clock::now()).is_ok()
                        && shared.retry_budget.take() =>
                {
                    shared.metrics.retry(endpoint.method);
                    sleep(wait).await;
                    last = Some(failed);
                }
                _ => return Err(*failed),
            }
        }
    }

    /// Acquires the resources of an attempt.
    ///
    /// A call that waits here has sent nothing, so a login keeps its token. Memory comes first,
    /// because calls with small responses also wait for the other resources.
    async fn ready(&self, exchange: &Exchange<'_>, renewed: Option<Bearer>) -> Result<Ready, PlatformError> {
        let Exchange { endpoint, call, connections, .. } = exchange;
        is_in_time(endpoint, Duration::ZERO, call, clock::now())?;
        let open = |open: Open| PlatformError::BreakerOpen { retry_after: open.retry_after };
        let max_wait = || call.deadline().remaining().saturating_sub(endpoint.min_time_left);
        let mut memory = None;
        if endpoint.has_large_responses() {
            memory = endpoint.memory.try_reserve(call.consumer());
            if memory.is_none() {
                // A call that would be refused does not wait.
                endpoint.breaker.check().map_err(open)?;
                // Boxed here and below, because it is rare and would enlarge the future of every
                // call.
                let reserved = Box::pin(timeout(max_wait(), endpoint.memory.reserve(call.consumer())));
                memory = Some(reserved.await.map_err(|_elapsed| PlatformError::MemoryInUse)?);
            }
        }
        let mut place = None;
        if connections.may_be_http1() {
            place = endpoint.memory.try_http1_place();
            if place.is_none() {
                endpoint.breaker.check().map_err(open)?;
                let free = Box::pin(timeout(max_wait(), endpoint.memory.http1_place()));
                place = free.await.map_err(|_elapsed| PlatformError::MemoryInUse)?;
            }
        }
        let permit = endpoint.breaker.admit().map_err(open)?;
        let bearer = match renewed {
            None if exchange.subject.is_some() => Some(self.state.credential.bearer(call.deadline()).await?),
            renewed => renewed,
        };
        // Again, because all of this can take time.
        let at = clock::now();
        is_in_time(endpoint, Duration::ZERO, call, at)?;
        Ok(Ready { memory, place, permit, bearer, at })
    }

    /// Returns the headers that propagate the trace, if they are sent.
    fn trace_of(&self, span: &AttemptSpan) -> HeaderMap {
        let mut trace = HeaderMap::new();
        if self.state.settings.propagate_trace {
            span.inject(&mut trace);
        }
        trace
    }

    /// Makes one admitted attempt and reports it to the breaker, the metrics and the trace.
    async fn attempt(
        &self,
        exchange: &Exchange<'_>,
        memory: Option<Arc<Reservation>>,
        permit: BreakerPermit,
        bearer: Option<&Bearer>,
        started: Instant,
    ) -> AttemptOutcome {
        let Exchange { endpoint, connections, call, .. } = exchange;
        let span = exchange.span.attempt(&Attempt {
            method: endpoint.method,
            http_method: "POST",
            url: &endpoint.url,
            resends: call.attempts(),
        });
        let request = Request {
            endpoint,
            authorization: bearer.map(|bearer| bearer.header_value().clone()),
            trace: self.trace_of(&span),
            body: exchange.body.clone(),
            confidential: Confidential {
                echoes: exchange.echoes,
                secrets: exchange.secrets,
                bearer,
                proxy_password: self.proxy_password.as_deref(),
                call,
                metrics: &self.state.metrics,
            },
        };
        let outcome = attempt::send(connections, &request, memory, call, &self.state.wall, started).await;
        let ended = clock::now();
        let took = ended.saturating_duration_since(started);
        let (certainty, status) = (outcome.certainty(endpoint), outcome.http_status());
        match (outcome.error_type(), status) {
            (Some(error_type), _) => span.failed(error_type, &outcome.cause()),
            (None, status) => span.answered(status.unwrap_or_default()),
        }
        endpoint.breaker.report(permit, outcome.evidence(), ended);
        self.state.metrics.request(endpoint.method, certainty, status, took);
        tracing::debug!(
            request.id = %call.request_id(),
            api_client.name = %self.state.name(),
            rpc.method = endpoint.method.name(),
            http.status = status,
            outcome = certainty.as_str(),
            cause = outcome.error_type().map(|_| outcome.cause()),
            duration_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            "platform request ended"
        );
        outcome
    }
}

/// Returns an error unless an attempt may start this wait after `now`: the caller must still be
/// waiting, with enough time left to deliver the response.
fn is_in_time(endpoint: &Endpoint, wait: Duration, call: &Call, now: Instant) -> Result<(), PlatformError> {
    let needed = wait.saturating_add(endpoint.min_time_left);
    if call.is_abandoned() || call.deadline().remaining_at(now) < needed {
        return Err(PlatformError::DeadlinePassed);
    }
    Ok(())
}

/// Returns whether the response came from the platform's API itself, and not from a proxy or a
/// firewall.
fn is_from_api(error: &PlatformError) -> bool {
    matches!(error, PlatformError::Response(answer) if answer.body.is_some())
}

fn is_unauthorized(error: &PlatformError) -> bool {
    matches!(error, PlatformError::Response(answer) if answer.status == 401)
}

impl From<UnsentReason> for PlatformError {
    fn from(cause: UnsentReason) -> Self {
        match cause {
            UnsentReason::Unreachable(cause) => Self::Unreachable(cause),
            UnsentReason::CertificateInvalid(cause) => Self::CertificateInvalid(cause),
            UnsentReason::NameLookup(cause) => Self::NameLookup(cause),
            UnsentReason::Exhausted(cause) => Self::Exhausted(cause),
            UnsentReason::Queued => Self::Queued,
            UnsentReason::Withdrawn => Self::DeadlinePassed,
        }
    }
}
