//! The server on real sockets, with well-behaved and misbehaving peers.

pub(super) mod authority;
mod calls;
mod connections;
mod contract;
mod draining;
mod fairness;
mod frames;
mod health_port;
mod limits;
mod securing;
mod unidentified;
mod workers;

use std::{
    convert::Infallible,
    net::SocketAddr,
    num::{NonZeroU32, NonZeroUsize},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use h2::client::SendRequest;
use http::{HeaderMap, Request, Response, StatusCode};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::{Semaphore, mpsc},
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tonic::{Status, body::Body, service::Routes};
use tonic_types::StatusExt;

use super::{
    Dependencies, DrainTimes, Server, Settings, Transport, bind,
    drain::Calls,
    holders::Holders,
    refused_bodies::RefusedBodies,
    stack::{CallStack, CallTimes},
};
use crate::{
    access::{Access, Policy, Rate, RuleSettings, Rules},
    caller::{self, BearerTokens, Identification},
    domain::{call::Call, ott::Users},
    observe::{
        audit::Audit,
        health::{Health, HealthService, Watches},
        telemetry::{metrics::Metrics, tracing::Tracer},
    },
    service::{RefusedRequests, arrival::Arrival},
};

/// Timeout for expected events. Only a failing test waits this long.
const SOON: Duration = Duration::from_mins(2);
/// A time limit that no test reaches.
const NEVER: Duration = Duration::from_hours(1);
const ISSUE: &str = "/ott.v1.OttService/IssueOtt";
const LOGIN: &str = "/ott.v1.OttService/LoginWithOtt";

/// A handler that is controlled by the header `x-do`.
#[derive(Clone)]
struct Handler {
    entered: mpsc::UnboundedSender<Call>,
    /// Each permit releases one held call.
    release: Arc<Semaphore>,
}

impl Handler {
    async fn answer(self, request: Request<axum::body::Body>) -> Response<Body> {
        let extensions = request.extensions();
        let arrival = extensions.get::<Arrival>().expect("the stack inserts it").clone();
        let Arrival { call, caller, in_flight, .. } = arrival;
        let what = request.headers().get("x-do").map_or("", |what| what.to_str().unwrap()).to_owned();
        let release = Arc::clone(&self.release);
        let hold = {
            let release = Arc::clone(&release);
            async move { release.acquire_owned().await.unwrap().forget() }
        };
        let (mut code, mut message) = ("0", "");
        self.entered.send(call.clone()).unwrap();
        match what.as_str() {
            "" => {}
            "panic" => panic!("as asked"),
            "hold" => hold.await,
            "hold-as-sent" => {
                call.sending();
                hold.await;
            }
            // Like a handler whose work must continue when its caller disconnects.
            "detach" => tokio::spawn(async move {
                hold.await;
                drop(in_flight);
            })
            .await
            .unwrap(),
            "block" => {
                while release.try_acquire().map(tokio::sync::SemaphorePermit::forget).is_err() {
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
            "undecodable" => (code, message) = ("13", "failed to decode Protobuf message: invalid"),
            "too-large" => (code, message) = ("11", "Error, decoded message length too large: found"),
            "bare" => code = "2",
            other => unreachable!("{other}"),
        }
        let mut response = Response::new(Body::empty());
        response.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
        response.headers_mut().insert("grpc-status", code.parse().unwrap());
        response.headers_mut().insert("grpc-message", message.parse().unwrap());
        let thread = std::thread::current().name().unwrap().parse().unwrap();
        response.headers_mut().insert("x-thread", thread);
        response.headers_mut().insert("x-caller", caller.name().parse().unwrap());
        response
    }
}

/// A running server, and the calls that reach its handlers.
struct Running {
    server: Server,
    address: SocketAddr,
    entered: mpsc::UnboundedReceiver<Call>,
    release: Arc<Semaphore>,
    draining: CancellationToken,
    metrics: Metrics,
}

/// Settings of a server with one worker and without TLS, which drains fast.
fn settings() -> Settings {
    let mut settings = Settings::new("127.0.0.1:0".parse().unwrap(), Transport::LoopbackPlaintext);
    settings.worker_threads = NonZeroUsize::new(1);
    settings.drain = DrainTimes {
        lame_duck: Duration::ZERO,
        stragglers: Duration::from_millis(50),
        cut_off: Duration::from_millis(500),
        settle: Duration::from_millis(200),
        linger: Duration::from_millis(200),
    };
    settings
}

/// Starts a main port on which every caller may use all places.
async fn start(change: impl FnOnce(&mut Settings)) -> Running {
    start_changed(change, |_| {}).await
}

async fn start_with(metrics: Metrics, change: impl FnOnce(&mut Settings)) -> Running {
    start_changed(change, |dependencies| dependencies.metrics = metrics).await
}

async fn start_changed(
    change: impl FnOnce(&mut Settings),
    change_dependencies: impl FnOnce(&mut Dependencies),
) -> Running {
    let mut settings = settings();
    change(&mut settings);
    let (entered, calls) = mpsc::unbounded_channel();
    let handler = Handler { entered, release: Arc::new(Semaphore::new(0)) };
    let release = Arc::clone(&handler.release);
    let draining = CancellationToken::new();
    let mut dependencies = dependencies(draining.clone());
    change_dependencies(&mut dependencies);
    let metrics = dependencies.metrics.clone();
    let bound = bind(settings).unwrap();
    let routes = move || {
        let handler = handler.clone();
        let answer = move |request| handler.clone().answer(request);
        let router = Routes::default()
            .into_axum_router()
            .route(ISSUE, axum::routing::post(answer.clone()))
            .route(LOGIN, axum::routing::post(answer));
        Ok::<_, Infallible>(Routes::from(router).into())
    };
    let server = bound.serve(dependencies, routes).await.unwrap();
    Running { address: server.local_addr(), server, entered: calls, release, draining, metrics }
}

fn health() -> HealthService {
    HealthService::new(Health::new(), Watches::new(8, Metrics::new().watches()))
}

fn dependencies(draining: CancellationToken) -> Dependencies {
    Dependencies {
        identification: Identification::none(),
        access: access(Some(1_000_000)),
        audit: Audit::off(),
        refused_requests: RefusedRequests::default(),
        metrics: Metrics::new(),
        tracer: Tracer::off(),
        health: health(),
        draining,
        goaway_sent: CancellationToken::new(),
    }
}

/// The callers `token:a` and `token:b`, with tokens of the same names.
fn two_callers() -> BearerTokens {
    let token = |name: &str| {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, name.as_bytes());
        digest.as_ref().try_into().unwrap()
    };
    BearerTokens::for_test([("a", token("a")), ("b", token("b"))]).unwrap()
}

/// Allows all calls, and `max_in_flight` calls in flight per caller.
fn access(max_in_flight: Option<u32>) -> Access {
    access_with(max_in_flight, BearerTokens::default())
}

fn access_with(max_in_flight: Option<u32>, tokens: BearerTokens) -> Access {
    let rule = |caller: &str| RuleSettings {
        rate: Rate::Unlimited,
        user_rate: Rate::Unlimited,
        max_in_flight: max_in_flight.and_then(NonZeroU32::new),
        ..RuleSettings::new(vec![caller.to_owned()], Users::All)
    };
    let rules = Rules::try_new(vec![rule("*"), rule("anonymous")]).unwrap();
    Access::new(Policy { rules, tokens, ..Policy::closed() }, Metrics::new())
}

impl Running {
    async fn client(&self) -> Client {
        Client::over(TcpStream::connect(self.address).await.unwrap()).await
    }

    /// The calls that a drain would end.
    fn calls(&self) -> &Calls {
        self.server.drain.calls.as_ref().expect("the main port")
    }

    /// A stack without routes, with the server's gate and refused calls.
    fn call_stack(&self, identification: Identification) -> CallStack {
        CallStack {
            handlers: Routes::default().into(),
            identification,
            access: access(None),
            audit: Audit::off(),
            metrics: Metrics::new(),
            tracer: Tracer::off(),
            gate: self.calls().gate.clone(),
            holders: Holders::default().for_worker(),
            refused_calls: self.calls().refused.clone(),
            refused_bodies: RefusedBodies::new(Duration::from_secs(1)).for_worker(),
            cut_off: CancellationToken::new(),
            times: CallTimes { max_deadline: Duration::from_secs(10), body_timeout: Duration::from_secs(1) },
        }
    }

    /// Returns the next call that reaches its handler.
    async fn next(&mut self) -> Call {
        timeout(SOON, self.entered.recv()).await.expect("a call reaches its handler").unwrap()
    }

    /// Waits until `series` has `value`.
    async fn counts(&self, series: &str, value: u32) {
        let expected = format!("{series} {value}");
        let is_so = async {
            while !self.metrics.render().lines().any(|line| line == expected) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let shown =
            || self.metrics.render().lines().filter(|line| line.starts_with(series)).collect::<String>();
        timeout(SOON, is_so).await.unwrap_or_else(|_| panic!("{expected}: {}", shown()));
    }

    /// Returns the value of a metric by its name and labels.
    fn metric(&self, name: &str) -> u64 {
        let text = self.metrics.render();
        let line = text.lines().find(|line| line.rsplit_once(' ').is_some_and(|(key, _)| key == name));
        line.unwrap_or_else(|| panic!("{name}: {text}")).rsplit(' ').next().unwrap().parse().unwrap()
    }

    /// Waits until a metric has `value`.
    async fn metric_is(&self, name: &str, value: u64) {
        let is = async {
            while self.metric(name) != value {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(SOON, is).await.unwrap_or_else(|_| panic!("{name} is {}, not {value}", self.metric(name)));
    }

    /// Checks that a new connection is served.
    async fn still_serves(&self) {
        let answer = self.client().await.call(ISSUE, &[]).await;
        assert_eq!(answer.code(), Some(tonic::Code::Ok), "{answer:?}");
    }
}

/// An honest HTTP/2 client.
struct Client {
    send: SendRequest<Bytes>,
    connection: JoinHandle<Result<(), h2::Error>>,
}

#[derive(Debug)]
struct Answer {
    http: StatusCode,
    headers: HeaderMap,
}

impl Answer {
    fn code(&self) -> Option<tonic::Code> {
        Status::from_header_map(&self.headers).map(|status| status.code())
    }

    /// The reason of a failure: from the details, or from the message if there are none.
    fn reason(&self) -> String {
        let status = Status::from_header_map(&self.headers).unwrap_or_else(|| panic!("no status: {self:?}"));
        match status.get_error_details().error_info() {
            Some(info) => info.reason.clone(),
            None => status.message().to_owned(),
        }
    }
}

impl Client {
    async fn over(io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Self {
        let (send, connection) = h2::client::handshake(io).await.unwrap();
        Self { send, connection: tokio::spawn(connection) }
    }

    /// Sends a call, and returns its pending response.
    async fn send(&mut self, path: &str, headers: &[(&str, &str)]) -> h2::client::ResponseFuture {
        let mut request = Request::post(format!("http://gateway{path}"));
        if !headers.iter().any(|(name, _)| *name == "content-type") {
            request = request.header("content-type", "application/grpc");
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send = self.send.clone().ready().await.unwrap();
        let (answer, mut body) = self.send.send_request(request.body(()).unwrap(), false).unwrap();
        body.send_data(Bytes::from_static(&[0; 5]), true).unwrap();
        answer
    }

    /// Sends the headers of a call, without its body.
    async fn half_open(
        &mut self,
        headers: &[(&str, &str)],
    ) -> (h2::client::ResponseFuture, h2::SendStream<Bytes>) {
        let mut request =
            Request::post(format!("http://gateway{ISSUE}")).header("content-type", "application/grpc");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send = self.send.clone().ready().await.unwrap();
        self.send.send_request(request.body(()).unwrap(), false).unwrap()
    }

    async fn call(&mut self, path: &str, headers: &[(&str, &str)]) -> Answer {
        let answer = self.send(path, headers).await;
        received(answer).await.unwrap()
    }
}

async fn received(answer: h2::client::ResponseFuture) -> Result<Answer, h2::Error> {
    let (head, _) = timeout(SOON, answer).await.expect("a response arrives")?.into_parts();
    Ok(Answer { http: head.status, headers: head.headers })
}
