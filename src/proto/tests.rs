use std::{collections::BTreeMap, fmt};

use prost::Message;
use prost_reflect::{
    DescriptorPool, DynamicMessage, EnumDescriptor, FieldDescriptor, Kind, MapKey, MessageDescriptor, Value,
};

use super::{FILE_DESCRIPTOR_SET, ott::v1};

/// Decodes a message and formats it both ways.
type Shown = fn(&[u8]) -> [String; 2];

fn shown<M: Message + Default + fmt::Debug>(bytes: &[u8]) -> [String; 2] {
    let message = M::decode(bytes).expect("the descriptor and the Rust type agree");
    [format!("{message:?}"), format!("{message:#?}")]
}

/// Every message of the contract. Listed by hand, independently of the generator.
const MESSAGES: [(&str, Shown); 8] = [
    ("ott.v1.IssueOttRequest", shown::<v1::IssueOttRequest>),
    ("ott.v1.IssueOttResponse", shown::<v1::IssueOttResponse>),
    ("ott.v1.LoginWithOttRequest", shown::<v1::LoginWithOttRequest>),
    ("ott.v1.LoginWithOttResponse", shown::<v1::LoginWithOttResponse>),
    ("ott.v1.Session", shown::<v1::Session>),
    ("ott.v1.Cookie", shown::<v1::Cookie>),
    ("ott.v1.UserAccount", shown::<v1::UserAccount>),
    ("ott.v1.Contact", shown::<v1::Contact>),
];

fn pool() -> DescriptorPool {
    DescriptorPool::decode(FILE_DESCRIPTOR_SET).expect("the descriptor set is whole")
}

fn messages() -> impl Iterator<Item = MessageDescriptor> {
    let messages: Vec<_> =
        pool().all_messages().filter(|message| message.package_name() == "ott.v1").collect();
    messages.into_iter()
}

fn is_redacted(field: &FieldDescriptor) -> bool {
    field.options().get_field_by_name("debug_redact").is_some_and(|option| option.as_bool() == Some(true))
}

/// Canaries of a filled message, and whether each must be hidden.
#[derive(Default)]
struct Canaries {
    hidden: BTreeMap<String, bool>,
}

impl Canaries {
    fn plant(&mut self, field: &FieldDescriptor, hidden: bool) -> String {
        let canary = format!("canary-{}-{}", self.hidden.len(), field.full_name().replace('.', "-"));
        self.hidden.insert(canary.clone(), hidden);
        canary
    }

    /// Returns a message with a canary in every string, including nested messages.
    fn fill(&mut self, message: &MessageDescriptor, hidden: bool) -> DynamicMessage {
        let mut filled = DynamicMessage::new(message.clone());
        for field in message.fields() {
            // A oneof holds only one field; the test fills each of them separately.
            if field.containing_oneof().is_some_and(|oneof| !oneof.is_synthetic()) {
                continue;
            }
            let value = self.value(&field, hidden || is_redacted(&field));
            filled.set_field(&field, value);
        }
        filled
    }

    fn value(&mut self, field: &FieldDescriptor, hidden: bool) -> Value {
        if field.is_map() {
            let canary = self.plant(field, hidden);
            let Kind::Message(entry) = field.kind() else { panic!("a map has entries") };
            let value = self.single(&entry.map_entry_value_field(), hidden);
            Value::Map([(MapKey::String(canary), value)].into())
        } else if field.is_list() {
            Value::List(vec![self.single(field, hidden), self.single(field, hidden)])
        } else {
            self.single(field, hidden)
        }
    }

    fn single(&mut self, field: &FieldDescriptor, hidden: bool) -> Value {
        match field.kind() {
            Kind::String => Value::String(self.plant(field, hidden)),
            Kind::Bytes => Value::Bytes(self.plant(field, hidden).into()),
            Kind::Message(message) if message.package_name() == "ott.v1" => {
                Value::Message(self.fill(&message, hidden))
            }
            kind => Value::default_value(&kind),
        }
    }

    #[track_caller]
    fn check(&self, texts: &[String]) {
        for text in texts {
            for (canary, hidden) in &self.hidden {
                assert_eq!(!text.contains(canary), *hidden, "{canary} in {text}");
            }
        }
    }
}

