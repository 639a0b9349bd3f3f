//! Errors and warnings about a configuration.
//!
//! A finding contains the place, the key and the rule, and never a value: any value may be a secret
//! on the wrong line. A finding is printed on one line, even if keys or file names contain line
//! breaks.

use std::{
    borrow::Cow,
    cell::RefCell,
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::base::{files, text::Excerpt};

/// Maximum size of a displayed key, place or problem, in bytes.
const MAX_SHOWN_BYTES: usize = 1024;
/// Maximum number of findings that [`Errors`] displays; `check-config` prints all.
const MAX_SHOWN_FAULTS: usize = 10;

/// The place of a value.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// The file as a whole, for example if a section is missing; `None` without a file.
    File(Option<Arc<Path>>),
    /// A line of the file, counted from 1.
    Line(Arc<Path>, usize),
    /// An environment variable.
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

/// An error or a warning. Displayed as `PLACE: KEY: PROBLEM`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Place of the key or of the missing key's table.
    pub place: Place,
    /// Dotted key, for example `api_clients.eu2.client_id`; empty for the file as a whole.
    pub key: String,
    /// The problem.
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

/// A problem with a key or its value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// The file is not valid TOML.
    #[error("not valid TOML: {0}")]
    Syntax(String),
    /// A file cannot be read.
    #[error("{0}")]
    Unreadable(String),
    /// A file could not be read for a reason other than the file itself: the file system did not
    /// respond, or no thread could be started.
    #[error("{0}")]
    Unanswered(Cow<'static, str>),
    /// The key does not exist.
    #[error("unknown key{}", DidYouMean(.nearest.as_deref()))]
    UnknownKey {
        /// The most similar known key.
        nearest: Option<String>,
    },
    /// The value refers to an unknown name.
    #[error("is not {what}{}", DidYouMean(.nearest.as_deref()))]
    UnknownName {
        /// Kind of name that is expected.
        what: &'static str,
        /// The most similar known name.
        nearest: Option<String>,
    },
    /// The value has the wrong type.
    #[error("must be {expected}, not {found}")]
    WrongType {
        /// Expected type.
        expected: &'static str,
        /// Actual type.
        found: &'static str,
    },
    /// A required key is missing.
    #[error("is missing: {0}")]
    Missing(&'static str),
    /// The value breaks this rule.
    #[error("{0}")]
    Rule(Cow<'static, str>),
}

impl Problem {
    /// Creates the problem of a broken rule.
    pub(super) fn rule(rule: impl Into<Cow<'static, str>>) -> Self {
        Self::Rule(rule.into())
    }
}

/// Returns the absolute path of a file and why it cannot be read. A relative path may start at
/// another folder than the reader expects.
pub(crate) fn unreadable(path: &Path, kind: io::ErrorKind) -> String {
    format!("{}: {}", ShownPath(path), files::describe(kind))
}

/// Returns the absolute form of a path, without following links.
pub(crate) fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf())
}

/// Displays the absolute form of a path. Parts that do not exist are displayed only if they look like
/// file names: users sometimes write a secret in place of its file.
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

/// Returns whether a text looks like a file name and not like a generated secret: words or numbers
/// separated by punctuation.
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
    // One letter of three may differ: "eu3" is similar to "eu2".
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

/// All errors of a configuration, in the order of the file.
///
/// Displayed one per line. If there are more than ten, the number and the first ten are displayed,
/// for the log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Errors(Vec<Finding>);

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = self.0.len();
        if all > MAX_SHOWN_FAULTS {
            writeln!(f, "{all} problems; the first {MAX_SHOWN_FAULTS} are:")?;
        }
        for (index, finding) in self.0.iter().take(MAX_SHOWN_FAULTS).enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}{finding}")?;
        }
        Ok(())
    }
}

impl Errors {
    /// Returns whether all errors are problems of this machine, which a change of the configuration
    /// does not fix.
    #[must_use]
    pub fn are_of_machine(&self) -> bool {
        self.0.iter().all(|finding| matches!(finding.problem, Problem::Unanswered(_)))
    }

    /// Adds further errors to a result.
    ///
    /// # Errors
    ///
    /// The errors of the result and the further ones, if there are any.
    pub fn unless_empty<T>(
        result: Result<T, Self>,
        further: impl Iterator<Item = Finding>,
    ) -> Result<T, Self> {
        let mut errors: Vec<Finding> = further.collect();
        match result {
            Ok(value) if errors.is_empty() => return Ok(value),
            Ok(_) => {}
            Err(first) => errors.extend(first.0),
        }
        Err(Self::sorted(errors))
    }

    fn sorted(mut findings: Vec<Finding>) -> Self {
        findings.sort_by(|one, other| one.place.cmp(&other.place));
        Self(findings)
    }

    /// Returns an iterator over all errors.
    pub fn iter(&self) -> std::slice::Iter<'_, Finding> {
        self.0.iter()
    }
}

impl<'a> IntoIterator for &'a Errors {
    type Item = &'a Finding;
    type IntoIter = std::slice::Iter<'a, Finding>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// Collects findings while a configuration is read, so that all errors are reported at once.
#[derive(Debug, Default)]
pub(super) struct Findings {
    faults: RefCell<Vec<Finding>>,
    warnings: RefCell<Vec<Finding>>,
}

impl Findings {
    /// Adds an error, which prevents the gateway from starting.
    pub(super) fn fault(&self, place: Place, key: impl Into<String>, problem: Problem) {
        self.faults.borrow_mut().push(Finding { place, key: key.into(), problem });
    }

    /// Returns the number of errors found so far.
    pub(super) fn faults(&self) -> usize {
        self.faults.borrow().len()
    }

    /// Adds a warning.
    pub(super) fn warning(&self, place: Place, key: impl Into<String>, rule: impl Into<Cow<'static, str>>) {
        let finding = Finding { place, key: key.into(), problem: Problem::rule(rule) };
        self.warnings.borrow_mut().push(finding);
    }

    /// Replaces the error of each variable that sets no key by a suggestion, if `intended` returns one.
    pub(super) fn suggest_variables(&self, intended: impl Fn(&str) -> Option<String>) {
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
            if let Some(variable) = intended(name).filter(|_| is_unknown) {
                renamed.push(fault.place.clone());
                fault.problem = Problem::UnknownKey { nearest: Some(variable) };
            }
        }
        // Keys missing from a table that exists only because of a misspelled variable.
        faults
            .retain(|fault| !matches!(fault.problem, Problem::Missing(_)) || !renamed.contains(&fault.place));
    }

    /// Returns the errors, or the result and the warnings.
    pub(super) fn conclude<T>(self, read: Option<T>) -> Result<(T, Vec<Finding>), Errors> {
        let faults = Errors::sorted(self.faults.into_inner());
        match read {
            Some(read) if faults.0.is_empty() => Ok((read, Errors::sorted(self.warnings.into_inner()).0)),
            _ => Err(faults),
        }
    }
}
