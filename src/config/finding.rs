//! Errors and warnings about a configuration.
//!
//! A finding contains the place, the key and the rule, and never a value: any value may be a secret
//! on the wrong line. A finding is printed on one line, even if keys or file names contain line
//! breaks.

use std::{
    borrow::Cow,
    cell::RefCell,
    ffi::OsStr,
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::base::{
    files,
    text::{Excerpt, Printable},
};

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
        match problem {
            // A part of the command would ask another question.
            Problem::Explained { .. } => write!(f, "{}", Printable(problem)),
            _ => write!(f, "{}", Excerpt(problem, MAX_SHOWN_BYTES)),
        }
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
    /// The value breaks this rule, and a command explains why. Only for the terminal: the command
    /// contains values.
    #[error("{rule}; explain it with: {command}")]
    Explained {
        /// The rule.
        rule: String,
        /// The command, which is displayed in full.
        command: String,
    },
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

/// Displays the absolute form of a path, and the reason if it is written in a form that is not
/// expanded. Parts that do not exist are displayed only if they look like file names: users sometimes
/// write a secret in place of its file.
pub(super) struct ShownPath<'a>(pub(super) &'a Path);

impl fmt::Display for ShownPath<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = absolute(self.0);
        let (existing, missing) = split_at_missing(&path);
        if !missing.iter().all(|part| part.to_str().is_some_and(is_part_of_path)) {
            let existing = existing.display();
            return write!(
                f,
                "in {existing} (the rest of the path is not shown, because it may be a secret)"
            );
        }
        write!(f, "{}", path.display())?;
        if let Some(hint) = missing.first().and_then(|first| unexpanded(first.to_str()?)) {
            return write!(f, " ({hint})");
        }
        if missing.len() > 1
            && let Some(folder) = path.parent()
        {
            write!(f, " (there is no folder {})", folder.display())?;
        }
        Ok(())
    }
}

/// Splits a path into the part that exists and the parts that do not.
fn split_at_missing(path: &Path) -> (&Path, Vec<&OsStr>) {
    let existing = path.ancestors().find(|part| part.exists()).unwrap_or(Path::new("/"));
    (existing, path.strip_prefix(existing).into_iter().flatten().collect())
}

/// Returns what is wrong with the form of a path that does not exist, if it has one that is not
/// expanded.
pub(super) fn unexpanded_form(path: &Path) -> Option<&'static str> {
    let path = absolute(path);
    let (_, missing) = split_at_missing(&path);
    unexpanded(missing.first()?.to_str()?)
}

/// Returns whether a part of a path looks like a file name, or like a form that a shell, another
/// program or another system would interpret, and not like a secret.
fn is_part_of_path(part: &str) -> bool {
    let part = part.trim_matches([' ', '"', '\'']);
    let is_variable = |name: &str| {
        name.starts_with(|first: char| first.is_ascii_uppercase())
            && name.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_')
    };
    let braced =
        |text: &str| text.strip_prefix('{').and_then(|text| text.strip_suffix('}')).map(str::to_owned);
    let variable = part.strip_prefix('$').map(|name| braced(name).unwrap_or_else(|| name.to_owned()));
    let specifier = part.strip_prefix('%').map(|name| name.strip_suffix('%').unwrap_or(name));
    let scheme = part.strip_suffix(':');
    let mut windows = part.split('\\');
    let is_drive = |name: &str| matches!(name.as_bytes(), [letter, b':'] if letter.is_ascii_alphabetic());
    let is_windows = part.contains('\\')
        && windows
            .next()
            .is_some_and(|first| is_drive(first) || part.contains('.') && is_name_of_file(first))
        && windows.all(is_name_of_file);
    is_name_of_file(part)
        || is_windows
        || part.strip_prefix('~').is_some_and(is_name_of_file)
        || variable.is_some_and(|name| is_variable(&name))
        || specifier.is_some_and(|name| is_variable(name) || name.len() == 1)
        || scheme.is_some_and(|name| name.bytes().all(|byte| byte.is_ascii_lowercase()))
}

