use std::{fs, os::unix::fs::PermissionsExt};

use proptest::prelude::*;

use super::*;

fn parsed(bytes: &[u8]) -> Result<String, InvalidSecret> {
    ClientSecret::parse(bytes).map(|secret| secret.expose().to_owned())
}

#[test]
fn only_one_trailing_newline_is_removed() {
    for (bytes, secret) in [
        ("s3cret", "s3cret"),
        ("s3cret\n", "s3cret"),
        ("s3cret\r\n", "s3cret"),
        (" s3cret ", " s3cret "),
        ("\"s3cret\"\n", "\"s3cret\""),
        ("p\u{e4}ss word", "p\u{e4}ss word"),
        ("a", "a"),
    ] {
        assert_eq!(parsed(bytes.as_bytes()), Ok(secret.to_owned()));
    }
    assert!(parsed(&vec![b'a'; MAX_BYTES]).is_ok());
}

#[test]
fn anything_but_one_line_of_text_is_refused() {
    use InvalidSecret as Why;
    for (bytes, why) in [
        (&b""[..], Why::Blank),
        (b"\n", Why::Blank),
        (b"\r\n", Why::Blank),
        (b"\n\n", Why::Blank),
        (b"  \t \n", Why::Blank),
        ("\u{a0}\u{3000}".as_bytes(), Why::Blank),
        ("\u{feff}\n".as_bytes(), Why::Blank),
        (b"s3cret\n\n", Why::LineBreak),
        (b"s3cret\r\n\r\n", Why::LineBreak),
        (b"s3cret\r", Why::LineBreak),
        (b"\ns3cret", Why::LineBreak),
        (b"one\ntwo\n", Why::LineBreak),
        ("one\u{2028}two".as_bytes(), Why::LineBreak),
        ("one\u{85}two".as_bytes(), Why::LineBreak),
        (b"s3\0cret", Why::ControlCharacter),
        (b"s3cret\t", Why::ControlCharacter),
        (b"s3\x7fcret", Why::ControlCharacter),
        ("s3\u{9b}cret".as_bytes(), Why::ControlCharacter),
        (b"\xff\xfes\x00", Why::NotText),
        (b"s3cret\xc3", Why::NotText),
        ("\u{feff}s3cret".as_bytes(), Why::ByteOrderMark),
        (&vec![b'a'; MAX_BYTES + 1], Why::TooLarge),
    ] {
        assert_eq!(parsed(bytes), Err(why), "{:?}", String::from_utf8_lossy(&bytes[..bytes.len().min(20)]));
    }
}

#[test]
fn whitespace_and_quotes_at_either_end_cause_doubts() {
    let doubts =
        |text: &str| ClientSecret::parse(text.as_bytes()).expect("a secret").doubts().collect::<Vec<_>>();
    for text in ["s3cret", "s3 cret", "s3\"cret", "s3cret\n"] {
        assert_eq!(doubts(text), [], "{text}");
    }
    for text in [" s3cret", "s3cret ", "s3cret\u{a0}\n", "s3cret\u{200b}"] {
        assert_eq!(doubts(text), [Doubt::OuterSpace], "{text}");
    }
    for text in ["\"s3cret\"", "s3cret'", "\u{201c}s3cret\u{201d}", "`s3cret`"] {
        assert_eq!(doubts(text), [Doubt::Quote], "{text}");
    }
    assert_eq!(doubts("'s3cret "), [Doubt::OuterSpace, Doubt::Quote]);
}

#[test]
fn file_is_read_with_its_permissions_and_errors_are_distinguished() {
    let folder = tempfile::tempdir().expect("a directory");
    let path = folder.path().join("secret");
    fs::write(&path, "s3cret\n").expect("a file");
    for (mode, readable_by_others) in [(0o600, false), (0o640, false), (0o644, true)] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("a mode");
        let file = StoredSecret::read(&path).expect("a secret");
        assert_eq!((file.secret.expose(), file.exposure.readable), ("s3cret", readable_by_others));
        assert!(!format!("{file:?}").contains("s3cret"));
    }
    let why = |path: &Path| StoredSecret::read(path).expect_err("no secret");
    assert_eq!(why(folder.path()), InvalidSecret::Unreadable(io::ErrorKind::IsADirectory));
    assert_eq!(why(Path::new("/dev/null")), InvalidSecret::NotRegular);
    fs::write(&path, vec![b'a'; MAX_BYTES + 1]).expect("a file");
    assert_eq!(why(&path), InvalidSecret::TooLarge);
}

proptest! {
    #[test]
    fn accepted_secret_is_the_input_without_its_newline(
        bytes in prop_oneof![any::<Vec<u8>>(), "[ -~\u{e4}\n\r\t\u{feff}]{0,20}".prop_map(String::into_bytes)]
    ) {
        if let Ok(secret) = parsed(&bytes) {
            prop_assert_eq!(secret.as_bytes(), without_newline(&bytes));
            prop_assert!(!secret.trim().is_empty());
            prop_assert!(!secret.chars().any(char::is_control));
        }
    }
}
