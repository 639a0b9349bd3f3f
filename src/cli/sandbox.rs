//! `ott-gateway sandbox`: runs the gateway in front of a simulated platform.

mod account_list;
mod public_url;
mod ready_file;

use std::{io, net::SocketAddr, path::PathBuf, time::Duration};

use clap::Args;
use tonic::transport::Endpoint;
use url::Url;

use self::ready_file::{Ready, ReadyFile};
use super::{
    failure::{Failure, chain},
    output::Output,
    serve::{
        LOG_FLUSH_LIMIT, audit_closed, listen_to_signals, lost, not_started, on_control_runtime,
        protect_from_signals, raise_limit_of_open_files, records_lost, start_log,
    },
    walk::{Addresses, Contacts, opening, walk},
};
use crate::{
    app::{App, OnHangUp, Shutdown},
    base::{secret::client_secret::ClientSecret, text::Printable},
    config::{Config, Process, SandboxPlatform, absolute},
    credential::ClientId,
    observe::audit::StopCause,
    sandbox::{self, Accounts, AccountsError, FaultPlan, Sandbox},
    server::Transport,
};

/// Try everything on this machine, against a simulated platform.
///
/// Starts the simulated platform and the gateway in front of it, issues and spends one token as a
/// demonstration (the walk), and serves until Ctrl-C. Nothing leaves this machine, except to fetch
/// keys from a `jwks_url` of --config, and no account on the platform is needed. Do not use real
/// credentials: the API client "sandbox" and its secret "sandbox-secret" are public.
/// Documentation: docs/sandbox.md.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// Address of the gateway's gRPC listener [default: 127.0.0.1:50051, or as in --config]
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    pub(super) listen: Option<SocketAddr>,
    /// Address of the simulated platform's HTTP listener
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080", value_parser = address)]
    pub(super) platform_listen: SocketAddr,
    /// URL of the simulated platform for browsers and other machines, used in login URLs and printed text
    /// [default: its address, or loopback if it listens on every address]
    #[arg(long, value_name = "URL", value_parser = public_url::parse)]
    pub(super) public_url: Option<Url>,
    /// Use callers, access rules, quotas, TLS and audit of a `serve` configuration file. Its API
    /// clients keep their names, but use the simulated platform. Skips the walk and sends no traces;
    /// an audit file must be new or empty
    #[arg(long, value_name = "FILE", conflicts_with = "once")]
    pub(super) config: Option<PathBuf>,
    /// Read the accounts from a JSON file; the walk uses the first [default: a built-in set]
    #[arg(long, value_name = "FILE")]
    pub(super) accounts: Option<PathBuf>,
    /// Seal one-time tokens with a random key, as with `bind_tokens = "on"` in a configuration file
    #[arg(long, conflicts_with = "config")]
    pub(super) bind_tokens: bool,
    /// List the accounts and exit
    #[arg(long)]
    pub(super) list_accounts: bool,
    /// Lifetime of one-time tokens, from 1s to 1h
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = token_life)]
    pub(super) token_life: Duration,
    /// Make every N-th request to the platform fail: KIND/N, such as 503/10
    #[arg(long, value_name = "SPEC")]
    pub(super) fault: Option<String>,
    /// Write the addresses to a JSON file after the walk, when everything serves; the file is removed
    /// at exit
    #[arg(long, value_name = "FILE")]
    pub(super) ready_file: Option<PathBuf>,
    /// Exit after the walk
    #[arg(long)]
    pub(super) once: bool,
}

const EXAMPLES: &str = "\
Examples:
  ott-gateway sandbox
  ott-gateway sandbox --once
  ott-gateway sandbox --bind-tokens
  ott-gateway sandbox --listen 127.0.0.1:0 --platform-listen 127.0.0.1:0 --ready-file ready.json
  ott-gateway sandbox --listen 0.0.0.0:50051 --platform-listen 0.0.0.0:8080 \\
    --public-url http://localhost:8080
  ott-gateway sandbox --config gateway.toml

Every error on demand: issue for the login fault+KIND@sandbox to make issuing fail, or for
login-fault+KIND@sandbox to get a token whose login fails. KIND is a reason in docs/errors.md,
such as DRAINING or USER_NOT_FOUND, alone or with one of its codes (AUDIT_UNAVAILABLE-ABORTED),
or a response of the platform: an HTTP status (503), a status with an API code (400-1018), malformed, cut, reset, slow, huge, redirect, blocked, other-account. --fault accepts only responses
of the platform.

