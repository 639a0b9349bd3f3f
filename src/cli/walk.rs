//! The walk of the sandbox: issues a token over gRPC, spends it, tries it again, and prints commands to
//! paste.
//!
//! It is an ordinary client that knows only the address of the gateway.

use std::time::Duration;

use tonic::transport::Channel;
use tonic_types::StatusExt;

use super::{
    failure::Failure,
    output::{Output, Style},
};
use crate::{
    base::{clock, text::Printable},
    observe::telemetry::names::status_name,
    proto::ott::v1::{
        Cookie, IssueOttRequest, IssueOttResponse, LoginWithOttRequest, LoginWithOttResponse,
        issue_ott_request::Subject, ott_service_client::OttServiceClient,
    },
};

/// The platform's management console.
const TARGET: &str = "/mc/";
/// Deadline of a call. Only simulated faults take longer.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum number of displayed characters of a token.
const SHOWN: usize = 20;
/// Default address of the gateway for commands.
const DEFAULT_GATEWAY: &str = "127.0.0.1:50051";

const PYTHON: &str = "\
python3 -m venv target/python && . target/python/bin/activate
pip install grpcio grpcio-tools
python -m grpc_tools.protoc -I proto --python_out=target/python \\
  --grpc_python_out=target/python ott/v1/ott_service.proto
PYTHONPATH=target/python python - <<'END'
import grpc
from ott.v1 import ott_service_pb2 as ott, ott_service_pb2_grpc as ott_grpc

