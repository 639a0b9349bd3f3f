//! `[token_binding]` and `bind_tokens`.

use super::*;

/// Returns a configuration whose API client has this mode, with these keys.
fn sealing(mode: &str, keys: &str) -> String {
    format!("{CLIENT}bind_tokens = {mode}\n{RULE}{keys}")
}

/// Two keys that no message contains.
const SECRET: &str = "c2VjcmV0LWNhbmFyeS0xMjM0NTY3ODkwMTIzNDU2Nzg=";
const OTHER: &str = "b3RoZXJzLWNhbmFyeS0xMjM0NTY3ODkwMTIzNDU2Nzg=";

const WITH_KEYS: &str = "[token_binding]\nkeys_file = \"token-keys\"\n";

#[test]
fn sealing_needs_keys() {
    let folder = Folder::new();
    let needs = "gateway.toml:5: api_clients.eu2.bind_tokens: needs [token_binding] with a keys_file: there is \
                 no key to seal tokens with";
    for mode in ["\"on\"", "\"accept_raw\""] {
        assert_eq!(folder.errors(&sealing(mode, "")), [needs], "{mode}");
        folder.load(&sealing(mode, WITH_KEYS)).expect("there are keys");
    }
    folder.load(&sealing("\"off\"", "")).expect("nothing is sealed");
    // One fault is not reported twice.
    assert_eq!(
        folder.errors(&sealing("\"on\"", "[token_binding]\n")),
        [
            "gateway.toml:9: token_binding.keys_file: is missing: set it to a file with one key per line, such as \
             \"2026-11 KEY\"; create a KEY with \"openssl rand -base64 32\""
        ]
    );
}

#[test]
fn unknown_mode_is_refused_with_the_nearest_one() {
    let folder = Folder::new();
    let modes = "gateway.toml:5: api_clients.eu2.bind_tokens: must be \"on\" or \"off\" or \"accept_raw\"";
    for (mode, expected) in [
        ("\"accept-raw\"", format!("{modes}; did you mean \"accept_raw\"?")),
        ("\"of\"", format!("{modes}; did you mean \"off\"?")),
        ("\"required\"", modes.to_owned()),
    ] {
        assert_eq!(folder.errors(&sealing(mode, WITH_KEYS)), [expected], "{mode}");
    }
    let errors = folder.errors(&sealing("true", WITH_KEYS));
    assert_eq!(errors, ["gateway.toml:5: api_clients.eu2.bind_tokens: must be a string, not a boolean"]);
    let misspelled = sealing("\"on\"", WITH_KEYS).replace("bind_tokens", "bind_token");
    assert_eq!(
        folder.errors(&misspelled),
        ["gateway.toml:5: api_clients.eu2.bind_token: unknown key; did you mean \"bind_tokens\"?"]
    );
    let misspelled = working_and(&WITH_KEYS.replace("[token_", "[tokens_"));
    assert_eq!(
        folder.errors(&misspelled),
        ["gateway.toml:8: tokens_binding: unknown key; did you mean \"token_binding\"?"]
    );
}

#[test]
fn keys_that_seal_nothing_cause_a_warning() {
    let warnings = |text: &str| {
        let warnings = Folder::new().load(text).unwrap().warnings.into_iter();
        let of_table = warnings.filter(|warning| warning.key == "token_binding");
        of_table.map(|warning| warning.to_string()).collect::<Vec<_>>()
    };
    let unused = "seals no tokens, because no API client has bind_tokens = \"on\" or \"accept_raw\"; tokens that \
                  were sealed before can still be spent";
    let (absent, off) = (working_and(WITH_KEYS), sealing("\"off\"", WITH_KEYS));
    for (text, line) in [(absent, 8), (off, 9)] {
        let found = warnings(&text);
        assert_eq!(found.len(), 1, "{text}: {found:?}");
        assert!(found[0].ends_with(&format!("gateway.toml:{line}: token_binding: {unused}")), "{found:?}");
    }
    let other = CLIENT.replace("eu2", "us4");
    for mode in ["\"on\"", "\"accept_raw\""] {
        let one_of_two = sealing(mode, WITH_KEYS) + &other;
        assert_eq!(warnings(&one_of_two), [""; 0], "{mode}");
    }
}

