//! One access token: how long it serves, and when it is time for the next.
//!
//! Nothing here waits or asks for anything. Lifetimes are counted from the moment the
//! token request was *sent*, so a token is never believed to live longer than it does.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::HeaderValue;
use zeroize::Zeroizing;

use crate::{backoff::jittered, clock::Instant};

/// The life that a token must have left to be attached to a request: it outlives the
/// exchange. A quarter of its lifetime is enough if that is less.
const MARGIN: Duration = Duration::from_secs(30);

/// The life that a token shall have left when its renewal begins.
const RENEWAL_LEAD: Duration = Duration::from_mins(1);

/// The longest lifetime that is believed; a longer one only means renewing once a day.
const LONGEST_LIFE: Duration = Duration::from_hours(24);

/// Further than this from the monotonic clock, the wall clock was set, or the machine slept.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(30);

/// A longer token is malformed.
const LONGEST_TOKEN: usize = 16 * 1024;

/// Which token of its API client a token is: each one fetched has a higher number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(u64);

impl Generation {
    /// Before any token.
    pub(super) const ZERO: Self = Self(0);

    pub(super) const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// A good answer to a token request.
pub(super) struct Fetched {
    header: HeaderValue,
    lifetime: Duration,
}

impl Fetched {
    /// A token and the life that the platform gives it. `None` if the token cannot stand
    /// in a header: it is empty, over 16 KiB, or not visible ASCII.
    pub(super) fn new(token: &str, lifetime: Duration) -> Option<Self> {
        if token.is_empty() || token.len() > LONGEST_TOKEN || !token.bytes().all(|b| b.is_ascii_graphic()) {
            return None;
        }
        let header = sensitive_header(&["Bearer ", token])?;
        Some(Self { header, lifetime: lifetime.min(LONGEST_LIFE) })
    }

    #[cfg(test)]
    pub(super) fn header(&self) -> &HeaderValue {
        &self.header
    }

    #[cfg(test)]
    pub(super) const fn lifetime(&self) -> Duration {
        self.lifetime
    }
}

impl fmt::Debug for Fetched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fetched").field("lifetime", &self.lifetime).finish_non_exhaustive()
    }
}

/// A header value that is never shown, and whose memory is overwritten in the end.
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
    generation: Generation,
    sent: Instant,
    sent_wall: SystemTime,
    lifetime: Duration,
    usable_until: Instant,
    usable_until_wall: SystemTime,
}

impl AccessToken {
    /// A token that was asked for at `sent`, which the wall clock called `sent_wall`.
    pub(super) fn new(
        fetched: Fetched,
        generation: Generation,
        sent: Instant,
        sent_wall: SystemTime,
    ) -> Self {
        let Fetched { header, lifetime } = fetched;
        let usable = lifetime.saturating_sub(MARGIN.min(lifetime / 4));
        Self {
            header,
            generation,
            sent,
            sent_wall,
            lifetime,
            usable_until: sent + usable,
            usable_until_wall: sent_wall + usable,
        }
    }

    /// Whether it outlives an exchange that begins now. Both clocks must agree: the
    /// monotonic one stands still while the machine sleeps, the wall clock can be set.
    pub(super) fn is_usable(&self, now: Instant, wall: SystemTime) -> bool {
        now < self.usable_until && wall < self.usable_until_wall
    }

    /// When to fetch the next one: at 65–75 % of its life, earlier if that would leave
    /// less than a minute. A token that lives hardly longer than that is renewed no
    /// earlier than at about a quarter of its life, or renewing would never end.
    pub(super) fn refresh_at(&self) -> Instant {
        let latest = self.lifetime.saturating_sub(RENEWAL_LEAD).max(self.lifetime / 4);
        self.sent + jittered(self.lifetime, 0.65, 0.75).min(jittered(latest, 0.9, 1.0))
    }

    /// Whether the wall clock has moved against the monotonic one since the token was
    /// asked for: then its life is in doubt.
    pub(super) fn clock_jumped(&self, now: Instant, wall: SystemTime) -> bool {
        let expected = self.sent_wall + now.saturating_duration_since(self.sent);
        let apart = match wall.duration_since(expected) {
            Ok(ahead) => ahead,
            Err(behind) => behind.duration(),
        };
        apart > CLOCK_TOLERANCE
    }

    pub(super) const fn generation(&self) -> Generation {
        self.generation
    }

    /// When the platform stops accepting it.
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

/// A token good for an exchange that begins now. Cheap to clone; keep it no longer than
/// that exchange.
#[derive(Clone)]
pub struct Bearer(Arc<AccessToken>);

impl Bearer {
    pub(super) const fn new(token: Arc<AccessToken>) -> Self {
        Self(token)
    }

    /// The value of the `Authorization` header, marked sensitive.
    #[must_use]
    pub fn header_value(&self) -> &HeaderValue {
        &self.0.header
    }

    /// Which token it is, to be told when the platform refuses it.
    #[must_use]
    pub fn generation(&self) -> Generation {
        self.0.generation
    }
}

impl fmt::Debug for Bearer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bearer").field("generation", &self.0.generation).finish_non_exhaustive()
    }
}
