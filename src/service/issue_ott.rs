//! `IssueOtt`: issues a token for one user.

use std::sync::Arc;

use super::{
    OttService, convert,
    detached::{self, Detachable},
};
use crate::{
    access::Admission,
    domain::{
        call::Method,
        ott::{IssuedToken, LoginUrl},
    },
    proto::ott::v1::IssueOttRequest,
    service::arrival::Arrival,
    status::{Failure, Reason},
};

impl OttService {
    /// Checks a call and starts its work. The checks are not part of the future, which would reserve
    /// space for them while the call waits for the platform.
    pub(super) fn issue(
        &self,
        arrival: Arrival,
        admission: Admission,
        message: IssueOttRequest,
    ) -> Result<Detachable<(IssuedToken, Option<LoginUrl>)>, Failure> {
        let Arrival { call, span, in_flight, .. } = arrival;
        call.set_method(Method::IssueOtt);

        let convert::IssueOtt { subject, api_client, target_uri } = message.try_into()?;
        call.set_subject(subject.clone());
        call.set_login_url(target_uri.is_some());
        let client = self.client_for(&call, &admission, api_client.as_deref())?;
        let target_uri = target_uri
            // Boxed: most calls have none, and the future would reserve its space twice.
            .map(|uri| client.state().target_uri(&uri).map(Box::new))
            .transpose()
            .map_err(|rule| Failure::new(Reason::InvalidRequest).violation("target_uri", rule.to_string()))?;

        let mut permit =
            self.access.permit_issue(admission, Arc::clone(client.name()), subject, target_uri.is_some())?;
        if let Some(claims) = permit.take_claims() {
            call.set_deciding_claims(Some(claims));
        }

        let audit = self.audit.clone();
        let known_tokens = self.known_tokens.clone();
        let task_call = call.clone();
        let work = detached::Begin(move || async move {
            let issued = client
                .issue_ott(&permit, &task_call, &span)
                .await
                .map_err(|error| Failure::from_platform(Method::IssueOtt, &error))?;
            let hash = audit.token_hash(&issued.ott);
            if let Some(fingerprint) = audit.fingerprint(&hash) {
                task_call.set_fingerprint(fingerprint);
            }
            known_tokens.issued(hash, permit.subject().clone());
            let login_url =
                target_uri.map(|target_uri| client.state().browser_login_url(&issued.ott, &target_uri));
            Ok((issued, login_url))
        });
        let (audit, metrics) = (self.audit.clone(), self.metrics.clone());
        Ok(detached::run(&call, in_flight, audit, metrics, work))
    }
}
