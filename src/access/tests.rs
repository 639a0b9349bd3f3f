use std::{num::NonZeroU32, sync::atomic::Ordering};

use super::*;
use aws_lc_rs::digest::{SHA256, digest};
use http::{HeaderMap, HeaderValue, header::AUTHORIZATION};

use crate::{
    base::clock,
    caller::{
        BearerTokens, ClaimPath, ClaimRequirement, ClaimValue, Claims, Identification, Peer, Proof,
        RequestedClaims,
    },
    domain::{
        call::Deadline,
        ott::{SubjectKind, Users},
    },
};

mod token_uses;

fn sha256(text: &str) -> [u8; 32] {
    digest(&SHA256, text.as_bytes()).as_ref().try_into().unwrap()
}

fn caller(name: &str) -> Caller {
    Caller::for_test(name, Proof::Certificate)
}

fn call() -> Call {
    Call::new(clock::now(), Deadline::after(Duration::from_secs(10)))
}

fn login(text: &str) -> Subject {
    Subject::new(SubjectKind::Login, text.to_owned()).unwrap()
}

fn rule(callers: &[&str]) -> RuleSettings {
    RuleSettings::new(callers.iter().map(|text| (*text).to_owned()).collect(), Users::All)
}

fn logins(patterns: &[&str]) -> Users {
    Users::listed(SubjectKind::Login, patterns)
}

fn rules(settings: &[RuleSettings]) -> Rules {
    Rules::try_new(settings.to_vec()).unwrap()
}

fn policy(settings: &[RuleSettings]) -> Policy {
    let claims = RequestedClaims::new(settings.iter().flat_map(|rule| &rule.claims));
    Policy { rules: rules(settings), claims, ..Policy::closed() }
}

fn access(settings: &[RuleSettings]) -> Access {
    Access::new(policy(settings), Metrics::new())
}

fn issue(access: &Access, name: &str, user: &str) -> Result<IssuePermit, Refused> {
    let admission = access.admits(access.policy().into_shared(), &call(), &caller(name), Method::IssueOtt)?;
    access.permit_issue(admission, Arc::from("eu2"), login(user), false)
}

fn log_in(access: &Access, name: &str) -> Result<LoginPermit, Refused> {
    let admission =
        access.admits(access.policy().into_shared(), &call(), &caller(name), Method::LoginWithOtt)?;
    access.permit_login(admission, Arc::from("eu2"))
}

fn mentions(access: &Access, caller: &Caller) -> Result<(), Denied> {
    access.mentions(&access.policy(), caller)
}

fn count<T>(times: u32, mut call: impl FnMut() -> Result<T, Refused>) -> u32 {
    (0..times).map(|_| u32::from(call().is_ok())).sum()
}

#[tokio::test(start_paused = true)]
async fn permit_contains_caller_api_client_and_user() {
    let access = access(&[rule(&["dns:portal"])]);
    let permit = issue(&access, "dns:portal", "john@mysite.com").unwrap();
    assert_eq!(&**permit.caller().name(), "dns:portal");
    assert_eq!(&**permit.api_client(), "eu2");
    assert_eq!(permit.subject(), &login("john@mysite.com"));
    let permit = log_in(&access, "dns:portal").unwrap();
    assert_eq!((&**permit.caller().name(), &**permit.api_client()), ("dns:portal", "eu2"));
}

#[test]
fn permit_for_tests_is_anonymous() {
    assert_eq!(IssuePermit::for_test("eu2", login("john")).caller(), &Caller::anonymous());
    assert_eq!(LoginPermit::for_test("eu2").caller(), &Caller::anonymous());
}

#[tokio::test(start_paused = true)]
async fn admission_for_one_method_is_not_valid_for_the_other() {
    let access = access(&[rule(&["dns:portal"])]);
    let admission = access
        .admits(access.policy().into_shared(), &call(), &caller("dns:portal"), Method::LoginWithOtt)
        .unwrap();
    let refused = access.permit_issue(admission, Arc::from("eu2"), login("john"), false).unwrap_err();
    assert_eq!(refused, Refused::NotAllowed(Denied(AccessDenial::Method)));
}

