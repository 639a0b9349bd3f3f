//! Texts of findings.

use super::*;

#[test]
fn empty_configuration_has_two_errors() {
    assert_eq!(
        Folder::new().errors(""),
        [
            "gateway.toml: api_clients: is missing: add at least one [api_clients.NAME]",
            "gateway.toml: access.rules: is missing: add an [[access.rules]] table; the gateway does not start without rules",
        ]
    );
    let errors = Config::load(None, &BTreeMap::new()).unwrap_err();
    assert_eq!(errors.iter().count(), 2);
    assert!(errors.to_string().starts_with("configuration: api_clients: is missing"), "{errors}");
}

#[test]
fn first_ten_of_many_errors_are_displayed_with_their_number() {
    let keys = |count: usize| (0..count).map(|number| format!("[k{number}]\n")).collect::<Vec<_>>().concat();
    let shown = |count| Folder::new().load(&working_and(&keys(count))).expect_err("errors").to_string();
    assert_eq!(shown(10).lines().count(), 10);
    let many = shown(400);
    assert_eq!(many.lines().next(), Some("400 problems; the first 10 are:"));
    assert_eq!(many.lines().count(), 11);
    assert_eq!(Folder::new().errors(&working_and(&keys(400))).len(), 400, "all are available");
}

#[test]
fn finding_is_one_printable_line_of_bounded_size() {
    let long = "k".repeat(100_000);
    for (text, expected) in [
        ("\"a\\u001b[2J\\nforged\" = 1".to_owned(), "a\\u{1b}[2J\\nforged: unknown key"),
        ("[api_clients.\"x\\u202e\\u0007\"]".to_owned(), "api_clients.x\\u{202e}\\u{7}.data_center_url"),
        (format!("{long} = 1"), "… [cut, 100000 bytes in all]: unknown key"),
    ] {
        let errors = Folder::new().errors(&format!("{text}\n"));
        assert!(errors.iter().any(|error| error.contains(expected)), "{errors:?}");
        for error in errors {
            assert!(!error.chars().any(crate::base::text::is_unprintable) && error.len() < 4000, "{error:?}");
        }
    }
}

#[test]
fn errors_never_contain_a_value() {
    // The canary is the value of every key and the contents of every named file.
    let keys = [
        (
            "server",
            "listen health_listen plaintext max_deadline worker_threads max_in_flight max_connections max_connection_age reflection drain_lame_duck drain_timeout",
        ),
        ("server.tls", "certificate_file private_key_file client_ca_file client_auth"),
        ("admin", "listen"),
        (
            "api_clients.eu2",
            "data_center_url client_id client_secret client_secret_file client_secret_env client_secret_credential default target_origins ca_file proxy_url propagate_trace max_idle_connections min_login_time bind_tokens unknown",
        ),
        ("callers.jwt", "issuer audience typ max_lifetime jwks_file jwks_url jwks_ca_file jwks_max_age"),
        ("callers.tokens", "billing"),
        ("callers.forwarded", "header from"),
        ("access", "quota_dry_run max_quota_users"),
        ("token_binding", "keys_file"),
        ("audit", "sink hmac_key_file hmac_key_id fsync"),
        ("telemetry", "log_format log_level otlp_endpoint trace_ratio"),
    ];
    let rule = "callers methods api_clients rate burst user_rate user_burst max_in_flight logins external_ids user_ids users";
    let folder = Folder::new();
    fs::write(folder.folder.path().join(CANARY), CANARY).unwrap();
    for value in [format!("\"{CANARY}\""), format!("[\"{CANARY}\"]"), format!("\"https://{CANARY}:x\"")] {
        let mut text = String::new();
        let lines = |keys: &str| keys.replace(' ', &format!(" = {value}\n")) + " = " + &value + "\n";
        for (section, keys) in keys {
            text = format!("{text}[{section}]\n{}", lines(keys));
        }
        text = format!("{text}[[access.rules]]\n{}", lines(rule));
        let errors = folder.load(&text).unwrap_err();
        assert!(errors.iter().count() > 30, "{errors}");
        assert!(!format!("{errors} {errors:?}").contains(CANARY), "{errors}");
    }
}

#[test]
fn missing_path_is_displayed_unless_it_may_be_a_secret() {
    let folder = Folder::new();
    let error = |file: &str| {
        let text = working_and("").replace("file = \"secret\"", &format!("file = \"{file}\""));
        folder.errors(&text).concat()
    };
    for name in ["eu2.secret", "client-secret_2026.txt", "SECRET2", "tls.crt-old"] {
        assert!(error(name).ends_with(&format!("{name}: no such file")), "{}", error(name));
    }
    assert!(error("keys/eu2.secret").ends_with("keys/eu2.secret (there is no folder keys): no such file"));
    for secret in [
        "q8Zx2KpL0vT4",
        "2955b448-7df8-43fc-9c63-a21511dbe06d",
        "/9j4AAQ/SkZJRg==",
        "correct horse",
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    ] {
        let error = error(secret);
        assert!(error.contains("it may be a secret") && !error.contains(&secret[4..]), "{error}");
    }
}
