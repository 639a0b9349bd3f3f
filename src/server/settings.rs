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

/// What the server is to be.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The address to listen on; port 0 takes a free one.
    pub listen: SocketAddr,
    /// How connections are secured.
    pub transport: Transport,
    /// Worker threads; unless given, one for each core, at most 16.
    pub worker_threads: Option<NonZeroUsize>,
    /// Maximum duration of a call; also that of a call without a deadline.
    pub max_deadline: Duration,
    /// Calls in flight at once, over all workers; more are answered with `OVERLOADED`.
    pub max_in_flight: usize,
    /// Calls whose body has not arrived, over all workers; more are answered with
    /// `OVERLOADED`. At most `max_in_flight` in effect. The default has room for a burst of one
    /// caller, on ten connections, of which all headers are read before the first message.
    pub max_awaited_bodies: usize,
    /// Maximum time from the identification of a call until its body has arrived.
    pub body_timeout: Duration,
    /// Records and log lines of refused calls, of one peer or one caller.
    pub refused_calls: BucketSettings,
    /// What a peer may take.
    pub limits: Limits,
    /// How long the steps of a drain take.
    pub drain: DrainTimes,
}

/// How connections are secured.
#[derive(Clone, Debug)]
pub enum Transport {
    /// Not at all, which is allowed only on a loopback address.
    LoopbackPlaintext,
    /// No encryption on any address: a proxy in front provides it.
    Plaintext,
    /// By TLS.
    Tls(tls::Settings),
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
