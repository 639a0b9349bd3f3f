//! `GET /sandbox/requests`: the requests that the simulated platform has received.
//!
//! Tests use it to check the requests of the gateway. No header, body or query is kept. A one-time
//! token is identified by a prefix of its SHA-256, and only if the sandbox issued it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Json;
use axum::extract::State;
use serde::Serialize;

use super::World;

/// Maximum number of requests that are kept; the oldest are dropped first.
const CAPACITY: usize = 1000;
/// Maximum length of a text from a client, in characters.
const MAX_TEXT: usize = 256;

/// The most recent requests, the newest last.
#[derive(Debug, Default)]
pub(super) struct Journal(Mutex<Entries>);

/// Response of the endpoint.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Entries {
    requests: VecDeque<Entry>,
    /// Number of dropped requests.
    dropped: u64,
}

/// One request. Absent values are omitted.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Entry {
    /// Time of the response (RFC 3339, UTC).
    pub(super) time: String,
    pub(super) method: String,
    /// Without the query.
    pub(super) path: String,
    /// HTTP status of the response, even if a fault prevented its delivery.
    pub(super) status: u16,
    pub(super) duration_ms: u64,
    /// Id of the API client that authenticated with an access token or secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) api_client: Option<String>,
    /// Login of the account of the request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) login: Option<String>,
    /// The injected fault.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) fault: Option<String>,
    /// First 16 hexadecimal digits of the SHA-256 of the one-time token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) ott_sha256: Option<String>,
    /// `x-request-id`: the id of the gateway's call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) request_id: Option<String>,
}

impl Journal {
    pub(super) fn add(&self, entry: Entry) {
        let mut entries = self.open();
        if entries.requests.len() == CAPACITY {
            entries.requests.pop_front();
            entries.dropped += 1;
        }
        entries.requests.push_back(entry);
    }

    pub(super) fn clear(&self) {
        *self.open() = Entries::default();
    }

    fn open(&self) -> MutexGuard<'_, Entries> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Truncates a text from a client.
pub(super) fn shortened(text: &str) -> String {
    text.chars().take(MAX_TEXT).collect()
}

/// The endpoint.
pub(super) async fn requests(State(world): State<Arc<World>>) -> Json<Entries> {
    Json(world.journal.open().clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_journal_keeps_the_newest_requests() {
        let journal = Journal::default();
        for number in 0..CAPACITY + 3 {
            journal.add(Entry {
                time: String::new(),
                method: String::new(),
                path: number.to_string(),
                status: 200,
                duration_ms: 0,
                api_client: None,
                login: None,
                fault: None,
                ott_sha256: None,
                request_id: None,
            });
        }
        {
            let entries = journal.open();
            assert_eq!((entries.requests.len(), entries.dropped), (CAPACITY, 3));
            assert_eq!(entries.requests.back().expect("the newest").path, (CAPACITY + 2).to_string());
            assert_eq!(entries.requests.front().expect("the oldest").path, "3");
        }
        journal.clear();
        let entries = journal.open();
        assert_eq!((entries.requests.len(), entries.dropped), (0, 0));
    }
}
