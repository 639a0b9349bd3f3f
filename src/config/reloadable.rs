//! The part of the configuration that takes effect without a restart: `[access]` and
//! `[callers.tokens]`.
//!
//! Only the configuration file and the environment are read. Errors in other sections or files do
//! not prevent a reload: revoking a permission must work on a machine with other problems.

use std::path::Path;

use super::{
    access::{KnownNames, read_access},
    callers,
    environment::{self, Environment},
    file,
    finding::{Errors, Finding, Findings, Place},
    section::Section,
    tree::{Table, keys_at},
};
use crate::{access, caller::TokenHashes};

/// Sections that are not reloadable.
pub(super) const OTHER_SECTIONS: [&str; 5] = ["server", "admin", "api_clients", "audit", "telemetry"];
/// Tables of `[callers]` that are not reloadable.
pub(super) const OTHER_CALLERS: [&str; 2] = ["jwt", "forwarded"];

/// The checked `[access]` and `[callers.tokens]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reloadable {
    /// `[access]`.
    pub access: access::Settings,
    /// `[callers.tokens]`.
    pub tokens: TokenHashes,
}

impl Reloadable {
    /// Parses the contents of the configuration file and the environment. Also returns the warnings.
    ///
    /// Other sections are not checked. Unknown keys are refused only if they resemble `access`,
    /// `callers` or `tokens`, because they may hide a rule.
    ///
    /// # Errors
    ///
    /// The contents are not valid TOML, or every error found in `[access]` and `[callers.tokens]`.
    pub fn parse(
        file: &Path,
        contents: &[u8],
        environment: &dyn Environment,
    ) -> Result<(Self, Vec<Finding>), Errors> {
        let findings = Findings::default();
        let read = file::parse_bytes(file, contents, &findings).map(|mut tree| {
            environment::overlay(&mut tree, &environment::OfAccess(environment), &findings);
            Self::read(&tree, file, &findings)
        });
        findings.conclude(read)
    }

    fn read(tree: &Table, file: &Path, findings: &Findings) -> Self {
        let mut root = Section::root(tree, Place::File(Some(file.into())), findings);
        let mut callers = root.table("callers");
        let tokens = callers.optional_table("tokens").map(|table| callers::tokens(&table));
        callers.finish_part(&OTHER_CALLERS);
        let tokens_known = keys_at(tree, &["callers", "tokens"]);
        let known = KnownNames { api_clients: None, tokens: tokens_known, jwt_issuers: None };
        let access = read_access(root.table("access"), &known);
        root.finish_part(&OTHER_SECTIONS);
        Self { access, tokens: tokens.unwrap_or_default() }
    }
}

#[cfg(test)]
mod tests;
