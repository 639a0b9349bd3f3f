//! The service of a sandbox: the real one with injected faults.
//!
//! Exists only with the cargo feature `sandbox`, and only the command `sandbox` builds one
//! (`crate::fault_injection`). Each worker selects its service once, at start, as a variant of an
//! enum in `server::Handlers`. `serve` has no fault injector: a build with the feature costs its
//! calls one branch on that enum, a build without it nothing.
//!
//! An injected fault can only refuse a call: nothing here allows a call that the real service would
//! refuse. `status` builds every status, from the same errors as for real failures. Faults use the
//! real mechanism where possible: access rules that allow nothing, an exhausted quota, a token that
//! another call is spending.

use std::{
    future::ready,
    num::NonZeroU32,
    pin::Pin,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::HeaderMap;

use super::{
    OttService, Working,
    convert::{Issued, IssuedForm},
    wire,
};
use crate::{
    access::{Access, Admission, Policy, Rate, RuleSettings, Rules},
    caller::{CallerError, JwtError},
    domain::{
        call::{Certainty, Method},
        ott::{OneTimeToken, SealedToken, Subject, SubjectKind, Users},
    },
    fault_injection::{FaultDecision, FaultInjector},
    observe::telemetry::metrics::Metrics,
    platform::error::{ErrorBody, ErrorResponse, PlatformError},
    proto::ott::v1::{IssueOttRequest, IssueOttResponse, LoginWithOttRequest, issue_ott_request as v1},
    service::arrival::Arrival,
    status::{Failure, FailureCode, Reason},
    token_binding::{Binding, TokenBinding},
};

/// Cause of injected faults, for the log.
const CAUSE: &str = "injected fault";
/// Lifetime that the gateway assumes for every token, as documented by the platform.
const DOCUMENTED_LIFETIME: Duration = Duration::from_secs(30);
/// Attempts of a call whose requests cannot be sent: (`IssueOtt`, `LoginWithOtt`).
const UNSENT_ATTEMPTS: (u32, u32) = (3, 2);
/// Minimum remaining deadline for a second attempt of a login.
const MIN_TIME_FOR_SECOND_LOGIN: Duration = Duration::from_secs(2);
/// Time until the next probe that an open breaker reports.
const NEXT_PROBE: Duration = Duration::from_secs(1);

/// A response, or the failure that the call is answered with.
type ResponseFuture = Pin<Box<dyn Future<Output = Result<Bytes, Failure>> + Send>>;

/// The service of one worker of a sandbox.
#[derive(Debug)]
pub struct FaultInjectingService {
    service: OttService,
    injector: Arc<dyn FaultInjector>,
    /// Rules that allow no call.
    closed: Access,
    /// Rules that allow every call, with a quota of one call.
    used_up: Access,
    /// Rules that allow every caller to log in, but for no user.
    for_nobody: Access,
}

/// A call as it reaches its handler.
struct Request {
    arrival: Arrival,
    admission: Admission,
    headers: HeaderMap,
    body: Bytes,
    message: Message,
}

/// The fields of a message that select a fault.
enum Message {
    /// An `IssueOtt` for a login. `api_client` is empty for the default one.
    Issue { login: String, api_client: String },
    /// A `LoginWithOtt`. `ott` is the token of the platform, even if the request has a sealed one.
    Login { ott: String, api_client: String },
    /// Another subject, or an invalid message. No fault is injected.
    Other,
}

impl Message {
    fn of(method: Option<Method>, headers: &HeaderMap, body: &[u8], token_binding: &TokenBinding) -> Self {
        match method {
            Some(Method::IssueOtt) => match wire::decode(headers, body) {
                Ok(IssueOttRequest { subject: Some(v1::Subject::Login(login)), api_client, .. }) => {
                    Self::Issue { login, api_client }
                }
                _ => Self::Other,
            },
            Some(Method::LoginWithOtt) => match wire::decode(headers, body) {
                Ok(LoginWithOttRequest { ott, api_client }) => {
                    let ott = opened(&ott, token_binding).unwrap_or(ott);
                    Self::Login { ott, api_client }
                }
                Err(_) => Self::Other,
            },
            None => Self::Other,
        }
    }

    /// Returns the API client of the message; `None` for the default one.
    fn api_client(&self) -> Option<&str> {
        match self {
            Self::Issue { api_client, .. } | Self::Login { api_client, .. } => Some(api_client.as_str()),
            Self::Other => None,
        }
        .filter(|name| !name.is_empty())
    }
}

impl FaultInjectingService {
    /// Wraps a service with a fault injector.
    #[must_use]
    pub fn new(service: OttService, injector: Arc<dyn FaultInjector>) -> Self {
        let rate = Rate::per_minute(NonZeroU32::new(30).unwrap_or(NonZeroU32::MIN));
        Self {
            service,
            injector,
            closed: Access::closed(Metrics::new()),
            used_up: rules(Users::All, rate),
            for_nobody: rules(Users::Listed(Vec::new()), Rate::Unlimited),
        }
    }

    /// Answers a call, like [`OttService::answer`].
    pub fn answer(
        &self,
        arrival: Arrival,
        admission: Admission,
        headers: &HeaderMap,
        body: &[u8],
    ) -> ResponseFuture {
        let method = arrival.call.method();
        let message = Message::of(method, headers, body, &self.service.token_binding);
        let decision = match &message {
            Message::Issue { login, .. } => self.injector.issue(login),
            Message::Login { ott, .. } => self.injector.login(ott),
            Message::Other => FaultDecision::Proceed,
        };
        let (headers, body) = (headers.clone(), Bytes::copy_from_slice(body));
        let request = Request { arrival, admission, headers, body, message };
        match decision {
            FaultDecision::Proceed if method == Some(Method::IssueOtt) => self.issue(request),
            FaultDecision::Proceed => perform(&self.service, request),
            FaultDecision::Fail(reason, code) => self.fail(reason, code, request),
            FaultDecision::Reject(rules) => {
                let failure = Failure::new(Reason::InvalidRequest);
                failed(rules.into_iter().fold(failure, |failure, rule| failure.violation("login", rule)))
            }
        }
    }

    /// Issues a token. Its `expire_time` follows the token lifetime of the simulated platform.
    fn issue(&self, request: Request) -> ResponseFuture {
        let Request { arrival, admission, headers, body, .. } = request;
        let lifetime = self.injector.token_lifetime();
        let working = self.service.begin(arrival, admission, &headers, &body);
        let token_binding = self.service.token_binding.clone();
        Box::pin(async move {
            let Working::Issue(work) = working? else { return Err(Failure::new(Reason::InternalError)) };
            let Issued { form, expires_at } = work.await?;
            let expires_at = expires_at - DOCUMENTED_LIFETIME + lifetime;
            let form = match form {
                IssuedForm::Sealed(sealed) => {
                    IssuedForm::Sealed(resealed(&token_binding, &sealed, expires_at)?)
                }
                other => other,
            };
            wire::encode(&IssueOttResponse::from(Issued { form, expires_at }))
        })
    }

    /// Fails a call with this reason and code.
    fn fail(&self, reason: Reason, code: FailureCode, request: Request) -> ResponseFuture {
        let call = request.arrival.call.clone();
        let unsent = |error: fn(String) -> PlatformError| {
            self.at_platform(&request, || {
                let attempts = match call.method() {
                    Some(Method::IssueOtt) => UNSENT_ATTEMPTS.0,
                    _ if call.deadline().remaining() < MIN_TIME_FOR_SECOND_LOGIN => 1,
                    _ => UNSENT_ATTEMPTS.1,
                };
                (0..attempts).for_each(|_| call.attempt_begins());
                error(CAUSE.to_owned())
            })
        };
        failed(match (reason, code) {
            (Reason::InvalidRequest, FailureCode::Unimplemented) => Failure::unsupported_compression(),
            (Reason::InvalidRequest, _) => {
                let is_login = matches!(request.message, Message::Login { .. });
                Failure::new(reason).violation(if is_login { "ott" } else { "login" }, CAUSE)
            }
            (Reason::CallerUnauthenticated, FailureCode::Unavailable) => {
                CallerError::InvalidJwt(JwtError::NoKeysYet).into()
            }
            (Reason::CallerUnauthenticated, _) => CallerError::InvalidCredential.into(),
            (Reason::CallerNotAllowed, _) => match self.closed.admitted(&request.arrival) {
                Ok(_) => Failure::new(reason),
                Err(failure) => failure,
            },
            (Reason::CallerQuotaExceeded, _) => self.exceed_quota(&request),
            (Reason::Draining, _) => Failure::draining(&call),
            (Reason::DeadlineExceeded, _) => self.at_platform(&request, || PlatformError::DeadlinePassed),
            (Reason::PlatformUnreachable, _) => unsent(PlatformError::Unreachable),
            (Reason::GatewayExhausted, _) => unsent(PlatformError::Exhausted),
            (Reason::PlatformUnavailable, _) => {
                self.at_platform(&request, || PlatformError::BreakerOpen { retry_after: NEXT_PROBE })
            }
            (Reason::PlatformCredentialRejected, _) => self.at_platform(&request, || {
                // One attempt with the current access token, one with a new one.
                (0..2).for_each(|_| call.attempt_begins());
                call.attempt_ended(Certainty::Refused);
                let body = Some(ErrorBody::default());
                PlatformError::Response(ErrorResponse { status: 401, body, retry_after: None })
            }),
            (Reason::OttInUse, _) => return self.use_twice(request),
            (Reason::AuditUnavailable, FailureCode::Aborted) => return self.lose_record(request),
            (Reason::AccountNotAllowed, _) => return self.log_in_for_nobody(request),
            (reason, _) => Failure::new(reason),
        })
    }

    /// Returns a platform failure, if the caller may use the API client; else the refusal.
    fn at_platform(&self, request: &Request, error: impl FnOnce() -> PlatformError) -> Failure {
        let Request { arrival, admission, message, .. } = request;
        let method = arrival.call.method().unwrap_or(Method::IssueOtt);
        match self.service.client_for(&arrival.call, admission, message.api_client()) {
            Ok(_) => Failure::from_platform(method, &error()),
            Err(failure) => failure,
        }
    }

    /// Exhausts a quota and returns the refusal.
    fn exceed_quota(&self, request: &Request) -> Failure {
        let access = &self.used_up;
        let take = || -> Result<(), Failure> {
            let admission = access.admitted(&request.arrival)?;
            match &request.message {
                Message::Issue { login, .. } => {
                    let subject = Subject::new(SubjectKind::Login, login.clone());
                    let subject = subject.map_err(|_| Failure::new(Reason::InvalidRequest))?;
                    let _permit = access.permit_issue(admission, Arc::from(""), subject, false)?;
                }
                Message::Login { .. } | Message::Other => {
                    let _permit = access.permit_login(admission, Arc::from(""))?;
                }
            }
            Ok(())
        };
        // The quota starts with one call.
        take().and_then(|()| take()).err().unwrap_or_else(|| Failure::new(Reason::CallerQuotaExceeded))
    }

    /// Spends a token that is marked as being spent by another call.
    fn use_twice(&self, request: Request) -> ResponseFuture {
        let other = match &request.message {
            Message::Login { ott, .. } => OneTimeToken::try_new(ott.clone()).ok(),
            Message::Issue { .. } | Message::Other => None,
        };
        // Held until `perform` has refused the call.
        let hash = other.map(|ott| self.service.audit.token_hash(&ott));
        let _in_use = hash.and_then(|hash| self.service.known_tokens.claim(hash));
        perform(&self.service, request)
    }

    /// Logs a user in, then fails the call as if its audit record could not be written. The session is
    /// logged out.
    fn lose_record(&self, request: Request) -> ResponseFuture {
        let Request { arrival, admission, headers, body, .. } = request;
        let working = self.service.begin(arrival, admission, &headers, &body);
        Box::pin(async move {
            if let Working::LogIn(work) = working? {
                // Dropping `Undelivered` logs the session out.
                let (_account, _undelivered) = work.await?;
            }
            Err(Failure::new(Reason::AuditUnavailable))
        })
    }

    /// Logs a user in under rules that allow the call, but no account. The rules would already refuse
    /// the user of a sealed token, so the token in it is spent.
    fn log_in_for_nobody(&self, mut request: Request) -> ResponseFuture {
        match self.for_nobody.admitted(&request.arrival) {
            Ok(admission) => request.admission = admission,
            Err(failure) => return failed(failure),
        }
        if let Message::Login { ott, api_client } = &request.message {
            let raw = LoginWithOttRequest { ott: ott.clone(), api_client: api_client.clone() };
            match wire::encode(&raw) {
                Ok(body) => request.body = body,
                Err(failure) => return failed(failure),
            }
        }
        let (access, api_clients) = (self.for_nobody.clone(), self.service.api_clients.accepting_raw());
        let service = OttService { access, api_clients, ..self.service.clone() };
        perform(&service, request)
    }
}

impl Access {
    /// Admits the caller of a call under these rules.
    fn admitted(&self, arrival: &Arrival) -> Result<Admission, Failure> {
        let method = arrival.call.method().unwrap_or(Method::IssueOtt);
        Ok(self.admits(self.policy().into_shared(), &arrival.call, &arrival.caller, method)?)
    }
}

/// Returns the token in a sealed one. `None` if it is not sealed, or cannot be opened.
fn opened(ott: &str, token_binding: &TokenBinding) -> Option<String> {
    let sealed = SealedToken::is_sealed(ott).then(|| SealedToken::try_new(ott.to_owned()))?;
    let opened = token_binding.open(&sealed.ok()?).ok()?;
    Some(opened.ott().expose().to_owned())
}

/// Returns a sealed token with another expiry.
fn resealed(
    token_binding: &TokenBinding,
    sealed: &SealedToken,
    expires_at: SystemTime,
) -> Result<SealedToken, Failure> {
    let failed = |cause: &str| Failure::new(Reason::InternalError).because(&cause);
    let opened = token_binding.open(sealed).and_then(|opened| opened.spend(None));
    let (ott, binding) = opened.map_err(|refusal| failed(refusal.as_str()))?;
    let sealed = token_binding.seal(&ott, &Binding { expires_at, ..binding });
    sealed.map_err(|error| failed(&error.to_string()))
}

fn failed(failure: Failure) -> ResponseFuture {
    Box::pin(ready(Err(failure)))
}

fn perform(service: &OttService, request: Request) -> ResponseFuture {
    let Request { arrival, admission, headers, body, .. } = request;
    Box::pin(service.answer(arrival, admission, &headers, &body))
}

/// Returns rules for every caller, with a quota of one call.
fn rules(users: Users, rate: Rate) -> Access {
    let callers = vec!["anonymous".to_owned(), "*".to_owned()];
    let settings = RuleSettings {
        rate,
        burst: NonZeroU32::MIN,
        user_rate: Rate::Unlimited,
        ..RuleSettings::new(callers, users)
    };
    #[expect(clippy::expect_used, reason = "constant, at start-up, and a test reaches each of them")]
    let rules = Rules::try_new(vec![settings]).expect("the rules are well formed");
    let policy = Policy { rules, max_quota_users: 16, ..Policy::closed() };
    // Separate metrics: these are not the configured rules.
    Access::new(policy, Metrics::new())
}
