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
use crate::telemetry::metrics::CallerMemoryMetrics;

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
    /// Set with the first entry.
    metrics: Option<CallerMemoryMetrics>,
}

impl AssertedCallers {
    /// Returns the caller that a value names: from memory, or as parsed. Errors are not
    /// remembered.
    pub(super) fn caller<E>(
        &self,
        value: &[u8],
        metrics: &CallerMemoryMetrics,
        parse: impl FnOnce() -> Result<Caller, E>,
    ) -> Result<Caller, E> {
        let mut values = self.lock();
        if let Some((_, caller)) = values.callers.iter().find(|(known, _)| **known == *value) {
            metrics.hit();
            return Ok(caller.clone());
        }
        let caller = parse()?;
        metrics.miss();
        values.remember(value, &caller, metrics);
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
    fn remember(&mut self, value: &[u8], caller: &Caller, metrics: &CallerMemoryMetrics) {
        if value.len() > MAX_BYTES {
            return;
        }
        while self.callers.len() >= MAX_VALUES || self.bytes + value.len() > MAX_BYTES {
            let Some((oldest, _)) = self.callers.pop_front() else { break };
            self.bytes -= oldest.len();
            metrics.displaced();
            metrics.removed(1);
        }
        self.bytes += value.len();
        self.callers.push_back((value.into(), caller.clone()));
        metrics.added();
        self.metrics.get_or_insert_with(|| metrics.clone());
    }
}

impl Drop for Values {
    fn drop(&mut self) {
        if let Some(metrics) = &self.metrics {
            metrics.removed(self.callers.len());
        }
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
    use crate::{
        caller::Proof,
        telemetry::metrics::{CallerMemory, Metrics},
    };

    fn metrics() -> CallerMemoryMetrics {
        Metrics::new().caller_memory(CallerMemory::Forwarded)
    }

    fn caller(name: &str) -> Caller {
        Caller::for_test(name, Proof::Forwarded)
    }

    /// Returns what a value names, and whether it was parsed for that.
    fn asked(asserted: &AssertedCallers, value: &[u8]) -> (String, bool) {
        asked_counted(asserted, &metrics(), value)
    }

    fn asked_counted(
        asserted: &AssertedCallers,
        metrics: &CallerMemoryMetrics,
        value: &[u8],
    ) -> (String, bool) {
        let parsed = Cell::new(false);
        let found = asserted.caller(value, metrics, || {
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
            assert_eq!(connection.caller(b"x", &metrics(), || Err("malformed")), Err("malformed"));
        }
        assert_eq!(asked(&connection, b"x"), ("x".to_owned(), true));
    }

    #[test]
    fn values_that_do_not_fit_and_connections_that_end_show_in_the_metrics() {
        let metrics = Metrics::new();
        let memory = metrics.caller_memory(CallerMemory::Forwarded);
        let shows = |entries: usize, hits: usize, misses: usize, displaced: usize| {
            let shown = metrics.render();
            for line in [
                format!(r#"ott_gateway_caller_memory_entries{{memory="forwarded"}} {entries}"#),
                format!(
                    r#"ott_gateway_caller_memory_lookups_total{{memory="forwarded",result="hit"}} {hits}"#
                ),
                format!(
                    r#"ott_gateway_caller_memory_lookups_total{{memory="forwarded",result="miss"}} {misses}"#
                ),
                format!(r#"ott_gateway_caller_memory_displaced_total{{memory="forwarded"}} {displaced}"#),
            ] {
                assert!(shown.lines().any(|other| other == line), "{line}\n{shown}");
            }
        };
        let (first, second) = (AssertedCallers::default(), AssertedCallers::default());
        for _ in 0..3 {
            asked_counted(&first, &memory, b"spiffe://td/a");
        }
        asked_counted(&second, &memory, b"spiffe://td/a");
        shows(2, 2, 2, 0);
        for number in 0..20 {
            asked_counted(&first, &memory, format!("spiffe://td/{number}").as_bytes());
        }
        shows(1 + MAX_VALUES, 2, 22, 21 - MAX_VALUES);
        asked_counted(&first, &memory, &[b'a'; MAX_BYTES + 1]);
        shows(1 + MAX_VALUES, 2, 23, 21 - MAX_VALUES);
        drop(first);
        shows(1, 2, 23, 21 - MAX_VALUES);
        drop(second);
        shows(0, 2, 23, 21 - MAX_VALUES);
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
