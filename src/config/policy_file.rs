//! The part of a configuration file that decides calls, for comparing two files.
//!
//! Only the file and the environment are read: a file can be compared on a machine that has none of
//! the secrets and certificates that it names. `check-config` checks everything else.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
};

use super::{
    access::{DefaultApiClient, KnownNames},
    access_tests::{AccessTestResult, TestedRules, read_access_and_tests, with_failures},
    callers,
    environment::{self, Environment},
    file::{self, Document},
    finding::{Errors, Findings, Place, Problem},
    jwt_issuers,
    reloadable::{OTHER_CALLERS, OTHER_SECTIONS},
    section::Section,
    tree::{Node, Table, Value, keys_at},
};
use crate::access::Settings;

/// Rules, and the names that they refer to.
#[derive(Clone, Debug)]
pub struct PolicyFile {
    /// `[access]`.
    pub access: Settings,
    /// The names in `[callers.tokens]`, sorted.
    pub tokens: Vec<String>,
    /// The names of the issuers in `[[callers.jwt]]`. `None` if the issuer has no name.
    pub jwt_issuers: Option<Vec<String>>,
    /// The `issuer` of each issuer of JWTs. Only to compare two files.
    pub issuers: BTreeSet<String>,
    /// The names in `[api_clients]`, sorted; at least one.
    pub api_clients: Vec<String>,
    /// The API client of calls that do not name one.
    pub default_api_client: Option<String>,
    /// Whether there is a `[token_binding]`.
    pub has_token_binding: bool,
    /// How callers prove their names, apart from tokens. Only to compare two files.
    pub proofs: Document,
    /// The tokens, and the platforms of the API clients, by their keys. Only to compare two files.
    pub meanings: BTreeMap<String, Document>,
}

impl PolicyFile {
    /// Reads a file, and applies environment variables over it.
    ///
    /// # Errors
    ///
    /// The file cannot be read or is not valid TOML, or every error found in `[access]` and
    /// `[callers.tokens]`, including failed access tests: no gateway uses such rules.
    pub fn load(file: &Path, environment: &dyn Environment) -> Result<Self, Errors> {
        let findings = Findings::default();
        let read = file::read(file, &findings).map(|mut tree| {
            environment::overlay(&mut tree, environment, &findings);
            Self::read(&tree, file, &findings)
        });
        let ((policy, tests), _) = findings.conclude(read)?;
        with_failures(Ok(policy), &tests)
    }

    fn read(tree: &Table, file: &Path, findings: &Findings) -> (Self, Vec<AccessTestResult>) {
        let mut root = Section::root(tree, Place::File(Some(Arc::from(file))), findings);
        let mut callers = root.table("callers");
        let tokens = callers.optional_table("tokens").map(|table| callers::tokens(&table));
        callers.finish_part(&OTHER_CALLERS);
        let api_clients = keys_at(tree, &["api_clients"]);
        if api_clients.is_empty() {
            root.error("api_clients", Problem::Missing("add at least one [api_clients.NAME]"));
        }
        let known = KnownNames {
            api_clients: Some(api_clients.clone()),
            tokens: keys_at(tree, &["callers", "tokens"]),
            jwt_issuers: jwt_issuers(tree),
            has_token_binding: Some(tree.contains_key("token_binding")),
            default_api_client: DefaultApiClient::Known(default_of(tree, &api_clients)),
        };
        let (access, tests) = read_access_and_tests(root.table("access"), &known, TestedRules::InForce);
        root.finish_part(&OTHER_SECTIONS);
        let policy = Self {
            access,
            tokens: tokens.unwrap_or_default().keys().map(ToString::to_string).collect(),
            default_api_client: default_of(tree, &api_clients).map(str::to_owned),
            jwt_issuers: jwt_issuers(tree).map(|names| names.into_iter().map(str::to_owned).collect()),
            issuers: issuers(tree),
            api_clients: api_clients.into_iter().map(str::to_owned).collect(),
            has_token_binding: known.has_token_binding == Some(true),
            proofs: proofs(tree),
            meanings: meanings(tree),
        };
        (policy, tests)
    }
}

/// Returns the default API client: the one that sets `default = true`, or the only one, unless it
/// sets `default = false`.
fn default_of<'a>(tree: &Table, names: &[&'a str]) -> Option<&'a str> {
    let declared = |name: &str| match table_at(tree, &["api_clients", name])?.get("default")?.value {
        Value::Boolean(is_default) => Some(is_default),
        Value::Variable(ref text) => text.parse().ok(),
        _ => None,
    };
    names.iter().copied().find(|name| declared(name).unwrap_or(names.len() == 1))
}

/// Returns what the names of tokens and API clients stand for.
fn meanings(tree: &Table) -> BTreeMap<String, Document> {
    let of = |node: &Node| Document::of(&Table::from([(String::new(), node.clone())]));
    let tokens = table_at(tree, &["callers", "tokens"]).into_iter().flatten();
    let tokens = tokens.map(|(name, node)| (format!("callers.tokens.{name}"), of(node)));
    let clients = table_at(tree, &["api_clients"]).into_iter().flatten();
    let clients = clients.filter_map(|(name, node)| {
        let Value::Table(client) = &node.value else { return None };
        Some((format!("api_clients.{name}.data_center_url"), of(client.get("data_center_url")?)))
    });
    tokens.chain(clients).collect()
}

/// Returns the tables that decide which callers exist and how they are identified.
fn proofs(tree: &Table) -> Document {
    let tables: [&[&str]; 3] = [&["callers", "jwt"], &["callers", "forwarded"], &["server", "tls"]];
    let nodes = tables.iter().filter_map(|path| {
        let (last, parents) = path.split_last()?;
        Some((path.join("."), table_at(tree, parents)?.get(*last)?.clone()))
    });
    Document::of(&nodes.collect())
}

/// Returns the `issuer` of each issuer of JWTs.
fn issuers(tree: &Table) -> BTreeSet<String> {
    let node = table_at(tree, &["callers"]).and_then(|callers| callers.get("jwt"));
    let tables: Vec<&Value> = match node.map(|node| &node.value) {
        Some(Value::List(list)) => list.iter().map(|node| &node.value).collect(),
        Some(table) => vec![table],
        None => Vec::new(),
    };
    let issuer = |table: &Value| match table {
        Value::Table(table) => match &table.get("issuer")?.value {
            Value::Text(issuer) | Value::Variable(issuer) => Some(issuer.clone()),
            _ => None,
        },
        _ => None,
    };
    tables.into_iter().filter_map(issuer).collect()
}

fn table_at<'a>(tree: &'a Table, path: &[&str]) -> Option<&'a Table> {
    path.iter().try_fold(tree, |table, key| match &table.get(*key)?.value {
        Value::Table(inner) => Some(inner),
        _ => None,
    })
}
