//! Faults of the simulated platform.
//!
//! A refusal ([`Fault::refusal`]) replaces the processing of a request. Other faults change the
//! response afterwards ([`Fault::spoil`]): the token is spent and the response is lost.

use std::fmt;
use std::num::NonZeroU64;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream;
use http_body_util::BodyExt as _;
use serde_json::{Map, Value};

use super::error::ApiError;
use super::wire::Cutter;

/// Delay of `slow`.
const SLOWNESS: Duration = Duration::from_secs(5);
/// `Retry-After` of a `429`, in seconds.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("7");
/// Target of `redirect`: a name that never resolves (RFC 6761, section 6.4).
const ELSEWHERE: HeaderValue = HeaderValue::from_static("http://elsewhere.invalid/");
/// The platform's documented API codes. A code outside of them is more likely a misspelled one.
pub(super) const API_CODES: RangeInclusive<u32> = 1000..=1035;
/// Number of chunks of `huge`, 16 MiB in total, without a content length.
const HUGE_PIECES: usize = 256;
const HUGE_PIECE: Bytes = Bytes::from_static(&[b' '; 64 * 1024]);

/// Id and login of the account that `other-account` returns.
const OTHER_USER: (&str, &str) = ("5a4d0b0c-0000-4000-8000-0000000c4ed0", "someone.else@sandbox");

/// A fault of the simulated platform.
///
/// Syntax: an HTTP status from 300 to 599 (`503`; the API code is the status, a 3xx redirects to
/// another host, and `429` has `Retry-After: 7`), a status with an API code (`400-1018`), `html`
/// (a proxy's page with a 200), `malformed` (malformed JSON with a 200), `cut` (half a body),
/// `reset` (a TCP reset instead of a response), `slow` (5 s delay), `huge` (16 MiB), `redirect`
/// (302), `blocked` (a firewall's page with a 403), `other-account` (at the login: the account of
/// another user).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A JSON error with this status and code.
    Status(StatusCode, u32),
    /// A page of a proxy with a 200.
    Html,
    /// Malformed JSON with a 200.
    Malformed,
    /// Half the body, then the connection is closed.
    Cut,
    /// A TCP reset instead of the response.
    Reset,
    /// The response, after 5 s.
    Slow,
    /// A body of 16 MiB.
    Huge,
    /// A 302 to another host.
    Redirect,
    /// A page of a firewall with a 403.
    Blocked,
    /// The account of another user. Changes only responses with an account.
    OtherAccount,
}

/// Text that is not a fault.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("no such fault; KIND is {}", Fault::KINDS)]
pub struct UnknownFault;

/// Requests that fail by count.
///
/// Syntax: `KIND/N`, such as `503/10`: every N-th request to an endpoint under `/api/2` fails with the
/// [`Fault`] KIND. The page for browsers at
/// `/api/2/idp/external-login` never fails.
#[derive(Clone, Debug, Default)]
pub struct FaultPlan(Option<(Fault, NonZeroU64)>);

/// A plan that cannot be parsed.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum FaultPlanError {
    /// KIND is not a fault.
    #[error("{0}; write KIND/N, as in `503/10` for every tenth request")]
    Kind(#[from] UnknownFault),
    /// N is not a count.
    #[error("N must be a whole number of at least 1; write KIND/N, as in `503/10` for every tenth request")]
    Count,
    /// There is no N.
    #[error(
        "N is missing; write KIND/N, as in `503/10` for every tenth request, or `503/1` for every request"
    )]
    NoCount,
}

/// The plan, and the number of requests so far.
pub(super) struct Planned {
    plan: FaultPlan,
    seen: AtomicU64,
}

impl FaultPlan {
    /// Returns a plan without faults.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }
}

impl FromStr for FaultPlan {
    type Err = FaultPlanError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (kind, count) = text.split_once('/').map_or((text, None), |(kind, count)| (kind, Some(count)));
        let kind = kind.parse()?;
        let count = count.ok_or(FaultPlanError::NoCount)?;
        let digits = count.bytes().all(|byte| byte.is_ascii_digit());
        let count = count.parse().ok().filter(|_| digits).ok_or(FaultPlanError::Count)?;
        Ok(Self(Some((kind, count))))
    }
}

impl Planned {
    pub(super) fn new(plan: FaultPlan) -> Self {
        Self { plan, seen: AtomicU64::new(0) }
    }

    /// Resets the count.
    pub(super) fn restart(&self) {
        self.seen.store(0, Ordering::Relaxed);
    }

    /// Counts a request. Returns its fault, if any.
    pub(super) fn next(&self) -> Option<Fault> {
        let seen = self.seen.fetch_add(1, Ordering::Relaxed) + 1;
        self.plan.0.filter(|(_, every)| seen % *every == 0).map(|(fault, _)| fault)
    }
}

