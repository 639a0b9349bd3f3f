//! State of one name: its addresses, and the queries in progress. Does no I/O and never waits.

use std::{net::IpAddr, sync::Arc, time::Duration};

use super::query::{QueryError, ResolvedAddresses};
use crate::{base::clock::Instant, observe::telemetry::metrics::LookupQuery};

/// Age up to which addresses are used without a new lookup.
const FRESH_FOR: Duration = Duration::from_secs(30);
/// Age up to which addresses are used while a lookup is in progress or fails.
const USABLE_FOR: Duration = Duration::from_mins(10);
/// Time from the first answer until its addresses are used, unless the query for the other
/// family ends earlier: the resolution delay of RFC 8305, section 3.
const RESOLUTION_DELAY: Duration = Duration::from_millis(50);
/// Minimum interval between two lookups of a name, and time for which a failed one is reused.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// Time after which a query without a result is abandoned. Longer than the system needs for three
/// unresponsive name servers.
pub(super) const QUERY_LIMIT: Duration = Duration::from_mins(1);

/// Next step of a request that needs the addresses.
#[derive(Debug)]
pub(super) enum Step {
    /// Use these.
    Use(Arc<[IpAddr]>),
    /// Wait for a change, at most until the given time.
    Wait(Option<Instant>),
    /// The lookup has failed.
    Fail(QueryError),
}

/// A query to send, with its id.
pub(super) type Question = (LookupQuery, u64);

/// Effect of a result that the host has to act on.
#[derive(Debug, Default)]
pub(super) struct Effect {
    /// Queries to send next.
    pub(super) questions: Vec<Question>,
    /// The addresses have just been confirmed.
    pub(super) is_confirmed: bool,
    pub(super) change: Option<Change>,
}

/// A lookup with a different result than the previous one.
#[derive(Debug)]
pub(super) enum Change {
    /// It failed.
    Failed(QueryError),
    /// It succeeded after failures.
    Recovered,
}

/// Forms of a name that a lookup tries, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// With a trailing dot, so that the search list of `resolv.conf` is not applied. Each family
    /// has a separate query, so that a server that never answers one of them does not delay the
    /// other.
    Absolute,
    /// As configured.
    AsConfigured,
}

impl Form {
    const fn queries(self) -> &'static [LookupQuery] {
        match self {
            Self::Absolute => &[LookupQuery::Ipv4, LookupQuery::Ipv6],
            Self::AsConfigured => &[LookupQuery::AsConfigured],
        }
    }

    const fn of(query: LookupQuery) -> Self {
        match query {
            LookupQuery::Ipv4 | LookupQuery::Ipv6 => Self::Absolute,
            LookupQuery::AsConfigured => Self::AsConfigured,
        }
    }
}

#[derive(Debug)]
pub(super) struct State {
    first_form: Form,
    /// The form of the lookup in progress, or of the last one.
    form: Form,
    tracks: [Track; LookupQuery::ALL.len()],
    next_id: u64,
    asked_at: Option<Instant>,
    /// When a lookup last had addresses.
    confirmed_at: Option<Instant>,
    /// Since when addresses have been known without interruption.
    known_since: Option<Instant>,
    /// Set while lookups fail.
    failure: Option<QueryError>,
}

/// One kind of query.
#[derive(Debug, Default)]
struct Track {
    known: Option<Known>,
    /// The id of the query in progress, and when it was asked.
    in_progress: Option<(u64, Instant)>,
    /// Result of the query in the current lookup.
    result: Option<Result<(), QueryError>>,
}

#[derive(Debug)]
struct Known {
    addresses: Vec<IpAddr>,
    is_routable: bool,
    confirmed_at: Instant,
}

impl Track {
    fn is_in_progress(&self, now: Instant) -> bool {
        self.in_progress.is_some_and(|(_, asked_at)| now < asked_at + QUERY_LIMIT)
    }

    fn usable(&self, now: Instant) -> Option<&Known> {
        self.known.as_ref().filter(|known| now < known.confirmed_at + USABLE_FOR)
    }
}

impl State {
    /// Creates the state of a name without addresses.
    pub(super) fn new(name: &str) -> Self {
        // A name without a dot only resolves through the search list or the hosts file.
        let first_form = if name.contains('.') { Form::Absolute } else { Form::AsConfigured };
        Self {
            first_form,
            form: first_form,
            tracks: std::array::from_fn(|_| Track::default()),
            next_id: 0,
            asked_at: None,
            confirmed_at: None,
            known_since: None,
            failure: None,
        }
    }

    /// Starts a lookup if the addresses are not fresh and none is in progress. Returns the queries
    /// to send.
    #[must_use]
    pub(super) fn begin_if_due(&mut self, now: Instant) -> Vec<Question> {
        let is_fresh = self.confirmed_at.is_some_and(|at| now < at + FRESH_FOR);
        let is_too_soon = self.asked_at.is_some_and(|at| now < at + RETRY_PAUSE);
        // A query that hangs must not prevent a new query for the other family.
        let is_idle = self.form.queries().iter().any(|query| !self.track(*query).is_in_progress(now));
        if is_fresh || is_too_soon || !is_idle {
            return Vec::new();
        }
        self.begin(self.first_form, now)
    }

    /// Returns the next step of a request that needs the addresses.
    pub(super) fn step(&self, now: Instant) -> Step {
        let addresses = self.addresses(now);
        if addresses.is_empty() {
            return match &self.failure {
                Some(failure) if !self.is_in_progress(now) => Step::Fail(failure.clone()),
                _ => Step::Wait(None),
            };
        }
        let complete_at = self.known_since.map(|since| since + RESOLUTION_DELAY);
        if complete_at.is_some_and(|at| now < at) && self.is_in_progress(now) {
            return Step::Wait(complete_at);
        }
        Step::Use(addresses.into())
    }

