//! One attempt to send a request to the platform, and the certainty of its effect.
//!
//! Certainty is determined only here. `messages` parses responses, and `retry` decides whether
//! there is another attempt.

mod outcome;

use std::{
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures_util::FutureExt as _;
use http::{HeaderMap, HeaderValue, Method};
use tokio::time::{Instant, Sleep, sleep, sleep_until, timeout};

pub(super) use self::outcome::{AttemptOutcome, UnsentReason};
use super::{
    connections::{ConnectFailure, Connections},
    endpoint::Endpoint,
    error::Malformation,
    messages::{self, Confidential},
    outgoing::{BodyGate, OutgoingBody},
    response::{PlatformResponse, ResponseBody},
};
use crate::{
    base::{
        clock::{self, WallClock},
        memory::{Reservation, USUAL_BYTES},
    },
    domain::call::{Call, Certainty},
    http_client::{
        ConnectError, HttpProtocol, MAX_HEADER_LIST_BYTES,
        body::{self, BodyError, announced_length},
        cause::{is_not_processed, is_refused_stream},
        header_bytes,
    },
};

/// Maximum size of a response other than 2xx, in bytes. A larger one is not the platform's error
/// object.
const MAX_ERROR_BYTES: usize = 64 * 1024;
/// Interval at which a request that waits for a stream checks whether others get one.
const STREAM_CHECK: Duration = Duration::from_millis(10);
/// Number of consecutive checks without a newly opened stream after which the request moves to
/// another connection. Counted instead of timed, because a process that is not scheduled for a
/// while would mistake its own pause for a limit of the peer.
const STREAM_CHECKS: u32 = 5;

/// Maximum number of refused streams after which one attempt moves to another connection. Enough
/// for a burst of first requests to a platform with a low stream limit, and few enough for a
/// platform that refuses streams to shed load.
const MAX_REFUSED_STREAMS: u32 = 4;

/// One request to the platform.
pub(super) struct Request<'a> {
    pub(super) endpoint: &'a Endpoint,
    /// The access token, if the endpoint needs one.
    pub(super) authorization: Option<HeaderValue>,
    /// W3C Trace Context, if it is propagated to the platform.
    pub(super) trace: HeaderMap,
    /// The JSON of the request.
    pub(super) body: Bytes,
    /// Values that must not be returned if an error message contains them.
    pub(super) confidential: Confidential<'a>,
}

/// Sends a request once and follows the exchange to its end, even past the call's deadline:
/// once a request was sent, its outcome belongs in the audit log.
///
/// `memory` is for the response, and is attached to the call once there is one.
pub(super) async fn send(
    connections: &Arc<Connections>,
    request: &Request<'_>,
    mut memory: Option<Arc<Reservation>>,
    call: &Call,
    wall: &WallClock,
    mut started: Instant,
) -> AttemptOutcome {
    call.attempt_begins();
    let mut refused = 0;
    let mut lease = connections.lease(started);
    // A client that has had a response may still have a connection, and then needs no address.
    let mut may_need_address = lease.has_answered();
    // Boxed, because it is rare and would enlarge the future of every call.
    if !may_need_address {
        if let Err(not_sent) = Box::pin(await_addresses(connections, request, call)).await {
            call.attempt_ended(Certainty::NotSent);
            return AttemptOutcome::NotSent(not_sent);
        }
        started = clock::now();
    }
    loop {
        let gate = BodyGate::new(call.clone(), wall.clone(), request.endpoint.min_time_left, lease);
        let guard = AttemptGuard { call, gate: &gate, certainty: None };
        match exchange(connections, request, &mut memory, call, &gate, started).await {
            Ok(AttemptOutcome::NotSent(UnsentReason::NameLookup(_))) if may_need_address => {
                guard.end(Certainty::NotSent);
                may_need_address = false;
                if let Err(not_sent) = Box::pin(await_addresses(connections, request, call)).await {
                    return AttemptOutcome::NotSent(not_sent);
                }
                started = clock::now();
                lease = connections.lease(started);
            }
            Ok(outcome) => {
                guard.end(outcome.certainty(request.endpoint));
                return outcome;
            }
            Err(no_stream) => {
                guard.end(Certainty::NotSent);
                refused += u32::from(no_stream == NoStream::Refused);
                if refused > MAX_REFUSED_STREAMS {
                    return AttemptOutcome::NotSent(UnsentReason::Queued);
                }
                lease = connections.lease_instead_of(gate.lease());
            }
        }
    }
}

