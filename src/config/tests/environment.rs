//! Environment variables.

use super::*;

#[test]
fn environment_overrides_the_file() {
    let folder = Folder::new()
        .with("OTT_GATEWAY__SERVER__LISTEN", "127.0.0.1:1234")
        .with("OTT_GATEWAY__SERVER__MAX_IN_FLIGHT", "7")
        .with("OTT_GATEWAY__SERVER__REFLECTION", "true")
        .with("OTT_GATEWAY__API_CLIENTS__EU_2__CLIENT_ID", "other")
        .with("OTT_GATEWAY__API_CLIENTS__EU_2__TARGET_ORIGINS", "https://a, https://b")
        .with("OTT_GATEWAY__TELEMETRY__OTLP_ENDPOINT", "http://collector:4317")
        .with("OTT_GATEWAY__TELEMETRY__TRACE_RATIO", "0.5")
        .with("OTT_GATEWAY_PORT", "tcp://10.0.0.1:50051");
    let config = folder.load(&working_and("").replace("eu2]", "eu-2]")).unwrap();
    assert_eq!(config.server.grpc.listen, "127.0.0.1:1234".parse().unwrap());
    assert_eq!(config.server.grpc.max_in_flight, 7);
    assert!(config.server.reflection);
    assert_eq!(config.api_clients.by_name["eu-2"].credential.client_id.as_str(), "other");
    assert_eq!(config.api_clients.by_name["eu-2"].platform.target_origins.len(), 2);
    assert_eq!(config.telemetry.traces.unwrap().sampling.ratio.to_string(), "0.5");
    assert_eq!(config.variables.len(), 7, "each is listed: {:?}", config.variables);
    assert_eq!(config.variables[0], "OTT_GATEWAY__API_CLIENTS__EU_2__CLIENT_ID");
}

#[test]
fn variable_sets_the_key_with_its_exact_name_first() {
    let folder = Folder::new().with("OTT_GATEWAY__CALLERS__TOKENS__A_B", OTHER_TOKEN);
    let text = working_and(&format!("[callers.tokens]\na-b = \"{TOKEN}\"\na_b = \"sha256:{:064}\"", 0));
    let tokens = folder.load(&text).unwrap().callers.tokens;
    let other = BearerTokenHash([0xff; 32]);
    assert_eq!((&*tokens["a_b"], tokens["a-b"] == [other]), (&[other][..], false));
}

#[test]
fn log_level_comes_from_the_file_or_rust_log() {
    let folder = Folder::new();
    let level =
        |folder: &Folder, text: &str| folder.load(&working_and(text)).map(|it| it.telemetry.log_level);
    assert_eq!(level(&folder, "[telemetry]\nlog_level = \"DEBUG\"").unwrap(), "DEBUG");
    assert_eq!(
        folder.errors(&working_and("[telemetry]\nlog_level = \"inf\"")),
        [
            "gateway.toml:9: telemetry.log_level: is not a log level (off, error, warn, info, debug, trace) or a \
          list of TARGET=LEVEL; did you mean \"info\"?"
        ]
    );
    let folder = folder.with("RUST_LOG", "warn,ott_gateway=trace");
    assert_eq!(level(&folder, "[telemetry]\nlog_level = \"debug\"").unwrap(), "warn,ott_gateway=trace");
}

#[test]
fn rust_log_directives_for_other_programs_are_ignored() {
    let file = "[telemetry]\nlog_level = \"debug,ott_gateway::audit=warn\"";
    let configured = "debug,ott_gateway::audit=warn";
    for (value, level, invalid) in [
        ("", configured, None),
        (" , ,", configured, None),
        ("off", "off", None),
        ("WARN", "warn", None),
        ("error,warn", "warn", None),
        ("warn,hyper", "warn", Some("1 of 2 parts")),
        ("1", configured, Some("1 of 1 parts")),
        ("my_app=debug", configured, None),
        ("my_app=debug,h2=off,ott=off,o=off,ott_gateway2=off", configured, None),
        ("ott_gateway=trace", "debug,ott_gateway::audit=warn,ott_gateway=trace", None),
        ("info, ott_gateway::app = trace", "info,ott_gateway::app=trace", None),
        ("ott_gateway", "debug,ott_gateway::audit=warn,ott_gateway=trace", None),
        ("ott_gateway[span{a=1}]=debug", configured, Some("1 of 1 parts")),
        ("ott_gateway=loud,=info,x=,info/pattern", configured, Some("4 of 4 parts")),
        (CANARY, configured, Some("1 of 1 parts")),
        ("\u{1b}[2J\n", configured, Some("1 of 1 parts")),
    ] {
        let folder = Folder::new().with("RUST_LOG", value);
        let config = folder.load(&working_and(file)).unwrap();
        assert_eq!(config.telemetry.log_level, level, "{value:?}");
        let warnings: Vec<String> = config.warnings.iter().map(ToString::to_string).collect();
        let of_it: Vec<&String> = warnings.iter().filter(|warning| warning.contains("RUST_LOG")).collect();
        assert_eq!(of_it.len(), usize::from(invalid.is_some()), "{value:?}: {warnings:?}");
        let begins = invalid.map(|invalid| format!("RUST_LOG: {invalid} are not valid"));
        assert!(
            of_it.iter().all(|it| begins.as_ref().is_some_and(|begins| it.starts_with(begins))),
            "{of_it:?}"
        );
        assert!(!warnings.join("").contains(CANARY), "{warnings:?}");
        let is_listed = config.environment.iter().any(|variable| variable.name == "RUST_LOG");
        assert_eq!(is_listed, level != configured, "{value:?}");
    }
}

