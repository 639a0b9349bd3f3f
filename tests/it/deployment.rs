//! The README's production configuration, Deployment and commands match each other and the image.
//!
//! The tests compare them as data, and run the gateway with the configuration in a folder with the
//! layout of the Deployment's mounts.

mod mismatches;
mod pasted;

use std::{
    collections::BTreeMap, fs, net::SocketAddr, os::unix::fs::PermissionsExt, path::Path, process::Command,
};

use ott_gateway::proto::ott::v1::{
    IssueOttRequest, issue_ott_request::Subject, ott_service_client::OttServiceClient,
};
use tonic::{Code, transport::Channel};

use self::{
    mismatches::mismatches,
    pasted::{Pasted, configured_files, files_in, mode, mounts},
};
use crate::support::{
    authority::{Authority, Identity},
    calling::{issued, until},
    gateway::Setup,
    port::Reserved,
    upstream::Upstream,
};

#[test]
fn the_production_configuration_matches_the_deployment_and_the_image() {
    assert_eq!(mismatches(&Pasted::read()), Vec::<String>::new());
}

#[test]
fn each_mismatch_is_found() {
    let readme = [
        ("mountPath: /run/secrets/ott-gateway-tls", "mountPath: /run/secrets/tls", "is not in a mount"),
        ("mountPath: /etc/ott-gateway,", "mountPath: /etc/gateway,", "is not in a ConfigMap"),
        ("--from-file=us5 ", "", "client_secret_file: /run/secrets/ott-gateway/us5"),
        ("create secret generic ott-gateway-tls", "create secret generic tls", "certificate_file"),
        ("secretName: ott-gateway,", "secretName: secrets,", "hmac_key_file"),
        ("--from-file=gateway.toml", "--from-file=config.toml", "is not in a ConfigMap"),
        ("configMap: {name: ott-gateway}", "configMap: {name: gateway}", "is not in a ConfigMap"),
        (
            "--config, /etc/ott-gateway/gateway.toml]",
            "--config, /etc/ott-gateway/config.toml]",
            "the Deployment reads",
        ),
        (
            "ott-gateway serve --config gateway.toml",
            "ott-gateway serve --config config.toml",
            "reads another file",
        ),
        (
            "serve --config /etc/ott-gateway/gateway.toml\nExecReload",
            "serve --config /etc/a.toml\nExecReload",
            "reads another file",
        ),
        ("./config:/etc/ott-gateway:ro", "./config:/etc/gateway:ro", "is not a volume of"),
        ("./tls:/run/secrets/ott-gateway-tls:ro", "./tls:/run/tls:ro", "is not in a volume of"),
        ("sink = \"stdout\"", "sink = \"/var/log/ott-gateway/audit.jsonl\"", "not on a writable volume"),
        ("containerPort: 50052", "containerPort: 50053", "health listens on"),
        ("grpc: {port: 50052}", "grpc: {port: 50051}", "readinessProbe uses port"),
        (
            "httpGet: {port: admin, path: /livez}",
            "httpGet: {port: metrics, path: /livez}",
            "livenessProbe uses port",
        ),
        ("listen = \"[::]:9464\"", "listen = \"127.0.0.1:9464\"", "admin listens on loopback"),
        ("health_listen = \"[::]:50052\"", "", "nothing listens on the port `health`"),
        ("targetPort: grpc", "targetPort: admin", "the Service has another target port"),
        ("  selector: {app: ott-gateway}", "  selector: {app: gateway}", "the Service selects"),
        ("seccompProfile: {type: RuntimeDefault}", "seccompProfile: {type: Unconfined}", "seccompProfile"),
        ("runAsUser: 65532", "runAsUser: 1000", "runAsUser"),
        ("fsGroup: 65532", "fsGroup: 1000", "fsGroup"),
        ("capabilities: {drop: [ALL]}", "capabilities: {drop: []}", "capabilities"),
        (
            "secretName: ott-gateway, defaultMode: 0440",
            "secretName: ott-gateway, defaultMode: 0400",
            "securityContext: /run/secrets/ott-gateway",
        ),
        (
            "secretName: ott-gateway, defaultMode: 0440",
            "secretName: ott-gateway",
            "securityContext: /run/secrets/ott-gateway",
        ),
        (
            "terminationGracePeriodSeconds: 35",
            "terminationGracePeriodSeconds: 29",
            "a drain takes up to 30 s",
        ),
        (
            "limits: {memory: 256Mi}",
            "limits: {memory: 512Mi}",
            "the README does not contain (3,776 at 512 MiB)",
        ),
    ];
    let dockerfile = [
        (
            "CMD [\"serve\", \"--config\", \"/etc/ott-gateway/gateway.toml\"]",
            "CMD [\"serve\", \"--config\", \"/etc/ott-gateway/config.toml\"]",
            "the Deployment reads",
        ),
        (
            "\"healthcheck\", \"--config\", \"/etc/ott-gateway/gateway.toml\"",
            "\"healthcheck\"",
            "HEALTHCHECK reads",
        ),
        ("EXPOSE 50051 50052 9464", "EXPOSE 50051 9464", "the image does not expose"),
        ("USER 65532:65532", "USER 65533:65533", "runAsUser"),
    ];
    let good = Pasted::read();
    let changed = |text: &str, (part, by): (&str, &str)| {
        assert!(text.contains(part), "`{part}` is missing");
        text.replacen(part, by, 1)
    };
    let in_readme = readme.map(|(part, by, mismatch)| {
        (part, Pasted { readme: changed(&good.readme, (part, by)), ..good.clone() }, mismatch)
    });
    let in_dockerfile = dockerfile.map(|(part, by, mismatch)| {
        (part, Pasted { dockerfile: changed(&good.dockerfile, (part, by)), ..good.clone() }, mismatch)
    });
    for (part, pasted, mismatch) in in_readme.into_iter().chain(in_dockerfile) {
        let found = mismatches(&pasted);
        assert!(found.iter().any(|found| found.contains(mismatch)), "{part}: {found:?}");
    }
}