/// The quota, its limit, its rule and the wait.
fn exceeded(refused: &Refused) -> (ExceededQuota, String, usize, Duration) {
    let Refused::QuotaExceeded { quota, limit, rule, retry_after } = refused else { panic!("{refused:?}") };
    (*quota, limit.to_string(), rule.number, *retry_after)
}

#[tokio::test(start_paused = true)]
async fn exceeded_quota_names_the_rule_that_decides_and_its_own_limit() {
    let name = Some(Arc::from("batch"));
    let limited =
        RuleSettings { name, burst: NonZeroU32::MIN, user_burst: 2.try_into().unwrap(), ..rule(&["dns:b"]) };
    let access = access(&[rule(&["dns:a"]), limited]);
    assert!(issue(&access, "dns:b", "john").is_ok());
    let refused = issue(&access, "dns:b", "john").unwrap_err();
    assert_eq!(
        exceeded(&refused),
        (ExceededQuota::Caller, "50/s, burst 1".to_owned(), 2, Duration::from_millis(20))
    );
    assert!(refused.to_string().contains("access rule 2 (batch) is used up"), "{refused}");
}

#[tokio::test(start_paused = true)]
async fn caller_gets_its_burst_then_its_rate_with_an_exact_retry_delay() {
    let access = access(&[rule(&["dns:*"])]);
    let mut users = 0..;
    let mut issue_for_another = |name: &str| issue(&access, name, &format!("user{}", users.next().unwrap()));
    assert_eq!(count(500, || issue_for_another("dns:a")), 100);
    let refused = issue_for_another("dns:a").unwrap_err();
    assert_eq!(
        exceeded(&refused),
        (ExceededQuota::Caller, "50/s, burst 100".to_owned(), 1, Duration::from_millis(20))
    );
    assert_eq!(count(500, || issue_for_another("dns:b")), 100, "another caller has its own quota");
    assert!(log_in(&access, "dns:a").is_err(), "both methods use the same quota");

    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(count(500, || issue_for_another("dns:a")), 50);
}

#[tokio::test(start_paused = true)]
async fn user_quota_is_shared_by_all_spellings_of_a_login() {
    let access = access(&[rule(&["dns:*"])]);
    let mut spelling = ["john@x", "JOHN@x", "\u{ff4a}ohn@X", "joh\u{1d427}@x"].into_iter().cycle();
    assert_eq!(count(30, || issue(&access, "dns:a", spelling.next().unwrap())), 10);
    let refused = issue(&access, "dns:a", "john@x").unwrap_err();
    assert_eq!(
        exceeded(&refused),
        (ExceededQuota::User, "30/min, burst 10".to_owned(), 1, Duration::from_secs(2))
    );
    assert!(issue(&access, "dns:a", "jane@x").is_ok());
    assert!(issue(&access, "dns:b", "john@x").is_ok());

    tokio::time::advance(Duration::from_secs(2)).await;
    assert_eq!(count(5, || issue(&access, "dns:a", "john@x")), 1);
}

#[tokio::test(start_paused = true)]
async fn denied_call_uses_no_quota() {
    let access = access(&[RuleSettings { users: logins(&["*@x"]), ..rule(&["dns:a"]) }]);
    for _ in 0..1000 {
        let denied = issue(&access, "dns:a", "john@elsewhere").unwrap_err();
        assert_eq!(denied, Refused::NotAllowed(Denied(AccessDenial::User)));
        assert_eq!(
            issue(&access, "dns:b", "john@x").unwrap_err(),
            Refused::NotAllowed(Denied(AccessDenial::Caller))
        );
    }
    assert_eq!(count(20, || issue(&access, "dns:a", "john@x")), 10);
}

#[tokio::test(start_paused = true)]
async fn quotas_of_the_first_allowing_rule_apply() {
    let few = RuleSettings {
        users: logins(&["vip*"]),
        rate: Rate::per_second(1.try_into().unwrap()),
        burst: 3.try_into().unwrap(),
        ..rule(&["dns:a"])
    };
    let access = access(&[few, rule(&["dns:*"])]);
    let mut users = 0..;
    assert_eq!(count(20, || issue(&access, "dns:a", &format!("vip{}", users.next().unwrap()))), 3);
    assert_eq!(count(20, || issue(&access, "dns:a", &format!("user{}", users.next().unwrap()))), 20);
}

