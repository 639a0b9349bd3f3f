//! Detects the hashes of easily guessed tokens.
//!
//! Only the SHA-256 of a bearer token is known, so its strength cannot be checked directly. The
//! hashes of the most common passwords, words and example tokens are computed and compared. With two
//! threads this takes some ten milliseconds, and only for tokens that were not compared before. It is
//! not a password meter: a token that is not refused may still be weak.

use std::{
    collections::{BTreeSet, HashSet},
    num::NonZero,
    sync::{Mutex, PoisonError},
    thread,
};

use aws_lc_rs::digest::{SHA256, digest};

/// The most common passwords and English words, and example tokens of documentation, including ours.
/// In lower case, separated by whitespace.
const WORDS: &str = include_str!("common_tokens/words.txt");

/// Suffixes that people add to a word to make it a password. Shells and editors add the line breaks
/// and the space.
const SUFFIXES: [&str; 24] = [
    "", "\n", "\r\n", " ", "0", "1", "2", "3", "7", "01", "12", "123", "1234", "12345", "!", "!!", "?", "1!",
    "123!", "2023", "2024", "2025", "2026", "2027",
];
/// Number of suffixes, from the first, that are tried with unusual spellings.
const FEW_SUFFIXES: usize = 2;

/// Digits and symbols that people write in place of letters.
const SUBSTITUTES: [(char, &[char]); 5] =
    [('a', &['4', '@']), ('e', &['3']), ('i', &['1', '!']), ('o', &['0']), ('s', &['5', '$'])];

/// Minimum size of a word that is tried with substitutes, in bytes. The list already contains more
/// spellings of shorter ones.
const MIN_SUBSTITUTED: usize = 5;

/// Maximum number of threads that compare.
const MAX_THREADS: usize = 4;

/// Hashes that were compared and matched no common token, so that a reload compares only new ones.
static UNCOMMON: Mutex<BTreeSet<[u8; 32]>> = Mutex::new(BTreeSet::new());
/// Maximum size of [`UNCOMMON`].
const MAX_UNCOMMON: usize = 4096;

/// Returns the hashes of the empty text and of common words: in lower case, capitalized or in upper
/// case, with a suffix, with digits for letters, reversed, or doubled.
pub(super) fn among(hashes: &HashSet<[u8; 32]>) -> HashSet<[u8; 32]> {
    let mut uncommon = UNCOMMON.lock().unwrap_or_else(PoisonError::into_inner);
    let new: HashSet<[u8; 32]> = hashes.iter().filter(|hash| !uncommon.contains(*hash)).copied().collect();
    let found = compared(&new);
    if uncommon.len() + new.len() > MAX_UNCOMMON {
        uncommon.clear();
    }
    uncommon.extend(new.difference(&found).take(MAX_UNCOMMON));
    found
}

/// Compares all words on several threads, because the caller blocks until this is done.
fn compared(hashes: &HashSet<[u8; 32]>) -> HashSet<[u8; 32]> {
    if hashes.is_empty() {
        return HashSet::new();
    }
    let hashes = &Hashes::new(hashes);
    let words: Vec<&str> = WORDS.split_whitespace().collect();
    let threads = thread::available_parallelism().map_or(1, NonZero::get).min(MAX_THREADS);
    let mut parts = words.chunks(words.len().div_ceil(threads));
    let first = parts.next().unwrap_or_default();
    thread::scope(|scope| {
        let start = |part| (part, thread::Builder::new().spawn_scoped(scope, move || hashes.common(part)));
        let others: Vec<_> = parts.map(start).collect();
        let mut found = hashes.common(first);
        for (part, thread) in others {
            let of_part = thread.ok().and_then(|thread| thread.join().ok());
            // If the thread could not be started, its part is compared here.
            found.extend(of_part.unwrap_or_else(|| hashes.common(part)));
        }
        found
    })
}

/// Hashes of tokens, to compare with those of words.
struct Hashes<'a> {
    all: &'a HashSet<[u8; 32]>,
    /// Whether a hash begins with these two bytes. This rejects most hashes of words quickly.
    beginnings: Vec<bool>,
}

impl<'a> Hashes<'a> {
    fn new(all: &'a HashSet<[u8; 32]>) -> Self {
        let mut beginnings = vec![false; 1 << u16::BITS];
        for hash in all {
            beginnings[beginning(hash)] = true;
        }
        Self { all, beginnings }
    }

