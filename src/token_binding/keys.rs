//! The keys of sealed tokens, and the form of their file.

use std::fmt;

use aws_lc_rs::{
    aead::{AES_256_GCM_SIV, RandomizedNonceKey},
    error::Unspecified,
    rand,
};
use base64::{
    Engine,
    alphabet::STANDARD,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use zeroize::Zeroizing;

/// Maximum number of keys. A rotation needs two.
pub const MAX_KEYS: usize = 16;
/// Maximum size of the file, in bytes.
pub const MAX_KEYS_BYTES: usize = 64 * 1024;
/// Maximum length of the id of a key, in bytes.
const MAX_ID_BYTES: usize = 32;
/// Size of a key, in bytes.
const KEY_BYTES: usize = 32;
/// Base64 as `openssl rand -base64 32` writes it, with or without padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The keys of sealed tokens: the first one seals, and all of them open.
pub struct Keys(Vec<Key>);

/// One key, with the cipher that uses it.
pub(super) struct Key {
    id: Box<str>,
    bytes: Zeroizing<[u8; KEY_BYTES]>,
    cipher: RandomizedNonceKey,
}

/// Reason that a file does not contain keys. Contains nothing of the file but numbers of lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidKeys {
    /// It contains no key.
    #[error(
        "it contains no key; write a line such as \"2026-11 KEY\", with a KEY from \"openssl rand -base64 32\""
    )]
    Empty,
    /// It contains more than [`MAX_KEYS`] keys.
    #[error("it contains more than {MAX_KEYS} keys; remove the oldest ones")]
    TooMany,
    /// It is larger than [`MAX_KEYS_BYTES`].
    #[error("it is larger than {MAX_KEYS_BYTES} bytes")]
    TooLarge,
    /// It is not text.
    #[error("it is not UTF-8 text")]
    NotText,
    /// A line is not an id and a key.
    #[error("line {0} is not an id and a key, separated by a space")]
    Line(usize),
    /// An id is not valid.
    #[error("the id in line {0} must be 1 to {MAX_ID_BYTES} ASCII letters, digits, \"-\" and \"_\"")]
    Id(usize),
    /// A key is not base64.
    #[error("the key in line {0} is not base64; create one with \"openssl rand -base64 32\"")]
    NotBase64(usize),
    /// A key has another size.
    #[error(
        "the key in line {0} has {1} bytes instead of {KEY_BYTES}; create one with \"openssl rand -base64 32\""
    )]
    Size(usize, usize),
    /// A key consists of one repeated byte, so that it is not random.
    #[error("the key in line {0} is not random; create one with \"openssl rand -base64 32\"")]
    NotRandom(usize),
    /// Two lines have the same id.
    #[error("lines {0} and {1} have the same id")]
    RepeatedId(usize, usize),
    /// Two lines have the same key.
    #[error("lines {0} and {1} have the same key; a rotation needs a new key")]
    RepeatedKey(usize, usize),
}

/// The operating system returned no random bytes for a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the operating system returned no random bytes")]
pub struct NoRandomness;

impl Keys {
    /// Creates a single random key.
    ///
    /// # Errors
    ///
    /// The operating system returned no random bytes.
    pub fn random(id: &str) -> Result<Self, NoRandomness> {
        let mut bytes = Zeroizing::new([0; KEY_BYTES]);
        rand::fill(&mut *bytes).map_err(|_| NoRandomness)?;
        Ok(Self(vec![Key::new(id, bytes).map_err(|_| NoRandomness)?]))
    }

    /// Parses the contents of a file: one key per line, as `ID BASE64` with 32 random bytes. Blank
    /// lines and lines that begin with `#` are ignored.
    ///
    /// # Errors
    ///
    /// The first fault of the file.
    pub fn parse(contents: &[u8]) -> Result<Self, InvalidKeys> {
        if contents.len() > MAX_KEYS_BYTES {
            return Err(InvalidKeys::TooLarge);
        }
        let text = std::str::from_utf8(contents).map_err(|_| InvalidKeys::NotText)?;
        let mut keys: Vec<(usize, Key)> = Vec::new();
        for (line, number) in text.lines().zip(1..) {
            let line = line.trim_matches([' ', '\t', '\r']);
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let key = Key::parse(line, number)?;
            for (earlier, other) in &keys {
                if other.id == key.id {
                    return Err(InvalidKeys::RepeatedId(*earlier, number));
                }
                if other.bytes == key.bytes {
                    return Err(InvalidKeys::RepeatedKey(*earlier, number));
                }
            }
            if keys.len() == MAX_KEYS {
                return Err(InvalidKeys::TooMany);
            }
            keys.push((number, key));
        }
        if keys.is_empty() {
            return Err(InvalidKeys::Empty);
        }
        Ok(Self(keys.into_iter().map(|(_, key)| key).collect()))
    }

    /// Returns the ids of the keys, in their order.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|key| &*key.id)
    }

    /// Returns the key that seals. There is always one.
    pub(super) fn sealing(&self) -> &Key {
        &self.0[0]
    }

    /// Returns whether this key is one of them.
    pub(super) fn has(&self, key: &Key) -> bool {
        self.opening(&key.id).is_some_and(|own| own.bytes == key.bytes)
    }

    /// Returns the key with this id.
    pub(super) fn opening(&self, id: &str) -> Option<&Key> {
        self.0.iter().find(|key| *key.id == *id)
    }
}

impl PartialEq for Keys {
    fn eq(&self, other: &Self) -> bool {
        let parts = |key: &Key| (key.id.clone(), key.bytes.clone());
        self.0.iter().map(parts).eq(other.0.iter().map(parts))
    }
}

impl Eq for Keys {}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.ids()).finish()
    }
}

impl Key {
    fn parse(line: &str, number: usize) -> Result<Self, InvalidKeys> {
        let (id, key) = line.split_once([' ', '\t']).ok_or(InvalidKeys::Line(number))?;
        let is_id_byte = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        if !(1..=MAX_ID_BYTES).contains(&id.len()) || !id.bytes().all(is_id_byte) {
            return Err(InvalidKeys::Id(number));
        }
        let decoded = BASE64.decode(key.trim_matches([' ', '\t'])).map(Zeroizing::new);
        let decoded = decoded.map_err(|_| InvalidKeys::NotBase64(number))?;
        let bytes: [u8; KEY_BYTES] =
            decoded.as_slice().try_into().map_err(|_| InvalidKeys::Size(number, decoded.len()))?;
        let bytes = Zeroizing::new(bytes);
        if bytes.iter().all(|byte| *byte == bytes[0]) {
            return Err(InvalidKeys::NotRandom(number));
        }
        Self::new(id, bytes).map_err(|_| InvalidKeys::Size(number, KEY_BYTES))
    }

    fn new(id: &str, bytes: Zeroizing<[u8; KEY_BYTES]>) -> Result<Self, Unspecified> {
        let cipher = RandomizedNonceKey::new(&AES_256_GCM_SIV, &*bytes)?;
        Ok(Self { id: id.into(), bytes, cipher })
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    pub(super) const fn cipher(&self) -> &RandomizedNonceKey {
        &self.cipher
    }
}
