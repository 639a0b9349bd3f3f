//! What a refused request named, as far as it is not valid.

/// Maximum length of a text that is not validated, in bytes.
///
/// Enough to recognize a misspelled name. A caller may also have put a token into the wrong
/// field, and what is recorded must not be enough to spend it.
const MAX_TEXT_BYTES: usize = 16;

/// User and API client that a refused request named and that did not pass validation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UnvalidatedNames {
    /// Field of the request that names the user, and its text.
    pub user: Option<(&'static str, UnvalidatedText)>,
    /// The API client.
    pub api_client: Option<UnvalidatedText>,
}

/// The beginning of a text from a request, at most 16 bytes. May contain any character: escape it where it is
/// written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnvalidatedText(Box<str>);

impl UnvalidatedNames {
    /// Whether there is nothing in it.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.user.is_none() && self.api_client.is_none()
    }
}

impl UnvalidatedText {
    /// Takes the beginning of a text; an ellipsis shows that there is more.
    #[must_use]
    pub fn new(text: &str) -> Self {
        if text.len() <= MAX_TEXT_BYTES {
            return Self(text.into());
        }
        let end = text.floor_char_boundary(MAX_TEXT_BYTES);
        Self(format!("{}…", &text[..end]).into())
    }

    /// The text.
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
        fn a_text_is_bounded_and_cut_between_characters(text in "\\PC{0,20}|.{0,300}|[a-z]{14,18}") {
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