For tests, on the platform's address:
  GET  /sandbox/requests   list the requests that the platform received
  POST /sandbox/reset      clear tokens, sessions, requests and used quotas
                           (with the header content-type: application/json)";

/// The user in the platform's documentation.
const DOCUMENTED_LOGIN: &str = "johncustomer@mysite.com";
/// Default address of the gateway.
const DEFAULT_LISTEN: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 50051);

pub(super) fn run(arguments: &Arguments, output: &mut Output) -> Result<(), Failure> {
    let accounts = match &arguments.accounts {
        Some(file) => Accounts::from_file(file).map_err(invalid_accounts)?,
        None => Accounts::built_in(),
    };
    if arguments.list_accounts {
        account_list::print(&accounts, output);
        return Ok(());
    }
    let ip = arguments.platform_listen.ip();
    if !ip.is_loopback() && !ip.is_unspecified() {
        let rule = "must be a loopback address, or 0.0.0.0 or [::]: the gateway connects to it without TLS";
        return Err(Failure::Usage(format!("--platform-listen: {rule}")));
    }
    protect_from_signals()?;
    let faults = match &arguments.fault {
        Some(plan) => plan.parse().map_err(|error| Failure::Usage(format!("--fault: {error}")))?,
        None => FaultPlan::none(),
    };
    let login = accounts.first_login().unwrap_or(DOCUMENTED_LOGIN).to_owned();
    let (client_id, client_secret) = accounts.credential();
    let credential = (client_id.to_owned(), client_secret.to_owned());
    let settings = sandbox::Settings {
        accounts,
        faults,
        ott_lifetime: arguments.token_life,
        public_url: arguments.public_url.as_ref().map(public_url::without_slash),
        ..sandbox::Settings::new(arguments.platform_listen)
    };
    let mut ready_file = arguments.ready_file.as_deref().map(ReadyFile::new).transpose()?;
    on_control_runtime(async {
        let platform = sandbox::start(settings).await.map_err(platform_not_started)?;
        let config = configuration(arguments, &platform, credential)?;
        for warning in &config.warnings {
            output.note(format_args!("warning: {warning}"));
        }
        let logging = start_log(&config)?;
        raise_limit_of_open_files(&config);
        let contacts = if config.fetches_keys() { Contacts::KeyIssuers } else { Contacts::Nothing };
        let has_tls = config.server.grpc.transport.client_auth().is_some();
        let app = Box::pin(App::start_with_faults(config, platform.fault_injector()))
            .await
            .map_err(|error| not_started(&error, "--listen"))?;
        app.report_log(logging.clone());
        // Both ports are bound, so that no other sandbox serves at these addresses.
        if let Some(file) = &ready_file {
            file.remove_earlier()?;
        }

        let addresses =
            public_url::shown(app.local_addr(), &platform.base_url(), arguments.public_url.as_ref());
        warn_if_open(&[("gateway", app.local_addr()), ("platform", platform.local_addr())], output);
        let walked = if arguments.config.is_some() {
            opening(&addresses, contacts, output);
            Ok(())
        } else {
            let gateway = public_url::on_this_machine(app.local_addr());
            let endpoint = Endpoint::from_shared(format!("http://{gateway}"))
                .map_err(|error| Failure::Failed(chain(&error)))?;
            walk(endpoint.connect_lazy(), &addresses, &login, output).await
        };
        // After the walk, whose requests would interfere with tests.
        if let Some(file) = &mut ready_file {
            file.write(&ready(&app, has_tls, &platform, &addresses))?;
        }
        let done = if arguments.once {
            let records = app.stop(StopCause::Finished).await;
            walked.and_then(|()| records.map_err(|_| records_lost()))
        } else {
            // The walk may fail on purpose: by --fault, or by an account that cannot log in.
            if let Err(failure) = &walked {
                output.failure(failure);
                output.note("The walk failed; the sandbox continues to serve.");
            }
            // Before the note, so that a Ctrl-C after it starts a drain.
            let signals = listen_to_signals(OnHangUp::Stop)?;
            output.note("\nServing until Ctrl-C.");
            match signals.serve(app).await {
                Shutdown::Drained | Shutdown::CutOff => Ok(()),
                Shutdown::ThreadLost(thread) => Err(lost(&thread)),
                Shutdown::AuditClosed => Err(audit_closed()),
                Shutdown::RecordsLost => Err(records_lost()),
            }
        };
        drop(ready_file);
        platform.stop().await;
        logging.flush(LOG_FLUSH_LIMIT);
        done
    })
}