/// Waits for the name lookup: before the first connection of a client, and when a later one found
/// no address. The wait does not count against the timeout of the attempt: otherwise a slow lookup
/// would use up all attempts of all calls.
async fn await_addresses(
    connections: &Connections,
    request: &Request<'_>,
    call: &Call,
) -> Result<(), UnsentReason> {
    let time_left = call.deadline().remaining().saturating_sub(request.endpoint.min_time_left);
    if let Ok(known) = timeout(time_left, connections.addresses_known()).await {
        return known.map_err(UnsentReason::from);
    }
    let lookup = connections.unanswered_lookup();
    Err(lookup.map_or(UnsentReason::Withdrawn, |error| UnsentReason::NameLookup(error.to_string())))
}

/// Why an unprocessed request needs another connection.
#[derive(Clone, Copy, PartialEq, Eq)]
enum NoStream {
    /// No stream was free in time.
    Waited,
    /// The platform refused the stream.
    Refused,
    /// The server turned out to use HTTP/1.1.
    Superseded,
}

/// Makes the attempt on one connection.
async fn exchange(
    connections: &Arc<Connections>,
    request: &Request<'_>,
    memory: &mut Option<Arc<Reservation>>,
    call: &Call,
    gate: &Arc<BodyGate>,
    started: Instant,
) -> Result<AttemptOutcome, NoStream> {
    let lease = gate.lease();
    // One timer for all steps.
    let mut late = pin!(sleep_until(started + request.endpoint.timeout));
    let mut patience = Patience::default();
    let mut now = started;
    if lease.may_wait() {
        match before(late.as_mut(), pin!(lease.connection())).await {
            Some(Ok(())) => {}
            Some(Err(failure)) => return Ok(AttemptOutcome::NotSent(failure.into())),
            None => return Ok(not_in_time(gate, call)),
        }
        // A separate future, so that later steps reuse its memory.
        match before(late.as_mut(), pin!(await_turn(connections, gate, &mut patience))).await {
            Some(turn) => turn?,
            None => return Ok(not_in_time(gate, call)),
        }
        now = clock::now();
    }
    if !connections.is_usable(lease, now) && gate.close().is_none() {
        return Err(NoStream::Superseded);
    }
    let body = OutgoingBody::new(request.body.clone(), Arc::clone(gate));
    let mut sending = pin!(lease.http().execute(outgoing(request, call, lease.protocol(), body)));
    let mut response = loop {
        let may_wait_for_stream = lease.may_wait() && !gate.has_passed();
        tokio::select! {
            biased;
            response = &mut sending => break response,
            () = late.as_mut() => {
                if gate.has_passed() {
                    connections.replace_after_timeout(lease);
                }
                return Ok(not_in_time(gate, call));
            }
            () = stream_check(), if may_wait_for_stream => {
                check_other_connections(connections, gate, &mut patience)?;
            }
        }
    };
    // By reference here and below: a future has room for each value that is moved twice.
    match &mut response {
        Ok(response) => {
            connections.answered(lease, response.version());
            let outcome = read(connections, request, response, memory.take(), call, gate, late).await;
            if !outcome.is_from_platform() {
                lease.distrust();
            }
            Ok(outcome)
        }
        // More streams than the server accepts may be opened before its limit is known.
        Err(error) if is_refused_stream(error) && lease.stream_refused() => Err(NoStream::Refused),
        Err(error) => {
            connections.failed(error);
            let was_withdrawn = gate.is_withdrawn();
            let cause = connections.cause_of(error).await;
            Ok(broken(error, cause, was_withdrawn, gate, call))
        }
    }
}

