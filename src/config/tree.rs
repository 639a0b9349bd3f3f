//! The values of a configuration, each with its place, for any keys.

use std::collections::BTreeMap;

use super::finding::Place;

/// A value and its place.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) value: Value,
    pub(super) place: Place,
}

/// A table of the file.
pub(super) type Table = BTreeMap<String, Node>;

/// A value of the file, or the text of an environment variable.
#[derive(Clone, Debug)]
pub(super) enum Value {
    Text(String),
    Integer(i64),
    Float(f64),
    Boolean(bool),
    Datetime,
    List(Vec<Node>),
    Table(Table),
    /// Text of an environment variable, converted to the type of its key when read.
    Variable(String),
}

impl Value {
    /// Returns the name of the type, for error texts.
    pub(super) const fn type_name(&self) -> &'static str {
        match self {
            Self::Text(_) => "a string",
            Self::Integer(_) => "an integer",
            Self::Float(_) => "a float",
            Self::Boolean(_) => "a boolean",
            Self::Datetime => "a date",
            Self::List(_) => "a list",
            Self::Table(_) => "a table",
            Self::Variable(_) => "the text of a variable",
        }
    }
}

/// Returns the keys of the table at a path.
pub(super) fn keys_at<'a>(tree: &'a Table, path: &[&str]) -> Vec<&'a str> {
    let mut table = tree;
    for key in path {
        match table.get(*key).map(|node| &node.value) {
            Some(Value::Table(inner)) => table = inner,
            _ => return Vec::new(),
        }
    }
    table.keys().map(String::as_str).collect()
}