    /// Returns the hashes that match the empty text or one of the words.
    fn common(&self, words: &[&str]) -> HashSet<[u8; 32]> {
        let mut found = HashSet::new();
        let mut text = String::new();
        let mut compare = |word: &str, suffixes: &[&str]| {
            for suffix in suffixes {
                text.clear();
                text.push_str(word);
                text.push_str(suffix);
                let hash = digest(&SHA256, text.as_bytes());
                let hash = hash.as_ref();
                if self.beginnings[beginning(hash)]
                    && let Some(hash) = self.all.get(hash)
                {
                    found.insert(*hash);
                }
            }
        };
        compare("", &SUFFIXES);
        for word in words {
            compare(word, &SUFFIXES);
            let capitalized = capitalized(word);
            if capitalized != *word {
                compare(&capitalized, &SUFFIXES);
                compare(&word.to_ascii_uppercase(), &SUFFIXES);
            }
            for spelled in unusual_spellings(word) {
                compare(&spelled, &SUFFIXES[..FEW_SUFFIXES]);
            }
        }
        found
    }
}

fn beginning(hash: &[u8]) -> usize {
    hash.first_chunk().map_or(0, |first| u16::from_le_bytes(*first).into())
}

fn capitalized(word: &str) -> String {
    let mut word = word.to_owned();
    word[..1].make_ascii_uppercase();
    word
}

fn unusual_spellings(word: &str) -> Vec<String> {
    let mut spellings = vec![word.to_owned()];
    // Each letter is replaced throughout the word or not at all.
    for (letter, substitutes) in SUBSTITUTES.iter().filter(|_| word.len() >= MIN_SUBSTITUTED) {
        if word.contains(*letter) {
            let replaced = spellings.iter().flat_map(|spelled| {
                substitutes.iter().map(|substitute| spelled.replace(*letter, &substitute.to_string()))
            });
            let replaced: Vec<String> = replaced.collect();
            spellings.extend(replaced);
        }
    }
    // The first spelling is the word itself.
    let substituted = spellings.split_off(1);
    let mut spellings: Vec<String> = substituted.iter().map(|spelled| capitalized(spelled)).collect();
    spellings.extend(substituted);
    spellings.push(word.chars().rev().collect());
    spellings.extend(["", "-"].map(|between| [word, word].join(between)));
    spellings
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sha256(text: &str) -> [u8; 32] {
        digest(&SHA256, text.as_bytes()).as_ref().try_into().unwrap()
    }

    fn is_common(text: &str) -> bool {
        !among(&HashSet::from([sha256(text)])).is_empty()
    }

    #[test]
    fn uncommon_hashes_are_cached_and_common_ones_are_found_again() {
        let uncommon = sha256("Zk3uVVtZ2n1o0yTn4lq1uYg7b0l3c2Qe4m5s6t7u8v9x=");
        let hashes = HashSet::from([sha256("hunter2"), uncommon]);
        for _ in 0..2 {
            assert_eq!(among(&hashes), HashSet::from([sha256("hunter2")]));
        }
        let known = UNCOMMON.lock().unwrap();
        assert!(known.contains(&uncommon) && !known.contains(&sha256("hunter2")));
    }

    #[test]
    fn easily_guessed_tokens_are_found() {
        for text in [
            "",
            "\n",
            "token",
            "Token",
            "TOKEN",
            "secret",
            "secret123",
            "test",
            "test2",
            "test3",
            "test\n",
            "password",
            "Password1",
            "changeme",
            "123456",
            "hunter2",
            "your-token-here",
            "billing-token",
            "welcome!",
            "Summer",
            "Summer2024",
            "token2026",
            "umbrella",
            "Coffee1!",
            "p4ssw0rd",
            "P@ssw0rd\n",
            "S3cr3t",
            "k1tch3n",
            "$uper$ecret",
            "drowssap",
            "tokentoken",
            "secret-secret",
            "secret\r\n",
            "TOKEN\n",
            "my-secret-token",
        ] {
            assert!(is_common(text), "{text:?}");
        }
        assert!(!is_common("Zk3uVVtZ2n1o0yTn4lq1uYg7b0l3c2Qe4m5s6t7u8v9w="));
    }

    #[test]
    fn words_are_unique_and_in_lower_case() {
        let words: Vec<&str> = WORDS.split_whitespace().collect();
        let different: HashSet<&&str> = words.iter().collect();
        assert_eq!(different.len(), words.len());
        assert!(words.len() > 2_000 && words.len() < 4_000, "{}", words.len());
        assert!(words.iter().all(|word| word.is_ascii() && *word == word.to_ascii_lowercase()));
    }

    proptest! {
        // Each case computes some hundred thousand hashes.
        #![proptest_config(ProptestConfig::with_cases(4))]

        #[test]
        fn only_hashes_of_common_tokens_are_returned(tokens in prop::collection::hash_set("[A-Za-z0-9+/]{32,44}", 0..4)) {
            let mut hashes: HashSet<[u8; 32]> = tokens.iter().map(|token| sha256(token)).collect();
            prop_assert_eq!(among(&hashes), HashSet::new());
            hashes.insert(sha256("token"));
            prop_assert_eq!(among(&hashes), HashSet::from([sha256("token")]));
        }
    }
}
