//! Access tokens, one-time tokens and sessions that the sandbox has issued.
//!
//! `idp` decides who gets one. Every token starts with [`MARK`], so that none can be mistaken for a
//! real one.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::{URL_SAFE, URL_SAFE_NO_PAD};

use super::accounts::{ApiClient, User};
use super::expiring::Expiring;
use super::fault_request::Kind;

/// Prefix of every token of the sandbox.
pub const MARK: &str = "SANDBOX-";

/// Lifetime of a session. The platform documents none; enough for any test.
const SESSION_LIFETIME: Duration = Duration::from_hours(4);

/// Issued tokens and sessions, with their owners.
pub(super) struct Tokens {
    access: Mutex<Expiring<Arc<ApiClient>>>,
    one_time: Mutex<Expiring<Login>>,
    sessions: Mutex<Expiring<Session>>,
}

/// The login that a one-time token allows.
#[derive(Clone)]
pub(super) struct Login {
    pub(super) user: Arc<User>,
    /// Fault when the token is spent, if requested.
    pub(super) failure: Option<Kind>,
}

/// A session of a user.
struct Session {
    key: String,
    user: Arc<User>,
}

/// The two halves of a session, in separate cookies: a client that keeps only one of several
/// `Set-Cookie` headers has no session.
pub(super) struct SessionName {
    pub(super) id: String,
    pub(super) key: String,
}

impl Tokens {
    pub(super) fn new(access_lifetime: Duration, one_time_lifetime: Duration) -> Self {
        Self {
            access: Mutex::new(Expiring::new(access_lifetime)),
            one_time: Mutex::new(Expiring::new(one_time_lifetime)),
            sessions: Mutex::new(Expiring::new(SESSION_LIFETIME)),
        }
    }

    /// Removes one-time tokens and sessions. Access tokens stay.
    pub(super) fn forget(&self) {
        open(&self.one_time).clear();
        open(&self.sessions).clear();
    }

    pub(super) fn new_access_token(&self, client: &Arc<ApiClient>) -> String {
        let token = unpadded();
        open(&self.access).insert(token.clone(), Arc::clone(client));
        token
    }

    pub(super) fn api_client(&self, access_token: &str) -> Option<Arc<ApiClient>> {
        open(&self.access).find(access_token).cloned()
    }

    /// Issues a one-time token. It ends in `==`, like those of the platform, so that a client fails
    /// if it does not escape the token in a URL.
    pub(super) fn new_one_time_token(&self, login: Login) -> String {
        let token = format!("{MARK}{}", URL_SAFE.encode(rand::random::<[u8; 31]>()));
        open(&self.one_time).insert(token.clone(), login);
        token
    }

    /// Returns the login of a one-time token, without spending it.
    pub(super) fn login(&self, one_time_token: &str) -> Option<Login> {
        open(&self.one_time).find(one_time_token).cloned()
    }

    /// Spends a one-time token.
    pub(super) fn spend(&self, one_time_token: &str) -> Option<Login> {
        open(&self.one_time).take(one_time_token)
    }

    pub(super) fn new_session(&self, user: &Arc<User>) -> SessionName {
        let name = SessionName { id: unpadded(), key: unpadded() };
        let session = Session { key: name.key.clone(), user: Arc::clone(user) };
        open(&self.sessions).insert(name.id.clone(), session);
        name
    }

    pub(super) fn user_of(&self, name: &SessionName) -> Option<Arc<User>> {
        let sessions = open(&self.sessions);
        sessions.find(&name.id).filter(|session| session.key == name.key).map(|found| Arc::clone(&found.user))
    }

    pub(super) fn end_session(&self, name: &SessionName) {
        open(&self.sessions).take(&name.id);
    }
}

/// Returns a new token that never needs escaping.
pub(super) fn unpadded() -> String {
    format!("{MARK}{}", URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>()))
}

/// Returns a prefix of the SHA-256 of a one-time token of a sandbox, in hexadecimal digits; `None` for
/// any other text, which could be a real secret.
pub(super) fn fingerprint(token: &str) -> Option<String> {
    let hash = digest::digest(&digest::SHA256, token.as_bytes());
    let digits = hash.as_ref().iter().take(8).fold(String::new(), |mut digits, byte| {
        // Writing to a string does not fail.
        let _ = write!(digits, "{byte:02x}");
        digits
    });
    token.starts_with(MARK).then_some(digits)
}

/// Locks a store. Ignores poisoning: a store is consistent between any two calls.
fn open<T>(store: &Mutex<T>) -> MutexGuard<'_, T> {
    store.lock().unwrap_or_else(PoisonError::into_inner)
}
