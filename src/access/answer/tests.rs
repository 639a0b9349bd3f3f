use proptest::prelude::*;

use super::*;
use crate::caller::{ClaimValue, Claims, Principal};

fn rule(name: &str, callers: &[&str]) -> RuleSettings {
    let callers = callers.iter().map(|text| (*text).to_owned()).collect();
    let name = (!name.is_empty()).then(|| Arc::from(name));
    RuleSettings { name, ..RuleSettings::new(callers, Users::All) }
}

fn required(path: &str, values: &[&str]) -> ClaimRequirement {
    let value = |text: &&str| ClaimValue::Text(Arc::from(*text));
    ClaimRequirement { path: ClaimPath::new(path).unwrap(), values: values.iter().map(value).collect() }
}

fn claims(values: &[(&str, &str)]) -> Claims {
    let claim =
        |(path, value): &(&str, &str)| (ClaimPath::new(path).unwrap(), ClaimValue::Text(Arc::from(*value)));
    Claims::new(values.iter().map(claim).collect())
}

fn login(text: &str) -> Subject {
    Subject::new(SubjectKind::Login, text.to_owned()).unwrap()
}

fn question<'a>(
    caller: &'a str,
    claims: &'a Claims,
    method: Method,
    user: Option<&'a Subject>,
) -> Question<'a> {
    Question {
        caller: Principal { name: caller, claims },
        token_use: TokenUse::plain(method),
        api_client: "eu2",
        user,
    }
}

#[test]
fn answer_has_the_deciding_rule_and_the_mismatch_of_each_rule() {
    let customers = Users::listed(SubjectKind::Login, &["*@customer.example"]);
    let rules = Rules::try_new(vec![
        RuleSettings { methods: Some(vec![Method::LoginWithOtt]), ..rule("", &["jwt:*"]) },
        RuleSettings { claims: vec![required("groups", &["ops"])], ..rule("ops", &["jwt:*"]) },
        RuleSettings { api_clients: Some(vec!["us*".to_owned()]), ..rule("", &["*"]) },
        RuleSettings { users: customers, ..rule("billing", &["jwt:*"]) },
        rule("", &["jwt:a"]),
    ])
    .unwrap();
    let (anna, ceo) = (login("anna@customer.example"), login("ceo@other.example"));
    let none = Claims::none();
    let issue = |user| rules.answer(question("jwt:a", &none, Method::IssueOtt, Some(user)));
    let answer = issue(&anna);
    assert_eq!(answer.deciding().unwrap().to_string(), "4 (billing)");
    assert_eq!(answer.charged(), answer.deciding());
    let verdicts: Vec<Verdict> = answer.verdicts().map(|(_, verdict)| verdict).collect();
    assert_eq!(
        verdicts,
        [
            Verdict::Mismatch(Mismatch::Method(Method::IssueOtt)),
            Verdict::Mismatch(Mismatch::Claim(ClaimPath::new("groups").unwrap())),
            Verdict::Mismatch(Mismatch::ApiClient),
            Verdict::Decides,
            Verdict::DecidedEarlier,
        ]
    );
    assert_eq!(issue(&ceo).deciding().unwrap().to_string(), "5");

    let other = rules.answer(question("jwt:b", &none, Method::IssueOtt, Some(&ceo)));
    assert_eq!((other.deciding(), other.denial()), (None, Some(AccessDenial::User)));
    let (closest, mismatch) = other.closest().unwrap();
    assert_eq!((closest.number, mismatch), (4, Mismatch::User(SubjectKind::Login)));
    let anonymous = rules.answer(question(ANONYMOUS, &none, Method::IssueOtt, Some(&ceo)));
    assert_eq!(anonymous.closest().unwrap().1, Mismatch::Anonymous);

    let ops = claims(&[("groups", "ops")]);
    let by_claim = rules.answer(question("jwt:b", &ops, Method::IssueOtt, Some(&ceo)));
    assert_eq!(by_claim.deciding().unwrap().to_string(), "2 (ops)");
}

