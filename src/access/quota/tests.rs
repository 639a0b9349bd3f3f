use proptest::prelude::*;

use super::*;

fn calls(number: u32) -> NonZeroU32 {
    NonZeroU32::new(number).unwrap()
}

fn per_hour(number: u32) -> Rate {
    Rate::PerPeriod { calls: calls(number), period: Duration::from_hours(1) }
}

fn quota(rate: Rate, burst: u32) -> KeyedQuota {
    KeyedQuota::new(rate, calls(burst))
}

fn taken(quota: &KeyedQuota, key: &str, tries: u32) -> u32 {
    (0..tries).map(|_| u32::from(quota.take(&key).is_ok())).sum()
}

#[test]
fn a_rate_is_shown_as_it_is_configured() {
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
async fn a_bucket_gives_its_burst_and_then_its_rate() {
    let quota = quota(Rate::per_minute(calls(30)), 10);
    assert_eq!(taken(&quota, "a", 100), 10);
    assert_eq!(quota.take(&"a"), Err(Duration::from_secs(2)));
    assert_eq!(taken(&quota, "b", 100), 10, "each key has its own bucket");

    tokio::time::advance(Duration::from_mins(1)).await;
    assert_eq!(taken(&quota, "a", 100), 10, "no more than the burst is saved up");
}

#[tokio::test(start_paused = true)]
async fn the_wait_it_tells_is_exact() {
    let quota = quota(Rate::per_second(calls(50)), 3);
    assert_eq!(taken(&quota, "a", 9), 3);
    tokio::time::advance(Duration::from_millis(7)).await;
    let wait = quota.take(&"a").unwrap_err();
    assert_eq!(wait, Duration::from_millis(13));

    tokio::time::advance(Duration::from_millis(12)).await;
    assert_eq!(quota.take(&"a"), Err(Duration::from_millis(1)), "a moment before, it is still closed");
    tokio::time::advance(Duration::from_millis(1)).await;
    assert_eq!(quota.take(&"a"), Ok(()));
    assert_eq!(quota.take(&"a"), Err(Duration::from_millis(20)));
}

#[tokio::test(start_paused = true)]
async fn an_unlimited_quota_remembers_nobody() {
    let quota = quota(Rate::Unlimited, 1);
    assert_eq!(taken(&quota, "a", 100_000), 100_000);
    assert_eq!(quota.remembered(), 0);
}

#[tokio::test(start_paused = true)]
async fn memory_is_bounded_and_nobody_is_let_off_when_it_is_full() {
    const BOUND: usize = SHARDS * KEYS_PER_SHARD;
    let quota = quota(per_hour(1), 2);
    assert_eq!(taken(&quota, "early", 10), 2);
    let admitted = (0..200_000).filter(|number: &u32| quota.take(&("flood", number)).is_ok()).count();
    assert_eq!(quota.remembered(), BOUND, "every shard is full");
    assert_eq!(admitted, BOUND - 1 + 2 * SHARDS, "then the newcomers of a shard share one bucket");
    assert_eq!(taken(&quota, "early", 10), 0, "the flood has not washed the early key's state away");

    // The flooders' buckets are full after an hour, the early key's after two.
    tokio::time::advance(Duration::from_hours(1)).await;
    assert_eq!(taken(&quota, "early", 10), 1);
    assert_eq!(taken(&quota, "late", 10), 2, "a newcomer has a bucket of its own again");
    assert!(quota.remembered() < BOUND);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Against the plainest model: a bucket of calls, counted in whole intervals.
    #[test]
    fn it_gives_exactly_what_a_plain_bucket_gives(
        burst in 1_u32..20,
        steps in prop::collection::vec((0_u64..5, 1_u32..8), 1..60),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let quota = quota(Rate::per_second(calls(10)), burst);
            let mut bucket = burst;
            for (intervals, tries) in steps {
                tokio::time::advance(Duration::from_millis(100 * intervals)).await;
                bucket = (bucket + u32::try_from(intervals).unwrap()).min(burst);
                let expected = bucket.min(tries);
                prop_assert_eq!(taken(&quota, "a", tries), expected);
                bucket -= expected;
            }
            Ok(())
        })?;
    }
}