impl FromStr for Fault {
    type Err = UnknownFault;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text {
            "html" => Self::Html,
            "malformed" => Self::Malformed,
            "cut" => Self::Cut,
            "reset" => Self::Reset,
            "slow" => Self::Slow,
            "huge" => Self::Huge,
            "redirect" => Self::Redirect,
            "blocked" => Self::Blocked,
            "other-account" => Self::OtherAccount,
            _ => {
                let (status, code) = text.split_once('-').map_or((text, None), |(s, c)| (s, Some(c)));
                let is_number =
                    |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
                if status.len() != 3 || !is_number(status) || !code.is_none_or(is_number) {
                    return Err(UnknownFault);
                }
                let number: u16 = status.parse().map_err(|_| UnknownFault)?;
                let status = StatusCode::from_u16(number)
                    .ok()
                    // 304 never has a body (RFC 9110, section 15.4.5).
                    .filter(|status| (300..600).contains(&number) && *status != StatusCode::NOT_MODIFIED)
                    .ok_or(UnknownFault)?;
                let code = match code {
                    Some(code) => {
                        code.parse().ok().filter(|code| API_CODES.contains(code)).ok_or(UnknownFault)?
                    }
                    None => u32::from(number),
                };
                Self::Status(status, code)
            }
        })
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status, code) if u32::from(status.as_u16()) == *code => write!(f, "{code}"),
            Self::Status(status, code) => write!(f, "{}-{code}", status.as_u16()),
            Self::Html => f.write_str("html"),
            Self::Malformed => f.write_str("malformed"),
            Self::Cut => f.write_str("cut"),
            Self::Reset => f.write_str("reset"),
            Self::Slow => f.write_str("slow"),
            Self::Huge => f.write_str("huge"),
            Self::Redirect => f.write_str("redirect"),
            Self::Blocked => f.write_str("blocked"),
            Self::OtherAccount => f.write_str("other-account"),
        }
    }
}

impl Fault {
    /// List of all kinds, for error messages.
    pub const KINDS: &str = "an HTTP status (503), a status with an API code (400-1018), html, malformed, \
        cut, reset, slow, huge, redirect, blocked, other-account";

    /// Names of the kinds without a number.
    pub(super) const NAMES: [&str; 9] =
        ["html", "malformed", "cut", "reset", "slow", "huge", "redirect", "blocked", "other-account"];

    /// Returns the response of a fault that replaces the processing; `None` if the fault changes the
    /// response.
    pub(super) fn refusal(self) -> Option<Response> {
        let mut response = match self {
            Self::Status(status, code) => {
                let message = status.canonical_reason().unwrap_or("Error");
                ApiError::coded(status, code, message, "Injected fault.").into_response()
            }
            Self::Redirect => StatusCode::FOUND.into_response(),
            Self::Blocked => (StatusCode::FORBIDDEN, Html(FIREWALL_PAGE)).into_response(),
            Self::Html
            | Self::Malformed
            | Self::Cut
            | Self::Reset
            | Self::Slow
            | Self::Huge
            | Self::OtherAccount => return None,
        };
        if response.status().is_redirection() {
            response.headers_mut().insert(header::LOCATION, ELSEWHERE);
        }
        if response.status() == StatusCode::TOO_MANY_REQUESTS {
            response.headers_mut().insert(header::RETRY_AFTER, RETRY_AFTER);
        }
        response.extensions_mut().insert(LoggedFault(self));
        Some(response)
    }

    /// Changes the response of a processed request.
    pub(super) async fn spoil(self, answer: Response, cutter: &Cutter) -> Response {
        let mut spoilt = match self {
            Self::Html => Html(PROXY_PAGE).into_response(),
            Self::Malformed => json(Body::from(r#"{"ott": "SANDBOX-malformed", "id": "#)),
            Self::Cut => half(answer, cutter).await,
            Self::Reset => {
                cutter.cut();
                // Never sent: writing it resets the connection.
                StatusCode::OK.into_response()
            }
            Self::Slow => {
                tokio::time::sleep(SLOWNESS).await;
                answer
            }
            Self::Huge => huge(),
            Self::OtherAccount => as_another_user(answer).await,
            Self::Status(..) | Self::Redirect | Self::Blocked => self.refusal().unwrap_or(answer),
        };
        spoilt.extensions_mut().insert(LoggedFault(self));
        spoilt
    }
}

/// The fault injected into a response, for log and journal.
#[derive(Clone, Copy)]
pub(super) struct LoggedFault(pub(super) Fault);

const PROXY_PAGE: &str = "<!DOCTYPE html>\n<html><head><title>Please wait</title></head>\n\
    <body><h1>Checking your connection</h1><p>This page is from a proxy, not from the platform.</p></body></html>\n";

const FIREWALL_PAGE: &str = "<!DOCTYPE html>\n<html><head><title>Forbidden</title></head>\n\
    <body><h1>Request blocked</h1><p>This page is from a firewall, not from the platform.</p></body></html>\n";

fn json(body: Body) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}

/// Returns the response with its full content length and half of its body. A response without a body
/// is not sent.
async fn half(answer: Response, cutter: &Cutter) -> Response {
    let (mut head, body) = answer.into_parts();
    let Ok(whole) = body.collect().await else { return StatusCode::INTERNAL_SERVER_ERROR.into_response() };
    let whole = whole.to_bytes();
    if whole.is_empty() {
        cutter.cut();
    }
    head.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(whole.len()));
    let half = whole.slice(..whole.len() / 2);
    // The server flushes the half when the body is not ready.
    let body = stream::unfold(Some(half), |rest| async move {
        if let Some(half) = rest {
            return Some((Ok(half), None));
        }
        tokio::task::yield_now().await;
        Some((Err(std::io::Error::from(std::io::ErrorKind::ConnectionAborted)), None))
    });
    Response::from_parts(head, Body::from_stream(body))
}

