//! State of one call: its id, its deadline, and its progress.
//!
//! The state is created when the call arrives and is passed along with it, so that any code that
//! answers the call (a handler, the deadline, a drain) reports the same outcome. It makes no
//! decisions. The audit record is written from it.
//!
//! ```
//! use std::time::Duration;
//!
//! use ott_gateway::{
//!     base::clock,
//!     domain::{
//!         call::{Call, Certainty, Deadline},
//!         reason::{FailureCode, Reason},
//!     },
//! };
//!
//! let call = Call::new(clock::now(), Deadline::after(Duration::from_secs(10)));
//! let record = call.clone();
//! call.attempt_begins();
//! call.sending();
//! assert_eq!(record.certainty(), Certainty::Unknown);
//! call.attempt_ended(Certainty::Refused);
//! assert_eq!(record.certainty(), Certainty::Refused);
//!
//! // The first failure is the one that the caller receives, and that everything else reports.
//! call.set_failure(FailureCode::Unauthenticated, Reason::OttRejected);
//! call.set_failure(FailureCode::Unavailable, Reason::Draining);
//! assert_eq!(record.failure(), Some((FailureCode::Unauthenticated, Reason::OttRejected)));
//! ```

use std::{
    borrow::Cow,
    net::SocketAddr,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicU32, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::HeaderValue;
use serde_json::value::RawValue;
use tokio::sync::Notify;

use crate::{
    base::{
        clock::{self, Instant},
        memory::{Consumer, Reservation},
    },
    domain::{
        ott::{SealRefusal, Subject},
        reason::{FailureCode, Reason},
    },
};

mod candidate;
mod certainty;
mod ending;
mod in_flight;
mod method;
mod named;
mod peer_network;
mod places;
mod request_id;

pub use candidate::{CandidateDecision, CandidateDifference};
pub use certainty::Certainty;
pub use ending::{BrokenBody, Ending};
pub use in_flight::{AwaitedBody, BodyLimit, InFlight, InFlightLimit};
pub use method::Method;
pub use named::{UnvalidatedNames, UnvalidatedText};
pub use peer_network::PeerNetwork;
pub use places::{Exhausted, Holder, WeakHolder};
pub use request_id::RequestId;

/// Time by which a call must be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(Instant);

impl Deadline {
    /// Returns the deadline at `moment`.
    #[must_use]
    pub const fn at(moment: Instant) -> Self {
        Self(moment)
    }

    /// Returns the deadline `duration` from now.
    #[must_use]
    pub fn after(duration: Duration) -> Self {
        Self(clock::now() + duration)
    }

    /// Returns the deadline as an instant.
    #[must_use]
    pub const fn instant(self) -> Instant {
        self.0
    }

    /// Returns the time left; zero once the deadline has passed.
    #[must_use]
    pub fn remaining(self) -> Duration {
        self.remaining_at(clock::now())
    }

    /// Time left at `now`; zero once the deadline has passed.
    #[must_use]
    pub fn remaining_at(self, now: Instant) -> Duration {
        self.0.saturating_duration_since(now)
    }
}

/// Body of a request. May contain a token, so it is never shown.
struct Message(Bytes);

impl std::fmt::Debug for Message {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Message").field(&self.0.len()).finish()
    }
}

/// Set in `progress` while an attempt may be sending bytes.
const IN_FLIGHT: u8 = 0x80;

/// One call. Cheap to clone; all clones share the state.
#[derive(Clone, Debug)]
pub struct Call(Arc<Record>);

