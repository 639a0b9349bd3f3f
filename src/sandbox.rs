//! The simulated platform: its documented endpoints, for tests.
//!
//! Uses only the clock and the names of reasons from the rest of the crate, and shares no type with
//! `platform`: both are written from the platform's documentation, so that one can be wrong without
//! the other. Do not use real credentials with it. Every token that it issues starts with
//! [`TOKEN_MARK`].
//!
//! A request passes through `listener`, `log` (which fills the `journal`), `body` and `faults` to
//! its endpoint in `idp`, `api`, `directory` or `pages`, which use `accounts` and `tokens`.
//! `fault_request` parses the faults that logins request; `fault_injector` decides those that the
//! gateway injects.

mod accounts;
mod api;
mod body;
mod directory;
mod error;
mod expiring;
mod fault_injector;
mod fault_request;
mod faults;
mod host;
mod idp;
mod journal;
mod listener;
mod log;
mod pages;
mod reasons;
mod reset;
mod tokens;
mod wire;

#[cfg(test)]
mod tests;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, Request, header};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Extension, Router};
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

pub use self::accounts::file::Problem;
pub use self::accounts::{Accounts, AccountsError, CLIENT_ID, CLIENT_SECRET, ListedAccount};
use self::accounts::{ApiClient, User};
use self::error::ApiError;
use self::fault_injector::Demands;
use self::faults::Planned;
pub use self::faults::{Fault, FaultPlan, FaultPlanError, UnknownFault};
use self::journal::Journal;
use self::reset::Forget;
pub use self::tokens::MARK as TOKEN_MARK;
use self::tokens::Tokens;
use self::wire::Cutter;
use crate::base::clock::WallClock;
use crate::fault_injection::FaultInjector;

/// Documented lifetime of the platform's access tokens.
pub const ACCESS_TOKEN_LIFETIME: Duration = Duration::from_hours(2);
/// Documented lifetime of the platform's one-time tokens.
pub const OTT_LIFETIME: Duration = Duration::from_secs(30);

/// Settings of a sandbox.
#[derive(Debug)]
pub struct Settings {
    /// Address to listen on. Anyone who can reach it can use it, because its secret is documented.
    pub listen: SocketAddr,
    /// The accounts.
    pub accounts: Accounts,
    /// Requests that fail by count.
    pub faults: FaultPlan,
    /// Lifetime of an access token.
    pub access_token_lifetime: Duration,
    /// Lifetime of a one-time token.
    pub ott_lifetime: Duration,
    /// URL for browsers and callers, without a path. `None`: the listen address, or loopback if that
    /// is unspecified.
    pub public_url: Option<String>,
    /// Clock of `expires_on` and of the `Date` header.
    pub wall_clock: WallClock,
}

impl Settings {
    /// Returns the documented behavior, with the built-in accounts and no faults.
    #[must_use]
    pub fn new(listen: SocketAddr) -> Self {
        Self {
            listen,
            accounts: Accounts::built_in(),
            faults: FaultPlan::none(),
            access_token_lifetime: ACCESS_TOKEN_LIFETIME,
            ott_lifetime: OTT_LIFETIME,
            public_url: None,
            wall_clock: WallClock::system(),
        }
    }
}

/// Why a sandbox does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Another program listens on the address.
    #[error("{address} is in use by another program")]
    AddressInUse {
        /// The address.
        address: SocketAddr,
    },
    /// The system refuses to listen on the address.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Error of the system.
        source: io::Error,
    },
}

/// A running sandbox. It stops when it is dropped, or gracefully with [`stop`](Self::stop).
#[derive(Debug)]
pub struct Sandbox {
    address: SocketAddr,
    fault_injector: Arc<dyn FaultInjector>,
    tasks: TaskTracker,
    stop: DropGuard,
}

/// Starts a sandbox on the current runtime; it accepts connections when this returns.
pub async fn start(settings: Settings) -> Result<Sandbox, StartError> {
    let address = settings.listen;
    let refused = |source: io::Error| match source.kind() {
        io::ErrorKind::AddrInUse => StartError::AddressInUse { address },
        _ => StartError::Listen { address, source },
    };
    let listener = TcpListener::bind(address).await.map_err(refused)?;
    let address = listener.local_addr().map_err(refused)?;
    if !address.ip().is_loopback() {
        tracing::warn!(%address, "sandbox is open to the network, and its secret is public");
    }

    let world = World {
        accounts: settings.accounts,
        tokens: Tokens::new(settings.access_token_lifetime, settings.ott_lifetime),
        planned: Planned::new(settings.faults),
        access_token_lifetime: settings.access_token_lifetime,
        wall_clock: settings.wall_clock,
        ott_lifetime: settings.ott_lifetime,
        public_url: settings.public_url.unwrap_or_else(|| base_url(address)),
        journal: Journal::default(),
        forget: Forget::default(),
    };
    let world = Arc::new(world);
    let stop = CancellationToken::new();
    let tasks = TaskTracker::new();
    tasks.spawn(listener::serve(listener, router(Arc::clone(&world)), stop.clone(), tasks.clone()));
    Ok(Sandbox { address, fault_injector: Arc::new(Demands(world)), tasks, stop: stop.drop_guard() })
}

