use std::{
    collections::HashMap,
    io::{self, Write},
    sync::{Arc, Mutex, MutexGuard},
};

use clap::CommandFactory;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{RootCertStore, ServerConfig, pki_types::PrivatePkcs8KeyDer, server::WebPkiClientVerifier},
};
use tonic::{Code, Request, Response, Status, service::Routes};
use tonic_health::{ServingStatus, server::HealthReporter};
use tonic_types::{ErrorDetails, StatusExt};

use super::*;
use crate::proto::ott::v1::{
    Contact, Cookie, IssueOttRequest, IssueOttResponse, LoginWithOttRequest, LoginWithOttResponse, Session,
    UserAccount,
    issue_ott_request::Subject,
    ott_service_server::{OttService, OttServiceServer},
};

const OTT: &str = "SANDBOX-canary-ott-7d1e52c9a0b3f846";
const COOKIE: &str = "canary-cookie-55aa";

/// A gateway with canned responses, which accepts a token once.
#[derive(Clone, Default)]
struct Canned(Arc<Mutex<Seen>>);

#[derive(Default)]
struct Seen {
    issued: Vec<IssueOttRequest>,
    timeouts: Vec<String>,
    authorizations: Vec<String>,
    spent: usize,
    /// Whether tokens are sealed, so that a response with a login URL has no other token.
    seals: bool,
}

impl Canned {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap()
    }
}

#[tonic::async_trait]
impl OttService for Canned {
    async fn issue_ott(
        &self,
        request: Request<IssueOttRequest>,
    ) -> Result<Response<IssueOttResponse>, Status> {
        let text = |name: &str| request.metadata().get(name).map(|value| value.to_str().unwrap().to_owned());
        self.seen().timeouts.extend(text("grpc-timeout"));
        self.seen().authorizations.extend(text("authorization"));
        let login_url = match request.get_ref().target_uri.as_str() {
            "" => String::new(),
            target => format!("http://127.0.0.1:1/api/2/idp/external-login#ott={OTT}&targetURI={target}"),
        };
        let has_ott = login_url.is_empty() || !self.seen().seals;
        let ott = if has_ott { OTT.to_owned() } else { String::new() };
        self.seen().issued.push(request.into_inner());
        let expire_time = Some(prost_types::Timestamp { seconds: 1_900_000_000, nanos: 0 });
        Ok(Response::new(IssueOttResponse { ott, expire_time, login_url }))
    }

    async fn login_with_ott(
        &self,
        request: Request<LoginWithOttRequest>,
    ) -> Result<Response<LoginWithOttResponse>, Status> {
        assert_eq!(request.get_ref().ott, OTT);
        self.seen().spent += 1;
        if self.seen().spent > 1 {
            let mut details = ErrorDetails::new();
            details
                .set_error_info("OTT_REJECTED", "ott-gateway", HashMap::new())
                .set_request_info("0199-id", "");
            return Err(Status::with_error_details(Code::Unauthenticated, "The token is refused.", details));
        }
        let contact = Contact { firstname: Some("John".to_owned()), ..Contact::default() };
        let user = UserAccount {
            login: Some("john@example".to_owned()),
            id: Some("1-not-a-uuid".to_owned()),
            version: Some(1),
            contact: Some(contact),
            ..UserAccount::default()
        };
        let cookie =
            Cookie { name: "sid".to_owned(), value: COOKIE.to_owned(), http_only: true, ..Cookie::default() };
        let session = Session { cookies: vec![cookie], cookie_header: format!("sid={COOKIE}") };
        Ok(Response::new(LoginWithOttResponse { user: Some(user), session: Some(session) }))
    }
}

impl Canned {
    async fn routes(&self) -> Routes {
        let (reporter, health) = tonic_health::server::health_reporter();
        let report: &HealthReporter = &reporter;
        report.set_service_status("", ServingStatus::Serving).await;
        report.set_service_status("down", ServingStatus::NotServing).await;
        Routes::new(OttServiceServer::new(self.clone())).add_service(health)
    }

