//! Recovery and invariants of token requests, under random sequences of faults.

use proptest::prelude::*;

use super::{refresh::REQUEST_FLOOR, *};

/// Maximum time from the platform's recovery to a successful call (ARCHITECTURE.md, "Access
/// tokens").
const RECOVERY_LIMIT: Duration = Duration::from_secs(31);

/// How the platform responds to one token request.
#[derive(Clone, Debug)]
enum Fault {
    Grants { lifetime_s: u64 },
    Fails(CredentialErrorKind),
    Limits { retry_after_ms: u64 },
    Hangs,
}

/// Concurrent events in the gateway.
#[derive(Clone, Copy, Debug)]
enum Event {
    Call,
    Refusal,
    ClockSet { by_ms: i64 },
}

#[derive(Clone, Debug)]
struct Step {
    fault: Fault,
    answers_after_ms: u64,
}

fn fault() -> impl Strategy<Value = Fault> {
    let failing = CredentialErrorKind::Failing;
    prop_oneof![
        prop::sample::select(vec![1, 2, 5, 40, 120, 7200])
            .prop_map(|lifetime_s| Fault::Grants { lifetime_s }),
        prop::sample::select(vec![
            CredentialErrorKind::Rejected,
            CredentialErrorKind::Unreachable,
            CredentialErrorKind::CertificateInvalid,
            CredentialErrorKind::Blocked,
            CredentialErrorKind::Protocol { status: 404 },
            failing,
        ])
        .prop_map(Fault::Fails),
        (100_u64..=30_000).prop_map(|retry_after_ms| Fault::Limits { retry_after_ms }),
        Just(Fault::Hangs),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let answers_after_ms = prop_oneof![Just(0), 0_u64..500, 0_u64..9_900];
    (fault(), answers_after_ms).prop_map(|(fault, answers_after_ms)| Step { fault, answers_after_ms })
}

fn event() -> impl Strategy<Value = (u64, Event)> {
    let event = prop_oneof![
        3 => Just(Event::Call),
        2 => Just(Event::Refusal),
        1 => prop::sample::select(vec![31_000, 8_000_000, -31_000, -8_000_000])
            .prop_map(|by_ms| Event::ClockSet { by_ms }),
    ];
    (0_u64..5_000, event)
}

impl Running {
    /// Answers token requests according to `steps` until `recovers_at`, and with a token
    /// afterwards. Returns when they arrived.
    async fn platform(
        mut requests: mpsc::UnboundedReceiver<TokenRequest>,
        steps: Vec<Step>,
        recovers_at: Instant,
        over: CancellationToken,
    ) -> Vec<Instant> {
        let mut moments = Vec::new();
        let mut steps = steps.into_iter().cycle();
        let mut hung = Vec::new();
        while let Some(request) = requests.recv().await {
            moments.push(request.at);
            let step = steps.next().filter(|_| request.at < recovers_at);
            let Some(Step { fault, answers_after_ms }) = step else {
                sleep(Duration::from_millis(100)).await;
                // The end of the test may interrupt the last one.
                if !over.is_cancelled() {
                    request.grant(LIFETIME);
                }
                continue;
            };
            sleep(Duration::from_millis(answers_after_ms)).await;
            match fault {
                Fault::Grants { lifetime_s } => request.grant(seconds(lifetime_s)),
                Fault::Fails(error) => request.fail(error),
                Fault::Limits { retry_after_ms } => {
                    let retry_after = Some(Duration::from_millis(retry_after_ms));
                    request.answer(Err(CredentialError::failing("429").with_retry_after(retry_after)));
                }
                Fault::Hangs => hung.push(request),
            }
        }
        moments
    }
}

async fn recovers(steps: Vec<Step>, events: Vec<(u64, Event)>, faulty_for_ms: u64) -> Result<(), String> {
    let Running { credential, requests, max_in_flight, wall, stop, task } = Running::start();
    let start = clock::now();
    let recovers_at = start + Duration::from_millis(faulty_for_ms);
    let platform = tokio::spawn(Running::platform(requests, steps, recovers_at, stop.clone()));
    for (pause_ms, event) in events {
        let next = clock::now() + Duration::from_millis(pause_ms);
        if next >= recovers_at {
            break;
        }
        tokio::time::sleep_until(next).await;
        match event {
            Event::Call => {
                let credential = credential.clone();
                tokio::spawn(async move { credential.bearer(soon()).await });
            }
            Event::Refusal => {
                let Some(current) = credential.current() else { continue };
                let credential = credential.clone();
                tokio::spawn(async move { credential.after_rejection(&current, "someone", soon()).await });
            }
            Event::ClockSet { by_ms } => wall.shift_by_ms(by_ms),
        }
    }
    tokio::time::sleep_until(recovers_at).await;
    // Any later call succeeds.
    sleep(RECOVERY_LIMIT).await;
    let (took, answer) = timed(credential.bearer(soon())).await;
    if let Err(error) = answer {
        return Err(format!("still failing: {error}"));
    }
    if !took.is_zero() {
        return Err(format!("the call had to wait for {took:?}"));
    }
    stop.cancel();
    task.await.map_err(|error| error.to_string())?;
    let moments = platform.await.map_err(|error| error.to_string())?;
    if max_in_flight.load(Ordering::SeqCst) != 1 {
        return Err("more than one request in flight".to_owned());
    }
    for pair in moments.windows(2) {
        let [before, after] = pair else { continue };
        if *after - *before < REQUEST_FLOOR {
            return Err(format!("requests {:?} apart", *after - *before));
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn calls_succeed_within_31_seconds_of_recovery_and_requests_never_pile_up(
        steps in prop::collection::vec(step(), 1..20),
        events in prop::collection::vec(event(), 0..60),
        faulty_for_ms in 0_u64..300_000,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .expect("a runtime can be built");
        let result = runtime.block_on(recovers(steps, events, faulty_for_ms));
        prop_assert_eq!(result, Ok(()));
    }
}
