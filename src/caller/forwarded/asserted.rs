//! The callers that a trusted proxy has named on one connection, so that the header that it
//! repeats is parsed once.
//!
//! What a header names depends on nothing but its bytes, so nothing withdraws an entry. Whether
//! the peer may name callers at all is checked for each call, in `forwarded`.

use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::super::Caller;

/// Maximum number of values that are remembered for a connection: a proxy may serve several
/// clients on one.
const MAX_VALUES: usize = 8;
/// Maximum size of these values together, in bytes. A larger one is parsed each time.
const MAX_BYTES: usize = 4096;

/// Values of the header with the callers that they name. Clones share them.
#[derive(Clone, Default)]
pub(in crate::caller) struct AssertedCallers(Arc<Mutex<Values>>);

#[derive(Default)]
struct Values {
    /// The oldest first.
    callers: VecDeque<(Box<[u8]>, Caller)>,
    bytes: usize,
}

impl AssertedCallers {
    /// Returns the caller that a value names: from memory, or as parsed. Errors are not
    /// remembered.
    pub(super) fn caller<E>(
        &self,
        value: &[u8],
        parse: impl FnOnce() -> Result<Caller, E>,
    ) -> Result<Caller, E> {
        let mut values = self.lock();
        if let Some((_, caller)) = values.callers.iter().find(|(known, _)| **known == *value) {
            return Ok(caller.clone());
        }
        let caller = parse()?;
        values.remember(value, &caller);
        Ok(caller)
    }

    /// Only calls of one connection use it, all on the thread of one worker, so it is always
    /// free.
    fn lock(&self) -> MutexGuard<'_, Values> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Values {
    /// The oldest values give way. The value is copied: a part of the buffer of all headers
    /// would keep the whole buffer.
    fn remember(&mut self, value: &[u8], caller: &Caller) {
        if value.len() > MAX_BYTES {
            return;
        }
        while self.callers.len() >= MAX_VALUES || self.bytes + value.len() > MAX_BYTES {
            let Some((oldest, _)) = self.callers.pop_front() else { break };
            self.bytes -= oldest.len();
        }
        self.bytes += value.len();
        self.callers.push_back((value.into(), caller.clone()));
    }
}

impl fmt::Debug for AssertedCallers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AssertedCallers").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use proptest::prelude::*;

    use super::*;
    use crate::caller::Proof;

    fn caller(name: &str) -> Caller {
        Caller::for_test(name, Proof::Forwarded)
    }

    /// Returns what a value names, and whether it was parsed for that.
    fn asked(asserted: &AssertedCallers, value: &[u8]) -> (String, bool) {
        let parsed = Cell::new(false);
        let found = asserted.caller(value, || {
            parsed.set(true);
            Ok::<_, ()>(caller(&String::from_utf8_lossy(value)))
        });
        (found.unwrap().name().to_string(), parsed.get())
    }

    #[test]
    fn value_that_is_repeated_is_parsed_once_for_a_connection() {
        let connection = AssertedCallers::default();
        for value in ["spiffe://td/a", "spiffe://td/b"] {
            assert_eq!(asked(&connection, value.as_bytes()), (value.to_owned(), true));
        }
        for value in ["spiffe://td/b", "spiffe://td/a", "spiffe://td/b"] {
            assert_eq!(asked(&connection.clone(), value.as_bytes()), (value.to_owned(), false));
        }
        assert!(asked(&AssertedCallers::default(), b"spiffe://td/a").1, "another connection");
    }

    #[test]
    fn error_is_not_remembered() {
        let connection = AssertedCallers::default();
        for _ in 0..3 {
            assert_eq!(connection.caller(b"x", || Err("malformed")), Err("malformed"));
        }
        assert_eq!(asked(&connection, b"x"), ("x".to_owned(), true));
    }

    proptest! {
        #[test]
        fn memory_of_a_connection_is_bounded_and_names_the_caller_of_each_value(
            sizes in prop::collection::vec((0..12_u8, prop::sample::select(vec![1_usize, 300, 1000, 4096, 4097])), 1..60),
        ) {
            let connection = AssertedCallers::default();
            for (letter, size) in sizes {
                let value = vec![b'a' + letter; size];
                let (name, _) = asked(&connection, &value);
                prop_assert_eq!(name.as_bytes(), &*value);
                let (_, is_parsed) = asked(&connection, &value);
                prop_assert_eq!(is_parsed, size > MAX_BYTES, "the newest is remembered");
                let values = connection.lock();
                prop_assert!(values.callers.len() <= MAX_VALUES);
                let bytes: usize = values.callers.iter().map(|(value, _)| value.len()).sum();
                prop_assert_eq!(bytes, values.bytes);
                prop_assert!(bytes <= MAX_BYTES);
            }
        }
    }
}
