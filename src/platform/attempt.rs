//! One request to the platform, and how certain its effect is.
//!
//! Certainty is decided here and nowhere else. What a response contains is read in
//! `messages`; whether there is another attempt is decided in `retry`.

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

pub(super) use self::outcome::{Answer, AttemptOutcome, NotSent, ResponseBody};
use super::{
    connections::{ConnectFailure, Connections},
    endpoint::Endpoint,
    error::Malformation,
    messages::{self, Confidential},
    outgoing::{BodyGate, OutgoingBody},
};
use crate::{
    call::{Call, Certainty},
    clock::{self, WallClock},
    http_client::{
        ConnectFault, HttpProtocol, MAX_HEADER_LIST_BYTES,
        body::{self, BodyError, announced_length},
        cause::{is_not_processed, is_refused_stream},
        header_bytes,
    },
    memory::{Reservation, USUAL_BYTES},
};

/// Maximum size of a response other than 2xx, in bytes. A longer one is not the
/// platform's error object.
const MAX_ERROR_BYTES: usize = 64 * 1024;
/// Interval at which a request that waits for a stream looks whether others get one.
const STREAM_CHECK: Duration = Duration::from_millis(10);
/// Number of checks in a row between which no stream was opened, after which the request
/// moves to another connection. Counted instead of timed: a process that gets no processor
/// time for a while would take its own pause for a limit of the peer.
const STREAM_CHECKS: u32 = 5;

/// Maximum number of moves of one attempt to another connection after its stream was refused.
/// Enough for a burst of first requests to a platform with a small limit of streams, and few
/// enough for a platform that refuses streams to shed load.
const MAX_REFUSED_STREAMS: u32 = 4;

/// One request.
pub(super) struct Request<'a> {
    pub(super) endpoint: &'a Endpoint,
    /// The access token, where the endpoint needs one.
    pub(super) authorization: Option<HeaderValue>,
    /// W3C Trace Context, where the platform receives it.
    pub(super) trace: HeaderMap,
    /// JSON.
    pub(super) body: Bytes,
    /// What must not be passed on from an error message.
    pub(super) confidential: Confidential<'a>,
}

/// Sends a request once and follows the exchange to its end, even past the call's deadline:
/// once a request was sent, its outcome belongs in the audit log.
///
/// `memory` is for the response. It is part of the call once there is one.
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
    // A client that has had a connection may still have it, and then needs no address.
    let mut may_need_address = lease.has_answered();
    // Boxed: it is rare, and the future of every call would grow by it.
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
            Ok(AttemptOutcome::NotSent(NotSent::NameLookup(_))) if may_need_address => {
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
                    return AttemptOutcome::NotSent(NotSent::Queued);
                }
                lease = connections.lease_instead_of(gate.lease());
            }
        }
    }
}

/// Waits for the name lookup: before the first connection of a client, and when a later one found
/// no address. The wait does not count against the timeout of the attempt: a slow lookup would use
/// up all attempts of all calls, and each of them would find the addresses a moment later.
async fn await_addresses(
    connections: &Connections,
    request: &Request<'_>,
    call: &Call,
) -> Result<(), NotSent> {
    let time_left = call.deadline().remaining().saturating_sub(request.endpoint.min_time_left);
    if let Ok(known) = timeout(time_left, connections.addresses_known()).await {
        return known.map_err(NotSent::from);
    }
    let lookup = connections.unanswered_lookup();
    Err(lookup.map_or(NotSent::Withdrawn, |error| NotSent::NameLookup(error.to_string())))
}

