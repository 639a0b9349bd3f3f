//! The signals that a gateway reacts to, and those that it is protected from.

use std::{io, pin::pin, sync::Arc, time::Duration};

use nix::sys::signal::{SigSet, Signal as Name};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::timeout,
};

use super::App;

/// How long the audit records of calls in flight may take to be written after a second signal.
const LAST_RECORDS: Duration = Duration::from_millis(1500);

/// Signals that are not blocked while the gateway starts: those that stop a process, those
/// that report a fault of the process itself, and those that do nothing by default or only
/// pause a process at a terminal.
const UNBLOCKED: [Name; 15] = [
    Name::SIGTERM,
    Name::SIGINT,
    Name::SIGQUIT,
    Name::SIGABRT,
    Name::SIGBUS,
    Name::SIGFPE,
    Name::SIGILL,
    Name::SIGSEGV,
    Name::SIGSYS,
    Name::SIGTRAP,
    Name::SIGCHLD,
    Name::SIGCONT,
    Name::SIGTSTP,
    Name::SIGURG,
    Name::SIGWINCH,
];
/// Signals that end a process by default, and that a gateway has handlers for.
const HANDLED: [Name; 3] = [Name::SIGHUP, Name::SIGUSR1, Name::SIGUSR2];

/// How a gateway ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// After a drain.
    InGoodOrder,
    /// At once, because a second signal asked for it.
    AtOnce,
    /// After a drain, because the thread of this name has died.
    ThreadLost(Arc<str>),
    /// After a drain, because the reader of the audit records on standard output is gone.
    AuditClosed,
    /// After a drain that a signal asked for, but the last audit records could not be written.
    RecordsLost,
}

/// Why a gateway stops.
enum Cause {
    Signal(&'static str),
    ThreadLost(Arc<str>),
    AuditClosed,
}

/// Blocks all signals that would end or pause the process and mean nothing to it, and unblocks
/// those that stop it, regardless of the mask that the parent process has left. For the start
/// of the main thread: other threads inherit the mask.
///
/// A blocked signal stays pending and has no effect. In particular, a write beyond
/// `RLIMIT_FSIZE` fails with `EFBIG` instead of killing the process (SIGXFSZ), and a write to
/// the terminal from the background is carried out instead of pausing it (SIGTTOU).
///
/// # Errors
///
/// The system refuses the mask.
pub fn set_signal_mask() -> io::Result<()> {
    let mut blocked = SigSet::all();
    for name in UNBLOCKED {
        blocked.remove(name);
    }
    Ok(blocked.thread_set_mask()?)
}

/// What SIGHUP means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnHangUp {
    /// The rules are read again, and the audit file is reopened: the custom for services.
    Refresh,
    /// The gateway stops: it belongs to a terminal that has been closed.
    Stop,
}

/// The signals that a gateway reacts to, from [`listen`](Self::listen) on.
#[derive(Debug)]
pub struct Signals {
    stop: StopSignals,
    hang_up: Signal,
    on_hang_up: OnHangUp,
    user_1: Signal,
    user_2: Signal,
}

/// The signals that ask the gateway to stop.
#[derive(Debug)]
struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
    quit: Signal,
}

impl Signals {
    /// Installs the handlers, also for signals that the parent process has ignored. A signal
    /// that arrives before [`serve`](Self::serve) is remembered.
    pub fn listen(on_hang_up: OnHangUp) -> io::Result<Self> {
        let signals = Self {
            stop: StopSignals {
                terminate: signal(SignalKind::terminate())?,
                interrupt: signal(SignalKind::interrupt())?,
                quit: signal(SignalKind::quit())?,
            },
            hang_up: signal(SignalKind::hangup())?,
            on_hang_up,
            user_1: signal(SignalKind::user_defined1())?,
            user_2: signal(SignalKind::user_defined2())?,
        };
        HANDLED.into_iter().collect::<SigSet>().thread_unblock()?;
        Ok(signals)
    }

    /// Serves until SIGTERM, SIGINT or SIGQUIT, or until a thread dies or the reader of the
    /// audit records on standard output is gone, then drains. A second
    /// signal shortens the drain to the writing of audit records, at most 1.5 s; a third ends
    /// it at once.
    ///
    /// SIGHUP, unless it means [`Stop`](OnHangUp::Stop), and SIGUSR1 (which log rotation often
    /// sends) open the audit log again and reload the rules. SIGUSR2 is logged and has no effect.
    pub async fn serve(mut self, app: App) -> Ended {
        let cause = loop {
            tokio::select! {
                name = self.stop.next() => break Cause::Signal(name),
                thread = app.lost_thread() => break Cause::ThreadLost(thread),
                () = app.audit_closed() => break Cause::AuditClosed,
                _ = self.hang_up.recv() => match self.on_hang_up {
                    OnHangUp::Refresh => app.refresh(),
                    OnHangUp::Stop => break Cause::Signal("SIGHUP"),
                },
                _ = self.user_1.recv() => app.refresh(),
                _ = self.user_2.recv() => tracing::info!(signal.name = "SIGUSR2", "signal ignored"),
            }
        };
        match &cause {
            Cause::Signal(name) => {
                tracing::info!(signal.name = name, "draining, a second signal cuts off calls in flight");
            }
            Cause::ThreadLost(thread) => {
                tracing::error!(thread.name = %thread, "thread died, stopping the gateway");
            }
            // Logged by the audit.
            Cause::AuditClosed => {}
        }
        let hurry = app.hurry();
        let mut draining = pin!(app.stop());
        tokio::select! {
            records = &mut draining => {
                return match cause {
                    Cause::Signal(_) if records.is_err() => Ended::RecordsLost,
                    Cause::Signal(_) => Ended::InGoodOrder,
                    Cause::ThreadLost(thread) => Ended::ThreadLost(thread),
                    Cause::AuditClosed => Ended::AuditClosed,
                };
            }
            name = self.stop.next() => {
                tracing::warn!(signal.name = name, "second signal, cutting off calls in flight");
            }
        }
        hurry.up();
        tokio::select! {
            ended = timeout(LAST_RECORDS, draining) => if ended.is_err() {
                tracing::error!("audit records of calls in flight may be missing");
            },
            _ = self.stop.next() => tracing::error!("third signal, audit records of calls in flight may be missing"),
        }
        Ended::AtOnce
    }
}

impl StopSignals {
    /// Resolves with the name of the next of these signals.
    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.quit.recv() => "SIGQUIT",
        }
    }
}
