//! Tenants, users and API clients of the sandbox.
//!
//! They never change at run time. Tokens and sessions are in `tokens`; `file` reads an accounts file
//! and reports its errors.

pub(super) mod file;
mod listing;

use std::path::Path;
use std::sync::Arc;

pub use file::{AccountsError, InvalidField};
pub use listing::ListedAccount;
use serde_json::value::RawValue;

/// Id of the sandbox's API client.
pub const CLIENT_ID: &str = "sandbox";
/// Secret of the sandbox's API client. Valid for a sandbox only.
pub const CLIENT_SECRET: &str = "sandbox-secret";

/// Tenants, users and API clients.
///
/// The file is one JSON object:
/// - `tenants`: `id`, `name`, and optionally `parent_id` (absent: a root), `kind`
///   (`customer`), `enabled` (true), `locked` (false), `support_access` (true);
/// - `api_clients`: `client_id`, `client_secret`, `tenant_id`, optionally `name`.
///   Default: [`CLIENT_ID`] with [`CLIENT_SECRET`] in the first tenant;
/// - `users`: the account objects that the platform returns. `id`, `login` and `tenant_id` are
///   required, `enabled` and `external_id` are optional, and everything else is returned
///   verbatim.
#[derive(Clone, Debug)]
pub struct Accounts {
    tenants: Vec<Arc<Tenant>>,
    users: Vec<Arc<User>>,
    api_clients: Vec<Arc<ApiClient>>,
}

/// One node of the tenant tree.
#[derive(Debug)]
pub(super) struct Tenant {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) parent_id: Option<String>,
    pub(super) kind: String,
    pub(super) enabled: bool,
    pub(super) locked: bool,
    pub(super) support_access: bool,
}

/// A user, and the account object that the platform returns for it.
#[derive(Debug)]
pub(super) struct User {
    pub(super) id: String,
    pub(super) login: String,
    pub(super) external_id: Option<String>,
    pub(super) tenant_id: String,
    pub(super) enabled: bool,
    pub(super) account: Box<RawValue>,
}

/// An API client, which can request access tokens.
pub(super) struct ApiClient {
    pub(super) id: String,
    pub(super) secret: String,
    pub(super) tenant_id: String,
    pub(super) name: String,
}

impl std::fmt::Debug for ApiClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ApiClient").field("id", &self.id).finish_non_exhaustive()
    }
}

/// The user that a one-time token is requested for.
#[derive(Debug)]
pub(super) enum Subject {
    Login(String),
    ExternalId(String),
    UserId(String),
}

/// Reason why an API client gets no token for a user, or cannot see a tenant.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Inaccessible {
    /// Neither in the API client's tenant nor below it.
    OutsideSubtree,
    /// A tenant between the two has support access off.
    SupportAccessOff,
    /// A tenant at or above the user is disabled.
    TenantDisabled,
    /// A tenant at or above the user is locked.
    TenantLocked,
    /// The user is disabled.
    UserDisabled,
}

