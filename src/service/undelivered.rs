//! A session that the platform has opened and no caller has received yet.
//!
//! If it is dropped undelivered (the caller disconnected, the deadline passed, the audit record
//! could not be written, the account could not be read), it is logged out, because nobody else
//! would. Each undelivered session is reported once in log, metrics and audit, even if the process
//! stops during the logout.

use std::mem;

use crate::{
    domain::{
        call::{Call, InFlight, Method},
        session::Session,
    },
    observe::{
        audit::Audit,
        telemetry::metrics::{Logout, Metrics},
    },
    platform::{ApiClient, LogoutOutcome},
};

/// Everything needed to log out and report a session.
#[derive(Clone, Debug)]
pub(super) struct Context {
    pub(super) client: ApiClient,
    pub(super) call: Call,
    pub(super) audit: Audit,
    pub(super) metrics: Metrics,
    /// Held until the session is reported, so that a drain waits for the logout.
    pub(super) in_flight: Option<InFlight>,
}

/// A session that is logged out when dropped, unless it was delivered.
pub(super) struct Undelivered {
    session: Session,
    context: Context,
}

impl Undelivered {
    pub(super) const fn new(session: Session, context: Context) -> Self {
        Self { session, context }
    }

    /// Returns the session for delivery to the caller.
    pub(super) fn deliver(mut self) -> Session {
        mem::take(&mut self.session)
    }
}

impl Drop for Undelivered {
    fn drop(&mut self) {
        let session = mem::take(&mut self.session);
        // A response with only expired cookies has no session.
        if session.logout_header().is_none() {
            return;
        }
        let outcome = LogoutOutcome::Failed { cause: "the gateway is stopping".to_owned() };
        let mut report = Report { outcome, context: self.context.clone() };
        // Without a runtime, or if the runtime stops first, the report is dropped unchanged.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { report.log_out(&session).await });
        }
    }
}

/// Reports an undelivered session when dropped.
struct Report {
    outcome: LogoutOutcome,
    context: Context,
}

impl Report {
    async fn log_out(&mut self, session: &Session) {
        let Context { client, call, .. } = &self.context;
        self.outcome = client.log_out(session, call).await;
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        let Context { client, call, audit, metrics, .. } = &self.context;
        let (logout, status, cause) = match &self.outcome {
            LogoutOutcome::LoggedOut => (Logout::Succeeded, None, None),
            LogoutOutcome::Refused { http_status } => (Logout::Failed, Some(*http_status), None),
            LogoutOutcome::Failed { cause } => (Logout::Failed, None, Some(cause.as_str())),
        };
        metrics.undelivered_session(client.name(), logout);
        audit.undelivered_session(call, logout, status);
        // `tracing` fixes the level of an event at compile time, so each level has its own.
        macro_rules! line {
            ($level:ident, $message:literal) => {
                tracing::$level!(
                    request.id = %call.request_id(),
                    rpc.method = call.method().map_or("unknown", Method::name),
                    api_client.name = %client.name(),
                    http.status = status,
                    cause,
                    $message
                )
            };
        }
        match logout {
            Logout::Succeeded => line!(info, "undelivered session ended"),
            Logout::Failed => line!(warn, "failed to end undelivered session"),
        }
        // Released last: a drain flushes the audit once no call is in flight.
        self.context.in_flight.take();
    }
}
