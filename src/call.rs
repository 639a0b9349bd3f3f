//! State of one call: its id, its deadline, and how far it has come.
//!
//! The state is created when the call arrives and travels with it, so that any code that
//! answers the call (a handler, the deadline, a drain) reports the same outcome. It makes
//! no decisions, and it is not the audit record, which is written from it.

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
use tokio::sync::Notify;

use crate::{
    clock::{self, Instant},
    memory::{Consumer, Reservation},
    ott::Subject,
    reason::{FailureCode, Reason},
};

mod certainty;
mod ending;
mod in_flight;
mod named;
mod peer_network;
mod places;
mod request_id;

pub use certainty::{Certainty, Operation};
pub use ending::{BrokenBody, Ending};
pub use in_flight::{AwaitedBody, BodyLimit, InFlight, InFlightLimit};
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

    /// The deadline as a point in time.
    #[must_use]
    pub const fn instant(self) -> Instant {
        self.0
    }

    /// Time left; zero once the deadline has passed.
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

/// The body of a request. May contain a token, so it is never shown.
struct Message(Bytes);

impl std::fmt::Debug for Message {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Message").field(&self.0.len()).finish()
    }
}

/// Set in `progress` while bytes of an attempt may be leaving.
const IN_FLIGHT: u8 = 0x80;

/// One call. Cheap to clone; all clones share the state.
#[derive(Clone, Debug)]
pub struct Call(Arc<Record>);