#[tokio::test(start_paused = true)]
async fn dry_run_counts_and_accepts_all_calls_that_the_rules_allow() {
    let dry_run = || Policy { quotas: Quotas::DryRun, ..policy(&[rule(&["dns:a"])]) };
    let access = Access::new(dry_run(), Metrics::new());
    assert_eq!(count(1000, || issue(&access, "dns:a", "john")), 1000);
    assert!(issue(&access, "dns:b", "john").is_err());
    access.replace(policy(&[rule(&["dns:a"])]));
    assert_eq!(count(10, || issue(&access, "dns:a", "john")), 0, "the quota used in the dry run stays used");
    access.replace(dry_run());
    assert_eq!(count(10, || issue(&access, "dns:a", "john")), 10);
}

#[tokio::test(start_paused = true)]
async fn reload_keeps_the_used_quota_of_unchanged_rules() {
    let stays = rule(&["dns:a"]);
    let goes = rule(&["dns:b"]);
    let access = access(&[stays.clone(), goes]);
    assert_eq!(count(20, || issue(&access, "dns:a", "john")), 10);

    let other = Access::clone(&access);
    other.replace(policy(&[rule(&["dns:c"]), stays.clone()]));
    assert_eq!(count(20, || issue(&access, "dns:a", "john")), 0, "its position in the file does not matter");
    assert!(issue(&access, "dns:b", "john").is_err());
    assert!(issue(&access, "dns:c", "john").is_ok());

    let changed = RuleSettings { user_burst: 2.try_into().unwrap(), ..stays };
    access.replace(policy(&[changed]));
    assert_eq!(count(20, || issue(&access, "dns:a", "john")), 2, "a new quota starts full");
}

#[tokio::test(start_paused = true)]
async fn call_is_decided_by_one_version_of_the_rules() {
    let before = RuleSettings { users: logins(&["john"]), ..rule(&["dns:a"]) };
    let access = access(&[before]);
    let early =
        access.admits(access.policy().into_shared(), &call(), &caller("dns:a"), Method::IssueOtt).unwrap();
    access.replace(policy(&[RuleSettings { users: logins(&["jane"]), ..rule(&["dns:a"]) }]));
    assert!(
        access.permit_issue(early, Arc::from("eu2"), login("john"), false).is_ok(),
        "decided by the rules at its admission"
    );
    assert!(issue(&access, "dns:a", "john").is_err());
    assert!(issue(&access, "dns:a", "jane").is_ok());
}

#[test]
fn no_decision_mixes_two_versions_of_the_rules() {
    // Each version allows only one pair; mixing versions would allow a crossed pair.
    let version = |api_client: &str, user: &str| RuleSettings {
        api_clients: Some(vec![api_client.to_owned()]),
        users: logins(&[user]),
        rate: Rate::Unlimited,
        user_rate: Rate::Unlimited,
        ..rule(&["dns:a"])
    };
    let access = access(&[version("one", "john")]);
    std::thread::scope(|scope| {
        let reloads = scope.spawn(|| {
            for _ in 0..500 {
                access.replace(policy(&[version("two", "jane")]));
                access.replace(policy(&[version("one", "john")]));
            }
        });
        while !reloads.is_finished() {
            for (api_client, user) in [("one", "jane"), ("two", "john")] {
                let admission = access
                    .admits(access.policy().into_shared(), &call(), &caller("dns:a"), Method::IssueOtt)
                    .unwrap();
                assert!(access.permit_issue(admission, Arc::from(api_client), login(user), false).is_err());
            }
        }
    });
    let admission =
        access.admits(access.policy().into_shared(), &call(), &caller("dns:a"), Method::IssueOtt).unwrap();
    assert!(access.permit_issue(admission, Arc::from("one"), login("john"), false).is_ok());
}

