use std::{cell::Cell, collections::HashMap};

use proptest::prelude::*;

use super::*;
use crate::observe::telemetry::metrics::Metrics;

fn calls(number: u32) -> NonZeroU32 {
    NonZeroU32::new(number).unwrap()
}

fn per_hour(number: u32) -> Rate {
    Rate::PerPeriod { calls: calls(number), period: Duration::from_hours(1) }
}

/// The quotas of one rule, with their own memory.
struct Quotas {
    per_caller: CallerQuota,
    per_user: UserQuota,
    memory: Memory,
    metrics: Metrics,
    literal_names: HashSet<Box<str>>,
    shared: Cell<u64>,
}

impl Quotas {
    /// Quotas with the same limit for callers and for users.
    fn new(rate: Rate, burst: u32, max_users: usize) -> Self {
        let metrics = Metrics::new();
        Self {
            per_caller: CallerQuota::new(rate, calls(burst)),
            per_user: UserQuota::new(rate, calls(burst)),
            memory: Memory::new(max_users, &metrics),
            metrics,
            literal_names: HashSet::from(["token:billing".into(), "token:support".into()]),
            shared: Cell::default(),
        }
    }

    fn caller(&self, name: &str) -> Result<(), Duration> {
        let (key, now) = (CallerKey { name, literal_names: &self.literal_names }, self.memory.now());
        self.count(self.per_caller.take(key, &self.memory, now, || self.make_room(now)))
    }

    fn user(&self, name: &str, user: &impl Hash) -> Result<(), Duration> {
        let (key, now) = (CallerKey { name, literal_names: &self.literal_names }, self.memory.now());
        self.count(self.per_user.take(key, user, &self.memory, now, || self.make_room(now)))
    }

    fn count(&self, decision: Decision) -> Result<(), Duration> {
        self.shared.set(self.shared.get() + u64::from(decision.shared));
        decision.outcome
    }

    /// As `access` does.
    fn make_room(&self, now: Nanos) {
        if self.memory.should_forget(now, true) {
            self.forget(now);
        }
    }

    fn forget(&self, now: Nanos) {
        self.per_caller.forget_full(now);
        self.per_user.forget_full(now);
    }

    /// Number of users for which the caller gets a call.
    fn users(&self, caller: &str, users: std::ops::Range<u32>) -> usize {
        users.filter(|user| self.user(caller, user).is_ok()).count()
    }

    fn buckets(&self, per: &str) -> i64 {
        let name = format!("ott_gateway_quota_buckets{{per=\"{per}\"}} ");
        let shown = self.metrics.render();
        shown.lines().find_map(|line| line.strip_prefix(&name)).unwrap().parse().unwrap()
    }
}

fn taken(tries: u32, mut take: impl FnMut() -> Result<(), Duration>) -> u32 {
    (0..tries).map(|_| u32::from(take().is_ok())).sum()
}

#[test]
fn rate_is_displayed_as_configured() {
    for (rate, text) in [
        (Rate::per_second(calls(50)), "50/s"),
        (Rate::per_minute(calls(30)), "30/min"),
        (per_hour(10), "10/h"),
        (Rate::Unlimited, "unlimited"),
    ] {
        assert_eq!(rate.to_string(), text);
    }
}

#[tokio::test(start_paused = true)]
async fn burst_is_allowed_at_once_and_the_rate_over_time() {
    let quotas = Quotas::new(Rate::per_minute(calls(30)), 10, 1024);
    assert_eq!(taken(100, || quotas.caller("dns:a")), 10);
    assert_eq!(quotas.caller("dns:a"), Err(Duration::from_secs(2)));
    assert_eq!(taken(100, || quotas.caller("dns:b")), 10, "each caller has its own bucket");
    assert_eq!(taken(100, || quotas.user("dns:a", &"john")), 10, "and each user");
    assert_eq!(taken(100, || quotas.user("dns:a", &"jane")), 10);
    assert_eq!(taken(100, || quotas.user("dns:b", &"john")), 10, "of each caller");

    tokio::time::advance(Duration::from_mins(1)).await;
    assert_eq!(taken(100, || quotas.caller("dns:a")), 10, "no more than the burst accumulates");
    assert_eq!(taken(100, || quotas.user("dns:a", &"john")), 10);
}

