//! What an operator has to know about a configuration that is valid: the log of a start and
//! `check-config` report it.

use std::{fs, os::unix::fs::PermissionsExt};

use crate::support::{authority::Authority, gateway::Setup, upstream::Upstream};

/// A gateway with a file of each kind that contains a secret.
fn setup(platform: &Upstream) -> Setup {
    let setup = Setup::for_platform(platform.address())
        .replacing(
            "[admin]",
            "[server.tls]
            certificate_file = \"FOLDER/tls.crt\"
            private_key_file = \"FOLDER/tls.key\"
            [admin]",
        )
        .replacing("[audit]", "[audit]\nhmac_key_file = \"FOLDER/hmac\"");
    Authority::new("warnings").issue(&["localhost"]).write(setup.folder());
    setup.file("hmac", "0123456789abcdef0123456789abcdef");
    setup
}

#[tokio::test]
async fn secret_files_that_others_can_read_are_reported_at_start_and_by_check_config() {
    let platform = Upstream::http().await;
    for (file, key) in [
        ("", ""),
        ("client-secret", "api_clients.test.client_secret_file"),
        ("tls.key", "server.tls.private_key_file"),
        ("hmac", "audit.hmac_key_file"),
    ] {
        let setup = setup(&platform);
        if !file.is_empty() {
            let path = setup.folder().join(file);
            fs::set_permissions(path, fs::Permissions::from_mode(0o644)).expect("its mode can be set");
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
async fn variables_that_override_the_file_are_reported_at_start_and_by_check_config() {
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
    let line = log.lines().find(|line| line.contains("config.variables")).expect("the log names them");
    for name in names {
        assert!(line.contains(name), "{line}");
        assert!(report.contains(name), "{report}");
    }
    assert!(!log.contains("canary-client"), "a value may be a secret");

    let quiet = Setup::for_platform(platform.address()).start();
    assert!(!quiet.stderr().text().contains("config.variables"), "nothing overrides the file");
}
