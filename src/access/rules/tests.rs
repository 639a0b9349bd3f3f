use proptest::prelude::*;

use super::*;
use crate::{
    access::Verdict,
    caller::{ANONYMOUS, ClaimValue, Claims},
    domain::ott::{
        SubjectKind::{self, ExternalId, Login, UserId},
        SubjectPattern,
    },
};

mod token_uses;

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

/// Returns the position of the rule that decides a call.
fn decide(
    rules: &Rules,
    caller: &str,
    method: Method,
    api_client: &str,
    user: Option<&Subject>,
) -> Result<usize, AccessDenial> {
    let admitting = rules.admitting(principal(caller), method)?;
    let allowing = rules.allowing(&admitting, TokenUse::plain(method), api_client, user)?;
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
    assert_eq!(with(|rule| rule.issued_by = Some(vec![])), Invalid::EmptyList { rule: 2, list: "issued_by" });
    assert_eq!(
        with(|rule| rule.issued_by = Some(texts(&["dns:a", "ano*"]))),
        Invalid::ImpossibleCaller { rule: 2, entry: "ano*".to_owned() }
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

/// A call, for the reference implementation.
struct PlainCall<'a> {
    caller: &'a str,
    claims: &'a Claims,
    token_use: TokenUse<'a>,
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
    } else if !plainly_has_claims(rule, call.claims) {
        Some(AccessDenial::Claims)
    } else if rule.methods.as_ref().is_some_and(|named| !named.contains(&call.token_use.method())) {
        Some(AccessDenial::Method)
    } else if rule.api_clients.as_ref().is_some_and(|globs| !any(globs, call.api_client)) {
        Some(AccessDenial::ApiClient)
    } else if let Some(denial) = plain_mismatch_of_token(rule, call.token_use) {
        Some(denial)
    } else if call.user.is_some_and(|user| !rule.users.contain(user)) {
        Some(AccessDenial::User)
    } else {
        None
    }
}

fn plain_mismatch_of_token(rule: &RuleSettings, token_use: TokenUse<'_>) -> Option<AccessDenial> {
    match token_use {
        TokenUse::Issue { login_url } => (login_url && !rule.login_urls).then_some(AccessDenial::LoginUrl),
        TokenUse::Login { issued_by } => {
            let issuers = rule.issued_by.as_ref()?;
            let is_match = issued_by.is_some_and(|issuer| any_names(issuers, issuer));
            (!is_match).then_some(AccessDenial::Issuer)
        }
    }
}

fn plainly_names(rule: &RuleSettings, caller: &str) -> bool {
    any_names(&rule.callers, caller)
}

fn any_names(entries: &[String], caller: &str) -> bool {
    if caller == "anonymous" {
        entries.iter().any(|entry| entry == "anonymous")
    } else {
        entries.iter().any(|glob| plainly_matches(glob, caller))
    }
}

fn plainly_has_claims(rule: &RuleSettings, claims: &Claims) -> bool {
    rule.claims.iter().all(|required| {
        claims.iter().any(|(path, value)| *path == required.path && required.values.contains(value))
    })
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

fn any_callers() -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec(
        prop_oneof![
            Just("anonymous".to_owned()),
            "(dns:|jwt:)[ab*?]{1,3}",
            Just("*".to_owned()),
            "\\*[ab]{1,2}"
        ],
        1..3,
    )
}

/// Unlimited in half of the cases.
fn any_token_limits() -> impl Strategy<Value = (Option<Vec<String>>, bool)> {
    prop_oneof![Just((None, true)), (prop::option::of(any_callers()), any::<bool>()),]
}

fn any_token_use() -> impl Strategy<Value = (bool, bool, Option<String>)> {
    let issuer =
        prop::option::of(prop_oneof![1 => Just("anonymous".to_owned()), 4 => "(dns:|jwt:)[ab]{1,3}"]);
    (any::<bool>(), any::<bool>(), issuer)
}

fn any_rule() -> impl Strategy<Value = RuleSettings> {
    let callers = any_callers();
    let methods =
        prop::option::of(prop::sample::subsequence(vec![Method::IssueOtt, Method::LoginWithOtt], 1..=2));
    (callers, any_requirements(), methods, any_list(), any_token_limits(), any_users()).prop_map(
        |(callers, claims, methods, api_clients, (issued_by, login_urls), users)| RuleSettings {
            claims,
            methods,
            api_clients,
            issued_by,
            login_urls,
            ..RuleSettings::new(callers, users)
        },
    )
}

fn any_path() -> impl Strategy<Value = ClaimPath> {
    prop::sample::select(vec!["groups", "a/b", "a", "scope"]).prop_map(|text| ClaimPath::new(text).unwrap())
}

