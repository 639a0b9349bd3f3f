use std::{net::SocketAddr, time::Duration};

use proptest::prelude::*;
use serde_json::{Value, json, value::RawValue};

use super::*;
use crate::{
    base::{clock::WallClock, text::is_unprintable},
    domain::{
        call::{CandidateDecision, CandidateDifference, Deadline, UnvalidatedNames},
        ott::{SealRefusal, Subject, SubjectKind},
        reason::FailureCode,
    },
    observe::{
        audit::{Fingerprints, RulesChange, StopCause},
        telemetry::metrics::CountedBy,
    },
};

fn parsed(text: &str) -> Value {
    serde_json::from_str(&format!("{text}}}")).expect("one JSON object")
}

const NUMBER: Number<'_> = Number { process: "00000000000000ff", sequence: 17 };

fn call() -> Call {
    Call::new(clock::now(), Deadline::after(Duration::from_secs(1)))
}

/// Record of a call, for `serde_json`.
#[derive(Serialize)]
struct CallRecord<'a> {
    request_id: String,
    peer: Option<IpAddr>,
    caller: Option<&'a str>,
    caller_proof: Option<&'a str>,
    claims: Option<&'a RawValue>,
    method: Option<&'static str>,
    user: Option<User<'a>>,
    user_spelling: Option<&'static str>,
    api_client: Option<&'a str>,
    unvalidated: Option<&'static str>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    login_url: bool,
    code: &'static str,
    reason: Option<&'static str>,
    outcome: &'static str,
    attempts: u32,
    platform_status: Option<u16>,
    duration_ms: f64,
    ott_fingerprint: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    issued_by: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_refused: Option<&'static str>,
    candidate: Option<Candidate<'a>>,
}

#[derive(Serialize)]
struct Candidate<'a> {
    difference: &'static str,
    cause: &'a str,
}

/// Returns the record of the same call as `serde_json` writes it.
fn reference(call: &Call, ending: Ending, number: Number<'_>, now: SystemTime) -> String {
    let (caller, caller_proof) = call.caller().unzip();
    let claims = call.deciding_claims();
    let api_client = call.api_client();
    let user = user_of(call);
    let named_api_client = call.unvalidated().and_then(|names| names.api_client.as_ref());
    let unvalidated = match (user.as_ref().is_some_and(|user| user.unvalidated), named_api_client) {
        (false, None) => None,
        (true, None) => Some("user"),
        (false, Some(_)) => Some("api_client"),
        (true, Some(_)) => Some("user,api_client"),
    };
    let microseconds = clock::now().saturating_duration_since(call.arrived()).as_micros();
    let body = CallRecord {
        request_id: call.request_id().to_string(),
        peer: peer(call),
        caller: caller.map(AsRef::as_ref),
        caller_proof,
        claims: claims.as_deref(),
        method: call.method().map(Method::name),
        user: user.map(|user| User { unvalidated: false, ..user }),
        user_spelling: spelling(call),
        api_client: api_client.as_deref().or(named_api_client.map(UnvalidatedText::as_str)),
        unvalidated,
        login_url: call.login_url().unwrap_or(false),
        code: names::status_name(ending.code()),
        reason: reason(call, ending),
        outcome: call.certainty().as_str(),
        attempts: call.attempts(),
        platform_status: call.http_status(),
        duration_ms: f64::from(u32::try_from(microseconds).unwrap_or(u32::MAX)) / 1000.0,
        ott_fingerprint: call.fingerprint(),
        issued_by: call.issued_by(),
        token_refused: call.token_refusal().map(SealRefusal::as_str),
        candidate: call
            .candidate()
            .map(|it| Candidate { difference: it.difference.as_str(), cause: &it.cause }),
    };
    line("call", number, now, &body)
}

