//! The documented status for every platform failure.
//!
//! The tables are written from the documentation, not from the code: for each cause the code, the
//! reason, everything in `ErrorInfo`, how to retry, and the number of platform requests. After
//! every failure the same process serves a successful call.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::Arc,
    time::Duration,
};

use futures_util::future::join_all;
use ott_gateway::{
    base::clock,
    proto::ott::v1::{IssueOttRequest, IssueOttResponse, LoginWithOttRequest, issue_ott_request::Subject},
};
use prost::Message as _;
use tokio::sync::Semaphore;
use tonic::{Code, Request, Status};

use self::{Method::*, Retry::*};
use crate::support::{
    call::{self, Client, Refused, refused},
    gateway::{PATIENCE, Setup},
    port::Reserved,
    raw,
    upstream::{Answer, Behaviour, LOGIN, LOGOUT, OTT, TOKEN, Tls, Upstream},
};

/// Maximum size of a status.
const MAX_STATUS_BYTES: usize = 4096;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Method {
    IssueOtt,
    LoginWithOtt,
}

/// Whether the same request may be retried, according to the trailers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Retry {
    /// It may be retried.
    Allowed,
    /// A retry would fail again.
    Useless,
    /// The token is spent or may be.
    Spent,
}

/// One row: what the platform does, and the expected status.
#[derive(Clone, Debug)]
struct Row {
    name: String,
    method: Method,
    platform: Vec<Behaviour>,
    code: Code,
    reason: &'static str,
    outcome: &'static str,
    retry: Retry,
    wait: std::ops::RangeInclusive<f64>,
    /// Metadata of `ErrorInfo` that not every row has.
    extra: Vec<(&'static str, String)>,
    attempts: Option<usize>,
    /// Whether the access token has worked before. Otherwise the API may not know it yet.
    token_has_worked: bool,
    /// Requests to the method's path, logouts, and token requests.
    requests: usize,
    logouts: usize,
    refreshes: usize,
}

impl Row {
    fn new(
        method: Method,
        platform: impl Into<Behaviour>,
        (code, reason, outcome, retry): (Code, &'static str, &'static str, Retry),
    ) -> Self {
        let platform = platform.into();
        Self {
            name: format!("{method:?}: {platform:?}"),
            method,
            platform: vec![platform],
            code,
            reason,
            outcome,
            retry,
            wait: 0.0..=0.0,
            extra: Vec::new(),
            attempts: Some(1),
            requests: 1,
            logouts: 0,
            refreshes: 0,
            token_has_worked: false,
        }
    }

    /// The platform repeats its behaviour for this number of requests.
    fn times(mut self, times: usize) -> Self {
        self.platform = vec![self.platform[0].clone(); times];
        self.attempts = Some(times);
        self.requests = times;
        self
    }

    fn with_metadata(mut self, key: &'static str, value: impl fmt::Display) -> Self {
        self.extra.push((key, value.to_string()));
        self
    }

    /// Adds the metadata of a response from [`error`].
    fn with_error(self, status: u16, code: i64) -> Self {
        let row = self
            .with_metadata("httpStatus", status)
            .with_metadata("apiDomain", "Server")
            .with_metadata("apiMessage", "why");
        if code == i64::from(status) { row } else { row.with_metadata("apiCode", code) }
    }

    fn with_wait(mut self, seconds: std::ops::RangeInclusive<f64>) -> Self {
        self.wait = seconds;
        self
    }

    /// Refused with an access token that works for others, with the next one, and again after a
    /// wait, because the API may not have known the new token.
    fn stays_refused(self) -> Self {
        let row = self.times(3);
        // One more for the call of another user.
        Self { token_has_worked: true, refreshes: 1, requests: row.requests + 1, ..row }
    }

    fn logs_out(mut self) -> Self {
        self.logouts = 1;
        self
    }

    /// The one status for every invalid token. It does not reveal the number of attempts or the
    /// platform's response.
    fn rejected_token(platform: impl Into<Behaviour>) -> Self {
        let answer = (Code::Unauthenticated, "OTT_REJECTED", "refused", Useless);
        Self { attempts: None, ..Self::new(LoginWithOtt, platform, answer) }
    }

    /// Makes the call, checks everything, and then makes a successful call.
    async fn check(self, mut client: Client, upstream: &Upstream, api_client: &str) {
        let path = if self.method == IssueOtt { OTT } else { LOGIN };
        // The first access token is fetched at start, without a call.
        upstream.wait_for(TOKEN, 1).await;
        if self.token_has_worked {
            send(&mut client, IssueOtt, api_client, "").await.expect("the platform is healthy");
            call::until_access_token_is_old().await;
        }
        let (before, logouts, tokens) = (upstream.count(path), upstream.count(LOGOUT), upstream.count(TOKEN));
        let queue = |behaviours: &[Behaviour]| {
            for behaviour in behaviours {
                upstream.next(path, behaviour.clone());
            }
        };
        let ott = upstream.token();
        let status = if self.token_has_worked {
            let permits = Arc::new(Semaphore::new(0));
            upstream.next(TOKEN, Behaviour::Held(Arc::clone(&permits), Box::new(Behaviour::Healthy)));
            queue(&self.platform[..1]);
            let mut other = client.clone();
            let others = async {
                upstream.wait_for(TOKEN, tokens + 1).await;
                send(&mut other, IssueOtt, api_client, "").await.expect("the old token works");
                queue(&self.platform[1..]);
                permits.add_permits(1);
            };
            tokio::join!(send(&mut client, self.method, api_client, &ott), others).0
        } else {
            queue(&self.platform);
            send(&mut client, self.method, api_client, &ott).await
        };
        let name = &self.name;
        let status = status.expect_err(name);
        self.compare(&refused(&status), api_client);
        assert_eq!(upstream.count(path) - before, self.requests, "requests after {name}");
        if self.logouts > 0 {
            upstream.wait_for(LOGOUT, logouts + self.logouts).await;
        }
        assert_eq!(upstream.count(LOGOUT) - logouts, self.logouts, "logouts after {name}");

        let issued = send(&mut client, IssueOtt, api_client, "").await.expect(name);
        send(&mut client, LoginWithOtt, api_client, &issued).await.expect(name);
        assert_eq!(upstream.count(TOKEN) - tokens, self.refreshes, "access tokens after {name}");
    }

