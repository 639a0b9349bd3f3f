//! Requests whose body never arrives in full: the caller resets the stream, the connection is lost,
//! or the body does not match its `content-length`.
//!
//! These are not gateway errors. Log, audit and metrics must agree on each call, and no handler may
//! run on a partial request.

use bytes::Bytes;
use h2::{Reason, SendStream, client::ResponseFuture};
use http::{HeaderMap, Request};
use serde_json::Value;
use tokio::{net::TcpStream, task::JoinHandle};

use crate::support::{
    calling::{issue, login, metric, result_of, until},
    gateway::{Gateway, Setup},
    raw::framed,
    upstream::{LOGIN, OTT, Upstream},
};

const METHODS: [&str; 2] = ["IssueOtt", "LoginWithOtt"];

/// A call whose head has arrived at the gateway and whose body is incomplete.
struct PartialCall {
    id: String,
    method: &'static str,
    stream: SendStream<Bytes>,
    answer: ResponseFuture,
    connection: JoinHandle<Result<(), h2::Error>>,
}

impl PartialCall {
    /// Sends the head and `body`, and waits until the gateway has started the call.
    async fn send(
        gateway: &Gateway,
        method: &'static str,
        id: &str,
        content_length: Option<usize>,
        body: Bytes,
    ) -> Self {
        let stream = TcpStream::connect(gateway.address()).await.expect("the gateway accepts");
        let (requests, connection) = h2::client::handshake(stream).await.expect("it speaks HTTP/2");
        let connection = tokio::spawn(connection);
        let mut request = Request::post(format!("http://gateway/ott.v1.OttService/{method}"))
            .header("te", "trailers")
            .header("content-type", "application/grpc")
            .header("x-request-id", id);
        if let Some(length) = content_length {
            request = request.header("content-length", length);
        }
        let started = format!(
            r#"grpc_server_started_total{{grpc_method="{method}",grpc_service="ott.v1.OttService",grpc_type="unary"}}"#
        );
        let before = metric(gateway.admin(), &started).await;
        let mut requests = requests.ready().await.expect("the connection is open");
        let (answer, mut stream) =
            requests.send_request(request.body(()).expect("a request"), false).expect("it is sent");
        stream.send_data(body, false).expect("it is sent");
        until("the call has begun", async || metric(gateway.admin(), &started).await > before).await;
        Self { id: id.to_owned(), method, stream, answer, connection }
    }
}

/// Something that the caller does to break its request.
type Fault = fn(&mut PartialCall);

fn message() -> Bytes {
    framed(false, b"\x0a\x01x").into()
}

fn partial_message() -> Bytes {
    message().slice(..6)
}

/// Waits for the log line of a call.
fn line_of(gateway: &Gateway, id: &str) -> Value {
    gateway.stderr().wait_for(id, |line| {
        let line: Value = serde_json::from_str(line).ok()?;
        (line["target"] == "ott_gateway::call" && line["request.id"] == id).then_some(line)
    })
}

