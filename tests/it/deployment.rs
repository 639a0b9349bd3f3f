//! The README's production configuration, its Deployment, its commands and the image fit together
//! as they are pasted.
//!
//! They are compared as data, and the gateway is started with the configuration on a folder
//! that is laid out as the Deployment mounts it.

use std::{
    collections::BTreeMap, fs, net::SocketAddr, os::unix::fs::PermissionsExt, path::Path, process::Command,
};

use ott_gateway::{
    config::{AuditSink, Config},
    proto::ott::v1::{IssueOttRequest, issue_ott_request::Subject, ott_service_client::OttServiceClient},
};
use tonic::{Code, transport::Channel};
use yaml_rust2::{Yaml, YamlLoader};

use crate::{
    docs::{self, Place},
    support::{
        authority::{Authority, Identity},
        calling::{issued, until},
        gateway::Setup,
        port::Reserved,
        upstream::Upstream,
    },
};

/// What an operator pastes.
#[derive(Clone)]
struct Pasted {
    readme: String,
    dockerfile: String,
}

impl Pasted {
    fn read() -> Self {
        let read = |name| fs::read_to_string(docs::root().join(name)).expect("can be read");
        Self { readme: read("README.md"), dockerfile: read("Dockerfile") }
    }

    /// The fenced block in that language that contains the text.
    fn block(&self, language: &str, containing: &str) -> String {
        let found = blocks_of(&self.readme, language).find(|block| block.contains(containing));
        found.unwrap_or_else(|| panic!("no {language} block contains {containing}"))
    }

    fn production_configuration(&self) -> String {
        self.block("toml", "client_ca_file")
    }

    fn manifests(&self) -> Vec<Yaml> {
        YamlLoader::load_from_str(&self.block("yaml", "kind: Deployment")).expect("is YAML")
    }

    fn manifest(&self, kind: &str) -> Yaml {
        let found = self.manifests().into_iter().find(|manifest| manifest["kind"].as_str() == Some(kind));
        found.unwrap_or_else(|| panic!("there is no {kind}"))
    }

    /// The lines of the README that begin with these words, with their continuation lines.
    fn commands(&self, words: &str) -> Vec<String> {
        let text = self.readme.replace("\\\n", " ");
        let lines = text.lines().map(str::trim).filter(|line| line.starts_with(words));
        lines.map(str::to_owned).collect()
    }

    /// The arguments of an instruction of the Dockerfile that are a JSON list.
    fn instruction(&self, name: &str) -> Vec<String> {
        let text = self.dockerfile.replace("\\\n", " ");
        let line = text.lines().rfind(|line| line.starts_with(name)).expect("the instruction is there");
        let list = line.find('[').map(|at| &line[at..]).expect("a list");
        serde_json::from_str(list).expect("is JSON")
    }

    /// The files of a ConfigMap or Secret that the README creates: names by the object's name.
    fn created(&self, command: &str) -> BTreeMap<String, Vec<String>> {
        let created = self.commands(command).into_iter().map(|line| {
            let rest = line[command.len()..].trim().to_owned();
            let mut words = rest.split_whitespace();
            let name = words.next().expect("a name").to_owned();
            let files = words.filter_map(|word| word.strip_prefix("--from-file="));
            // `--from-file=KEY=FILE` or `--from-file=FILE`, whose key is the file's name.
            let key =
                |file: &str| file.split(['=']).next().and_then(|it| it.rsplit('/').next()).map(str::to_owned);
            (name, files.filter_map(key).collect())
        });
        created.collect()
    }
}

fn blocks_of(page: &str, language: &str) -> impl Iterator<Item = String> {
    let fence = format!("```{language}\n");
    let found =
        page.split(&fence).skip(1).map(|rest| rest.split("```").next().unwrap_or_default().to_owned());
    found.collect::<Vec<_>>().into_iter()
}

/// A volume as a container has it.
struct Mount {
    path: String,
    read_only: bool,
    volume: Yaml,
}

