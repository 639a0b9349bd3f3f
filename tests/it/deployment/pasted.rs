//! The blocks and commands of the README, and the Dockerfile, as data.

use std::{collections::BTreeMap, fs};

use yaml_rust2::{Yaml, YamlLoader};

use crate::docs;

/// README and Dockerfile.
#[derive(Clone)]
pub(super) struct Pasted {
    pub(super) readme: String,
    pub(super) dockerfile: String,
}

impl Pasted {
    pub(super) fn read() -> Self {
        let read = |name| fs::read_to_string(docs::root().join(name)).expect("can be read");
        Self { readme: read("README.md"), dockerfile: read("Dockerfile") }
    }

    /// Returns the fenced block in this language that contains the text.
    pub(super) fn block(&self, language: &str, containing: &str) -> String {
        let found = blocks_of(&self.readme, language).find(|block| block.contains(containing));
        found.unwrap_or_else(|| panic!("no {language} block contains {containing}"))
    }

    pub(super) fn production_configuration(&self) -> String {
        self.block("toml", "client_ca_file")
    }

    fn manifests(&self) -> Vec<Yaml> {
        YamlLoader::load_from_str(&self.block("yaml", "kind: Deployment")).expect("is YAML")
    }

    pub(super) fn manifest(&self, kind: &str) -> Yaml {
        let found = self.manifests().into_iter().find(|manifest| manifest["kind"].as_str() == Some(kind));
        found.unwrap_or_else(|| panic!("there is no {kind}"))
    }

    /// Returns the lines of the README that start with these words, with their continuation lines.
    pub(super) fn commands(&self, words: &str) -> Vec<String> {
        let text = self.readme.replace("\\\n", " ");
        let lines = text.lines().map(str::trim).filter(|line| line.starts_with(words));
        lines.map(str::to_owned).collect()
    }

    /// Returns the arguments of a Dockerfile instruction in JSON form.
    pub(super) fn instruction(&self, name: &str) -> Vec<String> {
        let text = self.dockerfile.replace("\\\n", " ");
        let line = text.lines().rfind(|line| line.starts_with(name)).expect("the instruction");
        let list = line.find('[').map(|at| &line[at..]).expect("a list");
        serde_json::from_str(list).expect("is JSON")
    }

    /// Returns the files of each `ConfigMap` or Secret that the README creates, by object name.
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

/// A volume in the container.
pub(super) struct Mount {
    pub(super) path: String,
    pub(super) read_only: bool,
    pub(super) volume: Yaml,
}

pub(super) fn mounts(pod: &Yaml) -> Vec<Mount> {
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

pub(super) fn text(value: &Yaml) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// Returns the mount that contains a path, and the rest of the path.
pub(super) fn mount_of<'a>(mounts: &'a [Mount], path: &str) -> Option<(&'a Mount, String)> {
    let inside = |mount: &'a Mount| {
        let rest = path.strip_prefix(mount.path.trim_end_matches('/'))?.strip_prefix('/')?;
        Some((mount, rest.to_owned()))
    };
    mounts.iter().filter_map(inside).max_by_key(|(mount, _)| mount.path.len())
}

/// Returns the names of the files in a volume, from the commands that create its object.
pub(super) fn files_in(volume: &Yaml, pasted: &Pasted) -> Vec<String> {
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

/// Returns the keys and paths of the files in a configuration.
pub(super) fn configured_files(configuration: &str) -> Vec<(String, String)> {
    let line = |line: &str| {
        let (key, value) = line.split_once(" = \"")?;
        let path = value.split('"').next()?;
        key.ends_with("_file").then(|| (key.to_owned(), path.to_owned()))
    };
    configuration.lines().filter_map(line).collect()
}

/// Returns the permissions of the files in a Secret volume. Kubernetes uses YAML 1.1, in which a
/// number with a leading 0 is octal.
pub(super) fn mode(volume: &Yaml) -> u32 {
    let digits = volume["secret"]["defaultMode"].as_i64().unwrap_or(644).to_string();
    u32::from_str_radix(&digits, 8).expect("an octal number")
}
