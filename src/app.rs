//! Builds everything from the configuration; the only file that knows every part.
//!
//! What belongs to one worker is made on its thread; everything else lives on the
//! runtime that [`App::start`] is called in: token refresh, reload.
//! What the parts do is theirs.

mod check;
mod memory;
mod online_check;
pub mod process;
mod reload;
mod settings;
mod signals;
mod start_error;
#[cfg(test)]
mod tests;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::service::Routes;

use self::reload::{Reload, Trigger};
pub use self::{
    check::check,
    online_check::{OnlineCheckError, fetch_access_token},
    settings::access_rules,
    signals::{Ended, Signals},
    start_error::StartError,
};
pub use crate::caller::is_caller_name;
use crate::{
    access::Access,
    admin::Admin,
    audit::Audit,
    caller::Identification,
    clock::WallClock,
    config::{ApiClients as ApiClientsConfig, Config},
    credential::{self, Credential, CredentialHealth},
    health::{CredentialCondition, CredentialState, Health, HealthService, Watches},
    http_client::HttpSettings,
    memory::ResponseMemory,
    platform::{ApiClient, PlatformClient},
    proto::ott::v1::ott_service_server::OttServiceServer,
    server::{self, Http1Server, MAX_MESSAGE_BYTES, Server},
    service::{ApiClients, KnownTokens, OttService, Reflection, RefusedRequests},
    telemetry::{metrics::Metrics, tracing::Tracer},
};

/// The most bytes of an answer: an account of 256 KiB and its session, both encoded.
const MAX_ANSWER_BYTES: usize = 512 * 1024;
/// How long the last audit records, and the last spans, may take to be written.
const FLUSH_LIMIT: Duration = Duration::from_secs(1);

/// The word for access rules and bearer tokens among the things that are reloaded.
const RULES: &str = "rules";

/// A running gateway.
#[derive(Debug)]
pub struct App {
    server: Server,
    health_server: Option<Server>,
    admin: Option<Http1Server>,
    audit: Audit,
    metrics: Metrics,
    tracer: Tracer,
    reload: Trigger,
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// What one API client is made of, apart from each worker's own connections.
struct Upstream {
    api_client: Arc<ApiClient>,
    http: HttpSettings,
}

impl App {
    /// Starts a gateway; it accepts calls when this returns.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        let metrics = Metrics::new();
        let health = Health::new();
        let stop = CancellationToken::new();
        let tasks = TaskTracker::new();
        // What has been started ends again if a later part cannot start.
        let on_failure = stop.clone().drop_guard();

        let budget = memory::fit(&config.server);
        let responses = ResponseMemory::new(budget.response_bytes);
        metrics.follow_response_memory(budget.response_bytes, responses.clone());
        let bound = server::bind(budget.limited(settings::server(&config.server)))?;
        let bound_health = config
            .server
            .health_listen
            .map(|listen| server::bind(settings::health_server(&config.server, listen)))
            .transpose()?;
        let bound_admin = config
            .admin
            .listen
            .map(|listen| server::bind(settings::admin_server(listen)).map_err(StartError::of_admin))
            .transpose()?;

        let heartbeat = metrics.threads().register("control");
        tasks.spawn({
            let (threads, stop) = (metrics.threads().clone(), stop.clone());
            async move {
                stop.run_until_cancelled(threads.supervise(&heartbeat.pulse())).await;
                heartbeat.retire();
            }
        });

        let audit =
            Audit::start(settings::audit(&config.audit, &config.server)?, &metrics, WallClock::system())?;
        metrics.set_callers(settings::named_callers(&config.access));
        metrics.loaded(RULES);
        let access = Access::new(settings::policy(&config.access, &config.callers.tokens)?, metrics.clone());
        let callers = settings::callers(&config.callers)?;
        let (identification, key_refreshes) = Identification::new(callers, metrics.clone())?;
        for key_refresh in key_refreshes {
            tasks.spawn(stop.clone().run_until_cancelled_owned(key_refresh.run()));
        }
        let tracer = settings::tracer(&config.telemetry, &metrics)?;

        let mut upstreams = Vec::new();
        for name in config.api_clients.by_name.keys() {
            let condition = health.credential(Arc::clone(name));
            let (upstream, refresh, credential) = upstream(&config.api_clients, name, &responses, &metrics)?;
            tasks.spawn(refresh.run(stop.clone()));
            tasks.spawn(stop.clone().run_until_cancelled_owned(follow_credential(credential, condition)));
            upstreams.push(upstream);
        }
        let follow_audit = follow_audit(audit.broken(), health.clone());
        tasks.spawn(stop.clone().run_until_cancelled_owned(follow_audit));

        let watches = Watches::new(settings::watches_per_address(&config.server), metrics.watches());
        let health_service = HealthService::new(health.clone(), watches);
        let (draining, going_away) = (CancellationToken::new(), CancellationToken::new());
        let parts = server::Parts {
            identification,
            access: access.clone(),
            audit: audit.clone(),
            refused_requests: refused_requests(&config, &audit),
            metrics: metrics.clone(),
            tracer: tracer.clone(),
            health: health_service.clone(),
            draining: draining.clone(),
            going_away: going_away.clone(),
        };
        let drain = follow_drain(draining, going_away, health.clone());
        tasks.spawn(stop.clone().run_until_cancelled_owned(drain));

