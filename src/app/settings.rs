//! Converts the configuration to the settings of each part.

use std::{
    io,
    net::SocketAddr,
    num::{NonZeroU32, NonZeroUsize},
    sync::Arc,
    time::Duration,
};

use super::{StartError, descriptors::Share};
use crate::{
    access::{Policy, Quotas, Rate, RuleSettings, Rules},
    audit,
    caller::{
        self, BearerTokens, ForwardedFrom, ForwardedHeader, ForwardedSettings, JwksSource, JwtSettings,
    },
    config::{self, AuditSink, ClientAuth},
    credential::{self, ClientId},
    files,
    health::MAX_WATCHES_PER_CONNECTION,
    http_client::{ClientTlsSet, HttpSettings, Proxy, Resolver, UnpooledClient},
    memory::ResponseMemory,
    platform::{
        self,
        data_center::{DataCenter, Origin},
    },
    secret::hmac_key,
    server::{self, BucketSettings, DrainTimes, Limits, Transport, tls},
    telemetry::{
        metrics::Metrics,
        tracing::{self, CollectorTls, SamplingSettings, Tracer},
    },
};

/// The configuration with the limits that the share of open files allows.
pub(super) fn within(config: &config::Server, share: Share) -> config::Server {
    let lower = |configured: NonZeroU32, limit: u32| {
        NonZeroU32::new(limit).map_or(configured, |limit| configured.min(limit))
    };
    config::Server {
        max_connections: lower(config.max_connections, share.connections),
        max_in_flight: lower(config.max_in_flight, share.in_flight),
        ..config.clone()
    }
}

pub(super) fn server(config: &config::Server) -> server::Settings {
    let transport = match &config.tls {
        Some(tls) => Transport::Tls(tls::Settings {
            certificate_file: tls.certificate_file.clone(),
            private_key_file: tls.private_key_file.clone(),
            client_auth: client_auth(tls),
            poll_interval: files::POLL_INTERVAL,
        }),
        None if config.plaintext => Transport::Plaintext,
        None => Transport::LoopbackPlaintext,
    };
    let max_connections = config.max_connections.get() as usize;
    let limits = Limits {
        max_connections,
        max_connections_per_peer: config
            .max_connections_per_peer
            .map_or_else(|| a_quarter(max_connections), |max| max.get() as usize),
        idle_timeout: config.idle_timeout,
        connection_age: config.max_connection_age,
        ..Limits::default()
    };
    server::Settings {
        worker_threads: config.worker_threads.and_then(|threads| NonZeroUsize::try_from(threads).ok()),
        max_deadline: config.max_deadline,
        max_in_flight: config.max_in_flight.get() as usize,
        max_awaited_bodies: config.max_awaited_bodies.get() as usize,
        body_timeout: config.body_timeout,
        refused_calls: refused_calls(config),
        limits,
        drain: drain_times(config),
        ..server::Settings::new(config.listen, transport)
    }
}

/// Maximum number of connections of the health port.
pub(super) const HEALTH_CONNECTIONS: usize = 64;
/// Time without a call after which a connection of the health port is closed.
const HEALTH_IDLE_TIMEOUT: Duration = Duration::from_secs(10);

/// Health alone, without TLS, for probes that cannot show a certificate.
pub(super) fn health_server(
    config: &config::Server,
    listen: SocketAddr,
    max_connections: usize,
) -> server::Settings {
    let limits = Limits {
        max_connections,
        max_connections_per_peer: a_quarter(max_connections),
        idle_timeout: HEALTH_IDLE_TIMEOUT,
        unidentified_timeout: None,
        ..Limits::default()
    };
    server::Settings {
        worker_threads: Some(NonZeroUsize::MIN),
        limits,
        drain: drain_times(config),
        ..server::Settings::new(listen, Transport::Plaintext)
    }
}

