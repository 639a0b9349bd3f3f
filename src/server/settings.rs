//! What can be chosen about the server, apart from the limits on peers.

use std::{
    net::SocketAddr,
    num::{NonZeroU32, NonZeroUsize},
    thread,
    time::Duration,
};

use super::{BucketSettings, DrainTimes, Limits, tls};

/// Maximum number of worker threads unless configured. Each worker has connections to the platform
/// of its own, and one handles thousands of calls a second.
const MAX_DEFAULT_WORKERS: usize = 16;

/// What can be configured about the server (`[server]`). The documentation of a field begins with
/// its key; `docs/configuration.md` has the bounds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// `listen`: the address to listen on; port 0 takes a free one.
    pub listen: SocketAddr,
    /// `plaintext` and `[server.tls]`: how connections are secured.
    pub transport: Transport,
    /// `worker_threads`: the number of threads that handle calls; unless given, one for each core,
    /// at most 16.
    pub worker_threads: Option<NonZeroUsize>,
    /// `max_deadline`: maximum duration of a call; also that of a call without a deadline.
    pub max_deadline: Duration,
    /// `max_in_flight`: calls in flight at once, over all workers; more are answered with
    /// `OVERLOADED`.
    pub max_in_flight: usize,
    /// `max_awaited_bodies`: calls whose body has not arrived, over all workers; more are answered with
    /// `OVERLOADED`. At most `max_in_flight` in effect. The default has room for a burst of one
    /// caller, on ten connections, of which all headers are read before the first message.
    pub max_awaited_bodies: usize,
    /// `body_timeout`: maximum time from the identification of a call until its body has arrived.
    pub body_timeout: Duration,
    /// `refused_call_rate` and `refused_call_burst`: records and log lines of refused calls, of one
    /// peer or one caller.
    pub refused_calls: BucketSettings,
    /// What a peer may take.
    pub limits: Limits,
    /// `drain_lame_duck` and `drain_timeout`: how long the steps of a drain take.
    pub drain: DrainTimes,
}

/// How connections are secured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Not at all, which is allowed only on a loopback address.
    LoopbackPlaintext,
    /// No encryption on any address: a proxy in front provides it.
    Plaintext,
    /// By TLS.
    Tls(tls::Settings),
}

impl Transport {
    /// Returns whether clients show certificates; `None` without TLS.
    #[must_use]
    pub const fn client_auth(&self) -> Option<&tls::ClientAuth> {
        match self {
            Self::Tls(tls) => Some(&tls.client_auth),
            Self::LoopbackPlaintext | Self::Plaintext => None,
        }
    }

    /// Returns whether clients are asked for certificates.
    #[must_use]
    pub const fn asks_for_certificates(&self) -> bool {
        matches!(self.client_auth(), Some(tls::ClientAuth::Optional { .. } | tls::ClientAuth::Require { .. }))
    }
}

impl Settings {
    /// The documented defaults (`docs/configuration.md`) on this address.
    #[must_use]
    pub fn new(listen: SocketAddr, transport: Transport) -> Self {
        Self {
            listen,
            transport,
            worker_threads: None,
            max_deadline: Duration::from_secs(10),
            max_in_flight: 4096,
            max_awaited_bodies: 2048,
            body_timeout: Duration::from_secs(1),
            refused_calls: BucketSettings {
                interval: Duration::from_millis(10),
                burst: const { NonZeroU32::new(500).unwrap() },
            },
            limits: Limits::default(),
            drain: DrainTimes::default(),
        }
    }

    /// Returns the number of threads that handle calls.
    pub(crate) fn number_of_workers(&self) -> usize {
        let cores = || thread::available_parallelism().map_or(1, NonZeroUsize::get).min(MAX_DEFAULT_WORKERS);
        self.worker_threads.map_or_else(cores, NonZeroUsize::get)
    }
}