        let shared = Shared {
            upstreams,
            default: config.api_clients.default.clone(),
            access: access.clone(),
            audit: audit.clone(),
            known_tokens: KnownTokens::default(),
            metrics: metrics.clone(),
            reflection: config.server.reflection,
        };
        let server = bound.serve(parts, move || shared.routes()).await?;
        let health_server = match bound_health {
            Some(bound) => Some(bound.serve_health(metrics.clone(), health_service).await?),
            None => None,
        };

        let admin = bound_admin.map(|bound| serve_admin(bound, metrics.clone(), health)).transpose()?;
        let (follower, reload) = Reload::new(config, access, metrics.clone());
        tasks.spawn(stop.clone().run_until_cancelled_owned(follower.run()));

        tracing::info!(
            server.address = %server.local_addr(),
            admin.address = admin.as_ref().map(|server| tracing::field::display(server.local_addr())),
            health.address = health_server.as_ref().map(|server| tracing::field::display(server.local_addr())),
            "the gateway is serving"
        );
        on_failure.disarm();
        Ok(Self { server, health_server, admin, audit, metrics, tracer, reload, stop, tasks })
    }

    /// Where gRPC is served.
    #[must_use]
    pub const fn local_addr(&self) -> SocketAddr {
        self.server.local_addr()
    }

    /// Where the admin listener is, if there is one.
    #[must_use]
    pub fn admin_addr(&self) -> Option<SocketAddr> {
        self.admin.as_ref().map(Http1Server::local_addr)
    }

    /// What it counts.
    #[must_use]
    pub const fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Opens the audit log anew and looks for new rules at once (SIGHUP).
    pub fn refresh(&self) {
        self.audit.reopen();
        self.reload.fire();
    }

    /// Ends the gateway, step by step (ARCHITECTURE.md, "The drain"): within 30 s, whatever
    /// peers do.
    pub async fn stop(self) {
        let health_server = async {
            if let Some(server) = self.health_server {
                server.drain().await;
            }
        };
        tokio::join!(self.server.drain(), health_server);
        let (records, ()) = tokio::join!(self.audit.flush(FLUSH_LIMIT), self.tracer.stop(FLUSH_LIMIT));
        if records.is_err() {
            tracing::error!("the last audit records could not be written");
        }
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        if let Some(admin) = self.admin {
            admin.stop().await;
        }
    }
}

/// Reads what refused requests named, by the configured API clients.
fn refused_requests(config: &Config, audit: &Audit) -> RefusedRequests {
    RefusedRequests::new(config.api_clients.by_name.keys().cloned(), audit.clone())
}

/// What every worker makes its routes from.
struct Shared {
    upstreams: Vec<Upstream>,
    default: Option<Arc<str>>,
    access: Access,
    audit: Audit,
    known_tokens: KnownTokens,
    metrics: Metrics,
    reflection: bool,
}

impl Shared {
    /// The services of one worker; the connections to the platform are its own.
    fn routes(&self) -> Result<Routes, StartError> {
        let mut clients = Vec::new();
        for upstream in &self.upstreams {
            clients.push(PlatformClient::new(Arc::clone(&upstream.api_client), upstream.http.clone())?);
        }
        let service = OttService {
            access: self.access.clone(),
            api_clients: ApiClients::new(clients, self.default.clone()),
            audit: self.audit.clone(),
            known_tokens: self.known_tokens.clone(),
            metrics: self.metrics.clone(),
        };
        let service = OttServiceServer::new(service)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_ANSWER_BYTES);
        let routes = Routes::new(service);
        if !self.reflection {
            return Ok(routes);
        }
        let reflection = Reflection::new(self.access.clone());
        Ok(routes
            .add_service(reflection.v1().map_err(StartError::Reflection)?)
            .add_service(reflection.v1alpha().map_err(StartError::Reflection)?))
    }
}

/// Serves the admin port.
fn serve_admin(bound: server::Bound, metrics: Metrics, health: Health) -> Result<Http1Server, StartError> {
    let admin = Arc::new(Admin::new(metrics.clone(), health));
    let answer = move |request| {
        let admin = Arc::clone(&admin);
        async move { admin.answer(&request).await }
    };
    Ok(bound.serve_http1("admin", metrics, answer)?)
}

/// One API client: what workers share of it, and the task that keeps its token.
fn upstream(
    config: &ApiClientsConfig,
    name: &Arc<str>,
    responses: &ResponseMemory,
    metrics: &Metrics,
) -> Result<(Upstream, credential::Refresh, Credential), StartError> {
    let client = &config.by_name[name];
    let metrics = metrics.api_client(name);
    let http = settings::http(client)?;
    let (credential, refresh) =
        credential::new(settings::credential(name, client, &http)?, metrics.clone(), WallClock::system());
    let platform = settings::platform(name, client, responses.clone())?;
    let api_client = ApiClient::new(platform, credential.clone(), metrics);
    Ok((Upstream { api_client, http }, refresh, credential))
}

async fn follow_credential(credential: Credential, condition: CredentialCondition) {
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

async fn follow_audit(broken: Option<tokio::sync::watch::Receiver<bool>>, health: Health) {
    let Some(mut broken) = broken else { return };
    loop {
        health.set_audit_broken(*broken.borrow_and_update());
        if broken.changed().await.is_err() {
            return;
        }
    }
}

/// Says at once that this replica stops, and ends open `Watch` streams when connections
/// are told to go away.
async fn follow_drain(draining: CancellationToken, going_away: CancellationToken, health: Health) {
    draining.cancelled().await;
    health.set_draining();
    going_away.cancelled().await;
    health.end_watches();
}
