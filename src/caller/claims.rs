//! Claims of a caller's JWT, and what access rules require of them.
//!
//! A claim is named by a path: the names of nested members, separated by `/`. In a name, `~1`
//! stands for `/` and `~0` for `~`, as in a JSON pointer (RFC 6901), but without the first `/`.
//! `kubernetes.io/namespace` is the member `namespace` of the claim `kubernetes.io`;
//! `https:~1~1example.com~1roles` is the claim `https://example.com/roles`.

use std::{fmt, sync::Arc};

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
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claims(Option<Arc<[(ClaimPath, ClaimValue)]>>);

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

impl Claims {
    /// Returns the claims with these values. A claim with several values occurs several times.
    #[must_use]
    pub fn new(mut values: Vec<(ClaimPath, ClaimValue)>) -> Self {
        values.sort_unstable();
        values.dedup();
        Self((!values.is_empty()).then(|| values.into()))
    }

    /// Returns no claims.
    #[must_use]
    pub const fn none() -> Self {
        Self(None)
    }

    /// Returns whether there are no claims.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Returns each value with the path of its claim, ordered by path.
    pub fn iter(&self) -> impl Iterator<Item = &(ClaimPath, ClaimValue)> {
        self.0.as_deref().unwrap_or_default().iter()
    }

    /// Returns the first accepted value, or `None` if the claim is absent or has none of the
    /// accepted values.
    #[must_use]
    pub fn find(&self, required: &ClaimRequirement) -> Option<&ClaimValue> {
        let own = self.0.as_deref().unwrap_or_default();
        let start = own.partition_point(|(path, _)| *path < required.path);
        let values = own.get(start..).unwrap_or_default().iter();
        let mut values = values.take_while(|(path, _)| *path == required.path).map(|(_, value)| value);
        values.find(|value| required.values.contains(value))
    }

    /// Returns whether all of these requirements are met.
    #[must_use]
    pub fn meet(&self, required: &[ClaimRequirement]) -> bool {
        required.iter().all(|required| self.find(required).is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> ClaimPath {
        ClaimPath::new(text).unwrap()
    }

    fn text(text: &str) -> ClaimValue {
        ClaimValue::Text(Arc::from(text))
    }

    #[test]
    fn names_of_a_path_are_unescaped() {
        let names = |text: &str| path(text).names().collect::<Vec<_>>();
        assert_eq!(names("groups"), ["groups"]);
        assert_eq!(names("kubernetes.io/namespace"), ["kubernetes.io", "namespace"]);
        assert_eq!(names("https:~1~1example.com~1roles"), ["https://example.com/roles"]);
        assert_eq!(names("a~01/b~0"), ["a~1", "b~"]);
    }

    #[test]
    fn path_that_names_no_claim_is_refused() {
        for text in ["", "/groups", "a//b", "a/"] {
            assert_eq!(ClaimPath::new(text), Err(InvalidClaimPath::EmptyName), "{text}");
        }
        for text in ["~", "a~", "a~2", "~~1"] {
            assert_eq!(ClaimPath::new(text), Err(InvalidClaimPath::Escape), "{text}");
        }
        assert_eq!(ClaimPath::new(&"a".repeat(256)), Err(InvalidClaimPath::Size));
        assert_eq!(ClaimPath::new("a/a/a/a/a/a/a/a/a"), Err(InvalidClaimPath::Size));
    }

    #[test]
    fn requirements_are_met_if_each_claim_has_an_accepted_value() {
        let claims = Claims::new(vec![
            (path("groups"), text("b")),
            (path("groups"), text("a")),
            (path("admin"), ClaimValue::Boolean(true)),
        ]);
        let required = |path_text: &str, values: &[ClaimValue]| ClaimRequirement {
            path: path(path_text),
            values: values.to_vec(),
        };
        assert!(claims.meet(&[]));
        assert!(claims.meet(&[required("groups", &[text("x"), text("b")])]));
        assert!(
            claims.meet(&[required("groups", &[text("a")]), required("admin", &[ClaimValue::Boolean(true)])])
        );
        assert!(!claims.meet(&[required("groups", &[text("c")])]));
        assert!(!claims.meet(&[required("groups", &[text("a")]), required("absent", &[text("a")])]));
        assert!(!claims.meet(&[required("admin", &[text("true")])]), "types are not converted");
        assert!(!Claims::default().meet(&[required("groups", &[text("a")])]));
    }
}
