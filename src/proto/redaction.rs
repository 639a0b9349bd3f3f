//! Formatting of fields in the generated `Debug`.
//!
//! Implemented only for the kinds of field that the contract marks `debug_redact`; any other kind
//! fails to compile instead of being shown.

use std::{fmt, marker::PhantomData};

/// Returns the replacement of a field marked `debug_redact`, which shows only whether it is set.
pub(super) fn redacted(field: &impl Redact) -> &'static dyn fmt::Debug {
    field.redacted()
}

/// A field that can be formatted without its value.
pub(super) trait Redact {
    fn redacted(&self) -> &'static dyn fmt::Debug;
}

impl Redact for String {
    fn redacted(&self) -> &'static dyn fmt::Debug {
        if self.is_empty() { &"" } else { &Redacted }
    }
}

impl<T> Redact for Option<T> {
    fn redacted(&self) -> &'static dyn fmt::Debug {
        if self.is_some() { &Some(Redacted) } else { &None::<Redacted> }
    }
}

impl<T> Redact for Vec<T> {
    fn redacted(&self) -> &'static dyn fmt::Debug {
        if self.is_empty() { &[] as &[Redacted; 0] } else { &Redacted }
    }
}

struct Redacted;

impl fmt::Debug for Redacted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// An enum field, formatted by name; an unknown value by number.
pub(super) struct Named<T> {
    number: i32,
    kind: PhantomData<T>,
}

impl<T> Named<T> {
    pub(super) const fn new(number: i32) -> Self {
        Self { number, kind: PhantomData }
    }
}

impl<T: TryFrom<i32> + fmt::Debug> fmt::Debug for Named<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match T::try_from(self.number) {
            Ok(value) => fmt::Debug::fmt(&value, f),
            Err(_) => fmt::Debug::fmt(&self.number, f),
        }
    }
}