/// Maximum number of connections of the admin port.
pub(super) const ADMIN_CONNECTIONS: usize = 64;
/// Maximum time until the head of a request of the admin port is complete.
const ADMIN_HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum time from the accepting of a connection of the admin port to the end of its response.
const ADMIN_REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Metrics and probes over plain HTTP.
pub(super) fn admin_server(listen: SocketAddr, max_connections: usize) -> server::Settings {
    let limits = Limits {
        max_connections,
        max_connections_per_peer: a_quarter(max_connections),
        idle_timeout: ADMIN_HEAD_TIMEOUT,
        unidentified_timeout: None,
        connection_age: ADMIN_REQUEST_TIMEOUT,
        ..Limits::default()
    };
    server::Settings { limits, ..server::Settings::new(listen, Transport::Plaintext) }
}

/// The default share of one peer address in all connections.
fn a_quarter(max_connections: usize) -> usize {
    (max_connections / 4).max(1)
}

/// Maximum number of health `Watch` streams of one peer address: as many as connections,
/// because a client needs one stream on each of its connections.
pub(super) fn watches_per_address(config: &config::Server) -> u32 {
    let connections = server(config).limits.max_connections_per_peer;
    u32::try_from(connections).unwrap_or(u32::MAX).max(MAX_WATCHES_PER_CONNECTION)
}

fn refused_calls(config: &config::Server) -> BucketSettings {
    let interval = match config.refused_call_rate {
        config::Rate::Limited { times, period } => period / times.get(),
        // The configuration refuses this.
        config::Rate::Unlimited => Duration::ZERO,
    };
    BucketSettings { interval, burst: config.refused_call_burst }
}

fn drain_times(config: &config::Server) -> DrainTimes {
    DrainTimes { lame_duck: config.drain_lame_duck, cut_off: config.drain_timeout, ..DrainTimes::default() }
}

fn client_auth(tls: &config::ServerTls) -> tls::ClientAuth {
    match (tls.client_auth, &tls.client_ca_file) {
        (ClientAuth::Require, Some(ca_file)) => tls::ClientAuth::Require { ca_file: ca_file.clone() },
        (ClientAuth::Optional, Some(ca_file)) => tls::ClientAuth::Optional { ca_file: ca_file.clone() },
        // The configuration refuses client certificates without an authority for them.
        (ClientAuth::Off, _) | (_, None) => tls::ClientAuth::Off,
    }
}

/// The access rules, as the access stage wants them.
pub fn access_rules(config: &config::Access) -> Result<Rules, StartError> {
    let rate = |rate| match rate {
        config::Rate::Unlimited => Rate::Unlimited,
        config::Rate::Limited { times, period } => Rate::PerPeriod { calls: times, period },
    };
    let rules = config.rules.iter().map(|rule| RuleSettings {
        callers: rule.callers.clone(),
        methods: rule.methods.clone(),
        api_clients: rule.api_clients.clone(),
        users: rule.users.clone(),
        rate: Some(rate(rule.rate)),
        burst: Some(rule.burst.get()),
        user_rate: Some(rate(rule.user_rate)),
        user_burst: Some(rule.user_burst.get()),
        max_in_flight: rule.max_in_flight,
    });
    Ok(Rules::try_new(rules.collect())?)
}

/// Everything that decides who may do what.
pub(super) fn policy(access: &config::Access, tokens: &config::Tokens) -> Result<Policy, StartError> {
    let quotas = if access.quota_dry_run { Quotas::DryRun } else { Quotas::Enforced };
    Ok(Policy {
        rules: access_rules(access)?,
        quotas,
        max_quota_users: access.max_quota_users.get() as usize,
        tokens: BearerTokens::try_new(bearer_tokens(tokens))?,
    })
}

/// The callers that the rules name in full, which have metrics of their own.
pub(super) fn named_callers(config: &config::Access) -> impl Iterator<Item = &str> {
    let names = config.rules.iter().flat_map(|rule| rule.callers.iter().map(String::as_str));
    names.filter(|name| !name.contains(['*', '?']))
}

pub(super) fn audit(config: &config::Audit, server: &config::Server) -> Result<audit::Settings, StartError> {
    let sink = match &config.sink {
        AuditSink::Off => audit::Sink::Off,
        AuditSink::Stdout => audit::Sink::Stdout,
        AuditSink::File(path) => audit::Sink::File(path.clone()),
    };
    let hmac_key = match &config.hmac_key_file {
        None => None,
        Some(path) => {
            let mut key = files::read(path, files::MAX_BYTES)
                .map_err(|error| StartError::HmacKey(path.clone(), error.into()))?;
            hmac_key::check(&key.bytes)
                .map_err(|error| StartError::HmacKey(path.clone(), io::Error::other(error)))?;
            let key = std::mem::take(&mut *key.bytes);
            Some(audit::HmacKey::new(config.hmac_key_id.clone().unwrap_or_default(), key))
        }
    };
    let max_in_flight = server.max_in_flight.get() as usize;
    Ok(audit::Settings { sink, hmac_key, fsync: config.fsync, max_in_flight })
}

