//! A JSON object that is written member by member, with one allocation.
//!
//! The text is byte for byte that of `serde_json` with [`PrintableJson`], which also escapes every
//! string that needs it.

use std::{fmt::Write, net::IpAddr, time::SystemTime};

use serde::Serialize;
use serde_json::{ser::Serializer, value::RawValue};

use super::timestamp;
use crate::{base::text::PrintableJson, observe::audit::numbering::Number};

/// The name of a member, with the separator before it.
macro_rules! name {
    ($name:literal) => {
        concat!(",\"", $name, "\":")
    };
}
pub(super) use name;

/// An object without its closing brace.
pub(super) struct Object(String);

impl Object {
    /// Begins an object. `capacity` is the expected length of the whole text, in bytes.
    pub(super) fn of_event(event: &str, capacity: usize) -> Self {
        let mut object = Self(String::with_capacity(capacity));
        object.0.push_str("{\"event\":");
        object.push_string(event);
        object
    }

    pub(super) fn finish(self) -> String {
        self.0
    }

    /// Adds a string. `name` must come from [`name!`], as in all methods below.
    pub(super) fn string(&mut self, name: &str, value: &str) {
        self.0.push_str(name);
        self.push_string(value);
    }

    /// Adds a string, or `null`.
    pub(super) fn optional(&mut self, name: &str, value: Option<&str>) {
        match value {
            Some(value) => self.string(name, value),
            None => self.null(name),
        }
    }

    /// Adds a value that is already JSON, or `null`.
    pub(super) fn json(&mut self, name: &str, value: Option<&RawValue>) {
        match value {
            Some(value) => {
                self.0.push_str(name);
                self.0.push_str(value.get());
            }
            None => self.null(name),
        }
    }

    /// Adds a number, or `null`.
    pub(super) fn number(&mut self, name: &str, value: Option<u32>) {
        match value {
            Some(value) => {
                self.0.push_str(name);
                self.push_number(value);
            }
            None => self.null(name),
        }
    }

    /// Adds `true`.
    pub(super) fn mark(&mut self, name: &str) {
        self.0.push_str(name);
        self.0.push_str("true");
    }

    /// Adds an address, or `null`.
    pub(super) fn address(&mut self, name: &str, value: Option<IpAddr>) {
        match value {
            Some(IpAddr::V4(value)) => {
                self.0.push_str(name);
                for (octet, before) in value.octets().into_iter().zip(['"', '.', '.', '.']) {
                    self.0.push(before);
                    self.push_number(octet.into());
                }
                self.0.push('"');
            }
            Some(IpAddr::V6(value)) => self.add(name, format_args!("\"{value}\"")),
            None => self.null(name),
        }
    }

    /// Adds a time.
    pub(super) fn time(&mut self, name: &str, value: SystemTime) {
        self.add(name, format_args!("\"{}\"", timestamp(value)));
    }

    /// Adds the process and the number of the record.
    pub(super) fn number_of_record(&mut self, number: Number<'_>) {
        self.string(name!("process"), number.process);
        self.0.push_str(name!("sequence"));
        self.0.push_str(itoa::Buffer::new().format(number.sequence));
    }

    /// Adds a duration in milliseconds, with up to three decimal places.
    pub(super) fn milliseconds(&mut self, name: &str, microseconds: u32) {
        self.0.push_str(name);
        self.push_number(microseconds / 1000);
        self.0.push('.');
        let part = microseconds % 1000;
        let digits = [part / 100, part / 10 % 10, part % 10];
        let places = if digits[2] != 0 {
            3
        } else if digits[1] != 0 {
            2
        } else {
            1
        };
        self.0.extend(digits.iter().take(places).filter_map(|digit| char::from_digit(*digit, 10)));
    }

    pub(super) fn null(&mut self, name: &str) {
        self.0.push_str(name);
        self.0.push_str("null");
    }

    /// Adds an object with these members, which are strings.
    pub(super) fn object(&mut self, name: &str, first: (&str, &str), second: (&str, &str)) {
        self.0.push_str(name);
        self.0.push('{');
        self.push_member(first);
        self.0.push(',');
        self.push_member(second);
        self.0.push('}');
    }

    fn push_member(&mut self, (name, value): (&str, &str)) {
        self.push_string(name);
        self.0.push(':');
        self.push_string(value);
    }

    fn add(&mut self, name: &str, value: std::fmt::Arguments<'_>) {
        self.0.push_str(name);
        // Writing to a string cannot fail.
        let _ = self.0.write_fmt(value);
    }

    /// `format_args!` costs several times as much.
    fn push_number(&mut self, value: u32) {
        self.0.push_str(itoa::Buffer::new().format(value));
    }

    fn push_string(&mut self, value: &str) {
        if is_plain(value) {
            self.0.push('"');
            self.0.push_str(value);
            self.0.push('"');
            return;
        }
        let mut escaped = Vec::with_capacity(value.len() + 16);
        // Written to memory: this cannot fail.
        let _ = value.serialize(&mut Serializer::with_formatter(&mut escaped, PrintableJson));
        self.0.push_str(&String::from_utf8_lossy(&escaped));
    }
}

/// Returns whether the text needs no escaping inside a JSON string. Checks all bytes without an
/// early exit, because the compiler vectorizes that.
fn is_plain(text: &str) -> bool {
    let is_plain = |byte: u8| (b' '..=b'~').contains(&byte) && byte != b'"' && byte != b'\\';
    text.bytes().fold(true, |so_far, byte| so_far & is_plain(byte))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Returns what `serde_json` writes.
    fn reference(value: &impl Serialize) -> String {
        let mut bytes = Vec::new();
        value.serialize(&mut Serializer::with_formatter(&mut bytes, PrintableJson)).expect("JSON");
        String::from_utf8(bytes).expect("text")
    }

    fn written(add: impl FnOnce(&mut Object)) -> String {
        let mut object = Object(String::new());
        add(&mut object);
        object.finish()
    }

    proptest! {
        #[test]
        fn each_value_is_written_as_by_serde_json(
            text in prop_oneof![any::<String>(), "[ -~]{0,40}", "[a-z\"\\\\\u{7f}\u{202e}é]{0,20}"],
            number in any::<u32>(),
            small in 0..100_000_u32,
            address in any::<IpAddr>(),
        ) {
            prop_assert_eq!(written(|object| object.string("", &text)), reference(&text));
            prop_assert_eq!(written(|object| object.optional("", Some(&text))), reference(&Some(&text)));
            prop_assert_eq!(written(|object| object.number("", Some(number))), reference(&number));
            prop_assert_eq!(written(|object| object.address("", Some(address))), reference(&address));
            for microseconds in [number, small] {
                let milliseconds = f64::from(microseconds) / 1000.0;
                prop_assert_eq!(
                    written(|object| object.milliseconds("", microseconds)),
                    reference(&milliseconds)
                );
            }
        }
    }

    #[test]
    fn every_character_that_needs_escaping_is_escaped() {
        for character in (0..=0x2100).filter_map(char::from_u32) {
            let text = character.to_string();
            assert_eq!(written(|object| object.string("", &text)), reference(&text), "{text:?}");
        }
    }

    #[test]
    fn missing_value_is_null() {
        let object = written(|object| {
            object.optional(name!("a"), None);
            object.number(name!("b"), None);
            object.address(name!("c"), None);
        });
        assert_eq!(object, r#","a":null,"b":null,"c":null"#);
    }
}
