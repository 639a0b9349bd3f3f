use std::sync::Arc;

use proptest::{prelude::*, sample::select};

use super::*;
use crate::{
    access::RuleSettings,
    caller::{ClaimPath, ClaimRequirement, ClaimValue, Claims},
    domain::ott::{Subject, SubjectKind, Users},
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

fn group(value: &str) -> Claims {
    Claims::new(vec![(ClaimPath::new("groups").unwrap(), ClaimValue::Text(Arc::from(value)))])
}

fn requiring(value: &str, rule: RuleSettings) -> RuleSettings {
    let path = ClaimPath::new("groups").unwrap();
    let values = vec![ClaimValue::Text(Arc::from(value))];
    RuleSettings { claims: vec![ClaimRequirement { path, values }], ..rule }
}

fn rules(settings: &[RuleSettings]) -> Rules {
    Rules::try_new(settings.to_vec()).unwrap()
}

static NONE: Claims = Claims::none();

fn issue<'a>(caller: &'a str, user: &'a Subject) -> RecordedCall<'a> {
    RecordedCall {
        caller,
        issuer: RecordedIssuer::None,
        claims: KnownClaims::All(&NONE),
        method: Method::IssueOtt,
        api_client: Some("eu2"),
        login_url: Some(false),
        token_issuer: KnownIssuer::Unknown,
        user: KnownUser::Named(user),
        decision: RecordedDecision::Allowed,
        decided_by: DecidedBy::OldRules,
        request_id: "id",
    }
}

/// Names beside rules.
#[derive(Clone)]
struct Names {
    tokens: BTreeSet<&'static str>,
    issuers: Option<BTreeSet<&'static str>>,
    api_clients: BTreeSet<&'static str>,
    default: Option<&'static str>,
}

impl Default for Names {
    fn default() -> Self {
        let api_clients = ["eu2", "us4"].into();
        Self { tokens: ["ci"].into(), issuers: None, api_clients, default: Some("eu2") }
    }
}

impl Names {
    fn with<'a>(&'a self, rules: &'a Rules) -> NamedRules<'a> {
        NamedRules {
            rules,
            tokens: &self.tokens,
            jwt_issuers: self.issuers.as_ref(),
            api_clients: &self.api_clients,
            default_api_client: self.default,
        }
    }
}

fn replayed(old: &[RuleSettings], new: &[RuleSettings], calls: &[RecordedCall<'_>]) -> Replay {
    replayed_with([&Names::default(), &Names::default()], old, new, calls)
}

fn replayed_with(
    [old_names, new_names]: [&Names; 2],
    old: &[RuleSettings],
    new: &[RuleSettings],
    calls: &[RecordedCall<'_>],
) -> Replay {
    let (old, new, mut replay) = (rules(old), rules(new), Replay::default());
    for call in calls {
        replay.add(&old_names.with(&old), &new_names.with(&new), call);
    }
    replay
}

/// Replays calls that were decided under the old rules.
fn by_old(old: &[RuleSettings], new: &[RuleSettings], calls: &[RecordedCall<'_>]) -> ReplayedDecisions {
    let Replay { by_old_rules, by_other_rules, not_identified } = replayed(old, new, calls);
    assert_eq!((by_other_rules.count(), not_identified), (0, 0));
    by_old_rules
}

#[test]
fn callers_that_the_new_rules_refuse_are_counted_by_rule_and_cause() {
    let old = [rule("dns:other", Users::All), rule("dns:*", Users::All)];
    let new = [rule("dns:a", logins("*@x")), rule("dns:b", Users::All)];
    let [john, jane] = ["john@x", "jane@y"].map(login);
    let calls = [
        RecordedCall { request_id: "first", ..issue("dns:a", &jane) },
        issue("dns:a", &john),
        issue("dns:b", &jane),
        RecordedCall { request_id: "second", ..issue("dns:c", &john) },
        issue("dns:c", &jane),
    ];
    let replay = by_old(&old, &new, &calls);
    let refusal = |caller: &str, denied| Refusal { caller: caller.into(), old_rule: Some(2), denied };
    let (a, c) = (refusal("dns:a", AccessDenial::User), refusal("dns:c", AccessDenial::Caller));
    assert_eq!(replay.refused.rows(), [(&c, 2, "second"), (&a, 1, "first")]);
    assert_eq!((replay.unchanged, replay.refused.count(), replay.allowed.count()), (2, 3, 0));
}

#[test]
fn callers_that_the_new_rules_allow_are_counted_by_rule() {
    let old = [rule("dns:a", logins("*@x"))];
    let new = [rule("dns:a", Users::All), rule("dns:b", logins("*@x"))];
    let [john, jane] = ["john@x", "jane@y"].map(login);
    let denied = |call| RecordedCall { decision: RecordedDecision::Denied, ..call };
    let calls = [issue("dns:a", &jane), issue("dns:b", &john), issue("dns:b", &jane)].map(denied);
    let replay = by_old(&old, &new, &calls);
    let allowance = |caller: &str, new_rule| Allowance { caller: caller.into(), new_rule };
    let expected = [(&allowance("dns:a", 1), 1, "id"), (&allowance("dns:b", 2), 1, "id")];
    assert_eq!(replay.allowed.rows(), expected);
    assert_eq!((replay.unchanged, replay.refused.count()), (1, 0));
}

#[test]
fn calls_of_other_rules_are_replayed_separately() {
    let [old, new] = ["dns:a", "dns:b"].map(|caller| [rule(caller, Users::All)]);
    let john = login("john@x");
    let denied = |call| RecordedCall { decision: RecordedDecision::Denied, ..call };
    // The old rules decide otherwise, regardless of the recorded fingerprint.
    for decided_by in [DecidedBy::OldRules, DecidedBy::NotRecorded, DecidedBy::OtherRules] {
        let calls = [issue("dns:c", &john), denied(issue("dns:a", &john)), issue("dns:b", &john)];
        let calls = calls.map(|call| RecordedCall { decided_by, ..call });
        let Replay { by_old_rules, by_other_rules, not_identified } = replayed(&old, &new, &calls);
        assert_eq!((by_old_rules.count(), not_identified, by_other_rules.count()), (0, 0, 3));
        let refusal = Refusal { caller: "dns:c".into(), old_rule: None, denied: AccessDenial::Caller };
        assert_eq!(by_other_rules.refused.rows(), [(&refusal, 1, "id")]);
        assert_eq!(by_other_rules.unchanged, 2);
    }
    // The old rules decide the same.
    let calls = [issue("dns:a", &john), denied(issue("dns:b", &john))];
    let calls = calls.map(|call| RecordedCall { decided_by: DecidedBy::OtherRules, ..call });
    let Replay { by_old_rules, by_other_rules, .. } = replayed(&old, &new, &calls);
    assert_eq!(by_old_rules, ReplayedDecisions::default());
    let refusal = Refusal { caller: "dns:a".into(), old_rule: None, denied: AccessDenial::Caller };
    let allowance = Allowance { caller: "dns:b".into(), new_rule: 1 };
    assert_eq!(by_other_rules.refused.rows(), [(&refusal, 1, "id")]);
    assert_eq!(by_other_rules.allowed.rows(), [(&allowance, 1, "id")]);
    // Not known whether they were other rules.
    let calls = calls.map(|call| RecordedCall { decided_by: DecidedBy::NotRecorded, ..call });
    let Replay { by_old_rules, by_other_rules, not_identified } = replayed(&old, &new, &calls);
    assert_eq!((by_old_rules.refused.count(), by_old_rules.allowed.count(), not_identified), (1, 1, 2));
    assert_eq!(by_other_rules, ReplayedDecisions::default());
}

#[test]
fn callers_and_api_clients_that_only_the_old_file_has_are_refused() {
    let rules = [rule("*", Users::All)];
    let john = login("john@x");
    let denied = |new: Names, call: RecordedCall<'_>| {
        let Replay { by_old_rules, .. } = replayed_with([&Names::default(), &new], &rules, &rules, &[call]);
        assert_eq!((by_old_rules.count(), by_old_rules.undecided.len()), (1, 0));
        by_old_rules.refused.rows().first().map(|(refusal, ..)| refusal.denied)
    };
    let without_token = Names { tokens: BTreeSet::new(), ..Names::default() };
    assert_eq!(denied(without_token.clone(), issue("token:ci", &john)), Some(AccessDenial::Caller));
    assert_eq!(denied(without_token, issue("dns:ci", &john)), None);
    let without_client = Names { api_clients: ["eu2"].into(), ..Names::default() };
    let us4 = RecordedCall { api_client: Some("us4"), ..issue("dns:a", &john) };
    assert_eq!(denied(without_client.clone(), us4), Some(AccessDenial::ApiClient));
    assert_eq!(denied(without_client, issue("dns:a", &john)), None);
}

#[test]
fn caller_whose_jwt_issuer_is_named_otherwise_is_undecided() {
    let rules = [rule("jwt:*", Users::All)];
    let john = login("john@x");
    let [unnamed, named] =
        [None, Some(BTreeSet::from(["corp"]))].map(|issuers| Names { issuers, ..Names::default() });
    let other = Names { issuers: Some(["partner"].into()), ..Names::default() };
    let of = |issuer| RecordedCall { issuer, ..issue("jwt:corp:a", &john) };
    let refused = |old: &Names, new: &Names, issuer| {
        let Replay { by_old_rules, .. } = replayed_with([old, new], &rules, &rules, &[of(issuer)]);
        assert_eq!(by_old_rules.count(), 1);
        let undecided = by_old_rules.undecided.get(&UnknownPart::Caller).copied().unwrap_or_default();
        (by_old_rules.unchanged, by_old_rules.refused.count(), undecided)
    };
    let corp = RecordedIssuer::Named("corp");
    assert_eq!(refused(&named, &named, corp), (1, 0, 0));
    assert_eq!(refused(&named, &other, corp), (0, 1, 0));
    assert_eq!(refused(&named, &unnamed, corp), (0, 0, 1));
    assert_eq!(refused(&unnamed, &unnamed, RecordedIssuer::Unnamed), (1, 0, 0));
    assert_eq!(refused(&unnamed, &named, RecordedIssuer::Unnamed), (0, 0, 1));
}

#[test]
fn call_that_may_have_named_no_api_client_is_undecided_if_another_default_decides_otherwise() {
    let of_client =
        |name: &str| RuleSettings { api_clients: Some(vec![name.to_owned()]), ..rule("dns:a", Users::All) };
    let john = login("john@x");
    let old = [rule("dns:a", Users::All)];
    let [us4, none] = [Some("us4"), None].map(|default| Names { default, ..Names::default() });
    let result_of = |new: &Names, rules: RuleSettings, call| {
        let replay = replayed_with([&Names::default(), new], &old, &[rules], &[call]);
        let ReplayedDecisions { unchanged, refused, undecided, .. } = replay.by_old_rules;
        (unchanged, refused.count(), undecided.get(&UnknownPart::ApiClient).copied().unwrap_or_default())
    };
    let result = |new: &Names, rules: RuleSettings, api_client| {
        result_of(new, rules, RecordedCall { api_client, ..issue("dns:a", &john) })
    };
    let (eu2_recorded, us4_recorded) = (Some("eu2"), Some("us4"));
    assert_eq!(result(&Names::default(), of_client("eu2"), eu2_recorded), (1, 0, 0));
    assert_eq!(result(&us4, of_client("eu2"), eu2_recorded), (0, 0, 1));
    assert_eq!(result(&us4, of_client("us4"), eu2_recorded), (0, 0, 1));
    assert_eq!(result(&us4, of_client("*"), eu2_recorded), (1, 0, 0));
    assert_eq!(result(&us4, of_client("other"), eu2_recorded), (0, 1, 0));
    assert_eq!(result(&us4, of_client("us4"), us4_recorded), (1, 0, 0), "was not the default");
    assert_eq!(result(&none, of_client("*"), eu2_recorded), (0, 0, 1));
    assert_eq!(result(&none, of_client("other"), eu2_recorded), (0, 1, 0));
    let login =
        |token_issuer| RecordedCall { method: Method::LoginWithOtt, token_issuer, ..issue("dns:a", &john) };
    assert_eq!(result_of(&us4, of_client("eu2"), login(KnownIssuer::NotSealed)), (0, 0, 1));
    let sealed = login(KnownIssuer::Named("dns:b"));
    assert_eq!(result_of(&us4, of_client("eu2"), sealed), (1, 0, 0), "the token contains it");
    assert_eq!(result_of(&us4, of_client("us4"), sealed), (0, 1, 0));
}

#[test]
fn call_is_undecided_if_a_part_that_decides_is_not_recorded() {
    let john = login("john@x");
    let login_call =
        RecordedCall { method: Method::LoginWithOtt, user: KnownUser::Unknown, ..issue("jwt:a", &john) };
    let all = [rule("jwt:*", Users::All)];
    let undecided = |new: RuleSettings, call: RecordedCall<'_>| {
        let replay = by_old(&all, &[new], &[call]);
        assert_eq!(replay.undecided.values().sum::<u64>() + replay.unchanged + replay.refused.count(), 1);
        replay.undecided.into_keys().next()
    };
    assert_eq!(undecided(rule("jwt:a", logins("*@x")), login_call), Some(UnknownPart::User));
    assert_eq!(undecided(rule("jwt:a", Users::All), login_call), None);
    assert_eq!(undecided(rule("jwt:b", logins("*@x")), login_call), None, "denied for every user");

    let wide = login("\u{ff4a}ohn@x");
    let [spelled, unspelled] = [KnownUser::Unlisted, KnownUser::Canonical(&john)]
        .map(|user| RecordedCall { user, ..issue("jwt:a", &john) });
    assert!(wide.form().is_none() && wide.canonical() == john.canonical());
    assert_eq!(undecided(rule("jwt:a", logins("*@x")), spelled), None);
    assert_eq!(undecided(rule("jwt:a", logins("*@x")), unspelled), Some(UnknownPart::Spelling));
    for new in [rule("jwt:a", Users::All), rule("jwt:a", logins("*@y"))] {
        assert_eq!(undecided(new, unspelled), None);
    }

    let with_group = requiring("issuers", rule("jwt:a", Users::All));
    let own = group("issuers");
    for (claims, expected) in [
        (KnownClaims::All(&NONE), None),
        (KnownClaims::AtLeast(&NONE), Some(UnknownPart::Claims)),
        (KnownClaims::AtLeast(&own), None),
        (KnownClaims::All(&own), None),
    ] {
        let call = RecordedCall { claims, ..issue("jwt:a", &john) };
        assert_eq!(undecided(with_group.clone(), call), expected, "{claims:?}");
    }

    let of_client = RuleSettings { api_clients: Some(vec!["eu2".to_owned()]), ..rule("jwt:a", Users::All) };
    let call = RecordedCall { api_client: None, ..issue("jwt:a", &john) };
    assert_eq!(undecided(of_client, call), Some(UnknownPart::ApiClient));

    let without_urls = RuleSettings { login_urls: false, ..rule("jwt:a", Users::All) };
    for (login_url, expected) in
        [(None, Some(UnknownPart::LoginUrl)), (Some(false), None), (Some(true), None)]
    {
        let call = RecordedCall { login_url, ..issue("jwt:a", &john) };
        assert_eq!(undecided(without_urls.clone(), call), expected, "{login_url:?}");
        assert_eq!(undecided(rule("jwt:a", Users::All), call), None);
    }
    let of_sealed = RuleSettings { issued_by: Some(vec!["*".to_owned()]), ..rule("jwt:a", Users::All) };
    assert_eq!(undecided(of_sealed.clone(), login_call), Some(UnknownPart::Issuer));
    for token_issuer in [KnownIssuer::NotSealed, KnownIssuer::Named("dns:b")] {
        let call = RecordedCall { token_issuer, ..login_call };
        assert_eq!(undecided(of_sealed.clone(), call), None, "{token_issuer:?}");
    }

    // The old rules list users as well: the recorded decision shows that they allowed the login.
    let old = [rule("jwt:a", logins("*@x")), rule("jwt:*", logins("*@y"))];
    let replay = by_old(&old, &[rule("jwt:b", Users::All)], &[login_call]);
    let refusal = Refusal { caller: "jwt:a".into(), old_rule: None, denied: AccessDenial::Caller };
    assert_eq!(replay.refused.rows(), [(&refusal, 1, "id")], "the old rule is not known");
}

#[test]
fn number_of_separate_callers_is_limited_and_all_calls_are_counted() {
    let (old, new) = (rules(&[rule("*", Users::All)]), rules(&[rule("dns:x", Users::All)]));
    let john = login("john@x");
    let names = Names::default();
    let (old, new) = (names.with(&old), names.with(&new));
    let mut replay = Replay::default();
    for number in 0..MAX_ROWS + 7 {
        replay.add(&old, &new, &issue(&format!("jwt:{number}"), &john));
    }
    replay.add(&old, &new, &issue("jwt:3", &john));
    let refused = replay.by_old_rules.refused;
    assert_eq!((refused.rows().len(), refused.others()), (MAX_ROWS, 7));
    assert_eq!(refused.count(), MAX_ROWS as u64 + 8);
}

fn any_rules() -> impl Strategy<Value = Vec<RuleSettings>> {
    let users = select(vec![None, Some("x@a"), Some("*@a"), Some("*")]);
    let rule = (select(vec!["jwt:a", "jwt:*", "jwt:b"]), users, prop::option::of(select(vec!["one", "two"])))
        .prop_map(|(caller, users, claim)| {
            let rule = rule(caller, users.map_or(Users::All, logins));
            claim.into_iter().fold(rule, |rule, value| requiring(value, rule))
        });
    prop::collection::vec(rule, 1..4)
}

/// What a record contains of the user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RecordedUser {
    None,
    Canonical,
    Spelled,
}

proptest! {
    /// A record never contains more than the call, and the old rules were in force.
    #[test]
    fn replayed_change_is_that_of_the_whole_call(
        old in any_rules(),
        new in any_rules(),
        caller in select(vec!["jwt:a", "jwt:b"]),
        user in select(vec!["x@a", "y@a", "y@b", "\u{ff58}@a"]),
        own in prop::option::of(select(vec!["one", "two"])),
        recorded_user in select(vec![RecordedUser::None, RecordedUser::Canonical, RecordedUser::Spelled]),
        are_claims_recorded in any::<bool>(),
    ) {
        let user = login(user);
        let canonical = login(user.canonical());
        let own = own.map_or(Claims::none(), group);
        let whole = KnownParts {
            caller,
            claims: KnownClaims::All(&own),
            method: Method::IssueOtt,
            api_client: Some("eu2"),
            issuer: KnownIssuer::NotSealed,
            login_url: Some(false),
            user: KnownUser::Named(&user),
        };
        let decision = |settings: &[RuleSettings]| rules(settings).partial_decision(&whole);
        let is_allowed = matches!(decision(&old), PartialDecision::Allowed(_));
        let call = RecordedCall {
            claims: if are_claims_recorded { KnownClaims::All(&own) } else { KnownClaims::AtLeast(&NONE) },
            user: match recorded_user {
                RecordedUser::None => KnownUser::Unknown,
                RecordedUser::Canonical => KnownUser::Canonical(&canonical),
                RecordedUser::Spelled if user.form().is_none() => KnownUser::Unlisted,
                RecordedUser::Spelled => KnownUser::Named(&canonical),
            },
            decision: if is_allowed { RecordedDecision::Allowed } else { RecordedDecision::Denied },
            ..issue(caller, &user)
        };
        let replay = by_old(&old, &new, &[call]);
        let counts = [replay.unchanged, replay.refused.count(), replay.allowed.count()];
        let found = counts.iter().position(|count| *count == 1);
        let expected = match (is_allowed, decision(&new)) {
            (true, PartialDecision::Denied(_)) => 1,
            (false, PartialDecision::Allowed(_)) => 2,
            _ => 0,
        };
        match found {
            Some(found) => prop_assert_eq!(found, expected),
            None => prop_assert!(
                recorded_user != RecordedUser::Spelled || !are_claims_recorded,
                "everything is recorded"
            ),
        }
        if let (Some((refusal, ..)), PartialDecision::Allowed(rule)) = (replay.refused.rows().first(), decision(&old)) {
            prop_assert!(refusal.old_rule.is_none_or(|found| found == rule));
        }
    }
}
