//! JSON objects in responses, with the same parsing rules for all readers.
//!
//! One leading byte order mark is skipped (allowed by RFC 8259, 8.1). Of members with the same name
//! the last one counts, as in nearly every JSON parser. Values are kept in their original form
//! until they are read as a type.

use std::{borrow::Cow, collections::HashSet, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, MapAccess, Visitor},
};
use serde_json::value::RawValue;

/// Number of members up to which pairwise comparison is cheaper than hashing.
const FEW_MEMBERS: usize = 16;
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Error for a text that is not a JSON object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a JSON object")]
pub struct NotAnObject;

/// Members of a JSON object, in order and without duplicates, borrowed from the JSON text.
#[derive(Debug)]
pub struct Object<'json>(Vec<(Name<'json>, &'json RawValue)>);

/// The name of a member, borrowed unless it has escapes.
#[derive(Debug, PartialEq, Eq, Hash, Deserialize)]
struct Name<'json>(#[serde(borrow)] Cow<'json, str>);

impl<'json> Object<'json> {
    /// Parses a JSON object.
    pub fn parse(json: &'json [u8]) -> Result<Self, NotAnObject> {
        let json = json.strip_prefix(BYTE_ORDER_MARK).unwrap_or(json);
        serde_json::from_slice(json).map_err(|_| NotAnObject)
    }

    /// Reads a member's value as an object. `None` if there is no such member or it is
    /// not an object.
    #[must_use]
    pub fn object(&self, name: &str) -> Option<Self> {
        serde_json::from_str(self.raw(name)?.get()).ok()
    }

    /// Reads a member's value as `T`. `None` if there is no such member or it has
    /// another type.
    #[must_use]
    pub fn get<T: DeserializeOwned>(&self, name: &str) -> Option<T> {
        serde_json::from_str(self.raw(name)?.get()).ok()
    }

    /// Returns a member's value as it was sent.
    #[must_use]
    pub fn raw(&self, name: &str) -> Option<&'json RawValue> {
        self.0.iter().find(|(member, _)| member.0 == name).map(|(_, value)| *value)
    }

    /// Returns the members.
    pub fn members(&self) -> impl Iterator<Item = (&str, &'json RawValue)> {
        self.0.iter().map(|(name, value)| (&*name.0, *value))
    }

    /// Copies the members.
    #[must_use]
    pub fn to_members(&self) -> Vec<(String, Box<RawValue>)> {
        self.0.iter().map(|(name, value)| (name.0.clone().into_owned(), (*value).to_owned())).collect()
    }
}

impl<'de> Deserialize<'de> for Object<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;

        impl<'de> Visitor<'de> for Members {
            type Value = Vec<(Name<'de>, &'de RawValue)>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(members)
            }
        }

        let mut members = deserializer.deserialize_map(Members)?;
        keep_last(&mut members);
        Ok(Self(members))
    }
}

/// Removes each member that is followed by another of the same name.
fn keep_last(members: &mut Vec<(Name<'_>, &RawValue)>) {
    if members.len() <= FEW_MEMBERS {
        let is_repeated = |members: &[(Name<'_>, &RawValue)], at: usize| {
            members[at + 1..].iter().any(|(name, _)| *name == members[at].0)
        };
        for at in (0..members.len()).rev() {
            if is_repeated(members, at) {
                members.remove(at);
            }
        }
        return;
    }
    let mut seen = HashSet::with_capacity(members.len());
    let last: Vec<bool> = members.iter().rev().map(|(name, _)| seen.insert(name)).collect();
    drop(seen);
    let mut last = last.into_iter().rev();
    members.retain(|_| last.next().unwrap_or(true));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_duplicate_counts_and_order_is_kept() {
        let object = Object::parse(br#"{"a":1,"b":2,"a":"3"}"#).unwrap();
        assert_eq!(object.get::<i64>("a"), None, "the last one is a string");
        assert_eq!(object.get::<String>("a").as_deref(), Some("3"));
        let names: Vec<String> = object.to_members().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["b", "a"]);
    }

    #[test]
    fn last_duplicate_counts_among_few_and_many_members() {
        for count in [1, 2, FEW_MEMBERS / 2, FEW_MEMBERS / 2 + 1, 100] {
            let members = |value: usize| (0..count).map(move |name| format!(r#""{name}":{value}"#));
            let text = members(1).chain(members(2)).collect::<Vec<_>>().join(",");
            let text = format!("{{{text}}}");
            let object = Object::parse(text.as_bytes()).unwrap();
            let kept: Vec<String> =
                object.to_members().into_iter().map(|(name, value)| format!("{name}={value}")).collect();
            let expected: Vec<String> = (0..count).map(|name| format!("{name}=2")).collect();
            assert_eq!(kept, expected);
        }
    }

    #[test]
    fn name_with_escapes_is_the_same_name() {
        let object = Object::parse(br#"{"id":1,"\u0069d":2}"#).unwrap();
        assert_eq!(object.get::<i64>("id"), Some(2));
        assert_eq!(object.to_members().len(), 1);
    }

    #[test]
    fn only_one_byte_order_mark_is_skipped() {
        assert!(Object::parse(b"\xef\xbb\xbf{}").is_ok());
        assert!(Object::parse(b"\xef\xbb\xbf\xef\xbb\xbf{}").is_err());
    }

    #[test]
    fn anything_but_an_object_is_refused() {
        for text in ["", "[]", "\"{}\"", "null", "{}{}", "{", ")]}'{}", "{\"a\":NaN}"] {
            assert_eq!(Object::parse(text.as_bytes()).unwrap_err(), NotAnObject, "{text}");
        }
    }
}
