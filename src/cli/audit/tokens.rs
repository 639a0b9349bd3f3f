//! Joins the issue and the login of each token by its fingerprint.
//!
//! At most [`MAX_TOKENS`] tokens are kept, and of each only texts of bounded length. Beyond that,
//! the oldest ones are dropped, and counted if they were not joined.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    sync::Arc,
    time::SystemTime,
};

use super::completeness::bounded;
use crate::{
    domain::call::Method,
    observe::audit::reader::{CallEntry, Event, Record},
};

/// Maximum number of tokens that are kept. One usually takes about 0.5 KiB, and at most 2 KiB.
pub(super) const MAX_TOKENS: usize = 100_000;
/// Maximum length of a fingerprint: the id of the key, a colon, and 32 digits.
const MAX_FINGERPRINT: usize = 80;
/// Maximum number of keys.
const MAX_KEYS: usize = 1000;
/// Maximum number of names of callers and API clients that tokens share. Others are kept for each
/// token.
const MAX_NAMES: usize = 10_000;

/// All tokens.
#[derive(Debug)]
pub(super) struct Tokens {
    // Boxed, because a full table with removed entries grows to four times its entries.
    by_fingerprint: HashMap<Arc<str>, Box<Token>>,
    /// Fingerprints in the order in which they first occurred.
    order: VecDeque<Arc<str>>,
    room: usize,
    pub(super) counts: Counts,
    /// Numbers of tokens by the id of the key of their fingerprints.
    by_key: BTreeMap<String, KeyCounts>,
    names: Names,
}

/// Names that occur in most records, each kept once.
#[derive(Debug, Default)]
struct Names(HashSet<Arc<str>>);

/// Numbers of tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) issued: u64,
    pub(super) spent: u64,
    /// Both are in the files.
    pub(super) joined: u64,
    /// Dropped before both were found, because there were too many.
    pub(super) dropped: u64,
}

/// Tokens whose fingerprints have the same key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct KeyCounts {
    pub(super) issued: u64,
    pub(super) spent: u64,
    pub(super) joined: u64,
}

/// One token.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) issued: Option<Use>,
    pub(super) spent: Option<Use>,
    /// A record of it was asked for.
    is_wanted: bool,
}

/// The issue or the login of a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Use {
    pub(super) time: SystemTime,
    pub(super) caller: Arc<str>,
    pub(super) api_client: Arc<str>,
    /// Of an issue.
    pub(super) user: Option<UserName>,
    /// Whether the caller received the token or the session.
    pub(super) was_delivered: bool,
    /// Whether the platform's response shows that it happened.
    pub(super) is_certain: bool,
}

/// The user of a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct UserName {
    pub(super) kind: Arc<str>,
    pub(super) value: Box<str>,
    /// Whether it is only the beginning of a text that is not a valid user.
    pub(super) unvalidated: bool,
}

impl Names {
    /// Returns a name of bounded length.
    fn get(&mut self, name: &str) -> Arc<str> {
        let name = bounded(name);
        if let Some(known) = self.0.get(name) {
            return Arc::clone(known);
        }
        let new: Arc<str> = Arc::from(name);
        if self.0.len() < MAX_NAMES {
            self.0.insert(Arc::clone(&new));
        }
        new
    }
}

impl Tokens {
    /// Creates a table for this many tokens.
    pub(super) fn new(room: usize) -> Self {
        Self {
            by_fingerprint: HashMap::new(),
            order: VecDeque::new(),
            room,
            counts: Counts::default(),
            by_key: BTreeMap::new(),
            names: Names::default(),
        }
    }

    /// Returns the user for whom the token of a record was issued, if its issue came before.
    pub(super) fn issued_for(&self, record: &Record) -> Option<&UserName> {
        let (Event::Call(call) | Event::UndeliveredSession(call)) = &record.event else { return None };
        self.by_fingerprint.get(call.ott_fingerprint.as_deref()?)?.issued.as_ref()?.user.as_ref()
    }

