//! Parses the configuration file into a tree whose values have line numbers, for any keys.

use std::{fmt, ops::Range, path::Path, sync::Arc};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    finding::{Findings, Place, Problem, absolute, unexpanded_form},
    tree::{Node, Table, Value},
};
use crate::base::{
    files::{self, Contents, Exposure},
    fingerprint::{self, Fingerprint},
};

/// Hash of a configuration file's contents. Equal if the same keys have the same values, regardless
/// of comments, whitespace and the order of keys. The contents are not kept, because they could
/// include a secret by mistake.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Document([u8; 32]);

impl Document {
    /// Parses the contents of a file. All contents that are not valid TOML are equal.
    #[must_use]
    pub fn parse(contents: &[u8]) -> Self {
        let table = parse_bytes(Path::new(""), contents, &Findings::default());
        table.as_ref().map(Self::of).unwrap_or_default()
    }

    pub(super) fn of(table: &Table) -> Self {
        let mut hash = Fingerprint::default();
        add_table(&mut hash, table, &mut |_| None);
        Self(hash.finish())
    }

    /// Returns the hash of a configuration without what could be a secret or help to guess one: the
    /// hashes of bearer tokens, and the names and passwords in URLs.
    pub(super) fn without_secrets(tree: &Table) -> Self {
        let mut without_tokens = tree.clone();
        if let Some(Value::Table(callers)) = without_tokens.get_mut("callers").map(|node| &mut node.value)
            && let Some(Value::Table(tokens)) = callers.get_mut("tokens").map(|node| &mut node.value)
        {
            for node in tokens.values_mut() {
                node.value = Value::Text(String::new());
            }
        }
        let mut hash = Fingerprint::default();
        add_table(&mut hash, &without_tokens, &mut without_credentials);
        Self(hash.finish())
    }

    /// Returns the fingerprint: 32 hexadecimal digits.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        fingerprint::text(&self.0)
    }
}

/// Returns the text without the name and password of a URL, or `None` if it has none.
fn without_credentials(text: &str) -> Option<String> {
    let (scheme, rest) = text.split_once("://")?;
    let (_, rest) = rest.rsplit_once('@')?;
    Some(format!("{scheme}://{rest}"))
}

/// Adds a table. `shorten` returns what replaces a text, if anything.
fn add_table(hash: &mut Fingerprint, table: &Table, shorten: &mut impl FnMut(&str) -> Option<String>) {
    for (key, node) in table {
        hash.add("key", key.as_bytes());
        add_value(hash, &node.value, shorten);
    }
    hash.add("end", &[]);
}

fn add_value(hash: &mut Fingerprint, value: &Value, shorten: &mut impl FnMut(&str) -> Option<String>) {
    match value {
        Value::Text(text) | Value::Variable(text) => {
            let shortened = shorten(text);
            hash.add("text", shortened.as_deref().unwrap_or(text).as_bytes());
        }
        Value::Integer(integer) => hash.add("integer", &integer.to_be_bytes()),
        Value::Float(float) => hash.add("float", &float.to_bits().to_be_bytes()),
        Value::Boolean(boolean) => hash.add("boolean", &[u8::from(*boolean)]),
        Value::Datetime => hash.add("date", &[]),
        Value::List(items) => {
            hash.begin_list("list", items.len());
            for item in items {
                add_value(hash, &item.value, shorten);
            }
        }
        Value::Table(table) => {
            hash.add("table", &[]);
            add_table(hash, table, shorten);
        }
    }
}

impl fmt::Debug for Document {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Document").finish_non_exhaustive()
    }
}

/// Reads a file. Reports an error and returns `None` if it cannot be read or is not valid TOML.
pub(super) fn read(path: &Path, findings: &Findings) -> Option<Table> {
    match files::read(path, files::MAX_BYTES) {
        Ok(contents) => parse_contents(path, &contents, findings),
        Err(error) => {
            let problem = match unexpanded_form(path) {
                Some(hint) => Problem::Unreadable(format!("{error} ({hint})")),
                None => error.into(),
            };
            findings.error(Place::File(Some(Arc::from(absolute(path)))), "", problem);
            None
        }
    }
}

