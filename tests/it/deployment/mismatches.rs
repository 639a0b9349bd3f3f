//! Compares the configuration with the Deployment, the commands and the image.

use std::collections::BTreeMap;

use ott_gateway::{config::Config, observe::audit::Sink};
use yaml_rust2::Yaml;

use super::pasted::{Mount, Pasted, configured_files, files_in, mode, mount_of, mounts, text};
use crate::docs::Place;

/// Returns all mismatches.
pub(super) fn mismatches(pasted: &Pasted) -> Vec<String> {
    let mut wrong = Vec::new();
    let configuration = pasted.production_configuration();
    let config = Place::new().load(&configuration).unwrap_or_else(|problems| panic!("{problems}"));
    let deployment = pasted.manifest("Deployment");
    let pod = &deployment["spec"]["template"]["spec"];
    let mounts = mounts(pod);

    configuration_file(pasted, pod, &mounts, &mut wrong);
    for (key, path) in configured_files(&configuration) {
        match mount_of(&mounts, &path) {
            None => wrong.push(format!("{key}: {path} is not in a mount")),
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
                wrong.push(format!("{path} is not in a volume of `{command}`"));
            }
        }
    }
    audit_sink(&config, &mounts, &mut wrong);
    ports(&config, pasted, &deployment, &mut wrong);
    permissions(pasted, pod, &mounts, &mut wrong);
    limits(&config, pasted, pod, &mut wrong);
    wrong
}

/// Checks that the image, the Deployment, the commands and the systemd unit read the same mounted file.
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
        _ => wrong.push(format!("{in_deployment} is not in a ConfigMap")),
    }
    let (folder, name) = in_image.rsplit_once('/').unwrap_or_default();
    for command in pasted.commands("docker run") {
        if !command.contains(&format!(":{folder}:ro")) {
            wrong.push(format!("{folder} is not a volume of `{command}`"));
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
    let Sink::File(path) = &config.audit.sink else { return };
    // `path` is below the folder of the example.
    let path = path.display().to_string();
    let mounted = mounts.iter().find(|mount| path.contains(&format!("{}/", mount.path)));
    let is_writable = mounted.is_some_and(|mount| {
        !mount.read_only && mount.volume["secret"].is_badvalue() && mount.volume["configMap"].is_badvalue()
    });
    if !is_writable {
        wrong.push(format!("the audit file {path} is not on a writable volume"));
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
        [("grpc", Some(config.server.grpc.listen)), ("health", health), ("admin", config.admin.listen)];
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
            wrong.push(format!("{probe} uses port {:?}, {} is {:?}", asked.0, asked.1, expected(asked.1)));
        }
    }
    let service = pasted.manifest("Service");
    if number(&service["spec"]["ports"][0]["targetPort"]) != expected("grpc") {
        wrong.push("the Service has another target port".to_owned());
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

/// Checks the Pod Security profile `restricted`, and that the user can read the secrets.
fn permissions(pasted: &Pasted, pod: &Yaml, mounts: &[Mount], wrong: &mut Vec<String>) {
    let (of_pod, of_container) = (&pod["securityContext"], &pod["containers"][0]["securityContext"]);
    let mut require = |what: &str, holds: bool| {
        if !holds {
            wrong.push(format!("securityContext: {what}"));
        }
    };
    require("runAsNonRoot", of_pod["runAsNonRoot"].as_bool() == Some(true));
    require("seccompProfile", of_pod["seccompProfile"]["type"].as_str() == Some("RuntimeDefault"));
    require("allowPrivilegeEscalation", of_container["allowPrivilegeEscalation"].as_bool() == Some(false));
    require("readOnlyRootFilesystem", of_container["readOnlyRootFilesystem"].as_bool() == Some(true));
    require("capabilities", of_container["capabilities"]["drop"][0].as_str() == Some("ALL"));
    let user = pasted.dockerfile.lines().find_map(|line| line.strip_prefix("USER ")).unwrap_or_default();
    let (user, group) = user.split_once(':').unwrap_or_default();
    require("runAsUser", of_pod["runAsUser"].as_i64() == user.parse().ok());
    require("fsGroup", of_pod["fsGroup"].as_i64() == group.parse().ok());
    let chown = format!("chown -R {user}:{group} ");
    require("chown", pasted.readme.contains(&chown));
    for mount in mounts.iter().filter(|mount| !mount.volume["secret"].is_badvalue()) {
        let mode = mode(&mount.volume);
        require(&mount.path, mode & 0o047 == 0o040 && mount.read_only);
    }
}

fn limits(config: &Config, pasted: &Pasted, pod: &Yaml, wrong: &mut Vec<String>) {
    let grace = pod["terminationGracePeriodSeconds"].as_i64().unwrap_or(30);
    let drain = config.server.grpc.drain.cut_off.as_secs() + 5;
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
