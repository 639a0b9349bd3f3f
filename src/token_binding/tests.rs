use proptest::prelude::*;

use super::*;
use crate::domain::ott::{MAX_SEALED_BYTES, SubjectKind};

const OLD: &str = "2026-10 AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
const NEW: &str = "2026-11 ICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8=";

fn keys(lines: &[&str]) -> Keys {
    Keys::parse(lines.join("\n").as_bytes()).expect("keys")
}

fn token_binding(lines: &[&str]) -> (TokenBinding, WallClock) {
    let wall = WallClock::following_monotonic();
    (TokenBinding::new(keys(lines), wall.clone()), wall)
}

fn ott(text: &str) -> OneTimeToken {
    OneTimeToken::try_new(text.to_owned()).expect("a token")
}

fn binding(now: SystemTime) -> Binding {
    Binding {
        api_client: "eu2".to_owned(),
        subject: Subject::new(SubjectKind::Login, "Anna@customer.example".to_owned()).expect("a login"),
        issued_by: "spiffe://example.org/ns/portal/sa/web".to_owned(),
        issued_at: now,
        expires_at: now + Duration::from_secs(30),
    }
}

fn presented(text: &str) -> SealedToken {
    SealedToken::try_new(text.to_owned()).expect("visible ASCII")
}

fn refusal(token_binding: &TokenBinding, text: &str) -> SealRefusal {
    token_binding.open(&presented(text)).expect_err("refused")
}

#[tokio::test(start_paused = true)]
async fn sealed_token_contains_what_it_is_bound_to_and_nothing_readable() {
    let (token_binding, wall) = token_binding(&[OLD]);
    let sealed = token_binding.seal(&ott("canary-token"), &binding(wall.now())).expect("sealed");
    let text = sealed.expose();
    assert!(text.starts_with("ottgw1.2026-10."), "{text}");
    assert!(text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.')));
    for readable in ["canary", "anna", "portal", "eu2"] {
        assert!(!text.contains(readable), "{text}");
    }
    let opened = token_binding.open(&sealed).expect("opened");
    assert_eq!(opened.binding().subject.canonical(), "anna@customer.example");
    let (ott, found) = opened.spend(Some("eu2")).expect("not expired");
    assert_eq!(ott.expose(), "canary-token");
    assert_eq!(found.issued_by, "spiffe://example.org/ns/portal/sa/web");
    assert_eq!(found.issued_at, wall.now());
}

#[tokio::test(start_paused = true)]
async fn no_two_seals_of_a_token_are_equal() {
    let (token_binding, wall) = token_binding(&[OLD]);
    let seal = || token_binding.seal(&ott("canary"), &binding(wall.now())).expect("sealed");
    assert_ne!(seal().expose(), seal().expose());
}

#[tokio::test(start_paused = true)]
async fn every_altered_or_truncated_text_is_refused() {
    let (token_binding, wall) = token_binding(&[OLD, NEW]);
    let sealed = token_binding.seal(&ott("canary"), &binding(wall.now())).expect("sealed");
    let text = sealed.expose();
    let mut altered = 0;
    for position in 0..text.len() {
        for bit in 0..7 {
            let mut bytes = text.as_bytes().to_vec();
            bytes[position] ^= 1 << bit;
            let Ok(other) = SealedToken::try_new(String::from_utf8(bytes).expect("ASCII")) else { continue };
            assert!(token_binding.open(&other).is_err(), "bit {bit} of character {position}");
            altered += 1;
        }
        if position > 0 {
            assert!(token_binding.open(&presented(&text[..position])).is_err(), "{position} characters");
        }
        assert!(token_binding.open(&presented(&format!("{text}{}", &text[position..]))).is_err());
    }
    assert!(altered > 5 * text.len(), "{altered}");
    // The last character has bits that are not part of a byte.
    for other in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_=".chars() {
        let other = format!("{}{other}", &text[..text.len() - 1]);
        assert!(other == text || token_binding.open(&presented(&other)).is_err(), "{other}");
    }
    assert!(token_binding.open(&sealed).is_ok());
}

