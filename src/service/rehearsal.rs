//! The service of a sandbox: the real one, except for calls that are to fail on demand.
//!
//! Exists only with the cargo feature `sandbox`, and only the command `sandbox` builds one
//! (`crate::rehearsal`). Which service answers is decided once for each worker, when it starts: a
//! variant of an enum in `server::Handlers`. The service of `serve` has no script and nothing to
//! ask; with the feature, a call costs it one branch on that enum, and without it not even that.
//!
//! A failure on demand can only refuse: nothing here allows a call that the real service would
//! refuse. Every status is built by `status`, from the same errors as the real ones. Where the
//! real mechanism can be used, it is: access rules that allow nothing, a quota that is used up, a
//! token that another call is spending.

use std::{future::ready, num::NonZeroU32, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use http::HeaderMap;

use super::{OttService, Working, wire};
use crate::{
    access::{Access, Admission, Policy, Quotas, Rate, RuleSettings, Rules},
    arrival::Arrival,
    call::{Certainty, Operation},
    caller::{BearerTokens, CallerError, JwtFault},
    ott::{OneTimeToken, Subject, SubjectKind, Users},
    platform::error::{ErrorAnswer, ErrorBody, PlatformError},
    proto::ott::v1::{IssueOttRequest, IssueOttResponse, LoginWithOttRequest, issue_ott_request as v1},
    rehearsal::{Cue, Script},
    status::{Failure, FailureCode, Reason},
    telemetry::metrics::Metrics,
};

/// Cause of the failures on demand, for the log.
const CAUSE: &str = "a failure on demand";
/// Lifetime that the gateway assumes of every token: the documented one.
const DOCUMENTED_LIFETIME: Duration = Duration::from_secs(30);
/// Attempts of a call whose requests cannot be sent: minting is attempted three times, a login
/// twice.
const UNSENT_ATTEMPTS: (u32, u32) = (3, 2);
/// Time left of the deadline without which a login is not attempted twice.
const MIN_TIME_FOR_SECOND_LOGIN: Duration = Duration::from_secs(2);
/// Time until the next probe that an open breaker reports.
const NEXT_PROBE: Duration = Duration::from_secs(1);

/// A response, or the failure that the call is answered with.
type Answer = Pin<Box<dyn Future<Output = Result<Bytes, Failure>> + Send>>;

/// The service of one worker of a sandbox.
#[derive(Debug)]
pub struct RehearsedService {
    service: OttService,
    script: Arc<dyn Script>,
    /// Rules that allow no caller anything.
    closed: Access,
    /// Rules that allow every caller everything, within a quota of one call.
    used_up: Access,
    /// Rules that allow every caller to log in, but no user.
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

/// What of a message decides how its call fails.
enum Message {
    /// For a login. The API client is empty for the default one.
    Issue { login: String, api_client: String },
    /// With a token.
    Login { ott: String, api_client: String },
    /// For another subject, or not valid: never fails on demand.
    Other,
}

impl Message {
    fn of(operation: Option<Operation>, headers: &HeaderMap, body: &[u8]) -> Self {
        match operation {
            Some(Operation::IssueOtt) => match wire::decode(headers, body) {
                Ok(IssueOttRequest { subject: Some(v1::Subject::Login(login)), api_client, .. }) => {
                    Self::Issue { login, api_client }
                }
                _ => Self::Other,
            },
            Some(Operation::LoginWithOtt) => match wire::decode(headers, body) {
                Ok(LoginWithOttRequest { ott, api_client }) => Self::Login { ott, api_client },
                Err(_) => Self::Other,
            },
            None => Self::Other,
        }
    }

    /// The API client that the message names.
    fn api_client(&self) -> Option<&str> {
        match self {
            Self::Issue { api_client, .. } | Self::Login { api_client, .. } => Some(api_client.as_str()),
            Self::Other => None,
        }
        .filter(|name| !name.is_empty())
    }
}

impl RehearsedService {
    /// Puts a script in front of a service.
    #[must_use]
    pub fn new(service: OttService, script: Arc<dyn Script>) -> Self {
        let rate = Rate::per_minute(NonZeroU32::new(30).unwrap_or(NonZeroU32::MIN));
        Self {
            service,
            script,
            closed: Access::closed(Metrics::new()),
            used_up: rules(Users::All, rate),
            for_nobody: rules(Users::Listed(Vec::new()), Rate::Unlimited),
        }
    }

    /// Answers a call, as [`OttService::answer`].
    pub fn answer(&self, arrival: Arrival, admission: Admission, headers: &HeaderMap, body: &[u8]) -> Answer {
        let operation = arrival.call.operation();
        let message = Message::of(operation, headers, body);
        let cue = match &message {
            Message::Issue { login, .. } => self.script.issue(login),
            Message::Login { ott, .. } => self.script.login(ott),
            Message::Other => Cue::Perform,
        };
        let (headers, body) = (headers.clone(), Bytes::copy_from_slice(body));
        let request = Request { arrival, admission, headers, body, message };
        match cue {
            Cue::Perform if operation == Some(Operation::IssueOtt) => self.issue(request),
            Cue::Perform => perform(&self.service, request),
            Cue::Fail(reason, code) => self.fail(reason, code, request),
            Cue::Refuse(rules) => {
                let failure = Failure::new(Reason::InvalidRequest);
                failed(rules.into_iter().fold(failure, |failure, rule| failure.violation("login", rule)))
            }
        }
    }

    /// Issues a token whose `expire_time` is that of the copy of the platform.
    fn issue(&self, request: Request) -> Answer {
        let Request { arrival, admission, headers, body, .. } = request;
        let lifetime = self.script.token_lifetime();
        let working = self.service.begin(arrival, admission, &headers, &body);
        Box::pin(async move {
            let Working::Issue(work) = working? else { return Err(Failure::new(Reason::InternalError)) };
            let (mut issued, login_url) = work.await?;
            issued.expires_at = issued.expires_at - DOCUMENTED_LIFETIME + lifetime;
            wire::encode(&IssueOttResponse::from((issued, login_url)))
        })
    }

    /// Answers a call with that reason and that code.
    fn fail(&self, reason: Reason, code: FailureCode, request: Request) -> Answer {
        let call = request.arrival.call.clone();
        let unsent = |error: fn(String) -> PlatformError| {
            self.at_platform(&request, || {
                let attempts = match call.operation() {
                    Some(Operation::IssueOtt) => UNSENT_ATTEMPTS.0,
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
                CallerError::InvalidJwt(JwtFault::NoKeysYet).into()
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
                // With the token that was in use, and with a new one.
                (0..2).for_each(|_| call.attempt_begins());
                call.attempt_ended(Certainty::Refused);
                let body = Some(ErrorBody::default());
                PlatformError::Answer(ErrorAnswer { status: 401, body, retry_after: None })
            }),
            (Reason::OttInUse, _) => return self.use_twice(request),
            (Reason::AuditUnavailable, FailureCode::Aborted) => return self.lose_record(request),
            (Reason::AccountNotAllowed, _) => return self.log_in_for_nobody(request),
            (reason, _) => Failure::new(reason),
        })
    }

    /// A failure at the platform, which a call meets only if its API client may be used.
    fn at_platform(&self, request: &Request, error: impl FnOnce() -> PlatformError) -> Failure {
        let Request { arrival, admission, message, .. } = request;
        let operation = arrival.call.operation().unwrap_or(Operation::IssueOtt);
        match self.service.client_for(&arrival.call, admission, message.api_client()) {
            Ok(_) => Failure::from_platform(operation, &error()),
            Err(failure) => failure,
        }
    }

    /// Takes more from a quota than it has.
    fn exceed_quota(&self, request: &Request) -> Failure {
        let access = &self.used_up;
        let take = || -> Result<(), Failure> {
            let admission = access.admitted(&request.arrival)?;
            match &request.message {
                Message::Issue { login, .. } => {
                    let subject = Subject::new(SubjectKind::Login, login.clone());
                    let subject = subject.map_err(|_| Failure::new(Reason::InvalidRequest))?;
                    let _permit = access.permit_issue(admission, Arc::from(""), subject)?;
                }
                Message::Login { .. } | Message::Other => {
                    let _permit = access.permit_login(admission, Arc::from(""))?;
                }
            }
            Ok(())
        };
        // The quota has one call at first.
        take().and_then(|()| take()).err().unwrap_or_else(|| Failure::new(Reason::CallerQuotaExceeded))
    }

    /// Spends a token while it is marked as being spent by another call.
    fn use_twice(&self, request: Request) -> Answer {
        let other = match &request.message {
            Message::Login { ott, .. } => OneTimeToken::try_new(ott.clone()).ok(),
            Message::Issue { .. } | Message::Other => None,
        };
        // Released once the call has begun, and so has been refused.
        let hash = other.map(|ott| self.service.audit.token_hash(&ott));
        let _in_use = hash.and_then(|hash| self.service.known_tokens.claim(hash));
        perform(&self.service, request)
    }

    /// Logs a user in, and answers as if the record of that could not be written: the session is
    /// ended.
    fn lose_record(&self, request: Request) -> Answer {
        let Request { arrival, admission, headers, body, .. } = request;
        let working = self.service.begin(arrival, admission, &headers, &body);
        Box::pin(async move {
            if let Working::LogIn(work) = working? {
                // Ends the session as it is dropped.
                let (_account, _undelivered) = work.await?;
            }
            Err(Failure::new(Reason::AuditUnavailable))
        })
    }

    /// Logs a user in under rules that allow the login and no account.
    fn log_in_for_nobody(&self, mut request: Request) -> Answer {
        match self.for_nobody.admitted(&request.arrival) {
            Ok(admission) => request.admission = admission,
            Err(failure) => return failed(failure),
        }
        let service = OttService { access: self.for_nobody.clone(), ..self.service.clone() };
        perform(&service, request)
    }
}

impl Access {
    /// Admits the caller of a call under the rules of a stand-in.
    fn admitted(&self, arrival: &Arrival) -> Result<Admission, Failure> {
        let operation = arrival.call.operation().unwrap_or(Operation::IssueOtt);
        Ok(self.admits(self.policy().into_shared(), &arrival.caller, operation)?)
    }
}

fn failed(failure: Failure) -> Answer {
    Box::pin(ready(Err(failure)))
}

fn perform(service: &OttService, request: Request) -> Answer {
    let Request { arrival, admission, headers, body, .. } = request;
    Box::pin(service.answer(arrival, admission, &headers, &body))
}

/// Rules for every caller, in one bucket of one call.
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
    let policy =
        Policy { rules, quotas: Quotas::Enforced, max_quota_users: 16, tokens: BearerTokens::default() };
    // Metrics of its own: these rules are not the ones in force.
    Access::new(policy, Metrics::new())
}
