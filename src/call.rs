//! What is known of one call so far: its id, its deadline, and how far it has come.
//!
//! The record is made when the call arrives and travels with it, so that whoever
//! has to answer (a handler, the deadline, a drain) answers truthfully. It decides
//! nothing, and it is not the audit record, which is written from it.

use std::{
    net::SocketAddr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicU32, Ordering},
    },
    time::Duration,
};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::{
    clock::{self, Instant},
    ott::Subject,
};

mod certainty;
mod in_flight;
mod request_id;

pub use certainty::{Certainty, Operation};
pub use in_flight::{InFlight, InFlightLimit};
pub use request_id::RequestId;

/// The moment by which a call must be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(Instant);

impl Deadline {
    /// A deadline at that moment.
    #[must_use]
    pub const fn at(moment: Instant) -> Self {
        Self(moment)
    }

    /// A deadline so long from now.
    #[must_use]
    pub fn after(duration: Duration) -> Self {
        Self(clock::now() + duration)
    }

    /// The moment itself.
    #[must_use]
    pub const fn instant(self) -> Instant {
        self.0
    }

    /// The time left; zero once it has passed.
    #[must_use]
    pub fn remaining(self) -> Duration {
        self.0.saturating_duration_since(clock::now())
    }
}

/// One call, shared by all who work on it.
#[derive(Clone, Debug)]
pub struct Call(Arc<Record>);

