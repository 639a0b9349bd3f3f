//! Tokens that the gateway refuses itself. Their callers receive the same bytes as for a token that
//! the platform rejects.

use super::*;
use crate::domain::ott::SealRefusal;

/// A caller that may use `eu2` only.
const SHOP: &str = "token:shop";
/// A caller that no rule allows.
const STRANGER: &str = "token:stranger";

fn rules() -> Vec<RuleSettings> {
    let eu2 = RuleSettings { api_clients: Some(vec!["eu2".to_owned()]), ..rule(&[SHOP]) };
    vec![rule(&[PORTAL]), eu2]
}

/// Tokens with the cause for which a replica with [`KEY`] and the API clients eu2 and us1 refuses
/// them if the request names this API client.
async fn refused_tokens(platform: &Upstream, api_client: &str) -> Vec<(SealRefusal, String)> {
    let sealed_by = async |name: &'static str, key: &'static str| {
        let replica = Replica::new(&[(name, platform, Mode::On)], &[key]);
        replica.issue("anna").await.expect("a token").ott
    };
    let valid = sealed_by("eu2", KEY).await;
    let body = valid.rsplit_once('.').expect("a body").1.to_owned();
    let other_start = if body.starts_with('A') { 'B' } else { 'A' };
    let other_secret = OTHER_KEY.replace("2026-11", "2026-10").leak();
    let mut tokens = vec![
        (SealRefusal::NotSealed, platform.token()),
        (SealRefusal::UnknownVersion, format!("ottgw2.2026-10.{body}")),
        (SealRefusal::Malformed, format!("{valid}=")),
        (SealRefusal::UnknownKey, sealed_by("eu2", OTHER_KEY).await),
        (SealRefusal::NotAuthentic, format!("ottgw1.2026-10.{other_start}{}", &body[1..])),
        (SealRefusal::NotAuthentic, sealed_by("eu2", other_secret).await),
    ];
    if api_client.is_empty() {
        tokens.push((SealRefusal::UnknownApiClient, sealed_by("ap3", KEY).await));
    } else {
        tokens.push((SealRefusal::OtherApiClient, sealed_by("ap3", KEY).await));
    }
    tokens
}

