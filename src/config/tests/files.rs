//! Reading the configuration file and the files that it names.

use super::*;

/// Opening a FIFO would block until it has a writer.
#[test]
fn files_that_are_not_regular_are_refused_without_opening_them() {
    let folder = Folder::new();
    let fifo = folder.folder.path().join("fifo");
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let not_a_file = "is not a regular file, so it cannot be read again after a change";
    let certificate = "[server.tls]\ncertificate_file = \"fifo\"\nprivate_key_file = \"tls.key\"";
    for part in [
        certificate.to_owned(),
        certificate.replace("fifo", "tls.crt").replace("tls.key", "fifo"),
        "[callers.jwt]\nissuer = \"i\"\naudience = \"a\"\njwks_file = \"fifo\"".to_owned(),
        "[audit]\nhmac_key_file = \"fifo\"".to_owned(),
        "[token_binding]\nkeys_file = \"fifo\"".to_owned(),
    ] {
        let errors = folder.errors(&working_and(&part));
        assert!(errors.len() == 1 && errors[0].contains(not_a_file), "{part}: {errors:?}");
    }
    let client = |key: &str| format!("{}{key} = \"fifo\"\n{RULE}", CLIENT.replace("client_secret_file", "#"));
    for text in [client("client_secret_file"), client("client_secret_file = \"secret\"\nca_file")] {
        let errors = folder.errors(&text);
        assert!(errors.len() == 1 && errors[0].contains(not_a_file), "{text}: {errors:?}");
    }

    let errors = Config::load(Some(&fifo), &BTreeMap::new()).unwrap_err();
    assert!(errors.to_string().contains(not_a_file), "{errors}");
    folder.load(&working_and("")).expect("a regular file is accepted");
}

#[test]
fn configuration_that_is_not_text_is_refused() {
    let folder = Folder::new();
    let path = folder.folder.path().join("latin-1.toml");
    let utf16: Vec<u8> = "[server]\n[admin]\n".encode_utf16().flat_map(u16::to_be_bytes).collect();
    for contents in [&b"[server]\n# caf\xe9\n"[..], &utf16, &[0; 512]] {
        fs::write(&path, contents).unwrap();
        let errors = Config::load(Some(&path), &BTreeMap::new()).unwrap_err().to_string();
        assert_eq!(errors, format!("{}: is not UTF-8 text; save it as UTF-8", path.display()));
    }
}

#[test]
fn missing_configuration_file_is_an_error() {
    let errors = Config::load(Some(Path::new("/nowhere/gateway.toml")), &BTreeMap::new()).unwrap_err();
    assert_eq!(errors.to_string(), "/nowhere/gateway.toml: no such file");
}

#[test]
fn syntax_errors_do_not_show_the_line() {
    let folder = Folder::new();
    let errors = folder.errors(&format!("[server]\nlisten = \"{CANARY}\nx = {CANARY}\n"));
    assert!(errors.iter().all(|error| error.starts_with("gateway.toml:")), "{errors:?}");
    assert!(errors.iter().any(|error| error.starts_with("gateway.toml:2: not valid TOML: ")), "{errors:?}");
    assert!(!errors.join("\n").contains(CANARY), "{errors:?}");
}
