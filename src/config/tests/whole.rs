//! The whole configuration: defaults, every key, and changes that require a restart.

use super::*;

#[test]
fn minimal_configuration_has_the_documented_defaults() {
    let config = Folder::new().load(&working_and("")).unwrap();
    assert_eq!(config.server, Server::default());
    assert_eq!(config.admin.listen, Some("127.0.0.1:9464".parse().unwrap()));
    assert_eq!(config.api_clients.default.as_deref(), Some("eu2"));
    assert!(config.api_clients.by_name["eu2"].platform.limits.breaker.is_some());
    assert_eq!(config.audit, AuditSettings { sink: Sink::Stdout, hmac_key: None, fsync: false });
    assert_eq!(config.telemetry, Telemetry::default());
    assert_eq!(config.token_keys, None);
    assert_eq!(config.api_clients.by_name["eu2"].bind_tokens, Mode::Off);
    assert_eq!(config.access.rules, [RuleSettings::new(vec!["anonymous".to_owned()], Users::All)]);
}

#[test]
fn every_key_is_read() {
    let config = folder_for_every_key().load(&with_every_key()).unwrap();
    assert_eq!(config.server.grpc.max_deadline, Duration::from_secs(5));
    let client_auth = config.server.grpc.transport.client_auth();
    assert!(matches!(client_auth, Some(ClientAuth::Optional { .. })), "{client_auth:?}");
    assert_eq!(config.admin.listen, None);
    assert_eq!(config.api_clients.default.as_deref(), Some("eu2"));
    assert_eq!(config.api_clients.by_name.len(), 3);
    let tuned = config.api_clients.by_name.values().find(|client| client.platform.propagate_trace).unwrap();
    assert_eq!(tuned.connections.max_idle_connections, 7);
    assert_eq!(tuned.platform.limits.min_login_time_left, Duration::from_secs(1));
    let modes: Vec<Mode> = config.api_clients.by_name.values().map(|client| client.bind_tokens).collect();
    assert_eq!(modes, [Mode::On, Mode::AcceptRaw, Mode::Off]);
    assert!(matches!(&config.token_keys, Some(KeySource::File(path)) if path.ends_with("token-keys")));
    let jwt = &config.callers.jwt[0];
    assert_eq!((jwt.typ.as_deref(), jwt.max_lifetime), (Some("at+jwt"), Some(Duration::from_hours(1))));
    assert!(matches!(&jwt.jwks, JwksSource::Url(source) if source.max_age == Duration::from_hours(12)));
    let forwarded = config.callers.forwarded.as_ref().unwrap();
    assert_eq!(forwarded.header, ForwardedHeader::L5dClientId);
    assert_eq!(forwarded.from[1], ForwardedFrom::Spiffe("spiffe://mesh/ns/proxy".to_owned()));
    assert_eq!(forwarded.from[2], ForwardedFrom::Address("10.1.2.3".parse().unwrap()));
    assert_eq!(config.callers.tokens["billing"][0].0[..4], [0x01, 0x23, 0x45, 0x67]);
    assert_eq!(config.access.max_quota_users, 5000);
    assert_eq!(config.access.rules[0].methods.as_ref().map(Vec::len), Some(2));
    assert_eq!(config.access.rules[0].user_rate, Rate::Unlimited);
    assert!(matches!(&config.audit.sink, Sink::File(path) if path.is_absolute()));
    assert!(!format!("{config:?} {config:#?}").contains(CANARY), "a secret is shown");
}

#[test]
fn changes_that_require_a_restart_are_listed() {
    let folder = Folder::new();
    let running = folder.load(&working_and("")).unwrap();
    let waiting = |text: &str| folder.load(text).unwrap().waiting_for_a_restart(&running);
    let forwarded = "[callers.forwarded]\nheader = \"l5d-client-id\"\nfrom = [\"loopback\"]";
    assert_eq!(waiting(&working_and("")), Vec::<&str>::new());
    assert_eq!(waiting(&working_and(forwarded)), ["callers.forwarded"]);
    let dry_run = format!("[access]\nquota_dry_run = true\n{RULE}");
    assert_eq!(waiting(&working_and("").replace(RULE, &dry_run)), Vec::<&str>::new());
    assert_eq!(waiting(&working_and("").replace("\"id\"", "\"other\"")), ["api_clients"]);
    let keys = "[token_binding]\nkeys_file = \"token-keys\"\n";
    assert_eq!(waiting(&working_and(keys)), ["token_binding"]);
    let sealing = CLIENT.to_owned() + "bind_tokens = \"on\"\n" + RULE + keys;
    assert_eq!(waiting(&sealing), ["api_clients", "token_binding"]);
    let taken_over = format!(
        "[[access.rules]]\ncallers = [\"dns:a\"]\nusers = \"all\"\n[callers.tokens]\na = \"{TOKEN}\""
    );
    assert_eq!(waiting(&working_and(&taken_over)), Vec::<&str>::new());
}

#[test]
fn sandbox_allows_all_callers_and_logs_little() {
    let listen: SocketAddr = "127.0.0.1:50051".parse().unwrap();
    let platform = Url::parse("http://127.0.0.1:8080").unwrap();
    let config =
        Config::sandbox(&platform, listen, ClientSecret::parse(CANARY.as_bytes()).unwrap(), &BTreeMap::new());
    let config = config.unwrap();
    assert_eq!(config.telemetry.log_level, "warn");
    assert_eq!(config.admin.listen, None);
    assert_eq!(config.audit.sink, Sink::Off);
    assert!(config.server.reflection);
    assert!(config.api_clients.by_name["sandbox"].platform.limits.breaker.is_none());
    assert_eq!(config.access.rules[0].rate, Rate::Unlimited);
    assert!(!format!("{config:?}").contains(CANARY));
    let mut sealing = config.clone();
    sealing.seal_with_random_key().unwrap();
    assert_eq!(sealing.api_clients.by_name["sandbox"].bind_tokens, Mode::On);
    assert!(sealing.token_keys.is_some() && sealing.token_keys == sealing.clone().token_keys);
    let mut other = config.clone();
    other.seal_with_random_key().unwrap();
    assert_ne!(sealing.token_keys, other.token_keys, "each sandbox has its own key");
    let trace = BTreeMap::from([("RUST_LOG".to_owned(), "trace".to_owned())]);
    let config =
        Config::sandbox(&platform, listen, ClientSecret::parse(CANARY.as_bytes()).unwrap(), &trace).unwrap();
    assert_eq!(config.telemetry.log_level, "trace");
}