#[tokio::test]
async fn no_call_mixes_the_tokens_of_one_version_with_the_rules_of_another() {
    // The holder of the token is renamed, and only the new name may call; mixing versions would
    // deny the holder.
    let version = |name: &str| Policy {
        tokens: BearerTokens::for_test([(name, sha256("secret"))]).unwrap(),
        ..policy(&[rule(&[&format!("token:{name}")])])
    };
    let access = Access::new(version("a"), Metrics::new());
    let done = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let reloads = std::thread::spawn({
        let (access, done) = (access.clone(), Arc::clone(&done));
        move || {
            for _ in 0..2000 {
                access.replace(version("b"));
                access.replace(version("a"));
            }
            done.store(true, Ordering::Relaxed);
        }
    });
    let (identification, peer) = (Identification::none(), Peer::plaintext("192.0.2.7:1".parse().unwrap()));
    let headers = HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::from_static("Bearer secret"))]);
    let mut seen = std::collections::BTreeSet::new();
    while !done.load(Ordering::Relaxed) {
        let policy = access.policy();
        let caller = identification.identify(&headers, &peer, policy.for_callers()).await.unwrap();
        access.mentions(&policy, &caller).unwrap();
        let admission = access.admits(policy.into_shared(), &call(), &caller, Method::IssueOtt).unwrap();
        seen.insert(admission.caller().name().to_string());
    }
    reloads.join().unwrap();
    assert!(!seen.is_empty() && seen.iter().all(|name| ["token:a", "token:b"].contains(&name.as_str())));
}

