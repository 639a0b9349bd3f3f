//! Warnings about valid configurations, in the log at start and from `check-config`.

use std::{fs, os::unix::fs::PermissionsExt};

use crate::support::{
    authority::Authority,
    calling::{issued, until},
    gateway::Setup,
    upstream::{Tls, Upstream},
};

/// A gateway with every kind of secret file.
fn setup(platform: &Upstream) -> Setup {
    let setup = Setup::for_platform(platform.address())
        .replacing(
            "[admin]",
            "[server.tls]
            certificate_file = \"FOLDER/tls.crt\"
            private_key_file = \"FOLDER/tls.key\"
            [admin]",
        )
        .replacing("client_id =", "bind_tokens = \"on\"\nclient_id =")
        .replacing(
            "[audit]",
            "[token_binding]\nkeys_file = \"FOLDER/token.keys\"\n[audit]\nhmac_key_file = \"FOLDER/hmac\"",
        );
    Authority::new("warnings").issue(&["localhost"]).write(setup.folder());
    setup.file("hmac", "0123456789abcdef0123456789abcdef");
    setup.file("token.keys", "2026-11 AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n");
    setup
}

#[tokio::test]
async fn secret_files_readable_by_others_are_reported() {
    let platform = Upstream::http().await;
    for (file, key) in [
        ("", ""),
        ("client-secret", "api_clients.test.client_secret_file"),
        ("tls.key", "server.tls.private_key_file"),
        ("hmac", "audit.hmac_key_file"),
        ("token.keys", "token_binding.keys_file"),
    ] {
        let setup = setup(&platform);
        if !file.is_empty() {
            let path = setup.folder().join(file);
            fs::set_permissions(path, fs::Permissions::from_mode(0o644)).expect("a changed mode");
        }
        setup.write_config();
        let checked = setup.run(&["check-config"]);
        let report = String::from_utf8_lossy(&checked.stdout) + String::from_utf8_lossy(&checked.stderr);
        let gateway = setup.start();
        let log = gateway.stderr().text();
        let logged: Vec<&str> = log.lines().filter(|line| line.contains("config.warning")).collect();
        if key.is_empty() {
            assert!(logged.is_empty(), "{logged:?}");
            assert!(!report.contains("every user"), "{report}");
        } else {
            assert_eq!(logged.len(), 1, "{file}: {logged:?}");
            assert!(logged[0].contains(key) && logged[0].contains("\"WARN\""), "{}", logged[0]);
            let reported = report.lines().any(|line| line.contains(key) && line.contains("every user"));
            assert!(reported, "{report}");
        }
    }
}

#[tokio::test]
async fn variables_that_override_the_file_are_reported() {
    let platform = Upstream::http().await;
    let names = [
        "OTT_GATEWAY__ACCESS__QUOTA_DRY_RUN",
        "OTT_GATEWAY__API_CLIENTS__TEST__CLIENT_ID",
        "OTT_GATEWAY__SERVER__REFLECTION",
    ];
    let values = ["true", "canary-client", "true"];
    let mut setup = Setup::for_platform(platform.address());
    for (name, value) in names.into_iter().zip(values) {
        setup = setup.environment(name, value);
    }
    setup.write_config();
    let checked = setup.run(&["check-config"]);
    let report = String::from_utf8_lossy(&checked.stdout).into_owned();
    let gateway = setup.start();
    let log = gateway.stderr().text();
    let line = log.lines().find(|line| line.contains("config.variables")).expect("the variables in the log");
    for name in names {
        assert!(line.contains(name), "{line}");
        assert!(report.contains(name), "{report}");
    }
    assert!(!log.contains("canary-client"), "a value may be a secret");

    let quiet = Setup::for_platform(platform.address()).start();
    assert!(!quiet.stderr().text().contains("config.variables"), "nothing overrides the file");
}

#[tokio::test]
async fn variables_in_effect_are_reported_with_non_secret_values() {
    let platform = Upstream::http().await;
    let variables = [
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://127.0.0.1:1", true),
        ("OTEL_EXPORTER_OTLP_HEADERS", "api-key=canary-header", false),
        ("OTEL_SERVICE_NAME", "login-prod", true),
        ("RUST_LOG", "info", true),
        ("RES_OPTIONS", "ndots:1", true),
    ];
    let ignored = [("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"), ("OTEL_TRACES_SAMPLER", "canary-sampler")];
    let mut setup = Setup::for_platform(platform.address());
    for (name, value) in variables
        .iter()
        .map(|(name, value, _)| (name, value))
        .chain(ignored.iter().map(|(name, value)| (name, value)))
    {
        setup = setup.environment(name, value);
    }
    setup.write_config();
    let checked = setup.run(&["check-config"]);
    assert_eq!(checked.status.code(), Some(0));
    let report = String::from_utf8_lossy(&checked.stdout) + String::from_utf8_lossy(&checked.stderr);
    let log = setup.start().stderr().text();
    for (name, value, is_shown) in variables {
        let line = |text: &str| text.lines().find(|line| line.contains(name)).map(str::to_owned);
        let (logged, reported) =
            (line(&log).expect("a log line"), line(&report).expect("a line of the report"));
        assert!(logged.contains("environment variable in effect"), "{logged}");
        assert_eq!(
            (logged.contains(value), reported.contains(value)),
            (is_shown, is_shown),
            "{logged} {reported}"
        );
    }
    for (name, _) in ignored {
        let is_warning = |line: &str| line.contains(name) && line.contains("configuration warning");
        assert!(log.lines().any(is_warning), "{log}");
        assert!(report.lines().any(|line| line.starts_with("warning: ") && line.contains(name)), "{report}");
    }
    assert!(!log.contains("canary") && !report.contains("canary"), "{log} {report}");

    let quiet = Setup::for_platform(platform.address()).start();
    assert!(!quiet.stderr().text().contains("OTEL_"), "nothing is set");
}

