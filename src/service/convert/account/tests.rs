use std::collections::BTreeMap;

use proptest::prelude::*;
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, Kind, MessageDescriptor, ReflectMessage as _, Value};
use serde_json::json;

use super::*;
use crate::proto::FILE_DESCRIPTOR_SET;

const DOCUMENTED: &str =
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/platform-login-response.json"));

fn members(json: &str) -> Vec<(String, Box<RawValue>)> {
    Object::parse(json.as_bytes()).expect("a JSON object").to_members()
}

fn user(json: &str) -> v1::UserAccount {
    Account::new(members(json)).into()
}

fn text<T: From<String>>(text: &str) -> T {
    T::from(text.to_owned())
}

#[test]
fn the_documented_account_is_converted_completely() {
    let expected = v1::UserAccount {
        activated: Some(false),
        contact: Some(v1::Contact {
            address1: text(""),
            address2: text(""),
            city: text(""),
            country: text(""),
            email: text("johncustomer@mysite.com"),
            firstname: text("John"),
            lastname: text("Customer"),
            phone: text(""),
            state: text(""),
            zipcode: text(""),
            ..Default::default()
        }),
        created_at: Some(Timestamp { seconds: 1_565_424_000, nanos: 807_354_000 }),
        enabled: Some(true),
        id: text("2955b448-7df8-43uc-9c63-a21511dbe06d"),
        idp_id: text("11111111-1111-1111-1111-111111111111"),
        language: text("en"),
        login: text("johncustomer@mysite.com"),
        mfa_status: text("disabled"),
        notifications: ["quota", "reports", "backup_daily_report"].map(str::to_owned).to_vec(),
        personal_tenant_id: None,
        tenant_id: text("2de246a4-1t3e-937c-9e76-5a21bd6492b"),
        terms_accepted: Some(true),
        version: Some(1),
        ..Default::default()
    };
    assert_eq!(user(DOCUMENTED), expected);
}

