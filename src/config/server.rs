//! `[server]`: the gRPC listener and its limits.

use std::{
    net::{Ipv4Addr, SocketAddr},
    num::NonZeroUsize,
    time::Duration,
};

use super::{finding::Problem, named_file, section::Section, tree::Value, value};
use crate::{
    access::Rate,
    base::files,
    server::{
        self, BucketSettings, DrainTimes, Limits, Transport,
        tls::{self, ClientAuth},
    },
};

/// `[server]`: the settings of the gRPC server, and the other keys of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// The gRPC server.
    pub grpc: server::Settings,
    /// `health_listen`: address of a plaintext listener with only the health service, for probes
    /// that cannot present a certificate; off by default.
    pub health_listen: Option<SocketAddr>,
    /// `memory_limit`: memory that the process may use, in bytes, from 48 MiB to 1 TiB; by default
    /// the limit of its control group, or the memory of the machine.
    pub memory_limit: Option<u64>,
    /// `reflection`: whether the reflection service is enabled; off by default.
    pub reflection: bool,
}

/// The values of `client_auth`. [`ClientAuth`] also contains the authorities, which are another key.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum ClientAuthMode {
    Require,
    Optional,
    Off,
}

pub(super) const CLIENT_AUTH: &[(&str, ClientAuthMode)] = &[
    ("require", ClientAuthMode::Require),
    ("optional", ClientAuthMode::Optional),
    ("off", ClientAuthMode::Off),
];

impl Default for Server {
    fn default() -> Self {
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 50051));
        Self {
            grpc: server::Settings::new(listen, Transport::LoopbackPlaintext),
            health_listen: None,
            memory_limit: None,
            reflection: false,
        }
    }
}

impl Server {
    pub(super) fn read(mut section: Section<'_>) -> Self {
        let default = Self::default();
        let seconds = Duration::from_secs;
        // Port 0 conflicts with no other address, so that an invalid one is reported only once.
        let usual = if section.has("listen") {
            SocketAddr::from((Ipv4Addr::LOCALHOST, 0))
        } else {
            default.grpc.listen
        };
        let plaintext = section.optional("plaintext", value::boolean).unwrap_or(false);
        let tls = section.optional_table("tls").and_then(read_tls);
        let usual_settings = default.grpc;
        let (limits, drain) = (usual_settings.limits, usual_settings.drain);
        let max_connections = read_number(&mut section, "max_connections").unwrap_or(limits.max_connections);
        let grpc = server::Settings {
            listen: section.optional("listen", value::address).unwrap_or(usual),
            transport: match tls {
                Some(tls) => Transport::Tls(tls),
                None if plaintext => Transport::Plaintext,
                None => Transport::LoopbackPlaintext,
            },
            worker_threads: section
                .optional("worker_threads", value::count(1..=1024))
                .and_then(|threads| NonZeroUsize::try_from(threads).ok()),
            max_deadline: section
                .optional("max_deadline", value::duration(Duration::from_millis(100)..=seconds(60)))
                .unwrap_or(usual_settings.max_deadline),
            max_in_flight: read_number(&mut section, "max_in_flight").unwrap_or(usual_settings.max_in_flight),
            max_awaited_bodies: read_number(&mut section, "max_awaited_bodies")
                .unwrap_or(usual_settings.max_awaited_bodies),
            body_timeout: section
                .optional("body_timeout", value::duration(Duration::from_millis(100)..=seconds(60)))
                .unwrap_or(usual_settings.body_timeout),
            refused_calls: BucketSettings {
                interval: section
                    .optional("refused_call_rate", limited_interval)
                    .unwrap_or(usual_settings.refused_calls.interval),
                burst: section
                    .optional("refused_call_burst", value::count(1..=1_000_000))
                    .unwrap_or(usual_settings.refused_calls.burst),
            },
            limits: Limits {
                max_connections,
                max_connections_per_peer: read_number(&mut section, "max_connections_per_peer"),
                idle_timeout: section
                    .optional("idle_timeout", value::duration(seconds(1)..=Duration::from_hours(24)))
                    .unwrap_or(limits.idle_timeout),
                connection_age: section
                    .optional("max_connection_age", value::duration(seconds(10)..=Duration::from_hours(24)))
                    .unwrap_or(limits.connection_age),
                ..limits
            },
            drain: DrainTimes {
                lame_duck: section
                    .optional("drain_lame_duck", value::duration(Duration::ZERO..=seconds(60)))
                    .unwrap_or(drain.lame_duck),
                cut_off: section
                    .optional("drain_timeout", value::duration(seconds(1)..=seconds(600)))
                    .unwrap_or(drain.cut_off),
                ..drain
            },
        };
        let server = Self {
            grpc,
            health_listen: section.optional("health_listen", value::address),
            memory_limit: section.optional("memory_limit", value::mebibytes(48..=1024 * 1024)),
            reflection: section.optional("reflection", value::boolean).unwrap_or(default.reflection),
        };
        server.check(plaintext, &section);
        section.finish();
        server
    }

