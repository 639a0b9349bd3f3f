//! `healthcheck --config`: which port of the gateway it asks, by the gateway's configuration.

use std::{
    net::SocketAddr,
    process::{Command, Output},
};

use crate::support::{
    authority::Authority,
    calling::{issued, until},
    gateway::{Gateway, Setup},
    upstream::Upstream,
};

const TLS: &str = r#"
    [server.tls]
    certificate_file = "FOLDER/tls.crt"
    private_key_file = "FOLDER/tls.key"
    "#;

/// A gateway with these lines in `[server]`, and a certificate that no probe trusts.
fn gateway(upstream: &Upstream, lines: &str) -> Gateway {
    let setup = Setup::for_platform(upstream.address())
        .replacing("[admin]", &format!("{lines}\n            [admin]"));
    let authority = Authority::new("healthcheck");
    authority.issue(&["gateway.example"]).write(setup.folder());
    setup.file("ca.crt", &authority.certificate());
    setup.start()
}

/// Runs `healthcheck --config` with the gateway's own configuration, in which these ports stand
/// for those that the system has chosen.
fn healthcheck(
    gateway: &Gateway,
    ports: &[SocketAddr],
    arguments: &[&str],
    endpoint: Option<&str>,
) -> Output {
    let mut config = std::fs::read_to_string(gateway.folder().join("config.toml")).expect("is there");
    for port in ports {
        config = config.replacen("127.0.0.1:0", &port.to_string(), 1);
    }
    let file = gateway.folder().join("probe.toml");
    std::fs::write(&file, config).expect("can be written");
    let mut command = Command::new(env!("CARGO_BIN_EXE_ott-gateway"));
    command.arg("healthcheck").arg("--config").arg(&file).args(arguments).env_remove("OTT_GATEWAY_ENDPOINT");
    command.envs(endpoint.map(|endpoint| ("OTT_GATEWAY_ENDPOINT", endpoint))).output().expect("it runs")
}

fn outcome(done: &Output) -> (Option<i32>, String) {
    let printed = String::from_utf8_lossy(&done.stdout) + String::from_utf8_lossy(&done.stderr);
    (done.status.code(), printed.trim_end().to_owned())
}

async fn serves(gateway: &Gateway, ports: &[SocketAddr]) {
    let serving = (Some(0), "SERVING".to_owned());
    until("SERVING", async || outcome(&healthcheck(gateway, ports, &[], None)) == serving).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_tls_and_a_health_port_it_asks_listen() {
    let upstream = Upstream::http().await;
    let gateway = gateway(&upstream, "");
    serves(&gateway, &[gateway.address()]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_client_certificates_it_asks_listen_over_tls() {
    let upstream = Upstream::http().await;
    for auth in ["", "client_ca_file = \"FOLDER/ca.crt\"\nclient_auth = \"optional\""] {
        let gateway = gateway(&upstream, &format!("{TLS}{auth}"));
        serves(&gateway, &[gateway.address()]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_client_certificates_it_asks_the_health_port_and_names_the_remedy_without_one() {
    let upstream = Upstream::http().await;
    let required = format!("{TLS}client_ca_file = \"FOLDER/ca.crt\"");
    let with_port = gateway(&upstream, &format!("health_listen = \"127.0.0.1:0\"\n{required}"));
    serves(&with_port, &[with_port.address(), with_port.health_address()]).await;

    let without = gateway(&upstream, &required);
    let done = healthcheck(&without, &[without.address()], &[], None);
    let message = "error: server.listen requires a client certificate: set server.health_listen, a listener for \
                   probes without TLS, or use --endpoint with --certificate-file and --private-key-file";
    assert_eq!(outcome(&done), (Some(2), message.to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn other_problems_of_the_configuration_do_not_fail_it() {
    let upstream = Upstream::http().await;
    let gateway = gateway(&upstream, "");
    serves(&gateway, &[gateway.address()]).await;
    // A secret that is being replaced and a rule that is not valid: the gateway goes on, and so
    // must its container.
    std::fs::remove_file(gateway.folder().join("client-secret")).expect("it was there");
    let file = gateway.folder().join("config.toml");
    let text = std::fs::read_to_string(&file).expect("is there");
    std::fs::write(&file, text.replace("users = \"all\"", "users = \"nobody\"")).expect("can be written");
    serves(&gateway, &[gateway.address()]).await;
    assert_eq!(issued(&gateway.channel().await, &[]).await, "OK");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_configuration_goes_over_the_variable_and_excludes_other_options() {
    let upstream = Upstream::http().await;
    let gateway = gateway(&upstream, "");
    serves(&gateway, &[gateway.address()]).await;
    let ports = [gateway.address()];
    let done = healthcheck(&gateway, &ports, &[], Some("http://127.0.0.1:1"));
    assert_eq!(outcome(&done), (Some(0), "SERVING".to_owned()));
    let done = healthcheck(&gateway, &ports, &["--endpoint", "http://127.0.0.1:1"], None);
    assert_eq!(outcome(&done), (Some(2), "error: use either --config or --endpoint, not both".to_owned()));
    for option in ["--ca-file", "--server-name", "--bearer-token-file"] {
        let done = healthcheck(&gateway, &ports, &[option, "x"], None);
        assert_eq!(done.status.code(), Some(2));
        assert!(outcome(&done).1.contains("cannot be used with"), "{option}: {done:?}");
    }
    // The port that the system chooses is in no file.
    let done = healthcheck(&gateway, &[], &[], None);
    let message = "error: the port in the configuration is 0, so the system chooses it: use --endpoint";
    assert_eq!(outcome(&done), (Some(2), message.to_owned()));
    let missing = Command::new(env!("CARGO_BIN_EXE_ott-gateway"))
        .args(["healthcheck", "--config", "/nowhere/gateway.toml"])
        .output()
        .expect("it runs");
    assert_ne!(missing.status.code(), Some(0));
    let note = "/nowhere/gateway.toml does not exist; using the defaults of serve\n";
    assert!(String::from_utf8_lossy(&missing.stderr).starts_with(note), "{missing:?}");
}
