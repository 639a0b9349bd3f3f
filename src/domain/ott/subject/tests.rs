use proptest::prelude::*;

use super::{
    SubjectKind::{ExternalId, Login, UserId},
    *,
};
use crate::domain::ott::{SubjectPattern, Users};

const KINDS: [SubjectKind; 3] = [Login, ExternalId, UserId];
const UUID: &str = "3f2504e0-4f89-11d3-9a0c-0305e82c3301";

fn subject(kind: SubjectKind, text: &str) -> Subject {
    Subject::new(kind, text.to_owned()).unwrap_or_else(|fault| panic!("{text:?}: {fault}"))
}

fn refused(kind: SubjectKind, text: &str) -> InvalidSubject {
    Subject::new(kind, text.to_owned()).expect_err(text)
}

#[test]
fn all_spellings_of_a_uuid_are_one_user() {
    let simple = UUID.replace('-', "");
    for spelling in [
        UUID.to_owned(),
        UUID.to_uppercase(),
        simple.clone(),
        simple.to_uppercase(),
        format!("{{{UUID}}}"),
        format!("({simple})"),
        format!("[{UUID}]"),
        format!("urn:uuid:{UUID}"),
        format!("URN:UUID:{}", UUID.to_uppercase()),
        format!("urn:uuid:{{{simple}}}"),
        "3f25-04e0-4f89-11d3-9a0c-0305e82c3301".to_owned(),
        "3f25\u{ff10}4e0-4f89-11d3-9a0c-0305e82c3301".to_owned(),
    ] {
        let user = subject(UserId, &spelling);
        assert_eq!((user.canonical(), user.as_sent()), (UUID, &*spelling));
        assert_eq!(user.quota_key(), subject(UserId, UUID).quota_key());
    }
    for other in
        ["3f2504e0-4f89-11d3-9a0c-0305e82c330", "3f2504e0-4f89-11d3-9a0c-0305e82c33010", "7", "2955-43uc"]
    {
        assert_eq!(subject(UserId, other).canonical(), other, "an opaque id");
    }
}

#[test]
fn lenient_spelling_of_a_uuid_shares_its_quota_and_matches_no_rule_for_it() {
    let uuid = "002504e0-0f89-00d3-000c-0305e82c3301";
    for spelling in [
        "2504e0-f89-d3-c-305e82c3301",
        "2504E0-0f89-0d3-0c-0305e82c3301",
        "00002504e0-00f89-00d3-000c-000305e82c3301",
        "x002504e0-0f89-00d3-000c-0305e82c3301y",
        "\"002504e0-0f89-00d3-000c-0305e82c3301\"",
    ] {
        let user = subject(UserId, spelling);
        assert_eq!(user.quota_key(), subject(UserId, uuid).quota_key(), "{spelling}");
        assert!(!Users::listed(UserId, &[uuid]).contain(&user), "{spelling}");
        assert_eq!((user.canonical(), user.as_sent()), (spelling, spelling));
    }
    for other in [
        "12504e0-f89-d3-c-305e82c3301",
        "2504e0-f89-d3-c-305e82c3301-0",
        "2504e0-f89-d3--305e82c3301",
        "2504e0-f89-d3-g-305e82c3301",
        "xx002504e0-0f89-00d3-000c-0305e82c3301y",
        "\u{e4}02504e0-0f89-00d3-000c-0305e82c3301y",
        "-----",
    ] {
        assert_ne!(subject(UserId, other).quota_key(), subject(UserId, uuid).quota_key(), "{other}");
    }
}

