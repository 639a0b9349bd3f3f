//! Warnings about a valid configuration.

use super::*;

#[test]
fn questionable_settings_cause_warnings() {
    use std::os::unix::fs::PermissionsExt;

    let folder = Folder::new().with("S", "secret");
    let set = |name: &str, mode| {
        fs::set_permissions(folder.folder.path().join(name), fs::Permissions::from_mode(mode)).unwrap();
    };
    set("secret", 0o600);
    let warnings = |text: &str| -> Vec<String> {
        let config = folder.load(text).unwrap();
        config.warnings.iter().map(|warning| format!("{}: {}", warning.key, warning.problem)).collect()
    };
    assert_eq!(warnings(&working_and("")), Vec::<String>::new());
    let dry_run = "[access]\nquota_dry_run = true";
    assert_eq!(
        warnings(&working_and("").replace(RULE, &format!("{dry_run}\n{RULE}"))),
        ["access.quota_dry_run: is true: calls over quota are logged and counted, but not refused"]
    );
    let collector = ["otlp_endpoint = \"https://collector.example:4317\"", "otlp_ca_file = \"tls.crt\""];
    let of_order = |lines: [&str; 2]| -> Vec<String> {
        let warnings = warnings(&working_and(&format!("[telemetry]\n{}", lines.join("\n"))));
        warnings.into_iter().filter(|warning| warning.contains("truncated")).collect()
    };
    assert_eq!(
        of_order(collector),
        ["telemetry.otlp_ca_file: should come before the first [[access.rules]] or before otlp_endpoint: a \
             truncated file without this key would trust the system's authorities"]
    );
    let [endpoint, authorities] = collector;
    assert_eq!(of_order([authorities, endpoint]), Vec::<String>::new());
    let with_variable = working_and("[audit]\nsink = \"off\"").replace("file = \"secret\"", "env = \"S\"");
    assert_eq!(
        warnings(&with_variable),
        [
            "api_clients.eu2.client_secret_env: a secret in the environment cannot be rotated without a restart, \
             and other programs may read it; prefer client_secret_file",
            "audit.sink: is \"off\": there is no record of who obtained which token",
        ]
    );
    set("jwks.json", 0o666);
    set("gateway.toml", 0o646);
    let jwt = "[callers.jwt]\nissuer = \"i\"\naudience = \"a\"\njwks_file = \"jwks.json\"";
    assert_eq!(
        warnings(&working_and(jwt)),
        [
            ": every user of this machine can change the file and thereby the access rules; chmod it to 0640",
            "callers.jwt.jwks_file: every user of this machine can change the file; chmod it to 0644",
        ]
    );
    let proxy = "proxy_url = \"http://user:canary@proxy.example:3128\"";
    let with_proxy = working_and("").replace("client_id", &format!("{proxy}\nclient_id"));
    for (mode, is_warned) in [(0o640, false), (0o644, true)] {
        set("gateway.toml", mode);
        let of_password = "api_clients.eu2.proxy_url: contains a password, and every user of this machine can read the file; \
             chmod it to 0640";
        assert_eq!(warnings(&with_proxy).iter().any(|warning| warning == of_password), is_warned, "{mode:o}");
    }
    set("secret", 0o602);
    assert_eq!(
        warnings(&working_and("")),
        [
            "api_clients.eu2.client_secret_file: every user of this machine can change the file; chmod it to 0400"
        ]
    );
    set("secret", 0o600);
    for (mode, is_warned) in [(0o777, true), (0o1777, false), (0o755, false)] {
        set("", mode);
        let warnings = warnings(&working_and(""));
        let of_folder = warnings.iter().filter(|warning| warning.contains("can replace the file"));
        assert_eq!(of_folder.count(), if is_warned { 2 } else { 0 }, "{mode:o}: {warnings:?}");
    }
    set("gateway.toml", 0o644);
    set("secret", 0o644);
    assert_eq!(
        warnings(&working_and("")),
        [
            "api_clients.eu2.client_secret_file: every user of this machine can read the file; chmod it to 0400"
        ]
    );
}

#[test]
fn certificates_that_are_not_valid_now_cause_warnings() {
    let folder = Folder::new();
    let key = rcgen::KeyPair::generate().unwrap();
    fs::write(folder.folder.path().join("tls.key"), key.serialize_pem()).unwrap();
    let certificate = |from, until| {
        let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(from, 1, 1);
        params.not_after = rcgen::date_time_ymd(until, 1, 1);
        params.self_signed(&key).unwrap().pem()
    };
    let (expired, valid, not_yet) =
        (certificate(2000, 2020), certificate(2000, 4000), certificate(3000, 4000));
    let warnings = |chain: &str, authorities: &str| -> Vec<String> {
        fs::write(folder.folder.path().join("tls.crt"), chain).unwrap();
        fs::write(folder.folder.path().join("ca.crt"), authorities).unwrap();
        let tls = "[server.tls]\ncertificate_file = \"tls.crt\"\nprivate_key_file = \"tls.key\"\n\
                   client_ca_file = \"ca.crt\"";
        let warnings = folder.load(&format!("{tls}\n{}", working_and(""))).unwrap().warnings;
        let warnings = warnings.iter().map(|warning| format!("{}: {}", warning.key, warning.problem));
        warnings.filter(|warning| warning.contains("certificate ")).collect()
    };
    assert_eq!(warnings(&valid, &valid), Vec::<String>::new());
    assert_eq!(
        warnings(&format!("{expired}{expired}"), &format!("{valid}{expired}")),
        [
            "server.tls.certificate_file: certificate 1 of the file expired at 2020-01-01T00:00:00Z: \
             peers refuse it; renew it",
            "server.tls.certificate_file: certificate 2 of the file expired at 2020-01-01T00:00:00Z: \
             peers refuse it; renew it",
            "server.tls.client_ca_file: certificate 2 of the file expired at 2020-01-01T00:00:00Z: \
             peers refuse it; renew it",
        ]
    );
    assert_eq!(
        warnings(&not_yet, &valid),
        ["server.tls.certificate_file: certificate 1 of the file is not valid before 3000-01-01T00:00:00Z: \
             peers refuse it until then; check this machine's clock, or use the previous certificate"]
    );
}
