//! Logging: one line per event, JSON or text, on standard error.
//!
//! Writing never waits for the reader: lines are dropped and counted instead. The HTTP and TLS
//! crates are never logged below `info`, regardless of the directives, because they would log the
//! data that they carry. `line` formats a line.

#[cfg(test)]
pub(crate) mod captured;
mod limiter;
mod line;
mod throttle;
mod writer;

use std::{convert::Infallible, io, panic::PanicHookInfo, str::FromStr, time::Duration};

use tracing::{Subscriber, level_filters::LevelFilter};
use tracing_subscriber::{
    Layer, Registry,
    filter::{FilterExt, Targets},
    fmt::MakeWriter,
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

pub use self::throttle::LogThrottle;
use self::{
    limiter::{LimitedLayer, Limiter},
    line::LineFormat,
    writer::LogWriter,
};
use super::{metrics::Metrics, threads::Threads};

/// Target of the one line of each failed call. Never limited, because each line is about a
/// different call.
pub const CALL_TARGET: &str = "ott_gateway::call";

/// Interval at which suppressed lines are reported.
const REPORT_INTERVAL: Duration = Duration::from_secs(10);
/// Prefix of our own targets; the levels of all others are capped.
const OURS: &str = "ott_gateway";

/// Settings of the log.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Format of a line.
    pub format: Format,
    /// Targets and levels that are logged.
    pub directives: Directives,
    /// Whether lines in text format have colors.
    pub has_colors: bool,
    /// Whether each line begins with its syslog priority (`<3>` for an error), so that the systemd
    /// journal can filter by level.
    pub has_priorities: bool,
}

/// Format of a line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// One JSON object.
    #[default]
    Json,
    /// Text for people, with colors on a terminal.
    Text,
}

/// Targets and levels that are logged: `LEVEL` and `TARGET=LEVEL`, separated by commas, as in
/// `RUST_LOG`. Without a `LEVEL`, other targets are logged at `info`.
#[derive(Clone, Debug)]
pub struct Directives(Targets);

/// Why the log cannot start.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    /// The directives are not valid.
    #[error("not a list of log levels such as `info,ott_gateway=debug`: {0}")]
    Directives(#[from] tracing_subscriber::filter::ParseError),
    /// The writer's thread cannot be started.
    #[error("cannot start the thread that writes the log: {0}")]
    Thread(#[from] io::Error),
    /// This process has a log already.
    #[error("logging has been started already")]
    AlreadyStarted,
}

/// The log of this process. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Logging {
    writer: LogWriter,
    limiter: Limiter,
}

impl FromStr for Directives {
    type Err = LoggingError;

    fn from_str(text: &str) -> Result<Self, LoggingError> {
        let targets: Targets = text.parse()?;
        Ok(Self(match targets.default_level() {
            None => targets.with_default(LevelFilter::INFO),
            Some(_) => targets,
        }))
    }
}

impl Default for Directives {
    fn default() -> Self {
        Self(Targets::new().with_default(LevelFilter::INFO))
    }
}

/// Starts the log of this process. Can be called once.
pub fn init(settings: &Settings) -> Result<Logging, LoggingError> {
    let writer = LogWriter::start(io::stderr())?;
    let limiter = Limiter::default();
    subscriber(settings, writer.clone(), limiter.clone())
        .try_init()
        .map_err(|_| LoggingError::AlreadyStarted)?;
    std::panic::set_hook(Box::new(log_panic));
    Ok(Logging { writer, limiter })
}

fn subscriber<W>(settings: &Settings, writer: W, limiter: Limiter) -> impl Subscriber + Send + Sync
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let cap = Targets::new()
        .with_default(LevelFilter::INFO)
        // It warns about each misbehaving peer, without a limit.
        .with_target("h2", LevelFilter::ERROR)
        .with_target(OURS, LevelFilter::TRACE);
    let filter = settings.directives.0.clone().and(cap);
    let lines = tracing_subscriber::fmt::layer()
        .with_ansi(settings.has_colors && settings.format == Format::Text)
        .event_format(LineFormat { format: settings.format, has_priority: settings.has_priorities })
        .with_writer(writer)
        .log_internal_errors(false);
    Registry::default().with(LimitedLayer::new(lines, limiter).with_filter(filter))
}

/// Logs the location of a panic. Its message is logged only if it is a constant, because a
/// formatted one may contain secrets.
fn log_panic(panic: &PanicHookInfo<'_>) {
    let location = panic.location().map(ToString::to_string);
    let message = panic.payload().downcast_ref::<&'static str>().copied();
    tracing::error!(
        panic.location = location.as_deref(),
        panic.message = message,
        "panicked, please report this bug"
    );
}

impl Logging {
    /// Registers the writer thread.
    pub fn watch(&self, threads: &Threads) {
        self.writer.watch(threads);
    }

    /// Reports dropped and suppressed lines every 10 seconds, in the log and as metrics. Runs until
    /// the future is dropped.
    pub async fn report(self, metrics: Metrics) -> Infallible {
        let mut ticks = tokio::time::interval(REPORT_INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.limiter.report_suppressed();
            metrics.set_log_lines(self.writer.dropped(), self.limiter.suppressed());
        }
    }

    /// Waits until all lines so far are written, at most for `limit`. Blocks the thread; for use at
    /// the end of the process.
    pub fn flush(&self, limit: Duration) {
        self.limiter.report_suppressed();
        self.writer.flush(limit);
    }
}

#[cfg(test)]
mod tests;
