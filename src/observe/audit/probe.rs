//! Lines that only show whether the sink is available. The first write of a process needs none: it
//! contains the record `started`.

use std::time::Duration;

use crate::base::clock::Instant;

/// Interval between probes of an unavailable sink.
const INTERVAL: Duration = Duration::from_secs(1);

/// Why a probe is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ProbeCause {
    /// Another file was opened, which may be on another device.
    NewFile,
    /// A call follows after a pause, in which the sink may have become slow.
    Pause,
    /// The sink is unavailable, and may be available again.
    Outage,
}

impl ProbeCause {
    /// The name in audit records.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::NewFile => "new_file",
            Self::Pause => "pause",
            Self::Outage => "outage",
        }
    }
}

/// The next probe. It is written unless a line of an allowed call is pending.
#[derive(Clone, Copy, Debug)]
pub(super) struct Probe {
    pub(super) cause: ProbeCause,
    pub(super) at: Instant,
}

impl Probe {
    /// Creates a probe that is due now.
    pub(super) const fn due(cause: ProbeCause, now: Instant) -> Self {
        Self { cause, at: now }
    }

    /// Creates the next probe of an unavailable sink.
    pub(super) fn of_outage(now: Instant) -> Self {
        Self { cause: ProbeCause::Outage, at: now + INTERVAL }
    }
}
