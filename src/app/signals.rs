//! What the process is told from outside.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::App;

/// How a gateway ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// After a drain.
    InGoodOrder,
    /// At once, because a second signal asked for it.
    AtOnce,
}

/// The signals that a gateway listens to, from [`listen`](Self::listen) on: until then,
/// each of them ends the process.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    /// Listens. A signal that comes before the gateway serves is remembered.
    pub fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    /// Serves until SIGTERM or Ctrl-C, then drains; a second signal ends it at once.
    /// SIGHUP opens the audit log anew and looks for new rules.
    pub async fn serve(mut self, app: App) -> Ended {
        let name = loop {
            tokio::select! {
                _ = self.terminate.recv() => break "SIGTERM",
                _ = self.interrupt.recv() => break "SIGINT",
                _ = self.hang_up.recv() => app.refresh(),
            }
        };
        tracing::info!(signal.name = name, "the gateway is draining; a second signal ends it at once");
        tokio::select! {
            () = app.stop() => Ended::InGoodOrder,
            _ = self.terminate.recv() => Ended::AtOnce,
            _ = self.interrupt.recv() => Ended::AtOnce,
        }
    }
}