fn mounts(pod: &Yaml) -> Vec<Mount> {
    let volumes = pod["volumes"].as_vec().cloned().unwrap_or_default();
    let mounted = pod["containers"][0]["volumeMounts"].as_vec().cloned().unwrap_or_default();
    mounted
        .iter()
        .map(|mount| Mount {
            path: text(&mount["mountPath"]),
            read_only: mount["readOnly"].as_bool() == Some(true),
            volume: volumes
                .iter()
                .find(|volume| volume["name"] == mount["name"])
                .cloned()
                .unwrap_or(Yaml::BadValue),
        })
        .collect()
}

fn text(value: &Yaml) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// The mount that a path is in, and the rest of the path.
fn mount_of<'a>(mounts: &'a [Mount], path: &str) -> Option<(&'a Mount, String)> {
    let inside = |mount: &'a Mount| {
        let rest = path.strip_prefix(mount.path.trim_end_matches('/'))?.strip_prefix('/')?;
        Some((mount, rest.to_owned()))
    };
    mounts.iter().filter_map(inside).max_by_key(|(mount, _)| mount.path.len())
}

/// The names of the files in a volume, by the commands that create its object.
fn files_in(volume: &Yaml, pasted: &Pasted) -> Vec<String> {
    let (source, object, command) = if volume["secret"].is_badvalue() {
        (&volume["configMap"], text(&volume["configMap"]["name"]), "kubectl create configmap")
    } else {
        (&volume["secret"], text(&volume["secret"]["secretName"]), "kubectl create secret generic")
    };
    let keys = pasted.created(command).remove(&object).unwrap_or_default();
    match source["items"].as_vec() {
        None => keys,
        Some(items) => items
            .iter()
            .filter(|item| keys.contains(&text(&item["key"])))
            .map(|item| text(&item["path"]))
            .collect(),
    }
}

/// The paths in a configuration that are files which must exist: key and path.
fn named_files(configuration: &str) -> Vec<(String, String)> {
    let line = |line: &str| {
        let (key, value) = line.split_once(" = \"")?;
        let path = value.split('"').next()?;
        key.ends_with("_file").then(|| (key.to_owned(), path.to_owned()))
    };
    configuration.lines().filter_map(line).collect()
}

/// Everything that does not fit.
fn misfits(pasted: &Pasted) -> Vec<String> {
    let mut wrong = Vec::new();
    let configuration = pasted.production_configuration();
    let config = Place::new().load(&configuration).unwrap_or_else(|faults| panic!("{faults}"));
    let deployment = pasted.manifest("Deployment");
    let pod = &deployment["spec"]["template"]["spec"];
    let mounts = mounts(pod);

    configuration_file(pasted, pod, &mounts, &mut wrong);
    for (key, path) in named_files(&configuration) {
        match mount_of(&mounts, &path) {
            None => wrong.push(format!("{key}: {path} is in no mount")),
            Some((mount, name)) => {
                let files = files_in(&mount.volume, pasted);
                if !files.contains(&name) {
                    wrong.push(format!("{key}: {path}: the volume has only {files:?}"));
                }
            }
        }
        for command in pasted.commands("docker run") {
            let mut volumes = command.split_whitespace().filter_map(|word| word.strip_suffix(":ro"));
            let covers = |volume: &str| {
                volume.split_once(':').is_some_and(|(_, target)| path.starts_with(&format!("{target}/")))
            };
            if !volumes.any(covers) {
                wrong.push(format!("{path} is in no volume of `{command}`"));
            }
        }
    }
    audit_sink(&config, &mounts, &mut wrong);
    ports(&config, pasted, &deployment, &mut wrong);
    permissions(pasted, pod, &mounts, &mut wrong);
    limits(&config, pasted, pod, &mut wrong);
    wrong
}

