//! Faults on demand: what can go wrong between the platform and its clients.
//!
//! A fault that refuses ([`Fault::refusal`]) happens instead of the work. One that
//! spoils happens after it: the work is done, the token spent, and the answer lost on
//! its way, which is what makes such a fault worth testing against.

use std::fmt;
use std::num::NonZeroU64;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream;
use http_body_util::BodyExt as _;

use super::error::ApiError;
use super::wire::Cutter;

/// What `slow` waits before it answers.
const SLOWNESS: Duration = Duration::from_secs(5);
/// What a `429` asks its client to wait, in seconds.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("7");
/// Where `redirect` leads: a name that never resolves (RFC 6761, section 6.4).
const ELSEWHERE: HeaderValue = HeaderValue::from_static("http://elsewhere.invalid/");
/// `huge` sends this many pieces, 16 MiB in all, and does not say so beforehand.
const HUGE_PIECES: usize = 256;
const HUGE_PIECE: Bytes = Bytes::from_static(&[b' '; 64 * 1024]);

/// One way in which an answer goes wrong.
///
/// Written as: an HTTP status from 300 to 599 (`503`; the JSON error's code is then the
/// status too, a 3xx leads to another host, and `429` says `Retry-After: 7`), a status
/// with an API code (`400-1018`), `html` (a proxy's page under a 200), `malformed`
/// (broken JSON under a 200), `cut` (half a body), `reset` (a TCP reset instead of an
/// answer), `slow` (the answer comes after 5 s), `huge` (16 MiB), `redirect` (302).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A JSON error with this status and code.
    Status(StatusCode, u32),
    /// A page of a proxy under a 200.
    Html,
    /// Broken JSON under a 200.
    Malformed,
    /// Half the body, then the end of the connection.
    Cut,
    /// A TCP reset instead of the answer.
    Reset,
    /// The answer, after 5 s.
    Slow,
    /// A body of 16 MiB.
    Huge,
    /// A 302 to another host.
    Redirect,
}

/// Text that names no fault.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("no such fault: there is {}", Fault::KINDS)]
pub struct UnknownFault;

/// Which requests go wrong without asking for it.
///
/// Written as `KIND/N`: every N-th request to an endpoint under `/api/2` meets the
/// [`Fault`] KIND, as in `503/10`. `KIND` alone means every request. Only the page for
/// browsers at `/api/2/idp/external-login` is spared.
#[derive(Clone, Debug, Default)]
pub struct FaultPlan(Option<(Fault, NonZeroU64)>);

/// A plan that cannot be read.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum FaultPlanError {
    /// KIND is none.
    #[error("{0}; write KIND/N, as in `503/10` for every tenth request")]
    Kind(#[from] UnknownFault),
    /// N is no count.
    #[error("N must be a whole number from 1 on; write KIND/N, as in `503/10` for every tenth request")]
    Count,
}

/// The plan, being carried out.
pub(super) struct Planned {
    plan: FaultPlan,
    seen: AtomicU64,
}

/// What a login asks to go wrong.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Demand {
    /// `fault+KIND@sandbox`: issuing a token fails.
    Issue(Fault),
    /// `login-fault+KIND@sandbox`: spending the token fails.
    Login(Fault),
}

impl FaultPlan {
    /// Nothing goes wrong unless it is asked for.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }
}

impl FromStr for FaultPlan {
    type Err = FaultPlanError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (kind, count) = text.split_once('/').unwrap_or((text, "1"));
        Ok(Self(Some((kind.parse()?, count.parse().map_err(|_| FaultPlanError::Count)?))))
    }
}

impl Planned {
    pub(super) fn new(plan: FaultPlan) -> Self {
        Self { plan, seen: AtomicU64::new(0) }
    }

    /// Counts one request, and says whether it is its turn to go wrong.
    pub(super) fn next(&self) -> Option<Fault> {
        let seen = self.seen.fetch_add(1, Ordering::Relaxed) + 1;
        self.plan.0.filter(|(_, every)| seen % *every == 0).map(|(fault, _)| fault)
    }
}

impl Demand {
    /// What `login` asks for; `None` for a login that is just a login.
    pub(super) fn of(login: &str) -> Option<Result<Self, UnknownFault>> {
        let login = login.to_ascii_lowercase();
        let asked = login.strip_suffix("@sandbox")?;
        if let Some(kind) = asked.strip_prefix("fault+") {
            return Some(kind.parse().map(Self::Issue));
        }
        asked.strip_prefix("login-fault+").map(|kind| kind.parse().map(Self::Login))
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
            _ => {
                let (status, code) = text.split_once('-').map_or((text, None), |(s, c)| (s, Some(c)));
                let number: u16 = status.parse().map_err(|_| UnknownFault)?;
                let status = StatusCode::from_u16(number)
                    .ok()
                    // 304 has no body by its definition (RFC 9110, section 15.4.5).
                    .filter(|status| (300..600).contains(&number) && *status != StatusCode::NOT_MODIFIED)
                    .ok_or(UnknownFault)?;
                let code = match code {
                    Some(code) => code.parse().map_err(|_| UnknownFault)?,
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
        }
    }
}

impl Fault {
    /// The kinds there are, for a person to read.
    pub const KINDS: &str = "an HTTP status (`503`), a status with an API code (`400-1018`), `429`, \
        `html`, `malformed`, `cut`, `reset`, `slow`, `huge` or `redirect`";

