//! Invalid names in a refused request.

/// Maximum length of an unvalidated text, in bytes.
///
/// Enough to recognize a misspelled name. A caller may also have put a token into the wrong field,
/// and the recorded part must not be enough to spend it.
const MAX_TEXT_BYTES: usize = 16;

/// User and API client in a refused request that failed validation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UnvalidatedNames {
    /// Field of the request for the user, and its text.
    pub user: Option<(&'static str, UnvalidatedText)>,
    /// The API client.
    pub api_client: Option<UnvalidatedText>,
}

/// Beginning of a text from a request, at most 16 bytes. May contain any character, and must be
/// escaped when it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnvalidatedText(Box<str>);

impl UnvalidatedNames {
    /// Returns whether it contains no names.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.user.is_none() && self.api_client.is_none()
    }
}

impl UnvalidatedText {
    /// Truncates a text. An ellipsis marks a truncated one.
    #[must_use]
    pub fn new(text: &str) -> Self {
        if text.len() <= MAX_TEXT_BYTES {
            return Self(text.into());
        }
        let end = text.floor_char_boundary(MAX_TEXT_BYTES);
        Self(format!("{}…", &text[..end]).into())
    }

    /// Returns the text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn text_is_truncated_between_characters(text in "\\PC{0,20}|.{0,300}|[a-z]{14,18}") {
            let bounded = UnvalidatedText::new(&text);
            if text.len() <= MAX_TEXT_BYTES {
                prop_assert_eq!(bounded.as_str(), &text);
            } else {
                let start = bounded.as_str().strip_suffix('…').expect("an ellipsis");
                prop_assert!(text.starts_with(start) && start.len() <= MAX_TEXT_BYTES);
                prop_assert!(start.len() > MAX_TEXT_BYTES - 4, "as much as fits");
            }
        }
    }
}