#[tokio::test(start_paused = true)]
async fn caller_with_very_many_users_does_not_affect_users_of_another_caller() {
    let both = RuleSettings {
        rate: Rate::Unlimited,
        user_rate: Rate::PerPeriod { calls: 5.try_into().unwrap(), period: Duration::from_hours(1) },
        user_burst: 5.try_into().unwrap(),
        ..rule(&["token:*"])
    };
    let metrics = Metrics::new();
    let policy = Policy { max_quota_users: 10_000, ..policy(&[both]) };
    let access = Access::new(policy, metrics.clone());
    let mut users = 0..;
    count(80_000, || issue(&access, "token:billing", &format!("user{}", users.next().unwrap())));
    assert_eq!(
        count(300, || issue(&access, "token:support", &format!("user{}", users.next().unwrap()))),
        300
    );
    let shown = metrics.render();
    for line in [
        r#"ott_gateway_quota_buckets{per="user"} 5300"#,
        r#"ott_gateway_quota_buckets{per="caller"} 0"#,
        r#"ott_gateway_quota_shared_decisions_total{per="user"} 75000"#,
        r#"ott_gateway_quota_shared_decisions_total{per="caller"} 0"#,
    ] {
        assert!(shown.contains(line), "{line}\n{shown}");
    }
    tokio::time::advance(Duration::from_hours(1)).await;
    assert!(issue(&access, "token:support", "user1").is_ok());
    assert!(metrics.render().contains(r#"ott_gateway_quota_buckets{per="user"} 1"#), "the rest is forgotten");
}

#[tokio::test(start_paused = true)]
async fn reflection_is_limited_to_callers_that_a_rule_names() {
    let some = access(&[rule(&["dns:a"]), rule(&["jwt:*"])]);
    assert!(mentions(&some, &caller("dns:a")).is_ok());
    assert!(mentions(&some, &caller("jwt:x")).is_ok());
    assert_eq!(mentions(&some, &caller("dns:b")).unwrap_err().reason(), AccessDenial::Caller);
    assert_eq!(mentions(&some, &Caller::anonymous()).unwrap_err().reason(), AccessDenial::Caller);
    assert!(mentions(&access(&[rule(&["anonymous"])]), &Caller::anonymous()).is_ok());
}

/// Returns a caller whose JWT has these groups.
fn member(groups: &[&str]) -> Caller {
    let groups = groups.iter().map(|group| (groups_path(), ClaimValue::Text((*group).into())));
    Caller::with_claims("jwt:a", Claims::new(groups.collect()))
}

fn groups_path() -> ClaimPath {
    ClaimPath::new("groups").unwrap()
}

/// Returns a rule for the JWTs of members of a group.
fn rule_for(group: &str) -> RuleSettings {
    let values = vec![ClaimValue::Text(group.into())];
    RuleSettings { claims: vec![ClaimRequirement { path: groups_path(), values }], ..rule(&["jwt:*"]) }
}

#[tokio::test(start_paused = true)]
async fn caller_without_required_claims_is_treated_like_one_that_no_rule_names() {
    let metrics = Metrics::new();
    let rules = [RuleSettings { max_in_flight: 7.try_into().ok(), ..rule_for("issuers") }];
    let access = Access::new(policy(&rules), metrics.clone());
    let policy = access.policy().into_shared();
    let admits = |caller: &Caller| access.admits(Arc::clone(&policy), &call(), caller, Method::IssueOtt);

    let issuer = member(&["staff", "issuers"]);
    assert_eq!(admits(&issuer).unwrap().max_in_flight(), Some(7));
    assert_eq!(access.max_in_flight(&policy, &issuer), Some(7));
    assert_eq!(mentions(&access, &issuer), Ok(()));
    for other in [member(&["staff"]), member(&[]), caller("jwt:a")] {
        let denied = admits(&other).unwrap_err();
        assert_eq!(denied, Denied(AccessDenial::Claims));
        assert_eq!(denied.to_string(), "no access rule allows this call: claims");
        assert!(!denied.names_caller(), "its connection is not kept like that of a known caller");
        assert_eq!(mentions(&access, &other), Err(denied));
        assert_eq!(access.max_in_flight(&policy, &other), None);
    }
    assert_eq!(admits(&caller("dns:a")).unwrap_err(), Denied(AccessDenial::Caller));
    assert!(metrics.render().contains(r#"ott_gateway_access_denied_total{reason="claims"} 6"#));
}

#[tokio::test(start_paused = true)]
async fn permit_contains_the_claims_of_the_deciding_rule() {
    let only_john = RuleSettings { users: logins(&["john"]), ..rule_for("guests") };
    let access = access(&[only_john, rule_for("issuers"), rule(&["*"])]);
    let admits = |caller: &Caller, method| {
        access.admits(access.policy().into_shared(), &call(), caller, method).unwrap()
    };
    let shown = |claims: Option<Box<RawValue>>| claims.map(|claims| claims.get().to_owned());
    let guests = Some(r#"{"groups":"guests"}"#.to_owned());
    let issuers = Some(r#"{"groups":"issuers"}"#.to_owned());
    for (groups, user, expected) in [
        (&["guests", "issuers"][..], "john", &guests),
        (&["guests", "issuers"], "jane", &issuers),
        (&["guests"], "jane", &None),
        (&[], "john", &None),
    ] {
        let caller = member(groups);
        let admission = admits(&caller, Method::IssueOtt);
        let mut permit = access.permit_issue(admission, Arc::from("eu2"), login(user), false).unwrap();
        assert_eq!(shown(permit.take_claims()), *expected, "{groups:?} {user}");

        let admission = admits(&caller, Method::LoginWithOtt);
        let permit = access.permit_login(admission, Arc::from("eu2")).unwrap();
        let of_account = access.check_account(&permit, || vec![login(user)]).unwrap();
        assert_eq!(shown(of_account), *expected, "{groups:?} {user}");
    }
    let both = admits(&member(&["guests", "issuers"]), Method::LoginWithOtt);
    let mut permit = access.permit_login(both, Arc::from("eu2")).unwrap();
    assert_eq!(shown(permit.take_claims()), guests, "before the account is known");
}

#[test]
fn unchanged_required_claims_are_kept_in_a_reload() {
    let with_claims = |group: &str| policy(&[rule_for(group), rule(&["dns:a"])]);
    let access = Access::new(with_claims("issuers"), Metrics::new());
    let shown = || format!("{:?}", access.policy().claims);
    let before = shown();
    access.replace(policy(&[rule(&["dns:b"]), rule_for("issuers")]));
    assert_eq!(shown(), before, "remembered tokens stay valid");
    access.replace(with_claims("others"));
    assert_ne!(shown(), before);
}
