//! Escapes of arbitrary text.

use proptest::prelude::*;

use super::*;

/// Unprintable characters of each kind.
const HOSTILE: &str = "\0\t\n\r\u{1b}\u{7f}\u{85}\u{9b}\u{ad}\u{34f}\u{61c}\u{115f}\u{180e}\u{200b}\u{200d}\u{200f}\
    \u{2028}\u{2029}\u{202e}\u{2060}\u{2066}\u{2800}\u{3164}\u{fdd0}\u{fe0f}\u{feff}\u{fffb}\u{ffff}\u{1d173}\
    \u{1ffff}\u{e0001}\u{e007f}\u{e0100}\u{10ffff}";

fn hostile_text() -> impl Strategy<Value = String> {
    let hostile: Vec<char> = HOSTILE.chars().collect();
    let character = prop_oneof![
        4 => any::<char>(),
        4 => prop::sample::select(hostile),
        4 => prop::char::range(' ', '~'),
        1 => Just('"'),
        1 => Just('\\'),
    ];
    prop::collection::vec(character, 0..60).prop_map(String::from_iter)
}

fn is_on_one_printable_line(text: &str) -> bool {
    !text.chars().any(is_unprintable)
}

fn escaped(text: &str, notation: Notation) -> String {
    let mut to = String::new();
    Escaping::new(&mut to, notation).write_str(text).expect("memory");
    to
}

#[test]
fn every_kind_of_unprintable_character_is_on_the_list() {
    for character in HOSTILE.chars() {
        assert!(is_unprintable(character), "{character:?}");
        assert!(is_on_one_printable_line(&Printable(character).to_string()), "{character:?}");
    }
    for character in "aZ09 ~éßяعא中한กि\u{301}\u{1f600}€\u{fffd}\u{a0}".chars() {
        assert!(!is_unprintable(character), "{character:?}");
        assert_eq!(Printable(character).to_string(), character.to_string());
    }
}

#[test]
fn escapes_follow_the_notation() {
    let text = "a\"\\\n\r\t\u{1b}\u{202e}\u{e0001}é";
    assert_eq!(escaped(text, Notation::Plain), "a\"\\\\n\\r\\t\\u{1b}\\u{202e}\\u{e0001}é");
    assert_eq!(escaped(text, Notation::Quoted), "a\\\"\\\\\\n\\r\\t\\u{1b}\\u{202e}\\u{e0001}é");
    assert_eq!(escaped(text, Notation::Json), "a\\\"\\\\\\n\\r\\t\\u001b\\u202e\\udb40\\udc01é");
    assert_eq!(without_unprintable(text), "a\"\\é");
}

#[test]
fn bounded_text_is_cut_between_characters_and_contains_its_length() {
    let bounded = |text: &str, limit| {
        let mut to = String::new();
        let mut writer = Bounded::new(&mut to, Notation::Plain, limit);
        // In two parts, as `Display` implementations may write.
        let (first, second) = text.split_at(text.floor_char_boundary(text.len() / 2));
        writer.write_str(first).and_then(|()| writer.write_str(second)).expect("memory");
        let written = writer.finish().expect("memory");
        (to, written)
    };
    assert_eq!(bounded("abcdef", 6), ("abcdef".to_owned(), 6));
    assert_eq!(bounded("abcdefg", 6), ("abcdef… [cut, 7 bytes in all]".to_owned(), 6));
    assert_eq!(bounded("abcdeé", 6), ("abcde… [cut, 7 bytes in all]".to_owned(), 5));
    assert_eq!(bounded("abcde\n", 6), ("abcde… [cut, 6 bytes in all]".to_owned(), 5));
    assert_eq!(Excerpt("a\nbcdef", 5).to_string(), "a\\nbc… [cut, 7 bytes in all]");
    assert_eq!(bounded("", 0), (String::new(), 0));
    assert_eq!(bounded("\u{1b}a", 5), ("… [cut, 2 bytes in all]".to_owned(), 0), "no text follows a cut");
}

proptest! {
    /// The search by bytes finds the same character as the search by characters.
    #[test]
    fn first_unprintable_character_is_found_in_any_text(text in hostile_text()) {
        prop_assert_eq!(find_unprintable(&text), text.find(is_unprintable));
    }

    /// The same after any number of plain characters, and for every notation.
    #[test]
    fn first_escaped_character_is_found_after_any_number_of_plain_ones(
        plain in "[ -!#-\\[\\]-~]{0,70}",
        text in hostile_text(),
    ) {
        let text = plain + &text;
        prop_assert_eq!(find_unprintable(&text), text.find(is_unprintable));
        for notation in [Notation::Plain, Notation::Quoted, Notation::Json] {
            let expected = text.find(|character| notation.escapes(character));
            prop_assert_eq!(notation.find_escaped(&text), expected, "{:?}", notation);
        }
    }

    #[test]
    fn output_never_contains_unprintable_characters(text in hostile_text(), limit in 0_usize..80) {
        for notation in [Notation::Plain, Notation::Quoted, Notation::Json] {
            prop_assert!(is_on_one_printable_line(&escaped(&text, notation)));
            let mut to = String::new();
            let mut writer = Bounded::new(&mut to, notation, limit);
            writer.write_str(&text).expect("memory");
            let written = writer.finish().expect("memory");
            prop_assert!(is_on_one_printable_line(&to) && written <= limit);
            let whole = escaped(&text, notation);
            prop_assert_eq!(to == whole, whole.len() <= limit);
            prop_assert!(whole.starts_with(&to[..written]));
        }
        prop_assert!(is_on_one_printable_line(&Printable(&text).to_string()));
        prop_assert!(is_on_one_printable_line(&without_unprintable(&text)));
    }

    #[test]
    fn json_round_trips_every_text(text in hostile_text()) {
        let ours = format!("\"{}\"", escaped(&text, Notation::Json));
        prop_assert_eq!(&serde_json::from_str::<String>(&ours).expect("a JSON string"), &text);
        let mut json = Vec::new();
        let mut serializer = serde_json::Serializer::with_formatter(&mut json, PrintableJson);
        serde::Serialize::serialize(&text, &mut serializer).expect("memory");
        let json = String::from_utf8(json).expect("text");
        prop_assert!(is_on_one_printable_line(&json));
        prop_assert_eq!(serde_json::from_str::<String>(&json).expect("a JSON string"), text);
    }
}