/// Traces, if they are configured.
pub(super) fn tracer(
    config: &config::Telemetry,
    metrics: &Metrics,
    tls: &mut ClientTlsSet,
) -> Result<Tracer, StartError> {
    match traces(config, tls)? {
        Some(settings) => Ok(Tracer::start(&settings, metrics)?),
        None => Ok(Tracer::off()),
    }
}

/// How traces are sent; none if they are not configured.
pub(super) fn traces(
    config: &config::Telemetry,
    tls: &mut ClientTlsSet,
) -> Result<Option<tracing::Settings>, StartError> {
    let Some(endpoint) = &config.otlp_endpoint else { return Ok(None) };
    let mut settings = tracing::Settings::new(endpoint.clone());
    if endpoint.scheme() == "https" {
        // The authorities in it are replaced when they change.
        let tls = tls.get(config.otlp_ca_file.as_deref(), endpoint, None)?;
        let config = Arc::clone(tls.config());
        settings.tls = Some(CollectorTls { config, generation: Arc::new(move || tls.generation()) });
    }
    let options = &config.traces;
    settings.headers = options.headers.clone();
    settings.attempt_timeout = options.attempt_timeout.unwrap_or(settings.attempt_timeout);
    settings.batch_timeout = options.batch_timeout.unwrap_or(settings.batch_timeout);
    settings.sampling =
        SamplingSettings { ratio: config.trace_ratio, follow_callers: !options.without_callers_decision };
    let queue = &mut settings.queue;
    queue.max_spans = options.max_queued_spans.unwrap_or(queue.max_spans);
    queue.batch = options.max_batch_spans.unwrap_or(queue.batch).min(queue.max_spans);
    queue.delay = options.batch_delay.unwrap_or(queue.delay);
    settings.service_name = options.service_name.clone().unwrap_or(settings.service_name);
    settings.resource.clone_from(&options.resource);
    settings.max_attributes = options.max_attributes.unwrap_or(settings.max_attributes);
    settings.max_value_length = options.max_value_length.unwrap_or(settings.max_value_length);
    settings.propagate = !options.without_propagation;
    Ok(Some(settings))
}

/// The kinds of proof by which callers are identified.
pub(super) fn callers(
    config: &config::Callers,
    tls: &mut ClientTlsSet,
    resolver: &Resolver,
) -> Result<caller::Settings, StartError> {
    let jwt = config.jwt.iter().map(|issuer| jwt(issuer, tls, resolver)).collect::<Result<_, _>>()?;
    let forwarded = config.forwarded.as_ref().map(|forwarded| ForwardedSettings {
        header: match forwarded.header {
            config::ForwardedHeader::XForwardedClientCert => ForwardedHeader::Xfcc,
            config::ForwardedHeader::L5dClientId => ForwardedHeader::L5dClientId,
        },
        from: forwarded.from.iter().map(forwarded_from).collect(),
    });
    Ok(caller::Settings { jwt, forwarded })
}

fn jwt(jwt: &config::Jwt, tls: &mut ClientTlsSet, resolver: &Resolver) -> Result<JwtSettings, StartError> {
    let jwks = match &jwt.keys {
        config::JwksSource::File(path) => JwksSource::File(path.clone()),
        config::JwksSource::Url { url, ca_file, max_age } => {
            let tls = tls.get(ca_file.as_deref(), url, None)?;
            let settings = HttpSettings::new(url.clone(), tls, resolver.clone());
            JwksSource::Url { url: url.clone(), http: UnpooledClient::new(settings)?, max_age: *max_age }
        }
    };
    Ok(JwtSettings {
        name: jwt.name.clone(),
        issuer: jwt.issuer.clone(),
        audience: jwt.audience.clone(),
        typ: jwt.typ.clone(),
        max_lifetime: jwt.max_lifetime,
        jwks,
    })
}

