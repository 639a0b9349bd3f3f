//! One access token: how long it is usable, and when it is renewed.
//!
//! Nothing here waits or sends requests. Lifetimes are counted from the moment the token
//! request was *sent*, so that they are never overestimated.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::HeaderValue;
use zeroize::Zeroizing;

use crate::base::{backoff::jittered, clock::Instant};

/// Minimum remaining lifetime of a token that is attached to a request, so that it outlives
/// the exchange. A quarter of its lifetime is enough if that is less.
const MARGIN: Duration = Duration::from_secs(30);

/// Remaining lifetime at which renewal begins at the latest.
const RENEWAL_LEAD: Duration = Duration::from_mins(1);

/// Maximum lifetime that is used: a token is renewed at least once a day.
const MAX_LIFETIME: Duration = Duration::from_hours(24);

/// Maximum distance of the wall clock from the monotonic clock. Beyond it, the wall clock was
/// set, or the machine was suspended.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(30);

/// Current time of both clocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Now {
    pub(super) instant: Instant,
    pub(super) wall: SystemTime,
}

impl Now {
    pub(super) fn after(self, time: Duration) -> Self {
        Self { instant: self.instant + time, wall: self.wall + time }
    }
}

/// Maximum length of a token, in bytes.
const MAX_TOKEN_BYTES: usize = 16 * 1024;

/// Sequence number of a token: each token fetched for an API client has a higher one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Generation(u64);

impl Generation {
    /// The value before the first token.
    pub(super) const ZERO: Self = Self(0);

    pub(super) const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// The result of a successful token request.
pub(super) struct Fetched {
    header: HeaderValue,
    /// The `Authorization` header of the token request, if it is known.
    requested_with: Option<HeaderValue>,
    lifetime: Duration,
}

impl Fetched {
    /// Creates a result from a token and its lifetime. `None` if a header cannot carry the token:
    /// it is empty, over 16 KiB, or not visible ASCII.
    pub(super) fn new(token: &str, lifetime: Duration) -> Option<Self> {
        if token.is_empty() || token.len() > MAX_TOKEN_BYTES || !token.bytes().all(|b| b.is_ascii_graphic()) {
            return None;
        }
        let header = sensitive_header(&["Bearer ", token])?;
        Some(Self { header, requested_with: None, lifetime: lifetime.min(MAX_LIFETIME) })
    }

    /// Adds the `Authorization` header of the token request, which contains the client secret.
    #[must_use]
    pub(super) fn requested_with(self, authorization: HeaderValue) -> Self {
        Self { requested_with: Some(authorization), ..self }
    }

    #[cfg(test)]
    pub(super) fn header(&self) -> &HeaderValue {
        &self.header
    }

    /// Returns its lifetime, at most a day.
    pub(super) const fn lifetime(&self) -> Duration {
        self.lifetime
    }
}

impl fmt::Debug for Fetched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fetched").field("lifetime", &self.lifetime).finish_non_exhaustive()
    }
}

/// Returns a header value that is marked sensitive and whose memory is overwritten on drop.
pub(super) fn sensitive_header(parts: &[&str]) -> Option<HeaderValue> {
    let mut text = Zeroizing::new(Vec::with_capacity(parts.iter().map(|part| part.len()).sum()));
    for part in parts {
        text.extend_from_slice(part.as_bytes());
    }
    let mut header = HeaderValue::from_maybe_shared(Bytes::from_owner(text)).ok()?;
    header.set_sensitive(true);
    Some(header)
}

/// A token in service.
pub(super) struct AccessToken {
    header: HeaderValue,
    requested_with: Option<HeaderValue>,
    generation: Generation,
    sent: Instant,
    sent_wall: SystemTime,
    received: Instant,
    lifetime: Duration,
    usable_until: Instant,
    usable_until_wall: SystemTime,
    verdicts: Verdicts,
}

