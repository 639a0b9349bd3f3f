use std::{collections::BTreeMap, time::Duration};

use proptest::{prelude::*, sample::select};

use super::{
    CandidateDifference::{Undecided, WouldAllow, WouldDeny},
    *,
};
use crate::{
    access::{Denied, KnownIssuer, Question, Refused, RuleSettings, TokenUse},
    base::clock,
    caller::{ClaimPath, ClaimRequirement, ClaimValue, Claims, Principal, Proof},
    domain::{
        call::Deadline,
        ott::{Subject, SubjectKind, Users},
    },
    observe::telemetry::metrics::Metrics,
};

fn rule(caller: &str, users: Users) -> RuleSettings {
    RuleSettings::new(vec![caller.to_owned()], users)
}

fn login(text: &str) -> Subject {
    Subject::new(SubjectKind::Login, text.to_owned()).unwrap()
}

fn logins(pattern: &str) -> Users {
    Users::listed(SubjectKind::Login, &[pattern])
}

fn policy(rules: &[RuleSettings], candidates: &[RuleSettings]) -> Policy {
    let candidates = (!candidates.is_empty()).then(|| Rules::try_new(candidates.to_vec()).unwrap());
    Policy { rules: Rules::try_new(rules.to_vec()).unwrap(), candidates, ..Policy::closed() }
}

/// Access control with the metrics in which it counts.
struct Rehearsing {
    access: Access,
    metrics: Metrics,
}

/// What a call was answered, and the difference that its record contains.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    answer: Result<(), AccessDenial>,
    difference: Option<(CandidateDifference, String)>,
}

impl Outcome {
    fn same(answer: Result<(), AccessDenial>) -> Self {
        Self { answer, difference: None }
    }

    fn different(
        answer: Result<(), AccessDenial>,
        difference: CandidateDifference,
        cause: impl Into<String>,
    ) -> Self {
        Self { answer, difference: Some((difference, cause.into())) }
    }
}

impl Rehearsing {
    fn new(rules: &[RuleSettings], candidates: &[RuleSettings]) -> Self {
        let metrics = Metrics::new();
        Self { access: Access::new(policy(rules, candidates), metrics.clone()), metrics }
    }

    /// Returns the values of the metric by difference and method, without zeros.
    fn counts(&self) -> BTreeMap<String, u64> {
        let text = self.metrics.render();
        let series = text.lines().filter_map(|line| {
            line.strip_prefix("ott_gateway_access_candidate_differences_total{")?.split_once("} ")
        });
        series
            .map(|(labels, count)| (labels.to_owned(), count.parse().unwrap()))
            .filter(|(_, count)| *count > 0)
            .collect()
    }

    fn series(&self) -> usize {
        self.metrics.render().matches("\nott_gateway_access_candidate_differences_total{").count()
    }

    /// Makes a call from its arrival to its final decision, as the stages of the gateway do.
    fn call(&self, caller: &Caller, call: Simulated) -> Outcome {
        let record = Call::new(clock::now(), Deadline::after(Duration::from_secs(10)));
        let answer = self.answer(caller, call, &record).map_err(Denied::reason);
        let candidate = record.candidate();
        let difference = candidate.map(|decision| (decision.difference, decision.cause.to_string()));
        Outcome { answer, difference }
    }

    fn answer(&self, caller: &Caller, call: Simulated, record: &Call) -> Result<(), Denied> {
        let policy = self.access.policy().into_shared();
        let method = call.method();
        let admission = match self.access.admits(Arc::clone(&policy), record, caller, method) {
            Ok(admission) => admission,
            Err(denied) => {
                let rehearsal = self.access.rehearse_refusal(&policy, record, caller, method);
                if let Simulated::Issue { user, login_url, is_read: true } = &call {
                    record.set_subject(user.clone());
                    record.set_login_url(*login_url);
                    record.set_api_client(Arc::from("eu2"));
                }
                drop(rehearsal);
                return Err(denied);
            }
        };
        record.set_api_client(Arc::from("eu2"));
        let quota = |refused| match refused {
            Refused::NotAllowed(denied) => denied,
            other @ Refused::QuotaExceeded { .. } => panic!("{other}"),
        };
        match call {
            Simulated::Issue { user, login_url, .. } => {
                record.set_subject(user.clone());
                record.set_login_url(login_url);
                self.access.admits_api_client(&admission, "eu2")?;
                let permit = self.access.permit_issue(admission, Arc::from("eu2"), user, login_url);
                let _permit = permit.map_err(quota)?;
            }
            Simulated::Sealed { user, issued_by } => {
                record.set_subject(user.clone());
                self.access.admits_api_client(&admission, "eu2")?;
                let permit = self.access.permit_sealed_login(admission, Arc::from("eu2"), &user, issued_by);
                let _permit = permit.map_err(quota)?;
            }
            Simulated::Login { account } => {
                let permit = self.access.permit_login(admission, Arc::from("eu2")).map_err(quota)?;
                assert_eq!(record.candidate(), None, "the account is not known yet");
                self.access.check_account(&permit, || vec![account])?;
            }
        }
        Ok(())
    }
}

