//! Rules for all tables and all files.

use std::os::unix::fs::PermissionsExt;

use super::*;

/// Tables whose keys are names that the operator chooses.
const TABLES_OF_NAMES: [&str; 1] = ["callers.tokens"];

#[test]
fn unknown_keys_of_every_table_are_refused() {
    let (folder, text) = (folder_for_every_key(), with_every_key());
    let tables: Vec<&str> = text.lines().filter(|line| line.starts_with('[')).collect();
    assert!(tables.len() >= 13, "{tables:?}");
    for header in tables {
        let table = header.trim_matches(['[', ']']);
        if TABLES_OF_NAMES.contains(&table) {
            continue;
        }
        for unknown in ["zzz = 1", "zzz = [1]", "zzz = {}", "zzz.y = 1"] {
            let text = text.replacen(header, &format!("{header}\n{unknown}"), 1);
            let errors = folder.errors(&text);
            assert_eq!(errors.len(), 1, "{header} {unknown}: {errors:?}");
            assert!(errors[0].contains(".zzz: unknown key"), "{header} {unknown}: {errors:?}");
            assert!(errors[0].contains(table.split('.').next().unwrap()), "{header}: {errors:?}");
        }
    }
    let errors = folder.errors(&format!("zzz = 1\n{text}"));
    assert_eq!(errors, ["gateway.toml:1: zzz: unknown key"]);
    let errors = folder.errors(&format!("{text}\n[zzz]"));
    assert!(errors.len() == 1 && errors[0].ends_with(": zzz: unknown key"), "{errors:?}");
}

#[test]
fn unknown_keys_of_every_table_are_refused_in_the_environment() {
    let text = with_every_key();
    for table in [
        "SERVER",
        "SERVER__TLS",
        "ADMIN",
        "API_CLIENTS__EU2",
        "CALLERS",
        "CALLERS__JWT",
        "CALLERS__FORWARDED",
        "ACCESS",
        "TOKEN_BINDING",
        "AUDIT",
        "TELEMETRY",
    ] {
        let variable = format!("OTT_GATEWAY__{table}__ZZZ");
        let errors = folder_for_every_key().with(&variable, "1").errors(&text);
        assert_eq!(errors.len(), 1, "{errors:?}");
        assert!(errors[0].starts_with(&variable) && errors[0].contains("unknown key"), "{errors:?}");
    }
}

/// Returns the keys with warnings if one file has this mode.
fn warned_about(file: &str, mode: u32) -> Vec<String> {
    let folder = folder_for_every_key();
    let set = |name: &str, mode| {
        fs::set_permissions(folder.folder.path().join(name), fs::Permissions::from_mode(mode)).unwrap();
    };
    fs::write(folder.folder.path().join("gateway.toml"), "").unwrap();
    for name in ["secret", "hmac", "token-keys", "tls.crt", "tls.key", "jwks.json", "gateway.toml"] {
        set(name, 0o600);
    }
    set(file, mode);
    let url_keys = "jwks_url = \"https://issuer.example/jwks\"\njwks_max_age = \"12h\"";
    let text = with_every_key();
    assert!(text.contains(url_keys));
    let text = text.replace(url_keys, "jwks_file = \"jwks.json\"");
    let warnings = folder.load(&text).unwrap().warnings;
    let of_files = warnings.into_iter().filter(|warning| warning.problem.to_string().contains("every user"));
    of_files.map(|warning| warning.key).collect()
}

#[test]
fn world_readable_secret_files_cause_a_warning() {
    for (file, keys) in [
        ("secret", &["api_clients.eu2.client_secret_file", "api_clients.unit.client_secret_credential"][..]),
        ("tls.key", &["server.tls.private_key_file"]),
        ("hmac", &["audit.hmac_key_file"]),
        ("token-keys", &["token_binding.keys_file"]),
    ] {
        assert_eq!(warned_about(file, 0o604), keys, "{file}");
        assert_eq!(warned_about(file, 0o640), [""; 0], "{file}: a group is the operator's choice");
    }
    for public in ["tls.crt", "jwks.json"] {
        assert_eq!(warned_about(public, 0o604), [""; 0], "{public}");
    }
}

#[test]
fn world_writable_files_cause_a_warning() {
    for (file, keys) in [
        (
            "tls.crt",
            &["server.tls.certificate_file", "server.tls.client_ca_file", "api_clients.eu2.ca_file"][..],
        ),
        ("tls.key", &["server.tls.private_key_file"]),
        ("jwks.json", &["callers.jwt.jwks_file"]),
        ("hmac", &["audit.hmac_key_file"]),
        ("token-keys", &["token_binding.keys_file"]),
    ] {
        assert_eq!(warned_about(file, 0o602), keys, "{file}");
        assert_eq!(warned_about(file, 0o620), [""; 0], "{file}");
    }
}
