//! Encodes a failure as a status: message, details and trailers, within 4 KiB.

use std::{borrow::Cow, collections::BTreeMap, mem, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use http::{HeaderMap, HeaderName, HeaderValue, header::CONTENT_TYPE};
use percent_encoding::{AsciiSet, CONTROLS, percent_encode};
use prost::Message;
use prost_types::Any;
use tonic::{
    Status,
    metadata::{GRPC_CONTENT_TYPE, MetadataMap},
};
use tonic_types::pb;

use super::{
    Case, Failure, FailureCode, Reason, Violation, may_be_spent,
    message::{Message as Text, bounded},
};
use crate::{
    base::backoff,
    domain::call::{Call, Certainty, Method},
};

/// Maximum size of a status in the peer's header list (RFC 9113, 6.5.2). Clients with a limit of
/// 8 KiB hang or reset the connection if it is exceeded.
const MAX_STATUS_BYTES: usize = 4096;
/// Overhead per header according to RFC 9113, in bytes.
const HEADER_OVERHEAD: usize = 32;
/// Maximum delay in a `RetryInfo`.
const MAX_RETRY_DELAY: Duration = Duration::from_hours(1);
/// Delay in a `RetryInfo`, plus jitter, if the platform sent none.
const DEFAULT_RETRY_DELAY: Duration = Duration::from_secs(1);
/// Lifetime of a one-time token.
const TOKEN_LIFETIME: Duration = Duration::from_secs(30);
/// Maximum number of violations in a status.
const MAX_VIOLATIONS: usize = 16;

/// Usual number of headers of a response, including the request id that is added later.
const USUAL_HEADERS: usize = 6;
/// Trailer that stops gRPC clients with a retry policy (gRFC A6).
const RETRY_PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");
/// Trailer that stops retries by Envoy.
const RATE_LIMITED: HeaderName = HeaderName::from_static("x-envoy-ratelimited");
/// Accepted compressions.
const ACCEPT_ENCODING: HeaderName = HeaderName::from_static("grpc-accept-encoding");

const DOMAIN: &str = "ott-gateway";

/// `google.rpc.ErrorInfo` with ordered metadata, so that its encoding is deterministic.
#[derive(Clone, PartialEq, Message)]
struct ErrorInfo {
    #[prost(string, tag = "1")]
    reason: String,
    #[prost(string, tag = "2")]
    domain: String,
    #[prost(btree_map = "string, string", tag = "3")]
    metadata: BTreeMap<String, String>,
}

/// The parts of a status.
struct StatusParts<'a> {
    code: FailureCode,
    text: Text<'a>,
    /// `text` and `violations`, composed.
    message: String,
    info: ErrorInfo,
    request_id: String,
    retry_delay: Option<Duration>,
    quota: Option<pb::quota_failure::Violation>,
    violations: Vec<Violation>,
    trailers: HeaderMap,
}

/// Returns a failure as a status of the gRPC library.
#[expect(clippy::disallowed_methods, reason = "the one place that builds a status")]
pub(super) fn status(failure: Failure, call: &Call) -> Status {
    let (parts, details) = StatusParts::within_limit(failure, call);
    let trailers = MetadataMap::from_headers(parts.trailers);
    Status::with_details_and_metadata(parts.code.into(), parts.message, details.into(), trailers)
}

/// Returns a failure as the headers of a response without a body.
pub(super) fn headers(failure: Failure, call: &Call) -> HeaderMap {
    let (parts, details) = StatusParts::within_limit(failure, call);
    let mut headers = parts.trailers;
    headers.insert(CONTENT_TYPE, GRPC_CONTENT_TYPE);
    headers.insert(Status::GRPC_STATUS, i32::from(tonic::Code::from(parts.code)).into());
    if let Ok(message) = HeaderValue::try_from(encoded(parts.message)) {
        headers.insert(Status::GRPC_MESSAGE, message);
    }
    if let Ok(mut details) = HeaderValue::try_from(STANDARD_NO_PAD.encode(details)) {
        // Not indexed by HPACK, because it contains the id of the call.
        details.set_sensitive(true);
        headers.insert(Status::GRPC_STATUS_DETAILS, details);
    }
    headers
}

