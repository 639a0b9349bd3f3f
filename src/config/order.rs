//! The order in which parts of the file must appear, so that a file that was cut off never allows
//! more than the whole file.
//!
//! The start of a file without an access rule is refused. Keys outside `[access]` that restrict
//! who counts as identified must therefore come before the first rule, or before a required key
//! of their own table. Keys of a rule are checked in [`access`](super::access).

use super::{
    access::USER_KEYS,
    fault::{Findings, Place, Problem},
    file::{Node, Table, Value},
};

/// Tables with the keys that restrict callers, and required keys of the same table: a file that
/// was cut off before one of those is refused in any case.
const RESTRICTING: [(&[&str], &[&str], &[&str]); 2] = [
    // Without the whole table, a loopback listener would not ask for certificates either.
    (&["server", "tls"], &["client_ca_file"], &[]),
    (
        &["callers", "jwt"],
        &["typ", "max_lifetime", "jwks_ca_file", "jwks_max_age"],
        &["issuer", "audience", "jwks_file", "jwks_url"],
    ),
];

/// Reports the restricting keys that are lost first if the file is cut off.
pub(super) fn check(tree: &Table, findings: &Findings) {
    let Some(first_rule) = end_of_first_rule(tree) else { return };
    for (path, keys, required) in RESTRICTING {
        let Some(node) = node_at(tree, path) else { continue };
        for (name, table) in tables(node, &path.join(".")) {
            let complete = required.iter().filter_map(|key| line_of(table.get(*key)?)).max();
            for (key, node) in keys.iter().filter_map(|key| Some((key, table.get(*key)?))) {
                let Some(line) = line_of(node) else { continue };
                if line > first_rule && complete.is_none_or(|complete| line > complete) {
                    let problem = Problem::rule(
                        "must come before the first [[access.rules]]: without this key, a file that was cut off \
                         would accept more callers",
                    );
                    findings.fault(node.place.clone(), format!("{name}.{key}"), problem);
                }
            }
        }
    }
}

/// The line from which on the first access rule is valid.
fn end_of_first_rule(tree: &Table) -> Option<usize> {
    let Value::List(rules) = &node_at(tree, &["access", "rules"])?.value else { return None };
    let Value::Table(rule) = &rules.first()?.value else { return None };
    USER_KEYS.iter().filter_map(|key| line_of(rule.get(*key)?)).min()
}

fn node_at<'a>(tree: &'a Table, path: &[&str]) -> Option<&'a Node> {
    let (last, outer) = path.split_last()?;
    let mut table = tree;
    for key in outer {
        let Value::Table(inner) = &table.get(*key)?.value else { return None };
        table = inner;
    }
    table.get(*last)
}

/// The table of a node, or the tables of its list, with their names.
fn tables<'a>(node: &'a Node, name: &str) -> Vec<(String, &'a Table)> {
    match &node.value {
        Value::Table(table) => vec![(name.to_owned(), table)],
        Value::List(items) => (1_usize..)
            .zip(items)
            .filter_map(|(number, item)| match &item.value {
                Value::Table(table) => Some((format!("{name}[{number}]"), table)),
                _ => None,
            })
            .collect(),
        _ => Vec::new(),
    }
}

fn line_of(node: &Node) -> Option<usize> {
    match node.place {
        Place::Line(_, line) => Some(line),
        _ => None,
    }
}
