//! Builds a gateway from the configuration. The only module that uses every part.
//!
//! The parts of one worker are created on its thread. Everything else, such as token refresh and
//! reload, runs on the runtime that [`App::start`] is called in.

mod authorities;
mod check;
pub mod descriptors;
mod duties;
mod hmac_key;
mod injected_faults;
mod memory;
mod online_check;
mod outgoing;
mod policy;
mod ports;
pub mod process;
mod reload;
mod rules_change;
mod signals;
mod start_error;
#[cfg(test)]
mod tests;
mod token_keys;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use futures_util::FutureExt;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::service::Routes;

pub use self::{
    check::check,
    online_check::{OnlineCheckError, fetch_access_token},
    signals::{OnHangUp, Shutdown, Signals, set_signal_mask},
    start_error::{Listener, StartError},
};
use self::{
    injected_faults::InjectedFaults,
    outgoing::{Outgoing, token_endpoint},
    policy::policy,
    ports::Ports,
    reload::Reload,
    token_keys::TokenKeys,
};
pub use crate::caller::is_caller_name;
#[cfg(feature = "sandbox")]
use crate::fault_injection::FaultInjector;
use crate::{
    access::Access,
    admin::Admin,
    base::{
        clock::{self, WallClock},
        files::{Follower, Trigger},
        memory::ResponseMemory,
    },
    caller::JwksRefresh,
    config::{self, Config, Document},
    credential::{self, Credential},
    http_client::HttpSettings,
    observe::{
        audit::{self, Audit, AuditUnavailable, Fingerprints, StopCause},
        health::{CredentialCondition, Health, HealthService, Watches},
        telemetry::{duties::Duty, logging::Logging, metrics::Metrics, threads::Heartbeat, tracing::Tracer},
    },
    platform::{ApiClient, ApiClientState},
    server::{self, Handlers, Http1Server, Server},
    service::{ApiClients, KnownTokens, OttService, Reflection, RefusedRequests},
    supervision::Supervisor,
    token_binding::{KeyFile, Mode, TokenBinding},
};

/// Minimum time for writing the last audit records and exporting the last spans.
const MIN_FLUSH: Duration = Duration::from_secs(1);
/// Time after the start of the drain by which the last audit records are written, if the drain
/// leaves more than [`MIN_FLUSH`]: half a second before the process must have stopped.
const FLUSHED_BY: Duration = Duration::from_millis(29_500);

/// A running gateway.
#[derive(Debug)]
pub struct App {
    server: Server,
    health_server: Option<Server>,
    admin: Option<Http1Server>,
    audit: Audit,
    metrics: Metrics,
    tracer: Tracer,
    /// Triggers to read the rules and the keys of sealed tokens at once.
    reload: Vec<Trigger>,
    stop: CancellationToken,
    supervisor: Supervisor,
    /// Heartbeat of the thread that the gateway was started on.
    heartbeat: Heartbeat,
}

/// Handle to cut off calls during a drain. Cheap to clone.
#[derive(Clone, Debug)]
pub struct CallCutOff(Vec<CancellationToken>);

impl CallCutOff {
    /// Ends all calls now, and waits only for their audit records.
    pub fn cut_off(&self) {
        self.0.iter().for_each(CancellationToken::cancel);
    }
}

/// The shared parts of one API client, without the connections of each worker.
struct Upstream {
    api_client: Arc<ApiClientState>,
    bind_tokens: Mode,
    http: HttpSettings,
}

/// One API client: the parts that workers share, and the refresh task of its token.
struct StartedClient {
    name: Arc<str>,
    upstream: Upstream,
    refresh: credential::Refresh,
    credential: Credential,
    condition: CredentialCondition,
}

/// The parts that start before the audit log.
struct Foundation {
    metrics: Metrics,
    stop: CancellationToken,
    /// Stops the parts that have started if a later part cannot start.
    on_failure: DropGuard,
    supervisor: Supervisor,
    bound: Ports,
    responses: ResponseMemory,
    heartbeat: Heartbeat,
}

impl App {
    /// Starts a gateway. It accepts calls when this returns.
    pub fn start(config: Config) -> impl Future<Output = Result<Self, StartError>> {
        Self::start_with(config, InjectedFaults::default())
    }