    /// Returns whether there are usable addresses.
    pub(super) fn has_addresses(&self, now: Instant) -> bool {
        !self.addresses(now).is_empty()
    }

    /// Returns since when a lookup has been in progress for a name without usable addresses.
    pub(super) fn unanswered_since(&self, now: Instant) -> Option<Instant> {
        if self.has_addresses(now) {
            return None;
        }
        let queries = self.form.queries().iter().map(|query| self.track(*query));
        queries
            .filter(|track| track.is_in_progress(now))
            .filter_map(|track| track.in_progress)
            .map(|(_, asked_at)| asked_at)
            .min()
    }

    /// Returns why there are no addresses: the failure of the last lookup that ended, even while
    /// another one is in progress.
    pub(super) fn no_addresses(&self, now: Instant) -> QueryError {
        let waiting = || self.unanswered_since(now).map(|since| now.saturating_duration_since(since));
        self.failure.clone().unwrap_or_else(|| QueryError::NoAnswer(waiting().unwrap_or_default()))
    }

    /// Records the result of a query.
    #[must_use]
    pub(super) fn record(
        &mut self,
        query: LookupQuery,
        id: u64,
        result: Result<ResolvedAddresses, QueryError>,
        now: Instant,
    ) -> Effect {
        let had_addresses = self.has_addresses(now);
        let form = self.form;
        let track = self.track_mut(query);
        if track.in_progress.is_none_or(|(current, _)| current != id) {
            return Effect::default();
        }
        track.in_progress = None;
        if Form::of(query) != form {
            // The lookup has moved on to the other form of the name.
            return Effect::default();
        }
        track.result = Some(result.as_ref().map(|_| ()).map_err(QueryError::clone));
        let mut effect = Effect::default();
        match result {
            Ok(ResolvedAddresses { addresses, is_routable }) => {
                track.known = Some(Known { addresses, is_routable, confirmed_at: now });
                self.confirmed_at = Some(now);
                if !had_addresses {
                    self.known_since = Some(now);
                }
                for other in LookupQuery::ALL.into_iter().filter(|other| Form::of(*other) != form) {
                    self.track_mut(other).known = None;
                }
                effect.is_confirmed = true;
                effect.change = self.failure.take().map(|_| Change::Recovered);
            }
            Err(error) if self.has_failed() => {
                // NXDOMAIN applies to both families, and a search list may still find the name.
                if form == Form::Absolute {
                    effect.questions = self.begin(Form::AsConfigured, now);
                } else {
                    effect.change =
                        self.failure.replace(error.clone()).is_none().then_some(Change::Failed(error));
                }
            }
            Err(_) => {}
        }
        self.remove_missing_family();
        effect
    }

    /// Returns whether the lookup in progress cannot find any addresses.
    fn has_failed(&self) -> bool {
        let results = || self.form.queries().iter().map(|query| self.track(*query).result.as_ref());
        let is_denied = |result: Option<&Result<(), QueryError>>| {
            matches!(result, Some(Err(QueryError::NoSuchName | QueryError::InHostsFile)))
        };
        results().all(|result| !matches!(result, Some(Ok(()))))
            && (results().any(is_denied) || results().all(|result| matches!(result, Some(Err(_)))))
    }

    /// Removes the addresses of a family that the name no longer has.
    fn remove_missing_family(&mut self) {
        let has_answer = self.form.queries().iter().any(|query| self.track(*query).result == Some(Ok(())));
        if has_answer {
            for query in self.form.queries() {
                let track = self.track_mut(*query);
                if matches!(track.result, Some(Err(QueryError::NoAddress | QueryError::NoSuchName))) {
                    track.known = None;
                }
            }
        }
    }

    fn begin(&mut self, form: Form, now: Instant) -> Vec<Question> {
        self.form = form;
        self.asked_at = Some(now);
        let mut questions = Vec::new();
        for query in form.queries() {
            let id = self.next_id;
            let track = self.track_mut(*query);
            track.result = None;
            if !track.is_in_progress(now) {
                track.in_progress = Some((id, now));
                self.next_id += 1;
                questions.push((*query, id));
            }
        }
        questions
    }

    fn is_in_progress(&self, now: Instant) -> bool {
        self.form.queries().iter().any(|query| self.track(*query).is_in_progress(now))
    }

    /// Returns the usable addresses. Those without a route are left out unless there are no
    /// others: the error of a connection to them would hide that of the others.
    fn addresses(&self, now: Instant) -> Vec<IpAddr> {
        // RFC 6724 prefers IPv6. The HTTP library tries the other family after 300 ms.
        let order = [LookupQuery::Ipv6, LookupQuery::Ipv4, LookupQuery::AsConfigured];
        let usable = || order.iter().filter_map(|query| self.track(*query).usable(now));
        let of = |known: &Known| known.addresses.clone();
        let routable: Vec<_> = usable().filter(|known| known.is_routable).flat_map(of).collect();
        if routable.is_empty() { usable().flat_map(of).collect() } else { routable }
    }

    const fn track(&self, query: LookupQuery) -> &Track {
        &self.tracks[query as usize]
    }

    const fn track_mut(&mut self, query: LookupQuery) -> &mut Track {
        &mut self.tracks[query as usize]
    }
}
