//! A cache of recently verified tokens of one issuer, so that a repeated token costs one signature
//! check.
//!
//! Only tokens that have passed every check are stored, with only the values that a later call
//! needs: the SHA-256 of the token, its caller with the required claims, and the conditions to check again each time. `jwt`
//! decides which tokens are stored and which conditions apply.
//!
//! The cache is a set-associative table of fixed size. Reading takes no lock and writes nothing
//! that another worker reads. A full set evicts a token of the caller that has the most, so that a
//! caller with any number of tokens evicts mostly its own. An evicted token is verified in full
//! again.

use std::sync::{
    Arc,
    atomic::{AtomicU32, AtomicU64, Ordering},
};

use arc_swap::ArcSwapOption;
use aws_lc_rs::digest::{SHA256, digest};

use super::super::{
    Caller,
    claims::{MAX_CLAIM_LIST_BYTES, RequestId},
    jwks::KeyGeneration,
    name,
};
use crate::observe::telemetry::metrics::CallerMemoryMetrics;

/// Maximum number of remembered tokens of all issuers together, unless there are more than
/// [`MAX_TOKENS`] / [`WAYS`] issuers.
pub(super) const MAX_TOKENS: usize = 4096;
/// Places per set. With fewer, tokens of several callers would more often compete for a set.
const WAYS: usize = 8;
/// Maximum memory of one remembered token without claims, in bytes, without the allocator's
/// overhead.
const MAX_TOKEN_BYTES: usize = 512;
/// The same, of a token with the maximum number of claims that rules require.
const MAX_TOKEN_BYTES_WITH_CLAIMS: usize = 1664;

/// `jwt:`, the issuer's name, `:` and the subject.
const MAX_NAME_BYTES: usize = 4 + name::MAX_ISSUER_NAME_BYTES + 1 + name::MAX_PLAIN_NAME_BYTES;
/// Size of the counters of a reference-counted allocation.
const COUNTS: usize = 2 * size_of::<usize>();
const _: () = assert!(size_of::<VerifiedToken>() + MAX_NAME_BYTES + 2 * COUNTS <= MAX_TOKEN_BYTES);
const _: () = assert!(MAX_TOKEN_BYTES + MAX_CLAIM_LIST_BYTES <= MAX_TOKEN_BYTES_WITH_CLAIMS);

/// The SHA-256 of a token.
///
/// Digests are compared in variable time, because knowledge of a digest does not help to find its
/// token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::caller) struct TokenDigest([u8; 32]);

/// A token that has passed every check.
#[derive(Clone, Debug)]
pub(super) struct VerifiedToken {
    pub(super) digest: TokenDigest,
    pub(super) caller: Caller,
    /// The keys that verified it.
    pub(super) keys: KeyGeneration,
    pub(super) validity: Validity,
}

/// Validity period of a token, in whole seconds since 1970, both ends inclusive, including the
/// leeway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Validity {
    pub(super) from: u64,
    pub(super) until: u64,
}

/// The conditions that are checked each time a token is used again.
#[derive(Clone, Copy, Debug)]
pub(super) struct Conditions {
    /// The keys in use.
    pub(super) keys: KeyGeneration,
    /// Seconds since 1970.
    pub(super) now: u64,
    /// The claims that the rules require.
    pub(super) request: Option<RequestId>,
}

/// The remembered tokens of one issuer.
pub(super) struct VerifiedTokens {
    sets: Box<[Set]>,
    /// Total number of tokens stored so far.
    stored: AtomicU64,
    metrics: CallerMemoryMetrics,
}

#[derive(Default)]
struct Set {
    /// Part of the digest in each place, so that most places need not be read. A tag that does not
    /// match its token, because another thread is writing, only hides the token.
    tags: [AtomicU32; WAYS],
    places: [ArcSwapOption<Stored>; WAYS],
}

/// A remembered token, and the number of tokens stored before it.
struct Stored {
    token: VerifiedToken,
    number: u64,
}

impl TokenDigest {
    pub(in crate::caller) fn of(token: &str) -> Self {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
        Self(bytes)
    }