    /// The answer of a fault that happens instead of the work; `None` if this one
    /// spoils the answer after the work.
    pub(super) fn refusal(self) -> Option<Response> {
        let mut response = match self {
            Self::Status(status, code) => {
                let message = status.canonical_reason().unwrap_or("Error");
                ApiError::coded(status, code, message, "A fault on demand.").into_response()
            }
            Self::Redirect => StatusCode::FOUND.into_response(),
            Self::Html | Self::Malformed | Self::Cut | Self::Reset | Self::Slow | Self::Huge => return None,
        };
        if response.status().is_redirection() {
            response.headers_mut().insert(header::LOCATION, ELSEWHERE);
        }
        if response.status() == StatusCode::TOO_MANY_REQUESTS {
            response.headers_mut().insert(header::RETRY_AFTER, RETRY_AFTER);
        }
        response.extensions_mut().insert(Met(self));
        Some(response)
    }

    /// Spoils the answer of work that is done.
    pub(super) async fn spoil(self, answer: Response, cutter: &Cutter) -> Response {
        let mut spoilt = match self {
            Self::Html => Html(PROXY_PAGE).into_response(),
            Self::Malformed => json(Body::from(r#"{"ott": "SANDBOX-malformed", "id": "#)),
            Self::Cut => half(answer, cutter).await,
            Self::Reset => {
                cutter.cut();
                // Never gets out: the connection is reset when it is written.
                StatusCode::OK.into_response()
            }
            Self::Slow => {
                tokio::time::sleep(SLOWNESS).await;
                answer
            }
            Self::Huge => huge(),
            Self::Status(..) | Self::Redirect => self.refusal().unwrap_or(answer),
        };
        spoilt.extensions_mut().insert(Met(self));
        spoilt
    }
}

/// Tells the log which fault an answer met.
#[derive(Clone, Copy)]
pub(super) struct Met(pub(super) Fault);

const PROXY_PAGE: &str = "<!DOCTYPE html>\n<html><head><title>Please wait</title></head>\n\
    <body><h1>Checking your connection</h1><p>A proxy says this, not the platform.</p></body></html>\n";

fn json(body: Body) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}

/// The head of the answer as it is, with the length of the whole body, and half of it.
/// Of an answer without a body, nothing is sent.
async fn half(answer: Response, cutter: &Cutter) -> Response {
    let (mut head, body) = answer.into_parts();
    let Ok(whole) = body.collect().await else { return StatusCode::INTERNAL_SERVER_ERROR.into_response() };
    let whole = whole.to_bytes();
    if whole.is_empty() {
        cutter.cut();
    }
    head.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(whole.len()));
    let half = whole.slice(..whole.len() / 2);
    // The pause between the half and the end lets the server send the half: it sends
    // what it has whenever the body has nothing ready.
    let body = stream::unfold(Some(half), |rest| async move {
        if let Some(half) = rest {
            return Some((Ok(half), None));
        }
        tokio::task::yield_now().await;
        Some((Err(std::io::Error::from(std::io::ErrorKind::ConnectionAborted)), None))
    });
    Response::from_parts(head, Body::from_stream(body))
}

/// An answer that is right but for its size: a client has to count to notice.
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
    fn every_kind_reads_back_as_it_is_written() {
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
        ] {
            assert_eq!(kind.parse::<Fault>().unwrap().to_string(), kind);
        }
    }

    #[test]
    fn what_is_no_fault_is_refused_with_the_list_of_those_there_are() {
        for text in ["", "200", "304", "600", "99999", "400-", "400-x", "-1018", "nothing", "HTML "] {
            assert_eq!(text.parse::<Fault>(), Err(UnknownFault), "{text}");
        }
        assert!(UnknownFault.to_string().contains("`redirect`"));
    }

    #[test]
    fn a_plan_meets_every_nth_request_exactly() {
        let planned = Planned::new("503/3".parse().unwrap());
        let met: Vec<_> = (1..=9).filter(|_| planned.next().is_some()).collect();
        assert_eq!(met, [3, 6, 9]);
        let planned = Planned::new("html".parse().unwrap());
        assert!((0..5).all(|_| planned.next() == Some(Fault::Html)));
        let planned = Planned::new(FaultPlan::none());
        assert!((0..5).all(|_| planned.next().is_none()));
    }

    #[test]
    fn a_plan_that_cannot_be_read_is_refused() {
        for (text, error) in [
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

    #[test]
    fn a_login_asks_for_a_fault_only_by_the_documented_form() {
        assert_eq!(
            Demand::of("fault+503@sandbox"),
            Some(Ok(Demand::Issue(Fault::Status(StatusCode::SERVICE_UNAVAILABLE, 503))))
        );
        assert_eq!(Demand::of("Login-Fault+Cut@Sandbox"), Some(Ok(Demand::Login(Fault::Cut))));
        assert_eq!(Demand::of("fault+oops@sandbox"), Some(Err(UnknownFault)));
        for login in
            ["johncustomer@mysite.com", "fault+503@mysite.com", "fault@sandbox", "x-fault+503@sandbox"]
        {
            assert_eq!(Demand::of(login), None, "{login}");
        }
    }
}