#[tokio::test(start_paused = true)]
async fn wait_until_the_next_call_is_exact() {
    let quotas = Quotas::new(Rate::per_second(calls(50)), 3, 1024);
    for take in [&(|| quotas.caller("dns:a")) as &dyn Fn() -> _, &|| quotas.user("dns:a", &"john")] {
        assert_eq!(taken(9, take), 3);
        tokio::time::advance(Duration::from_millis(7)).await;
        assert_eq!(take(), Err(Duration::from_millis(13)));

        tokio::time::advance(Duration::from_millis(12)).await;
        assert_eq!(take(), Err(Duration::from_millis(1)), "still exceeded a millisecond before");
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(take(), Ok(()));
        assert_eq!(take(), Err(Duration::from_millis(20)));
    }
}

#[tokio::test(start_paused = true)]
async fn unlimited_quota_remembers_no_callers() {
    let quotas = Quotas::new(Rate::Unlimited, 1, 1024);
    assert_eq!(taken(10_000, || quotas.caller("dns:a")), 10_000);
    assert_eq!(quotas.users("dns:a", 0..10_000), 10_000);
    assert_eq!((quotas.buckets("caller"), quotas.buckets("user")), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn caller_with_too_many_users_makes_only_its_own_users_share_buckets() {
    const SHARED: usize = 8;
    for (flooder, other) in [
        ("token:billing", "token:support"),
        ("token:billing", "jwt:a"),
        ("jwt:a", "token:billing"),
        ("jwt:a", "jwt:b"),
    ] {
        let quotas = Quotas::new(per_hour(1), 2, 4096);
        assert_eq!(taken(10, || quotas.user(flooder, &"early")), 2);
        assert_eq!(
            quotas.users(flooder, 0..80_000),
            2047 + 2 * SHARED,
            "half of the places, then shared buckets"
        );
        assert_eq!(quotas.buckets("user"), 2048);
        assert_eq!(quotas.shared.replace(0), 80_000 - 2047);
        assert_eq!(taken(10, || quotas.user(flooder, &"early")), 0, "the early bucket was not forgotten");

        assert_eq!(quotas.users(other, 0..300), 300, "{flooder} does not affect {other}");
        assert_eq!(quotas.users(other, 0..300), 300);
        assert_eq!(quotas.users(other, 0..300), 0, "its own limits apply");
        assert_eq!(quotas.shared.get(), 0);

        // The flooder's buckets are full after an hour, the early user's after two.
        tokio::time::advance(Duration::from_hours(1)).await;
        assert_eq!(quotas.users(flooder, 90_000..90_001), 1);
        assert_eq!(taken(10, || quotas.user(flooder, &90_000)), 1, "the user has its own bucket again");
        assert_eq!(taken(10, || quotas.user(flooder, &"early")), 1);
        assert_eq!(quotas.shared.get(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn memory_is_bounded_for_any_number_of_callers_and_users() {
    const MAX_USERS: usize = 1024;
    let quotas = Quotas::new(per_hour(1), 2, MAX_USERS);
    for number in 0..20_000 {
        let caller = format!("jwt:{number}");
        let _ = quotas.caller(&caller);
        quotas.users(&caller, 0..40);
    }
    let bound = 2 * MAX_USERS + memory::MAX_USER_TABLES * memory::MIN_USERS;
    assert!(quotas.memory.users() <= bound, "{}", quotas.memory.users());
    assert_eq!(quotas.buckets("user"), i64::try_from(quotas.memory.users()).unwrap());
    assert!(quotas.shared.replace(0) > 0);

    // Callers that rules name literally are not affected.
    for literal in ["token:billing", "token:support"] {
        assert_eq!(taken(10, || quotas.caller(literal)), 2);
        assert_eq!(quotas.users(literal, 0..512), 512);
    }
    assert_eq!(quotas.shared.get(), 0);

    tokio::time::advance(Duration::from_hours(2)).await;
    quotas.forget(quotas.memory.now());
    assert_eq!((quotas.buckets("caller"), quotas.buckets("user")), (0, 0), "full buckets are forgotten");
    assert_eq!(quotas.memory.users(), 0);
    assert_eq!(quotas.users("jwt:new", 0..300), 300);
    assert_eq!(quotas.shared.get(), 0, "there is room for new callers");
}

#[tokio::test(start_paused = true)]
async fn callers_beyond_the_limit_share_buckets_and_stay_limited() {
    let quotas = Quotas::new(per_hour(1), 1, 1024);
    let callers = u32::try_from(memory::MAX_CALLERS).unwrap();
    assert_eq!(taken(1, || quotas.caller("jwt:early")), 1);
    let admitted = (0..2 * callers).filter(|number| quotas.caller(&format!("jwt:{number}")).is_ok()).count();
    assert_eq!(admitted, memory::MAX_CALLERS - 1 + 64, "the others share 64 buckets");
    assert_eq!(taken(10, || quotas.caller("jwt:early")), 0, "the early caller was not forgotten");
    assert_eq!(taken(10, || quotas.caller("token:billing")), 1);
    assert_eq!(quotas.buckets("caller"), i64::from(callers) + 1);
}

#[tokio::test(start_paused = true)]
async fn callers_get_equal_shares_when_all_places_are_in_use() {
    let quotas = Quotas::new(per_hour(1), 1, 4096);
    for caller in ["jwt:a", "jwt:b", "jwt:c", "jwt:d"] {
        quotas.users(caller, 0..10_000);
    }
    quotas.shared.set(0);
    // Two callers have half each, the others a third and a quarter.
    assert_eq!(quotas.buckets("user"), 2048 + 2048 + 4096 / 3 + 4096 / 4);
    assert_eq!(quotas.users("jwt:e", 0..4096 / 5), 4096 / 5);
    assert_eq!(quotas.shared.get(), 0);
    quotas.memory.set_max_users(1_000_000);
    assert_eq!(quotas.users("jwt:a", 20_000..40_000), 20_000, "a larger limit takes effect at once");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Compares with a simple model: one bucket of calls per user, counted in whole intervals.
    #[test]
    fn quotas_match_a_simple_model(
        burst in 1_u32..20,
        steps in prop::collection::vec((0_u64..5, 1_u32..8, 0_u8..3, 0_u8..3), 1..60),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let quotas = Quotas::new(Rate::per_second(calls(10)), burst, 1024);
            let mut users: HashMap<(u8, u8), u32> = HashMap::new();
            let mut callers: HashMap<u8, u32> = HashMap::new();
            for (intervals, tries, caller, user) in steps {
                tokio::time::advance(Duration::from_millis(100 * intervals)).await;
                for bucket in users.values_mut().chain(callers.values_mut()) {
                    *bucket = (*bucket + u32::try_from(intervals).unwrap()).min(burst);
                }
                let name = format!("jwt:{caller}");
                let bucket = users.entry((caller, user)).or_insert(burst);
                let expected = (*bucket).min(tries);
                prop_assert_eq!(taken(tries, || quotas.user(&name, &user)), expected);
                *bucket -= expected;
                let bucket = callers.entry(caller).or_insert(burst);
                let expected = (*bucket).min(tries);
                prop_assert_eq!(taken(tries, || quotas.caller(&name)), expected);
                *bucket -= expected;
                // Forgetting full buckets changes nothing.
                quotas.forget(quotas.memory.now());
                prop_assert_eq!(quotas.shared.get(), 0);
            }
            Ok(())
        })?;
    }
}