/// Waits for a result. Returns `None` if the timer fires first.
async fn before<T>(late: Pin<&mut Sleep>, result: Pin<&mut impl Future<Output = T>>) -> Option<T> {
    tokio::select! {
        biased;
        result = result => Some(result),
        () = late => None,
    }
}

/// Waits until the next check. Creates no timer unless it is polled.
async fn stream_check() {
    sleep(STREAM_CHECK).await;
}

/// Builds the request for the HTTP client. A separate function, so that the future of the attempt
/// does not store the request.
fn outgoing(
    request: &Request<'_>,
    call: &Call,
    protocol: Option<HttpProtocol>,
    body: OutgoingBody,
) -> reqwest::Request {
    let mut outgoing = reqwest::Request::new(Method::POST, request.endpoint.url.clone());
    let headers = outgoing.headers_mut();
    *headers = request.endpoint.headers.for_request(
        protocol,
        call.request_id_header(),
        request.authorization.clone(),
        request.body.len(),
    );
    if !request.trace.is_empty() {
        headers.extend(request.trace.clone());
    }
    *outgoing.body_mut() = Some(reqwest::Body::wrap(body));
    outgoing
}

/// Waits until the request may be sent. Fails if another connection has a free stream.
async fn await_turn(
    connections: &Connections,
    gate: &BodyGate,
    patience: &mut Patience,
) -> Result<(), NoStream> {
    let mut turn = pin!(gate.lease().turn());
    // It is usually free, so no timer is needed.
    if turn.as_mut().now_or_never().is_some() {
        return Ok(());
    }
    while timeout(STREAM_CHECK, turn.as_mut()).await.is_err() {
        check_other_connections(connections, gate, patience)?;
    }
    Ok(())
}

/// Counts how long a request has waited without a newly opened stream.
#[derive(Default)]
struct Patience {
    opened_streams: u64,
    checks: u32,
}

impl Patience {
    fn is_exhausted(&mut self, opened_streams: u64) -> bool {
        self.checks = if self.opened_streams == opened_streams { self.checks + 1 } else { 0 };
        self.opened_streams = opened_streams;
        self.checks >= STREAM_CHECKS
    }
}

/// Fails if the request waits for a stream and another connection has a free one.
fn check_other_connections(
    connections: &Connections,
    gate: &BodyGate,
    patience: &mut Patience,
) -> Result<(), NoStream> {
    let lease = gate.lease();
    if patience.is_exhausted(lease.opened_streams())
        && lease.waits_for_stream()
        && connections.has_room_elsewhere(lease)
        && gate.close().is_none()
    {
        lease.no_stream_in_time();
        return Err(NoStream::Waited);
    }
    Ok(())
}

/// Returns the outcome of an attempt without a response head in time.
fn not_in_time(gate: &BodyGate, call: &Call) -> AttemptOutcome {
    let is_queued = gate.lease().is_queued();
    if gate.close().is_some() {
        let cause = "no response in time".to_owned();
        return AttemptOutcome::Interrupted { cause, headers: None, missing: None };
    }
    AttemptOutcome::NotSent(if is_queued {
        UnsentReason::Queued
    } else if is_withdrawn(call) {
        UnsentReason::Withdrawn
    } else {
        UnsentReason::Unreachable("no connection in time".to_owned())
    })
}

