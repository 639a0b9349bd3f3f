use proptest::prelude::*;

use super::*;
use crate::caller::Claims;
use crate::domain::ott::{
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

/// Returns a caller without claims.
fn principal(name: &str) -> Principal<'_> {
    static NONE: Claims = Claims::none();
    Principal { name, claims: &NONE }
}

fn explain(
    rules: &Rules,
    caller: &str,
    method: Method,
    api_client: &str,
    user: Option<&Subject>,
) -> Explanation {
    rules.explain(Question { caller: principal(caller), method, api_client, user })
}

/// Returns the position of the rule that decides a call.
fn decide(
    rules: &Rules,
    caller: &str,
    method: Method,
    api_client: &str,
    user: Option<&Subject>,
) -> Result<usize, AccessDenial> {
    let admitting = rules.admitting(principal(caller), method)?;
    let allowing = rules.allowing(&admitting, api_client, user)?;
    Ok(allowing.first().expect("at least one rule"))
}

fn decide_issue(
    rules: &Rules,
    caller: &str,
    api_client: &str,
    user: &Subject,
) -> Result<usize, AccessDenial> {
    decide(rules, caller, Method::IssueOtt, api_client, Some(user))
}

fn allows(settings: &[RuleSettings], caller: &str, user: &Subject) -> bool {
    decide_issue(&Rules::try_new(settings.to_vec()).unwrap(), caller, "eu2", user).is_ok()
}

#[test]
fn set_with_an_invalid_rule_is_refused_as_a_whole() {
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
    assert_eq!(
        with(|rule| rule.burst = (MAX_BURST + 1).try_into().unwrap()),
        Invalid::Burst { rule: 2, key: "burst" }
    );
    assert_eq!(
        with(|rule| rule.user_burst = 1_000_001.try_into().unwrap()),
        Invalid::Burst { rule: 2, key: "user_burst" }
    );
}

