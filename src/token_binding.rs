//! Sealed tokens, which only a gateway with the same key can open.
//!
//! A one-time token of the platform logs in anyone who holds it. A sealed token contains it encrypted,
//! together with its user, its API client, the caller that it was issued to and its expiry. Outside
//! a gateway it is worth nothing, and a gateway spends it only for callers that a rule allows.
//!
//! This module seals and opens. `service` decides when, and `access` who may spend a token.
//! Replicas share nothing but the keys: AES-256-GCM-SIV (RFC 8452) stays secure if a nonce is
//! repeated, so that replicas need not coordinate them, and it is part of the cryptographic library
//! that TLS uses.
//!
//! ```
//! use std::time::Duration;
//!
//! use ott_gateway::{
//!     base::clock::WallClock,
//!     domain::ott::{OneTimeToken, Subject, SubjectKind},
//!     observe::telemetry::metrics::SealRefusal,
//!     token_binding::{Binding, Keys, TokenBinding},
//! };
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let keys = Keys::parse(b"2026-11 AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n")?;
//! let token_binding = TokenBinding::new(keys, WallClock::system());
//!
//! let now = WallClock::system().now();
//! let binding = Binding {
//!     api_client: "eu2".to_owned(),
//!     subject: Subject::new(SubjectKind::Login, "anna@customer.example".to_owned())?,
//!     issued_by: "spiffe://example.org/ns/portal/sa/web".to_owned(),
//!     issued_at: now,
//!     expires_at: now + Duration::from_secs(30),
//! };
//! let sealed = token_binding.seal(&OneTimeToken::try_new("c2VjcmV0".to_owned())?, &binding)?;
//! assert!(sealed.expose().starts_with("ottgw1.2026-11."));
//!
//! let opened = token_binding.open(&sealed).map_err(SealRefusal::as_str)?;
//! assert_eq!(opened.binding().subject, binding.subject);
//! assert_eq!(opened.spend(Some("us1")).unwrap_err(), SealRefusal::OtherApiClient);
//!
//! let opened = token_binding.open(&sealed).map_err(SealRefusal::as_str)?;
//! let (ott, binding) = opened.spend(None).map_err(SealRefusal::as_str)?;
//! assert_eq!((ott.expose(), &*binding.api_client), ("c2VjcmV0", "eu2"));
//! # Ok(())
//! # }
//! ```

mod contents;
mod key_file;
mod keys;

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwapOption;
use aws_lc_rs::aead::{Aad, Nonce};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use zeroize::Zeroizing;

pub use self::{
    key_file::{KeyFile, KeySource, StoredKeys, UnusableKeys},
    keys::{InvalidKeys, Keys, MAX_KEYS, MAX_KEYS_BYTES, NoRandomness},
};
use crate::{
    base::clock::WallClock,
    domain::ott::{OneTimeToken, SealedToken, Subject},
    observe::telemetry::metrics::SealRefusal,
};

/// First characters of a sealed token of the only version.
const VERSION: &str = "ottgw1.";
/// Size of a nonce, in bytes. A multiple of 3, so that its base64 has no padding.
const NONCE_BYTES: usize = 12;
/// Size of the authentication tag, in bytes.
const TAG_BYTES: usize = 16;
/// Time for which a token may be spent after its expiry, because the clocks of replicas differ. The
/// platform decides about its own token in any case.
const LEEWAY: Duration = Duration::from_secs(2);

/// Treatment of tokens of one API client (`bind_tokens`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Tokens are issued as the platform created them, and sealed ones can be spent too.
    #[default]
    Off,
    /// Tokens are issued sealed. Only sealed ones can be spent.
    On,
    /// Tokens are issued sealed. Others can be spent too: for a migration.
    AcceptRaw,
}

impl Mode {
    /// Returns whether issued tokens are sealed.
    #[must_use]
    pub const fn seals(self) -> bool {
        !matches!(self, Self::Off)
    }

    /// Returns whether tokens that are not sealed can be spent.
    #[must_use]
    pub const fn accepts_raw(self) -> bool {
        !matches!(self, Self::On)
    }
}

/// What a sealed token is bound to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    /// Name of the API client that it was issued with.
    pub api_client: String,
    /// Its user.
    pub subject: Subject,
    /// Name of the caller that it was issued to.
    pub issued_by: String,
    /// Time when it was sealed, with millisecond precision.
    pub issued_at: SystemTime,
    /// Time of its expiry, with millisecond precision.
    pub expires_at: SystemTime,
}

/// Seals and opens tokens. Cheap to clone; a reload of the keys takes effect in all clones.
#[derive(Clone, Debug)]
pub struct TokenBinding(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// `None` if no keys are configured.
    keys: ArcSwapOption<Keys>,
    wall: WallClock,
}

/// Reason that a token cannot be sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// No keys are configured.
    #[error("there is no key to seal tokens with")]
    NoKeys,
    /// The cryptographic library failed, for lack of randomness.
    #[error("the cryptographic library cannot seal the token")]
    Library,
    /// The names of caller, user and API client are too long together.
    #[error("the sealed token would be too long")]
    TooLong,
}

