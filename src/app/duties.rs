//! Starts the duties that connect the parts of a gateway. `supervision` restarts them.

use futures_util::FutureExt;
use tokio_util::sync::CancellationToken;

use super::authorities::FollowedAuthorities;
use crate::{
    base::files::Follower,
    caller::JwksRefresh,
    credential::{Credential, CredentialHealth, Refresh},
    http_client::Resolver,
    observe::{
        audit::{Audit, Readiness},
        health::{AuditState, CredentialCondition, CredentialState, Health},
        telemetry::{
            duties::Duty,
            threads::{Heartbeat, Threads},
        },
    },
    supervision::{Exit, Supervisor},
    token_binding::KeyFile,
};

/// Watches the heartbeats of all threads.
pub(super) fn start_thread_watch(supervisor: &Supervisor, threads: &Threads, own: &Heartbeat) {
    let watching = (threads.clone(), own.pulse());
    supervisor.start(Duty::ThreadWatch, None, watching, |(threads, own)| threads.supervise(own).boxed());
}

/// Keeps the keys of a JWT issuer fresh.
pub(super) fn start_key_refresh(supervisor: &Supervisor, refresh: JwksRefresh) {
    let issuer = refresh.issuer().to_owned();
    supervisor.start(Duty::JwtKeys, Some(&issuer), refresh, |refresh| refresh.run().boxed());
}

/// Keeps the access token of an API client fresh.
pub(super) fn start_token_refresh(supervisor: &Supervisor, api_client: &str, refresh: Refresh) {
    supervisor.start(Duty::AccessToken, Some(api_client), refresh, |refresh| refresh.keep_fresh().boxed());
}

/// Keeps the addresses of the names in use fresh.
pub(super) fn start_name_lookups(supervisor: &Supervisor, resolver: Resolver) {
    supervisor.start(Duty::NameLookups, None, resolver, |resolver| resolver.keep_fresh().boxed());
}

/// Follows a source of the authorities that outgoing connections trust.
pub(super) fn start_authorities(supervisor: &Supervisor, follower: Follower<FollowedAuthorities>) {
    let source = follower.name().to_owned();
    supervisor.start(Duty::Authorities, Some(&source), follower, |follower| follower.run().boxed());
}

/// Follows the keys of sealed tokens.
pub(super) fn start_token_keys(supervisor: &Supervisor, follower: Follower<KeyFile>) {
    supervisor.start(Duty::TokenKeys, None, follower, |follower| follower.run().boxed());
}

/// Publishes the state of an API client's credential to health.
pub(super) fn start_credential_health(
    supervisor: &Supervisor,
    api_client: &str,
    credential: Credential,
    condition: CredentialCondition,
) {
    let followed = (credential, condition);
    supervisor.start(Duty::CredentialHealth, Some(api_client), followed, |(credential, condition)| {
        follow_credential(credential, condition).boxed()
    });
}

/// Publishes the state of the audit sink to health, if there is a sink: the replica serves once
/// the first write was in time.
pub(super) fn start_audit_health(supervisor: &Supervisor, audit: &Audit, health: &Health) {
    let Some(readiness) = audit.readiness() else { return };
    health.set_audit(AuditState::Starting);
    supervisor.start(Duty::AuditHealth, None, (readiness, health.clone()), |(readiness, health)| {
        follow_audit(readiness, health).boxed()
    });
}

/// Publishes the beginning of the drain to health, and ends open `Watch` streams when
/// connections are sent a GOAWAY.
pub(super) fn start_drain_health(
    supervisor: &Supervisor,
    draining: CancellationToken,
    goaway_sent: CancellationToken,
    health: Health,
) {
    let drain = (draining, goaway_sent, health);
    supervisor.start(Duty::DrainHealth, None, drain, |(draining, goaway_sent, health)| {
        follow_drain(draining, goaway_sent, health).boxed()
    });
}

pub(super) async fn follow_credential(credential: &Credential, condition: &CredentialCondition) {
    let mut health = credential.health();
    loop {
        condition.set(match health.current() {
            CredentialHealth::Starting => CredentialState::Starting,
            CredentialHealth::Usable | CredentialHealth::Failing { had_token: true, .. } => {
                CredentialState::Accepted
            }
            CredentialHealth::Failing { had_token: false, .. } => CredentialState::Unproven,
            CredentialHealth::Refused { since, had_token, error } => {
                CredentialState::Refused { since, had_token, cause: error.to_string().into() }
            }
        });
        if !health.changed().await {
            return;
        }
    }
}

async fn follow_audit(readiness: &mut Readiness, health: &Health) {
    while let Some(unavailable) = readiness.next().await {
        health.set_audit(if unavailable { AuditState::Unavailable } else { AuditState::Available });
    }
}

async fn follow_drain(
    draining: &CancellationToken,
    goaway_sent: &CancellationToken,
    health: &Health,
) -> Exit {
    draining.cancelled().await;
    health.set_draining();
    goaway_sent.cancelled().await;
    health.end_watches();
    Exit::Finished
}