    fn check(&self, plaintext: bool, section: &Section<'_>) {
        let server::Settings { listen, transport, drain, .. } = &self.grpc;
        let has_tls = section.has("tls");
        if has_tls && plaintext {
            section.error("plaintext", Problem::rule("must not be true if [server.tls] is set"));
        }
        if !has_tls && !transport.is_allowed_on(*listen) {
            section.error(
                "listen",
                Problem::rule(
                    "is not a loopback address, so it needs [server.tls], or plaintext = true behind an \
                     encrypting mesh",
                ),
            );
        }
        if drain.lame_duck >= drain.cut_off {
            section.error("drain_lame_duck", Problem::rule("must be shorter than drain_timeout"));
        }
        if self.health_listen.is_some_and(|health| value::overlap(health, *listen)) {
            section.error("health_listen", Problem::rule("is the same address as server.listen"));
        }
    }
}

/// Reads a limit of connections or calls.
fn read_number(section: &mut Section<'_>, key: &'static str) -> Option<usize> {
    section.optional(key, value::count(1..=1_000_000)).map(|number| number.get() as usize)
}

/// Parses a rate other than "unlimited" and returns the time between two calls. Without a limit,
/// anyone could fill the disk with audit records.
fn limited_interval(value: &Value) -> Result<Duration, Problem> {
    match value::rate(value)? {
        Rate::Unlimited => {
            Err(Problem::rule("must not be \"unlimited\": anyone could fill the disk with audit records"))
        }
        Rate::PerPeriod { calls, period } => Ok(period / calls.get()),
    }
}

fn read_tls(mut section: Section<'_>) -> Option<tls::Settings> {
    const BOTH: &str = "[server.tls] needs both certificate_file and private_key_file";
    for key in ["certificate_file", "private_key_file"] {
        if !section.has(key) {
            section.error(key, Problem::Missing(BOTH));
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
    let usual = if has_ca { ClientAuthMode::Require } else { ClientAuthMode::Off };
    let client_auth = section.optional("client_auth", value::one_of(CLIENT_AUTH)).unwrap_or(usual);
    if client_auth != ClientAuthMode::Off && !has_ca {
        section.error("client_auth", Problem::rule("needs client_ca_file, unless it is \"off\""));
    }
    if client_auth == ClientAuthMode::Off && has_ca {
        section.warning("client_auth", "is \"off\", so client_ca_file is not used");
    }
    section.finish();
    let client_auth = match (client_auth, client_ca_file) {
        (ClientAuthMode::Require, Some(ca_file)) => ClientAuth::Require { ca_file },
        (ClientAuthMode::Optional, Some(ca_file)) => ClientAuth::Optional { ca_file },
        // Other modes without authorities were reported above.
        (ClientAuthMode::Off, _) | (_, None) => ClientAuth::Off,
    };
    Some(tls::Settings {
        certificate_file: certificate_file?,
        private_key_file: private_key_file?,
        client_auth,
        poll_interval: files::POLL_INTERVAL,
    })
}
