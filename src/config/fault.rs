//! What is wrong with a configuration, and where.
//!
//! A finding contains the place, the key and the rule, and never a value: any value may be a
//! secret that was written on the wrong line. Keys and file names can contain any character; a
//! finding is printed on one line regardless. Nothing is checked here.

use std::{borrow::Cow, cell::RefCell, fmt, io, path::Path, sync::Arc};

use crate::text::Excerpt;

/// Maximum size of a key, of a place and of a problem where they are shown, in bytes.
const MAX_SHOWN_BYTES: usize = 1024;
/// Maximum number of findings that [`Faults`] shows; `check-config` prints all.
const MAX_SHOWN_FAULTS: usize = 10;

/// Where a value is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// In no line of the file: what is meant is missing from it as a whole.
    File(Option<Arc<Path>>),
    /// In a line of the file, counted from 1.
    Line(Arc<Path>, usize),
    /// In an environment variable.
    Variable(Arc<str>),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(Some(path)) => write!(f, "{}", path.display()),
            Self::File(None) => f.write_str("configuration"),
            Self::Line(path, line) => write!(f, "{}:{line}", path.display()),
            Self::Variable(name) => f.write_str(name),
        }
    }
}

/// One thing that is wrong, or worth a warning. Shown as `PLACE: KEY: PROBLEM`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Where.
    pub place: Place,
    /// The dotted key, for example `api_clients.eu2.client_id`; empty if the file as a
    /// whole is meant.
    pub key: String,
    /// What.
    pub problem: Problem,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { place, key, problem } = self;
        write!(f, "{}: ", Excerpt(place, MAX_SHOWN_BYTES))?;
        if !key.is_empty() {
            write!(f, "{}: ", Excerpt(key, MAX_SHOWN_BYTES))?;
        }
        write!(f, "{}", Excerpt(problem, MAX_SHOWN_BYTES))
    }
}

/// What can be wrong with a key or its value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// The file is no TOML.
    #[error("not valid TOML: {0}")]
    Syntax(String),
    /// A file cannot be read.
    #[error("the file cannot be read ({0})")]
    Unreadable(io::ErrorKind),
    /// A file could not be read for a reason that is not the file: the file system did not respond,
    /// or no thread could be started.
    #[error("{0}")]
    Unanswered(Cow<'static, str>),
    /// There is no such key.
    #[error("unknown key{}", DidYouMean(.nearest.as_deref()))]
    UnknownKey {
        /// The most similar known key.
        nearest: Option<String>,
    },
    /// The value names something that is not there.
    #[error("is not {what}{}", DidYouMean(.nearest.as_deref()))]
    UnknownName {
        /// What it should be the name of.
        what: &'static str,
        /// The most similar known name.
        nearest: Option<String>,
    },
    /// The value is of another type.
    #[error("must be {expected}, not {found}")]
    WrongType {
        /// The type it should have.
        expected: &'static str,
        /// The type it has.
        found: &'static str,
    },
    /// A key that must be there is not.
    #[error("is missing: {0}")]
    Missing(&'static str),
    /// The value breaks the rule in this sentence.
    #[error("{0}")]
    Rule(Cow<'static, str>),
}

impl Problem {
    /// The rule that is broken.
    pub(super) fn rule(rule: impl Into<Cow<'static, str>>) -> Self {
        Self::Rule(rule.into())
    }
}

struct DidYouMean<'a>(Option<&'a str>);

impl fmt::Display for DidYouMean<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(name) => write!(f, "; did you mean \"{name}\"?"),
            None => Ok(()),
        }
    }
}

/// Returns the most similar known name, if one is similar enough.
pub(crate) fn nearest<'a, I: Iterator<Item = &'a str>>(name: &str, known: I) -> Option<String> {
    // One letter of three may differ: "eu3" is "eu2", "colour" is nothing of ours.
    const ALIKE: f64 = 0.6;
    known
        .map(|candidate| {
            let (name, other) = (name.to_lowercase(), candidate.to_lowercase());
            (strsim::normalized_damerau_levenshtein(&name, &other), candidate)
        })
        .filter(|(likeness, _)| *likeness >= ALIKE)
        .max_by(|one, other| one.0.total_cmp(&other.0))
        .map(|(_, candidate)| candidate.to_owned())
}

/// Everything that is wrong with a configuration, in the order of the file.
///
/// Shown one per line. Of many, only the number and the first ten are shown, for the log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Faults(Vec<Finding>);

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = self.0.len();
        if all > MAX_SHOWN_FAULTS {
            writeln!(f, "{all} problems, of which the first {MAX_SHOWN_FAULTS} are:")?;
        }
        for (index, finding) in self.0.iter().take(MAX_SHOWN_FAULTS).enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}{finding}")?;
        }
        Ok(())
    }
}

impl Faults {
    /// Returns whether nothing is wrong with what was read: files could not be read for a reason that
    /// a change of the configuration does not fix.
    #[must_use]
    pub fn are_of_machine(&self) -> bool {
        self.0.iter().all(|finding| matches!(finding.problem, Problem::Unanswered(_)))
    }

    /// Returns all of them, one by one.
    pub fn iter(&self) -> std::slice::Iter<'_, Finding> {
        self.0.iter()
    }
}

impl<'a> IntoIterator for &'a Faults {
    type Item = &'a Finding;
    type IntoIter = std::slice::Iter<'a, Finding>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// Collects findings while a configuration is read, so that reading goes on after the
/// first.
#[derive(Debug, Default)]
pub(super) struct Findings {
    faults: RefCell<Vec<Finding>>,
    warnings: RefCell<Vec<Finding>>,
}

impl Findings {
    /// Notes something that keeps the gateway from starting.
    pub(super) fn fault(&self, place: Place, key: impl Into<String>, problem: Problem) {
        self.faults.borrow_mut().push(Finding { place, key: key.into(), problem });
    }

    /// Notes something that an operator should know.
    pub(super) fn warning(&self, place: Place, key: impl Into<String>, rule: impl Into<Cow<'static, str>>) {
        let finding = Finding { place, key: key.into(), problem: Problem::rule(rule) };
        self.warnings.borrow_mut().push(finding);
    }

    /// The faults, or what was read and the warnings.
    pub(super) fn conclude<T>(self, read: Option<T>) -> Result<(T, Vec<Finding>), Faults> {
        let sorted = |findings: RefCell<Vec<Finding>>| {
            let mut findings = findings.into_inner();
            findings.sort_by(|one, other| one.place.cmp(&other.place));
            findings
        };
        let faults = sorted(self.faults);
        match read {
            Some(read) if faults.is_empty() => Ok((read, sorted(self.warnings))),
            _ => Err(Faults(faults)),
        }
    }
}