#[tokio::test]
async fn ssl_cert_file_is_reported_and_ignored_by_clients_with_a_ca_file() {
    let (good, own) =
        (Tls::new("localhost", false, &["http/1.1"]), Tls::new("localhost", false, &["http/1.1"]));
    let ca_file = good.ca_file.clone();
    let platform = Upstream::https(good).await;
    let url = platform.url();
    let setup = || {
        Setup::for_platform(platform.address())
            .replacing(&format!("http://{}", platform.address()), &url)
            .environment("SSL_CERT_FILE", own.ca_file.to_str().expect("UTF-8"))
    };
    let reported = |setup: Setup| {
        setup.write_config();
        let checked = setup.run(&["check-config"]);
        let report = String::from_utf8_lossy(&checked.stdout) + String::from_utf8_lossy(&checked.stderr);
        (report.into_owned(), setup)
    };
    let (report, setup_with_system) = reported(setup());
    let is_warning = |line: &str| line.starts_with("warning: SSL_CERT_FILE:") && line.contains("\"test\"");
    assert!(report.lines().any(is_warning), "{report}");
    let log = setup_with_system.start().stderr().text();
    assert!(log.lines().any(|line| line.contains("SSL_CERT_FILE") && line.contains("WARN")), "{log}");

    let with_own =
        setup().replacing("client_id = ", &format!("ca_file = \"{}\"\nclient_id = ", ca_file.display()));
    let (report, with_own) = reported(with_own);
    assert!(!report.contains("SSL_CERT_FILE"), "{report}");
    let gateway = with_own.start();
    let channel = gateway.channel().await;
    let issued_now = async || issued(&channel, &[]).await == "OK";
    until("a token is issued", issued_now).await;
    assert!(!gateway.stderr().text().contains("SSL_CERT_FILE"));
}

#[tokio::test]
async fn rules_that_no_caller_matches_are_reported_at_start_and_by_check_config() {
    let platform = Upstream::http().await;
    let setup = Setup::for_platforms(&[("one", platform.address()), ("two", platform.address())])
        .replacing(
            "callers = [\"anonymous\"]",
            "callers = [\"*\", \"anonymous\", \"spiffe://*\", \"dns:portal\", \"jwt:*\", \"token:*\"]",
        )
        .environment("OTT_GATEWAY_SERVER_LISTEN", "canary")
        .environment("ott_gateway__admin__listen", "canary")
        .environment("OTT_GATEWAY_PORT_50051_TCP", "tcp://10.0.0.1:50051");
    setup.write_config();
    let checked = setup.run(&["check-config"]);
    let report = String::from_utf8_lossy(&checked.stderr).into_owned();
    assert_eq!(checked.status.code(), Some(0), "{report}");
    let gateway = setup.start();
    let log = gateway.stderr().text();
    let log: Vec<&str> = log.lines().filter(|line| line.contains("configuration warning")).collect();
    let expected = [
        "access.rules[1].callers[1]: matches no caller: no caller authentication is configured",
        "access.rules[1].callers[3]: matches no caller: client certificates are not requested",
        "access.rules[1].callers[4]: matches no caller: client certificates are not requested",
        "access.rules[1].callers[5]: matches no caller: configure the issuer",
        "access.rules[1].callers[6]: matches no caller: [callers.tokens] has no such name",
        "api_clients: no API client is the default",
        "OTT_GATEWAY_SERVER_LISTEN: has no effect; did you mean OTT_GATEWAY__SERVER__LISTEN?",
        "ott_gateway__admin__listen: has no effect; did you mean OTT_GATEWAY__ADMIN__LISTEN?",
    ];
    for warning in expected {
        assert_eq!(report.matches(warning).count(), 1, "{warning}: {report}");
        assert_eq!(log.iter().filter(|line| line.contains(warning)).count(), 1, "{warning}: {log:?}");
    }
    assert_eq!(report.matches("warning: ").count(), expected.len(), "{report}");
    assert_eq!(log.len(), expected.len(), "{log:?}");
    assert!(!report.contains("canary"), "{report}");
}
