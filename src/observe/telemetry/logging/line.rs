//! Formats one event as one line, in JSON or as text.
//!
//! Escapes and bounds every value, so that callers of `tracing` macros need not: a line contains no
//! unprintable characters, is shorter than 16 KiB, and is complete, valid JSON even if values were
//! truncated.

use std::fmt::{self, Write};

use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    fmt::{
        FmtContext, FormatEvent, FormatFields,
        format::Writer,
        time::{FormatTime, SystemTime},
    },
    registry::LookupSpan,
};

use super::Format;
use crate::base::text::{Bounded, Notation};

/// Upper bound on the size of a line, in bytes. Container runtimes split longer lines.
#[cfg(test)]
pub(super) const MAX_LINE_BYTES: usize = 16 * 1024;
/// Maximum size of one value, in bytes.
const MAX_VALUE_BYTES: usize = 2 * 1024;
/// Maximum total size of the values of a line, in bytes. The rest of 16 KiB is for the names and
/// truncation markers of an event's fields, at most 32.
const MAX_VALUES_BYTES: usize = 11 * 1024;
/// Maximum size of a target, in bytes.
const MAX_TARGET_BYTES: usize = 256;

/// Target of events from the `log` crate. The original target is in a field.
const LOG_CRATE: &str = "log";
const LOG_CRATE_FIELDS: [&str; 4] = ["log.target", "log.module_path", "log.file", "log.line"];

/// Formatter of lines.
#[derive(Clone, Copy, Debug)]
pub(super) struct LineFormat {
    pub(super) format: Format,
    /// Whether a line begins with its syslog priority, for the systemd journal.
    pub(super) has_priority: bool,
}

impl<S, N> FormatEvent<S, N> for LineFormat
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let metadata = event.metadata();
        let level = *metadata.level();
        let mut origin = LogCrateTarget(None);
        if metadata.target() == LOG_CRATE {
            event.record(&mut origin);
        }
        let target = origin.0.as_deref().unwrap_or(metadata.target());
        if self.has_priority {
            write!(writer, "<{}>", priority(level))?;
        }
        let to = Line { writer, room: MAX_VALUES_BYTES, is_of_log_crate: origin.0.is_some() };
        match self.format {
            Format::Json => json(to, level, target, event),
            Format::Text => text(to, level, target, event),
        }
    }
}

fn json(mut line: Line<'_>, level: Level, target: &str, event: &Event<'_>) -> fmt::Result {
    line.writer.write_str(r#"{"timestamp":""#)?;
    SystemTime.format_time(&mut line.writer)?;
    write!(line.writer, r#"","level":"{level}","severity":"{}""#, severity(level))?;
    let mut fields = JsonFields { line, result: Ok(()) };
    event.record(&mut fields);
    let JsonFields { mut line, result } = fields;
    result?;
    line.writer.write_str(r#","target":""#)?;
    line.target(target, Notation::Json)?;
    line.writer.write_str("\"}\n")
}

fn text(mut line: Line<'_>, level: Level, target: &str, event: &Event<'_>) -> fmt::Result {
    line.styled(Style::Dimmed, |line| SystemTime.format_time(&mut line.writer))?;
    line.writer.write_char(' ')?;
    line.styled(Style::of(level), |line| write!(line.writer, "{:>5}", level.as_str()))?;
    line.writer.write_char(' ')?;
    line.styled(Style::Dimmed, |line| {
        line.target(target, Notation::Plain)?;
        line.writer.write_char(':')
    })?;
    let mut fields = TextFields { line, result: Ok(()) };
    event.record(&mut fields);
    fields.result?;
    fields.line.writer.write_char('\n')
}

/// Returns the syslog priority (RFC 5424, section 6.2.1).
const fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

/// Returns the severity as named by Google Cloud's `LogSeverity`, which other systems use too.
const fn severity(level: Level) -> &'static str {
    match level {
        Level::ERROR => "ERROR",
        Level::WARN => "WARNING",
        Level::INFO => "INFO",
        _ => "DEBUG",
    }
}

/// A line that is being written.
struct Line<'a> {
    writer: Writer<'a>,
    /// Bytes left for further values.
    room: usize,
    is_of_log_crate: bool,
}

impl Line<'_> {
    fn target(&mut self, target: &str, notation: Notation) -> fmt::Result {
        let mut bounded = Bounded::new(&mut self.writer, notation, MAX_TARGET_BYTES);
        bounded.write_str(target)?;
        bounded.finish().map(drop)
    }

    /// Writes a value, truncated to the room left.
    fn value(&mut self, notation: Notation, value: fmt::Arguments<'_>) -> fmt::Result {
        let mut bounded = Bounded::new(&mut self.writer, notation, self.room.min(MAX_VALUE_BYTES));
        // A failing `Display` only loses the rest of its own text.
        let _ = bounded.write_fmt(value);
        self.room -= bounded.finish()?;
        Ok(())
    }

    /// Returns whether a field is part of the line. The fields for the origin of a `log` event are
    /// not, because its target is.
    fn has(&self, field: &Field) -> bool {
        !(self.is_of_log_crate && LOG_CRATE_FIELDS.contains(&field.name()))
    }

    fn styled(&mut self, style: Style, write: impl FnOnce(&mut Self) -> fmt::Result) -> fmt::Result {
        if !self.writer.has_ansi_escapes() {
            return write(self);
        }
        write!(self.writer, "\u{1b}[{}m", style.code())?;
        write(self)?;
        self.writer.write_str("\u{1b}[0m")
    }
}

