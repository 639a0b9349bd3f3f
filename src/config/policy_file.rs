//! The part of a configuration file that decides calls, for comparing two files.
//!
//! Only the file and the environment are read: a file can be compared on a machine that has none of
//! the secrets and certificates that it names. `check-config` checks everything else.

use std::{path::Path, sync::Arc};

use super::{
    access::{DefaultApiClient, KnownNames},
    access_tests::read_access_and_tests,
    callers,
    environment::{self, Environment},
    file::{self, Document},
    finding::{Errors, Findings, Place, Problem},
    jwt_issuers,
    reloadable::{OTHER_CALLERS, OTHER_SECTIONS},
    section::Section,
    tree::{Table, Value, keys_at},
};
use crate::access::Settings;

/// Rules, and the names that they refer to.
#[derive(Clone, Debug)]
pub struct PolicyFile {
    /// `[access]`.
    pub access: Settings,
    /// The names in `[callers.tokens]`, sorted.
    pub tokens: Vec<String>,
    /// The names in `[api_clients]`, sorted; at least one.
    pub api_clients: Vec<String>,
    /// The API client of calls that do not name one.
    pub default_api_client: Option<String>,
    /// How callers prove their names, apart from tokens. Only to compare two files.
    pub proofs: Document,
}

impl PolicyFile {
    /// Reads a file, and applies environment variables over it.
    ///
    /// # Errors
    ///
    /// The file cannot be read or is not valid TOML, or every error found in `[access]` and
    /// `[callers.tokens]`.
    pub fn load(file: &Path, environment: &dyn Environment) -> Result<Self, Errors> {
        let findings = Findings::default();
        let read = file::read(file, &findings).map(|mut tree| {
            environment::overlay(&mut tree, environment, &findings);
            Self::read(&tree, file, &findings)
        });
        findings.conclude(read).map(|(policy, _)| policy)
    }

    fn read(tree: &Table, file: &Path, findings: &Findings) -> Self {
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
            default_api_client: DefaultApiClient::Known(default_of(tree, &api_clients)),
        };
        // A comparison does not depend on the tests.
        let (access, _) = read_access_and_tests(root.table("access"), &known);
        root.finish_part(&OTHER_SECTIONS);
        Self {
            access,
            tokens: tokens.unwrap_or_default().keys().map(ToString::to_string).collect(),
            default_api_client: default_of(tree, &api_clients).map(str::to_owned),
            api_clients: api_clients.into_iter().map(str::to_owned).collect(),
            proofs: proofs(tree),
        }
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

/// Returns the tables that decide which callers exist and how they are identified.
fn proofs(tree: &Table) -> Document {
    let tables: [&[&str]; 3] = [&["callers", "jwt"], &["callers", "forwarded"], &["server", "tls"]];
    let nodes = tables.iter().filter_map(|path| {
        let (last, parents) = path.split_last()?;
        Some((path.join("."), table_at(tree, parents)?.get(*last)?.clone()))
    });
    Document::of(&nodes.collect())
}

fn table_at<'a>(tree: &'a Table, path: &[&str]) -> Option<&'a Table> {
    path.iter().try_fold(tree, |table, key| match &table.get(*key)?.value {
        Value::Table(inner) => Some(inner),
        _ => None,
    })
}