    fn compare(&self, refused: &Refused, api_client: &str) {
        let name = &self.name;
        let mut metadata: BTreeMap<String, String> =
            self.extra.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
        metadata.insert("operation".to_owned(), format!("{:?}", self.method));
        metadata.insert("outcome".to_owned(), self.outcome.to_owned());
        metadata.insert("apiClient".to_owned(), api_client.to_owned());
        if let Some(attempts) = self.attempts {
            metadata.insert("attempts".to_owned(), attempts.to_string());
        }
        let pushback = (self.retry != Allowed).then(|| "-1".to_owned());
        let ratelimited = (self.retry == Spent).then(|| "true".to_owned());
        assert_eq!((refused.code, refused.reason.as_str()), (self.code, self.reason), "{name}: {refused:?}");
        assert_eq!(refused.metadata, metadata, "{name}");
        assert_eq!(refused.domain, "ott-gateway", "{name}");
        assert!(!refused.request_id.is_empty(), "{name}");
        assert_eq!((&refused.pushback, &refused.ratelimited), (&pushback, &ratelimited), "{name}");
        let wait = refused.retry_delay.unwrap_or_default().as_secs_f64();
        assert!(self.wait.contains(&wait), "{name}: a wait of {wait} s");
        assert!(refused.size <= MAX_STATUS_BYTES, "{name}: {} bytes", refused.size);
        assert!(refused.fields.is_empty(), "{name}: {:?}", refused.fields);
    }
}

/// Makes one call through `api_client`. Returns the issued or spent token.
async fn send(client: &mut Client, method: Method, api_client: &str, ott: &str) -> Result<String, Status> {
    match method {
        IssueOtt => {
            let request =
                IssueOttRequest { api_client: api_client.to_owned(), ..call::issue("someone@example.com") };
            Ok(client.issue_ott(request).await?.into_inner().ott)
        }
        LoginWithOtt => {
            let request = LoginWithOttRequest { api_client: api_client.to_owned(), ..call::login(ott) };
            client.login_with_ott(request).await?;
            Ok(ott.to_owned())
        }
    }
}

/// A response with the platform's error object.
fn error(status: u16, code: i64) -> Answer {
    Answer::json(
        status,
        format!(r#"{{"error":{{"code":{code},"message":"why","domain":"Server","context":{{"id":"x"}}}}}}"#),
    )
}

/// Checks all rows concurrently, each with its own API client and platform.
async fn check_concurrently(rows: Vec<Row>) {
    let mut platforms = Vec::new();
    for index in 0..rows.len() {
        let upstream = Upstream::http().await;
        // Each platform issues different tokens.
        (0..index * 8).for_each(|_| drop(upstream.token()));
        platforms.push((format!("client-{index}"), upstream));
    }
    let addresses: Vec<_> =
        platforms.iter().map(|(name, upstream)| (name.as_str(), upstream.address())).collect();
    let gateway = Setup::for_platforms(&addresses).start();
    let client = gateway.client().await;
    let checks = rows
        .into_iter()
        .zip(&platforms)
        .map(|(row, (name, upstream))| row.check(client.clone(), upstream, name));
    join_all(checks).await;
}

/// Checks the rows one after another, with one gateway and platform.
async fn check_in_sequence(rows: Vec<Row>) {
    let upstream = Upstream::http().await;
    let gateway = Setup::for_platform(upstream.address()).start();
    let client = gateway.client().await;
    for row in rows {
        row.check(client.clone(), &upstream, "test").await;
    }
    assert_eq!(upstream.count(TOKEN), 1, "no refusal costs the access token");
}

const ISSUED: &str = r#"{"ott":"OTT"}"#;
const LOGGED_IN: &str = r#"{"id":"42","login":"someone"}"#;

#[tokio::test]
async fn failing_issuance_is_attempted_three_times() {
    let fails = (Code::Unavailable, "PLATFORM_UNAVAILABLE", "unknown", Allowed);
    let mut rows = Vec::new();
    for answer in [error(500, 500), error(503, 1000), error(599, 1018)] {
        let (status, code) = match rows.len() {
            0 => (500, 500),
            1 => (503, 1000),
            _ => (599, 1018),
        };
        rows.push(Row::new(IssueOtt, answer, fails).times(3).with_error(status, code));
    }
    rows.push(Row::new(IssueOtt, Answer::html(502), fails).times(3).with_metadata("httpStatus", 502));
    rows.push(Row::new(IssueOtt, Answer::empty(504), fails).times(3).with_metadata("httpStatus", 504));
    rows.push(Row::new(IssueOtt, Behaviour::Reset, fails).times(3));
    rows.push(Row::new(IssueOtt, Behaviour::Close, fails).times(3));
    rows.push(Row::new(IssueOtt, Behaviour::HeaderFlood, fails).times(3));
    for incomplete in [
        Behaviour::CutAfter(5, Answer::json(200, ISSUED)),
        Behaviour::ShortAfter(5, Answer::json(200, ISSUED)),
    ] {
        rows.push(Row::new(IssueOtt, incomplete, fails).times(3).with_metadata("httpStatus", 200));
    }
    check_concurrently(rows).await;
}

#[tokio::test]
async fn login_with_unknown_outcome_is_sent_once_and_aborted() {
    let unknown = (Code::Aborted, "LOGIN_OUTCOME_UNKNOWN", "unknown", Spent);
    let cut = |answer| Behaviour::CutAfter(5, answer);
    let set = |answer: Answer| answer.header("set-cookie", "sid=SESSION");
    check_in_sequence(vec![
        Row::new(LoginWithOtt, error(500, 500), unknown).with_error(500, 500),
        Row::new(LoginWithOtt, error(503, 1018), unknown).with_error(503, 1018),
        Row::new(LoginWithOtt, Answer::html(502), unknown).with_metadata("httpStatus", 502),
        Row::new(LoginWithOtt, Answer::empty(504), unknown).with_metadata("httpStatus", 504),
        Row::new(LoginWithOtt, Behaviour::Reset, unknown),
        Row::new(LoginWithOtt, Behaviour::Close, unknown),
        Row::new(LoginWithOtt, Behaviour::HeaderFlood, unknown),
        Row::new(LoginWithOtt, cut(Answer::json(200, LOGGED_IN)), unknown).with_metadata("httpStatus", 200),
        // The cookies arrived, so the session can be logged out.
        Row::new(LoginWithOtt, cut(set(Answer::json(200, LOGGED_IN))), unknown)
            .with_metadata("httpStatus", 200)
            .logs_out(),
        Row::new(LoginWithOtt, Behaviour::ShortAfter(5, set(Answer::json(200, LOGGED_IN))), unknown)
            .with_metadata("httpStatus", 200)
            .logs_out(),
    ])
    .await;
}

#[tokio::test]
async fn undocumented_response_is_a_protocol_error() {
    let issuing = (Code::Internal, "PLATFORM_PROTOCOL_ERROR", "done", Useless);
    let long = "x".repeat(4097);
    let mut rows: Vec<Row> = [
        Answer::html(200),
        Answer::empty(200),
        Answer::empty(204),
        Answer::json(200, "{\"ott\":"),
        Answer::json(200, "{}"),
        Answer::json(200, "[]"),
        Answer::json(200, r#"{"ott":null}"#),
        Answer::json(200, r#"{"ott":""}"#),
        Answer::json(200, r#"{"ott":7}"#),
        Answer::json(200, r#"{"ott":"a\r\nb"}"#),
        Answer::json(200, r#"{"ott":"ä"}"#),
        Answer::json(200, format!(r#"{{"ott":"{long}"}}"#)),
        Answer::empty(200).header("content-type", "text/json").body(ISSUED),
        Answer::empty(200).header("content-type", "text/plain").body(ISSUED),
    ]
    .into_iter()
    .map(|answer| {
        let status = if format!("{answer:?}").contains("204") { 204 } else { 200 };
        Row::new(IssueOtt, answer, issuing).times(2).with_metadata("httpStatus", status)
    })
    .collect();
    for announced in [true, false] {
        let huge = Behaviour::Huge { status: 200, bytes: 17 * 1024, announced };
        rows.push(Row::new(IssueOtt, huge, issuing).times(2).with_metadata("httpStatus", 200));
    }
    check_concurrently(rows).await;

    let login = (Code::Internal, "PLATFORM_PROTOCOL_ERROR", "done", Spent);
    let mut rows: Vec<Row> = [
        Answer::html(200),
        Answer::empty(200),
        Answer::json(200, "{"),
        Answer::json(200, r#"{"id":"42"}"#),
        Answer::json(200, r#"{"login":"someone"}"#),
        Answer::json(200, r#"{"id":null,"login":"someone"}"#),
        Answer::json(200, r#"{"id":42,"login":"someone"}"#),
        Answer::json(200, r#"{"id":"","login":"someone"}"#),
    ]
    .into_iter()
    .map(|answer| Row::new(LoginWithOtt, answer, login).with_metadata("httpStatus", 200))
    .collect();
    for announced in [true, false] {
        let huge = Behaviour::Huge { status: 200, bytes: 257 * 1024, announced };
        rows.push(Row::new(LoginWithOtt, huge, login).with_metadata("httpStatus", 200));
    }
    let unusable = Answer::json(200, "{}").header("set-cookie", "sid=SESSION");
    rows.push(Row::new(LoginWithOtt, unusable, login).with_metadata("httpStatus", 200).logs_out());
    let many = (0..33)
        .fold(Answer::json(200, LOGGED_IN), |answer, n| answer.header("set-cookie", format!("c{n}=SESSION")));
    rows.push(Row::new(LoginWithOtt, many, login).with_metadata("httpStatus", 200).logs_out());
    let long = Answer::json(200, LOGGED_IN)
        .header("set-cookie", "sid=SESSION")
        .header("set-cookie", format!("long={}", "x".repeat(16 * 1024)));
    rows.push(Row::new(LoginWithOtt, long, login).with_metadata("httpStatus", 200).logs_out());
    check_in_sequence(rows).await;
}

#[tokio::test]
async fn refusals_are_not_retried_and_map_to_their_status() {
    let mut rows = Vec::new();
    let mut issue = |answer: Answer, code, reason, retry, error_body: Option<(u16, i64)>, status: u16| {
        let row = Row::new(IssueOtt, answer, (code, reason, "refused", retry));
        rows.push(match error_body {
            Some((status, code)) => row.with_error(status, code),
            None => row.with_metadata("httpStatus", status),
        });
    };
    let json = |status: u16| (error(status, status.into()), Some((status, i64::from(status))));
    let mut both = |answer: (Answer, Option<(u16, i64)>), code, reason, retry, status| {
        issue(answer.0, code, reason, retry, answer.1, status);
    };
    let html = |status| (Answer::html(status), None);
    both(json(400), Code::InvalidArgument, "PLATFORM_REJECTED_REQUEST", Useless, 400);
    both(
        (error(400, 4711), Some((400, 4711))),
        Code::InvalidArgument,
        "PLATFORM_REJECTED_REQUEST",
        Useless,
        400,
    );
    both(html(400), Code::Internal, "PLATFORM_PROTOCOL_ERROR", Useless, 400);
    both(json(403), Code::PermissionDenied, "PLATFORM_ACCESS_DENIED", Useless, 403);
    both(html(403), Code::Unavailable, "PLATFORM_BLOCKED", Allowed, 403);
    both(json(404), Code::NotFound, "USER_NOT_FOUND", Useless, 404);
    both(html(404), Code::Internal, "PLATFORM_PROTOCOL_ERROR", Useless, 404);
    both(json(409), Code::Aborted, "PLATFORM_CONFLICT", Useless, 409);
    both(html(409), Code::Aborted, "PLATFORM_CONFLICT", Useless, 409);
    for status in [405, 406, 410, 411, 415, 418, 422] {
        both(json(status), Code::Internal, "PLATFORM_PROTOCOL_ERROR", Useless, status);
    }

    let mut login = |answer: (Answer, Option<(u16, i64)>), code, reason, retry, status: u16| {
        let row = Row::new(LoginWithOtt, answer.0, (code, reason, "refused", retry));
        rows.push(match answer.1 {
            Some((status, code)) => row.with_error(status, code),
            None => row.with_metadata("httpStatus", status),
        });
    };
    login(json(403), Code::PermissionDenied, "PLATFORM_ACCESS_DENIED", Useless, 403);
    login(json(409), Code::Aborted, "PLATFORM_CONFLICT", Useless, 409);
    for status in [405, 406, 411, 415, 418, 422] {
        login(json(status), Code::Internal, "PLATFORM_PROTOCOL_ERROR", Useless, status);
    }
    rows.extend([400, 401, 404, 410].map(|status| Row::rejected_token(error(status, status.into()))));
    rows.extend([400, 401, 404, 410].map(|status| Row::rejected_token(error(status, 4711))));
    check_in_sequence(rows).await;
}

#[tokio::test]
async fn ambiguous_responses_are_not_reported_as_refusals() {
    let mut rows = Vec::new();
    for status in [300, 301, 302, 303, 304, 307, 308] {
        let elsewhere = || {
            let answer = Answer::empty(status).header("location", "http://127.0.0.1:1/");
            answer.header("set-cookie", "sid=SESSION")
        };
        let issue = (Code::Internal, "PLATFORM_PROTOCOL_ERROR", "unknown", Useless);
        rows.push(Row::new(IssueOtt, elsewhere(), issue).with_metadata("httpStatus", status));
        let login = (Code::Aborted, "LOGIN_OUTCOME_UNKNOWN", "unknown", Spent);
        rows.push(Row::new(LoginWithOtt, elsewhere(), login).with_metadata("httpStatus", status).logs_out());
    }
    let login = (Code::Aborted, "LOGIN_OUTCOME_UNKNOWN", "unknown", Spent);
    for status in [401, 408, 410, 425, 429, 499] {
        rows.push(Row::new(LoginWithOtt, Answer::html(status), login).with_metadata("httpStatus", status));
    }
    for status in [408, 425, 499] {
        rows.push(
            Row::new(LoginWithOtt, error(status, status.into()), login).with_error(status, status.into()),
        );
    }
    // The platform may have received a request that a proxy refuses.
    for (status, code, reason) in [
        (400, Code::Internal, "PLATFORM_PROTOCOL_ERROR"),
        (403, Code::Aborted, "PLATFORM_BLOCKED"),
        (404, Code::Internal, "PLATFORM_PROTOCOL_ERROR"),
        (409, Code::Aborted, "PLATFORM_CONFLICT"),
        (413, Code::Internal, "PLATFORM_PROTOCOL_ERROR"),
    ] {
        let answer = Answer::html(status);
        rows.push(
            Row::new(LoginWithOtt, answer, (code, reason, "unknown", Spent))
                .with_metadata("httpStatus", status),
        );
    }
    check_in_sequence(rows).await;

    let fails = (Code::Unavailable, "PLATFORM_UNAVAILABLE", "unknown", Allowed);
    let retried = [408, 425, 499].map(|status| {
        Row::new(IssueOtt, Answer::html(status), fails).times(3).with_metadata("httpStatus", status)
    });
    check_concurrently(retried.into()).await;
}

/// Status of each platform code, from the table in `docs/errors.md`.
fn from_api_code(code: i64) -> (Code, &'static str) {
    match code {
        1018 => (Code::FailedPrecondition, "USER_DISABLED"),
        1003 => (Code::FailedPrecondition, "TENANT_DISABLED"),
        1012 => (Code::FailedPrecondition, "TENANT_LOCKED"),
        1002 | 1020 | 1024 => (Code::PermissionDenied, "PLATFORM_ACCESS_DENIED"),
        1005 => (Code::NotFound, "TENANT_NOT_FOUND"),
        1033 => (Code::InvalidArgument, "INVALID_LOGIN"),
        1004 | 1010 | 1015 | 1028 | 1031 => (Code::AlreadyExists, "PLATFORM_CONFLICT"),
        1001 => (Code::Aborted, "PLATFORM_CONFLICT"),
        1022 | 1030 => (Code::ResourceExhausted, "PLATFORM_QUOTA_EXCEEDED"),
        1000 | 1019 => (Code::Unavailable, "PLATFORM_UNAVAILABLE"),
        _ => (Code::FailedPrecondition, "PLATFORM_PRECONDITION_FAILED"),
    }
}

#[tokio::test]
async fn every_api_code_has_its_status() {
    let mut rows = Vec::new();
    for code in 1000..=1035 {
        let (grpc, reason) = from_api_code(code);
        let fails = reason == "PLATFORM_UNAVAILABLE";
        for status in [400, 404] {
            let retry = if fails { Allowed } else { Useless };
            let row = Row::new(IssueOtt, error(status, code), (grpc, reason, "refused", retry));
            rows.push(row.with_error(status, code));
        }
        // For logins, every code counts if the response cannot be about the token.
        let decided = if fails {
            (Code::Aborted, reason, "unknown", Spent)
        } else {
            (grpc, reason, "refused", Useless)
        };
        rows.push(Row::new(LoginWithOtt, error(403, code), decided).with_error(403, code));
        // If it can be about the token, only codes about the account count.
        for status in [400, 401] {
            rows.push(match code {
                1002 | 1003 | 1012 | 1018 => {
                    Row::new(LoginWithOtt, error(status, code), decided).with_error(status, code)
                }
                _ => Row::rejected_token(error(status, code)),
            });
        }
    }
    check_in_sequence(rows).await;
}

#[tokio::test]
async fn rate_limit_is_waited_for_or_returned() {
    let limit = (Code::ResourceExhausted, "PLATFORM_RATE_LIMITED", "refused", Allowed);
    let too_late = (Code::ResourceExhausted, "PLATFORM_RATE_LIMITED", "refused", Useless);
    let after = |value: &str| error(429, 429).header("retry-after", value);
    check_in_sequence(vec![
        Row::new(IssueOtt, error(429, 429), limit).with_error(429, 429).with_wait(1.0..=2.0),
        Row::new(IssueOtt, Answer::html(429), limit).with_metadata("httpStatus", 429).with_wait(1.0..=2.0),
        Row::new(IssueOtt, after("3"), limit).with_error(429, 429).with_wait(3.0..=3.0),
        Row::new(IssueOtt, after("86400"), limit).with_error(429, 429).with_wait(3600.0..=3600.0),
        Row::new(IssueOtt, after("-5"), limit).with_error(429, 429).with_wait(5.0..=5.0),
        Row::new(
            IssueOtt,
            after("Sun, 06 Nov 1994 08:49:37 GMT").header("date", "Sun, 06 Nov 1994 08:49:30 GMT"),
            limit,
        )
        .with_error(429, 429)
        .with_wait(7.0..=7.0),
        // Issuance would wait for this short time, but a login is not sent again.
        Row::new(LoginWithOtt, after("1"), limit).with_error(429, 429).with_wait(1.0..=1.0),
        Row::new(LoginWithOtt, after("29"), limit).with_error(429, 429).with_wait(29.0..=29.0),
        Row::new(LoginWithOtt, error(429, 429), limit).with_error(429, 429).with_wait(1.0..=2.0),
        // The token will have expired by then.
        Row::new(LoginWithOtt, after("30"), too_late).with_error(429, 429),
    ])
    .await;

    let upstream = Upstream::http().await;
    let gateway = Setup::for_platform(upstream.address()).start();
    upstream.next(OTT, after("1"));
    let began = clock::now();
    call::issue_and_log_in(&mut gateway.client().await).await;
    assert!(began.elapsed() >= Duration::from_secs(1), "{:?}", began.elapsed());
    assert_eq!(upstream.count(OTT), 2);
}

#[tokio::test]
async fn persistently_refused_credential_is_an_internal_error() {
    let refused = (Code::Internal, "PLATFORM_CREDENTIAL_REJECTED", "refused", Useless);
    check_concurrently(vec![
        Row::new(IssueOtt, error(401, 401), refused).stays_refused().with_error(401, 401),
        Row::new(IssueOtt, Answer::empty(401), refused).stays_refused().with_metadata("httpStatus", 401),
        // A 401 first refreshes the token, regardless of its code.
        Row::new(IssueOtt, error(401, 1018), (Code::FailedPrecondition, "USER_DISABLED", "refused", Useless))
            .stays_refused()
            .with_error(401, 1018),
    ])
    .await;
}

#[tokio::test]
async fn transient_failures_are_hidden_by_retries() {
    let (faults, mut platforms) = (
        [
            Behaviour::Answer(error(401, 401)),
            Behaviour::Answer(error(503, 503)),
            Behaviour::Reset,
            Behaviour::Answer(Answer::html(200)),
            Behaviour::Stall,
        ],
        Vec::new(),
    );
    for fault in faults {
        let upstream = Upstream::http().await;
        upstream.next(OTT, fault);
        platforms.push((format!("client-{}", platforms.len()), upstream));
    }
    let addresses: Vec<_> =
        platforms.iter().map(|(name, upstream)| (name.as_str(), upstream.address())).collect();
    let gateway = Setup::for_platforms(&addresses).start();
    let client = gateway.client().await;
    join_all(platforms.iter().map(async |(name, upstream)| {
        let ott = send(&mut client.clone(), IssueOtt, name, "").await.expect(name);
        assert!(ott.starts_with("OTT-"), "{ott}");
        assert_eq!(upstream.count(OTT), 2, "{name}");
    }))
    .await;
}

#[tokio::test]
async fn unreachable_platform_is_retried() {
    let ports = [Reserved::new(), Reserved::new()];
    let addresses = ports.each_ref().map(Reserved::address);
    let platforms = [Upstream::http_at(addresses[0]).await, Upstream::http_at(addresses[1]).await];
    let gateway = Setup::for_platforms(&[("issue", addresses[0]), ("login", addresses[1])]).start();
    let mut client = gateway.client().await;
    for (name, upstream) in ["issue", "login"].into_iter().zip(&platforms) {
        upstream.wait_for(TOKEN, 1).await;
        // Connections are not reused, because a request may have been sent on one that is being closed.
        let issued = Answer::json(200, r#"{"ott":"OTT"}"#).header("connection", "close");
        upstream.next(OTT, issued);
        send(&mut client, IssueOtt, name, "").await.expect("a reachable platform");
    }
    drop(platforms);

    let unreachable = (Code::Unavailable, "PLATFORM_UNREACHABLE", "not_sent", Allowed);
    for (method, name, attempts) in [(IssueOtt, "issue", 3), (LoginWithOtt, "login", 2)] {
        let status = send(&mut client, method, name, "OTT").await.expect_err("an unreachable platform");
        let row = Row::new(method, Behaviour::Close, unreachable).times(attempts);
        row.compare(&refused(&status), name);
    }

    for (name, address) in ["issue", "login"].into_iter().zip(addresses) {
        let upstream = Upstream::http_at(address).await;
        let ott = send(&mut client, IssueOtt, name, "").await.expect("a reachable platform");
        send(&mut client, LoginWithOtt, name, &ott).await.expect("a reachable platform");
        assert_eq!((upstream.count(OTT), upstream.count(LOGIN)), (1, 1));
    }
}

#[tokio::test]
async fn platform_with_an_invalid_certificate_gets_no_request() {
    let impostor = Upstream::https(Tls::new("localhost", true, &["http/1.1"])).await;
    let honest = Upstream::http().await;
    let ca_file = impostor.ca_file().expect("it has TLS").display().to_string();
    let gateway = Setup::for_platforms(&[("impostor", impostor.address()), ("honest", honest.address())])
        .replacing(
            &format!("data_center_url = \"http://{}\"", impostor.address()),
            &format!("data_center_url = \"{}\"\nca_file = \"{ca_file}\"", impostor.url()),
        )
        .start();
    let mut client = gateway.client().await;
    let invalid = (Code::Unavailable, "PLATFORM_UNREACHABLE", "not_sent", Allowed);
    for (method, attempts) in [(IssueOtt, 0), (LoginWithOtt, 1)] {
        let status = send(&mut client, method, "impostor", "OTT").await.expect_err("it is expired");
        let row = Row { attempts: Some(attempts), ..Row::new(method, Behaviour::Close, invalid) };
        row.compare(&refused(&status), "impostor");
    }
    assert!(impostor.requests().is_empty());
    let ott = send(&mut client, IssueOtt, "honest", "").await.expect("the other platform is not affected");
    send(&mut client, LoginWithOtt, "honest", &ott).await.expect("the other platform is not affected");
}

#[tokio::test]
async fn open_breaker_blocks_only_the_failing_endpoint_until_it_recovers() {
    let upstream = Upstream::http().await;
    let gateway = Setup::for_platform(upstream.address()).start();
    let mut client = gateway.client().await;
    upstream.always(LOGIN, Answer::empty(503));
    let open = (Code::Unavailable, "PLATFORM_UNAVAILABLE", "not_sent", Allowed);
    let (mut sent, mut not_sent, mut issued_count, mut opened_at) = (0, 0, 0, None);
    while not_sent < 20 {
        let status = send(&mut client, LoginWithOtt, "test", "OTT").await.expect_err("it fails");
        let failure = refused(&status);
        if failure.metadata["outcome"] == "not_sent" {
            let row = Row::new(LoginWithOtt, Behaviour::Close, open).with_wait(0.001..=1.0);
            Row { attempts: Some(0), ..row }.compare(&failure, "test");
            not_sent += 1;
            opened_at.get_or_insert((clock::now(), sent));
            send(&mut client, IssueOtt, "test", "").await.expect("issuance is not affected");
            issued_count += 1;
        } else {
            sent += 1;
            assert!(sent < 1000, "the breaker stays closed");
        }
    }
    assert_eq!((upstream.count(LOGIN), upstream.count(OTT)), (sent, issued_count));
    let (opened_at, sent_before) = opened_at.expect("it is open");
    let probes = usize::try_from(opened_at.elapsed().as_secs()).expect("few") + 1;
    assert!(sent_before >= 20 && sent - sent_before <= probes, "one probe a second: {sent_before} {sent}");

    upstream.always(LOGIN, Behaviour::Healthy);
    let ott = upstream.token();
    let until = clock::now() + PATIENCE;
    while let Err(status) = send(&mut client, LoginWithOtt, "test", &ott).await {
        assert_eq!(refused(&status).metadata["outcome"], "not_sent", "a login is its own probe");
        assert!(clock::now() < until, "the breaker stays open");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(upstream.count(LOGIN), sent + 1);
    call::issue_and_log_in(&mut client).await;
}

#[tokio::test]
async fn concurrent_login_with_the_same_token_is_refused() {
    let upstream = Upstream::http().await;
    let gateway = Setup::for_platform(upstream.address()).start();
    let client = gateway.client().await;
    let permits = Arc::new(Semaphore::new(0));
    let ott = upstream.token();
    upstream.next(LOGIN, Behaviour::Held(Arc::clone(&permits), Box::new(Behaviour::Healthy)));
    let (mut first, spending) = (client.clone(), ott.clone());
    let first = tokio::spawn(async move { send(&mut first, LoginWithOtt, "test", &spending).await });
    upstream.wait_for(LOGIN, 1).await;

    let status = send(&mut client.clone(), LoginWithOtt, "test", &ott).await.expect_err("it is in use");
    let in_use = (Code::Aborted, "OTT_IN_USE", "not_sent", Useless);
    let row = Row { attempts: Some(0), ..Row::new(LoginWithOtt, Behaviour::Close, in_use) };
    row.compare(&refused(&status), "test");
    permits.add_permits(1);
    first.await.expect("no panic").expect("the first one logs in");
    assert_eq!(upstream.count(LOGIN), 1);

    let status = send(&mut client.clone(), LoginWithOtt, "test", &ott).await.expect_err("it is spent");
    Row::rejected_token(Behaviour::Healthy).compare(&refused(&status), "test");
    call::issue_and_log_in(&mut client.clone()).await;
}

#[tokio::test]
async fn overloaded_replica_refuses_calls_at_once() {
    let upstream = Upstream::http().await;
    let gateway = Setup::for_platform(upstream.address())
        .replacing("[server]", "[server]\nmax_in_flight = 1\nworker_threads = 1")
        .start();
    let client = gateway.client().await;
    let permits = Arc::new(Semaphore::new(0));
    // A login, because its attempt has the longest timeout.
    upstream.next(LOGIN, Behaviour::Held(Arc::clone(&permits), Box::new(Behaviour::Healthy)));
    let (mut first, ott) = (client.clone(), upstream.token());
    let first = tokio::spawn(async move { send(&mut first, LoginWithOtt, "test", &ott).await });
    upstream.wait_for(LOGIN, 1).await;
    for method in [IssueOtt, LoginWithOtt] {
        let status = send(&mut client.clone(), method, "test", "OTT").await.expect_err("it is full");
        let refused = refused(&status);
        assert_eq!((refused.code, refused.reason.as_str()), (Code::Unavailable, "OVERLOADED"));
        assert_eq!(refused.metadata["outcome"], "not_sent");
        assert!(refused.retry_delay.is_some_and(|delay| delay >= Duration::from_millis(500)));
        assert_eq!((refused.pushback, refused.ratelimited), (None, None));
    }
    // Calls that are refused together must get different delays.
    let refused_together = join_all((0..100).map(async |_| {
        let status = send(&mut client.clone(), IssueOtt, "test", "").await.expect_err("it is full");
        refused(&status).retry_delay.expect("RetryInfo").as_millis()
    }));
    let delays = refused_together.await;
    let (min, max) = (delays.iter().min().copied(), delays.iter().max().copied());
    assert!(
        (Some(500)..Some(750)).contains(&min) && (Some(1251)..=Some(1500)).contains(&max),
        "{min:?} {max:?}"
    );
    permits.add_permits(1);
    first.await.expect("no panic").expect("the first one logs in");
    call::issue_and_log_in(&mut client.clone()).await;
}

#[tokio::test]
async fn unknown_used_and_expired_tokens_get_identical_statuses() {
    let upstream = Upstream::http().await;
    let gateway = Setup::for_platform(upstream.address()).start();
    let mut client = gateway.client().await;
    let mut answers = Vec::new();
    for behaviour in [
        Behaviour::Healthy,
        error(401, 401).into(),
        error(404, 404).into(),
        error(410, 1005).into(),
        error(400, 1020).into(),
        Answer::json(400, r#"{"error":{"code":"400","message":"OTT was used","details":{"info":"x"}}}"#)
            .into(),
    ] {
        upstream.next(LOGIN, behaviour);
        let mut request = Request::new(call::login("OTT"));
        request.metadata_mut().insert("x-request-id", "the-same".parse().expect("visible ASCII"));
        let status = client.login_with_ott(request).await.expect_err("it is not valid");
        let mut metadata = status.metadata().clone().into_headers();
        metadata.remove("date");
        let headers: HashMap<_, _> =
            metadata.iter().map(|(name, value)| (name.to_string(), value.as_bytes().to_vec())).collect();
        answers.push((status.code(), status.message().to_owned(), status.details().to_vec(), headers));
    }
    assert_eq!(answers[0].0, Code::Unauthenticated);
    for answer in &answers {
        assert_eq!(answer, &answers[0]);
    }
    call::issue_and_log_in(&mut client).await;
}

#[tokio::test]
async fn invalid_fields_are_reported_without_a_platform_request() {
    let upstream = Upstream::http().await;
    let gateway = Setup::for_platform(upstream.address()).start();
    let mut client = gateway.client().await;
    call::issue_and_log_in(&mut client).await;
    let before = upstream.requests().len();
    let cases: [(IssueOttRequest, &[&str]); 11] = [
        (IssueOttRequest::default(), &["subject"]),
        (call::issue(""), &["login"]),
        (call::issue(&"x".repeat(255)), &["login"]),
        (call::issue("a\u{7f}b"), &["login"]),
        (
            IssueOttRequest {
                subject: Some(Subject::ExternalId(String::new())),
                ..IssueOttRequest::default()
            },
            &["external_id"],
        ),
        (
            IssueOttRequest {
                subject: Some(Subject::UserId("a\nb".to_owned())),
                ..IssueOttRequest::default()
            },
            &["user_id"],
        ),
        (IssueOttRequest { purpose: 7, ..IssueOttRequest::default() }, &["purpose", "subject"]),
        (target("//elsewhere.example/"), &["target_uri"]),
        (target("/\\elsewhere.example"), &["target_uri"]),
        (target("javascript:alert(1)"), &["target_uri"]),
        (target("https://elsewhere.example/"), &["target_uri"]),
    ];
    for (request, fields) in cases {
        let shown = format!("{request:?}");
        let refused = refused(&client.issue_ott(request).await.expect_err(&shown));
        assert_eq!(
            (refused.code, refused.reason.as_str()),
            (Code::InvalidArgument, "INVALID_REQUEST"),
            "{shown}"
        );
        assert_eq!(refused.fields, fields, "{shown}");
        assert_eq!(refused.pushback.as_deref(), Some("-1"), "{shown}");
        assert_eq!(refused.metadata["outcome"], "not_sent");
    }
    for ott in ["", "a b", "ä", "a\nb", &"x".repeat(4097)] {
        let refused = refused(&client.login_with_ott(call::login(ott)).await.expect_err("not a token"));
        assert_eq!(
            (refused.code, refused.reason.as_str()),
            (Code::InvalidArgument, "INVALID_REQUEST"),
            "{ott}"
        );
        assert_eq!(refused.fields, ["ott"], "{ott}");
        assert_eq!((refused.pushback.as_deref(), refused.ratelimited), (Some("-1"), None));
    }
    assert_eq!(upstream.requests().len(), before);
    // The maximum length.
    client.issue_ott(call::issue(&"x".repeat(254))).await.expect("a login of 254 bytes");
    call::issue_and_log_in(&mut client).await;
}

fn target(uri: &str) -> IssueOttRequest {
    IssueOttRequest { target_uri: uri.to_owned(), ..call::issue("someone") }
}

#[tokio::test]
async fn unknown_methods_and_invalid_messages_have_a_documented_reason() {
    let upstream = Upstream::http().await;
    let gateway = Setup::for_platform(upstream.address()).start();
    let mut connection = raw::Connection::to(gateway.address()).await;
    let issue = "/ott.v1.OttService/IssueOtt";
    let login = "/ott.v1.OttService/LoginWithOtt";
    // Off by default.
    let reflection = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
    let garbage = raw::framed(false, b"\xff\xff\xff");
    let not_utf8 = raw::framed(false, b"\x0a\x02\xff\xfe");
    let long = raw::framed(false, &vec![b'x'; 16 * 1024 + 1]);
    let gzip = raw::framed(true, b"\x1f\x8b\x08");
    let encoded = &[("grpc-encoding", "gzip")][..];
    let none = &[][..];
    let unknown = (Code::Unimplemented, "METHOD_UNKNOWN", "The gateway has no such method.");
    let invalid = |message| (Code::InvalidArgument, "INVALID_REQUEST", message);
    let undecodable = invalid("The request message cannot be decoded.");
    let incomplete = invalid("The body of the call is not exactly one complete gRPC message.");
    let flagged = invalid("The compressed flag of the request message is not 0");
    let too_long =
        (Code::ResourceExhausted, "REQUEST_TOO_LARGE", "The request message is longer than 16 KiB.");
    let compressed = (Code::Unimplemented, "INVALID_REQUEST", "The request message is compressed.");
    for (path, headers, body, (code, reason, message)) in [
        ("/ott.v1.OttService/RevokeOtt", none, &garbage, unknown),
        ("/other.Service/Method", none, &garbage, unknown),
        (reflection, none, &garbage, unknown),
        ("/", none, &garbage, unknown),
        (issue, none, &garbage, undecodable),
        (login, none, &garbage, undecodable),
        (issue, none, &not_utf8, undecodable),
        (issue, none, &Vec::new(), incomplete),
        (issue, none, &vec![0, 0, 0, 0, 9, 1], incomplete),
        (issue, none, &vec![7, 0, 0, 0, 0], flagged),
        (issue, none, &long, too_long),
        (login, none, &long, too_long),
        (issue, encoded, &gzip, compressed),
        (login, encoded, &gzip, compressed),
    ] {
        let answered = connection.post(path, headers, body).await;
        let refused = refused(&answered.status);
        let name = format!("{path} {headers:?} {:?}", &body[..body.len().min(12)]);
        assert_eq!((refused.code, refused.reason.as_str()), (code, reason), "{name}");
        assert!(refused.message.starts_with(message), "{name}: {}", refused.message);
        assert_eq!(answered.http, 200, "{name}");
        assert_eq!(refused.domain, "ott-gateway", "{name}");
        assert_eq!(refused.pushback.as_deref(), Some("-1"), "{name}");
        assert_eq!(refused.ratelimited, None, "{name}");
        assert!(!refused.request_id.is_empty(), "{name}");
        assert_eq!(answered.head["x-request-id"], refused.request_id, "{name}");
        assert!(refused.size <= MAX_STATUS_BYTES, "{name}");
    }
    assert_eq!((upstream.count(OTT), upstream.count(LOGIN)), (0, 0));

    // A message of the maximum size is decoded, and unknown fields are ignored.
    let unknown_field = [b"\x0a\x04user\xfa\x01\xf0\x7f".as_slice(), &vec![b'x'; 16 * 1024 - 16]].concat();
    let answered = connection.post(issue, none, &raw::framed(false, &unknown_field)).await;
    assert_eq!(answered.status.code(), Code::Ok, "{:?}", answered.status);
    call::issue_and_log_in(&mut gateway.client().await).await;
}

#[tokio::test]
async fn response_is_one_message_followed_by_its_status() {
    let upstream = Upstream::http().await;
    let gateway = Setup::for_platform(upstream.address()).start();
    let mut connection = raw::Connection::to(gateway.address()).await;
    let message = IssueOttRequest { subject: Some(Subject::Login("x".to_owned())), ..Default::default() };
    let one = raw::framed(false, &message.encode_to_vec());
    let path = "/ott.v1.OttService/IssueOtt";
    // Clients that accept compression get an uncompressed response.
    let accepts = &[("grpc-accept-encoding", "gzip"), ("grpc-encoding", "identity"), ("x-request-id", "a-1")];
    for headers in [&[][..], accepts] {
        let answered = connection.post(path, headers, &one).await;
        assert_eq!((answered.http, answered.status.code()), (http::StatusCode::OK, Code::Ok));
        let mut names: Vec<&str> = answered.head.keys().map(http::HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["content-type", "x-request-id"], "the status is a trailer");
        assert_eq!(answered.head["content-type"], "application/grpc");
        let (prefix, content) = answered.body.split_first_chunk::<5>().expect("a prefix");
        let length = u32::try_from(content.len()).expect("a short message").to_be_bytes();
        assert_eq!(prefix, &[0, length[0], length[1], length[2], length[3]]);
        let response = IssueOttResponse::decode(content).expect("one message");
        assert!(!response.ott.is_empty() && response.expire_time.is_some());
    }
    let issued_count = upstream.count(OTT);

    // Two messages, or a compressed one, are refused.
    let two = [&one[..], &one[..]].concat();
    let compressed = raw::framed(true, &message.encode_to_vec());
    for body in [two, compressed] {
        let refused = refused(&connection.post(path, accepts, &body).await.status);
        assert_eq!((refused.code, refused.reason.as_str()), (Code::InvalidArgument, "INVALID_REQUEST"));
    }
    assert_eq!(upstream.count(OTT), issued_count);
    call::issue_and_log_in(&mut gateway.client().await).await;
}

#[tokio::test]
async fn platform_texts_are_returned_bounded_and_without_secrets() {
    let upstream = Upstream::http().await;
    let gateway = Setup::for_platform(upstream.address()).start();
    let mut client = gateway.client().await;
    let message = format!("user JOHN@example.com\\r\\n with OTT-TOKEN {}", "é".repeat(20_000));
    let body = format!(
        r#"{{"error":{{"code":"1018","message":"{message}","domain":"{}","details":{{"info":"hidden"}}}}}}"#,
        "D".repeat(10_000)
    );
    upstream.always(OTT, Answer::json(400, body.clone())).always(LOGIN, Answer::json(400, body));
    let statuses = [
        client.issue_ott(call::issue("john@example.com")).await.expect_err("refused"),
        client.login_with_ott(call::login("OTT-TOKEN")).await.expect_err("refused"),
    ];
    for (status, own) in statuses.iter().zip(["john@example.com", "ott-token"]) {
        let refused = refused(status);
        assert_eq!(refused.reason, "USER_DISABLED");
        assert_eq!(refused.metadata["apiCode"], "1018");
        let message = &refused.metadata["apiMessage"];
        assert!(message.len() <= 256 && message.starts_with("user "), "{message}");
        assert!(!message.to_lowercase().contains(own), "{message}");
        assert!(!message.contains(['\r', '\n']), "{message}");
        assert!(refused.metadata["apiDomain"].len() <= 64);
        assert!(refused.size <= MAX_STATUS_BYTES, "{}", refused.size);
        assert!(!format!("{status:?}").contains("hidden"));
    }
    upstream.always(OTT, Behaviour::Healthy).always(LOGIN, Behaviour::Healthy);
    call::issue_and_log_in(&mut client).await;
}