#[derive(Debug)]
struct Record {
    request_id: RequestId,
    arrived: Instant,
    deadline: Deadline,
    operation: OnceLock<Operation>,
    api_client: OnceLock<Arc<str>>,
    peer: OnceLock<SocketAddr>,
    caller: OnceLock<(Arc<str>, &'static str)>,
    subject: OnceLock<Subject>,
    fingerprint: OnceLock<String>,
    answer: OnceLock<(tonic::Code, &'static str)>,
    cause: OnceLock<Box<str>>,
    claimed: AtomicBool,
    abandoned: CancellationToken,
    at_rest: Notify,
    attempts: AtomicU32,
    in_flight: AtomicBool,
    certainty: AtomicU8,
    http_status: AtomicU16,
}

impl Call {
    /// A call that has just arrived, under an id of our own.
    #[must_use]
    pub fn new(arrived: Instant, deadline: Deadline) -> Self {
        Self::with_request_id(RequestId::new(), arrived, deadline)
    }

    /// A call that has just arrived, under this id.
    #[must_use]
    pub fn with_request_id(request_id: RequestId, arrived: Instant, deadline: Deadline) -> Self {
        Self(Arc::new(Record {
            request_id,
            arrived,
            deadline,
            operation: OnceLock::new(),
            api_client: OnceLock::new(),
            peer: OnceLock::new(),
            caller: OnceLock::new(),
            subject: OnceLock::new(),
            fingerprint: OnceLock::new(),
            answer: OnceLock::new(),
            cause: OnceLock::new(),
            claimed: AtomicBool::new(false),
            abandoned: CancellationToken::new(),
            at_rest: Notify::new(),
            attempts: AtomicU32::new(0),
            in_flight: AtomicBool::new(false),
            certainty: AtomicU8::new(Certainty::NotSent.weight()),
            http_status: AtomicU16::new(0),
        }))
    }

    /// The call's id.
    #[must_use]
    pub fn request_id(&self) -> RequestId {
        self.0.request_id
    }

    /// When the call arrived.
    #[must_use]
    pub fn arrived(&self) -> Instant {
        self.0.arrived
    }

    /// By when it must be answered.
    #[must_use]
    pub fn deadline(&self) -> Deadline {
        self.0.deadline
    }

    /// Notes what is asked for; the first word counts.
    pub fn set_operation(&self, operation: Operation) {
        let _ = self.0.operation.set(operation);
    }

    /// What is asked for, once known.
    #[must_use]
    pub fn operation(&self) -> Option<Operation> {
        self.0.operation.get().copied()
    }

    /// Notes the API client in use; the first word counts.
    pub fn set_api_client(&self, name: Arc<str>) {
        let _ = self.0.api_client.set(name);
    }

    /// The API client in use, once known.
    #[must_use]
    pub fn api_client(&self) -> Option<Arc<str>> {
        self.0.api_client.get().cloned()
    }

    /// Notes the other end of the connection; the first word counts.
    pub fn set_peer(&self, address: SocketAddr) {
        let _ = self.0.peer.set(address);
    }

    /// The other end of the connection: the caller, or a proxy in front of it.
    #[must_use]
    pub fn peer(&self) -> Option<SocketAddr> {
        self.0.peer.get().copied()
    }

    /// Notes who calls, and how that was proven; the first word counts.
    pub fn set_caller(&self, name: Arc<str>, proof: &'static str) {
        let _ = self.0.caller.set((name, proof));
    }

    /// Who calls, and how that was proven, once known.
    #[must_use]
    pub fn caller(&self) -> Option<(&Arc<str>, &'static str)> {
        self.0.caller.get().map(|(name, proof)| (name, *proof))
    }

    /// Notes whom the call is about; the first word counts.
    pub fn set_subject(&self, subject: Subject) {
        let _ = self.0.subject.set(subject);
    }

    /// Whom the call is about, once known.
    #[must_use]
    pub fn subject(&self) -> Option<&Subject> {
        self.0.subject.get()
    }

    /// Notes the fingerprint of the token that was minted or is spent.
    pub fn set_fingerprint(&self, fingerprint: String) {
        let _ = self.0.fingerprint.set(fingerprint);
    }

    /// The fingerprint of the token, once known.
    #[must_use]
    pub fn fingerprint(&self) -> Option<&str> {
        self.0.fingerprint.get().map(String::as_str)
    }

    /// Notes the failure that the caller is answered with; the first word counts.
    pub fn set_answer(&self, code: tonic::Code, reason: &'static str) {
        let _ = self.0.answer.set((code, reason));
    }

    /// The failure that the caller has been answered with, code and reason, if it has.
    #[must_use]
    pub fn answer(&self) -> Option<(tonic::Code, &'static str)> {
        self.0.answer.get().copied()
    }

    /// Notes why we refused the call, for the log; the first word counts.
    pub fn set_cause(&self, cause: Box<str>) {
        let _ = self.0.cause.set(cause);
    }

    /// Why we refused the call, if we did.
    #[must_use]
    pub fn cause(&self) -> Option<&str> {
        self.0.cause.get().map(AsRef::as_ref)
    }

    /// Takes over the duty of writing this call's audit record: true for the first
    /// who asks, so that there is exactly one.
    #[must_use]
    pub fn claim_record(&self) -> bool {
        !self.0.claimed.swap(true, Ordering::AcqRel)
    }

    /// Notes that nobody waits for the answer any more: the caller went away, or has
    /// been answered (deadline, drain).
    pub fn abandon(&self) {
        self.0.abandoned.cancel();
    }

    /// Whether nobody waits for the answer any more.
    #[must_use]
    pub fn is_abandoned(&self) -> bool {
        self.0.abandoned.is_cancelled()
    }

    /// Waits until nobody waits for the answer any more.
    pub async fn abandoned(&self) {
        self.0.abandoned.cancelled().await;
    }

    /// Waits until nothing of the call is under way at the platform.
    pub async fn at_rest(&self) {
        loop {
            let at_rest = self.0.at_rest.notified();
            if !self.0.in_flight.load(Ordering::Acquire) {
                return;
            }
            at_rest.await;
        }
    }

    /// Notes that an attempt at the platform begins.
    pub fn attempt_begins(&self) {
        self.0.attempts.fetch_add(1, Ordering::Relaxed);
    }

    /// How many attempts at the platform have begun.
    #[must_use]
    pub fn attempts(&self) -> u32 {
        self.0.attempts.load(Ordering::Relaxed)
    }

    /// Notes that bytes of the request may leave from now on.
    pub fn sending(&self) {
        self.0.in_flight.store(true, Ordering::Release);
    }

    /// Notes how an attempt ended.
    pub fn attempt_ended(&self, certainty: Certainty) {
        self.0.certainty.fetch_max(certainty.weight(), Ordering::AcqRel);
        self.0.in_flight.store(false, Ordering::Release);
        self.0.at_rest.notify_waiters();
    }

    /// What is known of the outcome at this moment; an attempt under way may have
    /// happened.
    #[must_use]
    pub fn certainty(&self) -> Certainty {
        let ended = Certainty::from_weight(self.0.certainty.load(Ordering::Acquire));
        if self.0.in_flight.load(Ordering::Acquire) { ended.and(Certainty::Unknown) } else { ended }
    }

    /// Notes the last HTTP status that the platform answered with.
    pub fn set_http_status(&self, status: u16) {
        self.0.http_status.store(status, Ordering::Relaxed);
    }

    /// The last HTTP status that the platform answered with, if it did.
    #[must_use]
    pub fn http_status(&self) -> Option<u16> {
        match self.0.http_status.load(Ordering::Relaxed) {
            0 => None,
            status => Some(status),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_attempt_under_way_may_have_happened() {
        let call = Call::new(clock::now(), Deadline::after(Duration::from_secs(1)));
        assert_eq!(call.certainty(), Certainty::NotSent);
        call.attempt_begins();
        assert_eq!(call.certainty(), Certainty::NotSent, "connecting sends nothing");
        call.sending();
        assert_eq!(call.certainty(), Certainty::Unknown);
        call.attempt_ended(Certainty::Refused);
        assert_eq!(call.certainty(), Certainty::Refused);
    }

    #[tokio::test(start_paused = true)]
    async fn what_may_have_happened_is_not_forgotten() {
        let call = Call::new(clock::now(), Deadline::after(Duration::from_secs(1)));
        call.attempt_ended(Certainty::Unknown);
        call.attempt_ended(Certainty::NotSent);
        assert_eq!(call.certainty(), Certainty::Unknown);
        call.attempt_ended(Certainty::Done);
        assert_eq!(call.certainty(), Certainty::Done);
    }
}
