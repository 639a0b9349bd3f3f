//! Settings of the server, except for the limits on peers.

use std::{
    net::SocketAddr,
    num::{NonZeroU32, NonZeroUsize},
    thread,
    time::Duration,
};

use super::{BucketSettings, DrainTimes, Limits, tls};

/// Maximum default number of worker threads. Each worker has its own connections to the platform,
/// and handles thousands of calls per second.
const MAX_DEFAULT_WORKERS: usize = 16;

/// Settings of a server (`[server]`). The documentation of a field begins with its key;
/// `docs/configuration.md` has the bounds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// `listen`: the address to listen on; port 0 takes a free one.
    pub listen: SocketAddr,
    /// `plaintext` and `[server.tls]`: how connections are secured.
    pub transport: Transport,
    /// `worker_threads`: number of worker threads. Default: one per core, at most 16.
    pub worker_threads: Option<NonZeroUsize>,
    /// `max_deadline`: maximum duration of a call; also that of a call without a deadline.
    pub max_deadline: Duration,
    /// `max_in_flight`: maximum number of calls in flight, over all workers; further calls fail
    /// with `OVERLOADED`.
    pub max_in_flight: usize,
    /// `max_awaited_bodies`: maximum number of calls whose body has not arrived, over all workers;
    /// further calls fail with `OVERLOADED`. Capped at `max_in_flight`. The default has room for a
    /// burst of one caller on ten connections, with all headers read before the first message.
    pub max_awaited_bodies: usize,
    /// `body_timeout`: maximum time from the identification of a call until its body has arrived.
    pub body_timeout: Duration,
    /// `refused_call_rate` and `refused_call_burst`: limit on records and log lines of refused
    /// calls, per peer or caller.
    pub refused_calls: BucketSettings,
    /// Limits on peers.
    pub limits: Limits,
    /// `drain_lame_duck` and `drain_timeout`: durations of the steps of a drain.
    pub drain: DrainTimes,
}

/// How connections are secured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Not encrypted; allowed only on a loopback address.
    LoopbackPlaintext,
    /// Not encrypted, on any address: a proxy in front provides encryption.
    Plaintext,
    /// Encrypted with the server's certificate, on any address.
    Tls(tls::Settings),
}

impl Transport {
    /// Returns whether a server may listen on `address` without sending secrets over the network
    /// unencrypted.
    #[must_use]
    pub const fn is_allowed_on(&self, address: SocketAddr) -> bool {
        match self {
            Self::LoopbackPlaintext => address.ip().is_loopback(),
            Self::Plaintext | Self::Tls(_) => true,
        }
    }

    /// Returns whether clients present certificates, or `None` without TLS.
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
    /// Returns the documented defaults (`docs/configuration.md`) for this address.
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