/// Returns what is wrong with the form of a path, by the first part that does not exist: values of
/// the configuration are not expanded.
fn unexpanded(part: &str) -> Option<&'static str> {
    if part.starts_with(['"', '\'']) {
        Some("remove the quotation marks from the value")
    } else if part.starts_with(' ') || part.ends_with(' ') {
        Some("remove the spaces around the value")
    } else if part.starts_with('~') {
        Some("~ is not expanded; write the path of the home folder")
    } else if part.contains('$') || part.starts_with('%') {
        Some("variables and specifiers are not expanded; write the path itself")
    } else if part.eq_ignore_ascii_case("file:") {
        Some("the value is a URL; write the path without file://")
    } else if part.ends_with(':') {
        Some("the value is a URL; write the path of a file")
    } else if part.contains('\\') {
        Some("\\ is not a separator; write / between folders")
    } else {
        None
    }
}

/// Returns whether a text looks like a name and not like a generated secret: words or numbers
/// separated by punctuation.
pub(crate) fn is_name_of_file(text: &str) -> bool {
    const MAX_NAME: usize = 64;
    const MAX_WORD: usize = 20;
    let is_word = |word: &str| {
        let kind = |byte: u8| (byte.is_ascii_digit(), byte.is_ascii_uppercase());
        let changes = word.as_bytes().windows(2).filter(|pair| kind(pair[0]) != kind(pair[1])).count();
        word.len() <= MAX_WORD && changes <= 2 && word.bytes().all(|byte| byte.is_ascii_alphanumeric())
    };
    text.len() <= MAX_NAME && text.split(['.', '-', '_']).all(is_word)
}

/// A suggestion at the end of an error text, if there is one.
pub(super) struct DidYouMean<'a>(pub(super) Option<&'a str>);

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
pub struct Errors {
    errors: Vec<Finding>,
    warnings: Vec<Finding>,
}

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = self.errors.len();
        if all > MAX_SHOWN_FAULTS {
            writeln!(f, "{all} problems; the first {MAX_SHOWN_FAULTS} are:")?;
        }
        for (index, finding) in self.errors.iter().take(MAX_SHOWN_FAULTS).enumerate() {
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
        self.errors.iter().all(|finding| matches!(finding.problem, Problem::Unanswered(_)))
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
        let mut warnings = Vec::new();
        match result {
            Ok(value) if errors.is_empty() => return Ok(value),
            Ok(_) => {}
            Err(first) => {
                errors.extend(first.errors);
                warnings = first.warnings;
            }
        }
        Err(Self { errors: sorted(errors), warnings })
    }

    /// Returns an iterator over all errors.
    pub fn iter(&self) -> std::slice::Iter<'_, Finding> {
        self.errors.iter()
    }

    /// Returns the warnings that were found besides the errors. Those about a valid configuration as
    /// a whole are missing.
    #[must_use]
    pub fn warnings(&self) -> &[Finding] {
        &self.warnings
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
    errors: RefCell<Vec<Finding>>,
    warnings: RefCell<Vec<Finding>>,
}

impl Findings {
    /// Adds an error, which prevents the gateway from starting.
    pub(super) fn error(&self, place: Place, key: impl Into<String>, problem: Problem) {
        self.errors.borrow_mut().push(Finding { place, key: key.into(), problem });
    }

    /// Returns the number of errors found so far.
    pub(super) fn errors(&self) -> usize {
        self.errors.borrow().len()
    }

    /// Adds a warning.
    pub(super) fn warning(&self, place: Place, key: impl Into<String>, rule: impl Into<Cow<'static, str>>) {
        let finding = Finding { place, key: key.into(), problem: Problem::rule(rule) };
        self.warnings.borrow_mut().push(finding);
    }

