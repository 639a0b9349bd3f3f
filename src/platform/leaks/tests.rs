//! Parts of secrets are found in every spelling; other texts pass.

use base64::engine::general_purpose::{STANDARD as BASE64, URL_SAFE_NO_PAD};
use proptest::prelude::*;

use super::*;

const TOKEN: &str =
    "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiI0MiIsImV4cCI6MTc5ODc2MTYwMH0.Zm9v-YmFy_Wn8s0QmFzZTY0dXJs";

fn secrets(secret: &str) -> Secrets {
    let mut secrets = Secrets::default();
    secrets.add(secret.as_bytes());
    secrets
}

/// Returns the bytes of a text, each in a notation.
fn bytes(text: &str, notation: impl Fn(u8) -> String) -> String {
    text.bytes().map(notation).collect::<Vec<_>>().concat()
}

fn hex(text: &str, separator: &str) -> String {
    bytes(text, |byte| format!("{byte:02x}{separator}"))
}

fn percent_encoded(text: &str) -> String {
    bytes(text, |byte| format!("%{byte:02X}"))
}

fn interleaved(text: &str, between: &str) -> String {
    text.chars().flat_map(|character| [character.to_string(), between.to_owned()]).collect()
}

fn full_width(text: &str) -> String {
    let wide = |character: char| {
        let wide = u32::from(character) + 0xfee0;
        if character.is_ascii_graphic() { char::from_u32(wide).expect("a character") } else { character }
    };
    text.chars().map(wide).collect()
}

/// Returns every second character in a notation, the others unchanged.
fn every_second(text: &str, notation: impl Fn(u8) -> String) -> String {
    let spelled =
        |(at, byte): (usize, u8)| if at % 2 == 0 { notation(byte) } else { char::from(byte).into() };
    text.bytes().enumerate().map(spelled).collect()
}

