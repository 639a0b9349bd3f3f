//! Tokens that this replica has issued or is spending.
//!
//! If two calls spend one token at the same time, the platform accepts either of them. The gateway
//! therefore refuses the second call itself. It remembers the user of each token for the token's
//! lifetime, to compare it with the account in the login response. Only hashes of tokens are kept.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crate::{
    base::clock::{self, Instant},
    domain::ott::{Subject, TokenHash},
};

/// Time for which the user of a token is remembered: the token's lifetime of 30 s, plus the duration
/// of a login sent just before its expiry.
const REMEMBERED: Duration = Duration::from_secs(40);
/// Number of independently locked shards, so that workers rarely contend.
const SHARDS: usize = 16;
/// Maximum number of remembered tokens per shard; the oldest is evicted first. The total is enough
/// for 1,600 tokens per second, and takes at most about 30 MiB.
const MAX_REMEMBERED: usize = 65_536 / SHARDS;

/// The tokens of this replica. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct KnownTokens(Arc<[Mutex<Shard>; SHARDS]>);

#[derive(Debug, Default)]
struct Shard {
    in_use: HashSet<TokenHash>,
    issued: HashMap<TokenHash, Subject>,
    /// Issued tokens, oldest first.
    by_age: VecDeque<(Instant, TokenHash)>,
}

impl KnownTokens {
    /// Records the user that a token was issued for.
    pub(super) fn issued(&self, hash: TokenHash, subject: Subject) {
        let now = clock::now();
        let mut shard = self.shard(&hash);
        while let Some(&(at, oldest)) = shard.by_age.front()
            && (now >= at + REMEMBERED || shard.by_age.len() >= MAX_REMEMBERED)
        {
            shard.by_age.pop_front();
            shard.issued.remove(&oldest);
        }
        shard.by_age.push_back((now, hash));
        shard.issued.insert(hash, subject);
    }

    /// Marks a token as being spent until the guard is dropped. Returns `None` if another call is
    /// spending it.
    #[must_use]
    pub(super) fn claim(&self, hash: TokenHash) -> Option<TokenInUse> {
        let mut shard = self.shard(&hash);
        let subject = shard.issued.get(&hash).cloned();
        shard.in_use.insert(hash).then(|| TokenInUse { tokens: self.clone(), hash, subject })
    }

    fn shard(&self, hash: &TokenHash) -> MutexGuard<'_, Shard> {
        self.0[usize::from(hash.bytes()[0]) % SHARDS].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Guard that marks a token as being spent.
#[derive(Debug)]
pub(super) struct TokenInUse {
    tokens: KnownTokens,
    hash: TokenHash,
    subject: Option<Subject>,
}

impl TokenInUse {
    /// The user that the token was issued for, if this replica issued it.
    pub(super) const fn subject(&self) -> Option<&Subject> {
        self.subject.as_ref()
    }
}

impl Drop for TokenInUse {
    fn drop(&mut self) {
        self.tokens.shard(&self.hash).in_use.remove(&self.hash);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        domain::ott::{OneTimeToken, SubjectKind},
        observe::audit::Audit,
    };

    fn token(text: &str) -> TokenHash {
        let ott = OneTimeToken::try_new(text.to_owned()).expect("visible ASCII");
        Audit::off().token_hash(&ott)
    }

    fn subject(login: &str) -> Subject {
        Subject::new(SubjectKind::Login, login.to_owned()).expect("a login")
    }

    fn remembered(tokens: &KnownTokens, text: &str) -> Option<Subject> {
        tokens.claim(token(text)).expect("not in use").subject().cloned()
    }

    #[test]
    fn a_token_is_in_use_until_its_guard_is_dropped() {
        let tokens = KnownTokens::default();
        let first = tokens.claim(token("one")).expect("not in use");
        assert!(tokens.clone().claim(token("one")).is_none());
        assert!(tokens.claim(token("two")).is_some());
        drop(first);
        assert!(tokens.claim(token("one")).is_some());
        assert!(tokens.0.iter().all(|shard| shard.lock().expect("not poisoned").in_use.is_empty()));
    }

    #[tokio::test(start_paused = true)]
    async fn the_user_of_a_token_is_remembered_for_its_lifetime() {
        let tokens = KnownTokens::default();
        tokens.issued(token("one"), subject("anna"));
        assert_eq!(remembered(&tokens.clone(), "one"), Some(subject("anna")));
        assert_eq!(remembered(&tokens, "one"), Some(subject("anna")), "an unsent login may be repeated");
        assert_eq!(remembered(&tokens, "two"), None);
        tokio::time::advance(REMEMBERED).await;
        for other in 0..1000 {
            tokens.issued(token(&format!("other {other}").replace(' ', "-")), subject("otto"));
        }
        assert_eq!(remembered(&tokens, "one"), None);
        assert_eq!(remembered(&tokens, "other-999"), Some(subject("otto")));
    }

    #[tokio::test(start_paused = true)]
    async fn the_number_of_remembered_tokens_is_bounded() {
        let tokens = KnownTokens::default();
        for number in 0..SHARDS * MAX_REMEMBERED + 10_000 {
            tokens.issued(token(&format!("OTT-{number}")), subject("anna"));
        }
        for shard in tokens.0.iter() {
            let shard = shard.lock().expect("not poisoned");
            assert_eq!((shard.issued.len(), shard.by_age.len()), (MAX_REMEMBERED, MAX_REMEMBERED));
        }
        assert_eq!(remembered(&tokens, "OTT-0"), None);
        assert!(remembered(&tokens, &format!("OTT-{}", SHARDS * MAX_REMEMBERED)).is_some());
    }
}