/// Returns how log, audit and metrics report a call: level, code and reason in the log; code,
/// reason and outcome in the audit; the counters that changed.
async fn reports(gateway: &Gateway, mut begun: PartialCall, fault: Fault) -> [String; 3] {
    let (id, method) = (begun.id.clone(), begun.method);
    let counters = |code: &str| {
        format!(
            r#"grpc_server_handled_total{{grpc_code="{code}",grpc_method="{method}",grpc_service="ott.v1.OttService",grpc_type="unary"}}"#
        )
    };
    let error = |reason: &str| format!(r#"ott_gateway_errors_total{{method="{method}",reason="{reason}"}}"#);
    let names = [
        ("Canceled", counters("Canceled")),
        ("InvalidArgument", counters("InvalidArgument")),
        ("Internal", counters("Internal")),
        ("OK", counters("OK")),
        ("INVALID_REQUEST", error("INVALID_REQUEST")),
        ("INTERNAL_ERROR", error("INTERNAL_ERROR")),
    ];
    let mut before = Vec::new();
    for (_, name) in &names {
        before.push(metric(gateway.admin(), name).await);
    }

    fault(&mut begun);
    let line = line_of(gateway, &id);
    let mut records = Vec::new();
    until(&id, async || {
        records = gateway.audit();
        records.retain(|record| record["request_id"] == id.as_str());
        !records.is_empty()
    })
    .await;
    assert_eq!(records.len(), 1, "one record per call: {records:?}");
    assert_eq!(records[0].get("late"), None, "{records:?}");
    let words = |value: &Value, names: &[&str]| {
        let word = |name: &&str| value[*name].as_str().unwrap_or("-").to_owned();
        names.iter().map(word).collect::<Vec<_>>().join(" ")
    };
    let mut moved = Vec::new();
    for ((label, name), before) in names.iter().zip(before) {
        if metric(gateway.admin(), name).await > before {
            moved.push(*label);
        }
    }
    begun.connection.abort();
    drop((begun.stream, begun.answer));
    [
        words(&line, &["level", "rpc.code", "reason"]),
        words(&records[0], &["code", "reason", "outcome"]),
        moved.join(" "),
    ]
}

const CANCELLED: [&str; 3] = ["INFO Cancelled -", "CANCELLED cancelled_before_send not_sent", "Canceled"];
const INVALID: [&str; 3] = [
    "INFO InvalidArgument INVALID_REQUEST",
    "INVALID_ARGUMENT INVALID_REQUEST not_sent",
    "InvalidArgument INVALID_REQUEST",
];

/// A gateway that waits longer for the rest of a request than any test takes.
fn patient(platform: &Upstream) -> Gateway {
    let waits = "[server]\nbody_timeout = \"60s\"\nmax_deadline = \"60s\"";
    Setup::for_platform(platform.address()).replacing("[server]", waits).start()
}

/// Checks that the same process still serves and has sent nothing to the platform.
async fn still_serves(gateway: &Gateway, platform: &Upstream) {
    gateway.in_flight(0).await;
    assert_eq!((platform.count(OTT), platform.count(LOGIN)), (0, 0), "no handler has run");
    let mut client = gateway.client().await;
    let token = client.issue_ott(issue("x@example.com")).await.expect("a token").into_inner().ott;
    assert_eq!(result_of(&client.login_with_ott(login(&token)).await), "OK");
    let log = gateway.stderr().text();
    let alarm = log.lines().find(|line| line.contains("\"ERROR\"") || line.contains("\"WARN\""));
    assert_eq!(alarm, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stream_reset_by_the_caller_is_a_cancelled_call() {
    let platform = Upstream::http().await;
    let gateway = patient(&platform);
    let resets: [(&str, Fault); 7] = [
        ("cancel", |begun| begun.stream.send_reset(Reason::CANCEL)),
        ("no-error", |begun| begun.stream.send_reset(Reason::NO_ERROR)),
        ("internal", |begun| begun.stream.send_reset(Reason::INTERNAL_ERROR)),
        ("protocol", |begun| begun.stream.send_reset(Reason::PROTOCOL_ERROR)),
        ("refused", |begun| begun.stream.send_reset(Reason::REFUSED_STREAM)),
        ("calm", |begun| begun.stream.send_reset(Reason::ENHANCE_YOUR_CALM)),
        ("unknown", |begun| begun.stream.send_reset(Reason::from(0xdead))),
    ];
    for method in METHODS {
        // With the whole message, only END_STREAM is missing.
        for (part, body) in [("none", Bytes::new()), ("half", partial_message()), ("whole", message())] {
            for (name, reset) in resets {
                let id = format!("{method}-{part}-{name}");
                let begun = PartialCall::send(&gateway, method, &id, None, body.clone()).await;
                assert_eq!(reports(&gateway, begun, reset).await, CANCELLED, "{id}");
            }
        }
    }
    still_serves(&gateway, &platform).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connection_lost_while_a_request_arrives_is_a_cancelled_call() {
    let platform = Upstream::http().await;
    let gateway = patient(&platform);
    for method in METHODS {
        for (part, body) in [("none", Bytes::new()), ("half", partial_message()), ("whole", message())] {
            let id = format!("{method}-{part}-closed");
            let begun = PartialCall::send(&gateway, method, &id, None, body.clone()).await;
            assert_eq!(reports(&gateway, begun, |begun| begun.connection.abort()).await, CANCELLED, "{id}");
        }
    }
    still_serves(&gateway, &platform).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn body_that_does_not_match_its_content_length_is_an_invalid_request() {
    let platform = Upstream::http().await;
    let gateway = patient(&platform);
    let (short, long) = (message().len() - 1, message().len() + 1);
    let faults: [(&str, usize, Bytes, Fault); 5] = [
        ("ends-early", long, message(), |begun| begun.stream.send_data(Bytes::new(), true).expect("sent")),
        ("ends-in-a-message", long, partial_message(), |begun| {
            begun.stream.send_data(Bytes::new(), true).expect("sent");
        }),
        ("ends-with-trailers", long, message(), |begun| {
            begun.stream.send_trailers(HeaderMap::new()).expect("sent");
        }),
        ("goes-on", short, partial_message(), |begun| {
            begun.stream.send_data(message(), false).expect("sent");
        }),
        ("ends-late", short, partial_message(), |begun| {
            begun.stream.send_data(message(), true).expect("sent");
        }),
    ];
    for method in METHODS {
        for (name, length, body, fault) in &faults {
            let id = format!("{method}-{name}");
            let begun = PartialCall::send(&gateway, method, &id, Some(*length), body.clone()).await;
            assert_eq!(reports(&gateway, begun, *fault).await, INVALID, "{id}");
            let cause = line_of(&gateway, &id)["cause"].clone();
            assert_eq!(cause, "the request body violates HTTP/2, or does not match its content-length");
        }
    }
    still_serves(&gateway, &platform).await;
}
