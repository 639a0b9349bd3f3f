//! Reads one table of the configuration, key by key.
//!
//! A key that is requested is a known key; [`Section::finish`] reports every other one. The
//! parsers in [`value`](super::value) define the form of each value.

use std::{borrow::Cow, path::PathBuf, sync::Arc};

use super::{
    finding::{self, Findings, Place, Problem},
    tree::{Node, Table, Value},
};

static NOTHING: Table = Table::new();

/// A table being read.
#[derive(Debug)]
pub(super) struct Section<'a> {
    name: String,
    table: &'a Table,
    place: Place,
    findings: &'a Findings,
    asked: Vec<&'static str>,
}

impl<'a> Section<'a> {
    /// Returns the root table.
    pub(super) fn root(table: &'a Table, place: Place, findings: &'a Findings) -> Self {
        Self { name: String::new(), table, place, findings, asked: Vec::new() }
    }

    /// Returns the table of a key, or an empty one if it is absent.
    pub(super) fn table(&mut self, key: &'static str) -> Self {
        self.asked.push(key);
        let name = self.name_of(key);
        self.table.get(key).map_or_else(
            || Section { name: name.clone(), table: &NOTHING, place: self.place.clone(), ..self.sibling() },
            |node| self.of_node(name.clone(), node),
        )
    }

    /// Returns the table of a key, if present.
    pub(super) fn optional_table(&mut self, key: &'static str) -> Option<Self> {
        self.asked.push(key);
        let node = self.table.get(key)?;
        Some(self.of_node(self.name_of(key), node))
    }

    /// Returns every key of this table as a table, with its name.
    pub(super) fn tables(&self) -> Vec<(&'a str, Self)> {
        self.table.iter().map(|(key, node)| (key.as_str(), self.of_node(self.name_of(key), node))).collect()
    }

    /// Returns the tables of a `[[list]]`. Findings number them from 1, like access rules in logs
    /// and in `check-config --explain`.
    pub(super) fn list_of_tables(&mut self, key: &'static str) -> Vec<Self> {
        self.asked.push(key);
        let Some(node) = self.table.get(key) else { return Vec::new() };
        let name = self.name_of(key);
        match &node.value {
            Value::List(items) => (1_usize..)
                .zip(items)
                .map(|(number, item)| self.of_node(format!("{name}[{number}]"), item))
                .collect(),
            Value::Variable(_) => {
                let problem = Problem::rule("is a list of tables, which can only be set in the file");
                self.findings.error(node.place.clone(), name, problem);
                Vec::new()
            }
            other => {
                let problem =
                    Problem::WrongType { expected: "a list of tables ([[…]])", found: other.type_name() };
                self.findings.error(node.place.clone(), name, problem);
                Vec::new()
            }
        }
    }

    /// Returns the value of a key, or `None` if it is absent or invalid. Reports an invalid one.
    pub(super) fn optional<T>(
        &mut self,
        key: &'static str,
        parse: impl FnOnce(&Value) -> Result<T, Problem>,
    ) -> Option<T> {
        self.asked.push(key);
        let node = self.table.get(key)?;
        parse(&node.value)
            .map_err(|problem| self.findings.error(node.place.clone(), self.name_of(key), problem))
            .ok()
    }

    /// Returns the value of a required key. Reports an absent or invalid one.
    pub(super) fn required<T>(
        &mut self,
        key: &'static str,
        hint: &'static str,
        parse: impl FnOnce(&Value) -> Result<T, Problem>,
    ) -> Option<T> {
        if !self.has(key) {
            self.error(key, Problem::Missing(hint));
        }
        self.optional(key, parse)
    }

    /// Returns a list whose items are parsed one by one. Findings number them from 1 and contain the
    /// place of each. An empty list is refused, because it could mean either all or none.
    pub(super) fn list<T>(
        &mut self,
        key: &'static str,
        parse: impl Fn(&Value) -> Result<T, Problem>,
    ) -> Option<Vec<T>> {
        self.asked.push(key);
        self.items(key, self.table.get(key)?, parse)
    }

    fn items<T>(
        &self,
        key: &str,
        node: &Node,
        parse: impl Fn(&Value) -> Result<T, Problem>,
    ) -> Option<Vec<T>> {
        let name = self.name_of(key);
        let split;
        let items = match &node.value {
            Value::List(items) => items,
            Value::Variable(text) => {
                let item = |item: &str| Node {
                    value: Value::Variable(item.trim().to_owned()),
                    place: node.place.clone(),
                };
                split = text.split(',').map(item).collect();
                &split
            }
            other => {
                let problem = Problem::WrongType { expected: "a list", found: other.type_name() };
                self.findings.error(node.place.clone(), name, problem);
                return None;
            }
        };
        if items.is_empty() {
            let problem = Problem::rule("must contain at least one item");
            self.findings.error(node.place.clone(), name, problem);
            return None;
        }
        let parsed: Vec<Option<T>> = (1_usize..)
            .zip(items)
            .map(|(number, item)| {
                parse(&item.value)
                    .map_err(|problem| {
                        self.findings.error(item.place.clone(), format!("{name}[{number}]"), problem);
                    })
                    .ok()
            })
            .collect();
        parsed.into_iter().collect()
    }

    /// Returns one value or a list of values, for a key that is not known in advance.
    pub(super) fn one_or_more<T>(
        &self,
        key: &str,
        parse: impl Fn(&Value) -> Result<T, Problem>,
    ) -> Option<Vec<T>> {
        let node = self.table.get(key)?;
        match &node.value {
            Value::List(_) => self.items(key, node, parse),
            one => {
                let parsed = parse(one).map_err(|problem| self.error(key, problem)).ok()?;
                Some(vec![parsed])
            }
        }
    }

