//! Limits repeated log lines, and counts the suppressed ones.
//!
//! Two kinds of lines are limited: warnings and errors, and lines from `info` up with the field
//! `peer.address`, because unauthenticated peers can cause them. Limits apply per callsite; lines
//! about peers are also limited per peer.

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
use crate::base::clock::{self, Instant};

/// Maximum number of lines of one callsite, about one peer, per [`WINDOW`]: enough to see that and
/// how the event repeats.
const LINES: u32 = 10;
const WINDOW: Duration = Duration::from_secs(10);
/// Maximum number of peers with a separate limit per callsite. Others share one, so that neither
/// memory nor the log grows with the number of addresses.
const MAX_PEERS: usize = 100;
/// Field that marks a line as being about a peer.
const PEER: &str = "peer.address";

/// Limits repeated lines. Clones share their counts.
#[derive(Clone, Debug, Default)]
pub(super) struct Limiter(Arc<Mutex<Counts>>);

/// Layer whose lines are limited.
pub(super) struct LimitedLayer<L> {
    lines: L,
    limiter: Limiter,
}

#[derive(Debug, Default)]
struct Counts {
    callsites: HashMap<Identifier, Callsite>,
    suppressed: u64,
}

/// Lines of one callsite.
#[derive(Debug)]
struct Callsite {
    metadata: &'static Metadata<'static>,
    since: Instant,
    subjects: HashMap<Subject, Lines>,
}

/// Subject of lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Subject {
    /// Anything but a peer.
    Any,
    /// An IPv4 address, or a /64 network of IPv6, because one host is usually given a whole
    /// /64.
    Peer(IpAddr),
    /// A peer beyond [`MAX_PEERS`], or one whose address cannot be parsed.
    OtherPeer,
}

/// Number of lines of one callsite about one subject.
#[derive(Clone, Copy, Debug, Default)]
struct Lines {
    written: u32,
    /// Suppressed since the last report.
    suppressed: u64,
}

impl Limiter {
    /// Returns the number of lines suppressed so far.
    pub(super) fn suppressed(&self) -> u64 {
        self.counts().suppressed
    }

    /// Logs how many lines of each callsite were suppressed since the last report.
    pub(super) fn report_suppressed(&self) {
        let mut pending = Vec::new();
        for callsite in self.counts().callsites.values_mut() {
            for (subject, lines) in &mut callsite.subjects {
                if lines.suppressed > 0 {
                    pending.push((callsite.metadata, *subject, std::mem::take(&mut lines.suppressed)));
                }
            }
        }
        // Without the lock, which these lines take as well.
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

    /// Returns whether another line of this callsite about this subject may be written.
    fn admit(&self, metadata: &'static Metadata<'static>, subject: Subject) -> bool {
        let now = clock::now();
        let mut counts = self.counts();
        let callsite = counts.callsites.entry(metadata.callsite()).or_insert_with(|| Callsite {
            metadata,
            since: now,
            subjects: HashMap::new(),
        });
        if now.saturating_duration_since(callsite.since) >= WINDOW {
            callsite.since = now;
            callsite.subjects.retain(|_, lines| {
                lines.written = 0;
                lines.suppressed > 0
            });
        }
        let is_full = callsite.subjects.len() >= MAX_PEERS && !callsite.subjects.contains_key(&subject);
        let subject = if is_full && subject.is_peer() { Subject::OtherPeer } else { subject };
        let lines = callsite.subjects.entry(subject).or_default();
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
    /// Returns the subject of an event.
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

/// Extracts the address, with or without a port, from an event about a peer.
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

impl<L> LimitedLayer<L> {
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

// Not a `Filter`: if the only filter rejects an event because of its content, the following event
// is lost too (tracing-subscriber 0.3.23). Spans are not forwarded, because lines do not contain
// them.
impl<S: Subscriber, L: Layer<S>> Layer<S> for LimitedLayer<L> {
    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        if self.admits(event) {
            self.lines.on_event(event, context);
        }
    }
}