#[test]
fn null_members_are_absent_and_empty_members_are_empty() {
    let account =
        user(r#"{"id": null, "language": "", "business_types": null, "notifications": [], "contact": null}"#);
    assert_eq!(account, v1::UserAccount { language: text(""), ..Default::default() });
    assert_eq!(user(r#"{"contact": {}}"#).contact, Some(v1::Contact::default()));
}

#[test]
fn members_without_a_field_are_kept_verbatim() {
    let account = user(
        r#"{"id": "1", "access_policies" : [ {"role_id" : "a\u00e9\/"} ], "n": 1.50E+3, "huge": 123456789012345678901234567890,
            "x\"y": null, "contact": {"email": "e", "pager": { "a" : 1 }}}"#,
    );
    assert_eq!(
        account.additional_fields_json,
        r#"{"access_policies":[ {"role_id" : "a\u00e9\/"} ],"n":1.50E+3,"huge":123456789012345678901234567890,"x\"y":null}"#
    );
    let contact = account.contact.expect("it is an object");
    assert_eq!(contact.additional_fields_json, r#"{"pager":{ "a" : 1 }}"#);
    assert_eq!(contact.email.as_deref(), Some("e"));
}

#[test]
fn members_of_another_type_are_kept_verbatim() {
    for (member, value) in [
        ("id", "7"),
        ("login", r#"{"a": 1}"#),
        ("activated", r#""true""#),
        ("enabled", "1"),
        ("version", "1.0"),
        ("version", "9223372036854775808"),
        ("version", r#""1""#),
        ("notifications", r#""quota""#),
        ("notifications", r#"["quota", null]"#),
        ("business_types", "[1]"),
        ("created_at", "1565424000"),
        ("created_at", r#""yesterday""#),
        ("contact", "[]"),
        ("contact", r#""a@b""#),
        ("language", r#""\ud800""#),
    ] {
        let account = user(&format!(r#"{{"{member}": {value}}}"#));
        let additional = format!(r#"{{"{member}":{value}}}"#);
        assert_eq!(account, v1::UserAccount { additional_fields_json: additional, ..Default::default() });
    }
}

#[test]
fn the_last_of_duplicate_members_wins() {
    let account = user(r#"{"id": "1", "x": 1, "id": "2", "x": 2, "\u0069d": "3"}"#);
    assert_eq!(account.id.as_deref(), Some("3"));
    assert_eq!(account.additional_fields_json, r#"{"x":2}"#);
}

fn at(time: &str) -> Option<(i64, i32)> {
    let account = user(&json!({ "created_at": time }).to_string());
    assert_eq!(account.created_at.is_none(), account.additional_fields_json.contains(time), "{time}");
    account.created_at.map(|time| (time.seconds, time.nanos))
}

#[test]
fn times_are_read_with_their_offset_and_their_fraction() {
    for (time, seconds, nanos) in [
        ("1970-01-01T00:00:00Z", 0, 0),
        ("1970-01-01t00:00:01z", 1, 0),
        ("1970-01-01T01:30:00+01:30", 0, 0),
        ("1969-12-31T15:30:00-08:30", 0, 0),
        ("1970-01-01T00:00:00-00:00", 0, 0),
        ("1969-12-31T23:59:59.25Z", -1, 250_000_000),
        ("2019-08-10T08:00:00.807354+00:00", 1_565_424_000, 807_354_000),
        ("2019-08-10T08:00:00.123456789Z", 1_565_424_000, 123_456_789),
        ("0001-01-01T00:00:00Z", -62_135_596_800, 0),
        ("9999-12-31T23:59:59Z", 253_402_300_799, 0),
    ] {
        assert_eq!(at(time), Some((seconds, nanos)), "{time}");
    }
}

#[test]
fn times_that_a_timestamp_cannot_represent_are_not_converted() {
    for time in [
        "2019-08-10",
        "2019-08-10T08:00:00",
        "2019-08-10 08:00:00Z",
        "2019-08-10T08:00Z",
        "2019-08-10T08:00:00.Z",
        "2019-08-10T08:00:00.1234567891Z",
        "2019-08-10T08:00:00+0000",
        "2019-08-10T08:00:00+00",
        "2019-08-10T08:00:00+24:00",
        "2019-08-10T08:00:00+00:60",
        "2019-08-10T08:00:00 Z",
        "2019-02-30T08:00:00Z",
        "2019-08-10T24:00:00Z",
        "2016-12-31T23:59:60Z",
        "0000-01-01T00:00:00Z",
        "0001-01-01T00:00:00+00:01",
        "9999-12-31T23:59:59-00:01",
        "+12019-08-10T08:00:00Z",
        "2019-08-10T08:00:00Ｚ",
        "２019-08-10T08:00:00Z",
        "2019-08-10T08:00:00+0é:00",
        "",
    ] {
        assert_eq!(at(time), None, "{time}");
    }
}

fn descriptor(name: &str) -> MessageDescriptor {
    let pool = DescriptorPool::decode(FILE_DESCRIPTOR_SET).expect("the descriptor set is whole");
    pool.get_message_by_name(name).expect("the contract has it")
}

/// Returns an object with a member for every field of the message.
fn filled(message: &MessageDescriptor) -> serde_json::Value {
    let members = message.fields().filter(|field| field.name() != "additional_fields_json").map(|field| {
        let value = match field.kind() {
            Kind::String if field.is_list() => json!([field.name()]),
            Kind::String => json!(field.name()),
            Kind::Bool => json!(true),
            Kind::Int64 => json!(7),
            Kind::Message(nested) if nested.name() == "Timestamp" => json!("1970-01-01T00:00:07Z"),
            Kind::Message(nested) => filled(&nested),
            other => panic!("{other:?} is new to the contract"),
        };
        (field.name().to_owned(), value)
    });
    serde_json::Value::Object(members.collect())
}

fn assert_filled(message: &DynamicMessage) {
    for field in message.descriptor().fields() {
        let is_additional = field.name() == "additional_fields_json";
        assert_eq!(message.has_field(&field), !is_additional, "{}", field.full_name());
        if let Value::Message(nested) = message.get_field(&field).as_ref()
            && nested.descriptor().name() != "Timestamp"
        {
            assert_filled(nested);
        }
    }
}

fn dynamic(account: &v1::UserAccount) -> DynamicMessage {
    DynamicMessage::decode(descriptor("ott.v1.UserAccount"), account.encode_to_vec().as_slice())
        .expect("the descriptor and the Rust type agree")
}

#[test]
fn every_field_of_the_contract_is_read() {
    let json = filled(&descriptor("ott.v1.UserAccount")).to_string();
    assert_filled(&dynamic(&user(&json)));
}

/// Returns the JSON value of a typed field.
fn as_json(message: &DynamicMessage, name: &str) -> serde_json::Value {
    let value = message.get_field_by_name(name).expect("it is a field");
    match value.as_ref() {
        Value::Bool(value) => json!(value),
        Value::I64(value) => json!(value),
        Value::String(value) => json!(value),
        Value::List(values) => values.iter().map(|value| json!(value.as_str())).collect(),
        Value::Message(message) if message.descriptor().name() == "Timestamp" => {
            let time = message.transcode_to::<Timestamp>().expect("it is one");
            json!(time.to_string())
        }
        other => panic!("{other:?} is not generated here"),
    }
}

fn any_value() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(|value| json!(value)),
        any::<i64>().prop_map(|value| json!(value)),
        any::<u64>().prop_map(|value| json!(value)),
        any::<f64>().prop_map(|value| json!(value)),
        ".{0,12}".prop_map(|value| json!(value)),
        (0_i64..4_000_000_000).prop_map(|seconds| json!(Timestamp { seconds, nanos: 0 }.to_string())),
        proptest::collection::vec("[a-z]{0,4}", 0..4).prop_map(|value| json!(value)),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(serde_json::Value::from),
            proptest::collection::btree_map(".{0,4}", inner, 0..4)
                .prop_map(|map| map.into_iter().collect::<serde_json::Value>()),
        ]
    })
}

fn any_name() -> impl Strategy<Value = String> {
    let fields: Vec<String> = descriptor("ott.v1.UserAccount")
        .fields()
        .map(|field| field.name().to_owned())
        .filter(|name| name != "contact")
        .collect();
    prop_oneof![4 => proptest::sample::select(fields), 1 => ".{0,8}"]
}

proptest! {
    #[test]
    fn every_member_is_either_typed_or_kept(
        sent in proptest::collection::btree_map(any_name(), any_value(), 0..24)
    ) {
        // Pretty-printed, so that verbatim values differ from reserialized ones.
        let spaced = |value: &serde_json::Value| {
            serde_json::to_string_pretty(value).expect("it can be written")
        };
        let json: Vec<String> =
            sent.iter().map(|(name, value)| format!("{} : {}", json!(name), spaced(value))).collect();
        let account = user(&format!("{{ {} }}", json.join(" , ")));
        let kept: BTreeMap<String, Box<RawValue>> = match account.additional_fields_json.as_str() {
            "" => BTreeMap::new(),
            json => members(json).into_iter().collect(),
        };
        let typed = dynamic(&account);
        for (name, value) in &sent {
            if let Some(kept) = kept.get(name) {
                prop_assert_eq!(kept.get(), spaced(value));
                continue;
            }
            prop_assert!(name != "additional_fields_json");
            if value.is_null() {
                prop_assert!(!typed.has_field_by_name(name));
            } else {
                prop_assert_eq!(&as_json(&typed, name), value);
            }
        }
        prop_assert!(kept.keys().all(|name| sent.contains_key(name)));
        // No other field is set.
        let fields = typed.fields().filter(|(field, _)| field.name() != "additional_fields_json");
        for (field, _) in fields {
            prop_assert!(sent.contains_key(field.name()), "{}", field.name());
        }
    }
}
