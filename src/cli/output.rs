//! Everything that a command prints goes through here.
//!
//! Results go to standard output, errors to standard error. Colour is for terminals
//! only, and not if `NO_COLOR` is set (no-color.org).

use std::{
    fmt::Display,
    io::{self, IsTerminal, Write},
    process::ExitCode,
};

use super::{failure::Failure, status_report};
use crate::config::{Environment, Process};

/// Where a command prints to.
pub struct Output {
    out: Box<dyn Write + Send>,
    err: Box<dyn Write + Send>,
    /// Whether results are for eyes that like colour.
    out_colour: bool,
    err_colour: bool,
}

/// How a piece of text looks on a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(feature = "sandbox"), expect(dead_code, reason = "the sandbox's walk has most of them"))]
pub(super) enum Style {
    Heading,
    Quiet,
    Good,
    Bad,
    Name,
}

impl Style {
    /// The parameter of "select graphic rendition" (ECMA-48, 8.3.117).
    const fn code(self) -> &'static str {
        match self {
            Self::Heading => "1",
            Self::Quiet => "2",
            Self::Good => "32",
            Self::Bad => "1;31",
            Self::Name => "36",
        }
    }
}

impl Output {
    /// The process's own standard output and error.
    #[must_use]
    pub fn terminal() -> Self {
        let says = |name: &str| Process.value(name).filter(|value| !value.is_empty());
        let wanted = says("NO_COLOR").is_none() && says("TERM").is_none_or(|terminal| terminal != "dumb");
        Self {
            out: Box::new(io::stdout()),
            err: Box::new(io::stderr()),
            out_colour: wanted && io::stdout().is_terminal(),
            err_colour: wanted && io::stderr().is_terminal(),
        }
    }

    /// Output into `out` and `err`, for tests.
    #[cfg(test)]
    pub(super) fn into(
        out: impl Write + Send + 'static,
        err: impl Write + Send + 'static,
        colour: bool,
    ) -> Self {
        Self { out: Box::new(out), err: Box::new(err), out_colour: colour, err_colour: colour }
    }

    /// A line of the result.
    pub(super) fn line(&mut self, line: impl Display) {
        // Whoever reads has closed the pipe: nobody is left to tell.
        let _ = writeln!(self.out, "{line}");
        let _ = self.out.flush();
    }

    /// A line about the result, not part of it.
    pub(super) fn note(&mut self, line: impl Display) {
        let _ = writeln!(self.err, "{line}");
    }

    /// A question whose answer is typed on the same line.
    pub(super) fn ask(&mut self, question: &str) {
        let _ = write!(self.err, "{question}");
        let _ = self.err.flush();
    }

    /// What went wrong.
    pub(super) fn failure(&mut self, failure: &Failure) {
        let mark = paint(self.err_colour, Style::Bad, "error:");
        match failure {
            Failure::Status(status) => {
                let report = status_report::report(status);
                let _ = writeln!(self.err, "{mark} {report}");
            }
            other => {
                let _ = writeln!(self.err, "{mark} {other}");
            }
        }
    }

    /// What the parser of the command line has to say: help, the version or a fault.
    pub(super) fn usage(&mut self, message: &clap::Error) -> ExitCode {
        let wrong = message.use_stderr();
        let (writer, colour) =
            if wrong { (&mut self.err, self.err_colour) } else { (&mut self.out, self.out_colour) };
        let text = message.render();
        let _ = if colour { write!(writer, "{}", text.ansi()) } else { write!(writer, "{text}") };
        if wrong { ExitCode::from(2) } else { ExitCode::SUCCESS }
    }

    /// Text in a style, if the result goes to a terminal.
    pub(super) fn paint(&self, style: Style, text: impl Display) -> String {
        paint(self.out_colour, style, text)
    }
}

fn paint(colour: bool, style: Style, text: impl Display) -> String {
    if colour { format!("\u{1b}[{}m{text}\u{1b}[0m", style.code()) } else { text.to_string() }
}

impl std::fmt::Debug for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Output").finish_non_exhaustive()
    }
}
