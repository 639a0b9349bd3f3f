//! Bearer credentials: parsing the header, and tokens known by their SHA-256.
//!
//! JWTs are verified in `jwt`.

use std::{collections::BTreeMap, fmt, sync::Arc};

use aws_lc_rs::{
    constant_time::verify_slices_are_equal,
    digest::{self, SHA256},
};
use http::HeaderValue;

use super::{
    Caller, CallerError, InvalidSettings, Proof,
    name::{self, TOKEN_PREFIX},
};

/// Maximum size of a bearer credential, in bytes; a JWT is the longest kind.
const MAX_BEARER_BYTES: usize = 8 * 1024;

/// `[callers.tokens]`: the SHA-256 of each caller's bearer token, by the caller's name; two while
/// one token replaces another.
pub type TokenHashes = BTreeMap<Arc<str>, Vec<BearerTokenHash>>;

/// The SHA-256 of a bearer token. `Debug` hides it, although a long random token cannot be derived
/// from it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct BearerTokenHash(pub [u8; 32]);

impl fmt::Debug for BearerTokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[sha256]")
    }
}

/// The bearer tokens of callers, each stored only as its SHA-256.
#[derive(Default)]
pub struct BearerTokens(Vec<(Caller, [u8; 32])>);

impl BearerTokens {
    /// Creates a set of tokens.
    ///
    /// # Errors
    ///
    /// A name is not 1 to 255 bytes of visible ASCII, or two callers have the same token.
    pub fn try_new(tokens: &TokenHashes) -> Result<Self, InvalidSettings> {
        let mut known: Vec<(Caller, [u8; 32])> = Vec::with_capacity(tokens.len());
        for (name, hash) in tokens.iter().flat_map(|(name, hashes)| hashes.iter().map(move |it| (name, it.0)))
        {
            if !name::is_plain_name(name) {
                return Err(InvalidSettings::TokenName);
            }
            if known.iter().any(|(_, other)| *other == hash) {
                return Err(InvalidSettings::SharedToken { name: name.to_string() });
            }
            known.push((Caller::new(Arc::from(format!("{TOKEN_PREFIX}{name}")), Proof::Token), hash));
        }
        Ok(Self(known))
    }

    /// Creates a set of tokens from pairs of name and SHA-256. A name may occur twice.
    #[cfg(test)]
    pub(crate) fn for_test<'a, T: IntoIterator<Item = (&'a str, [u8; 32])>>(
        tokens: T,
    ) -> Result<Self, InvalidSettings> {
        let mut hashes = TokenHashes::new();
        for (name, hash) in tokens {
            hashes.entry(Arc::from(name)).or_default().push(BearerTokenHash(hash));
        }
        Self::try_new(&hashes)
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the caller of a token. Compares the token with every known one, each in constant
    /// time, so that timing reveals neither a token nor its position.
    pub(super) fn caller(&self, token: &str) -> Option<Caller> {
        let presented = digest::digest(&SHA256, token.as_bytes());
        let mut found = None;
        for (caller, known) in &self.0 {
            if is_same_digest(presented.as_ref(), known) {
                found = Some(caller);
            }
        }
        found.cloned()
    }
}

/// Compares two digests in constant time. Every comparison of a request's token with a known one
/// uses this function.
fn is_same_digest(presented: &[u8], known: &[u8; 32]) -> bool {
    #[cfg(test)]
    tests::COMPARISONS.set(tests::COMPARISONS.get() + 1);
    verify_slices_are_equal(presented, known).is_ok()
}

impl fmt::Debug for BearerTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(caller, _)| &caller.name)).finish()
    }
}

/// Returns the credential in an `authorization` header (RFC 6750 section 2.1; the scheme is
/// case-insensitive, RFC 9110 section 11.1).
pub(super) fn credential(header: &HeaderValue) -> Result<&str, CallerError> {
    let text = str::from_utf8(header.as_bytes()).map_err(|_| CallerError::InvalidCredential)?;
    let (scheme, credential) = text.split_once(' ').ok_or(CallerError::InvalidCredential)?;
    let credential = credential.trim_matches(' ');
    let is_valid = scheme.eq_ignore_ascii_case("bearer")
        && (1..=MAX_BEARER_BYTES).contains(&credential.len())
        // A comma means that a proxy has joined two headers. No branch per byte, because a JWT is
        // long.
        && credential.bytes().fold(true, |all, byte| all & (byte.is_ascii_graphic() && byte != b','));
    if is_valid { Ok(credential) } else { Err(CallerError::InvalidCredential) }
}

