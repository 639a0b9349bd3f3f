//! Remembers the key exchange groups of servers, the only part of TLS sessions that is kept.

use std::sync::{Mutex, PoisonError};

use rustls::{
    NamedGroup,
    client::{ClientSessionStore, Tls12ClientSessionValue, Tls13ClientSessionValue},
    pki_types::ServerName,
};

/// Maximum number of remembered servers: more than a configuration has.
const MAX_SERVERS: usize = 64;

/// Key exchange group of each server, offered first in the next handshake: a wrong guess costs a
/// round trip. Stores no sessions.
#[derive(Debug, Default)]
pub(super) struct Groups(Mutex<Vec<(ServerName<'static>, NamedGroup)>>);

impl ClientSessionStore for Groups {
    fn set_kx_hint(&self, server_name: ServerName<'static>, group: NamedGroup) {
        let mut groups = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, known)) = groups.iter_mut().find(|(name, _)| *name == server_name) {
            *known = group;
        } else if groups.len() < MAX_SERVERS {
            groups.push((server_name, group));
        }
    }

    fn kx_hint(&self, server_name: &ServerName<'_>) -> Option<NamedGroup> {
        let groups = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        groups.iter().find(|(name, _)| name == server_name).map(|(_, group)| *group)
    }

    fn set_tls12_session(&self, _: ServerName<'static>, _: Tls12ClientSessionValue) {}

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        None
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {}

    fn insert_tls13_ticket(&self, _: ServerName<'static>, _: Tls13ClientSessionValue) {}

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        None
    }
}