    /// Like [`start`](Self::start), with fault injection. For the command `sandbox` only.
    #[cfg(feature = "sandbox")]
    pub fn start_with_faults(
        config: Config,
        injector: Arc<dyn FaultInjector>,
    ) -> impl Future<Output = Result<Self, StartError>> {
        Self::start_with(config, InjectedFaults::from_injector(injector))
    }

    async fn start_with(config: Config, faults: InjectedFaults) -> Result<Self, StartError> {
        let metrics = Metrics::new();
        let stop = CancellationToken::new();
        let supervisor = Supervisor::new(metrics.duties().clone(), stop.clone());
        let on_failure = stop.clone().drop_guard();
        let (bound, responses) = Ports::bind(&config, &metrics)?;
        let heartbeat = metrics.threads().register("control");
        duties::start_thread_watch(&supervisor, metrics.threads(), &heartbeat);

        let hmac_key = hmac_key::read(&config.audit)?;
        let fingerprints = Fingerprints {
            configuration: config.effective.as_ref().map(Document::fingerprint),
            rules: Some(config.access.fingerprint()),
            candidate_rules: config.access.candidate_fingerprint(),
        };
        let audit = Audit::start(
            &config.audit,
            hmac_key.as_ref(),
            bound.max_in_flight,
            &fingerprints,
            &metrics,
            WallClock::system(),
        )?;
        let foundation = Foundation { metrics, stop, on_failure, supervisor, bound, responses, heartbeat };
        let started = Box::pin(Self::start_audited(config, faults, foundation, audit.clone())).await;
        if started.is_err() {
            // The failure to start is reported in any case.
            let _ = audit.stop(&StopCause::StartFailed, audit::FLUSH_LIMIT).await;
        }
        started
    }

    /// Starts everything that may need the audit log.
    async fn start_audited(
        config: Config,
        faults: InjectedFaults,
        foundation: Foundation,
        audit: Audit,
    ) -> Result<Self, StartError> {
        let Foundation { metrics, stop, on_failure, supervisor, bound, responses, heartbeat } = foundation;
        let health = Health::new();
        metrics.set_callers(config.access.literal_callers());
        let access = Access::new(policy(&config.access, &config.callers.tokens)?, metrics.clone());
        faults.follow_resets(&access);
        let mut outgoing = Outgoing::new(&metrics);
        let (identification, key_refreshes) = outgoing.identification(&config.callers, &metrics)?;
        let tracer = outgoing.tracer(config.telemetry.traces.as_ref(), &metrics)?;
        let mut clients = Vec::new();
        for (name, client) in &config.api_clients.by_name {
            clients.push(StartedClient::new(name, client, &mut outgoing, &responses, &metrics, &health)?);
        }
        let token_keys = TokenKeys::read(config.token_keys.as_ref(), &metrics)?;
        let reload_token_keys = token_keys.reload();
        duties::start_audit_health(&supervisor, &audit, &health);

        let watches = Watches::new(bound.watches_per_address, metrics.watches());
        let health_service = HealthService::new(health.clone(), watches);
        let (draining, goaway_sent) = (CancellationToken::new(), CancellationToken::new());
        let dependencies = server::Dependencies {
            identification,
            access: access.clone(),
            audit: audit.clone(),
            refused_requests: refused_requests(&config, &audit, &token_keys.token_binding),
            metrics: metrics.clone(),
            tracer: tracer.clone(),
            health: health_service.clone(),
            draining: draining.clone(),
            goaway_sent: goaway_sent.clone(),
        };
        duties::start_drain_health(&supervisor, draining, goaway_sent, health.clone());
        let (upstreams, credentials) = clients.into_iter().map(StartedClient::split).unzip();
        let shared = HandlerParts {
            upstreams,
            default: config.api_clients.default.clone(),
            access: access.clone(),
            audit: audit.clone(),
            known_tokens: KnownTokens::default(),
            token_binding: token_keys.token_binding,
            metrics: metrics.clone(),
            reflection: config.server.reflection,
            faults,
        };
        let server = bound.grpc.serve(dependencies, move || shared.handlers()).await?;
        let health_server = match bound.health {
            Some(port) => Some(port.serve_health(metrics.clone(), health_service).await?),
            None => None,
        };
        let admin = match bound.admin {
            Some(port) => Some(serve_admin(port, metrics.clone(), health).await?),
            None => None,
        };
        // After the threads, because nothing here can fail.
        start_upkeep(&supervisor, &metrics, key_refreshes, token_keys.follower, outgoing, credentials);
        let (follower, reload_rules) = Reload::new(config, access, audit.clone(), metrics.clone());
        let reload = [reload_rules].into_iter().chain(reload_token_keys).collect();
        supervisor.start(Duty::AccessRules, None, follower, |follower| follower.run().boxed());

        report_serving(&server, admin.as_ref(), health_server.as_ref());
        on_failure.disarm();
        Ok(Self { server, health_server, admin, audit, metrics, tracer, reload, stop, supervisor, heartbeat })
    }