#[test]
fn the_table_has_every_message() {
    let of_contract: Vec<String> = messages().map(|message| message.full_name().to_owned()).collect();
    let of_table: Vec<&str> = MESSAGES.iter().map(|(name, _)| *name).collect();
    assert_eq!(of_contract, of_table);
}

#[test]
fn debug_shows_every_field_except_redacted_ones() {
    let table: BTreeMap<&str, Shown> = MESSAGES.into();
    let mut redacted = 0;
    for message in messages() {
        let show = table[message.full_name()];
        let mut canaries = Canaries::default();
        let filled = canaries.fill(&message, false);
        canaries.check(&show(&filled.encode_to_vec()));
        redacted += canaries.hidden.values().filter(|hidden| **hidden).count();

        for field in message.oneofs().filter(|oneof| !oneof.is_synthetic()).flat_map(|oneof| {
            let fields: Vec<_> = oneof.fields().collect();
            fields
        }) {
            let mut canaries = Canaries::default();
            let mut filled = canaries.fill(&message, false);
            let value = canaries.value(&field, is_redacted(&field));
            filled.set_field(&field, value);
            canaries.check(&show(&filled.encode_to_vec()));
        }
    }
    assert!(redacted > 0, "the descriptor set has lost its options");
}

#[test]
fn the_fields_with_secrets_are_redacted() {
    let redacted: Vec<String> = messages()
        .flat_map(|message| message.fields().collect::<Vec<_>>())
        .filter(is_redacted)
        .map(|field| field.full_name().trim_start_matches("ott.v1.").to_owned())
        .collect();
    assert_eq!(
        redacted,
        [
            "IssueOttResponse.ott",
            "IssueOttResponse.login_url",
            "LoginWithOttRequest.ott",
            "Session.cookie_header",
            "Cookie.value",
            "UserAccount.additional_fields_json",
            "Contact.additional_fields_json",
        ]
    );
}

#[test]
fn an_empty_redacted_field_is_shown_as_empty() {
    assert_eq!(
        format!("{:?}", v1::LoginWithOttRequest::default()),
        r#"LoginWithOttRequest { ott: "", api_client: "" }"#
    );
    let request = v1::LoginWithOttRequest { ott: "canary".to_owned(), api_client: "eu2".to_owned() };
    assert_eq!(format!("{request:?}"), r#"LoginWithOttRequest { ott: [redacted], api_client: "eu2" }"#);
}

#[test]
fn an_enum_is_shown_by_name_and_an_unknown_value_by_number() {
    let mut request = v1::IssueOttRequest { purpose: 1, ..Default::default() };
    assert!(format!("{request:?}").contains("purpose: PURPOSE_USER_LOGIN"), "{request:?}");
    request.purpose = 77;
    assert!(format!("{request:?}").contains("purpose: 77"), "{request:?}");
}

#[test]
fn every_element_has_a_comment() {
    let pool = pool();
    let file = pool.get_file_by_name("ott/v1/ott_service.proto").expect("the contract is in the set");
    let info = file.file_descriptor_proto().source_code_info.clone().expect("comments are kept");
    let commented: Vec<&[i32]> = info
        .location
        .iter()
        .filter(|location| location.leading_comments.as_ref().is_some_and(|text| text.trim().len() > 3))
        .map(|location| location.path.as_slice())
        .collect();
    let mut elements: Vec<(String, Vec<i32>)> = Vec::new();
    for service in file.services() {
        elements.push((service.full_name().to_owned(), service.path().to_vec()));
        elements
            .extend(service.methods().map(|method| (method.full_name().to_owned(), method.path().to_vec())));
    }
    for message in file.messages() {
        elements.push((message.full_name().to_owned(), message.path().to_vec()));
        elements.extend(message.fields().map(|field| (field.full_name().to_owned(), field.path().to_vec())));
    }
    for kind in file.enums() {
        elements.push((kind.full_name().to_owned(), kind.path().to_vec()));
        elements.extend(values(&kind));
    }
    assert!(elements.len() > 100);
    for (name, path) in elements {
        assert!(commented.contains(&path.as_slice()), "{name} has no comment");
    }
}

fn values(kind: &EnumDescriptor) -> Vec<(String, Vec<i32>)> {
    kind.values().map(|value| (value.full_name().to_owned(), value.path().to_vec())).collect()
}
