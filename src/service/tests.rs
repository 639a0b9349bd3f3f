//! Both RPCs with a scripted platform, on replicas that share only their keys.

mod binding;
mod refusals;

use std::{sync::OnceLock, time::Duration};

use prost::Message;
use serde_json::Value;

use super::*;
use crate::{
    access::{Policy, RuleSettings, Rules},
    base::{
        clock::{self, WallClock},
        memory::ResponseMemory,
    },
    caller::{Caller, Proof, Recognition},
    credential::Credential,
    domain::{
        call::{Deadline, RequestId},
        ott::Users,
    },
    http_client::{ClientTls, HttpSettings, Resolver, tls_config},
    observe::{
        audit::{Fingerprints, HmacKey, Settings, Sink},
        telemetry::{metrics::ApiClientMetrics, tracing::CallSpan},
    },
    platform::{
        self, ApiClientState, Limits,
        data_center::DataCenter,
        tests::upstream::{Answer, Behaviour, LOGIN, LOGOUT, OTT, Upstream},
    },
    proto::ott::v1::{IssueOttRequest, LoginWithOttRequest, issue_ott_request::Subject as RequestedSubject},
    token_binding::Keys,
};

const KEY: &str = "2026-10 AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
const OTHER_KEY: &str = "2026-11 ICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8=";
/// A caller that may do everything.
const PORTAL: &str = "token:portal";
/// The clock of the token binding is slow by this time, so that no token expires during a test on a
/// busy machine. The expiry of tokens follows the machine's clock.
const SLOW_BY_MS: i64 = 3_600_000;
/// Maximum time that a test waits for an event. Only a failing test waits this long.
const PATIENCE: Duration = Duration::from_mins(2);

/// One replica of the gateway.
struct Replica {
    service: OttService,
    /// The clock of the token binding.
    wall: WallClock,
    folder: tempfile::TempDir,
}

/// What a caller receives: a message, or the headers of a failure.
type Received<T> = Result<T, HeaderMap>;

fn keys(lines: &[&str]) -> Keys {
    Keys::parse(lines.join("\n").as_bytes()).expect("keys")
}

fn rule(callers: &[&str]) -> RuleSettings {
    RuleSettings::new(callers.iter().map(|&name| name.to_owned()).collect(), Users::All)
}

fn api_client(name: &str, upstream: &Upstream) -> ApiClient {
    // Read once, because there are many authorities.
    static TLS: OnceLock<Arc<ClientTls>> = OnceLock::new();
    let data_center = DataCenter::parse(&upstream.url()).expect("a URL");
    let limits = Limits { attempt_timeout: PATIENCE, login_timeout: PATIENCE, ..Limits::default() };
    let settings = platform::Settings { limits, ..platform::Settings::new(data_center) };
    let tls = Arc::clone(TLS.get_or_init(|| tls_config(None).expect("TLS")));
    let mut http = HttpSettings::new(settings.data_center.base_url().clone(), tls, Resolver::for_test());
    http.connect_timeout = PATIENCE;
    let (memory, metrics) = (ResponseMemory::default(), ApiClientMetrics::default());
    let state = ApiClientState::new(Arc::from(name), settings, &memory, Credential::for_test(), metrics);
    ApiClient::new(state, http).expect("an HTTP client")
}

impl Replica {
    /// Starts a replica that allows everything to [`PORTAL`]. The first API client is the default
    /// one. Without keys, it has no token binding.
    fn new(clients: &[(&str, &Upstream, Mode)], key_lines: &[&str]) -> Self {
        Self::with_rules(clients, key_lines, vec![rule(&[PORTAL])])
    }

    fn with_rules(clients: &[(&str, &Upstream, Mode)], key_lines: &[&str], rules: Vec<RuleSettings>) -> Self {
        let wall = WallClock::following_monotonic();
        let ahead = WallClock::system().now().duration_since(wall.now()).expect("after 2026-01-01");
        wall.shift_by_ms(i64::try_from(ahead.as_millis()).expect("some years") - SLOW_BY_MS);
        let token_binding = match key_lines {
            [] => TokenBinding::without_keys(),
            lines => TokenBinding::new(keys(lines), wall.clone()),
        };
        let folder = tempfile::tempdir().expect("a temporary folder");
        let metrics = Metrics::new();
        let audit = Audit::start(
            &Settings::new(Sink::File(folder.path().join("audit.jsonl"))),
            Some(&HmacKey::new("2026", b"Jefe".to_vec())),
            64,
            &Fingerprints::default(),
            &metrics,
            WallClock::system(),
        );
        let policy = Policy { rules: Rules::try_new(rules).expect("rules"), ..Policy::closed() };
        let default = clients.first().map(|(name, ..)| Arc::from(*name));
        let clients = clients.iter().map(|(name, upstream, mode)| (api_client(name, upstream), *mode));
        let service = OttService {
            access: Access::new(policy, metrics.clone()),
            api_clients: ApiClients::new(clients.collect(), default),
            audit: audit.expect("the sink opens"),
            known_tokens: KnownTokens::default(),
            token_binding,
            metrics,
        };
        Self { service, wall, folder }
    }

