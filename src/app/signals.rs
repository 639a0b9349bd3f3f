//! Signals that a gateway handles, and those that it blocks.

use std::{io, pin::pin, sync::Arc, time::Duration};

use nix::sys::signal::{SigSet, Signal as Name};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::timeout,
};

use super::App;
use crate::observe::audit::StopCause;

/// Maximum time for writing the audit records of calls in flight after a second signal.
const LAST_RECORDS: Duration = Duration::from_millis(1500);

/// Signals that are not blocked during start: those that stop a process, those that report a crash
/// of the process, and those that have no effect by default or only suspend a process at a
/// terminal.
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
/// Signals that terminate a process by default, and that the gateway handles.
const HANDLED: [Name; 3] = [Name::SIGHUP, Name::SIGUSR1, Name::SIGUSR2];

/// Why and how a gateway has stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shutdown {
    /// After a drain.
    Drained,
    /// At once, because of a second signal.
    CutOff,
    /// After a drain, because the thread of this name has died.
    ThreadLost(Arc<str>),
    /// After a drain, because the reader of the audit records on standard output is gone.
    AuditClosed,
    /// After a drain because of a signal, but the last audit records could not be written.
    RecordsLost,
}

/// Why a gateway stops.
enum Cause {
    Signal(&'static str),
    ThreadLost(Arc<str>),
    AuditClosed,
}

impl Cause {
    /// Returns the cause for the last audit record.
    fn recorded(&self) -> StopCause {
        match self {
            Self::Signal(name) => StopCause::Signal(name),
            Self::ThreadLost(thread) => StopCause::ThreadLost(Arc::clone(thread)),
            Self::AuditClosed => StopCause::AuditClosed,
        }
    }
}

/// Blocks all signals that would terminate or suspend the process without a purpose, and unblocks
/// those that stop it, regardless of the inherited mask. For the start of the main thread, because
/// other threads inherit the mask.
///
/// A blocked signal stays pending and has no effect. In particular, a write beyond `RLIMIT_FSIZE`
/// fails with `EFBIG` instead of killing the process (SIGXFSZ), and a write to the terminal from
/// the background succeeds instead of suspending it (SIGTTOU).
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

/// Effect of SIGHUP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnHangUp {
    /// Reloads the rules and reopens the audit file, as is usual for services.
    Refresh,
    /// Stops the gateway, because the terminal that it belongs to was closed. Has no effect if the
    /// parent process ignores SIGHUP, as `nohup` does.
    Stop,
}

/// Signals that a gateway handles, from [`listen`](Self::listen) on.
#[derive(Debug)]
pub struct Signals {
    stop: StopSignals,
    /// `None` if SIGHUP stays ignored.
    hang_up: Option<Signal>,
    on_hang_up: OnHangUp,
    user_1: Signal,
    user_2: Signal,
}

/// Signals that stop the gateway.
#[derive(Debug)]
struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
    quit: Signal,
}

impl Signals {
    /// Installs the handlers, even for signals that the parent process ignores, except SIGHUP with
    /// [`OnHangUp::Stop`]. A signal that arrives before [`serve`](Self::serve) is handled then.
    pub fn listen(on_hang_up: OnHangUp) -> io::Result<Self> {
        let keeps_running = on_hang_up == OnHangUp::Stop && is_hang_up_ignored();
        let signals = Self {
            stop: StopSignals {
                terminate: signal(SignalKind::terminate())?,
                interrupt: signal(SignalKind::interrupt())?,
                quit: signal(SignalKind::quit())?,
            },
            hang_up: if keeps_running { None } else { Some(signal(SignalKind::hangup())?) },
            on_hang_up,
            user_1: signal(SignalKind::user_defined1())?,
            user_2: signal(SignalKind::user_defined2())?,
        };
        HANDLED.into_iter().collect::<SigSet>().thread_unblock()?;
        Ok(signals)
    }

    /// Serves until SIGTERM, SIGINT or SIGQUIT, or until a thread dies or the reader of the audit
    /// records on standard output is gone, and then drains. A second signal cuts off calls in
    /// flight and waits only for their audit records, at most 1.5 s; a third stops the process at
    /// once.
    ///
    /// SIGUSR1 (often sent by log rotation) and SIGHUP, except with [`OnHangUp::Stop`], reopen the
    /// audit log and reload the rules. SIGUSR2 is logged and has no effect.
    pub async fn serve(mut self, app: App) -> Shutdown {
        let cause = loop {
            tokio::select! {
                name = self.stop.next() => break Cause::Signal(name),
                thread = app.lost_thread() => break Cause::ThreadLost(thread),
                () = app.audit_closed() => break Cause::AuditClosed,
                () = next(self.hang_up.as_mut()) => match self.on_hang_up {
                    OnHangUp::Refresh => app.refresh(),
                    OnHangUp::Stop => break Cause::Signal("SIGHUP"),
                },
                _ = self.user_1.recv() => app.refresh(),
                _ = self.user_2.recv() => tracing::info!(signal.name = "SIGUSR2", "signal ignored"),
            }
        };
        match &cause {
            Cause::Signal(name) => {
                tracing::info!(signal.name = name, "signal received, draining");
            }
            Cause::ThreadLost(thread) => {
                tracing::error!(thread.name = %thread, "thread died, stopping the gateway");
            }
            // The audit log has reported it.
            Cause::AuditClosed => {}
        }
        let calls = app.call_cut_off();
        let mut draining = pin!(app.stop(cause.recorded()));
        tokio::select! {
            records = &mut draining => {
                return match cause {
                    Cause::Signal(_) if records.is_err() => Shutdown::RecordsLost,
                    Cause::Signal(_) => Shutdown::Drained,
                    Cause::ThreadLost(thread) => Shutdown::ThreadLost(thread),
                    Cause::AuditClosed => Shutdown::AuditClosed,
                };
            }
            name = self.stop.next() => {
                tracing::warn!(signal.name = name, "second signal, cutting off calls in flight");
            }
        }
        calls.cut_off();
        tokio::select! {
            ended = timeout(LAST_RECORDS, draining) => if ended.is_err() {
                tracing::error!("audit records may be missing");
            },
            _ = self.stop.next() => tracing::error!("third signal, audit records may be missing"),
        }
        Shutdown::CutOff
    }
}

/// Resolves at the next signal; never without one.
async fn next(signal: Option<&mut Signal>) {
    match signal {
        Some(signal) => drop(signal.recv().await),
        None => std::future::pending().await,
    }
}

/// Returns whether this process ignores SIGHUP. Without `/proc`, it is taken as not ignored.
fn is_hang_up_ignored() -> bool {
    std::fs::read_to_string("/proc/self/status").is_ok_and(|status| ignores_hang_up(&status))
}

/// Reads the mask of ignored signals (`proc_pid_status(5)`). SIGHUP is the first signal.
fn ignores_hang_up(status: &str) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 == 1)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignored_signals_are_read_from_the_status_of_the_process() {
        for (status, is_ignored) in [
            ("SigBlk:\t0000000000000001\nSigIgn:\t0000000000001000\n", false),
            ("SigIgn:\t0000000000001001\nSigCgt:\t0000000000000000\n", true),
            ("SigIgn:\tx\n", false),
            ("", false),
        ] {
            assert_eq!(ignores_hang_up(status), is_ignored, "{status}");
        }
    }
}
