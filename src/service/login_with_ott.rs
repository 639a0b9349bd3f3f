//! `LoginWithOtt`: spends a token.

use std::{mem, sync::Arc};

use super::{Arrival, OttService, convert, detached};
use crate::{
    call::{Call, InFlight, Operation},
    platform::{FailedLogin, LogoutOutcome, PlatformClient},
    proto::ott::v1::{LoginWithOttRequest, LoginWithOttResponse},
    session::{LoggedIn, Session},
    status::{Failure, Reason},
};

impl OttService {
    pub(super) async fn log_in(
        &self,
        arrival: Arrival,
        message: LoginWithOttRequest,
    ) -> Result<LoginWithOttResponse, Failure> {
        let Arrival { call, caller, span, in_flight } = arrival;
        call.set_operation(Operation::LoginWithOtt);
        let admission = self.access.admits(&caller, Operation::LoginWithOtt)?;

        let convert::LoginWithOtt { ott, api_client } = message.try_into()?;
        if let Some(fingerprint) = self.audit.fingerprint(&ott) {
            call.set_fingerprint(fingerprint);
        }
        let client = self.client_for(&call, api_client.as_deref())?;

        let permit = self.access.permit_login(admission, Arc::clone(client.name()))?;

        let Some(in_use) = self.tokens_in_use.claim(&ott) else {
            self.metrics.security_event("ott_in_use");
            return Err(Failure::new(Reason::OttInUse));
        };

        let task_call = call.clone();
        let held = in_flight.clone();
        let metrics = self.metrics.clone();
        let work = async move {
            let _in_use = in_use;
            let undelivered = |session| Undelivered {
                session,
                call: task_call.clone(),
                client: client.clone(),
                in_flight: held,
            };
            let LoggedIn { account, session } = match client.log_in(&permit, ott, &task_call, &span).await {
                Ok(logged_in) => logged_in,
                Err(FailedLogin { error, session }) => {
                    drop(undelivered(session));
                    let failure = Failure::from_platform(Operation::LoginWithOtt, &error);
                    if failure.reason() == Reason::OttRejected {
                        // Unknown, used or expired: a replay looks like this.
                        metrics.security_event("ott_rejected");
                    }
                    return Err(failure);
                }
            };
            if session.is_empty() {
                tracing::warn!(
                    api_client.name = %client.name(),
                    request.id = %task_call.request_id(),
                    "login response has no usable cookie"
                );
            }
            Ok((account, undelivered(session)))
        };
        let (audit, metrics) = (self.audit.clone(), self.metrics.clone());
        let (account, undelivered) = detached::run(&call, in_flight, audit, metrics, work).await?;
        Ok(LoggedIn { account, session: undelivered.deliver() }.into())
    }
}

/// A session that has not reached its caller. Dropped before it has (the caller went
/// away, the deadline passed, the audit record could not be written, the account could
/// not be read), it is ended at the platform: nobody could use it, and nobody would end it.
struct Undelivered {
    session: Session,
    call: Call,
    client: PlatformClient,
    /// Ending the session is part of the call: a drain waits for it.
    in_flight: Option<InFlight>,
}

impl Undelivered {
    fn deliver(mut self) -> Session {
        mem::take(&mut self.session)
    }
}

impl Drop for Undelivered {
    fn drop(&mut self) {
        let session = mem::take(&mut self.session);
        if session.is_empty() {
            return;
        }
        let (client, call, in_flight) = (self.client.clone(), self.call.clone(), self.in_flight.take());
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                let outcome = client.log_out(&session, &call).await;
                log_logout(&client, &call, &outcome);
                drop(in_flight);
            });
        }
    }
}

/// A session that nobody holds and that may still be alive is a security event.
fn log_logout(client: &PlatformClient, call: &Call, outcome: &LogoutOutcome) {
    let (api_client, request_id) = (client.name(), call.request_id());
    match outcome {
        LogoutOutcome::Ended => tracing::info!(
            request.id = %request_id,
            api_client.name = %api_client,
            "undelivered session ended"
        ),
        LogoutOutcome::Refused { http_status } => tracing::warn!(
            request.id = %request_id,
            api_client.name = %api_client,
            http.status = http_status,
            "failed to end undelivered session"
        ),
        LogoutOutcome::Failed { cause } => tracing::warn!(
            request.id = %request_id,
            api_client.name = %api_client,
            cause,
            "failed to end undelivered session"
        ),
    }
}