/// Percent-encodes a message for gRPC over HTTP/2: visible ASCII except `%`, and spaces, stay.
fn encoded(message: String) -> String {
    const ENCODED: &AsciiSet = &CONTROLS.add(b'%');
    match Cow::from(percent_encode(message.as_bytes(), ENCODED)) {
        Cow::Borrowed(_) => message,
        Cow::Owned(encoded) => encoded,
    }
}

impl<'a> StatusParts<'a> {
    /// Returns the parts of a failure that fit into [`MAX_STATUS_BYTES`], and their encoding.
    fn within_limit(failure: Failure, call: &'a Call) -> (Self, Vec<u8>) {
        let mut parts = Self::of(failure, call);
        loop {
            let details = parts.encode();
            if parts.size(&details) <= MAX_STATUS_BYTES || !parts.shorten() {
                return (parts, details);
            }
        }
    }

    fn of(mut failure: Failure, call: &'a Call) -> Self {
        let may_be_spent = may_be_spent(call);
        let wait = retry_delay(&failure);
        let outlives_token =
            call.method() == Some(Method::LoginWithOtt) && wait.is_some_and(|wait| wait >= TOKEN_LIFETIME);
        let retry = is_retry_advised(&failure, call, outlives_token);
        let text = Text::of(&failure, call, outlives_token);
        let mut violations = mem::take(&mut failure.violations);
        violations.truncate(MAX_VIOLATIONS);
        Self {
            code: failure.code(call),
            message: text.text(&violations),
            text,
            request_id: call.request_id().to_string(),
            retry_delay: wait.filter(|_| retry),
            quota: quota(&failure, call),
            trailers: trailers(&failure, retry, may_be_spent),
            info: ErrorInfo {
                reason: failure.reason().as_str().to_owned(),
                domain: DOMAIN.to_owned(),
                metadata: metadata(&failure, call),
            },
            violations,
        }
    }

    /// Removes one part, the least important first. Returns false if no optional part is left.
    fn shorten(&mut self) -> bool {
        let metadata = &mut self.info.metadata;
        if metadata.remove("apiMessage").is_some() || metadata.remove("apiDomain").is_some() {
            return true;
        }
        let is_shorter = self.violations.pop().is_some()
            || self.quota.take().is_some()
            || metadata.remove("apiClient").is_some()
            || self.text.remove_values();
        self.message = self.text.text(&self.violations);
        is_shorter
    }

    /// Encodes `google.rpc.Status`.
    fn encode(&self) -> Vec<u8> {
        let code = i32::from(tonic::Code::from(self.code));
        pb::Status { code, message: self.message.clone(), details: self.details() }.encode_to_vec()
    }

    /// Returns the size of the status in a header list, with these details, in bytes.
    fn size(&self, details: &[u8]) -> usize {
        let code = i32::from(tonic::Code::from(self.code));
        let of_status = [
            (Status::GRPC_STATUS, if code < 10 { 1 } else { 2 }),
            (Status::GRPC_MESSAGE, longest_encoding(&self.message)),
            (Status::GRPC_STATUS_DETAILS, (details.len() * 4).div_ceil(3)),
        ];
        let of_status = of_status.map(|(name, length)| name.as_str().len() + length);
        let trailers = self.trailers.iter().map(|(name, value)| name.as_str().len() + value.len());
        trailers.chain(of_status).map(|length| length + HEADER_OVERHEAD).sum()
    }

    fn details(&self) -> Vec<Any> {
        let request = pb::RequestInfo { request_id: self.request_id.clone(), serving_data: String::new() };
        let mut details = vec![any("ErrorInfo", &self.info), any("RequestInfo", &request)];
        if let Some(delay) = self.retry_delay {
            let retry_delay = prost_types::Duration::try_from(delay).ok();
            details.push(any("RetryInfo", &pb::RetryInfo { retry_delay }));
        }
        if let Some(violation) = &self.quota {
            details.push(any("QuotaFailure", &pb::QuotaFailure { violations: vec![violation.clone()] }));
        }
        if !self.violations.is_empty() {
            let field_violations = self
                .violations
                .iter()
                .map(|violation| pb::bad_request::FieldViolation {
                    field: violation.field.to_owned(),
                    description: bounded(&violation.description),
                    ..Default::default()
                })
                .collect();
            details.push(any("BadRequest", &pb::BadRequest { field_violations }));
        }
        details
    }
}

