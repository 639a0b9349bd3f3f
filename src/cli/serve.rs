//! `ott-gateway serve`: runs the gateway.

use std::{
    fmt::Write as _,
    io::{self, IsTerminal},
    panic::AssertUnwindSafe,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use futures_util::FutureExt;

use super::{
    failure::{Failure, chain},
    output::Output,
    terminal,
};
use crate::{
    app::{App, Listener, OnHangUp, Shutdown, Signals, StartError, descriptors, set_signal_mask},
    config::{Checked, Config, Process, TestedRules},
    observe::telemetry::logging::{self, Logging},
    server::tls::ClientAuth,
};

/// Maximum time to write the last lines of the log.
pub(super) const LOG_FLUSH_LIMIT: Duration = Duration::from_secs(1);

/// Run the gateway until SIGTERM or Ctrl-C, then finish calls in progress.
///
/// The configuration is one TOML file. Environment variables override it:
/// `OTT_GATEWAY__SERVER__LISTEN` sets the key `listen` of `[server]`. If the configuration is
/// invalid, the gateway reports all problems and does not start.
///
/// SIGTERM, SIGINT and SIGQUIT stop the gateway within 30 seconds, or later with a longer
/// `drain_timeout`; a second signal stops it within 3 seconds. SIGHUP and SIGUSR1 reload the access
/// rules and the keys of sealed tokens, and reopen the audit file. Changed rules, secrets, keys and
/// certificates are also reloaded within 10 seconds without a signal.
///
/// The log is text on a terminal and JSON elsewhere, unless `log_format` is set.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    #[command(flatten)]
    config: ConfigArgument,
}

/// The `--config` argument.
#[derive(Debug, Args)]
pub(super) struct ConfigArgument {
    /// Read the configuration from this file
    #[arg(long, value_name = "FILE", env = "OTT_GATEWAY_CONFIG", hide_env_values = true, value_parser = file)]
    config: PathBuf,
}

const EXAMPLES: &str = "\
Minimal configuration (gateway.toml):
  [api_clients.eu2]
  data_center_url = \"https://eu2-cloud.acronis.com\"
  client_id = \"…\"
  client_secret_file = \"/run/secrets/eu2\"

  [[access.rules]]
  callers = [\"anonymous\"]    # callers need no credential: for a first try only
  users = \"all\"

Every key with its default: ott-gateway example-config

Examples:
  ott-gateway serve --config gateway.toml
  OTT_GATEWAY__TELEMETRY__LOG_LEVEL=debug ott-gateway serve --config gateway.toml";

/// Parses the path of the configuration. Standard input is refused, because it cannot be reread.
pub(super) fn file(text: &str) -> Result<PathBuf, String> {
    match text {
        "" => Err("is empty; write the path of the configuration file".to_owned()),
        "-" => {
            Err("standard input cannot be read again after a change; write the configuration to a file (if \
                    the file is named -, write ./-)"
                .to_owned())
        }
        path => Ok(PathBuf::from(path)),
    }
}

impl ConfigArgument {
    /// Reads the file and the environment variables that override it.
    pub(super) fn load(&self) -> Result<Config, Failure> {
        Ok(Config::load(Some(&self.config), &Process)?)
    }

    /// Like [`load`](Self::load), but returns the results of access tests, run against these rules.
    pub(super) fn check(&self, tested: TestedRules) -> Checked {
        Config::check(Some(&self.config), &Process, tested)
    }

    /// Returns the path of the file.
    pub(super) fn path(&self) -> &Path {
        &self.config
    }
}

/// Runs the gateway. A failure to disable core dumps, in `core_dumps`, is logged.
pub(super) fn run(
    arguments: &Arguments,
    core_dumps: io::Result<()>,
    output: &mut Output,
) -> Result<(), Failure> {
    protect_from_signals()?;
    let config = arguments.config.load()?;
    let logging = start_log(&config)?;
    if let Err(error) = core_dumps {
        tracing::warn!(%error, "cannot disable core dumps, which would contain secrets");
    }
    if !config.variables.is_empty() {
        tracing::info!(
            config.variables = config.variables.join(" "),
            "environment variables override the configuration file"
        );
    }
    for variable in &config.environment {
        tracing::info!(
            variable.name = variable.name,
            variable.value = variable.value.as_deref(),
            "environment variable in effect"
        );
    }
    for warning in &config.warnings {
        tracing::warn!(config.warning = %warning, "configuration warning");
    }
    raise_limit_of_open_files(&config);
    let served = on_control_runtime(async {
        // Before the gateway serves, so that a signal cannot kill it.
        let signals = listen_to_signals(OnHangUp::Refresh)?;
        let tls = tls_label(&config);
        let app =
            Box::pin(App::start(config)).await.map_err(|error| not_started(&error, "[server] listen"))?;
        app.report_log(logging.clone());
        if io::stderr().is_terminal() {
            output.note(listening(&app, tls));
        }
        Ok(signals.serve(app).await)
    });
    tracing::info!("gateway stopped");
    logging.flush(LOG_FLUSH_LIMIT);
    match served? {
        Shutdown::Drained => Ok(()),
        Shutdown::AuditClosed => Err(audit_closed()),
        Shutdown::RecordsLost => Err(records_lost()),
        Shutdown::CutOff => Err(Failure::Failed("stopped immediately by a second signal".to_owned())),
        Shutdown::ThreadLost(thread) => Err(lost(&thread)),
    }
}

/// Returns how the gRPC listener uses TLS, for display.
pub(super) fn tls_label(config: &Config) -> &'static str {
    match config.server.grpc.transport.client_auth() {
        None => "without TLS",
        Some(ClientAuth::Off) => "TLS",
        Some(ClientAuth::Optional { .. }) => "TLS, client certificates optional",
        Some(ClientAuth::Require { .. }) => "TLS, client certificates required",
    }
}