#[tokio::test(start_paused = true)]
async fn refusals_name_their_cause() {
    let (token_binding, wall) = token_binding(&[OLD]);
    let sealed = token_binding.seal(&ott("canary"), &binding(wall.now())).expect("sealed");
    let text = sealed.expose().to_owned();
    let body = text.rsplit_once('.').expect("a body").1;
    let other_start = if body.starts_with('A') { 'B' } else { 'A' };
    let cases = [
        (format!("ottgw2.2026-10.{body}"), SealRefusal::UnknownVersion),
        (format!("ottgw1.2026-11.{body}"), SealRefusal::UnknownKey),
        (format!("ottgw1.2026-10{body}"), SealRefusal::Malformed),
        (format!("ottgw1.2026-10.{body}="), SealRefusal::Malformed),
        ("ottgw1.2026-10.".to_owned(), SealRefusal::Malformed),
        ("ottgw1.2026-10.AAAAAAAAAAAAAAAA".to_owned(), SealRefusal::NotAuthentic),
        (format!("ottgw1.2026-10.{other_start}{}", &body[1..]), SealRefusal::NotAuthentic),
    ];
    for (text, cause) in cases {
        assert_eq!(refusal(&token_binding, &text), cause, "{text}");
    }
    assert_eq!(refusal(&TokenBinding::without_keys(), &text), SealRefusal::NoKeys);
    let other = NEW.replace("2026-11", "2026-10");
    assert_eq!(refusal(&TokenBinding::new(keys(&[&other]), wall), &text), SealRefusal::NotAuthentic);
    let sealing = TokenBinding::without_keys().seal(&ott("canary"), &binding(SystemTime::UNIX_EPOCH));
    assert_eq!(sealing.expect_err("no keys"), SealError::NoKeys);
}

