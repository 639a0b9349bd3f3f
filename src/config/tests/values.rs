//! Values with a special format.

use super::*;

#[test]
fn a_rate_is_a_number_and_a_unit() {
    let folder = Folder::new();
    let read = |rate: &str| {
        let text = working_and("").replace("users", &format!("rate = \"{rate}\"\nusers"));
        folder.load(&text).map(|config| config.access.rules[0].rate)
    };
    let limited = |times: u32, seconds| Rate::PerPeriod {
        calls: times.try_into().unwrap(),
        period: Duration::from_secs(seconds),
    };
    for (text, rate) in [
        ("50/s", limited(50, 1)),
        ("30/min", limited(30, 60)),
        ("1/h", limited(1, 3600)),
        ("1000000/s", limited(1_000_000, 1)),
        ("unlimited", Rate::Unlimited),
    ] {
        assert_eq!(read(text).unwrap(), rate, "{text}");
    }
    let wrong = [
        "",
        "50",
        "0/s",
        "-1/s",
        "+1/s",
        " 1/s",
        "1 /s",
        "1/ s",
        "1/s ",
        "1.5/s",
        "50/",
        "/s",
        "50/day",
        "1/s/s",
        "1000001/s",
        "9999999999/s",
        "Unlimited",
        "\u{661}/s",
    ];
    for text in wrong {
        assert!(read(text).is_err(), "{text}");
    }
}

#[test]
fn token_of_two_callers_is_refused() {
    let folder = Folder::new();
    let part =
        format!("[callers.tokens]\na = \"{TOKEN}\"\nb = [\"{OTHER_TOKEN}\", \"{TOKEN}\"]\nc = [\"x\"]");
    assert_eq!(
        folder.errors(&working_and(&part)),
        [
            "gateway.toml:10: callers.tokens.b: \"a\" has the same token; give each caller its own",
            "gateway.toml:11: callers.tokens.c[1]: must be \"sha256:\" and the 64 hexadecimal digits of the \
             token's SHA-256, not the token itself",
        ]
    );
}

#[test]
fn id_of_the_fingerprint_key_defaults_to_its_file_name() {
    let folder = Folder::new();
    let id = |text: &str| folder.load(&working_and(text)).unwrap().audit.hmac_key.map(|key| key.id);
    assert_eq!(id("[audit]\nhmac_key_file = \"hmac\"").as_deref(), Some("hmac"));
    assert_eq!(
        id("[audit]\nhmac_key_file = \"hmac\"\nhmac_key_id = \"2026-01\"").as_deref(),
        Some("2026-01")
    );
    assert_eq!(
        folder.errors(&working_and("[audit]\nhmac_key_id = \"2026-01\"")),
        ["gateway.toml:9: audit.hmac_key_id: needs hmac_key_file"]
    );
}