#[derive(Clone, Debug)]
enum Simulated {
    /// `is_read`: whether the message of a refused call is decoded for its record.
    Issue {
        user: Subject,
        login_url: bool,
        is_read: bool,
    },
    /// A login with a sealed token.
    Sealed {
        user: Subject,
        issued_by: &'static str,
    },
    Login {
        account: Subject,
    },
}

impl Simulated {
    const fn method(&self) -> Method {
        match self {
            Self::Issue { .. } => Method::IssueOtt,
            Self::Login { .. } | Self::Sealed { .. } => Method::LoginWithOtt,
        }
    }
}

fn issue(user: &str) -> Simulated {
    Simulated::Issue { user: login(user), login_url: false, is_read: true }
}

fn log_in(user: &str) -> Simulated {
    Simulated::Login { account: login(user) }
}

fn portal() -> Caller {
    Caller::for_test("dns:portal", Proof::Certificate)
}

#[test]
fn call_that_candidates_would_deny_is_allowed_and_reported() {
    let named = |rule: RuleSettings, name: &str| RuleSettings { name: Some(Arc::from(name)), ..rule };
    let candidates = [named(rule("dns:portal", logins("*@a")), "portal")];
    let rehearsing = Rehearsing::new(&[rule("dns:portal", Users::All)], &candidates);
    let denied = Outcome::different(Ok(()), WouldDeny, "user");
    assert_eq!(rehearsing.call(&portal(), issue("john@b")), denied);
    assert_eq!(rehearsing.call(&portal(), log_in("john@b")), denied);
    for call in [issue("john@a"), log_in("john@a")] {
        assert_eq!(rehearsing.call(&portal(), call), Outcome::same(Ok(())));
    }
    let counts = rehearsing.counts();
    let expected = ["IssueOtt", "LoginWithOtt"]
        .map(|method| (format!(r#"difference="would_deny",method="{method}""#), 1));
    assert_eq!(counts, expected.into());
}

#[test]
fn first_part_that_no_candidate_allows_is_reported() {
    let of_client = |name: &str| Some(vec![name.to_owned()]);
    let candidates = |candidate| {
        Rehearsing::new(&[rule("dns:portal", Users::All)], &[candidate])
            .call(&portal(), issue("john@b"))
            .difference
            .map(|(_, cause)| cause)
    };
    let other = rule("dns:other", Users::All);
    assert_eq!(candidates(other).as_deref(), Some("caller"));
    let methods = Some(vec![Method::LoginWithOtt]);
    let logins_only = RuleSettings { methods, ..rule("dns:portal", Users::All) };
    assert_eq!(candidates(logins_only).as_deref(), Some("method"));
    let us5 = RuleSettings { api_clients: of_client("us5"), ..rule("dns:portal", Users::All) };
    assert_eq!(candidates(us5).as_deref(), Some("api_client"));
    let eu2 = RuleSettings { api_clients: of_client("eu2"), ..rule("dns:portal", Users::All) };
    assert_eq!(candidates(eu2), None);
}

#[test]
fn call_that_candidates_would_allow_is_refused_and_reported() {
    let named = RuleSettings { name: Some(Arc::from("wide")), ..rule("dns:portal", logins("*")) };
    let candidates = [rule("dns:other", Users::All), named];
    let eu1 = Some(vec!["eu1".to_owned()]);
    for (rules, denial) in [
        (rule("dns:portal", logins("*@a")), AccessDenial::User),
        (RuleSettings { api_clients: eu1, ..rule("dns:portal", Users::All) }, AccessDenial::ApiClient),
        (rule("dns:third", Users::All), AccessDenial::Caller),
    ] {
        let rehearsing = Rehearsing::new(&[rules], &candidates);
        let allowed = Outcome::different(Err(denial), WouldAllow, "2 (wide)");
        assert_eq!(rehearsing.call(&portal(), issue("john@b")), allowed, "{denial:?}");
        let expected = r#"difference="would_allow",method="IssueOtt""#.to_owned();
        assert_eq!(rehearsing.counts(), [(expected, 1)].into());
    }
    let rehearsing = Rehearsing::new(&[rule("dns:portal", logins("*@a"))], &candidates);
    let allowed = Outcome::different(Err(AccessDenial::User), WouldAllow, "2 (wide)");
    assert_eq!(rehearsing.call(&portal(), log_in("john@b")), allowed, "by the account");
}

#[test]
fn refused_call_whose_user_is_not_known_is_undecided_if_candidates_list_users() {
    let unread = || Simulated::Issue { user: login("john@a"), login_url: false, is_read: false };
    let refused = Err(AccessDenial::Caller);
    let rules = [rule("dns:other", Users::All)];
    for call in [unread(), log_in("john@a")] {
        let listing = Rehearsing::new(&rules, &[rule("dns:portal", logins("*@a"))]);
        let outcome = listing.call(&portal(), call.clone());
        assert_eq!(outcome, Outcome::different(refused, Undecided, "1"));
        assert_eq!(listing.counts().len(), 1);

        let unlimited = Rehearsing::new(&rules, &[rule("dns:portal", Users::All)]);
        let outcome = unlimited.call(&portal(), call.clone());
        assert_eq!(outcome, Outcome::different(refused, WouldAllow, "1"));

        let closed = Rehearsing::new(&rules, &[rule("dns:third", logins("*"))]);
        assert_eq!(closed.call(&portal(), call), Outcome::same(refused));
    }
    let listing = Rehearsing::new(&rules, &[rule("dns:portal", logins("*@a"))]);
    assert_eq!(listing.call(&portal(), issue("john@b")), Outcome::same(refused), "the user is known");
}

#[test]
fn claims_of_the_caller_count_for_candidates() {
    let claim = |value: &str| (ClaimPath::new("groups").unwrap(), ClaimValue::Text(Arc::from(value)));
    let (path, value) = claim("issuers");
    let required = ClaimRequirement { path, values: vec![value] };
    let with_claims = RuleSettings { claims: vec![required], ..rule("dns:portal", Users::All) };
    let rules = [rule("dns:portal", Users::All)];
    let rehearsing = Rehearsing::new(&rules, &[with_claims]);
    let outcome = rehearsing.call(&portal(), issue("john"));
    assert_eq!(outcome, Outcome::different(Ok(()), WouldDeny, "claims"));
}

#[test]
fn call_over_a_quota_in_force_is_not_compared() {
    let once = RuleSettings { burst: std::num::NonZeroU32::MIN, ..rule("dns:portal", Users::All) };
    let rehearsing = Rehearsing::new(&[once], &[rule("dns:other", Users::All)]);
    let permit = || {
        let record = Call::new(clock::now(), Deadline::after(Duration::from_secs(10)));
        let policy = rehearsing.access.policy().into_shared();
        let admission = rehearsing.access.admits(policy, &record, &portal(), Method::IssueOtt).unwrap();
        let permit = rehearsing.access.permit_issue(admission, Arc::from("eu2"), login("john"), false);
        (permit.is_ok(), record.candidate().is_some())
    };
    assert_eq!(permit(), (true, true));
    assert_eq!(permit(), (false, false), "the caller is refused in either case");
}

#[test]
fn quotas_of_candidates_are_not_used() {
    let once = RuleSettings { burst: std::num::NonZeroU32::MIN, ..rule("dns:portal", Users::All) };
    let rehearsing = Rehearsing::new(&[rule("dns:portal", Users::All)], &[once]);
    for _ in 0..20 {
        let outcome = rehearsing.call(&portal(), log_in("john"));
        assert_eq!(outcome, Outcome::same(Ok(())));
    }
}

#[test]
fn series_exist_only_while_candidates_are_configured() {
    let rules = [rule("dns:portal", Users::All)];
    let candidates = [rule("dns:other", Users::All)];
    let rehearsing = Rehearsing::new(&rules, &[]);
    assert_eq!(rehearsing.call(&portal(), issue("john")), Outcome::same(Ok(())));
    assert_eq!(rehearsing.series(), 0);
    rehearsing.access.replace(policy(&rules, &candidates));
    assert_eq!(rehearsing.series(), 6, "from zero");
    rehearsing.call(&portal(), issue("john"));
    let old = rehearsing.access.policy().into_shared();
    rehearsing.access.replace(policy(&rules, &candidates));
    assert_eq!(rehearsing.counts().values().sum::<u64>(), 1, "a reload keeps the counts");

    // The candidates are promoted.
    rehearsing.access.replace(policy(&candidates, &[]));
    let refused = Outcome::same(Err(AccessDenial::Caller));
    assert_eq!(rehearsing.call(&portal(), issue("john")), refused);
    let record = Call::new(clock::now(), Deadline::after(Duration::from_secs(10)));
    let admission = rehearsing.access.admits(old, &record, &portal(), Method::IssueOtt).unwrap();
    assert!(rehearsing.access.permit_issue(admission, Arc::from("eu2"), login("john"), false).is_ok());
    assert!(record.candidate().is_some(), "an earlier call is decided by one version");
    assert_eq!(rehearsing.series(), 0, "and not counted");
    rehearsing.access.replace(policy(&rules, &candidates));
    assert_eq!((rehearsing.series(), rehearsing.counts()), (6, BTreeMap::new()), "from zero again");
}

fn any_rule() -> impl Strategy<Value = RuleSettings> {
    let optional = |values: Vec<&'static str>| prop::option::of(select(values));
    let callers = select(vec!["dns:a", "dns:*", "dns:b", "anonymous"]);
    let methods = prop::option::of(select(vec![Method::IssueOtt, Method::LoginWithOtt]));
    let users = select(vec![None, Some("x@a"), Some("*@a"), Some("*"), Some("y@?")]);
    let claim = optional(vec!["one", "two"]);
    let tokens = (optional(vec!["dns:a", "dns:*"]), any::<bool>());
    (callers, methods, optional(vec!["eu2", "us5", "*"]), users, claim, tokens).prop_map(
        |(caller, method, api_client, users, claim, (issuer, login_urls))| RuleSettings {
            issued_by: issuer.map(|glob| vec![glob.to_owned()]),
            login_urls,
            methods: method.map(|method| vec![method]),
            api_clients: api_client.map(|name| vec![name.to_owned()]),
            claims: claim.into_iter().map(required).collect(),
            ..rule(caller, users.map_or(Users::All, logins))
        },
    )
}

fn required(value: &str) -> ClaimRequirement {
    let path = ClaimPath::new("groups").unwrap();
    ClaimRequirement { path, values: vec![ClaimValue::Text(Arc::from(value))] }
}

fn any_rules() -> impl Strategy<Value = Vec<RuleSettings>> {
    prop::collection::vec(any_rule(), 1..5)
}

const CALLERS: [&str; 4] = ["dns:a", "dns:b", "dns:c", "anonymous"];
const API_CLIENTS: [&str; 3] = ["eu2", "us5", "other"];
const ISSUERS: [&str; 3] = ["dns:a", "dns:b", "jwt:c"];
const USERS: [&str; 5] = ["x@a", "y@a", "y@b", "z@c", "z"];

fn any_call() -> impl Strategy<Value = Simulated> {
    let user = || select(USERS.to_vec());
    prop_oneof![
        2 => (user(), any::<bool>(), any::<bool>())
            .prop_map(|(user, login_url, is_read)| Simulated::Issue { user: login(user), login_url, is_read }),
        1 => user().prop_map(log_in),
        1 => (user(), select(ISSUERS.to_vec()))
            .prop_map(|(user, issued_by)| Simulated::Sealed { user: login(user), issued_by }),
    ]
}

fn claims(value: Option<&str>) -> Claims {
    let values = value.map(|value| (ClaimPath::new("groups").unwrap(), ClaimValue::Text(Arc::from(value))));
    Claims::new(values.into_iter().collect())
}

proptest! {
    // Each case registers all metrics three times.
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn candidates_change_no_outcome(
        rules in any_rules(),
        candidates in any_rules(),
        calls in prop::collection::vec((select(CALLERS.to_vec()), any_call()), 1..40),
    ) {
        let (with, without) = (Rehearsing::new(&rules, &candidates), Rehearsing::new(&rules, &[]));
        let only = Rehearsing::new(&candidates, &[]);
        let mut differences = 0;
        for (name, call) in calls {
            let caller = Caller::for_test(name, Proof::Certificate);
            // The quotas are not used up: the bursts are larger.
            let expected = without.call(&caller, call.clone());
            let candidate = only.call(&caller, call.clone());
            let found = with.call(&caller, call);
            prop_assert_eq!(found.answer, expected.answer);
            let difference = found.difference.as_ref().map(|(difference, _)| *difference);
            differences += u64::from(difference.is_some());
            match (expected.answer, candidate.answer, difference) {
                (Ok(()), Ok(()), None)
                | (Err(_), Err(_), None | Some(Undecided))
                | (Ok(()), Err(_), Some(WouldDeny))
                | (Err(_), Ok(()), Some(WouldAllow | Undecided)) => {}
                other => prop_assert!(false, "{:?}", other),
            }
            if let (Err(denial), Some((WouldDeny, cause))) = (candidate.answer, &found.difference) {
                prop_assert_eq!(cause, denial.as_str());
            }
        }
        prop_assert_eq!(with.counts().values().sum::<u64>(), differences);
    }

}

proptest! {
    #[test]
    fn verdict_holds_for_every_value_of_the_unknown_parts(
        rules in any_rules(),
        caller in select(CALLERS.to_vec()),
        own_first in prop::option::of(select(vec!["one", "two"])),
        own_claim in prop::option::of(prop::option::of(select(vec!["one", "two", "three"]))),
        is_issue in any::<bool>(),
        api_client in prop::option::of(select(API_CLIENTS.to_vec())),
        issuer in prop_oneof![
            Just(KnownIssuer::Unknown),
            Just(KnownIssuer::NotSealed),
            select(ISSUERS.to_vec()).prop_map(KnownIssuer::Named),
        ],
        login_url in prop::option::of(any::<bool>()),
        user in prop::option::of(select(USERS.to_vec())),
    ) {
        let rules = Rules::try_new(rules).unwrap();
        let method = if is_issue { Method::IssueOtt } else { Method::LoginWithOtt };
        let subject = user.map(login);
        let own_claims = own_claim.map(claims);
        let at_least = claims(own_first);
        let known = KnownParts {
            caller,
            claims: match &own_claims {
                Some(own) => KnownClaims::All(own),
                None => KnownClaims::AtLeast(&at_least),
            },
            method,
            api_client,
            issuer,
            login_url,
            user: subject.as_ref().map_or(KnownUser::Unknown, KnownUser::Named),
        };
        let all_claims = match &own_claims {
            Some(claims) => vec![claims.clone()],
            None => [None, Some("one"), Some("two"), Some("three")]
                .map(|more| Claims::new(at_least.iter().chain(claims(more).iter()).cloned().collect()))
                .into(),
        };
        let issuers = match issuer {
            KnownIssuer::Unknown => ISSUERS.map(Some).into_iter().chain([None]).collect(),
            KnownIssuer::NotSealed => vec![None],
            KnownIssuer::Named(name) => vec![Some(name)],
        };
        let token_uses: Vec<TokenUse<'_>> = if is_issue {
            let urls = login_url.map_or(vec![false, true], |login_url| vec![login_url]);
            urls.into_iter().map(|login_url| TokenUse::Issue { login_url }).collect()
        } else {
            issuers.into_iter().map(|issued_by| TokenUse::Login { issued_by }).collect()
        };
        let mut decisions = Vec::new();
        for claims in &all_claims {
            for api_client in api_client.map_or(API_CLIENTS.to_vec(), |name| vec![name]) {
                for user in subject.clone().map_or(USERS.map(login).to_vec(), |user| vec![user]) {
                    for token_use in &token_uses {
                        let question = Question {
                            caller: Principal { name: caller, claims },
                            token_use: *token_use,
                            api_client,
                            user: Some(&user),
                        };
                        decisions.push(rules.answer(question).deciding().map(|rule| rule.number));
                    }
                }
            }
        }
        match rules.partial_decision(&known) {
            PartialDecision::Allowed(rule) if decisions.len() == 1 => prop_assert_eq!(decisions, [Some(rule)]),
            PartialDecision::Allowed(_) => prop_assert!(decisions.iter().all(Option::is_some), "{:?}", decisions),
            PartialDecision::Denied(_) => prop_assert!(decisions.iter().all(Option::is_none), "{:?}", decisions),
            PartialDecision::Undecided(rule) => {
                prop_assert!(decisions.len() > 1, "everything is known");
                let first = decisions.iter().flatten().min();
                prop_assert!(first.is_none_or(|first| *first >= rule), "{:?}", decisions);
                prop_assert!(rules.unknown_part(rule, &known).is_some());
            }
        }
    }
}