proptest! {
    #[test]
    fn record_equals_that_of_serde_json(
        peer in any::<Option<SocketAddr>>(),
        caller in any::<Option<(String, String)>>(),
        claims in proptest::option::of("[a-z]{1,9}"),
        api_client in any::<Option<String>>(),
        subject in proptest::option::of("[a-z@.\u{ff41}]{1,30}"),
        unvalidated in any::<Option<(String, Option<String>)>>(),
        fingerprint in any::<Option<String>>(),
        issued_by in any::<Option<String>>(),
        refusal in proptest::option::of(proptest::sample::select(&SealRefusal::ALL[..])),
        ending in prop_oneof![
            Just(Ending::Succeeded),
            Just(Ending::Cancelled),
            Just(Ending::Failed(FailureCode::Unauthenticated, Reason::CallerUnauthenticated)),
        ],
        candidate in any::<Option<String>>(),
        login_url in any::<Option<bool>>(),
        status in any::<Option<u16>>(),
        microseconds in 0..5_000_000_000_u64,
        sequence in any::<u64>(),
    ) {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        runtime.start_paused(true).enable_time().build().expect("a runtime").block_on(async {
            let call = call();
            if let Some(peer) = peer {
                call.set_peer(peer);
            }
            if let Some((caller, proof)) = caller {
                call.set_caller(caller.into(), proof);
            }
            if let Some(value) = claims {
                call.set_deciding_claims(RawValue::from_string(json!({ "groups": value }).to_string()).ok());
            }
            if let Some(name) = api_client {
                call.set_api_client(name.into());
            }
            let subject = subject.and_then(|name| Subject::new(SubjectKind::Login, name).ok());
            if let Some(subject) = subject {
                call.set_subject(subject);
            }
            if let Some((user, api_client)) = unvalidated {
                call.set_unvalidated(UnvalidatedNames {
                    user: Some(("login", UnvalidatedText::new(&user))),
                    api_client: api_client.as_deref().map(UnvalidatedText::new),
                });
            }
            if let Some(fingerprint) = fingerprint {
                call.set_fingerprint(fingerprint);
            }
            if let Some(name) = issued_by {
                call.set_issued_by(name.into());
            }
            if let Some(cause) = refusal {
                call.set_token_refusal(cause);
            }
            if let Some(cause) = candidate {
                let difference = CandidateDifference::WouldAllow;
                call.set_candidate(CandidateDecision { difference, cause: cause.into() });
            }
            if let Some(login_url) = login_url {
                call.set_login_url(login_url);
            }
            if let Some(status) = status {
                call.set_method(Method::IssueOtt);
                call.attempt_begins();
                call.set_http_status(status);
                call.attempt_ended(Certainty::Done);
            }
            tokio::time::advance(Duration::from_micros(microseconds)).await;
            let now = WallClock::following_monotonic().now();
            let number = Number { process: "00000000000000ff", sequence };
            prop_assert_eq!(
                for_call(&call, ending, number, now),
                reference(&call, ending, number, now)
            );
            Ok(())
        })?;
    }
}

#[tokio::test(start_paused = true)]
async fn record_contains_all_properties_of_a_call() {
    let clock = WallClock::following_monotonic();
    let call = call();
    call.set_peer("[::ffff:192.0.2.7]:40000".parse().expect("an address"));
    call.set_caller("jwt:shop".into(), "jwt");
    let claims = r#"{"admin":true,"groups":"ott-issuers"}"#;
    call.set_deciding_claims(RawValue::from_string(claims.to_owned()).ok());
    call.set_method(Method::IssueOtt);
    call.set_api_client("eu2".into());
    call.set_subject(Subject::new(SubjectKind::ExternalId, "x-17".to_owned()).expect("a name"));
    call.set_fingerprint("2026-01:00ff".to_owned());
    call.set_candidate(CandidateDecision {
        difference: CandidateDifference::WouldDeny,
        cause: "user".into(),
    });
    call.attempt_begins();
    call.attempt_begins();
    call.set_http_status(200);
    call.attempt_ended(Certainty::Done);
    tokio::time::advance(Duration::from_micros(12_345)).await;
    let record = for_call(&call, Ending::Succeeded, NUMBER, clock.now());
    assert_eq!(
        parsed(&record),
        json!({
            "event": "call",
            "time": "2026-01-01T00:00:00.012345Z",
            "process": "00000000000000ff",
            "sequence": 17,
            "request_id": call.request_id().to_string(),
            "peer": "192.0.2.7",
            "caller": "jwt:shop",
            "caller_proof": "jwt",
            "claims": { "admin": true, "groups": "ott-issuers" },
            "method": "IssueOtt",
            "user": { "kind": "external_id", "value": "x-17" },
            "user_spelling": null,
            "api_client": "eu2",
            "unvalidated": null,
            "code": "OK",
            "reason": null,
            "outcome": "done",
            "attempts": 2,
            "platform_status": 200,
            "duration_ms": 12.345,
            "ott_fingerprint": "2026-01:00ff",
            "candidate": { "difference": "would_deny", "cause": "user" },
            "gateway_version": env!("CARGO_PKG_VERSION"),
        })
    );
}