#[tokio::test(start_paused = true)]
async fn keys_are_rotated_across_replicas_without_a_gap() {
    let (one, wall) = token_binding(&[OLD]);
    let other = TokenBinding::new(keys(&[OLD]), wall.clone());
    let opens = |from: &TokenBinding, to: &TokenBinding| {
        let sealed = from.seal(&ott("canary"), &binding(wall.now())).expect("sealed");
        to.open(&sealed).is_ok()
    };
    // Every replica first gets the new key as one that only opens, then as the one that seals.
    for lines in [&[OLD, NEW][..], &[NEW, OLD], &[NEW]] {
        one.replace_keys(keys(lines));
        assert!(opens(&one, &other) && opens(&other, &one), "{lines:?}");
        other.replace_keys(keys(lines));
        assert!(opens(&one, &other) && opens(&other, &one), "{lines:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn expiry_has_two_seconds_of_leeway() {
    let (token_binding, wall) = token_binding(&[OLD]);
    let sealed = token_binding.seal(&ott("canary"), &binding(wall.now())).expect("sealed");
    let spend = || token_binding.open(&sealed).expect("authentic").spend(None);
    tokio::time::advance(Duration::from_secs(32)).await;
    assert!(spend().is_ok());
    tokio::time::advance(Duration::from_millis(1)).await;
    assert_eq!(spend().expect_err("expired"), SealRefusal::Expired);
    // A wall clock that is set back makes nothing last longer: the platform decides too.
    wall.shift_by_ms(-3_600_000);
    assert!(spend().is_ok());
    wall.shift_by_ms(7_200_000);
    assert_eq!(spend().expect_err("expired"), SealRefusal::Expired);
}

#[tokio::test(start_paused = true)]
async fn sealed_api_client_counts() {
    let (token_binding, wall) = token_binding(&[OLD]);
    let sealed = token_binding.seal(&ott("canary"), &binding(wall.now())).expect("sealed");
    let spend = |requested| token_binding.open(&sealed).expect("authentic").spend(requested);
    assert!(spend(None).is_ok());
    assert!(spend(Some("eu2")).is_ok());
    assert_eq!(spend(Some("us1")).expect_err("another API client"), SealRefusal::OtherApiClient);
}

#[tokio::test(start_paused = true)]
async fn longest_names_fit() {
    let (token_binding, wall) = token_binding(&[&NEW.replace("2026-11", &"k".repeat(32))]);
    let binding = Binding {
        api_client: "a".repeat(64),
        subject: Subject::new(SubjectKind::Login, "U".repeat(254)).expect("a login"),
        issued_by: "c".repeat(2048),
        ..binding(wall.now())
    };
    let sealed = token_binding.seal(&ott(&"t".repeat(4096)), &binding).expect("sealed");
    assert!(sealed.expose().len() <= MAX_SEALED_BYTES, "{}", sealed.expose().len());
    assert_eq!(token_binding.open(&sealed).expect("opened").binding(), &binding);
}

#[test]
fn debug_output_contains_no_secret() {
    let (token_binding, wall) = token_binding(&[OLD]);
    let sealed = token_binding.seal(&ott("canary"), &binding(wall.now())).expect("sealed");
    let opened = token_binding.open(&sealed).expect("opened");
    let shown = format!("{token_binding:?}{sealed:?}{opened:?}");
    assert!(!shown.contains("canary") && !shown.contains("AAEC") && !shown.contains("[0, 1, 2"), "{shown}");
}

#[test]
fn faulty_key_files_are_refused_by_line() {
    let parse = |text: &str| Keys::parse(text.as_bytes()).expect_err("a fault");
    let (_, key) = OLD.split_once(' ').expect("an id and a key");
    let (_, other) = NEW.split_once(' ').expect("an id and a key");
    assert_eq!(parse(""), InvalidKeys::Empty);
    assert_eq!(parse("# 2026-10 retired\n\n"), InvalidKeys::Empty);
    assert_eq!(parse(key), InvalidKeys::Line(1));
    assert_eq!(parse(&format!("\n{key} 2026-10")), InvalidKeys::Id(2));
    assert_eq!(parse(&format!("a.b {key}")), InvalidKeys::Id(1));
    assert_eq!(parse(&format!("a {key}!")), InvalidKeys::NotBase64(1));
    assert_eq!(parse(&format!("a {key} b")), InvalidKeys::NotBase64(1));
    assert_eq!(parse("a AAECAwQFBgcICQoLDA0ODw=="), InvalidKeys::Size(1, 16));
    assert_eq!(parse("a AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="), InvalidKeys::NotRandom(1));
    assert_eq!(parse(&format!("a {key}\n\na {other}")), InvalidKeys::RepeatedId(1, 3));
    assert_eq!(parse(&format!("a {key}\nb {key}")), InvalidKeys::RepeatedKey(1, 2));
    assert_eq!(Keys::parse(b"a \xff").expect_err("not text"), InvalidKeys::NotText);
    assert_eq!(Keys::parse(&vec![b' '; MAX_KEYS_BYTES + 1]).expect_err("too large"), InvalidKeys::TooLarge);
    let line = |number: u8| {
        let mut bytes = [7; 32];
        bytes[0] = number + 100;
        format!("k{number} {}", base64::engine::general_purpose::STANDARD.encode(bytes))
    };
    let many: Vec<String> = (0..17).map(line).collect();
    assert_eq!(Keys::parse(many[..16].join("\n").as_bytes()).expect("16 keys").ids().count(), 16);
    assert_eq!(parse(&many.join("\n")), InvalidKeys::TooMany);
    for fault in [parse(&format!("{key} a")), parse(&format!("a {key}!"))] {
        assert!(!fault.to_string().contains("AAEC"), "{fault}");
    }
}

#[test]
fn spaces_comments_and_missing_padding_are_accepted() {
    let text = format!("# comment\r\n  a\t{}  \r\n\r\n", OLD[8..].trim_end_matches('='));
    assert_eq!(Keys::parse(text.as_bytes()).expect("a key"), keys(&[&OLD.replace("2026-10", "a")]));
    assert_ne!(keys(&[OLD]), keys(&[OLD, NEW]));
    assert_ne!(keys(&[OLD]), keys(&[NEW]));
}

proptest! {
    #[test]
    fn every_binding_survives(
        token in "[!-~]{1,300}",
        login in "[a-zA-Zäß０-９@.]{1,60}[a-z]",
        issued_by in "[!-~]{1,200}",
        milliseconds in 0_u64..4_000_000_000_000,
    ) {
        let token_binding = TokenBinding::new(keys(&[OLD]), WallClock::system());
        let subject = Subject::new(SubjectKind::Login, login);
        prop_assume!(subject.is_ok());
        let subject = subject.expect("checked");
        let issued_at = SystemTime::UNIX_EPOCH + Duration::from_millis(milliseconds);
        let binding = Binding { subject, issued_by, ..binding(issued_at) };
        let sealed = token_binding.seal(&ott(&token), &binding).expect("sealed");
        let opened = token_binding.open(&sealed).expect("opened");
        prop_assert_eq!(opened.ott().expose(), token);
        let found = opened.binding();
        prop_assert_eq!(&found.subject, &binding.subject);
        prop_assert_eq!((&found.issued_by, found.issued_at), (&binding.issued_by, binding.issued_at));
    }

    #[test]
    fn no_text_makes_opening_panic(text in "ottgw1\\.2026-10\\.[A-Za-z0-9_=.-]{0,400}|[!-~]{1,400}") {
        let token_binding = TokenBinding::new(keys(&[OLD]), WallClock::system());
        prop_assert!(token_binding.open(&presented(&text)).is_err());
    }
}