    /// Adds a record, if it is that of an issue or a login that may have spent a token.
    /// `is_wanted`: it was asked for.
    pub(super) fn add(&mut self, record: &Record, is_wanted: bool) {
        let Event::Call(call) = &record.event else { return };
        let Some(fingerprint) = call.ott_fingerprint.as_deref().filter(|it| it.len() <= MAX_FINGERPRINT)
        else {
            return;
        };
        let is_certain = match call.outcome.as_deref() {
            Some("done") => true,
            Some("unknown") => false,
            _ => return,
        };
        let Some(method) = call.method() else { return };
        if !self.by_fingerprint.contains_key(fingerprint) {
            self.make_room();
            let fingerprint: Arc<str> = Arc::from(fingerprint);
            self.order.push_back(Arc::clone(&fingerprint));
            self.by_fingerprint.insert(fingerprint, Box::default());
        }
        let Some(token) = self.by_fingerprint.get_mut(fingerprint) else { return };
        token.is_wanted |= is_wanted;
        let slot = match method {
            Method::IssueOtt => &mut token.issued,
            Method::LoginWithOtt => &mut token.spent,
        };
        if let Some(known) = slot {
            // A correction, or the same record again.
            known.was_delivered &= was_delivered(record, call);
            known.is_certain |= is_certain;
            return;
        }
        *slot = Some(Use::new(record, call, is_certain, &mut self.names));
        let is_joined = token.issued.is_some() && token.spent.is_some();
        self.counts.joined += u64::from(is_joined);
        let of_key = self.key_of(fingerprint);
        match method {
            Method::IssueOtt => of_key.issued += 1,
            Method::LoginWithOtt => of_key.spent += 1,
        }
        of_key.joined += u64::from(is_joined);
        match method {
            Method::IssueOtt => self.counts.issued += 1,
            Method::LoginWithOtt => self.counts.spent += 1,
        }
    }

    fn make_room(&mut self) {
        if self.by_fingerprint.len() < self.room {
            return;
        }
        if let Some(oldest) = self.order.pop_front()
            && let Some(token) = self.by_fingerprint.remove(&oldest)
        {
            self.counts.dropped += u64::from(token.issued.is_none() || token.spent.is_none());
        }
    }

    fn key_of(&mut self, fingerprint: &str) -> &mut KeyCounts {
        let key = fingerprint.rsplit_once(':').map_or("", |(key, _)| key);
        let is_known = self.by_key.contains_key(key);
        let key = if is_known || self.by_key.len() < MAX_KEYS { key } else { OTHER_KEYS };
        self.by_key.entry(key.to_owned()).or_default()
    }

    /// Returns the counts of each key.
    pub(super) fn keys(&self) -> impl Iterator<Item = (&str, KeyCounts)> {
        self.by_key.iter().map(|(key, counts)| (key.as_str(), *counts))
    }

    /// Returns the tokens of records that were asked for, in the order in which they occurred.
    pub(super) fn wanted(&self) -> impl Iterator<Item = (&str, &Token)> {
        self.kept().filter(|(_, token)| token.is_wanted)
    }

    /// Returns the tokens that were spent and not issued here, in the order in which they occurred.
    pub(super) fn never_issued(&self) -> impl Iterator<Item = (&str, &Use)> {
        self.kept().filter_map(|(fingerprint, token)| {
            token.spent.as_ref().filter(|_| token.issued.is_none()).map(|spent| (fingerprint, spent))
        })
    }

    fn kept(&self) -> impl Iterator<Item = (&str, &Token)> {
        self.order.iter().filter_map(|it| Some((&**it, self.by_fingerprint.get(it)?.as_ref())))
    }
}

/// Stands for the keys beyond [`MAX_KEYS`].
const OTHER_KEYS: &str = "(others)";

impl Use {
    fn new(record: &Record, call: &CallEntry, is_certain: bool, names: &mut Names) -> Self {
        Self {
            time: record.time,
            caller: names.get(call.caller.as_deref().unwrap_or_default()),
            api_client: names.get(call.api_client.as_deref().unwrap_or_default()),
            user: call.user.as_ref().map(|user| UserName {
                kind: names.get(&user.kind),
                value: Box::from(bounded(&user.value)),
                unvalidated: user.unvalidated,
            }),
            was_delivered: was_delivered(record, call),
            is_certain,
        }
    }
}

fn was_delivered(record: &Record, call: &CallEntry) -> bool {
    !record.late && call.code.as_deref() == Some("OK")
}
