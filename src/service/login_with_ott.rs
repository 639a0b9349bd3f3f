//! `LoginWithOtt`: spends a token.

use super::{
    OttService, convert,
    detached::{self, Detachable},
    presented::{NotSpendable, Spendable},
    undelivered::{Context, Undelivered},
};
use crate::{
    access::Admission,
    domain::{
        call::Method,
        session::{Account, LoggedIn},
    },
    observe::telemetry::metrics::SecurityEvent,
    platform::FailedLogin,
    proto::ott::v1::LoginWithOttRequest,
    service::arrival::Arrival,
    status::{Failure, Reason},
};

impl OttService {
    /// Begins the work of a call, unless it has to be refused.
    pub(super) fn log_in(
        &self,
        arrival: Arrival,
        admission: Admission,
        message: LoginWithOttRequest,
    ) -> Result<Detachable<(Account, Undelivered)>, Failure> {
        let Arrival { call, span, in_flight, .. } = arrival;
        call.set_method(Method::LoginWithOtt);

        let convert::LoginWithOtt { token, api_client } = message.try_into()?;
        let spendable = match self.spendable(&call, admission, token, api_client.as_deref()) {
            Ok(spendable) => spendable,
            Err(NotSpendable::Failed(failure)) => return Err(failure),
            Err(NotSpendable::Refused(cause)) => return Ok(self.refuse_token(&call, in_flight, cause)),
        };
        let Spendable { ott, hash, client, permit, sealed } = spendable;

        let Some(in_use) = self.known_tokens.claim(hash) else {
            self.metrics.security_event(SecurityEvent::OttInUse);
            return Err(Failure::new(Reason::OttInUse));
        };

        let task_call = call.clone();
        let metrics = self.metrics.clone();
        let access = self.access.clone();
        let context = Context {
            client: client.clone(),
            call: call.clone(),
            audit: self.audit.clone(),
            metrics: metrics.clone(),
            in_flight: in_flight.clone(),
        };
        let work = detached::Begin(move || async move {
            let undelivered = |session| Undelivered::new(session, context);
            let LoggedIn { account, session } = match client.log_in(&permit, ott, &task_call, &span).await {
                Ok(logged_in) => logged_in,
                Err(FailedLogin { error, session }) => {
                    drop(undelivered(session));
                    let failure = Failure::from_platform(Method::LoginWithOtt, &error);
                    if failure.reason() == Reason::OttRejected {
                        // Unknown, used or expired: it may be a replay.
                        metrics.security_event(SecurityEvent::OttRejected);
                        if let Some(sealed) = sealed {
                            return Err(failure.known_api_client(sealed.known_api_client));
                        }
                    }
                    return Err(failure);
                }
            };
            let is_of_user = match (&sealed, in_use.subject()) {
                (Some(sealed), _) => account.is_exactly_of(&sealed.user),
                (None, Some(subject)) => account.is_of(subject),
                (None, None) => None,
            };
            if is_of_user == Some(false) {
                drop(undelivered(session));
                client.retire_connections();
                metrics.security_event(SecurityEvent::AccountMismatch);
                let failure = Failure::new(Reason::AccountMismatch);
                return Err(failure
                    .because(&"the account in the response is not the user that the token was issued for"));
            }
            // The permit for a sealed token is for its user.
            if sealed.is_none() {
                let names = || in_use.subject().cloned().into_iter().chain(account.subjects()).collect();
                match access.check_account(&permit, names) {
                    Ok(claims) => task_call.set_deciding_claims(claims),
                    Err(denied) => {
                        drop(undelivered(session));
                        metrics.security_event(SecurityEvent::AccountNotAllowed);
                        return Err(Failure::new(Reason::AccountNotAllowed).because(&denied));
                    }
                }
            }
            drop(in_use);
            if session.is_empty() {
                tracing::warn!(
                    api_client.name = %client.name(),
                    request.id = %task_call.request_id(),
                    "login response has no usable cookie"
                );
            }
            Ok((account, undelivered(session)))
        });
        let (audit, metrics) = (self.audit.clone(), self.metrics.clone());
        Ok(detached::run(&call, in_flight, audit, metrics, work))
    }
}
