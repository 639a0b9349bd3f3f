//! Causes for which the gateway refuses a token itself.

macro_rules! refusals {
    ($($(#[$attribute:meta])* $variant:ident = $label:literal,)*) => {
        /// Reason that the gateway refuses a token itself. Callers receive the same answer for all of
        /// them, and for a token that the platform does not know.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum SealRefusal {
            $($(#[$attribute])* $variant,)*
        }

        impl SealRefusal {
            /// All values, in order.
            pub const ALL: [Self; [$($label),*].len()] = [$(Self::$variant),*];

            /// Returns the value in metrics, log lines and records.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $label,)*
                }
            }
        }
    };
}

refusals! {
    /// The token is not sealed, and its API client requires it.
    NotSealed = "not_sealed",
    /// The gateway has no keys.
    NoKeys = "no_keys",
    /// The version of the sealed token is not known.
    UnknownVersion = "unknown_version",
    /// The text is not a sealed token.
    Malformed = "malformed",
    /// The gateway does not have the key.
    UnknownKey = "unknown_key",
    /// The token was altered, or sealed with another key of the same id.
    NotAuthentic = "not_authentic",
    /// The token has expired.
    Expired = "expired",
    /// The request names another API client.
    OtherApiClient = "other_api_client",
    /// The gateway does not have the API client.
    UnknownApiClient = "unknown_api_client",
}