/// Observations of calls about a token.
#[derive(Debug, Default)]
struct Verdicts {
    /// Whether the API has accepted it once.
    accepted: AtomicBool,
    /// When the next call may try it, in milliseconds after its receipt.
    next_probe_ms: AtomicU64,
    /// Subject of the last call that was refused with it; 0 if a call was accepted since.
    refused_subject: AtomicU64,
    /// When a call was first refused with it since the last accepted one, in milliseconds after its
    /// receipt.
    refused_ms: AtomicU64,
    /// Whether calls for two different subjects were refused with it and none was accepted since.
    /// The cause is then the token and not a subject.
    refused_by_several: AtomicBool,
}

impl AccessToken {
    /// Creates a token that was requested at `sent` (`sent_wall` by the wall clock) and
    /// received at `received`.
    pub(super) fn new(
        fetched: Fetched,
        generation: Generation,
        (sent, sent_wall): (Instant, SystemTime),
        received: Instant,
    ) -> Self {
        let Fetched { header, requested_with, lifetime } = fetched;
        let usable = lifetime.saturating_sub(MARGIN.min(lifetime / 4));
        Self {
            header,
            requested_with,
            generation,
            sent,
            sent_wall,
            received,
            lifetime,
            usable_until: sent + usable,
            usable_until_wall: sent_wall + usable,
            verdicts: Verdicts::default(),
        }
    }

    /// Returns whether it outlives an exchange that begins now. Both clocks must agree: the
    /// monotonic clock does not advance during suspend, and the wall clock can be set.
    pub(super) fn is_usable(&self, now: Now) -> bool {
        now.instant < self.usable_until && now.wall < self.usable_until_wall
    }

    /// Returns the time since it was received.
    pub(super) fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.received)
    }

    /// Returns whether the API has accepted it at least once.
    pub(super) fn is_accepted(&self) -> bool {
        self.verdicts.accepted.load(Ordering::Relaxed)
    }

    /// Records that the API has accepted it. Returns whether this is the first time.
    pub(super) fn accept(&self) -> bool {
        // Stores nothing once a token is accepted and not refused: every call runs this.
        if self.verdicts.refused_subject.load(Ordering::Relaxed) != 0 {
            self.verdicts.refused_subject.store(0, Ordering::Relaxed);
            self.verdicts.refused_by_several.store(false, Ordering::Relaxed);
        }
        !self.is_accepted() && !self.verdicts.accepted.swap(true, Ordering::Relaxed)
    }

    /// Records that the API has refused a call for `subject`, which is not 0, with it.
    pub(super) fn refuse(&self, subject: u64, now: Instant) {
        let before = self.verdicts.refused_subject.swap(subject, Ordering::Relaxed);
        if before == 0 {
            let age = u64::try_from(self.age(now).as_millis()).unwrap_or(u64::MAX);
            self.verdicts.refused_ms.store(age, Ordering::Relaxed);
        }
        if before != 0 && before != subject {
            self.verdicts.refused_by_several.store(true, Ordering::Relaxed);
        }
    }

    /// Returns whether a call was refused with it and none was accepted since.
    pub(super) fn is_refused(&self) -> bool {
        self.verdicts.refused_subject.load(Ordering::Relaxed) != 0
    }

    /// Returns whether calls for two different subjects were refused with it and none was accepted
    /// since.
    pub(super) fn is_refused_by_several(&self) -> bool {
        self.verdicts.refused_by_several.load(Ordering::Relaxed)
    }

    /// Returns whether calls for two different subjects were refused with it and none has been
    /// accepted for `time`.
    pub(super) fn is_refused_by_several_for(&self, time: Duration, now: Instant) -> bool {
        let since = Duration::from_millis(self.verdicts.refused_ms.load(Ordering::Relaxed));
        self.is_refused_by_several() && self.age(now) >= since + time
    }

    /// Claims the right to try it. At most one caller per `interval` gets it.
    pub(super) fn claim_probe(&self, now: Instant, interval: Duration) -> bool {
        let milliseconds = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let next = milliseconds(self.age(now) + interval);
        let due = self.verdicts.next_probe_ms.load(Ordering::Relaxed);
        milliseconds(self.age(now)) >= due
            && self
                .verdicts
                .next_probe_ms
                .compare_exchange(due, next, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
    }

    /// Returns when to fetch the next one: at 65–75 % of its lifetime, earlier if that would leave
    /// less than a minute. A very short-lived token is renewed no earlier than at about a quarter
    /// of its lifetime, to avoid a hot loop.
    pub(super) fn refresh_at(&self) -> Instant {
        let latest = self.lifetime.saturating_sub(RENEWAL_LEAD).max(self.lifetime / 4);
        self.sent + jittered(self.lifetime, 0.65, 0.75).min(jittered(latest, 0.9, 1.0))
    }

    /// Returns whether the wall clock has diverged from the monotonic one since the token was
    /// requested. Its remaining lifetime is then uncertain.
    pub(super) fn clock_jumped(&self, now: Now) -> bool {
        let expected = self.sent_wall + now.instant.saturating_duration_since(self.sent);
        let apart = match now.wall.duration_since(expected) {
            Ok(ahead) => ahead,
            Err(behind) => behind.duration(),
        };
        apart > CLOCK_TOLERANCE
    }

    pub(super) const fn generation(&self) -> Generation {
        self.generation
    }

    /// Returns when the platform stops accepting it.
    pub(super) fn valid_until(&self) -> Instant {
        self.sent + self.lifetime
    }

    pub(super) const fn lifetime(&self) -> Duration {
        self.lifetime
    }
}