fn any(name: &str, detail: &impl Message) -> Any {
    Any { type_url: format!("type.googleapis.com/google.rpc.{name}"), value: detail.encode_to_vec() }
}

fn metadata(failure: &Failure, call: &Call) -> BTreeMap<String, String> {
    // The gateway may have refused the token itself, in the same way as the platform.
    let is_rejected = failure.reason() == Reason::OttRejected;
    let outcome = if is_rejected { Certainty::Refused } else { call.certainty() };
    let mut metadata = BTreeMap::new();
    let mut add = |key: &str, value: String| metadata.insert(key.to_owned(), value);
    if let Some(method) = call.method() {
        add("operation", method.name().to_owned());
        add("outcome", outcome.as_str().to_owned());
    }
    // Callers must not learn the names of API clients that they may not use.
    let api_client = failure.known_api_client.clone().map_or_else(|| call.api_client(), |known| *known);
    if let Some(api_client) = api_client.filter(|_| failure.reason() != Reason::CallerNotAllowed) {
        add("apiClient", bounded(&api_client));
    }
    // The caller must not learn whether a token is unknown, used or expired.
    if is_rejected {
        return metadata;
    }
    if call.method().is_some() {
        add("attempts", call.attempts().to_string());
    }
    if let Some(status) = failure.http_status.or_else(|| call.http_status()) {
        add("httpStatus", status.to_string());
    }
    let Some(platform) = &failure.platform else { return metadata };
    if let Some(code) = platform.code {
        add("apiCode", code.number().to_string());
    }
    if let Some(domain) = &platform.domain {
        add("apiDomain", bounded(domain));
    }
    if let Some(message) = &platform.message {
        add("apiMessage", bounded(message));
    }
    metadata
}

/// Returns the delay before a retry.
fn retry_delay(failure: &Failure) -> Option<Duration> {
    let usual = || match failure.reason() {
        Reason::Overloaded
        | Reason::GatewayExhausted
        | Reason::Draining
        | Reason::AuditUnavailable
        | Reason::CallerQuotaExceeded
        | Reason::PlatformRateLimited => Some(backoff::jittered(DEFAULT_RETRY_DELAY, 1.0, 2.0)),
        _ => None,
    };
    failure.retry_after.or_else(usual).map(|wait| wait.min(MAX_RETRY_DELAY))
}

fn is_retry_advised(failure: &Failure, call: &Call, outlives_token: bool) -> bool {
    let answers = failure.reason().entry().answers(call.method());
    answers.is_some_and(|answers| answers.retry.is_advised(failure.code))
        && !outlives_token
        && !may_be_spent(call)
}

fn trailers(failure: &Failure, retry: bool, may_be_spent: bool) -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(USUAL_HEADERS);
    if !retry {
        trailers.insert(RETRY_PUSHBACK, HeaderValue::from_static("-1"));
    }
    if may_be_spent {
        // Envoy ignores the other trailer.
        trailers.insert(RATE_LIMITED, HeaderValue::from_static("true"));
    }
    if failure.case == Case::CompressedMessage {
        trailers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    }
    trailers
}

fn quota(failure: &Failure, call: &Call) -> Option<pb::quota_failure::Violation> {
    if failure.reason() != Reason::CallerQuotaExceeded {
        return None;
    }
    let (subject, description) = match &failure.quota {
        Some(quota) => (quota.subject.as_str(), quota.description.as_str()),
        None => (call.caller().map_or("", |(name, _)| name), "The caller's quota is used up."),
    };
    Some(pb::quota_failure::Violation {
        subject: bounded(subject),
        description: bounded(description),
        ..Default::default()
    })
}

/// Returns the length of a message in the encoding of the gRPC library, which encodes more
/// characters than required.
fn longest_encoding(message: &str) -> usize {
    message.bytes().map(|byte| usize::from(LONGEST[usize::from(byte)])).sum()
}

/// Encoded length of each byte of a message in the gRPC library.
const LONGEST: [u8; 256] = {
    let mut lengths = [3; 256];
    let mut byte = b'!';
    while byte <= b'~' {
        if !matches!(byte, b'"' | b'#' | b'%' | b'<' | b'>' | b'`' | b'?' | b'{' | b'}') {
            lengths[byte as usize] = 1;
        }
        byte += 1;
    }
    lengths
};