#[tokio::test(start_paused = true)]
async fn record_of_an_empty_call_has_the_same_fields() {
    let ending = Ending::Failed(FailureCode::Unauthenticated, Reason::CallerUnauthenticated);
    let record = parsed(&for_call(&call(), ending, NUMBER, WallClock::system().now()));
    let fields: Vec<&String> = record.as_object().expect("an object").keys().collect();
    assert_eq!(fields.len(), 23, "{fields:?}");
    assert_eq!([&record["caller"], &record["claims"]], [&Value::Null; 2]);
    assert_eq!(record["outcome"], "not_sent");
}

#[tokio::test(start_paused = true)]
async fn user_that_no_list_matches_is_marked() {
    let uuid = "3f2504e0-4f89-11d3-9a0c-0305e82c3301";
    let other_digit = format!("\u{ff13}{}", &uuid[1..]);
    for (kind, name, canonical, spelling) in [
        (SubjectKind::Login, "Anna@x", "anna@x", Value::Null),
        (SubjectKind::Login, "\u{ff21}nna@x", "anna@x", "ascii_forms".into()),
        (SubjectKind::Login, "anna@x\u{3002}y", "anna@x.y", "ascii_forms".into()),
        (SubjectKind::UserId, &*uuid.to_uppercase(), uuid, Value::Null),
        (SubjectKind::UserId, &*other_digit, uuid, "ascii_forms".into()),
        (SubjectKind::ExternalId, "\u{ff21}nna", "\u{ff21}nna", Value::Null),
    ] {
        let call = call();
        call.set_subject(Subject::new(kind, name.to_owned()).expect("a name"));
        let record = parsed(&for_call(&call, Ending::Succeeded, NUMBER, WallClock::system().now()));
        assert_eq!(
            (&record["user"]["value"], &record["user_spelling"]),
            (&canonical.into(), &spelling),
            "{name}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn unvalidated_names_are_marked_and_escaped() {
    let record = |user: Option<&str>, api_client: Option<&str>| {
        let call = call();
        call.set_unvalidated(UnvalidatedNames {
            user: user.map(|user| ("login", UnvalidatedText::new(user))),
            api_client: api_client.map(UnvalidatedText::new),
        });
        let record = for_call(&call, Ending::Succeeded, NUMBER, WallClock::system().now());
        assert!(!record.chars().any(is_unprintable), "{record:?}");
        let record = parsed(&record);
        ["user", "api_client", "unvalidated"].map(|name| record[name].clone())
    };
    let user = json!({ "kind": "login", "value": "a\n\u{202e}b" });
    assert_eq!(record(Some("a\n\u{202e}b"), None), [user.clone(), Value::Null, "user".into()]);
    assert_eq!(record(None, Some("x\"y")), [Value::Null, "x\"y".into(), "api_client".into()]);
    let both = [user, "x".into(), "user,api_client".into()];
    assert_eq!(record(Some("a\n\u{202e}b"), Some("x")), both);
}

#[tokio::test(start_paused = true)]
async fn no_text_can_forge_a_line() {
    let hostile = "a\nb\r\u{0}\u{7f}\u{85}\u{9b}31m\u{2028}\u{2029}\u{202e}\u{feff}\"},{\"x\\é\u{1f600}";
    let call = call();
    call.set_caller(hostile.into(), "jwt");
    let record = for_call(&call, Ending::Succeeded, NUMBER, WallClock::system().now());
    assert!(!record.chars().any(is_unprintable), "{record:?}");
    assert!(record.contains('é') && record.contains('\u{1f600}'), "readable text stays readable");
    assert_eq!(parsed(&record)["caller"], hostile, "the text is preserved");
}

#[tokio::test(start_paused = true)]
async fn reason_of_a_cancelled_call_depends_on_whether_anything_was_sent() {
    let call = call();
    let reason = |call: &Call| {
        parsed(&for_call(call, Ending::Cancelled, NUMBER, WallClock::system().now()))["reason"].clone()
    };
    assert_eq!(reason(&call), "cancelled_before_send");
    call.sending();
    assert_eq!(reason(&call), "cancelled");
}

#[tokio::test(start_paused = true)]
async fn line_of_an_undelivered_session_identifies_its_call() {
    let call = call();
    call.set_peer("192.0.2.7:40000".parse().expect("an address"));
    call.set_caller("spiffe://mesh/shop".into(), "certificate");
    call.set_method(Method::LoginWithOtt);
    call.set_api_client("eu2".into());
    call.set_fingerprint("2026-01:00ff".to_owned());
    call.set_http_status(200);
    let now = WallClock::following_monotonic().now();
    let line = of_undelivered_session(&call, Logout::Failed, Some(503), NUMBER, now);
    assert_eq!(
        parsed(&line),
        json!({
            "event": "undelivered_session",
            "time": "2026-01-01T00:00:00.000000Z",
            "process": "00000000000000ff",
            "sequence": 17,
            "request_id": call.request_id().to_string(),
            "peer": "192.0.2.7",
            "caller": "spiffe://mesh/shop",
            "caller_proof": "certificate",
            "method": "LoginWithOtt",
            "api_client": "eu2",
            "outcome": "logout_failed",
            "platform_status": 503,
            "ott_fingerprint": "2026-01:00ff",
            "gateway_version": env!("CARGO_PKG_VERSION"),
        })
    );
}

/// Returns the fields that a section of the documentation lists, in alphabetical order.
fn documented(section: &str) -> Vec<String> {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/audit.md"))
        .expect("docs/audit.md");
    let mut fields: Vec<String> = page
        .lines()
        .skip_while(|line| *line != section)
        .skip(1)
        .take_while(|line| !line.starts_with("## "))
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next().map(str::to_owned))
        .collect();
    fields.sort_unstable();
    fields
}

#[tokio::test(start_paused = true)]
async fn documentation_lists_exactly_the_fields_of_each_line() {
    let now = WallClock::system().now();
    let with_every_field = call();
    with_every_field.set_login_url(true);
    with_every_field.set_issued_by("token:portal".into());
    with_every_field.set_token_refusal(SealRefusal::Expired);
    let change = RulesChange::for_test("", "");
    let lines = [
        ("## The record of a call", for_call(&with_every_field, Ending::Succeeded, NUMBER, now)),
        (
            "## Undelivered sessions",
            of_undelivered_session(&call(), Logout::Succeeded, Some(204), NUMBER, now),
        ),
        ("## Lost records", for_lost(AuditClass::Refused, Lost { calls: 12, records: 3 }, NUMBER, now)),
        ("## Probes", for_probe(ProbeCause::Pause, NUMBER, now)),
        ("## The first record of a process", of_start(&Fingerprints::default(), NUMBER, now)),
        ("## The last record of a process", of_stop(&StopCause::AuditClosed, NUMBER, now)),
        ("## Changes of the rules", of_rules_change(&change, NUMBER, now)),
        ("## Refused calls", of_refused_calls(&RefusedCalls::new(CountedBy::Peer, now), NUMBER, now)),
    ];
    for (section, line) in lines {
        let mut fields: Vec<String> = parsed(&line).as_object().expect("an object").keys().cloned().collect();
        fields.push("late".to_owned());
        fields.sort_unstable();
        assert_eq!(documented(section), fields, "{section}");
    }
}