fn bearer_tokens(tokens: &config::Tokens) -> Vec<(String, [u8; 32])> {
    let of = |(name, hashes): (&Arc<str>, &Vec<config::TokenHash>)| {
        hashes.iter().map(|hash| (name.to_string(), hash.0)).collect::<Vec<_>>()
    };
    tokens.iter().flat_map(of).collect()
}

fn forwarded_from(from: &config::ForwardedFrom) -> ForwardedFrom {
    match from {
        config::ForwardedFrom::Loopback => ForwardedFrom::Loopback,
        config::ForwardedFrom::Address(address) => ForwardedFrom::Address(*address),
        config::ForwardedFrom::Spiffe(id) => ForwardedFrom::Spiffe(id.clone()),
        config::ForwardedFrom::Dns(name) => ForwardedFrom::Dns(name.clone()),
    }
}

fn data_center(name: &Arc<str>, client: &config::ApiClient) -> Result<DataCenter, StartError> {
    let data_center = DataCenter::parse(client.data_center_url.as_str())
        .map_err(|error| StartError::Url(Arc::clone(name), error))?;
    Ok(match &client.public_url {
        Some(public) => data_center.seen_at(public),
        None => data_center,
    })
}

pub(super) fn platform(
    name: &Arc<str>,
    client: &config::ApiClient,
    memory: ResponseMemory,
) -> Result<platform::Settings, StartError> {
    let mut target_origins = Vec::new();
    for origin in &client.target_origins {
        let origin =
            Origin::parse(origin.as_str()).map_err(|error| StartError::Url(Arc::clone(name), error))?;
        target_origins.push(origin);
    }
    let mut limits =
        platform::Limits { min_login_time_left: client.min_login_time, ..platform::Limits::default() };
    if !client.breaker {
        limits.breaker = None;
    }
    Ok(platform::Settings {
        name: Arc::clone(name),
        data_center: data_center(name, client)?,
        target_origins,
        propagate_trace: client.propagate_trace,
        limits,
        memory,
    })
}

/// How an API client's platform is reached.
pub(super) fn http(
    client: &config::ApiClient,
    tls: &mut ClientTlsSet,
    resolver: &Resolver,
) -> Result<HttpSettings, StartError> {
    let proxy = client.proxy_url.as_ref().map(config::ProxyUrl::expose);
    let tls = tls.get(client.ca_file.as_deref(), &client.data_center_url, proxy)?;
    let mut settings = HttpSettings::new(client.data_center_url.clone(), tls, resolver.clone());
    settings.max_idle_connections = client.max_idle_connections.get() as usize;
    settings.proxy = proxy.map(|proxy| Proxy::new(proxy.clone(), &settings.tls));
    Ok(settings)
}

/// How an API client's access token is kept. The HTTP client is one of its own.
pub(super) fn credential(
    name: &Arc<str>,
    client: &config::ApiClient,
    http: &HttpSettings,
) -> Result<credential::Settings, StartError> {
    let secret = match &client.client_secret {
        config::SecretSource::File(path) | config::SecretSource::Credential(path) => {
            credential::SecretSource::File(path.clone())
        }
        config::SecretSource::Environment(secret) => credential::SecretSource::Fixed(secret.clone()),
    };
    Ok(credential::Settings {
        api_client: Arc::clone(name),
        client_id: ClientId::parse(&client.client_id)
            .map_err(|error| StartError::ClientId(Arc::clone(name), error))?,
        secret,
        token_url: data_center(name, client)?.token_url().clone(),
        http: UnpooledClient::new(http.clone())?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_peer_has_a_quarter_of_the_connections_unless_configured() {
        let with = |max: u32, per_peer: Option<u32>| {
            let max_connections = NonZeroU32::new(max).unwrap();
            let max_connections_per_peer = per_peer.and_then(NonZeroU32::new);
            let config = config::Server { max_connections, max_connections_per_peer, ..Default::default() };
            server(&config).limits.max_connections_per_peer
        };
        assert_eq!(
            [with(1024, None), with(2000, None), with(3, None), with(1024, Some(7))],
            [256, 500, 1, 7]
        );
    }
}
