//! The generated service behind the stack, with a real audit file.

use std::{fs, path::Path};

use tempfile::TempDir;
use tonic::{Code, async_trait};

use super::{
    authority::{Authority, Folder},
    *,
};
use crate::{
    base::clock::WallClock,
    caller::{self, BearerTokens},
    observe::audit::{Fingerprints, Sink},
    proto::ott::v1::{
        IssueOttRequest, IssueOttResponse, LoginWithOttRequest, LoginWithOttResponse,
        ott_service_server::{OttService, OttServiceServer},
    },
    server::tls::ClientAuth,
    status::{Failure, Reason},
};

type Headers<'a> = &'a [(&'a str, &'a str)];

/// A handler that fails each call and writes no record itself.
struct Failing;

#[async_trait]
impl OttService for Failing {
    async fn issue_ott(
        &self,
        request: tonic::Request<IssueOttRequest>,
    ) -> Result<tonic::Response<IssueOttResponse>, Status> {
        let (Arrival { call, .. }, _) = Arrival::split(request);
        call.work_begins();
        Err(Failure::new(Reason::UserNotFound).into_status(&call))
    }

    async fn login_with_ott(
        &self,
        _: tonic::Request<LoginWithOttRequest>,
    ) -> Result<tonic::Response<LoginWithOttResponse>, Status> {
        std::future::pending().await
    }
}

struct Audited {
    running: Running,
    audit: Audit,
    folder: TempDir,
}

impl Audited {
    async fn start(change: impl FnOnce(&mut Settings), identification: Identification) -> Self {
        Self::start_with(change, identification, access(None)).await
    }

    async fn start_with(
        change: impl FnOnce(&mut Settings),
        identification: Identification,
        access: Access,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let sink = folder.path().join("audit.jsonl");
        let (running, audit) = Self::start_with_sink(&sink, change, identification, access).await;
        Self { running, audit, folder }
    }

    async fn start_with_sink(
        sink: &Path,
        change: impl FnOnce(&mut Settings),
        identification: Identification,
        access: Access,
    ) -> (Running, Audit) {
        let mut settings = Settings::new("127.0.0.1:0".parse().unwrap(), Transport::LoopbackPlaintext);
        settings.worker_threads = NonZeroUsize::new(1);
        change(&mut settings);
        let metrics = Metrics::new();
        let audit = crate::observe::audit::Settings {
            sink: Sink::File(sink.to_owned()),
            fsync: false,
            hmac_key: None,
        };
        let audit =
            Audit::start(&audit, None, 16, &Fingerprints::default(), &metrics, WallClock::system()).unwrap();
        let draining = CancellationToken::new();
        let dependencies = Dependencies {
            identification,
            access,
            audit: audit.clone(),
            metrics: metrics.clone(),
            ..dependencies(draining.clone())
        };
        let routes = || {
            let service = OttServiceServer::new(Failing).max_decoding_message_size(16 * 1024);
            Ok::<_, Infallible>(Routes::new(service).into())
        };
        let server = bind(settings).unwrap().serve(dependencies, routes).await.unwrap();
        let (_, entered) = mpsc::unbounded_channel();
        let release = Arc::new(Semaphore::new(0));
        (Running { address: server.local_addr(), server, entered, release, draining, metrics }, audit)
    }

    /// Method and reason of each record so far.
    async fn records(&self) -> Vec<(String, String)> {
        self.audit.flush(SOON).await.unwrap();
        let lines = fs::read_to_string(self.folder.path().join("audit.jsonl")).unwrap();
        // The process and probes of the sink have their own lines.
        let lines = lines.lines().filter(|line| !line.contains("sink_probe") && !line.contains("started"));
        lines
            .map(|line| {
                let record: serde_json::Value = serde_json::from_str(line).unwrap();
                let field = |name: &str| record[name].as_str().unwrap_or_default().to_owned();
                (field("method"), field("reason"))
            })
            .collect()
    }
}

fn record(method: &str, reason: &str) -> (String, String) {
    (method.to_owned(), reason.to_owned())
}

async fn post(client: &mut Client, headers: &[(&str, &str)], message: &'static [u8]) -> Answer {
    let mut request =
        Request::post(format!("http://gateway{ISSUE}")).header("content-type", "application/grpc");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    client.send = client.send.clone().ready().await.unwrap();
    let (answer, mut body) = client.send.send_request(request.body(()).unwrap(), false).unwrap();
    body.send_data(Bytes::from_static(message), true).unwrap();
    received(answer).await.unwrap()
}

