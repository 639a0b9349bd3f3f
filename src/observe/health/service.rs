//! The `grpc.health.v1` service, as specified.
//!
//! tonic's own implementation answers a `Watch` of an unknown service with an error, which clients
//! interpret as a server without a health service. [`Health`] decides the status.

use std::pin::Pin;

use futures_util::{Stream, stream};
use tokio::sync::watch;
use tonic::{Request, Response, Status};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse,
    health_check_response::ServingStatus,
    health_server::{Health as HealthTrait, HealthServer},
};

use super::{
    Health, Phase, WatchPeer, Watches,
    watches::{ConnectionWatches, OpenWatch},
};
use crate::{
    base::clock::{self, Instant},
    proto::ott::v1::ott_service_server::SERVICE_NAME,
};

/// Maximum size of a request message, in bytes. Service names are short.
const MAX_MESSAGE_BYTES: usize = 4096;

/// The gRPC health service of a gateway. Clones share the limits on streams.
#[derive(Clone, Debug)]
pub struct HealthService {
    health: Health,
    watches: Watches,
}

/// The health service on one connection.
#[derive(Debug)]
pub struct ConnectionHealth {
    health: Health,
    watches: ConnectionWatches,
}

impl HealthService {
    /// Creates a service that reports `health`.
    #[must_use]
    pub const fn new(health: Health, watches: Watches) -> Self {
        Self { health, watches }
    }

    /// Returns the service for one connection, which has its own places for `Watch` streams.
    #[must_use]
    pub fn for_connection(&self, peer: WatchPeer) -> HealthServer<ConnectionHealth> {
        let connection =
            ConnectionHealth { health: self.health.clone(), watches: self.watches.of_connection(peer) };
        HealthServer::new(connection).max_decoding_message_size(MAX_MESSAGE_BYTES)
    }
}

/// Returns whether a service name is known: the server as a whole (empty), or its only service.
fn is_known(service: &str) -> bool {
    service.is_empty() || service == SERVICE_NAME
}

#[tonic::async_trait]
impl HealthTrait for ConnectionHealth {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        if !is_known(&request.get_ref().service) {
            return Err(unknown_service());
        }
        let status =
            if self.health.is_serving() { ServingStatus::Serving } else { ServingStatus::NotServing };
        Ok(Response::new(answer(status)))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let open = self.watches.open().map_err(|_limit| unimplemented())?;
        let watcher = Watcher {
            known: is_known(&request.get_ref().service),
            changes: self.health.0.changes.subscribe(),
            health: self.health.clone(),
            last_sent: None,
            _open: open,
        };
        Ok(Response::new(Box::pin(stream::unfold(watcher, Watcher::next))))
    }
}

/// One open `Watch`.
struct Watcher {
    health: Health,
    known: bool,
    changes: watch::Receiver<Phase>,
    last_sent: Option<ServingStatus>,
    _open: OpenWatch,
}

impl Watcher {
    /// Returns the next change, or `None` when the stream ends.
    async fn next(mut self) -> Option<(Result<HealthCheckResponse, Status>, Self)> {
        loop {
            // Read before the conditions, so that no change between the two is missed.
            let phase = *self.changes.borrow_and_update();
            let (status, changes_at) = self.status();
            if self.last_sent != Some(status) {
                self.last_sent = Some(status);
                return Some((Ok(answer(status)), self));
            }
            if phase == Phase::Closed {
                return None;
            }
            tokio::select! {
                changed = self.changes.changed() => changed.ok()?,
                () = sleep_until(changes_at) => {}
            }
        }
    }

    fn status(&self) -> (ServingStatus, Option<Instant>) {
        if !self.known {
            return (ServingStatus::ServiceUnknown, None);
        }
        let (why_not, changes_at) = self.health.conditions().evaluate(clock::now());
        let status = if why_not.is_empty() { ServingStatus::Serving } else { ServingStatus::NotServing };
        (status, changes_at)
    }
}

async fn sleep_until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

fn answer(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the health protocol has its own errors, without a reason of ours"
)]
fn unknown_service() -> Status {
    Status::not_found("unknown service")
}

