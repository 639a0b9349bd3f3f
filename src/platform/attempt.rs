//! One exchange with the platform, and how sure we are of what it did.
//!
//! What an answer means is read in `messages`; whether there is another attempt is
//! decided by the caller, who gets an unsent request back and any other not.

use std::{error::Error, io, sync::Arc, time::SystemTime};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, StatusCode,
    header::{AUTHORIZATION, CONTENT_TYPE},
};
use tokio::time::{Instant, timeout_at};
use url::Url;
use zeroize::Zeroizing;

use super::outgoing::{Gate, OutgoingBody};
use crate::{
    call::{Call, Certainty},
    clock::{self, WallClock},
};

/// The most bytes of an answer other than 2xx that are read; a longer one is none of
/// the platform's error objects.
const MAX_ERROR_BYTES: usize = 64 * 1024;
/// What is set aside for an answer that does not tell its length.
const FIRST_CAPACITY: usize = 16 * 1024;

/// One request. It cannot be copied: whoever sends it does not have it any more.
pub(super) struct Request {
    pub(super) url: Url,
    /// Where it is needed, the access token.
    pub(super) authorization: Option<HeaderValue>,
    /// The trace that it belongs to, where the platform is told of it.
    pub(super) trace: HeaderMap,
    /// JSON.
    pub(super) body: Bytes,
    /// From the first step, connecting included, to the end of the answer's body.
    pub(super) timeout: std::time::Duration,
    /// The most bytes of a 2xx answer.
    pub(super) max_answer_bytes: usize,
}

/// How an attempt ended.
pub(super) enum Ended {
    /// The platform cannot have acted on it. Here it is again.
    NotSent { request: Request, cause: NotSent },
    /// It may have acted on it, and there is no usable answer. If a 2xx answer broke
    /// off, its headers.
    Interrupted { headers: Option<HeaderMap> },
    /// It answered.
    Answered(Answer),
}

/// Why a request was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotSent {
    /// No connection, or the stream was refused.
    Unreachable,
    /// The platform's certificate is not valid.
    CertificateInvalid,
    /// Time ran out, or nobody waits any more.
    Withdrawn,
}

/// An answer of the platform.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: AnswerBody,
    /// When the request left.
    pub(super) sent_at: SystemTime,
}

/// What was read of a body.
pub(super) enum AnswerBody {
    /// All of it.
    Complete(Zeroizing<Vec<u8>>),
    /// It is larger than it may be.
    TooLarge,
    /// It broke off; kept only for a 5xx, which says enough by its status.
    BrokenOff,
}

impl Ended {
    /// How sure we are of what the platform did.
    pub(super) fn certainty(&self) -> Certainty {
        match self {
            Self::NotSent { .. } => Certainty::NotSent,
            Self::Interrupted { .. } => Certainty::Unknown,
            // A 3xx or 4xx says that nothing was done; a 5xx proves nothing.
            Self::Answered(answer) => match answer.status.as_u16() {
                200..=299 => Certainty::Done,
                300..=499 => Certainty::Refused,
                _ => Certainty::Unknown,
            },
        }
    }

    /// The status, if there is one.
    pub(super) fn http_status(&self) -> Option<u16> {
        match self {
            Self::Answered(answer) => Some(answer.status.as_u16()),
            Self::NotSent { .. } | Self::Interrupted { .. } => None,
        }
    }

    /// The status, or in one word why there is none.
    pub(super) fn outcome(&self) -> Result<u16, &'static str> {
        match self {
            Self::Answered(answer) => Ok(answer.status.as_u16()),
            Self::Interrupted { .. } => Err("interrupted"),
            Self::NotSent { cause: NotSent::Unreachable, .. } => Err("unreachable"),
            Self::NotSent { cause: NotSent::CertificateInvalid, .. } => Err("certificate_invalid"),
            Self::NotSent { cause: NotSent::Withdrawn, .. } => Err("withdrawn"),
        }
    }

    /// Whether it speaks for a platform that is down.
    pub(super) fn is_failure(&self) -> bool {
        match self {
            Self::NotSent { cause, .. } => *cause != NotSent::Withdrawn,
            Self::Interrupted { .. } => true,
            Self::Answered(answer) => answer.status.is_server_error(),
        }
    }
}

/// Sends the request once, and follows the exchange to its end, past the call's
/// deadline too if it must: once something was sent, what became of it is worth knowing.
pub(super) async fn send(client: &reqwest::Client, request: Request, call: &Call, wall: &WallClock) -> Ended {
    let attempt = Underway::begin(call, wall);
    let until = clock::now() + request.timeout;
    let ended = match exchange(client, &request, call, &attempt.gate, until).await {
        Ok((status, headers, body)) => {
            let sent_at = attempt.gate.close();
            match body {
                AnswerBody::BrokenOff if !status.is_server_error() => {
                    Ended::Interrupted { headers: status.is_success().then_some(headers) }
                }
                body => Ended::Answered(Answer {
                    status,
                    headers,
                    body,
                    sent_at: sent_at.unwrap_or_else(|| wall.now()),
                }),
            }
        }
        Err(broken) => {
            let passed = attempt.gate.close().is_some();
            match broken {
                Broken::Certificate if !passed => {
                    Ended::NotSent { request, cause: NotSent::CertificateInvalid }
                }
                Broken::NotProcessed => Ended::NotSent { request, cause: NotSent::Unreachable },
                _ if passed => Ended::Interrupted { headers: None },
                _ if call.is_abandoned() || call.deadline().remaining().is_zero() => {
                    Ended::NotSent { request, cause: NotSent::Withdrawn }
                }
                _ => Ended::NotSent { request, cause: NotSent::Unreachable },
            }
        }
    };
    attempt.end(ended.certainty());
    ended
}

