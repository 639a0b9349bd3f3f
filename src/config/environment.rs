//! Environment variables that override keys of the file.
//!
//! `OTT_GATEWAY__SERVER__LISTEN` sets the key `listen` of the table `[server]`: a double underscore
//! separates tables and keys, case is ignored, and `_` replaces `-` in names. Items of a list are
//! separated by commas. Lists of tables, such as access rules, cannot be set by variables. No other
//! module reads the process's environment.

use std::{
    collections::{BTreeMap, HashMap},
    ffi::OsString,
    sync::Arc,
};

use super::{
    finding::{Findings, Place, Problem},
    tree::{Node, Table, Value},
};

pub(super) const PREFIX: &str = "OTT_GATEWAY__";
/// Prefix of a misspelled variable whose first separator is too short.
pub(super) const SHORT_PREFIX: &str = "OTT_GATEWAY_";
pub(super) const SEPARATOR: &str = "__";

/// A source of environment variables.
pub trait Environment {
    /// Returns the value of a variable.
    fn value(&self, name: &str) -> Option<OsString>;
    /// Returns the names of all variables. Names that are not Unicode are omitted.
    fn names(&self) -> Vec<String>;
}

/// The environment of this process.
#[derive(Clone, Copy, Debug, Default)]
pub struct Process;

impl Environment for Process {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the environment")]
    fn value(&self, name: &str) -> Option<OsString> {
        std::env::var_os(name)
    }

    fn names(&self) -> Vec<String> {
        std::env::vars_os().filter_map(|(name, _)| name.into_string().ok()).collect()
    }
}

impl Environment for BTreeMap<String, String> {
    fn value(&self, name: &str) -> Option<OsString> {
        self.get(name).map(OsString::from)
    }

    fn names(&self) -> Vec<String> {
        self.keys().cloned().collect()
    }
}

impl<S: std::hash::BuildHasher> Environment for HashMap<String, String, S> {
    fn value(&self, name: &str) -> Option<OsString> {
        self.get(name).map(OsString::from)
    }

    fn names(&self) -> Vec<String> {
        self.keys().cloned().collect()
    }
}

/// The variables that set `[access]` and `[callers.tokens]`, and no others.
pub(super) struct OfAccess<'a>(pub(super) &'a dyn Environment);

impl Environment for OfAccess<'_> {
    fn value(&self, name: &str) -> Option<OsString> {
        self.0.value(name)
    }

    fn names(&self) -> Vec<String> {
        let mut names = self.0.names();
        names.retain(|name| {
            let path = name.strip_prefix(PREFIX).map(str::to_lowercase);
            path.is_some_and(|path| path.starts_with("access__") || path.starts_with("callers__tokens__"))
        });
        names
    }
}

/// Sets the key of every `OTT_GATEWAY__` variable in the tree, and returns the names of the variables.
pub(super) fn overlay(tree: &mut Table, environment: &dyn Environment, findings: &Findings) -> Vec<String> {
    let mut overlaid = Vec::new();
    let mut names = environment.names();
    names.sort();
    for name in names {
        let place = Place::Variable(Arc::from(name.as_str()));
        let Some(path) = name.strip_prefix(PREFIX) else {
            // Kubernetes sets variables such as OTT_GATEWAY_PORT, which have no separator.
            if let Some(rest) = name.strip_prefix(SHORT_PREFIX)
                && rest.contains(SEPARATOR)
            {
                let nearest = Some(format!("{PREFIX}{rest}"));
                findings.error(place, "", Problem::UnknownKey { nearest });
            }
            continue;
        };
        let path: Vec<String> = path.split(SEPARATOR).map(str::to_lowercase).collect();
        let key = path.join(".");
        let Some(text) = environment.value(&name) else { continue };
        let Ok(text) = text.into_string() else {
            findings.error(place, key, Problem::rule("must be UTF-8"));
            continue;
        };
        let node = Node { value: Value::Variable(text), place: place.clone() };
        if path.iter().any(String::is_empty) {
            findings.error(place, key, Problem::UnknownKey { nearest: None });
        } else if let Err(problem) = set(tree, &path, node) {
            findings.error(place, key, problem);
        } else {
            overlaid.push(name);
        }
    }
    overlaid
}

fn set(table: &mut Table, path: &[String], node: Node) -> Result<(), Problem> {
    let Some((segment, rest)) = path.split_first() else { return Ok(()) };
    // An exact match takes precedence: `a-b` and `a_b` may both exist.
    let key = if table.contains_key(segment) {
        segment.clone()
    } else {
        table.keys().find(|key| same_name(key, segment)).unwrap_or(segment).clone()
    };
    if rest.is_empty() {
        return match table.get(&key).map(|old| &old.value) {
            Some(Value::Table(_)) => Err(Problem::rule("is a table; a variable sets one of its keys")),
            Some(Value::List(items)) if items.iter().any(|item| matches!(item.value, Value::Table(_))) => {
                Err(Problem::rule("is a list of tables, which can only be set in the file"))
            }
            _ => {
                table.insert(key, node);
                Ok(())
            }
        };
    }
    let place = node.place.clone();
    let entry = table.entry(key).or_insert_with(|| Node { value: Value::Table(Table::new()), place });
    match &mut entry.value {
        Value::Table(inner) => set(inner, rest, node),
        Value::List(_) => Err(Problem::rule("is part of a list, which can only be set in the file")),
        _ => Err(Problem::UnknownKey { nearest: None }),
    }
}

/// Returns whether a variable's segment refers to a key. Segments have no `-` and no case.
fn same_name(key: &str, segment: &str) -> bool {
    key.to_lowercase().replace('-', "_") == segment
}