impl Accounts {
    /// Returns the built-in accounts: the documented example, and one for each reason why the
    /// platform refuses an account.
    #[must_use]
    #[expect(
        clippy::expect_used,
        clippy::missing_panics_doc,
        reason = "part of the program; a test reads it"
    )]
    pub fn built_in() -> Self {
        file::parse(Path::new("built_in.json"), include_str!("accounts/built_in.json"))
            .expect("the built-in accounts are well formed")
    }

    /// Reads an accounts file.
    pub fn from_file(path: &Path) -> Result<Self, AccountsError> {
        file::read(path)
    }

    /// Returns the login of the first user, if any.
    #[must_use]
    pub fn first_login(&self) -> Option<&str> {
        self.users.first().map(|user| user.login.as_str())
    }

    /// Returns id and secret of the first API client.
    #[must_use]
    pub fn credential(&self) -> (&str, &str) {
        let client = self.api_clients.first();
        client.map_or((CLIENT_ID, CLIENT_SECRET), |client| (&client.id, &client.secret))
    }

    pub(super) fn user(&self, subject: &Subject) -> Option<&Arc<User>> {
        self.users.iter().find(|user| match subject {
            Subject::Login(login) => user.login.eq_ignore_ascii_case(login),
            Subject::ExternalId(id) => user.external_id.as_ref() == Some(id),
            Subject::UserId(id) => user.id == *id,
        })
    }

    /// Returns all users, in the order of the file.
    pub(super) fn users(&self) -> impl Iterator<Item = &Arc<User>> {
        self.users.iter()
    }

    /// Returns all tenants, in the order of the file.
    pub(super) fn tenants(&self) -> impl Iterator<Item = &Arc<Tenant>> {
        self.tenants.iter()
    }

    pub(super) fn tenant(&self, id: &str) -> Option<&Arc<Tenant>> {
        self.tenants.iter().find(|tenant| tenant.id == id)
    }

    pub(super) fn api_client(&self, id: &str) -> Option<&Arc<ApiClient>> {
        self.api_clients.iter().find(|client| client.id == id)
    }

    /// Checks that `client` can see the tenant and its contents.
    pub(super) fn may_see(&self, client: &ApiClient, tenant_id: &str) -> Result<(), Inaccessible> {
        self.branch(client, tenant_id).map(|_| ())
    }

    /// Checks that `client` can log `user` in. Checks visibility before the state of the user, like
    /// the platform.
    pub(super) fn may_log_in_as(&self, client: &ApiClient, user: &User) -> Result<(), Inaccessible> {
        let branch = self.branch(client, &user.tenant_id)?;
        // Disabled support access in the client's own tenant excludes the tenants above, not the client.
        if branch.iter().any(|tenant| tenant.id != client.tenant_id && !tenant.support_access) {
            return Err(Inaccessible::SupportAccessOff);
        }
        let above = self.ancestors(&user.tenant_id);
        if above.iter().any(|tenant| !tenant.enabled) {
            return Err(Inaccessible::TenantDisabled);
        }
        if above.iter().any(|tenant| tenant.locked) {
            return Err(Inaccessible::TenantLocked);
        }
        if user.enabled { Ok(()) } else { Err(Inaccessible::UserDisabled) }
    }

    /// Returns the tenants from `root` down to `tenant_id`, inclusive; `None` if it is not below.
    pub(super) fn way(&self, root: &str, tenant_id: &str) -> Option<Vec<&Tenant>> {
        let mut way = self.ancestors(tenant_id);
        let end = way.iter().position(|tenant| tenant.id == root)?;
        way.truncate(end + 1);
        way.reverse();
        Some(way)
    }

    /// Returns the tenants from the client's own down to `tenant_id`, inclusive.
    fn branch(&self, client: &ApiClient, tenant_id: &str) -> Result<Vec<&Tenant>, Inaccessible> {
        self.way(&client.tenant_id, tenant_id).ok_or(Inaccessible::OutsideSubtree)
    }

    /// Returns the tenant and its ancestors, up to the root. `file` refuses cycles.
    fn ancestors(&self, tenant_id: &str) -> Vec<&Tenant> {
        let parent =
            |tenant: &&Tenant| tenant.parent_id.as_ref().and_then(|id| self.tenant(id)).map(Arc::as_ref);
        std::iter::successors(self.tenant(tenant_id).map(Arc::as_ref), parent).collect()
    }
}

impl User {
    /// Creates the user of a login that requests a fault.
    pub(super) fn for_fault(login: &str, tenant_id: &str) -> Option<Self> {
        let id = "5a4d0b0c-0000-4000-8000-000000fa0170";
        let account = serde_json::json!({
            "activated": true,
            "contact": { "email": login, "firstname": "Fault", "lastname": "On Demand" },
            "enabled": true,
            "id": id,
            "login": login,
            "tenant_id": tenant_id,
            "version": 1,
        });
        Some(Self {
            id: id.to_owned(),
            login: login.to_owned(),
            external_id: None,
            tenant_id: tenant_id.to_owned(),
            enabled: true,
            account: serde_json::value::to_raw_value(&account).ok()?,
        })
    }
}
