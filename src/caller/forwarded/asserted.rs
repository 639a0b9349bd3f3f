//! A cache of the callers that a trusted proxy has asserted on one connection, so that a repeated
//! header is parsed once.
//!
//! The caller depends only on the bytes of the header, so entries never become invalid. `forwarded`
//! checks for each call whether the peer may assert callers.

use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::super::Caller;
use crate::observe::telemetry::metrics::CallerMemoryMetrics;

/// Maximum number of remembered values per connection. A proxy may serve several clients on one
/// connection.
const MAX_VALUES: usize = 8;
/// Maximum total size of these values, in bytes. A larger value is parsed each time.
const MAX_BYTES: usize = 4096;

/// Header values and the callers that they name. Clones share them.
#[derive(Clone, Default)]
pub(in crate::caller) struct AssertedCallers(Arc<Mutex<Values>>);

#[derive(Default)]
struct Values {
    /// Oldest first.
    callers: VecDeque<(Box<[u8]>, Caller)>,
    bytes: usize,
    /// Set with the first entry.
    metrics: Option<CallerMemoryMetrics>,
}

impl AssertedCallers {
    /// Returns the caller that a value names, from the cache or as parsed. Errors are not cached.
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

    /// Used only by calls of one connection, all on the thread of one worker, so the lock is never
    /// contended.
    fn lock(&self) -> MutexGuard<'_, Values> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Values {
    /// Remembers a value, and forgets the oldest ones if there are too many. The value is copied,
    /// because a slice would keep the buffer of all headers.
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
        observe::telemetry::metrics::{CallerMemory, Metrics},
    };

    fn metrics() -> CallerMemoryMetrics {
        Metrics::new().caller_memory(CallerMemory::Forwarded)
    }

    fn caller(name: &str) -> Caller {
        Caller::for_test(name, Proof::Forwarded)
    }

    /// Returns the caller of a value, and whether the value was parsed.
    fn looked_up(asserted: &AssertedCallers, value: &[u8]) -> (String, bool) {
        looked_up_counted(asserted, &metrics(), value)
    }

    fn looked_up_counted(
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
    fn repeated_value_is_parsed_once_per_connection() {
        let connection = AssertedCallers::default();
        for value in ["spiffe://td/a", "spiffe://td/b"] {
            assert_eq!(looked_up(&connection, value.as_bytes()), (value.to_owned(), true));
        }
        for value in ["spiffe://td/b", "spiffe://td/a", "spiffe://td/b"] {
            assert_eq!(looked_up(&connection.clone(), value.as_bytes()), (value.to_owned(), false));
        }
        assert!(looked_up(&AssertedCallers::default(), b"spiffe://td/a").1, "another connection");
    }

    #[test]
    fn error_is_not_remembered() {
        let connection = AssertedCallers::default();
        for _ in 0..3 {
            assert_eq!(connection.caller(b"x", &metrics(), || Err("malformed")), Err("malformed"));
        }
        assert_eq!(looked_up(&connection, b"x"), ("x".to_owned(), true));
    }

    #[test]
    fn metrics_show_displaced_values_and_closed_connections() {
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
            looked_up_counted(&first, &memory, b"spiffe://td/a");
        }
        looked_up_counted(&second, &memory, b"spiffe://td/a");
        shows(2, 2, 2, 0);
        for number in 0..20 {
            looked_up_counted(&first, &memory, format!("spiffe://td/{number}").as_bytes());
        }
        shows(1 + MAX_VALUES, 2, 22, 21 - MAX_VALUES);
        looked_up_counted(&first, &memory, &[b'a'; MAX_BYTES + 1]);
        shows(1 + MAX_VALUES, 2, 23, 21 - MAX_VALUES);
        drop(first);
        shows(1, 2, 23, 21 - MAX_VALUES);
        drop(second);
        shows(0, 2, 23, 21 - MAX_VALUES);
    }

    proptest! {
        #[test]
        fn memory_of_a_connection_is_bounded_and_returns_the_caller_of_each_value(
            sizes in prop::collection::vec((0..12_u8, prop::sample::select(vec![1_usize, 300, 1000, 4096, 4097])), 1..60),
        ) {
            let connection = AssertedCallers::default();
            for (letter, size) in sizes {
                let value = vec![b'a' + letter; size];
                let (name, _) = looked_up(&connection, &value);
                prop_assert_eq!(name.as_bytes(), &*value);
                let (_, is_parsed) = looked_up(&connection, &value);
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
