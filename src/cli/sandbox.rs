//! `ott-gateway sandbox`: the gateway in front of a copy of the platform.

use std::{io, net::SocketAddr, path::PathBuf};

use clap::Args;
use tonic::transport::Endpoint;

use super::{
    failure::{Failure, chain},
    output::Output,
    serve::{
        LOG_FLUSH_LIMIT, audit_closed, listen_to_signals, lost, not_started, on_control_runtime,
        protect_from_signals, raise_limit_of_open_files, records_lost, start_log,
    },
    walk::{Addresses, walk},
};
use crate::{
    app::{App, Ended, OnHangUp},
    config::{Config, Process},
    sandbox::{self, Accounts, FaultPlan},
    secret::client_secret::ClientSecret,
};

/// Try everything on this machine, against a copy of the platform.
///
/// Starts the copy and the gateway in front of it, walks once through issuing and
/// spending a token, and serves until Ctrl-C. Nothing leaves this machine, no account on
/// the platform is needed, and no real credentials belong in it: the API client "sandbox"
/// with the secret "sandbox-secret" is known to all.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// Where the gateway serves gRPC
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:50051", value_parser = address)]
    pub(super) listen: SocketAddr,
    /// Where the copy of the platform serves HTTP
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080", value_parser = address)]
    pub(super) platform_listen: SocketAddr,
    /// A JSON file with the accounts, of which the walk takes the first [default: a built-in set]
    #[arg(long, value_name = "FILE")]
    pub(super) accounts: Option<PathBuf>,
    /// Let every n-th request to the platform fail: KIND/N, such as 503/10
    #[arg(long, value_name = "SPEC")]
    pub(super) fault: Option<String>,
    /// Exit after the walk
    #[arg(long)]
    pub(super) once: bool,
}

const EXAMPLES: &str = "\
Examples:
  ott-gateway sandbox
  ott-gateway sandbox --once
  ott-gateway sandbox --listen 127.0.0.1:6000 --platform-listen 127.0.0.1:6001

Every error on demand: issue for the login fault+KIND@sandbox to let issuing fail, or for
login-fault+KIND@sandbox to get a token whose login fails. KIND is an HTTP status (503), a
status with an API code (400-1018), 429, html, malformed, cut, reset, slow, huge, redirect.";

/// The user of the platform's own documentation.
const DOCUMENTED_LOGIN: &str = "johncustomer@mysite.com";

pub(super) fn run(arguments: &Arguments, output: &mut Output) -> Result<(), Failure> {
    protect_from_signals()?;
    let accounts = match &arguments.accounts {
        Some(file) => Accounts::from_file(file).map_err(|error| Failure::Usage(chain(&error)))?,
        None => Accounts::built_in(),
    };
    let faults = match &arguments.fault {
        Some(plan) => plan.parse().map_err(|error| Failure::Usage(format!("--fault: {error}")))?,
        None => FaultPlan::none(),
    };
    let login = accounts.first_login().unwrap_or(DOCUMENTED_LOGIN).to_owned();
    let settings =
        sandbox::Settings { accounts, faults, ..sandbox::Settings::new(arguments.platform_listen) };
    for (what, address) in [("gateway", arguments.listen), ("platform", arguments.platform_listen)] {
        if !address.ip().is_loopback() {
            output.note(format_args!(
                "warning: the sandbox's {what} at {address} is open to the network, and its secret is known to all"
            ));
        }
    }
    on_control_runtime(async {
        let platform = sandbox::start(settings).await.map_err(platform_not_started)?;
        let base_url = platform.base_url();
        let data_center = base_url.parse().map_err(|_| Failure::Failed(format!("{base_url} is no URL")))?;
        let secret = ClientSecret::parse(sandbox::CLIENT_SECRET.as_bytes())
            .map_err(|error| Failure::Failed(error.to_string()))?;
        let config = Config::sandbox(data_center, arguments.listen, secret, &Process)?;
        let logging = start_log(&config)?;
        raise_limit_of_open_files(&config);
        let app = Box::pin(App::start(config)).await.map_err(|error| not_started(&error, "--listen"))?;
        app.report_log(logging.clone());

        let addresses = Addresses { gateway: app.local_addr(), platform: platform.local_addr() };
        let endpoint = Endpoint::from_shared(format!("http://{}", addresses.gateway))
            .map_err(|error| Failure::Failed(chain(&error)))?;
        let walked = walk(endpoint.connect_lazy(), addresses, &login, output).await;
        let done = if arguments.once {
            let records = app.stop().await;
            walked.and_then(|()| records.map_err(|_| records_lost()))
        } else {
            // Who asks for faults, or brings accounts that cannot log in, wants to go on
            // from there.
            if let Err(failure) = &walked {
                output.failure(failure);
                output.note("The walk ended early; the sandbox goes on.");
            }
            // Before the note: a Ctrl-C that answers it must be a drain already.
            let signals = listen_to_signals(OnHangUp::Stop)?;
            output.note("\nServing until Ctrl-C.");
            match signals.serve(app).await {
                Ended::InGoodOrder | Ended::AtOnce => Ok(()),
                Ended::ThreadLost(thread) => Err(lost(&thread)),
                Ended::AuditClosed => Err(audit_closed()),
                Ended::RecordsLost => Err(records_lost()),
            }
        };
        platform.stop().await;
        logging.flush(LOG_FLUSH_LIMIT);
        done
    })
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "must be an IP address and a port, such as 127.0.0.1:50051".to_owned())
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
