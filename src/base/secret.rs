//! Text that must not be disclosed by accident.
//!
//! A secret has no `Display`, its `Debug` is redacted, and its memory is overwritten on drop.
//! [`Secret::expose`] is called only where the secret is sent: in `platform`, in `credential`, and
//! where a type that contains one (`ott`, `session`) passes it to the caller that requested it.
//!
//! ```
//! use ott_gateway::base::secret::{Secret, client_secret::ClientSecret};
//!
//! let secret = Secret::new("hunter2".to_owned());
//! assert_eq!(format!("{secret:?}"), "[redacted]");
//! assert_eq!(secret.expose(), "hunter2");
//!
//! // The newline that editors and `echo` add is not part of a client secret.
//! assert_eq!(ClientSecret::parse(b"hunter2\n").unwrap().expose(), "hunter2");
//! assert!(ClientSecret::parse(b"two\nlines").is_err());
//! ```

pub mod client_secret;
pub mod hmac_key;

use std::fmt;

use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroize;

/// Secret text.
#[derive(Clone)]
pub struct Secret(SecretString);

impl Secret {
    /// Wraps a text.
    #[must_use]
    pub fn new(mut text: String) -> Self {
        if text.capacity() == text.len() {
            return Self(SecretString::from(text));
        }
        // Shrinking may move the text and leave a copy in the old memory.
        let exact = SecretString::from(text.as_str());
        text.zeroize();
        Self(exact)
    }

    /// Returns the text, for sending.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }

    /// Returns whether the text is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.expose().is_empty()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self::new(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_kept_with_and_without_spare_capacity() {
        let mut roomy = String::with_capacity(64);
        roomy.push_str("canary");
        for text in [roomy, "canary".to_owned(), String::from("canary").into_boxed_str().into_string()] {
            assert_eq!(Secret::new(text).expose(), "canary");
        }
        assert!(Secret::new(String::with_capacity(64)).is_empty());
    }

    #[test]
    fn debug_output_does_not_contain_the_text() {
        let secret = Secret::new("canary".to_owned());
        for shown in [format!("{secret:?}"), format!("{secret:#?}"), format!("{:?}", Some(&secret))] {
            assert!(!shown.contains("canary"), "{shown}");
        }
    }
}
