use proptest::prelude::*;

use super::*;
use crate::ott::{
    SubjectKind::{self, ExternalId, Login, UserId},
    SubjectPattern,
};

fn rule(callers: &[&str]) -> RuleSettings {
    RuleSettings::new(texts(callers), Users::All)
}

fn texts(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

fn subject(kind: SubjectKind, text: &str) -> Subject {
    Subject::new(kind, text.to_owned()).unwrap()
}

fn login(text: &str) -> Subject {
    subject(Login, text)
}

fn decide(rules: &Rules, caller: &str, api_client: &str, user: &Subject) -> Result<(), AccessDenial> {
    let question =
        Question { caller, operation: Operation::IssueOtt, api_client: Some(api_client), user: Some(user) };
    rules.decide(question).map(|_| ())
}

fn allows(settings: &[RuleSettings], caller: &str, user: &Subject) -> bool {
    decide(&Rules::try_new(settings.to_vec()).unwrap(), caller, "eu2", user).is_ok()
}

#[test]
fn an_unusable_set_is_refused_whole() {
    use InvalidRules as Invalid;
    let with = |change: fn(&mut RuleSettings)| {
        let mut wrong = rule(&["dns:a"]);
        change(&mut wrong);
        Rules::try_new(vec![rule(&["dns:a"]), wrong]).unwrap_err()
    };
    assert_eq!(Rules::try_new(Vec::new()).unwrap_err(), Invalid::NoRules);
    assert_eq!(with(|rule| rule.callers.clear()), Invalid::EmptyList { rule: 2, list: "callers" });
    assert_eq!(with(|rule| rule.methods = Some(vec![])), Invalid::EmptyList { rule: 2, list: "methods" });
    assert_eq!(
        with(|rule| rule.api_clients = Some(vec![])),
        Invalid::EmptyList { rule: 2, list: "api_clients" }
    );
    assert_eq!(
        with(|rule| rule.api_clients = Some(texts(&["a", ""]))),
        Invalid::EmptyEntry { rule: 2, list: "api_clients" }
    );
    assert_eq!(with(|rule| rule.burst = Some(0)), Invalid::Burst { rule: 2, key: "burst" });
    assert_eq!(with(|rule| rule.user_burst = Some(1_000_001)), Invalid::Burst { rule: 2, key: "user_burst" });
}

#[test]
fn a_caller_that_cannot_exist_is_refused_and_one_that_can_is_not() {
    for entry in ["alice", "spiffe:/a", "spiffe://", "jwt:", "DNS:a", "anonymous?", "ano*", "x*", "jwt/*"] {
        assert_eq!(
            Rules::try_new(vec![rule(&[entry])]).unwrap_err(),
            InvalidRules::ImpossibleCaller { rule: 1, entry: entry.to_owned() }
        );
    }
    for entry in ["anonymous", "*", "?wt:a", "spiffe://*", "spi*", "jwt:a", "dns:*.example", "token:ci"] {
        assert!(Rules::try_new(vec![rule(&[entry])]).is_ok(), "{entry}");
    }
}

#[test]
fn no_glob_matches_anonymous() {
    for entry in ["*", "?*", "????????*", "*?"] {
        assert!(!allows(&[rule(&[entry])], ANONYMOUS, &login("a")), "{entry}");
        assert!(allows(&[rule(&[entry])], "spiffe://td/ns/a", &login("a")), "{entry}");
    }
    assert!(allows(&[rule(&["dns:a", "anonymous"])], ANONYMOUS, &login("a")));
    assert!(!allows(&[rule(&["anonymous"])], "jwt:anonymous", &login("a")));
}

#[test]
fn no_kind_of_proof_poses_as_another() {
    let rules = [rule(&["spiffe://td/*"])];
    assert!(allows(&rules, "spiffe://td/ns/a", &login("a")));
    for poser in ["jwt:spiffe://td/ns/a", "token:spiffe://td/ns/a", "dns:spiffe://td/ns/a"] {
        assert!(!allows(&rules, poser, &login("a")), "{poser}");
    }
}

#[test]
fn naming_one_user_list_closes_the_other_two() {
    let all = [rule(&["dns:a"])];
    let only_logins = [RuleSettings { users: Users::listed(Login, &["*"]), ..rule(&["dns:a"]) }];
    let only_ids = [RuleSettings { users: Users::listed(UserId, &["7?"]), ..rule(&["dns:a"]) }];
    let external = subject(ExternalId, "71");
    let id = subject(UserId, "71");
    let allowed = |rules| [&login("71"), &external, &id].map(|user| allows(rules, "dns:a", user));
    assert_eq!(allowed(&all), [true, true, true]);
    assert_eq!(allowed(&only_logins), [true, false, false]);
    assert_eq!(allowed(&only_ids), [false, false, true]);
}

#[test]
fn logins_match_without_regard_to_case_and_ids_with_it() {
    let rules = |glob: &str| [RuleSettings { users: Users::listed(Login, &[glob]), ..rule(&["dns:a"]) }];
    for (glob, user) in [
        ("*@MySite.com", "John@mysite.COM"),
        ("m\u{fc}ller@*", "M\u{dc}LLER@x"),
        ("\u{3a3}?", "\u{3c3}a"),
        ("?", "\u{130}"),
        ("stra\u{df}e", "STRA\u{1e9e}E"),
    ] {
        assert!(allows(&rules(glob), "dns:a", &login(user)), "{glob} {user}");
    }
    for (glob, user) in [
        ("support@x", "\u{17f}upport@x"),
        ("k@x", "\u{212a}@x"),
        ("i@x", "\u{130}@x"),
        ("*@x", "a@xy"),
        ("?", "ab"),
        ("?", "\u{1f600}\u{1f600}"),
    ] {
        assert!(!allows(&rules(glob), "dns:a", &login(user)), "{glob} {user}");
    }
    let ids = [RuleSettings { users: Users::listed(ExternalId, &["A*"]), ..rule(&["dns:a"]) }];
    assert!(allows(&ids, "dns:a", &subject(ExternalId, "Ab")));
    assert!(!allows(&ids, "dns:a", &subject(ExternalId, "ab")));
    assert!(!allows(&[rule(&["dns:A"])], "dns:a", &login("a")), "callers' names have a case");
}

#[test]
fn a_denial_tells_how_close_the_closest_rule_came() {
    let rules = Rules::try_new(vec![
        RuleSettings { methods: Some(vec![Operation::LoginWithOtt]), ..rule(&["dns:a"]) },
        RuleSettings {
            api_clients: Some(texts(&["eu*"])),
            users: Users::listed(Login, &["*@mysite.com"]),
            ..rule(&["dns:b"])
        },
    ])
    .unwrap();
    let user = login("john@mysite.com");
    assert_eq!(decide(&rules, "dns:b", "eu2", &user), Ok(()));
    assert_eq!(decide(&rules, "dns:c", "eu2", &user), Err(AccessDenial::Caller));
    assert_eq!(decide(&rules, "dns:a", "eu2", &user), Err(AccessDenial::Method));
    assert_eq!(decide(&rules, "dns:b", "us1", &user), Err(AccessDenial::ApiClient));
    assert_eq!(decide(&rules, "dns:b", "eu2", &login("x@y")), Err(AccessDenial::User));
}

#[test]
fn an_explanation_names_the_rule_that_decides() {
    let rules = Rules::try_new(vec![
        RuleSettings { methods: Some(vec![Operation::LoginWithOtt]), ..rule(&["spiffe://td/portal"]) },
        RuleSettings {
            users: Users::listed(Login, &["*@mysite.com"]),
            rate: Some(Rate::Unlimited),
            ..rule(&["spiffe://td/*"])
        },
        rule(&["spiffe://*"]),
    ])
    .unwrap();
    let explain =
        |caller: &str, user: &str| rules.explain(caller, Operation::IssueOtt, "eu2", Some(&login(user)));

    let allowed = explain("spiffe://td/portal", "john@mysite.com");
    assert_eq!(allowed.deciding_rule(), Some(2));
    assert_eq!(
        allowed.to_string(),
        "rule 1 is not for IssueOtt\n\
         rule 2 allows it; per caller unlimited; per caller and user 30/min, burst 10\n\
         rule 3 would allow it too, but an earlier rule decides\n\
         ALLOWED by rule 2"
    );
    let denied = explain(ANONYMOUS, "john@mysite.com");
    assert_eq!(denied.deciding_rule(), None);
    assert!(denied.to_string().ends_with("DENIED: no rule allows it"), "{denied}");
    assert!(denied.to_string().contains("does not name `anonymous`"), "{denied}");
    assert_eq!(explain("spiffe://td/x", "john@elsewhere").deciding_rule(), Some(3));
}

/// What `docs/configuration.md` says of rules, written as plainly as possible.
fn plainly_allows(rule: &RuleSettings, question: Question<'_>) -> bool {
    fn glob(pattern: &[char], text: &[char]) -> bool {
        match (pattern, text) {
            ([], []) => true,
            (['*', rest @ ..], _) => glob(rest, text) || (!text.is_empty() && glob(pattern, &text[1..])),
            (['?', rest @ ..], [_, text @ ..]) => glob(rest, text),
            ([one, rest @ ..], [c, text @ ..]) => one == c && glob(rest, text),
            _ => false,
        }
    }
    let any = |globs: &Option<Vec<String>>, text: &str| {
        let text: Vec<char> = text.chars().collect();
        globs.iter().flatten().any(|one| glob(&one.chars().collect::<Vec<_>>(), &text))
    };
    let caller = if question.caller == "anonymous" {
        rule.callers.iter().any(|entry| entry == "anonymous")
    } else {
        any(&Some(rule.callers.clone()), question.caller)
    };
    let method =
        rule.methods.is_none() || rule.methods.iter().flatten().any(|one| *one == question.operation);
    let api_client = rule.api_clients.is_none() || any(&rule.api_clients, question.api_client.unwrap());
    let user = question.user.is_none_or(|user| rule.users.contain(user));
    caller && method && api_client && user
}

fn any_list() -> impl Strategy<Value = Option<Vec<String>>> {
    prop::option::of(prop::collection::vec("[aAb*?]{1,4}", 1..3))
}

fn any_users() -> impl Strategy<Value = Users> {
    let pattern = (prop::sample::select(vec![Login, ExternalId, UserId]), "[aAb*?]{1,4}")
        .prop_map(|(kind, text)| SubjectPattern::new(kind, &text).unwrap());
    prop_oneof![Just(Users::All), prop::collection::vec(pattern, 0..4).prop_map(Users::Listed)]
}

fn any_rule() -> impl Strategy<Value = RuleSettings> {
    let callers = prop::collection::vec(
        prop_oneof![Just("anonymous".to_owned()), "(dns:|jwt:)[ab*?]{1,3}", Just("*".to_owned())],
        1..3,
    );
    let methods = prop::option::of(prop::sample::subsequence(
        vec![Operation::IssueOtt, Operation::LoginWithOtt],
        1..=2,
    ));
    (callers, methods, any_list(), any_users()).prop_map(|(callers, methods, api_clients, users)| {
        RuleSettings { methods, api_clients, ..RuleSettings::new(callers, users) }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn a_call_is_allowed_exactly_if_some_rule_allows_it(
        settings in prop::collection::vec(any_rule(), 1..4),
        caller in prop_oneof![Just("anonymous".to_owned()), "(dns:|jwt:)[ab]{1,3}"],
        api_client in "[aAb]{1,3}",
        user in (0..4_usize, "[aAb]{1,3}"),
    ) {
        let kind = [Login, ExternalId, UserId].get(user.0);
        let user = kind.map(|&kind| subject(kind, &user.1));
        let operation = if user.is_some() { Operation::IssueOtt } else { Operation::LoginWithOtt };
        let question =
            Question { caller: &caller, operation, api_client: Some(&api_client), user: user.as_ref() };
        let first = settings.iter().position(|rule| plainly_allows(rule, question));
        let rules = Rules::try_new(settings).unwrap();

        prop_assert_eq!(rules.decide(question).is_ok(), first.is_some());
        let explanation = rules.explain(&caller, operation, &api_client, user.as_ref());
        prop_assert_eq!(explanation.deciding_rule(), first.map(|index| index + 1));
        let admission = Question { api_client: None, user: None, ..question };
        prop_assert!(first.is_none() || rules.decide(admission).is_ok(), "what is allowed is admitted first");
    }
}
