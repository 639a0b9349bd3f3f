//! Limits repeated log lines, and counts those that are left out.
//!
//! Two kinds of lines are limited: warnings and errors, and lines from `info` up that carry
//! the field `peer.address`, because peers cause those without having proven who they are.
//! Each place in the code has limits of its own; lines about peers are limited per peer.

use std::{
    collections::HashMap,
    fmt,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
};
use tracing_core::callsite::Identifier;
use tracing_subscriber::{Layer, layer::Context};

use super::CALL_TARGET;
use crate::clock::{self, Instant};

/// Maximum lines of one place, about one peer, per [`WINDOW`]: enough to see that the event
/// repeats, and how.
const LINES: u32 = 10;
const WINDOW: Duration = Duration::from_secs(10);
/// Maximum peers with a limit of their own at one place. Further ones share one, so that
/// neither memory nor the log grows with the number of addresses.
const MAX_PEERS: usize = 100;
/// The field that makes a line one about a peer.
const PEER: &str = "peer.address";

/// Limits repeated lines. Clones share their counts.
#[derive(Clone, Debug, Default)]
pub(super) struct Limiter(Arc<Mutex<Counts>>);

/// A layer whose lines are limited.
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
    subjects: HashMap<Subject, Lines>,
}

/// What lines are about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Subject {
    /// Anything but a peer.
    Any,
    /// An IPv4 address, or a /64 network of IPv6, because one host is usually given a whole
    /// /64.
    Peer(IpAddr),
    /// A peer beyond [`MAX_PEERS`], or one whose address cannot be read.
    OtherPeer,
}

/// Lines of one place about one subject.
#[derive(Clone, Copy, Debug, Default)]
struct Lines {
    written: u32,
    /// Left out since the last report.
    suppressed: u64,
}

impl Limiter {
    /// Returns how many lines were left out so far.
    pub(super) fn suppressed(&self) -> u64 {
        self.counts().suppressed
    }

    /// Logs how many lines of each place were left out since the last report.
    pub(super) fn report_suppressed(&self) {
        let mut pending = Vec::new();
        for place in self.counts().places.values_mut() {
            for (subject, lines) in &mut place.subjects {
                if lines.suppressed > 0 {
                    pending.push((place.metadata, *subject, std::mem::take(&mut lines.suppressed)));
                }
            }
        }
        // Not while holding the lock, which these lines take as well.
        for (metadata, subject, count) in pending {
            tracing::info!(
                log.suppressed = count,
                log.target = metadata.target(),
                log.line = metadata.line(),
                log.peer = subject.peer().map(display),
                "suppressed repeated log lines"
            );
        }
    }

    /// Returns whether another line of that place about that subject may be written.
    fn admit(&self, metadata: &'static Metadata<'static>, subject: Subject) -> bool {
        let now = clock::now();
        let mut counts = self.counts();
        let place = counts.places.entry(metadata.callsite()).or_insert_with(|| Place {
            metadata,
            since: now,
            subjects: HashMap::new(),
        });
        if now.saturating_duration_since(place.since) >= WINDOW {
            place.since = now;
            place.subjects.retain(|_, lines| {
                lines.written = 0;
                lines.suppressed > 0
            });
        }
        let is_full = place.subjects.len() >= MAX_PEERS && !place.subjects.contains_key(&subject);
        let subject = if is_full && subject.is_peer() { Subject::OtherPeer } else { subject };
        let lines = place.subjects.entry(subject).or_default();
        if lines.written < LINES {
            lines.written += 1;
            return true;
        }
        lines.suppressed += 1;
        counts.suppressed += 1;
        false
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Subject {
    /// What an event is about.
    fn of(event: &Event<'_>) -> Self {
        let Some(field) = event.metadata().fields().field(PEER) else { return Self::Any };
        let mut address = Address { field, address: None };
        event.record(&mut address);
        match address.address.map(|address| address.to_canonical()) {
            None => Self::OtherPeer,
            Some(IpAddr::V6(address)) => {
                let network = u128::from(address) & !u128::from(u64::MAX);
                Self::Peer(Ipv6Addr::from(network).into())
            }
            Some(address) => Self::Peer(address),
        }
    }

    const fn is_peer(self) -> bool {
        !matches!(self, Self::Any)
    }

    fn peer(self) -> Option<String> {
        match self {
            Self::Any => None,
            Self::Peer(address) if address.is_ipv6() => Some(format!("{address}/64")),
            Self::Peer(address) => Some(address.to_string()),
            Self::OtherPeer => Some("others".to_owned()),
        }
    }
}

/// Reads the address, with or without a port, of an event about a peer.
struct Address {
    field: Field,
    address: Option<IpAddr>,
}

impl Visit for Address {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if *field == self.field {
            let text = format!("{value:?}");
            let socket = text.parse().map(|address: SocketAddr| address.ip());
            self.address = socket.or_else(|_| text.parse()).ok();
        }
    }
}

impl<L> Limited<L> {
    pub(super) const fn new(lines: L, limiter: Limiter) -> Self {
        Self { lines, limiter }
    }

    fn admits(&self, event: &Event<'_>) -> bool {
        let metadata = event.metadata();
        if *metadata.level() > Level::INFO || metadata.target() == CALL_TARGET {
            return true;
        }
        match Subject::of(event) {
            Subject::Any if *metadata.level() > Level::WARN => true,
            subject => self.limiter.admit(metadata, subject),
        }
    }
}

// Not a `Filter`: if the only filter refuses an event because of its content, the following
// event is lost too (tracing-subscriber 0.3.23). Spans are not passed on; no line shows them.
impl<S: Subscriber, L: Layer<S>> Layer<S> for Limited<L> {
    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        if self.admits(event) {
            self.lines.on_event(event, context);
        }
    }
}
