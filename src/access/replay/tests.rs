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
        claims: KnownClaims::All(&NONE),
        method: Method::IssueOtt,
        api_client: Some("eu2"),
        user: KnownUser::Named(user),
        decision: RecordedDecision::Allowed,
        request_id: "id",
    }
}

fn replayed(old: &[RuleSettings], new: &[RuleSettings], calls: &[RecordedCall<'_>]) -> Replay {
    let (old, new, mut replay) = (rules(old), rules(new), Replay::default());
    for call in calls {
        replay.add(&old, &new, call);
    }
    replay
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
    let replay = replayed(&old, &new, &calls);
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
    let replay = replayed(&old, &new, &calls);
    let allowance = |caller: &str, new_rule| Allowance { caller: caller.into(), new_rule };
    let expected = [(&allowance("dns:a", 1), 1, "id"), (&allowance("dns:b", 2), 1, "id")];
    assert_eq!(replay.allowed.rows(), expected);
    assert_eq!((replay.unchanged, replay.refused.count()), (1, 0));
}

#[test]
fn calls_of_other_rules_are_not_compared() {
    let [old, new] = [rule("dns:a", Users::All), rule("dns:b", Users::All)];
    let john = login("john@x");
    let denied = RecordedCall { decision: RecordedDecision::Denied, ..issue("dns:a", &john) };
    let replay = replayed(&[old], &[new], &[issue("dns:c", &john), denied, issue("dns:b", &john)]);
    assert_eq!(replay, Replay { other_rules: 3, ..Replay::default() });
}

#[test]
fn call_is_undecided_if_a_part_that_decides_is_not_recorded() {
    let john = login("john@x");
    let login_call =
        RecordedCall { method: Method::LoginWithOtt, user: KnownUser::Unknown, ..issue("jwt:a", &john) };
    let all = [rule("jwt:*", Users::All)];
    let undecided = |new: RuleSettings, call: RecordedCall<'_>| {
        let replay = replayed(&all, &[new], &[call]);
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

    // The old rules list users as well: the recorded decision shows that they allowed the login.
    let old = [rule("jwt:a", logins("*@x")), rule("jwt:*", logins("*@y"))];
    let replay = replayed(&old, &[rule("jwt:b", Users::All)], &[login_call]);
    let refusal = Refusal { caller: "jwt:a".into(), old_rule: None, denied: AccessDenial::Caller };
    assert_eq!(replay.refused.rows(), [(&refusal, 1, "id")], "the old rule is not known");
}

#[test]
fn number_of_separate_callers_is_limited_and_all_calls_are_counted() {
    let (old, new) = (rules(&[rule("*", Users::All)]), rules(&[rule("dns:x", Users::All)]));
    let john = login("john@x");
    let mut replay = Replay::default();
    for number in 0..MAX_ROWS + 7 {
        replay.add(&old, &new, &issue(&format!("jwt:{number}"), &john));
    }
    replay.add(&old, &new, &issue("jwt:3", &john));
    assert_eq!((replay.refused.rows().len(), replay.refused.others()), (MAX_ROWS, 7));
    assert_eq!(replay.refused.count(), MAX_ROWS as u64 + 8);
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
        let replay = replayed(&old, &new, &[call]);
        prop_assert_eq!(replay.other_rules, 0);
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