    /// Returns the replica without a default API client.
    fn without_default(mut self, clients: &[(&str, &Upstream, Mode)]) -> Self {
        let clients = clients.iter().map(|(name, upstream, mode)| (api_client(name, upstream), *mode));
        self.service.api_clients = ApiClients::new(clients.collect(), None);
        self
    }

    async fn call<T: Message + Default>(
        &self,
        caller: &str,
        method: Method,
        request: &impl Message,
    ) -> Received<T> {
        let id = RequestId::given(b"the-same-for-all-calls").expect("an id");
        let call = Call::with_request_id(id, clock::now(), Deadline::after(3 * PATIENCE));
        let caller = Caller::for_test(caller, Proof::Token);
        call.set_method(method);
        call.set_caller(Arc::clone(caller.name()), "token");
        let policy = self.service.access.policy().into_shared();
        let admission = self.service.access.admits(Arc::clone(&policy), &call, &caller, method);
        let admission = admission.map_err(|denied| Failure::from(denied).into_headers(&call))?;
        let arrival = Arrival {
            call: call.clone(),
            caller,
            policy,
            span: CallSpan::default(),
            in_flight: None,
            recognition: Recognition::default(),
        };
        let message = request.encode_to_vec();
        let length = u32::try_from(message.len()).expect("a short message").to_be_bytes();
        let body = [&[0][..], &length, &message].concat();
        let answered = self.service.answer(arrival, admission, &HeaderMap::new(), &body).await;
        let body = answered.map_err(|failure| failure.into_headers(&call))?;
        Ok(T::decode(&body[5..]).expect("a message"))
    }

    /// Issues a token for a login with the default API client.
    async fn issue(&self, login: &str) -> Received<IssueOttResponse> {
        self.issue_with(IssueOttRequest::default(), login).await
    }

    async fn issue_with(&self, request: IssueOttRequest, login: &str) -> Received<IssueOttResponse> {
        let subject = Some(RequestedSubject::Login(login.to_owned()));
        self.call(PORTAL, Method::IssueOtt, &IssueOttRequest { subject, ..request }).await
    }

    async fn issue_for(&self, subject: RequestedSubject) -> Received<IssueOttResponse> {
        let request = IssueOttRequest { subject: Some(subject), ..IssueOttRequest::default() };
        self.call(PORTAL, Method::IssueOtt, &request).await
    }

    /// Spends a token as [`PORTAL`] with the default API client, or that of the sealed token.
    async fn log_in(&self, ott: &str) -> Received<LoginWithOttResponse> {
        self.log_in_as(PORTAL, ott, "").await
    }

    async fn log_in_as(&self, caller: &str, ott: &str, api_client: &str) -> Received<LoginWithOttResponse> {
        let request = LoginWithOttRequest { ott: ott.to_owned(), api_client: api_client.to_owned() };
        self.call(caller, Method::LoginWithOtt, &request).await
    }

    /// Returns the records of all calls.
    async fn records(&self) -> Vec<Value> {
        self.service.audit.flush(PATIENCE).await.expect("the sink works");
        let text = std::fs::read_to_string(self.folder.path().join("audit.jsonl")).expect("records");
        let records = text.lines().map(|line| serde_json::from_str(line).expect("a record is JSON"));
        records.filter(|record: &Value| record["event"] == "call").collect()
    }

    async fn last_record(&self) -> Value {
        self.records().await.pop().expect("a record")
    }

    /// Returns the value of a sample; zero if it is not exported.
    fn metric(&self, sample: &str) -> u64 {
        let text = self.service.metrics.render();
        let value = text.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
        value.map_or(0, |value| value.parse().expect("a number"))
    }
}

/// Returns the reason in the headers of a failure.
fn reason(headers: &HeaderMap) -> String {
    use tonic_types::StatusExt;
    let status = tonic::Status::from_header_map(headers).expect("a status");
    status.get_details_error_info().expect("an ErrorInfo").reason
}

/// Returns the login of the account in a response.
fn account(response: LoginWithOttResponse) -> String {
    response.user.expect("an account").login.expect("a login")
}