#[derive(Debug)]
struct Record {
    request_id: RequestId,
    /// Created once, because it is cheap to clone.
    request_id_header: OnceLock<HeaderValue>,
    arrived: Instant,
    deadline: Deadline,
    method: OnceLock<Method>,
    api_client: OnceLock<Arc<str>>,
    peer: OnceLock<SocketAddr>,
    caller: OnceLock<(Arc<str>, Cow<'static, str>)>,
    deciding_claims: Mutex<Option<Arc<RawValue>>>,
    subject: OnceLock<Subject>,
    login_url: OnceLock<bool>,
    fingerprint: OnceLock<String>,
    issued_by: OnceLock<Box<str>>,
    token_refusal: OnceLock<SealRefusal>,
    failure: OnceLock<(FailureCode, Reason)>,
    broken_body: OnceLock<BrokenBody>,
    cause: OnceLock<Box<str>>,
    candidate: OnceLock<Box<CandidateDecision>>,
    unvalidated: OnceLock<Box<UnvalidatedNames>>,
    message: Mutex<Option<Message>>,
    work_begun: AtomicBool,
    claimed: AtomicBool,
    abandoned: AtomicBool,
    /// Notified when the call is abandoned and when an attempt ends.
    changed: Notify,
    attempts: AtomicU32,
    /// Maximum [`Certainty::weight`] of the ended attempts, and [`IN_FLIGHT`]. One atomic, so that
    /// a reader never sees an attempt as neither in flight nor ended.
    progress: AtomicU8,
    http_status: AtomicU16,
    memory: OnceLock<Arc<Reservation>>,
    consumer: OnceLock<Consumer>,
}

impl Call {
    /// Creates a call with a generated id.
    #[must_use]
    pub fn new(arrived: Instant, deadline: Deadline) -> Self {
        Self::with_request_id(RequestId::new(), arrived, deadline)
    }

    /// Creates a call with this id.
    #[must_use]
    pub fn with_request_id(request_id: RequestId, arrived: Instant, deadline: Deadline) -> Self {
        Self(Arc::new(Record {
            request_id,
            request_id_header: OnceLock::new(),
            arrived,
            deadline,
            method: OnceLock::new(),
            api_client: OnceLock::new(),
            peer: OnceLock::new(),
            caller: OnceLock::new(),
            deciding_claims: Mutex::new(None),
            subject: OnceLock::new(),
            login_url: OnceLock::new(),
            fingerprint: OnceLock::new(),
            issued_by: OnceLock::new(),
            token_refusal: OnceLock::new(),
            failure: OnceLock::new(),
            broken_body: OnceLock::new(),
            cause: OnceLock::new(),
            candidate: OnceLock::new(),
            unvalidated: OnceLock::new(),
            message: Mutex::new(None),
            work_begun: AtomicBool::new(false),
            claimed: AtomicBool::new(false),
            abandoned: AtomicBool::new(false),
            changed: Notify::new(),
            attempts: AtomicU32::new(0),
            progress: AtomicU8::new(Certainty::NotSent.weight()),
            http_status: AtomicU16::new(0),
            memory: OnceLock::new(),
            consumer: OnceLock::new(),
        }))
    }

    /// Id of the call.
    #[must_use]
    pub fn request_id(&self) -> RequestId {
        self.0.request_id
    }

    /// Id of the call, as the value of [`RequestId::HEADER`].
    #[must_use]
    pub fn request_id_header(&self) -> HeaderValue {
        self.0.request_id_header.get_or_init(|| self.0.request_id.to_header()).clone()
    }

    /// Returns when the call arrived.
    #[must_use]
    pub fn arrived(&self) -> Instant {
        self.0.arrived
    }

    /// Returns the deadline of the response.
    #[must_use]
    pub fn deadline(&self) -> Deadline {
        self.0.deadline
    }

    /// Sets the method. Only the first write takes effect.
    pub fn set_method(&self, method: Method) {
        let _ = self.0.method.set(method);
    }

    /// Returns the method, once known.
    #[must_use]
    pub fn method(&self) -> Option<Method> {
        self.0.method.get().copied()
    }

    /// Sets the API client in use. Only the first write takes effect.
    pub fn set_api_client(&self, name: Arc<str>) {
        let _ = self.0.api_client.set(name);
    }

    /// Returns the API client in use, once known.
    #[must_use]
    pub fn api_client(&self) -> Option<Arc<str>> {
        self.0.api_client.get().cloned()
    }

    /// Sets the address of the peer. Only the first write takes effect.
    pub fn set_peer(&self, address: SocketAddr) {
        let _ = self.0.peer.set(address);
    }

    /// Returns the address of the peer: the caller, or a proxy in front of it.
    #[must_use]
    pub fn peer(&self) -> Option<SocketAddr> {
        self.0.peer.get().copied()
    }