#[test]
fn errors_in_the_environment_contain_the_variable() {
    let folder = Folder::new()
        .with("OTT_GATEWAY__SERVER__LISEN", CANARY)
        .with("OTT_GATEWAY__SERVER__MAX_DEADLINE", CANARY)
        .with("OTT_GATEWAY__SERVER__PLAINTEXT", CANARY)
        .with("OTT_GATEWAY__SERVER", CANARY)
        .with("OTT_GATEWAY__ACCESS__RULES", CANARY)
        .with("OTT_GATEWAY__ACCESS__RULES__0__CALLERS", CANARY)
        .with("OTT_GATEWAY__API_CLIENTS__EU2__CLIENT_SECRET", CANARY)
        .with("OTT_GATEWAY_SERVER__REFLECTION", CANARY);
    let errors = folder.errors(&working_and("[server]"));
    assert_eq!(
        errors,
        [
            "OTT_GATEWAY_SERVER__REFLECTION: unknown key; did you mean \"OTT_GATEWAY__SERVER__REFLECTION\"?",
            "OTT_GATEWAY__ACCESS__RULES: access.rules: is a list of tables, which can only be set in the file",
            "OTT_GATEWAY__ACCESS__RULES__0__CALLERS: access.rules.0.callers: is part of a list, which can only be set in the file",
            "OTT_GATEWAY__API_CLIENTS__EU2__CLIENT_SECRET: api_clients.eu2.client_secret: a secret must not be in the configuration; write it to a file, and name the file with client_secret_file",
            "OTT_GATEWAY__SERVER: server: is a table; a variable sets one of its keys",
            "OTT_GATEWAY__SERVER__LISEN: server.lisen: unknown key; did you mean \"OTT_GATEWAY__SERVER__LISTEN\"?",
            "OTT_GATEWAY__SERVER__MAX_DEADLINE: server.max_deadline: must be a duration with its unit, such as \"10s\" or \"500ms\"",
            "OTT_GATEWAY__SERVER__PLAINTEXT: server.plaintext: must be true or false",
        ]
    );
}

#[test]
fn variable_with_a_misspelled_path_is_one_error_with_the_correct_name() {
    for (name, intended) in [
        ("OTT_GATEWAY__SERVER_LISTEN", "OTT_GATEWAY__SERVER__LISTEN"),
        ("OTT_GATEWAY__SERVR__LISTEN", "OTT_GATEWAY__SERVER__LISTEN"),
        ("OTT_GATEWAY___SERVER__LISTEN", "OTT_GATEWAY__SERVER__LISTEN"),
        ("OTT_GATEWAY__CONFIG", "OTT_GATEWAY_CONFIG"),
        ("OTT_GATEWAY__API_CLIENTS__US5_CLIENT_ID", "OTT_GATEWAY__API_CLIENTS__US5__CLIENT_ID"),
        ("OTT_GATEWAY__API_CLIENTS__EU2__CLIENT__ID", "OTT_GATEWAY__API_CLIENTS__EU2__CLIENT_ID"),
    ] {
        let errors = Folder::new().with(name, "canary").errors(&working_and(""));
        assert_eq!(errors.len(), 1, "{errors:?}");
        assert!(errors[0].ends_with(&format!("unknown key; did you mean \"{intended}\"?")), "{errors:?}");
    }
}