#[derive(Debug)]
struct Record {
    request_id: RequestId,
    /// Made once, because it is cheap to clone.
    request_id_header: OnceLock<HeaderValue>,
    arrived: Instant,
    deadline: Deadline,
    operation: OnceLock<Operation>,
    api_client: OnceLock<Arc<str>>,
    peer: OnceLock<SocketAddr>,
    caller: OnceLock<(Arc<str>, Cow<'static, str>)>,
    subject: OnceLock<Subject>,
    fingerprint: OnceLock<String>,
    failure: OnceLock<(FailureCode, Reason)>,
    broken_body: OnceLock<BrokenBody>,
    cause: OnceLock<Box<str>>,
    unvalidated: OnceLock<Box<UnvalidatedNames>>,
    message: Mutex<Option<Message>>,
    work_begun: AtomicBool,
    claimed: AtomicBool,
    abandoned: AtomicBool,
    /// Notified when the call is abandoned and when an attempt ends.
    changed: Notify,
    attempts: AtomicU32,
    /// [`Certainty::weight`] of the attempts that ended, and [`IN_FLIGHT`]. One atomic, so
    /// that an attempt never leaves the one before it shows in the other.
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
            operation: OnceLock::new(),
            api_client: OnceLock::new(),
            peer: OnceLock::new(),
            caller: OnceLock::new(),
            subject: OnceLock::new(),
            fingerprint: OnceLock::new(),
            failure: OnceLock::new(),
            broken_body: OnceLock::new(),
            cause: OnceLock::new(),
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

    /// Sets the method. Only the first write takes effect.
    pub fn set_operation(&self, operation: Operation) {
        let _ = self.0.operation.set(operation);
    }

    /// The method, once known.
    #[must_use]
    pub fn operation(&self) -> Option<Operation> {
        self.0.operation.get().copied()
    }

    /// Sets the API client in use. Only the first write takes effect.
    pub fn set_api_client(&self, name: Arc<str>) {
        let _ = self.0.api_client.set(name);
    }

    /// The API client in use, once known.
    #[must_use]
    pub fn api_client(&self) -> Option<Arc<str>> {
        self.0.api_client.get().cloned()
    }

    /// Sets the address of the peer. Only the first write takes effect.
    pub fn set_peer(&self, address: SocketAddr) {
        let _ = self.0.peer.set(address);
    }

    /// Address of the peer: the caller, or a proxy in front of it.
    #[must_use]
    pub fn peer(&self) -> Option<SocketAddr> {
        self.0.peer.get().copied()
    }

    /// Sets the caller and how it was authenticated. Only the first write takes effect.
    pub fn set_caller(&self, name: Arc<str>, proof: impl Into<Cow<'static, str>>) {
        let _ = self.0.caller.set((name, proof.into()));
    }

    /// The caller and how it was authenticated, once known.
    #[must_use]
    pub fn caller(&self) -> Option<(&Arc<str>, &str)> {
        self.0.caller.get().map(|(name, proof)| (name, proof.as_ref()))
    }

    /// Sets the user that the call is about. Only the first write takes effect.
    pub fn set_subject(&self, subject: Subject) {
        let _ = self.0.subject.set(subject);
    }

    /// The user that the call is about, once known.
    #[must_use]
    pub fn subject(&self) -> Option<&Subject> {
        self.0.subject.get()
    }

    /// Sets the fingerprint of the token that was minted or is spent. Only the first
    /// write takes effect.
    pub fn set_fingerprint(&self, fingerprint: String) {
        let _ = self.0.fingerprint.set(fingerprint);
    }

    /// Fingerprint of the token, once known.
    #[must_use]
    pub fn fingerprint(&self) -> Option<&str> {
        self.0.fingerprint.get().map(String::as_str)
    }

    /// Sets the failure that the caller is answered with. Only the first write takes
    /// effect.
    pub fn set_failure(&self, code: FailureCode, reason: Reason) {
        let _ = self.0.failure.set((code, reason));
    }

    /// The failure that the caller is answered with, if the call has failed.
    #[must_use]
    pub fn failure(&self) -> Option<(FailureCode, Reason)> {
        self.0.failure.get().copied()
    }

    /// Records that the request's body broke off. Only the first write takes effect.
    pub fn set_broken_body(&self, why: BrokenBody) {
        let _ = self.0.broken_body.set(why);
    }

    /// Why the request's body broke off, if it did. No handler has run then.
    #[must_use]
    pub fn broken_body(&self) -> Option<BrokenBody> {
        self.0.broken_body.get().copied()
    }

    /// Sets the operator's cause of the failure, for the log. Only the first write takes
    /// effect.
    pub fn set_cause(&self, cause: Box<str>) {
        let _ = self.0.cause.set(cause);
    }

    /// The operator's cause of the failure, if there is one. Never sent to the caller.
    #[must_use]
    pub fn cause(&self) -> Option<&str> {
        self.0.cause.get().map(AsRef::as_ref)
    }

    /// Sets what a refused request named that is not valid. Only the first write takes effect.
    pub fn set_unvalidated(&self, names: UnvalidatedNames) {
        let _ = self.0.unvalidated.set(Box::new(names));
    }

    /// What a refused request named that is not valid.
    #[must_use]
    pub fn unvalidated(&self) -> Option<&UnvalidatedNames> {
        self.0.unvalidated.get().map(AsRef::as_ref)
    }

    /// Keeps the body of the request, in case the call is refused: its record then names what
    /// the request named.
    pub fn keep_message(&self, body: Bytes) {
        *self.0.message.lock().unwrap_or_else(PoisonError::into_inner) = Some(Message(body));
    }

    /// Takes the body of the request, if it has arrived and the call's work has not begun.
    #[must_use]
    pub fn take_message(&self) -> Option<Bytes> {
        self.0.message.lock().unwrap_or_else(PoisonError::into_inner).take().map(|message| message.0)
    }

    /// Sets whose share of the memory for responses the call uses. Only the first write takes
    /// effect.
    pub fn set_consumer(&self, consumer: Consumer) {
        let _ = self.0.consumer.set(consumer);
    }

    /// Whose share of the memory for responses the call uses.
    #[must_use]
    pub fn consumer(&self) -> Consumer {
        self.0.consumer.get().copied().unwrap_or_default()
    }

    /// Keeps the memory of the response reserved for as long as the call or its response exists.
    pub fn keep_memory(&self, reserved: Arc<Reservation>) {
        // Only the last attempt of a call has a response that is kept.
        let _ = self.0.memory.set(reserved);
    }

    /// The memory that is reserved for the call; `None` if its response cannot be large.
    #[must_use]
    pub fn memory(&self) -> Option<Arc<Reservation>> {
        self.0.memory.get().cloned()
    }

    /// Records that the call's work begins: the access rules have given it a permit, nothing
    /// else has refused it, and from now on a token may be minted or spent.
    pub fn work_begins(&self) {
        self.0.work_begun.store(true, Ordering::Release);
        drop(self.take_message());
    }

    /// Whether the call's work has begun. If not, nothing was sent to the platform.
    #[must_use]
    pub fn has_work_begun(&self) -> bool {
        self.0.work_begun.load(Ordering::Acquire)
    }

    /// Claims the writing of this call's audit record. Returns true for the first claim
    /// only, so that there is exactly one record.
    #[must_use]
    pub fn claim_record(&self) -> bool {
        !self.0.claimed.swap(true, Ordering::AcqRel)
    }

    /// Marks the call as abandoned: nobody waits for an answer any more, because the
    /// caller has disconnected or has been answered (deadline, drain).
    pub fn abandon(&self) {
        self.0.abandoned.store(true, Ordering::Release);
        self.0.changed.notify_waiters();
    }

    /// Whether the call is abandoned.
    #[must_use]
    pub fn is_abandoned(&self) -> bool {
        self.0.abandoned.load(Ordering::Acquire)
    }

    /// Resolves when the call is abandoned.
    pub async fn abandoned(&self) {
        self.wait_until(Self::is_abandoned).await;
    }

    /// Resolves when no attempt at the platform is in progress.
    pub async fn at_rest(&self) {
        self.wait_until(Self::is_at_rest).await;
    }

    /// Returns whether no attempt at the platform is in progress.
    #[must_use]
    pub fn is_at_rest(&self) -> bool {
        self.0.progress.load(Ordering::Acquire) & IN_FLIGHT == 0
    }

    async fn wait_until(&self, reached: impl Fn(&Self) -> bool) {
        loop {
            // Created before the check: it then receives any later notification.
            let changed = self.0.changed.notified();
            if reached(self) {
                return;
            }
            changed.await;
        }
    }

    /// Counts an attempt at the platform that begins.
    pub fn attempt_begins(&self) {
        self.0.attempts.fetch_add(1, Ordering::Relaxed);
    }

    /// Number of attempts at the platform that have begun.
    #[must_use]
    pub fn attempts(&self) -> u32 {
        self.0.attempts.load(Ordering::Relaxed)
    }

    /// Records that bytes of a request may leave from now on.
    pub fn sending(&self) {
        self.0.progress.fetch_or(IN_FLIGHT, Ordering::AcqRel);
    }

    /// Records how an attempt ended.
    pub fn attempt_ended(&self, certainty: Certainty) {
        let ended = |progress: u8| Some((progress & !IN_FLIGHT).max(certainty.weight()));
        // Never fails: `ended` always returns a value.
        let _ = self.0.progress.fetch_update(Ordering::AcqRel, Ordering::Acquire, ended);
        self.0.changed.notify_waiters();
    }

    /// Returns how certain it is what the platform has done so far. An attempt in progress
    /// may have succeeded.
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

    /// The last HTTP status of the platform, if it has answered.
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

    /// Two threads, since all of a call's work usually runs on one.
    #[test]
    fn certainty_read_while_an_attempt_ends_is_never_older_than_the_attempt() {
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
    async fn call_at_rest_and_abandoned_is_seen_however_late_one_waits() {
        let call = Call::new(clock::now(), Deadline::after(Duration::from_secs(1)));
        call.sending();
        let waiting = tokio::spawn({
            let call = call.clone();
            async move { tokio::join!(call.abandoned(), call.at_rest()) }
        });
        tokio::task::yield_now().await;
        call.abandon();
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished(), "an attempt is in progress");
        call.attempt_ended(Certainty::Refused);
        waiting.await.unwrap();
        tokio::join!(call.abandoned(), call.at_rest());
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