    /// Serves on a new port until the runtime stops.
    async fn listen(&self) -> std::net::SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let routes = self.routes().await;
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve_connection(stream, routes.clone()));
            }
        });
        address
    }

    async fn listen_with_tls(&self, tls: ServerConfig) -> std::net::SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let routes = self.routes().await;
        let acceptor = TlsAcceptor::from(Arc::new(tls));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                if let Ok(stream) = acceptor.accept(stream).await {
                    tokio::spawn(serve_connection(stream, routes.clone()));
                }
            }
        });
        address
    }
}

async fn serve_connection(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, routes: Routes) {
    let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes))
        .await;
}

/// The captured output of a command.
#[derive(Clone, Default)]
struct Printed(Arc<Mutex<Vec<u8>>>);

impl Write for Printed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Printed {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

fn parsed(line: &str) -> Result<Command, clap::Error> {
    CommandLine::try_parse_from(line.split(' ')).map(|line| line.command)
}

/// Runs a command and returns its outputs and its result.
#[expect(clippy::disallowed_methods, reason = "a test may panic")]
async fn run_on_thread(line: String) -> (String, String, Result<(), String>) {
    let (out, err) = (Printed::default(), Printed::default());
    let mut output = Output::into(out.clone(), err.clone(), false);
    // A command starts its own runtime.
    let done = tokio::task::spawn_blocking(move || {
        let done = match parsed(&line).expect("the line is well formed") {
            Command::Issue(arguments) => issue::run(arguments, &mut output),
            Command::Healthcheck(arguments) => healthcheck::run(arguments, &mut output),
            Command::Login(arguments) => arguments.check(),
            other => panic!("{other:?} is not run here"),
        };
        done.map_err(|failure| {
            output.failure(&failure);
            format!("{failure}")
        })
    })
    .await
    .unwrap();
    (out.text(), err.text(), done)
}

#[test]
fn command_definitions_are_valid() {
    CommandLine::command().debug_assert();
}

#[test]
fn every_command_has_examples_and_described_arguments() {
    let commands = CommandLine::command();
    let nested = commands.get_subcommands().flat_map(clap::Command::get_subcommands);
    for command in commands.get_subcommands().chain(nested) {
        let after = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        assert!(after.contains("Example"), "{}", command.get_name());
        for argument in command.get_arguments() {
            assert!(argument.get_help().is_some(), "{} {}", command.get_name(), argument.get_id());
        }
    }
}

#[test]
fn invalid_command_lines_are_refused() {
    parsed("ott-gateway issue --login a").unwrap();
    parsed("ott-gateway issue --user-id 1 --target-uri /mc/ --timeout 500ms").unwrap();
    parsed("ott-gateway check-config --config f --online --junit f").unwrap();
    parsed("ott-gateway check-config --config f --explain jwt:a IssueOtt a --claim b=c --format json")
        .unwrap();
    parsed("ott-gateway check-config --config f --who IssueOtt a --api-client eu2 --format json").unwrap();
    for wrong in [
        "ott-gateway issue",
        "ott-gateway issue --login a --user-id b",
        "ott-gateway issue --login a --timeout 10",
        "ott-gateway issue --login a --timeout 0s",
        "ott-gateway issue --login a --certificate-file c",
        "ott-gateway login --unknown T1R=",
        "ott-gateway check-config --config -",
        "ott-gateway check-config --config f --explain a b",
        "ott-gateway check-config --config f --api-client eu2",
        // No option is ignored.
        "ott-gateway check-config --config f --api-client eu2 --online",
        "ott-gateway check-config --config f --api-client eu2 --junit f",
        "ott-gateway check-config --config f --format text --online",
        "ott-gateway check-config --config f --format json --junit f",
        "ott-gateway check-config --config f --claim a=b",
        "ott-gateway check-config --config f --claim a=b --online",
        "ott-gateway check-config --config f --claim a=b --junit f",
        "ott-gateway check-config --config f --claim a=b --who IssueOtt a",
        "ott-gateway check-config --config f --who IssueOtt a --online",
        "ott-gateway check-config --config f --who IssueOtt a --junit f",
        "ott-gateway check-config --config f --who IssueOtt a --who IssueOtt b",
        "ott-gateway check-config --config f --explain jwt:a IssueOtt a --online",
        "ott-gateway check-config --config f --explain jwt:a IssueOtt a --junit f",
        "ott-gateway check-config --config f --explain jwt:a IssueOtt a --who IssueOtt a",
        "ott-gateway check-config --config f --explain jwt:a IssueOtt a --explain jwt:a IssueOtt b",
        "ott-gateway serve",
        "ott-gateway sandbox --listen localhost",
        "ott-gateway",
    ] {
        assert!(parsed(wrong).is_err(), "{wrong}");
    }
}

#[tokio::test]
async fn invalid_options_are_refused_before_connecting() {
    let (_, _, done) = run_on_thread("ott-gateway healthcheck --server-name a".to_owned()).await;
    assert_eq!(
        done.unwrap_err(),
        "--server-name requires TLS, but the endpoint begins with http://; write https://127.0.0.1:50051"
    );
    let (_, _, done) = run_on_thread("ott-gateway issue --login a --endpoint nowhere".to_owned()).await;
    assert!(done.unwrap_err().starts_with("--endpoint has no scheme; write http://nowhere:50051, or https"));
    for arguments in ["T1R=", "--ott T1R=", "--token=T1R=", "--endpoint http://127.0.0.1:1 T1R="] {
        let (_, err, done) = run_on_thread(format!("ott-gateway login {arguments}")).await;
        let refusal = done.unwrap_err();
        assert!(refusal.contains("pipe it to standard input") && !refusal.contains("T1R"), "{refusal}");
        assert!(!err.contains("T1R"), "{err}");
    }
    let (_, _, done) = run_on_thread(
        "ott-gateway healthcheck --bearer-token-file f --endpoint http://gateway.example:1".to_owned(),
    )
    .await;
    assert!(done.unwrap_err().starts_with("--bearer-token-file needs TLS"));
    let (_, _, done) = run_on_thread(
        "ott-gateway healthcheck --endpoint https://127.0.0.1:1 --ca-file /nowhere/ca".to_owned(),
    )
    .await;
    assert_eq!(done.unwrap_err(), "--ca-file: /nowhere/ca (there is no folder /nowhere): no such file");
}

#[tokio::test]
async fn issue_prints_the_response_in_the_json_mapping_of_protobuf() {
    let gateway = Canned::default();
    let address = gateway.listen().await;
    let token = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(token.path(), "caller-token\n").unwrap();
    let line = format!(
        "ott-gateway issue --endpoint http://{address} --user-id 7 --api-client eu2 --bearer-token-file {}",
        token.path().display()
    );
    let (out, err, done) = run_on_thread(line).await;
    assert_eq!(done, Ok(()));
    assert_eq!(out, format!("{{\n  \"ott\": \"{OTT}\",\n  \"expireTime\": \"2030-03-17T17:46:40Z\"\n}}\n"));
    assert_eq!(err, "");
    let seen = gateway.seen();
    assert_eq!(seen.issued[0].subject, Some(Subject::UserId("7".to_owned())));
    assert_eq!(seen.issued[0].api_client, "eu2");
    assert_eq!(seen.authorizations, ["Bearer caller-token"]);
    assert_eq!(seen.timeouts.len(), 1, "the deadline is sent");
}

#[tokio::test]
async fn healthcheck_fails_unless_the_gateway_is_serving() {
    let address = Canned::default().listen().await;
    let check = |service: &str| {
        run_on_thread(format!("ott-gateway healthcheck --endpoint http://{address} --service {service}"))
    };
    let (out, _, done) = run_on_thread(format!("ott-gateway healthcheck --endpoint http://{address}")).await;
    assert_eq!((out.as_str(), done), ("SERVING\n", Ok(())));
    assert_eq!(check("down").await.2, Err("the gateway reports NOT_SERVING".to_owned()));
    let (_, _, done) = check("OttService").await;
    let failure = done.unwrap_err();
    assert!(failure.starts_with("the gateway has no service \"OttService\""), "{failure}");
    assert!(failure.contains("write --service ott.v1.OttService, or omit --service"), "{failure}");
    let (_, _, done) =
        run_on_thread("ott-gateway healthcheck --endpoint http://127.0.0.1:1".to_owned()).await;
    assert!(done.unwrap_err().starts_with("cannot connect to http://127.0.0.1:1: "));
}

#[tokio::test]
async fn silent_gateway_is_reported_after_the_timeout() {
    // The kernel accepts connections, and nothing is sent.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap();
    let line = format!("ott-gateway healthcheck --endpoint http://{address} --timeout 200ms");
    assert_eq!(
        run_on_thread(line).await.2,
        Err(format!(
            "no response within 200ms: http://{address} accepted the connection and sent nothing; check that this \
             is the port of the gateway's gRPC listener"
        ))
    );
    let line = format!("ott-gateway issue --login a --endpoint http://{address} --timeout 200ms");
    let failure = run_on_thread(line).await.2.unwrap_err();
    assert!(failure.ends_with("gRPC listener; the outcome of the call is unknown"), "{failure}");
}

/// The port accepts connections and sends nothing, during the diagnosis too.
#[tokio::test]
async fn failed_connection_is_diagnosed_within_the_timeout() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("https://{}", silent.local_addr().unwrap());
    silent.set_nonblocking(true).unwrap();
    for (command, connections) in [("healthcheck", 1), ("issue --login a", 2)] {
        let line = format!("ott-gateway {command} --endpoint {endpoint} --timeout 200ms");
        let failure = run_on_thread(line).await.2.unwrap_err();
        assert!(
            failure.starts_with(&format!("no response within 200ms: {endpoint} accepted the connection and")),
            "{failure}"
        );
        let accepted = std::iter::from_fn(|| silent.accept().ok()).count();
        assert_eq!(accepted, connections, "{command}");
    }
}

