//! `IssueOtt`: issues a token for one user.

use std::sync::Arc;

use super::{
    OttService,
    convert::{self, Issued, IssuedForm},
    detached::{self, Detachable},
};
use crate::{
    access::Admission,
    domain::{call::Method, ott::IssuedToken},
    proto::ott::v1::IssueOttRequest,
    service::arrival::Arrival,
    status::{Failure, Reason},
    token_binding::Binding,
};

impl OttService {
    /// Checks a call and starts its work. The checks are not part of the future, which would reserve
    /// space for them while the call waits for the platform.
    pub(super) fn issue(
        &self,
        arrival: Arrival,
        admission: Admission,
        message: IssueOttRequest,
    ) -> Result<Detachable<Issued>, Failure> {
        let Arrival { call, span, in_flight, .. } = arrival;
        call.set_method(Method::IssueOtt);

        let convert::IssueOtt { subject, api_client, target_uri } = message.try_into()?;
        call.set_subject(subject.clone());
        call.set_login_url(target_uri.is_some());
        let (client, mode) = self.client_for(&call, &admission, api_client.as_deref())?;
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
        let sealing = mode.seals().then(|| (self.token_binding.clone(), self.metrics.clone()));
        let task_call = call.clone();
        let work = detached::Begin(move || async move {
            let IssuedToken { ott, expires_at } = client
                .issue_ott(&permit, &task_call, &span)
                .await
                .map_err(|error| Failure::from_platform(Method::IssueOtt, &error))?;
            let hash = audit.token_hash(&ott);
            if let Some(fingerprint) = audit.fingerprint(&hash) {
                task_call.set_fingerprint(fingerprint);
            }
            let login_url = target_uri.map(|target_uri| client.state().browser_login_url(&ott, &target_uri));
            // A sealed token contains its user, but this one may be spent without its seal.
            if mode.accepts_raw() {
                known_tokens.issued(hash, permit.subject().clone());
            }
            let form = match (sealing, login_url) {
                (None, login_url) => IssuedForm::Raw(ott, login_url),
                (Some(_), Some(login_url)) => IssuedForm::LoginUrl(login_url),
                (Some((token_binding, metrics)), None) => {
                    let binding = Binding {
                        api_client: client.name().as_ref().to_owned(),
                        subject: permit.subject().clone(),
                        issued_by: permit.caller().name().as_ref().to_owned(),
                        issued_at: token_binding.now(),
                        expires_at,
                    };
                    let sealed = token_binding.seal(&ott, &binding);
                    let sealed =
                        sealed.map_err(|error| Failure::new(Reason::InternalError).because(&error))?;
                    metrics.token_sealed();
                    IssuedForm::Sealed(sealed)
                }
            };
            Ok(Issued { form, expires_at })
        });
        let (audit, metrics) = (self.audit.clone(), self.metrics.clone());
        Ok(detached::run(&call, in_flight, audit, metrics, work))
    }
}
