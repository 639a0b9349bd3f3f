//! The output of `ott-gateway example-config` and `completions` is valid.

use std::{fs, process::Command};

use ott_gateway::config::EXAMPLE;

use crate::docs::{Place, keys_in_code, with_hashes};

fn printed(arguments: &[&str]) -> String {
    let done =
        Command::new(env!("CARGO_BIN_EXE_ott-gateway")).args(arguments).output().expect("the binary runs");
    assert!(done.status.success(), "{done:?}");
    assert!(done.stderr.is_empty(), "{done:?}");
    String::from_utf8(done.stdout).expect("text")
}

/// Returns a commented-out key or table, without the comment sign.
fn uncommented(line: &str) -> Option<&str> {
    let line = line.strip_prefix("# ")?;
    let key = line.split(" = ").next().filter(|key| key.len() < line.len());
    let is_key = key.is_some_and(|key| key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'));
    (is_key || line.starts_with('[') && line.ends_with(']')).then_some(line)
}

#[test]
fn the_example_is_valid_unchanged_and_with_every_key_set() {
    let example = printed(&["example-config"]);
    assert_eq!(example, EXAMPLE);
    let mut place = Place::new();
    let config = place.load(&example).unwrap_or_else(|problems| panic!("{problems}"));
    assert!(config.warnings.is_empty(), "{:?}", config.warnings);

    let whole: String =
        example.lines().map(|line| uncommented(line).unwrap_or(line).to_owned() + "\n").collect();
    // This value is an example, not the default.
    let whole = whole.replace("sink = \"stdout\"", "sink = \"/audit/audit.jsonl\"");
    let config = place.load(&with_hashes(&whole)).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!((config.api_clients.by_name.len(), config.access.rules.len()), (3, 3));
    // Every key is set to its default.
    assert!(config.callers.forwarded.is_some() && config.callers.jwt.len() == 2);
}

#[test]
fn the_example_has_every_key_that_the_code_reads() {
    let mut keys = std::collections::BTreeSet::new();
    let mut table = String::new();
    for line in EXAMPLE.lines().map(|line| uncommented(line).unwrap_or(line)) {
        if let Some(name) = line.strip_prefix('[') {
            let name = name.trim_matches(['[', ']']);
            name.split('.').next().unwrap_or_default().clone_into(&mut table);
            table = if table == "api_clients" { "api_clients.NAME".to_owned() } else { name.to_owned() };
        } else if let Some((key, _)) = line.split_once(" = ").filter(|_| !line.starts_with('#')) {
            keys.insert(format!("{table}.{key}"));
        }
    }
    let missing: Vec<_> = keys_in_code().into_iter().filter(|key| !keys.contains(key)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn each_key_of_the_example_is_described() {
    let lines: Vec<&str> = EXAMPLE.lines().collect();
    for (line, before) in lines.iter().skip(1).zip(&lines) {
        let is_key = |line: &str| line.contains(" = ") && !line.starts_with("#  ");
        if uncommented(line).is_some_and(is_key) || (!line.starts_with('#') && is_key(line)) {
            let key = line.trim_start_matches("# ").split(' ').next().expect("a key");
            let is_described = before.starts_with("# ") && uncommented(before).is_none();
            let is_described_elsewhere = lines.iter().zip(lines.iter().skip(1)).any(|(text, other)| {
                other.trim_start_matches("# ").starts_with(&format!("{key} = "))
                    && text.starts_with("# ")
                    && uncommented(text).is_none()
            });
            assert!(is_described || is_described_elsewhere, "{line}");
        }
    }
}

#[test]
fn completions_are_printed_for_each_shell() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = printed(&["completions", shell]);
        for part in ["check-config", "example-config", "bearer-token-file"] {
            assert!(script.contains(part), "{shell}: {part} is missing");
        }
        // A hidden argument that is always refused.
        assert!(!script.contains("one-time-token"), "{shell}");
    }
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("ott-gateway");
    fs::write(&file, printed(&["completions", "bash"])).expect("a file");
    let checked = Command::new("bash").arg("-n").arg(&file).status().expect("bash runs");
    assert!(checked.success());
}
