//! Keeps a fault that repeats from flooding the log.
//!
//! Only warnings and errors are limited, each place in the code by itself. How many
//! were left out is said later.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tracing::{Event, Level, Metadata, Subscriber};
use tracing_core::callsite::Identifier;
use tracing_subscriber::{Layer, layer::Context};

use super::CALL_TARGET;
use crate::clock::{self, Instant};

/// The most lines of one place in one window: enough to see that it repeats, and how.
const LINES: u32 = 10;
const WINDOW: Duration = Duration::from_secs(10);

/// Limits repeated lines. Clones share their counts.
#[derive(Clone, Debug, Default)]
pub(super) struct Limiter(Arc<Mutex<Counts>>);

/// Lines that are limited.
pub(super) struct Limited<L> {
    lines: L,
    limiter: Limiter,
}

#[derive(Debug, Default)]
struct Counts {
    places: HashMap<Identifier, Place>,
    suppressed: u64,
}

/// One place in the code.
#[derive(Debug)]
struct Place {
    metadata: &'static Metadata<'static>,
    since: Instant,
    lines: u32,
    owed: u64,
}

impl Limiter {
    /// How many lines were left out so far.
    pub(super) fn suppressed(&self) -> u64 {
        self.counts().suppressed
    }

    /// Says in the log which lines were left out since the last time.
    pub(super) fn own_up(&self) {
        let owed: Vec<(&'static Metadata<'static>, u64)> = self
            .counts()
            .places
            .values_mut()
            .filter(|place| place.owed > 0)
            .map(|place| (place.metadata, std::mem::take(&mut place.owed)))
            .collect();
        // Not while holding the lock: this is logged as well.
        for (metadata, count) in owed {
            tracing::info!(
                log.suppressed = count,
                log.target = metadata.target(),
                log.line = metadata.line(),
                "lines like one just logged were left out"
            );
        }
    }

    /// Whether one more line of that place may be written.
    fn admit(&self, metadata: &'static Metadata<'static>) -> bool {
        let now = clock::now();
        let mut counts = self.counts();
        let place = counts.places.entry(metadata.callsite()).or_insert(Place {
            metadata,
            since: now,
            lines: 0,
            owed: 0,
        });
        if now.saturating_duration_since(place.since) >= WINDOW {
            place.since = now;
            place.lines = 0;
        }
        if place.lines < LINES {
            place.lines += 1;
            return true;
        }
        place.owed += 1;
        counts.suppressed += 1;
        false
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<L> Limited<L> {
    pub(super) const fn new(lines: L, limiter: Limiter) -> Self {
        Self { lines, limiter }
    }
}

// Not a `Filter`: where the only one refuses an event by its content, the one after it
// is lost too (tracing-subscriber 0.3.23). Spans are not passed on; no line shows them.
impl<S: Subscriber, L: Layer<S>> Layer<S> for Limited<L> {
    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let metadata = event.metadata();
        let unlimited = *metadata.level() > Level::WARN || metadata.target() == CALL_TARGET;
        if unlimited || self.limiter.admit(metadata) {
            self.lines.on_event(event, context);
        }
    }
}
