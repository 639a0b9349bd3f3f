//! Whether a connection has carried a call of a caller that the access rules name.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

/// Flag of one connection, set by its first call whose caller is identified and named by the
/// access rules. `anonymous` counts only if a rule names it. Clones share the flag.
#[derive(Clone, Debug, Default)]
pub struct Recognition(Arc<AtomicBool>);

impl Recognition {
    /// Sets the flag. It is never cleared.
    pub fn set(&self) {
        // Read first: all calls of a connection come here, and only the first one writes.
        if !self.is_set() {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    /// Returns whether the flag is set.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