/// The request needs another connection; the platform has not processed it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum NoStream {
    /// None was free in time.
    Waited,
    /// The platform refused it.
    Refused,
    /// The server turned out to speak HTTP/1.1, so the request needs another connection.
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
        // A future of its own, whose memory the later steps use again.
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
                look_elsewhere(connections, gate, &mut patience)?;
            }
        }
    };
    // By reference here and below: a future has room for each value that is moved twice.
    match &mut response {
        Ok(response) => {
            connections.answered(lease, response.version());
            let outcome = read(connections, request, response, memory.take(), call, gate, late).await;
            if !outcome.is_of_the_platform() {
                lease.distrust();
            }
            Ok(outcome)
        }
        // Before a server's limit is known, more streams may be opened than it accepts.
        Err(error) if is_refused_stream(error) && lease.stream_refused() => Err(NoStream::Refused),
        Err(error) => {
            connections.failed(error);
            let was_withdrawn = gate.is_withdrawn();
            let cause = connections.cause_of(error).await;
            Ok(broken(error, cause, was_withdrawn, gate, call))
        }
    }
}

/// Waits for a result, which is `None` if the timer ends first.
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

/// Returns the request as the HTTP client sends it. A function of its own, so that the future of
/// the attempt has no room for it.
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

/// Waits until the request may be sent. Fails if it would find a stream on another connection.
async fn await_turn(
    connections: &Connections,
    gate: &BodyGate,
    patience: &mut Patience,
) -> Result<(), NoStream> {
    let mut turn = pin!(gate.lease().turn());
    // Usually it is free, and a timer would be for nothing.
    if turn.as_mut().now_or_never().is_some() {
        return Ok(());
    }
    while timeout(STREAM_CHECK, turn.as_mut()).await.is_err() {
        look_elsewhere(connections, gate, patience)?;
    }
    Ok(())
}

/// How long a request has waited while no stream was opened.
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

/// Fails if a request that waits for a stream would find one on another connection.
fn look_elsewhere(
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

/// The outcome of an attempt without a response head in time.
fn not_in_time(gate: &BodyGate, call: &Call) -> AttemptOutcome {
    let is_queued = gate.lease().is_queued();
    if gate.close().is_some() {
        let cause = "no response in time".to_owned();
        return AttemptOutcome::Interrupted { cause, headers: None, missing: None };
    }
    AttemptOutcome::NotSent(if is_queued {
        NotSent::Queued
    } else if is_withdrawn(call) {
        NotSent::Withdrawn
    } else {
        NotSent::Unreachable("no connection in time".to_owned())
    })
}

/// The outcome of an attempt without a response head.
fn broken(
    error: &reqwest::Error,
    cause: String,
    was_withdrawn: bool,
    gate: &BodyGate,
    call: &Call,
) -> AttemptOutcome {
    if is_not_processed(error) {
        gate.close();
        return AttemptOutcome::NotSent(NotSent::Unreachable(cause));
    }
    let fault = ConnectFault::of(error);
    if gate.close().is_some() {
        return AttemptOutcome::Interrupted { cause, headers: None, missing: fault.missing_resource() };
    }
    if fault == ConnectFault::Unreachable && (was_withdrawn || is_withdrawn(call)) {
        return AttemptOutcome::NotSent(NotSent::Withdrawn);
    }
    let failure = ConnectFailure { fault, cause };
    gate.lease().connection_failed(failure.clone());
    AttemptOutcome::NotSent(failure.into())
}

fn is_withdrawn(call: &Call) -> bool {
    call.is_abandoned() || call.deadline().remaining().is_zero()
}

/// Reads the rest of a response. Waits for nothing but the platform: what a large response needs
/// was reserved before the request was sent.
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
            // Only an error of an endpoint without large responses. The platform's error objects
            // are small.
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
                let cause = format!("the response body was cut off: {cause}");
                return AttemptOutcome::Interrupted { cause, headers: Some(headers), missing };
            }
            None => {
                let cause = "the response body was not complete in time".to_owned();
                return AttemptOutcome::Interrupted { cause, headers: Some(headers), missing: None };
            }
        }
    };
    let sent_at = gate.close().unwrap_or_else(|| gate.now());
    let answer = Answer { status, headers, body, sent_at };
    if status.is_success() {
        AttemptOutcome::Succeeded(answer)
    } else {
        let error = messages::error(&answer, &request.confidential, gate.now());
        AttemptOutcome::Failed(error, answer.headers)
    }
}

/// An attempt in progress. When it ends or is dropped, its lease ends and the call records
/// its certainty.
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