/// The file that the image, the Deployment, the commands and the unit read is one that is there.
fn configuration_file(pasted: &Pasted, pod: &Yaml, mounts: &[Mount], wrong: &mut Vec<String>) {
    let after_config = |words: &[String]| {
        let at = words.iter().position(|word| word == "--config");
        at.and_then(|at| words.get(at + 1)).cloned().unwrap_or_default()
    };
    let in_image = after_config(&pasted.instruction("CMD"));
    let in_healthcheck = after_config(&pasted.instruction("HEALTHCHECK"));
    let container = &pod["containers"][0];
    let arguments: Vec<String> = container["args"].as_vec().into_iter().flatten().map(text).collect();
    let in_deployment = if arguments.is_empty() { in_image.clone() } else { after_config(&arguments) };
    for (what, path) in [("HEALTHCHECK", &in_healthcheck), ("the Deployment", &in_deployment)] {
        if *path != in_image {
            wrong.push(format!("{what} reads {path}, the image {in_image}"));
        }
    }
    match mount_of(mounts, &in_deployment) {
        Some((mount, name)) if files_in(&mount.volume, pasted).contains(&name) => {}
        _ => wrong.push(format!("{in_deployment} is in no ConfigMap")),
    }
    let (folder, name) = in_image.rsplit_once('/').unwrap_or_default();
    for command in pasted.commands("docker run") {
        if !command.contains(&format!(":{folder}:ro")) {
            wrong.push(format!("{folder} is no volume of `{command}`"));
        }
    }
    for command in ["ott-gateway serve", "ott-gateway check-config", "ExecStart="] {
        for line in pasted.commands(command).iter().filter(|line| line.contains("--config ")) {
            if !line.contains(name) {
                wrong.push(format!("`{line}` reads another file than {name}"));
            }
        }
    }
}

fn audit_sink(config: &Config, mounts: &[Mount], wrong: &mut Vec<String>) {
    let AuditSink::File(path) = &config.audit.sink else { return };
    // The example's own folder stands before the path.
    let path = path.display().to_string();
    let mounted = mounts.iter().find(|mount| path.contains(&format!("{}/", mount.path)));
    let is_writable = mounted.is_some_and(|mount| {
        !mount.read_only && mount.volume["secret"].is_badvalue() && mount.volume["configMap"].is_badvalue()
    });
    if !is_writable {
        wrong.push(format!("the audit file {path} is on no writable volume"));
    }
}

fn ports(config: &Config, pasted: &Pasted, deployment: &Yaml, wrong: &mut Vec<String>) {
    let container = &deployment["spec"]["template"]["spec"]["containers"][0];
    let declared: BTreeMap<String, i64> = container["ports"]
        .as_vec()
        .into_iter()
        .flatten()
        .map(|port| (text(&port["name"]), port["containerPort"].as_i64().unwrap_or_default()))
        .collect();
    let number = |port: &Yaml| port.as_i64().or_else(|| declared.get(port.as_str()?).copied());
    let health = config.server.health_listen;
    let listeners =
        [("grpc", Some(config.server.listen)), ("health", health), ("admin", config.admin.listen)];
    let exposed = pasted.dockerfile.lines().find_map(|line| line.strip_prefix("EXPOSE ")).unwrap_or_default();
    for (name, listen) in listeners {
        let Some(listen) = listen else {
            wrong.push(format!("nothing listens on the port `{name}`"));
            continue;
        };
        if listen.ip().is_loopback() {
            wrong.push(format!("{name} listens on loopback"));
        }
        if declared.get(name) != Some(&i64::from(listen.port())) {
            wrong.push(format!("{name} listens on {listen}, the Deployment declares {declared:?}"));
        }
        if !exposed.split(' ').any(|port| port == listen.port().to_string()) {
            wrong.push(format!("the image does not expose {listen} ({name})"));
        }
    }
    let expected = |name: &str| declared.get(name).copied();
    for probe in ["startupProbe", "readinessProbe", "livenessProbe"] {
        let probed = &container[probe];
        let asked = if probed["grpc"].is_badvalue() {
            (number(&probed["httpGet"]["port"]), "admin")
        } else {
            (number(&probed["grpc"]["port"]), "health")
        };
        if asked.0.is_none() || asked.0 != expected(asked.1) {
            wrong.push(format!("{probe} asks port {:?}, {} is {:?}", asked.0, asked.1, expected(asked.1)));
        }
    }
    let service = pasted.manifest("Service");
    if number(&service["spec"]["ports"][0]["targetPort"]) != expected("grpc") {
        wrong.push("the Service leads to another port".to_owned());
    }
    let labels = &deployment["spec"]["template"]["metadata"]["labels"];
    for (what, selector) in [
        ("Service", &service["spec"]["selector"]),
        ("Deployment", &deployment["spec"]["selector"]["matchLabels"]),
    ] {
        if selector.is_badvalue() || selector != labels {
            wrong.push(format!("the {what} selects other pods"));
        }
    }
}

