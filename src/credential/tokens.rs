//! Selects the token for a call among those in service.
//!
//! In an eventually consistent platform, the API may accept a new token only seconds after it was
//! issued, and responds with 401 until then. The previous token is therefore used until the new one
//! has been accepted once, and one call per second tries the new one.

use std::{sync::Arc, time::Duration};

use super::access_token::{AccessToken, Bearer, Now};

/// A 401 on a token younger than this can mean that this node of the API does not know it yet, even
/// if another one has accepted it.
pub(super) const YOUNG: Duration = Duration::from_secs(10);

/// Interval between two calls that try a token that was not accepted yet.
pub(super) const PROBE_INTERVAL: Duration = Duration::from_secs(1);

/// Tokens in service: the newest, and an earlier one that is known to work.
#[derive(Debug)]
pub(super) struct Tokens {
    newest: Arc<AccessToken>,
    previous: Option<Arc<AccessToken>>,
}

impl Tokens {
    /// Returns the tokens in service once `token` has been fetched.
    ///
    /// The fallback is the last token that was accepted. A young token does not replace an older
    /// fallback, because some nodes may not know it yet, unless the older one is refused as well or
    /// expires before all nodes know `token`.
    pub(super) fn after(before: Option<&Self>, token: AccessToken, now: Now) -> Self {
        let previous = before.and_then(|before| {
            let (newest, previous) = (&before.newest, before.previous.as_ref());
            let is_proven = newest.is_accepted() && newest.age(now.instant) >= YOUNG;
            let ends = |token: &Arc<AccessToken>| {
                !token.is_usable(now.after(YOUNG)) || token.is_refused_by_several()
            };
            if is_proven || (newest.is_accepted() && previous.is_none_or(ends)) {
                Some(newest)
            } else {
                previous
            }
        });
        Self { newest: Arc::new(token), previous: previous.map(Arc::clone) }
    }

    pub(super) const fn newest(&self) -> &Arc<AccessToken> {
        &self.newest
    }

    /// Returns the fallback token while it is usable.
    pub(super) fn previous(&self, now: Now) -> Option<&Arc<AccessToken>> {
        self.previous.as_ref().filter(|token| token.is_usable(now))
    }

    /// Returns whether a call that begins now gets a token.
    pub(super) fn are_usable(&self, now: Now) -> bool {
        self.newest.is_usable(now) || self.previous(now).is_some()
    }

    /// Selects the token for a call that begins now. Takes no lock and does not allocate.
    pub(super) fn select(&self, now: Now) -> Option<Bearer> {
        let newest = self.newest.is_usable(now).then_some(&self.newest);
        let token = match (newest, self.previous(now)) {
            (Some(newest), Some(previous)) if !newest.is_accepted() => {
                if newest.claim_probe(now.instant, PROBE_INTERVAL) { newest } else { previous }
            }
            (Some(token), _) | (None, Some(token)) => token,
            (None, None) => return None,
        };
        Some(Bearer::new(Arc::clone(token)))
    }

    /// Returns a token that a refused call can use instead, and has not tried yet.
    pub(super) fn instead_of(&self, refused: &Bearer, now: Now) -> Option<&Arc<AccessToken>> {
        let is_untried = |token: &&Arc<AccessToken>| !refused.has_tried(token);
        if !refused.is(&self.newest) {
            return Some(&self.newest).filter(|token| token.is_usable(now)).filter(is_untried);
        }
        let in_doubt = !self.newest.is_accepted() || self.newest.age(now.instant) < YOUNG;
        self.previous(now).filter(is_untried).filter(|_| in_doubt)
    }
}
