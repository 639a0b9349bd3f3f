//! The access tokens, one-time tokens and sessions that the sandbox has given out.
//!
//! Who may have one is decided in `idp`. Every token starts with [`MARK`], so that
//! none can be taken for a real one.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{URL_SAFE, URL_SAFE_NO_PAD};

use super::accounts::{ApiClient, User};
use super::expiring::Expiring;
use super::faults::Fault;

/// What every token of the sandbox starts with.
pub const MARK: &str = "SANDBOX-";

/// How long a session lives. The platform documents no number; half a working day
/// outlasts any trying-out.
const SESSION_LIFETIME: Duration = Duration::from_hours(4);

/// What is given out, and to whom it belongs.
pub(super) struct Tokens {
    access: Mutex<Expiring<Arc<ApiClient>>>,
    one_time: Mutex<Expiring<Login>>,
    sessions: Mutex<Expiring<Session>>,
}

/// What a one-time token is good for.
#[derive(Clone)]
pub(super) struct Login {
    pub(super) user: Arc<User>,
    /// How spending it goes wrong, if its user is there to meet a fault.
    pub(super) fault: Option<Fault>,
}

/// Someone who is logged in.
struct Session {
    key: String,
    user: Arc<User>,
}

/// The two halves of a session, each in a cookie of its own. A client that keeps only
/// one of several `Set-Cookie` headers is found out.
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

    pub(super) fn new_access_token(&self, client: &Arc<ApiClient>) -> String {
        let token = unpadded();
        open(&self.access).insert(token.clone(), Arc::clone(client));
        token
    }

    pub(super) fn api_client(&self, access_token: &str) -> Option<Arc<ApiClient>> {
        open(&self.access).find(access_token).cloned()
    }

    /// A new one-time token. It ends in `==`, as the platform's do: whoever puts it
    /// into a URL unescaped is to notice.
    pub(super) fn new_one_time_token(&self, login: Login) -> String {
        let token = format!("{MARK}{}", URL_SAFE.encode(rand::random::<[u8; 31]>()));
        open(&self.one_time).insert(token.clone(), login);
        token
    }

    /// What a one-time token is good for, without spending it.
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

/// A token that needs no escaping anywhere.
pub(super) fn unpadded() -> String {
    format!("{MARK}{}", URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>()))
}

/// The store behind the lock. Nothing panics while it holds one, and if it did, a
/// store of tokens is whole between any two calls.
fn open<T>(store: &Mutex<T>) -> MutexGuard<'_, T> {
    store.lock().unwrap_or_else(PoisonError::into_inner)
}
