//! Error codes of the platform, from its page "API error codes".
//!
//! `status` decides what a code means for a caller.

macro_rules! codes {
    ($($variant:ident = $number:literal, $meaning:literal;)*) => {
        /// An error code of the platform.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum PlatformErrorCode {
            $(#[doc = concat!(stringify!($number), ": ", $meaning, ".")] $variant,)*
            /// An undocumented code.
            Unknown(i64),
        }

        impl PlatformErrorCode {
            /// Every documented code.
            pub const DOCUMENTED: &'static [Self] = &[$(Self::$variant),*];

            /// Returns the code with that number.
            #[must_use]
            pub const fn from_number(number: i64) -> Self {
                match number {
                    $($number => Self::$variant,)*
                    other => Self::Unknown(other),
                }
            }

            /// Returns the number on the wire.
            #[must_use]
            pub const fn number(self) -> i64 {
                match self {
                    $(Self::$variant => $number,)*
                    Self::Unknown(number) => number,
                }
            }

            /// Returns the documented meaning; `None` for an unknown code.
            #[must_use]
            pub const fn meaning(self) -> Option<&'static str> {
                match self {
                    $(Self::$variant => Some($meaning),)*
                    Self::Unknown(_) => None,
                }
            }
        }
    };
}

codes! {
    InternalSystemError = 1000, "internal system error";
    VersionMismatch = 1001, "version mismatch";
    AccessDenied = 1002, "access denied";
    ParentTenantDisabled = 1003, "the parent tenant is disabled";
    TenantNameConflict = 1004, "tenant name conflict";
    TenantNotFound = 1005, "tenant not found";
    DeleteEnabledTenant = 1006, "deleting a tenant that is not disabled";
    MoveUnderChild = 1007, "moving a tenant under its child";
    MoveWithinCustomer = 1008, "moving within a customer";
    RemoveStorageInUse = 1009, "removing a storage in use";
    SyncShareEmailConflict = 1010, "sync & share email conflict";
    DeprovisioningInProgress = 1011, "deprovisioning in progress";
    TenantLocked = 1012, "the tenant is locked";
    MoveUnderDisabledTenant = 1013, "moving under a disabled tenant";
    MoveOfferingItemsUnavailable = 1014, "moving offering items is not available";
    InfrastructureConflict = 1015, "infrastructure component conflict";
    StorageHasChild = 1016, "turning off a storage that has a child";
    DefaultStorage = 1017, "turning off the default storage";
    UserDisabled = 1018, "the user is disabled";
    BackupServiceUnavailable = 1019, "the backup service is not available";
    MachineRegistration = 1020, "registering a machine by another than a service user";
    OfferingItemUnavailable = 1021, "the offering item is not available";
    HardQuotaExceeded = 1022, "a hard quota is exceeded";
    OfferingItemDependency = 1023, "offering items dependency error";
    AddressForbidden = 1024, "the address is in the forbidden list";
    SmtpSettings = 1025, "the SMTP settings are incorrect";
    CannotEnableService = 1026, "the service cannot be enabled";
    BusinessRules = 1027, "business rules are not satisfied";
    GuestUserExists = 1028, "the guest user has already been created";
    StorageDeprovisioning = 1029, "removing a storage while deprovisioning is in progress";
    SyncShareQuotaExceeded = 1030, "the sync & share users quota is exceeded";
    LocationConflict = 1031, "location conflict";
    NoLockingTenant = 1032, "the target hierarchy has no locking tenant";
    InvalidLogin = 1033, "the login is not valid";
    LegalDocumentUnpublished = 1034, "the previous version of a legal document is unpublished";
    LegallyBlockedOfferingItems = 1035, "moving legally blocked offering items";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_documented_number_has_its_code() {
        assert_eq!(PlatformErrorCode::DOCUMENTED.len(), 36);
        for (code, number) in PlatformErrorCode::DOCUMENTED.iter().zip(1000..) {
            assert_eq!(code.number(), number);
            assert_eq!(PlatformErrorCode::from_number(number), *code);
        }
        assert_eq!(PlatformErrorCode::from_number(999).meaning(), None);
    }
}