/// Returns whether a credential has the form of a signed JWT: three base64url parts.
pub(super) fn looks_like_jwt(credential: &str) -> bool {
    let mut parts = 0;
    credential.split('.').all(|part| {
        parts += 1;
        !part.is_empty()
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    }) && parts == 3
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    thread_local! {
        /// Number of constant-time comparisons on this thread.
        pub(super) static COMPARISONS: Cell<usize> = const { Cell::new(0) };
    }

    fn sha256(text: &str) -> [u8; 32] {
        digest::digest(&SHA256, text.as_bytes()).as_ref().try_into().unwrap()
    }

    #[test]
    fn token_identifies_its_caller() {
        let tokens = BearerTokens::for_test([
            ("ci", sha256("canary-1")),
            ("ci", sha256("canary-2")),
            ("ops", sha256("canary-3")),
        ])
        .unwrap();
        let name = |token| tokens.caller(token).map(|caller| caller.name.to_string());
        assert_eq!(name("canary-1").as_deref(), Some("token:ci"));
        assert_eq!(
            name("canary-2").as_deref(),
            Some("token:ci"),
            "both are accepted while one replaces the other"
        );
        assert_eq!(name("canary-3").as_deref(), Some("token:ops"));
        for unknown in ["", "canary", "canary-11", "CANARY-1"] {
            assert_eq!(name(unknown), None);
        }
        assert_eq!(format!("{tokens:?}"), r#"["token:ci", "token:ci", "token:ops"]"#);
    }

    #[test]
    fn token_is_compared_in_constant_time_with_every_known_one() {
        const KNOWN: usize = 50;
        let text = |number: usize| format!("canary-{number}");
        let names: Vec<String> = (0..KNOWN).map(|number| format!("caller-{number}")).collect();
        let known = (0..KNOWN).map(|number| (names[number].as_str(), sha256(&text(number))));
        let tokens = BearerTokens::for_test(known).unwrap();
        // Every known token, and an unknown one.
        for number in 0..=KNOWN {
            COMPARISONS.set(0);
            let caller = tokens.caller(&text(number));
            assert_eq!(COMPARISONS.get(), KNOWN, "{number}");
            let expected = (number < KNOWN).then(|| format!("token:caller-{number}"));
            assert_eq!(caller.map(|caller| caller.name.to_string()), expected);
        }
    }

    #[test]
    fn shared_tokens_and_invalid_names_are_refused() {
        let twice = BearerTokens::for_test([("a", [1; 32]), ("b", [1; 32])]);
        assert!(matches!(twice, Err(InvalidSettings::SharedToken { name }) if name == "b"));
        for name in ["", "a b", "a\nb", "\u{e4}"] {
            let wrong = BearerTokens::for_test([(name, [1; 32])]);
            assert!(matches!(wrong, Err(InvalidSettings::TokenName)), "{name:?}");
        }
    }

    #[test]
    fn header_must_contain_exactly_one_bearer_credential() {
        for (text, expected) in
            [("Bearer abc", "abc"), ("bearer abc", "abc"), ("BEARER  a.b-c_d~e+f/g== ", "a.b-c_d~e+f/g==")]
        {
            assert_eq!(credential(&HeaderValue::from_static(text)).unwrap(), expected);
        }
        let long = format!("Bearer {}", "a".repeat(MAX_BEARER_BYTES + 1));
        for text in
            ["", "Bearer", "Bearer ", "abc", "Basic abc", "Bearer a b", "Bearer a,b", "Bearer\tabc", &long]
        {
            let header = HeaderValue::from_str(text).unwrap();
            assert_eq!(credential(&header), Err(CallerError::InvalidCredential), "{text}");
        }
        let beyond_ascii = HeaderValue::from_bytes(b"Bearer \xff").unwrap();
        assert_eq!(credential(&beyond_ascii), Err(CallerError::InvalidCredential));
    }

    #[test]
    fn jwts_are_recognized_by_their_form() {
        assert!(looks_like_jwt("eyJ.e30.c2ln"));
        for other in ["", "a", "a.b", "a.b.", ".b.c", "a.b.c.d", "a.b.c=", "a.b.c+"] {
            assert!(!looks_like_jwt(other), "{other}");
        }
    }
}
