//! Permits under rules that limit the use of tokens: `issued_by` and `login_urls`.

use super::*;

const ISSUER: &str = "spiffe://td/ns/portal/sa/web";

fn by(issuers: &[&str], rule: RuleSettings) -> RuleSettings {
    RuleSettings { issued_by: Some(issuers.iter().map(|text| (*text).to_owned()).collect()), ..rule }
}

fn log_in_sealed(access: &Access, user: &str, issued_by: &str) -> Result<LoginPermit, Refused> {
    let policy = access.policy().into_shared();
    let admission = access.admits(policy, &call(), &caller("dns:a"), Method::LoginWithOtt)?;
    access.permit_sealed_login(admission, Arc::from("eu2"), &login(user), issued_by)
}

fn issue_url(access: &Access) -> Result<IssuePermit, Refused> {
    let policy = access.policy().into_shared();
    let admission = access.admits(policy, &call(), &caller("dns:a"), Method::IssueOtt)?;
    access.permit_issue(admission, Arc::from("eu2"), login("john"), true)
}

fn denied(part: AccessDenial) -> Refused {
    Refused::NotAllowed(Denied(part))
}

#[tokio::test(start_paused = true)]
async fn sealed_token_is_spent_only_with_an_allowed_user_and_issuer() {
    let portal =
        RuleSettings { users: logins(&["*@x"]), ..by(&["spiffe://td/ns/portal/*"], rule(&["dns:a"])) };
    let access = access(&[portal]);
    assert!(log_in_sealed(&access, "john@x", ISSUER).is_ok());
    for issuer in ["spiffe://td/ns/evil/sa/web", "anonymous", ""] {
        let refused = log_in_sealed(&access, "john@x", issuer).unwrap_err();
        assert_eq!(refused, denied(AccessDenial::Issuer), "{issuer}");
    }
    assert_eq!(log_in_sealed(&access, "john@y", ISSUER).unwrap_err(), denied(AccessDenial::User));
    assert_eq!(log_in(&access, "dns:a").unwrap_err(), denied(AccessDenial::Issuer), "not sealed");
    let metrics = access.0.metrics.render();
    for (reason, count) in [("issuer", 4), ("user", 1)] {
        let series = format!("ott_gateway_access_denied_total{{reason=\"{reason}\"}} {count}\n");
        assert!(metrics.contains(&series), "{series}");
    }
}

#[tokio::test(start_paused = true)]
async fn denied_use_of_a_token_uses_no_quota() {
    let once =
        by(&["token:ci"], RuleSettings { burst: NonZeroU32::MIN, login_urls: false, ..rule(&["dns:a"]) });
    let access = access(&[once]);
    for _ in 0..3 {
        assert_eq!(log_in_sealed(&access, "john", ISSUER).unwrap_err(), denied(AccessDenial::Issuer));
        assert_eq!(log_in(&access, "dns:a").unwrap_err(), denied(AccessDenial::Issuer));
        assert_eq!(issue_url(&access).unwrap_err(), denied(AccessDenial::LoginUrl));
    }
    assert!(log_in_sealed(&access, "john", "token:ci").is_ok());
    let exceeded = log_in_sealed(&access, "john", "token:ci").unwrap_err();
    assert!(matches!(exceeded, Refused::QuotaExceeded { .. }), "{exceeded}");
}

#[tokio::test(start_paused = true)]
async fn quota_and_account_are_those_of_rules_for_the_token() {
    // The first rule is only for sealed tokens, so its users and quotas do not count for others.
    let sealed =
        RuleSettings { users: logins(&["jane"]), burst: NonZeroU32::MIN, ..by(&["*"], rule(&["dns:a"])) };
    let access = access(&[sealed, RuleSettings { users: logins(&["john"]), ..rule(&["dns:a"]) }]);
    assert!(log_in_sealed(&access, "jane", ISSUER).is_ok());
    assert!(log_in_sealed(&access, "jane", ISSUER).is_err(), "over the quota of the first rule");
    assert!(log_in_sealed(&access, "john", ISSUER).is_ok(), "by the second rule");
    let permit = log_in(&access, "dns:a").unwrap();
    assert!(access.check_account(&permit, || vec![login("john")]).is_ok());
    let denied = access.check_account(&permit, || vec![login("jane")]).unwrap_err();
    assert_eq!(denied, Denied(AccessDenial::User));
}

