//! Arbitrary texts are opened or refused without a panic, and only the text that was sealed is opened.
//!
//! The first byte selects the input: an arbitrary text, an arbitrary body after the prefix of a known
//! key, or a sealed token with some of its bytes replaced.

use std::{
    sync::LazyLock,
    time::{Duration, SystemTime},
};

use ott_gateway::{
    base::clock::WallClock,
    domain::ott::{OneTimeToken, SealedToken, Subject, SubjectKind},
    token_binding::{Binding, Keys, TokenBinding},
};

const KEYS: &[u8] =
    b"a AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\nb ICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8=\n";

static FIXTURE: LazyLock<(TokenBinding, String)> = LazyLock::new(|| {
    let token_binding = TokenBinding::new(Keys::parse(KEYS).expect("keys"), WallClock::system());
    let issued_at = SystemTime::UNIX_EPOCH + Duration::from_hours(500_000);
    let binding = Binding {
        api_client: "eu2".to_owned(),
        subject: Subject::new(SubjectKind::Login, "anna@customer.example".to_owned()).expect("a login"),
        issued_by: "spiffe://example.org/ns/portal/sa/web".to_owned(),
        issued_at,
        expires_at: issued_at + Duration::from_secs(30),
    };
    let ott = OneTimeToken::try_new("T1RUAQAAAG8-AA==".to_owned()).expect("a token");
    let sealed = token_binding.seal(&ott, &binding).expect("sealed").expose().to_owned();
    (token_binding, sealed)
});

/// Opens the text that the input describes.
pub(crate) fn run(input: &[u8]) {
    let Some((kind, rest)) = input.split_first() else { return };
    let (token_binding, sealed) = &*FIXTURE;
    let text = match kind % 3 {
        0 => String::from_utf8_lossy(rest).into_owned(),
        1 => format!("ottgw1.a.{}", String::from_utf8_lossy(rest)),
        _ => {
            let mut bytes = sealed.clone().into_bytes();
            for change in rest.chunks_exact(3) {
                let position = usize::from(u16::from_le_bytes([change[0], change[1]])) % bytes.len();
                bytes[position] = change[2] & 127;
            }
            String::from_utf8(bytes).expect("ASCII")
        }
    };
    let is_sealed = text == *sealed;
    let Ok(presented) = SealedToken::try_new(text) else { return };
    assert_eq!(token_binding.open(&presented).is_ok(), is_sealed);
}
