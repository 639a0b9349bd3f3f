//! One record for many refused calls that have no record of their own.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::SystemTime};

use serde::Serialize;

use super::{Number, User, line, reason, rfc_3339, user_of};
use crate::{
    domain::call::{Call, Ending},
    observe::telemetry::metrics::CountedBy,
};

/// Maximum number of examples of each kind in a record.
const EXAMPLES: usize = 5;

/// Refused calls of one peer or caller that have no record of their own. Bounded in size.
#[derive(Clone, Debug)]
pub struct RefusedCalls {
    counted_by: CountedBy,
    count: u64,
    reasons: BTreeMap<&'static str, u64>,
    first: SystemTime,
    last: SystemTime,
    peers: Vec<IpAddr>,
    callers: Vec<Arc<str>>,
    users: Vec<(&'static str, String, bool)>,
}

#[derive(Serialize)]
struct RefusedCallsRecord<'a> {
    counted_by: &'static str,
    count: u64,
    reasons: &'a BTreeMap<&'static str, u64>,
    first_time: String,
    last_time: String,
    peers: Vec<String>,
    callers: Vec<&'a str>,
    users: Vec<User<'a>>,
}

impl RefusedCalls {
    /// Creates an empty count.
    #[must_use]
    pub const fn new(counted_by: CountedBy, now: SystemTime) -> Self {
        Self {
            counted_by,
            count: 0,
            reasons: BTreeMap::new(),
            first: now,
            last: now,
            peers: Vec::new(),
            callers: Vec::new(),
            users: Vec::new(),
        }
    }

    /// Adds a call that ended at `now`.
    pub fn add(&mut self, call: &Call, ending: Ending, now: SystemTime) {
        self.count += 1;
        self.last = now;
        *self.reasons.entry(reason(call, ending).unwrap_or("none")).or_default() += 1;
        if let Some(peer) = call.peer() {
            keep_example(&mut self.peers, &peer.ip().to_canonical(), IpAddr::eq, IpAddr::clone);
        }
        if let Some((caller, _)) = call.caller() {
            keep_example(&mut self.callers, caller, Arc::eq, Arc::clone);
        }
        if let Some(user) = user_of(call) {
            let is_same = |known: &(_, String, bool), user: &User<'_>| {
                (known.0, &*known.1, known.2) == (user.kind, user.value, user.unvalidated)
            };
            keep_example(&mut self.users, &user, is_same, |user| {
                (user.kind, user.value.to_owned(), user.unvalidated)
            });
        }
    }

    /// Returns whether another user would be kept, so that decoding a message is worth its cost.
    #[must_use]
    pub const fn wants_users(&self) -> bool {
        // Also bounded by the number of calls, so that a flood that names one user is not decoded.
        self.users.len() < EXAMPLES && self.count < 4 * EXAMPLES as u64
    }

    /// Returns the property by which the calls are grouped.
    #[must_use]
    pub const fn counted_by(&self) -> CountedBy {
        self.counted_by
    }

    /// Returns the number of calls.
    #[must_use]
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// Returns the number of calls by reason, most frequent first, for the log.
    #[must_use]
    pub fn reasons(&self) -> String {
        let mut reasons: Vec<_> = self.reasons.iter().collect();
        reasons.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        let reasons: Vec<String> =
            reasons.iter().map(|(reason, count)| format!("{reason}={count}")).collect();
        reasons.join(" ")
    }

    /// Returns examples of peer addresses.
    #[must_use]
    pub fn peers(&self) -> &[IpAddr] {
        &self.peers
    }

    /// Returns examples of caller names.
    #[must_use]
    pub fn callers(&self) -> &[Arc<str>] {
        &self.callers
    }
}

fn keep_example<T, K: ?Sized>(
    examples: &mut Vec<T>,
    seen: &K,
    is_same: impl Fn(&T, &K) -> bool,
    keep: impl FnOnce(&K) -> T,
) {
    if examples.len() < EXAMPLES && !examples.iter().any(|known| is_same(known, seen)) {
        examples.push(keep(seen));
    }
}

