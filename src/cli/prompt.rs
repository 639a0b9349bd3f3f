//! Prompt for a secret on a terminal, without echo.

use std::{
    io::{self, BufRead as _},
    os::fd::AsFd,
};

use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::oneshot,
};
use zeroize::Zeroizing;

use super::{failure::Failure, output::Output};

/// Maximum size of a line, in bytes. A terminal delivers at most 4 KiB of a line.
const MAX_LINE_BYTES: usize = 64 * 1024;
/// Value of a special character that is disabled (`_POSIX_VDISABLE` of Linux).
const DISABLED: u8 = 0;

/// Prompts for a secret on standard input, which must be a terminal.
///
/// Also returns the interrupts, which the command must await from then on: once a signal has a
/// handler, it no longer ends the process by itself.
pub(super) async fn ask(
    question: &str,
    output: &mut Output,
) -> Result<(Zeroizing<String>, Interrupts), Failure> {
    let failed = |error: io::Error| Failure::Failed(format!("cannot read from the terminal: {error}"));
    let mut interrupts = Interrupts::listen().map_err(failed)?;
    let hidden = HiddenInput::start(io::stdin()).map_err(failed)?;
    output.ask(question);
    let (sender, line) = oneshot::channel();
    // On its own thread, so that a signal can restore the terminal while the read blocks.
    std::thread::Builder::new()
        .name("prompt".to_owned())
        .spawn(move || {
            // The receiver is gone if the command was interrupted.
            let _ = sender.send(read_line());
        })
        .map_err(failed)?;
    let answer = tokio::select! {
        line = line => line.map_err(|_| Failure::Failed("cannot read from the terminal".to_owned()))?.map_err(failed),
        failure = interrupts.next() => Err(failure),
    };
    let suspend = char::from(hidden.suspend_character());
    drop(hidden);
    // The newline at the end of the input was not echoed.
    output.ask("\n");
    let mut answer = answer?;
    answer.retain(|character| character != suspend);
    Ok((answer, interrupts))
}

fn read_line() -> io::Result<Zeroizing<String>> {
    let mut line = Zeroizing::new(String::with_capacity(MAX_LINE_BYTES.min(4096)));
    io::Read::take(io::stdin().lock(), MAX_LINE_BYTES as u64).read_line(&mut line)?;
    Ok(line)
}

/// The signals that interrupt a command.
#[derive(Debug)]
pub(super) struct Interrupts([Signal; 4]);

impl Interrupts {
    fn listen() -> io::Result<Self> {
        Ok(Self([
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
            signal(SignalKind::hangup())?,
            signal(SignalKind::quit())?,
        ]))
    }

    /// Waits for a signal, and returns the failure that it ends the command with.
    pub(super) async fn next(&mut self) -> Failure {
        let [interrupt, terminate, hang_up, quit] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hang_up.recv() => {}
            _ = quit.recv() => {}
        }
        Failure::Failed("interrupted".to_owned())
    }
}

/// A terminal with echo disabled. Restored when dropped.
struct HiddenInput<T: AsFd> {
    terminal: T,
    modes: Termios,
}

impl<T: AsFd> HiddenInput<T> {
    fn start(terminal: T) -> io::Result<Self> {
        let modes = tcgetattr(&terminal)?;
        let mut hidden = modes.clone();
        hidden.local_modes.remove(LocalModes::ECHO | LocalModes::ECHONL);
        // A suspended command gives the terminal to the shell, which enables echo, also after `fg`.
        hidden.special_codes[SpecialCodeIndex::VSUSP] = DISABLED;
        tcsetattr(&terminal, OptionalActions::Now, &hidden)?;
        Ok(Self { terminal, modes })
    }

    /// Returns the character that usually suspends a command. While hidden, it is part of the input.
    fn suspend_character(&self) -> u8 {
        self.modes.special_codes[SpecialCodeIndex::VSUSP]
    }
}

impl<T: AsFd> Drop for HiddenInput<T> {
    fn drop(&mut self) {
        // Fails only if the terminal is gone.
        let _ = tcsetattr(&self.terminal, OptionalActions::Now, &self.modes);
    }
}
