//! The tokens that are being spent at this moment.
//!
//! A token that two calls spend at once would log in the one and refuse the other, in
//! no order that anyone could rely on; the second call is told so without asking the
//! platform. Only a hash of a token is kept, and only while it is being spent.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
};

use aws_lc_rs::digest::{SHA256, digest};

use crate::ott::OneTimeToken;

type Hash = [u8; 32];

/// The tokens in use on this replica. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct TokensInUse(Arc<Mutex<HashSet<Hash>>>);

impl TokensInUse {
    /// Marks a token as being spent, until the guard is dropped; none if another call
    /// is spending it.
    #[must_use]
    pub(super) fn claim(&self, ott: &OneTimeToken) -> Option<TokenInUse> {
        let mut hash = Hash::default();
        hash.copy_from_slice(digest(&SHA256, ott.expose().as_bytes()).as_ref());
        let fresh = self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(hash);
        fresh.then(|| TokenInUse { tokens: self.clone(), hash })
    }
}

/// A token is being spent for as long as this lives.
#[derive(Debug)]
pub(super) struct TokenInUse {
    tokens: TokensInUse,
    hash: Hash,
}

impl Drop for TokenInUse {
    fn drop(&mut self) {
        self.tokens.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.hash);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(text: &str) -> OneTimeToken {
        OneTimeToken::try_new(text.to_owned()).expect("visible ASCII")
    }

    #[test]
    fn a_token_is_in_use_until_its_guard_is_dropped() {
        let tokens = TokensInUse::default();
        let first = tokens.claim(&token("one")).expect("nobody else spends it");
        assert!(tokens.clone().claim(&token("one")).is_none());
        assert!(tokens.claim(&token("two")).is_some());
        drop(first);
        assert!(tokens.claim(&token("one")).is_some());
        assert!(tokens.0.lock().expect("not poisoned").is_empty());
    }
}
