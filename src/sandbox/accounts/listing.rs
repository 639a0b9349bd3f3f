//! List of the accounts, with the outcome of a call for each.

use super::{Accounts, Inaccessible, User};

/// One account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedAccount {
    /// The login.
    pub login: String,
    /// The user id.
    pub user_id: String,
    /// The id at an identity provider, if any.
    pub external_id: Option<String>,
    /// Name of the tenant.
    pub tenant: String,
    /// Error reason of `IssueOtt` and its explanation; `None` if the account can log in.
    pub refused: Option<(&'static str, &'static str)>,
}

impl Accounts {
    /// Returns all accounts in the order of the file, as the first API client sees them.
    #[must_use]
    pub fn list(&self) -> Vec<ListedAccount> {
        self.users.iter().map(|user| self.listed(user)).collect()
    }

    fn listed(&self, user: &User) -> ListedAccount {
        let inaccessible = self.api_clients.first().and_then(|client| self.may_log_in_as(client, user).err());
        ListedAccount {
            login: user.login.clone(),
            user_id: user.id.clone(),
            external_id: user.external_id.clone(),
            tenant: self.tenant(&user.tenant_id).map_or_else(String::new, |tenant| tenant.name.clone()),
            refused: inaccessible.map(|inaccessible| match inaccessible {
                Inaccessible::OutsideSubtree => {
                    ("PLATFORM_ACCESS_DENIED", "not below the API client's tenant")
                }
                Inaccessible::SupportAccessOff => ("PLATFORM_ACCESS_DENIED", "support access is off"),
                Inaccessible::TenantDisabled => ("TENANT_DISABLED", "the tenant is disabled"),
                Inaccessible::TenantLocked => ("TENANT_LOCKED", "the tenant is locked"),
                Inaccessible::UserDisabled => ("USER_DISABLED", "the user is disabled"),
            }),
        }
    }
}
