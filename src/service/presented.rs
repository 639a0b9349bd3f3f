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
    /// What is known of a sealed token. `None` for a raw token, whose user only the platform knows.
    pub(super) sealed: Option<Sealed>,
}

/// What is known of a sealed token that may be spent.
pub(super) struct Sealed {
    /// The user, for whom the rules allow the login.
    pub(super) user: Subject,
    /// The API client that the answer to a refused token would name.
    pub(super) known_api_client: Option<Arc<str>>,
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
        match token {
            PresentedToken::Raw(ott) => self.raw(call, admission, ott, api_client),
            PresentedToken::Sealed(sealed) => match self.open(call, &sealed, api_client) {
                Ok(opened) => Ok(self.permit_opened(call, admission, opened, api_client)?),
                Err(cause) => Err(self.refused_seal(call, &admission, api_client, cause)),
            },
        }
    }

    /// Decides about a token that is not sealed.
    fn raw(
        &self,
        call: &Call,
        admission: Admission,
        ott: OneTimeToken,
        api_client: Option<&str>,
    ) -> Result<Spendable, NotSpendable> {
        let hash = self.fingerprinted(call, &ott);
        let (client, mode) = self.client_for(call, &admission, api_client)?;
        if !mode.accepts_raw() {
            let name = Some(client.name().as_ref());
            return Err(self.charge_refused(call, &admission, name, SealRefusal::NotSealed));
        }
        let permit = self.access.permit_login(admission, Arc::clone(client.name()));
        let mut permit = permit.map_err(Failure::from)?;
        call.set_deciding_claims(permit.take_claims());
        Ok(Spendable { ott, hash, client, permit, sealed: None })
    }

    /// Decides about a sealed token that cannot be spent. If the request names no API client, the
    /// sealed one would count, so the answer must not depend on the default one.
    fn refused_seal(
        &self,
        call: &Call,
        admission: &Admission,
        api_client: Option<&str>,
        cause: SealRefusal,
    ) -> NotSpendable {
        call.set_token_refusal(cause);
        if api_client.is_some() {
            if let Err(failure) = self.client_for(call, admission, api_client) {
                return failure.into();
            }
        } else if let Some(default) = self.known_api_client(admission, None) {
            call.set_api_client(default);
        }
        self.charge_refused(call, admission, api_client, cause)
    }

    /// Takes from the quota for a refused token.
    fn charge_refused(
        &self,
        call: &Call,
        admission: &Admission,
        api_client: Option<&str>,
        cause: SealRefusal,
    ) -> NotSpendable {
        match self.access.charge_refused_token(admission, api_client) {
            Ok(claims) => {
                call.set_deciding_claims(claims);
                NotSpendable::Refused(cause)
            }
            Err(refused) => Failure::from(refused).into(),
        }
    }

    /// Returns the API client that the caller can assume to be used: the one in the request, else the
    /// default one if the caller may use it.
    fn known_api_client(&self, admission: &Admission, api_client: Option<&str>) -> Option<Arc<str>> {
        let (client, _) = self.api_clients.named(api_client)?;
        admission.may_use(client.name()).then(|| Arc::clone(client.name()))
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
    fn permit_opened(
        &self,
        call: &Call,
        admission: Admission,
        opened: Opened,
        requested: Option<&str>,
    ) -> Result<Spendable, Failure> {
        let Opened { ott, hash, client, binding } = opened;
        let known_api_client = self.known_api_client(&admission, requested);
        let api_client = Arc::clone(client.name());
        call.set_api_client(Arc::clone(&api_client));
        let mut permit =
            self.access.permit_sealed_login(admission, api_client, &binding.subject, &binding.issued_by)?;
        call.set_deciding_claims(permit.take_claims());
        let sealed = Some(Sealed { user: binding.subject, known_api_client });
        Ok(Spendable { ott, hash, client, permit, sealed })
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