fn any_claim_value() -> impl Strategy<Value = ClaimValue> {
    prop_oneof![
        "[ab]{1,2}".prop_map(|text| ClaimValue::Text(text.into())),
        (0..3_i64).prop_map(ClaimValue::Integer),
        any::<bool>().prop_map(ClaimValue::Boolean),
    ]
}

/// Often none, else the requirements of a rule.
fn any_requirements() -> impl Strategy<Value = Vec<ClaimRequirement>> {
    let values = prop::collection::vec(any_claim_value(), 1..4);
    let required = prop::collection::btree_map(any_path(), values, 1..3).prop_map(|required| {
        required.into_iter().map(|(path, values)| ClaimRequirement { path, values }).collect()
    });
    prop_oneof![2 => Just(Vec::new()), 1 => required]
}

/// The claims of a caller, none unless it has a JWT.
fn any_claims(caller: &str) -> impl Strategy<Value = Claims> + use<> {
    let number = if caller.starts_with("jwt:") { 0..8 } else { 0..1 };
    prop::collection::vec((any_path(), any_claim_value()), number).prop_map(Claims::new)
}

fn any_caller() -> impl Strategy<Value = (String, Claims)> {
    prop_oneof![1 => Just("anonymous".to_owned()), 2 => "dns:[ab]{1,3}", 4 => "jwt:[ab]{1,3}"]
        .prop_flat_map(|caller| (Just(caller.clone()), any_claims(&caller)))
}

