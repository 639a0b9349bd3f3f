//! Claims of a caller's JWT, and what access rules require of them.
//!
//! A claim is named by a path: the names of nested members, separated by `/`. In a name, `~1`
//! stands for `/` and `~0` for `~`, as in a JSON pointer (RFC 6901), but without the first `/`.
//! `kubernetes.io/namespace` is the member `namespace` of the claim `kubernetes.io`;
//! `https:~1~1example.com~1roles` is the claim `https://example.com/roles`.

use std::{collections::BTreeMap, fmt, sync::Arc};

use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

use crate::base::text::PrintableJson;

mod arguments;
mod requested;

pub use arguments::{InvalidClaimArgument, claim_argument};
pub(super) use requested::{ClaimsError, MAX_CLAIM_LIST_BYTES, MAX_CLAIM_VALUES, RequestId};
pub use requested::{MAX_REQUESTED_CLAIMS, RequestedClaims};

/// Claims whose text is a list of words, separated by spaces (RFC 6749 section 3.3; `scp` is the
/// name that some issuers use).
const WORD_LISTS: [&str; 2] = ["scope", "scp"];

/// Maximum length of a path, in bytes.
pub const MAX_CLAIM_PATH_BYTES: usize = 255;
/// Maximum number of names in a path.
pub const MAX_CLAIM_PATH_DEPTH: usize = 8;

/// The path of a claim, for example `realm_access/roles`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClaimPath {
    text: Arc<str>,
}

/// The value of a claim. Values of different types are never equal: `true` is not `"true"`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ClaimValue {
    /// A string.
    Text(Arc<str>),
    /// An integer.
    Integer(i64),
    /// A boolean.
    Boolean(bool),
}

/// A claim that a rule requires: it must have at least one of the values.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ClaimRequirement {
    /// The claim.
    pub path: ClaimPath,
    /// The accepted values, at least one.
    pub values: Vec<ClaimValue>,
}

/// The claims of a caller's JWT that access rules can require. Empty for a caller that is proven
/// otherwise. Cheap to clone.
#[derive(Clone, Default)]
pub struct Claims(Option<Arc<ClaimList>>);

// Each call copies it, and most callers have none.
const _: () = assert!(size_of::<Claims>() == size_of::<usize>());

/// A value of a claim, shared by the rules that accept it and the tokens that contain it.
type Claim = Arc<(ClaimPath, ClaimValue)>;

struct ClaimList {
    /// The request that these claims answer. `None` if they are not from a token.
    request: Option<RequestId>,
    /// Each once, in order.
    values: Box<[Claim]>,
}

/// A value of a claim in a token or a rule. Has the order of [`ClaimValue`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Scalar<'a> {
    Text(&'a str),
    Integer(i64),
    Boolean(bool),
}

/// Reason that a text is not the path of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidClaimPath {
    /// It is too long or too deep.
    #[error("must have at most {MAX_CLAIM_PATH_BYTES} bytes and {MAX_CLAIM_PATH_DEPTH} names")]
    Size,
    /// One of its names is empty.
    #[error("must be the names of nested claims, separated by \"/\", such as \"realm_access/roles\"")]
    EmptyName,
    /// `~` is not followed by `0` or `1`.
    #[error("must use \"~\" only as \"~1\" for \"/\" in a name, or \"~0\" for \"~\"")]
    Escape,
}

impl ClaimPath {
    /// Parses a path.
    pub fn new(text: &str) -> Result<Self, InvalidClaimPath> {
        let names = text.split('/');
        if text.len() > MAX_CLAIM_PATH_BYTES || names.clone().count() > MAX_CLAIM_PATH_DEPTH {
            return Err(InvalidClaimPath::Size);
        }
        for name in names {
            if name.is_empty() {
                return Err(InvalidClaimPath::EmptyName);
            }
            if !name.split('~').skip(1).all(|rest| rest.starts_with(['0', '1'])) {
                return Err(InvalidClaimPath::Escape);
            }
        }
        Ok(Self { text: Arc::from(text) })
    }

    /// Returns the text of the path, with its escapes.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Returns whether a text of this claim is a list of words, separated by spaces, each of which
    /// is a value.
    #[must_use]
    pub fn is_word_list(&self) -> bool {
        WORD_LISTS.contains(&self.as_str())
    }

    /// Returns the names of the nested members, from the outermost one.
    pub fn names(&self) -> impl Iterator<Item = String> {
        // In this order, "~01" is "~1".
        self.text.split('/').map(|name| name.replace("~1", "/").replace("~0", "~"))
    }
}