impl fmt::Debug for AccessToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessToken").field("generation", &self.generation).finish_non_exhaustive()
    }
}

/// Token for an exchange that begins now. Cheap to clone. Valid for one call only.
#[derive(Clone)]
pub struct Bearer {
    token: Arc<AccessToken>,
    /// The token with which the platform has refused this call before.
    refused: Option<Arc<AccessToken>>,
    replay: Replays,
}

/// What this call has already done because of a 401.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Replays {
    /// A token was requested for it.
    pub(super) refreshed: bool,
    /// It has waited for the API to accept the newest token.
    pub(super) waited: bool,
}

impl Bearer {
    pub(super) fn new(token: Arc<AccessToken>) -> Self {
        Self { token, refused: None, replay: Replays::default() }
    }

    /// Returns the bearer for sending the same call again after the platform has refused this one.
    pub(super) fn replaced_by(&self, token: &Arc<AccessToken>, replay: Replays) -> Self {
        let refused = if Arc::ptr_eq(&self.token, token) {
            self.refused.clone()
        } else {
            Some(Arc::clone(&self.token))
        };
        Self { token: Arc::clone(token), refused, replay }
    }

    /// Returns the value of the `Authorization` header, marked sensitive.
    #[must_use]
    pub fn header_value(&self) -> &HeaderValue {
        &self.token.header
    }

    /// Returns every `Authorization` header related to the call: those with this token and the one
    /// that the platform has refused before, and those of both token requests, which contain the
    /// client secret.
    pub fn authorizations(&self) -> impl Iterator<Item = &HeaderValue> {
        let tokens = [Some(&self.token), self.refused.as_ref()].into_iter().flatten();
        tokens.flat_map(|token| [Some(&token.header), token.requested_with.as_ref()]).flatten()
    }

    pub(super) const fn token(&self) -> &Arc<AccessToken> {
        &self.token
    }

    #[cfg(test)]
    pub(super) fn generation(&self) -> Generation {
        self.token.generation
    }

    pub(super) const fn replays(&self) -> Replays {
        self.replay
    }

    /// Returns whether it carries this token.
    pub(super) fn is(&self, token: &Arc<AccessToken>) -> bool {
        Arc::ptr_eq(&self.token, token)
    }

    /// Returns whether the platform has refused the call with this token.
    pub(super) fn has_tried(&self, token: &Arc<AccessToken>) -> bool {
        self.is(token) || self.refused.as_ref().is_some_and(|refused| Arc::ptr_eq(refused, token))
    }
}

impl fmt::Debug for Bearer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bearer").field("generation", &self.token.generation).finish_non_exhaustive()
    }
}
