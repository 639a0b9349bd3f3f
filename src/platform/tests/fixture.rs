//! Fixtures of all tests.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

pub(super) use super::upstream::{Answer, Behaviour, LOGIN, LOGOUT, OTT, OnAccept, Tls, Upstream};
use crate::{
    access::{IssuePermit, LoginPermit},
    base::{clock, memory::ResponseMemory},
    credential::Credential,
    domain::{
        call::Deadline,
        ott::{IssuedToken, OneTimeToken, Subject, SubjectKind},
        session::LoggedIn,
    },
    observe::telemetry::metrics::ApiClientMetrics,
};
pub(super) use crate::{
    domain::call::{Call, Certainty},
    http_client::{ClientTls, HttpSettings, Resolver, tls_config},
    observe::telemetry::tracing::CallSpan,
    platform::{
        ApiClient, ApiClientState, FailedLogin, Limits, Settings,
        data_center::DataCenter,
        error::{Malformation, PlatformError, PlatformErrorCode},
    },
};

/// Maximum time that a test waits for an event. Only a failing test waits this long.
pub(super) const PATIENCE: Duration = Duration::from_mins(2);

/// Limits with minimal delays between attempts, and timeouts that only a failing test reaches, even
/// on a busy machine.
pub(super) fn quick() -> Limits {
    Limits {
        attempt_timeout: PATIENCE,
        login_timeout: PATIENCE,
        logout_timeout: PATIENCE,
        retry_wait: (Duration::from_millis(1), Duration::from_millis(2)),
        ..Limits::default()
    }
}

/// Limits for exchanges that never end. Long enough for a request to arrive.
pub(super) fn impatient() -> Limits {
    let soon = Duration::from_secs(2);
    Limits { attempt_timeout: soon, login_timeout: soon, logout_timeout: soon, ..quick() }
}

/// Returns limits that fit the behaviour.
pub(super) fn limits_under(behaviour: &Behaviour) -> Limits {
    match behaviour {
        Behaviour::Stall | Behaviour::Drip(..) => impatient(),
        _ => quick(),
    }
}

/// Creates a client for that server.
pub(super) fn client(upstream: &Upstream, limits: Limits) -> ApiClient {
    client_of(&upstream.url(), upstream.ca_file().as_deref(), limits, Credential::for_test())
}

pub(super) fn client_of(
    url: &str,
    ca_file: Option<&std::path::Path>,
    limits: Limits,
    credential: Credential,
) -> ApiClient {
    let tls = ca_file.map_or_else(shared_tls, |file| tls_config(Some(file)).expect("TLS"));
    client_with(settings(url, limits), tls, credential)
}

/// Returns settings of an API client for the data center at that URL.
pub(super) fn settings(url: &str, limits: Limits) -> Settings {
    let data_center = DataCenter::parse(url).expect("a URL");
    Settings { limits, ..Settings::new(data_center) }
}

pub(super) fn client_with(settings: Settings, tls: Arc<ClientTls>, credential: Credential) -> ApiClient {
    let http = http_settings(&settings, tls);
    client_over(settings, http, credential)
}

pub(super) fn http_settings(settings: &Settings, tls: Arc<ClientTls>) -> HttpSettings {
    let mut http = HttpSettings::new(settings.data_center.base_url().clone(), tls, Resolver::for_test());
    http.connect_timeout = PATIENCE;
    http
}

/// Creates a client with these settings of its HTTP client.
pub(super) fn client_over(settings: Settings, http: HttpSettings, credential: Credential) -> ApiClient {
    counted_client(settings, http, credential, ApiClientMetrics::default())
}

/// Creates the same with metrics that the test reads.
pub(super) fn counted_client(
    settings: Settings,
    http: HttpSettings,
    credential: Credential,
    metrics: ApiClientMetrics,
) -> ApiClient {
    let memory = ResponseMemory::default();
    let api_client = ApiClientState::new(Arc::from("eu2"), settings, &memory, credential, metrics);
    ApiClient::new(api_client, http).expect("an HTTP client")
}

/// Returns a TLS configuration with the system's authorities, which are read once because there are
/// many.
pub(super) fn shared_tls() -> Arc<ClientTls> {
    static TLS: OnceLock<Arc<ClientTls>> = OnceLock::new();
    Arc::clone(TLS.get_or_init(|| tls_config(None).expect("TLS")))
}

/// Creates a call whose deadline only a failing test reaches.
pub(super) fn call() -> Call {
    call_with(3 * PATIENCE)
}

pub(super) fn call_with(left: Duration) -> Call {
    Call::new(clock::now(), Deadline::after(left))
}

pub(super) fn subject(login: &str) -> Subject {
    Subject::new(SubjectKind::Login, login.to_owned()).expect("a login")
}

pub(super) fn issue_permit(subject: Subject) -> IssuePermit {
    IssuePermit::for_test("eu2", subject)
}

pub(super) fn login_permit() -> LoginPermit {
    LoginPermit::for_test("eu2")
}

pub(super) fn ott(text: &str) -> OneTimeToken {
    OneTimeToken::try_new(text.to_owned()).expect("a token")
}

/// A failed operation, and the certainty that its call recorded.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) kind: PlatformError,
    pub(super) certainty: Certainty,
}

pub(super) async fn issue(client: &ApiClient, call: &Call) -> Result<IssuedToken, Failed> {
    let issued =
        client.issue_ott(&issue_permit(subject("john@example.com")), call, &CallSpan::default()).await;
    issued.map_err(|kind| Failed { kind, certainty: call.certainty() })
}

pub(super) async fn log_in(client: &ApiClient, token: &str, call: &Call) -> Result<LoggedIn, Failed> {
    let logged_in = client.log_in(&login_permit(), ott(token), call, &CallSpan::default()).await;
    match logged_in {
        Ok(logged_in) => Ok(logged_in),
        Err(FailedLogin { error: kind, session }) => {
            let certainty = call.certainty();
            if !session.is_empty() {
                client.log_out(&session, call).await;
            }
            Err(Failed { kind, certainty })
        }
    }
}

/// Pads a JSON text with trailing spaces to this length.
pub(super) fn padded(json: &str, length: usize) -> String {
    json.to_owned() + &" ".repeat(length - json.len())
}

/// Issues a token successfully, as every test does after its fault.
pub(super) async fn issues(client: &ApiClient) {
    issue(client, &call()).await.expect("a token after the fault");
}

/// Logs in successfully, as every test does after its fault.
pub(super) async fn logs_in(client: &ApiClient, upstream: &Upstream) {
    log_in(client, &upstream.token(), &call()).await.expect("a session after the fault");
}
