//! What the process is told from outside.

use tokio::signal::unix::{SignalKind, signal};

use super::App;

/// How a gateway ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// After a drain.
    InGoodOrder,
    /// At once, because a second signal asked for it.
    AtOnce,
}

/// Serves until SIGTERM or Ctrl-C, then drains; a second signal ends it at once. SIGHUP
/// opens the audit log anew and looks for new rules.
pub async fn serve_until_stopped(app: App) -> std::io::Result<Ended> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    let name = loop {
        tokio::select! {
            _ = terminate.recv() => break "SIGTERM",
            _ = interrupt.recv() => break "SIGINT",
            _ = hang_up.recv() => app.refresh(),
        }
    };
    tracing::info!(signal.name = name, "the gateway is draining; a second signal ends it at once");
    tokio::select! {
        () = app.stop() => Ok(Ended::InGoodOrder),
        _ = terminate.recv() => Ok(Ended::AtOnce),
        _ = interrupt.recv() => Ok(Ended::AtOnce),
    }
}
