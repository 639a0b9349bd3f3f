//! The configuration file as a tree whose values know their lines.
//!
//! Nothing here knows a key.

use std::{collections::BTreeMap, fmt, ops::Range, path::Path, sync::Arc};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    fault::{Findings, Place, Problem},
    named_file,
};
use crate::files::Contents;

/// A value and its place. The place does not count when values are compared.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) value: Value,
    pub(super) place: Place,
}

/// A table of the file.
pub(super) type Table = BTreeMap<String, Node>;

impl PartialEq for Node {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

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
    /// From the environment: becomes whatever its key wants.
    Variable(String),
}

impl PartialEq for Value {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Text(one), Self::Text(other)) | (Self::Variable(one), Self::Variable(other)) => {
                one == other
            }
            (Self::Integer(one), Self::Integer(other)) => one == other,
            // TOML has `nan`, and a file that contains it has not changed.
            (Self::Float(one), Self::Float(other)) => one.to_bits() == other.to_bits(),
            (Self::Boolean(one), Self::Boolean(other)) => one == other,
            (Self::Datetime, Self::Datetime) => true,
            (Self::List(one), Self::List(other)) => one == other,
            (Self::Table(one), Self::Table(other)) => one == other,
            _ => false,
        }
    }
}

impl Value {
    /// What it is, for a message.
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

/// Everything that a configuration file contains, to be compared with a later version. Comments,
/// blanks and the order of keys do not count. Never shown: it can contain secrets.
#[derive(Clone, Default, PartialEq)]
pub struct Document(Option<Arc<Table>>);

impl Document {
    /// Parses the contents of a file. All contents that are not TOML are equal.
    #[must_use]
    pub fn parse(contents: &[u8]) -> Self {
        Self(parse_bytes(Path::new(""), contents, &Findings::default()).map(Arc::new))
    }

    pub(super) fn of(table: &Table) -> Self {
        Self(Some(Arc::new(table.clone())))
    }
}

impl fmt::Debug for Document {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Document").finish_non_exhaustive()
    }
}

/// Reads a file. Adds a fault and returns nothing if it cannot be read, or is not TOML.
pub(super) fn read(path: &Path, findings: &Findings) -> Option<Table> {
    match named_file::read(path) {
        Ok(contents) => parse_contents(path, &contents, findings),
        Err(problem) => {
            findings.fault(Place::File(Some(Arc::from(path))), "", problem);
            None
        }
    }
}

/// Parses the contents of a file, as [`parse_bytes`], and warns about its permissions.
pub(super) fn parse_contents(path: &Path, contents: &Contents, findings: &Findings) -> Option<Table> {
    if contents.writable_by_others() {
        let rule = "every user of this machine can change the file, and so who may do what; chmod it to 0640";
        findings.warning(Place::File(Some(Arc::from(path))), "", rule);
    }
    parse_bytes(path, &contents.bytes, findings)
}

/// Parses the contents of a file. Adds faults and returns nothing if they are not TOML.
pub(super) fn parse_bytes(path: &Path, contents: &[u8], findings: &Findings) -> Option<Table> {
    let path: Arc<Path> = Arc::from(path);
    if let Ok(text) = std::str::from_utf8(contents) {
        parse(&path, text, findings)
    } else {
        let problem = Problem::rule("is not UTF-8 text; save it as UTF-8");
        findings.fault(Place::File(Some(path)), "", problem);
        None
    }
}

fn parse(path: &Arc<Path>, text: &str, findings: &Findings) -> Option<Table> {
    let (document, errors) = DeTable::parse_recoverable(text);
    let lines = Lines { path: Arc::clone(path), text };
    if errors.is_empty() {
        return Some(lines.table(document.into_inner()));
    }
    for error in errors {
        // The parser's sentence alone: its `Display` quotes the line, value and all.
        let place = error.span().map_or_else(|| Place::File(Some(Arc::clone(path))), |span| lines.at(&span));
        findings.fault(place, "", Problem::Syntax(error.message().to_owned()));
    }
    None
}

struct Lines<'a> {
    path: Arc<Path>,
    text: &'a str,
}

impl Lines<'_> {
    fn at(&self, span: &Range<usize>) -> Place {
        let before = self.text.as_bytes().get(..span.start).unwrap_or(self.text.as_bytes());
        // A file is read once; counting from its start each time is quick enough.
        #[expect(clippy::naive_bytecount, reason = "a configuration file is small")]
        let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
        Place::Line(Arc::clone(&self.path), line)
    }

    fn table(&self, table: DeTable<'_>) -> Table {
        table
            .into_iter()
            .map(|(key, value)| {
                let place = self.at(&key.span());
                (key.into_inner().into_owned(), Node { value: self.value(value.into_inner()), place })
            })
            .collect()
    }

    fn value(&self, value: DeValue<'_>) -> Value {
        match value {
            DeValue::String(text) => Value::Text(text.into_owned()),
            DeValue::Integer(integer) => i64::from_str_radix(integer.as_str(), integer.radix())
                .map_or_else(|_| Value::Float(f64::INFINITY), Value::Integer),
            DeValue::Float(float) => Value::Float(float.as_str().parse().unwrap_or(f64::NAN)),
            DeValue::Boolean(boolean) => Value::Boolean(boolean),
            DeValue::Datetime(_) => Value::Datetime,
            DeValue::Array(items) => Value::List(items.into_iter().map(|item| self.item(item)).collect()),
            DeValue::Table(table) => Value::Table(self.table(table)),
        }
    }

    fn item(&self, item: Spanned<DeValue<'_>>) -> Node {
        let place = self.at(&item.span());
        Node { value: self.value(item.into_inner()), place }
    }
}
