use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::caller::{ClaimPath, ClaimValue};

fn path(text: &str) -> ClaimPath {
    ClaimPath::new(text).unwrap()
}

fn text(text: &str) -> ClaimValue {
    ClaimValue::Text(Arc::from(text))
}

fn required(path_text: &str, values: &[ClaimValue]) -> ClaimRequirement {
    ClaimRequirement { path: path(path_text), values: values.to_vec() }
}

fn read(requested: &RequestedClaims, payload: &str) -> Result<Claims, ClaimsError> {
    requested.0.as_ref().map_or(Ok(Claims::none()), |request| request.read(payload.as_bytes()))
}

/// Whether a payload has one of the values of a claim.
fn has(payload: &str, path: &str, values: &[ClaimValue]) -> bool {
    let required = required(path, values);
    let claims = read(&RequestedClaims::new([&required]), payload).unwrap();
    claims.meet(&[required])
}

#[test]
fn claim_has_the_value_of_its_member_or_of_an_element_of_its_array() {
    let a = [text("a")];
    for (payload, path, values) in [
        (r#"{"groups": "a"}"#, "groups", &a[..]),
        (r#"{"groups": ["b", "a"]}"#, "groups", &a),
        (r#"{"groups": [[1], {"x": "y"}, null, 1.5, "a"]}"#, "groups", &a),
        (r#"{"groups": "\u0061"}"#, "groups", &a),
        (r#"{"\u0067roups": "a"}"#, "groups", &a),
        (r#"{"x": {"y": {"z": "a"}}}"#, "x/y/z", &a),
        (r#"{"x": {"y": ["a"]}, "other": [[[{}]]]}"#, "x/y", &a),
        (r#"{"https://example.com/roles": ["a"]}"#, "https:~1~1example.com~1roles", &a),
        (r#"{"n": 7}"#, "n", &[ClaimValue::Integer(7)]),
        (r#"{"n": -9223372036854775808}"#, "n", &[ClaimValue::Integer(i64::MIN)]),
        (r#"{"n": 9223372036854775807}"#, "n", &[ClaimValue::Integer(i64::MAX)]),
        (r#"{"n": [false, true]}"#, "n", &[ClaimValue::Boolean(true)]),
        (r#"{"groups": ""}"#, "groups", &[text("")]),
        (r#"{"x": {"y": "a"}, "x.y": 1}"#, "x/y", &a),
    ] {
        assert!(has(payload, path, values), "{payload}");
    }
}

#[test]
fn nothing_else_is_a_value() {
    let a = [text("a")];
    for (payload, path, values) in [
        ("{}", "groups", &a[..]),
        (r#"{"groups": "A"}"#, "groups", &a),
        (r#"{"groups": "a "}"#, "groups", &a),
        (r#"{"groups": "a b"}"#, "groups", &a),
        (r#"{"groups": null}"#, "groups", &a),
        (r#"{"groups": {"a": true}}"#, "groups", &a),
        (r#"{"groups": {"0": "a"}}"#, "groups", &a),
        (r#"{"groups": [["a"]]}"#, "groups", &a),
        (r#"{"groups": [{"groups": "a"}]}"#, "groups", &a),
        (r#"{"groups": []}"#, "groups", &a),
        (r#"{"x": [{"y": "a"}]}"#, "x/y", &a),
        (r#"{"x/y": "a"}"#, "x/y", &a),
        (r#"{"y": "a", "x": {}}"#, "x/y", &a),
        (r#"{"x": "a"}"#, "x/y", &a),
        (r#"{"x": {"groups": "a"}}"#, "groups", &a),
        (r#"{"n": "7"}"#, "n", &[ClaimValue::Integer(7)]),
        (r#"{"n": 7.0}"#, "n", &[ClaimValue::Integer(7)]),
        (r#"{"n": 7e0}"#, "n", &[ClaimValue::Integer(7)]),
        (
            r#"{"n": 9223372036854775808}"#,
            "n",
            &[ClaimValue::Integer(i64::MIN), ClaimValue::Integer(i64::MAX)],
        ),
        (r#"{"n": 18446744073709551617}"#, "n", &[ClaimValue::Integer(1)]),
        (r#"{"n": "true"}"#, "n", &[ClaimValue::Boolean(true)]),
        (r#"{"n": 1}"#, "n", &[ClaimValue::Boolean(true)]),
        (r#"{"n": true}"#, "n", &[text("true"), ClaimValue::Integer(1)]),
        (r#"["groups", "a"]"#, "groups", &a),
        (r#""a""#, "groups", &a),
    ] {
        assert!(!has(payload, path, values), "{payload}");
    }
}

#[test]
fn scope_and_scp_are_split_at_spaces() {
    let write = [text("write")];
    for name in ["scope", "scp"] {
        for value in [r#""read write""#, r#"" write  read""#, r#"["read", "write"]"#, r#""write""#] {
            assert!(has(&format!("{{\"{name}\": {value}}}"), name, &write), "{value}");
        }
        for value in [r#""read-write""#, r#""read\twrite""#, r#""read,write""#, r#"["read write"]"#] {
            assert!(!has(&format!("{{\"{name}\": {value}}}"), name, &write), "{value}");
        }
    }
    assert!(!has(r#"{"roles": "read write"}"#, "roles", &write), "other claims are not split");
    assert!(!has(r#"{"x": {"scope": "read write"}}"#, "x/scope", &write), "nor nested ones");
}

#[test]
fn repeated_member_of_a_requested_claim_is_refused() {
    let requested = RequestedClaims::new(&[required("x/y", &[text("a")]), required("groups", &[text("a")])]);
    for payload in [
        r#"{"groups": "a", "groups": "a"}"#,
        r#"{"groups": ["a"], "other": 1, "\u0067roups": []}"#,
        r#"{"x": {"y": "a"}, "x": 1}"#,
        r#"{"x": 1, "x": {"y": "a"}}"#,
        r#"{"x": {"y": "a", "y": "b"}}"#,
    ] {
        assert_eq!(read(&requested, payload), Err(ClaimsError::Duplicate), "{payload}");
    }
    for payload in [
        r#"{"groups": "a", "other": 1, "other": 2}"#,
        r#"{"x": {"z": 1, "z": 2}}"#,
        r#"{"groups": [{"a": 1, "a": 2}]}"#,
    ] {
        assert!(read(&requested, payload).is_ok(), "{payload}");
    }
}

#[test]
fn invalid_text_in_a_requested_claim_is_refused() {
    let requested = RequestedClaims::new(&[required("groups", &[text("a")])]);
    for payload in [
        r#"{"groups": "\ud800"}"#,
        r#"{"groups": ["a", "\udfff"]}"#,
        r#"{"groups": 1e999}"#,
        r#"{"groups": "a"} {}"#,
        r#"{"groups": "a""#,
        "",
    ] {
        assert_eq!(read(&requested, payload), Err(ClaimsError::Unreadable), "{payload}");
    }
    let invalid = [br#"{"groups": ""#.as_slice(), b"\xff", br#""}"#].concat();
    assert_eq!(requested.0.as_ref().unwrap().read(&invalid), Err(ClaimsError::Unreadable));
    assert!(read(&requested, r#"{"groups": "a", "other": "\ud800"}"#).is_ok(), "other claims are not read");
}

#[test]
fn depth_of_the_payload_costs_no_stack() {
    let requested = RequestedClaims::new(&[required("x/y", &[text("a")]), required("groups", &[text("a")])]);
    for (open, close) in [("[", "]"), ("{\"x\":", "}")] {
        let deep = format!("{}1{}", open.repeat(100_000), close.repeat(100_000));
        for payload in [
            format!("{{\"other\":{deep},\"groups\":\"a\"}}"),
            format!("{{\"x\":{deep},\"groups\":\"a\"}}"),
            format!("{{\"x\":{{\"y\":{deep}}},\"groups\":\"a\"}}"),
            format!("{{\"groups\":[{deep},\"a\"]}}"),
        ] {
            let claims = read(&requested, &payload).unwrap();
            assert!(claims.meet(&[required("groups", &[text("a")])]));
            assert_eq!(claims.iter().count(), 1);
        }
    }
}

#[test]
fn values_that_no_rule_accepts_are_not_kept_and_not_counted() {
    let accepted: Vec<ClaimValue> =
        (0..=MAX_CLAIM_VALUES).map(|number| text(&format!("g{number}"))).collect();
    let requested = RequestedClaims::new(&[required("groups", &accepted)]);
    let payload = |accepted: usize, others: usize| {
        let accepted = (0..accepted).map(|number| format!("g{number}"));
        let others = (0..others).map(|number| format!("other{number}"));
        json!({ "groups": others.chain(accepted.clone()).chain(accepted).collect::<Vec<_>>() }).to_string()
    };
    let claims = read(&requested, &payload(MAX_CLAIM_VALUES, 5000)).unwrap();
    assert_eq!(claims.iter().count(), MAX_CLAIM_VALUES);
    assert!(!claims.meet(&[required("groups", &[text("other1")])]));
    let list = claims.0.as_ref().unwrap();
    let bytes = 2 * size_of::<usize>() + size_of_val(&**list) + size_of_val(&*list.values);
    assert_eq!(bytes, MAX_CLAIM_LIST_BYTES, "values are shared with the rules");
    assert_eq!(read(&requested, &payload(MAX_CLAIM_VALUES + 1, 0)), Err(ClaimsError::TooMany));
}

#[test]
fn request_of_the_same_claims_keeps_its_identity() {
    let of = |values: &[ClaimValue]| RequestedClaims::new(&[required("groups", values)]);
    let earlier = of(&[text("a"), text("b")]);
    let inherited = |mut request: RequestedClaims| {
        request.inherit(&earlier);
        request.id()
    };
    assert_eq!(inherited(of(&[text("b"), text("a")])), earlier.id());
    let another_path = RequestedClaims::new(&[required("roles", &[text("a"), text("b")])]);
    for other in [of(&[text("a")]), of(&[text("a"), text("b"), text("c")]), another_path] {
        assert_ne!(inherited(other), earlier.id());
    }
    assert_eq!(inherited(RequestedClaims::default()), None);
    assert_eq!(RequestedClaims::new([]).id(), None, "rules without claims request nothing");
    assert_ne!(of(&[text("a")]).id(), of(&[text("a")]).id());
}

/// Reads one claim as the documentation describes it.
fn plain_values(payload: &Value, path: &ClaimPath) -> Vec<(ClaimPath, ClaimValue)> {
    let mut value = payload;
    for name in path.names() {
        match value.as_object().and_then(|members| members.get(&name)) {
            Some(member) => value = member,
            None => return Vec::new(),
        }
    }
    let scalar = |value: &Value| match value {
        Value::String(value) => Some(text(value)),
        Value::Bool(value) => Some(ClaimValue::Boolean(*value)),
        Value::Number(number) => number.as_i64().map(ClaimValue::Integer),
        _ => None,
    };
    let values: Vec<ClaimValue> = match value {
        Value::Array(elements) => elements.iter().filter_map(scalar).collect(),
        Value::String(words) if ["scope", "scp"].contains(&path.as_str()) => {
            words.split(' ').filter(|word| !word.is_empty()).map(text).collect()
        }
        other => scalar(other).into_iter().collect(),
    };
    values.into_iter().map(|value| (path.clone(), value)).collect()
}

/// A name of a member, often one that a path contains.
fn any_name() -> impl Strategy<Value = String> {
    prop_oneof![
        6 => prop::sample::select(vec!["a", "b", "groups", "scope", "scp", "a/b", "~"]).prop_map(str::to_owned),
        1 => any::<String>(),
    ]
}

fn any_text() -> impl Strategy<Value = String> {
    prop_oneof![4 => "[ab ]{0,3}", 1 => any::<String>()]
}

fn any_json() -> impl Strategy<Value = Value> {
    let scalar = prop_oneof![
        any_text().prop_map(Value::from),
        any::<bool>().prop_map(Value::from),
        (-2..3_i64).prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        Just(Value::Null),
    ];
    scalar.prop_recursive(4, 40, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::btree_map(any_name(), inner, 0..6)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

fn any_path() -> impl Strategy<Value = ClaimPath> {
    let escaped = |name: String| name.replace('~', "~0").replace('/', "~1");
    prop::collection::vec(any_name().prop_map(escaped), 1..4)
        .prop_filter_map("a path", |names| ClaimPath::new(&names.join("/")).ok())
}

fn any_requirement() -> impl Strategy<Value = ClaimRequirement> {
    let value = prop_oneof![
        4 => any_text().prop_map(|value| text(&value)),
        2 => any::<bool>().prop_map(ClaimValue::Boolean),
        2 => (-2..3_i64).prop_map(ClaimValue::Integer),
        1 => any::<i64>().prop_map(ClaimValue::Integer),
    ];
    (any_path(), prop::collection::vec(value, 1..5))
        .prop_map(|(path, values)| ClaimRequirement { path, values })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// A requirement is met by the claims that are read if and only if it is met by all claims of the
    /// payload.
    #[test]
    fn claims_are_read_as_documented(
        payload in prop::collection::btree_map(any_name(), any_json(), 0..6),
        required in prop::collection::vec(any_requirement(), 1..6),
    ) {
        let payload = Value::Object(payload.into_iter().collect());
        let read = read(&RequestedClaims::new(&required), &payload.to_string()).unwrap();
        for required in &required {
            let all = plain_values(&payload, &required.path);
            let expected = all.iter().any(|(_, value)| required.values.contains(value));
            let is_met = read.meet(std::slice::from_ref(required));
            prop_assert_eq!(is_met, expected, "{} {:?}", payload, required);
        }
        for (path, value) in read.iter() {
            prop_assert!(plain_values(&payload, path).iter().any(|(_, own)| own == value));
        }
    }

    /// Damaged payloads are read or refused, and never contain a value that is not in them.
    #[test]
    fn arbitrary_bytes_are_read_or_refused(
        payload in any_json(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        required in prop::collection::vec(any_requirement(), 1..4),
    ) {
        let mut bytes = payload.to_string().into_bytes();
        for (at, byte) in changes {
            if !bytes.is_empty() {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
        }
        let requested = RequestedClaims::new(&required);
        let outcome = requested.0.as_ref().unwrap().read(&bytes);
        if let (Ok(claims), Ok(payload)) = (outcome, serde_json::from_slice::<Value>(&bytes)) {
            for (path, value) in claims.iter() {
                prop_assert!(plain_values(&payload, path).iter().any(|(_, own)| own == value));
            }
        }
    }
}

#[test]
fn claims_of_candidate_rules_refuse_no_token() {
    let [groups, roles] = ["groups", "roles"].map(|path| [required(path, &[text("a")])]);
    let twice = r#"{"groups": "a", "roles": "a", "roles": "b"}"#;
    for in_force in [&groups[..], &[]] {
        let requested = RequestedClaims::with_candidates(in_force, &roles);
        let claims = read(&requested, r#"{"groups": "a", "roles": "a"}"#).unwrap();
        assert!(claims.meet(in_force) && claims.meet(&roles));
        let claims = read(&requested, twice).unwrap();
        assert!(claims.meet(in_force) && !claims.meet(&roles), "as if it had none of them");
        assert_eq!(claims.request(), requested.id());
    }
    let requested = RequestedClaims::with_candidates(&roles, &groups);
    assert_eq!(read(&requested, twice).unwrap_err(), ClaimsError::Duplicate, "the rules in force require it");

    // Promoted candidate rules are another request, although the values are the same.
    let mut promoted = RequestedClaims::with_candidates(&[roles.clone(), groups.clone()].concat(), &[]);
    promoted.inherit(&requested);
    assert_ne!(promoted.id(), requested.id());
    let mut same = RequestedClaims::with_candidates(&roles, &groups);
    same.inherit(&requested);
    assert_eq!(same.id(), requested.id());
}