/// Few rules, or more than fit into one word of a set.
fn any_rules() -> impl Strategy<Value = Vec<RuleSettings>> {
    prop_oneof![7 => prop::collection::vec(any_rule(), 1..5), 1 => prop::collection::vec(any_rule(), 60..80)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    /// The index and a scan of all rules return the same rule or the same denial, and so do answers.
    #[test]
    fn index_decides_like_a_scan_of_all_rules(
        settings in any_rules(),
        (caller, claims) in any_caller(),
        api_client in "[aAb]{1,3}",
        (is_issue, login_url, issued_by) in any_token_use(),
        user in prop::option::of(any_user()),
    ) {
        let token_use = match &user {
            // The user of an issued or sealed token is known.
            Some(_) if is_issue => TokenUse::Issue { login_url },
            Some(_) => TokenUse::Login { issued_by: issued_by.as_deref() },
            None => TokenUse::Login { issued_by: None },
        };
        let method = token_use.method();
        let (api_client, user) = (api_client.as_str(), user.as_ref());
        let call = PlainCall { caller: &caller, claims: &claims, token_use, api_client, user };
        let expected = plain_decision(&settings, &call);
        let rules = Rules::try_new(settings.clone()).unwrap();
        let principal = Principal { name: &caller, claims: &claims };

        let admitting = rules.admitting(principal, method);
        let decided = admitting.clone().and_then(|admitting| rules.allowing(&admitting, token_use, api_client, user));
        prop_assert_eq!(decided.clone().map(|allowing| allowing.first().unwrap()), expected);
        let answer = rules.answer(Question { caller: principal, token_use, api_client, user });
        prop_assert_eq!(answer.deciding().map(|rule| rule.number), expected.ok().map(|position| position + 1));
        prop_assert_eq!(answer.verdicts().count(), settings.len());
        for (position, ((_, verdict), rule)) in answer.verdicts().zip(&settings).enumerate() {
            let found = match verdict {
                Verdict::Mismatch(mismatch) => Err(mismatch.part()),
                Verdict::Decides => Ok(true),
                Verdict::DecidedEarlier => Ok(false),
            };
            let applies = plain_mismatch(rule, &call).map_or(Ok(expected == Ok(position)), Err);
            prop_assert_eq!(found, applies);
        }
        let named = settings.iter().position(|rule| plainly_names(rule, &caller));
        prop_assert_eq!(rules.index.for_caller(&caller).first(), named);
        let mentioned =
            settings.iter().position(|rule| plainly_names(rule, &caller) && plainly_has_claims(rule, &claims));
        prop_assert_eq!(rules.for_caller(principal).ok().and_then(|rules| rules.first()), mentioned);
        let denial = if named.is_some() { AccessDenial::Claims } else { AccessDenial::Caller };
        prop_assert_eq!(rules.mentions(principal), mentioned.map(|_| ()).ok_or(denial));
        prop_assert!(expected.is_err() || admitting.is_ok(), "allowed calls are also admitted");

        let evidence = decided.ok().and_then(|allowing| rules.deciding_claims(&allowing, &claims));
        let required = expected.map_or(&[][..], |position| &settings[position].claims);
        let shown: Option<serde_json::Map<_, _>> =
            evidence.map(|evidence| serde_json::from_str(evidence.get()).unwrap());
        prop_assert_eq!(shown.as_ref().map_or(0, serde_json::Map::len), required.len());
        for claim in required {
            let shown = &shown.as_ref().unwrap()[claim.path.as_str()];
            let is_shown = |value: &ClaimValue| {
                serde_json::to_value(value).unwrap() == *shown
                    && claims.iter().any(|own| *own == (claim.path.clone(), value.clone()))
            };
            prop_assert!(claim.values.iter().any(is_shown), "{}", shown);
        }
    }

    /// Users of a login are checked once the account is known, against all rules that allow the
    /// login.
    #[test]
    fn account_of_a_login_is_allowed_if_and_only_if_some_rule_allows_it(
        settings in any_rules(),
        (caller, claims) in any_caller(),
        api_client in "[aAb]{1,3}",
        names in prop::collection::vec(any_user(), 0..3),
    ) {
        let token_use = TokenUse::plain(Method::LoginWithOtt);
        let rules = Rules::try_new(settings.clone()).unwrap();
        let allows = |user: Option<&Subject>| {
            let call = PlainCall { caller: &caller, claims: &claims, token_use, api_client: &api_client, user };
            settings.iter().map(|rule| plain_mismatch(rule, &call).is_none()).collect::<Vec<_>>()
        };
        let principal = Principal { name: &caller, claims: &claims };
        let Ok(allowing) = rules.admitting(principal, token_use.method())
            .and_then(|admitting| rules.allowing(&admitting, token_use, &api_client, None))
        else {
            prop_assert!(!allows(None).contains(&true));
            return Ok(());
        };
        // The first rule that is for all users or for one of the names.
        let by_name: Vec<Vec<bool>> = names.iter().map(|name| allows(Some(name))).collect();
        let decides = |(position, allows): (usize, &bool)| {
            *allows && (settings[position].users == Users::All || by_name.iter().any(|by| by[position]))
        };
        let expected = allows(None).iter().enumerate().position(decides);
        let mut is_asked = false;
        let of_account = rules.for_account(&allowing, || {
            is_asked = true;
            names.clone()
        });
        prop_assert_eq!(of_account.first(), expected);
        let first = &settings[allowing.first().unwrap()];
        prop_assert_eq!(is_asked, first.users != Users::All, "names are only read if they matter");
        // An answer decides like the check of an account with one name.
        for name in &names {
            let of_account = rules.for_account(&allowing, || vec![name.clone()]).first();
            let question = Question { caller: principal, token_use, api_client: &api_client, user: Some(name) };
            let deciding = rules.answer(question).deciding();
            prop_assert_eq!(deciding.map(|rule| rule.number), of_account.map(|position| position + 1));
        }
    }
}

/// The rules and values of one of 1,000 namespaces are found without checking each rule.
#[test]
fn rules_with_claims_find_the_rule_of_each_value() {
    let namespace = || ClaimPath::new("kubernetes.io/namespace").unwrap();
    let value = |number: usize| ClaimValue::Text(format!("ns-{number}").into());
    let with = |values: Vec<ClaimValue>| RuleSettings {
        claims: vec![ClaimRequirement { path: namespace(), values }],
        ..rule(&["jwt:*"])
    };
    let rules = Rules::try_new((0..1000).map(|number| with(vec![value(number)])).collect()).unwrap();
    for number in [0, 1, 63, 64, 500, 999] {
        let claims = Claims::new(vec![(namespace(), value(number))]);
        let caller = Principal { name: "jwt:a", claims: &claims };
        assert_eq!(rules.admitting(caller, Method::IssueOtt).unwrap().first(), Some(number));
        let others = Principal { name: "dns:a", claims: &claims };
        assert_eq!(rules.admitting(others, Method::IssueOtt), Err(AccessDenial::Caller));
    }
    let unknown = Claims::new(vec![(namespace(), value(1000))]);
    for claims in [&unknown, &Claims::none()] {
        let caller = Principal { name: "jwt:a", claims };
        assert_eq!(rules.admitting(caller, Method::IssueOtt), Err(AccessDenial::Claims));
        assert!(rules.first_for(caller).is_none());
    }
}

#[test]
fn number_of_different_claims_is_limited() {
    let with = |number: usize| RuleSettings {
        claims: (0..number)
            .map(|number| ClaimRequirement {
                path: ClaimPath::new(&format!("claim-{number}")).unwrap(),
                values: vec![ClaimValue::Boolean(true)],
            })
            .collect(),
        ..rule(&["jwt:*"])
    };
    assert!(Rules::try_new(vec![with(MAX_REQUESTED_CLAIMS); 3]).is_ok(), "each counts once");
    let too_many = Rules::try_new(vec![with(MAX_REQUESTED_CLAIMS + 1)]);
    assert_eq!(too_many.unwrap_err(), InvalidRules::TooManyClaims);
}