#[test]
fn login_is_charged_by_the_first_rule_and_allowed_by_one_that_lists_the_account() {
    let of = |pattern: &str| Users::listed(SubjectKind::Login, &[pattern]);
    let rules = Rules::try_new(vec![
        RuleSettings { users: of("*@a"), ..rule("a", &["token:x"]) },
        RuleSettings { users: of("*@b"), ..rule("b", &["token:x"]) },
    ])
    .unwrap();
    let none = Claims::none();
    let answer = |user: &'static str| {
        let user = (!user.is_empty()).then(|| login(user));
        let answer = rules.answer(question("token:x", &none, Method::LoginWithOtt, user.as_ref()));
        let text = |rule: Option<RuleId>| rule.map(|rule| rule.to_string());
        (text(answer.deciding()), text(answer.charged()))
    };
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(answer(""), (some("1 (a)"), some("1 (a)")));
    assert_eq!(answer("u@a"), (some("1 (a)"), some("1 (a)")));
    assert_eq!(answer("u@b"), (some("2 (b)"), some("1 (a)")));
    assert_eq!(answer("u@c"), (None, some("1 (a)")));
}

#[test]
fn rule_whose_callers_an_earlier_rule_has_is_marked() {
    let claims = |values: &[&str]| vec![required("groups", values)];
    let rules = Rules::try_new(vec![
        RuleSettings { methods: Some(vec![Method::LoginWithOtt]), ..rule("", &["*"]) },
        RuleSettings { claims: claims(&["a", "b"]), ..rule("", &["jwt:*"]) },
        RuleSettings { claims: claims(&["a"]), ..rule("", &["jwt:x", "jwt:y*"]) },
        RuleSettings { claims: claims(&["a", "c"]), ..rule("", &["jwt:x"]) },
        rule("", &["jwt:x"]),
        rule("", &["jwt:x", "anonymous"]),
    ])
    .unwrap();
    let found: Vec<(usize, Option<usize>)> = rules
        .who(TokenUse::plain(Method::IssueOtt), "eu2", None)
        .into_iter()
        .map(|candidate| (candidate.rule.id.number, candidate.covered_by.map(|rule| rule.number)))
        .collect();
    assert_eq!(found, [(2, None), (3, Some(2)), (4, None), (5, None), (6, None)]);
}

#[test]
fn rule_is_covered_only_if_all_its_uses_of_tokens_are() {
    let by = |issuers: &[&str]| {
        let issued_by = Some(issuers.iter().map(|text| (*text).to_owned()).collect());
        RuleSettings { issued_by, ..rule("", &["jwt:x"]) }
    };
    let without_urls = || RuleSettings { login_urls: false, ..rule("", &["jwt:x"]) };
    let covered = |settings: &[RuleSettings], token_use| {
        let rules = Rules::try_new(settings.to_vec()).unwrap();
        let candidates = rules.who(token_use, "eu2", None).into_iter();
        candidates
            .map(|found| (found.rule.id.number, found.covered_by.map(|rule| rule.number)))
            .collect::<Vec<_>>()
    };
    let (issue, login) = (TokenUse::plain(Method::IssueOtt), TokenUse::plain(Method::LoginWithOtt));
    let by_issuer =
        [by(&["token:*"]), by(&["token:a", "dns:*"]), by(&["token:a", "token:b*"]), rule("", &["jwt:x"])];
    assert_eq!(covered(&by_issuer, login), [(1, None), (2, None), (3, Some(1)), (4, None)]);
    assert_eq!(covered(&by_issuer, issue), [(1, None), (2, Some(1)), (3, Some(1)), (4, Some(1))]);
    let of = |issuer| covered(&by_issuer, TokenUse::Login { issued_by: Some(issuer) });
    assert_eq!(of("dns:a"), [(2, None), (4, Some(2))], "each is for tokens of this caller");
    assert_eq!(of("token:c"), [(1, None), (4, Some(1))]);
    let by_url = [without_urls(), without_urls(), rule("", &["jwt:x"]), without_urls()];
    assert_eq!(covered(&by_url, issue), [(1, None), (2, Some(1)), (3, None), (4, Some(1))]);
    assert_eq!(covered(&by_url, TokenUse::Issue { login_url: true }), [(3, None)]);
    assert_eq!(covered(&by_url, login), [(1, None), (2, Some(1)), (3, Some(1)), (4, Some(1))]);
}

#[test]
fn sealed_login_is_charged_by_the_rule_that_decides() {
    let of = |pattern: &str| Users::listed(SubjectKind::Login, &[pattern]);
    let rules = Rules::try_new(vec![
        RuleSettings { users: of("*@a"), ..rule("a", &["token:x"]) },
        RuleSettings {
            users: of("*@b"),
            issued_by: Some(vec!["dns:*".to_owned()]),
            ..rule("b", &["token:x"])
        },
    ])
    .unwrap();
    let none = Claims::none();
    let answer = |user: &str, issued_by| {
        let user = login(user);
        let caller = Principal { name: "token:x", claims: &none };
        let token_use = TokenUse::Login { issued_by };
        let answer = rules.answer(Question { caller, token_use, api_client: "eu2", user: Some(&user) });
        [answer.deciding(), answer.charged()].map(|rule| rule.map(|rule| rule.number))
    };
    assert_eq!(answer("u@b", Some("dns:i")), [Some(2), Some(2)]);
    assert_eq!(answer("u@b", Some("jwt:i")), [None, None]);
    assert_eq!(answer("u@b", None), [None, Some(1)], "the account is checked after the quota");
    assert_eq!(answer("u@c", Some("dns:i")), [None, None], "the user is checked before the quota");
}

