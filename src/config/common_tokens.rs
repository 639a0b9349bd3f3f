//! Refuses hashes of tokens that anybody can guess.
//!
//! A bearer token is known by its SHA-256 only, so a weak one cannot be seen. The hashes of the
//! commonest passwords, words and example tokens are therefore computed and compared. That takes a
//! few milliseconds, and only if tokens are configured. It replaces no password meter: a token
//! that is not refused may still be weak.

use std::collections::HashSet;

use aws_lc_rs::digest::{SHA256, digest};

/// The commonest passwords and English words, what documentation shows as examples, and words
/// of our own documentation; separated by blanks, in lower case.
const WORDS: &str = include_str!("common_tokens/words.txt");

/// What people add to a word to make it a password. The line break is that of `echo`.
const SUFFIXES: [&str; 5] = ["", "1", "123", "!", "\n"];

/// Returns those of the hashes that are of the empty text, or of a common word in lower case,
/// capitalized or in upper case, with a suffix.
pub(super) fn among(hashes: &HashSet<[u8; 32]>) -> HashSet<[u8; 32]> {
    let mut found = HashSet::new();
    if hashes.is_empty() {
        return found;
    }
    let mut text = String::new();
    let mut compare = |word: &str, suffix: &str| {
        text.clear();
        text.push_str(word);
        text.push_str(suffix);
        if let Ok(hash) = <[u8; 32]>::try_from(digest(&SHA256, text.as_bytes()).as_ref())
            && hashes.contains(&hash)
        {
            found.insert(hash);
        }
    };
    let mut spelled = String::new();
    for word in std::iter::once("").chain(WORDS.split_whitespace()) {
        for suffix in SUFFIXES {
            compare(word, suffix);
        }
        let starts_with_letter = word.starts_with(|first: char| first.is_ascii_lowercase());
        if !starts_with_letter {
            continue;
        }
        word.clone_into(&mut spelled);
        spelled[..1].make_ascii_uppercase();
        for suffix in SUFFIXES {
            compare(&spelled, suffix);
        }
        spelled.make_ascii_uppercase();
        compare(&spelled, "");
    }
    found
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
    fn tokens_that_anybody_can_guess_are_found() {
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
        ] {
            assert!(is_common(text), "{text:?}");
        }
        assert!(!is_common("Zk3uVVtZ2n1o0yTn4lq1uYg7b0l3c2Qe4m5s6t7u8v9w="));
    }

    #[test]
    fn words_are_many_in_lower_case_and_not_repeated() {
        let words: Vec<&str> = WORDS.split_whitespace().collect();
        let different: HashSet<&&str> = words.iter().collect();
        assert_eq!(different.len(), words.len());
        assert!(words.len() > 1_000 && words.len() < 3_000, "{}", words.len());
        assert!(words.iter().all(|word| word.is_ascii() && *word == word.to_ascii_lowercase()));
    }

    proptest! {
        #[test]
        fn only_the_common_ones_of_several_are_found(tokens in prop::collection::hash_set("[A-Za-z0-9+/]{32,44}", 0..4)) {
            let mut hashes: HashSet<[u8; 32]> = tokens.iter().map(|token| sha256(token)).collect();
            prop_assert_eq!(among(&hashes), HashSet::new());
            hashes.insert(sha256("token"));
            prop_assert_eq!(among(&hashes), HashSet::from([sha256("token")]));
        }
    }
}