    /// Sets the caller and how it was authenticated. Only the first write takes effect.
    pub fn set_caller(&self, name: Arc<str>, proof: impl Into<Cow<'static, str>>) {
        let _ = self.0.caller.set((name, proof.into()));
    }

    /// Returns the caller and how it was authenticated, once known.
    #[must_use]
    pub fn caller(&self) -> Option<(&Arc<str>, &str)> {
        self.0.caller.get().map(|(name, proof)| (name, proof.as_ref()))
    }

    /// Sets the claims by which a rule allowed the call, as a JSON object of printable characters.
    /// Replaces earlier ones: the rule that decides on a login is only final once the account is
    /// known.
    pub fn set_deciding_claims(&self, claims: Option<Box<RawValue>>) {
        *self.0.deciding_claims.lock().unwrap_or_else(PoisonError::into_inner) = claims.map(Arc::from);
    }

    /// Returns the claims by which a rule allowed the call, if it requires any.
    #[must_use]
    pub fn deciding_claims(&self) -> Option<Arc<RawValue>> {
        self.0.deciding_claims.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sets the user that the call is about. Only the first write takes effect.
    pub fn set_subject(&self, subject: Subject) {
        let _ = self.0.subject.set(subject);
    }

    /// Returns the user that the call is about, once known.
    #[must_use]
    pub fn subject(&self) -> Option<&Subject> {
        self.0.subject.get()
    }

    /// Sets whether the request is for a login URL. Only the first write takes effect.
    pub fn set_login_url(&self, is_requested: bool) {
        let _ = self.0.login_url.set(is_requested);
    }

    /// Returns whether the request is for a login URL, once known.
    #[must_use]
    pub fn login_url(&self) -> Option<bool> {
        self.0.login_url.get().copied()
    }

    /// Sets the fingerprint of the token that was issued or is spent. Only the first
    /// write takes effect.
    pub fn set_fingerprint(&self, fingerprint: String) {
        let _ = self.0.fingerprint.set(fingerprint);
    }

    /// Returns the fingerprint of the token, once known.
    #[must_use]
    pub fn fingerprint(&self) -> Option<&str> {
        self.0.fingerprint.get().map(String::as_str)
    }

    /// Sets the name of the caller that a sealed token was issued to. Only the first write takes
    /// effect.
    pub fn set_issued_by(&self, caller: Box<str>) {
        let _ = self.0.issued_by.set(caller);
    }

    /// Returns the name of the caller that the token was issued to, if the token is sealed and was
    /// opened.
    #[must_use]
    pub fn issued_by(&self) -> Option<&str> {
        self.0.issued_by.get().map(AsRef::as_ref)
    }

    /// Records that the gateway refused the token itself. Only the first write takes effect.
    pub fn set_token_refusal(&self, cause: SealRefusal) {
        let _ = self.0.token_refusal.set(cause);
    }

    /// Returns why the gateway refused the token itself, if it did.
    #[must_use]
    pub fn token_refusal(&self) -> Option<SealRefusal> {
        self.0.token_refusal.get().copied()
    }

    /// Sets the failure that the caller receives. Only the first write takes effect.
    pub fn set_failure(&self, code: FailureCode, reason: Reason) {
        let _ = self.0.failure.set((code, reason));
    }

    /// Returns the failure that the caller receives, if the call has failed.
    #[must_use]
    pub fn failure(&self) -> Option<(FailureCode, Reason)> {
        self.0.failure.get().copied()
    }

    /// Records that the request body was incomplete. Only the first write takes effect.
    pub fn set_broken_body(&self, why: BrokenBody) {
        let _ = self.0.broken_body.set(why);
    }

    /// Returns why the request body was incomplete, if it was. No handler has run then.
    #[must_use]
    pub fn broken_body(&self) -> Option<BrokenBody> {
        self.0.broken_body.get().copied()
    }

    /// Sets the operator's cause of the failure, for the log. Only the first write takes
    /// effect.
    pub fn set_cause(&self, cause: Box<str>) {
        let _ = self.0.cause.set(cause);
    }

    /// Returns the operator's cause of the failure, if there is one. Never sent to the caller.
    #[must_use]
    pub fn cause(&self) -> Option<&str> {
        self.0.cause.get().map(AsRef::as_ref)
    }

    /// Sets the decision of the candidate access rules, if it differs from that of the rules in
    /// force. Only the first write takes effect.
    pub fn set_candidate(&self, decision: CandidateDecision) {
        let _ = self.0.candidate.set(Box::new(decision));
    }

    /// Returns the decision of the candidate access rules, if it differs from that of the rules in
    /// force.
    #[must_use]
    pub fn candidate(&self) -> Option<&CandidateDecision> {
        self.0.candidate.get().map(AsRef::as_ref)
    }

    /// Sets the invalid names in a refused request. Only the first write takes effect.
    pub fn set_unvalidated(&self, names: UnvalidatedNames) {
        let _ = self.0.unvalidated.set(Box::new(names));
    }

    /// Returns the invalid names in a refused request.
    #[must_use]
    pub fn unvalidated(&self) -> Option<&UnvalidatedNames> {
        self.0.unvalidated.get().map(AsRef::as_ref)
    }

    /// Keeps the body of the request, so that the record of a refused call can contain the names in
    /// it.
    pub fn keep_message(&self, body: Bytes) {
        *self.0.message.lock().unwrap_or_else(PoisonError::into_inner) = Some(Message(body));
    }

    /// Takes the body of the request, if it has arrived and the call's work has not begun.
    #[must_use]
    pub fn take_message(&self) -> Option<Bytes> {
        self.0.message.lock().unwrap_or_else(PoisonError::into_inner).take().map(|message| message.0)
    }

    /// Sets the consumer whose share of the response memory the call uses. Only the first write
    /// takes effect.
    pub fn set_consumer(&self, consumer: Consumer) {
        let _ = self.0.consumer.set(consumer);
    }

    /// Returns the consumer whose share of the response memory the call uses.
    #[must_use]
    pub fn consumer(&self) -> Consumer {
        self.0.consumer.get().copied().unwrap_or_default()
    }

    /// Keeps the memory of the response reserved while the call or its response exists.
    pub fn keep_memory(&self, reserved: Arc<Reservation>) {
        // Only the last attempt of a call has a response that is kept.
        let _ = self.0.memory.set(reserved);
    }

    /// Returns the memory reserved for the call; `None` if its response cannot be large.
    #[must_use]
    pub fn memory(&self) -> Option<Arc<Reservation>> {
        self.0.memory.get().cloned()
    }

    /// Records that the call's work begins: the access rules have granted a permit, nothing else
    /// has refused the call, and a token may be issued or spent from now on.
    pub fn work_begins(&self) {
        self.0.work_begun.store(true, Ordering::Release);
        drop(self.take_message());
    }

    /// Returns whether the call's work has begun. If not, nothing was sent to the platform.
    #[must_use]
    pub fn has_work_begun(&self) -> bool {
        self.0.work_begun.load(Ordering::Acquire)
    }

    /// Claims the right to write the audit record of this call. Returns true only once, so that
    /// there is exactly one record.
    #[must_use]
    pub fn claim_record(&self) -> bool {
        !self.0.claimed.swap(true, Ordering::AcqRel)
    }

    /// Marks the call as abandoned: no one waits for its result, because the caller has
    /// disconnected or was already answered (deadline, drain).
    pub fn abandon(&self) {
        self.0.abandoned.store(true, Ordering::Release);
        self.0.changed.notify_waiters();
    }

    /// Returns whether the call is abandoned.
    #[must_use]
    pub fn is_abandoned(&self) -> bool {
        self.0.abandoned.load(Ordering::Acquire)
    }

    /// Resolves when the call is abandoned.
    pub async fn abandoned(&self) {
        self.wait_until(Self::is_abandoned).await;
    }

    /// Resolves when no attempt at the platform is in progress.
    pub async fn idle(&self) {
        self.wait_until(Self::is_idle).await;
    }

    /// Returns whether no attempt at the platform is in progress.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.0.progress.load(Ordering::Acquire) & IN_FLIGHT == 0
    }

