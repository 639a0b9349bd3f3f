use super::*;

fn path(text: &str) -> ClaimPath {
    ClaimPath::new(text).unwrap()
}

fn text(text: &str) -> ClaimValue {
    ClaimValue::Text(Arc::from(text))
}

#[test]
fn names_of_a_path_are_unescaped() {
    let names = |text: &str| path(text).names().collect::<Vec<_>>();
    assert_eq!(names("groups"), ["groups"]);
    assert_eq!(names("kubernetes.io/namespace"), ["kubernetes.io", "namespace"]);
    assert_eq!(names("https:~1~1example.com~1roles"), ["https://example.com/roles"]);
    assert_eq!(names("a~01/b~0"), ["a~1", "b~"]);
}

#[test]
fn path_that_names_no_claim_is_refused() {
    for text in ["", "/groups", "a//b", "a/"] {
        assert_eq!(ClaimPath::new(text), Err(InvalidClaimPath::EmptyName), "{text}");
    }
    for text in ["~", "a~", "a~2", "~~1"] {
        assert_eq!(ClaimPath::new(text), Err(InvalidClaimPath::Escape), "{text}");
    }
    assert_eq!(ClaimPath::new(&"a".repeat(256)), Err(InvalidClaimPath::Size));
    assert_eq!(ClaimPath::new("a/a/a/a/a/a/a/a/a"), Err(InvalidClaimPath::Size));
}

#[test]
fn requirements_are_met_if_each_claim_has_an_accepted_value() {
    let claims = Claims::new(vec![
        (path("groups"), text("b")),
        (path("groups"), text("a")),
        (path("admin"), ClaimValue::Boolean(true)),
    ]);
    let required = |path_text: &str, values: &[ClaimValue]| ClaimRequirement {
        path: path(path_text),
        values: values.to_vec(),
    };
    assert!(claims.meet(&[]));
    assert!(claims.meet(&[required("groups", &[text("x"), text("b")])]));
    assert!(
        claims.meet(&[required("groups", &[text("a")]), required("admin", &[ClaimValue::Boolean(true)])])
    );
    assert!(!claims.meet(&[required("groups", &[text("c")])]));
    assert!(!claims.meet(&[required("groups", &[text("a")]), required("absent", &[text("a")])]));
    assert!(!claims.meet(&[required("admin", &[text("true")])]), "types are not converted");
    assert!(!Claims::default().meet(&[required("groups", &[text("a")])]));
}

#[test]
fn evidence_is_one_printable_object_with_the_first_accepted_value_of_each_claim() {
    let required = |path_text: &str, values: &[ClaimValue]| ClaimRequirement {
        path: path(path_text),
        values: values.to_vec(),
    };
    let claims = Claims::new(vec![
        (path("groups"), text("b")),
        (path("groups"), text("a")),
        (path("level"), ClaimValue::Integer(-7)),
        (path("\u{202e}admin"), ClaimValue::Boolean(true)),
        (path("line"), text("a\n\"\u{2028}\u{e9}")),
        (path("other"), text("x")),
    ]);
    let evidence = |required: &[ClaimRequirement]| claims.evidence(required).map(|it| it.get().to_owned());
    assert_eq!(evidence(&[]), None);
    let shown = evidence(&[
        required("line", &[text("a\n\"\u{2028}\u{e9}")]),
        required("level", &[ClaimValue::Integer(-7)]),
        required("groups", &[text("c"), text("b"), text("a")]),
        required("\u{202e}admin", &[ClaimValue::Boolean(true)]),
    ])
    .unwrap();
    assert_eq!(
        shown,
        "{\"groups\":\"a\",\"level\":-7,\"line\":\"a\\n\\\"\\u2028\u{e9}\",\"\\u202eadmin\":true}"
    );
    assert!(serde_json::from_str::<serde_json::Value>(&shown).is_ok());
}