    /// Returns the address of the gRPC listener.
    #[must_use]
    pub const fn local_addr(&self) -> SocketAddr {
        self.server.local_addr()
    }

    /// Returns the address of the health listener, if there is one.
    #[must_use]
    pub fn health_addr(&self) -> Option<SocketAddr> {
        self.health_server.as_ref().map(Server::local_addr)
    }

    /// Returns the address of the admin listener, if there is one.
    #[must_use]
    pub fn admin_addr(&self) -> Option<SocketAddr> {
        self.admin.as_ref().map(Http1Server::local_addr)
    }

    /// Returns the metrics of this gateway.
    #[must_use]
    pub const fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Reports dropped and suppressed log lines in the metrics, and supervises the log writer
    /// thread.
    pub fn report_log(&self, logging: Logging) {
        logging.watch(self.metrics.threads());
        let reported = (logging, self.metrics.clone());
        self.supervisor.start(Duty::LogReport, None, reported, |(logging, metrics)| {
            logging.clone().report(metrics.clone()).boxed()
        });
    }

    /// Resolves with the name of a thread that has died. The gateway should then be stopped.
    pub async fn lost_thread(&self) -> Arc<str> {
        self.metrics.threads().lost().await
    }

    /// Returns a handle to cut off calls during [`stop`](Self::stop).
    #[must_use]
    pub fn call_cut_off(&self) -> CallCutOff {
        let servers = [Some(&self.server), self.health_server.as_ref()];
        CallCutOff(servers.into_iter().flatten().map(Server::cut_off_calls).collect())
    }

    /// Resolves when the audit sink is permanently closed, so that the process must stop.
    pub async fn audit_closed(&self) {
        self.audit.closed().await;
    }

    /// Reopens the audit log, and reloads the rules and the keys of sealed tokens at once (SIGHUP).
    pub fn refresh(&self) {
        self.audit.reopen();
        self.reload.iter().for_each(Trigger::fire);
    }

    /// Stops the gateway in steps (ARCHITECTURE.md, "The drain"), within 30 s regardless of its
    /// peers. The last audit record contains the cause. Fails if audit records could not be written
    /// by then; they are lost.
    pub async fn stop(self, cause: StopCause) -> Result<(), AuditUnavailable> {
        let health_server = async {
            if let Some(server) = self.health_server {
                server.drain().await;
            }
        };
        let flushed_by = clock::now() + FLUSHED_BY;
        tokio::join!(self.server.drain(), health_server);
        let flush_limit = flushed_by.saturating_duration_since(clock::now());
        let flush_limit = flush_limit.clamp(MIN_FLUSH, audit::FLUSH_LIMIT);
        let (records, ()) = tokio::join!(self.audit.stop(&cause, flush_limit), self.tracer.stop(MIN_FLUSH));
        if records.is_err() {
            tracing::error!("cannot write last audit records");
        }
        self.stop.cancel();
        self.supervisor.stopped().await;
        self.heartbeat.retire();
        if let Some(admin) = self.admin {
            admin.stop().await;
        }
        records
    }
}

/// Logs the addresses of the gateway.
fn report_serving(server: &Server, admin: Option<&Http1Server>, health_server: Option<&Server>) {
    tracing::info!(
        server.address = %server.local_addr(),
        admin.address = admin.map(|server| tracing::field::display(server.local_addr())),
        health.address = health_server.map(|server| tracing::field::display(server.local_addr())),
        "gateway serving"
    );
}

