//! The part of the configuration that takes effect without a restart: `[access]` and
//! `[callers.tokens]`.
//!
//! Only the configuration file and the environment are read. Errors in other sections or files do
//! not prevent a reload: revoking a permission must work on a machine with other problems.

use std::path::Path;

use super::{
    access::{DefaultApiClient, KnownNames},
    access_tests::{AccessTestResult, TestedRules, read_access_and_tests, with_failures},
    callers,
    environment::{self, Environment},
    file,
    finding::{Errors, Finding, Findings, Place},
    section::Section,
    tree::{Table, keys_at},
};
use crate::{access, caller::TokenHashes};

/// Sections that are not reloadable.
pub(super) const OTHER_SECTIONS: [&str; 6] =
    ["server", "admin", "api_clients", "token_binding", "audit", "telemetry"];
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
    /// `default_api_client` is the default API client of the running gateway, for access tests that
    /// name none. Failed tests are errors.
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
        default_api_client: Option<&str>,
    ) -> Result<(Self, Vec<Finding>), Errors> {
        let findings = Findings::default();
        let mut tests = Vec::new();
        let read = file::parse_bytes(file, contents, &findings).map(|mut tree| {
            environment::overlay(&mut tree, &environment::OfAccess(environment), &findings);
            Self::read(&tree, file, default_api_client, &findings, &mut tests)
        });
        with_failures(findings.conclude(read), &tests)
    }

    fn read(
        tree: &Table,
        file: &Path,
        default_api_client: Option<&str>,
        findings: &Findings,
        tests: &mut Vec<AccessTestResult>,
    ) -> Self {
        let mut root = Section::root(tree, Place::File(Some(file.into())), findings);
        let mut callers = root.table("callers");
        let tokens = callers.optional_table("tokens").map(|table| callers::tokens(&table));
        callers.finish_part(&OTHER_CALLERS);
        let tokens_known = keys_at(tree, &["callers", "tokens"]);
        let known = KnownNames {
            api_clients: None,
            tokens: tokens_known,
            jwt_issuers: None,
            // The section may also come from environment variables, which are not read here.
            has_token_binding: tree.contains_key("token_binding").then_some(true),
            default_api_client: DefaultApiClient::Known(default_api_client),
        };
        let access;
        (access, *tests) = read_access_and_tests(root.table("access"), &known, TestedRules::InForce);
        root.finish_part(&OTHER_SECTIONS);
        Self { access, tokens: tokens.unwrap_or_default() }
    }
}

#[cfg(test)]
mod tests;
