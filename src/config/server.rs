//! `[server]`: the gRPC listener and its limits.

use std::{
    net::{Ipv4Addr, SocketAddr},
    num::NonZeroU32,
    path::PathBuf,
    time::Duration,
};

use super::{
    fault::Problem,
    file::Value,
    named_file,
    section::Section,
    value::{self, Rate},
};

/// Where gRPC is served, and how much of it at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// `listen`: where gRPC is served; 127.0.0.1:50051.
    pub listen: SocketAddr,
    /// `health_listen`: where the health service alone is served without TLS, for
    /// probes that cannot show a certificate; nowhere.
    pub health_listen: Option<SocketAddr>,
    /// `plaintext`: whether other machines may call without TLS, because a mesh encrypts
    /// for us; false.
    pub plaintext: bool,
    /// `[server.tls]`; none: HTTP/2 without TLS.
    pub tls: Option<ServerTls>,
    /// `max_deadline`: maximum duration of a call, even if it asks for a later deadline;
    /// 10 s, from 100 ms to 60 s.
    pub max_deadline: Duration,
    /// `worker_threads`: 1 to 1,024; none: one per core, at most 16.
    pub worker_threads: Option<NonZeroU32>,
    /// `memory_limit`: memory that the process may use, in bytes; from 48 MiB to 1 TiB; none: the
    /// limit of its control group, or the memory of the machine.
    pub memory_limit: Option<u64>,
    /// `max_in_flight`: calls at one time, more are refused at once; 4,096, from 1 to
    /// 1,000,000.
    pub max_in_flight: NonZeroU32,
    /// `max_awaited_bodies`: calls at one time whose body has not arrived; 2,048, from 1 to
    /// 1,000,000, and never more than `max_in_flight`.
    pub max_awaited_bodies: NonZeroU32,
    /// `body_timeout`: by when the body of a call has to arrive after its headers; 1 s, from
    /// 100 ms to 60 s.
    pub body_timeout: Duration,
    /// `refused_call_rate`: records and log lines of refused calls of one peer or caller; 100
    /// in a second. Never unlimited.
    pub refused_call_rate: Rate,
    /// `refused_call_burst`: those at once; 500, from 1 to 1,000,000.
    pub refused_call_burst: NonZeroU32,
    /// `max_connections`: maximum number of connections; 1,024, from 1 to 1,000,000.
    pub max_connections: NonZeroU32,
    /// `max_connections_per_peer`: maximum number of connections of one peer address, from 1
    /// to 1,000,000; none: a quarter of `max_connections`.
    pub max_connections_per_peer: Option<NonZeroU32>,
    /// `idle_timeout`: time without a call after which a connection is closed; 5 min, from
    /// 1 s to 24 h.
    pub idle_timeout: Duration,
    /// `max_connection_age`: after which a connection is asked to end; 30 min, from 10 s
    /// to 24 h.
    pub max_connection_age: Duration,
    /// `reflection`: whether the reflection service is offered; false.
    pub reflection: bool,
    /// `drain_lame_duck`: how long connections are still accepted once the gateway has
    /// said that it will stop; 3 s, from 0 to 60 s and less than `drain_timeout`.
    pub drain_lame_duck: Duration,
    /// `drain_timeout`: by when calls in flight have ended or are answered with
    /// DRAINING, counted from the signal; 25 s, from 1 s to 10 min.
    pub drain_timeout: Duration,
}

/// How the listener speaks TLS. All files are read again when they change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerTls {
    /// `certificate_file`: the certificate chain in PEM, leaf first.
    pub certificate_file: PathBuf,
    /// `private_key_file`: its key in PEM.
    pub private_key_file: PathBuf,
    /// `client_ca_file`: whose client certificates are believed, in PEM.
    pub client_ca_file: Option<PathBuf>,
    /// `client_auth`: "require" if there is a `client_ca_file`, else "off".
    pub client_auth: ClientAuth,
}

/// Whether callers show a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAuth {
    /// "require": no connection without a valid one.
    Require,
    /// "optional": one that is shown must be valid.
    Optional,
    /// "off": none is asked for.
    Off,
}

pub(super) const CLIENT_AUTH: &[(&str, ClientAuth)] =
    &[("require", ClientAuth::Require), ("optional", ClientAuth::Optional), ("off", ClientAuth::Off)];

impl Default for Server {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 50051)),
            health_listen: None,
            plaintext: false,
            tls: None,
            max_deadline: Duration::from_secs(10),
            worker_threads: None,
            memory_limit: None,
            max_in_flight: const { NonZeroU32::new(4096).unwrap() },
            max_awaited_bodies: const { NonZeroU32::new(2048).unwrap() },
            body_timeout: Duration::from_secs(1),
            refused_call_rate: Rate::Limited {
                times: const { NonZeroU32::new(100).unwrap() },
                period: Duration::from_secs(1),
            },
            refused_call_burst: const { NonZeroU32::new(500).unwrap() },
            max_connections: const { NonZeroU32::new(1024).unwrap() },
            max_connections_per_peer: None,
            idle_timeout: Duration::from_mins(5),
            max_connection_age: Duration::from_mins(30),
            reflection: false,
            drain_lame_duck: Duration::from_secs(3),
            drain_timeout: Duration::from_secs(25),
        }
    }
}