async fn exchange(
    client: &reqwest::Client,
    request: &Request,
    call: &Call,
    gate: &Arc<Gate>,
    until: Instant,
) -> Result<(StatusCode, HeaderMap, AnswerBody), Broken> {
    let body = OutgoingBody::new(request.body.clone(), Arc::clone(gate));
    let mut outgoing = client
        .post(request.url.clone())
        .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
        .header("x-request-id", call.request_id().to_string())
        .headers(request.trace.clone())
        .body(reqwest::Body::wrap(body));
    if let Some(authorization) = &request.authorization {
        outgoing = outgoing.header(AUTHORIZATION, authorization.clone());
    }
    let mut response = timeout_at(until, outgoing.send())
        .await
        .map_err(|_| Broken::Otherwise)?
        .map_err(|error| Broken::from_error(&error))?;
    let status = response.status();
    call.set_http_status(status.as_u16());
    let headers = std::mem::take(response.headers_mut());
    let limit = if status.is_success() { request.max_answer_bytes } else { MAX_ERROR_BYTES };
    let body = match timeout_at(until, read(response, limit)).await {
        Ok(Ok(body)) => body,
        // The head has come, so the request was processed, whatever is said now.
        Ok(Err(_)) | Err(_) => AnswerBody::BrokenOff,
    };
    Ok((status, headers, body))
}

/// Reads a body as long as it stays within the limit: first its announced length, then
/// what really comes.
async fn read(mut response: reqwest::Response, limit: usize) -> Result<AnswerBody, reqwest::Error> {
    let announced = response.content_length().map(|length| usize::try_from(length).unwrap_or(usize::MAX));
    if announced.is_some_and(|length| length > limit) {
        return Ok(AnswerBody::TooLarge);
    }
    let mut body = Zeroizing::new(Vec::with_capacity(announced.unwrap_or(limit.min(FIRST_CAPACITY))));
    while let Some(chunk) = response.chunk().await? {
        if chunk.len() > limit - body.len() {
            return Ok(AnswerBody::TooLarge);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(AnswerBody::Complete(body))
}

/// How an exchange broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Broken {
    /// The platform's certificate is not valid.
    Certificate,
    /// The platform says that it did not process the request.
    NotProcessed,
    /// In any other way.
    Otherwise,
}

impl Broken {
    /// Looks through everything that caused the error, and logs the root of it: its
    /// text is of the network, not of the request.
    fn from_error(error: &reqwest::Error) -> Self {
        let mut broken = Self::Otherwise;
        let mut cause: &(dyn Error + 'static) = error;
        loop {
            if let Some(rustls::Error::InvalidCertificate(_)) = cause.downcast_ref::<rustls::Error>() {
                broken = Self::Certificate;
            }
            if cause.downcast_ref::<h2::Error>().is_some_and(is_not_processed) {
                broken = Self::NotProcessed;
            }
            // An I/O error keeps what it wraps apart from its source.
            let wrapped = cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
            cause = match (wrapped, cause.source()) {
                (Some(wrapped), _) => wrapped,
                (None, Some(source)) => source,
                (None, None) => break,
            };
        }
        if broken == Self::Certificate {
            tracing::warn!(error = %cause, "the platform's certificate is not valid");
        } else {
            tracing::debug!(error = %cause, "an exchange with the platform broke");
        }
        broken
    }
}

/// RFC 9113, 8.7: a stream that was refused, or is beyond the last one that a peer
/// going away names, was not processed. Only such streams get either error.
fn is_not_processed(error: &h2::Error) -> bool {
    error.is_remote()
        && (error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM)
            || error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR))
}

/// An attempt that the call knows of; it ends with it however that comes about.
struct Underway<'call> {
    call: &'call Call,
    gate: Arc<Gate>,
    certainty: Option<Certainty>,
}

impl<'call> Underway<'call> {
    fn begin(call: &'call Call, wall: &WallClock) -> Self {
        call.attempt_begins();
        Self { call, gate: Gate::new(call.clone(), wall.clone()), certainty: None }
    }

    fn end(mut self, certainty: Certainty) {
        self.certainty = Some(certainty);
    }
}

impl Drop for Underway<'_> {
    fn drop(&mut self) {
        let passed = self.gate.close().is_some();
        let otherwise = if passed { Certainty::Unknown } else { Certainty::NotSent };
        self.call.attempt_ended(self.certainty.unwrap_or(otherwise));
    }
}
