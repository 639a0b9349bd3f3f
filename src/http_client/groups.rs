//! The key exchange groups that servers chose, which is all that is kept of TLS sessions.

use std::sync::{Mutex, PoisonError};

use rustls::{
    NamedGroup,
    client::{ClientSessionStore, Tls12ClientSessionValue, Tls13ClientSessionValue},
    pki_types::ServerName,
};

/// Maximum number of servers that are remembered: more than a configuration has.
const MAX_SERVERS: usize = 64;

/// Remembers the group of each server, so that the next handshake begins with it: a wrong guess
/// costs a round trip. Keeps no session.
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
