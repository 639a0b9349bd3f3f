//! `[admin]`: the listener for metrics and probes.

use std::net::{Ipv4Addr, SocketAddr};

use super::{finding::Problem, section::Section, server::Server, value};

/// `[admin]`: the listener for `/metrics`, `/livez` and `/readyz`, over plain HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// `listen`: an address, or "off"; by default 127.0.0.1:9464. Metrics contain no secrets, but show
    /// who calls and how often.
    pub listen: Option<SocketAddr>,
}

impl Admin {
    pub(super) fn read(mut section: Section<'_>, server: &Server) -> Self {
        let listen = section
            .optional("listen", |value| match value::text(value)?.as_str() {
                "off" => Ok(None),
                _ => value::address(value).map(Some).map_err(|_| {
                    Problem::rule("must be an IP address with a port, such as \"127.0.0.1:9464\", or \"off\"")
                }),
            })
            .unwrap_or(Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 9464))));
        if let Some(listen) = listen {
            if value::overlap(listen, server.grpc.listen) {
                section.error("listen", Problem::rule("is the same address as server.listen"));
            }
            if server.health_listen.is_some_and(|health| value::overlap(listen, health)) {
                section.error("listen", Problem::rule("is the same address as server.health_listen"));
            }
        }
        section.finish();
        Self { listen }
    }
}