/// Such as the thread of a name lookup.
#[test]
#[expect(clippy::disallowed_methods, reason = "as the name lookup of the HTTP library does")]
fn command_ends_without_waiting_for_a_blocked_thread() {
    let (release, released) = std::sync::mpsc::channel();
    let command = async move {
        tokio::task::spawn_blocking(move || released.recv_timeout(std::time::Duration::from_secs(20)));
        Ok(())
    };
    client::block_on(command).unwrap();
    release.send(()).unwrap();
}

#[tokio::test]
async fn healthcheck_works_with_client_certificates() {
    let ca_key = rcgen::KeyPair::generate().unwrap();
    let mut ca = rcgen::CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca_certificate = ca.self_signed(&ca_key).unwrap();
    let issuer = rcgen::Issuer::new(ca, ca_key);
    let leaf = |name: &str| {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
        (params.signed_by(&key, &issuer).unwrap(), key)
    };
    let (server, server_key) = leaf("gateway.example");
    let (client, client_key) = leaf("probe.example");

    let mut roots = RootCertStore::empty();
    roots.add(ca_certificate.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build().unwrap();
    let mut tls = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(
            vec![server.der().clone()],
            PrivatePkcs8KeyDer::from(server_key.serialize_der()).into(),
        )
        .unwrap();
    tls.alpn_protocols = vec![b"h2".to_vec()];
    let address = Canned::default().listen_with_tls(tls).await;

    let folder = tempfile::tempdir().unwrap();
    for (name, content) in [
        ("ca.pem", ca_certificate.pem()),
        ("probe.pem", client.pem()),
        ("probe.key", client_key.serialize_pem()),
    ] {
        std::fs::write(folder.path().join(name), content).unwrap();
    }
    let path = folder.path().display();
    let anonymous = format!(
        "ott-gateway healthcheck --endpoint https://{address} --server-name gateway.example --ca-file {path}/ca.pem"
    );
    let proven =
        format!("{anonymous} --certificate-file {path}/probe.pem --private-key-file {path}/probe.key");
    let (_, err, done) = run_on_thread(anonymous).await;
    assert!(done.is_err(), "the gateway requires a certificate");
    assert!(err.contains("--certificate-file"), "{err}");
    let wrong_name = proven.replace("gateway.example", "other.example");
    let (_, err, _) = run_on_thread(wrong_name).await;
    assert!(err.contains("certificate"), "{err}");
    let (out, err, done) = run_on_thread(proven).await;
    assert_eq!((out.as_str(), err.as_str(), done), ("SERVING\n", "", Ok(())));
}

#[cfg(feature = "sandbox")]
#[tokio::test]
async fn walk_prints_each_step_and_no_secret() {
    let gateway = Canned::default();
    let address = gateway.listen().await;
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}")).unwrap();
    let channel = endpoint.connect().await.unwrap();
    let addresses = Addresses { gateway: address.to_string(), platform: "http://127.0.0.1:8080".to_owned() };

    let printed = Printed::default();
    let mut output = Output::into(printed.clone(), Printed::default(), false);
    walk(channel.clone(), &addresses, "john@example", &mut output).await.unwrap();
    let story = printed.text();
    for part in [
        "issue --endpoint",
        "--login john@example",
        "1-not-a-uuid",
        "cookie sid; HttpOnly",
        "OTT_REJECTED",
        "0199-id",
        "grpcurl",
    ] {
        assert!(story.contains(part), "{part} is missing:\n{story}");
    }
    assert!(!story.contains(OTT) && !story.contains(COOKIE), "{story}");
    assert!(!story.contains('\u{1b}'), "colors are for terminals only");
    assert_eq!(gateway.seen().spent, 2);

    // The only token of the canned gateway is already spent.
    let printed = Printed::default();
    let mut output = Output::into(printed.clone(), Printed::default(), true);
    let failure = walk(channel, &addresses, "x'; rm", &mut output).await.unwrap_err();
    assert!(matches!(failure, Failure::Status(_)), "{failure:?}");
    assert!(printed.text().contains("\u{1b}[1mIssueOtt\u{1b}[0m"));
}