/// Returns the line with the listeners for a terminal.
fn listening(app: &App, tls: &str) -> String {
    let mut line = format!("Listening on {} (gRPC, {tls})", app.local_addr());
    if let Some(address) = app.health_addr() {
        let _ = write!(line, ", {address} (health, without TLS)");
    }
    if let Some(address) = app.admin_addr() {
        let _ = write!(line, ", {address} (metrics and probes, HTTP)");
    }
    line + ". Press Ctrl-C to stop."
}

/// Returns the failure of a gateway that stopped because the reader of its audit records is gone.
pub(super) fn audit_closed() -> Failure {
    Failure::Failed(
        "the reader of the audit records on standard output is gone, and calls cannot be served without \
         audit records; restart the gateway with a reader"
            .to_owned(),
    )
}

/// Returns the failure of a gateway that could not write its last audit records.
pub(super) fn records_lost() -> Failure {
    Failure::Failed("the last audit records could not be written; see the log".to_owned())
}

/// Returns the failure of a gateway that stopped because one of its threads died.
pub(super) fn lost(thread: &str) -> Failure {
    Failure::Failed(format!("thread {thread} died; see the log, and restart the gateway"))
}

/// Sets the signal mask of this thread, which all later threads inherit. Called first by commands
/// that serve.
pub(super) fn protect_from_signals() -> Result<(), Failure> {
    set_signal_mask().map_err(|error| Failure::Failed(format!("cannot set the signal mask: {error}")))
}

/// Raises the soft limit of open files as far as the configuration needs and the hard limit allows.
pub(super) fn raise_limit_of_open_files(config: &Config) {
    match descriptors::raise_limit(config) {
        Ok(None) => {}
        Ok(Some(raised)) => tracing::info!(
            open_files.from = raised.from,
            open_files.to = raised.to,
            "limit of open files raised"
        ),
        Err(error) => tracing::warn!(%error, "cannot raise the limit of open files"),
    }
}

/// Listens to the signals that a gateway handles.
pub(super) fn listen_to_signals(on_hang_up: OnHangUp) -> Result<Signals, Failure> {
    Signals::listen(on_hang_up).map_err(|error| Failure::Failed(format!("cannot receive signals: {error}")))
}

/// Starts the log as configured.
pub(super) fn start_log(config: &Config) -> Result<Logging, Failure> {
    let is_terminal = io::stderr().is_terminal();
    let usual = if is_terminal { logging::Format::Text } else { logging::Format::Json };
    let directives = config.telemetry.log_level.parse().map_err(|error| Failure::Failed(chain(&error)))?;
    let settings = logging::Settings {
        format: config.telemetry.log_format.unwrap_or(usual),
        directives,
        has_colors: terminal::has_colors(&Process, is_terminal),
        has_priorities: terminal::is_journal(&Process, io::stderr()).unwrap_or(false),
    };
    logging::init(&settings).map_err(|error| Failure::Failed(chain(&error)))
}

/// Runs a future on the control thread, outside the workers.
pub(super) fn on_control_runtime<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Failed(format!("cannot start the runtime: {error}")))?;
    // After a panic, the last lines of the log are written and the process exits with the documented
    // code.
    let result = runtime.block_on(AssertUnwindSafe(work).catch_unwind());
    // A file operation that hangs must not prevent the process from exiting.
    runtime.shutdown_background();
    result.unwrap_or_else(|_| Err(Failure::Failed("the control thread panicked; see the log".to_owned())))
}

/// Returns the failure of a gateway that did not start. `listen` is the flag or key of the address
/// of its gRPC listener.
pub(super) fn not_started(error: &StartError, listen: &'static str) -> Failure {
    match error.refused_address() {
        Some((Listener::Grpc, address, error)) => Failure::listen(address, error, listen),
        Some((listener, address, error)) => Failure::listen(address, error, listener.key()),
        None => Failure::Failed(chain(error)),
    }
}
