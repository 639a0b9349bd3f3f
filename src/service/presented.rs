//! The token that a caller presents: whether it may be spent, with which API client, and for whom.
//!
//! A token that the gateway refuses itself takes the same path as one that the platform rejects, up
//! to the request: API client, access rules and quota are checked first, and its caller receives the
//! same answer. Otherwise a caller could find out what is wrong with a token.

use std::sync::Arc;

use super::{
    OttService,
    detached::{self, Detachable},
};
use crate::{
    access::{Admission, LoginPermit},
    domain::{
        call::{Call, InFlight},
        ott::{InvalidToken, OneTimeToken, SealRefusal, SealedToken, Subject, TokenHash},
    },
    observe::telemetry::metrics::SecurityEvent,
    platform::ApiClient,
    status::{Failure, Reason},
    token_binding::Binding,
};

/// A valid token of a request.
#[derive(Debug)]
pub(super) enum PresentedToken {
    /// A token of the platform.
    Raw(OneTimeToken),
    /// A text with the form of a sealed token.
    Sealed(SealedToken),
}

impl PresentedToken {
    /// Takes visible ASCII: at most 4,096 bytes, or 9,216 bytes if it has the form of a sealed token.
    pub(super) fn try_new(text: String) -> Result<Self, InvalidToken> {
        if SealedToken::is_sealed(&text) {
            SealedToken::try_new(text).map(Self::Sealed)
        } else {
            OneTimeToken::try_new(text).map(Self::Raw)
        }
    }
}

/// A token that the caller may spend.
pub(super) struct Spendable {
    pub(super) ott: OneTimeToken,
    pub(super) hash: TokenHash,
    pub(super) client: ApiClient,
    pub(super) permit: LoginPermit,
    /// The user of a sealed token, for whom the rules allow the login. `None` for a raw token, whose
    /// user only the platform knows.
    pub(super) sealed_user: Option<Subject>,
}

/// Why a token is not sent to the platform.
pub(super) enum NotSpendable {
    /// The call fails regardless of the token, or the rules do not allow the token's user.
    Failed(Failure),
    /// The token is refused. API client, rules and quota allow the call.
    Refused(SealRefusal),
}

impl From<Failure> for NotSpendable {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// A sealed token that has been opened and has not expired.
struct Opened {
    ott: OneTimeToken,
    hash: TokenHash,
    client: ApiClient,
    binding: Binding,
}

impl OttService {
    /// Decides whether the caller may spend the token, and records in the call what is known about
    /// the token. `api_client` is the name in the request.
    pub(super) fn spendable(
        &self,
        call: &Call,
        admission: Admission,
        token: PresentedToken,
        api_client: Option<&str>,
    ) -> Result<Spendable, NotSpendable> {
        let raw = match token {
            PresentedToken::Raw(ott) => Ok((self.fingerprinted(call, &ott), ott)),
            PresentedToken::Sealed(sealed) => match self.open(call, &sealed, api_client) {
                Ok(opened) => return Ok(self.permit_opened(call, admission, opened)?),
                Err(cause) => Err(cause),
            },
        };
        let (client, mode) = self.client_for(call, &admission, api_client)?;
        let refusal = match raw {
            Ok((hash, ott)) if mode.accepts_raw() => {
                let permit = self.access.permit_login(admission, Arc::clone(client.name()));
                let mut permit = permit.map_err(Failure::from)?;
                call.set_deciding_claims(permit.take_claims());
                return Ok(Spendable { ott, hash, client, permit, sealed_user: None });
            }
            Ok(_) => SealRefusal::NotSealed,
            Err(cause) => cause,
        };
        let charged = self.access.charge_refused_token(&admission, client.name());
        call.set_deciding_claims(charged.map_err(Failure::from)?);
        Err(NotSpendable::Refused(refusal))
    }

    /// Opens a sealed token.
    fn open(
        &self,
        call: &Call,
        sealed: &SealedToken,
        api_client: Option<&str>,
    ) -> Result<Opened, SealRefusal> {
        let opened = self.token_binding.open(sealed)?;
        let hash = self.fingerprinted(call, opened.ott());
        call.set_subject(opened.binding().subject.clone());
        call.set_issued_by(opened.binding().issued_by.as_str().into());
        let (ott, binding) = opened.spend(api_client)?;
        let client = self.api_clients.named(Some(&binding.api_client));
        let (client, _) = client.ok_or(SealRefusal::UnknownApiClient)?;
        let client = client.clone();
        self.metrics.token_opened();
        Ok(Opened { ott, hash, client, binding })
    }

    /// Checks that the caller may log in the user of an opened token, and takes from the quota.
    fn permit_opened(&self, call: &Call, admission: Admission, opened: Opened) -> Result<Spendable, Failure> {
        let Opened { ott, hash, client, binding } = opened;
        call.set_api_client(Arc::clone(client.name()));
        let api_client = Arc::clone(client.name());
        let mut permit =
            self.access.permit_sealed_login(admission, api_client, &binding.subject, &binding.issued_by)?;
        call.set_deciding_claims(permit.take_claims());
        Ok(Spendable { ott, hash, client, permit, sealed_user: Some(binding.subject) })
    }

    /// Records the fingerprint of a token, and returns its hash.
    fn fingerprinted(&self, call: &Call, ott: &OneTimeToken) -> TokenHash {
        let hash = self.audit.token_hash(ott);
        if let Some(fingerprint) = self.audit.fingerprint(&hash) {
            call.set_fingerprint(fingerprint);
        }
        hash
    }

    /// Fails a call as if the platform had rejected its token.
    pub(super) fn refuse_token<T: Send + 'static>(
        &self,
        call: &Call,
        in_flight: Option<InFlight>,
        cause: SealRefusal,
    ) -> Detachable<T> {
        let (task_call, metrics) = (call.clone(), self.metrics.clone());
        let work = async move {
            task_call.set_token_refusal(cause);
            metrics.token_refused(cause);
            metrics.security_event(SecurityEvent::OttRejected);
            let why = format_args!("the gateway refused the token: {}", cause.as_str());
            Err(Failure::new(Reason::OttRejected).because(&why))
        };
        detached::run(call, in_flight, self.audit.clone(), self.metrics.clone(), work)
    }
}
