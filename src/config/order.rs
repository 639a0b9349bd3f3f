//! Checks the order of keys, so that a truncated file never allows more callers or trusts other
//! authorities than the whole file.
//!
//! A file without an access rule is refused. Keys outside `[access]` that restrict callers or
//! trusted servers must therefore come before the first rule, or before a required key of their own
//! table. Keys of a rule are checked in [`access`](super::access).

use super::{
    access::USER_KEYS,
    finding::{Findings, Place, Problem},
    tree::{Node, Table, Value},
};

/// Keys of one or more tables that restrict callers or trust.
struct Restricting {
    /// Path of the table; `*` is any name.
    table: &'static [&'static str],
    keys: &'static [&'static str],
    /// Keys without which the table has no effect or is refused. A file truncated before one of
    /// these may lack the restricting keys too.
    needed: &'static [&'static str],
    /// Effect of a file without one of the keys, for the error text.
    otherwise: &'static str,
    /// Whether another order is an error. It is only a warning for the collector, which receives no
    /// secrets of the platform or of callers, and whose endpoint people usually set first.
    is_refused: bool,
}

/// Required keys of `[api_clients.NAME]`.
const REQUIRED_OF_API_CLIENT: &[&str] =
    &["data_center_url", "client_id", "client_secret_file", "client_secret_env", "client_secret_credential"];

const RESTRICTING: [Restricting; 5] = [
    Restricting {
        table: &["server", "tls"],
        keys: &["client_ca_file"],
        // Without the whole table, a loopback listener would not ask for certificates either.
        needed: &[],
        otherwise: "would accept more callers",
        is_refused: true,
    },
    Restricting {
        table: &["callers", "jwt"],
        keys: &["typ", "max_lifetime", "jwks_ca_file", "jwks_max_age"],
        needed: &["issuer", "audience", "jwks_file", "jwks_url"],
        otherwise: "would accept more callers",
        is_refused: true,
    },
    Restricting {
        table: &["api_clients", "*"],
        keys: &["ca_file"],
        needed: REQUIRED_OF_API_CLIENT,
        otherwise: "would trust the system's authorities",
        is_refused: true,
    },
    Restricting {
        table: &["api_clients", "*"],
        keys: &["bind_tokens"],
        needed: REQUIRED_OF_API_CLIENT,
        otherwise: "would issue and accept tokens that are not sealed",
        is_refused: true,
    },
    Restricting {
        table: &["telemetry"],
        keys: &["otlp_ca_file"],
        needed: &["otlp_endpoint"],
        otherwise: "would trust the system's authorities",
        is_refused: false,
    },
];

/// Reports the restricting keys that a truncated file would lose first.
pub(super) fn check(tree: &Table, findings: &Findings) {
    let Some(first_rule) = end_of_first_rule(tree) else { return };
    for Restricting { table, keys, needed, otherwise, is_refused } in RESTRICTING {
        for (name, table) in tables_at(tree, table, "") {
            let complete = needed.iter().filter_map(|key| Some((line_of(table.get(*key)?)?, *key))).max();
            for (key, node) in keys.iter().filter_map(|key| Some((*key, table.get(*key)?))) {
                let Some(line) = line_of(node) else { continue };
                if line > first_rule && complete.is_none_or(|(complete, _)| line > complete) {
                    let or_before = complete.map_or_else(String::new, |(_, key)| format!(" or before {key}"));
                    let (place, name) = (node.place.clone(), format!("{name}.{key}"));
                    let order = format!(
                        "come before the first [[access.rules]]{or_before}: a truncated file without this key \
                         {otherwise}"
                    );
                    if is_refused {
                        findings.error(place, name, Problem::rule(format!("must {order}")));
                    } else {
                        findings.warning(place, name, format!("should {order}"));
                    }
                }
            }
        }
    }
}

/// Returns the line at which the first access rule becomes valid.
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

/// Returns the tables at a path, with their names.
fn tables_at<'a>(tree: &'a Table, path: &[&str], name: &str) -> Vec<(String, &'a Table)> {
    let Some((first, rest)) = path.split_first() else { return vec![(name.to_owned(), tree)] };
    let named = |key: &str| if name.is_empty() { key.to_owned() } else { format!("{name}.{key}") };
    let nodes = tree.iter().filter(|(key, _)| *first == "*" || *first == key.as_str());
    nodes
        .flat_map(|(key, node)| tables(node, &named(key)))
        .flat_map(|(name, table)| tables_at(table, rest, &name))
        .collect()
}

/// Returns the table of a node, or the tables of its list, with their names.
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
