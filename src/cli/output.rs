//! Output of the commands.
//!
//! Results go to standard output, errors to standard error. [`terminal`] decides whether an output
//! has colors. Untrusted text for one line is wrapped in [`Printable`]; any other unprintable
//! characters are escaped here.

use std::{
    fmt::Display,
    io::{self, IsTerminal, Write},
    process::ExitCode,
};

use super::{failure::Failure, status_report, terminal};
use crate::{
    base::text::{Notation, Printable, is_unprintable},
    config::Process,
};

/// The outputs of a command.
pub struct Output {
    out: Box<dyn Write + Send>,
    err: Box<dyn Write + Send>,
    out_colour: bool,
    err_colour: bool,
}

/// The style of a text on a terminal.
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
    /// Returns the parameter of "select graphic rendition" (ECMA-48, 8.3.117).
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
    /// Returns the process's standard output and error.
    #[must_use]
    pub fn terminal() -> Self {
        Self {
            out: Box::new(io::stdout()),
            err: Box::new(io::stderr()),
            out_colour: terminal::has_colors(&Process, io::stdout().is_terminal()),
            err_colour: terminal::has_colors(&Process, io::stderr().is_terminal()),
        }
    }

    /// Returns an output to `out` and `err`, for tests.
    #[cfg(test)]
    pub(super) fn into(
        out: impl Write + Send + 'static,
        err: impl Write + Send + 'static,
        colour: bool,
    ) -> Self {
        Self { out: Box::new(out), err: Box::new(err), out_colour: colour, err_colour: colour }
    }

    /// Prints lines of the result.
    pub(super) fn line(&mut self, lines: impl Display) {
        print(&mut self.out, self.out_colour, lines, "\n");
        let _ = self.out.flush();
    }

    /// Prints a trusted text unchanged as the whole result: a script may contain tabs.
    pub(super) fn document(&mut self, text: &str) {
        // A closed pipe cannot be reported.
        let _ = self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush());
    }

    /// Prints the whole result with a function, for one that is too large for a text in memory.
    ///
    /// # Errors
    ///
    /// Those of the function and of the output.
    pub(super) fn document_with(
        &mut self,
        write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut out = io::BufWriter::new(&mut self.out);
        write(&mut out)?;
        out.flush()
    }

    /// Prints lines that are not part of the result.
    pub(super) fn note(&mut self, lines: impl Display) {
        print(&mut self.err, self.err_colour, lines, "\n");
    }

    /// Prints a question whose answer is typed on the same line.
    pub(super) fn ask(&mut self, question: &str) {
        print(&mut self.err, self.err_colour, question, "");
        let _ = self.err.flush();
    }

    /// Prints why a command failed.
    pub(super) fn failure(&mut self, failure: &Failure) {
        let mark = paint(self.err_colour, Style::Bad, "error:");
        if let Failure::Configuration(errors) = failure {
            for warning in errors.warnings() {
                self.note(format_args!("warning: {warning}"));
            }
        }
        match failure {
            Failure::Status(status) => self.note(format_args!("{mark} {}", status_report::report(status))),
            // One line per problem. Each is printable.
            Failure::Configuration(_) | Failure::UnreadConfiguration(_) | Failure::InvalidFile { .. } => {
                self.note(format_args!("{mark} {failure}"));
            }
            other => self.note(format_args!("{mark} {}", Printable(other))),
        }
    }

    /// Prints help, the version or an error of the command line parser.
    pub(super) fn usage(&mut self, message: &clap::Error, tip: Option<&str>) -> ExitCode {
        let wrong = message.use_stderr();
        let (writer, colour) =
            if wrong { (&mut self.err, self.err_colour) } else { (&mut self.out, self.out_colour) };
        let text = message.render();
        if colour {
            print(writer, true, text.ansi(), "");
        } else {
            print(writer, false, text, "");
        }
        if let Some(tip) = tip {
            print(writer, colour, format_args!("tip: {}", Printable(tip)), "\n");
        }
        if wrong { ExitCode::from(2) } else { ExitCode::SUCCESS }
    }

    /// Applies a style to a text if standard output has colors.
    pub(super) fn paint(&self, style: Style, text: impl Display) -> String {
        paint(self.out_colour, style, text)
    }
}

/// Applies a style to a text, which is escaped to one line without styles.
fn paint(colour: bool, style: Style, text: impl Display) -> String {
    let text = Printable(text);
    if colour { format!("\u{1b}[{}m{text}\u{1b}[0m", style.code()) } else { text.to_string() }
}

/// Prints lines and escapes control characters, except line breaks and, if colors are on, styles.
fn print(to: &mut dyn Write, colour: bool, lines: impl Display, end: &str) {
    let lines = lines.to_string();
    let mut printed = String::with_capacity(lines.len() + end.len());
    let mut rest = lines.as_str();
    while let Some(next) = rest.chars().next() {
        let kept = match next {
            '\n' => 1,
            '\u{1b}' if colour => length_of_style(rest),
            _ => 0,
        };
        let end = if kept > 0 { kept } else { next.len_utf8() };
        let (part, after) = rest.split_at(end);
        if kept > 0 || !is_unprintable(next) {
            printed.push_str(part);
        } else {
            // Writing to a string cannot fail.
            let _ = Notation::Plain.write_escape(next, &mut printed);
        }
        rest = after;
    }
    printed.push_str(end);
    // A closed pipe cannot be reported.
    let _ = to.write_all(printed.as_bytes());
}

/// Returns the length of the "select graphic rendition" sequence at the start of a text, or 0.
fn length_of_style(text: &str) -> usize {
    let parameters = text.strip_prefix("\u{1b}[").unwrap_or_default();
    let end = parameters.find(|character: char| !character.is_ascii_digit() && character != ';');
    end.filter(|&end| parameters[end..].starts_with('m')).map_or(0, |end| end + 3)
}

impl std::fmt::Debug for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Output").finish_non_exhaustive()
    }
}