impl Server {
    pub(super) fn read(mut section: Section<'_>) -> Self {
        let default = Self::default();
        let seconds = Duration::from_secs;
        // An invalid address conflicts with no other: port 0 is equal to none.
        let usual =
            if section.has("listen") { SocketAddr::from((Ipv4Addr::LOCALHOST, 0)) } else { default.listen };
        let server = Self {
            listen: section.optional("listen", value::address).unwrap_or(usual),
            health_listen: section.optional("health_listen", value::address),
            plaintext: section.optional("plaintext", value::boolean).unwrap_or(default.plaintext),
            tls: section.optional_table("tls").and_then(ServerTls::read),
            max_deadline: section
                .optional("max_deadline", value::duration(Duration::from_millis(100)..=seconds(60)))
                .unwrap_or(default.max_deadline),
            worker_threads: section.optional("worker_threads", value::count(1..=1024)),
            memory_limit: section.optional("memory_limit", value::mebibytes(48..=1024 * 1024)),
            max_in_flight: section
                .optional("max_in_flight", value::count(1..=1_000_000))
                .unwrap_or(default.max_in_flight),
            max_awaited_bodies: section
                .optional("max_awaited_bodies", value::count(1..=1_000_000))
                .unwrap_or(default.max_awaited_bodies),
            body_timeout: section
                .optional("body_timeout", value::duration(Duration::from_millis(100)..=seconds(60)))
                .unwrap_or(default.body_timeout),
            refused_call_rate: section
                .optional("refused_call_rate", limited_rate)
                .unwrap_or(default.refused_call_rate),
            refused_call_burst: section
                .optional("refused_call_burst", value::count(1..=1_000_000))
                .unwrap_or(default.refused_call_burst),
            max_connections: section
                .optional("max_connections", value::count(1..=1_000_000))
                .unwrap_or(default.max_connections),
            max_connections_per_peer: section
                .optional("max_connections_per_peer", value::count(1..=1_000_000)),
            idle_timeout: section
                .optional("idle_timeout", value::duration(seconds(1)..=Duration::from_hours(24)))
                .unwrap_or(default.idle_timeout),
            max_connection_age: section
                .optional("max_connection_age", value::duration(seconds(10)..=Duration::from_hours(24)))
                .unwrap_or(default.max_connection_age),
            reflection: section.optional("reflection", value::boolean).unwrap_or(default.reflection),
            drain_lame_duck: section
                .optional("drain_lame_duck", value::duration(Duration::ZERO..=seconds(60)))
                .unwrap_or(default.drain_lame_duck),
            drain_timeout: section
                .optional("drain_timeout", value::duration(seconds(1)..=seconds(600)))
                .unwrap_or(default.drain_timeout),
        };
        server.check(&section);
        section.finish();
        server
    }

    fn check(&self, section: &Section<'_>) {
        let has_tls = section.has("tls");
        if has_tls && self.plaintext {
            section.fault("plaintext", Problem::rule("must not be true beside [server.tls]"));
        }
        if !has_tls && !self.plaintext && !self.listen.ip().is_loopback() {
            section.fault(
                "listen",
                Problem::rule(
                    "is not a loopback address, so it needs [server.tls], or plaintext = true if a mesh encrypts",
                ),
            );
        }
        if self.drain_lame_duck >= self.drain_timeout {
            section.fault("drain_lame_duck", Problem::rule("must be shorter than drain_timeout"));
        }
        if self.health_listen.is_some_and(|health| value::overlap(health, self.listen)) {
            section.fault("health_listen", Problem::rule("is the same address as server.listen"));
        }
    }
}

/// A rate that is not unlimited: without a limit, anyone could fill the audit's disk.
fn limited_rate(value: &Value) -> Result<Rate, Problem> {
    match value::rate(value)? {
        Rate::Unlimited => Err(Problem::rule("must not be \"unlimited\": anyone could fill the disk")),
        rate @ Rate::Limited { .. } => Ok(rate),
    }
}

impl ServerTls {
    fn read(mut section: Section<'_>) -> Option<Self> {
        const BOTH: &str = "[server.tls] needs both certificate_file and private_key_file";
        for key in ["certificate_file", "private_key_file"] {
            if !section.has(key) {
                section.fault(key, Problem::Missing(BOTH));
            }
        }
        let certificate = named_file::certificate_chain(&mut section, "certificate_file");
        let private_key = named_file::private_key(&mut section, "private_key_file");
        let (certificate_file, chain) = certificate.unzip();
        let (private_key_file, private_key) = private_key.unzip();
        if let (Some(chain), Some(private_key)) = (chain, private_key) {
            named_file::check_pair(&section, "private_key_file", chain, &private_key);
        }
        let client_ca_file = named_file::authorities(&mut section, "client_ca_file");
        let has_ca = section.has("client_ca_file");
        let usual = if has_ca { ClientAuth::Require } else { ClientAuth::Off };
        let client_auth = section.optional("client_auth", value::word(CLIENT_AUTH)).unwrap_or(usual);
        if client_auth != ClientAuth::Off && !has_ca {
            section.fault("client_auth", Problem::rule("needs client_ca_file, unless it is \"off\""));
        }
        if client_auth == ClientAuth::Off && has_ca {
            section.warning("client_auth", "is \"off\", so client_ca_file is not used");
        }
        section.finish();
        Some(Self {
            certificate_file: certificate_file?,
            private_key_file: private_key_file?,
            client_ca_file,
            client_auth,
        })
    }
}
