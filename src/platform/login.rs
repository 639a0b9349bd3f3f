//! Spending a one-time token, and ending a session that nobody will get.
//!
//! A token is sent once. Only an attempt that provably sent nothing hands its request
//! back, so that nothing else can be sent a second time.

use std::time::Duration;

use http::{HeaderMap, header::COOKIE};
use tokio::time::{sleep, timeout};

use super::{
    PlatformClient,
    attempt::{Answer, Ended, NotSent, Request},
    error::{ErrorKind, Malformation, PlatformError},
    failed, messages,
    set_cookie::{self, SetCookies},
};
use crate::{
    access::LoginPermit,
    backoff::Backoff,
    call::{Call, Certainty, Operation},
    ott::OneTimeToken,
    session::{LoggedIn, Session},
    telemetry::tracing::CallSpan,
};

impl PlatformClient {
    /// Spends a one-time token: logs in as its user. Each attempt is a span below that of
    /// the call.
    ///
    /// The token goes to the platform once. Only an attempt that provably never left is
    /// repeated: a 429 is passed on with its `Retry-After` even where minting would wait
    /// for a moment, since it came from a platform that had the token.
    ///
    /// An answer that cannot be used may have begun a session all the same; it comes with
    /// the error, and whoever gets it ends it.
    pub async fn log_in(
        &self,
        permit: &LoginPermit,
        ott: OneTimeToken,
        call: &Call,
        span: &CallSpan,
    ) -> Result<LoggedIn, FailedLogin> {
        debug_assert_eq!(permit.api_client(), self.api_client().name(), "a permit for another API client");
        self.api_client.retry_budget.count_call();
        let request = Request {
            url: self.api_client.data_center().ott_login_url().clone(),
            authorization: None,
            trace: HeaderMap::new(),
            body: messages::login_request(&ott),
            timeout: self.limits().login_timeout,
            max_answer_bytes: self.limits().max_login_bytes,
        };
        let ended = match self.attempt_login(request, call, span).await? {
            Ended::NotSent { request, cause: NotSent::Unreachable } if self.may_try_login_again(call) => {
                self.api_client.metrics.retry(Operation::LoginWithOtt);
                let (first, longest) = self.limits().retry_wait;
                sleep(Backoff::new(first, longest).full_jitter(1)).await;
                match self.attempt_login(request, call, span).await {
                    Ok(ended) => ended,
                    Err(_) => return Err(failed(ErrorKind::Unreachable, call).into()),
                }
            }
            ended => ended,
        };
        let kind = match ended {
            Ended::Answered(answer) if answer.status.is_success() => {
                return self.logged_in(&answer).map_err(|(malformation, session)| FailedLogin {
                    error: failed(ErrorKind::Malformed(malformation), call),
                    session,
                });
            }
            Ended::Answered(answer) => {
                let now = self.api_client.wall.now();
                let answer = messages::error(&answer, &[ott.expose()], now);
                if answer.tells_of_a_fault_inside() {
                    // A 4xx by its status, but no word on what became of the token.
                    call.attempt_ended(Certainty::Unknown);
                }
                ErrorKind::Answer(answer)
            }
            Ended::Interrupted { headers } => {
                let session = headers.map(|headers| self.session(&headers).session).unwrap_or_default();
                return Err(FailedLogin { error: failed(ErrorKind::Interrupted, call), session });
            }
            Ended::NotSent { cause, .. } => cause.into(),
        };
        Err(failed(kind, call).into())
    }

    /// Ends a session at the platform, with its own cookies and no others. Best effort
    /// within [`logout_timeout`](super::Limits::logout_timeout): that it could not be
    /// done is logged and nothing else.
    pub async fn log_out(&self, session: &Session) {
        let Some(cookies) = session.logout_header() else { return };
        let url = self.api_client.data_center().logout_url().clone();
        let request = self.http.current().get(url).header(COOKIE, cookies).send();
        let api_client = self.api_client.name();
        match timeout(self.limits().logout_timeout, request).await {
            Ok(Ok(answer)) if answer.status().as_u16() < 400 => tracing::info!(
                api_client.name = %api_client,
                "a session that could not be delivered was ended"
            ),
            Ok(Ok(answer)) => tracing::warn!(
                api_client.name = %api_client,
                http.status = answer.status().as_u16(),
                "a session that could not be delivered was not ended"
            ),
            Ok(Err(_)) | Err(_) => tracing::warn!(
                api_client.name = %api_client,
                "a session that could not be delivered was not ended: no answer from the platform"
            ),
        }
    }

    async fn attempt_login(
        &self,
        request: Request,
        call: &Call,
        span: &CallSpan,
    ) -> Result<Ended, PlatformError> {
        self.in_time(Duration::ZERO, call).map_err(|kind| failed(kind, call))?;
        let admission = self.admit(Operation::LoginWithOtt).map_err(|kind| failed(kind, call))?;
        Ok(self.attempt(Operation::LoginWithOtt, admission, request, call, span).await)
    }

    fn may_try_login_again(&self, call: &Call) -> bool {
        call.deadline().remaining() > self.limits().min_time_left_for_second_login
            && !call.is_abandoned()
            && self.api_client.retry_budget.take()
    }

    fn logged_in(&self, answer: &Answer) -> Result<LoggedIn, (Malformation, Session)> {
        let SetCookies { session, problem } = self.session(&answer.headers);
        match messages::account(answer) {
            Ok(account) if problem.is_none() => Ok(LoggedIn { account, session }),
            unusable => Err((unusable.err().unwrap_or(Malformation::Cookies), session)),
        }
    }

    fn session(&self, headers: &HeaderMap) -> SetCookies {
        set_cookie::read(headers, self.api_client.wall.now())
    }
}

/// A login that gave its caller nothing.
#[derive(Debug)]
pub struct FailedLogin {
    /// What went wrong.
    pub error: PlatformError,
    /// What the platform has begun all the same, to be [ended](PlatformClient::log_out);
    /// empty if there is nothing to end.
    pub session: Session,
}

impl From<PlatformError> for FailedLogin {
    fn from(error: PlatformError) -> Self {
        Self { error, session: Session::default() }
    }
}