    async fn wait_until(&self, reached: impl Fn(&Self) -> bool) {
        loop {
            // Created before the check, so that it receives any later notification.
            let changed = self.0.changed.notified();
            if reached(self) {
                return;
            }
            changed.await;
        }
    }

    /// Counts the start of an attempt at the platform.
    pub fn attempt_begins(&self) {
        self.0.attempts.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the number of started attempts at the platform.
    #[must_use]
    pub fn attempts(&self) -> u32 {
        self.0.attempts.load(Ordering::Relaxed)
    }

    /// Records that bytes of a request may be sent from now on.
    pub fn sending(&self) {
        self.0.progress.fetch_or(IN_FLIGHT, Ordering::AcqRel);
    }

    /// Records the certainty of an ended attempt.
    pub fn attempt_ended(&self, certainty: Certainty) {
        let ended = |progress: u8| Some((progress & !IN_FLIGHT).max(certainty.weight()));
        // Never fails: `ended` always returns a value.
        let _ = self.0.progress.fetch_update(Ordering::AcqRel, Ordering::Acquire, ended);
        self.0.changed.notify_waiters();
    }

    /// Returns the certainty of the effect so far. An attempt in progress may have succeeded.
    #[must_use]
    pub fn certainty(&self) -> Certainty {
        let progress = self.0.progress.load(Ordering::Acquire);
        let ended = Certainty::from_weight(progress & !IN_FLIGHT);
        if progress & IN_FLIGHT == 0 { ended } else { ended.and(Certainty::Unknown) }
    }

    /// Sets the last HTTP status of the platform.
    pub fn set_http_status(&self, status: u16) {
        self.0.http_status.store(status, Ordering::Relaxed);
    }

    /// Returns the last HTTP status of the platform, if it has responded.
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
    async fn attempt_in_progress_has_an_unknown_outcome() {
        let call = Call::new(clock::now(), Deadline::after(Duration::from_secs(1)));
        assert_eq!(call.certainty(), Certainty::NotSent);
        call.attempt_begins();
        assert_eq!(call.certainty(), Certainty::NotSent, "connecting sends nothing");
        call.sending();
        assert_eq!(call.certainty(), Certainty::Unknown);
        call.attempt_ended(Certainty::Refused);
        assert_eq!(call.certainty(), Certainty::Refused);
    }

    /// Uses two threads, because all work of a call usually runs on one.
    #[test]
    fn certainty_is_never_stale_while_an_attempt_ends() {
        const CALLS: usize = 300_000;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let _entered = runtime.enter();
        let (arrived, deadline) = (clock::now(), Deadline::after(Duration::from_secs(1)));
        let request_id = RequestId::new();
        let calls: Vec<Call> =
            (0..CALLS).map(|_| Call::with_request_id(request_id, arrived, deadline)).collect();
        let sent = std::sync::atomic::AtomicUsize::new(0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for (number, call) in calls.iter().enumerate() {
                    call.sending();
                    sent.store(number + 1, Ordering::Release);
                    call.attempt_ended(Certainty::Done);
                }
            });
            for (number, call) in calls.iter().enumerate() {
                while sent.load(Ordering::Acquire) <= number {
                    std::hint::spin_loop();
                }
                assert_ne!(call.certainty(), Certainty::NotSent, "call {number} was sent");
            }
        });
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_for_idle_and_abandoned_works_before_and_after_the_change() {
        let call = Call::new(clock::now(), Deadline::after(Duration::from_secs(1)));
        call.sending();
        let waiting = tokio::spawn({
            let call = call.clone();
            async move { tokio::join!(call.abandoned(), call.idle()) }
        });
        tokio::task::yield_now().await;
        call.abandon();
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished(), "an attempt is in progress");
        call.attempt_ended(Certainty::Refused);
        waiting.await.unwrap();
        tokio::join!(call.abandoned(), call.idle());
    }

    #[tokio::test(start_paused = true)]
    async fn certainty_of_an_attempt_is_never_lowered_by_a_later_one() {
        let call = Call::new(clock::now(), Deadline::after(Duration::from_secs(1)));
        call.attempt_ended(Certainty::Unknown);
        call.attempt_ended(Certainty::NotSent);
        assert_eq!(call.certainty(), Certainty::Unknown);
        call.attempt_ended(Certainty::Done);
        assert_eq!(call.certainty(), Certainty::Done);
    }
}
