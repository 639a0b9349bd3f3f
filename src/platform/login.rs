//! Spends one-time tokens, and logs out undelivered sessions.

use http::{HeaderMap, header::COOKIE};
use tokio::time::timeout;

use super::{
    ApiClient,
    error::{Malformation, PlatformError},
    exchange::{Exchange, FailedExchange},
    messages,
    set_cookie::{self, SetCookies},
};
use crate::{
    access::LoginPermit,
    domain::{
        call::{Call, Certainty, RequestId},
        ott::OneTimeToken,
        session::{LoggedIn, Session},
    },
    observe::telemetry::tracing::CallSpan,
};

impl ApiClient {
    /// Spends a one-time token: logs in as its user. Each attempt is a child span of the call's
    /// span.
    ///
    /// The token is sent once. Only an attempt that provably sent nothing is repeated: a 429 is
    /// returned with its `Retry-After` even if issuing would wait.
    ///
    /// An unusable response may have started a session. That session is part of the error, and the
    /// caller has to [log it out](Self::log_out).
    pub async fn log_in(
        &self,
        permit: &LoginPermit,
        ott: OneTimeToken,
        call: &Call,
        span: &CallSpan,
    ) -> Result<LoggedIn, FailedLogin> {
        debug_assert_eq!(permit.api_client(), self.name(), "a permit for another API client");
        let exchange = Exchange {
            endpoint: &self.state.ott_login,
            connections: &self.login_connections,
            body: messages::login_request(&ott),
            echoes: &[],
            secrets: &[ott.expose()],
            subject: None,
            call,
            span,
        };
        let logged_in = self.exchange(&exchange, |answer| {
            let account = messages::account(answer)?;
            let cookies = self.read_cookies(&answer.headers);
            cookies.irregularities.warn(call);
            match cookies {
                SetCookies { session, problem: None, .. } => Ok(LoggedIn { account, session }),
                SetCookies { problem: Some(problem), .. } => Err(Malformation::Cookies(problem)),
            }
        });
        logged_in.await.map_err(|FailedExchange { error, headers }| {
            // Cookies may belong to a session, unless the platform itself refused the token.
            let is_refused_by_platform = matches!(&error, PlatformError::Response(answer) if answer.body.is_some())
                && call.certainty() == Certainty::Refused;
            let headers = headers.filter(|_| !is_refused_by_platform);
            let session = headers.map(|headers| self.read_cookies(&headers).session).unwrap_or_default();
            FailedLogin { error, session }
        })
    }

    /// Logs a session out at the platform, with only its own cookies. Best effort, within
    /// [`logout_timeout`](super::Limits::logout_timeout).
    pub async fn log_out(&self, session: &Session, call: &Call) -> LogoutOutcome {
        let failed = |cause: &str| LogoutOutcome::Failed { cause: cause.to_owned() };
        // All cookies were deletions, so there is no session to log out.
        let Some(cookies) = session.logout_header() else { return LogoutOutcome::LoggedOut };
        let url = self.state.data_center().logout_url().clone();
        let request = self
            .ott_connections
            .http()
            .get(url)
            .header(COOKIE, cookies)
            .header(RequestId::HEADER, call.request_id_header());
        match timeout(self.limits().logout_timeout, self.ott_connections.send(request)).await {
            Ok(Ok(response)) if response.status().as_u16() < 400 => LogoutOutcome::LoggedOut,
            Ok(Ok(response)) => LogoutOutcome::Refused { http_status: response.status().as_u16() },
            Ok(Err(error)) => LogoutOutcome::Failed { cause: self.ott_connections.cause_of(&error).await },
            Err(_) => failed("no response in time"),
        }
    }

    fn read_cookies(&self, headers: &HeaderMap) -> SetCookies {
        set_cookie::read(headers, self.state.wall.now())
    }
}

/// Result of logging a session out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogoutOutcome {
    /// The platform ended it.
    LoggedOut,
    /// The platform responded with an error; the session may still be active.
    Refused {
        /// The HTTP status.
        http_status: u16,
    },
    /// There was no response; the session may still be active.
    Failed {
        /// For the operator.
        cause: String,
    },
}

/// A login without a result for its caller.
#[derive(Debug)]
pub struct FailedLogin {
    /// The failure.
    pub error: PlatformError,
    /// The session that the platform may have started, to be
    /// [logged out](ApiClient::log_out); empty if there is none.
    pub session: Session,
}