impl fmt::Display for ClaimPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Display for ClaimValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => write!(f, "{text:?}"),
            Self::Integer(number) => number.fmt(f),
            Self::Boolean(value) => value.fmt(f),
        }
    }
}

impl ClaimValue {
    fn as_scalar(&self) -> Scalar<'_> {
        match self {
            Self::Text(text) => Scalar::Text(text),
            Self::Integer(number) => Scalar::Integer(*number),
            Self::Boolean(value) => Scalar::Boolean(*value),
        }
    }
}

impl Serialize for ClaimValue {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Text(text) => serializer.serialize_str(text),
            Self::Integer(number) => serializer.serialize_i64(*number),
            Self::Boolean(value) => serializer.serialize_bool(*value),
        }
    }
}

impl Claims {
    /// Returns the claims with these values. A claim with several values occurs several times. The
    /// text of a word list is split.
    #[must_use]
    pub fn new(values: Vec<(ClaimPath, ClaimValue)>) -> Self {
        let mut split = Vec::with_capacity(values.len());
        for (path, value) in values {
            match value {
                ClaimValue::Text(text) if path.is_word_list() => {
                    let words = words(&text).map(|word| ClaimValue::Text(Arc::from(word)));
                    split.extend(words.map(|word| (path.clone(), word)));
                }
                value => split.push((path, value)),
            }
        }
        split.sort_unstable();
        split.dedup();
        if split.is_empty() {
            return Self::none();
        }
        let values = split.into_iter().map(Arc::new).collect();
        Self(Some(Arc::new(ClaimList { request: None, values })))
    }

    /// Returns no claims.
    #[must_use]
    pub const fn none() -> Self {
        Self(None)
    }

    /// Returns whether there are no claims.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.values().is_empty()
    }

    /// Returns each value with the path of its claim, ordered by path.
    pub fn iter(&self) -> impl Iterator<Item = &(ClaimPath, ClaimValue)> {
        self.values().iter().map(|claim| &**claim)
    }

    /// Returns the values of one claim.
    pub fn values_of(&self, path: &ClaimPath) -> impl Iterator<Item = &ClaimValue> {
        let own = self.values();
        let start = own.partition_point(|claim| claim.0 < *path);
        let values = own.get(start..).unwrap_or_default().iter();
        values.take_while(|claim| claim.0 == *path).map(|claim| &claim.1)
    }

    /// Returns the first accepted value, or `None` if the claim is absent or has none of the
    /// accepted values.
    #[must_use]
    pub fn find(&self, required: &ClaimRequirement) -> Option<&ClaimValue> {
        self.values_of(&required.path).find(|value| required.values.contains(value))
    }

    /// Returns whether all of these requirements are met.
    #[must_use]
    pub fn meet(&self, required: &[ClaimRequirement]) -> bool {
        required.iter().all(|required| self.find(required).is_some())
    }

    /// Returns the first accepted value of each required claim as a JSON object, for the audit
    /// record. `None` if nothing is required. Contains only printable characters, and no more than
    /// the token does.
    #[must_use]
    pub fn evidence(&self, required: &[ClaimRequirement]) -> Option<Box<RawValue>> {
        if required.is_empty() {
            return None;
        }
        let found = |required| Some((required, self.find(required)?));
        let found: BTreeMap<_, _> = required
            .iter()
            .filter_map(found)
            .map(|(required, value)| (required.path.as_str(), value))
            .collect();
        let mut text = Vec::new();
        // Written to memory, and the keys are strings: this cannot fail.
        found.serialize(&mut serde_json::Serializer::with_formatter(&mut text, PrintableJson)).ok()?;
        RawValue::from_string(String::from_utf8(text).ok()?).ok()
    }

    /// Returns the request that these claims answer. `None` if no claims were requested.
    pub(super) fn request(&self) -> Option<RequestId> {
        self.0.as_ref()?.request
    }

    fn values(&self) -> &[Claim] {
        self.0.as_ref().map_or(&[], |list| &list.values)
    }
}

impl PartialEq for Claims {
    fn eq(&self, other: &Self) -> bool {
        self.values() == other.values()
    }
}

impl Eq for Claims {}

impl fmt::Debug for Claims {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.values()).finish()
    }
}

/// Returns the words of a text, which spaces separate.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(' ').filter(|word| !word.is_empty())
}

#[cfg(test)]
mod tests;
