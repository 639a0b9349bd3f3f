//! Labels of metrics as enums, so that the compiler rejects a misspelled value.

/// A label of a metric with a fixed set of values.
pub(super) trait Label: Copy + 'static {
    /// All values, each at its index.
    const VALUES: &'static [Self];

    /// Returns the value in metrics.
    fn as_str(self) -> &'static str;

    /// Returns the index in [`VALUES`](Self::VALUES).
    fn index(self) -> usize;
}

/// Defines the enum of a label. Each variant is declared with its value, and the list of all
/// variants is generated, so that neither can be omitted.
macro_rules! labels {
    (
        $(#[$attribute:meta])*
        $visibility:vis enum $name:ident {
            $($(#[$variant_attribute:meta])* $variant:ident = $value:literal,)*
        }
    ) => {
        $(#[$attribute])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        $visibility enum $name {
            $($(#[$variant_attribute])* $variant,)*
        }

        impl $name {
            /// All values, in order.
            $visibility const ALL: [Self; [$(stringify!($variant)),*].len()] = [$(Self::$variant),*];

            /// Returns the value in metrics, log lines and records.
            #[must_use]
            $visibility const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $value,)*
                }
            }
        }

        impl $crate::observe::telemetry::label::Label for $name {
            const VALUES: &'static [Self] = &Self::ALL;

            fn as_str(self) -> &'static str {
                Self::as_str(self)
            }

            fn index(self) -> usize {
                self as usize
            }
        }
    };
}

pub(super) use labels;