/// A sealed token that has been opened. Only [`spend`](Self::spend) hands out the token in it.
#[derive(Debug)]
pub struct OpenedToken {
    ott: OneTimeToken,
    binding: Binding,
    opened_at: SystemTime,
}

impl Default for TokenBinding {
    fn default() -> Self {
        Self::without_keys()
    }
}

impl TokenBinding {
    /// Creates one with these keys.
    #[must_use]
    pub fn new(keys: impl Into<Arc<Keys>>, wall: WallClock) -> Self {
        Self(Arc::new(Inner { keys: ArcSwapOption::new(Some(keys.into())), wall }))
    }

    /// Creates one without keys, which refuses all sealed tokens.
    #[must_use]
    pub fn without_keys() -> Self {
        Self(Arc::new(Inner { keys: ArcSwapOption::empty(), wall: WallClock::system() }))
    }

    /// Replaces the keys. Tokens that were sealed with a key that is no longer among them can no
    /// longer be opened.
    pub fn replace_keys(&self, keys: impl Into<Arc<Keys>>) {
        self.0.keys.store(Some(keys.into()));
    }

    /// Returns the current wall-clock time, for [`Binding::issued_at`].
    #[must_use]
    pub fn now(&self) -> SystemTime {
        self.0.wall.now()
    }

    /// Seals a token with the first key.
    ///
    /// # Errors
    ///
    /// There are no keys, or the cryptographic library failed.
    pub fn seal(&self, ott: &OneTimeToken, binding: &Binding) -> Result<SealedToken, SealError> {
        let keys = self.0.keys.load();
        let key = keys.as_deref().ok_or(SealError::NoKeys)?.sealing();
        let mut text = Zeroizing::new(format!("{VERSION}{}.", key.id()));
        let mut sealed = contents::encode(ott, binding, TAG_BYTES);
        let aad = Aad::from(text.as_bytes());
        let nonce = key.cipher().seal_in_place_append_tag(aad, &mut *sealed);
        let nonce = nonce.map_err(|_| SealError::Library)?;
        text.reserve_exact((NONCE_BYTES + sealed.len()).div_ceil(3) * 4);
        URL_SAFE_NO_PAD.encode_string(nonce.as_ref(), &mut text);
        URL_SAFE_NO_PAD.encode_string(&*sealed, &mut text);
        SealedToken::try_new(std::mem::take(&mut *text)).map_err(|_| SealError::TooLong)
    }

    /// Opens a sealed token. It may have expired: [`OpenedToken::spend`] checks that.
    ///
    /// # Errors
    ///
    /// The token was not sealed with one of the keys, or was altered.
    pub fn open(&self, sealed: &SealedToken) -> Result<OpenedToken, SealRefusal> {
        let keys = self.0.keys.load();
        let keys = keys.as_deref().ok_or(SealRefusal::NoKeys)?;
        let text = sealed.expose();
        let rest = text.strip_prefix(VERSION).ok_or(SealRefusal::UnknownVersion)?;
        let (id, body) = rest.split_once('.').ok_or(SealRefusal::Malformed)?;
        let authenticated = &text[..text.len() - body.len()];
        // Refuses every text but the one that was issued, because no two texts have the same bytes.
        let mut bytes = Zeroizing::new(URL_SAFE_NO_PAD.decode(body).map_err(|_| SealRefusal::Malformed)?);
        let (nonce, sealed) = bytes.split_at_mut_checked(NONCE_BYTES).ok_or(SealRefusal::Malformed)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| SealRefusal::Malformed)?;
        let key = keys.opening(id).ok_or(SealRefusal::UnknownKey)?;
        let aad = Aad::from(authenticated.as_bytes());
        let contents = key.cipher().open_in_place(nonce, aad, sealed);
        let contents = contents.map_err(|_| SealRefusal::NotAuthentic)?;
        let (ott, binding) = contents::decode(contents).ok_or(SealRefusal::Malformed)?;
        Ok(OpenedToken { ott, binding, opened_at: self.now() })
    }
}

impl OpenedToken {
    /// Returns what the token is bound to.
    #[must_use]
    pub const fn binding(&self) -> &Binding {
        &self.binding
    }

    /// Returns the token in it, for its fingerprint.
    #[must_use]
    pub const fn ott(&self) -> &OneTimeToken {
        &self.ott
    }

    /// Returns the token in it, to be spent, unless it has expired or the request names another API
    /// client. If it names none, the sealed one counts.
    pub fn spend(self, requested: Option<&str>) -> Result<(OneTimeToken, Binding), SealRefusal> {
        if self.opened_at > self.binding.expires_at + LEEWAY {
            Err(SealRefusal::Expired)
        } else if requested.is_some_and(|name| name != self.binding.api_client) {
            Err(SealRefusal::OtherApiClient)
        } else {
            Ok((self.ott, self.binding))
        }
    }
}

#[cfg(test)]
mod tests;