impl Sandbox {
    /// Returns the listen address, with the actual port if 0 was configured.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Returns the data center URL for clients on this machine.
    pub fn base_url(&self) -> String {
        base_url(self.address)
    }

    /// Returns the fault injector for the gateway in front of it.
    pub fn fault_injector(&self) -> Arc<dyn FaultInjector> {
        Arc::clone(&self.fault_injector)
    }

    /// Stops accepting connections and waits for requests in flight, at most 1 s.
    pub async fn stop(self) {
        self.stop.disarm().cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// Returns the URL for clients on this machine, with loopback for an unspecified address.
fn base_url(address: SocketAddr) -> String {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    format!("http://{}", SocketAddr::new(ip, address.port()))
}

/// State of the endpoints.
struct World {
    accounts: Accounts,
    tokens: Tokens,
    planned: Planned,
    access_token_lifetime: Duration,
    wall_clock: WallClock,
    ott_lifetime: Duration,
    public_url: String,
    journal: Journal,
    forget: Forget,
}

impl World {
    /// Returns the API client of the access token in a request.
    fn api_client(&self, headers: &HeaderMap) -> Result<Arc<ApiClient>, ApiError> {
        idp::authorization(headers, "Bearer")
            .and_then(|token| self.tokens.api_client(token))
            .ok_or_else(ApiError::access_token)
    }

    /// Returns the user of the session in the cookies of a request.
    fn logged_in(&self, headers: &HeaderMap) -> Option<Arc<User>> {
        self.tokens.user_of(&idp::session_name(headers)?)
    }
}

fn router(world: Arc<World>) -> Router {
    let endpoints = Router::new()
        .route("/api/2/idp/token", post(idp::token))
        .route("/api/2/idp/ott", post(idp::ott))
        .route("/api/2/idp/ott/login", post(idp::ott_login))
        .route("/api/2/idp/logout", get(idp::logout))
        .route("/api/2/search", get(directory::search))
        .route("/api/2/users", get(directory::users))
        .route("/api/2/users/check_login", get(directory::check_login))
        .route("/api/2/users/me", get(api::me))
        .route("/api/2/users/{id}", get(api::user))
        .route("/api/2/tenants", get(directory::tenants))
        .route("/api/2/tenants/{id}", get(api::tenant))
        .route("/api/2/tenants/{id}/children", get(directory::children))
        .route("/api/2/tenants/{id}/users", get(directory::tenant_users))
        .route("/api/2/clients/{id}", get(api::client))
        .route_layer(middleware::from_fn_with_state(Arc::clone(&world), inject_faults));
    let for_tests = Router::new()
        .route("/sandbox/requests", get(journal::requests))
        .route("/sandbox/reset", post(reset::reset))
        .route_layer(middleware::from_fn(reset::refuse_pages))
        .route_layer(middleware::from_fn_with_state(Arc::clone(&world), host::refuse_other_names));
    let around = Router::new()
        .route("/.well-known/openid-configuration", get(api::openid_configuration))
        .route("/api/1/accounts", get(api::data_center))
        .route("/api/2/idp/external-login", get(pages::external_login))
        .route("/mc/", get(pages::console))
        .route("/mc", get(pages::to_console))
        .route("/", get(pages::to_console))
        .route("/favicon.ico", get(pages::no_icon));
    endpoints
        .merge(around)
        .merge(for_tests)
        .fallback(error::no_such_endpoint)
        .method_not_allowed_fallback(error::no_such_method)
        .layer(middleware::from_fn(body::take_whole))
        .layer(middleware::map_response_with_state(Arc::clone(&world), common_headers))
        .layer(middleware::from_fn_with_state(Arc::clone(&world), log::requests))
        .with_state(world)
}

/// Injects faults: planned ones, and those that an endpoint adds to the extensions of its response.
async fn inject_faults(
    State(world): State<Arc<World>>,
    Extension(cutter): Extension<Cutter>,
    request: Request<Body>,
    next: Next,
) -> Response {
    let planned = world.planned.next();
    if let Some(refusal) = planned.and_then(Fault::refusal) {
        return refusal;
    }
    let mut answer = next.run(request).await;
    let demanded = answer.extensions_mut().remove::<Fault>();
    match planned.or(demanded) {
        Some(fault) => fault.spoil(answer, &cutter).await,
        None => answer,
    }
}

/// Adds the headers of every response of the platform.
async fn common_headers(State(world): State<Arc<World>>, mut response: Response) -> Response {
    let headers = response.headers_mut();
    // An HTTP date is ASCII. Otherwise the server would set its own.
    if let Ok(date) = HeaderValue::try_from(httpdate::fmt_http_date(world.wall_clock.now())) {
        headers.insert(header::DATE, date);
    }
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::PRAGMA, HeaderValue::from_static("no-cache"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::SERVER, HeaderValue::from_static("ott-gateway-sandbox"));
    if headers.get(header::CONTENT_TYPE).is_some_and(|value| value == "application/json") {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json; charset=utf-8"));
    }
    response
}