/// Returns the outcome of an attempt that failed without a response head.
fn broken(
    error: &reqwest::Error,
    cause: String,
    was_withdrawn: bool,
    gate: &BodyGate,
    call: &Call,
) -> AttemptOutcome {
    if is_not_processed(error) {
        gate.close();
        return AttemptOutcome::NotSent(UnsentReason::Unreachable(cause));
    }
    let connect_error = ConnectError::from_error(error);
    if gate.close().is_some() {
        return AttemptOutcome::Interrupted {
            cause,
            headers: None,
            missing: connect_error.missing_resource(),
        };
    }
    if connect_error == ConnectError::Unreachable && (was_withdrawn || is_withdrawn(call)) {
        return AttemptOutcome::NotSent(UnsentReason::Withdrawn);
    }
    let failure = ConnectFailure { error: connect_error, cause };
    gate.lease().connection_failed(failure.clone());
    AttemptOutcome::NotSent(failure.into())
}

fn is_withdrawn(call: &Call) -> bool {
    call.is_abandoned() || call.deadline().remaining().is_zero()
}

/// Reads the rest of a response. Waits only for the platform: memory for a large response was
/// reserved before the request was sent.
async fn read(
    connections: &Connections,
    request: &Request<'_>,
    response: &mut reqwest::Response,
    mut memory: Option<Arc<Reservation>>,
    call: &Call,
    gate: &BodyGate,
    late: Pin<&mut Sleep>,
) -> AttemptOutcome {
    let status = response.status();
    call.set_http_status(status.as_u16());
    let headers = std::mem::take(response.headers_mut());
    let announced = announced_length(response);
    let mut limit = if status.is_success() { request.endpoint.max_response_bytes } else { MAX_ERROR_BYTES };
    if memory.is_none() && limit > USUAL_BYTES && announced.is_none_or(|length| length > USUAL_BYTES) {
        memory = request.endpoint.memory.try_reserve(call.consumer());
        if memory.is_none() {
            // Only for an error of an endpoint without large responses. The platform's error
            // objects are small.
            limit = USUAL_BYTES;
        }
    }
    if let Some(memory) = &memory {
        memory.shrink_to_response(announced.unwrap_or(limit).min(limit));
    }
    let body = if header_bytes(&headers) > MAX_HEADER_LIST_BYTES as usize {
        Err(Malformation::Headers)
    } else {
        match before(late, pin!(body::read(response, limit))).await {
            Some(Ok(body)) => {
                if let Some(memory) = memory {
                    memory.shrink_to_response(body.len());
                    call.keep_memory(memory);
                }
                Ok(ResponseBody(body))
            }
            Some(Err(BodyError::TooLarge { .. })) => Err(Malformation::TooLarge),
            // The status of a 5xx is enough to act on.
            Some(Err(_)) | None if status.is_server_error() => Err(Malformation::Json),
            Some(Err(BodyError::CutOff { cause, missing })) => {
                if let Some(resource) = missing {
                    connections.count_exhaustion(resource);
                }
                let cause = format!("the response body was truncated: {cause}");
                return AttemptOutcome::Interrupted { cause, headers: Some(headers), missing };
            }
            None => {
                let cause = "the response body was not complete in time".to_owned();
                return AttemptOutcome::Interrupted { cause, headers: Some(headers), missing: None };
            }
        }
    };
    let sent_at = gate.close().unwrap_or_else(|| gate.now());
    let answer = PlatformResponse { status, headers, body, sent_at };
    if status.is_success() {
        AttemptOutcome::Succeeded(answer)
    } else {
        let error = messages::error(&answer, &request.confidential, gate.now());
        AttemptOutcome::Failed(error, answer.headers)
    }
}

/// Guard of an attempt in progress. On drop, the lease ends and the call records the certainty.
struct AttemptGuard<'a> {
    call: &'a Call,
    gate: &'a BodyGate,
    certainty: Option<Certainty>,
}

impl AttemptGuard<'_> {
    fn end(mut self, certainty: Certainty) {
        self.certainty = Some(certainty);
    }
}

impl Drop for AttemptGuard<'_> {
    fn drop(&mut self) {
        let passed = self.gate.close().is_some();
        let otherwise = if passed { Certainty::Unknown } else { Certainty::NotSent };
        self.call.attempt_ended(self.certainty.unwrap_or(otherwise));
        self.gate.lease().end();
    }
}