/// Parses the contents of a file like [`parse_bytes`], and warns about its permissions.
pub(super) fn parse_contents(path: &Path, contents: &Contents, findings: &Findings) -> Option<Table> {
    let Exposure { readable, writable, replaceable } = contents.exposure;
    let warn = |rule| findings.warning(Place::File(Some(Arc::from(path))), "", rule);
    if writable {
        warn("every user of this machine can change the file and thereby the access rules; chmod it to 0640");
    }
    if replaceable {
        warn(
            "every user of this machine can replace the file and thereby the access rules, because its folder \
             is writable by all; chmod the folder to 0755",
        );
    }
    let table = parse_bytes(path, &contents.bytes, findings);
    if let (true, Some(table)) = (readable, &table) {
        warn_of_passwords(table, "", findings);
    }
    table
}

/// Warns about passwords in URLs of a world-readable file.
fn warn_of_passwords(table: &Table, within: &str, findings: &Findings) {
    for (key, node) in table {
        let key = if within.is_empty() { key.clone() } else { format!("{within}.{key}") };
        match &node.value {
            Value::Table(table) => warn_of_passwords(table, &key, findings),
            Value::Text(text) if has_password(text) => {
                let rule =
                    "contains a password, and every user of this machine can read the file; chmod it to 0640";
                findings.warning(node.place.clone(), &key, rule);
            }
            _ => {}
        }
    }
}

/// Returns whether a text is a URL with a password, even one that cannot be parsed.
fn has_password(text: &str) -> bool {
    let credentials = text.split_once("://").and_then(|(_, rest)| rest.rsplit_once('@'));
    credentials.is_some_and(|(credentials, _)| credentials.contains(':'))
}

/// Parses the contents of a file. Reports errors and returns `None` if they are not valid TOML.
pub(super) fn parse_bytes(path: &Path, contents: &[u8], findings: &Findings) -> Option<Table> {
    let path: Arc<Path> = Arc::from(path);
    match std::str::from_utf8(contents) {
        // NUL: UTF-16 without a byte order mark, or a file whose contents were lost in a crash.
        Ok(text) if !text.contains('\0') => parse(&path, text, findings),
        _ => {
            let problem = Problem::rule("is not UTF-8 text; save it as UTF-8");
            findings.error(Place::File(Some(path)), "", problem);
            None
        }
    }
}

fn parse(path: &Arc<Path>, text: &str, findings: &Findings) -> Option<Table> {
    let (document, errors) = DeTable::parse_recoverable(text);
    let breaks = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at).collect();
    let lines = Lines { path: Arc::clone(path), breaks };
    if errors.is_empty() {
        return Some(lines.table(document.into_inner()));
    }
    if let Some(format) = other_format(text) {
        let rule = format!("is {format} and not TOML; see `ott-gateway example-config`");
        findings.error(Place::File(Some(Arc::clone(path))), "", Problem::rule(rule));
        return None;
    }
    for error in errors {
        // Only the parser's message: its `Display` quotes the line, including the value.
        let place = error.span().map_or_else(|| Place::File(Some(Arc::clone(path))), |span| lines.at(&span));
        findings.error(place, "", Problem::Syntax(error.message().to_owned()));
    }
    None
}

/// Returns the format of a text that is not TOML, by its first line. The parser would report an error
/// for each line.
fn other_format(text: &str) -> Option<&'static str> {
    let mut lines = text.lines().map(str::trim);
    let first = lines.find(|line| !line.is_empty() && !line.starts_with('#'))?;
    let is_yaml_key = || {
        let (key, value) = first.split_once(':')?;
        let is_key = key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte));
        (is_key && (value.is_empty() || value.starts_with(' '))).then_some(())
    };
    match first {
        _ if first.starts_with("-----BEGIN") => Some("PEM"),
        _ if first.starts_with('{') => Some("JSON"),
        _ if first.starts_with('<') => Some("HTML or XML"),
        _ if first == "---" || first.starts_with("- ") || is_yaml_key().is_some() => Some("YAML"),
        _ => None,
    }
}

struct Lines {
    path: Arc<Path>,
    /// The positions of the line breaks. Counting them for each value would take quadratic time.
    breaks: Vec<usize>,
}