    /// Replaces the error of each variable that sets no key by a suggestion, if `intended` returns one.
    pub(super) fn suggest_variables(&self, intended: impl Fn(&str) -> Option<String>) {
        let mut errors = self.errors.borrow_mut();
        let mut renamed = Vec::new();
        for error in errors.iter_mut() {
            let Place::Variable(name) = &error.place else { continue };
            let is_unknown = match &error.problem {
                Problem::UnknownKey { .. } => true,
                // A variable that ends before the name of a key.
                Problem::WrongType { expected, .. } => *expected == "a table",
                _ => false,
            };
            if let Some(variable) = intended(name).filter(|_| is_unknown) {
                renamed.push(error.place.clone());
                error.problem = Problem::UnknownKey { nearest: Some(variable) };
            }
        }
        // Keys missing from a table that exists only because of a misspelled variable.
        errors
            .retain(|error| !matches!(error.problem, Problem::Missing(_)) || !renamed.contains(&error.place));
    }

    /// Removes warnings that do not apply.
    #[cfg(feature = "sandbox")]
    pub(super) fn remove_warnings(&self, does_not_apply: impl Fn(&Finding) -> bool) {
        self.warnings.borrow_mut().retain(|warning| !does_not_apply(warning));
    }

    /// Returns the errors, or the result and the warnings.
    pub(super) fn conclude<T>(self, read: Option<T>) -> Result<(T, Vec<Finding>), Errors> {
        let sorted = |findings: RefCell<Vec<Finding>>| sorted(findings.into_inner());
        let (errors, warnings) = (sorted(self.errors), sorted(self.warnings));
        match read {
            Some(read) if errors.is_empty() => Ok((read, warnings)),
            _ => Err(Errors { errors, warnings }),
        }
    }
}

/// Returns findings in the order of their places.
fn sorted(mut findings: Vec<Finding>) -> Vec<Finding> {
    findings.sort_by(|one, other| one.place.cmp(&other.place));
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(path: &str) -> String {
        ShownPath(&Path::new("/").join(path)).to_string()
    }

    #[test]
    fn paths_that_are_not_expanded_are_shown_with_the_reason() {
        for (path, hint) in [
            ("~/sec", "~ is not expanded"),
            ("~gateway/secrets/eu2", "~ is not expanded"),
            ("$CREDENTIALS_DIRECTORY/eu2", "variables and specifiers are not expanded"),
            ("${CREDENTIALS_DIRECTORY}/eu2", "variables and specifiers are not expanded"),
            ("%d/eu2", "variables and specifiers are not expanded"),
            ("%CREDENTIALS%/eu2", "variables and specifiers are not expanded"),
            ("file:///none/eu2", "write the path without file://"),
            ("https://vault.example/eu2", "the value is a URL"),
            ("C:\\secrets\\eu2", "write / between folders"),
            ("secrets\\eu2.txt", "write / between folders"),
            ("\"/none/eu2\"", "remove the quotation marks"),
            ("'/none/eu2'", "remove the quotation marks"),
            (" none/eu2", "remove the spaces"),
        ] {
            let shown = shown(path);
            assert!(shown.contains(hint), "{path}: {shown}");
            assert!(shown.starts_with('/') && !shown.contains("not shown"), "{path}: {shown}");
        }
    }

    #[test]
    fn paths_that_may_be_secrets_are_not_shown() {
        for path in [
            "none/aB3dE5fG7hJ9kL1mN3pQ",
            "~/aB3dE5fG7hJ9kL1mN3pQ",
            "$aB3dE5fG7hJ9kL1mN3pQ",
            "p$ssw0rd=%21",
            "pa$$word",
            "hunter:two",
            "100%sure",
            "tell\\no-one",
            "$hunter",
            "C:\\aB3dE5fG7hJ9kL1mN3pQ",
            "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0",
        ] {
            let shown = shown(path);
            assert!(shown.ends_with("not shown, because it may be a secret)"), "{path}: {shown}");
        }
    }
}