#[test]
fn logins_are_folded_and_external_ids_are_not() {
    for (spelling, canonical) in [
        ("anna@x", "anna@x"),
        ("Anna@X", "anna@x"),
        ("\u{ff21}nna@x", "anna@x"),
        ("a\u{308}@x", "\u{e4}@x"),
        ("A\u{308}@x", "\u{e4}@x"),
        ("\u{39f}\u{394}\u{39f}\u{3a3}@x", "\u{3bf}\u{3b4}\u{3bf}\u{3c3}@x"),
        ("\u{3bf}\u{3b4}\u{3bf}\u{3c2}@x", "\u{3bf}\u{3b4}\u{3bf}\u{3c3}@x"),
        ("stra\u{1e9e}e@x", "stra\u{df}e@x"),
        ("\u{131}@x", "\u{131}@x"),
        ("anna@customer\u{3002}example", "anna@customer.example"),
        ("anna@customer\u{ff61}example", "anna@customer.example"),
        ("anna maria", "anna maria"),
    ] {
        assert_eq!(subject(Login, spelling).canonical(), canonical, "{spelling:?}");
        assert_eq!(subject(ExternalId, spelling).canonical(), spelling);
        assert_eq!(
            subject(Login, spelling).as_sent(),
            spelling,
            "the platform receives the original spelling"
        );
    }
    assert_ne!(subject(Login, "stra\u{df}e").canonical(), subject(Login, "strasse").canonical());
}

#[test]
fn kinds_of_users_have_separate_quotas_and_spellings_of_opaque_ids_share_one() {
    for one in KINDS {
        for other in KINDS {
            let same = subject(one, "a").quota_key() == subject(other, "a").quota_key();
            assert_eq!(same, one == other);
        }
        assert_eq!(subject(one, "Ab").quota_key(), subject(one, "aB").quota_key());
        assert_ne!(subject(one, "ab").quota_key(), subject(one, "ac").quota_key());
    }
}

#[test]
fn ambiguous_names_are_refused() {
    use InvalidSubject as Invalid;
    for kind in KINDS {
        for (text, fault) in [
            ("", Invalid::Empty),
            (" a", Invalid::OuterSpace),
            ("a ", Invalid::OuterSpace),
            ("a\u{a0}", Invalid::OtherWhitespace),
            ("a\u{3000}b", Invalid::OtherWhitespace),
            ("a\tb", Invalid::ControlCharacter),
            ("a\u{7f}", Invalid::ControlCharacter),
            ("a\u{85}b", Invalid::ControlCharacter),
            ("\u{e4}\u{2028}b", Invalid::ControlCharacter),
            ("a\u{ad}b", Invalid::InvisibleCharacter),
            ("a\u{200b}", Invalid::InvisibleCharacter),
            ("\u{feff}a", Invalid::InvisibleCharacter),
            ("a\u{202e}b", Invalid::InvisibleCharacter),
            ("a\u{3164}", Invalid::InvisibleCharacter),
            ("a\u{fe0f}", Invalid::InvisibleCharacter),
            ("a\u{e0061}", Invalid::InvisibleCharacter),
            ("a\u{2800}", Invalid::InvisibleCharacter),
            ("a\u{ffff}", Invalid::InvisibleCharacter),
            ("\u{fdd0}a", Invalid::InvisibleCharacter),
        ] {
            assert_eq!(refused(kind, text), fault, "{text:?}");
        }
        assert_eq!(refused(kind, &"a".repeat(255)), Invalid::TooLong);
        assert_eq!(subject(kind, &"a".repeat(254)).as_sent().len(), 254);
    }
    // Folding makes the name longer, or inserts a leading space.
    assert_eq!(refused(Login, &"\u{fdfa}".repeat(50)), Invalid::TooLong);
    assert_eq!(refused(Login, "\u{a8}a"), Invalid::OuterSpace);
    for text in ["a@x.", "A@x.", "a@x\u{3002}", "a@x\u{ff0e}", "\u{e4}@x."] {
        assert_eq!(refused(Login, text), Invalid::TrailingDot, "{text:?}");
    }
    assert_eq!(subject(Login, "john.").canonical(), "john.");
}