#[tokio::test]
async fn undecodable_messages_are_answered_and_recorded_as_documented() {
    let audited = Audited::start(|_| {}, Identification::none()).await;
    let mut client = audited.running.client().await;
    let gzip = [("grpc-encoding", "gzip")];
    let invalid = (Code::InvalidArgument, "INVALID_REQUEST");
    let cases: [(Headers<'_>, &[u8], (Code, &str)); 7] = [
        (&[], b"\0\0\0\0\x02\xff\xff", invalid),
        (&[], b"\0\0\0\0\x03\x0a\x01\xff", invalid),
        (&[], b"", invalid),
        (&[], b"\0\0\0\0\x09\x0a", invalid),
        (&[], b"\0\0\x40\0\0", (Code::ResourceExhausted, "REQUEST_TOO_LARGE")),
        (&gzip, b"\x01\0\0\0\x01\0", (Code::Unimplemented, "INVALID_REQUEST")),
        (&[], b"\x01\0\0\0\x01\0", invalid),
    ];
    for (index, (headers, message, (code, reason))) in cases.into_iter().enumerate() {
        let answer = post(&mut client, headers, message).await;
        assert_eq!((answer.code(), answer.reason().as_str()), (Some(code), reason), "{message:?}");
        let records = audited.records().await;
        assert_eq!(records.len(), index + 1, "one record each");
        assert_eq!(records[index], record("IssueOtt", reason));
    }
    let answer = post(&mut client, &[], b"\0\0\0\0\0").await;
    assert_eq!(answer.reason(), "USER_NOT_FOUND", "{answer:?}");
}

#[tokio::test]
async fn every_call_that_the_stack_ends_has_exactly_one_record() {
    let tokens = BearerTokens::for_test([("team", [7; 32])]).unwrap();
    let access = access_with(None, tokens);
    let change = |settings: &mut Settings| settings.max_in_flight = 1;
    let audited = Audited::start_with(change, Identification::none(), access).await;
    let mut client = audited.running.client().await;
    let token = [("authorization", "Bearer wrong")];
    let mut expected = Vec::new();
    let cases: [(&str, Headers<'_>, &str, &str); 6] = [
        (ISSUE, &token, "IssueOtt", "CALLER_UNAUTHENTICATED"),
        ("/ott.v1.OttService/Other", &token, "", "CALLER_UNAUTHENTICATED"),
        ("/ott.v1.OttService/Other", &[], "", "METHOD_UNKNOWN"),
        (LOGIN, &[("grpc-timeout", "soon")], "LoginWithOtt", "INVALID_REQUEST"),
        (LOGIN, &[("grpc-timeout", "50m")], "LoginWithOtt", "DEADLINE_EXCEEDED"),
        (ISSUE, &[], "IssueOtt", "USER_NOT_FOUND"),
    ];
    for (path, headers, method, reason) in cases {
        assert_eq!(client.call(path, headers).await.reason(), reason);
        expected.push(record(method, reason));
        assert_eq!(audited.records().await, expected);
    }
    let elsewhere = client.call("/other.Service/Method", &[]).await;
    assert_eq!(elsewhere.reason(), "METHOD_UNKNOWN");
    assert_eq!(audited.records().await, expected, "calls of other services have none");

    let held = client.send(LOGIN, &[]).await;
    while audited.running.server.in_flight() == 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(client.call(ISSUE, &[]).await.reason(), "OVERLOADED");
    expected.push(record("IssueOtt", "OVERLOADED"));
    assert_eq!(audited.records().await, expected);
    drop(held);
    expected.push(record("LoginWithOtt", "cancelled_before_send"));
    let recorded = async {
        while audited.records().await.len() < expected.len() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(SOON, recorded).await.expect("the record of a call whose caller disconnected is written");
    assert_eq!(audited.records().await, expected);
}

#[tokio::test]
async fn full_disk_under_the_audit_refuses_calls_before_their_handler() {
    let (running, _) =
        Audited::start_with_sink(Path::new("/dev/full"), |_| {}, Identification::none(), access(None)).await;
    let mut client = running.client().await;
    for _ in 0..3 {
        let answer = client.call(ISSUE, &[]).await;
        assert_eq!(answer.code(), Some(Code::Unavailable));
        assert_eq!(answer.reason(), "AUDIT_UNAVAILABLE");
    }
}

#[tokio::test]
async fn caller_of_a_connection_is_the_one_that_its_certificate_names() {
    let authority = Authority::new();
    let files = Folder::new(&authority.issue("localhost"));
    let ca_file = files.write_file("ca.crt", &authority.certificate());
    let tls = files.settings(ClientAuth::Require { ca_file });
    let settings = caller::Settings::default();
    let (identification, _) = Identification::new(settings, caller::no_url, Metrics::new()).unwrap();
    let audited = Audited::start(|settings| settings.transport = Transport::Tls(tls), identification).await;
    for name in ["portal", "reports"] {
        let identity = authority.issue(name);
        let client = authority.client(Some(&identity), &[b"h2"], &rustls::version::TLS13);
        let stream = TcpStream::connect(audited.running.address).await.unwrap();
        let server_name = rustls::pki_types::ServerName::try_from("localhost").unwrap();
        let stream = tokio_rustls::TlsConnector::from(client).connect(server_name, stream).await.unwrap();
        assert_eq!(Client::over(stream).await.call(ISSUE, &[]).await.reason(), "USER_NOT_FOUND");
    }
    let lines = fs::read_to_string(audited.folder.path().join("audit.jsonl")).unwrap();
    let callers: Vec<bool> = ["dns:portal", "dns:reports"]
        .iter()
        .zip(lines.lines().filter(|line| !line.contains("sink_probe") && !line.contains("started")))
        .map(|(name, line)| line.contains(name))
        .collect();
    assert_eq!(callers, [true, true], "{lines}");
}