/// The rules of Pod Security's profile `restricted`, and that the user can read the secrets.
fn permissions(pasted: &Pasted, pod: &Yaml, mounts: &[Mount], wrong: &mut Vec<String>) {
    let (of_pod, of_container) = (&pod["securityContext"], &pod["containers"][0]["securityContext"]);
    let mut demand = |what: &str, holds: bool| {
        if !holds {
            wrong.push(format!("securityContext: {what}"));
        }
    };
    demand("runAsNonRoot", of_pod["runAsNonRoot"].as_bool() == Some(true));
    demand("seccompProfile", of_pod["seccompProfile"]["type"].as_str() == Some("RuntimeDefault"));
    demand("allowPrivilegeEscalation", of_container["allowPrivilegeEscalation"].as_bool() == Some(false));
    demand("readOnlyRootFilesystem", of_container["readOnlyRootFilesystem"].as_bool() == Some(true));
    demand("capabilities", of_container["capabilities"]["drop"][0].as_str() == Some("ALL"));
    let user = pasted.dockerfile.lines().find_map(|line| line.strip_prefix("USER ")).unwrap_or_default();
    let (user, group) = user.split_once(':').unwrap_or_default();
    demand("runAsUser", of_pod["runAsUser"].as_i64() == user.parse().ok());
    demand("fsGroup", of_pod["fsGroup"].as_i64() == group.parse().ok());
    let chown = format!("chown -R {user}:{group} ");
    demand("chown", pasted.readme.contains(&chown));
    for mount in mounts.iter().filter(|mount| !mount.volume["secret"].is_badvalue()) {
        let mode = mode(&mount.volume);
        demand(&mount.path, mode & 0o040 != 0 && mode & 0o007 == 0 && mount.read_only);
    }
}

/// The permissions of the files in a volume of secrets. Kubernetes reads YAML 1.1, in which a
/// number that begins with 0 is octal.
fn mode(volume: &Yaml) -> u32 {
    let digits = volume["secret"]["defaultMode"].as_i64().unwrap_or(644).to_string();
    u32::from_str_radix(&digits, 8).expect("an octal number")
}

fn limits(config: &Config, pasted: &Pasted, pod: &Yaml, wrong: &mut Vec<String>) {
    let grace = pod["terminationGracePeriodSeconds"].as_i64().unwrap_or(30);
    let drain = config.server.drain_timeout.as_secs() + 5;
    if u64::try_from(grace).expect("is positive") < drain {
        wrong.push(format!("the pod is killed after {grace} s, a drain takes up to {drain} s"));
    }
    let memory = text(&pod["containers"][0]["resources"]["limits"]["memory"]);
    let mebibytes: u64 = memory.strip_suffix("Mi").and_then(|number| number.parse().ok()).unwrap_or_default();
    // docs/configuration.md, "Memory".
    let calls = mebibytes.saturating_sub(40) * 5 / 8 * 1024 / 80;
    let shown = format!("({},{:03} at {mebibytes} MiB)", calls / 1000, calls % 1000);
    if !pasted.readme.contains(&shown) {
        wrong.push(format!("the README does not contain {shown}"));
    }
}