gateway = ott_grpc.OttServiceStub(grpc.insecure_channel(\"GATEWAY\"))
issued = gateway.IssueOtt(ott.IssueOttRequest(login=\"LOGIN\"), timeout=5)
answer = gateway.LoginWithOtt(ott.LoginWithOttRequest(ott=issued.ott), timeout=5)
print(answer.user.login, [cookie.name for cookie in answer.session.cookies])
END";

/// The addresses of the gateway and the simulated platform, for users.
#[derive(Clone, Debug)]
pub struct Addresses {
    /// Host and port of the gateway.
    pub gateway: String,
    /// URL of the simulated platform, without a trailing slash.
    pub platform: String,
}

/// Servers outside this machine that a sandbox contacts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Contacts {
    /// None.
    Nothing,
    /// The JWT issuers of a configuration file, for their keys.
    KeyIssuers,
}

/// Prints the addresses.
pub(super) fn opening(addresses: &Addresses, contacts: Contacts, output: &mut Output) {
    let title = output.paint(Style::Heading, "ott-gateway sandbox");
    let claim = match contacts {
        Contacts::Nothing => "nothing leaves this machine; no account needed",
        Contacts::KeyIssuers => "no account needed; keys of JWT issuers are fetched",
    };
    output.line(format_args!("\n{title}  {claim}\n"));
    for (name, place, what) in [
        ("gateway", &addresses.gateway, "gRPC: ott.v1.OttService"),
        ("platform", &addresses.platform, "a copy of the documented endpoints"),
    ] {
        let name = output.paint(Style::Name, format_args!("{name:<9}"));
        output.line(format_args!("  {name} {}  ({what})", Printable(place)));
    }
}

/// Issues a token for the user with this login, spends it and tries it again. Prints each step and
/// the commands to paste.
///
/// # Errors
///
/// The first call with an unexpected outcome.
pub async fn walk(
    channel: Channel,
    addresses: &Addresses,
    login: &str,
    output: &mut Output,
) -> Result<(), Failure> {
    let mut story = Story { output, client: OttServiceClient::new(channel), login, steps: 0 };
    opening(addresses, Contacts::Nothing, story.output);
    let mut issued = story.issue("a one-time token for a user", TARGET).await?;
    if issued.ott.is_empty() {
        issued = story.issue("a sealed token, without target_uri", "").await?;
    }
    let ott = story.log_in(issued.ott).await?;
    story.log_in_again(ott).await?;
    story.lines_to_paste(addresses);
    Ok(())
}

struct Story<'a> {
    output: &'a mut Output,
    client: OttServiceClient<Channel>,
    login: &'a str,
    /// Number of calls so far.
    steps: u8,
}

impl Story<'_> {
    async fn issue(&mut self, what: &str, target_uri: &str) -> Result<IssueOttResponse, Failure> {
        self.step("IssueOtt", what);
        self.sent("login", self.login);
        if !target_uri.is_empty() {
            self.sent("target_uri", target_uri);
        }
        let message = IssueOttRequest {
            subject: Some(Subject::Login(self.login.to_owned())),
            target_uri: target_uri.to_owned(),
            ..IssueOttRequest::default()
        };
        let started = clock::now();
        let answer = self.client.issue_ott(request(message)).await?.into_inner();
        self.done(started);
        if answer.ott.is_empty() {
            self.came("ott", "(empty: tokens are sealed, so only the URL carries this one)");
        } else {
            self.came("ott", format_args!("{}  ({} characters)", shortened(&answer.ott), answer.ott.len()));
        }
        let lasts = answer.expire_time.map_or(0, |at| at.seconds.saturating_sub(unix_seconds_now()));
        self.came("expire_time", format_args!("in {lasts} s, or when it is spent"));
        if let Some((url, _)) = answer.login_url.split_once("#ott=") {
            self.came("login_url", format_args!("{url}#ott=…  (logs a browser in)"));
        }
        Ok(answer)
    }

    async fn log_in(&mut self, ott: String) -> Result<String, Failure> {
        self.step("LoginWithOtt", "spend it");
        self.sent("ott", shortened(&ott));
        let started = clock::now();
        let message = LoginWithOttRequest { ott: ott.clone(), ..LoginWithOttRequest::default() };
        let answer = self.client.login_with_ott(request(message)).await?.into_inner();
        self.done(started);
        self.account(&answer);
        for cookie in answer.session.iter().flat_map(|session| &session.cookies) {
            self.came("session", attributes(cookie));
        }
        Ok(ott)
    }

    async fn log_in_again(&mut self, ott: String) -> Result<(), Failure> {
        self.step("LoginWithOtt", "the same token again");
        self.sent("ott", shortened(&ott));
        let started = clock::now();
        let message = LoginWithOttRequest { ott, ..LoginWithOttRequest::default() };
        let Err(status) = self.client.login_with_ott(request(message)).await else {
            return Err(Failure::Failed("the token was accepted twice".to_owned()));
        };
        let Some(info) = status.get_details_error_info().filter(|info| info.reason == "OTT_REJECTED") else {
            return Err(status.into());
        };
        let code = self.output.paint(Style::Bad, status_name(status.code()));
        self.output.line(format_args!("     {code} after {} ms, as expected", started.elapsed().as_millis()));
        self.came("reason", info.reason);
        self.came("message", status.message());
        if let Some(info) = status.get_details_request_info() {
            self.came("request_id", &info.request_id);
        }
        Ok(())
    }

    fn account(&mut self, answer: &LoginWithOttResponse) {
        let Some(user) = &answer.user else { return };
        let name = user.contact.as_ref().map_or_else(String::new, |contact| {
            let parts = [contact.firstname.as_deref(), contact.lastname.as_deref()];
            parts.into_iter().flatten().collect::<Vec<_>>().join(" ")
        });
        let login = user.login.as_deref().unwrap_or_default();
        self.came("user", format_args!("{name} <{login}>"));
        for (field, value) in [("id", &user.id), ("tenant_id", &user.tenant_id)] {
            if let Some(value) = value {
                self.came(field, value);
            }
        }
    }

    fn lines_to_paste(&mut self, addresses: &Addresses) {
        let gateway = &addresses.gateway;
        let program = program();
        // The shell or Python could interpret other characters.
        let login = if is_plain(self.login) { self.login } else { "PASTE-A-LOGIN-HERE" };
        let at =
            if gateway == DEFAULT_GATEWAY { String::new() } else { format!(" --endpoint http://{gateway}") };
        let heading = self.output.paint(Style::Heading, "Your turn");
        self.output.line(format_args!("\n{heading}: paste any of these into another terminal"));
        self.paste(
            "with this program",
            &format!("{program} issue{at} --login {login} |\n  {program} login{at}"),
        );
        self.paste(
            "with grpcurl",
            &format!(
                "grpcurl -plaintext -d '{{\"login\": \"{login}\"}}' \\\n  {gateway} ott.v1.OttService/IssueOtt\n\
                 grpcurl -plaintext -d '{{\"ott\": \"PASTE IT HERE\"}}' \\\n  {gateway} ott.v1.OttService/LoginWithOtt"
            ),
        );
        self.paste(
            "with Python, in this repository: generate the stubs, then call both methods",
            &PYTHON.replace("GATEWAY", gateway).replace("LOGIN", login),
        );
        self.paste(
            "in a browser: open the loginUrl that this prints before the token expires",
            &format!("{program} issue{at} --login {login} --target-uri {TARGET}"),
        );
        self.paste(
            "every error on demand: a reason in docs/errors.md, or a response of the platform (503, cut, slow …)",
            &format!(
                "{program} issue{at} --login fault+USER_NOT_FOUND@sandbox\n\
                 {program} issue{at} --login login-fault+OTT_IN_USE@sandbox |\n  {program} login{at}"
            ),
        );
    }

    /// Prints lines without an indent, because Python would reject one. The title is a comment, so that
    /// it can be pasted too.
    fn paste(&mut self, title: &str, lines: &str) {
        let title = self.output.paint(Style::Quiet, format_args!("# {title}"));
        self.output.line(format_args!("\n{title}\n{lines}"));
    }

    fn step(&mut self, method: &str, what: &str) {
        self.steps += 1;
        let number = self.steps;
        let method = self.output.paint(Style::Heading, method);
        self.output.line(format_args!("\n  {number}  {method}  {what}"));
    }

    fn done(&mut self, started: clock::Instant) {
        let ok = self.output.paint(Style::Good, "OK");
        self.output.line(format_args!("     {ok} after {} ms", started.elapsed().as_millis()));
    }

    fn sent(&mut self, field: &str, value: impl std::fmt::Display) {
        self.field("→", field, value);
    }

    fn came(&mut self, field: &str, value: impl std::fmt::Display) {
        self.field("←", field, value);
    }

    fn field(&mut self, arrow: &str, field: &str, value: impl std::fmt::Display) {
        let arrow = self.output.paint(Style::Quiet, arrow);
        let field = self.output.paint(Style::Name, format_args!("{field:<12}"));
        self.output.line(format_args!("     {arrow} {field} {}", Printable(value)));
    }
}

fn request<T>(message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(TIMEOUT);
    request
}

/// Returns the beginning of a token: enough to recognize it, too little to use it.
fn shortened(ott: &str) -> String {
    // At most half of a short token.
    let shown: String = ott.chars().take(SHOWN.min(ott.len() / 2)).collect();
    format!("{shown}…")
}

fn attributes(cookie: &Cookie) -> String {
    let mut parts = vec![format!("cookie {}", cookie.name)];
    if !cookie.path.is_empty() {
        parts.push(format!("Path={}", cookie.path));
    }
    if cookie.http_only {
        parts.push("HttpOnly".to_owned());
    }
    if cookie.secure {
        parts.push("Secure".to_owned());
    }
    if !cookie.same_site.is_empty() {
        parts.push(format!("SameSite={}", cookie.same_site));
    }
    parts.join("; ")
}

/// Returns the path by which this program was started, if it can be pasted.
fn program() -> String {
    std::env::args_os()
        .next()
        .and_then(|name| name.into_string().ok())
        .filter(|name| is_plain(name))
        .unwrap_or_else(|| "ott-gateway".to_owned())
}

/// Returns whether a text has no special meaning in a shell or programming language.
fn is_plain(text: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/.-_@+".contains(&byte);
    !text.is_empty() && !text.starts_with('-') && text.bytes().all(is_plain)
}

fn unix_seconds_now() -> i64 {
    i64::try_from(clock::unix_seconds(clock::WallClock::system().now())).unwrap_or(i64::MAX)
}