impl Lines {
    fn at(&self, span: &Range<usize>) -> Place {
        let before = self.breaks.partition_point(|at| *at < span.start);
        Place::Line(Arc::clone(&self.path), 1 + before)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_no_shell_has_expanded_is_reported_with_the_reason() {
        for path in ["~/none/gateway.toml", "$NONE/gateway.toml"] {
            let findings = Findings::default();
            assert!(read(Path::new(path), &findings).is_none());
            let errors = findings.conclude::<()>(None).unwrap_err().to_string();
            assert!(
                errors.ends_with("not expanded; write the path of the home folder)")
                    || errors.contains("variables and"),
                "{errors}"
            );
            assert!(errors.contains("no such file ("), "{errors}");
        }
    }

    #[test]
    fn a_file_in_another_format_is_one_error() {
        for (text, format) in [
            ("-----BEGIN CERTIFICATE-----\ncanary\ncanary==\n-----END CERTIFICATE-----\n", Some("PEM")),
            ("# gateway\nserver:\n  listen: canary\n  tls: canary\n", Some("YAML")),
            ("---\nserver: canary\n", Some("YAML")),
            ("- canary: 1\n- canary: 2\n", Some("YAML")),
            ("{\n  \"server\": {}\n}\n", Some("JSON")),
            ("<html>\ncanary\n", Some("HTML or XML")),
            ("[server\nlisten = 1\n", None),
            ("listen canary\n", None),
        ] {
            let findings = Findings::default();
            assert!(parse_bytes(Path::new("gateway.toml"), text.as_bytes(), &findings).is_none(), "{text}");
            let errors = findings.conclude::<()>(None).unwrap_err().to_string();
            assert!(!errors.contains("canary"), "{errors}");
            match format {
                Some(format) => assert_eq!(
                    errors,
                    format!("gateway.toml: is {format} and not TOML; see `ott-gateway example-config`")
                ),
                None => assert!(errors.contains("not valid TOML"), "{errors}"),
            }
        }
    }

    #[test]
    fn documents_are_equal_if_the_same_keys_have_the_same_values() {
        let document = |text: &str| Document::parse(text.as_bytes());
        let one = document("a = 1\nb = [\"x\", nan]\n[c]\nd = true\n");
        assert_eq!(one, document("# new\nb = [ 'x', nan ]\na = 0x1\nc = { d = true }"));
        for other in [
            "a = 1\nb = [\"x\", nan]\n[c]\nd = false\n",
            "a = 1\nb = [\"x\", nan]\n[c]\n",
            "a = 1\nb = [\"x\"]\n[c]\nd = true\n",
            "a = \"1\"\nb = [\"x\", nan]\n[c]\nd = true\n",
            "a = 1\nb = [\"x\", nan]\nd = true\n[c]\n",
            "",
            "a =",
        ] {
            assert_ne!(one, document(other), "{other}");
        }
        assert!(!format!("{one:?}").contains(char::is_numeric), "{one:?}");
    }

    #[test]
    fn fingerprint_depends_on_every_value_but_secrets() {
        let fingerprint_of = |text: &str| {
            let tree = parse_bytes(Path::new(""), text.as_bytes(), &Findings::default());
            Document::without_secrets(&tree.expect("valid TOML")).fingerprint()
        };
        let text =
            "[callers.tokens]\na = \"sha256:00\"\n[api_clients.eu2]\nproxy_url = \"http://u:pass@p:1\"\n";
        let one = fingerprint_of(text);
        assert_eq!(one.len(), 32);
        for same in [
            "sha256:01".to_owned(),
            // Reduces the search for a weak token to a comparison.
            "[\"sha256:00\", \"sha256:01\"]".to_owned(),
        ] {
            let value = if same.starts_with('[') { same } else { format!("\"{same}\"") };
            assert_eq!(one, fingerprint_of(&text.replace("\"sha256:00\"", &value)), "{value}");
        }
        for (part, other) in [("u:pass@", "u:other@"), ("u:pass@", "v:pass@"), ("\n[api", "\n# x\n[api")] {
            assert_eq!(one, fingerprint_of(&text.replace(part, other)), "{other}");
        }
        for (part, other) in [("p:1", "p:2"), ("http:", "https:"), ("a = ", "b = "), ("eu2", "us1")] {
            assert_ne!(one, fingerprint_of(&text.replace(part, other)), "{other}");
        }
    }
}
