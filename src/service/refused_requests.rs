//! User and API client of refused requests, for the audit record.
//!
//! Calls are refused before their message is decoded, and most before it is read. The message
//! is decoded here after the call has been decided, so nothing here affects the response.

use std::sync::Arc;

use prost::Message as _;

use super::{convert, presented::PresentedToken, wire};
use crate::{
    domain::{
        call::{Call, Ending, Method, UnvalidatedNames, UnvalidatedText},
        ott::{OneTimeToken, Subject},
    },
    observe::audit::Audit,
    proto::ott::v1::{IssueOttRequest, LoginWithOttRequest, issue_ott_request},
    status::Reason,
    token_binding::TokenBinding,
};

/// Reads user and API client from the requests of refused calls. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct RefusedRequests {
    api_clients: Arc<[Arc<str>]>,
    audit: Audit,
    token_binding: TokenBinding,
}

impl RefusedRequests {
    /// `api_clients` are the configured names: any other name is invalid. Tokens are recorded as
    /// the fingerprint of `audit`, sealed ones as that of the token in them.
    #[must_use]
    pub fn new(
        api_clients: impl IntoIterator<Item = Arc<str>>,
        audit: Audit,
        token_binding: TokenBinding,
    ) -> Self {
        Self { api_clients: api_clients.into_iter().collect(), audit, token_binding }
    }

    /// Records user and API client of a refused call, if its message has arrived: as those of the
    /// call if they are valid, else as unvalidated.
    ///
    /// Invalid values are recorded only if the call was refused because of its caller. An allowed
    /// caller gets a violation for the field instead, and its value may be a misplaced token.
    ///
    /// Call this once the response exists, because responses may contain the API client.
    pub fn record(&self, call: &Call, ending: Ending) {
        let Some(body) = call.take_message() else { return };
        let Some(message) = wire::uncompressed(&body) else { return };
        let mut unvalidated = UnvalidatedNames::default();
        let api_client = match call.method() {
            Some(Method::IssueOtt) => {
                let Ok(request) = IssueOttRequest::decode(message) else { return };
                call.set_login_url(!request.target_uri.is_empty());
                unvalidated.user = request.subject.and_then(|user| self::user(call, user));
                request.api_client
            }
            Some(Method::LoginWithOtt) => {
                let Ok(request) = LoginWithOttRequest::decode(message) else { return };
                if let Ok(token) = PresentedToken::try_new(request.ott) {
                    self.record_token(call, token, &request.api_client);
                }
                request.api_client
            }
            None => return,
        };
        if let Some(known) = self.api_clients.iter().find(|known| ***known == *api_client) {
            call.set_api_client(Arc::clone(known));
        } else if !api_client.is_empty() && call.api_client().is_none() {
            unvalidated.api_client = Some(UnvalidatedText::new(&api_client));
        }
        let is_stranger =
            matches!(ending.reason(), Some(Reason::CallerUnauthenticated | Reason::CallerNotAllowed));
        if is_stranger && !unvalidated.is_empty() {
            call.set_unvalidated(unvalidated);
        }
    }

    /// Records the fingerprint of a token; of a sealed one also its user and issuing caller, or why
    /// the gateway would refuse it.
    fn record_token(&self, call: &Call, token: PresentedToken, api_client: &str) {
        let sealed = match token {
            PresentedToken::Raw(ott) => return self.record_fingerprint(call, &ott),
            PresentedToken::Sealed(sealed) => sealed,
        };
        let requested = Some(api_client).filter(|name| !name.is_empty());
        let spent = self.token_binding.open(&sealed).and_then(|opened| {
            self.record_fingerprint(call, opened.ott());
            call.set_subject(opened.binding().subject.clone());
            call.set_issued_by(opened.binding().issued_by.as_str().into());
            opened.spend(requested)
        });
        if let Err(cause) = spent {
            call.set_token_refusal(cause);
        }
    }

    fn record_fingerprint(&self, call: &Call, ott: &OneTimeToken) {
        if let Some(fingerprint) = self.audit.fingerprint(&self.audit.token_hash(ott)) {
            call.set_fingerprint(fingerprint);
        }
    }
}