#[cfg(feature = "sandbox")]
#[tokio::test]
async fn walk_spends_a_sealed_token_of_a_call_without_target_uri() {
    let gateway = Canned::default();
    gateway.seen().seals = true;
    let address = gateway.listen().await;
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}")).unwrap();
    let addresses = Addresses { gateway: address.to_string(), platform: "http://127.0.0.1:8080".to_owned() };
    let printed = Printed::default();
    let mut output = Output::into(printed.clone(), Printed::default(), false);
    walk(endpoint.connect().await.unwrap(), &addresses, "john@example", &mut output).await.unwrap();
    let targets: Vec<String> =
        gateway.seen().issued.iter().map(|request| request.target_uri.clone()).collect();
    assert_eq!(targets, ["/mc/", ""]);
    assert_eq!(gateway.seen().spent, 2);
    let story = printed.text();
    for part in ["1  IssueOtt", "(empty: tokens are sealed", "2  IssueOtt", "3  LoginWithOtt", "OTT_REJECTED"]
    {
        assert!(story.contains(part), "{part} is missing:\n{story}");
    }
    assert_eq!(story.matches("logs a browser in").count(), 1, "{story}");
    assert!(!story.contains(OTT), "{story}");
}

#[test]
fn error_for_a_port_in_use_contains_the_port_and_the_flag() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let error = std::net::TcpListener::bind(address).unwrap_err();
    assert_eq!(
        Failure::listen(address, &error, "--listen").to_string(),
        format!(
            "port {} is in use ({address}), possibly by another sandbox: stop the other program, or choose \
             another address with --listen",
            address.port()
        )
    );
    let of_file = Failure::listen(address, &error, "[server] listen").to_string();
    assert!(!of_file.contains("sandbox"), "{of_file}");
}