#[test]
fn variables_switch_token_binding_on() {
    let folder = Folder::new();
    let keys = folder.folder.path().join("token-keys").display().to_string();
    let folder = folder
        .with("OTT_GATEWAY__TOKEN_BINDING__KEYS_FILE", &keys)
        .with("OTT_GATEWAY__API_CLIENTS__EU2__BIND_TOKENS", "accept_raw");
    let config = folder.load(&working_and("")).unwrap();
    assert_eq!(config.token_keys, Some(KeySource::File(keys.into())));
    assert_eq!(config.api_clients.by_name["eu2"].bind_tokens, Mode::AcceptRaw);
    let errors =
        Folder::new().with("OTT_GATEWAY__API_CLIENTS__EU2__BIND_TOKENS", "yes").errors(&working_and(""));
    assert_eq!(
        errors,
        [
            "OTT_GATEWAY__API_CLIENTS__EU2__BIND_TOKENS: api_clients.eu2.bind_tokens: must be \"on\" or \"off\" or \
             \"accept_raw\""
        ]
    );
}

/// The texts of all problems with the file, none of which contains anything of it.
#[test]
fn unusable_keys_are_reported_by_line_and_never_shown() {
    let folder = Folder::new();
    let path = |name: &str| folder.folder.path().join(name);
    let error = |file: &str| folder.errors(&sealing("\"on\"", &WITH_KEYS.replace("token-keys", file)));
    let key = "gateway.toml:10: token_binding.keys_file: ";
    assert_eq!(error("nothing"), [format!("{key}nothing: no such file")]);
    fs::create_dir(path("keys.d")).unwrap();
    assert_eq!(error("keys.d"), [format!("{key}keys.d: is a directory; name a file")]);

    for (contents, problem) in [
        (
            String::new(),
            "it contains no key; write a line such as \"2026-11 KEY\", with a KEY from \"openssl rand -base64 32\"",
        ),
        (
            "# canary\n\n".to_owned(),
            "it contains no key; write a line such as \"2026-11 KEY\", with a KEY from \"openssl rand -base64 32\"",
        ),
        (SECRET.to_owned(), "line 1 is not an id and a key, separated by a space"),
        (
            format!("canary: {SECRET}"),
            "the id in line 1 must be 1 to 32 ASCII letters, digits, \"-\" and \"_\"",
        ),
        (
            "canary Y2FuYXJ5".to_owned(),
            "the key in line 1 has 6 bytes instead of 32; create one with \"openssl rand -base64 32\"",
        ),
        (
            format!("a {SECRET}\nb canary!"),
            "the key in line 2 is not base64; create one with \"openssl rand -base64 32\"",
        ),
        (format!("# 1\ncanary {SECRET}\ncanary {OTHER}"), "lines 2 and 3 have the same id"),
        (
            format!("a {SECRET}\ncanary {SECRET}"),
            "lines 1 and 2 have the same key; a rotation needs a new key",
        ),
        (
            format!("canary {}=", "A".repeat(43)),
            "the key in line 1 is not random; create one with \"openssl rand -base64 32\"",
        ),
        (
            format!("canary {SECRET}\n{}", "#".repeat(64 * 1024)),
            "is larger than 65536 bytes; check that this is the right file",
        ),
    ] {
        fs::write(path("token-keys"), &contents).unwrap();
        let errors = error("token-keys");
        let shown = errors.concat();
        assert_eq!(errors.len(), 1, "{shown}");
        assert!(shown.starts_with(key) && shown.ends_with(problem), "{shown}");
        assert!(!shown.contains("canary") && !shown.contains(&SECRET[..8]), "{shown}");
    }
    fs::write(path("token-keys"), b"canary \xff\n").unwrap();
    assert_eq!(error("token-keys"), [format!("{key}it is not UTF-8 text")]);
    fs::write(path("token-keys"), KEYS).unwrap();
    folder.load(&sealing("\"on\"", WITH_KEYS)).expect("the keys are valid");
}

/// A truncated file must not issue or accept raw tokens that the whole file forbids.
#[test]
fn mode_must_not_be_lost_in_a_truncated_file() {
    let folder = Folder::new();
    let order = "must come before the first [[access.rules]] or before client_secret_file: a truncated file without \
                 this key would issue and accept tokens that are not sealed";
    let rules_first = format!("{RULE}{WITH_KEYS}{CLIENT}bind_tokens = \"on\"\n");
    assert_eq!(
        folder.errors(&rules_first),
        [format!("gateway.toml:10: api_clients.eu2.bind_tokens: {order}")]
    );
    let before_the_secret =
        format!("{RULE}{WITH_KEYS}{}", CLIENT.replace("client_id", "bind_tokens = \"on\"\nclient_id"));
    folder.load(&before_the_secret).expect("the key precedes a required one");
}

#[test]
fn fingerprint_of_the_configuration_changes_with_the_mode() {
    let folder = Folder::new();
    let fingerprint = |mode: &str| {
        let config = folder.load(&sealing(mode, WITH_KEYS)).unwrap();
        config.effective.unwrap().fingerprint()
    };
    assert_eq!(fingerprint("\"on\""), fingerprint("\"on\""));
    assert_ne!(fingerprint("\"on\""), fingerprint("\"accept_raw\""));
}