/// Returns the status of a `Watch` beyond the limits. Clients with client-side health checking
/// treat any other error as an unhealthy server and fail their calls (gRFC A17).
#[expect(
    clippy::disallowed_methods,
    reason = "the health protocol has its own errors, without a reason of ours"
)]
fn unimplemented() -> Status {
    Status::unimplemented("too many Watch streams are open; use Check")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::StreamExt;
    use tonic::Code;

    use super::*;
    use crate::observe::{
        health::{AuditState, CredentialState, MAX_WATCHES_PER_CONNECTION},
        telemetry::metrics::Metrics,
    };

    const EVERY: [&str; 2] = ["", SERVICE_NAME];

    fn request(service: &str) -> Request<HealthCheckRequest> {
        Request::new(HealthCheckRequest { service: service.to_owned() })
    }

    /// The service on a new connection.
    fn service(health: Health) -> ConnectionHealth {
        let watches = Watches::new(64, Metrics::new().watches());
        let peer = WatchPeer::Address("192.0.2.1:1000".parse().expect("an address"));
        ConnectionHealth { health, watches: watches.of_connection(peer) }
    }

    async fn check(service: &ConnectionHealth, name: &str) -> Result<ServingStatus, Code> {
        match service.check(request(name)).await {
            Ok(answer) => Ok(answer.get_ref().status()),
            Err(status) => Err(status.code()),
        }
    }

    type Watch = <ConnectionHealth as HealthTrait>::WatchStream;

    async fn watch(service: &ConnectionHealth, name: &str) -> Watch {
        service.watch(request(name)).await.expect("a stream").into_inner()
    }

    async fn next(stream: &mut Watch) -> Option<ServingStatus> {
        let answer = tokio::time::timeout(Duration::from_hours(1), stream.next()).await;
        answer.expect("a status arrives").map(|answer| answer.expect("no error").status())
    }

    async fn stays_silent_for(stream: &mut Watch, time: Duration) -> bool {
        tokio::time::timeout(time, stream.next()).await.is_err()
    }

    #[tokio::test(start_paused = true)]
    async fn check_reports_only_the_server_and_its_service() {
        let health = Health::new();
        let service = service(health.clone());
        for name in EVERY {
            assert_eq!(check(&service, name).await, Ok(ServingStatus::Serving));
        }
        health.set_draining();
        for name in EVERY {
            assert_eq!(check(&service, name).await, Ok(ServingStatus::NotServing));
        }
        assert_eq!(check(&service, "ott.v1.Other").await, Err(Code::NotFound));
    }

    #[tokio::test(start_paused = true)]
    async fn watch_reports_the_current_status_and_then_only_changes() {
        let health = Health::new();
        let credential = health.credential("eu2");
        let service = service(health.clone());
        let mut stream = watch(&service, SERVICE_NAME).await;
        assert_eq!(next(&mut stream).await, Some(ServingStatus::NotServing));
        health.set_audit(AuditState::Unavailable);
        health.set_audit(AuditState::Available);
        assert!(stays_silent_for(&mut stream, Duration::from_hours(1)).await);
        credential.set(CredentialState::Accepted);
        assert_eq!(next(&mut stream).await, Some(ServingStatus::Serving));
    }

    #[tokio::test(start_paused = true)]
    async fn watch_reports_a_minute_of_refusal_without_an_event() {
        let health = Health::new();
        let credential = health.credential("eu2");
        let mut stream = watch(&service(health), "").await;
        let refused = clock::now();
        credential.set(CredentialState::Refused {
            since: refused,
            had_token: true,
            cause: "HTTP status 401".into(),
        });
        assert_eq!(next(&mut stream).await, Some(ServingStatus::Serving));
        assert_eq!(next(&mut stream).await, Some(ServingStatus::NotServing));
        // Timers have a resolution of one millisecond.
        assert_eq!(refused.elapsed().as_secs(), 60);
        credential.set(CredentialState::Accepted);
        assert_eq!(next(&mut stream).await, Some(ServingStatus::Serving));
    }

    #[tokio::test(start_paused = true)]
    async fn watch_of_an_unknown_service_reports_it_and_stays_open() {
        let health = Health::new();
        let mut stream = watch(&service(health.clone()), "ott.v1.Other").await;
        assert_eq!(next(&mut stream).await, Some(ServingStatus::ServiceUnknown));
        health.set_draining();
        assert!(stays_silent_for(&mut stream, Duration::from_hours(1)).await);
        health.end_watches();
        assert_eq!(next(&mut stream).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn every_watch_ends_with_the_drain() {
        let health = Health::new();
        let service = service(health.clone());
        let mut open = watch(&service, "").await;
        assert_eq!(next(&mut open).await, Some(ServingStatus::Serving));
        health.set_draining();
        assert_eq!(next(&mut open).await, Some(ServingStatus::NotServing));
        health.end_watches();
        assert_eq!(next(&mut open).await, None);
        let mut new = watch(&service, "").await;
        assert_eq!(next(&mut new).await, Some(ServingStatus::NotServing));
        assert_eq!(next(&mut new).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn watch_beyond_the_limit_is_unimplemented() {
        let service = service(Health::new());
        let mut open = Vec::new();
        for _ in 0..MAX_WATCHES_PER_CONNECTION {
            open.push(watch(&service, "").await);
        }
        let refused = service.watch(request("")).await.err().expect("beyond the limit");
        assert_eq!(refused.code(), Code::Unimplemented);
        assert_eq!(check(&service, "").await, Ok(ServingStatus::Serving), "Check is not limited");
        open.pop();
        let mut again = watch(&service, "").await;
        assert_eq!(next(&mut again).await, Some(ServingStatus::Serving));
    }
}
