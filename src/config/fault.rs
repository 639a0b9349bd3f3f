//! What is wrong with a configuration, and where.
//!
//! A finding contains the place, the key and the rule, and never a value: any value may be a
//! secret that was written on the wrong line. Keys and file names can contain any character; a
//! finding is printed on one line regardless. Nothing is checked here.

use std::{
    borrow::Cow,
    cell::RefCell,
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{files, text::Excerpt};

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
    #[error("{0}")]
    Unreadable(String),
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

/// Returns why a file cannot be read, after its absolute path: a relative one may start at another
/// folder than its reader expects.
pub(crate) fn unreadable(path: &Path, kind: io::ErrorKind) -> String {
    format!("{}: {}", ShownPath(path), files::describe(kind))
}

/// Returns the absolute form of a path, without following links.
pub(crate) fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf())
}

/// A path in its absolute form. What does not exist is shown only if it looks like the name of a
/// file: a secret is sometimes written where its file belongs.
pub(super) struct ShownPath<'a>(pub(super) &'a Path);

impl fmt::Display for ShownPath<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = absolute(self.0);
        let existing = path.ancestors().find(|part| part.exists()).unwrap_or(Path::new("/"));
        let missing: Vec<_> = path.strip_prefix(existing).into_iter().flatten().collect();
        if !missing.iter().all(|part| part.to_str().is_some_and(is_name_of_file)) {
            let existing = existing.display();
            return write!(
                f,
                "in {existing} (the rest of the path is not shown, because it may be a secret)"
            );
        }
        write!(f, "{}", path.display())?;
        if missing.len() > 1
            && let Some(folder) = path.parent()
        {
            write!(f, " (there is no folder {})", folder.display())?;
        }
        Ok(())
    }
}

/// Whether a text looks like the name of a file and not like a generated secret: a few words or
/// numbers with punctuation between them.
fn is_name_of_file(text: &str) -> bool {
    const MAX_NAME: usize = 64;
    const MAX_WORD: usize = 20;
    let is_word = |word: &str| {
        let kind = |byte: u8| (byte.is_ascii_digit(), byte.is_ascii_uppercase());
        let changes = word.as_bytes().windows(2).filter(|pair| kind(pair[0]) != kind(pair[1])).count();
        word.len() <= MAX_WORD && changes <= 2 && word.bytes().all(|byte| byte.is_ascii_alphanumeric())
    };
    text.len() <= MAX_NAME && text.split(['.', '-', '_']).all(is_word)
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

    /// Names the variable that was probably meant instead of each one that sets no key.
    pub(super) fn suggest_variables(&self, meant: impl Fn(&str) -> Option<String>) {
        let mut faults = self.faults.borrow_mut();
        let mut renamed = Vec::new();
        for fault in faults.iter_mut() {
            let Place::Variable(name) = &fault.place else { continue };
            let is_unknown = match &fault.problem {
                Problem::UnknownKey { .. } => true,
                // A variable that ends before the name of a key.
                Problem::WrongType { expected, .. } => *expected == "a table",
                _ => false,
            };
            if let Some(variable) = meant(name).filter(|_| is_unknown) {
                renamed.push(fault.place.clone());
                fault.problem = Problem::UnknownKey { nearest: Some(variable) };
            }
        }
        // What is missing from a table that only such a variable has made.
        faults
            .retain(|fault| !matches!(fault.problem, Problem::Missing(_)) || !renamed.contains(&fault.place));
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