#[test]
fn user_lists_compare_canonical_forms() {
    let listed = |kind, pattern| Users::listed(kind, &[pattern]);
    for pattern in
        [UUID, "3F2504E0-4F89-11D3-9A0C-0305E82C3301", "{3f2504e04f8911d39a0c0305e82c3301}", "3F25*"]
    {
        for spelling in
            [UUID, "3F2504E0-4F89-11D3-9A0C-0305E82C3301", "urn:uuid:3f2504e04f8911d39a0c0305e82c3301"]
        {
            assert!(listed(UserId, pattern).contain(&subject(UserId, spelling)), "{pattern} {spelling}");
            assert!(!listed(Login, pattern).contain(&subject(UserId, spelling)));
        }
    }
    assert!(listed(UserId, "Ab*").contain(&subject(UserId, "Abc")));
    assert!(!listed(UserId, "Ab*").contain(&subject(UserId, "abc")), "opaque ids are case-sensitive");
    assert!(listed(Login, "*@CUSTOMER.example").contain(&subject(Login, "Anna@customer.EXAMPLE")));
    // The platform may have another user of that name.
    for lookalike in
        ["anna@customer\u{ff0e}example", "anna@customer\u{3002}example", "ann\u{ff41}@customer.example"]
    {
        assert_eq!(subject(Login, lookalike).canonical(), "anna@customer.example");
        assert!(!listed(Login, "*@customer.example").contain(&subject(Login, lookalike)), "{lookalike}");
        assert!(Users::All.contain(&subject(Login, lookalike)));
    }
    assert!(!Users::Listed(Vec::new()).contain(&subject(Login, "a")));
}

#[test]
fn pattern_that_matches_no_valid_name_is_refused() {
    let fault = |kind, text| SubjectPattern::new(kind, text).expect_err(text);
    assert_eq!(fault(Login, " *@x"), InvalidSubject::OuterSpace);
    assert_eq!(fault(ExternalId, "a\u{200b}*"), InvalidSubject::InvisibleCharacter);
    assert_eq!(fault(Login, "*@x."), InvalidSubject::TrailingDot);
    assert_eq!(
        fault(Login, "\u{ff0a}"),
        InvalidSubject::FormOfAscii,
        "folding would turn it into a wildcard"
    );
    assert_eq!(fault(Login, "*@x\u{3002}example"), InvalidSubject::FormOfAscii);
}

#[test]
fn spelling_alone_does_not_distinguish_names_in_responses() {
    let anna = subject(Login, "Anna@x");
    for found in ["Anna@x", "anna@X", " anna@x\u{200b}", "\u{ff21}nna@x"] {
        assert_eq!(anna.is_named(found), Some(true), "{found:?}");
    }
    assert_eq!(anna.is_named("anne@x"), Some(false));
    assert_eq!(subject(ExternalId, "Ab").is_named("aB"), Some(true));
    assert_eq!(subject(UserId, &UUID.to_uppercase()).is_named(UUID), Some(true));
    assert_eq!(subject(UserId, UUID).is_named("00000000-0000-0000-0000-000000000000"), Some(false));
    assert_eq!(subject(UserId, UUID).is_named("2955-43uc"), None);
    assert_eq!(subject(UserId, "2955-43uc").is_named(UUID), None);
}