fn base32(text: &str) -> String {
    let bits = bytes(text, |byte| format!("{byte:08b}"));
    let symbol = |bits: &[u8]| {
        let bits = format!("{:0<5}", str::from_utf8(bits).expect("digits"));
        char::from(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"[usize::from_str_radix(&bits, 2).expect("bits")])
    };
    bits.as_bytes().chunks(5).map(symbol).collect()
}

/// Returns UTF-8 that was decoded as UTF-16.
fn read_as_utf16(text: &str, unit: fn([u8; 2]) -> u16) -> String {
    let units: Vec<u16> =
        text.as_bytes().chunks(2).map(|pair| unit([pair[0], *pair.get(1).unwrap_or(&b' ')])).collect();
    String::from_utf16_lossy(&units)
}

fn utf16(text: &str, bytes: fn(u16) -> [u8; 2]) -> Vec<u8> {
    text.encode_utf16().flat_map(bytes).collect()
}

/// All spellings of a part of a secret.
const SPELLINGS: &[fn(&str) -> String] = &[
    str::to_owned,
    str::to_uppercase,
    str::to_lowercase,
    percent_encoded,
    full_width,
    |part| percent_encoded(&percent_encoded(&percent_encoded(part))),
    |part| percent_encoded(part).replace('%', "%2525"),
    |part| interleaved(part, " "),
    |part| interleaved(part, "\n"),
    |part| interleaved(part, "\u{200b}"),
    |part| interleaved(part, "…\u{202e}"),
    |part| interleaved(part, "%20"),
    |part| BASE64.encode(part),
    |part| URL_SAFE_NO_PAD.encode(part),
    |part| BASE64.encode(part).to_lowercase(),
    |part| BASE64.encode(format!("a{part}")),
    |part| BASE64.encode(format!("Authorization: Bearer {part}\r\n")),
    |part| interleaved(&BASE64.encode(part), " "),
    |part| BASE64.encode(BASE64.encode(part)),
    |part| BASE64.encode(hex(part, "")),
    |part| BASE64.encode(percent_encoded(part)),
    |part| percent_encoded(&BASE64.encode(part)),
    |part| hex(part, ""),
    |part| hex(part, "").to_uppercase(),
    |part| hex(part, ":"),
    |part| hex(part, " "),
    |part| format!("0x{}", hex(part, "")),
    |part| hex(&BASE64.encode(part), ""),
    |part| bytes(part, |byte| format!("\\x{byte:02x}")),
    |part| bytes(part, |byte| format!("\\u{byte:04X}")),
    |part| bytes(part, |byte| format!("0x{byte:02x}, ")),
    |part| bytes(part, |byte| format!("&#{byte};")),
    |part| bytes(part, |byte| format!("&#x{byte:x};")),
    |part| bytes(part, |byte| format!("\\{byte:03o}")),
    |part| format!("{:?}", part.as_bytes()),
    |part| every_second(part, |byte| format!("%{byte:02x}")),
    |part| every_second(part, |byte| format!("%u{byte:04x}")),
    |part| every_second(part, |byte| format!("&#{byte};")),
    |part| every_second(part, |byte| format!("&#x{byte:04X};")),
    |part| every_second(part, |byte| format!("&amp;#{byte};")),
    |part| every_second(part, |byte| format!("\\u{byte:04x}")),
    |part| every_second(part, |byte| format!("\\\\u{byte:04x}")),
    |part| every_second(part, |byte| format!("\\u{{{byte:x}}}")),
    |part| every_second(part, |byte| format!("\\x{byte:02X}")),
    |part| every_second(part, |byte| format!("\\{byte:03o}")),
    |part| every_second(part, |byte| format!("={byte:02X}")),
    |part| interleaved(part, "\\n"),
    |part| interleaved(part, "&nbsp;"),
    |part| interleaved(part, "&#8203;"),
    |part| interleaved(part, "\u{301}"),
    |part| interleaved(&BASE64.encode(part), "\\r\\n"),
    |part| BASE64.encode(part).replace('=', "&equals;"),
    |part| bytes(part, |byte| format!("={byte:02X}")),
    |part| bytes(part, |byte| format!("U+{byte:04X} ")),
    |part| part.chars().rev().collect(),
    base32,
    |part| base32(part).to_lowercase(),
    |part| base32(&format!("id: {part}")),
    |part| read_as_utf16(&format!("{part}  "), u16::from_be_bytes),
    |part| read_as_utf16(&format!("{part}  "), u16::from_le_bytes),
    |part| part.encode_utf16().filter_map(|unit| char::from_u32(u32::from(unit.swap_bytes()))).collect(),
    |part| BASE64.encode(utf16(part, u16::to_le_bytes)),
    |part| BASE64.encode(utf16(part, u16::to_be_bytes)),
    |part| {
        utf16(part, u16::to_le_bytes).iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat()
    },
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn part_of_a_secret_is_found_in_every_spelling(
        secret in "[A-Za-z0-9]{8,80}",
        (start, length) in (any::<prop::sample::Index>(), any::<prop::sample::Index>()),
        before in "([a-z]{1,9} ){0,4}[(\"'=]{0,1}",
        after in "[)\"'., ]([a-z]{1,9} ){0,4}",
    ) {
        let start = start.index(secret.len() - RUN + 1);
        let part = &secret[start..start + RUN + length.index(secret.len() - start - RUN + 1)];
        for (number, spelling) in SPELLINGS.iter().enumerate() {
            let spelled = spelling(part);
            prop_assert!(secrets(&secret).have_part_in(&spelled), "{number}: {spelled}");
            let text = format!("{before}{spelled}{after}");
            prop_assert!(secrets(&secret).have_part_in(&text), "{number}: {text}");
        }
    }

    #[test]
    fn any_text_is_examined_without_a_panic(text in any::<String>(), secret in any::<Vec<u8>>()) {
        let mut secrets = Secrets::default();
        secrets.add(&secret);
        // Only asserts that it returns: no panic and no endless loop.
        let _ = secrets.have_part_in(&text);
        let verbatim = String::from_utf8_lossy(&secret);
        prop_assert!(secret.len() < RUN || verbatim.as_bytes() != secret || secrets.have_part_in(&verbatim));
    }

    #[test]
    fn words_pass(words in prop::collection::vec("[a-z]{1,7}", 0..20)) {
        let text = words.join(", ");
        prop_assert!(!secrets("0192837465QWXZ5647382910").have_part_in(&text), "{text}");
    }
}

#[test]
fn usual_messages_pass() {
    for message in [
        "",
        "User not found",
        "The request is malformed: field \"login\" is required (code 1002)",
        "Tenant 3fa85f64-5717-4562-b3fc-2c963f66afa6 is disabled",
        "Access token is expired or revoked",
        "invalid_grant: the one-time token has been used",
        "Limit of 100 requests per 60 seconds exceeded, retry after 2026-11-28T22:37:00Z",
        "Bad Request. Reference #18.2d3e1702.1732833420.4f0c1a2b",
    ] {
        assert!(!secrets(TOKEN).have_part_in(message), "{message}");
    }
}

#[test]
fn seven_characters_are_not_a_part() {
    assert!(secrets(TOKEN).have_part_in(&TOKEN[3..11]));
    assert!(!secrets(TOKEN).have_part_in(&TOKEN[3..10]));
}

#[test]
fn secret_of_symbols_and_any_script_is_found_verbatim() {
    let secret = "!$%&/()=?ß€中文密码";
    assert!(secrets(secret).have_part_in(&format!("got {secret}")));
    assert!(secrets(secret).have_part_in("&/()=?ß"));
    assert!(secrets("pass%41%42word").have_part_in("passABword"), "its decoded form too");
}

#[test]
fn secrets_of_an_authorization_header_are_the_token_or_the_password() {
    let of = |header: &str| {
        let mut secrets = Secrets::default();
        secrets.add_authorization(&HeaderValue::from_str(header).expect("a header"));
        secrets
    };
    let bearer = of(&format!("Bearer {TOKEN}"));
    assert!(bearer.have_part_in(&TOKEN[20..30]));
    let pair = BASE64.encode("client-id-of-the-gateway:s3cr3t-0f-th3-cl13nt");
    let basic = of(&format!("Basic {pair}"));
    for leak in ["s3cr3t-0f", "0f th3 cl13nt", &pair, &pair[3..14], "czNjcjN0LTBmLXRo"] {
        assert!(basic.have_part_in(leak), "{leak}");
    }
    assert!(!basic.have_part_in("client-id-of-the-gateway is unknown"), "the id is not a secret");
}

#[test]
fn secret_of_a_cookie_is_its_value() {
    let mut secrets = Secrets::default();
    for cookie in ["session-id-name=0123456789abcdef; Path=/long-path-of-it", "x=y", "valueonly-0xyz"] {
        secrets.add_cookie(&HeaderValue::from_static(cookie));
    }
    assert!(secrets.have_part_in("at 456789ab"));
    assert!(secrets.have_part_in("valueonly-0xyz"));
    assert!(!secrets.have_part_in("session-id-name long-path-of-it"));
}