    /// Returns two independent hashes: the index of the set, and the tag.
    fn hashes(self) -> (usize, u32) {
        let number = |bytes: Option<&[u8; 4]>| bytes.map_or(0, |bytes| u32::from_le_bytes(*bytes));
        let (set, tag) = (number(self.0.first_chunk()), number(self.0.last_chunk()));
        (usize::try_from(set).unwrap_or_default(), tag)
    }
}

impl VerifiedToken {
    fn meets(&self, conditions: Conditions) -> bool {
        self.keys == conditions.keys
            && self.caller.claims.request() == conditions.request
            && (self.validity.from..=self.validity.until).contains(&conditions.now)
    }
}

impl VerifiedTokens {
    /// Creates the cache of one of `issuers` issuers, which share [`MAX_TOKENS`] equally.
    pub(super) fn new(issuers: usize, metrics: CallerMemoryMetrics) -> Self {
        let sets = (MAX_TOKENS / WAYS / issuers.max(1)).max(1);
        Self { sets: (0..sets).map(|_| Set::default()).collect(), stored: AtomicU64::default(), metrics }
    }

    /// Returns the caller of a token, if the token is remembered and still valid.
    pub(super) fn caller(&self, digest: TokenDigest, conditions: Conditions) -> Option<Caller> {
        let (set, tag) = self.set(digest);
        for (known, place) in set.tags.iter().zip(&set.places) {
            if known.load(Ordering::Relaxed) == tag
                && let Some(stored) = &*place.load()
                && stored.token.digest == digest
                && stored.token.meets(conditions)
            {
                self.metrics.hit();
                return Some(stored.token.caller.clone());
            }
        }
        None
    }

    /// Remembers a token, which must have passed every check.
    pub(super) fn remember(&self, token: VerifiedToken, conditions: Conditions) {
        self.metrics.miss();
        let (set, tag) = self.set(token.digest);
        let places: [Option<Arc<Stored>>; WAYS] = std::array::from_fn(|index| set.places[index].load_full());
        let index = place_for(&places, &token, conditions);
        let number = self.stored.fetch_add(1, Ordering::Relaxed);
        let digest = token.digest;
        let before = set.places[index].swap(Some(Arc::new(Stored { token, number })));
        set.tags[index].store(tag, Ordering::Relaxed);
        match before {
            None => self.metrics.added(),
            Some(before) if before.token.digest != digest && before.token.meets(conditions) => {
                self.metrics.displaced();
            }
            Some(_) => {}
        }
    }

    fn set(&self, digest: TokenDigest) -> (&Set, u32) {
        let (hash, tag) = digest.hashes();
        (&self.sets[hash % self.sets.len()], tag)
    }

    /// Number of remembered tokens, valid or not.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.sets.iter().flat_map(|set| &set.places).filter(|place| place.load().is_some()).count()
    }
}

/// Returns the place for a token: that of a token with the same digest, an empty one or one whose
/// token is not valid any more, or that of the oldest token of the caller that has the most.
fn place_for(places: &[Option<Arc<Stored>>; WAYS], new: &VerifiedToken, conditions: Conditions) -> usize {
    let is_free = |place: &Option<Arc<Stored>>| {
        place
            .as_ref()
            .is_none_or(|stored| stored.token.digest == new.digest || !stored.token.meets(conditions))
    };
    if let Some(free) = places.iter().position(is_free) {
        return free;
    }
    let tokens = || places.iter().flatten();
    // By name: tokens of one caller may have different claims.
    let tokens_of =
        |caller: &Caller| tokens().filter(|stored| stored.token.caller.name() == caller.name()).count();
    let eviction_priority = |stored: &Stored| (tokens_of(&stored.token.caller), u64::MAX - stored.number);
    let fullest = (0..).zip(tokens()).max_by_key(|(_, stored)| eviction_priority(stored));
    fullest.map_or(0, |(index, _)| index)
}

/// Omits the contents, which name callers.
impl std::fmt::Debug for VerifiedTokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VerifiedTokens").field("sets", &self.sets.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