#[tokio::test(start_paused = true)]
async fn login_url_needs_a_rule_that_allows_it() {
    let without = || RuleSettings { login_urls: false, ..rule(&["dns:a"]) };
    let one = access(&[without()]);
    assert!(issue(&one, "dns:a", "john").is_ok());
    assert_eq!(issue_url(&one).unwrap_err(), denied(AccessDenial::LoginUrl));
    let two = access(&[without(), rule(&["dns:*"])]);
    assert!(issue_url(&two).is_ok());
}

/// A client that names an API client is checked before its token is opened.
#[tokio::test(start_paused = true)]
async fn api_client_is_checked_regardless_of_the_token() {
    let limited = by(&["token:ci"], RuleSettings { login_urls: false, ..rule(&["dns:a"]) });
    let access = access(&[RuleSettings { api_clients: Some(vec!["eu2".to_owned()]), ..limited }]);
    for method in [Method::IssueOtt, Method::LoginWithOtt] {
        let policy = access.policy().into_shared();
        let admission = access.admits(policy, &call(), &caller("dns:a"), method).unwrap();
        assert_eq!(access.admits_api_client(&admission, "eu2"), Ok(()));
        assert_eq!(access.admits_api_client(&admission, "us5"), Err(Denied(AccessDenial::ApiClient)));
    }
}

#[tokio::test(start_paused = true)]
async fn changed_limits_on_tokens_refill_the_quotas() {
    let once = || RuleSettings { burst: NonZeroU32::MIN, ..rule(&["dns:a"]) };
    let access = access(&[once()]);
    assert_eq!(count(3, || issue(&access, "dns:a", "john")), 1);
    access.replace(policy(&[once()]));
    assert_eq!(count(3, || issue(&access, "dns:a", "john")), 0, "unchanged");
    access.replace(policy(&[by(&["*"], once())]));
    assert_eq!(count(3, || issue(&access, "dns:a", "john")), 1, "another rule");
    access.replace(policy(&[RuleSettings { login_urls: false, ..by(&["*"], once()) }]));
    assert_eq!(count(3, || issue(&access, "dns:a", "john")), 1, "another rule");
}

#[tokio::test(start_paused = true)]
async fn refused_token_is_charged_regardless_of_its_issuer() {
    let twice = RuleSettings {
        burst: NonZeroU32::new(2).unwrap(),
        api_clients: Some(vec!["eu*".to_owned()]),
        ..by(&["token:ci"], rule(&["dns:a"]))
    };
    let access = access(&[twice]);
    let charge = |method, api_client: &str| {
        let policy = access.policy().into_shared();
        let admission = access.admits(policy, &call(), &caller("dns:a"), method)?;
        access.charge_refused_token(&admission, Some(api_client))
    };
    assert_eq!(charge(Method::LoginWithOtt, "us1").unwrap_err(), denied(AccessDenial::ApiClient));
    assert_eq!(charge(Method::IssueOtt, "eu2").unwrap_err(), denied(AccessDenial::Method));
    assert!(charge(Method::LoginWithOtt, "eu2").is_ok());
    assert!(log_in_sealed(&access, "john", "token:ci").is_ok(), "from the same quota");
    let exceeded = charge(Method::LoginWithOtt, "eu2").unwrap_err();
    assert!(matches!(exceeded, Refused::QuotaExceeded { .. }), "{exceeded}");
}

#[tokio::test(start_paused = true)]
async fn refused_token_is_charged_to_a_rule_for_tokens_that_are_not_sealed() {
    let once = RuleSettings { burst: NonZeroU32::MIN, ..by(&["token:ci"], rule(&["dns:a"])) };
    let access = access(&[once, rule(&["dns:a"])]);
    let policy = access.policy().into_shared();
    let admission = access.admits(policy, &call(), &caller("dns:a"), Method::LoginWithOtt).unwrap();
    for api_client in [Some("eu2"), None, Some("eu2")] {
        assert!(access.charge_refused_token(&admission, api_client).is_ok());
    }
    assert!(log_in_sealed(&access, "john", "token:ci").is_ok(), "the quota of the first rule is unused");
}