/// Creates the reader of refused requests, which validates API client names.
fn refused_requests(config: &Config, audit: &Audit, token_binding: &TokenBinding) -> RefusedRequests {
    let api_clients = config.api_clients.by_name.keys().cloned();
    RefusedRequests::new(api_clients, audit.clone(), token_binding.clone())
}

/// Shared state from which every worker creates its handlers.
struct HandlerParts {
    upstreams: Vec<Upstream>,
    default: Option<Arc<str>>,
    access: Access,
    audit: Audit,
    known_tokens: KnownTokens,
    token_binding: TokenBinding,
    metrics: Metrics,
    reflection: bool,
    faults: InjectedFaults,
}

impl HandlerParts {
    /// Creates the services of one worker, with its own connections to the platform.
    fn handlers(&self) -> Result<Handlers, StartError> {
        let mut clients = Vec::new();
        for upstream in &self.upstreams {
            let client = ApiClient::new(Arc::clone(&upstream.api_client), upstream.http.clone())?;
            clients.push((client, upstream.bind_tokens));
        }
        let service = OttService {
            access: self.access.clone(),
            api_clients: ApiClients::new(clients, self.default.clone()),
            audit: self.audit.on_this_runtime(),
            known_tokens: self.known_tokens.clone(),
            token_binding: self.token_binding.clone(),
            metrics: self.metrics.clone(),
        };
        let mut routes = Routes::default();
        if self.reflection {
            let reflection = Reflection::new(self.access.clone());
            routes = routes
                .add_service(reflection.v1().map_err(StartError::Reflection)?)
                .add_service(reflection.v1alpha().map_err(StartError::Reflection)?);
        }
        Ok(self.faults.handlers(service, routes))
    }
}

/// Serves the admin port.
async fn serve_admin(
    bound: server::Bound,
    metrics: Metrics,
    health: Health,
) -> Result<Http1Server, StartError> {
    let admin = Arc::new(Admin::new(metrics.clone(), health));
    let answer = move |request| {
        let admin = Arc::clone(&admin);
        async move { admin.answer(&request).await }
    };
    Ok(bound.serve_http1("admin", metrics, answer).await?)
}

/// The refresh task of an API client's token, with the parts that publish its state.
type KeptCredential = (Arc<str>, credential::Refresh, Credential, CredentialCondition);

impl StartedClient {
    fn new(
        name: &Arc<str>,
        client: &config::ApiClient,
        outgoing: &mut Outgoing,
        responses: &ResponseMemory,
        metrics: &Metrics,
        health: &Health,
    ) -> Result<Self, StartError> {
        let condition = health.credential(Arc::clone(name));
        let metrics = metrics.api_client(name);
        let http = outgoing.http(client)?;
        let endpoint = token_endpoint(name, client, &http)?;
        let (credential, refresh) =
            credential::new(client.credential.clone(), endpoint, metrics.clone(), WallClock::system());
        let (name, platform) = (Arc::clone(name), client.platform.clone());
        let api_client =
            ApiClientState::new(Arc::clone(&name), platform, responses, credential.clone(), metrics);
        let upstream = Upstream { api_client, bind_tokens: client.bind_tokens, http };
        Ok(Self { name, upstream, refresh, credential, condition })
    }

    fn split(self) -> (Upstream, KeptCredential) {
        (self.upstream, (self.name, self.refresh, self.credential, self.condition))
    }
}

/// Starts the tasks that keep keys, names, authorities and tokens fresh.
fn start_upkeep(
    supervisor: &Supervisor,
    metrics: &Metrics,
    key_refreshes: Vec<JwksRefresh>,
    token_keys: Option<Follower<KeyFile>>,
    outgoing: Outgoing,
    credentials: Vec<KeptCredential>,
) {
    for key_refresh in key_refreshes {
        duties::start_key_refresh(supervisor, key_refresh);
    }
    if let Some(follower) = token_keys {
        duties::start_token_keys(supervisor, follower);
    }
    duties::start_name_lookups(supervisor, outgoing.resolver);
    for follower in authorities::followers(outgoing.tls, metrics) {
        duties::start_authorities(supervisor, follower);
    }
    for (name, refresh, credential, condition) in credentials {
        duties::start_token_refresh(supervisor, &name, refresh);
        duties::start_credential_health(supervisor, &name, credential, condition);
    }
}