/// Returns the record, without the closing brace.
pub(in crate::observe::audit) fn of_refused_calls(
    calls: &RefusedCalls,
    number: Number<'_>,
    now: SystemTime,
) -> String {
    let body = RefusedCallsRecord {
        counted_by: calls.counted_by.as_str(),
        count: calls.count,
        reasons: &calls.reasons,
        first_time: rfc_3339(calls.first),
        last_time: rfc_3339(calls.last),
        peers: calls.peers.iter().map(IpAddr::to_string).collect(),
        callers: calls.callers.iter().map(AsRef::as_ref).collect(),
        users: calls
            .users
            .iter()
            .map(|(kind, value, unvalidated)| User { kind, value, unvalidated: *unvalidated })
            .collect(),
    };
    line("refused_calls", number, now, &body)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::{Value, json};

    use super::*;
    use crate::{
        base::clock::{self, WallClock},
        domain::{
            call::{Deadline, UnvalidatedNames, UnvalidatedText},
            ott::{Subject, SubjectKind},
            reason::{FailureCode, Reason},
        },
    };

    const UNAUTHENTICATED: Ending =
        Ending::Failed(FailureCode::Unauthenticated, Reason::CallerUnauthenticated);

    const NUMBER: Number<'_> = Number { process: "00000000000000ff", sequence: 17 };

    fn call(number: u8) -> Call {
        let call = Call::new(clock::now(), Deadline::after(Duration::from_secs(1)));
        call.set_peer(format!("192.0.2.{number}:40000").parse().expect("an address"));
        call
    }

    fn parsed(calls: &RefusedCalls) -> Value {
        let record = of_refused_calls(calls, NUMBER, SystemTime::UNIX_EPOCH);
        serde_json::from_str(&format!("{record}}}")).expect("one JSON object")
    }

    #[tokio::test(start_paused = true)]
    async fn calls_are_counted_by_reason_with_a_few_examples() {
        let clock = WallClock::following_monotonic();
        let mut calls = RefusedCalls::new(CountedBy::Others, clock.now());
        let named = call(1);
        named.set_caller("jwt:a".into(), "jwt");
        named.set_subject(Subject::new(SubjectKind::Login, "x".to_owned()).expect("a name"));
        calls.add(&named, UNAUTHENTICATED, clock.now());
        let unvalidated = call(1);
        let user = Some(("user_id", UnvalidatedText::new("7\u{202e}")));
        unvalidated.set_unvalidated(UnvalidatedNames { user, api_client: None });
        tokio::time::advance(Duration::from_millis(250)).await;
        calls.add(&unvalidated, UNAUTHENTICATED, clock.now());
        calls.add(&unvalidated, Ending::Cancelled, clock.now());
        assert_eq!(
            parsed(&calls),
            json!({
                "event": "refused_calls",
                "time": "1970-01-01T00:00:00.000000Z",
                "process": "00000000000000ff",
                "sequence": 17,
                "counted_by": "others",
                "count": 3,
                "reasons": { "CALLER_UNAUTHENTICATED": 2, "cancelled_before_send": 1 },
                "first_time": "2026-01-01T00:00:00.000000Z",
                "last_time": "2026-01-01T00:00:00.250000Z",
                "peers": ["192.0.2.1"],
                "callers": ["jwt:a"],
                "users": [
                    { "kind": "login", "value": "x" },
                    { "kind": "user_id", "value": "7\u{202e}", "unvalidated": true },
                ],
                "gateway_version": env!("CARGO_PKG_VERSION"),
            })
        );
        assert!(
            !of_refused_calls(&calls, NUMBER, clock.now()).contains('\u{202e}'),
            "deceptive text is escaped"
        );
        assert_eq!(calls.reasons(), "CALLER_UNAUTHENTICATED=2 cancelled_before_send=1");
    }

    #[tokio::test(start_paused = true)]
    async fn size_of_a_record_is_bounded() {
        let clock = WallClock::following_monotonic();
        let mut calls = RefusedCalls::new(CountedBy::Others, clock.now());
        for number in 0..=255 {
            let call = call(number);
            call.set_caller(format!("jwt:{number}").into(), "jwt");
            call.set_subject(Subject::new(SubjectKind::Login, number.to_string()).expect("a name"));
            assert_eq!(calls.wants_users(), number < 5);
            calls.add(&call, UNAUTHENTICATED, clock.now());
        }
        let record = parsed(&calls);
        assert_eq!(record["count"], 256);
        for list in ["peers", "callers", "users"] {
            assert_eq!(record[list].as_array().expect("a list").len(), 5, "{list}");
        }
    }
}