    /// Returns a file path. Relative paths in the file are resolved against the file's folder, those
    /// in a variable against the working directory.
    pub(super) fn path(&mut self, key: &'static str) -> Option<PathBuf> {
        let text = self.optional(key, super::value::text)?;
        Some(self.resolve(key, &text))
    }

    /// Resolves a path set by that key.
    pub(super) fn resolve(&self, key: &str, text: &str) -> PathBuf {
        match self.place_of(key) {
            Place::Line(file, _) => {
                file.parent().map_or_else(|| PathBuf::from(text), |folder| folder.join(text))
            }
            _ => PathBuf::from(text),
        }
    }

    /// Returns whether the key is present, valid or not.
    pub(super) fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// Returns the keys of the table.
    pub(super) fn keys(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        self.table.keys().map(String::as_str)
    }

    /// Returns the raw value of a key, without marking the key as known.
    pub(super) fn node(&self, key: &str) -> Option<&'a Value> {
        self.table.get(key).map(|node| &node.value)
    }

    /// Returns the place of the table.
    pub(super) fn own_place(&self) -> Place {
        self.place.clone()
    }

    /// Returns the place of a key, or of its table if it is absent.
    pub(super) fn place_of(&self, key: &str) -> Place {
        self.table.get(key).map_or_else(|| self.place.clone(), |node| node.place.clone())
    }

    /// Returns a key's line in the file, or `None` if the key is absent or set by a variable.
    pub(super) fn line_of(&self, key: &str) -> Option<usize> {
        match &self.table.get(key)?.place {
            Place::Line(_, line) => Some(*line),
            _ => None,
        }
    }

    /// Returns the last line of a key and of the keys in its table, like [`line_of`](Self::line_of).
    pub(super) fn last_line_of(&self, key: &str) -> Option<usize> {
        let line = self.line_of(key)?;
        let Value::Table(table) = &self.table.get(key)?.value else { return Some(line) };
        let lines = table.values().filter_map(|node| match &node.place {
            Place::Line(_, line) => Some(*line),
            _ => None,
        });
        lines.max().max(Some(line))
    }

    /// Returns the dotted name of a key.
    pub(super) fn name_of(&self, key: &str) -> String {
        if self.name.is_empty() { key.to_owned() } else { format!("{}.{key}", self.name) }
    }

    /// Reports an error at a key.
    pub(super) fn error(&self, key: &str, problem: Problem) {
        self.findings.error(self.place_of(key), self.name_of(key), problem);
    }

    /// Reports an error in the table itself.
    pub(super) fn own_error(&self, problem: Problem) {
        self.findings.error(self.place.clone(), self.name.clone(), problem);
    }

    /// Reports a warning about a variable that does not set a key.
    pub(super) fn variable_warning(&self, name: &str, rule: impl Into<Cow<'static, str>>) {
        self.findings.warning(Place::Variable(Arc::from(name)), "", rule);
    }

    /// Reports a warning at a key.
    pub(super) fn warning(&self, key: &str, rule: impl Into<Cow<'static, str>>) {
        self.findings.warning(self.place_of(key), self.name_of(key), rule);
    }

    /// Reports a warning at the place of a part of a key's value.
    pub(super) fn warning_of(&self, place: Place, key: &str, rule: impl Into<Cow<'static, str>>) {
        self.findings.warning(place, self.name_of(key), rule);
    }

    /// Returns the number of errors found so far, in any table.
    pub(super) fn errors(&self) -> usize {
        self.findings.errors()
    }

    /// Reports a warning about a place that is not a key.
    pub(super) fn warning_at(&self, place: Place, rule: impl Into<Cow<'static, str>>) {
        self.findings.warning(place, "", rule);
    }

    /// Reports every key that was not requested.
    pub(super) fn finish(self) {
        for (key, node) in self.table {
            if !self.asked.contains(&key.as_str()) {
                let nearest = finding::nearest(key, self.asked.iter().copied());
                self.findings.error(node.place.clone(), self.name_of(key), Problem::UnknownKey { nearest });
            }
        }
    }

    /// Reports unknown keys that resemble a requested key. For a reader of only a part of a table,
    /// which ignores `other_keys`.
    pub(super) fn finish_part(self, other_keys: &[&str]) {
        for (key, node) in self.table {
            if self.asked.contains(&key.as_str()) || other_keys.contains(&key.as_str()) {
                continue;
            }
            let nearest = finding::nearest(key, self.asked.iter().chain(other_keys).copied());
            if nearest.as_deref().is_some_and(|nearest| self.asked.contains(&nearest)) {
                self.findings.error(node.place.clone(), self.name_of(key), Problem::UnknownKey { nearest });
            }
        }
    }

    fn of_node(&self, name: String, node: &'a Node) -> Self {
        let table = if let Value::Table(table) = &node.value {
            table
        } else {
            let problem = Problem::WrongType { expected: "a table", found: node.value.type_name() };
            self.findings.error(node.place.clone(), name.clone(), problem);
            &NOTHING
        };
        Section { name, table, place: node.place.clone(), ..self.sibling() }
    }

    fn sibling(&self) -> Self {
        Section {
            name: String::new(),
            table: &NOTHING,
            place: self.place.clone(),
            findings: self.findings,
            asked: Vec::new(),
        }
    }
}