#[test]
fn only_entries_that_a_caller_name_can_match_are_accepted() {
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
fn names_of_one_kind_of_proof_do_not_match_another() {
    let rules = [rule(&["spiffe://td/*"])];
    assert!(allows(&rules, "spiffe://td/ns/a", &login("a")));
    for name in ["jwt:spiffe://td/ns/a", "token:spiffe://td/ns/a", "dns:spiffe://td/ns/a"] {
        assert!(!allows(&rules, name, &login("a")), "{name}");
    }
}

#[test]
fn listing_one_kind_of_user_excludes_the_others() {
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
fn logins_match_case_insensitively_and_ids_case_sensitively() {
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
    assert!(!allows(&[rule(&["dns:A"])], "dns:a", &login("a")), "callers' names are case-sensitive");
}

#[test]
fn denial_reports_the_first_mismatch_of_the_closest_rule() {
    let rules = Rules::try_new(vec![
        RuleSettings { methods: Some(vec![Method::LoginWithOtt]), ..rule(&["dns:a"]) },
        RuleSettings {
            api_clients: Some(texts(&["eu*"])),
            users: Users::listed(Login, &["*@mysite.com"]),
            ..rule(&["dns:b"])
        },
    ])
    .unwrap();
    let user = login("john@mysite.com");
    let decide = decide_issue;
    assert_eq!(decide(&rules, "dns:b", "eu2", &user), Ok(1));
    assert_eq!(decide(&rules, "dns:c", "eu2", &user), Err(AccessDenial::Caller));
    assert_eq!(decide(&rules, "dns:a", "eu2", &user), Err(AccessDenial::Method));
    assert_eq!(decide(&rules, "dns:b", "us1", &user), Err(AccessDenial::ApiClient));
    assert_eq!(decide(&rules, "dns:b", "eu2", &login("x@y")), Err(AccessDenial::User));
}

#[test]
fn explanation_names_the_deciding_rule() {
    let rules = Rules::try_new(vec![
        RuleSettings { methods: Some(vec![Method::LoginWithOtt]), ..rule(&["spiffe://td/portal"]) },
        RuleSettings {
            users: Users::listed(Login, &["*@mysite.com"]),
            rate: Rate::Unlimited,
            ..rule(&["spiffe://td/*"])
        },
        rule(&["spiffe://*"]),
    ])
    .unwrap();
    let explain =
        |caller: &str, user: &str| explain(&rules, caller, Method::IssueOtt, "eu2", Some(&login(user)));

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

/// A call, for the reference implementation.
struct PlainCall<'a> {
    caller: &'a str,
    method: Method,
    api_client: &'a str,
    user: Option<&'a Subject>,
}

/// Reference implementation of globs as `docs/configuration.md` defines them.
fn plainly_matches(glob: &str, text: &str) -> bool {
    fn matches(glob: &[char], text: &[char]) -> bool {
        match (glob, text) {
            ([], []) => true,
            (['*', rest @ ..], _) => matches(rest, text) || (!text.is_empty() && matches(glob, &text[1..])),
            (['?', rest @ ..], [_, text @ ..]) => matches(rest, text),
            ([one, rest @ ..], [c, text @ ..]) => one == c && matches(rest, text),
            _ => false,
        }
    }
    matches(&glob.chars().collect::<Vec<_>>(), &text.chars().collect::<Vec<_>>())
}

/// Reference implementation of a rule: returns the first part of a call that does not match.
fn plain_mismatch(rule: &RuleSettings, call: &PlainCall<'_>) -> Option<AccessDenial> {
    let any = |globs: &[String], text: &str| globs.iter().any(|glob| plainly_matches(glob, text));
    if !plainly_names(rule, call.caller) {
        Some(AccessDenial::Caller)
    } else if rule.methods.as_ref().is_some_and(|named| !named.contains(&call.method)) {
        Some(AccessDenial::Method)
    } else if rule.api_clients.as_ref().is_some_and(|globs| !any(globs, call.api_client)) {
        Some(AccessDenial::ApiClient)
    } else if call.user.is_some_and(|user| !rule.users.contain(user)) {
        Some(AccessDenial::User)
    } else {
        None
    }
}

fn plainly_names(rule: &RuleSettings, caller: &str) -> bool {
    if caller == "anonymous" {
        rule.callers.iter().any(|entry| entry == "anonymous")
    } else {
        rule.callers.iter().any(|glob| plainly_matches(glob, caller))
    }
}

/// Returns the first rule that allows a call, else the first mismatch of the closest rule.
fn plain_decision(rules: &[RuleSettings], call: &PlainCall<'_>) -> Result<usize, AccessDenial> {
    let mismatches: Vec<_> = rules.iter().map(|rule| plain_mismatch(rule, call)).collect();
    let first = mismatches.iter().position(Option::is_none);
    first.ok_or_else(|| mismatches.into_iter().flatten().max().unwrap_or(AccessDenial::Caller))
}

fn any_list() -> impl Strategy<Value = Option<Vec<String>>> {
    prop::option::of(prop::collection::vec("[aAb*?]{1,4}", 1..3))
}

const KINDS: [SubjectKind; 3] = [Login, ExternalId, UserId];
/// A user id with several spellings.
const UUID: &str = "a0b1c2d3-e4f5-4a6b-8c7d-9e0f1a2b3c4d";

fn any_users() -> impl Strategy<Value = Users> {
    let text = prop_oneof![
        8 => "[aAb*?]{1,4}",
        1 => prop::sample::select(vec![UUID, "A0B1*", "a0b1*", "A0B1C2D3-E4F5-4A6B-8C7D-9E0F1A2B3C4D", "*4d"])
            .prop_map(str::to_owned),
    ];
    let pattern = (prop::sample::select(KINDS.to_vec()), text)
        .prop_map(|(kind, text)| SubjectPattern::new(kind, &text).unwrap());
    prop_oneof![Just(Users::All), prop::collection::vec(pattern, 0..4).prop_map(Users::Listed)]
}

fn any_user() -> impl Strategy<Value = Subject> {
    let text = prop_oneof![
        8 => "[aAb]{1,3}",
        // Compatibility forms of ASCII letters, which no pattern matches.
        1 => "[a\u{ff41}]{1,2}",
        1 => prop::sample::select(vec![UUID, "{A0B1C2D3-E4F5-4A6B-8C7D-9E0F1A2B3C4D}"]).prop_map(str::to_owned),
    ];
    (prop::sample::select(KINDS.to_vec()), text).prop_map(|(kind, text)| subject(kind, &text))
}

fn any_rule() -> impl Strategy<Value = RuleSettings> {
    let callers = prop::collection::vec(
        prop_oneof![
            Just("anonymous".to_owned()),
            "(dns:|jwt:)[ab*?]{1,3}",
            Just("*".to_owned()),
            "\\*[ab]{1,2}"
        ],
        1..3,
    );
    let methods =
        prop::option::of(prop::sample::subsequence(vec![Method::IssueOtt, Method::LoginWithOtt], 1..=2));
    (callers, methods, any_list(), any_users()).prop_map(|(callers, methods, api_clients, users)| {
        RuleSettings { methods, api_clients, ..RuleSettings::new(callers, users) }
    })
}

/// Few rules, or more than fit into one word of a set.
fn any_rules() -> impl Strategy<Value = Vec<RuleSettings>> {
    prop_oneof![7 => prop::collection::vec(any_rule(), 1..5), 1 => prop::collection::vec(any_rule(), 60..80)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    /// The index and a scan of all rules return the same rule or the same denial.
    #[test]
    fn index_decides_like_a_scan_of_all_rules(
        settings in any_rules(),
        caller in prop_oneof![1 => Just("anonymous".to_owned()), 6 => "(dns:|jwt:)[ab]{1,3}"],
        api_client in "[aAb]{1,3}",
        user in prop::option::of(any_user()),
    ) {
        let method = if user.is_some() { Method::IssueOtt } else { Method::LoginWithOtt };
        let call = PlainCall { caller: &caller, method, api_client: &api_client, user: user.as_ref() };
        let expected = plain_decision(&settings, &call);
        let rules = Rules::try_new(settings.clone()).unwrap();

        prop_assert_eq!(decide(&rules, &caller, method, &api_client, user.as_ref()), expected);
        let explanation = explain(&rules, &caller, method, &api_client, user.as_ref());
        prop_assert_eq!(explanation.deciding_rule(), expected.ok().map(|position| position + 1));
        for (line, rule) in explanation.to_string().lines().zip(&settings) {
            let denies = plain_mismatch(rule, &call).is_some();
            prop_assert_eq!(line.contains(" is for other") || line.contains(" is not for"), denies, "{}", line);
        }
        let named = settings.iter().position(|rule| plainly_names(rule, &caller));
        prop_assert_eq!(rules.index.for_caller(&caller).first(), named);
        prop_assert_eq!(rules.mentions(principal(&caller)), named.is_some());
        prop_assert!(expected.is_err() || rules.admitting(principal(&caller), method).is_ok(), "allowed calls are also admitted");
    }

    /// Users of a login are checked once the account is known, against all rules that allow the
    /// login.
    #[test]
    fn account_of_a_login_is_allowed_if_and_only_if_some_rule_allows_it(
        settings in any_rules(),
        caller in "(dns:|jwt:)[ab]{1,3}",
        api_client in "[aAb]{1,3}",
        names in prop::collection::vec(any_user(), 0..3),
    ) {
        let method = Method::LoginWithOtt;
        let rules = Rules::try_new(settings.clone()).unwrap();
        let allows = |user: Option<&Subject>| {
            let call = PlainCall { caller: &caller, method, api_client: &api_client, user };
            settings.iter().filter(|rule| plain_mismatch(rule, &call).is_none()).cloned().collect::<Vec<_>>()
        };
        let Ok(allowing) = rules.admitting(principal(&caller), method)
            .and_then(|admitting| rules.allowing(&admitting, &api_client, None))
        else {
            prop_assert!(allows(None).is_empty());
            return Ok(());
        };
        let is_for_all = allows(None).iter().any(|rule| rule.users == Users::All);
        prop_assert_eq!(rules.any_for_all_users(&allowing), is_for_all);
        for name in &names {
            prop_assert_eq!(rules.any_for_user(&allowing, name), !allows(Some(name)).is_empty());
        }
    }
}