#[tokio::test]
async fn every_refusal_equals_a_rejection_by_the_platform() {
    let platform = Upstream::http().await;
    let clients = |mode| [("eu2", &platform, mode), ("us1", &platform, mode)];
    let start = |mode, lines: &[&str], has_default: bool| {
        let replica = Replica::with_rules(&clients(mode), lines, rules());
        if has_default { replica } else { replica.without_default(&clients(mode)) }
    };
    for has_default in [true, false] {
        let rejecting = start(Mode::Off, &[], has_default);
        let binding = start(Mode::On, &[KEY], has_default);
        for api_client in ["", "eu2", "us1", "elsewhere"] {
            for caller in [PORTAL, SHOP, STRANGER] {
                let expected = rejecting.log_in_as(caller, "OTT-unknown", api_client).await;
                let expected = expected.expect_err("unknown");
                let is_rejected = reason(&expected) == "OTT_REJECTED";
                let sent = platform.count(LOGIN);
                let names_client = has_default || !api_client.is_empty();
                for (cause, token) in refused_tokens(&platform, api_client).await {
                    let case = format!("{cause:?} {caller} {api_client:?} {has_default}");
                    let label = cause.as_str();
                    let sample = format!(r#"ott_gateway_tokens_refused_total{{cause="{label}"}}"#);
                    let event = r#"ott_gateway_security_events_total{kind="ott_rejected"}"#;
                    let before = (binding.metric(&sample), binding.metric(event));
                    let answer = binding.log_in_as(caller, &token, api_client).await.expect_err("refused");
                    // A sealed token names its API client, so its answer does not depend on a default.
                    let is_rejected = if names_client || caller == STRANGER || cause == SealRefusal::NotSealed
                    {
                        assert_eq!(answer, expected, "{case}");
                        is_rejected
                    } else {
                        assert_eq!(reason(&answer), "OTT_REJECTED", "{case}");
                        true
                    };
                    let counted = u64::from(is_rejected);
                    let after = (binding.metric(&sample), binding.metric(event));
                    assert_eq!(after, (before.0 + counted, before.1 + counted), "{case}");
                    if is_rejected {
                        let record = binding.last_record().await;
                        assert_eq!(record["token_refused"], label, "{case}");
                        assert_eq!(record["outcome"], "not_sent");
                        let is_known = matches!(
                            cause,
                            SealRefusal::NotSealed
                                | SealRefusal::OtherApiClient
                                | SealRefusal::UnknownApiClient
                        );
                        assert_eq!(record["ott_fingerprint"].is_string(), is_known, "{case}");
                        let is_opened = is_known && cause != SealRefusal::NotSealed;
                        assert_eq!(record.get("issued_by").is_some(), is_opened, "{case}");
                    }
                }
                assert_eq!(platform.count(LOGIN), sent, "nothing is sent");
            }
        }
    }
}

#[tokio::test]
async fn expired_tokens_and_tokens_without_keys_are_rejected_in_the_same_way() {
    let platform = Upstream::http().await;
    let clients = [("eu2", &platform, Mode::On)];
    let rejecting = Replica::new(&[("eu2", &platform, Mode::Off)], &[]);
    let expected = rejecting.log_in("OTT-unknown").await.expect_err("unknown");
    let issuing = Replica::new(&clients, &[KEY]);
    let ott = issuing.issue("anna").await.expect("a token").ott;

    let without_keys = rejecting.log_in(&ott).await.expect_err("no keys");
    assert_eq!(without_keys, expected);
    assert_eq!(rejecting.last_record().await["token_refused"], "no_keys");

    let late = Replica::new(&clients, &[KEY]);
    late.wall.shift_by_ms(SLOW_BY_MS + 33_000);
    assert_eq!(late.log_in(&ott).await.expect_err("expired"), expected);
    let record = late.last_record().await;
    assert_eq!([&record["token_refused"], &record["issued_by"]], ["expired", PORTAL]);
    assert_eq!(record["ott_fingerprint"], issuing.last_record().await["ott_fingerprint"]);
    assert_eq!(late.metric("ott_gateway_tokens_opened_total"), 0);
    assert_eq!(platform.count(LOGIN), 1);

    // The clock is corrected, and the platform still accepts the token.
    late.wall.shift_by_ms(-SLOW_BY_MS - 33_000);
    late.log_in(&ott).await.expect("a session");
}

#[tokio::test]
async fn altered_and_truncated_tokens_are_rejected_in_the_same_way() {
    let platform = Upstream::http().await;
    let rejecting = Replica::new(&[("eu2", &platform, Mode::Off)], &[]);
    let expected = rejecting.log_in("OTT-unknown").await.expect_err("unknown");
    let replica = Replica::new(&[("eu2", &platform, Mode::On)], &[KEY]);
    let ott = replica.issue("anna").await.expect("a token").ott;
    let flipped = |position: usize| {
        let mut bytes = ott.clone().into_bytes();
        bytes[position] ^= 1;
        String::from_utf8(bytes).expect("ASCII")
    };
    for position in (0..ott.len()).step_by(7) {
        for altered in [flipped(position), ott[..position.max(1)].to_owned()] {
            assert_eq!(replica.log_in(&altered).await.expect_err("altered"), expected, "{altered}");
        }
    }
    assert_eq!(platform.count(LOGIN), 1);
    replica.log_in(&ott).await.expect("the token itself is unspent");
}

#[tokio::test]
async fn refused_tokens_use_the_quota() {
    let platform = Upstream::http().await;
    let limited = RuleSettings {
        rate: crate::access::Rate::per_minute(std::num::NonZeroU32::MIN),
        burst: std::num::NonZeroU32::new(2).expect("not zero"),
        ..rule(&[PORTAL])
    };
    let replica = Replica::with_rules(&[("eu2", &platform, Mode::On)], &[KEY], vec![limited]);
    for expected in ["OTT_REJECTED", "OTT_REJECTED", "CALLER_QUOTA_EXCEEDED"] {
        let refused = replica.log_in("ottgw1.2026-10.AAAA").await.expect_err("refused");
        assert_eq!(reason(&refused), expected);
    }
}

#[tokio::test]
async fn refused_and_used_seals_get_one_answer_if_the_request_names_no_api_client() {
    let platform = Upstream::http().await;
    let clients = [("us1", &platform, Mode::On), ("eu2", &platform, Mode::On)];
    let eu2 = IssueOttRequest { api_client: "eu2".to_owned(), ..IssueOttRequest::default() };
    for has_default in [true, false] {
        let replica = Replica::with_rules(&clients, &[KEY], rules());
        let replica = if has_default { replica } else { replica.without_default(&clients) };
        for caller in [PORTAL, SHOP] {
            let ott = replica.issue_with(eu2.clone(), "anna").await.expect("a token").ott;
            replica.log_in_as(caller, &ott, "").await.expect("a session of the sealed API client");
            let used = replica.log_in_as(caller, &ott, "").await.expect_err("used");
            assert_eq!(reason(&used), "OTT_REJECTED");
            let sent = platform.count(LOGIN);
            for (cause, token) in refused_tokens(&platform, "").await {
                if cause == SealRefusal::NotSealed {
                    continue;
                }
                let case = format!("{cause:?} {caller} {has_default}");
                let answer = replica.log_in_as(caller, &token, "").await.expect_err("refused");
                assert_eq!(answer, used, "{case}");
                assert_eq!(replica.last_record().await["token_refused"], cause.as_str(), "{case}");
            }
            assert_eq!(platform.count(LOGIN), sent);
        }
    }
}