/// Returns the configuration of the gateway: the built-in one, or the file's with the simulated
/// platform in place of every data center.
fn configuration(
    arguments: &Arguments,
    platform: &Sandbox,
    (client_id, client_secret): (String, String),
) -> Result<Config, Failure> {
    let base_url = platform.base_url();
    let url: Url = base_url.parse().map_err(|_| Failure::Failed(format!("{base_url} is not a URL")))?;
    let secret = ClientSecret::parse(client_secret.as_bytes())
        .map_err(|error| Failure::Usage(format!("--accounts: client_secret: {error}")))?;
    let mut config = match &arguments.config {
        None => {
            let listen = arguments.listen.unwrap_or(DEFAULT_LISTEN);
            let mut config = Config::sandbox(&url, listen, secret, &Process)?;
            if arguments.bind_tokens {
                config.seal_with_random_key().map_err(|error| Failure::Failed(error.to_string()))?;
            }
            config
        }
        Some(file) => {
            let platform =
                SandboxPlatform { url: &url, client_id: &client_id, client_secret: &client_secret };
            let mut config = Config::load_for_sandbox(file, platform, &Process)?;
            if let Some(listen) = arguments.listen {
                let grpc = &mut config.server.grpc;
                grpc.listen = listen;
                // Requested explicitly, and a sandbox has nothing to protect.
                if grpc.transport == Transport::LoopbackPlaintext {
                    grpc.transport = Transport::Plaintext;
                }
            }
            config
        }
    };
    let client_id = ClientId::parse(&client_id)
        .map_err(|error| Failure::Usage(format!("--accounts: client_id: {error}")))?;
    for client in config.api_clients.by_name.values_mut() {
        client.credential.client_id.clone_from(&client_id);
        if let Some(url) = &arguments.public_url {
            client.platform.data_center = client.platform.data_center.clone().seen_at(url);
        }
    }
    Ok(config)
}

fn ready(app: &App, gateway_tls: bool, platform: &Sandbox, shown: &Addresses) -> Ready {
    Ready {
        gateway: public_url::on_this_machine(app.local_addr()).to_string(),
        gateway_tls,
        platform: platform.base_url(),
        public_url: shown.platform.clone(),
        admin: app.admin_addr().map(|address| public_url::on_this_machine(address).to_string()),
        pid: std::process::id(),
    }
}

/// Warns about addresses that other machines can reach, with their actual ports.
fn warn_if_open(addresses: &[(&str, SocketAddr)], output: &mut Output) {
    for (what, address) in addresses.iter().filter(|(_, address)| !address.ip().is_loopback()) {
        output.note(format_args!(
            "warning: the sandbox's {what} at {address} is open to the network, and its secret is public"
        ));
    }
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "must be an IP address and a port, such as 127.0.0.1:50051".to_owned())
}

fn token_life(text: &str) -> Result<Duration, String> {
    let bounds = Duration::from_secs(1)..=Duration::from_hours(1);
    humantime::parse_duration(text)
        .ok()
        .filter(|duration| bounds.contains(duration))
        .ok_or_else(|| "must be a duration with its unit, from 1s to 1h".to_owned())
}

fn invalid_accounts(error: AccountsError) -> Failure {
    const ARGUMENT: &str = "--accounts";
    match error {
        AccountsError::Unreadable { path, source } if source.kind() == io::ErrorKind::InvalidData => {
            Failure::Usage(format!(
                "{ARGUMENT}: {}: is not UTF-8 text; save it as UTF-8",
                absolute(&path).display()
            ))
        }
        AccountsError::Unreadable { path, source } => {
            Failure::File { argument: ARGUMENT, path, kind: source.kind() }
        }
        AccountsError::Syntax { .. } => Failure::Usage(format!("{ARGUMENT}: {error}")),
        AccountsError::Fields(fields) => Failure::InvalidFile {
            argument: ARGUMENT,
            problems: fields.iter().map(|field| Printable(field).to_string()).collect(),
        },
    }
}

fn platform_not_started(error: sandbox::StartError) -> Failure {
    match error {
        sandbox::StartError::AddressInUse { address } => {
            Failure::listen(address, &io::ErrorKind::AddrInUse.into(), "--platform-listen")
        }
        sandbox::StartError::Listen { address, source } => {
            Failure::listen(address, &source, "--platform-listen")
        }
    }
}