/// Returns the name of a field without the `r#` of a keyword.
fn name(field: &Field) -> &'static str {
    field.name().strip_prefix("r#").unwrap_or(field.name())
}

struct JsonFields<'a> {
    line: Line<'a>,
    result: fmt::Result,
}

impl JsonFields<'_> {
    fn string(&mut self, field: &Field, value: fmt::Arguments<'_>) {
        if self.result.is_ok() && self.line.has(field) {
            self.result = write!(self.line.writer, r#","{}":""#, name(field))
                .and_then(|()| self.line.value(Notation::Json, value))
                .and_then(|()| self.line.writer.write_char('"'));
        }
    }

    /// Writes a short value with the same syntax in JSON and Rust.
    fn literal(&mut self, field: &Field, value: impl fmt::Display) {
        if self.result.is_ok() && self.line.has(field) {
            self.result = write!(self.line.writer, r#","{}":{value}"#, name(field));
        }
    }
}

impl Visit for JsonFields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.string(field, format_args!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.string(field, format_args!("{value}"));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.literal(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.literal(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.literal(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        // JSON has no infinity. Exponent notation keeps 1e300 short.
        if value.is_finite() {
            self.literal(field, format_args!("{value:?}"));
        } else {
            self.literal(field, "null");
        }
    }
}

struct TextFields<'a> {
    line: Line<'a>,
    result: fmt::Result,
}

impl TextFields<'_> {
    fn value(&mut self, field: &Field, is_quoted: bool, value: fmt::Arguments<'_>) {
        if self.result.is_ok() && self.line.has(field) {
            self.result = self.write(field, is_quoted, value);
        }
    }

    fn write(&mut self, field: &Field, is_quoted: bool, value: fmt::Arguments<'_>) -> fmt::Result {
        let line = &mut self.line;
        line.writer.write_char(' ')?;
        let is_message = field.name() == "message";
        if !is_message {
            line.styled(Style::Italic, |line| line.writer.write_str(name(field)))?;
            line.styled(Style::Dimmed, |line| line.writer.write_char('='))?;
        }
        // Messages consist of several words, and ours contain no marks.
        let needs_quotes = || {
            let shape = Shape::of(value);
            if is_message { shape.has_mark } else { shape.needs_quotes() }
        };
        if !is_quoted && !needs_quotes() {
            return line.value(Notation::Plain, value);
        }
        line.writer.write_char('"')?;
        line.value(Notation::Quoted, value)?;
        line.writer.write_char('"')
    }
}

impl Visit for TextFields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.value(field, false, format_args!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.value(field, true, format_args!("{value}"));
    }
}

/// Properties that decide whether a value is quoted. Unquoted, a value with whitespace or an equals
/// sign could look like several fields, and its content is often chosen by others.
#[derive(Default)]
struct Shape {
    has_whitespace: bool,
    /// An equals sign or a quote.
    has_mark: bool,
    quotes: Quotes,
}

/// Whether a value is already quoted, like the `Debug` output of a string.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Quotes {
    #[default]
    Empty,
    Open,
    Escape,
    Closed,
    None,
}

impl Shape {
    fn of(value: fmt::Arguments<'_>) -> Self {
        let mut shape = Self::default();
        // A failing `Display` only loses the rest of its own text.
        let _ = shape.write_fmt(value);
        shape
    }

    /// Returns whether the value has to be quoted to be recognizable as one value.
    fn needs_quotes(&self) -> bool {
        match self.quotes {
            Quotes::Empty => true,
            Quotes::Closed => false,
            Quotes::Open | Quotes::Escape | Quotes::None => self.has_whitespace || self.has_mark,
        }
    }
}

impl Write for Shape {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars() {
            self.has_whitespace |= character.is_whitespace();
            self.has_mark |= matches!(character, '=' | '"');
            self.quotes = match (self.quotes, character) {
                (Quotes::Open, '\\') => Quotes::Escape,
                (Quotes::Open, '"') => Quotes::Closed,
                (Quotes::Open | Quotes::Escape, _) | (Quotes::Empty, '"') => Quotes::Open,
                (Quotes::Empty | Quotes::Closed | Quotes::None, _) => Quotes::None,
            };
        }
        Ok(())
    }
}

/// The original target of an event from the `log` crate.
struct LogCrateTarget(Option<String>);

impl Visit for LogCrateTarget {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == LOG_CRATE_FIELDS[0] {
            self.0 = Some(value.to_owned());
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn fmt::Debug) {}
}

/// Style of a part of a line on a terminal.
#[derive(Clone, Copy)]
enum Style {
    Dimmed,
    Italic,
    Red,
    Yellow,
    Green,
    Blue,
    Purple,
}

impl Style {
    const fn of(level: Level) -> Self {
        match level {
            Level::ERROR => Self::Red,
            Level::WARN => Self::Yellow,
            Level::INFO => Self::Green,
            Level::DEBUG => Self::Blue,
            Level::TRACE => Self::Purple,
        }
    }

    /// Returns the parameter of "select graphic rendition" (ECMA-48, 8.3.117).
    const fn code(self) -> &'static str {
        match self {
            Self::Dimmed => "2",
            Self::Italic => "3",
            Self::Red => "31",
            Self::Yellow => "33",
            Self::Green => "32",
            Self::Blue => "34",
            Self::Purple => "35",
        }
    }
}