prop_compose! {
    fn any_rule()(
        callers in prop::collection::vec(prop_oneof![Just("anonymous".to_owned()), "(jwt:|token:)[ab*?]{1,3}"], 1..3),
        groups in prop::option::of(prop::sample::subsequence(vec!["a", "b"], 1..=2)),
        users in prop::option::of("[ab*]{1,2}"),
        methods in prop::option::of(Just(vec![Method::IssueOtt])),
        issued_by in prop::option::of(prop::collection::vec("token:[ab*?]{1,2}", 1..3)),
        login_urls in any::<bool>(),
    ) -> RuleSettings {
        RuleSettings {
            callers,
            claims: groups.map(|groups| required("groups", &groups)).into_iter().collect(),
            users: users.map_or(Users::All, |pattern| Users::listed(SubjectKind::Login, &[&pattern])),
            methods,
            issued_by,
            login_urls,
            ..rule("", &[])
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// The callers of `who` are those that the decision allows, and a mark never hides one.
    #[test]
    fn callers_of_an_answer_are_those_that_the_decision_allows(
        settings in prop::collection::vec(any_rule(), 1..5),
        caller in prop_oneof![1 => Just("anonymous".to_owned()), 8 => "(jwt:|token:)[ab]{1,3}"],
        groups in prop::sample::subsequence(vec!["a", "b", "c"], 0..=2),
        user in "[ab]{1,2}",
        is_login in any::<bool>(),
        issuer in prop::option::of("token:[ab]{1,2}"),
        login_url in any::<bool>(),
        is_any in any::<bool>(),
    ) {
        let token_use =
            if is_login { TokenUse::Login { issued_by: issuer.as_deref() } } else { TokenUse::Issue { login_url } };
        // Also asks about the callers for any use of the method.
        let asked = if is_any { TokenUse::plain(token_use.method()) } else { token_use };
        let rules = Rules::try_new(settings).unwrap();
        let (user, claims) = (login(&user), claims(&groups.iter().map(|group| ("groups", *group)).collect::<Vec<_>>()));
        let question =
            Question { token_use, ..question(&caller, &claims, token_use.method(), Some(&user)) };
        let answer = rules.answer(question);
        let allowing: Vec<usize> = answer
            .verdicts()
            .filter(|(_, verdict)| !matches!(verdict, Verdict::Mismatch(_)))
            .map(|(rule, _)| rule.id.number)
            .collect();
        let matches = |glob: &String| {
            if caller == ANONYMOUS { *glob == caller } else { wildmatch::WildMatch::new(glob).matches(&caller) }
        };
        let mut found = Vec::new();
        for candidate in rules.who(asked, "eu2", Some(&user)) {
            let rule = candidate.rule.settings;
            let is_issuer = |glob: &String| {
                issuer.as_ref().is_some_and(|issuer| wildmatch::WildMatch::new(glob).matches(issuer))
            };
            let allows_use = match token_use {
                TokenUse::Issue { login_url } => rule.login_urls || !login_url,
                TokenUse::Login { .. } => rule.issued_by.as_ref().is_none_or(|globs| globs.iter().any(is_issuer)),
            };
            // A question about one use returns no rule that does not allow it; no issuer means any token.
            prop_assert!(allows_use || asked == TokenUse::plain(token_use.method()));
            if rule.callers.iter().any(matches) && claims.meet(&rule.claims) && allows_use {
                if let Some(earlier) = candidate.covered_by {
                    prop_assert!(found.contains(&earlier.number), "{earlier} covers {}", candidate.rule.id);
                }
                found.push(candidate.rule.id.number);
            }
        }
        prop_assert_eq!(found, allowing);
        prop_assert_eq!(answer.deciding().is_some(), answer.is_allowed());
        let closest = answer.closest().map(|(_, mismatch)| mismatch.part());
        prop_assert!(answer.is_allowed() || closest == answer.denial());
    }
}