#[test]
fn the_production_configuration_fits_the_deployment_and_the_image() {
    assert_eq!(misfits(&Pasted::read()), Vec::<String>::new());
}

#[test]
fn a_pair_that_does_not_fit_is_found() {
    let readme = [
        ("mountPath: /run/secrets/ott-gateway-tls", "mountPath: /run/secrets/tls", "is in no mount"),
        ("mountPath: /etc/ott-gateway,", "mountPath: /etc/gateway,", "is in no ConfigMap"),
        ("--from-file=us5 ", "", "client_secret_file: /run/secrets/ott-gateway/us5"),
        ("create secret generic ott-gateway-tls", "create secret generic tls", "certificate_file"),
        ("secretName: ott-gateway,", "secretName: secrets,", "hmac_key_file"),
        ("--from-file=gateway.toml", "--from-file=config.toml", "is in no ConfigMap"),
        ("configMap: {name: ott-gateway}", "configMap: {name: gateway}", "is in no ConfigMap"),
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
        ("./config:/etc/ott-gateway:ro", "./config:/etc/gateway:ro", "is no volume of"),
        ("./tls:/run/secrets/ott-gateway-tls:ro", "./tls:/run/tls:ro", "is in no volume of"),
        ("sink = \"stdout\"", "sink = \"/var/log/ott-gateway/audit.jsonl\"", "on no writable volume"),
        ("containerPort: 50052", "containerPort: 50053", "health listens on"),
        ("grpc: {port: 50052}", "grpc: {port: 50051}", "readinessProbe asks port"),
        (
            "httpGet: {port: admin, path: /livez}",
            "httpGet: {port: metrics, path: /livez}",
            "livenessProbe asks port",
        ),
        ("listen = \"[::]:9464\"", "listen = \"127.0.0.1:9464\"", "admin listens on loopback"),
        ("health_listen = \"[::]:50052\"", "", "nothing listens on the port `health`"),
        ("targetPort: grpc", "targetPort: admin", "the Service leads to another port"),
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
        assert!(text.contains(part), "there is no `{part}`");
        text.replacen(part, by, 1)
    };
    let in_readme = readme.map(|(part, by, misfit)| {
        (part, Pasted { readme: changed(&good.readme, (part, by)), ..good.clone() }, misfit)
    });
    let in_dockerfile = dockerfile.map(|(part, by, misfit)| {
        (part, Pasted { dockerfile: changed(&good.dockerfile, (part, by)), ..good.clone() }, misfit)
    });
    for (part, pasted, misfit) in in_readme.into_iter().chain(in_dockerfile) {
        let found = misfits(&pasted);
        assert!(found.iter().any(|found| found.contains(misfit)), "{part}: {found:?}");
    }
}

/// Fills a folder as Kubernetes fills the mounts: each file with the content for its key in the
/// configuration and the permissions of its volume.
fn mount(folder: &Path, pasted: &Pasted, content: impl Fn(&str, &str) -> String) {
    let deployment = pasted.manifest("Deployment");
    let mounts = mounts(&deployment["spec"]["template"]["spec"]);
    let keys: BTreeMap<String, String> =
        named_files(&pasted.production_configuration()).into_iter().map(|(key, path)| (path, key)).collect();
    for mount in mounts {
        let inside = folder.join(mount.path.trim_start_matches('/'));
        fs::create_dir_all(&inside).expect("can be made");
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
    // Paths inside the mounts, loopback ports and the tests' platform instead of the real ones.
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
            assert_eq!(name, "gateway.toml", "the only file that the configuration does not name");
            configuration.clone()
        }
    });

    // The file under the very path that the image's command reads, below the folder.
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