#[test]
fn exact_comparison_folds_only_logins_and_decides_about_every_id() {
    assert!(subject(Login, "Anna@x").is_exactly_named("anna@X"));
    assert!(!subject(Login, "anna@x").is_exactly_named("anne@x"));
    assert!(subject(ExternalId, "Ab").is_exactly_named("Ab"));
    assert!(!subject(ExternalId, "Ab").is_exactly_named("aB"));
    assert!(subject(UserId, &UUID.to_uppercase()).is_exactly_named(UUID));
    assert!(subject(UserId, "2955-43uc").is_exactly_named("2955-43uc"));
    for (ours, found) in [
        (UUID, "00000000-0000-0000-0000-000000000000"),
        (UUID, "2955-43uc"),
        ("2955-43uc", UUID),
        ("2955-43uc", "2955-43ud"),
    ] {
        assert!(!subject(UserId, ours).is_exactly_named(found), "{ours} {found}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2048))]

    #[test]
    fn canonical_form_is_idempotent(kind in prop::sample::select(KINDS.to_vec()), text in "\\PC{1,12}") {
        if let Ok(user) = Subject::new(kind, text.clone()) {
            prop_assert_eq!(user.as_sent(), &text);
            let again = subject(kind, user.canonical());
            prop_assert_eq!(again.canonical(), user.canonical());
            prop_assert_eq!(again.quota_key(), user.quota_key());
            prop_assert_eq!(again.as_sent(), again.canonical());
        }
    }

    /// Any text with an invisible character or a space at either end is refused.
    #[test]
    fn invisible_characters_and_outer_spaces_are_refused(
        kind in prop::sample::select(KINDS.to_vec()), text in "\\PC{0,6}", at in any::<prop::sample::Index>(),
        inserted in any::<char>().prop_filter("an invisible character", |&c| {
            is_unprintable(c) || c.is_control() || (c.is_whitespace() && c != ' ')
        }),
    ) {
        let mut text: Vec<char> = text.chars().collect();
        text.insert(at.index(text.len() + 1), inserted);
        prop_assert!(Subject::new(kind, text.iter().collect()).is_err());
        prop_assert!(Subject::new(kind, "a ".to_owned()).is_err());
    }

    #[test]
    fn all_spellings_of_a_login_share_one_quota(login in "[a-z0-9.+]{1,8}@[a-z]{1,8}", choices in any::<u32>()) {
        let spelled: String = login.chars().enumerate().map(|(at, c)| match choices >> (at % 16 * 2) & 3 {
            0 => c,
            1 => c.to_ascii_uppercase(),
            // Full-width form.
            2 => char::from_u32(u32::from(c) - 0x20 + 0xff00).unwrap(),
            _ => char::from_u32(u32::from(c.to_ascii_uppercase()) - 0x20 + 0xff00).unwrap(),
        }).collect();
        let (user, plain) = (subject(Login, &spelled), subject(Login, &login));
        prop_assert_eq!(user.quota_key(), plain.quota_key());
        prop_assert_eq!(user.canonical(), &login);
    }

    #[test]
    fn all_spellings_of_a_uuid_share_one_quota(bytes in any::<[u8; 16]>(), form in 0..4, upper in any::<bool>()) {
        let uuid = uuid::Uuid::from_bytes(bytes);
        let spelled = match form {
            0 => uuid.simple().to_string(),
            1 => uuid.urn().to_string(),
            2 => uuid.braced().to_string(),
            _ => uuid.hyphenated().to_string(),
        };
        let spelled = if upper { spelled.to_uppercase() } else { spelled };
        let user = subject(UserId, &spelled);
        prop_assert_eq!(user.canonical(), uuid.hyphenated().to_string());
    }
}

proptest! {
    #[test]
    fn canonical_form_of_a_user_without_form_may_be_that_of_one(
        name in prop_oneof!["[a-z@.\u{ff41}-\u{ff43}\u{3002}\u{e4}]{1,8}", "\\PC{1,8}"],
        position in 0..36_usize,
        kind in proptest::sample::select(KINDS.to_vec()),
    ) {
        let mut uuid: Vec<char> = UUID.chars().collect();
        let wide = u32::from(uuid[position]) - u32::from('!') + 0xff01;
        uuid[position] = char::from_u32(wide).unwrap();
        for name in [name, uuid.into_iter().collect()] {
            let Ok(user) = Subject::new(kind, name) else { continue };
            let again = subject(kind, user.canonical());
            prop_assert_eq!(again.canonical(), user.canonical());
            prop_assert!(again.form().is_some());
            prop_assert!(user.form() == again.form() || again.has_spellings_without_form());
        }
    }
}
