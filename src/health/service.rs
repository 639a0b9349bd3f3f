//! `grpc.health.v1`, as its specification has it.
//!
//! tonic's own service answers a `Watch` of an unknown service with an error, which
//! clients take as "this server has no health service". Nothing is decided here.

use std::{fmt, pin::Pin, sync::Arc};

use futures_util::{Stream, stream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tonic::{Request, Response, Status};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse,
    health_check_response::ServingStatus,
    health_server::{Health as HealthTrait, HealthServer},
};

use super::{Health, Phase};
use crate::{
    clock::{self, Instant},
    proto::ott::v1::ott_service_server::SERVICE_NAME,
};

/// The most `Watch` streams at a time, over all workers: as many as connections.
const MAX_WATCHES: usize = 1024;

/// The gRPC health service. Clones share the limit on streams.
#[derive(Clone)]
pub struct HealthService {
    health: Health,
    watches: Arc<Semaphore>,
}

impl HealthService {
    /// A service that tells what the board says.
    #[must_use]
    pub fn new(health: Health) -> Self {
        Self { health, watches: Arc::new(Semaphore::new(MAX_WATCHES)) }
    }

    /// The service, ready to be routed to.
    #[must_use]
    pub fn into_server(self) -> HealthServer<Self> {
        // A service's name is short; nothing longer is worth reading.
        HealthServer::new(self).max_decoding_message_size(4096)
    }
}

impl fmt::Debug for HealthService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HealthService").field("health", &self.health).finish_non_exhaustive()
    }
}

/// Whether the service is one that we tell about: the server as a whole, or the one
/// service that it offers.
fn is_known(service: &str) -> bool {
    service.is_empty() || service == SERVICE_NAME
}

#[tonic::async_trait]
impl HealthTrait for HealthService {
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
        let permit = Arc::clone(&self.watches).try_acquire_owned().map_err(|_| too_many_watches())?;
        let watcher = Watcher {
            known: is_known(&request.get_ref().service),
            changes: self.health.0.changes.subscribe(),
            health: self.health.clone(),
            told: None,
            _permit: permit,
        };
        Ok(Response::new(Box::pin(stream::unfold(watcher, Watcher::next))))
    }
}

/// One open `Watch`.
struct Watcher {
    health: Health,
    known: bool,
    changes: watch::Receiver<Phase>,
    told: Option<ServingStatus>,
    _permit: OwnedSemaphorePermit,
}

impl Watcher {
    /// The next change; none once watching is over.
    async fn next(mut self) -> Option<(Result<HealthCheckResponse, Status>, Self)> {
        loop {
            // Read before the conditions, so that no change between the two is missed.
            let phase = *self.changes.borrow_and_update();
            let (status, changes_at) = self.status();
            if self.told != Some(status) {
                self.told = Some(status);
                return Some((Ok(answer(status)), self));
            }
            if phase == Phase::Closed {
                return None;
            }
            tokio::select! {
                changed = self.changes.changed() => changed.ok()?,
                () = until(changes_at) => {}
            }
        }
    }

    fn status(&self) -> (ServingStatus, Option<Instant>) {
        if !self.known {
            return (ServingStatus::ServiceUnknown, None);
        }
        let (why_not, changes_at) = self.health.conditions().judge(clock::now());
        let status = if why_not.is_empty() { ServingStatus::Serving } else { ServingStatus::NotServing };
        (status, changes_at)
    }
}

async fn until(moment: Option<Instant>) {
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

#[expect(
    clippy::disallowed_methods,
    reason = "the health protocol has its own errors, without a reason of ours"
)]
fn too_many_watches() -> Status {
    Status::resource_exhausted("too many Watch streams are open")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::StreamExt;
    use tonic::Code;

    use super::*;
    use crate::health::CredentialState;

    const EVERY: [&str; 2] = ["", SERVICE_NAME];

    fn request(service: &str) -> Request<HealthCheckRequest> {
        Request::new(HealthCheckRequest { service: service.to_owned() })
    }

    async fn check(service: &HealthService, name: &str) -> Result<ServingStatus, Code> {
        match service.check(request(name)).await {
            Ok(answer) => Ok(answer.get_ref().status()),
            Err(status) => Err(status.code()),
        }
    }

    type Watch = <HealthService as HealthTrait>::WatchStream;

    async fn watch(service: &HealthService, name: &str) -> Watch {
        service.watch(request(name)).await.expect("a stream").into_inner()
    }

    async fn next(stream: &mut Watch) -> Option<ServingStatus> {
        let answer = tokio::time::timeout(Duration::from_hours(1), stream.next()).await;
        answer.expect("it tells by itself").map(|answer| answer.expect("no error").status())
    }

    async fn says_nothing_for(stream: &mut Watch, time: Duration) -> bool {
        tokio::time::timeout(time, stream.next()).await.is_err()
    }

    #[tokio::test(start_paused = true)]
    async fn check_tells_of_the_server_and_of_its_service_only() {
        let health = Health::new();
        let service = HealthService::new(health.clone());
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
    async fn watch_tells_the_present_and_then_changes_only() {
        let health = Health::new();
        let credential = health.credential("eu2");
        let service = HealthService::new(health.clone());
        let mut stream = watch(&service, SERVICE_NAME).await;
        assert_eq!(next(&mut stream).await, Some(ServingStatus::NotServing));
        health.set_audit_broken(true);
        health.set_audit_broken(false);
        assert!(says_nothing_for(&mut stream, Duration::from_hours(1)).await);
        credential.set(CredentialState::Accepted);
        assert_eq!(next(&mut stream).await, Some(ServingStatus::Serving));
    }

    #[tokio::test(start_paused = true)]
    async fn watch_notices_a_minute_of_refusal_by_itself() {
        let health = Health::new();
        let credential = health.credential("eu2");
        let mut stream = watch(&HealthService::new(health), "").await;
        let refused = clock::now();
        credential.set(CredentialState::Refused {
            since: refused,
            had_token: true,
            cause: "HTTP status 401".into(),
        });
        assert_eq!(next(&mut stream).await, Some(ServingStatus::Serving));
        assert_eq!(next(&mut stream).await, Some(ServingStatus::NotServing));
        // The timer of a paused clock wakes within its tick of a millisecond.
        assert_eq!(refused.elapsed().as_secs(), 60);
        credential.set(CredentialState::Accepted);
        assert_eq!(next(&mut stream).await, Some(ServingStatus::Serving));
    }

    #[tokio::test(start_paused = true)]
    async fn watch_of_an_unknown_service_says_so_and_stays_open() {
        let health = Health::new();
        let mut stream = watch(&HealthService::new(health.clone()), "ott.v1.Other").await;
        assert_eq!(next(&mut stream).await, Some(ServingStatus::ServiceUnknown));
        health.set_draining();
        assert!(says_nothing_for(&mut stream, Duration::from_hours(1)).await);
        health.end_watches();
        assert_eq!(next(&mut stream).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn every_watch_ends_with_the_drain() {
        let health = Health::new();
        let service = HealthService::new(health.clone());
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
    async fn watch_streams_are_bounded_over_all_clones() {
        let service = HealthService::new(Health::new());
        let mut open = Vec::new();
        for _ in 0..MAX_WATCHES {
            open.push(watch(&service.clone(), "").await);
        }
        let refused = service.clone().watch(request("")).await.err().expect("one too many");
        assert_eq!(refused.code(), Code::ResourceExhausted);
        open.pop();
        let _again = watch(&service, "").await;
    }
}