/// Records a valid user in the call, and returns an invalid one.
fn user(call: &Call, user: issue_ott_request::Subject) -> Option<(&'static str, UnvalidatedText)> {
    let (kind, text) = convert::kind_and_text(user);
    let bounded = UnvalidatedText::new(&text);
    match Subject::new(kind, text) {
        Ok(subject) => {
            call.set_subject(subject);
            None
        }
        Err(_) => Some((kind.field(), bounded)),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::{
        base::clock::{self, WallClock},
        domain::{
            call::Deadline,
            ott::{SealRefusal, SubjectKind},
        },
        status::FailureCode,
        token_binding::{Binding, Keys},
    };

    fn framed(message: &[u8]) -> Bytes {
        let length = u32::try_from(message.len()).unwrap().to_be_bytes();
        [&[0][..], &length, message].concat().into()
    }

    const STRANGER: Ending = Ending::Failed(FailureCode::Unauthenticated, Reason::CallerUnauthenticated);

    fn named(method: Method, body: Bytes, ending: Ending) -> Call {
        let call = Call::new(clock::now(), Deadline::after(Duration::from_secs(1)));
        call.set_method(method);
        call.keep_message(body);
        RefusedRequests::new([Arc::from("eu2")], Audit::off(), TokenBinding::without_keys())
            .record(&call, ending);
        call
    }

    fn issue(subject: issue_ott_request::Subject, api_client: &str) -> Bytes {
        let request = IssueOttRequest {
            subject: Some(subject),
            api_client: api_client.to_owned(),
            ..IssueOttRequest::default()
        };
        framed(&request.encode_to_vec())
    }

    #[tokio::test(start_paused = true)]
    async fn valid_names_are_recorded_in_the_call() {
        let subject = issue_ott_request::Subject::ExternalId("x-17".to_owned());
        let call = named(Method::IssueOtt, issue(subject, "eu2"), STRANGER);
        assert_eq!(call.subject(), Some(&Subject::new(SubjectKind::ExternalId, "x-17".to_owned()).unwrap()));
        assert_eq!(call.api_client().as_deref(), Some("eu2"));
        assert_eq!((call.unvalidated(), call.login_url()), (None, Some(false)));
        let request =
            IssueOttRequest { target_uri: "https://a.example".to_owned(), ..IssueOttRequest::default() };
        let call = named(Method::IssueOtt, framed(&request.encode_to_vec()), STRANGER);
        assert_eq!(call.login_url(), Some(true));
    }

    #[tokio::test(start_paused = true)]
    async fn invalid_names_are_truncated_and_recorded_as_unvalidated() {
        let subject = issue_ott_request::Subject::Login("a\nb".repeat(200));
        let call = named(Method::IssueOtt, issue(subject.clone(), "elsewhere"), STRANGER);
        assert_eq!((call.subject(), call.api_client()), (None, None));
        let unvalidated = call.unvalidated().expect("names");
        let (field, user) = unvalidated.user.as_ref().expect("a user");
        assert_eq!((*field, user.as_str().len() <= 19), ("login", true));
        assert_eq!(unvalidated.api_client, Some(UnvalidatedText::new("elsewhere")));

        let mistake = Ending::Failed(FailureCode::InvalidArgument, Reason::InvalidRequest);
        let call = named(Method::IssueOtt, issue(subject, "elsewhere"), mistake);
        assert_eq!(call.unvalidated(), None, "the caller is allowed");
    }

    #[tokio::test(start_paused = true)]
    async fn a_login_records_its_api_client_and_never_its_token() {
        let request = LoginWithOttRequest { ott: "CANARY".to_owned(), api_client: "eu2".to_owned() };
        let call = named(Method::LoginWithOtt, framed(&request.encode_to_vec()), STRANGER);
        assert_eq!((call.api_client().as_deref(), call.login_url()), (Some("eu2"), None));
        assert!(!format!("{call:?}").contains("CANARY"));
    }

    #[tokio::test(start_paused = true)]
    async fn sealed_token_records_its_user_and_issuer_or_why_it_is_refused() {
        let keys = Keys::parse(b"k AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=").unwrap();
        let token_binding = TokenBinding::new(keys, WallClock::following_monotonic());
        let subject = Subject::new(SubjectKind::Login, "anna".to_owned()).unwrap();
        let now = token_binding.now();
        let binding = Binding {
            api_client: "eu2".to_owned(),
            subject: subject.clone(),
            issued_by: "dns:web".to_owned(),
            issued_at: now,
            expires_at: now + Duration::from_secs(30),
        };
        let ott = OneTimeToken::try_new("CANARY".to_owned()).unwrap();
        let sealed = token_binding.seal(&ott, &binding).unwrap().expose().to_owned();
        let of_anna = (Some(&subject), Some("dns:web"));
        for (ott, api_client, known, refusal) in [
            (sealed.clone(), "", of_anna, None),
            (sealed.clone(), "us1", of_anna, Some(SealRefusal::OtherApiClient)),
            (format!("{sealed}="), "", (None, None), Some(SealRefusal::Malformed)),
        ] {
            let call = Call::new(clock::now(), Deadline::after(Duration::from_secs(1)));
            call.set_method(Method::LoginWithOtt);
            let request = LoginWithOttRequest { ott, api_client: api_client.to_owned() };
            call.keep_message(framed(&request.encode_to_vec()));
            RefusedRequests::new([], Audit::off(), token_binding.clone()).record(&call, STRANGER);
            assert_eq!((call.subject(), call.issued_by()), known, "{api_client}");
            assert_eq!(call.token_refusal(), refusal, "{api_client}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn compressed_and_incomplete_messages_record_nothing() {
        let subject = issue_ott_request::Subject::Login("x".to_owned());
        let body = issue(subject, "eu2");
        let compressed = [&[1], &body[1..]].concat();
        for body in [Bytes::from(compressed), body.slice(..body.len() - 1), Bytes::new()] {
            let call = named(Method::IssueOtt, body, STRANGER);
            assert_eq!((call.subject(), call.api_client(), call.unvalidated()), (None, None, None));
        }
    }

    proptest! {
        #[test]
        fn no_body_panics(body in proptest::collection::vec(any::<u8>(), 0..64), framing in any::<bool>()) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
            let _entered = runtime.enter();
            let body = if framing { framed(&body) } else { Bytes::from(body) };
            for method in [Method::IssueOtt, Method::LoginWithOtt] {
                named(method, body.clone(), STRANGER);
            }
        }
    }
}