/// Returns the response with id and login of another user. Its headers contain the session. A response
/// without an account is unchanged.
async fn as_another_user(answer: Response) -> Response {
    let (mut head, body) = answer.into_parts();
    let Ok(whole) = body.collect().await else { return StatusCode::INTERNAL_SERVER_ERROR.into_response() };
    let whole = whole.to_bytes();
    let account: Option<Map<String, Value>> = serde_json::from_slice(&whole).ok();
    let Some(mut account) = account.filter(|account| account.contains_key("login")) else {
        return Response::from_parts(head, Body::from(whole));
    };
    account.insert("id".to_owned(), OTHER_USER.0.into());
    account.insert("login".to_owned(), OTHER_USER.1.into());
    account.insert("external_id".to_owned(), Value::Null);
    head.headers.remove(header::CONTENT_LENGTH);
    Response::from_parts(head, Body::from(Value::Object(account).to_string()))
}

/// Returns a valid but oversized response. It has no content length, so clients have to count.
fn huge() -> Response {
    let start = Bytes::from_static(br#"{"ott": "SANDBOX-huge", "id": "huge", "login": "huge@sandbox""#);
    let pieces = std::iter::once(start)
        .chain(std::iter::repeat_n(HUGE_PIECE, HUGE_PIECES))
        .chain(std::iter::once(Bytes::from_static(b"}")));
    json(Body::from_stream(stream::iter(pieces.map(Ok::<_, std::convert::Infallible>))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_round_trips() {
        for kind in [
            "503",
            "400-1018",
            "429",
            "418",
            "307",
            "html",
            "malformed",
            "cut",
            "reset",
            "slow",
            "huge",
            "redirect",
            "blocked",
            "other-account",
        ] {
            assert_eq!(kind.parse::<Fault>().unwrap().to_string(), kind);
        }
    }

    #[test]
    fn unknown_faults_are_refused_with_the_list() {
        for text in [
            "", "200", "304", "600", "99999", "0503", "+503", "503x", "400-", "400-x", "400-+1", "-1018",
            "400-9999", "400-999", "400-1036", "400-400", "400-101", "nothing", "HTML ",
        ] {
            assert_eq!(text.parse::<Fault>(), Err(UnknownFault), "{text}");
        }
        assert!(UnknownFault.to_string().contains("redirect"));
    }

    #[test]
    fn a_plan_fails_exactly_every_nth_request() {
        let planned = Planned::new("503/3".parse().unwrap());
        let met: Vec<_> = (1..=9).filter(|_| planned.next().is_some()).collect();
        assert_eq!(met, [3, 6, 9]);
        let planned = Planned::new("html/1".parse().unwrap());
        assert!((0..5).all(|_| planned.next() == Some(Fault::Html)));
        let planned = Planned::new(FaultPlan::none());
        assert!((0..5).all(|_| planned.next().is_none()));
    }

    #[test]
    fn malformed_plans_are_refused() {
        for (text, error) in [
            ("503", FaultPlanError::NoCount),
            ("html", FaultPlanError::NoCount),
            ("503/+1", FaultPlanError::Count),
            ("503/0", FaultPlanError::Count),
            ("503/", FaultPlanError::Count),
            ("503/-1", FaultPlanError::Count),
            ("/10", FaultPlanError::Kind(UnknownFault)),
            ("oops/10", FaultPlanError::Kind(UnknownFault)),
        ] {
            assert_eq!(text.parse::<FaultPlan>().unwrap_err(), error, "{text}");
            assert!(error.to_string().contains("503/10"));
        }
    }
}