/// Fills a folder like the mounts in Kubernetes: each file has the content for its key in the
/// configuration and the permissions of its volume.
fn mount(folder: &Path, pasted: &Pasted, content: impl Fn(&str, &str) -> String) {
    let deployment = pasted.manifest("Deployment");
    let mounts = mounts(&deployment["spec"]["template"]["spec"]);
    let keys: BTreeMap<String, String> = configured_files(&pasted.production_configuration())
        .into_iter()
        .map(|(key, path)| (path, key))
        .collect();
    for mount in mounts {
        let inside = folder.join(mount.path.trim_start_matches('/'));
        fs::create_dir_all(&inside).expect("can be created");
        let mode = if mount.volume["secret"].is_badvalue() { 0o644 } else { mode(&mount.volume) };
        for name in files_in(&mount.volume, pasted) {
            let key = keys.get(&format!("{}/{name}", mount.path)).map_or("", String::as_str);
            let file = inside.join(&name);
            fs::write(&file, content(key, &name)).expect("can be written");
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).expect("can be set");
        }
    }
}

async fn connected(authority: &Authority, gateway: SocketAddr, identity: &Identity) -> Channel {
    authority.channel(gateway, Some(identity)).await.expect("the certificate is accepted")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_production_configuration_serves_from_the_deployments_mounts() {
    let pasted = Pasted::read();
    let upstream = Upstream::http().await;
    let authority = Authority::new("mesh");
    let server = authority.issue(&["localhost"]);
    let setup = Setup::new();
    let root = setup.folder().join("root");
    let (health, grpc, admin) = (Reserved::new(), Reserved::new(), Reserved::new());
    // Replace the paths by those of the folder, and use loopback ports and the test platform.
    let mut configuration = pasted.production_configuration();
    configuration = configuration.replace(" = \"/", &format!(" = \"{}/", root.display()));
    for (port, address) in [("50051", &grpc), ("50052", &health), ("9464", &admin)] {
        configuration = configuration.replace(&format!("[::]:{port}"), &address.address().to_string());
    }
    for name in ["eu2", "us5"] {
        let url = format!("https://{name}-cloud.acronis.com");
        assert!(configuration.contains(&url), "{url}");
        configuration = configuration.replace(&url, &format!("http://{}", upstream.address()));
    }
    mount(&root, &pasted, |key, name| match key {
        "certificate_file" => server.certificate.clone(),
        "private_key_file" => server.private_key.clone(),
        "client_ca_file" => authority.certificate(),
        "client_secret_file" | "hmac_key_file" => "s".repeat(64),
        _ => {
            assert_eq!(name, "gateway.toml", "no other file is missing from the configuration");
            configuration.clone()
        }
    });

    // The configuration path of the image's command, below the folder.
    let command = pasted.instruction("CMD");
    let file = root.join(command.last().expect("a path").trim_start_matches('/'));
    let run = |arguments: &[&str]| {
        let mut run = Command::new(env!("CARGO_BIN_EXE_ott-gateway"));
        run.args(arguments).arg("--config").arg(&file).output().expect("it runs")
    };
    let checked = run(&["check-config"]);
    let report = String::from_utf8_lossy(&checked.stdout) + String::from_utf8_lossy(&checked.stderr);
    assert!(checked.status.success(), "{report}");
    assert!(!report.contains("warning"), "{report}");

    let mut gateway = setup.config(&configuration).start();
    until("the image's health check succeeds", async || run(&["healthcheck"]).status.success()).await;
    let portal = authority.issue(&["spiffe://example.com/ns/portal/sa/web"]);
    let channel = connected(&authority, gateway.address(), &portal).await;
    let request = |login: &str| IssueOttRequest {
        subject: Some(Subject::Login(login.to_owned())),
        ..IssueOttRequest::default()
    };
    let mut client = OttServiceClient::new(channel.clone());
    client.issue_ott(request("anna@customer.example")).await.expect("the first rule allows it");
    assert_eq!(issued(&channel, &[]).await, "PermissionDenied CALLER_NOT_ALLOWED");
    let support = authority.issue(&["spiffe://example.com/ns/support/sa/desk"]);
    let mut client = OttServiceClient::new(connected(&authority, gateway.address(), &support).await);
    let us5 = IssueOttRequest { api_client: "us5".to_owned(), ..request("anyone@example.com") };
    client.issue_ott(us5).await.expect("the second rule allows it");
    let stranger = authority.issue(&["spiffe://example.com/ns/other/sa/web"]);
    let mut client = OttServiceClient::new(connected(&authority, gateway.address(), &stranger).await);
    let refused = client.issue_ott(request("anna@customer.example")).await.expect_err("no rule allows it");
    assert_eq!(refused.code(), Code::PermissionDenied);

    gateway.signal("TERM");
    assert_eq!(gateway.ended().await.code(), Some(0));
    let fingerprints = || gateway.stdout().text().matches("\"ott_fingerprint\":\"hmac-2026-11:").count();
    until("both tokens are in the audit records", async || fingerprints() == 2).await;
}
