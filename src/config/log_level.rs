//! `log_level` of `[telemetry]`, and `RUST_LOG`, which overrides it.
//!
//! An error in the key prevents the gateway from starting. The variable is often set for all
//! programs of a cluster, so parts for other programs are ignored, and parts that cannot be parsed
//! cause a warning.

use super::{
    environment::Environment,
    finding::{self, Problem},
    section::Section,
    tree::Value,
    value,
};

/// The variable that Rust programs commonly read their log level from.
pub(super) const RUST_LOG: &str = "RUST_LOG";

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
/// The root of the targets of this program.
const OURS: &str = "ott_gateway";

/// Parses the value of the key: levels, separated by commas, each `LEVEL` or `TARGET=LEVEL`.
pub(super) fn key(value: &Value) -> Result<String, Problem> {
    let text = value::text(value)?;
    for directive in text.split(',') {
        let (target, level) = directive
            .split_once('=')
            .map_or((None, directive), |(target, level)| (Some(target.trim()), level));
        // The filter would interpret an unknown level as a target.
        if target == Some("") || level_in(level).is_none() {
            let nearest = finding::nearest(&level.trim().to_ascii_lowercase(), LEVELS.into_iter());
            return Err(Problem::UnknownName {
                what: "a log level (off, error, warn, info, debug, trace) or a list of TARGET=LEVEL",
                nearest,
            });
        }
    }
    Ok(text)
}

/// Returns the level with the changes that `RUST_LOG` makes. Warns about parts that cannot be parsed.
pub(super) fn with_rust_log(level: String, environment: &dyn Environment, section: &Section<'_>) -> String {
    let variable = Variable::read(environment);
    if let Some(warning) = variable.warning() {
        section.variable_warning(RUST_LOG, warning);
    }
    let base = variable.level.map_or(level, str::to_owned);
    [base].into_iter().chain(variable.ours).collect::<Vec<_>>().join(",")
}

/// Returns whether `RUST_LOG` changes what is logged.
pub(super) fn has_rust_log(environment: &dyn Environment) -> bool {
    let variable = Variable::read(environment);
    variable.level.is_some() || !variable.ours.is_empty()
}

/// The parts of `RUST_LOG` for this program.
#[derive(Debug, Default)]
struct Variable {
    /// `LEVEL`: replaces the configured level, directives for single targets included.
    level: Option<&'static str>,
    /// `ott_gateway=LEVEL` and `ott_gateway::MODULE=LEVEL`.
    ours: Vec<String>,
    parts: usize,
    invalid: usize,
}

impl Variable {
    fn read(environment: &dyn Environment) -> Self {
        let mut variable = Self::default();
        let Some(text) = environment.value(RUST_LOG) else { return variable };
        for part in text.to_string_lossy().split(',').map(str::trim).filter(|part| !part.is_empty()) {
            variable.parts += 1;
            let (target, level) = match part.split_once('=') {
                Some((target, level)) => (Some(target.trim()), level_in(level)),
                // A target without a level enables all of its lines.
                None if is_ours(part) => (Some(part), Some("trace")),
                None => (None, level_in(part)),
            };
            match (target, level) {
                (None, Some(level)) => variable.level = Some(level),
                (Some(target), Some(level)) if is_ours(target) => {
                    variable.ours.push(format!("{target}={level}"));
                }
                // For another program.
                (Some(target), Some(_)) if is_target(target) => {}
                _ => variable.invalid += 1,
            }
        }
        variable
    }

    fn warning(&self) -> Option<String> {
        let Self { parts, invalid, .. } = self;
        (*invalid > 0).then(|| {
            format!(
                "{invalid} of {parts} parts are not valid and are ignored; write LEVEL or \
                 {OURS}[::MODULE]=LEVEL, where LEVEL is off, error, warn, info, debug or trace"
            )
        })
    }
}

fn level_in(text: &str) -> Option<&'static str> {
    LEVELS.into_iter().find(|level| text.trim().eq_ignore_ascii_case(level))
}

fn is_target(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_:-.".contains(&byte))
}

fn is_ours(text: &str) -> bool {
    let rest = text.strip_prefix(OURS);
    rest.is_some_and(|rest| is_target(text) && (rest.is_empty() || rest.starts_with("::")))
}
